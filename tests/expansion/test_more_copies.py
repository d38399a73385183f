"""More copies of seeds that a folder has: new shards, made as the first ones were, from the folder alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import OPTIONS, contents, hugging_face
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, PlanMismatch, ShardError, UsageError, load_expanded
from gif_datasets.cli import main
from gif_datasets.expansion.expand import engine_of
from gif_datasets.expansion.more_copies import add_copies, open_stored
from gif_datasets.expansion.run import Summary
from gif_datasets.io.cache.store import open_cache
from gif_datasets.shards.manifest import Generation, read_manifest
from gif_datasets.shards.verify import verify

Key = tuple[int, int]


def add(folder: Path, more: dict[int, int], **given: Any) -> Summary:
    return add_copies(open_stored(folder, given), more, open_cache(folder.parent / "cache"), engine_of())


def made(folder: Path) -> dict[Key, str]:
    """Digest of every image, by number of its seed and copy."""
    loaded = load_expanded(folder)
    records = [loaded.provenance(place) for place in range(len(loaded))]
    return {(record.seed_index, record.copy): record.image_sha256 for record in records}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "gif-unclip", "classifier": "both"},
        {"method": "gif-unclip", "check": "label", "redraws": 2, "logit_scale": 60.0},
        {"method": "select:unclip", "redraws": 2, "logit_scale": 60.0},
        {"method": "cutmix", "ratio": "balance:9"},
        {"method": "randaugment", "check": "novel", "ratio": {"ant": 0, "*": 2}},
    ],
)
def test_copies_count_on_and_older_shards_stay(options: dict[str, Any], seed_folder: Path, tmp_path: Path) -> None:
    """Names and bytes of the first shards stay; further copies have higher numbers, and are other images."""
    (seed_folder / "ant" / "0.png").unlink()
    out = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), out, cache_dir=tmp_path / "cache", **{**OPTIONS, **options})
    shutil.rmtree(seed_folder)  # the folder has all that is needed
    before, shards = made(out), contents(out / "data")
    last = {seed: max(copy for one, copy in before if one == seed) for seed, _ in before}
    summary = add(out, {0: 2, 5: 1})
    add(out, {5: 3})
    assert (summary.generation, summary.synthetic) == (2, len(before) - 11 + 3)
    assert verify(out) == []
    assert {name: content for name, content in contents(out / "data").items() if name in shards} == shards
    now = made(out)
    assert {key: now[key] for key in before} == before
    wanted = [(0, last[0] + 1), (0, last[0] + 2), *((5, last[5] + copy) for copy in (1, 2, 3, 4))]
    assert sorted(now.keys() - before.keys()) == sorted(wanted)
    different = len({now[seed, copy] for seed, copy in now if seed in (0, 5)})
    assert different == last[0] + last[5] + 8 or options["method"] == "cutmix"  # a seed may be its own partner
    assert read_manifest(out).plan.more == {0: 2, 5: 4}


def test_further_copies_do_not_depend_on_how_they_were_asked_for(seed_folder: Path, tmp_path: Path) -> None:
    """Two at once are those of one after the other, with or without the cache."""
    for name, steps in (("a", [{1: 2, 3: 1}]), ("b", [{1: 1}, {1: 1, 3: 1}])):
        out = tmp_path / name / "out"
        gif_datasets.expand(str(seed_folder), out, cache_dir=tmp_path / name / "cache", method="gif-unclip", **OPTIONS)
        for more in steps:
            shutil.rmtree(tmp_path / name / "cache")
            add(out, more)
    assert made(tmp_path / "a" / "out") == made(tmp_path / "b" / "out")


def test_own_columns_go_with_further_copies(seed_folder: Path, tmp_path: Path) -> None:
    """Each has the values of its seed, and the folder can still be updated, and seeds withdrawn."""
    source, out = hugging_face(seed_folder), tmp_path / "out"
    options = {**OPTIONS, "method": "cutout", "cache_dir": tmp_path / "cache"}
    gif_datasets.expand(source, out, **options)
    add(out, {2: 3})
    assert verify(out) == []
    again = gif_datasets.expand(source, out, update=True, cache_dir=tmp_path / "cache")
    assert (again.generated, again.generation) == (0, 2)
    gone = gif_datasets.withdraw(out, ["train-0000002-0004"], cache_dir=tmp_path / "cache")
    assert (gone.samples, gone.generation) == (6, 3)
    assert verify(out) == []


def test_verify_counts_further_copies(seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy that is said to be there and is not is found; `info` says what each generation added."""
    out = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), out, cache_dir=tmp_path / "cache", method="cutout", **OPTIONS)
    add(out, {1: 2})
    assert main(["info", str(out)]) == 0
    assert "2 more copies of 1 seeds, 1 shards written" in capsys.readouterr().out
    told = "rounds of more copies of what a network got wrong: 2 copies of 1 seeds"
    assert f"| refined | `{told}` |" in (out / "README.md").read_text()
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    assert told in (tmp_path / "report.html").read_text()
    entry = json.loads((out / "manifest.json").read_text())["plan"]["generations"][-1]
    assert entry["more"] == {"1": 2}
    assert Generation.from_json(entry).to_json() == entry
    for more in ({"x": 2}, {"1": "2"}, {"1": True}, [1]):
        with pytest.raises(ShardError, match="damaged entry of a generation"):
            Generation.from_json({**entry, "more": more})


def test_what_cannot_go_on_is_refused(seed_folder: Path, tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """Before anything is made, with the way out."""
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"image_format": "jpg"}, UsageError, "with other pixels than the seed has.*image_format=png"),
        ({"originals": False}, UsageError, "no real seeds among its samples.*originals=true"),
        ({"method": "select:cutout", "selection": "sample-agnostic"}, PlanMismatch, "best copies of all seeds"),
    ]
    for number, (options, error, text) in enumerate(refused):
        out = tmp_path / str(number)
        gif_datasets.expand(
            str(seed_folder), out, cache_dir=tmp_path / "cache", **{**OPTIONS, "method": "cutout", **options}
        )
        kept = contents(out)
        with pytest.raises(error, match=text):
            add(out, {0: 1})
        assert contents(out) == kept
    out = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), out, cache_dir=tmp_path / "cache", method="cutout", **OPTIONS)
    with pytest.raises(ConfigError, match="would have 1001 copies; at most 1000"):
        add(out, {0: 999})
    with pytest.raises(PlanMismatch, match="made with other options"):
        add(out, {0: 1}, rng_seed=3)
