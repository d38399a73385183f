"""Copies that show some objects as their seeds do: the seed's pixels inside, the copy's outside."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter

from gif_datasets.objects import Objects, decode_counts

if TYPE_CHECKING:
    from PIL.Image import Image

FEATHER = 32
"""The seam is a part of the shorter side, at least one pixel: two of 64."""


def composed(copy: Image, seen: Image, objects: Objects) -> Image:
    """A copy with the seed's pixels where objects are.

    Every pixel that a box touches, or a mask covers, is the seed's; outside, its share falls to nothing over the seam.
    The arithmetic is that of integers, the same everywhere.

    Args:
        copy: The copy.
        seen: The part of the seed that the copy is of; it is scaled to the copy's size.
        objects: What is marked, in pixels of the copy.
    """
    if not objects.items:
        return copy
    own = seen if seen.size == copy.size else seen.resize(copy.size, PillowImage.Resampling.BICUBIC)
    grown, steps = PillowImage.fromarray(_covered(objects)), max(1, round(min(copy.size) / FEATHER)) + 1
    share = np.zeros(copy.size[::-1], np.int32)
    for _ in range(steps):
        share += np.asarray(grown) > 0
        grown = grown.filter(ImageFilter.MaxFilter(3))
    inside, outside = (np.asarray(image.convert("RGB"), np.int32) for image in (own, copy))
    mixed = (share[..., None] * inside + (steps - share)[..., None] * outside + steps // 2) // steps
    return PillowImage.fromarray(mixed.astype(np.uint8))


def _covered(objects: Objects) -> NDArray[np.uint8]:
    """255 in every pixel that a mask covers, or a box touches, and 0 elsewhere, ``(H, W)``."""
    canvas = PillowImage.new("L", objects.size)
    drawing, runs = ImageDraw.Draw(canvas), np.zeros(objects.size[::-1], np.uint8)
    for one in objects.items:
        for polygon in one.polygons:
            drawing.polygon(polygon, fill=255, outline=255)
        if one.counts:
            runs |= decode_counts(one.counts, objects.size)
        if not objects.masks:
            left, top, width, height = one.box
            rows = slice(math.floor(top), math.ceil(top + height))
            runs[rows, math.floor(left) : math.ceil(left + width)] = 255
    found: NDArray[np.uint8] = runs | np.asarray(canvas)
    return found
