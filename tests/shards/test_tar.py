"""Shards: atomic, byte-reproducible, verified, and read by other libraries unaided."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
from helpers import forge_manifest
from PIL import Image

import gif_datasets
from gif_datasets import ShardError, UsageError
from gif_datasets.io import atomic
from gif_datasets.io.stores import as_path
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import tar as shards
from gif_datasets.shards import ustar
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.verify import verify


@pytest.fixture
def expanded(seed_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), folder, ratio=2, prior="linear", samples_per_shard=6)
    return folder


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An exception while writing keeps what was there, and no temporary file."""
    path = tmp_path / "f"
    atomic.write_bytes(path, b"old")

    class Stop(Exception):
        pass

    def cut() -> None:
        with atomic.atomic_write(path) as file:
            file.write(b"new")
            raise Stop

    with pytest.raises(Stop):
        cut()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_shards_are_plain_ustar_without_clock_or_owner(expanded: Path) -> None:
    """Headers of 512 bytes, mtime 0, no owner; members in order, adjacent, with the same names in every sample."""
    for path in sorted((expanded / "data").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert not tar.pax_headers
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
        assert all(not m.pax_headers for m in members)
        names = [m.name for m in members]
        keys = list(dict.fromkeys(name.partition(".")[0] for name in names))
        assert names == [f"{key}.{suffix}" for key in keys for suffix in ("cls", "json", "png")]
        assert all("." not in key and len(key) < 90 for key in keys)


def test_records_have_one_schema(expanded: Path) -> None:
    """Every KEY.json has the same keys with values of the same types, originals included."""
    reader = ShardReader(expanded)
    kinds = {
        tuple((k, type(v).__name__) for k, v in reader.provenance(i).to_json().items()) for i in range(len(reader))
    }
    assert len(reader) == 12 + 24
    assert len(kinds) == 1
    assert sum(reader.provenance(i).synthetic for i in range(len(reader))) == 24


@pytest.mark.parametrize(
    "change",
    [None, {"seed_index": "1"}, {"label": True}, {"seed_origin": None}],
    ids=["cut", "text", "true", "none"],
)
def test_the_seed_of_a_record(expanded: Path, change: dict[str, object] | None) -> None:
    """It is that of the whole record; a damaged one is refused by its key."""
    reader = ShardReader(expanded)
    record = reader.provenance(0)
    seed = shards.read_seed(shards.record_bytes(record), "k")
    assert (seed.index, seed.key, seed.label) == (record.seed_index, record.seed_key, record.label)
    assert (seed.origin, seed.synthetic) == (record.seed_origin, False)
    content = b"{" if change is None else json.dumps({**record.to_json(), **change}).encode()
    with pytest.raises(ShardError, match="damaged record of k"):
        shards.read_seed(content, "k")


def test_two_runs_give_the_same_bytes(expanded: Path, seed_folder: Path, tmp_path: Path) -> None:
    """A second run into another folder, with an empty cache, is equal file by file."""
    again = tmp_path / "again"
    gif_datasets.expand(
        str(seed_folder), again, ratio=2, prior="linear", samples_per_shard=6, cache_dir=tmp_path / "other-cache"
    )
    files = sorted(p.relative_to(expanded) for p in expanded.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in files:
        assert (again / name).read_bytes() == (expanded / name).read_bytes(), name


def test_webdataset_reads_it(expanded: Path) -> None:
    """`webdataset.WebDataset` gives every sample with picture, class and record."""
    urls = sorted(str(path) for path in (expanded / "data").glob("*.tar"))
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("png", "cls", "json"))
    assert len(rows) == 36
    for image, label, record in rows:
        assert image.size == (32, 32)
        assert label == record["label"]
        assert ("ant", "bee", "crab")[label] == record["class_name"]


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_reads_it(expanded: Path, streaming: bool) -> None:
    """`datasets.load_dataset(folder)` finds split, pictures, class names and records from the card."""
    rows = datasets.load_dataset(str(expanded), split="train", streaming=streaming)
    assert rows.features["cls"].names == ["ant", "bee", "crab"]
    found = list(rows)
    assert len(found) == 36
    assert {row["png"].size for row in found} == {(32, 32)}
    for row in found:
        assert row["cls"] == row["json"]["label"]


def test_load_expanded(expanded: Path) -> None:
    """Random access in any order, with class names, provenance and a transform."""
    loaded = gif_datasets.load_expanded(expanded, transform=np.asarray)
    assert loaded.classes == ("ant", "bee", "crab")
    for index in (35, 0, 17, -1):
        pixels, label = loaded[index]
        assert pixels.shape == (32, 32, 3)
        assert loaded.provenance(index % 36).label == label
    with pytest.raises(IndexError):
        loaded[36]
    with pytest.raises(UsageError, match=r"manifest\.json"):
        gif_datasets.load_expanded(expanded / "data")


def test_a_whole_folder_verifies(expanded: Path) -> None:
    """Nothing is wrong with what was just written."""
    assert verify(expanded) == []


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(bytes(content))


def _double_member(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("train-0000000-0001.cls")
        tar.addfile(info, io.BytesIO())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: _flip(sorted((d / "data").glob("*.tar"))[2], 700), "differs"),
        (lambda d: _flip(sorted((d / "data").glob("*.tar"))[0], 3), ""),
        (lambda d: sorted((d / "data").glob("*.tar"))[1].unlink(), "missing shard"),
        (lambda d: _double_member(sorted((d / "data").glob("*.tar"))[1]), "7 samples, should be 6"),
        (lambda d: (d / "data" / "train-00099-of-00100.tar").write_bytes(b""), "foreign file"),
        (lambda d: sorted((d / "data").glob("*.tar"))[3].write_bytes(b"short"), "should be"),
        (lambda d: (d / "README.md").unlink(), "missing file README.md"),
        (lambda d: forge_manifest(d, samples=35), "36 samples"),
    ],
)
def test_verify_finds_damage(expanded: Path, damage: Callable[[Path], None], words: str) -> None:
    """Each kind of damage is found and named."""
    damage(expanded)
    problems = verify(expanded)
    assert problems
    assert words in "\n".join(problems)


