"""What annotations say of an image, checked, and made into its objects.

A broken annotation costs its image, which is named and left out, as an unreadable one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gif_datasets.errors import BadImage
from gif_datasets.objects import ImageObject, Objects

SLACK, SLACK_SHARE = 2.0, 0.01
"""How far a box may leave its image, which annotators' tools round: pixels, or a share of the side if that is more."""


@dataclass(frozen=True)
class Mark:
    """An object as its annotation has it, in pixels; see :class:`~gif_datasets.objects.ImageObject`."""

    category: int
    box: tuple[float, float, float, float]
    crowd: bool = False
    polygons: tuple[tuple[float, ...], ...] = ()
    counts: tuple[int, ...] = ()


def class_of(marks: Sequence[Mark], name: str) -> int:
    """The class of an image with several objects: that of the one with the largest box, the first of equal ones.

    A crowd decides only where there is nothing else.

    Raises:
        BadImage: If there is no object.
    """
    if not marks:
        raise BadImage(f"{name}: no object, so it is of no class")
    largest = max(marks, key=lambda mark: (not mark.crowd, mark.box[2] * mark.box[3]))
    return largest.category


def objects_of(marks: Sequence[Mark], classes: Sequence[str], size: tuple[int, int], masks: bool, name: str) -> Objects:
    """The objects of an image.

    Boxes that leave the image a little are cut off at its border; what has less than a pixel is left out.

    Args:
        marks: What its annotations say.
        classes: Names of the categories.
        size: Width and height.
        masks: Whether masks are wanted.
        name: What to call the image in an error.

    Raises:
        BadImage: If a box leaves the image, an object has no mask that is wanted, or a mask is of another size.
    """
    for number, mark in enumerate(marks):
        _check_inside(mark, number, size, name)
        if masks and not mark.polygons and not mark.counts:
            raise BadImage(f"{name}: object {number} has no mask; use keep=boxes")
    items = (
        ImageObject(m.box, classes[m.category], number, m.crowd, m.polygons, m.counts) for number, m in enumerate(marks)
    )
    found = Objects(size, tuple(items), masks=True)
    try:
        return (found if masks else found.without_masks()).clipped()
    except ValueError as error:
        raise BadImage(f"{name}: a mask does not fit: {error}") from error


def _check_inside(mark: Mark, number: int, size: tuple[int, int], name: str) -> None:
    for start, length, side in zip(mark.box[:2], mark.box[2:], size, strict=True):
        slack = max(SLACK, SLACK_SHARE * side)
        if start < -slack or start + length > side + slack:
            shown = ", ".join(f"{value:g}" for value in mark.box)
            raise BadImage(
                f"{name}: the box of object {number} ({shown}: left, top, width, height) leaves the image of"
                f" {size[0]} x {size[1]} pixels"
            )


def box_of(values: Any) -> tuple[float, float, float, float]:
    """Left, top, width and height; raises ValueError if they are not four numbers, or a length is negative."""
    found = numbers(values)
    if len(found) != 4 or min(found[2:]) < 0:
        raise ValueError(f"its box is {_shown(values)}, which is not left, top, width and height in pixels")
    return found[0], found[1], found[2], found[3]


def polygon_of(values: Any) -> tuple[float, ...]:
    """``x, y, x, y, ..``; raises ValueError if that is not an outline."""
    found = numbers(values)
    if len(found) < 6 or len(found) % 2:
        raise ValueError(f"its outline has {len(found)} numbers, and needs x and y of at least three points")
    return found


def numbers(values: Any) -> tuple[float, ...]:
    """Finite numbers; raises ValueError for anything else."""
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"expected numbers, got {_shown(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
            raise ValueError(f"expected numbers, got {_shown(value)}")
    return tuple(map(float, values))


def escapes(name: str) -> bool:
    """Whether a file name leads out of its folder.

    Example:
        >>> [escapes(name) for name in ("a/b.png", "/etc/passwd", "a/../../b.png", "C:/b.png")]
        [False, True, True, True]
    """
    path = PurePosixPath(name)
    odd = "\\" in name or "\0" in name or ":" in name.partition("/")[0]
    return path.is_absolute() or ".." in path.parts or not path.parts or odd


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}.."
