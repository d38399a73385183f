"""Share work: of several that want the same results, each makes a part and waits for the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias, TypeVar

from gif_datasets.io.cache.claims import Claims

Value = TypeVar("Value")
Keep: TypeAlias = "Callable[[str, Value], None]"
"""Stores a result under its key, and releases its claim."""


def share(
    claims: Claims,
    wanted: Collection[str],
    block: int,
    read: Callable[[str], Value | None],
    write: Callable[[str, Value], None],
    make: Callable[[Iterator[list[str]], Keep[Value]], None],
    waits: bool = True,
) -> dict[str, Value]:
    """Make what nobody else is making, and wait for the rest; takes over from processes that die meanwhile.

    Args:
        claims: The claims of this work, which end with it.
        wanted: Keys of results.
        block: How many are claimed at a time, so that several who want the same share the work.
        read: Returns the result of a key, or None if it is still to be made.
        write: Stores a result.
        make: Gets blocks of claimed keys, and what keeps each result.
        waits: Whether what others are making is waited for; without, it is left out.
    """
    results: dict[str, Value] = {}

    def keep(key: str, value: Value) -> None:
        write(key, value)
        claims.release(key)
        results[key] = value

    def look(keys: Collection[str]) -> None:
        results.update({key: value for key in keys if key not in results and (value := read(key)) is not None})

    def claimed(keys: Collection[str]) -> Iterator[list[str]]:
        taken: list[str] = []
        for key in keys:
            if not claims.take(key):
                continue
            look([key])
            if key in results:  # who had the claim before has made it
                claims.release(key)
                continue
            taken.append(key)
            if len(taken) == block:
                yield taken
                taken = []
        if taken:
            yield taken

    with claims:
        while left := [key for key in wanted if key not in results]:
            make(claimed(left), keep)
            look(left)
            if not waits:
                break
            if any(key in results for key in left):
                claims.went_on()
            else:
                claims.wait()
    return results
