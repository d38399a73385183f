"""Copies have the form of their own seed's item, whatever datasets and wrappers yield."""

from __future__ import annotations

import enum
import io
import pickle
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.transforms import ToTensor, v2

import gif_datasets
from gif_datasets import BadImage, DataLoader, ExpandedDataset, SourceError
from gif_datasets.io import images
from gif_datasets.sources import wrap_source

LABELS = [0, 1, 0, 1]


def grey(i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 32), dtype=np.uint8))


def colour(i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def palette(i: int) -> Image.Image:
    return colour(i).convert("P", palette=Image.Palette.ADAPTIVE)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rows(make: Callable[[int], Image.Image], **more: Any) -> datasets.Dataset:
    features = {
        "id": datasets.Value("int64"),
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["a", "b"]),
    }
    cells = [{"bytes": png(make(i)), "path": None} for i in range(4)]
    values = {"id": list(range(4)), "image": cells, "label": LABELS}
    extra = {name: feature for name, (feature, _) in more.items()}
    values |= {name: cells for name, (_, cells) in more.items()}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features | extra))


@pytest.fixture
def expand(tmp_path: Path) -> Callable[..., ExpandedDataset]:
    def expanded(dataset: Any, **more: Any) -> ExpandedDataset:
        return ExpandedDataset(dataset, ratio=1, prior="linear", cache_dir=tmp_path / "cache", **more)

    return expanded


class Pairs(Dataset[Any]):
    """Items as they are given."""

    classes = ("a", "b")

    def __init__(self, items: list[Any], transform: Any = None) -> None:
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


# --- pictures -----------------------------------------------------------------------------------------------------


def test_grey_rows_have_grey_copies(expand: Callable[..., ExpandedDataset]) -> None:
    """Of Hugging Face too, so that they make batches, and one transform does for both."""
    expanded = expand(rows(grey))
    assert {expanded[i]["image"].mode for i in range(8)} == {"L"}
    (batch,) = DataLoader(expanded, batch_size=8)
    assert batch["image"].shape == (8, 1, 32, 32)

    def tensors(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"x": [torch.from_numpy(np.array(one)) for one in batch["image"]], "y": batch["label"]}

    changed = rows(grey)
    changed.set_transform(tensors)
    assert {expand(changed)[i]["x"].shape for i in range(8)} == {(32, 32)}


def test_each_copy_is_grey_where_its_seed_is(expand: Callable[..., ExpandedDataset]) -> None:
    """Not where the first one is; and both make a batch, in colour."""
    expanded = expand(Pairs([(grey(0), 0), (colour(1), 1), (colour(2), 0), (grey(3), 1)]))
    assert [expanded[i][0].mode for i in range(8)] == ["L", "RGB", "RGB", "L"] * 2
    (batch,) = DataLoader(expanded, batch_size=8)
    assert batch[0].shape == (8, 3, 32, 32)


def of_mode(mode: str) -> Callable[[int], Image.Image]:
    def make(i: int) -> Image.Image:
        if mode == "F":
            return Image.fromarray(np.asarray(grey(i), np.float32) / 255)
        return Image.fromarray(np.asarray(grey(i), np.uint16) * 257) if mode == "I;16" else colour(i).convert(mode)

    return make


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_copies_have_the_mode_of_their_seeds(mode: str, expand: Callable[..., ExpandedDataset]) -> None:
    """So that seeds and copies make one batch behind one transform, of one colour space."""
    items = [(of_mode(mode)(i), label) for i, label in enumerate(LABELS)]
    expanded = expand(Pairs(items))
    assert {expanded[i][0].mode for i in range(8)} == {mode}
    (batch,) = torch.utils.data.DataLoader(expand(Bare(items, ToTensor())), batch_size=8)
    assert batch[0].shape == (8, len(Image.new(mode, (1, 1)).getbands()), 32, 32)


