"""The index of a folder: built, mapped, checked, built anew; and reading through it."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import forge_manifest
from hub_server import WRITER, HubServer
from hypothesis import given, settings
from hypothesis import strategies as st

import gif_datasets
from gif_datasets import ConfigError, ShardError, UsageError
from gif_datasets.io import atomic
from gif_datasets.shards import index, reader, tar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.index import INDEX
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.verify import verify


@pytest.fixture
def expanded(seed_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), folder, ratio=2, prior="linear", samples_per_shard=6)
    return folder


def contents(folder: Path) -> list[tuple[str, int, bytes]]:
    opened = ShardReader(folder)
    return [(opened.key(i), opened.label(i), opened.image_bytes(i)) for i in range(len(opened))]


def test_columns_agree_with_the_records(expanded: Path) -> None:
    """Label, seed, copy and flag of every entry are those of its record."""
    opened = ShardReader(expanded)
    assert len(opened) == 36
    for i in range(36):
        record = opened.provenance(i)
        assert opened.index.label[i] == record.label == opened.label(i)
        assert (opened.index.seed[i], opened.index.copy[i]) == (record.seed_index, record.copy)
        assert opened.index.synthetic[i] == record.synthetic
        assert opened.index_of(opened.key(i)) == i
    for key in ("train-0000099-0000", "dev-0000000-0000", "x", "train-1-1"):
        with pytest.raises(KeyError):
            opened.index_of(key)
    for number in (36, -1):
        with pytest.raises(IndexError, match="of 36"):
            opened.image_bytes(number)


def test_opening_reads_no_tar(expanded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index, opening a folder and asking for labels touches no shard's content."""
    monkeypatch.setattr(tar, "build_index", None)
    monkeypatch.setattr(reader.ShardReader, "_file", None)
    loaded = gif_datasets.load_expanded(expanded)
    assert sorted(loaded.targets.tolist()) == sorted([0, 1, 2] * 12)
    assert loaded.facts.synthetic.sum() == 24


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x" * path.stat().st_size)])
def test_a_missing_or_damaged_index_is_built_anew(expanded: Path, damage: Callable[[Path], object]) -> None:
    """The same bytes come back from the tars."""
    before, rows = (expanded / INDEX).read_bytes(), contents(expanded)
    damage(expanded / INDEX)
    assert contents(expanded) == rows
    assert (expanded / INDEX).read_bytes() == before


def test_a_folder_without_index_in_its_manifest(expanded: Path) -> None:
    """It is read all the same, and nothing is written into it."""
    rows = contents(expanded)
    files = manifests.read_manifest(expanded).files
    forge_manifest(expanded, files={name: entry for name, entry in files.items() if name != INDEX})
    (expanded / INDEX).unlink()
    assert contents(expanded) == rows
    assert not (expanded / INDEX).exists()


@pytest.fixture
def frozen(expanded: Path) -> Iterator[Callable[[], Path]]:
    """Makes the folder read-only when called, also for root; the test is skipped where nothing can be mounted."""

    def freeze() -> Path:
        for options in (["--bind", str(expanded)], ["-o", "remount,bind,ro"]):
            if subprocess.run(["mount", *options, str(expanded)], capture_output=True).returncode:
                pytest.skip("needs the right to mount a folder read-only")
        return expanded

    yield freeze
    subprocess.run(["umount", "--lazy", str(expanded)], check=False, capture_output=True)


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_folder(frozen: Callable[[], Path], expanded: Path, there: bool) -> None:
    """It is loaded and verified as any other, with its index or, built in memory alone, without."""
    rows = contents(expanded)
    if not there:
        (expanded / INDEX).unlink()
    names = sorted(expanded.rglob("*"))
    folder = frozen()
    with pytest.raises(OSError, match="Read-only"):
        (folder / "x").touch()
    loaded = gif_datasets.load_expanded(folder)
    assert [label for _, label in loaded] == [label for _, label, _ in rows]
    assert contents(folder) == rows
    found = pickle.loads(pickle.dumps(loaded))
    assert [image.tobytes() for image, _ in found] == [image.tobytes() for image, _ in loaded]
    assert verify(folder) == ([] if there else [f"missing file {INDEX}; expand again to write it"])
    assert sorted(folder.rglob("*")) == names


