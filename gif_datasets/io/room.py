"""Room on disks: how much there is, and an error that says what did not fit where."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gif_datasets.errors import DiskFull
from gif_datasets.io.units import size_text

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quotas by that name
_WORDS = ("No space left", "os error 28")  # of libraries whose errors have no number


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or somebody's share of it, is full."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _FULL or (number is None and any(word in str(error) for word in _WORDS))


@contextlib.contextmanager
def naming_full_disk(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the error of a full disk into one that names file, disk and room.

    Args:
        path: What is written.
        needed: Its size in bytes, if known.

    Raises:
        DiskFull: If the disk is full.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if is_full(error):
            raise disk_full(path, needed, error) from error
        raise


def disk_full(path: Path, needed: int | None = None, error: Exception | None = None) -> DiskFull:
    """The error that says that a file does not fit."""
    mount = mount_of(path)
    usage, number = shutil.disk_usage(mount), getattr(error, "errno", None) or errno.ENOSPC
    room = f"{size_text(usage.free)} free of {size_text(usage.total)}"
    if _lacks_files(mount):
        room += ", but no room for another file (its inodes are used up)"
    size = "" if needed is None else f" ({size_text(needed)})"
    text = f"{os.strerror(number)}: {path}{size} does not fit on the file system at {mount}, which has {room}"
    return DiskFull(number, text, str(path))


def free_bytes(path: Path) -> int:
    """Room on the disk where a file is, or will be."""
    return shutil.disk_usage(nearest(path)).free


def mount_of(path: Path) -> Path:
    """Where the file system of a file is mounted; the file need not exist.

    Example:
        >>> mount_of(Path("/")) == Path("/").resolve()
        True
    """
    place = nearest(path)
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return place


def nearest(path: Path) -> Path:
    """The file, or the nearest folder above it that exists."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.resolve()


def _lacks_files(mount: Path) -> bool:
    if not hasattr(os, "statvfs"):  # Windows
        return False
    usage = os.statvfs(mount)
    return usage.f_files > 0 and usage.f_favail == 0
