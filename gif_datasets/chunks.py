"""Cutting sequences into parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def blocks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut into parts of ``size``; the last may be shorter.

    Example:
        >>> blocks([1, 2, 3, 4, 5], 2)
        [[1, 2], [3, 4], [5]]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


def padded(items: Sequence[Item], size: int) -> list[Item]:
    """Repeat the last item up to ``size``."""
    return [*items, *[items[-1]] * (size - len(items))]


def evenly(count: int, most: int) -> list[int]:
    """At most so many of ``count`` positions, spread evenly, from the first.

    Example:
        >>> evenly(10, 4), evenly(2, 4)
        ([0, 2, 5, 7], [0, 1])
    """
    taken = min(count, most)
    return [i * count // taken for i in range(taken)]