@pytest.mark.parametrize(
    ("stored", "mode"),
    [
        *((stored, None) for stored in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("RGB", mode) for mode in ("L", "RGBA", "CMYK", "P", "HSV")),
        ("L", "RGB"),
        ("RGBA", "RGB"),
        ("P", "RGB"),
    ],
)
def test_rows_have_the_mode_of_their_column(
    stored: str, mode: str | None, expand: Callable[..., ExpandedDataset]
) -> None:
    """Or of their file where the column has none; lazily, as files, and in what ``to_hf`` makes."""
    given = rows(of_mode(stored)).cast_column("image", datasets.Image(mode=mode))
    expanded = expand(given)
    assert {expanded[i]["image"].mode for i in range(8)} == {mode or stored}
    assert {row["image"].mode for row in expanded.to_hf(streaming=True)} == {mode or stored}
    files = expand(given.cast_column("image", datasets.Image(decode=False)))
    assert {Image.open(io.BytesIO(files[i]["image"]["bytes"])).mode for i in range(8)} == {stored}


def test_a_column_of_grey_makes_copies_of_grey(expand: Callable[..., ExpandedDataset]) -> None:
    """Of what the dataset shows of its files, not of what they hold."""
    expanded = expand(rows(colour).cast_column("image", datasets.Image(mode="L")))
    shown = np.asarray(expanded[0]["image"].convert("RGB"))
    assert np.array_equal(np.asarray(expanded.source.sample(0)[0]), shown)


def test_tensors_of_torchvision_stay_so(expand: Callable[..., ExpandedDataset]) -> None:
    """``tv_tensors.Image``: a transform that asks for the class takes copies, too."""
    to_float = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
    arrays = [np.asarray(colour(i)).transpose(2, 0, 1).copy() for i in range(4)]
    items = [(tv_tensors.Image(torch.from_numpy(array)), y) for array, y in zip(arrays, LABELS, strict=True)]
    expanded = expand(Bare(items, to_float))
    assert all(type(expanded[i][0]) is tv_tensors.Image and expanded[i][0].max() <= 1 for i in range(8))


@pytest.mark.parametrize("bands", [2, 4, 13])
def test_other_bands_are_refused(bands: int, expand: Callable[..., ExpandedDataset]) -> None:
    """None of them is taken for alpha."""
    items = [(np.zeros((32, 32, bands), np.uint8), label) for label in LABELS]
    with pytest.raises(SourceError, match=rf"row 0: an array of shape \(32, 32, {bands}\)"):
        expand(Pairs(items))


class Opening(Pairs):
    """Opens its files, and does with them what datasets do before their transforms, and after."""

    def __init__(self, items: list[Any], before: Any, transform: Any = None) -> None:
        super().__init__(items, transform)
        self.before = before

    def __getitem__(self, index: int) -> Any:
        path, label = self.items[index]
        image = self.before(Image.open(path))
        return (self.transform(image) if self.transform else image), label


