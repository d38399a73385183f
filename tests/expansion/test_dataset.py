"""ExpandedDataset: a drop-in map-style dataset over torchvision and Hugging Face datasets, lazy and picklable."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torchvision
from helpers import hugging_face
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset
from gif_datasets.priors.linear import LinearPrior

TO_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def expanded(seed_folder: Path) -> ExpandedDataset:
    dataset = torchvision.datasets.ImageFolder(str(seed_folder), transform=TO_TENSOR)
    return ExpandedDataset(dataset, ratio=3, prior="linear")


def test_length_labels_and_items(expanded: ExpandedDataset) -> None:
    """Seeds first, then K copies of each in turn; labels are the seeds'; transforms apply to both."""
    assert len(expanded) == 12 * 4
    assert expanded.classes == ("ant", "bee", "crab")
    assert expanded.targets == [i // 4 for i in range(12)] + [i // 12 for i in range(36)]
    for index in (0, 11, 12, 47, -1):
        image, label = expanded[index]
        assert isinstance(image, torch.Tensor)
        assert image.shape == (3, 32, 32)
        assert label == expanded.targets[index]
    with pytest.raises(IndexError):
        expanded[48]
    record = expanded.provenance(12 + 3 * 5 + 1)
    assert (record.seed_index, record.copy, record.label) == (5, 2, 1)
    assert not expanded.provenance(5).synthetic


def test_copies_differ_from_their_seed_and_from_each_other(expanded: ExpandedDataset) -> None:
    """No two of a seed's samples are equal."""
    items = [expanded[0][0]] + [expanded[12 + k][0] for k in range(3)]
    for i in range(4):
        for j in range(i):
            assert not torch.equal(items[i], items[j])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_data_loader(expanded: ExpandedDataset, workers: int, shuffle: bool) -> None:
    """Any number of workers and any order give the same samples."""
    reference = {i: expanded[i] for i in range(48)}
    fresh = ExpandedDataset(
        torchvision.datasets.ImageFolder(expanded.source.dataset.root, transform=TO_TENSOR),
        ratio=3, prior="linear", cache_dir=Path(expanded.imaginer.cache.folder) / f"cold-{workers}-{shuffle}",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(fresh, batch_size=7, shuffle=shuffle, num_workers=workers, generator=generator)
    pixels, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert len(labels) == 48
    wanted = sorted((_bytes(image), label) for image, label in reference.values())
    assert sorted((_bytes(image), int(label)) for image, label in zip(pixels, labels, strict=True)) == wanted
    if not shuffle:
        assert torch.equal(pixels, torch.stack([reference[i][0] for i in range(48)]))


def _bytes(image: torch.Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()


def test_each_sample_is_imagined_once(expanded: ExpandedDataset) -> None:
    """A second pass, and another dataset object on the same cache, decode nothing."""
    list(expanded)
    assert expanded.imaginer.generated == 36
    list(expanded)
    assert expanded.imaginer.generated == 36
    again = ExpandedDataset(torchvision.datasets.ImageFolder(expanded.source.dataset.root), ratio=3, prior="linear")
    list(again)
    assert again.imaginer.generated == 0


def test_a_missing_item_brings_its_block(seed_folder: Path) -> None:
    """A block costs the same however few of it are wanted, so a single item makes all of it, and those only."""
    expanded = ExpandedDataset(str(seed_folder), ratio=3, prior="linear", decode_batch=5)
    for index, made in ((0, 0), (18, 5), (21, 5), (-1, 6), (12, 11)):  # of 12 seeds and 36 copies
        assert expanded[index] is not None
        assert expanded.imaginer.generated == made
    assert expanded.provenance(22).copy == 2
    assert expanded.imaginer.generated == 16


def test_workers_beside_a_gpu_only_read(seed_folder: Path) -> None:
    """Asked for items one by one or many at once, a worker process refuses what it would have to imagine there."""
    expanded = ExpandedDataset(str(seed_folder), ratio=1, prior="linear")
    on_gpu = dataclasses.replace(expanded.plan.recipe, device="cuda")
    expanded.plan = dataclasses.replace(expanded.plan, recipe=on_gpu)
    for batch_size in (None, 2):
        with pytest.raises(gif_datasets.EngineError, match=r"seed 0 .*not in the cache"):
            list(DataLoader(Subset(expanded, [12, 13]), batch_size, num_workers=1, multiprocessing_context="fork"))
    assert expanded.imaginer.cache.stats()["entries"] == 0


def test_lazy_and_precomputed_agree(expanded: ExpandedDataset, tmp_path: Path) -> None:
    """What precompute writes is what lazy access yields, and what the command line would write."""
    expanded.precompute(tmp_path / "out")
    loaded = gif_datasets.load_expanded(tmp_path / "out", transform=TO_TENSOR)
    by_place = {(r.seed_index, r.copy): i for i in range(len(loaded)) for r in [loaded.provenance(i)]}
    for index in range(len(expanded)):
        record = expanded.provenance(index)
        place = by_place[record.seed_index, record.copy]
        assert loaded.provenance(place) == record
        assert torch.equal(loaded[place][0], expanded[index][0])


def test_pickles_without_model_and_keeps_working(expanded: ExpandedDataset) -> None:
    """A pickle holds no weights and yields the same items."""
    item = expanded[20][0]
    copy = pickle.loads(pickle.dumps(expanded))
    assert copy.imaginer._loaded is None
    assert torch.equal(copy[20][0], item)


def test_subset_and_plain_lists(seed_folder: Path) -> None:
    """A Subset keeps its own indices and its dataset's transforms; a list of pairs works with class names."""
    folder = torchvision.datasets.ImageFolder(str(seed_folder), transform=TO_TENSOR)
    some = ExpandedDataset(Subset(folder, [1, 5, 9]), ratio=2, prior="linear")
    assert some.targets == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    assert some[4][0].shape == (3, 32, 32)
    bare = torchvision.datasets.ImageFolder(str(seed_folder))
    pairs = ExpandedDataset([bare[1], bare[5]], ratio=1, prior="linear", classes=["x", "y", "z"])
    assert isinstance(pairs[2][0], Image.Image)


def test_hugging_face_rows_keep_their_columns(seed_folder: Path) -> None:
    """Copies carry the seed's own columns, with the picture replaced; set_transform applies to them too."""
    rows = hugging_face(seed_folder)
    expanded = ExpandedDataset(rows, ratio=2, prior="linear")
    assert len(expanded) == 36
    seed, copy = expanded[5], expanded[12 + 2 * 5]
    assert list(seed) == list(copy) == ["id", "picture", "kind"]
    assert (copy["id"], copy["kind"]) == (105, 1)
    assert np.asarray(copy["picture"]).shape == (32, 32, 3)

    def transform(batch: dict[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        return {"pixels": [TO_TENSOR(image) for image in batch["picture"]], "kind": batch["kind"]}

    rows.set_transform(transform)
    loader = DataLoader(ExpandedDataset(rows, ratio=2, prior="linear"), batch_size=36)
    batch = next(iter(loader))
    assert batch["pixels"].shape == (36, 3, 32, 32)


def test_copies_take_the_form_of_the_seeds(seed_folder: Path) -> None:
    """Grey, tensor and array datasets collate with their copies, with and without transforms."""
    grey = torchvision.datasets.ImageFolder(
        str(seed_folder), loader=lambda p: Image.open(p).convert("L"), transform=TO_TENSOR
    )
    assert next(iter(DataLoader(ExpandedDataset(grey, ratio=1, prior="linear"), batch_size=24)))[0].shape == (
        24,
        1,
        32,
        32,
    )
    pairs = [(torch.rand(3, 20, 30), i % 3) for i in range(6)]
    images, _ = next(
        iter(DataLoader(ExpandedDataset(pairs, ratio=1, prior="linear", classes=["a", "b", "c"]), batch_size=12))
    )
    assert images.shape == (12, 3, 20, 30)
    assert images.dtype == torch.float32
    arrays = [(np.full((9, 8), i, dtype=np.uint8), i % 3) for i in range(6)]
    copy, _ = ExpandedDataset(arrays, ratio=1, prior="linear", classes=["a", "b", "c"])[6]
    assert (copy.shape, copy.dtype) == ((9, 8), np.uint8)


def test_formats_that_copies_cannot_follow_are_refused(seed_folder: Path) -> None:
    """A Hugging Face format other than set_transform's is refused with the way out."""
    for rows in (
        hugging_face(seed_folder).with_format("numpy"),
        hugging_face(seed_folder).with_format(columns=["kind"]),
    ):
        with pytest.raises(gif_datasets.SourceError, match="set_transform"):
            ExpandedDataset(rows, prior="linear")
        assert len(ExpandedDataset(rows, ratio=1, prior="linear", transform=lambda row: row["kind"])) == 24


def test_own_prior_needs_a_key(seed_folder: Path) -> None:
    """A prior object without a key cannot be cached, and is refused; with one it is used."""

    class Mine(LinearPrior):
        def decode(self, latents: torch.Tensor, *rest: object) -> torch.Tensor:
            return torch.zeros(len(latents), 3, 8, 8)

    with pytest.raises(ConfigError, match="key"):
        ExpandedDataset(str(seed_folder), prior=Mine())
    prior = Mine()
    prior.key = "mine-1"  # type: ignore[attr-defined]
    expanded = ExpandedDataset(str(seed_folder), ratio=1, prior=prior)
    assert np.asarray(expanded[12][0]).sum() == 0
    assert expanded.provenance(12).prior == "Mine"


def test_cache_key_follows_what_changes_pixels(seed_folder: Path) -> None:
    """Every option that changes a picture changes the key; where shards go does not."""
    base = ExpandedDataset(str(seed_folder), prior="linear")
    seed = base.plan.seeds[0]
    key = base.plan.recipe.cache_key(seed, 1)
    seen = {"ratio": 4, "rng_seed": 1, "epsilon": 0.2, "steps": 3, "held_class": "prediction", "image_format": "webp"}
    seen |= {"decode_batch": 4, "templates": ("{}",), "method": "unclip", "diversity_weight": 0.5}
    for name, value in seen.items():
        changed = ExpandedDataset(str(seed_folder), prior="linear", **{name: value})
        assert changed.plan.recipe.cache_key(seed, 1) != key, name
    for name, value in {"samples_per_shard": 3, "originals": False, "split": "dev"}.items():
        changed = ExpandedDataset(str(seed_folder), prior="linear", **{name: value})
        assert changed.plan.recipe.cache_key(seed, 1) == key, name


def test_errors_come_before_any_model(seed_folder: Path) -> None:
    """A wrong option or dataset fails at once, by name."""
    bad = {"ratio": 0, "method": "gif-x", "prior": "dalle", "stepz": 1}
    for name, value in bad.items():
        with pytest.raises(ConfigError, match=str(value) if isinstance(value, str) else name):
            ExpandedDataset(str(seed_folder), **{name: value})
    with pytest.raises(gif_datasets.SourceError, match="length"):
        ExpandedDataset(iter([]), prior="linear")
    with pytest.raises(gif_datasets.SourceError, match="columns"):
        ExpandedDataset(datasets.Dataset.from_dict({"a": [1]}), prior="linear")
