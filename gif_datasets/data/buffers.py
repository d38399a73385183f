"""Memory of batches, used again: threads that decode into fresh memory spend a twentieth of their time on faults."""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gif_datasets.io.forks import on_fork

MOST = 32
"""Blocks that are kept; those beyond are the caller's alone."""


@dataclass(eq=False)
class _Block:
    """Memory, and the array through which somebody uses it, as long as that is alive."""

    memory: NDArray[np.uint8]
    user: weakref.ref[Any]


class Buffers:
    """Lends memory to uint8 tensors, and takes it back when the last of a tensor's views is gone.

    Threads may share it. A process that is forked has its own.

    Example:
        >>> buffers = Buffers()
        >>> first = buffers.take((2, 3))
        >>> place = first.data_ptr()
        >>> buffers.take((2, 3)).data_ptr() == place
        False
        >>> del first
        >>> buffers.take((2, 3)).data_ptr() == place
        True
    """

    def __init__(self) -> None:
        self._start()
        on_fork(self._start)

    def _start(self) -> None:
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of ``shape``, whatever may be in it."""
        with self._lock:
            block = self._free(math.prod(shape))
            view = block.memory.reshape(shape)
            block.user = weakref.ref(view)
            return torch.from_numpy(view)  # keeps the view alive as long as its storage lives

    def _free(self, size: int) -> _Block:
        free = [block for block in self._blocks if block.user() is None]
        fitting = next((block for block in free if block.memory.nbytes == size), None)
        if fitting is not None:
            return fitting
        block = _Block(np.empty(size, np.uint8), weakref.ref(self))
        if len(self._blocks) == MOST and free:  # of another size, which is asked for no more
            self._blocks.remove(free[0])
        if len(self._blocks) < MOST:
            self._blocks.append(block)
        return block
