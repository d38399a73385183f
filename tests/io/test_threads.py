"""Work in threads: in order, bounded, nothing lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from gif_datasets.io.threads import Jobs, ordered_map


def test_results_come_in_order_and_items_are_read_one_ahead_of_those_that_are_not_done() -> None:
    """The caller's thread reads the items, at most so many before the first result; functions run elsewhere."""
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(6):
            read.append(number)
            yield number

    def work(number: int) -> tuple[int, bool]:
        return number, threading.current_thread() is threading.main_thread()

    results = ordered_map(work, items(), most=2)
    assert next(results) == (0, False)
    assert read == [0, 1, 2]
    assert list(results) == [(number, False) for number in range(1, 6)]


def test_the_next_item_is_read_while_the_last_one_is_worked_on() -> None:
    """With one piece at a time, too."""
    reading = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        reading.set()
        yield 1

    assert list(ordered_map(lambda number: reading.wait(30) and number, items(), most=1)) == [0, 1]


def test_what_began_is_finished_where_the_items_fail_and_left_out_where_the_caller_stops() -> None:
    """The first error is raised, of the items or of the work."""
    done: list[int] = []

    def failing() -> Iterator[int]:
        yield from range(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(ordered_map(done.append, failing(), most=8))
    assert sorted(done) == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda number: 1 // number, [1, 0, 1], most=8))

    go, ended, jobs = threading.Event(), list[int](), Jobs(100)
    for number in range(100):
        jobs.start(lambda number=number: (go.wait(30), ended.append(number)))
    threading.Timer(0.05, go.set).start()
    jobs.stop()
    assert 0 < len(ended) < 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """Its parent's are not there."""
    assert list(ordered_map(abs, [-1])) == [1]
    child = os.fork()
    if not child:
        os._exit(0 if list(ordered_map(abs, [-2])) == [2] else 1)
    assert os.waitpid(child, 0)[1] == 0
