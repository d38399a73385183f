"""Expanded folders and their exports, read by other libraries unaided: each of them is the real one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import timm.data
import torch
import torchvision
import webdataset
import wids
from PIL import Image
from torchvision.transforms import v2

import gif_datasets

CLASSES = ("bee", "ant", "the crab/or so")
"""Not in the order of their names, and one that is no file name."""
COUNTS = {"train": 12 * 3, "validation": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five pictures, one of each held out, expanded and exported."""
    place = tmp_path_factory.mktemp("made")
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (12, 9, 3), dtype=np.uint8)) for _ in range(15)]
    rows = [(picture, number % 3) for number, picture in enumerate(pictures)]
    dataset = gif_datasets.ExpandedDataset(
        rows, ratio=2, prior="linear", classes=CLASSES, validation_share=0.2, samples_per_shard=6, cache_dir=place / "c"
    )
    dataset.precompute(place / "shards")
    for form in ("imagefolder", "parquet"):
        gif_datasets.export_expanded(place / "shards", place / form, form)
    return place


@pytest.fixture(scope="module")
def truth(made: Path) -> dict[str, dict[str, Any]]:
    """What must be found: picture digest, label and record of every sample, by key."""
    found: dict[str, dict[str, Any]] = {}
    for split, count in COUNTS.items():
        loaded = gif_datasets.load_expanded(made / "shards", split=split)
        assert len(loaded) == count
        for index in range(count):
            record = loaded.provenance(index).to_json()
            pixels = digest(loaded[index][0])
            found[f"{split}-{record['seed_index']:07d}-{record['copy']:04d}"] = {"pixels": pixels, **record}
    return found


def digest(image: Image.Image) -> str:
    return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()


def of(truth: dict[str, Any], split: str) -> dict[str, Any]:
    return {key: value for key, value in truth.items() if key.startswith(f"{split}-")}


def pairs(truth: dict[str, Any], split: str) -> list[tuple[str, int]]:
    return sorted((value["pixels"], value["label"]) for value in of(truth, split).values())


@pytest.mark.parametrize("split", COUNTS)
def test_webdataset(made: Path, truth: dict[str, Any], split: str) -> None:
    """`webdataset.WebDataset` gives each sample of a split once: picture, class, record."""
    urls = sorted(str(path) for path in (made / "shards" / "data").glob(f"{split}-*.tar"))
    pattern = f"{made}/shards/data/{split}-{{00000..{len(urls) - 1:05d}}}-of-{len(urls):05d}.tar"
    data = webdataset.WebDataset(pattern, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "cls", "json")
    rows = list(data)
    assert {key: {"pixels": digest(image), **record} for key, image, _, record in rows} == of(truth, split)
    assert all(label == record["label"] for _, _, label, record in rows)
    assert len(rows) == COUNTS[split]


@pytest.mark.parametrize("split", COUNTS)
def test_wids(made: Path, truth: dict[str, Any], split: str) -> None:
    """`wids.ShardListDataset` opens the index and gives every sample by number."""
    data = wids.ShardListDataset(str(made / "shards" / f"wids-{split}.json"), cache_dir=str(made / "wids"))
    assert len(data) == COUNTS[split]
    rows = [data[index] for index in reversed(range(len(data)))]
    assert sorted((digest(row[".png"]), row[".cls"]) for row in rows) == pairs(truth, split)
    assert {row["__key__"] for row in rows} == set(of(truth, split))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("split", COUNTS)
