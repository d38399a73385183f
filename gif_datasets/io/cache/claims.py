"""Claims: of several that want the same result, one computes it and the others wait.

A claim is a POSIX lock on one byte of one file; the key says which byte. The kernel, or the NFS server, keeps it: it
costs one system call and no file, knows no clock, and ends with its owner however that dies, so none is left behind.

A lost claim costs work, not correctness: what is computed twice has the same bytes. So where locks fail, anyone who
asks gets the claim; and an owner that lives but does not go on, or a host that an NFS server does not know to be dead,
is waited for no longer than ``PATIENCE``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from gif_datasets.io.forks import on_fork

PATIENCE = 900.0  # seconds without anything new, after which others' claims count as abandoned
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5  # seconds between two looks at what others do


@dataclass
class _LockFile:
    """An open lock file, and which of its bytes this process holds: POSIX locks do not part threads from each other."""

    identity: tuple[int, int]
    descriptor: int
    held: set[int] = field(default_factory=set)
    users: int = 0


# By device and inode, and open once: closing any descriptor of a file drops all locks that the process has on it.
_files: dict[tuple[int, int], _LockFile] = {}
_guard = threading.Lock()


@dataclass
class Claims:
    """The claims of one piece of work, by one thread; all are released at the end of its ``with``.

    No two may wait for each other: take what is free, make it, release it, and :meth:`wait` only for what is left. Who
    must wait in the midst of making, as samples do for the embeddings of all seeds, waits for what itself never waits.

    Args:
        path: The lock file; created if needed. Its content and age mean nothing.

    Raises:
        OSError: If the lock file cannot be opened for writing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "claims"
        ...     with Claims(path) as mine, Claims(path) as others:
        ...         taken = mine.take("c0ffee"), others.take("c0ffee")
        ...         mine.release("c0ffee")
        ...         taken, others.take("c0ffee")
        ((True, False), True)
    """

    path: Path
    _mine: set[int] = field(default_factory=set)
    _waited: float = 0.0
    _pause: float = FIRST_PAUSE

    def __post_init__(self) -> None:
        with _guard:
            self._file = _open(self.path)
            self._file.users += 1

    def take(self, key: str) -> bool:
        """Claim a key, or say that somebody else has it."""
        number = _byte(key)
        with _guard:
            if number not in self._file.held and _lock(self._file.descriptor, number):
                self._file.held.add(number)
                self._mine.add(number)
                return True
        return self._waited > PATIENCE

    def release(self, key: str) -> None:
        """Give a claim back; nothing happens where it is not held."""
        with _guard:
            self._release(_byte(key))

    def wait(self) -> None:
        """Sleep a little; longer each time, until :meth:`went_on`."""
        time.sleep(self._pause)
        self._waited += self._pause
        self._pause = min(1.5 * self._pause, LONGEST_PAUSE)

    def went_on(self) -> None:
        """Note that something came of the waiting."""
        self._waited, self._pause = 0.0, FIRST_PAUSE

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _guard:
            if _files.get(self._file.identity) is not self._file:  # a forked child's copy
                return
            for number in list(self._mine):
                self._release(number)
            self._file.users -= 1
            if not self._file.users:
                os.close(_files.pop(self._file.identity).descriptor)

    def _release(self, number: int) -> None:
        if number in self._mine:
            self._mine.remove(number)
            self._file.held.remove(number)
            _unlock(self._file.descriptor, number)


def _byte(key: str) -> int:
    """Where the lock of a hexadecimal key is: 60 bits, so two keys share one as good as never, and then only wait."""
    return int(key[:15], 16)


def _open(path: Path) -> _LockFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        known = _files.get(_identity(os.stat(path)))  # noqa: PTH116  as os.fstat
    except FileNotFoundError:
        known = None
    if known is None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        identity = _identity(os.fstat(descriptor))
        known = _files.setdefault(identity, _LockFile(identity, descriptor))
    return known


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


if sys.platform == "win32":

    def _lock(descriptor: int, number: int) -> bool:
        return True

    def _unlock(descriptor: int, number: int) -> None:
        pass

else:
    import fcntl

    def _lock(descriptor: int, number: int) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except BlockingIOError:  # what Linux, macOS and the BSDs say of a lock that is held
            return False
        except OSError:  # no locks here
            pass
        return True

    def _unlock(descriptor: int, number: int) -> None:
        with contextlib.suppress(OSError):  # as above; the lock ends with the process at the latest
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, number)


def _forget() -> None:
    """A forked child holds none of its parent's locks."""
    global _guard
    _guard = threading.Lock()
    for file in _files.values():
        os.close(file.descriptor)
    _files.clear()


on_fork(_forget)
