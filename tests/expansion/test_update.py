"""Updates of a finished folder: what is there keeps its shards, whatever the source does."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import OPTIONS, contents, hugging_face
from PIL import Image

import gif_datasets
import gif_datasets.shards.columns
import gif_datasets.shards.rejections
from gif_datasets import ConfigError, ExpandedDataset, PlanMismatch, ShardError, UsageError
from gif_datasets.cli import main
from gif_datasets.io import atomic, unchanged
from gif_datasets.shards.verify import verify
from gif_datasets.sources import base, known_files

Draw = Callable[[int], Image.Image]
AUGMENTED: dict[str, Any] = {**OPTIONS, "method": "randaugment"}
METHODS: list[dict[str, Any]] = [
    {"method": "randaugment"},
    {"method": "gif-unclip"},
    {"method": "gif-unclip", "classifier": "both", "validation_share": 0.25},
    {"method": "cutmix", "originals": False, "image_format": "webp"},
]


@pytest.fixture
def out(seed_folder: Path, tmp_path: Path) -> Path:
    """A finished folder of the pictures of ``seed_folder``."""
    gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / "cache", **OPTIONS)
    return tmp_path / "out"


def update(source: object, out: Path, **options: Any) -> Any:
    return gif_datasets.expand(source, out, update=True, cache_dir=out.parent / "cache", **options)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}


def images(folder: Path, *splits: str | None) -> dict[tuple[str, int], str]:
    """Digest of every image, by key of its seed and copy."""
    found = {}
    for split in splits or (None,):
        loaded = gif_datasets.load_expanded(folder, split=split)
        records = [loaded.provenance(i) for i in range(len(loaded))]
        found |= {(record.seed_key, record.copy): record.image_sha256 for record in records}
    return found


@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())))
def test_new_images_get_shards_of_their_own(
    options: dict[str, Any], seed_folder: Path, tmp_path: Path, picture: Draw
) -> None:
    """Old shards keep their bytes; each new seed has all its copies, in either split; a second run does nothing."""
    out = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), out, cache_dir=tmp_path / "cache", **{**OPTIONS, **options})
    before, loader = shards(out), gif_datasets.DataLoader(gif_datasets.load_expanded(out), seed=1).state_dict()
    for number in range(4):
        picture(100 + number).save(seed_folder / ("ant", "bee")[number % 2] / f"-{number}.png")  # before all others
    found = update(str(seed_folder), out)
    assert (found.generation, found.added, found.withdrawn, found.left) == (2, 4, 0, ())
    after = shards(out)
    assert {name: after[name] for name in before} == before
    assert all(re.fullmatch(r"(train|validation)-\d{5}-of-\d{5}\.tar", name) for name in after)
    assert verify(out) == []
    splits = (None, "validation") if "validation_share" in options else (None,)
    gif_datasets.expand(str(seed_folder), tmp_path / "whole", cache_dir=tmp_path / "c2", **{**OPTIONS, **options})
    whole = images(tmp_path / "whole", *splits)
    assert {key for key, _ in images(out, *splits)} == {key for key, _ in whole}
    if options["method"] == "randaugment":  # nothing follows from all seeds
        assert images(out) == whole
    kept = contents(out)
    assert update(str(seed_folder), out).generated == 0
    assert contents(out) == kept
    with pytest.raises(ConfigError, match=f"dataset was '{loader['order']['dataset']}', now"):
        gif_datasets.DataLoader(gif_datasets.load_expanded(out), seed=1).load_state_dict(loader)


def test_changed_and_missing_images(seed_folder: Path, out: Path, picture: Draw) -> None:
    """A changed label or image is made anew; a missing one stays unless it may go; another name changes nothing."""
    (seed_folder / "ant" / "0.png").rename(seed_folder / "bee" / "moved.png")
    (seed_folder / "ant" / "2.png").rename(seed_folder / "ant" / "9.png")
    picture(200).save(seed_folder / "crab" / "1.png")
    (seed_folder / "crab" / "3.png").unlink()
    before = shards(out)
    found = update(str(seed_folder), out)
    assert (found.added, found.withdrawn, found.left) == (2, 2, ("crab/3.png",))
    assert verify(out) == []
    loaded = gif_datasets.load_expanded(out)
    origins = {loaded.provenance(i).seed_origin: loaded.provenance(i).label for i in range(len(loaded))}
    assert (origins["bee/moved.png"], "ant/0.png" in origins, "ant/2.png" in origins) == (1, False, True)
    assert len(loaded) == 36
    kept = [name for name in before if name in shards(out)]
    assert all(shards(out)[name] == before[name] for name in kept)
    assert len(before) - len(kept) <= 4  # two seeds, each in a shard of originals and one of copies
    del loaded
    again = update(str(seed_folder), out, withdraw_missing=True)
    assert (again.generation, again.withdrawn, again.left) == (3, 1, ())
    assert "crab/3.png" not in {str(seed) for seed in origins_of(out)}
    assert verify(out) == []


def test_images_that_stay_are_not_read_again(
    seed_folder: Path, tmp_path: Path, picture: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are new are, and one that was edited under its old time."""
    read, plain = list[str](), base.plain_pixels
    monkeypatch.setattr(known_files, "LEAST_BYTES", 0)
    monkeypatch.setattr(unchanged, "SETTLED", -10 * 10**9)  # files of a test are younger than that

    def noted(source: base.Source, index: int, *more: Any) -> Any:
        read.append(source.origin(index))
        return plain(source, index, *more)

    gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / "cache", **AUGMENTED)
    edited, times = seed_folder / "ant" / "0.png", (seed_folder / "ant" / "0.png").stat()
    picture(201).save(edited)
    os.utime(edited, ns=(times.st_atime_ns, times.st_mtime_ns))
    picture(202).save(seed_folder / "bee" / "new.png")
    monkeypatch.setattr(base, "plain_pixels", noted)
    found = update(str(seed_folder), tmp_path / "out")
    assert (found.added, found.withdrawn, set(read)) == (2, 1, {"ant/0.png", "bee/new.png"})


