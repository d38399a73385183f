"""Seeds as columns: a tenth of the memory that a million objects take, and quick to send to a worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from operator import eq
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from gif_datasets.objects import Objects
from gif_datasets.types import Row, Seed

CHUNK = 4096  # seeds that are objects at once while columns are made or read


class Packed(Sequence[bytes]):
    """Many short byte strings in one.

    Example:
        >>> Packed.of([b"ab", b"", b"c"])[0], len(Packed.of([b"ab", b"", b"c"]))
        (b'ab', 3)
    """

    def __init__(self, content: bytes, ends: NDArray[np.int64]) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> Packed:
        """Pack them, in their order."""
        content, lengths = bytearray(), [np.empty(0, np.int64)]
        rest = iter(parts)
        while chunk := list(islice(rest, CHUNK)):
            content += b"".join(chunk)
            lengths.append(np.fromiter(map(len, chunk), np.int64, len(chunk)))
        return cls(bytes(content), np.cumsum(np.concatenate(lengths)))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, place: int) -> bytes: ...

    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        number = range(len(self))[place]
        return self.content[self.ends[number - 1] if number else 0 : self.ends[number]]


@dataclass(frozen=True, eq=False)
class SeedTable(Sequence[Seed]):
    """Seeds in order, made into objects when looked at; columns of ``(N,)``, as :class:`~gif_datasets.types.Seed`.

    ``copies`` is -1 where a seed says nothing of them.
    """

    indices: NDArray[np.int64]
    keys: NDArray[np.bytes_]
    labels: NDArray[np.int64]
    synthetic: NDArray[np.bool_]
    grey: NDArray[np.bool_]
    origins: Packed
    copies: NDArray[np.int32]
    objects: Packed | None = None
    """What is marked in their images, as canonical JSON; None where nothing is kept."""

    @classmethod
    def of(cls, seeds: Iterable[Seed]) -> SeedTable:
        """The table of some seeds, which need never be there all at once."""
        if isinstance(seeds, SeedTable):
            return seeds
        columns: list[tuple[NDArray[Any], ...]] = [_columns([])]
        objects: list[bytes] = []

        def origins() -> Iterator[bytes]:
            rest = iter(seeds)
            while chunk := list(islice(rest, CHUNK)):
                columns.append(_columns(chunk))
                objects.extend(b"" if seed.objects is None else seed.objects.text() for seed in chunk)
                yield from (seed.origin.encode("utf-8", "surrogatepass") for seed in chunk)

        origin = Packed.of(origins())
        index, key, label, synthetic, grey, copies = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        return cls(index, key, label, synthetic, grey, origin, copies, Packed.of(objects) if any(objects) else None)

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, place: int) -> Seed: ...

    @overload
    def __getitem__(self, place: slice) -> SeedTable: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        number = range(len(self))[place]
        objects = self.objects[number] if self.objects else b""
        return Seed(
            int(self.indices[number]),
            self.keys[number].decode("ascii"),
            int(self.labels[number]),
            self.origins[number].decode("utf-8", "surrogatepass"),
            bool(self.synthetic[number]),
            bool(self.grey[number]),
            Objects.from_text(objects) if objects else None,
            None if self.copies[number] < 0 else int(self.copies[number]),
        )

    def __iter__(self) -> Iterator[Seed]:
        return map(self.__getitem__, range(len(self)))

    def take(self, places: NDArray[np.int64]) -> SeedTable:
        """Some of them, in the order of ``places``."""
        return SeedTable(
            self.indices[places],
            self.keys[places],
            self.labels[places],
            self.synthetic[places],
            self.grey[places],
            Packed.of(self.origins[place] for place in places.tolist()),
            self.copies[places],
            Packed.of(self.objects[place] for place in places.tolist()) if self.objects else None,
        )

    def with_copies(self, copies: NDArray[np.integer]) -> SeedTable:
        """The same seeds, of each of which so many copies are made, ``(N,)``."""
        return dataclasses.replace(self, copies=copies.astype(np.int32))


def _columns(seeds: Sequence[Seed]) -> tuple[NDArray[Any], ...]:
    return (
        np.array([seed.index for seed in seeds], np.int64),
        np.array([seed.key.encode("ascii") for seed in seeds], np.bytes_),
        np.array([seed.label for seed in seeds], np.int64),
        np.array([seed.synthetic for seed in seeds], np.bool_),
        np.array([seed.grey for seed in seeds], np.bool_),
        np.array([-1 if seed.copies is None else seed.copies for seed in seeds], np.int32),
    )


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """(seed, copy) rows of seeds, made when looked at.

    Attributes:
        seeds: The seeds.
        order: Places of some of them.
        copies: Copies of each, 1 and on; 0: the seeds themselves (copy 0); None: as many as each seed says.
    """

    seeds: SeedTable
    order: NDArray[np.int64]
    copies: int | None

    def __len__(self) -> int:
        if self.copies is None:
            return int(self._ends[-1]) if len(self._ends) else 0
        return len(self.order) * max(self.copies, 1)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Number of the rows up to each seed's last one."""
        return np.cumsum(self.seeds.copies[self.order], dtype=np.int64)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        row = range(len(self))[place]
        if self.copies is None:
            number = int(np.searchsorted(self._ends, row, side="right"))
            return self.seeds[int(self.order[number])], 1 + row - (int(self._ends[number - 1]) if number else 0)
        number, copy = divmod(row, max(self.copies, 1))
        return self.seeds[int(self.order[number])], copy + (self.copies > 0)
