"""Share work: of several that want the same results, each makes a part and waits for the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from gif_datasets.io.cache.claims import Claims

Value = TypeVar("Value")
Keep: TypeAlias = "Callable[[str, Value], None]"
"""Stores a result under its key, and releases its claim."""


@dataclass
class Sharing(Generic[Value]):
    """Work on results that others may want, too.

    Attributes:
        claims: The claims of this work.
        wanted: Keys of results.
        block: How many are claimed at a time, so that several who want the same share the work.
        read: Returns the result of a key, or None if it is still to be made.
        write: Stores a result.
        waits: Whether what others are making is waited for; without, it is left out.
        results: What there is so far, by key.
    """

    claims: Claims
    wanted: Collection[str]
    block: int
    read: Callable[[str], Value | None]
    write: Callable[[str, Value], None]
    waits: bool = True
    results: dict[str, Value] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def keep(self, key: str, value: Value) -> None:
        """Store a result, and release its claim; any thread may do so."""
        self.write(key, value)
        self.claims.release(key)
        self.results[key] = value

    def rounds(self) -> Iterator[Iterator[list[str]]]:
        """Blocks of claimed keys to make; round after round, until each key has a result or is being made here.

        Between two rounds others are waited for: who is asked for another round has settled all that it claimed, or has
        left that to threads that wait for nobody. What processes leave that die meanwhile is in the next round.
        """
        left = [key for key in self.wanted if key not in self.results]
        while left:
            yield self._claimed(left)
            self._look(left)
            before, left = left, [key for key in left if key not in self.results and key not in self._taken]
            if not self.waits:
                break
            if len(left) < len(before):
                self.claims.went_on()
            else:
                self.claims.wait()

    def _look(self, keys: Collection[str]) -> None:
        asked = (key for key in keys if key not in self.results and key not in self._taken)
        self.results.update({key: value for key in asked if (value := self.read(key)) is not None})

    def _claimed(self, keys: Collection[str]) -> Iterator[list[str]]:
        taken: list[str] = []
        for key in keys:
            if not self.claims.take(key):
                continue
            self._look([key])
            if key in self.results:  # who had the claim before has made it
                self.claims.release(key)
                continue
            self._taken.add(key)
            taken.append(key)
            if len(taken) == self.block:
                yield taken
                taken = []
        if taken:
            yield taken


def share(
    claims: Claims,
    wanted: Collection[str],
    block: int,
    read: Callable[[str], Value | None],
    write: Callable[[str, Value], None],
    make: Callable[[Iterator[list[str]], Keep[Value]], None],
    waits: bool = True,
) -> dict[str, Value]:
    """Make what nobody else is making, and wait for the rest; see :class:`Sharing`.

    Args:
        claims: Which end with the work.
        wanted: As there.
        block: As there.
        read: As there.
        write: As there.
        make: Gets blocks of claimed keys, and what keeps each result.
        waits: As there.
    """
    sharing = Sharing(claims, wanted, block, read, write, waits)
    with claims:
        for blocks in sharing.rounds():
            make(blocks, sharing.keep)
    return sharing.results
