"""Hugging Face datasets as sources."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from gif_datasets.errors import BadImage, SourceError
from gif_datasets.io import forms, images
from gif_datasets.objects import Objects
from gif_datasets.prompts import canonical
from gif_datasets.sources import marks, object_column
from gif_datasets.sources.object_column import ObjectColumn


def is_hugging_face(dataset: Any) -> bool:
    """Whether this is a ``datasets.Dataset``, asked without importing ``datasets``."""
    return hasattr(dataset, "features") and hasattr(dataset, "with_format") and hasattr(dataset, "column_names")


class HuggingFaceSource:
    """A ``datasets.Dataset`` with an image column and a label column.

    Attributes:
        rows: The dataset, whose images are left encoded.
        features: ``datasets.Features`` of the dataset as it was given.
        image_column: Its column of images.
        label_column: Its column of labels; a name that no column has, where images are of the class of their largest
            object.
        objects: How its column of objects is read; None if it has none.
    """

    revision = ""

    def __init__(
        self,
        dataset: Any,
        image_column: str | None = None,
        label_column: str | None = None,
        classes: Sequence[str] | None = None,
        name: str = "hugging-face",
        objects: str | None = None,
        boxes: str = "xywh",
    ) -> None:
        import datasets

        if isinstance(dataset, datasets.IterableDataset):
            raise SourceError(f"{name} is a stream, whose rows have no numbers; load it without streaming=True")
        if not isinstance(dataset, datasets.Dataset):
            raise SourceError(
                f"{name}: expected one split (a datasets.Dataset), got {type(dataset).__name__}; choose one"
            )
        self.name = name
        if {"__key__", "__url__"} <= set(dataset.features):  # of webdataset: this is a place on this machine
            dataset = dataset.remove_columns("__url__")
        features = dataset.features
        pictures = [key for key, value in features.items() if isinstance(value, datasets.Image)]
        self.image_column = _column(name, "image", image_column, pictures, features)
        if not isinstance(features[self.image_column], datasets.Image):
            raise SourceError(
                f"column {self.image_column!r} of {name} contains no images but {features[self.image_column]}"
            )
        named = [key for key, value in features.items() if isinstance(value, datasets.ClassLabel)]
        likely = named or [
            key for key in ("label", "labels", "fine_label", "class", "cls", "target") if key in features
        ]
        self.rows = dataset.with_format(None).cast_column(self.image_column, datasets.Image(decode=False))
        self.features = features
        self.objects = object_column.object_column(self.rows, features, name, objects, boxes)
        self.marks, self.object_classes = object_column.marked(features), self.objects.classes if self.objects else ()
        names: Sequence[str] | None
        values: list[Any]
        if self.objects and not likely and label_column is None:
            self.label_column, values = "label", self._largest(self.objects)
            names = classes or self.objects.classes
        else:
            self.label_column = _column(name, "label", label_column, named or likely[:1], features)
            values = list(self.rows[self.label_column])
            names = classes or getattr(features[self.label_column], "names", None)
        self.classes, self._labels = _classes_and_labels(values, names)
        self._strange = {i: v for i, v in enumerate(values) if self._labels[i] < 0 and not isinstance(v, int)}
        self._pictures = self.rows.select_columns([self.image_column])  # so that no other column is decoded
        self._synthetic = _synthetic(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def is_synthetic(self, index: int) -> bool:
        """Whether it was imagined, if the rows are those of an expansion."""
        return bool(self._synthetic[index]) if self._synthetic else False

    def origin(self, index: int) -> str:
        """``row N``."""
        return f"row {index}"

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        name = self.origin(index)
        with images.opened(self._content(index), name) as image:
            rgb = forms.to_rgb(self._shown(image, name), name)
        return rgb, self.label_at(index)

    def _largest(self, column: ObjectColumn) -> list[int | None]:
        """The class of the largest object of each image; None without one."""
        cells = self.rows.select_columns([column.name])[column.name]
        found: list[int | None] = [None] * len(cells)
        for index, cell in enumerate(cells):
            with contextlib.suppress(BadImage):  # which says why when it is read
                found[index] = marks.class_of(column.marks_of(cell, self.origin(index)), self.origin(index))
        return found

    def keeping(self) -> HuggingFaceSource:
        """The same dataset, whose objects are not one of its own columns: each copy has its own."""
        found = copy.copy(self)
        if self.objects:
            found.features = type(self.features)({k: v for k, v in self.features.items() if k != self.objects.name})
        return found

    def annotated(self, index: int, masks: bool) -> tuple[Image.Image, int, Objects]:
        """One image, its class index, and its objects."""
        assert self.objects is not None
        name, cell = self.origin(index), self._cell(index)
        found = self.objects.marks_of(cell, name)
        if self.label_column not in self.features:
            marks.class_of(found, name)
        image, label = self.sample(index)
        return image, label, marks.objects_of(found, self.objects.classes, image.size, masks, name)

    def _cell(self, index: int) -> Any:
        assert self.objects is not None
        return self.rows.select_columns([self.objects.name])[index][self.objects.name]

    def label_at(self, index: int) -> int:
        """Its class index; raises BadImage if it has none."""
        if index in self._strange:
            value = self._strange[index]
            reason = "no label" if value is None else f"its label {value!r} is none of the classes"
            raise BadImage(f"{self.origin(index)}: {reason}")
        return self._labels[index]

    def form(self, index: int) -> Image.Image:
        """The form of its image: as the dataset yields it, or as its file has it where the dataset yields the file."""
        name = self.origin(index)
        with images.opened(self._content(index), name) as image:
            found: Image.Image = forms.stand_in(self._shown(image, name))
        return found

    def reduced(self, index: int, small: Image.Image) -> Image.Image | None:
        """Its reduced RGB image ``small`` in the form of :meth:`form`; None if the image already has that size."""
        name = self.origin(index)
        with images.opened(self._content(index), name) as image:
            shown = self._shown(image, name)
            found: Image.Image | None = None if shown.size == small.size else forms.like(small, shown)
        return found

    def changed_file(self, index: int, small: Image.Image | None = None) -> bytes | None:
        """A file of its image where that is not as the dataset has it; None elsewhere.

        It is reduced to ``small``, or set upright where the dataset yields files and Exif turns this one.
        """
        if small is not None and (reduced := self.reduced(index, small)) is not None:
            return forms.to_file(reduced)[0]
        if self.features[self.image_column].decode:
            return None
        name = self.origin(index)
        with images.opened(self._content(index), name) as image:
            shown = self._shown(image, name)
            return None if shown is image else forms.to_file(shown)[0]

    def _shown(self, image: Image.Image, name: str) -> Image.Image:
        """An open image, upright; as ``datasets.Image`` decodes it, and fails, if it does; in the column's mode."""
        column = self.features[self.image_column]
        if not column.decode:
            return images.upright(image, name)
        with images.as_bad_image(name):
            images.check_size(image, name)
            found = ImageOps.exif_transpose(image) if images.ORIENTATION in image.getexif() else image
        return found.convert(column.mode) if column.mode else found

    def file(self, index: int) -> bytes | None:
        """The image's file; None where the column gives all images another mode."""
        column = self.features[self.image_column]
        if column.decode and column.mode:
            return None
        content = self._content(index)
        return content if isinstance(content, bytes) else content.read_bytes()

    def row(self, index: int) -> dict[str, Any]:
        """Its whole row, with the image encoded; raises BadImage if another column of it cannot be decoded."""
        with images.as_bad_image(self.origin(index)):
            found: dict[str, Any] = self.rows[index]
        return found

    def _content(self, index: int) -> bytes | Path:
        cell = self._pictures[index][self.image_column]
        if not cell or (cell.get("bytes") is None and cell.get("path") is None):
            raise BadImage(f"{self.origin(index)}: no image")
        if cell.get("bytes") is not None:
            content: bytes = cell["bytes"]
            return content
        return _fetched(cell["path"], self.origin(index)) if "://" in cell["path"] else Path(cell["path"])

    def own(self, indices: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
        """Some of its columns, of some rows."""
        found: list[dict[str, Any]] = self.rows.select(indices).select_columns(list(names)).to_list()
        return found

    def others(self, indices: Sequence[int]) -> Any:
        """Its own columns besides the image, of some rows."""
        return self.rows.select(indices).select_columns([name for name in self.features if name != self.image_column])


def _fetched(address: str, name: str) -> bytes:
    """The file at an address that ``datasets`` opens: ``zip://1.png::photos.zip``, ``https://..``, ``hf://..``.

    Raises:
        BadImage: If there is no such file.
        SourceError: If it cannot be reached; the address, which may hold a token, is not in the message.
    """
    from datasets.utils.file_utils import xopen

    try:
        with xopen(address, "rb") as file:
            return bytes(file.read())
    except Exception as error:  # each file system raises its own kinds
        status = getattr(error.__cause__, "status", 404)  # fsspec hides that a server was not reached or refused
        connected = not isinstance(error.__cause__, OSError)
        missing = isinstance(error, (FileNotFoundError, KeyError))  # fsspec's older zip file system: KeyError
        if missing and status in (404, 410) and connected:
            raise BadImage(f"{name}: no such file") from error
        raise SourceError(
            f"{name}: its image at a {address.partition('://')[0]}:// address cannot be read ({type(error).__name__});"
            " see that datasets opens it here, or store the images themselves (Image.embed_storage)"
        ) from error


def _synthetic(rows: Any) -> list[bool]:
    """Which rows were imagined, where they have the provenance of this package: as columns, or in one."""
    marks = ("synthetic", "seed_key", "copy", "recipe")
    record = rows.features.get("json")
    if isinstance(record, dict) and all(name in record for name in marks):
        return [bool(row["synthetic"]) for row in rows["json"]]
    named = [next((n for n in (f"gif_{name}", name) if n in rows.features), "") for name in marks]
    return [bool(value) for value in rows[named[0]]] if all(named) else []


def _classes_and_labels(values: list[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], list[int]]:
    """Class names and indices of a label column: integers are indices already, texts are looked up, None is -1."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int) for value in known):
        top = max(known, default=-1) + 1
        if names is None and top > 10_000 and top > 10 * len(set(known)):
            raise SourceError(f"labels go up to {top - 1} with {len(set(known))} different ones; name the classes")
        return tuple(names or map(str, range(top))), [-1 if value is None else int(value) for value in values]
    if not all(isinstance(value, str) for value in known):
        raise SourceError(f"labels must be integers or texts, got {next(v for v in known if not isinstance(v, str))!r}")
    found = tuple(names or sorted({canonical(text): text for text in sorted(set(known))}.values()))
    order = {canonical(text): index for index, text in enumerate(found)}
    return found, [-1 if text is None else order.get(canonical(text), -1) for text in values]


def _column(name: str, role: str, asked: str | None, found: Sequence[str], features: Any) -> str:
    if asked is not None:
        if asked not in features:
            raise SourceError(f"{name} has no column {asked!r}; its columns: {', '.join(features)}")
        return asked
    if len(found) == 1:
        return found[0]
    what = "several" if found else "no"
    others = "remove the others" if found else f"rename the column to {role!r}"
    raise SourceError(
        f"{name} has {what} {role} columns ({', '.join(found or features)}); name one: {role}_column=COLUMN of"
        f" ExpandedDataset, {role}=COLUMN of a text such as hf:NAME?..; or {others}"
    )
