"""Atomic files: written under a unique temporary name, flushed, renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from gif_datasets.errors import ConfigError
from gif_datasets.io.room import naming_full_disk
from gif_datasets.io.stores import AnyPath, RemotePath

TEMPORARY = ".tmp-"
SETTLED_AFTER = 10.0  # seconds; a younger temporary file may be between two steps of its writer
STALE_AFTER = 3600.0  # the same, where a disk has no locks that say who is writing


@contextlib.contextmanager
def atomic_write(path: Path, synced: bool = True, size: int | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; on success flush it to disk and rename it into place.

    A crash at any moment leaves either the old file or the new one, and at most a hidden temporary file, which
    :func:`sweep` removes. On an exception the temporary file is removed at once.

    Args:
        path: The file.
        synced: Whether the content must be on the disk before it has its name. Without, a power failure may leave
            a damaged file: for those only that are checked at every read and can be written again.
        size: How many bytes will be written, if known.

    Raises:
        DiskFull: If there is no room.
    """
    temporary = _beside(path)
    with naming_full_disk(path, size):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                hold(file)
                yield file
                file.flush()
                if synced:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _beside(path: Path) -> Path:
    """A new temporary name in a file's folder, which :func:`sweep` knows."""
    return path.parent / f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:12]}"


def write_bytes(path: AnyPath, content: bytes, synced: bool = True) -> None:
    """Write a file atomically; again, if somebody takes its temporary file for a forgotten one, or the folder."""
    if isinstance(path, RemotePath):
        path.write_bytes(content)
        return
    try:
        _write_bytes(path, content, synced)
    except FileNotFoundError:
        _write_bytes(path, content, synced)


def _write_bytes(path: Path, content: bytes, synced: bool) -> None:
    with atomic_write(path, synced, len(content)) as file:
        file.write(content)


def json_bytes(value: Any) -> bytes:
    """Readable JSON; the same value gives the same bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def write_json(path: AnyPath, value: Any) -> None:
    """Write readable JSON atomically."""
    write_bytes(path, json_bytes(value))


def create_json(path: AnyPath, value: Any) -> bool:
    """Write readable JSON unless the file exists; says whether it was written. Of two processes at once, one writes."""
    if isinstance(path, RemotePath):
        return path.create(json_bytes(value))
    ready = _beside(path)
    write_json(ready, value)
    try:
        os.link(ready, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        with alone(path.parent):
            if path.exists():
                return False
            write_json(path, value)
    finally:
        ready.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other thread or process is in such a block for the same file or folder, which may be read-only.

    For what is read, changed and written as a whole. Where the system or the disk has no locks, nobody waits.
    """
    descriptor = lock(path)
    try:
        yield
    finally:
        unlock(descriptor)


def lock(path: Path, shared: bool = False, wait: bool = True) -> int:
    """Lock a file or a folder, which may be read-only, against other threads and processes.

    Args:
        path: The file or folder.
        shared: Let others have it shared, too.
        wait: Wait until nobody else has it.

    Returns:
        What :func:`unlock` takes; the end of the process unlocks, too. -1 where the system or the disk has no locks.

    Raises:
        BlockingIOError: If somebody else has it, without ``wait``.
    """
    descriptor = -1
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        unlock(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return -1
    return descriptor


def unlock(descriptor: int, close: Callable[[int], None] = os.close) -> None:  # bound here: modules are gone at exit
    """End a :func:`lock`."""
    if descriptor >= 0:
        close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name atomically: a hard link where the file system can, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    linked = _beside(target)
    try:
        os.link(source, linked)
        linked.replace(target)
    except OSError:  # no hard links, or somebody took it for a forgotten file: it is as old as the source
        with source.open("rb") as content, atomic_write(target, size=source.stat().st_size) as file:
            shutil.copyfileobj(content, file, 1 << 20)
    finally:
        linked.unlink(missing_ok=True)  # renaming one name of a file over another of its names leaves both


def hold(file: IO[bytes] | int) -> None:
    """Keep a temporary file from :func:`sweep` in all processes, until it is closed or this process ends."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def is_forgotten(path: Path) -> bool:
    """Whether nobody writes to a temporary file any more: its process was killed."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:  # it is gone
        return False
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return age > STALE_AFTER
    return age > SETTLED_AFTER


def sweep(folder: AnyPath) -> None:
    """Remove forgotten temporary files; in a store there are none."""
    if isinstance(folder, RemotePath):
        return
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if is_forgotten(path):
                path.unlink()


def check_links(path: AnyPath) -> None:
    """Raise ConfigError if a path to write to, or a folder above it, is a link to something that does not exist."""
    for part in (path, *path.parents) if isinstance(path, Path) else ():
        if part.is_symlink() and not part.exists():
            raise ConfigError(
                f"cannot write to {path}: {part} is a link to {part.readlink()}, which does not exist;"
                " remove the link, or make that folder"
            )
