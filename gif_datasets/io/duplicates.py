"""Near-duplicates: images that show the same with other pixels, because of encoding, size, light or orientation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gif_datasets.chunks import evenly

SIDE, LOW = 32, 16
BITS = LOW**2 - 1
NEAR, ENCODED = 50, 21
"""Bits from which two images count as different: in general, and in a dataset whose images all look alike.

Measured on 1,000 training images of CIFAR-10 against its 10,000 test images: the eight pairs up to 72 bits are true
near-duplicates, and unrelated ones begin at 76. A JPEG of quality 75 differs from its image in 20 bits at most, one
of quality 30 in 42, an image of 16 to 224 pixels in 28.
"""
APART = 52
"""Bits by which near-duplicates are nearer than the nearest hundredth of a dataset's pairs.

Images that are aligned are near each other however different they are: of 3,000 training and 300 test images of
Fashion-MNIST 30 pairs of other garments lie at 36 to 48 bits, of 300 and 300 solar cells other cells begin at 24, and
what is the same cell, taken twice, ends at 22. Their nearest hundredths are at 88 and 78 bits, that of CIFAR-10 at 108.
"""
ALIKE = 0.8
"""Least cosine of the spectra of near-duplicates.

Images of one bright spot or of stripes share bits by chance: such pairs of EuroSAT, DTD and NEU reach 0.72. Of changes
of light that leave the bits, fewer than 2 in 100 are below 0.8.
"""
FEWEST, MOST = 8, 1_000  # images whose pairs are compared; fewer are not informative
TOGETHER = 16  # images that are compared with all others at once

Spectra = NDArray[np.float32]
"""``(..., 255)``: the lowest frequencies of an image but its mean, of unit length; zeros for an image of one colour."""
_ODD = (-1.0) ** np.arange(LOW, dtype=np.float32)  # what mirroring does to each frequency


def spectra(image: Image.Image) -> Spectra:
    """Spectra of what an image shows, ``(2, 255)``: of its grey values, and of their ranks.

    The first bears encoding and noise best, the second other light: a change of brightness that makes the brightest
    parts white moves grey values, but hardly their ranks.

    Example:
        >>> image = Image.effect_mandelbrot((64, 64), (-2.0, -1.2, 1.0, 1.2), 50)
        >>> [near] = near_duplicates(spectra(image)[None], [spectra(image.rotate(90).resize((48, 48)))]).values()
        >>> near[0], near[1] < 20
        (0, True)
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    _, place, counts = np.unique(grey, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2)[place.reshape(grey.shape)]
    lowest = [(_cosines() @ (values - values.mean()) @ _cosines().T).ravel()[1:] for values in (grey, ranks)]
    if len(counts) == 1:
        return np.zeros((2, BITS), np.float32)
    return np.stack([values / np.linalg.norm(values) for values in lowest]).astype(np.float32)


def near_duplicates(known: Spectra, asked: Sequence[Spectra]) -> dict[int, tuple[int, int]]:
    """Find the queried images that show the same as a known one, in any of eight orientations, or as its negative.

    Two images show the same if few bits of their hashes differ, which say of each frequency whether it exceeds the
    median, and their spectra are alike; of their grey values, or of the ranks of these.

    Args:
        known: Spectra of known images, ``(N, 2, 255)``.
        asked: Those of each queried image, ``(2, 255)``.

    Returns:
        By number in ``asked``: the nearest known image and the bits in which they differ, where fewer than
        :func:`threshold` has for the known ones.
    """
    images, duplicates = KnownImages.of(known), dict[int, tuple[int, int]]()
    for number, image in enumerate(asked):
        if near := images.nearest(image):
            bits, nearest = near
            duplicates[number] = nearest, bits
    return duplicates


@dataclass(frozen=True, eq=False)
class KnownImages:
    """Images that others are compared with.

    Attributes:
        kinds: Of their grey values, and of the ranks of these: spectra and signs, ``(N, 255)``, and the bits from which
            images count as different.
    """

    kinds: tuple[tuple[Spectra, Spectra, float], ...]

    @classmethod
    def of(cls, known: Spectra, limit: float | None = None) -> KnownImages:
        """Images by their spectra, ``(N, 2, 255)``.

        Args:
            known: The spectra.
            limit: Bits from which images count as different; None: what :func:`threshold` has for these.
        """
        parts = np.moveaxis(known, 1, 0)
        return cls(tuple((part, _signs(part), threshold(part) if limit is None else limit) for part in parts))

    def nearest(self, image: Spectra) -> tuple[int, int] | None:
        """Bits and number of the nearest image that shows the same as another, ``(2, 255)``; None if none does.

        Example:
            >>> photo = Image.effect_mandelbrot((64, 64), (-2.0, -1.2, 1.0, 1.2), 50)
            >>> known = KnownImages.of(spectra(photo)[None], NEAR)
            >>> known.nearest(spectra(photo.rotate(180))), known.nearest(spectra(Image.radial_gradient("L")))
            ((0, 0), None)
        """
        return min(self._near(image), default=None)

    def all_near(self, image: Spectra) -> set[int]:
        """Numbers of all images that show the same as another, ``(2, 255)``."""
        return {number for _, number in self._near(image)}

    def _near(self, image: Spectra) -> list[tuple[int, int]]:
        return [pair for own, kind in zip(image, self.kinds, strict=True) for pair in _near(own, *kind)]


