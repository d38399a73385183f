"""A forked child starts with its own locks, and objects that are gone are not reset."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from gif_datasets.io import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


class Counter:
    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0
        forks.on_fork(self.reset)

    def reset(self) -> None:
        self.lock, self.count = threading.Lock(), self.count + 1


def in_child(check: object) -> int:
    """Exit status of a forked child that calls ``check``."""
    child = os.fork()
    if not child:
        os._exit(0 if check() else 1)  # type: ignore[operator]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_resets_functions_and_methods() -> None:
    counter, calls = Counter(), []
    forks.on_fork(lambda: calls.append(1))
    with counter.lock:
        assert in_child(lambda: counter.lock.acquire(timeout=1) and counter.count == 1 and calls == [1]) == 0
    assert (counter.count, calls) == (0, [])


def test_an_object_that_is_gone_is_forgotten() -> None:
    gc.collect()  # what other tests left behind
    known = len(forks._resets)
    counters = [Counter() for _ in range(3)]
    assert len(forks._resets) == known + 3
    del counters[1]
    gc.collect()
    assert len(forks._resets) == known + 2
    assert in_child(lambda: [counter.count for counter in counters] == [1, 1]) == 0