def origins_of(folder: Path) -> set[str]:
    loaded = gif_datasets.load_expanded(folder)
    return {loaded.provenance(i).seed_origin for i in range(len(loaded))}


def test_columns_and_rows_of_a_hugging_face_dataset(seed_folder: Path, tmp_path: Path) -> None:
    """Rows that move are the same seeds; a row whose other columns change is made anew; columns survive."""
    rows = hugging_face(seed_folder)
    first, out = rows.select(range(2, 12)), tmp_path / "out"
    options: dict[str, Any] = {**OPTIONS, "cache_dir": tmp_path / "cache"}
    gif_datasets.expand(first, out, **options)
    assert update(rows, out).added == 2
    changed = rows.map(lambda row: {"id": 999 if row["id"] == 105 else row["id"]})
    found = update(changed, out)
    assert (found.added, found.withdrawn, found.left) == (1, 1, ())
    assert verify(out) == []
    ids = sorted(gif_datasets.export_expanded(out, tmp_path / "parquet", "parquet").samples.items())
    assert ids == [("train", 36)]
    table = gif_datasets.shards.columns.read_source(out)
    assert table is not None
    assert sorted(row["id"] for row in (table.rows[i] for i in table.rows)) == sorted(changed["id"])
    with pytest.raises(PlanMismatch, match="own_columns"):
        update(rows.add_column("more", list(range(12))), out)


def test_a_validation_source(seed_folder: Path, tmp_path: Path, picture: Draw) -> None:
    """New images come on their side; one that changes sides leaves the other."""
    held, out = tmp_path / "held", tmp_path / "out"
    for name in ("ant", "bee"):
        (held / name).mkdir(parents=True)
        picture(50 + len(name)).save(held / name / f"{name}.png")
    picture(60).save(held / "bee" / "b.png")
    options: dict[str, Any] = {**OPTIONS, "validation": str(held)}
    gif_datasets.expand(str(seed_folder), out, cache_dir=tmp_path / "cache", **options)
    picture(61).save(held / "ant" / "new.png")
    shutil.copy(seed_folder / "crab" / "0.png", held / "ant" / "stolen.png")
    shutil.move(seed_folder / "crab" / "0.png", tmp_path / "0.png")
    found = update(str(seed_folder), out, validation=str(held))
    assert (found.added, found.withdrawn, found.validation, found.originals) == (2, 1, 5, 11)
    assert verify(out) == []
    with pytest.raises(PlanMismatch, match="validation: true there, false here"):
        update(str(seed_folder), out)


def kept_in(folder: Path) -> tuple[str, ...]:
    return tuple(json.loads((folder / "manifest.json").read_text())["plan"]["generations"][-1]["kept"])