@pytest.fixture
def phone(tmp_path: Path) -> list[tuple[Path, int]]:
    """Files of all eight orientations, of two classes."""
    files = [(tmp_path / "phone" / "ab"[i // 4] / f"{i}.jpg", i // 4) for i in range(8)]
    for i, (path, _) in enumerate(files):
        exif = Image.Exif()
        exif[0x0112] = i + 1
        path.parent.mkdir(parents=True, exist_ok=True)
        colour(i).resize((40, 20)).save(path, exif=exif)
    return files


def as_rows(files: list[tuple[Path, int]], **how: Any) -> datasets.Dataset:
    features = {"image": datasets.Image(**how), "label": datasets.ClassLabel(names=["a", "b"])}
    values = {"image": [str(path) for path, _ in files], "label": [label for _, label in files]}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def kept(image: Any) -> Any:
    return image


PHONES: dict[str, Callable[[list[tuple[Path, int]]], Any]] = {
    "folder": lambda files: str(files[0][0].parents[1]),
    "ImageFolder": lambda files: ImageFolder(str(files[0][0].parents[1])),
    "ImageFolder as a text": lambda files: f"torchvision:ImageFolder?root={files[0][0].parents[1]}",
    "ImageFolder, a transform": lambda files: ImageFolder(str(files[0][0].parents[1]), transform=np.asarray),
    "ImageFolder, turned": lambda files: ImageFolder(str(files[0][0].parents[1]), transform=ImageOps.exif_transpose),
    "ImageFolder, tensors": lambda files: ImageFolder(str(files[0][0].parents[1]), transform=v2.PILToTensor()),
    "files": lambda files: Opening(files, kept),
    "files, converted": lambda files: Opening(files, lambda image: image.convert("RGB")),
    "files, turned": lambda files: Opening(files, ImageOps.exif_transpose),
    "files, resized": lambda files: Opening(files, lambda image: image.resize(image.size), np.asarray),
    "files, two transforms": lambda files: Wrapper(
        Opening(files, kept, lambda image: image.convert("RGB")), np.asarray
    ),
    "parts": lambda files: ConcatDataset([Subset(Opening(files, kept), range(5)), Opening(files[5:], kept, kept)]),
    "rows": as_rows,
    "rows of files": lambda files: as_rows(files, decode=False),
}


def image_of(item: Any) -> Any:
    image = item["image"] if isinstance(item, dict) else item[0]
    if isinstance(image, dict):
        return opened(image["bytes"] or Path(image["path"]).read_bytes())
    return image


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def rgb_of(item: Any) -> np.ndarray:
    image = image_of(item)
    return image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) else np.asarray(image)


@pytest.mark.parametrize("form", PHONES)
def test_images_are_upright(
    form: str, phone: list[tuple[Path, int]], tmp_path: Path, expand: Callable[..., ExpandedDataset]
) -> None:
    """Of all eight orientations, whatever reads them: lazily, in shards, for Hugging Face; copies as their seeds."""
    upright = [np.asarray(ImageOps.exif_transpose(Image.open(path))) for path, _ in phone]
    expanded = expand(PHONES[form](phone), method="cutout", samples_per_shard=16)
    expanded.precompute(tmp_path / "shards")
    shards = gif_datasets.load_expanded(tmp_path / "shards")
    in_shards = {shards.provenance(i).seed_index: i for i in range(16) if not shards.provenance(i).synthetic}
    table = list(expanded.to_hf(streaming=True))
    for i, pixels in enumerate(upright):
        seeds = expanded[i], shards[in_shards[i]], table[i]
        assert all(np.array_equal(rgb_of(seed), pixels) for seed in seeds)
        for copy in (expanded[8 + i], table[8 + i]):
            assert rgb_of(copy).shape == pixels.shape
            assert np.median(np.abs(rgb_of(copy).astype(int) - pixels)) == 0
        found = [image_of(item) for item in (expanded[i], *seeds, expanded[8 + i])]
        assert {one.getexif().get(0x0112, 1) for one in found if isinstance(one, Image.Image)} <= {1}
    assert expanded.targets == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4


def test_what_was_made_of_an_image_on_its_side_is_not_served(
    phone: list[tuple[Path, int]], expand: Callable[..., ExpandedDataset]
) -> None:
    """Arrays have no Exif, and are taken as they lie; the cache keeps their copies apart."""
    arrays = expand(Opening(phone, np.asarray), method="cutout")
    assert [arrays[i][0].shape for i in range(16)] == [(20, 40, 3)] * 16
    upright = expand(Opening(phone, kept), method="cutout")
    assert [upright[i][0].size for i in range(16)] == ([(40, 20)] * 4 + [(20, 40)] * 4) * 2
    keys = [{found.provenance(i).seed_key for i in range(8)} for found in (arrays, upright)]
    assert len(keys[0] & keys[1]) == 1  # of the one that lay upright


@pytest.mark.parametrize("together", [False, True])
def test_masks_beside_a_turned_image_are_refused(
    together: bool, phone: list[tuple[Path, int]], expand: Callable[..., ExpandedDataset]
) -> None:
    """Nothing says how they lie; whoever turns them with their image is free to."""

    class Masked(Pairs):
        def __getitem__(self, index: int) -> Any:
            path, label = self.items[index]
            image, mask = Image.open(path), Image.fromarray(np.arange(800, dtype=np.uint8).reshape(20, 40))
            if self.transform:
                image, mask = self.transform(image, mask)
            return (image, label) if together else (image, label, mask)

    with pytest.warns(UserWarning, match=r"left out 7 of 8 images: row 1: Exif turns the image \(orientation 2\)"):
        expanded = expand(Masked(phone, (lambda *both: both) if together else None), method="cutout")
    assert len(expanded) == 2
    turned = Opening(phone, ImageOps.exif_transpose)
    assert len(expand(Turning(phone, turned), method="cutout")) == 16


class Turning(Pairs):
    """Turns an image itself, and has a mask beside it."""

    def __getitem__(self, index: int) -> Any:
        image, label = self.transform[index]
        return image, label, np.zeros(image.size[::-1], bool)


def test_further_images_are_upright(phone: list[tuple[Path, int]], expand: Callable[..., ExpandedDataset]) -> None:
    """Each by its own Exif, in whatever holds them; the item keeps its type."""
    Item = namedtuple("Item", "image label more")
    files = [(path.read_bytes(), label) for path, label in phone]
    views = [Item(opened(content), label, {"view": opened(content)}) for content, label in files]
    expanded = expand(Pairs(views), method="cutout")
    for i in range(16):
        assert type(expanded[i]) is Item
        assert expanded[i].more["view"].size == expanded[i].image.size == ((40, 20) if i % 8 < 4 else (20, 40))


def test_copies_of_an_expansion_have_its_transforms(expand: Callable[..., ExpandedDataset]) -> None:
    """Lambdas, too, which could not be sent to a worker."""
    items = [(colour(i), label) for i, label in enumerate(LABELS)]
    expanded = deepcopy(expand(Bare(items, lambda image: np.asarray(image)[:8]), method="cutout"))
    assert {expanded[i][0].shape for i in range(8)} == {(8, 32, 3)}


@pytest.mark.parametrize("transform", [None, kept])
def test_an_item_that_nothing_turns_is_the_dataset_s_own(
    transform: Any, expand: Callable[..., ExpandedDataset]
) -> None:
    """The very object."""
    items = [(colour(i), label, {"more": [colour(i)]}) for i, label in enumerate(LABELS)]
    expanded = expand(Pairs(items, transform), method="cutout")
    assert all(expanded[i] is items[i] for i in range(4))


def test_palettes_are_batches_of_colours(expand: Callable[..., ExpandedDataset]) -> None:
    """Not of the numbers of their colours."""
    expanded = expand(Pairs([(palette(i), label) for i, label in enumerate(LABELS)]))
    for mix, count in (("originals", 4), ("all", 8)):
        (batch,) = DataLoader(expanded, batch_size=8, mix=mix)
        assert batch[0].shape == (count, 3, 32, 32)
        assert torch.equal(batch[0][0], torch.from_numpy(np.array(palette(0).convert("RGB"))).permute(2, 0, 1))


def test_encoded_rows_have_encoded_copies(expand: Callable[..., ExpandedDataset]) -> None:
    """``Image(decode=False)``."""
    expanded = expand(rows(colour).cast_column("image", datasets.Image(decode=False)))
    cells = [expanded[i]["image"] for i in range(8)]
    assert all(set(cell) == {"bytes", "path"} for cell in cells)
    assert Image.open(io.BytesIO(cells[7]["bytes"])).size == (32, 32)


@pytest.mark.parametrize(("others", "names"), [(False, {"image", "label"}), (True, {"id", "image", "label"})])
def test_transforms_of_some_columns(others: bool, names: set[str], expand: Callable[..., ExpandedDataset]) -> None:
    """``set_transform(function, columns=..., output_all_columns=...)``."""
    changed = rows(colour)
    changed.set_transform(lambda batch: batch, columns=["image", "label"], output_all_columns=others)
    expanded = expand(changed)
    assert [set(expanded[i]) for i in (0, 4)] == [names] * 2


def test_another_broken_column_costs_nobody(tmp_path: Path, expand: Callable[..., ExpandedDataset]) -> None:
    """A picture is read without the row's others; a copy, which takes them along, names its row."""
    masks = [{"bytes": png(grey(i)) if i != 2 else b"broken", "path": None} for i in range(4)]
    broken = rows(colour, mask=(datasets.Image(), masks))
    opened = wrap_source(broken, image_column="image")
    assert [opened.sample(i)[1] for i in range(4)] == LABELS
    expanded = expand(broken, image_column="image")
    assert expanded[4]["mask"].mode == "L"
    with pytest.raises(BadImage, match="row 2"):
        expanded[6]


# --- labels -------------------------------------------------------------------------------------------------------


class Kind(enum.IntEnum):
    """Classes as people name them."""

    A = 0
    B = 1


@pytest.mark.parametrize("transform", [None, np.asarray])
@pytest.mark.parametrize("kind", [bool, Kind, np.bool_, np.int32, int])
def test_labels_keep_their_type(kind: Any, transform: Any, expand: Callable[..., ExpandedDataset]) -> None:
    """Of seeds and of copies, through the dataset's own transforms and through another."""
    expanded = expand(Pairs([(colour(i), kind(label)) for i, label in enumerate(LABELS)]), transform=transform)
    for items in (expanded, pickle.loads(pickle.dumps(expanded))):
        assert [items[i][1] for i in range(8)] == LABELS * 2
        assert {type(items[i][1]) for i in range(8)} == {kind}


def test_labels_of_several_types_are_numbers_for_another_transform(expand: Callable[..., ExpandedDataset]) -> None:
    """None of them is taken for that of the others."""
    expanded = expand(Pairs([(colour(0), True), (colour(1), 0)]), transform=np.asarray)
    assert {type(expanded[i][1]) for i in range(4)} == {int}


@pytest.mark.parametrize(
    "form", [torch.tensor, np.int64, lambda y: np.array([y]), lambda y: torch.tensor([y], dtype=torch.int32)]
)
def test_labels_keep_their_form(form: Callable[[int], Any], expand: Callable[..., ExpandedDataset]) -> None:
    """Tensors, numpy's numbers, arrays of one as MedMNIST has them."""
    expanded = expand(Pairs([(colour(i), form(label)) for i, label in enumerate(LABELS)]))
    assert list(expanded.targets) == LABELS * 2
    for seed, copy in zip(range(4), range(4, 8), strict=True):
        one, other = expanded[seed][1], expanded[copy][1]
        assert type(one) is type(other)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
        assert np.array_equal(np.asarray(one), np.asarray(other))
    (batch,) = DataLoader(expanded, batch_size=8)
    assert batch[1].flatten().tolist() == LABELS * 2


def test_tensors_stay_tensors(expand: Callable[..., ExpandedDataset]) -> None:
    """A ``TensorDataset``, which names no classes."""
    expanded = expand(TensorDataset(torch.rand(4, 3, 32, 32), torch.tensor(LABELS)), classes=["a", "b"])
    (batch,) = DataLoader(expanded, batch_size=8)
    assert (batch[0].shape, batch[0].dtype, batch[1].tolist()) == ((8, 3, 32, 32), torch.float32, LABELS * 2)


def test_forms_stay_with_their_process(expand: Callable[..., ExpandedDataset]) -> None:
    """A worker is sent none of them, and sees its own."""
    expanded = expand(Pairs([(np.asarray(colour(i)), np.array([label])) for i, label in enumerate(LABELS)]))
    before = len(pickle.dumps(expanded))
    copies = [expanded[i] for i in range(4, 8)]
    assert len(pickle.dumps(expanded)) < before + 1000  # one such array is 3,072 bytes
    again = pickle.loads(pickle.dumps(expanded))
    assert all(np.array_equal(again[i][0], copies[i - 4][0]) for i in range(4, 8))


@pytest.mark.parametrize("label", [0.7, "0", np.array([0, 1]), torch.tensor(0.5)])
def test_other_labels_are_refused(label: Any) -> None:
    """A fraction is not cut, and a text is no number."""
    with pytest.raises(SourceError, match="labels must be integers"):
        wrap_source(Pairs([(colour(0), label)])).sample(0)


def test_further_entries_go_along(expand: Callable[..., ExpandedDataset]) -> None:
    """Of the copy's own seed."""
    expanded = expand(Pairs([(colour(i), label, f"key {i}") for i, label in enumerate(LABELS)]))
    assert [expanded[i][2] for i in range(8)] == [f"key {i}" for i in range(4)] * 2


def test_text_labels_that_are_no_class_are_named() -> None:
    """By their row and value."""
    texts = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(colour(i)), "path": None} for i in range(2)], "label": ["a", "wasp"]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    with pytest.raises(BadImage, match="row 1: its label 'wasp' is none of the classes"):
        wrap_source(texts, classes=["a", "b"]).sample(1)