def test_running_again_mends_the_index(expanded: Path, seed_folder: Path) -> None:
    """`expand` on a finished folder writes a lost index anew."""
    before = (expanded / INDEX).read_bytes()
    (expanded / INDEX).unlink()
    gif_datasets.expand(str(seed_folder), expanded, ratio=2, prior="linear", samples_per_shard=6)
    assert (expanded / INDEX).read_bytes() == before


def test_verify_checks_the_index(expanded: Path) -> None:
    """A changed index is named."""
    content = bytearray((expanded / INDEX).read_bytes())
    content[-1] ^= 1
    (expanded / INDEX).write_bytes(content)
    assert any(INDEX in problem for problem in verify(expanded))


def test_verify_compares_the_index_with_the_shards(expanded: Path) -> None:
    """An index of other labels is found though its digest fits; so is one that the manifest does not list."""
    manifest, found = manifests.read_manifest(expanded).to_json(), index.map_file(expanded / INDEX)
    files = {name: (expanded / name).read_bytes() for name in manifest["files"]}
    files[INDEX] = index.to_bytes(dataclasses.replace(found, label=found.label[::-1]))
    atomic.write_bytes(expanded / INDEX, files[INDEX])
    forge_manifest(expanded, **manifests.sealed(manifest, files))
    assert verify(expanded) == [f"{INDEX} does not describe these shards (expand again to restore it)"]
    del files[INDEX]
    forge_manifest(expanded, **manifests.sealed(manifest, files))
    assert any(INDEX in problem for problem in verify(expanded))


@pytest.fixture
def split(seed_folder: Path, tmp_path: Path) -> Path:
    """9 seeds with a copy each, and 3 that are held out."""
    folder = tmp_path / "split"
    gif_datasets.expand(str(seed_folder), folder, ratio=1, prior="linear", samples_per_shard=2, validation_share=0.25)
    return folder


@pytest.mark.parametrize("listed", [True, False])
def test_splits_are_parts_of_one_index(split: Path, listed: bool) -> None:
    """Each split has its own samples, with or without the file, also after pickling."""
    if not listed:
        (split / INDEX).unlink()
        forge_manifest(split, files={})
    for name, count in ((None, 18), ("train", 18), ("validation", 3)):
        opened = pickle.loads(pickle.dumps(ShardReader(split, name)))
        assert len(opened) == len(opened.index) == count
        for i in range(count):
            record = opened.provenance(i)
            assert opened.key(i) == tar.sample_key(name or "train", record.seed_index, record.copy)
            assert opened.index_of(opened.key(i)) == i
            assert opened.label(i) == record.label
            assert hashlib.sha256(opened.image_bytes(i)).hexdigest() == record.image_sha256
        with pytest.raises(IndexError, match=f"of {count}"):
            opened.image_bytes(count)
    with pytest.raises(UsageError, match="no split 'test'"):
        ShardReader(split, "test")


def test_a_split_needs_its_own_shards_only(split: Path) -> None:
    """With the index, one split opens without the other's shards."""
    for path in (split / "data").glob("train-*"):
        path.unlink()
    assert len(gif_datasets.load_expanded(split, split="validation").targets) == 3
    with pytest.raises(ShardError, match="missing shard"):
        ShardReader(split)


def test_shards_of_splits_must_not_be_mixed(split: Path) -> None:
    """A manifest that lists another split's shard in between is refused, because a split is one part of the index."""
    listed = manifests.read_manifest(split).to_json()["shards"]
    forge_manifest(split, shards=[listed[-1], *listed[:-1]])
    with pytest.raises(ShardError, match="listed among those of split 'validation'"):
        ShardReader(split, "validation")


def test_exchanged_shards_are_noticed(expanded: Path) -> None:
    """Another shard's bytes under a shard's name never give a wrong picture."""
    paths = sorted((expanded / "data").glob("*.tar"))
    opened = ShardReader(expanded)
    paths[3].write_bytes(paths[2].read_bytes())
    with pytest.raises(ShardError, match="verify"):
        opened.image_bytes(18)
    (expanded / INDEX).unlink()
    with pytest.raises(ShardError):
        ShardReader(expanded)


