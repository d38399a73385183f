"""A ratio for each class: who gets how many copies, what they are, and what knows of it."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import contents, forge_manifest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig, PlanMismatch, ShardError
from gif_datasets.cli import main
from gif_datasets.expansion.estimate import estimate
from gif_datasets.expansion.merge import merge_parts
from gif_datasets.expansion.withdraw import withdraw
from gif_datasets.ratios import copies_of_each
from gif_datasets.shards.manifest import read_manifest
from gif_datasets.shards.verify import verify

Draw = Callable[[int], Image.Image]
SIZES = {"ant": 2, "bee": 5, "crab": 9}
LINEAR: dict[str, Any] = {"prior": "linear", "samples_per_shard": 4}


@pytest.fixture
def uneven(tmp_path: Path, picture: Draw) -> Path:
    """A folder of three classes of two, five and nine pictures."""
    for label, (name, count) in enumerate(SIZES.items()):
        (tmp_path / "uneven" / name).mkdir(parents=True)
        for i in range(count):
            picture(100 * label + i).save(tmp_path / "uneven" / name / f"{i}.png")
    return tmp_path / "uneven"


def counts(folder: Path) -> list[int]:
    """Samples of each class."""
    return np.bincount(gif_datasets.load_expanded(folder).targets, minlength=3).tolist()


def digests(folder: Path) -> dict[tuple[str, int], str]:
    loaded = gif_datasets.load_expanded(folder)
    records = [loaded.provenance(i) for i in range(len(loaded))]
    return {(record.seed_origin, record.copy): record.image_sha256 for record in records}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 60), st.randoms(use_true_random=False))
def test_copies_are_spread_evenly_whatever_the_order(sizes: list[int], count: int, random: Any) -> None:
    """Classes below the count reach it, others stay; no seed has two more than another; the order changes nothing."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    rows = [(label, f"{hash((label, i)) % 10**12:012d}".encode(), i) for i, label in enumerate(labels)]
    classes = [str(label) for label in range(len(sizes))]

    def copies(order: list[tuple[int, bytes, int]]) -> dict[int, int]:
        columns = (np.array(column) for column in zip(*order, strict=True))
        found = copies_of_each(f"balance:{count}", classes, *columns, present={})
        return {index: int(own) for (_, _, index), own in zip(order, found, strict=True)}

    found, shuffled = copies(rows), random.sample(rows, len(rows))
    assert copies(shuffled) == found
    for label, size in enumerate(sizes):
        own = [found[index] for one, _, index in rows if one == label]
        assert sum(own) == max(0, count - size)
        assert max(own) - min(own) <= 1


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ("balance:2", ["balance:2 makes no copies", "'ant'", "has 2 seeds", "such as 9"]),
        ("balance:2003", ["more than 1000 copies", "2 seeds of class 'ant'", "at most 2002"]),
        ({"and": 3, "*": 1}, ["class 'and'", "did you mean 'ant'"]),
        ({"ant": 3}, ["class 'bee' and 1 more", '"*"']),
    ],
)
def test_a_ratio_that_does_not_fit_the_classes(ratio: Any, words: list[str], uneven: Path) -> None:
    """One line with the value and the way out, before anything is made."""
    with pytest.raises(ConfigError) as caught:
        ExpandedDataset(str(uneven), ratio=ratio, prior="linear")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("ratio", "word"),
    [
        ("balance", "'balance'"),
        ("balance:0", "'balance:0'"),
        ("balance:-5", "'balance:-5'"),
        ("ballance:200", "'ballance:200'"),
        ({"ant": -1}, "got -1"),
        ({"ant": 1001}, "from 0 to 1000"),
        ({"ant": 2.5}, "got 2.5"),
        ({"ant": True}, "got True"),
        ({1: 5}, "class 1"),
        ({}, "at least one class"),
        ({"ant": 0, "*": 0}, "makes no copies"),
    ],
)
def test_a_ratio_that_is_none(ratio: Any, word: str) -> None:
    """It is refused without a dataset."""
    with pytest.raises(ConfigError, match="ratio") as caught:
        ExpansionConfig(ratio=ratio)
    assert word in str(caught.value)


