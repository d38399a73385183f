"""Expansions made in parts: in one folder or in several, the whole has the bytes of an undivided run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers import OPTIONS, contents, hugging_face

import gif_datasets
from gif_datasets import ConfigError, PlanMismatch, ShardError, UsageError
from gif_datasets.cli import parser
from gif_datasets.io import atomic
from gif_datasets.shards.folder import STATE
from gif_datasets.shards.verify import verify


@pytest.fixture
def whole(seed_folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """The folder as one run makes it."""
    gif_datasets.expand(str(seed_folder), tmp_path / "whole", **OPTIONS)
    return contents(tmp_path / "whole")


def made_in_parts(source: object, tmp_path: Path, count: int) -> list[Path]:
    folders = [tmp_path / f"part-{i}" for i in range(count)]
    for i, folder in enumerate(folders):
        gif_datasets.expand(source, folder, part=(i, count), cache_dir=tmp_path / f"cache-{i}", **OPTIONS)
    return folders


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_in_one_folder_need_no_merging(
    order: tuple[int, ...], whole: dict[str, bytes], seed_folder: Path, tmp_path: Path
) -> None:
    """The last part finishes, whichever it is; the others say how many shards are missing."""
    for done, part in enumerate(order, 1):
        summary = gif_datasets.expand(str(seed_folder), tmp_path / "out", part=(part, 3), **OPTIONS)
        assert bool(summary.missing) == (done < 3)
        assert (tmp_path / "out" / "manifest.json").exists() == (done == 3)
    assert contents(tmp_path / "out") == whole
    assert gif_datasets.expand(str(seed_folder), tmp_path / "out", part=(1, 3), **OPTIONS).generated == 0


def test_parts_of_their_own_are_merged(whole: dict[str, bytes], seed_folder: Path, tmp_path: Path) -> None:
    """Each part makes its shards alone; merged, nothing is lost and nothing is twice. Again = nothing to do."""
    folders = made_in_parts(str(seed_folder), tmp_path, 3)
    made = [{path.name for path in (folder / "data").iterdir()} for folder in folders]
    assert sum(map(len, made)) == len(set().union(*made)) == sum(name.startswith("data/") for name in whole)
    assert gif_datasets.merge_parts(folders, tmp_path / "out") == 9
    assert contents(tmp_path / "out") == whole
    assert verify(tmp_path / "out") == []
    assert gif_datasets.merge_parts(folders, tmp_path / "out") == 9
    assert contents(tmp_path / "out") == whole


def test_merging_into_a_part_and_without_links(
    whole: dict[str, bytes], seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole may grow in one of the parts, and files are copied where they cannot be linked."""
    folders = made_in_parts(str(seed_folder), tmp_path, 2)
    real = os.link

    def refuse(source: Path, target: Path) -> None:
        if str(source).endswith(".tar"):
            raise OSError("other device")
        real(source, target)

    monkeypatch.setattr(os, "link", refuse)
    gif_datasets.merge_parts(folders, folders[1])
    assert contents(folders[1]) == whole


