"""Content-addressed store of imagined samples.

One file an entry, ``ab/abcdef....sample``: a line of JSON (format, digest, provenance) and the picture's
bytes. An entry is named by the digest of everything that decides its pixels, so it is never out of date, and is checked
against its own digest when read; a damaged one is dropped and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gif_datasets import atomic
from gif_datasets.errors import CacheError
from gif_datasets.fingerprint import canonical_json
from gif_datasets.types import Provenance, Sample

if TYPE_CHECKING:
    from torch import Tensor

CACHE_FORMAT = 2
STALE_AFTER = 3600.0  # seconds; a younger temporary file may still be written to
ENVIRONMENT = "GIF_DATASETS_CACHE"


def default_folder() -> Path:
    """``$GIF_DATASETS_CACHE``, or ``gif_datasets`` in the user's cache folder."""
    if chosen := os.environ.get(ENVIRONMENT):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gif_datasets"


@dataclass(frozen=True)
class Cache:
    """A cache folder; made when first written to. Safe to share between processes on one file system."""

    folder: Path

    def get(self, key: str) -> Sample | None:
        """Return the entry, or None when there is none or it is damaged (then it is removed)."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"cannot read the cache: {error}; choose another folder with --cache-dir") from error
        head, _, image = content.partition(b"\n")
        try:
            header = json.loads(head)
            sample = Sample(image, Provenance.from_json(header["provenance"]))
            if header["format"] == CACHE_FORMAT and header["sha256"] == _digest(sample):
                return sample
        except (ValueError, KeyError, TypeError):
            pass
        path.unlink(missing_ok=True)
        return None

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def put(self, key: str, sample: Sample) -> None:
        """Store an entry; a second writer of the same key replaces it by the same bytes."""
        header = {
            "format": CACHE_FORMAT,
            "sha256": _digest(sample),
            "provenance": sample.provenance.to_json(),
        }
        self._write(self._path(key), json.dumps(header).encode("ascii") + b"\n" + sample.image)

    def tensors(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return tensors from the store, or make and store them; a damaged file is made again."""
        from safetensors import SafetensorError
        from safetensors.torch import load, save

        path = self.folder / key[:2] / f"{key}.safetensors"
        try:
            found: dict[str, Tensor] = load(path.read_bytes())
        except (OSError, SafetensorError):
            found = make()
            self._write(path, save({name: tensor.contiguous() for name, tensor in found.items()}))
        return found

    def stats(self) -> dict[str, int]:
        """Number of entries and their bytes."""
        sizes = [path.stat().st_size for path in self.folder.glob("*/*.sample")]
        return {"entries": len(sizes), "bytes": sum(sizes)}

    def clear(self) -> int:
        """Remove all entries; returns how many."""
        removed = 0
        for folder in self.folder.glob("??"):
            atomic.sweep(folder, older_than=time.time() - STALE_AFTER)
        for path in self.folder.glob("*/*.safetensors"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob("*/*.sample"):
            path.unlink(missing_ok=True)
            removed += 1
        return removed

    def _write(self, path: Path, content: bytes) -> None:
        try:
            atomic.write_bytes(path, content)
        except OSError as error:
            raise CacheError(
                f"cannot write to the cache in {self.folder}: {error.strerror or error};"
                f" free room, or choose another folder with --cache-dir or {ENVIRONMENT}"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.sample"


def _digest(sample: Sample) -> str:
    """Digest of record and picture together."""
    record = canonical_json(sample.provenance.to_json()).encode("ascii")
    return hashlib.sha256(record + b"\n" + sample.image).hexdigest()
