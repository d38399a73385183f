"""Work that threads do while their caller goes on: decoding, encoding, hashing, files.

One pool a process, a thread a core. Such work lets other threads run, calls no model, and never waits for other such
work, so the pool cannot come to a halt.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from gif_datasets.io.devices import usable_cpus
from gif_datasets.io.forks import on_fork

Item = TypeVar("Item")
Result = TypeVar("Result")


class Jobs:
    """Work in threads, of which at most so many pieces are not done; an error is raised where a piece is waited for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pending: deque[Future[Any]] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether the next piece waits for the oldest."""
        return len(self._pending) >= self._most

    def start(self, function: Callable[..., Result], *given: Any) -> Future[Result]:
        """Start a piece, as soon as there is room for it."""
        while self.full:
            self.oldest()
        future = submit(function, *given)
        self._pending.append(future)
        return future

    def oldest(self) -> Any:
        """The result of the piece that was started first."""
        return self._pending.popleft().result()

    def finish(self) -> None:
        """Wait for all."""
        while self._pending:
            self.oldest()

    def let_finish(self) -> None:
        """Wait for all, whatever becomes of them."""
        wait(self._pending)

    def stop(self) -> None:
        """Leave out what has not begun, and wait for the rest."""
        for future in self._pending:
            future.cancel()
        self.let_finish()
        self._pending.clear()


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], most: int | None = None) -> Iterator[Result]:
    """``map(function, items)`` by threads, in order; ``items`` itself is read by the caller's thread.

    Where ``items`` fails, what was started before is finished; where the caller stops, what has not begun is left out.

    Args:
        function: What each thread calls.
        items: What to call it with.
        most: How many pieces are not done while the next item is read; None: two for each thread.

    Example:
        >>> list(ordered_map(len, ["a", "", "abc"], most=2))
        [1, 0, 3]
    """
    jobs = Jobs(most or 2 * threads())
    try:
        for item in items:
            if jobs.full:
                yield jobs.oldest()
            jobs.start(function, item)
        while jobs:
            yield jobs.oldest()
    except Exception:
        jobs.let_finish()
        raise
    finally:
        jobs.stop()


def threads() -> int:
    """Threads of the pool: one a core, and one that may wait for a disk."""
    return usable_cpus() + 1


def submit(function: Callable[..., Result], *given: Any) -> Future[Result]:
    """Start a piece of work."""
    global _pool
    with _guard:
        _pool = _pool or ThreadPoolExecutor(threads(), "gif_datasets")
        return _pool.submit(function, *given)


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _pool, _guard
    _pool, _guard = None, threading.Lock()


_pool: ThreadPoolExecutor | None = None
_guard = threading.Lock()
on_fork(_forget)
