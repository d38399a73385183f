"""Sources: folders, torchvision, Hugging Face, arrays and expanded shards give the same seeds for the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torchvision
from helpers import hugging_face
from PIL import Image
from torch.utils.data import Subset

import gif_datasets
from gif_datasets import MissingExtra, SourceError
from gif_datasets.sources import HuggingFaceSource, list_seeds, open_source, wrap_source


def labels_by_key(source: object) -> dict[str, int]:
    return {seed.key: seed.label for seed in list_seeds(source).seeds}  # type: ignore[arg-type]


def test_the_same_pictures_have_the_same_keys_everywhere(seed_folder: Path, tmp_path: Path) -> None:
    """Folder, torchvision ImageFolder with and without transforms, Subset, Hugging Face and shards agree."""
    folder = open_source(str(seed_folder))
    expected = labels_by_key(folder)
    assert len(expected) == 12
    assert folder.classes == ("ant", "bee", "crab")
    image_folder = torchvision.datasets.ImageFolder(str(seed_folder), transform=torchvision.transforms.Resize(5))
    assert labels_by_key(wrap_source(image_folder)) == expected
    assert labels_by_key(wrap_source(Subset(image_folder, list(range(12))))) == expected
    found = wrap_source(hugging_face(seed_folder))
    assert found.classes == folder.classes
    assert labels_by_key(found) == expected
    pairs = [(np.asarray(folder.image(i)), folder.label(i)) for i in range(12)]
    assert labels_by_key(wrap_source(pairs, classes=folder.classes)) == expected
    gif_datasets.expand(str(seed_folder), tmp_path / "out", ratio=1, prior="linear", split="train")
    assert expected.items() <= labels_by_key(open_source(str(tmp_path / "out"))).items()


def test_torchvision_by_name(seed_folder: Path) -> None:
    """A torchvision dataset opens by its name and arguments."""
    source = open_source(f"torchvision:ImageFolder?root={seed_folder}")
    assert len(source) == 12
    assert source.classes == ("ant", "bee", "crab")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:CIFAR11", ["CIFAR11", "did you mean"]),
        ("torchvision:ImageFolder?root=x&color=red", ["color", "transform"]),
        ("torchvision:CIFAR10?root=/nonexistent", ["CIFAR10", "not found"]),
        ("hf:/nonexistent/place", ["hf:/nonexistent/place"]),
        ("hf:beans?colour=red", ["colour", "config, split"]),
        ("/nonexistent", ["/nonexistent", "sub-folder per class"]),
    ],
)
def test_what_cannot_be_opened_is_explained(spec: str, words: list[str]) -> None:
    """Each gives one line with the name and a way out."""
    with pytest.raises(SourceError) as caught:
        open_source(spec)
    for word in words:
        assert word in str(caught.value)


def test_class_names_can_be_given(seed_folder: Path, tmp_path: Path) -> None:
    """`?classes=` names the classes, in label order."""
    assert open_source(f"torchvision:ImageFolder?root={seed_folder}&classes=x,y,z").classes == ("x", "y", "z")
    hugging_face(seed_folder).to_parquet(str(tmp_path / "hub" / "train.parquet"))
    assert open_source(f"hf:{tmp_path / 'hub'}?classes=x,y,z").classes == ("x", "y", "z")


def test_hugging_face_from_disk(seed_folder: Path, tmp_path: Path) -> None:
    """`hf:` takes a local path that `load_dataset` takes."""
    parquet = tmp_path / "hub" / "train.parquet"
    parquet.parent.mkdir()
    hugging_face(seed_folder).to_parquet(str(parquet))
    assert labels_by_key(open_source(f"hf:{parquet.parent}")) == labels_by_key(open_source(str(seed_folder)))


def test_hugging_face_columns(seed_folder: Path) -> None:
    """Columns are found, or named; string labels become sorted classes."""
    rows = hugging_face(seed_folder)
    twice = rows.add_column("other", rows["kind"]).cast_column("other", rows.features["kind"])
    with pytest.raises(SourceError, match="several label columns"):
        wrap_source(twice)
    assert wrap_source(twice, label_column="other").classes == ("ant", "bee", "crab")
    with pytest.raises(SourceError, match="no column 'nope'"):
        wrap_source(rows, image_column="nope")
    text = rows.map(lambda row: {"label": "z" + str(row["kind"])}, remove_columns="kind")
    assert wrap_source(text).classes == ("z0", "z1", "z2")
    number = rows.map(lambda row: {"label": 10 * row["kind"]}, remove_columns="kind")
    found = wrap_source(number)
    assert (len(found.classes), found.label(4), found.label(11)) == (21, 10, 20)
    with pytest.raises(SourceError, match="one split"):
        HuggingFaceSource(datasets.DatasetDict({"train": rows}))


def test_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `datasets`, the error is the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'gif_datasets\[hf\]'"):
        open_source("hf:beans")


def test_class_names_must_be_known() -> None:
    """A dataset that does not name its classes is refused with the number that is needed."""

    class Bare:
        targets = [0, 2, 1]  # noqa: RUF012

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (4, 4), (i, 0, 0)), self.targets[i]

    with pytest.raises(SourceError, match="3 names"):
        wrap_source(Bare())
    with pytest.raises(SourceError, match="label 2"):
        list_seeds(wrap_source(Bare(), classes=["a", "b"]))
    assert len(list_seeds(wrap_source(Bare(), classes=["a", "b", "c"])).seeds) == 3


def test_bad_pictures_are_named_and_the_rest_kept(seed_folder: Path) -> None:
    """Unreadable files cost themselves only; text files beside pictures are not pictures."""
    (seed_folder / "ant" / "0.png").write_bytes(b"")
    (seed_folder / "bee" / "broken.jpg").write_text("no picture")
    (seed_folder / "bee" / "notes.txt").write_text("a note")
    listed = list_seeds(open_source(str(seed_folder)))
    assert len(listed.seeds) == 11
    assert [message.split(":")[0] for message in listed.bad] == ["ant/0.png", "bee/broken.jpg"]


def test_limit_is_spread_evenly(seed_folder: Path) -> None:
    """A limit takes from all classes, not the first."""
    listed = list_seeds(open_source(str(seed_folder)), limit=3)
    assert [seed.label for seed in listed.seeds] == [0, 1, 2]


def test_demo_is_the_reserved_seeds() -> None:
    """200 pictures, 20 a class, 32 x 32, all different."""
    source = open_source("demo")
    listed = list_seeds(source)
    assert len({seed.key for seed in listed.seeds}) == 200
    assert [sum(seed.label == label for seed in listed.seeds) for label in range(10)] == [20] * 10
    assert {source.image(i).size for i in range(200)} == {(32, 32)}


def test_empty_and_flat_folders(tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """No sub-folders, or none with pictures, is explained."""
    with pytest.raises(SourceError, match="no sub-folders"):
        open_source(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    with pytest.raises(SourceError, match="no pictures"):
        open_source(str(tmp_path))