def different_from(known: Spectra) -> int:
    """Bits from which images count as different among images like these, ``(N, 2, 255)``, by either kind of spectra."""
    return int(min(threshold(part) for part in np.moveaxis(known, 1, 0)))


def sets_of_alike(known: Spectra) -> NDArray[np.int64]:
    """Number images, ``(N, 2, 255)``, so that near-duplicates, and theirs in turn, have one number: that of the first.

    Example:
        >>> images = [Image.radial_gradient("L"), Image.effect_mandelbrot((64, 64), (-2.0, -1.2, 1.0, 1.2), 50)]
        >>> sets_of_alike(np.stack([spectra(image) for image in (*images, images[1].rotate(180))])).tolist()
        [0, 1, 1]
    """
    pairs = [_pairs(part, _signs(part), threshold(part)) for part in np.moveaxis(known, 1, 0)]
    return joined_sets(len(known), np.concatenate(pairs))


def joined_sets(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least member of each one's set, where ``pairs``, ``(P, 2)``, say which of ``count`` are together.

    Example:
        >>> joined_sets(5, np.array([[4, 2], [2, 1]])).tolist()
        [0, 1, 1, 3, 1]
    """
    numbers = np.arange(count)
    while True:
        before = numbers.copy()
        for one, other in (pairs.T, pairs.T[::-1]):
            np.minimum.at(numbers, one, numbers[other])
        numbers = numbers[numbers]
        if np.array_equal(numbers, before):
            return numbers


def _pairs(known: Spectra, signs: Spectra, limit: float) -> NDArray[np.int64]:
    """Pairs of images that show the same, ``(P, 2)``."""
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(known), TOGETHER):
        ways = np.stack([orientations(own) for own in known[start : start + TOGETHER]])
        bits = _apart(_signs(ways).reshape(-1, BITS), signs[start:]).reshape(*ways.shape[:2], -1)
        one, way, other = np.nonzero(bits < limit)
        alike = np.abs(np.einsum("pf,pf->p", ways[one, way], known[start + other])) >= ALIKE
        found.append(start + np.stack([one[alike], other[alike]], axis=1))
    return np.concatenate(found)


def threshold(known: Spectra) -> float:
    """Bits from which images like these, ``(N, 255)``, count as different: fewer if all look alike."""
    some = known[known.any(1)]
    some = some[evenly(len(some), MOST)]
    if len(some) < FEWEST:
        return NEAR
    signs = _signs(some)
    bits = np.stack([_apart(_signs(orientations(own)), signs).min(0) for own in some])
    pairs = bits[np.triu_indices(len(some), 1)]
    return float(np.clip(np.percentile(pairs, 1) - APART, ENCODED, NEAR))


def orientations(spectrum: Spectra) -> Spectra:
    """Spectra of an image mirrored and turned by quarters, ``(8, 255)``: signs of its own, and an exchange of axes."""
    upright = np.insert(spectrum, 0, 0).reshape(LOW, LOW)
    signs = [rows[:, None] * columns for rows in (_ODD**2, _ODD) for columns in (_ODD**2, _ODD)]
    return np.stack([(way * sign).ravel()[1:] for way in (upright, upright.T) for sign in signs])


def _near(own: Spectra, known: Spectra, signs: Spectra, limit: float) -> list[tuple[int, int]]:
    """Bits and number of each known image that shows the same as another one."""
    ways = orientations(own)
    bits = _apart(_signs(ways), signs)
    return [
        (int(bits[way, number]), int(number))
        for way, number in np.argwhere(bits < limit)
        if abs(ways[way] @ known[number]) >= ALIKE
    ]


def _signs(some: Spectra) -> Spectra:
    """1 for each frequency that exceeds the image's median, else -1."""
    signs: Spectra = np.where(some > np.median(some, axis=-1, keepdims=True), np.float32(1), np.float32(-1))
    return signs


def _apart(first: Spectra, second: Spectra) -> Spectra:
    """Number of bits in which each hash of the first differs from each of the second, or from that of its negative."""
    apart: Spectra = (BITS - np.abs(first @ second.T)) / 2
    return apart


@cache
def _cosines() -> NDArray[np.float64]:
    """The lowest rows of a discrete cosine transform, ``(LOW, SIDE)``."""
    place, frequency = np.arange(SIDE)[None], np.arange(LOW)[:, None]
    table: NDArray[np.float64] = np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))
    return table
