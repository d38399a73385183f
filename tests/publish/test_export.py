"""Export as a job: refused where it does not belong, resumable, the same bytes each time."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, MissingExtra, PlanMismatch, ShardError, UsageError
from gif_datasets.publish.export import export_expanded
from gif_datasets.publish.imagefolder import _natural, class_folders

FORMS = ("imagefolder", "parquet")

SLOW_JOB = """
import sys, time
from gif_datasets.shards.reader import ShardReader
read = ShardReader.image_bytes
def slow(self, index):
    time.sleep(0.02)
    return read(self, index)
ShardReader.image_bytes = slow
import gif_datasets
gif_datasets.export_expanded(sys.argv[1], sys.argv[2], sys.argv[3], shard_bytes=30_000)
"""


@pytest.fixture
def expanded(seed_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    gif_datasets.expand(str(seed_folder), folder, ratio=2, prior="linear", samples_per_shard=6)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".tmp-" not in path.name
    }


@pytest.mark.parametrize("form", FORMS)
def test_again_writes_nothing_and_mends_what_is_damaged(expanded: Path, form: str, tmp_path: Path) -> None:
    """The second run touches no file; damaged and missing files are written again to the same bytes."""
    first = export_expanded(expanded, tmp_path / "out", form)
    assert first.written > 0
    assert first.samples == {"train": 36}
    before = contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert export_expanded(expanded, tmp_path / "out", form).written == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    victims = sorted(path for path in (tmp_path / "out").rglob("*.p*") if path.suffix in (".png", ".parquet"))
    victims[0].write_bytes(victims[0].read_bytes()[:-9] + b"123456789")
    victims[-1].unlink(missing_ok=True)
    (tmp_path / "out" / "README.md").unlink()
    assert export_expanded(expanded, tmp_path / "out", form).written == len({victims[0], victims[-1]}) + 1
    assert contents(tmp_path / "out") == before
    export_expanded(expanded, tmp_path / "other", form)
    assert contents(tmp_path / "other") == before


@pytest.mark.parametrize("form", FORMS)
def test_kill_9_and_resume(expanded: Path, form: str, tmp_path: Path) -> None:
    """Killed half way, there is no `export.json`; the same command completes it to the same bytes."""
    export_expanded(expanded, tmp_path / "whole", form, shard_bytes=30_000)
    command = [sys.executable, "-c", SLOW_JOB, str(expanded), str(tmp_path / "out"), form]
    job = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    made = {"imagefolder": "train/*/*.png", "parquet": "data/*.parquet"}[form]
    while not list((tmp_path / "out").glob(made)) and time.monotonic() < deadline:
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert not (tmp_path / "out" / "export.json").exists()
    subprocess.run(command, check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_does_not_belong_is_refused(expanded: Path, seed_folder: Path, tmp_path: Path) -> None:
    """Other files, another form, another expansion, the folder itself: refused, and nothing is touched."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(PlanMismatch, match="not empty and holds no export"):
        export_expanded(expanded, tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.txt": b"precious"}
    export_expanded(expanded, tmp_path / "out", "imagefolder")
    before = contents(tmp_path / "out")
    with pytest.raises(PlanMismatch, match=r'to: "imagefolder" there, "parquet" here|shard_bytes'):
        export_expanded(expanded, tmp_path / "out", "parquet")
    gif_datasets.expand(str(seed_folder), tmp_path / "more", ratio=1, prior="linear")
    with pytest.raises(PlanMismatch, match="manifest"):
        export_expanded(tmp_path / "more", tmp_path / "out")
    assert contents(tmp_path / "out") == before
    for inside in (expanded, expanded / "data" / "x"):
        with pytest.raises(ConfigError, match="inside"):
            export_expanded(expanded, inside)
    with pytest.raises(ConfigError, match="unknown form 'csv'"):
        export_expanded(expanded, tmp_path / "csv", "csv")
    with pytest.raises(UsageError, match=r"is an export; to check it, run the same"):
        export_expanded(tmp_path / "out", tmp_path / "again")


def test_damaged_shards_are_not_exported(expanded: Path, tmp_path: Path) -> None:
    """A flipped bit is refused by the shard's name, before anything is written."""
    victim = sorted((expanded / "data").glob("*.tar"))[2]
    content = bytearray(victim.read_bytes())
    content[700] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(ShardError, match=victim.name):
        export_expanded(expanded, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMS)
def test_full_and_read_only_disks(expanded: Path, form: str, tmp_path: Path) -> None:
    """A full disk ends with its name and no `export.json`, and with room again the same call completes."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(OSError, match="No space left"):
            export_expanded(expanded, small / "out", form)
        assert not (small / "out" / "export.json").exists()
        assert not list((small / "out").rglob(".tmp-*"))
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with pytest.raises(ConfigError, match="cannot write to"):
            export_expanded(expanded, small / "new", form)
        subprocess.run(["mount", "-o", "remount,rw,size=4m", str(small)], check=True)
        export_expanded(expanded, small / "out", form)
        export_expanded(expanded, tmp_path / "other", form)
        assert contents(small / "out") == contents(tmp_path / "other")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_parquet_files_and_row_groups_are_bounded(expanded: Path, tmp_path: Path) -> None:
    """Files hold about as much as asked for, every row once; pictures are stored as they are."""
    summary = export_expanded(expanded, tmp_path / "out", "parquet", shard_bytes=60_000)
    files = [pyarrow.parquet.ParquetFile(path) for path in sorted((tmp_path / "out" / "data").iterdir())]
    assert len(files) == summary.files > 2
    assert sum(file.metadata.num_rows for file in files) == 36
    group = files[0].metadata.row_group(0)
    kinds = {group.column(i).path_in_schema: group.column(i).compression for i in range(group.num_columns)}
    assert kinds["image.bytes"] == "UNCOMPRESSED"
    assert kinds["seed_key"] == "ZSTD"


def test_without_the_extra(expanded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet without `datasets` names the command that installs it; the folder form needs nothing."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"gif_datasets\[hf\]"):
        export_expanded(expanded, tmp_path / "out", "parquet")
    export_expanded(expanded, tmp_path / "out", "imagefolder")


def test_command_line(expanded: Path, tmp_path: Path) -> None:
    """`gif-datasets export`: a result, as text and as JSON; 2 and one line for what is wrong."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gif_datasets", "export", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))

    done = run(expanded, "--to", "imagefolder", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "36 samples of split train in 36 files" in done.stdout
    again = json.loads(run(expanded, "--to", "imagefolder", "--out", tmp_path / "out", "--json").stdout)
    assert (again["written"], again["samples"]) == (0, {"train": 36})
    for args in (("--to", "mds", "--out", tmp_path / "x"), ("--to", "parquet", "--out", tmp_path / "out")):
        wrong = run(expanded, *args)
        assert wrong.returncode == 2
        assert len(wrong.stderr.strip().splitlines()) == 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=150), min_size=1, max_size=30, unique=True))
