"""Content-addressed store of imagined samples.

One file an entry, ``ab/abcdef....sample``: a line of JSON with format and digest, one with the provenance, and the
image's bytes. An entry is named by the digest of everything that decides its pixels, so it is never out of date, and
is checked against its digest when read; a damaged one is dropped and computed again. A file's time of change is when it
was last used.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gif_datasets.errors import CacheError
from gif_datasets.io import atomic
from gif_datasets.io.cache.claims import Claims
from gif_datasets.io.cache.entries import (
    Entry,
    drop,
    is_outdated,
    listed,
    mark_used,
    pack,
    read,
    read_record,
    remove_unused,
    unpack,
)
from gif_datasets.io.cache.sharing import Keep, share
from gif_datasets.io.parsing import read_json
from gif_datasets.io.units import parse_size
from gif_datasets.types import Provenance, Sample

if TYPE_CHECKING:
    from torch import Tensor

LOOKS_PER_LIMIT = 20  # how often the bound is checked while as many bytes are written as it allows
PRUNE_TO = 0.9  # of the bound, so that not every check prunes
ENVIRONMENT = "GIF_DATASETS_CACHE"
LIMIT_ENVIRONMENT = "GIF_DATASETS_CACHE_LIMIT"
CLAIMS = "claims"
_SAMPLE, _TENSORS = ".sample", ".tensors"
_OWN_FOLDER = re.compile(r"[0-9a-f]{2}")
_ENTRY_NAME = re.compile(r"([0-9a-f]{2})[0-9a-f]*(\.sample|\.tensors)")


def open_cache(folder: str | Path | None = None) -> Cache:
    """The cache in ``folder``, or in ``$GIF_DATASETS_CACHE``, or in the user's cache folder; bound by
    ``$GIF_DATASETS_CACHE_LIMIT``.

    Raises:
        ConfigError: If the bound is not a size.
    """
    limit = os.environ.get(LIMIT_ENVIRONMENT)
    return Cache(Path(folder or default_folder()), parse_size(limit, LIMIT_ENVIRONMENT) if limit else None)


def default_folder() -> Path:
    """``$GIF_DATASETS_CACHE``, or ``gif_datasets`` in the user's cache folder."""
    if chosen := os.environ.get(ENVIRONMENT):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gif_datasets"


def is_cache(folder: Path) -> bool:
    """Whether a folder is a cache: it has what a cache has, and nothing else."""
    if not (folder / CLAIMS).is_file():
        return False
    names = (entry.path.name for entry in listed(folder))
    return all(name == CLAIMS or _OWN_FOLDER.fullmatch(name) for name in names)


@dataclass(frozen=True)
class Audit:
    """What :meth:`Cache.verify` found; names are relative to the cache's folder.

    Attributes:
        entries: Whole entries.
        bytes: Their size.
        made_by: Number of whole samples by ``method, prior``.
        damaged: Entries that do not agree with their digest or name.
        outdated: Entries of another format version; computed again when asked for.
        temporary: Temporary files that nobody writes to any more.
        foreign: Files that the cache did not write; never removed.
    """

    entries: int
    bytes: int
    made_by: dict[str, int]
    damaged: tuple[str, ...]
    outdated: tuple[str, ...]
    temporary: tuple[str, ...]
    foreign: tuple[str, ...]