@pytest.mark.parametrize(
    ("change", "options", "error", "text"),
    [
        ("", {"ratio": 3}, PlanMismatch, r"options.ratio: 2 there, 3 here.* 36 copies of 12 seeds"),
        ("", {"method": "cutmix"}, PlanMismatch, r"options.method"),
        ("", {"limit": 3}, ConfigError, "a limit takes seeds"),
        ("class", {}, PlanMismatch, "classes"),
        ("other", {}, UsageError, "no image of"),
        ("read", {}, UsageError, "is being read"),
        ("store", {}, ConfigError, "folders on this machine"),
    ],
)
def test_refused(
    change: str, options: dict[str, Any], error: type, text: str, seed_folder: Path, out: Path, picture: Draw
) -> None:
    """One line that says why, and nothing is changed."""
    before, reader, where = contents(out), None, out
    if change == "class":
        (seed_folder / "dog").mkdir()
        picture(70).save(seed_folder / "dog" / "0.png")
    elif change == "other":
        for path in seed_folder.rglob("*.png"):
            picture(80 + len(str(path)) + int(path.stem)).save(path)
    elif change == "read":
        reader = gif_datasets.load_expanded(out)
        picture(71).save(seed_folder / "ant" / "0.png")
    elif change == "store":
        with pytest.raises(error, match=text):
            gif_datasets.expand(str(seed_folder), "memory://bucket/set", update=True)
        return
    with pytest.raises(error, match=text):
        update(str(seed_folder), where, **options)
    del reader
    assert contents(out) == before


def test_what_follows_from_all_seeds(seed_folder: Path, tmp_path: Path, picture: Draw) -> None:
    """Partners of mixes are the first generation's, and said so; without one of them, and for selections, refused."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    gif_datasets.expand(str(seed_folder), out, cache_dir=cache, **{**OPTIONS, "method": "cutmix"})
    first = {key for key, _ in images(out)}
    for name in ("x", "y"):
        picture(90 + ord(name)).save(seed_folder / "bee" / f"{name}.png")
        update(str(seed_folder), out)
    loaded = gif_datasets.load_expanded(out)
    assert {loaded.provenance(i).partner_key for i in range(len(loaded))} - {""} <= first
    assert kept_in(out) == ("partners of mixes among 12 seeds of generation 1",)
    (seed_folder / "ant" / "0.png").unlink()
    picture(95).save(seed_folder / "bee" / "z.png")
    update(str(seed_folder), out)
    assert kept_in(out) == ("partners of mixes among 11 seeds of generation 1",)
    for path in (seed_folder / "ant").iterdir():
        path.unlink()
    picture(96).save(seed_folder / "ant" / "last.png")
    with pytest.raises(PlanMismatch, match=r"none of class 'ant' is left of them.*30 copies|copies of 12 seeds"):
        update(str(seed_folder), out)
    chosen = tmp_path / "chosen"
    options = {"method": "select:randaugment", "selection": "sample-agnostic"}
    gif_datasets.expand(str(seed_folder), chosen, cache_dir=cache, **{**OPTIONS, **options})
    with pytest.raises(PlanMismatch, match="best copies of all seeds together"):
        update(str(seed_folder), chosen)


def test_killed_at_any_moment(
    seed_folder: Path, out: Path, picture: Draw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folder is the old one or the new one, whoever opens it next, and the same command finishes."""
    picture(110).save(seed_folder / "ant" / "0.png")
    picture(111).save(seed_folder / "ant" / "new.png")
    shutil.copytree(out, first := tmp_path / "first")
    update(str(seed_folder), out)
    old, new, states = shown(first), contents(out), list[bool]()
    for moment in range(1, 1000, 4):
        shutil.rmtree(out)
        shutil.copytree(first, out)
        calls = 0

        def dying(act: Callable[..., Any], moment: int = moment) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == moment:
                    raise SystemExit
                return act(*args)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", dying(Path.rename))
            patch.setattr(atomic, "link_or_copy", dying(atomic.link_or_copy))
            try:
                update(str(seed_folder), out)
                break
            except SystemExit:
                pass
        assert verify(out) == []
        assert shown(out) in (old, shown_of(new))
        states.append(shown(out) == old)
        update(str(seed_folder), out)
        assert contents(out) == new
    assert sorted(set(states)) == [False, True]


def shown_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if not name.startswith(".")}


def shown(folder: Path) -> dict[str, bytes]:
    """All files that are not hidden."""
    return shown_of(contents(folder))


