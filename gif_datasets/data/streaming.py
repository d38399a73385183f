"""An expanded folder in an object store, read shard by shard: :func:`stream_expanded`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from gif_datasets.chunks import blocks
from gif_datasets.data.batches import Position
from gif_datasets.data.keyed_random import Ints, permute, stream_key, subkey
from gif_datasets.data.map_style import LoadedDataset
from gif_datasets.data.prefetch import prefetch
from gif_datasets.data.spans import Readers, Spans, cut, length
from gif_datasets.data.splits import Grouped
from gif_datasets.errors import ConfigError, ShardError, UsageError
from gif_datasets.io import atomic
from gif_datasets.io.stores import as_path
from gif_datasets.io.temporary import TemporaryFolder
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import rejections, tar
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.manifest import Shard
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import ItemTable

BLOCK = 64  # samples that are decoded together


def stream_expanded(
    url: str,
    transform: Callable[[Any], Any] | None = None,
    split: str | None = None,
    *,
    shuffle: bool = False,
    seed: int = 0,
    together: int = 4,
    rank: int = 0,
    world_size: int = 1,
    objects: bool = False,
) -> StreamedDataset:
    """Open an expanded folder that is not on this machine as an iterable dataset of ``(image, label)``.

    A few shards at a time are fetched ahead into a temporary folder, checked against their digests, and removed again.
    Under :class:`gif_datasets.DataLoader` it resumes in mid-epoch, and each pass is the next epoch. Where the folder
    fits on a disk, :func:`gif_datasets.load_expanded` on a copy shuffles better and mixes.

    Args:
        url: Anything fsspec opens (``s3://bucket/set``, ``hf://datasets/user/name``, ``https://..``, a path).
        transform: Applied to every image, an RGB ``PIL.Image``.
        split: ``"validation"`` for the held-out seeds; the expanded split by default.
        shuffle: Go through the shards in another order each epoch, and shuffle ``together`` of them fully.
        seed: The order's number.
        together: Shards that are fetched and shuffled at once.
        rank: This process's number among ``world_size``. Each rank, and each worker of its DataLoader, reads one run of
            the order. All ranks have as many samples: where they divide unevenly, some also have the next one's first.
        world_size: Number of processes that share an epoch.
        objects: Items are ``(image, label, objects)``, as of :func:`gif_datasets.load_expanded`.

    Raises:
        UsageError: If there is no finished expansion, or it has no such split, or no objects.
        ShardError: While reading, if a shard is missing or damaged.

    Example:
        >>> import tempfile
        >>> from gif_datasets import expand
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = expand("demo", folder, ratio=1, prior="linear", limit=20)
        ...     len([label for image, label in stream_expanded(f"file://{folder}")])
        40
    """
    if together < 1 or not 0 <= rank < world_size:
        raise ConfigError(
            f"together must be at least 1 and rank below world_size, got together={together}, rank={rank},"
            f" world_size={world_size}"
        )
    return StreamedDataset(url, transform, split, shuffle, seed, together, rank, world_size, objects)


@dataclass(frozen=True)
class Pass:
    """What one pass over a streamed set reads, all ranks together."""

    epoch: int
    spans: Spans
    readers: Readers


@dataclass(frozen=True)
class Fetch:
    """Shards that are fetched together, and the places of the wanted samples among theirs, in order."""

    shards: tuple[Shard, ...]
    places: tuple[int, ...]


class StreamedDataset(Grouped, IterableDataset[tuple[Any, ...]]):
    """The samples of an expanded folder, shard by shard; see :func:`stream_expanded`."""

    def __init__(
        self,
        url: str,
        transform: Callable[[Any], Any] | None,
        split: str | None,
        shuffle: bool,
        seed: int,
        together: int,
        rank: int,
        world_size: int,
        objects: bool = False,
    ) -> None:
        self.url, self.transform, self._split = url, transform, split
        self.shuffle, self.seed, self.together = shuffle, seed, together
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self.epoch_calls = 0  # of set_epoch; a loader compares it with what it saw before
        self._pass: Pass | None = None
        self._folder = ExpandedFolder.open(as_path(url))
        self.manifest, self._rejected = self._folder.manifest, self._folder.rejected
        self.manifest.check_split(split)
        self.classes, self.objects = self.manifest.classes, objects
        if objects and self.manifest.plan.objects is None:
            raise UsageError(f"{url} keeps no objects; expand with keep=boxes or keep=masks, or stream without objects")
        self._shards = self._without_rejected(self.manifest.shards_of(split))
        self.samples = sum(shard.samples for shard in self._shards)

    def _without_rejected(self, listed: list[Shard]) -> list[Shard]:
        """The shards, with as many samples as are wanted of each; only where some are rejected is the index read."""
        if not self._rejected:
            return listed
        counts = ShardReader(self._folder, self._split).counts
        return [replace(shard, samples=count) for shard, count in zip(listed, counts, strict=True)]

    @property
    def fingerprint(self) -> str:
        """Digest of the plan, name of the split, and digest of what was rejected: another one has other samples."""
        return rejections.fingerprint(self.manifest, self._split, self._rejected)

    @cached_property
    def facts(self) -> ItemTable:
        """Label, kind and seed of every sample, all ranks', in the order of the shards; the index alone is read."""
        index = ShardReader(self._folder, self._split).index
        return ItemTable(index.label, index.synthetic, index.seed)

    @property
    def targets(self) -> NDArray[np.integer]:
        """The label of every sample, ``(N,)``, in the order of the shards."""
        return self.facts.labels

    def split(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: which seeds are held out depends on their images, and a stream reads each shard once, as a whole."""
        raise UsageError(
            f"the stream of {self._folder.path} cannot be split, which takes every seed's image first; use"
            " load_expanded(..) on a copy, or on its name on the Hub"
        )

    folds = split

    def __len__(self) -> int:
        """Samples of this rank in an epoch."""
        return -(-self.samples // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order, also of a :class:`gif_datasets.DataLoader`; call it before workers start.

        Without it every pass is the same, except in such a loader.
        """
        self.epoch, self.epoch_calls = epoch, self.epoch_calls + 1

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (0, 0)
        this = self._pass or Pass(self.epoch, ((0, self.samples),), Readers(self.world_size, workers))
        part = this.readers.parts(length(this.spans), self.rank)[number]
        return self._rows(this.epoch, cut(this.spans, *part))  # the epoch of this moment, not of the first sample

    def reading_pass(self, which: Pass) -> StreamedDataset:
        """The same dataset, whose iterators read this pass."""
        view = copy.copy(self)
        view._pass = which
        return view

    def _rows(self, epoch: int, spans: Spans) -> Iterator[tuple[Any, ...]]:
        for folder, places in prefetch(self._fetches(epoch, spans), self._fetch_shards, threads=1, depth=1):
            with folder:
                loaded = LoadedDataset(Path(folder.name), self.transform, self._split, objects=self.objects)
                for block in blocks(places, BLOCK):
                    yield from loaded.__getitems__(block)

    def _fetches(self, epoch: int, spans: Spans) -> Iterator[Fetch]:
        """What to read for some positions of an epoch's order.

        The order goes through one group of ``together`` shards after the other, the same however it is divided.
        """
        groups = blocks([self._shards[i] for i in self._order(epoch, len(self._shards), "shards")], self.together)
        starts = np.cumsum([0, *(sum(shard.samples for shard in group) for group in groups)]).tolist()
        parts = (
            (number, first, last)
            for start, stop in spans
            for number, (first, last) in enumerate(pairwise(starts))
            for first, last in [(max(start, first) - first, min(stop, last) - first)]
            if first < last
        )
        for number, some in groupby(parts, key=lambda part: part[0]):
            order = self._order(epoch, starts[number + 1] - starts[number], f"group {number}")
            yield _fetch_of(groups[number], np.concatenate([order[first:last] for _, first, last in some]))

    def _order(self, epoch: int, count: int, name: str) -> Ints:
        places = np.arange(count)
        if not self.shuffle:
            return places
        return permute(subkey(stream_key(self.seed, name), np.array([epoch])), np.array([count]), places)

    def _fetch_shards(self, wanted: Fetch) -> tuple[TemporaryFolder, tuple[int, ...]]:
        """A folder with some of the shards, whole in itself, and the wanted places in it."""
        folder = TemporaryFolder()
        for shard in wanted.shards:
            try:
                atomic.write_bytes(Path(folder.name) / shard.name, (self._folder.path / shard.name).read_bytes())
            except OSError as error:
                raise ShardError(f"cannot fetch {shard.name}: {type(error).__name__}") from error
            if not tar.intact(Path(folder.name), shard):
                raise ShardError(f"{shard.name} is not what the manifest describes")
        entries = {shard.name: manifests.shard_json(shard) for shard in self.manifest.shards}
        part = {**self.manifest.to_json(), "shards": [entries[shard.name] for shard in wanted.shards]}
        atomic.write_json(Path(folder.name) / manifests.MANIFEST, manifests.sealed(part, {}))
        rejections.reject(Path(folder.name), self._rejected)
        return folder, wanted.places


def _fetch_of(group: Sequence[Shard], places: Ints) -> Fetch:
    """Those shards of a group that hold some of the places, and the places counted in these alone."""
    counts = np.array([shard.samples for shard in group])
    ends = np.cumsum(counts)
    shards = np.searchsorted(ends, places, side="right")
    needed = np.isin(np.arange(len(group)), shards)
    missing = np.cumsum(np.where(needed, 0, counts))  # samples of shards that are left out, before each one's end
    return Fetch(tuple(group[i] for i in np.flatnonzero(needed).tolist()), tuple((places - missing[shards]).tolist()))


class StreamBatches:
    """Positions in the epochs of a streamed dataset, for a loader; torch makes the batches.

    Args:
        dataset: The dataset.
        readers: All ranks and workers.
    """

    def __init__(self, dataset: StreamedDataset, readers: Readers) -> None:
        self._dataset, self._readers = dataset, readers
        names = ("samples", "shuffle", "seed", "together")
        self.description = {name: getattr(dataset, name) for name in names}

    def from_(self, start: Position) -> StreamedDataset:
        """The dataset from ``start`` to the end of its epoch."""
        return self._dataset.reading_pass(Pass(start.epoch, self._spans(start), self._readers))

    def after(self, start: Position, steps: int) -> Position:
        """The position after some batches on every rank."""
        left = self._readers.left(self._spans(start), steps)
        done = self._dataset.samples - length(left)
        return Position(start.epoch, done, () if left == self._spans(Position(start.epoch, done)) else left)

    def _spans(self, start: Position) -> Spans:
        whole = ((0, self._dataset.samples),)
        return start.left or cut(whole, start.position, self._dataset.samples)