def test_columns_of_the_source_survive(seed_folder: Path, tmp_path: Path) -> None:
    """A Hugging Face source's own columns come with the part that has the first shard."""
    source = hugging_face(seed_folder)
    gif_datasets.expand(source, tmp_path / "whole", **OPTIONS)
    gif_datasets.merge_parts(made_in_parts(source, tmp_path, 2), tmp_path / "out")
    assert (tmp_path / "out" / "source.parquet").exists()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_whoever_finishes_makes_what_is_missing(seed_folder: Path, tmp_path: Path) -> None:
    """A whole run was killed after its first shard, so nobody wrote the source's columns: the last part does."""
    rows = hugging_face(seed_folder)
    gif_datasets.expand(rows, tmp_path / "whole", **OPTIONS)
    gif_datasets.expand(rows, tmp_path / "out", part=(0, 2), **OPTIONS)
    (tmp_path / "out" / "source.parquet").unlink()
    (tmp_path / "out" / STATE / "own.json").unlink()
    gif_datasets.expand(rows, tmp_path / "out", part=(1, 2), **OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_damaged_files_beside_the_shards_are_not_merged(seed_folder: Path, tmp_path: Path) -> None:
    """The part that has them is made again, and then all is well."""
    rows = hugging_face(seed_folder)
    folders = made_in_parts(rows, tmp_path, 2)
    (folders[0] / "source.parquet").write_bytes((folders[0] / "source.parquet").read_bytes()[:100])
    with pytest.raises(ShardError, match="is in no part, or damaged: run that part again"):
        gif_datasets.merge_parts(folders, tmp_path / "out")
    gif_datasets.expand(rows, folders[0], part=(0, 2), cache_dir=tmp_path / "cache-0", **OPTIONS)
    gif_datasets.merge_parts(folders, tmp_path / "out")
    assert verify(tmp_path / "out") == []


def test_a_plan_cannot_lead_elsewhere(seed_folder: Path, tmp_path: Path) -> None:
    """The name of a split becomes part of files' names."""
    folders = made_in_parts(str(seed_folder), tmp_path, 2)
    plan = json.loads((folders[0] / "plan.json").read_text())
    recipe = plan["recipe"]
    for change in (
        {"split": "x/../../pwned"},
        {"shards": None},
        {"recipe": {}},
        {"recipe": recipe | {"options": recipe["options"] | {"ratio": "2"}}},
    ):
        for folder in folders:
            (folder / "plan.json").write_text(json.dumps(plan | change))
        with pytest.raises(UsageError, match=r"its plan\.json is invalid"):
            gif_datasets.merge_parts(folders, tmp_path / "out")
    assert not list(tmp_path.rglob("*pwned*"))


def test_missing_and_damaged_shards_are_named(seed_folder: Path, tmp_path: Path) -> None:
    """Nothing is finished until every shard is there; what is intact is kept, and a mended part completes it."""
    folders = made_in_parts(str(seed_folder), tmp_path, 3)
    with pytest.raises(ShardError, match=r"3 of 9 shards .* number 1, 4, 7"):
        gif_datasets.merge_parts([folders[0], folders[2]], tmp_path / "out")
    damaged = sorted((folders[1] / "data").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"1 of 9 shards .* number 4;"):
        gif_datasets.merge_parts(folders, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    gif_datasets.expand(str(seed_folder), folders[1], part=(1, 3), **OPTIONS)
    assert gif_datasets.merge_parts(folders, tmp_path / "out") == 9


def test_foreign_parts_are_refused(seed_folder: Path, tmp_path: Path) -> None:
    """Parts of another expansion, folders that are no part, sidecars that lie."""
    folders = made_in_parts(str(seed_folder), tmp_path, 2)
    gif_datasets.expand(str(seed_folder), tmp_path / "other", part=(1, 2), **{**OPTIONS, "ratio": 3})
    with pytest.raises(PlanMismatch, match=r"options\.ratio: 3 there, 2 here"):
        gif_datasets.merge_parts([folders[0], tmp_path / "other"], tmp_path / "out")
    with pytest.raises(UsageError, match="not a part of an expansion"):
        gif_datasets.merge_parts([folders[0], seed_folder], tmp_path / "out")
    with pytest.raises(UsageError, match="at least one"):
        gif_datasets.merge_parts([], tmp_path / "out")
    first, second = sorted((folders[0] / STATE).glob("train-*.json"))[:2]
    state = json.loads(first.read_text())
    state["shard"]["name"] = "../../elsewhere.tar"
    atomic.write_json(first, state)
    shutil.copy(folders[1] / STATE / sorted(p.name for p in (folders[1] / STATE).iterdir())[0], second)
    with pytest.raises(ShardError, match="2 of 9"):
        gif_datasets.merge_parts(folders, tmp_path / "out")


@pytest.mark.parametrize("part", [(3, 3), (-1, 3), (0, 0)])
def test_parts_that_do_not_exist(part: tuple[int, int], seed_folder: Path, tmp_path: Path) -> None:
    """The numbers are named, before anything is made."""
    with pytest.raises(ConfigError, match=f"got {part[0]} of {part[1]}"):
        gif_datasets.expand(str(seed_folder), tmp_path / "out", part=part, **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_selection_among_all_seeds_cannot_be_parted(seed_folder: Path, tmp_path: Path) -> None:
    """It compares the copies of all."""
    options = {"method": "select:unclip", "selection": "sample-agnostic", "prior": "linear"}
    with pytest.raises(ConfigError, match="in parts"):
        gif_datasets.expand(str(seed_folder), tmp_path / "out", part=(0, 2), **options)


def test_command_line(seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of `gif-datasets merge --help`."""
    run = ["expand", str(seed_folder), "--prior", "linear", "--workers", "1", "--set", "samples_per_shard=4"]
    assert parser.main([*run, "--out", str(tmp_path / "a"), "--shard-index", "0"]) == 2
    assert "go together" in capsys.readouterr().err
    for i in range(2):
        assert parser.main([*run, "--out", str(tmp_path / str(i)), "--shard-index", str(i), "--num-shards", "2"]) == 0
        assert "belong to other parts" in capsys.readouterr().out
    parts = [str(tmp_path / str(i)) for i in range(2)]
    assert parser.main(["merge", *parts, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["synthetic"] == 60
    assert parser.main(["merge", parts[0], "--out", str(tmp_path / "half")]) == 1
    assert "are in no part" in capsys.readouterr().err
