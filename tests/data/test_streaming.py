"""Streaming from an object store: every sample once, each shard checked, nothing left behind."""

from __future__ import annotations

import gc
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import gif_datasets
from gif_datasets import ConfigError, DataLoader, ShardError, UsageError
from gif_datasets.data.streaming import stream_expanded
from gif_datasets.io.stores import RemotePath


@pytest.fixture
def stored(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A folder of 36 samples in 6 shards, in a memory file system and on disk."""
    folder = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), folder, ratio=2, prior="linear", samples_per_shard=6)
    store = fsspec.filesystem("memory")
    if store.exists("/bucket/set"):
        store.rm("/bucket/set", recursive=True)
    store.put(str(folder), "/bucket/set", recursive=True)
    with tempfile.TemporaryDirectory() as short:  # workers' sockets lie there, whose names may not be long
        (tmp_path / "temporary").symlink_to(short)
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield "memory://bucket/set", folder


@pytest.fixture(scope="module")
def stored_once(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 4 samples, for what reads none of them."""
    place = tmp_path_factory.mktemp("once")
    gif_datasets.expand("demo", place / "out", ratio=1, prior="linear", limit=2, cache_dir=place / "cache")
    return f"file://{place}/out"


def pictures(rows: object) -> Counter[bytes]:
    return Counter(np.asarray(image).tobytes() for image, _ in rows)


def test_every_sample_once(stored: tuple[str, Path], tmp_path: Path) -> None:
    """Ranks and workers share the shards; shuffling changes the order alone; temporary folders go."""
    url, folder = stored
    loaded = gif_datasets.load_expanded(folder)
    wanted = pictures(loaded)
    assert pictures(stream_expanded(url)) == wanted
    assert [label for _, label in stream_expanded(url)] == loaded.targets.tolist()
    parts = [stream_expanded(url, shuffle=True, rank=rank, world_size=2, together=2) for rank in range(2)]
    assert pictures(row for part in parts for row in part) == wanted
    labels = [y for _, batch in DataLoader(stream_expanded(url), 5, num_workers=2) for y in batch.tolist()]
    assert sorted(labels) == sorted(loaded.targets.tolist())
    assert list((tmp_path / "temporary").iterdir()) == []


def test_splits(seed_folder: Path, tmp_path: Path) -> None:
    """Each split streams what it loads; the expanded one by default."""
    gif_datasets.expand(
        str(seed_folder), tmp_path / "out", ratio=1, prior="linear", samples_per_shard=2, validation_share=0.25
    )
    for split in (None, "train", "validation"):
        wanted = pictures(gif_datasets.load_expanded(tmp_path / "out", split=split))
        assert pictures(stream_expanded(f"file://{tmp_path}/out", split=split, shuffle=True)) == wanted
    with pytest.raises(UsageError, match="no split 'test'"):
        stream_expanded(f"file://{tmp_path}/out", split="test")


def test_epochs_repeat(stored: tuple[str, Path]) -> None:
    """An epoch is the same each time, and another epoch another order."""
    data = stream_expanded(stored[0], np.asarray, shuffle=True, together=3)
    first, again = ([image.tobytes() for image, _ in data] for _ in range(2))
    assert first == again
    data.set_epoch(1)
    assert [image.tobytes() for image, _ in data] != first


def loader_of(url: str, workers: int = 0, ranks: int = 1, rank: int = 0, **options: Any) -> DataLoader:
    data = stream_expanded(url, np.array, shuffle=True, together=2, rank=rank, world_size=ranks)
    return DataLoader(data, num_workers=workers, **{"batch_size": 4, **options})


def rows_of(batches: Iterable[Any]) -> list[bytes]:
    return [image.numpy().tobytes() for images, _ in batches for image in images]


@pytest.mark.parametrize(("before", "after"), [((1, 2), (1, 0)), ((3, 0), (1, 2)), ((1, 0), (2, 0))])
def test_resumes_in_mid_epoch(stored: tuple[str, Path], before: tuple[int, int], after: tuple[int, int]) -> None:
    """Ranks and workers stop after some batches; others, with another batch size, read exactly the rest."""
    seen, states = [], []
    for rank in range(before[0]):
        loader = loader_of(stored[0], before[1], before[0], rank)
        seen += rows_of(itertools.islice(loader, 2))
        states.append(json.loads(json.dumps(loader.state_dict())))
    assert len(seen) == states[0]["position"] == 8 * before[0]
    assert all(state == states[0] for state in states)
    for rank in range(after[0]):
        loader = loader_of(stored[0], after[1], after[0], rank, batch_size=5)
        loader.load_state_dict(states[0])
        assert loader.state_dict() == states[0]
        seen += rows_of(loader)
        assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)
    assert len(seen) == 36
    assert len(set(seen)) == len(set(rows_of(loader_of(stored[0]))))
    assert Counter(seen) == Counter(rows_of(loader_of(stored[0])))


