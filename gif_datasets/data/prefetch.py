"""Results of threads that work some items ahead, in order."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(items: Iterable[Item], work: Callable[[Item], Result], threads: int, depth: int) -> Iterator[Result]:
    """Yield ``work(item)`` in order, computed by threads up to ``depth`` items ahead.

    An error is raised where its result would have come. When the consumer stops, pending work is cancelled.

    Example:
        >>> list(prefetch(range(5), lambda n: n * n, threads=2, depth=3))
        [0, 1, 4, 9, 16]
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="gif_datasets")
    exiting = sys.is_finalizing  # a local name: at the interpreter's end this module has none any more
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # waits for running work: a fork that comes next must not find a thread at work
        if not exiting():  # then the threads have ended already
            pool.shutdown(wait=True, cancel_futures=True)