def test_a_shard_cut_under_an_open_reader(expanded: Path) -> None:
    """Reading beyond a cut is an error, not the end of the process."""
    opened = ShardReader(expanded)
    path = sorted((expanded / "data").glob("*.tar"))[0]
    with path.open("r+b") as file:
        file.truncate(1500)
    with pytest.raises(ShardError, match="does not hold"):
        opened.image_bytes(5)
    with pytest.raises(ShardError, match="should have"):
        ShardReader(expanded)
    path.unlink()
    with pytest.raises(ShardError, match="missing shard"):
        ShardReader(expanded)


def test_many_threads_and_few_open_files(expanded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are closed while others read give nobody wrong bytes."""
    rows = contents(expanded)
    monkeypatch.setattr(reader, "MOST_OPEN", 1)
    opened = ShardReader(expanded)
    order = np.random.default_rng(0).integers(0, 36, 2_000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(opened.image_bytes, order))
    assert found == [rows[i][2] for i in order]


def test_pickles_without_contents(expanded: Path) -> None:
    """What goes to a worker process is small, and reads the same."""
    loaded = gif_datasets.load_expanded(expanded)
    packed = pickle.dumps(loaded)
    assert len(packed) < 10_000
    again = pickle.loads(packed)
    assert [label for _, label in again] == loaded.targets.tolist()


ROWS = st.tuples(*[st.integers(0, 2**31 - 1)] * 7, st.integers(0, 1), st.integers(0, 2))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(ROWS, max_size=20))
def test_files_give_back_what_went_in(rows: list[tuple[int, ...]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Columns survive the file, the empty ones too; the same entries give the same bytes."""
    made = index.from_entries(rows)
    path = tmp_path_factory.mktemp("i") / INDEX
    path.write_bytes(index.to_bytes(made))
    found = index.map_file(path)
    assert len(found) == len(rows)
    for name in index._DTYPES:
        assert np.array_equal(getattr(found, name), getattr(made, name))
    assert index.to_bytes(found) == path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hostile_index_files(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any bytes give an index or a ShardError."""
    content = bytearray(index.to_bytes(index.from_entries([(600, 5, 700, 6, 1, 2, 0, 0, 0)] * 3)))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("h") / INDEX
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = index.map_file(path)
        index.check(found, [3], [10_000], 2)
    except ShardError:
        return
    assert len(found) == 3


@pytest.mark.parametrize("entry", [
    (100, 5, 700, 6, 1, 2, 0, 0, 0), (600, 99_999, 700, 6, 1, 2, 0, 0, 0), (600, 5, 9_999, 6, 1, 2, 0, 0, 0),
    (600, 5, 700, 6, 9, 2, 0, 0, 0), (600, 5, 700, 6, -1, 2, 0, 0, 0), (600, 5, 700, 6, 1, 2, 0, 0, 3),
    (600, 5, 700, 6, 1, 2, 1, 0, 0),
])  # fmt: skip
def test_entries_that_point_elsewhere(entry: tuple[int, ...]) -> None:
    """An entry outside its shard, or of no class or format, is refused by its number."""
    good = (600, 5, 700, 6, 1, 2, 0, 0, 0)
    with pytest.raises(ShardError, match="entry 1 "):
        index.check(index.from_entries([good, entry]), [2], [5_000], 2)
    with pytest.raises(ShardError, match="2 entries"):
        index.check(index.from_entries([good, good]), [3], [5_000], 2)


def test_from_the_hub(hub: HubServer, expanded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no folder is asked of the Hub; what it cannot give is one clear error."""
    monkeypatch.setenv("HF_TOKEN", WRITER)
    gif_datasets.push_to_hub(expanded, "me/birds-gif2x", revision="v1")
    assert len(gif_datasets.load_expanded("me/birds-gif2x", revision="v1")) == 36
    with pytest.raises(UsageError, match="no folder 'me/none' here, and the Hub does not give"):
        gif_datasets.load_expanded("me/none")
    with pytest.raises(UsageError, match=r"manifest\.json"):
        gif_datasets.load_expanded("nowhere")
    with pytest.raises(ConfigError, match="v1"):
        gif_datasets.load_expanded(expanded, revision="v1")


def test_other_readers_see_no_index(expanded: Path, tmp_path: Path) -> None:
    """A copy of the folder without the index file is the same to others: only this package reads it."""
    shutil.copytree(expanded, tmp_path / "copy", ignore=lambda *_: [INDEX])
    assert contents(tmp_path / "copy") == contents(expanded)
