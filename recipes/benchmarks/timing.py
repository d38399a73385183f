"""Wall-clock times, for the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable


def times(run: Callable[[], object], repeats: int, warm_up: bool = True) -> list[float]:
    """Seconds of several runs, after one that does not count where asked."""
    if warm_up:
        run()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return found
