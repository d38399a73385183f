"""Streaming from an object store: every sample once, each shard checked, nothing left behind."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest

import gif_datasets
from gif_datasets import ConfigError, DataLoader, ShardError, UsageError
from gif_datasets.streamed import stream_expanded


@pytest.fixture
def stored(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A folder of 36 samples in 6 shards, in a memory file system and on disk."""
    folder = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), folder, ratio=2, prior="linear", samples_per_shard=6)
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/bucket/set", recursive=True)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return "memory://bucket/set", folder


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
    with pytest.raises(UsageError, match=r"manifest\.json"):
        stream_expanded("memory://bucket/nothing")
    with pytest.raises(ConfigError, match="rank"):
        stream_expanded("memory://bucket/set", rank=2, world_size=2)
