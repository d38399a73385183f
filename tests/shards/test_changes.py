"""A run that is started again on other images names the first one that differs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from helpers import OPTIONS, contents, hugging_face
from PIL import Image

import gif_datasets
from gif_datasets import ExpandedDataset, PlanMismatch


def add(folder: Path) -> None:
    shutil.copy(folder / "ant" / "0.png", folder / "bee" / "00.png")
    shutil.copy(folder / "ant" / "0.png", folder / "crab" / "9.png")


def remove(folder: Path) -> None:
    (folder / "bee" / "1.png").unlink()


def change(folder: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(folder / "bee" / "2.png")
    (folder / "crab" / "0.png").unlink()


def add_class(folder: Path) -> None:
    shutil.copytree(folder / "ant", folder / "dog")


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (add, r"the source's images changed: bee/00.png is new; seeds: 12 there, 14 here"),
        (remove, r"the source's images changed: bee/1.png is gone; seeds: 12 there, 11 here"),
        (change, r"the source's images changed: bee/2.png has other pixels; seeds: 12 there, 11 here"),
        (add_class, r"the source's images changed: dog/0.png is new; classes: "),
    ],
)
def test_the_first_changed_image_is_named(
    alter: Callable[[Path], None], words: str, seed_folder: Path, tmp_path: Path
) -> None:
    """Added, removed or edited; nothing of what was made is touched."""
    gif_datasets.expand(str(seed_folder), tmp_path / "out", **OPTIONS)
    before = contents(tmp_path / "out")
    alter(seed_folder)
    with pytest.raises(PlanMismatch, match=words):
        gif_datasets.expand(str(seed_folder), tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == before


def test_what_is_not_known_is_not_guessed(seed_folder: Path, tmp_path: Path) -> None:
    """Of a part of a folder an old image is named where its shard is there, and none is called new."""
    gif_datasets.expand(str(seed_folder), tmp_path / "out", part=(1, 3), **OPTIONS)
    (tmp_path / "out" / "data" / "train-00009-of-00009.tar").write_bytes(b"damaged")
    shutil.copy(seed_folder / "ant" / "0.png", seed_folder / "bee" / "00.png")
    with pytest.raises(PlanMismatch, match=r"the source's images changed; seeds: 12 there, 13 here"):
        gif_datasets.expand(str(seed_folder), tmp_path / "out", part=(1, 3), **OPTIONS)


def test_other_labels_and_columns(seed_folder: Path, tmp_path: Path) -> None:
    """Rows keep their pixels, and have another label, or another value beside it."""
    rows = hugging_face(seed_folder)

    def made_of(rows: datasets.Dataset) -> None:
        ExpandedDataset(rows, ratio=1, prior="linear").precompute(tmp_path / "out")

    made_of(rows)
    with pytest.raises(PlanMismatch, match=r"the source's images changed: row 4 has another label"):
        made_of(rows.map(lambda row: {"kind": 0 if row["id"] == 104 else row["kind"]}))
    with pytest.raises(PlanMismatch, match=r"the source's own columns changed[;)]"):
        made_of(rows.map(lambda row: {"id": row["id"] + 1}))


def test_an_option_that_differs_is_the_cause(seed_folder: Path, tmp_path: Path) -> None:
    """With another limit there are other seeds, and no image has changed; digests are not shown."""
    gif_datasets.expand(str(seed_folder), tmp_path / "out", **OPTIONS)
    with pytest.raises(PlanMismatch, match=r"\(limit: null there, 6 here; seeds: 12 there, 6 here; shards: [^;]*\)"):
        gif_datasets.expand(str(seed_folder), tmp_path / "out", limit=6, **OPTIONS)
