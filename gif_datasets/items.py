"""The form of an expansion's items: that of the dataset that was wrapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from PIL.Image import Image

from gif_datasets import decode, images
from gif_datasets.errors import SourceError
from gif_datasets.sources.base import Source
from gif_datasets.sources.hugging_face import HuggingFaceSource, is_hugging_face
from gif_datasets.sources.wrapped import MapSource, below
from gif_datasets.types import Seed

FormatTransform: TypeAlias = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
Transform: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True)
class ItemForm:
    """Gives pictures the form of a dataset's own items: its pictures' type, its transforms, its columns.

    Attributes:
        source: The dataset as this package reads it.
        dataset: The dataset as it was given; None where a text named it.
        example: A sample that can be read, for the type of its picture.
        columns: What the dataset does to its columns, where it is one of Hugging Face's with such a function.
    """

    source: Source
    dataset: Any
    example: int
    columns: FormatTransform | None = None

    def item(self, seed: Seed, made: bytes | None, transform: Transform | None) -> Any:
        """A seed as the dataset yields it, or a copy of it as it would; ``transform`` instead of the dataset's own.

        Args:
            seed: The seed.
            made: The copy's file; None for the seed itself.
            transform: Applied to the picture, or to the whole row of a Hugging Face dataset.
        """
        if made is None and self.dataset is not None and transform is None:
            return self.dataset[seed.index]
        image = self.source.sample(seed.index)[0] if made is None else decode.picture(made, seed.origin)
        if isinstance(self.source, HuggingFaceSource):
            return self._row({**self.source.rows[seed.index], self.source.image_column: image}, transform)
        return (self._like_stored(image) if transform is None else transform(image)), seed.label

    def _row(self, row: dict[str, Any], transform: Transform | None) -> Any:
        if transform is not None:
            return transform(row)
        if self.columns is None:
            return row
        return {name: values[0] for name, values in self.columns({name: [v] for name, v in row.items()}).items()}

    def _like_stored(self, image: Image) -> Any:
        """A copy in the type of the dataset's pictures, and through its transform."""
        alike = images.like(image, self._stored) if self._stored is not None else image
        transform = below(self.dataset, "transform", callable)
        return transform(alike) if transform is not None else alike

    @cached_property
    def _stored(self) -> Any:
        """A picture as the dataset keeps it, whose type copies take."""
        if self.dataset is None or not isinstance(self.source, MapSource):
            return None
        return self.source.stored(self.example)[0]


def format_transform(dataset: Any) -> FormatTransform | None:
    """The function of ``Dataset.set_transform``, if one is set; other formats are refused."""
    if dataset is None or not is_hugging_face(dataset):
        return None
    kind, columns = dataset.format.get("type"), dataset.format.get("columns")
    if kind == "custom":
        found: FormatTransform = dataset.format["format_kwargs"]["transform"]
        return found
    if kind is not None or set(columns or dataset.column_names) != set(dataset.column_names):
        raise SourceError(
            f"copies cannot follow the dataset's format {kind or 'of some columns'!r};"
            " take it away (with_format(None)) and use set_transform, or pass transform="
        )
    return None