# --- transforms ---------------------------------------------------------------------------------------------------


class Joint(VisionDataset):
    """Applies picture's and label's transforms together, as OxfordIIITPet does."""

    classes = ("a", "b")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        image, label = colour(index), LABELS[index]
        return self.transforms(image, label) if self.transforms else (image, label)


def test_joint_transforms(expand: Callable[..., ExpandedDataset]) -> None:
    """Labels stay transformed when the picture's transform is set aside; copies go through what their seeds do."""
    flipped = expand(Joint("", target_transform=lambda label: 1 - label))
    assert [flipped[i][1] for i in range(8)] == [1, 0, 1, 0] * 2
    assert flipped.targets == [1, 0, 1, 0] * 2
    tensors = expand(Joint("", transform=lambda image: torch.from_numpy(np.array(image)).sum()))
    assert {tensors[i][0].dtype for i in range(8)} == {torch.int64}
    together = expand(Joint("", transforms=lambda image, label: (image.resize((8, 8)), label)))
    assert {together[i][0].size for i in range(8)} == {(8, 8)}


class Bare(Pairs):
    """Does not ask whether it has a transform."""

    def __getitem__(self, index: int) -> Any:
        image, label = self.items[index]
        return self.transform(image), label


class Wrapper(Dataset[Any]):
    """Has a transform of its own behind that of what it wraps."""

    def __init__(self, dataset: Any, transform: Any) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        image, label = self.dataset[index]
        return (self.transform(image) if self.transform else image), label