def test_a_table_does_not_go_with_one_choice_among_all() -> None:
    """Sample-agnostic selection has one number of copies."""
    with pytest.raises(ConfigError, match="takes one number as ratio, got 'balance:9'"):
        ExpansionConfig(method="select:cutout", selection="sample-agnostic", ratio="balance:9")


def test_a_table_is_the_configuration_s_own() -> None:
    """What the caller does to it later changes nothing; configurations compare, hash, pickle and go through JSON."""
    table = {"cat": 3, "*": 1}
    config = ExpansionConfig(ratio=table)
    table["cat"] = 9
    assert config.ratio == {"cat": 3, "*": 1}
    assert (
        pickle.loads(pickle.dumps(config)) == config == ExpansionConfig.build(json.loads(json.dumps(config.to_json())))
    )
    assert hash(config) == hash(ExpansionConfig(ratio={"*": 1, "cat": 3}))
    with pytest.raises(ConfigError, match="different numbers of copies"):
        _ = config.draws


def test_each_class_grows_to_the_count(uneven: Path, tmp_path: Path) -> None:
    """A class that has as many gets no copies; records, manifest, card, info and verify know it."""
    said: list[str] = []
    made = gif_datasets.expand(str(uneven), tmp_path / "out", ratio="balance:8", say=said.append, **LINEAR)
    assert (made.originals, made.synthetic) == (16, 6 + 3)
    assert counts(tmp_path / "out") == [8, 8, 9]
    assert verify(tmp_path / "out") == []
    assert "balance:8: no copies of classes that have as many images already: crab" in said
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.plan.recipe.ratio, manifest.plan.copies, manifest.synthetic) == ("balance:8", 9, 9)
    assert manifest.title == "uneven, expanded to 8 images of each class by gif-unclip"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "expanded to 8 images of each class by `gif-unclip`" in card
    assert '| ratio | `"balance:8"` |' in card
    of_seed = Counter(origin for origin, copy in digests(tmp_path / "out") if copy)
    assert sorted(of_seed.values()) == [1, 1, 1, 3, 3]
    assert "crab/0.png" not in of_seed


