"""Near-duplicates: images that show the same with other pixels, because of encoding, size or mirroring."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

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
FEWEST, MOST = 8, 1_000  # images whose pairs are compared; fewer are not informative

Hashes = NDArray[np.bool_]
"""``(N, 255)``."""


def perceptual_hash(image: Image.Image) -> Hashes:
    """255 bits of what an image shows: which of its 16 x 16 lowest frequencies (not the mean) exceed their median.

    An image of one colour shows nothing, and has none of the bits set.

    Example:
        >>> image = Image.effect_mandelbrot((64, 64), (-2.0, -1.2, 1.0, 1.2), 50)
        >>> int((perceptual_hash(image) != perceptual_hash(image.resize((48, 48)))).sum()) < 20
        True
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    frequencies = (_cosines() @ grey @ _cosines().T).ravel()[1:]
    bits: Hashes = (frequencies > np.median(frequencies)) & (np.ptp(grey) > 0)
    return bits


def hashes_of_image_and_mirror(image: Image.Image) -> Hashes:
    """Hashes of an image and of its mirror image, ``(2, 255)``."""
    return np.stack([perceptual_hash(image), perceptual_hash(ImageOps.mirror(image))])


def near_duplicates(known: Hashes, asked: Sequence[Hashes]) -> dict[int, tuple[int, int]]:
    """Find the queried images that show the same as a known one.

    Args:
        known: Hashes of known images, ``(N, 255)``.
        asked: For each queried image, the result of :func:`hashes_of_image_and_mirror`.

    Returns:
        By number in ``asked``: the nearest known image and the bits in which they differ, where fewer than
        :func:`threshold` has for the known ones.
    """
    shows, limit, duplicates = known.any(1), threshold(known), {}
    for number, ways in enumerate(asked):
        if not ways.any():
            continue
        bits = np.where(shows, _apart(ways, known).min(0), BITS)
        nearest = int(bits.argmin())
        if bits[nearest] < limit:
            duplicates[number] = nearest, int(bits[nearest])
    return duplicates


def threshold(known: Hashes) -> float:
    """Bits from which images like these count as different: fewer if all look alike."""
    some = known[known.any(1)]
    some = some[evenly(len(some), MOST)]
    if len(some) < FEWEST:
        return NEAR
    pairs = _apart(some, some)[np.triu_indices(len(some), 1)]
    return float(np.clip(np.percentile(pairs, 1) - APART, ENCODED, NEAR))


def _apart(first: Hashes, second: Hashes) -> NDArray[np.float32]:
    """Number of bits in which each hash of the first differs from each of the second."""
    one, other = (np.where(hashes, 1, -1).astype(np.float32) for hashes in (first, second))
    apart: NDArray[np.float32] = (BITS - one @ other.T) / 2
    return apart


@cache
def _cosines() -> NDArray[np.float64]:
    """The lowest rows of a discrete cosine transform, ``(LOW, SIDE)``."""
    place, frequency = np.arange(SIDE)[None], np.arange(LOW)[:, None]
    table: NDArray[np.float64] = np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))
    return table
