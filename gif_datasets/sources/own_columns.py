"""A source's own columns: what a Hugging Face dataset has besides images and labels, in files and in samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gif_datasets.io.parsing import finite
from gif_datasets.shards import columns
from gif_datasets.sources.base import Source
from gif_datasets.sources.hugging_face import HuggingFaceSource
from gif_datasets.sources.joined import parts_of
from gif_datasets.sources.numbered import place_in
from gif_datasets.sources.stored import StoredSeeds


def source_columns(source: Source, indices: Sequence[int]) -> dict[str, bytes]:
    """A file with a Hugging Face source's own columns of some samples; none where there are only image and label.

    A validation source adds its rows if its columns are the same.
    """
    first = parts_of(source)[0]
    if not isinstance(first, HuggingFaceSource) or set(first.features) <= {first.image_column, first.label_column}:
        return {}
    tables = [(part.others(rows), whole) for part, rows, whole in _alike(source, indices) if rows]
    return {columns.SOURCE: columns.source_bytes(tables, first.features, first.image_column, first.label_column)}


def own_columns(source: Source) -> dict[str, Any]:
    """Features of a Hugging Face source's own columns that go into every sample; none where it has no others."""
    first = parts_of(source)[0]
    if not isinstance(first, HuggingFaceSource):
        return {}
    return dict(columns.own_features(first.features, first.image_column, first.label_column))


def own_members(source: Source, indices: Sequence[int]) -> dict[int, bytes] | None:
    """The source's own columns of some samples as JSON, by index; None where it has none.

    NaN and infinities, which JSON does not have, are null; :func:`source_columns` keeps them. A validation source whose
    columns are others has null for each.
    """
    if isinstance(source, StoredSeeds):
        return {index: source.own[index] for index in indices} if source.own else None
    names = list(own_columns(source))
    if not names:
        return None
    found: dict[int, Any] = {index: dict.fromkeys(names) for index in indices}
    for part, rows, whole in _alike(source, list(found)):
        found |= zip(whole, part.own(rows, names), strict=True)
    return {
        index: json.dumps(finite(row), ensure_ascii=True, allow_nan=False).encode("ascii")
        for index, row in found.items()
    }


def _alike(source: Source, indices: Sequence[int]) -> Iterator[tuple[HuggingFaceSource, list[int], list[int]]]:
    """Each part that has the first's columns, those of its rows that are wanted, and how the whole counts them."""
    parts, start = parts_of(source), 0
    for part in parts:
        if isinstance(part, HuggingFaceSource) and part.features == getattr(parts[0], "features", None):
            places = {index: place_in(source, index) - start for index in indices}
            whole = [index for index in indices if 0 <= places[index] < len(part)]
            yield part, [places[index] for index in whole], whole
        start += len(part)
