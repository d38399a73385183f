"""Files of the cache: what an entry's holds, and when it was last used, which is the file's time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gif_datasets.io.parsing import read_json

CACHE_FORMAT = 4
MARK_USE_AFTER = 3600.0  # seconds; a mark of use that is younger is not renewed, so most reads write nothing


@dataclass(frozen=True)
class Entry:
    """A file of the cache: an entry, or something else that lies there.

    Attributes:
        path: Where it is.
        bytes: Its size.
        used: When it was last used, nanoseconds since the epoch.
    """

    path: Path
    bytes: int
    used: int


def pack(key: str, record: Any, body: bytes) -> bytes:
    """The content of an entry's file."""
    rest = json.dumps(record, allow_nan=False).encode("ascii") + b"\n" + body
    return _head(key, rest) + b"\n" + rest


def unpack(key: str, content: bytes) -> tuple[bytes, bytes] | None:
    """Record and body of an entry; None unless it is what was stored under its name."""
    head, _, rest = content.partition(b"\n")
    if head != _head(key, rest):
        return None
    record, _, body = rest.partition(b"\n")
    return record, body


def _head(key: str, rest: bytes) -> bytes:
    """First line of an entry: its digest covers its name, and all that follows as it lies there."""
    hasher = hashlib.sha256(f"{key}\n".encode("ascii"))
    hasher.update(rest)
    return f'{{"format": {CACHE_FORMAT}, "sha256": "{hasher.hexdigest()}"}}'.encode("ascii")


def is_outdated(content: bytes) -> bool:
    """Whether an entry says that it is of another format version."""
    with contextlib.suppress(ValueError):
        header = read_json(content.partition(b"\n")[0])
        return isinstance(header, dict) and header.get("format") != CACHE_FORMAT
    return False


def read(path: str) -> tuple[bytes, float]:
    """A file's bytes and time of change, past Python's file objects, which take half as long again."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # which Windows has, and needs
    try:
        status = os.fstat(file)
        return os.read(file, status.st_size), status.st_mtime
    finally:
        os.close(file)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of an entry, whose body is left unread; None if it is gone, or has none."""
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        file.readline()
        record = read_json(file.readline())
        return record if isinstance(record, dict) else None
    return None


def mark_used(path: str, used: float) -> None:
    """Renew the mark of use, if it is old or of a clock that went wrong; a cache that is read-only goes without."""
    if abs(time.time() - used) > MARK_USE_AFTER:
        with contextlib.suppress(OSError):
            os.utime(path)


def drop(path: str) -> None:
    """Remove an entry that is of no use; where that is not allowed it is dropped at each read."""
    with contextlib.suppress(OSError):
        Path(path).unlink()


def listed(folder: Path) -> Iterator[Entry]:
    """What a folder holds; what vanishes meanwhile is left out."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as items:
        for item in items:
            with contextlib.suppress(FileNotFoundError):
                status = item.stat(follow_symlinks=False)
                yield Entry(Path(item.path), status.st_size, status.st_mtime_ns)


def remove_unused(entries: Iterable[Entry]) -> list[Entry]:
    """Remove files unless they were used since; returns those that were removed."""
    removed = []
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            if entry.path.lstat().st_mtime_ns == entry.used:
                entry.path.unlink()
                removed.append(entry)
    return removed