def test_load_dataset_of_shards(made: Path, truth: dict[str, Any], split: str, streaming: bool, tmp_path: Path) -> None:
    """`datasets.load_dataset` on the folder: columns and class names from the card, splits apart, records whole."""
    rows = datasets.load_dataset(str(made / "shards"), split=split, streaming=streaming, cache_dir=str(tmp_path))
    assert rows.features["cls"].names == list(CLASSES)
    assert isinstance(rows.features["png"], datasets.Image)
    found = {row["__key__"]: {"pixels": digest(row["png"]), **row["json"]} for row in rows}
    assert found == of(truth, split)
    assert {kind.dtype for kind in rows.features["json"].values()} == {"bool", "int64", "float64", "string"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_load_dataset_of_exports(made: Path, truth: dict[str, Any], form: str, streaming: bool, tmp_path: Path) -> None:
    """Both exports load with image, ClassLabel and provenance columns, splits apart."""
    loaded = datasets.load_dataset(str(made / form), streaming=streaming, cache_dir=str(tmp_path))
    assert set(loaded) == set(COUNTS)
    for split, rows in loaded.items():
        assert rows.features["label"].names == list(CLASSES)
        found = {row.pop("key"): {"pixels": digest(row.pop("image")), **row} for row in rows}
        assert found == of(truth, split)


def test_parquet_carries_its_features(made: Path, tmp_path: Path) -> None:
    """Without the card, a bare file still knows its pictures and class names."""
    file = str(next((made / "parquet" / "data").glob("train-*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path))
    assert rows.features["label"].names == list(CLASSES)
    assert isinstance(rows[0]["image"], Image.Image)


def test_image_folder_without_its_card(made: Path, truth: dict[str, Any], tmp_path: Path) -> None:
    """The imagefolder builder takes the folder as it lies, with the metadata as columns."""
    rows = datasets.load_dataset("imagefolder", data_dir=str(made / "imagefolder"), cache_dir=str(tmp_path))
    assert {split: part.num_rows for split, part in rows.items()} == COUNTS
    assert sorted((digest(row["image"]), row["label"]) for row in rows["train"]) == pairs(truth, "train")


@pytest.mark.parametrize("split", COUNTS)
def test_torchvision_image_folder(made: Path, truth: dict[str, Any], split: str) -> None:
    """torchvision's `ImageFolder` gives the same labels, though it sorts folders by name."""
    data = torchvision.datasets.ImageFolder(str(made / "imagefolder" / split))
    assert [name.partition("_")[2] for name in data.classes] == ["bee", "ant", "the crab_or so"]
    assert sorted((digest(image), label) for image, label in data) == pairs(truth, split)


def test_timm_image_folder(made: Path, truth: dict[str, Any]) -> None:
    """timm's folder reader, which sorts otherwise, gives the same labels too."""
    data = timm.data.create_dataset("", root=str(made / "imagefolder"), split="train")
    assert sorted((digest(image), label) for image, label in data) == pairs(truth, "train")


@pytest.mark.parametrize("split", COUNTS)
def test_timm_wds(made: Path, truth: dict[str, Any], split: str) -> None:
    """timm's `create_dataset("wds/..")` finds `_info.json`, its length and every sample."""
    data = timm.data.create_dataset("wds/any", root=str(made / "shards"), split=split)
    assert len(data) == COUNTS[split]
    assert sorted((digest(image), int(label)) for image, label in data) == pairs(truth, split)


@pytest.mark.parametrize(("form", "keys"), [("parquet", {}), ("shards", {"input_key": "png", "target_key": "cls"})])
def test_timm_hfds(made: Path, truth: dict[str, Any], form: str, keys: dict[str, str], tmp_path: Path) -> None:
    """timm's `hfds/` reads the Parquet export with its own default columns, and shards when told theirs."""
    data = timm.data.create_dataset(f"hfds/{made / form}", root=str(tmp_path), split="train", **keys)
    if form == "parquet" or data.reader.class_to_idx:  # older ones look for names in a column "label" alone
        assert data.reader.class_to_idx == {name: label for label, name in enumerate(CLASSES)}
    assert sorted((digest(image), label) for image, label in data) == pairs(truth, "train")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_timm_loader(made: Path, truth: dict[str, Any], form: str, workers: int, tmp_path: Path) -> None:
    """timm's `create_loader` batches either, with and without workers: each label as often as it is there."""
    place = {"name": "wds/any", "root": str(made / form)}
    if form == "parquet":
        place = {"name": f"hfds/{made / form}", "root": str(tmp_path)}
    data = timm.data.create_dataset(split="train", batch_size=6, **place)
    loader = timm.data.create_loader(
        data, (3, 32, 32), batch_size=6, use_prefetcher=False, num_workers=workers, device=torch.device("cpu")
    )
    batches = list(loader)
    assert all(images.shape[1:] == (3, 32, 32) and images.dtype == torch.float32 for images, _ in batches)
    labels = sorted(int(label) for _, batch in batches for label in batch)
    assert labels == sorted(label for _, label in pairs(truth, "train"))


def test_timm_loader_for_training(made: Path) -> None:
    """In training mode timm shuffles and repeats to whole batches; it finds its length and an epoch ends."""
    data = timm.data.create_dataset("wds/any", root=str(made / "shards"), split="train", is_training=True, batch_size=6)
    loader = timm.data.create_loader(
        data, (3, 32, 32), batch_size=6, is_training=True, use_prefetcher=False, num_workers=2,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert sum(len(labels) for _, labels in loader) >= COUNTS["train"]


def test_torch_loader(made: Path, truth: dict[str, Any]) -> None:
    """`load_expanded` under a torch `DataLoader` with workers gives each sample once."""
    transform = v2.Compose([v2.ToImage(), v2.Resize((32, 32))])
    data = gif_datasets.load_expanded(made / "shards", transform=transform)
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True, num_workers=2)
    labels = sorted(int(label) for _, batch in loader for label in batch)
    assert labels == sorted(label for _, label in pairs(truth, "train"))


def test_exports_hold_the_same_picture_files(made: Path, truth: dict[str, Any]) -> None:
    """Pictures are copied, not encoded again."""
    wanted = {key: value["image_sha256"] for key, value in truth.items()}
    folders = (made / "imagefolder").rglob("*.png")
    assert {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in folders} == wanted
    tables = map(pyarrow.parquet.read_table, (made / "imagefolder").rglob("metadata.parquet"))
    lines = [line for table in tables for line in table.to_pylist()]
    assert {line["key"]: line["image_sha256"] for line in lines} == wanted