def test_class_folders_are_safe_distinct_and_in_label_order(names: list[str]) -> None:
    """Whatever classes are called, their folders are one plain component each, distinct, and sorted like the labels."""
    found = class_folders(names)
    assert list(found) == sorted(found) == sorted(found, key=_natural)
    assert len({name.casefold() for name in found}) == len(names)
    for name in found:
        assert name == Path(name).name
        assert not name.startswith((".", " "))
        assert not name.endswith((".", " "))
        assert len(name.encode("utf-8")) < 200


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["ant", "bee"], ("ant", "bee")),
        (["bee", "ant"], ("0_bee", "1_ant")),
        (["Cat", "cat"], ("0_Cat", "1_cat")),
        (["c10", "c9"], ("0_c10", "1_c9")),
        (["../../etc", "a/b"], ("0_etc", "1_a_b")),
        (["CON", "nul.txt"], ("CON_", "nul_.txt")),
        (["Aux.tar.gz", "com\u00b9", "lpt1 .a"], ("Aux_.tar.gz", "com\u00b9_", "lpt1_ .a")),
        (["console", "nul-x.txt", "x.nul"], ("console", "nul-x.txt", "x.nul")),
        ([".", "\0"], ("0_class", "1_class")),
    ],
)
def test_class_folders(names: list[str], folders: tuple[str, ...]) -> None:
    """Plain names stay; others are cleaned, and numbered where that is needed."""
    assert class_folders(names) == folders


