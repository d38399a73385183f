"""An expansion as a Hugging Face dataset: the source's own columns for every row, and provenance beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gif_datasets.errors import MissingExtra
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.plan import Plan
from gif_datasets.io import forms
from gif_datasets.io.digests import digest
from gif_datasets.shards.columns import Columns, SourceColumns, expanded_columns
from gif_datasets.shards.tar import sample_key
from gif_datasets.sources.base import Source, max_side_of, seed_image
from gif_datasets.sources.hugging_face import HuggingFaceSource
from gif_datasets.sources.reduced import unreduced
from gif_datasets.types import OBJECTS, Row, Seed

FORMAT = 3
"""Of the rows; another one makes them again in the cache of ``datasets``."""


@dataclass(frozen=True)
class _Rows:
    """Makes the rows of an expansion; picklable, holds no model until the first copy."""

    plan: Plan
    source: Source
    imaginer: Imaginer

    @property
    def own(self) -> Source:
        """The source, whose images may be larger than those that are made."""
        return unreduced(self.source)

    @cached_property
    def columns(self) -> Columns:
        own = self.own
        if not isinstance(own, HuggingFaceSource):
            return expanded_columns(self.plan.recipe.classes, None, self.plan.json.get(OBJECTS))
        # rows are read one by one, when they are wanted
        found = SourceColumns(own.features, own.image_column, own.label_column, {})
        return expanded_columns(self.plan.recipe.classes, found, self.plan.json.get(OBJECTS))

    def make(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        """Rows of (seed, copy), all copies in one go; copy 0 is the seed itself."""
        copies = [(seed, copy) for seed, copy in rows if copy]
        made = iter(self.imaginer.imagine(copies) if copies else [])
        for seed, copy in rows:
            sample = next(made) if copy else self.imaginer.originals([seed])[0]
            key = sample_key(self.plan.recipe.config.split, seed.index, copy)
            own = self.own
            row = own.rows[seed.index] if isinstance(own, HuggingFaceSource) else {}
            picture = self._picture(seed, copy, sample.image, key)
            yield self.columns.row(picture, key, sample.provenance.to_json(), row)

    def _picture(self, seed: Seed, copy: int, content: bytes, key: str) -> dict[str, Any]:
        """The cell of an image, in the form of the source's; ``content`` is its file in shards."""
        own, suffix = self.own, self.plan.recipe.config.image_format
        if isinstance(own, HuggingFaceSource):
            if not copy:
                return self._seed(own, seed)
            content, suffix = forms.file_like(content, own.form(seed.index)) or (content, suffix)
        return {"bytes": content, "path": f"{key}.{suffix}"}

    def _seed(self, source: HuggingFaceSource, seed: Seed) -> dict[str, Any]:
        """The cell of a seed's image: as the dataset has it, but upright, and reduced."""
        small = None if max_side_of(self.source) is None else seed_image(self.source, seed)
        file = source.changed_file(seed.index, small)
        if file is None:
            return _embedded(source.rows[seed.index][source.image_column])
        return {"bytes": file, "path": None}


def _embedded(cell: Mapping[str, Any]) -> dict[str, Any]:
    """An image's cell with its content, so that it outlives the file that it came from."""
    if cell.get("bytes") is not None:
        return dict(cell)
    path = Path(cell["path"])
    return {"bytes": path.read_bytes(), "path": path.name}


def _generate(rows: _Rows, blocks: Sequence[tuple[Row, ...]]) -> Iterator[dict[str, Any]]:
    for block in blocks:
        yield from rows.make(block)


def to_hf(plan: Plan, source: Source, imaginer: Imaginer, order: Sequence[Row], streaming: bool) -> Any:
    """See :meth:`gif_datasets.ExpandedDataset.to_hf`."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hf") from error

    rows = _Rows(plan, source, imaginer)
    size = plan.recipe.config.decode_batch
    first = len(plan.seeds)  # blocks of copies start there, as those of lazy items do
    starts = [*range(0, first, size), *range(first, len(order), size)]
    ends = [*starts[1:], len(order)]
    blocks = [tuple(order[start:end]) for start, end in zip(starts, ends, strict=True)]
    made = {"features": rows.columns.features, "split": datasets.NamedSplit(plan.recipe.config.split)}
    if streaming:
        return datasets.IterableDataset.from_generator(_generate, gen_kwargs={"rows": rows, "blocks": blocks}, **made)
    given = rows.own.rows._fingerprint if isinstance(rows.own, HuggingFaceSource) else ""
    fingerprint = digest(["to_hf", FORMAT, plan.hash, given, list(rows.columns.features)])[:32]
    return datasets.Dataset.from_generator(
        _generate, gen_kwargs={"rows": rows, "blocks": blocks}, fingerprint=fingerprint, **made
    )
