"""Pictures that show the same, although their pixels differ: encoded again, of another size, mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SIDE, LOW = 32, 16
BITS = LOW**2 - 1
NEAR = 50
"""Bits from which two pictures count as different ones.

Measured on 1,000 training pictures of CIFAR-10 against its 10,000 test pictures: the eight pairs up to 72 bits are true
near-duplicates, and unrelated ones begin at 76. A JPEG of quality 75 differs from its picture in 20 bits at most, one
of quality 30 in 42, a picture of 16 to 224 pixels in 28.
"""

Hashes = NDArray[np.bool_]
"""``(N, 255)``."""


def perceptual_hash(image: Image.Image) -> Hashes:
    """255 bits of what a picture shows: which of its 16 x 16 lowest frequencies are above their median, but the mean.

    Example:
        >>> image = Image.effect_mandelbrot((64, 64), (-2.0, -1.2, 1.0, 1.2), 50)
        >>> int((perceptual_hash(image) != perceptual_hash(image.resize((48, 48)))).sum()) < 20
        True
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    frequencies = (_cosines() @ grey @ _cosines().T).ravel()[1:]
    found: Hashes = frequencies > np.median(frequencies)
    return found


def both_ways(image: Image.Image) -> Hashes:
    """Hashes of a picture and of its mirror image, ``(2, 255)``."""
    return np.stack([perceptual_hash(image), perceptual_hash(ImageOps.mirror(image))])


def near_duplicates(known: Hashes, asked: Sequence[Hashes]) -> dict[int, tuple[int, int]]:
    """Which of the pictures that are asked for show the same as a known one.

    Args:
        known: Hashes of known pictures, ``(N, 255)``.
        asked: For each picture what :func:`both_ways` gives.

    Returns:
        By number in ``asked``: the nearest known picture and the bits in which they differ, where fewer than ``NEAR``.
    """
    signs = np.where(known, 1, -1).astype(np.float32)
    found = {}
    for number, ways in enumerate(asked):
        agreement = (np.where(ways, 1, -1).astype(np.float32) @ signs.T).max(0)
        nearest = int(agreement.argmax())
        bits = round((BITS - float(agreement[nearest])) / 2)
        if bits < NEAR:
            found[number] = nearest, bits
    return found


@cache
def _cosines() -> NDArray[np.float64]:
    """The lowest rows of a discrete cosine transform, ``(LOW, SIDE)``."""
    place, frequency = np.arange(SIDE)[None], np.arange(LOW)[:, None]
    table: NDArray[np.float64] = np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))
    return table