def test_a_source_s_own_columns_come_along(tmp_path: Path) -> None:
    """In class folders too: those that JSON holds, typed, with the seed's values in every copy."""
    buffers = []
    for number in range(6):
        buffers.append(io.BytesIO())
        Image.new("RGB", (32, 32), (number, 2 * number, 90)).save(buffers[-1], "PNG")
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "label": datasets.ClassLabel(names=["ant", "bee"]),
            "site": datasets.ClassLabel(names=["north", "south"]),
            "size": datasets.Value("float32"),
            "tags": datasets.List(datasets.Value("string")),
            "mask": datasets.Image(),
        }
    )
    cells = [{"bytes": buffer.getvalue(), "path": None} for buffer in buffers]
    rows = {
        "photo": cells, "label": [0, 1] * 3, "site": [0, 0, 0, 1, 1, 1],
        "size": [0.5, float("nan"), 2.5, 3.5, 4.5, 5.5], "tags": [["a"], [], ["b", "c"], [], [], ["d"]], "mask": cells,
    }  # fmt: skip
    source = datasets.Dataset.from_dict(rows, features=features)
    gif_datasets.ExpandedDataset(
        source, image_column="photo", label_column="label", prior="linear", ratio=1, cache_dir=tmp_path / "cache"
    ).precompute(tmp_path / "made")
    export_expanded(tmp_path / "made", tmp_path / "out", "imagefolder")
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert loaded.features["source"]["site"] == features["site"]
    assert set(loaded.features["source"]) == {"label", "site", "size", "tags"}
    assert len(loaded) == 12
    for row in loaded:
        own, seed = row["source"], row["seed_index"]
        assert (own["label"], own["site"], own["tags"]) == (row["label"], rows["site"][seed], rows["tags"][seed])
        assert own["size"] == pytest.approx(rows["size"][seed], nan_ok=True)


@pytest.mark.parametrize("how", ["root", "split", "pattern", "card"])
def test_class_names_are_known_however_folders_are_loaded(expanded: Path, how: str, tmp_path: Path) -> None:
    """By the card, by the builder's name as transformers' own script does, from the root and from a split."""
    out = tmp_path / "out"
    export_expanded(expanded, out)
    ways: dict[str, Any] = {
        "root": {"path": "imagefolder", "data_dir": str(out)},
        "split": {"path": "imagefolder", "data_dir": str(out / "train")},
        "pattern": {"path": "imagefolder", "data_files": {"train": str(out / "train" / "**")}},
        "card": {"path": str(out)},
    }
    rows = datasets.load_dataset(**ways[how], split="train", cache_dir=str(tmp_path / "hub"))
    assert rows.features["label"] == datasets.ClassLabel(names=["ant", "bee", "crab"])
    assert np.bincount(rows["label"]).tolist() == [12, 12, 12]
    if how != "split":  # there, datasets does not look for metadata, and takes the names of the folders
        assert {(row["label"], row["class_name"]) for row in rows} == {(0, "ant"), (1, "bee"), (2, "crab")}


def test_metadata_without_the_extra(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is JSON then, a line for each image; with the extra again, it is another export."""
    gif_datasets.expand(str(seed_folder), tmp_path / "made", ratio=1, prior="linear")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "datasets", None)
        export_expanded(tmp_path / "made", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "train" / "metadata.jsonl").open("rb")]
    assert len(lines) == 24
    assert all((tmp_path / "out" / "train" / line["file_name"]).is_file() for line in lines)
    with pytest.raises(PlanMismatch, match='metadata: null there, "parquet" here'):
        export_expanded(tmp_path / "made", tmp_path / "out")
