"""Spans of an order that is read in long runs: how ranks and their workers share them, and what is left of them.

Who reads shard by shard wants adjacent positions, not every n-th. So each reader has one run of what is to be read, and
after some batches on every rank what is left is a few spans: arithmetic, known to each rank without asking the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
"""First position, and the one after the last."""
Spans: TypeAlias = tuple[Span, ...]
"""Ascending, not empty, and apart from each other."""


@dataclass(frozen=True)
class Readers:
    """Who reads, and in which batches.

    Attributes:
        ranks: Processes that share an epoch.
        workers: Worker processes of each rank; 0 and 1 are the same.
        batch: Samples in a batch; all of a worker's are full, except the last of the rank.
        drop_last: Leave out that last one, if it is not full.
    """

    ranks: int = 1
    workers: int = 0
    batch: int = 1
    drop_last: bool = False

    def parts(self, count: int, rank: int) -> list[Span]:
        """The run of each worker of a rank, in a row of ``count`` samples.

        All ranks have as many samples: where ranks divide ``count`` unevenly, some also have the next rank's first one.

        Example:
            >>> [Readers(ranks=2, workers=2, batch=2).parts(9, rank) for rank in range(2)]
            [[(0, 4), (4, 5)], [(4, 8), (8, 9)]]
        """
        start, size = rank * count // self.ranks, -(-count // self.ranks)
        batches = size // self.batch if self.drop_last else -(-size // self.batch)
        size = min(size, batches * self.batch)
        each, more = divmod(batches, max(1, self.workers))
        parts, first = [], 0
        for worker in range(max(1, self.workers)):
            last = min(first + (each + (worker < more)) * self.batch, size)
            parts.append((start + first, start + last))
            first = last
        return parts

    def left(self, spans: Spans, steps: int) -> Spans:
        """What is left of ``spans`` when every rank has had ``steps`` batches, taken from its workers in turn.

        Example:
            >>> Readers(ranks=2, workers=2, batch=2).left(((0, 9),), steps=1)
            ((2, 4), (6, 9))
        """
        count, workers = length(spans), max(1, self.workers)
        remaining: list[Span] = []
        for rank in range(self.ranks):
            parts = self.parts(count, rank)
            end = (rank + 1) * count // self.ranks  # what follows is the next rank's
            for worker, (first, last) in enumerate(parts):
                had = max(0, -(-(steps - worker) // workers)) * self.batch
                stop = end if worker == workers - 1 else min(last, end)  # a last batch that was left out is left, too
                remaining += cut(spans, min(first + had, last), stop)
        return _joined(remaining)


def length(spans: Spans) -> int:
    """Positions in all spans."""
    return sum(last - first for first, last in spans)


def cut(spans: Spans, start: int, stop: int) -> Spans:
    """The positions that come ``start``-th up to before ``stop``-th, counted through all spans.

    Example:
        >>> cut(((0, 3), (10, 20)), 2, 6)
        ((2, 3), (10, 13))
    """
    parts = []
    for first, last in spans:
        here = (first + max(0, start), min(last, first + stop))
        if here[0] < here[1]:
            parts.append(here)
        start, stop = start - (last - first), stop - (last - first)
    return tuple(parts)


def _joined(spans: Sequence[Span]) -> Spans:
    """The same positions in as few spans as there can be."""
    parts: list[Span] = []
    for first, last in spans:
        if parts and parts[-1][1] == first:
            first = parts.pop()[0]
        parts.append((first, last))
    return tuple(parts)
