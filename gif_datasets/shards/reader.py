"""Random access to the samples of an expanded folder, by its index.

Shards are read with positioned reads, not mapped. A thread then waits for a page without Python's global lock, so that
other threads go on decoding; and a shard that somebody cuts gives an error, while a mapping would end the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.errors import ShardError
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest_file
from gif_datasets.io.forks import on_fork
from gif_datasets.io.stores import AnyPath, RemotePath, file_sizes
from gif_datasets.shards import index, rejections, tar, ustar
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.index import IMAGE_SUFFIXES, INDEX, Index
from gif_datasets.shards.manifest import Manifest, RecipeRecord, Shard, split_of
from gif_datasets.shards.ustar import BLOCK
from gif_datasets.types import Provenance

MOST_OPEN = 128  # shards; macOS allows a process 256 open files


class ShardReader:
    """The samples of a finished expanded folder. It is safe to use from several threads, and after a fork.

    Args:
        folder: A finished expanded folder, here or in a store, or the same already open.
        split: Name of the split; the expanded one by default.
        whole: Whether to read rejected samples, too.
        check: Whether to compare each image with the digest in its record when it is first read.

    Raises:
        UsageError: If there is no manifest, or the split is unknown.
        ShardError: If the manifest, the index or a shard is missing or damaged.
    """

    def __init__(
        self, folder: AnyPath | ExpandedFolder, split: str | None = None, *, whole: bool = False, check: bool = True
    ) -> None:
        self._held = _Held(folder)
        self.opened = ExpandedFolder.open(folder)
        self.folder, self.manifest = self.opened.path, self.opened.manifest
        self.manifest.check_split(split)
        self.classes = self.manifest.classes
        self.split: str = split or self.manifest.split
        self._shards = self.manifest.shards_of(split)
        shard_sizes = file_sizes(self.folder / "data")
        for shard in self._shards:
            _check_size(self.folder, shard, shard_sizes.get(Path(shard.name).name))
        all_splits, self._mapped = _open_index(self.folder, self.manifest)
        self._part = _part(self.manifest, self.split)
        rejected = frozenset[str]() if whole else self.opened.rejected
        kept = rejections.kept(all_splits.part(*self._part), self.split, rejected) if rejected else None
        self._kept = None if kept is None or kept.all() else np.flatnonzero(kept)
        self.rejected = 0 if kept is None else int((~kept).sum())  # samples in the shards that are not read
        self.fingerprint = rejections.fingerprint(self.manifest, self.split, rejected)
        self.index = self._entries(all_splits)
        starts = np.cumsum([0, *(shard.samples for shard in self._shards)])
        # a list, in which bisect finds one number five times as fast as numpy
        self._starts: list[int] = (starts if self._kept is None else np.searchsorted(self._kept, starts)).tolist()
        self._check = check
        self._start()

    def _entries(self, all_splits: Index) -> Index:
        """This split's entries, without those of rejected samples."""
        part = all_splits.part(*self._part)
        return part if self._kept is None else part.rows(self._kept)

    @property
    def recipes(self) -> tuple[RecipeRecord, ...]:
        """How the samples were made."""
        return (self.manifest.plan.recipe,)

    @property
    def object_classes(self) -> tuple[str, ...]:
        """Names of the classes of objects; empty where none are kept."""
        return tuple((self.manifest.plan.objects or {"classes": ()})["classes"])

    @property
    def missing(self) -> int:
        """How many samples were rejected: those that are not read, and those left out when the folder was written."""
        return self.rejected + len(self.manifest.left_out)

    @property
    def counts(self) -> list[int]:
        """Samples of each of the split's shards."""
        return [int(count) for count in np.diff(self._starts)]

    def _start(self) -> None:
        self._checked = np.full(len(self), not self._check)
        self._reset()
        on_fork(self._reset)

    def _reset(self) -> None:
        self._held = _Held(self.folder)
        self._files: dict[int, _File] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        kept = {
            name: value for name, value in self.__dict__.items() if name not in ("_files", "_lock", "_checked", "_held")
        }
        return {**kept, "index": None} if self._mapped else kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._mapped:  # entries were checked where this reader was created
            assert isinstance(self.folder, Path)
            if digest_file(self.folder / INDEX) != self.manifest.files[INDEX]["sha256"]:
                raise ShardError(f"{self.folder} has changed since it was opened; open it again")
            self.index = self._entries(index.map_file(self.folder / INDEX))
        self._start()

    def __len__(self) -> int:
        return self._starts[-1]

    def key(self, number: int) -> str:
        """``__key__`` of a sample."""
        self._shard(number)
        return tar.sample_key(self.split, int(self.index.seed[number]), int(self.index.copy[number]))

    def index_of(self, key: str) -> int:
        """Position of a sample by its ``__key__``; raises KeyError."""
        split, seed, copy = tar.parse_key(key) or ("", 0, 0)
        numbers = np.flatnonzero((self.index.seed == seed) & (self.index.copy == copy))
        if split != self.split or not len(numbers):
            raise KeyError(key)
        return int(numbers[0])

    def is_synthetic(self, number: int) -> bool:
        """Whether a sample is synthetic."""
        self._shard(number)
        return bool(self.index.synthetic[number])

    def copies_of(self, seed_index: int) -> list[int]:
        """Positions of a seed's imagined copies, in order of copy."""
        numbers = np.flatnonzero((self.index.seed == seed_index) & (self.index.copy > 0))
        return [int(number) for number in numbers[np.argsort(self.index.copy[numbers])]]

    def original_of(self, seed_index: int) -> list[int]:
        """Position of a seed itself if it is stored: a list of one or none."""
        return [int(number) for number in np.flatnonzero((self.index.seed == seed_index) & (self.index.copy == 0))]

    def expansion_counts(self) -> dict[int, int]:
        """How many seeds have how many imagined copies (Figure 9), by number of copies."""
        copies = np.unique(self.index.seed[self.index.copy > 0], return_counts=True)[1]
        counts = dict(zip(*(part.tolist() for part in np.unique(copies, return_counts=True)), strict=True))
        without = self.manifest.plan.seeds - len(copies)
        return {0: without, **counts} if without > 0 else counts

    def label(self, number: int) -> int:
        """Class index of a sample."""
        self._shard(number)
        return int(self.index.label[number])

    def image_bytes(self, number: int) -> bytes:
        """The stored image file of a sample; raises ShardError where it is checked and not the one of its record."""
        index, shard = self.index, self._shard(number)
        image = self._read(number, index.image_offset, index.image_size, IMAGE_SUFFIXES[index.suffix[number]])
        if not self._checked[number]:
            record = self._file(shard).read(int(index.record_size[number]), int(index.record_offset[number]))
            if not tar.names_image(record, image):
                raise ShardError(
                    f"the image of {self.key(number)} differs from its digest; run: gif-datasets verify {self.folder}"
                )
            self._checked[number] = True
        return image

    def provenance(self, number: int) -> Provenance:
        """The provenance of a sample."""
        return tar.read_record(self.record(number), self.key(number))

    def record(self, number: int) -> bytes:
        """The provenance of a sample as it is stored, ``KEY.json``."""
        return self._read(number, self.index.record_offset, self.index.record_size, "json")

    def _shard(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of {len(self)} samples")
        return bisect_right(self._starts, number) - 1

    def _read(self, number: int, offsets: Any, sizes: Any, suffix: str) -> bytes:
        """A member's content. Its header is checked, so that a shard replaced since then is noticed."""
        shard = self._shard(number)
        name = f"{self.key(number)}.{suffix}"
        size = int(sizes[number])
        header, content = self._file(shard).member(size, int(offsets[number]))
        if len(content) != size or header != ustar.header(name, size):
            raise ShardError(
                f"{self._shards[shard].name} does not hold {name} where the index says;"
                f" run: gif-datasets verify {self.folder}"
            )
        return content

    def _file(self, shard: int) -> _File:
        file = self._files.get(shard)
        if file is None:
            with self._lock:
                while len(self._files) >= MOST_OPEN:
                    self._files.pop(next(iter(self._files)), None)
                file = self._files[shard] = _File(self.folder / self._shards[shard].name)
        return file


class _Held:
    """Keeps the shards of a folder from being removed, until nothing refers to it any more."""

    __slots__ = ("_descriptor",)

    def __init__(self, folder: AnyPath | ExpandedFolder) -> None:
        path = folder.path if isinstance(folder, ExpandedFolder) else folder
        self._descriptor = atomic.lock(path / "data", shared=True) if isinstance(path, Path) else -1

    def __del__(self, unlock: Callable[[int], None] = atomic.unlock) -> None:
        unlock(self._descriptor)


class _File:
    """An open file; it is closed when no thread uses it any more."""

    __slots__ = ("_number", "_remote")

    def __init__(self, path: AnyPath) -> None:
        self._number, self._remote = -1, path if isinstance(path, RemotePath) else None
        if isinstance(path, RemotePath):
            return
        try:
            self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise ShardError(f"cannot read shard {path.name}: {error.strerror}") from error

    def read(self, size: int, offset: int) -> bytes:
        if self._remote is not None:
            return self._remote.read_range(offset, offset + size)
        return os.pread(self._number, size, offset)

    def member(self, size: int, offset: int) -> tuple[bytes, bytes]:
        """The header before a content, and the content: in a store by one request, here without a copy of it."""
        if self._remote is not None:
            block = self.read(BLOCK + size, offset - BLOCK)
            return block[:BLOCK], block[BLOCK:]
        return self.read(BLOCK, offset - BLOCK), self.read(size, offset)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound here, because modules are gone at exit
        if self._number >= 0:
            close(self._number)


def _open_index(folder: AnyPath, manifest: Manifest) -> tuple[Index, bool]:
    """The index of all splits, and whether it is mapped from its file; built from the tars if the file is missing."""
    listed, path = manifest.shards, folder / INDEX
    entry = manifest.files.get(INDEX)
    wanted = entry.get("sha256") if isinstance(entry, dict) else None
    mapped = False
    if isinstance(path, RemotePath):
        content = path.read_bytes() if path.is_file() else b""
        known = hashlib.sha256(content).hexdigest() == wanted
        entries = index.from_bytes(content, path) if known else tar.build_index(folder, listed)
    elif wanted and path.is_file() and digest_file(path) == wanted:
        entries, mapped = index.map_file(path), True
    else:
        entries = tar.build_index(folder, listed)
        content = index.to_bytes(entries)
        if wanted and hashlib.sha256(content).hexdigest() != wanted:
            raise ShardError(f"the shards in {folder} do not match its index; run: gif-datasets verify {folder}")
        if wanted:
            with contextlib.suppress(OSError):  # a folder that cannot be written can still be read
                atomic.write_bytes(path, content)
                entries, mapped = index.map_file(path), True
    sizes, samples = [shard.bytes for shard in listed], [shard.samples for shard in listed]
    index.check(entries, samples, sizes, len(manifest.classes))
    return entries, mapped


def _part(manifest: Manifest, split: str) -> tuple[int, int]:
    """First entry of a split in the index, and the one after its last."""
    listed = manifest.shards
    numbers = [number for number, shard in enumerate(listed) if split_of(shard.name) == split]
    first, last = (numbers[0], numbers[-1] + 1) if numbers else (0, 0)
    if len(numbers) != last - first:
        raise ShardError(f"damaged manifest: other shards are listed among those of split {split!r}")
    start = sum(shard.samples for shard in listed[:first])
    return start, start + sum(shard.samples for shard in listed[first:last])


def _check_size(folder: AnyPath, shard: Shard, size: int | None) -> None:
    if size is None:
        raise ShardError(f"missing shard {shard.name}; run: gif-datasets verify {folder}")
    if size != shard.bytes:
        why = ""
        try:
            tar.build_index(folder, [shard])
        except ShardError as error:
            why = f" ({error})"
        raise ShardError(
            f"{shard.name} has {size} bytes, should have {shard.bytes}{why}; run: gif-datasets verify {folder}"
        )
