"""Training and validation kept apart: what is held out is never expanded, and no picture is on both sides."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import hugging_face
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

import gif_datasets
from gif_datasets import BadImage, ConfigError, ExpandedDataset, PlanMismatch, SourceError, UsageError
from gif_datasets.cli import main
from gif_datasets.shards.verify import verify
from gif_datasets.sources.splits import hold_out, without
from gif_datasets.types import Seed

OPTIONS = {"ratio": 2, "prior": "linear", "samples_per_shard": 5}


@pytest.fixture
def pictures(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    """Two classes of five pictures, one of them twice under two names, and another under two classes."""
    folder = tmp_path / "pictures"
    for label, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for i in range(5):
            picture(10 * label + i).save(folder / name / f"{i}.png")
    picture(0).save(folder / "ant" / "again.png")
    picture(1).save(folder / "bee" / "also.png")
    return folder


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=60),
    st.floats(0.01, 0.9),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_hold_out(drawn: list[tuple[int, int]], share: float, rng_seed: int, rng: random.Random) -> None:
    """Whole, stratified, equal pictures together, and a function of the pictures alone."""
    seeds = [Seed(i, f"key{key}", label, f"row {i}") for i, (key, label) in enumerate(drawn)]
    train, held = hold_out(seeds, share, rng_seed)
    assert sorted([*train, *held], key=lambda seed: seed.index) == seeds
    assert not {seed.key for seed in train} & {seed.key for seed in held}
    label_of = {key: min(s.label for s in seeds if s.key == key) for key in {s.key for s in seeds}}
    for label, count in Counter(label_of.values()).items():
        got = sum(label_of[key] == label for key in {seed.key for seed in held})
        assert got == min(max(1, round(share * count)), count - 1)
    shuffled = rng.sample(seeds, len(seeds))
    assert {seed.key for seed in hold_out(shuffled, share, rng_seed)[1]} == {seed.key for seed in held}
    assert hold_out(seeds, 0.0, rng_seed) == (tuple(seeds), ())


def test_another_number_holds_out_others() -> None:
    """The choice follows rng_seed; a larger share keeps what a smaller one held out."""
    seeds = [Seed(i, f"key{i}", i % 2, "") for i in range(40)]
    assert hold_out(seeds, 0.3, 0)[1] != hold_out(seeds, 0.3, 1)[1]
    assert set(hold_out(seeds, 0.2, 0)[1]) < set(hold_out(seeds, 0.5, 0)[1])


def test_without_names_what_it_leaves_out() -> None:
    """A seed that is held out elsewhere is left out by name."""
    seeds = [Seed(0, "x", 0, "a/1.png"), Seed(1, "y", 0, "a/2.png")]
    kept, same = without(seeds, [Seed(7, "y", 0, "v/9.png")])
    assert kept == (seeds[0],)
    assert same == ("a/2.png: the same image as v/9.png of the validation set",)


def test_a_share_is_held_out(pictures: Path, tmp_path: Path) -> None:
    """Own shards and indices, pictures untouched, nothing of theirs among the expanded, all of it verified."""
    summary = gif_datasets.expand(str(pictures), tmp_path / "out", validation_share=0.4, **OPTIONS)
    assert verify(tmp_path / "out") == []
    train, held = (gif_datasets.load_expanded(tmp_path / "out", split=split) for split in ("train", "validation"))
    assert (len(train), len(held)) == (summary.originals + summary.synthetic, summary.validation)
    assert summary.originals + summary.validation == 12
    keys = [{part.provenance(i).seed_key for i in range(len(part))} for part in (train, held)]
    assert not keys[0] & keys[1]
    for index in range(len(held)):
        record = held.provenance(index)
        assert (record.synthetic, record.copy, record.method) == (False, 0, "none")
        assert (np.asarray(held[index][0]) == np.asarray(Image.open(pictures / record.seed_origin))).all()
    assert {held[i][1] for i in range(len(held))} == {0, 1}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"wids-train.json", "wids-validation.json"} <= names
    info = json.loads((tmp_path / "out" / "_info.json").read_text())["splits"]
    assert {split: entry["num_samples"] for split, entry in info.items()} == {
        "train": len(train),
        "validation": len(held),
    }
    assert len(gif_datasets.load_expanded(tmp_path / "out")) == len(train)
    with pytest.raises(UsageError, match="no split 'test' here; there is train and validation"):
        gif_datasets.load_expanded(tmp_path / "out", split="test")


@pytest.mark.parametrize("method", [{}, {"classifier": "seeds"}, {"method": "cutmix"}])
def test_what_is_held_out_leaves_no_trace(pictures: Path, tmp_path: Path, method: dict[str, str]) -> None:
    """The copies are those of the other seeds alone, for methods that look at all seeds too."""
    gif_datasets.expand(str(pictures), tmp_path / "out", validation_share=0.4, **OPTIONS, **method)
    held = gif_datasets.load_expanded(tmp_path / "out", split="validation")
    for index in range(len(held)):
        (pictures / held.provenance(index).seed_origin).unlink()
    gif_datasets.expand(str(pictures), tmp_path / "alone", cache_dir=tmp_path / "other", **OPTIONS, **method)

    def copies(folder: Path) -> dict[tuple[str, int, int], str]:
        data = gif_datasets.load_expanded(folder)
        found = (data.provenance(i) for i in range(len(data)))
        return {(r.seed_key, r.label, r.copy): r.image_sha256 for r in found}

    assert copies(tmp_path / "out") == copies(tmp_path / "alone")


def test_again_and_otherwise(pictures: Path, tmp_path: Path) -> None:
    """Run again it only checks; a damaged validation shard is mended; another share is refused with the difference."""
    gif_datasets.expand(str(pictures), tmp_path / "out", validation_share=0.4, **OPTIONS)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    next((tmp_path / "out" / "data").glob("validation-*")).write_bytes(b"")
    assert gif_datasets.expand(str(pictures), tmp_path / "out", validation_share=0.4, **OPTIONS).generated == 0
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before
    with pytest.raises(PlanMismatch, match=r"\(validation_share: 0\.4 there, 0\.2 here; seeds: "):
        gif_datasets.expand(str(pictures), tmp_path / "out", validation_share=0.2, **OPTIONS)
    with pytest.raises(PlanMismatch, match=r"\(validation_share: 0\.4 there, 0\.0 here; seeds: "):
        gif_datasets.expand(str(pictures), tmp_path / "out", **OPTIONS)


@pytest.fixture
def other(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    """A validation folder: classes in another number, one picture of `pictures`, a broken one."""
    folder = tmp_path / "other"
    (folder / "bee").mkdir(parents=True)
    picture(77).save(folder / "bee" / "new.png")
    picture(12).save(folder / "bee" / "known.png")
    (folder / "bee" / "broken.png").write_bytes(b"broken")
    return folder


def test_a_validation_set_of_its_own(pictures: Path, other: Path, tmp_path: Path) -> None:
    """It is written as it is, by class name; the seed that it shows too is left out and named, as is what is broken."""
    summary = gif_datasets.expand(str(pictures), tmp_path / "out", validation=str(other), **OPTIONS)
    assert verify(tmp_path / "out") == []
    assert (summary.originals, summary.validation) == (11, 2)
    assert summary.bad == (
        "bee/broken.png: not an image",
        "bee/2.png: the same image as bee/known.png of the validation set",
    )
    held = gif_datasets.load_expanded(tmp_path / "out", split="validation")
    assert sorted(held.provenance(i).seed_origin for i in range(2)) == ["bee/known.png", "bee/new.png"]
    assert [held[i][1] for i in range(2)] == [1, 1]
    with pytest.raises(BadImage, match="broken"):
        gif_datasets.expand(str(pictures), tmp_path / "stop", validation=str(other), on_bad_image="stop", **OPTIONS)
    with pytest.raises(ConfigError, match="validation_share"):
        gif_datasets.expand(str(pictures), tmp_path / "two", validation=str(other), validation_share=0.1, **OPTIONS)
    (other / "wasp").mkdir()  # a class without pictures is none
    assert gif_datasets.expand(str(pictures), tmp_path / "three", validation=str(other), **OPTIONS).validation == 2
    Image.new("RGB", (8, 8), (7, 8, 9)).save(other / "wasp" / "w.png")
    words = r"has a class 'wasp' that pictures has not \(wasp/w.png\); its classes: ant, bee; give"
    with pytest.raises(SourceError, match=words):
        gif_datasets.expand(str(pictures), tmp_path / "four", validation=str(other), **OPTIONS)
    with pytest.raises(SourceError, match="every image"):
        gif_datasets.expand(str(pictures), tmp_path / "five", validation=str(pictures), **OPTIONS)


def test_copies_are_not_held_out(pictures: Path, tmp_path: Path) -> None:
    """An expanded folder cannot be split again: a copy would be on the other side than its seed."""
    gif_datasets.expand(str(pictures), tmp_path / "out", **OPTIONS)
    for split in (
        lambda: gif_datasets.expand(str(tmp_path / "out"), tmp_path / "more", validation_share=0.2, **OPTIONS),
        lambda: ExpandedDataset(str(tmp_path / "out"), prior="linear", validation_share=0.2),
    ):
        with pytest.raises(ConfigError, match="validation_share must be 0 for out"):
            split()


def test_a_split_of_that_name_is_refused() -> None:
    """`split=validation` and a held-out split of that name exclude each other."""
    with pytest.raises(ConfigError, match="split must not be 'validation'"):
        gif_datasets.ExpansionConfig(split="validation", validation_share=0.1)


def test_expanded_dataset_holds_out_on_request(seed_folder: Path, tmp_path: Path) -> None:
    """By default nothing changes; on request n counts the other seeds, and `validation` yields the held-out items."""
    transform = v2.Compose([v2.ToImage()])
    dataset = torchvision.datasets.ImageFolder(str(seed_folder), transform=transform)
    plain = ExpandedDataset(dataset, ratio=2, prior="linear")
    assert (len(plain), len(plain.validation)) == (36, 0)
    some = ExpandedDataset(dataset, ratio=2, prior="linear", validation_share=0.25)
    assert (len(some), len(some.validation)) == (9 * 3, 3)
    assert sorted(some.validation.targets) == [0, 1, 2]
    assert Counter(some.targets) == {0: 9, 1: 9, 2: 9}
    held = {seed.index for seed in some.plan.validation}
    for index, (image, label) in enumerate(some.validation):
        assert torch.equal(image, dataset[some.plan.validation[index].index][0])
        assert label == some.validation.targets[index]
    assert not held & {seed.index for seed in some.plan.seeds}
    some.precompute(tmp_path / "out")
    assert len(gif_datasets.load_expanded(tmp_path / "out", split="validation")) == 3
    rows = ExpandedDataset(hugging_face(seed_folder), ratio=1, prior="linear", validation_share=0.25)
    assert list(rows.validation[0]) == ["id", "picture", "kind"]


def test_command_line(pictures: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--validation SOURCE` and `--set validation_share=..`: told in the result, in info, and verified."""

    def run(*args: object) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        return (code, *capsys.readouterr())

    common = ("expand", pictures, "--prior", "linear", "--ratio", 1, "--workers", 1)
    code, out, err = run(*common, "--out", tmp_path / "a", "--validation", other)
    assert code == 0
    assert "2 seeds held out" in out
    assert "the same image as bee/known.png" in err
    _, out, _ = run(*common, "--out", tmp_path / "b", "--set", "validation_share=0.3", "--json")
    assert json.loads(out)["validation"] >= 2
    assert "split validation" in run("info", tmp_path / "b")[1]
    assert run("verify", tmp_path / "b")[0] == 0
    code, _, err = run(*common, "--out", tmp_path / "c", "--validation", tmp_path / "nowhere")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    run("preview", pictures, "--prior", "linear", "--set", "validation_share=0.3", "--out", tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").width > 200
