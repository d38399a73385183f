"""Seeds that are larger than asked are reduced before anything else looks at them."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import simplejpeg
import torch
from helpers import contents
from PIL import Image

import gif_datasets
from gif_datasets import ExpandedDataset
from gif_datasets.io import decode
from gif_datasets.io.images import at_most
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.verify import verify
from gif_datasets.sources import open_source
from gif_datasets.sources.base import list_seeds, seed_image
from gif_datasets.sources.reduced import ReducedSource

SIZES = {
    "wide.jpg": (96, 64),
    "high.png": (30, 90),
    "exact.webp": (48, 20),
    "less.png": (20, 12),
    "grey.jpg": (80, 80),
    "large.jpg": (501, 333),
}
STORED = {**SIZES, "wide.jpg": (48, 32), "high.png": (16, 48), "grey.jpg": (48, 48), "large.jpg": (48, 32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of images of several sizes and formats."""
    for number, label in enumerate("ab"):
        (tmp_path / "seeds" / label).mkdir(parents=True)
        for name, size in SIZES.items():
            small = np.random.default_rng(number + len(name)).integers(0, 256, (5, 5, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
            lossless = {"lossless": True} if name.endswith("webp") else {}
            (image.convert("L") if name == "grey.jpg" else image).save(tmp_path / "seeds" / label / name, **lossless)
    return tmp_path / "seeds"


def sizes(folder: Path, synthetic: bool) -> dict[str, tuple[int, int]]:
    reader = ShardReader(folder)
    found = {}
    for number in range(len(reader)):
        if reader.is_synthetic(number) is synthetic:
            with Image.open(io.BytesIO(reader.image_bytes(number))) as image:
                found[reader.provenance(number).seed_origin.partition("/")[2]] = image.size
    return found


@pytest.mark.parametrize(
    ("size", "side", "expected"), [((4000, 3), 100, (100, 1)), ((3, 7), 8, (3, 7)), ((9, 9), 8, (8, 8))]
)
def test_proportions_stay(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    """No side is lost."""
    assert at_most(Image.new("RGB", size), side).size == expected


@pytest.mark.parametrize(("side", "decoded"), [(64, (251, 167)), (48, (126, 84)), (13, (63, 42)), (200, (501, 333))])
def test_large_jpeg_files_are_decoded_smaller(
    side: int, decoded: tuple[int, int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no less than twice the side. The result is close to the whole image, reduced."""
    content, shapes, decode_jpeg = (
        (folder / "a" / "large.jpg").read_bytes(),
        list[tuple[int, ...]](),
        simplejpeg.decode_jpeg,
    )

    def watched(*given: Any, buffer: Any, **options: Any) -> Any:
        shapes.append(buffer.shape)
        return decode_jpeg(*given, buffer=buffer, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    found = decode.plain(content, max_side=side)
    assert found is not None
    assert shapes == [(*decoded[::-1], 3)]
    whole = np.asarray(at_most(Image.open(folder / "a" / "large.jpg"), side))
    assert found.shape == whole.shape
    assert np.abs(found.astype(float) - whole).mean() < 1.0


@pytest.mark.parametrize("name", ["large.jpg", "high.png"])
def test_what_is_damaged_is_read_with_care(name: str, folder: Path) -> None:
    """Threads leave it to who says what is wrong with it."""
    content = (folder / "a" / name).read_bytes()
    assert decode.plain(content[: len(content) // 2], max_side=48) is None


def test_threads_and_care_reduce_alike(folder: Path) -> None:
    """Keys, labels and images are those of the reduced pixels, however an image is read; other attributes stay."""
    source = ReducedSource(open_source(str(folder)), 48)
    for found in (source, pickle.loads(pickle.dumps(source))):
        listed = list_seeds(found)
        assert [seed.label for seed in listed.seeds] == [0] * 6 + [1] * 6
        assert sum(seed.grey for seed in listed.seeds) == 2
        for seed in listed.seeds:
            image = found.sample(seed.index)[0]
            assert image.size == STORED[seed.origin.partition("/")[2]]
            assert np.array_equal(seed_image(found, seed), image)


def test_all_that_is_written_is_at_most_so_large(folder: Path, tmp_path: Path) -> None:
    """Originals, and the copies of an augmentation; plan and a second run agree; other plans do not have the option."""
    options: dict[str, Any] = {"method": "cutout", "ratio": 1, "cache_dir": tmp_path / "c"}
    for out in ("out", "again"):
        gif_datasets.expand(str(folder), tmp_path / out, max_side=48, image_format="jpg", **options)
        assert sizes(tmp_path / out, False) == sizes(tmp_path / out, True) == STORED
        assert verify(tmp_path / out) == []
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["recipe"]["options"]["max_side"] == 48
    assert "max_side" not in ExpandedDataset(str(folder), **options).plan.json["recipe"]["options"]
    lazy = ExpandedDataset(str(folder), max_side=48, **options)
    assert {lazy[index][0].size for index in range(len(lazy))} == set(STORED.values())


def test_columns_and_a_validation_set_stay(folder: Path, tmp_path: Path) -> None:
    """Of a Hugging Face dataset, whose own columns are in the shards; a dataset's own form is not changed."""
    paths = sorted(folder.rglob("*.png"))
    rows = datasets.Dataset.from_dict(
        {"image": list(map(str, paths)), "label": [0, 0, 1, 1], "note": ["n"] * 4},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["a", "b"]),
                "note": datasets.Value("string"),
            }
        ),
    )
    options: dict[str, Any] = {"method": "cutout", "ratio": 1, "cache_dir": tmp_path / "c", "max_side": 24}
    gif_datasets.expand(rows.select([0, 2]), tmp_path / "out", validation=rows.select([1, 3]), **options)
    loaded = gif_datasets.load_expanded(tmp_path / "out", split="validation")
    assert {image.size for image, _ in loaded} <= {(8, 24), (20, 12)}
    assert verify(tmp_path / "out") == []
    assert (tmp_path / "out" / "source.parquet").exists()


class Pairs(torch.utils.data.Dataset[Any]):
    """Images in one form, with a transform of their own and something beside the label."""

    def __init__(self, form: Callable[[Image.Image], Any]) -> None:
        rng = np.random.default_rng(0)
        sizes = [(40, 30), (12, 10), (20, 60), (8, 8)]
        self.images = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
        self.form, self.classes = form, ["a", "b"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.form(self.images[index]), index % 2, f"note {index}"


FORMS: dict[str, Callable[[Image.Image], Any]] = {
    "PIL": lambda image: image,
    "grey": lambda image: image.convert("L"),
    "array": np.asarray,
    "tensor": lambda image: torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1),
}


def size_of(shown: Any) -> tuple[int, int]:
    if isinstance(shown, Image.Image):
        return shown.size
    height, width = shown.shape[:2] if isinstance(shown, np.ndarray) else shown.shape[1:]
    return width, height


@pytest.mark.parametrize("form", FORMS)
def test_a_dataset_keeps_its_form_with_smaller_images(form: str, tmp_path: Path) -> None:
    """Large seeds are reduced, small ones stay the same, and a copy has its seed's size."""
    pairs = Pairs(FORMS[form])
    options: dict[str, Any] = {"method": "cutout", "ratio": 1, "cache_dir": tmp_path / "c", "max_side": 24}
    expanded = ExpandedDataset(pairs, **options)
    sizes = [(24, 18), (12, 10), (8, 24), (8, 8)]
    for place, size in enumerate(sizes):
        for shown, label, note in (expanded[place], expanded[place + 4]):
            assert (size_of(shown), label, note) == (size, place % 2, f"note {place}")
            assert type(shown) is type(pairs[place][0]) or isinstance(shown, Image.Image)
    small = np.asarray(expanded[1][0])
    assert np.array_equal(small, np.asarray(pairs[1][0]))
    expanded.precompute(tmp_path / "out")
    stored = gif_datasets.load_expanded(tmp_path / "out")
    if form == "PIL":
        for place in range(8):
            assert np.array_equal(np.asarray(stored[place][0]), np.asarray(expanded[place][0]))


@pytest.mark.parametrize("decode", [True, False])
def test_rows_keep_their_columns_with_smaller_images(folder: Path, tmp_path: Path, decode: bool) -> None:
    """Of a Hugging Face dataset; ``to_hf`` gives the same images."""
    paths = sorted(map(str, folder.rglob("*.png")))
    names = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(), "label": names, "note": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": paths, "label": [0, 0, 1, 1], "note": list("wxyz")}, features=features)
    rows = rows.cast_column("image", datasets.Image(decode=decode))
    options: dict[str, Any] = {"method": "cutout", "ratio": 1, "cache_dir": tmp_path / "c", "max_side": 24}
    expanded = ExpandedDataset(rows, **options)

    def image_of(row: Any) -> Image.Image:
        cell = row["image"]
        return cell if decode else Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"])

    listed = expanded.to_hf().cast_column("image", datasets.Image())
    for place in range(8):
        row, image = expanded[place], image_of(expanded[place])
        assert max(image.size) <= 24
        assert row["note"] == "wxyz"[place % 4]
        assert np.array_equal(np.asarray(image), np.asarray(listed[place]["image"]))
        key = Image.open(paths[place % 4]).convert("RGB")
        assert image.size == at_most(key, 24).size
