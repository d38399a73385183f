"""Memory that is lent for batches: never to two at once, and again when nobody looks at it any more."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gif_datasets.data.buffers import MOST, Buffers

SHAPES = ((4, 3), (3, 4), (5, 5))


@given(st.lists(st.tuples(st.sampled_from(SHAPES), st.booleans()), max_size=3 * MOST))
def test_what_is_held_is_not_lent_again(steps: list[tuple[tuple[int, int], bool]]) -> None:
    """Each tensor keeps what was written into it as long as it is held, however many come and go beside it."""
    buffers, held = Buffers(), list[tuple[int, torch.Tensor]]()
    for number, (shape, keep) in enumerate(steps):
        tensor = buffers.take(shape).fill_(number % 251)
        assert tensor.shape == shape
        if keep:
            held.append((number % 251, tensor))
        elif held:
            held.pop(0)
    assert all(bool((tensor == value).all()) for value, tensor in held)
    assert len(buffers._blocks) <= MOST


@pytest.mark.parametrize(
    "look", [lambda t: t[1:], lambda t: t.numpy(), lambda t: np.asarray(t)[0], lambda t: t.T.flatten(0)]
)
def test_a_view_keeps_the_memory(look) -> None:
    """Of torch or numpy; a copy does not."""
    buffers = Buffers()
    tensor = buffers.take((4, 3)).zero_()
    view, place = look(tensor), tensor.data_ptr()
    del tensor
    copied = not np.shares_memory(np.asarray(view), buffers._blocks[0].memory)
    assert (buffers.take((4, 3)).data_ptr() == place) == copied


def test_memory_of_another_size_gives_way() -> None:
    """Old sizes do not keep new ones out of the store."""
    buffers = Buffers()
    held = [buffers.take((7,)) for _ in range(MOST)]
    beyond = buffers.take((7,))
    assert len(buffers._blocks) == MOST
    assert beyond.shape == (7,)
    held.clear()
    place = buffers.take((9,)).data_ptr()
    assert buffers.take((9,)).data_ptr() == place


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_lends_its_own() -> None:
    """Also where the parent forks while another of its threads is taking."""
    buffers, forked, done = Buffers(), threading.Event(), threading.Event()

    def holding() -> None:
        with buffers._lock:
            forked.set()
            done.wait(20)

    thread = threading.Thread(target=holding)
    thread.start()
    forked.wait(20)
    child = os.fork()
    if child == 0:
        os._exit(0 if buffers.take((2,)).shape == (2,) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    done.set()
    thread.join()
