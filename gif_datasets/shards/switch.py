"""How a finished folder becomes another one: built beside it, made its next state by one rename, put into place.

``.building`` is a whole folder; shards that stay are second names of the same files. Renamed to ``.next``, it is the
folder's state from that moment on: whoever opens the folder puts its files into place first, and whoever is killed
meanwhile leaves the rest to the next one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from gif_datasets.errors import ShardError, UsageError
from gif_datasets.io import atomic

MANIFEST = "manifest.json"
"""Says which state a folder has: the last file that is written."""
PREVIEW, REJECTED = "preview.png", "rejected.json"
"""Files that a state may lack."""
ADDED, BUILDING = ".added", ".building"
"""Folders in a folder: shards of new seeds, and the next state, both while they are made."""
_NEXT, _OLD = ".next", ".old"


def settle(folder: Path) -> None:
    """Put the next state of a folder into place, if it has one.

    Raises:
        ShardError: If the folder cannot be written.
    """
    if not (folder / _NEXT).is_dir():
        return
    with atomic.alone(folder):
        try:
            _put_in_place(folder)
        except OSError as error:
            raise ShardError(
                f"{folder} is between two generations, and cannot be written ({error.strerror or error}); open it once"
                " where it can"
            ) from error


def switch(folder: Path) -> None:
    """Make what was built the state of a folder; the caller has :func:`changing`."""
    (folder / BUILDING).rename(folder / _NEXT)
    _put_in_place(folder)


def tidy(folder: Path) -> None:
    """Remove what was built and not used; the caller has :func:`changing`."""
    for name in (ADDED, BUILDING, _OLD):
        shutil.rmtree(folder / name, ignore_errors=True)


def clear(folder: Path) -> None:
    """Make an empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


@contextlib.contextmanager
def working(folder: Path) -> Iterator[None]:
    """Add shards beside those of a folder; others may do so at the same time, and nobody changes it meanwhile.

    Raises:
        UsageError: If somebody is changing the folder.
    """
    with _locked(folder, "is being changed", shared=True):
        yield


@contextlib.contextmanager
def changing(folder: Path, wait: bool = False, shards: bool = True) -> Iterator[None]:
    """Change a folder, alone.

    Args:
        folder: The folder.
        wait: Wait for those that add shards.
        shards: Whether shards will be removed, which nobody may be reading.

    Raises:
        UsageError: If somebody is changing or reading the folder.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(folder, "is being changed", wait=wait))
        if shards:
            stack.enter_context(_locked(folder / "data", "is being read"))
        yield


def check_unread(folder: Path) -> None:
    """Raise UsageError if somebody is reading the shards of a folder."""
    with _locked(folder / "data", "is being read"):
        pass


@contextlib.contextmanager
def _locked(path: Path, state: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    try:
        descriptor = atomic.lock(path, shared, wait)
    except BlockingIOError:
        folder = path.parent if path.name == "data" else path
        raise UsageError(
            f"{folder} {state} by another process, or by an object of this one; nothing was changed: try again when"
            " that has ended"
        ) from None
    try:
        yield
    finally:
        atomic.unlock(descriptor)


def _put_in_place(folder: Path) -> None:
    """Give each file of the next state its place, remove what it lacks, and write the manifest at the end.

    The next state keeps its files until then, so that this can be done again from the start.
    """
    following = folder / _NEXT
    if not following.is_dir():  # somebody else has done it
        return
    names = {path.relative_to(following) for path in following.rglob("*") if path.is_file()}
    shutil.rmtree(folder / ".state", ignore_errors=True)  # of the plan before
    for name in sorted(names - {Path(MANIFEST)}):
        atomic.link_or_copy(following / name, folder / name)
    half_written = (place.glob(f"{atomic.TEMPORARY}*") for place in (folder, folder / "data"))
    for path in (folder / PREVIEW, folder / REJECTED, *(folder / "data").glob("*.tar"), *chain(*half_written)):
        if path.relative_to(folder) not in names:
            path.unlink(missing_ok=True)
    atomic.link_or_copy(following / MANIFEST, folder / MANIFEST)
    shutil.rmtree(folder / _OLD, ignore_errors=True)
    following.rename(folder / _OLD)
    tidy(folder)
