"""The form of an expansion's items: that of the dataset that was wrapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, cast

from PIL.Image import Image

from gif_datasets.errors import SourceError
from gif_datasets.io import decode, forms
from gif_datasets.objects import Objects
from gif_datasets.sources.base import Source, max_side_of, seed_image
from gif_datasets.sources.hugging_face import HuggingFaceSource, is_hugging_face
from gif_datasets.sources.reduced import unreduced
from gif_datasets.sources.wrapped import MapSource
from gif_datasets.types import Seed

FormatTransform: TypeAlias = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
Transform: TypeAlias = Callable[[Any], Any]


def _no_objects(seed: Seed, size: tuple[int, int]) -> Objects | None:
    return None


@dataclass(frozen=True)
class ItemForm:
    """Gives images the form of a dataset's own items: its images' type, its transforms, its columns.

    Attributes:
        source: The dataset as this package reads it.
        dataset: The dataset as it was given; None where a text named it.
        columns: What the dataset does to its columns, where it is one of Hugging Face's with such a function.
        objects_of: The objects in a seed's copies of some width and height, where they are kept.
    """

    source: Source
    dataset: Any
    columns: FormatTransform | None = None
    objects_of: Callable[[Seed, tuple[int, int]], Objects | None] = _no_objects
    _forms: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the forms that this process has seen: a worker sees its own."""
        return {**self.__dict__, "_forms": {}}

    def item(self, seed: Seed, made: bytes | None, transform: Transform | None) -> Any:
        """A seed as the dataset yields it, upright, or a copy as it would; ``transform`` instead of the dataset's own.

        Args:
            seed: The seed.
            made: The copy's file; None for the seed itself.
            transform: Applied to the image, or to the whole row of a Hugging Face dataset.
        """
        is_own = self.dataset is not None and transform is None
        own, max_side = unreduced(self.source), max_side_of(self.source)
        if is_own and made is None:
            return self._seed(own, seed, max_side)
        image = seed_image(self.source, seed) if made is None else decode.picture(made, seed.origin)
        if isinstance(own, HuggingFaceSource):
            shown = self._cell(own, seed.index, image, made) if is_own and made is not None else image
            reduced = seed.objects if max_side else None
            objects = reduced if made is None else self.objects_of(seed, image.size)
            return self._row(own, seed.index, shown, transform, objects)
        if is_own and isinstance(own, MapSource):
            return own.item_with(seed, image, max_side)
        label = own.label(seed.label) if isinstance(own, MapSource) else seed.label
        return (image if transform is None else transform(image)), label

    def _seed(self, source: Source, seed: Seed, max_side: int | None) -> Any:
        """An item as the dataset yields it, but upright, and reduced."""
        if isinstance(source, MapSource):
            return source.item(seed.index) if max_side is None else source.item_with(seed, None, max_side)
        if isinstance(source, HuggingFaceSource):
            small, objects = (None, None) if max_side is None else (seed_image(self.source, seed), seed.objects)
            shown = _changed(source, seed.index, small)
            if shown is not None:
                return self._row(source, seed.index, shown, objects=objects)
        return self.dataset[seed.index]

    def _row(
        self,
        source: HuggingFaceSource,
        index: int,
        shown: Any,
        transform: Transform | None = None,
        objects: Objects | None = None,
    ) -> Any:
        """A seed's row with another image, and the objects in that."""
        row = source.row(index) | {source.image_column: shown}
        if objects is not None and (column := source.objects):
            row[column.name] = column.cell_of(row[column.name], objects)
        if transform is not None:
            return transform(row)
        if self.columns is None:
            return row
        return {name: values[0] for name, values in self.columns({name: [v] for name, v in row.items()}).items()}

    def _cell(self, source: HuggingFaceSource, index: int, image: Image, made: bytes) -> Any:
        """A copy, its pixels and its file, as the column of images would yield it."""
        form = self._form(source, index)
        if source.features[source.image_column].decode:
            return forms.like(image, form)
        return _encoded((forms.file_like(made, form) or (made,))[0])

    def _form(self, source: HuggingFaceSource, index: int) -> Image:
        form: Image | None = self._forms.get(index)
        if form is None:
            form = source.form(index)
            if form.size == (1, 1):  # what is transparent is read again, so as to fill no memory
                self._forms[index] = form
        return form


def _changed(source: HuggingFaceSource, index: int, small: Image | None) -> Any:
    """The cell of a seed's image if it is reduced to ``small`` or set upright; None if it stays the dataset's own."""
    if source.features[source.image_column].decode:
        return None if small is None else source.reduced(index, small)
    file = source.changed_file(index, small)
    return None if file is None else _encoded(file)


def _encoded(content: bytes) -> dict[str, Any]:
    """A cell of a column of images that are not decoded."""
    return {"bytes": content, "path": None}


def format_transform(dataset: Any) -> FormatTransform | None:
    """The function of ``Dataset.set_transform``, if one is set; other formats are refused."""
    if dataset is None or not is_hugging_face(dataset):
        return None
    kind, columns = dataset.format.get("type"), dataset.format.get("columns")
    if kind == "custom":
        function = dataset.format["format_kwargs"]["transform"]
        if set(columns) == set(dataset.column_names):
            return cast(FormatTransform, function)
        return partial(_of_columns, function, tuple(columns), bool(dataset.format["output_all_columns"]))
    if kind is not None or set(columns or dataset.column_names) != set(dataset.column_names):
        raise SourceError(
            f"copies cannot follow the dataset's format {kind or 'of some columns'!r};"
            " take it away (with_format(None)) and use set_transform, or pass transform="
        )
    return None


def _of_columns(
    function: FormatTransform, columns: Sequence[str], with_others: bool, batch: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """What ``Dataset.set_transform(function, columns, output_all_columns)`` does to a batch."""
    found = function({name: batch[name] for name in columns})
    others = {name: values for name, values in batch.items() if name not in columns and with_others}
    return {**found, **others}
