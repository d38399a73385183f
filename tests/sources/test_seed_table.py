"""Seeds and rows as columns are the lists that they stand for, at a fraction of the memory."""

from __future__ import annotations

import pickle
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from gif_datasets.expansion.recipe import ordered
from gif_datasets.io.digests import digest, digest_rows
from gif_datasets.sources.seed_table import CHUNK, Packed, Rows, SeedTable
from gif_datasets.types import Seed

COUNT = 2 * CHUNK + 100


def made(count: int = COUNT) -> Iterator[Seed]:
    rng = random.Random(0)
    for i in range(count):
        yield Seed(3 * i, f"{rng.getrandbits(13):064x}", i % 3, f"ähre/{i}.png", i % 5 == 0, i % 7 == 0)


@pytest.mark.parametrize("count", [0, 1, CHUNK, COUNT])
def test_a_table_is_its_seeds(count: int) -> None:
    """Read by place, by slice and in order; pickled too."""
    wanted, table = list(made(count)), SeedTable.of(made(count))
    assert list(table) == wanted == list(pickle.loads(pickle.dumps(table)))
    assert table == wanted
    assert table[count // 2 : count : 7] == wanted[count // 2 : count : 7]
    assert [table[i] for i in range(-count, 0, 1000)] == wanted[::1000]
    assert (table == wanted[:-1]) == (count == 0)
    with pytest.raises(IndexError):
        table[count]


def test_orders() -> None:
    """Seeds and their copies in key order, as sorting objects gives it; equal keys by index."""
    seeds = list(made())
    table = SeedTable.of(seeds)
    assert ordered(seeds) == sorted(seeds, key=lambda seed: (seed.key, seed.label, seed.index))
    order = ordered([Seed(seed.index, seed.key, 0, "") for seed in seeds]).indices // 3
    by_key = sorted(seeds, key=lambda seed: (seed.key, seed.index))
    assert Rows(table, order, 0)[:] == [(seed, 0) for seed in by_key]
    copies = Rows(table, order, 3)
    assert copies[100:400] == [(seed, copy) for seed in by_key for copy in (1, 2, 3)][100:400]
    assert len(copies) == 3 * COUNT
    assert copies[-1] == (by_key[-1], 3)


def test_bytes_a_seed() -> None:
    """A hundred and a name's length, where objects take five hundred and more; none is there as an object for long."""
    tracemalloc.start()
    table = SeedTable.of(made(20_000))
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 20_000
    assert kept < 130 * 20_000
    assert most < 400 * 20_000


def test_packed_bytes_keep_their_ends() -> None:
    """Empty ones, and any byte."""
    parts = [b"", b"\0a", b"", b"\xff" * 300, b""]
    assert list(Packed.of(parts)) == parts
    assert Packed.of(parts)[1:4] == parts[1:4]


def test_digests_of_rows_are_those_of_lists() -> None:
    """Plans have the hashes that they had."""
    for rows in ([], [[1, "ä"]], [[1, "a"], [2, "b", None]]):
        assert digest_rows(iter(rows)) == digest(rows)