@dataclass(frozen=True)
class Cache:
    """A cache folder; created when first written to. Safe to share between threads, processes and hosts.

    Attributes:
        folder: Where it is.
        limit: About how many bytes it may hold; above them, what was not used for longest is removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = Cache(Path(folder), limit=parse_size("50GB"))
        ...     cache.get("c0ffee") is None, cache.stats()["entries"]
        (True, 0)
    """

    folder: Path
    limit: int | None = None

    def get(self, key: str) -> Sample | None:
        """Return the entry, or None when there is none or it is damaged (then it is removed)."""
        parts = self._read(key, _SAMPLE)
        if parts is not None:
            record, image = parts
            with contextlib.suppress(TypeError, ValueError):
                return Sample(image, Provenance.from_json(read_json(record)))
            drop(self._name(key, _SAMPLE))
        return None

    def picture(self, key: str) -> bytes | None:
        """Return the image of an entry, as :meth:`get` does; its record, which takes longer, is left unread."""
        parts = self._read(key, _SAMPLE)
        return None if parts is None else parts[1]

    def __contains__(self, key: str) -> bool:
        return self._path(key, _SAMPLE).exists()

    def renew(self, key: str) -> bool:
        """Whether there is an entry; if so it counts as used now, and is among the last to be pruned."""
        try:
            os.utime(self._name(key, _SAMPLE))
        except FileNotFoundError:
            return False
        except PermissionError:  # of another user; a read-only cache prunes nothing
            return key in self
        return True

    def put(self, key: str, sample: Sample) -> None:
        """Store an entry; a second writer of the same key replaces it by the same bytes."""
        self._write(key, _SAMPLE, sample.provenance.to_json(), sample.image)

    def tensors(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return tensors from the store, or make and store them; what somebody else is making is waited for."""
        return self.all_tensors([key], 1, lambda _: [make()])[key]

    def all_tensors(
        self,
        keys: Sequence[str],
        block: int,
        make: Callable[[list[str]], Iterable[dict[str, Tensor]]],
        needless: Callable[[str], bool] | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of many keys from the store, or make and store them, a block at a time.

        Args:
            keys: Their keys.
            block: How many are made at once.
            make: Makes those of some keys.
            needless: Says of a key whether nobody needs it any more. If given, this is work done ahead: what is
                needless, or what somebody else is making, is left out; without, it is made or waited for.
        """

        def read(key: str) -> dict[str, Tensor] | None:
            return self.stored_tensors(key) or ({} if needless and needless(key) else None)

        def make_blocks(blocks: Iterator[list[str]], keep: Keep[dict[str, Tensor]]) -> None:
            for part in blocks:
                for key, tensors in zip(part, make(part), strict=True):
                    keep(key, tensors)

        known = {key: tensors for key in keys if (tensors := read(key)) is not None}
        if missing := [key for key in keys if key not in known]:
            known |= share(self.claims(), missing, block, read, self.store_tensors, make_blocks, needless is None)
        return {key: tensors for key, tensors in known.items() if tensors}

    def drop_tensors(self, keys: Iterable[str]) -> None:
        """Remove tensors that nobody needs any more; those that are not there are no error."""
        for key in keys:
            drop(self._name(key, _TENSORS))

    def drop_seeds(self, keys: Container[str], images: Container[str] = ()) -> tuple[set[str], int]:
        """Remove all samples of some seeds, those that show a part of one, and those that do not say what they show.

        Args:
            keys: Content keys of the seeds.
            images: SHA-256 of further image files.

        Returns:
            The recipes that made what was removed, and how many samples these were.

        Raises:
            CacheError: If one cannot be removed.
        """
        recipes, removed = set[str](), 0
        for entry in self._entries():
            if entry.path.suffix != _SAMPLE:
                continue
            record = read_record(entry.path)
            if record is not None and not _shows(record, keys, images):
                continue
            try:
                entry.path.unlink(missing_ok=True)
            except OSError as error:
                raise self._cannot_write(error) from error
            if record is not None:
                recipes.add(str(record.get("recipe")))
                removed += 1
        self._sweep()
        return recipes, removed

    def samples(self) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        """Name, record and image of every sample whose record can be read; what vanishes meanwhile is left out."""
        for entry in self._entries():
            record = read_record(entry.path) if entry.path.suffix == _SAMPLE else None
            if record is not None:
                with contextlib.suppress(FileNotFoundError):
                    image = entry.path.read_bytes().split(b"\n", 2)[2]
                    yield entry.path.relative_to(self.folder).as_posix(), record, image

    def stored_tensors(self, key: str) -> dict[str, Tensor] | None:
        """Return tensors from the store, or None when they are not there or damaged."""
        from safetensors.torch import load

        parts = self._read(key, _TENSORS)
        return None if parts is None else dict(load(parts[1]))

    def store_tensors(self, key: str, tensors: dict[str, Tensor], kind: str = "") -> None:
        """Store tensors; what was there is replaced. Those of a kind are found again by :meth:`of_kind`."""
        from safetensors.torch import save

        body = save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()})
        self._write(key, _TENSORS, {"kind": kind} if kind else None, body)

    def of_kind(self, kind: str) -> list[str]:
        """Keys of all tensors that were stored with a kind."""
        paths = (entry.path for entry in self._entries() if entry.path.suffix == _TENSORS)
        return [path.stem for path in paths if (read_record(path) or {}).get("kind") == kind]

    def claims(self) -> Claims:
        """Claims on entries that are to be computed; see :class:`~gif_datasets.io.cache.claims.Claims`."""
        try:
            return Claims(self.folder / CLAIMS)
        except OSError as error:
            raise self._cannot_write(error) from error

    def stats(self) -> dict[str, Any]:
        """Number of samples, bytes of all entries, the bound, and the oldest and newest last use of an entry."""
        entries = list(self._entries())
        used = sorted(entry.used for entry in entries)
        return {
            "entries": sum(entry.path.suffix == _SAMPLE for entry in entries),
            "bytes": sum(entry.bytes for entry in entries),
            "limit": self.limit,
            "oldest_use": _date(used[0]) if used else None,
            "newest_use": _date(used[-1]) if used else None,
        }

    def clear(self) -> int:
        """Remove all entries; returns how many samples."""
        removed = remove_unused(self._entries())
        self._sweep()
        return sum(entry.path.suffix == _SAMPLE for entry in removed)

    def prune(self, max_bytes: int | None = None, unused_for: float | None = None) -> list[Entry]:
        """Remove what was not used for ``unused_for`` seconds, then what was not used for longest.

        Safe at any time: who reads an entry has it in memory, and who wants a removed one makes it again.

        Args:
            max_bytes: How much may stay.
            unused_for: How old a use may be.

        Returns:
            What was removed.
        """
        entries = sorted(self._entries(), key=lambda entry: (entry.used, entry.path))
        oldest = -1 if unused_for is None else time.time_ns() - int(unused_for * 1e9)
        excess = 0 if max_bytes is None else sum(entry.bytes for entry in entries) - max_bytes
        victims = []
        for entry in entries:
            if entry.used >= oldest and excess <= 0:
                break
            victims.append(entry)
            excess -= entry.bytes
        self._sweep()
        return remove_unused(victims)

    def verify(self, remove: bool = False) -> Audit:
        """Check every entry against its digest and name.

        Args:
            remove: Drop what is damaged, outdated or a forgotten temporary file.
        """
        by_kind: dict[str, list[Entry]] = {
            kind: [] for kind in ("whole", "damaged", "outdated", "temporary", "foreign")
        }
        made_by: Counter[str] = Counter()
        for entry in self._files():
            kind, maker = self._judge(entry)
            by_kind.get(kind, []).append(entry)
            made_by.update([maker] if maker else [])
        if remove:
            remove_unused(entry for kind in ("damaged", "outdated", "temporary") for entry in by_kind[kind])
        names = {
            kind: tuple(sorted(entry.path.relative_to(self.folder).as_posix() for entry in entries))
            for kind, entries in by_kind.items()
        }
        whole = by_kind["whole"]
        del names["whole"]
        return Audit(len(whole), sum(entry.bytes for entry in whole), dict(sorted(made_by.items())), **names)

    def _judge(self, entry: Entry) -> tuple[str, str]:
        """What a file is, and the maker of a whole sample; ``("", "")`` for what needs no mention."""
        if entry.path == self.folder / CLAIMS:
            return "", ""
        if entry.path.name.startswith(atomic.TEMPORARY):
            return ("temporary" if atomic.is_forgotten(entry.path) else ""), ""
        if not self._is_entry(entry.path):
            return "foreign", ""
        try:
            content = entry.path.read_bytes()
        except FileNotFoundError:  # pruned meanwhile
            return "", ""
        parts = unpack(entry.path.stem, content)
        if parts is None:
            return ("outdated" if is_outdated(content) else "damaged"), ""
        if entry.path.suffix == _TENSORS:
            return "whole", ""
        try:
            record = Provenance.from_json(read_json(parts[0]))
        except (TypeError, ValueError):  # of a version with other fields
            return "outdated", ""
        return "whole", f"{record.method}, {record.prior}"

    def _read(self, key: str, suffix: str) -> tuple[bytes, bytes] | None:
        """Record and body of an entry, marked as used; None when there is none, or it is damaged and so removed."""
        path = self._name(key, suffix)
        try:
            content, used = read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"cannot read the cache: {error}; choose another folder with --cache-dir") from error
        parts = unpack(key, content)
        if parts is None:
            drop(path)
        else:
            mark_used(path, used)
        return parts

    def _write(self, key: str, suffix: str, record: Any, body: bytes) -> None:
        content = pack(key, record, body)
        try:
            atomic.write_bytes(self._path(key, suffix), content, synced=False)  # every read checks the digest
        except OSError as error:
            raise self._cannot_write(error) from error
        self._keep_within_limit(key, len(content))

    def _keep_within_limit(self, key: str, written: int) -> None:
        """Now and then, prune: on the whole once in ``limit / LOOKS_PER_LIMIT`` bytes, whichever process writes them.

        The key decides, which is as good as chance: so nothing is counted, in memory or on disk.
        """
        if self.limit is None or int(key[-8:], 16) * self.limit > written * LOOKS_PER_LIMIT * 16**8:
            return
        with contextlib.suppress(OSError):  # entries of another user may not be ours to remove
            if sum(entry.bytes for entry in self._entries()) > self.limit:
                self.prune(int(self.limit * PRUNE_TO))

    def _cannot_write(self, error: OSError) -> CacheError:
        return CacheError(
            f"cannot write to the cache in {self.folder}: {error.strerror or error};"
            f" free room, or choose another folder with --cache-dir or {ENVIRONMENT}, and run the same command again"
        )

    def _entries(self) -> Iterator[Entry]:
        return (file for file in self._files() if self._is_entry(file.path))

    def _files(self) -> Iterator[Entry]:
        """Everything in the folder and, one level down, in its sub-folders."""
        for top in listed(self.folder):
            yield from listed(top.path) if _OWN_FOLDER.fullmatch(top.path.name) else [top]

    def _is_entry(self, path: Path) -> bool:
        match = _ENTRY_NAME.fullmatch(path.name)
        return match is not None and path.parent == self.folder / match[1]

    def _sweep(self) -> None:
        for folder in self.folder.glob("??"):
            if _OWN_FOLDER.fullmatch(folder.name):
                atomic.sweep(folder)

    def _path(self, key: str, suffix: str) -> Path:
        return Path(self._name(key, suffix))

    def _name(self, key: str, suffix: str) -> str:
        return f"{self.folder}/{key[:2]}/{key}{suffix}"


def _shows(record: Mapping[str, Any], keys: Container[str], images: Container[str]) -> bool:
    """Whether a sample is of one of some seeds, shows a part of one, or has one of some images."""
    return record.get("seed_key") in keys or record.get("partner_key") in keys or record.get("image_sha256") in images


def _date(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, timezone.utc).isoformat()
