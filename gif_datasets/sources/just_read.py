"""Images that listing has just decoded: who makes something of them next need not decode them again.

As far as there is room, each once, and only of files whose change would show (:mod:`gif_datasets.io.unchanged`).
"""

from __future__ import annotations

import threading
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gif_datasets.io.forks import on_fork
from gif_datasets.sources.known_files import Identity

MOST = 64 << 20  # bytes

Place: TypeAlias = "tuple[Identity, int | None]"
"""A file, and the longest side to which its image is reduced."""
Pixels: TypeAlias = NDArray[np.uint8]


class JustRead:
    """Pixels of images with their content keys; any number of threads may keep and take."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Free all."""
        self._kept: dict[Place, tuple[str, Pixels]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self, place: Place, key: str, pixels: Pixels) -> None:
        """Keep a copy of an image that has a content key, if there is room."""
        with self._lock:
            if self._bytes + pixels.nbytes > MOST or place in self._kept:
                return
            self._bytes += pixels.nbytes
            self._kept[place] = key, pixels.copy()

    def take(self, place: Place, key: str) -> Pixels | None:
        """An image of a content key, and no longer kept; None if it is not there."""
        with self._lock:
            found = self._kept.pop(place, None)
            if found is None:
                return None
            self._bytes -= found[1].nbytes
        return found[1] if found[0] == key else None

    def __bool__(self) -> bool:
        return bool(self._kept)


def _forget() -> None:
    """What a forked child's parent keeps is none of its business; nor is the lock."""
    JUST_READ.forget()


JUST_READ = JustRead()
"""Of the last listing of seeds in this process."""
on_fork(_forget)