def size(side: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((side, side))


def test_transforms_along_the_way(expand: Callable[..., ExpandedDataset]) -> None:
    """From the inside out, and of the part that the seed is from."""
    items = [(colour(i), label) for i, label in enumerate(LABELS)]
    assert {expand(Bare(items, size(8)))[i][0].size for i in range(8)} == {(8, 8)}
    turned = Wrapper(Bare(items, size(8)), lambda image: np.asarray(image).shape)
    assert {expand(turned)[i][0] for i in range(8)} == {(8, 8, 3)}
    joined = ConcatDataset([Subset(Bare(items, size(8)), [3, 1]), Bare(items[:2], size(4))])
    expanded = expand(joined)
    assert [expanded[i][0].size[0] for i in range(8)] == [8, 8, 4, 4] * 2


def test_transforms_that_stay_are_refused() -> None:
    """A dataset that lets nobody set them, and one that passes every name on."""

    class Fixed(Pairs):
        transform = property(lambda self: size(4), lambda self, value: None)  # type: ignore[assignment]

    class ReadOnly:
        classes = ("a", "b")
        transform = property(lambda self: size(4))

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return colour(0), 0

    class Passing:
        def __init__(self) -> None:
            self.dataset = Pairs([(colour(0), 0)])

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return self.dataset[index]

        def __getattr__(self, name: str) -> Any:
            return getattr(self.dataset, name)

    assert wrap_source(Fixed([(colour(0), 0)])).classes == ("a", "b")
    for dataset in (ReadOnly(), Passing()):
        with pytest.raises(SourceError, match="does not let its transforms be set aside"):
            wrap_source(dataset)


def test_hidden_randomness_is_found() -> None:
    """Though one reading of one seed may miss it."""

    class Flipping(Pairs):
        def __getitem__(self, index: int) -> Any:
            image, label = self.items[index]
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else image, label

    torch.manual_seed(0)
    with pytest.raises(SourceError, match="gives other pixels each time"):
        ExpandedDataset(Flipping([(colour(i), i % 2) for i in range(16)]), prior="linear", ratio=1)


# --- classes ------------------------------------------------------------------------------------------------------


def folder(root: Path, *classes: str) -> ImageFolder:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        colour(number).save(root / name / "1.png")
    return ImageFolder(str(root))


def test_classes_of_joined_datasets(tmp_path: Path) -> None:
    """One label has one meaning, or the user says which."""
    first, other = folder(tmp_path / "1", "ant", "bee"), folder(tmp_path / "2", "bee", "wasp")
    assert wrap_source(ConcatDataset([first, first])).classes == ("ant", "bee")
    with pytest.raises(SourceError, match=r"the first \['ant', 'bee'\], part 1 \['bee', 'wasp'\]"):
        wrap_source(ConcatDataset([first, other]))
    assert wrap_source(ConcatDataset([first, other]), classes=["x", "y"]).classes == ("x", "y")


def test_categories_are_classes() -> None:
    """As Caltech's datasets call them."""

    class Caltech(Pairs):
        classes = None  # type: ignore[assignment]
        categories = ("ant", "bee")

    assert wrap_source(Caltech([])).classes == ("ant", "bee")


def test_classes_of_texts_are_refused(tmp_path: Path) -> None:
    """They would change nothing; and a text is no list of names."""
    folder(tmp_path, "ant", "bee")
    with pytest.raises(SourceError, match="classes and columns are given with dataset objects"):
        ExpandedDataset(str(tmp_path), classes=["Ant", "Bee"])
    with pytest.raises(SourceError, match="classes must be a list of names, got the text 'a,b'"):
        wrap_source(Pairs([]), classes="a,b")
    with pytest.raises(SourceError, match="load it without streaming=True"):
        wrap_source(rows(colour).to_iterable_dataset())


def test_hidden_folders_hold_no_seeds(tmp_path: Path) -> None:
    """Such as those that notebooks leave."""
    folder(tmp_path, "ant", "bee")
    (tmp_path / "ant" / ".ipynb_checkpoints").mkdir()
    colour(9).save(tmp_path / "ant" / ".ipynb_checkpoints" / "1-checkpoint.png")
    assert len(wrap_source(str(tmp_path))) == 2


# --- reading ------------------------------------------------------------------------------------------------------


def test_warnings_are_nobody_s_after_reading() -> None:
    """Threads that read pictures leave the process's warning filters as they were."""
    content, before = png(colour(0)), list(warnings.filters)

    def read() -> None:
        for _ in range(200):
            images.read_rgb(content, "x")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_transform_is_applied_once(tmp_path: Path) -> None:
    """However often a collation looks at its samples."""
    gif_datasets.expand("demo", tmp_path / "out", ratio=1, method="cutout", limit=8, cache_dir=tmp_path / "cache")
    calls: list[int] = []

    def drawn(image: Image.Image) -> torch.Tensor:
        calls.append(1)
        return torch.rand(3)

    def collate(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        sizes = [one[0].sum() for one in batch]
        assert torch.equal(torch.stack(sizes), torch.stack([one[0] for one in batch]).sum(1))
        return torch.stack([one[0] for one in batch]), torch.tensor([one[1] for one in batch])

    loaded = gif_datasets.load_expanded(tmp_path / "out", transform=drawn)
    for loader in (DataLoader, torch.utils.data.DataLoader):
        calls.clear()
        assert sum(len(labels) for _, labels in loader(loaded, batch_size=4, collate_fn=collate)) == 16
        assert len(calls) == 16


def test_epoch_before_the_first(tmp_path: Path) -> None:
    """``set_epoch`` between epochs is where the state stands."""
    gif_datasets.expand("demo", tmp_path / "out", ratio=1, method="cutout", limit=8, cache_dir=tmp_path / "cache")
    loader = DataLoader(gif_datasets.load_expanded(tmp_path / "out"), batch_size=4, shuffle=True)
    loader.set_epoch(5)
    state = loader.state_dict()
    fifth = [labels.tolist() for _, labels in loader]
    again = DataLoader(gif_datasets.load_expanded(tmp_path / "out"), batch_size=4, shuffle=True)
    again.load_state_dict(state)
    assert [labels.tolist() for _, labels in again] == fifth
    with pytest.raises(gif_datasets.ConfigError, match="mix must be all"):
        DataLoader(gif_datasets.load_expanded(tmp_path / "out"), batch_size=4, mix=0.5)  # type: ignore[arg-type]