def test_parts_workers_and_precompute(seed_folder: Path, out: Path, picture: Draw, tmp_path: Path) -> None:
    """Parts in one folder are finished by the last; a wrapped dataset does the same; both give the same bytes."""
    for number in range(6):
        picture(120 + number).save(seed_folder / "ant" / f"new-{number}.png")
    shutil.copytree(out, other := tmp_path / "other")
    more = {"samples_per_shard": 4}
    first = update(str(seed_folder), out, part=(0, 2), **more)
    assert first.missing > 0
    assert verify(out) == []
    assert update(str(seed_folder), out, part=(1, 2), **more).generation == 2
    options: dict[str, Any] = {**OPTIONS, "cache_dir": tmp_path / "cache"}
    found = ExpandedDataset(str(seed_folder), **options).precompute(other, update=True)
    assert (found.generation, found.added) == (2, 6)
    assert contents(other) == contents(out)
    with pytest.raises(ConfigError, match="withdraw_missing goes with update"):
        ExpandedDataset(str(seed_folder), **options).precompute(other, withdraw_missing=True)
    fresh = ExpandedDataset(str(seed_folder), **options).precompute(tmp_path / "fresh", update=True)
    assert fresh.generation == 1


def test_readers_of_an_older_generation(seed_folder: Path, out: Path, picture: Draw) -> None:
    """An open dataset goes on; one that is sent to another process meanwhile is told; a first run is told, too."""
    loaded = gif_datasets.load_expanded(out)
    sent = pickle.dumps(loaded)
    picture(130).save(seed_folder / "ant" / "new.png")
    update(str(seed_folder), out)
    assert np.asarray(loaded[35][0]).shape == np.asarray(loaded[0][0]).shape
    with pytest.raises(ShardError, match="has changed since it was opened"):
        pickle.loads(sent)
    with pytest.raises(PlanMismatch, match=r"has 2 generations.*add --update"):
        gif_datasets.expand(str(seed_folder), out, cache_dir=out.parent / "cache", **OPTIONS)


def test_what_people_wrote_stays(seed_folder: Path, out: Path, picture: Draw) -> None:
    """An edited card and rejected samples survive; those of a seed that leaves go with it."""
    (out / "README.md").write_text("mine\n")
    gif_datasets.shards.rejections.reject(out, ["train-0000000-0001", "train-0000004-0002"])
    picture(140).save(seed_folder / "ant" / "0.png")
    update(str(seed_folder), out)
    assert (out / "README.md").read_text() == "mine\n"
    assert json.loads((out / "rejected.json").read_text())["rejected"] == ["train-0000004-0002"]
    assert [line for line in verify(out) if not line.startswith("README.md ")] == []


def test_command_line(seed_folder: Path, out: Path, picture: Draw, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` shows the difference, `expand` makes it, `info` lists the generations."""
    picture(150).save(seed_folder / "bee" / "new.png")
    (seed_folder / "crab" / "0.png").unlink()
    where = [str(seed_folder), "--out", str(out), "--cache-dir", str(out.parent / "cache"), "--workers", "1"]
    assert main(["plan", *where, "--update", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["difference"] == {
        "generation": 2,
        "same": 11,
        "new": ["bee/new.png"],
        "changed": [],
        "left": ["crab/0.png"],
        "left_stay": True,
        "refused": [],
        "copies": 2,
        "shards": 2,
        "rewritten": 0,
        "kept": ["a classifier fitted to 11 seeds of generation 1"],
    }
    assert planned["estimate"]["synthetic"] == 2
    assert main(["plan", *where, "--update", "--withdraw-missing"]) == 0
    text = capsys.readouterr().out
    assert "1 no longer in the source, and will be removed: crab/0.png" in text
    assert "11 seeds stay; 2 copies to make, 2 shards to add, 2 to write again: generation 2" in text
    assert main(["expand", *where, "--update", "--shard-index", "0", "--num-shards", "2"]) == 0
    part = capsys.readouterr().out
    assert "belong to other parts: run those with the same --out" in part
    assert "merge" not in part
    assert main(["expand", *where, "--update"]) == 0
    done = capsys.readouterr()
    assert "generation 2: 1 seeds added, 0 removed" in done.out
    assert "crab/0.png (to remove them: --update --withdraw-missing)" in done.err
    assert main(["info", str(out)]) == 0
    assert "generation 2: 1 seeds added, 0 removed, 2 shards written, 39 samples" in capsys.readouterr().out
    assert main(["plan", *where[:1], "--update"]) == 2
    assert "--update and --out go together" in capsys.readouterr().err
    assert main(["plan", *where, "--update"]) == 0
    assert "nothing" not in capsys.readouterr().err
