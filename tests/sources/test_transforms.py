"""A copy goes through all that its seed goes through, however a dataset calls its transforms and finds its items."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

from gif_datasets import ExpandedDataset, SourceError
from gif_datasets.sources import wrap_source
from gif_datasets.sources.transforms import watched

COUNT = 4


def photo(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8))


class Photos(Dataset[Any]):
    """Photos whose items ``call`` makes of transform, image and label."""

    classes = ("a", "b")

    def __init__(self, call: Callable[..., Any], transform: Any = None, first: int = 0) -> None:
        self.call, self.transform, self.first = call, transform, first

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return self.call(self.transform, photo(self.first + index), index % 2)


def plain(transform: Any, image: Any, label: int) -> Any:
    return (image if transform is None else transform(image)), label


def small(image: Image.Image) -> Image.Image:
    return image.resize((7, 5))


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((4, 3))


def by_keyword(image: Any, **others: Any) -> dict[str, Any]:
    return {"image": image[:5, ::-1], **others}


def of_both(image: Any, label: int) -> Any:
    return small(image), 1 - label


def of_sample(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "image": small(sample["image"])}


def processor(images: Any, return_tensors: str) -> dict[str, Any]:
    assert return_tensors == "pt"
    return {"pixel_values": torch.from_numpy(np.array(images))[None] / 127.5 - 1}


def mask_of(image: Image.Image) -> Image.Image:
    return image.convert("L").point(lambda level: 255 * (level > 127))


def after_its_mask(transform: Any, image: Any, label: int) -> Any:
    mask = transform(mask_of(image))
    return transform(image), label, np.asarray(mask).tolist()


CALLS = {
    "nothing": (plain, None),
    "one image": (plain, small),
    "keyword": (lambda t, image, y: (t(image=np.array(image))["image"], y), by_keyword),
    "keywords": (lambda t, image, y: tuple(t(label=y, image=np.array(image)).values())[::1], by_keyword),
    "two": (lambda t, image, y: t(image, y), of_both),
    "sample": (lambda t, image, y: (t({"image": image, "y": y})["image"], y), of_sample),
    "sample with a mask": (
        lambda t, image, y: (t({"mask": mask_of(image), "image": image, "y": y})["image"], y),
        of_sample,
    ),
    "list": (lambda t, image, y: (np.asarray(t[1](t[0](image))), y), [small, smaller]),
    "dictionary": (lambda t, image, y: (t["train"](image), y), {"train": small, "size": 7}),
    "processor": (lambda t, image, y: (t(image, return_tensors="pt")["pixel_values"][0], y), processor),
    "more after it": (lambda t, image, y: (t(image).float() - 9, y), lambda image: torch.from_numpy(np.array(image))),
    "two views": (lambda t, image, y: ([np.asarray(t(image)), np.asarray(t(image))], y), small),
    "mask before": (after_its_mask, small),
    "method": (lambda t, image, y: (t.resize(image), y), type("Resizer", (), {"resize": staticmethod(small)})),
    "by its type": (lambda t, image, y: (t(image=image) if isinstance(t, Keyed) else t(image), y), None),
}


class Keyed:
    """Called by keyword by who asks what it is."""

    def __call__(self, *, image: Image.Image) -> Image.Image:
        return small(image)


CALLS["by its type"] = (CALLS["by its type"][0], Keyed())


def same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and all(map(same, one, other))
    return type(one) is type(other) and np.array_equal(np.asarray(one), np.asarray(other))


def expand(dataset: Any, **options: Any) -> ExpandedDataset:
    return ExpandedDataset(dataset, ratio=1, method="randaugment", **options)


@pytest.mark.parametrize("name", CALLS)
def test_copies_go_through_the_transforms_of_their_seeds(name: str) -> None:
    """Seeds are read as they are stored, and labels are those of the items."""
    call, transform = CALLS[name]
    dataset = Photos(call, transform)
    bare, expanded = expand(Photos(plain)), expand(dataset)
    assert [seed.key for seed in expanded.plan.seeds] == [seed.key for seed in bare.plan.seeds]
    assert expanded.targets == [dataset[i][1] for i in range(COUNT)] * 2
    for place in range(COUNT):
        assert same(expanded[place], dataset[place])
        copy = call(transform, bare[COUNT + place][0], place % 2)
        assert same(expanded[COUNT + place][:2], copy[:2])
        assert not same(expanded[COUNT + place][0], expanded[place][0])


class Repeat(Dataset[Any]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 2 * len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index % len(self.dataset)]


class Fold(ConcatDataset[Any]):
    """Some rows of what it joins."""

    def __init__(self, parts: list[Any], rows: list[int]) -> None:
        super().__init__(parts)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(self.rows[index])


class Backwards(Dataset[Any]):
    """Passes every other name on."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[len(self) - 1 - index]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


class Images(Photos):
    """Without labels."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0]


def parts() -> list[Photos]:
    return [Photos(plain, small), Photos(plain, smaller, COUNT)]


@pytest.mark.parametrize(
    ("dataset", "sides"),
    [
        (Repeat(Subset(Photos(plain, small), [2, 1])), [7] * 4),
        (Fold(parts(), [5, 0, 6, 1]), [4, 7, 4, 7]),
        (Subset(ConcatDataset(parts()), [5, 0, 6, 1]), [4, 7, 4, 7]),
        (Repeat(Fold(parts(), [7, 3])), [4, 7, 4, 7]),
        (Backwards(Photos(plain, lambda image: image.resize((image.width - 17, 5)))), [7] * 4),
        (StackDataset(Images(plain, small), [0, 1, 1, 0]), [7] * 4),
    ],
)
def test_no_mapping_of_indices_is_guessed(dataset: Any, sides: list[int]) -> None:
    """The dataset itself finds the item, and so what that goes through."""
    expanded = expand(dataset)
    assert [expanded[i][0].width for i in range(8)] == sides * 2
    assert [expanded[i][1] for i in range(8)] == [dataset[i][1] for i in range(4)] * 2


def test_items_of_other_forms_are_refused_by_name() -> None:
    """A dictionary, and tuples in a tuple."""
    names = {"classes": ["a", "b"]}
    labels = torch.tensor([0, 1])
    with pytest.raises(SourceError, match=r"StackDataset\[0\] must be an \(image, label\) pair, got dict"):
        expand(StackDataset(image=Images(plain), label=[0, 1, 0, 1]), **names)
    with pytest.raises(SourceError, match=r"StackDataset\[0\] has the label \(tensor\(0\),\)"):
        expand(StackDataset(TensorDataset(torch.rand(2, 3, 8, 8)), TensorDataset(labels)), **names)


def test_a_seed_that_changes_after_it_was_listed_is_no_copy_s() -> None:
    """Its copy would be put into another image's item."""
    dataset = Photos(plain, small)
    expanded = expand(dataset)
    expanded[COUNT]  # in the cache
    expanded.source.dataset.first = 100  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="row 0 of Photos has changed since the images were listed"):
        expanded[COUNT]


def test_a_transform_that_cannot_be_sent_stays_behind(tmp_path: Path) -> None:
    """Workers that read seeds set it aside, and those that would need it say so."""
    aside = pickle.loads(pickle.dumps(wrap_source(Photos(plain, lambda image: image.resize((3, 3))))))
    assert aside.sample(1)[0].size == (24, 20)
    assert pickle.loads(pickle.dumps(watched(Photos(plain, small))))[1][0].size == (7, 5)
    needed = pickle.loads(pickle.dumps(watched(Photos(plain, lambda image: image))))
    with pytest.raises(SourceError, match="cannot be sent to workers"):
        needed[0]