def test_spawned_workers(stored: tuple[str, Path]) -> None:
    """They have the samples that are read without workers, and go on from a place within the epoch."""
    url = f"file://{stored[1]}"
    batches = iter(loader := loader_of(url, 2, multiprocessing_context="spawn"))
    before = rows_of(itertools.islice(batches, 3))
    state = json.loads(json.dumps(loader.state_dict()))
    rest = rows_of(batches)
    assert (state["position"], len(before)) == (12, 12)
    assert Counter(before + rest) == Counter(rows_of(loader_of(url)))
    again = loader_of(url, 2, multiprocessing_context="spawn")
    again.load_state_dict(state)
    assert Counter(rows_of(again)) == Counter(rest)


def test_iterations_of_a_loader_are_epochs(stored: tuple[str, Path]) -> None:
    """Also of workers that persist; `set_epoch` of loader or set chooses one; the set alone stays as it was."""
    one = loader_of(stored[0])
    first, second = rows_of(one), rows_of(one)
    assert first != second
    one.set_epoch(0)
    assert rows_of(one) == first
    one.dataset.set_epoch(1)
    assert rows_of(one) == second
    persistent = loader_of(stored[0], 1, persistent_workers=True)
    assert [rows_of(persistent), rows_of(persistent)] == [first, second]
    persistent.set_epoch(0)
    next(iter(persistent))
    assert len(list(persistent.dataset)) == 36
    assert len(persistent) == 9
    shared = stream_expanded(stored[0], np.array, shuffle=True, together=2)
    loaders = [DataLoader(shared, 4) for _ in range(2)]
    shared.set_epoch(1)
    assert [rows_of(loader) for loader in loaders] == [second, second]


def test_unequal_ranks_have_as_many_batches(stored: tuple[str, Path]) -> None:
    """36 samples on 5 ranks are 8 each: none is missing, and 4 come twice."""
    parts = [loader_of(stored[0], ranks=5, rank=rank, batch_size=3) for rank in range(5)]
    read = [rows_of(part) for part in parts]
    assert [(len(part), len(rows)) for part, rows in zip(parts, read, strict=True)] == [(3, 8)] * 5
    assert set().union(*read) == set(rows_of(loader_of(stored[0])))


def test_shards_are_fetched_where_they_are_read(stored: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank fetches its own shards, and what is left of them after resuming; each only once."""
    fetched: list[str] = []
    read = RemotePath.read_bytes
    monkeypatch.setattr(RemotePath, "read_bytes", lambda path: fetched.append(path.name) or read(path))
    parts = [list(stream_expanded(stored[0], shuffle=True, together=1, rank=rank, world_size=3)) for rank in range(3)]
    assert len(parts[0]) == 12
    assert sorted(name for name in fetched if name.endswith(".tar")) == sorted(
        f"train-{number:05d}-of-00006.tar" for number in range(6)
    )
    loader = loader_of(stored[0], batch_size=12)
    batches = iter(loader)
    next(batches)
    rest = loader_of(stored[0], batch_size=12)
    rest.load_state_dict(loader.state_dict())
    del batches
    fetched.clear()
    assert len(rows_of(rest)) == 24
    assert len(fetched) == len(set(fetched)) == 4


@pytest.mark.parametrize("left", [[[9, 3]], [[0, 5], [4, 36]], [[0, 99]], [[-1, 3]], [[1]], 7])
def test_hostile_parts(stored_once: str, left: Any) -> None:
    """What no loader can have left is no state."""
    loader = loader_of(stored_once)
    with pytest.raises(ConfigError, match="state"):
        loader.load_state_dict({**loader.state_dict(), "left": left})


def test_states_of_another_stream_are_refused(stored_once: str) -> None:
    """The first difference is named."""
    state = loader_of(stored_once).state_dict()
    other = DataLoader(stream_expanded(stored_once, shuffle=True, together=2, seed=1))
    with pytest.raises(ConfigError, match="seed was 0, now 1"):
        other.load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_stays_of_what_was_left_early(stored: tuple[str, Path], tmp_path: Path, workers: int) -> None:
    """Fetched shards go, too, when nobody reads on."""
    batches = iter(loader_of(stored[0], workers))
    next(batches)
    del batches
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_damage_is_found(stored: tuple[str, Path]) -> None:
    """A changed or missing shard is an error under its name, before any of its samples is seen."""
    url, folder = stored
    store, name = fsspec.filesystem("memory"), sorted(p.name for p in (folder / "data").iterdir())[1]
    content = bytearray(store.cat_file(f"/bucket/set/data/{name}"))
    content[700] ^= 1
    store.pipe_file(f"/bucket/set/data/{name}", bytes(content))
    with pytest.raises(ShardError, match=name):
        list(stream_expanded(url))
    store.rm_file(f"/bucket/set/data/{name}")
    with pytest.raises(ShardError, match=f"cannot fetch data/{name}"):
        list(stream_expanded(url))


def test_what_is_no_expansion() -> None:
    """No manifest is wrong usage; so are arguments that do not fit."""
    with pytest.raises(UsageError, match=r"manifest\.json in memory://bucket/nothing"):
        stream_expanded("memory://bucket/nothing")
    with pytest.raises(UsageError, match="nothing is known that opens nowhere://"):
        stream_expanded("nowhere://bucket/set")
    with pytest.raises(ConfigError, match="rank"):
        stream_expanded("memory://bucket/set", rank=2, world_size=2)
