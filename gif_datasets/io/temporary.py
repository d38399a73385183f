"""Folders in ``$TMPDIR`` that are removed with their process: at its end, or, if it was killed, by the next one.

A process holds a lock on a file in each of its folders, which ends with it, also in another container or as another
user's. Where a disk has no locks, what a killed process left stays.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

from gif_datasets.io import atomic
from gif_datasets.io.room import naming_full_disk
from gif_datasets.io.stores import AnyPath

PREFIX = "gif_datasets-"
HELD = f"{atomic.TEMPORARY}held"


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder of this process; its name is its path."""

    def __init__(self) -> None:
        super().__init__(prefix=PREFIX)
        held = os.open(Path(self.name) / HELD, os.O_RDWR | os.O_CREAT, 0o600)
        self._release = weakref.finalize(self, os.close, held)
        atomic.hold(held)
        _sweep()

    def cleanup(self) -> None:
        """Remove the folder."""
        self._release()
        super().cleanup()


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """A file on this machine: the file itself, or a temporary copy.

    Raises:
        OSError: If there is no such file.
    """
    if isinstance(path, Path):
        yield path
        return
    with TemporaryFolder() as folder:
        copy = Path(folder) / path.name
        with naming_full_disk(copy), path.open() as content, copy.open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
        yield copy


@functools.cache
def _sweep() -> None:
    """Remove folders of processes that are gone; once in a process."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            ours = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            if ours and (folder / HELD).is_file() and atomic.is_forgotten(folder / HELD):
                shutil.rmtree(folder, ignore_errors=True)
