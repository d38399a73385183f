"""Splits that do not leak: what is held out, what is trained on, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import OPTIONS, hugging_face
from PIL import Image, ImageEnhance

import gif_datasets
from gif_datasets import ConfigError, DataLoader, ExpandedDataset, UsageError, load_expanded, stream_expanded
from gif_datasets.data.splits import Divisible
from gif_datasets.shards.rejections import reject

Pictures = Callable[[int], Image.Image]
AUGMENTED: dict[str, Any] = {"method": "randaugment", "ratio": 2}
ALIKE = {"ant/0.png", "ant/again.jpg", "bee/turned.png"}


@pytest.fixture
def many(tmp_path: Path, picture: Pictures) -> Path:
    """Two classes of ten and of five pictures, one file that is none, and the first picture again, edited and turned.

    The last is in the other class.
    """
    for name, count in (("ant", 10), ("bee", 5)):
        (tmp_path / "many" / name).mkdir(parents=True)
        for number in range(count):
            picture(100 * count + number).save(tmp_path / "many" / name / f"{number}.png")
    (tmp_path / "many" / "ant" / "00.png").write_bytes(b"none")
    edited = ImageEnhance.Brightness(picture(1000)).enhance(0.8)
    edited.resize((48, 48)).save(tmp_path / "many" / "ant" / "again.jpg")
    edited.rotate(90).save(tmp_path / "many" / "bee" / "turned.png")
    return tmp_path / "many"


def records(dataset: Divisible) -> list[Any]:
    return [dataset.provenance(index) for index in range(len(dataset))]


@pytest.mark.filterwarnings("ignore:left out 1 of")
def test_every_form_knows_the_seed_of_each_item(many: Path, tmp_path: Path) -> None:
    """The same arrays beside the labels, whatever is left out; the exports have them as columns."""
    datasets = pytest.importorskip("datasets")
    lazy = ExpandedDataset(str(many), **AUGMENTED)
    lazy.precompute(tmp_path / "set")
    loaded, streamed = load_expanded(tmp_path / "set"), stream_expanded(str(tmp_path / "set"))
    for dataset in (lazy, loaded):
        assert [record.seed_index for record in records(dataset)] == dataset.groups.tolist()
        assert [record.synthetic for record in records(dataset)] == dataset.synthetic.tolist()
    for name in ("targets", "groups", "synthetic"):
        assert np.array_equal(getattr(streamed, name), getattr(loaded, name))
    assert streamed.targets.tolist() == [label for _, label in streamed]
    assert 1 not in lazy.groups  # the file that is no picture has its place in the source, and no item
    assert lazy.groups.dtype == np.int64
    assert lazy.synthetic.dtype == np.bool_
    for to in ("imagefolder", "parquet"):
        gif_datasets.export_expanded(tmp_path / "set", tmp_path / to, to)
    read = [datasets.load_dataset(str(tmp_path / to), split="train") for to in ("imagefolder", "parquet")]
    read.append(datasets.load_dataset("webdataset", data_files=str(tmp_path / "set/data/*.tar"), split="train"))
    columns = [(rows["seed_index"], rows["synthetic"]) for rows in (*read[:2], lazy.to_hf())]
    columns.append(tuple([row[name] for row in read[2]["json"]] for name in ("seed_index", "synthetic")))
    wanted = sorted(zip(lazy.groups.tolist(), lazy.synthetic.tolist(), strict=True))
    assert all(sorted(zip(*found, strict=True)) == wanted for found in columns)


@pytest.mark.parametrize("name", ["split", "folds"])
def test_a_stream_says_what_can_be_split(name: str, seed_folder: Path, tmp_path: Path) -> None:
    """In one line, whatever it is called with."""
    gif_datasets.expand(str(seed_folder), tmp_path / "set", **OPTIONS)
    with pytest.raises(UsageError, match=r"set cannot be split, .*use load_expanded\(\.\.\) on a copy"):
        getattr(stream_expanded(str(tmp_path / "set"), split="train"), name)(3, seed=1)


def test_held_out_seeds_are_in_the_arrays_too(seed_folder: Path) -> None:
    """Those of `validation_share`, by their places in the source."""
    held = ExpandedDataset(str(seed_folder), validation_share=0.25, **AUGMENTED).validation
    shares = [np.asarray(held[index][0]) for index in range(len(held))]
    whole = ExpandedDataset(str(seed_folder), **AUGMENTED)
    assert all(np.array_equal(np.asarray(whole[i][0]), one) for i, one in zip(held.groups, shares, strict=True))
    assert not held.synthetic.any()


def test_scikit_learn_takes_the_arrays(seed_folder: Path) -> None:
    """Its folds have no seed on both sides."""
    folds = pytest.importorskip("sklearn.model_selection").StratifiedGroupKFold(4)
    expanded = ExpandedDataset(str(seed_folder), **AUGMENTED)
    for train, test in folds.split(np.zeros(len(expanded)), expanded.targets, expanded.groups):
        assert not set(expanded.groups[train]) & set(expanded.groups[test])


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("lazily", [True, False])
@pytest.mark.parametrize("method", ["randaugment", "cutmix"])
def test_nothing_of_what_is_held_out_is_trained_on(many: Path, tmp_path: Path, method: str, lazily: bool) -> None:
    """No seed, no copy, no look-alike, no part of one in a mix; real images are held out, each once, class by class."""
    expanded: Divisible = ExpandedDataset(str(many), method=method, ratio=4)
    if not lazily:
        expanded.precompute(tmp_path / "set")
        expanded = load_expanded(tmp_path / "set")
    every, pairs = records(expanded), expanded.folds(5, seed=3)
    for train, held in pairs:
        shown, found = {record.seed_key for record in records(held)}, records(train)
        assert not held.synthetic.any()
        assert not set(train.groups) & set(held.groups)
        assert len(ALIKE & {record.seed_origin for record in records(held)}) in (0, 3)
        assert not [record for record in found if {record.seed_key, record.partner_key} & shown]
        mixed = [record for record in every if record.seed_key not in shown and record.partner_key in shown]
        assert train.left_out == len(mixed)
        assert len(train) == len(expanded) - 5 * len(held) - train.left_out
        assert train.targets.tolist() == [record.label for record in found]
    assert sorted(np.concatenate([held.groups for _, held in pairs])) == sorted(expanded.groups[~expanded.synthetic])
    counts = sorted(np.bincount(held.targets).tolist() for _, held in pairs)
    assert counts == [[2, 1], [2, 1], [2, 1], [2, 2], [3, 1]]
    assert (sum(train.left_out for train, _ in pairs) > 0) == (method == "cutmix")


def test_a_split_is_that_of_validation_share(seed_folder: Path, picture: Pictures, tmp_path: Path) -> None:
    """The same number holds out the same images, in memory or from shards; more images change few of them."""
    for number in range(4, 20):
        picture(number + 500).save(seed_folder / "ant" / f"{number}.png")
    expanded = ExpandedDataset(str(seed_folder), **AUGMENTED)
    expanded.precompute(tmp_path / "set")
    for seed in (0, 7):
        held = ExpandedDataset(str(seed_folder), validation_share=0.3, rng_seed=seed, **AUGMENTED).validation
        for dataset in (expanded, load_expanded(tmp_path / "set")):
            train, test = dataset.split(0.3, seed=seed)
            assert sorted(test.groups) == sorted(held.groups)
            assert np.bincount(test.targets).tolist() == [6, 1, 1]
            assert np.bincount(train.targets[~train.synthetic]).tolist() == [14, 3, 3]
    assert set(expanded.split(0.3)[1].groups) != set(expanded.split(0.3, seed=1)[1].groups)


def test_look_alikes_may_be_left_alone(many: Path) -> None:
    """Then images of equal pixels alone are kept together."""
    (many / "bee" / "copy.png").write_bytes((many / "ant" / "3.png").read_bytes())
    with pytest.warns(UserWarning, match="left out 1"):
        expanded = ExpandedDataset(str(many), **AUGMENTED)
    apart = set[int]()
    for seed in range(8):
        folds = [{r.seed_origin for r in records(held)} for _, held in expanded.folds(3, seed=seed, duplicates=False)]
        assert sum({"bee/copy.png", "ant/3.png"} <= fold for fold in folds) == 1
        apart.add(sum(bool(ALIKE & fold) for fold in folds))
    assert apart - {1}


def test_redrawn_mixes_do_not_leak(seed_folder: Path) -> None:
    """Where a check may draw a copy again, its partner is that of the draw that was kept."""
    options: dict[str, Any] = {
        "method": "select:cutmix",
        "ratio": 2,
        "prior": "linear",
        "redraws": 2,
        "classifier": "text",
    }
    expanded = ExpandedDataset(str(seed_folder), **options)
    with pytest.warns(UserWarning, match="mixed with an image that is held out: [1-9]"):
        train, held = expanded.split(0.25)
    shown = {record.seed_key for record in records(held)}
    assert not [record for record in records(train) if record.partner_key in shown]
    assert any(record.attempts > 1 for record in records(expanded))


def test_parts_are_datasets(seed_folder: Path, tmp_path: Path) -> None:
    """They load, mix and resume under the loader, have transforms of their own, and are split again."""
    ExpandedDataset(str(seed_folder), **AUGMENTED).precompute(tmp_path / "set")
    train, held = load_expanded(tmp_path / "set").split(0.25)
    held.dataset.transform = lambda image: torch.zeros(3)
    assert held[0][0].shape == (3,)
    assert train.classes == held.classes == ("ant", "bee", "crab")
    loader = DataLoader(train, 4, shuffle=True, mix="share:0.5")
    images, _ = next(iter(loader))
    assert images.shape == (4, 3, 32, 32)
    assert loader.state_dict()["order"]["dataset"] not in (None, DataLoader(held, 4).state_dict()["order"]["dataset"])
    inner, validation = train.split(0.3)
    assert len({*inner.groups, *validation.groups}) == len(set(train.groups.tolist())) == 9
    assert not set(inner.groups) & set(validation.groups)
    assert not set(held.groups) & {*inner.groups, *validation.groups}


def test_rejected_images_are_not_held_out(seed_folder: Path, tmp_path: Path) -> None:
    """The copies of a seed whose own image was rejected are trained on."""
    ExpandedDataset(str(seed_folder), **AUGMENTED).precompute(tmp_path / "set")
    reject(tmp_path / "set", ["train-0000000-0000"])
    pairs = load_expanded(tmp_path / "set").folds(3)
    assert all(0 in train.groups and 0 not in held.groups for train, held in pairs)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda made: made.split(0), "share must be a number above 0 and below 1, got 0"),
        (lambda made: made.split(1.0), "share must be .* got 1.0"),
        (lambda made: made.split("0.2"), "share must be .* got '0.2'"),
        (lambda made: made.split(float("nan")), "share must be .* got nan"),
        (lambda made: made.split(0.2, seed=0.5), "seed must be a whole number, got 0.5"),
        (lambda made: made.folds(1), "folds must be a whole number of at least 2, got 1"),
        (lambda made: made.folds(2.5), "folds must be a whole number of at least 2, got 2.5"),
        (lambda made: made.folds(13), "13 folds need as many different images; here are 12"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[Any], object], error: str, seed_folder: Path) -> None:
    """One line with the value."""
    with pytest.raises(ConfigError, match=error):
        call(ExpandedDataset(str(seed_folder), **AUGMENTED))


def test_what_cannot_be_split_is_refused(seed_folder: Path, tmp_path: Path) -> None:
    """Copies without their seeds, and copies of copies, whose first seeds nobody knows."""
    ExpandedDataset(str(seed_folder), originals=False, **AUGMENTED).precompute(tmp_path / "copies")
    with pytest.raises(UsageError, match="no real images to hold out"):
        load_expanded(tmp_path / "copies").split(0.2)
    again = ExpandedDataset(load_expanded(_whole(seed_folder, tmp_path)), **AUGMENTED)
    again.precompute(tmp_path / "again")
    for dataset in (again, load_expanded(tmp_path / "again")):
        with pytest.raises(UsageError, match="some seeds of this dataset are imagined copies"):
            dataset.folds(2)


def _whole(seed_folder: Path, tmp_path: Path) -> Path:
    ExpandedDataset(str(seed_folder), **AUGMENTED).precompute(tmp_path / "set")
    return tmp_path / "set"


def test_what_still_leaks_is_told(seed_folder: Path, tmp_path: Path, picture: Pictures) -> None:
    """A classifier that saw all seeds, in memory and from shards; and a class that is on one side only."""
    fitted = ExpandedDataset(str(seed_folder), **OPTIONS)
    fitted.precompute(tmp_path / "set")
    for dataset in (fitted, load_expanded(tmp_path / "set")):
        with pytest.warns(UserWarning, match=r"fitted to all seeds \(classifier=both\)"):
            dataset.split(0.25)
    for path in sorted((seed_folder / "bee").iterdir())[1:]:
        path.unlink()
    with pytest.warns(UserWarning, match="not on both sides of every split: bee;"):
        ExpandedDataset(str(seed_folder), **AUGMENTED).split(0.25)


def test_a_hugging_face_dataset_is_split(seed_folder: Path) -> None:
    """Items keep its columns on both sides."""
    train, held = ExpandedDataset(hugging_face(seed_folder), image_column="picture", **AUGMENTED).split(0.25)
    assert held[0]["id"] == 100 + held.groups[0]
    assert len({row["id"] for row in (train[i] for i in range(len(train)))} & {held[i]["id"] for i in range(3)}) == 0
