"""Objects in images: their boxes and masks in pixels, and what becomes of these where an image is cut and scaled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Window: TypeAlias = "tuple[int, int, int, int]"
"""A part of an image: left, top, width, height."""
_Point: TypeAlias = "tuple[float, float]"
SMALLEST = 1.0
"""Pixels: an object with less left of it in a cut image, in width or height, is not in that image."""


@dataclass(frozen=True)
class ImageObject:
    """One object in an image.

    Attributes:
        box: Left, top, width, height, pixels.
        category: Name of its class.
        id: Its number among the objects of the seed's image, from 0: the same in the seed and in its copies.
        crowd: Whether it is a group that nobody has told apart (COCO's ``iscrowd``).
        polygons: Outlines of its mask, each ``x, y, x, y, ..``; empty without a mask, or if that is ``counts``.
        counts: Its mask as COCO's run lengths, column by column, pixels outside first; empty likewise.
    """

    box: tuple[float, float, float, float]
    category: str
    id: int
    crowd: bool = False
    polygons: tuple[tuple[float, ...], ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def area(self) -> float:
        """Area of its box, square pixels."""
        return self.box[2] * self.box[3]


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        size: Width and height of the image.
        items: The objects, in the order of their source.
        masks: Whether they have masks, beside boxes.

    Example:
        >>> cat = ImageObject((30.0, 0.0, 40.0, 20.0), "cat", 0)
        >>> seen = Objects((80, 40), (cat,)).seen_through((20, 0, 40, 40), (20, 20))
        >>> seen.items[0].box, Objects.from_json(seen.to_json()) == seen
        ((5.0, 0.0, 15.0, 10.0), True)
    """

    size: tuple[int, int]
    items: tuple[ImageObject, ...]
    masks: bool = False

    def to_json(self) -> dict[str, Any]:
        """The ``objects`` of a record: a list for each field, of one entry an object."""
        masks = {
            "polygons": [[list(polygon) for polygon in one.polygons] for one in self.items],
            "counts": [list(one.counts) for one in self.items],
        }
        return {
            "width": self.size[0],
            "height": self.size[1],
            "bbox": [list(one.box) for one in self.items],
            "category": [one.category for one in self.items],
            "id": [one.id for one in self.items],
            "iscrowd": [one.crowd for one in self.items],
            **(masks if self.masks else {}),
        }

    @classmethod
    def from_json(cls, value: Any) -> Objects:
        """Rebuild from :meth:`to_json`.

        Raises:
            TypeError: If a field is missing, unknown or of another type.
            ValueError: If a number is NaN, infinite or too large, or the lists have different lengths.
        """
        if not isinstance(value, dict):
            raise TypeError(f"objects must be a dict, got {value!r:.60}")
        masks = "polygons" in value
        names = ("bbox", "category", "id", "iscrowd", *(("polygons", "counts") if masks else ()))
        if value.keys() != {"width", "height", *names} or not all(isinstance(value[name], list) for name in names):
            raise TypeError(f"objects have the fields {', '.join(map(str, value))[:200]}")
        if len({len(value[name]) for name in names}) != 1:
            raise ValueError("the lists of objects have different lengths")
        size = _whole(value["width"], 1), _whole(value["height"], 1)
        rows = zip(*(value[name] for name in names), strict=True)
        return cls(size, tuple(_item(*row) for row in rows), masks)

    def text(self) -> bytes:
        """Canonical JSON: equal objects have equal bytes."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    @classmethod
    def from_text(cls, content: bytes) -> Objects:
        """Rebuild from :meth:`text`."""
        return cls.from_json(json.loads(content))

    def without_masks(self) -> Objects:
        """The boxes alone."""
        return Objects(self.size, tuple(replace(one, polygons=(), counts=()) for one in self.items))

    def scaled(self, size: tuple[int, int]) -> Objects:
        """The objects of the image in another size."""
        return self.seen_through((0, 0, *self.size), size)

    def seen_through(self, window: Window, size: tuple[int, int]) -> Objects:
        """The objects of a part of the image that is cut out and scaled.

        What leaves the part is cut off, and an object with less than a pixel left is not in it.

        Args:
            window: The part.
            size: Width and height after scaling.
        """
        if window == (0, 0, *self.size) and size == self.size:
            return self
        seen = (self._item_through(one, window, size) for one in self.items)
        return Objects(size, tuple(one for one in seen if one is not None), self.masks)

    def clipped(self) -> Objects:
        """The objects, cut off at the border of the image; raises ValueError if a mask is of another size."""
        seen = (self._item_through(one, (0, 0, *self.size), self.size) for one in self.items)
        return replace(self, items=tuple(one for one in seen if one is not None))

    def _item_through(self, one: ImageObject, window: Window, size: tuple[int, int]) -> ImageObject | None:
        move = _mover(window, size)
        left, top, width, height = one.box
        corners = move(left, top), move(left + width, top + height)
        (x0, y0), (x1, y1) = (_inside(corner, size) for corner in corners)
        if x1 - x0 < SMALLEST or y1 - y0 < SMALLEST:
            return None
        box = (short(x0), short(y0), short(x1 - x0), short(y1 - y0))
        if not self.masks:
            return replace(one, box=box)
        polygons = tuple(filter(None, (_polygon_through(polygon, move, size) for polygon in one.polygons)))
        counts = _counts_through(one.counts, self.size, window, size) if one.counts else ()
        if not polygons and not counts:
            return None
        if ((x0, y0), (x1, y1)) != corners:  # something was cut off: the box is around what is left of the mask
            box = around_counts(counts, size) if counts else around(polygons)
        return replace(one, box=box, polygons=polygons, counts=counts)


def around(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The box around outlines."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return short(min(xs)), short(min(ys)), short(max(xs) - min(xs)), short(max(ys) - min(ys))


def around_counts(counts: Sequence[int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box around a mask of run lengths that is not empty."""
    rows, columns = (np.flatnonzero(decode_counts(counts, size).any(axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top)


def middle_square(size: tuple[int, int]) -> Window:
    """The largest square in the middle of an image.

    Example:
        >>> middle_square((7, 4))
        (1, 0, 4, 4)
    """
    side = min(size)
    return (size[0] - side) // 2, (size[1] - side) // 2, side, side


def short(value: float) -> float:
    """A coordinate of three decimals, the same text everywhere."""
    return round(value, 3) + 0.0


def _item(box: Any, category: Any, number: Any, crowd: Any, polygons: Any = (), counts: Any = ()) -> ImageObject:
    if not isinstance(category, str) or not isinstance(crowd, bool):
        raise TypeError(f"an object has the category {category!r:.60} and iscrowd {crowd!r:.60}")
    left, top, width, height = map(_number, box)
    outlines = tuple(tuple(map(_number, polygon)) for polygon in polygons)
    if any(len(outline) % 2 or len(outline) < 6 for outline in outlines):
        raise ValueError("a polygon has less than three points, or half of one")
    return ImageObject(
        (left, top, width, height), category, _whole(number), crowd, outlines, tuple(map(_whole, counts))
    )


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"a coordinate is {value!r:.60}")
    if not abs(value) <= 1e9:  # NaN is in no order
        raise ValueError(f"a coordinate is {value!r:.60}")
    return float(value)


def _whole(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 2**53:
        raise ValueError(f"a count is {value!r:.60}")
    return value


# --- cutting and scaling ------------------------------------------------------------------------------------------


def _mover(window: Window, size: tuple[int, int]) -> Callable[[float, float], _Point]:
    left, top, width, height = window
    return lambda x, y: ((x - left) * size[0] / width, (y - top) * size[1] / height)


def _inside(point: _Point, size: tuple[int, int]) -> _Point:
    return min(max(point[0], 0.0), size[0]), min(max(point[1], 0.0), size[1])


def _polygon_through(
    polygon: Sequence[float], move: Callable[[float, float], _Point], size: tuple[int, int]
) -> tuple[float, ...]:
    """A polygon moved, and cut at the border (Sutherland and Hodgman 1974); empty if nothing is left."""
    points = [move(*pair) for pair in zip(polygon[::2], polygon[1::2], strict=True)]
    for axis, bound, sign in ((0, 0, 1), (1, 0, 1), (0, size[0], -1), (1, size[1], -1)):
        points = _cut(points, axis, bound, sign)
    return tuple(short(value) for point in points for value in point) if len(points) > 2 else ()


def _cut(points: Sequence[_Point], axis: int, bound: float, sign: int) -> list[_Point]:
    """The part of a polygon on one side of a line."""
    kept: list[_Point] = []
    for before, point in pairwise([*points[-1:], *points]):
        depths = [sign * (one[axis] - bound) for one in (before, point)]
        if (depths[0] < 0) != (depths[1] < 0):
            share = depths[0] / (depths[0] - depths[1])
            x, y = (first + share * (last - first) for first, last in zip(before, point, strict=True))
            kept.append((x, y))
        if depths[1] >= 0:
            kept.append(point)
    return kept


def _counts_through(
    counts: Sequence[int], before: tuple[int, int], window: Window, size: tuple[int, int]
) -> tuple[int, ...]:
    """Run lengths of a mask that is cut and scaled, pixel by pixel; empty if no pixel of it is left."""
    left, top, width, height = window
    columns, rows = (  # the pixel that lies under the middle of each new one
        start + ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for start, old, new in ((left, width, size[0]), (top, height, size[1]))
    )
    moved = decode_counts(counts, before)[np.ix_(rows, columns)]
    return encode_counts(moved) if moved.any() else ()


# --- run lengths --------------------------------------------------------------------------------------------------


def decode_counts(counts: Sequence[int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask of COCO's run lengths, 255 inside and 0 outside, ``(H, W)``.

    Raises:
        ValueError: If the runs are not as long as the image has pixels.
    """
    if any(count < 0 for count in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError(f"its runs have {sum(counts)} pixels, and the image has {size[0]} x {size[1]}")
    inside = np.arange(len(counts)) % 2 == 1
    found: NDArray[np.uint8] = np.repeat(inside.astype(np.uint8) * 255, counts).reshape(size).T
    return found


def encode_counts(mask: NDArray[np.uint8]) -> tuple[int, ...]:
    """COCO's run lengths of a mask ``(H, W)``.

    Example:
        >>> encode_counts(np.array([[0, 255], [0, 255]], np.uint8))
        (2, 2)
    """
    flat = mask.T.reshape(-1) > 0
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return (0, *runs) if flat[0] else tuple(runs)


def read_counts(value: Mapping[str, Any]) -> tuple[int, ...]:
    """Run lengths of COCO's ``segmentation``: a list of them, or its compressed text.

    Raises:
        ValueError: If it is neither.
    """
    counts = value.get("counts")
    if isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts):
        return tuple(counts)
    if not isinstance(counts, str) or not all(48 <= ord(letter) < 112 for letter in counts):
        raise ValueError("its counts are neither a list of integers nor COCO's text")
    found: list[int] = []
    number = shift = 0
    for (
        letter
    ) in counts:  # five bits a letter, the lowest first; of the fourth on, the difference from the last but one
        code = ord(letter) - 48
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (1 << shift) if code & 16 else 0
            found.append(number + (found[-2] if len(found) > 2 else 0))
            number = shift = 0
    if shift or min(found, default=0) < 0:
        raise ValueError("its counts are cut off, or negative")
    return tuple(found)
