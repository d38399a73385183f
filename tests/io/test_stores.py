"""Folders in an object store, a real S3 server on this machine: the bytes of a local folder, whoever is interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fsspec
import pytest
from helpers import OPTIONS, contents, stored

import gif_datasets
from gif_datasets import ConfigError, MissingExtra, PlanMismatch, ShardError, UsageError
from gif_datasets.cli import parser
from gif_datasets.data.streaming import stream_expanded
from gif_datasets.io import stores
from gif_datasets.io.stores import RemotePath
from gif_datasets.shards.folder import STATE
from gif_datasets.shards.verify import verify


@pytest.fixture
def url(s3_server: str, request: pytest.FixtureRequest) -> str:
    return f"s3://bucket/{request.node.name}/set"


@pytest.fixture
def local(seed_folder: Path, tmp_path: Path) -> Path:
    """The folder as it is made on a disk."""
    gif_datasets.expand(str(seed_folder), tmp_path / "local", cache_dir=tmp_path / "c0", **OPTIONS)
    return tmp_path / "local"


def test_same_bytes_as_on_a_disk(url: str, local: Path, seed_folder: Path, tmp_path: Path) -> None:
    """The objects are the files of a local folder; again = nothing to do."""
    for generated in (24, 0):
        summary = gif_datasets.expand(str(seed_folder), url, cache_dir=tmp_path / "c1", **OPTIONS)
        assert summary.generated == generated
        assert stored(url) == contents(local)
    assert verify(RemotePath(url)) == []


def test_readers(url: str, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a folder gives, its URL gives: samples, records, streams, commands; damage is found and named."""
    store, root = fsspec.url_to_fs(url)
    store.put(str(local), root, recursive=True)
    near, far = gif_datasets.load_expanded(local), gif_datasets.load_expanded(url)
    assert [(image.tobytes(), label) for image, label in far] == [(image.tobytes(), label) for image, label in near]
    assert far.provenance(5) == near.provenance(5)
    assert sum(1 for _ in stream_expanded(url)) == len(near)
    assert parser.main(["verify", url]) == 0
    assert parser.main(["info", url, "--json"]) == 0
    printed = capsys.readouterr().out.partition("\n")[2]
    assert json.loads(printed)["samples"] == 36
    name = sorted(path.name for path in (local / "data").iterdir())[1]
    content = bytearray((local / "data" / name).read_bytes())
    content[700] ^= 1
    store.pipe_file(f"{root}/data/{name}", bytes(content))
    assert parser.main(["verify", url]) == 1
    assert f"data/{name}: content differs" in capsys.readouterr().out
    store.rm_file(f"{root}/data/{name}")
    with pytest.raises(ShardError, match=f"missing shard data/{name}"):
        gif_datasets.load_expanded(url)
    assert f"missing shard data/{name}" in verify(RemotePath(url))


def test_interrupted_runs_go_on(
    url: str, local: Path, seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after a shard, its part of the index or its sidecar was put: nothing is lost, nothing twice."""
    real, put, limit = RemotePath.write_bytes, list[str](), [0]

    def killed(self: RemotePath, content: bytes) -> None:
        if len(put) == limit[0]:
            raise KeyboardInterrupt
        put.append(self.name)
        real(self, content)

    monkeypatch.setattr(RemotePath, "write_bytes", killed)
    for limit[0] in (5, 5, 6):  # the first time the note of what belongs to the plan goes before
        put.clear()
        with pytest.raises(KeyboardInterrupt):
            gif_datasets.expand(str(seed_folder), url, cache_dir=tmp_path / "c1", **OPTIONS)
        assert "manifest.json" not in stored(url)
    monkeypatch.setattr(RemotePath, "write_bytes", real)
    noted = len(list((RemotePath(url) / STATE).glob("train-*.json")))
    assert noted == 1 + 1 + 2
    gif_datasets.expand(str(seed_folder), url, cache_dir=tmp_path / "c1", **OPTIONS)
    assert stored(url) == contents(local)


def test_what_is_lost_is_made_again(url: str, local: Path, seed_folder: Path, tmp_path: Path) -> None:
    """A shard that is gone or cut, a part of the index that is: each is mended by the same command."""
    gif_datasets.expand(str(seed_folder), url, cache_dir=tmp_path / "c1", **OPTIONS)
    store, root = fsspec.url_to_fs(url)
    names = sorted(path.name for path in (local / "data").iterdir())
    store.rm_file(f"{root}/data/{names[0]}")
    store.pipe_file(f"{root}/data/{names[1]}", b"cut")
    store.rm_file(f"{root}/{STATE}/{names[2].removesuffix('.tar')}.index.safetensors")
    store.rm_file(f"{root}/index.safetensors")
    gif_datasets.expand(str(seed_folder), url, cache_dir=tmp_path / "c1", **OPTIONS)
    assert stored(url) == contents(local)


def test_parts_share_a_store(url: str, local: Path, seed_folder: Path, tmp_path: Path) -> None:
    """The part that is last finishes; another expansion is refused, and nothing of the first touched."""
    for i in (1, 0):
        summary = gif_datasets.expand(str(seed_folder), url, part=(i, 2), cache_dir=tmp_path / "c1", **OPTIONS)
        assert bool(summary.missing) == (i == 1)
    assert stored(url) == contents(local)
    with pytest.raises(PlanMismatch, match=r"options\.ratio: 2 there, 3 here"):
        gif_datasets.expand(str(seed_folder), url, cache_dir=tmp_path / "c1", **{**OPTIONS, "ratio": 3})
    assert stored(url) == contents(local)


def test_two_at_once_make_one_plan(url: str) -> None:
    """The store lets one of them put it."""
    path = RemotePath(url) / "plan.json"
    assert path.create(b"first")
    assert not path.create(b"second")
    assert path.read_bytes() == b"first"


def test_stores_that_cannot_be_used(
    s3_server: str, seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in one line that says what to do, before anything is made."""
    with pytest.raises(ConfigError, match=r"cannot write to s3://nobody/set: .*bucket"):
        gif_datasets.expand(str(seed_folder), "s3://nobody/set", **OPTIONS)
    with pytest.raises(ConfigError, match="opens ftq:// URLs"):
        gif_datasets.expand(str(seed_folder), "ftq://there/set", **OPTIONS)
    with pytest.raises(UsageError, match=r"no manifest\.json in s3://bucket/nothing"):
        gif_datasets.load_expanded("s3://bucket/nothing")
    assert parser.main(["info", "s3://bucket/nothing"]) == 2
    assert "no such folder: s3://bucket/nothing" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""

    def missing(url: str) -> None:
        raise ImportError("Install it")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(MissingExtra, match=r"s3fs is not installed; run: pip install 'gif_datasets\[s3\]'"):
        RemotePath("s3://bucket/set").read_bytes()


def test_texts_of_errors_stay_here() -> None:
    """A store's own errors may tell of credentials; theirs is named by kind."""

    class Broken:
        def invalidate_cache(self) -> None:
            raise RuntimeError("signed with SECRET")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "_connected", lambda url: (Broken(), "set"))
        with pytest.raises(OSError, match=r"^x://set: RuntimeError$"):
            RemotePath("x://set").exists()
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") != "SECRET"
