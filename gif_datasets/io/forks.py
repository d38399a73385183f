"""After a fork: a child process resets the locks and files that it shares with its parent."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from types import MethodType
from typing import TypeAlias

_Reset: TypeAlias = Callable[[], None]

_resets: list[Callable[[], _Reset | None]] = []


def on_fork(reset: _Reset) -> None:
    """Call ``reset`` in every forked child from now on; does nothing on systems without fork.

    A child inherits the state of a lock, but not the thread of the parent that holds it: without a reset it would wait
    forever.

    Args:
        reset: A function, or a method. The object of a method is referenced weakly, so that it can be freed.
    """
    if isinstance(reset, MethodType):
        _resets.append(weakref.WeakMethod(reset, _resets.remove))
    else:
        _resets.append(lambda: reset)


def _reset_all() -> None:
    for reference in _resets:
        reset = reference()
        if reset is not None:
            reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
