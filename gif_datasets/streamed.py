"""An expanded folder in an object store, read shard by shard: :func:`stream_expanded`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from gif_datasets import atomic, shards
from gif_datasets.ahead import ahead
from gif_datasets.errors import ConfigError, ShardError
from gif_datasets.loaded import LoadedDataset
from gif_datasets.order import permute, stream_key, subkey
from gif_datasets.shards import Shard

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
) -> StreamedDataset:
    """Open an expanded folder that is not on this machine as an iterable dataset of ``(image, label)``.

    A few shards at a time are fetched ahead into a temporary folder, checked against their digests, and removed again.
    Where the folder fits on a disk, :func:`gif_datasets.load_expanded` on a copy shuffles better and resumes.

    Args:
        url: Anything fsspec opens (``s3://bucket/set``, ``hf://datasets/user/name``, ``https://..``, a path).
        transform: Applied to every picture, an RGB ``PIL.Image``.
        split: ``"validation"`` for what was held out; the expanded split by default.
        shuffle: Go through the shards in another order each epoch, and shuffle ``together`` of them fully.
        seed: The order's number.
        together: Shards that are fetched and shuffled at once.
        rank: This process's number among ``world_size``; ranks and DataLoader workers read different shards, so one may
            have more samples than another.
        world_size: Number of processes that share an epoch.

    Raises:
        UsageError: If there is no finished expansion, or it has no such split.
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
    return StreamedDataset(url, transform, split, shuffle, seed, together, rank, world_size)


class StreamedDataset(IterableDataset[tuple[Any, int]]):
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
    ) -> None:
        self.url, self.transform, self.split = url, transform, split
        self.shuffle, self.seed, self.together = shuffle, seed, together
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        with tempfile.TemporaryDirectory() as folder:
            try:
                content = self._fetch(shards.MANIFEST)
            except OSError:
                content = b""
            if content:
                atomic.write_bytes(Path(folder) / shards.MANIFEST, content)
            self.manifest = shards.read_manifest(Path(folder))
        shards.check_split(self.manifest, split)
        self.classes = tuple(self.manifest["classes"])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; without it every pass is the same. Call it before workers start."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        listed = shards.manifest_shards(self.manifest, self.split)
        places = self._order(len(listed), "shards")
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        own = [listed[i] for i in places][self.rank * workers + number :: self.world_size * workers]
        groups = [own[i : i + self.together] for i in range(0, len(own), self.together)]
        for folder in ahead(groups, self._fetch_group, threads=1, depth=1):
            with folder:
                loaded = LoadedDataset(Path(folder.name), self.transform, self.split)
                order = self._order(len(loaded), loaded._reader.key(0))
                for start in range(0, len(order), BLOCK):
                    yield from loaded.__getitems__(order[start : start + BLOCK])

    def _order(self, count: int, name: str) -> list[int]:
        places = np.arange(count)
        if self.shuffle:
            key = subkey(stream_key(self.seed, name), np.array([self.epoch]))
            places = permute(key, np.array([count]), places)
        listed: list[int] = places.tolist()
        return listed

    def _fetch_group(self, group: Sequence[Shard]) -> tempfile.TemporaryDirectory[str]:
        """A folder with some of the shards, whole in itself."""
        folder = tempfile.TemporaryDirectory(prefix="gif_datasets-")
        for shard in group:
            try:
                atomic.write_bytes(Path(folder.name) / shard.name, self._fetch(shard.name))
            except OSError as error:
                raise ShardError(f"cannot fetch {shard.name}: {type(error).__name__}") from error
            if not shards.intact(Path(folder.name), shard):
                raise ShardError(f"{shard.name} is not what the manifest describes")
        part = {**self.manifest, "shards": [shards.shard_json(shard) for shard in group]}
        atomic.write_json(Path(folder.name) / shards.MANIFEST, shards.sealed(part, {}))
        return folder

    def _fetch(self, name: str) -> bytes:
        from fsspec.core import url_to_fs

        store, root = url_to_fs(self.url)
        content: bytes = store.cat_file(f"{root.rstrip('/')}/{name}")
        return content
