"""Seeds that are JPEG files are stored as they are, where images are JPEG; the plan says so."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from helpers import contents
from PIL import Image

import gif_datasets
from gif_datasets import ExpandedDataset
from gif_datasets.expansion import plan as plans
from gif_datasets.io.jpeg import bare
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.verify import verify

OPTIONS: dict[str, Any] = {"ratio": 1, "prior": "linear", "samples_per_shard": 3}


def texture(number: int) -> Image.Image:
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((48, 32), Image.Resampling.BICUBIC)


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0110], exif[0x0112] = "camera", orientation
    return {"exif": exif}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of: an upright JPEG with metadata, one that Exif turns, a grey one, and a PNG."""
    for label in "ab":
        folder = tmp_path / "photographs" / label
        folder.mkdir(parents=True)
        texture(ord(label)).save(folder / "upright.jpg", quality=90, **turned(1))
        texture(ord(label) + 2).save(folder / "turned.jpg", quality=90, **turned(6))
        texture(ord(label) + 4).convert("L").save(folder / "grey.jpg", quality=90)
        texture(ord(label) + 6).save(folder / "drawn.png")
    return tmp_path / "photographs"


def originals(folder: Path) -> dict[str, bytes]:
    reader = ShardReader(folder)
    numbers = [number for number in range(len(reader)) if not reader.is_synthetic(number)]
    return {reader.provenance(number).seed_origin: reader.image_bytes(number) for number in numbers}


def test_upright_jpeg_files_are_stored_without_loss_and_the_others_are_encoded(
    photographs: Path, tmp_path: Path
) -> None:
    """What Exif turns is encoded upright; no metadata of a camera is in any file; card and plan say which."""
    gif_datasets.expand(str(photographs), tmp_path / "out", image_format="jpg", cache_dir=tmp_path / "c", **OPTIONS)
    found = originals(tmp_path / "out")
    assert len(found) == 8
    for name, content in found.items():
        stored = (photographs / name).read_bytes()
        assert (content == bare(stored)) is name.endswith("upright.jpg")
        assert b"camera" not in content
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == ((32, 48) if name.endswith("turned.jpg") else (48, 32))
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["original_files"] is True
    assert "upright JPEG files are as they were" in (tmp_path / "out" / "README.md").read_text()
    assert verify(tmp_path / "out") == []
    expanded = ExpandedDataset(str(photographs), image_format="jpg", cache_dir=tmp_path / "c", **OPTIONS)
    records = {expanded.provenance(index).seed_origin: expanded.provenance(index) for index in range(8)}
    reader = ShardReader(tmp_path / "out")
    for number in range(len(reader)):
        record = reader.provenance(number)
        assert record.synthetic or record == records[record.seed_origin]


@pytest.mark.parametrize("keep", [0, 2])
def test_a_folder_of_an_older_plan_is_finished_as_it_was_begun(
    keep: int, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bytes that it would have had; its plan says nothing of files."""

    def run(folder: str) -> None:
        gif_datasets.expand(
            str(photographs), tmp_path / folder, image_format="jpg", cache_dir=tmp_path / "c", **OPTIONS
        )

    with monkeypatch.context() as older:
        older.setattr(plans, "jpeg_as_it_is", lambda *given: None)
        run("old")
    wanted = contents(tmp_path / "old")
    assert "original_files" not in json.loads((tmp_path / "old" / "plan.json").read_text())
    (tmp_path / "old" / "manifest.json").unlink()
    for path in sorted((tmp_path / "old" / ".state").glob("train-*.json"))[keep:]:
        path.unlink()
    run("old")
    assert contents(tmp_path / "old") == wanted


@pytest.mark.parametrize(("image_format", "field"), [("png", False), ("webp", False), ("jpg", True)])
def test_other_plans_are_as_they_were(image_format: str, field: bool, photographs: Path, tmp_path: Path) -> None:
    """Only where images are JPEG, and a seed is stored as it is, does the plan have the field."""
    options = {**OPTIONS, "image_format": image_format, "cache_dir": tmp_path}
    assert ("original_files" in ExpandedDataset(str(photographs), **options).plan.json) is field
    assert "original_files" not in ExpandedDataset("demo", **options).plan.json
    assert "webp_effort" not in ExpandedDataset("demo", **options).plan.json["recipe"]["options"]


def only(pattern: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for path in folder.rglob("*.*"):
            if not path.match(pattern):
                path.unlink()

    return remove


@pytest.mark.parametrize(
    ("change", "taken", "said"),
    [
        (only("upright.jpg"), ("jpg", 4), "jpg: the seeds are JPEG files, which are stored as they are"),
        (only("*.png"), ("webp", 0), "webp, lossless, of effort 0"),
        (lambda folder: None, ("webp", 0), "webp, lossless, of effort 0"),
    ],
)
def test_auto_takes_what_suits_the_seeds_and_says_it(
    change: Callable[[Path], None], taken: tuple[str, int], said: str, photographs: Path, tmp_path: Path
) -> None:
    """JPEG for seeds that are JPEG, lossless WebP for others; the folder's plan has what was taken."""
    shutil.copytree(photographs, tmp_path / "seeds")
    change(tmp_path / "seeds")
    lines: list[str] = []
    options = {**OPTIONS, "image_format": "auto", "cache_dir": tmp_path / "c"}
    gif_datasets.expand(str(tmp_path / "seeds"), tmp_path / "out", say=lines.append, **options)
    assert any(said in line for line in lines)
    found = json.loads((tmp_path / "out" / "plan.json").read_text())["recipe"]["options"]
    assert (found["image_format"], found.get("webp_effort", 4)) == taken
    assert verify(tmp_path / "out") == []


def test_rows_of_a_hugging_face_dataset_are_stored_as_they_are(photographs: Path, tmp_path: Path) -> None:
    """Whether they have their bytes or a path; not where the column changes the mode."""
    paths = sorted(photographs.rglob("upright.jpg"))
    cells = [{"path": None, "bytes": paths[0].read_bytes()}, {"path": str(paths[1]), "bytes": None}]
    rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 1]}).cast_column("image", datasets.Image())
    rows = rows.cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    ExpandedDataset(rows, image_format="jpg", cache_dir=tmp_path, **OPTIONS).precompute(tmp_path / "out")
    assert list(originals(tmp_path / "out").values()) == [bare(path.read_bytes()) for path in paths]
    grey = rows.cast_column("image", datasets.Image(mode="L"))
    assert not ExpandedDataset(grey, image_format="jpg", cache_dir=tmp_path, **OPTIONS).plan.original_files
