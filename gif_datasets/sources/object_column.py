"""The column of a Hugging Face dataset that marks objects: boxes, their classes, and outlines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gif_datasets.errors import BadImage, SourceError
from gif_datasets.objects import Objects
from gif_datasets.sources import marks
from gif_datasets.sources.marks import Mark

BOXES = ("bbox", "bboxes", "boxes", "box")
CATEGORIES = ("category", "categories", "category_id", "label", "labels", "class")
OUTLINES = ("segmentation", "polygons")
FORMS = ("xywh", "xyxy")
"""Of boxes: left, top, width, height, which COCO and most datasets have; or left, top, right, bottom."""


@dataclass(frozen=True)
class ObjectColumn:
    """How to read the objects of a row.

    Attributes:
        name: The column.
        box, category, outline: Its fields; ``outline`` is empty if there are no masks.
        classes: Names of the categories.
        form: One of :data:`FORMS`.
        listed: Whether a cell is a list of objects, not an object of lists.
    """

    name: str
    box: str
    category: str
    outline: str
    classes: tuple[str, ...]
    form: str
    listed: bool

    def marks_of(self, cell: Any, name: str) -> list[Mark]:
        """What a cell marks; raises BadImage if it is broken."""
        rows = self._rows(cell)
        try:
            return [self._mark(row) for row in rows]
        except ValueError as error:
            raise BadImage(f"{name}: column {self.name!r}: {error}") from error

    def cell_of(self, cell: Any, objects: Objects) -> Any:
        """A cell as a copy has it: the objects that are left, with their boxes and outlines there.

        Other fields stay as they are, except an ``area``, which is that of the box.
        """
        rows = self._rows(cell)
        made = []
        for one in objects.items:
            left, top, width, height = one.box
            box = [left, top, *((left + width, top + height) if self.form == "xyxy" else (width, height))]
            row = {**rows[one.id], self.box: box}
            row |= {"area": one.area} if "area" in row else {}
            row |= {self.outline: [list(polygon) for polygon in one.polygons]} if self.outline else {}
            made.append(row)
        return made if self.listed else {field: [row[field] for row in made] for field in cell}

    def _rows(self, cell: Any) -> list[dict[str, Any]]:
        if self.listed or not cell:
            return list(cell or [])
        return [dict(zip(cell, values, strict=True)) for values in zip(*cell.values(), strict=False)]

    def _mark(self, row: Mapping[str, Any]) -> Mark:
        category = row[self.category]
        place = self.classes.index(category) if isinstance(category, str) and category in self.classes else category
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(self.classes):
            raise ValueError(f"the category {category!r:.60} is none of {', '.join(self.classes)[:200]}")
        values = marks.numbers(row[self.box])
        if self.form == "xyxy" and len(values) == 4:
            values = (*values[:2], values[2] - values[0], values[3] - values[1])
        crowd = bool(row.get("iscrowd", False))
        outlines = tuple(map(marks.polygon_of, row.get(self.outline) or [])) if self.outline else ()
        return Mark(place, marks.box_of(values), crowd, outlines)


def object_column(
    rows: Any, features: Mapping[str, Any], name: str, asked: str | None, form: str
) -> ObjectColumn | None:
    """The column of objects; None if there is none that can be read.

    Args:
        rows: The dataset.
        features: Its features.
        name: Its name.
        asked: The column, if the user has named one.
        form: One of :data:`FORMS`.

    Raises:
        SourceError: If the one that is named is not such a column, or there are several.
    """
    if form not in FORMS:
        raise SourceError(f"boxes of {name} are {' or '.join(FORMS)}, got {form!r}")
    if asked is not None and asked not in features:
        raise SourceError(f"{name} has no column {asked!r}; its columns: {', '.join(features)}")
    fields = {column: found for column, kind in features.items() if (found := _fields(kind))}
    able = [column for column, found in fields.items() if _first(BOXES, found) and _first(CATEGORIES, found)]
    if asked is None and len(able) > 1 and "objects" not in able:
        raise SourceError(f"{name} has several columns of objects ({', '.join(able)}); name one: hf:..?objects=COLUMN")
    if asked is not None and asked not in able:
        raise SourceError(f"column {asked!r} of {name} has no boxes and categories, but {features[asked]}")
    if not able:
        return None
    column = asked or ("objects" if "objects" in able else able[0])
    found, category = fields[column], _first(CATEGORIES, fields[column])
    kind = _unlisted(found[category])
    classes = tuple(getattr(kind, "names", None) or _names(rows, column, category, name))
    box, outline = _first(BOXES, found), _first(OUTLINES, found)
    return ObjectColumn(column, box, category, outline, classes, form, not isinstance(features[column], dict))


def marked(features: Mapping[str, Any]) -> str:
    """A column that marks objects, whether it can be read or not; empty if there is none."""
    for column, kind in features.items():
        if _first(BOXES + OUTLINES, _fields(kind)):
            return f"boxes in column {column!r}"
    return ""


def _fields(kind: Any) -> dict[str, Any]:
    """Fields of an object of lists, or of a list of objects; none for anything else."""
    inner = kind if isinstance(kind, dict) else _unlisted(kind)
    return dict(inner) if isinstance(inner, dict) else {}


def _unlisted(kind: Any) -> Any:
    if isinstance(kind, list):
        return kind[0]
    return getattr(kind, "feature", kind)


def _first(names: Sequence[str], among: Iterable[str]) -> str:
    return next((name for name in names if name in set(among)), "")


def _names(rows: Any, column: str, category: str, name: str) -> list[str]:
    """Names of categories that the features do not name: the texts that are there, or numbers as texts."""
    found = set[Any]()
    for cell in rows.select_columns([column])[column]:
        found.update(cell.get(category) or [] if isinstance(cell, dict) else (one.get(category) for one in cell or []))
    if all(isinstance(value, str) for value in found):
        return sorted(found)
    if not all(type(value) is int and 0 <= value < 10_000 for value in found):
        raise SourceError(f"the categories of column {column!r} of {name} are neither texts nor numbers from 0 on")
    return [str(number) for number in range(max(found, default=-1) + 1)]
