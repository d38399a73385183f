"""The samples that ``browse`` shows: all of an expanded folder, rejected ones too, by class, kind and criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gif_datasets.config import CRITERIA
from gif_datasets.errors import ConfigError
from gif_datasets.methods import is_imagined
from gif_datasets.shards import rejections
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import Progress

KINDS = ("all", "original", "synthetic", "kept", "rejected", "failed")
"""Which samples to show; ``failed``: the image failed its check in every draw."""
ORDER = "order"
_SCORES = (*(f"{name}_after" for name in CRITERIA), "picture_consistency", "picture_entropy")


@dataclass(frozen=True)
class Query:
    """Which samples to show, and in which order.

    Attributes:
        label: Class index; None for all.
        kind: One of :data:`KINDS`.
        sort: :data:`ORDER`, or one of :attr:`Gallery.scores`.
        falling: Start with the highest.
    """

    label: int | None = None
    kind: str = "all"
    sort: str = ORDER
    falling: bool = False


class Gallery:
    """One split of an expanded folder.

    Args:
        folder: The expanded folder.
        split: Which split.
        show: Wraps the loop over the records.
    """

    def __init__(self, folder: ExpandedFolder, split: str, show: Progress) -> None:
        self.folder = folder.local
        self.reader = ShardReader(folder, split, whole=True)
        # reads all records now: sorting by one score needs every record
        columns = np.zeros((len(_SCORES), len(self.reader)))
        self._passed = np.ones(len(self.reader), bool)
        for number in show(range(len(self.reader)), f"reading records of {split}"):
            record = self.reader.provenance(number)
            columns[:, number] = [getattr(record, name) for name in _SCORES]
            self._passed[number] = record.passed
        imagined = is_imagined(self.reader.manifest.plan.recipe.method)
        scores = dict(zip(_SCORES, columns, strict=True))
        self.scores: Mapping[str, NDArray[np.float64]] = {
            name: values for name, values in scores.items() if imagined and values.any()
        }
        self._rejected = np.zeros(len(self.reader), bool)
        self.refresh()

    def refresh(self) -> None:
        """Read the list of rejections again: another process may have changed it."""
        keys = rejections.rejected_keys(self.folder, self.reader.manifest)
        self._rejected = ~rejections.kept(self.reader.index, self.reader.split, keys)

    @property
    def rejected(self) -> int:
        """Number of rejected samples."""
        return int(self._rejected.sum())

    def chosen(self, query: Query) -> NDArray[np.int64]:
        """Numbers of the samples that match a query, in its order.

        Raises:
            ConfigError: If the class, kind or score is unknown.
        """
        numbers = np.flatnonzero(self._wanted(query))
        if query.sort == ORDER:
            return numbers[::-1] if query.falling else numbers
        values = self._score(query.sort)[numbers]
        return numbers[np.argsort(-values if query.falling else values, kind="stable")]

    def seeds(self, query: Query) -> NDArray[np.int64]:
        """``seed_index`` of the samples that match, each once, in the order of its first sample."""
        seeds = self.reader.index.seed[self.chosen(query)]
        _, first = np.unique(seeds, return_index=True)
        return np.asarray(seeds[np.sort(first)], np.int64)

    def family(self, seed: int) -> list[int]:
        """Numbers of a seed, if it is stored, and of its copies."""
        return [*self.reader.original_of(seed), *self.reader.copies_of(seed)]

    def to_json(self, number: int) -> dict[str, Any]:
        """The values of a sample that the page shows, as JSON types."""
        index = self.reader.index
        return {
            "number": number,
            "key": self.reader.key(number),
            "label": int(index.label[number]),
            "seed": int(index.seed[number]),
            "origin": self.reader.provenance(number).seed_origin,
            "copy": int(index.copy[number]),
            "synthetic": bool(index.synthetic[number]),
            "passed": bool(self._passed[number]),
            "rejected": bool(self._rejected[number]),
            "scores": {name: round(float(values[number]), 4) for name, values in self.scores.items()},
        }

    def counts(self) -> list[dict[str, Any]]:
        """Name and number of samples of each class."""
        index, classes = self.reader.index, self.reader.classes
        real, synthetic = (np.bincount(index.label[index.synthetic == kind], minlength=len(classes)) for kind in (0, 1))
        return [
            {"name": n, "original": int(r), "synthetic": int(m)}
            for n, r, m in zip(classes, real, synthetic, strict=True)
        ]

    def numbers_of(self, keys: Sequence[str]) -> list[int]:
        """Numbers of samples by their keys; raises KeyError for an unknown key."""
        return [self.reader.index_of(key) for key in keys]

    def _wanted(self, query: Query) -> NDArray[np.bool_]:
        index = self.reader.index
        masks = {
            "all": np.ones(len(index), bool),
            "original": ~index.synthetic,
            "synthetic": index.synthetic,
            "kept": ~self._rejected,
            "rejected": self._rejected,
            "failed": ~self._passed,
        }
        if query.kind not in masks:
            raise ConfigError(f"unknown kind {query.kind!r}; known: {', '.join(KINDS)}")
        if query.label is not None and not 0 <= query.label < len(self.reader.classes):
            raise ConfigError(f"no class {query.label}; there are {len(self.reader.classes)}")
        return masks[query.kind] if query.label is None else masks[query.kind] & (index.label == query.label)

    def _score(self, name: str) -> NDArray[np.float64]:
        if name not in self.scores:
            raise ConfigError(f"nothing is known of {name!r}; known: {', '.join((ORDER, *self.scores))}")
        return self.scores[name]


def galleries(folder: Path, show: Progress) -> dict[str, Gallery]:
    """A gallery of each split, the expanded one first."""
    opened = ExpandedFolder.open(folder)
    return {split: Gallery(opened, split, show) for split in opened.manifest.splits}