def test_info_and_report_show_the_classes(uneven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table in a file of options; how many images each class has."""
    options = tmp_path / "options.toml"
    options.write_text('prior = "linear"\n[ratio]\nant = 3\n"*" = 1\n')
    out = str(tmp_path / "out")
    assert main(["expand", str(uneven), "--out", out, "--config", str(options), "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["info", out]) == 0
    text = capsys.readouterr().out
    assert "expanded 1x to 3x by class: ant 2 + 6, bee 5 + 5, crab 9 + 9" in text
    assert '  ratio               {"*": 1, "ant": 3}' in text or '  ratio               {"ant": 3, "*": 1}' in text
    assert main(["info", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["per_class"] == {"ant": [2, 6], "bee": [5, 5], "crab": [9, 9]}
    assert main(["report", out, "--out", str(tmp_path / "page.html")]) == 0
    assert "expanded 1x to 3x by class" in (tmp_path / "page.html").read_text()
    assert json.loads((tmp_path / "page.json").read_text())["measures"]["per_class"] == [[2, 6], [5, 5], [9, 9]]
    assert main(["expand", str(uneven), "--out", out, "--ratio", "balance:x"]) == 2
    assert "got 'balance:x'" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"method": "unclip"}, {"method": "randaugment"}, {"criteria": ("diversity",)}])
def test_a_copy_is_that_of_the_same_number_for_all(options: dict[str, Any], uneven: Path, tmp_path: Path) -> None:
    """A seed with k copies has those of ``ratio=k``, by key, byte and record: they come from its cache."""
    cache = tmp_path / "cache"
    criteria = {**options, "criteria": ()} if "criteria" in options else options  # one copy has no diversity
    table = {"ant": 3, "bee": 1, "crab": 0}
    gif_datasets.expand(str(uneven), tmp_path / "three", ratio=3, cache_dir=cache, **LINEAR, **options)
    gif_datasets.expand(str(uneven), tmp_path / "one", ratio=1, cache_dir=cache, **LINEAR, **criteria)
    made = gif_datasets.expand(str(uneven), tmp_path / "table", ratio=table, cache_dir=cache, **LINEAR, **options)
    assert made.generated == 0
    gif_datasets.expand(str(uneven), tmp_path / "fresh", ratio=table, cache_dir=tmp_path / "c2", **LINEAR, **options)
    found, three, one = (digests(tmp_path / name) for name in ("table", "three", "one"))
    assert digests(tmp_path / "fresh") == found
    for (origin, copy), image in found.items():
        assert image == (three if origin.startswith("ant") else one)[origin, copy]
    assert Counter(origin.partition("/")[0] for origin, copy in found if copy) == {"ant": 6, "bee": 5}


def test_engines_parts_and_workers_make_the_same_bytes(uneven: Path, tmp_path: Path) -> None:
    """Two workers, parts in folders of their own, and the wrapped dataset."""
    options: dict[str, Any] = {**LINEAR, "ratio": "balance:8"}
    gif_datasets.expand(str(uneven), tmp_path / "a", cache_dir=tmp_path / "c1", **options)
    gif_datasets.expand(str(uneven), tmp_path / "b", cache_dir=tmp_path / "c2", workers=2, **options)
    for part in range(2):
        place = tmp_path / f"part{part}"
        gif_datasets.expand(str(uneven), place, cache_dir=tmp_path / f"p{part}", part=(part, 2), **options)
    merge_parts([tmp_path / "part0", tmp_path / "part1"], tmp_path / "c")
    expanded = ExpandedDataset(str(uneven), cache_dir=tmp_path / "c3", **options)
    expanded.precompute(tmp_path / "d")
    whole = contents(tmp_path / "a")
    assert all(contents(tmp_path / name) == whole for name in "bcd")
    again = gif_datasets.expand(str(uneven), tmp_path / "a", cache_dir=tmp_path / "c4", **options)
    assert again.generated == 0


def test_items_of_a_wrapped_dataset(uneven: Path, tmp_path: Path) -> None:
    """Seeds first, then the copies of each; length, labels, records, order of a loader and splits fit."""
    expanded = ExpandedDataset(str(uneven), ratio={"ant": 3, "bee": 0, "crab": 1}, prior="linear")
    assert len(expanded) == 16 + 6 + 9
    assert expanded.copies.tolist() == [3, 3, *[0] * 5, *[1] * 9]
    records = [expanded.provenance(i) for i in range(len(expanded))]
    assert [(r.seed_index, r.copy) for r in records[16:]] == [
        *((0, k) for k in (1, 2, 3)),
        *((1, k) for k in (1, 2, 3)),
        *((i, 1) for i in range(7, 16)),
    ]
    assert expanded.targets == [r.label for r in records]
    assert [expanded[i][1] for i in (-1, 16)] == [2, 0]
    assert sum(len(batch[1]) for batch in gif_datasets.DataLoader(expanded, batch_size=8, shuffle=True)) == 31
    train, held_out = expanded.split(0.4)
    assert {expanded.provenance(i).copy for i in held_out.indices} == {0}
    assert not {records[i].seed_key for i in train.indices} & {records[i].seed_key for i in held_out.indices}
    rows = expanded.to_hf()
    assert Counter(rows["label"]) == {0: 8, 1: 5, 2: 18}


def test_the_same_image_twice_in_a_class(uneven: Path, tmp_path: Path) -> None:
    """Two seeds of one image may have different numbers of copies; each has its own."""
    (uneven / "ant" / "2.png").write_bytes((uneven / "ant" / "0.png").read_bytes())
    options: dict[str, Any] = {"method": "gif-unclip", **LINEAR, "ratio": "balance:7"}
    gif_datasets.expand(str(uneven), tmp_path / "out", **options)
    assert verify(tmp_path / "out") == []
    assert counts(tmp_path / "out") == [7, 7, 9]


def test_plan_and_preview_leave_classes_without_copies_out(uneven: Path, tmp_path: Path) -> None:
    """The estimate counts the copies, and the preview shows seeds that have some."""
    config = ExpansionConfig(ratio={"ant": 3, "*": 0}, prior="linear")
    assert estimate(str(uneven), config=config, workers=1).synthetic == 6
    arguments = ["preview", str(uneven), "--out", str(tmp_path / "look.png"), "--prior", "linear"]
    assert main([*arguments, "--set", 'ratio={ant = 3, "*" = 0}']) == 0
    assert Image.open(tmp_path / "look.png").height < 2 * 102 + 40  # the two ants


def test_an_update_fills_classes_up(uneven: Path, tmp_path: Path, picture: Draw) -> None:
    """New seeds count; their class gets only the copies that it lacks, and old shards keep their bytes."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    gif_datasets.expand(str(uneven), out, ratio="balance:8", method="randaugment", cache_dir=cache, **LINEAR)
    before = {path.name: path.read_bytes() for path in (out / "data").iterdir()}
    (uneven / "ant" / "0.png").unlink()  # it stays in the folder
    for number in range(3):
        picture(900 + number).save(uneven / "bee" / f"new{number}.png")
    found = gif_datasets.expand(str(uneven), out, update=True, cache_dir=cache)
    assert (found.added, found.left) == (3, ("ant/0.png",))
    assert counts(out) == [8, 11, 9]
    assert verify(out) == []
    assert {path.name: path.read_bytes() for path in (out / "data").iterdir() if path.name in before} == before
    withdraw(out, ["ant/0.png"], cache_dir=cache)
    assert counts(out) == [4, 11, 9]
    picture(950).save(uneven / "ant" / "new.png")
    assert gif_datasets.expand(str(uneven), out, update=True, cache_dir=cache).added == 1
    assert counts(out) == [8, 11, 9]  # the new ant has the copies that its class lacks
    assert verify(out) == []


@pytest.mark.parametrize(("ratio", "copies"), [("balance:7", 0), ('{ant = 3, "*" = 1}', 4)])
def test_the_plan_of_an_update_says_what_it_makes(
    ratio: str, copies: int, uneven: Path, tmp_path: Path, picture: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    """``plan --update`` counts the copies by class, leaves the folder as it is, and the update makes as many."""
    flags = ["--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache"), "--workers", "1", "--json"]
    assert main(["expand", str(uneven), *flags, "--method", "randaugment", "--set", f"ratio={ratio}"]) == 0
    first = json.loads(capsys.readouterr().out)
    picture(50).save(uneven / "ant" / "new.png")
    picture(51).save(uneven / "crab" / "new.png")
    before = contents(tmp_path / "out")
    assert main(["plan", str(uneven), *flags, "--update"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert contents(tmp_path / "out") == before
    assert main(["expand", str(uneven), *flags, "--update"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert planned["difference"]["copies"] == made["synthetic"] - first["synthetic"] == copies
    assert (planned["estimate"] or {"synthetic": 0})["synthetic"] == copies
    assert planned["difference"]["shards"] == made["shards"] - first["shards"]
    assert planned["difference"]["new"] == ["ant/new.png", "crab/new.png"]
    assert planned["difference"]["generation"] == made["generation"] == 2


def test_an_update_of_full_classes_adds_seeds_alone(uneven: Path, tmp_path: Path, picture: Draw) -> None:
    """A count that no class is below any more is refused of a first run, not of an update; a table goes on by class."""
    out = tmp_path / "out"
    gif_datasets.expand(str(uneven), out, ratio="balance:3", method="randaugment", **LINEAR)
    for number in range(2):
        picture(900 + number).save(uneven / "ant" / f"new{number}.png")
    gif_datasets.expand(str(uneven), out, update=True)
    assert counts(out) == [5, 5, 9]
    table, options = tmp_path / "table", {"ratio": {"ant": 2, "*": 0}, "method": "randaugment"}
    gif_datasets.expand(str(uneven), table, **LINEAR, **options)
    picture(990).save(uneven / "ant" / "last.png")
    gif_datasets.expand(str(uneven), table, update=True)
    assert counts(table) == [15, 5, 9]
    assert verify(table) == []
    with pytest.raises(PlanMismatch, match="ratio"):
        gif_datasets.expand(str(uneven), table, update=True, ratio={"ant": 2, "*": 1})


def test_an_update_needs_to_see_seeds_without_copies(uneven: Path, tmp_path: Path) -> None:
    """Without originals they are not in the shards; such a folder is whole, and is not updated."""
    out = tmp_path / "out"
    gif_datasets.expand(str(uneven), out, ratio={"ant": 2, "*": 0}, originals=False, **LINEAR)
    assert (counts(out), verify(out)) == ([4, 0, 0], [])
    with pytest.raises(PlanMismatch, match="has no originals"):
        gif_datasets.expand(str(uneven), out, update=True)


def test_merged_with_an_even_expansion(uneven: Path, tmp_path: Path) -> None:
    """Each seed is there once, with the copies of both."""
    gif_datasets.expand(str(uneven), tmp_path / "a", ratio="balance:8", **LINEAR)
    gif_datasets.expand(str(uneven), tmp_path / "b", ratio=1, method="cutout", **LINEAR)
    merge_parts([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert counts(tmp_path / "both") == [10, 13, 18]
    assert verify(tmp_path / "both") == []
    assert '"ratio": "balance:8"' in (tmp_path / "both" / "README.md").read_text()


def test_verify_counts_the_copies_of_each_class(uneven: Path, tmp_path: Path) -> None:
    """A manifest that asks for other copies than there are, by table or by count, or of unknown classes."""
    out = tmp_path / "out"
    gif_datasets.expand(str(uneven), out, ratio={"ant": 2, "bee": 1, "crab": 0}, **LINEAR)
    manifest = json.loads((out / "manifest.json").read_text())
    for ratio, word in (
        ({"ant": 2, "bee": 0, "crab": 1}, "copy 1 is missing, or one too many"),
        ("balance:9", "is missing, or one too many"),
        ({"ant": 2, "cow": 1}, "class 'cow', which is not here"),
    ):
        recipe = {**manifest["plan"]["recipe"]}
        plan = {**manifest["plan"], "recipe": {**recipe, "options": {**recipe["options"], "ratio": ratio}}}
        forge_manifest(out, plan=plan, plan_hash=gif_datasets.io.digests.digest(plan))
        assert any(word in problem for problem in verify(out)), ratio


@pytest.mark.parametrize("ratio", ["balance:", "5", {}, {"ant": -1}, {"ant": "many"}, {"ant": 1.5}, [5], None, 0])
def test_a_manifest_with_a_ratio_that_is_none_is_damaged(ratio: Any, uneven: Path, tmp_path: Path) -> None:
    """It is named, whatever asks for the folder."""
    out = tmp_path / "out"
    gif_datasets.expand(str(uneven), out, ratio="balance:8", method="randaugment", **LINEAR)
    plan = json.loads((out / "manifest.json").read_text())["plan"]
    plan["recipe"]["options"]["ratio"] = ratio
    forge_manifest(out, plan=plan)
    with pytest.raises(ShardError, match="its ratio is"):
        gif_datasets.load_expanded(out)


def test_withdrawing_clears_the_cache_of_every_number_of_copies(uneven: Path, tmp_path: Path) -> None:
    """Copies of a withdrawn seed lie under the key of its own number of copies."""
    cache = tmp_path / "own-cache"
    out = tmp_path / "out"
    gif_datasets.expand(str(uneven), out, ratio={"ant": 3, "*": 1}, cache_dir=cache, **LINEAR)
    found = withdraw(out, ["ant/0.png", "bee/0.png"], cache_dir=cache)
    assert (found.samples, found.cache_entries) == (4 + 2, 3 + 1)
    assert verify(out) == []
