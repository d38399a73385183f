"""What listing a folder found, kept in the cache: files that have not changed since are not read again.

A file is the same while its path, size, inode and times of change are. Nothing is made by this alone: whoever uses a
seed reads its image, and compares it with its key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Container
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gif_datasets.errors import CacheError
from gif_datasets.io.cache.entries import CACHE_FORMAT
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.digests import digest
from gif_datasets.io.unchanged import is_settled, status_of

LEAST_BYTES = 1 << 20
"""Of the files; fewer are read again in no time."""
LISTING = "listing"
"""What the cache calls such an entry."""
KEYS = "listing 2"
"""How images are keyed: large ones by BLAKE3."""

Identity: TypeAlias = "tuple[int, int, int, int, int]"
"""Of a file: a digest of its path, its size, the times of change of content and of inode, and its inode."""
Facts: TypeAlias = "tuple[str, bool]"
"""Content key of an image, and whether it is grey."""


@dataclass
class KnownFiles:
    """The facts of files; those of before are read from the cache, and all are kept there.

    Attributes:
        cache: The cache; None keeps nothing.
        key: Of the folder, in the cache.
        started: When listing began, nanoseconds.
        found: What was found now.
    """

    cache: Cache | None
    key: str
    started: int
    found: dict[Identity, Facts] = field(default_factory=dict)
    _files: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 5), np.int64))
    _paths: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _keys: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 32), np.uint8))
    _grey: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))

    def of(self, identity: Identity | None) -> Facts | None:
        """The facts of a file; None unless it is known, and unchanged."""
        if identity is None:
            return None
        row = int(np.searchsorted(self._paths, identity[0]))
        if row == len(self._files) or tuple(self._files[row].tolist()) != identity:
            return None
        return self._keys[row].tobytes().hex(), bool(self._grey[row])

    def note(self, identity: Identity | None, facts: Facts) -> None:
        """Note the facts of a file, whose identity was taken before it was read."""
        if identity is not None and self.would_show(identity):
            self.found[identity] = facts

    def would_show(self, identity: Identity) -> bool:
        """Whether another identity would tell of any change of a file since listing began."""
        return is_settled(identity[1:], self.started)

    def keep(self, whole: bool) -> None:
        """Keep what was found; unless the listing is whole, also what was known of files that were not looked at."""
        if self.cache is None:
            return
        if not len(self._files) and sum(identity[1] for identity in self.found) < LEAST_BYTES:
            return
        if all(self.of(identity) is not None for identity in self.found) and len(self.found) == len(self._files):
            return
        import torch

        paths = {identity[0] for identity in self.found}
        before = [] if whole else [tuple(row) for row in self._files.tolist() if row[0] not in paths]
        rows = sorted([*self.found, *before])
        facts = [self.found.get(row) or self.of(row) for row in rows]
        tensors = {
            "files": torch.tensor(rows, dtype=torch.int64),
            "keys": torch.tensor([list(bytes.fromhex(key)) for key, _ in filter(None, facts)], dtype=torch.uint8),
            "grey": torch.tensor([grey for _, grey in filter(None, facts)], dtype=torch.bool),
        }
        with contextlib.suppress(CacheError):  # the next listing reads the files again
            self.cache.store_tensors(self.key, tensors, LISTING)


def known_files(source: Any, cache: Cache | None) -> KnownFiles:
    """What is known of the files of a source; nothing of one that is not a folder of files."""
    folder = getattr(source, "folder", None)
    if cache is None or folder is None or not hasattr(source, "entry"):
        return KnownFiles(None, "", 0)
    versions = [version(name) for name in ("pillow", "simplejpeg")]  # another decoder may round otherwise
    side = getattr(source, "max_side", None)
    reduced = side and f"{side}, of JPEG files decoded smaller"
    key = digest([CACHE_FORMAT, KEYS, os.fsencode(folder.resolve()).hex(), versions, reduced])
    known = KnownFiles(cache, key, time.time_ns())
    with contextlib.suppress(CacheError):
        if (tensors := cache.stored_tensors(key)) is not None:
            known._files, known._keys, known._grey = (tensors[name].numpy() for name in ("files", "keys", "grey"))
            known._paths = np.ascontiguousarray(known._files[:, 0])
    return known


def identity_of(source: Any, index: int) -> Identity | None:
    """The identity of a sample's file, if the source has files that may be known."""
    entry = getattr(source, "entry", None)
    if entry is None:
        return None
    try:
        path, status = entry(index)
    except OSError:
        return None
    name = int.from_bytes(hashlib.blake2b(path, digest_size=8).digest(), "big", signed=True)
    return name, *status_of(status)


def forget(cache: Cache, keys: Container[str]) -> None:
    """Remove what a cache keeps of every folder that has had an image of some content keys."""
    for name in cache.of_kind(LISTING):
        tensors = cache.stored_tensors(name)
        if tensors is not None and any(row.tobytes().hex() in keys for row in tensors["keys"].numpy()):
            cache.drop_tensors([name])