def test_verify_looks_into_records_too(expanded: Path) -> None:
    """A shard rewritten consistently in the manifest, but with a sample twice, is found."""
    manifest = json.loads((expanded / "manifest.json").read_text())
    first, second = manifest["shards"][2], manifest["shards"][3]
    shutil.copyfile(expanded / first["name"], expanded / second["name"])
    second.update({name: first[name] for name in ("samples", "bytes", "sha256", "md5")})
    forge_manifest(expanded, shards=manifest["shards"])
    assert "is there twice" in "\n".join(verify(expanded))


def test_a_folder_that_is_no_expansion(tmp_path: Path) -> None:
    """No manifest is wrong usage, not damage."""
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        verify(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99, "shards": []}', '{"format": 1, "shards": "x"}'])
def test_hostile_manifest(expanded: Path, text: str) -> None:
    """A damaged or newer manifest is one clear error."""
    (expanded / "manifest.json").write_text(text)
    with pytest.raises(ShardError):
        verify(expanded)


def test_hostile_tar_members(expanded: Path, tmp_path: Path) -> None:
    """Links, devices, paths that climb and unknown suffixes are refused; nothing is ever extracted."""
    victim = sorted((expanded / "data").glob("*.tar"))[0]
    bad = [
        (tarfile.SYMTYPE, "a.png"),
        (tarfile.CHRTYPE, "a.png"),
        (tarfile.REGTYPE, "../a.png"),
        (tarfile.REGTYPE, "a.py"),
    ]
    for kind, name in bad:
        with tarfile.open(victim, "w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO())
        with pytest.raises(ShardError, match="foreign member"):
            gif_datasets.load_expanded(expanded)


def test_manifest_cannot_name_files_elsewhere(expanded: Path) -> None:
    """A shard entry outside data/ is refused."""
    manifest = json.loads((expanded / "manifest.json").read_text())
    manifest["shards"][0]["name"] = "data/../../secret.tar"
    forge_manifest(expanded, shards=manifest["shards"])
    with pytest.raises(ShardError, match="outside data"):
        verify(expanded)


@pytest.mark.parametrize("kind", ["png", "webp", "jpg"])
def test_image_formats(seed_folder: Path, tmp_path: Path, kind: str) -> None:
    """Each format is stored under its suffix and read back."""
    folder = tmp_path / kind
    gif_datasets.expand(str(seed_folder), folder, ratio=1, prior="linear", image_format=kind)
    assert verify(folder) == []
    image, _ = gif_datasets.load_expanded(folder)[0]
    assert isinstance(image, Image.Image)
    rows = datasets.load_dataset(str(folder), split="train")
    assert rows[0][kind].size == (32, 32)


def test_jpeg_quality_reaches_the_file(seed_folder: Path, tmp_path: Path) -> None:
    """Stored pictures have the quantisation tables that Pillow writes for the quality; another has other bytes."""
    stored = {}
    for quality in (40, 95):
        folder = tmp_path / str(quality)
        options = {"ratio": 1, "prior": "linear", "image_format": "jpg", "jpeg_quality": quality}
        gif_datasets.expand(str(seed_folder), folder, **options)
        reader = ShardReader(folder)
        stored[quality] = {reader.key(i): reader.image_bytes(i) for i in range(len(reader)) if reader.is_synthetic(i)}
        known = io.BytesIO()
        Image.new("RGB", (8, 8)).save(known, "JPEG", quality=quality)
        wanted = Image.open(known).quantization
        assert all(Image.open(io.BytesIO(content)).quantization == wanted for content in stored[quality].values())
    assert len(stored[40]) == 12
    assert stored[40].keys() == stored[95].keys()
    assert all(len(stored[40][key]) < len(stored[95][key]) for key in stored[40])


def test_the_manifest_is_written_last(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets its name after every shard, index and card, so that a folder with a manifest is whole."""
    named, replace = list[str](), Path.replace

    def watched(temporary: Path, target: Path) -> Path:
        if Path(target).is_relative_to(tmp_path / "out"):
            named.append(Path(target).relative_to(tmp_path / "out").as_posix())
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", watched)
    gif_datasets.expand(str(seed_folder), tmp_path / "out", ratio=2, prior="linear", samples_per_shard=6)
    manifest = manifests.read_manifest(tmp_path / "out")
    whole = {*manifest.files, *(shard.name for shard in manifest.shards)} - {"plan.json"}
    assert {"README.md", "index.safetensors"} <= whole
    assert named.count("manifest.json") == 1
    assert whole <= set(named[: named.index("manifest.json")])
    assert not (whole & set(named[named.index("manifest.json") :]))


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    """A tar in the one form that shards have."""
    blocks = b"".join(ustar.header(name, len(part)) + part + bytes(-len(part) % 512) for name, part in members)
    path.write_bytes(blocks + bytes(1024 + -(len(blocks) + 1024) % tarfile.RECORDSIZE))
    return path


KEY = "train-0000001-0002"
WHOLE = ((f"{KEY}.cls", b"1"), (f"{KEY}.json", b'{"synthetic": true}'), (f"{KEY}.png", b"picture"))


def test_a_shard_by_hand(tmp_path: Path) -> None:
    """The index of it tells where its members are, and what they say."""
    found = shards.index_of(tar(tmp_path / "train-00000-of-00001.tar", *WHOLE))
    assert [found.label.tolist(), found.seed.tolist(), found.copy.tolist()] == [[1], [1], [2]]
    assert found.synthetic.tolist() == [True]
    content = (tmp_path / "train-00000-of-00001.tar").read_bytes()
    start, size = int(found.image_offset[0]), int(found.image_size[0])
    assert content[start : start + size] == b"picture"


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ((WHOLE[0], WHOLE[0], *WHOLE[1:]), "doubled member"),
        (((f"{KEY}.cls", b"1" * 21), *WHOLE[1:]), "gigantic member"),
        (((f"{KEY}.cls", b"one"), *WHOLE[1:]), "damaged label"),
        (((f"{KEY}.cls", b"2147483648"), *WHOLE[1:]), "has a label over 2"),
        (((f"{KEY}.cls", b"-2147483648"), *WHOLE[1:]), "has a label over 2"),
        (WHOLE[:2], "has members cls, json"),
        ((*WHOLE, (f"{KEY}.webp", b"another")), "has members"),
        (tuple((name.replace("train", "test"), part) for name, part in WHOLE), "foreign key"),
        (tuple((name.replace("0000001", "1"), part) for name, part in WHOLE), "foreign key"),
        (tuple((name.replace("0000001", "2147483648"), part) for name, part in WHOLE), "foreign key"),
        ((("../x.cls", b"1"), *WHOLE), "foreign member"),
    ],
)
def test_shards_by_hand_that_are_none(tmp_path: Path, members: tuple[tuple[str, bytes], ...], problem: str) -> None:
    path = tar(tmp_path / "train-00000-of-00001.tar", *members)
    with pytest.raises(ShardError, match=problem):
        shards.index_of(path)


def test_a_shard_that_goes_missing(expanded: Path) -> None:
    listed = manifests.read_manifest(expanded).shards
    (expanded / listed[0].name).unlink()
    for folder in (expanded, as_path("memory://no-shards-here")):
        with pytest.raises(ShardError, match="missing shard"):
            shards.build_index(folder, listed)


def test_manifests_that_are_not_read(expanded: Path) -> None:
    """One that is a folder, and one with half of a surrogate pair, which has no digest."""
    path = expanded / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"source": "', b'"source": "\\ud800'))
    with pytest.raises(ShardError, match="differs from its own digest"):
        manifests.read_manifest(expanded)
    path.unlink()
    path.mkdir()
    with pytest.raises(ShardError, match="cannot read"):
        manifests.read_manifest(expanded)
    assert ExpandedFolder.find(expanded) is None
