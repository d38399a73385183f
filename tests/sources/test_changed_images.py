"""An image that is edited after it was listed is never taken under its old key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gif_datasets import BadImage, ExpandedDataset, ExpansionConfig, SourceError
from gif_datasets.expansion.open import open_expansion
from gif_datasets.expansion.preview import preview_expansion
from gif_datasets.sources import open_source
from gif_datasets.sources.base import list_seeds, seed_image


def edit(folder: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(folder / "bee" / "1.png")


def test_a_seed_s_image_is_that_of_its_key(seed_folder: Path) -> None:
    """The same file again; another one under its name is refused by it; one that is gone is, too."""
    source = open_source(str(seed_folder))
    seeds = list_seeds(source).seeds
    assert seed_image(source, seeds[5]).size == source.sample(5)[0].size
    edit(seed_folder)
    with pytest.raises(SourceError, match=r"^bee/1\.png of seeds has changed since the images were listed"):
        seed_image(source, seeds[5])
    (seed_folder / "bee" / "1.png").unlink()
    with pytest.raises(BadImage, match=r"bee/1\.png: no such file"):
        seed_image(source, seeds[5])


def test_nothing_is_made_of_an_edited_image(seed_folder: Path, tmp_path: Path) -> None:
    """Lazily, in shards, and of the seed itself; and the cache has nothing under the old key."""
    expanded = ExpandedDataset(str(seed_folder), ratio=1, prior="linear", cache_dir=tmp_path / "cache")
    edit(seed_folder)
    uses: list[Callable[[], Any]] = [
        lambda: expanded[5],
        lambda: expanded[17],
        lambda: expanded.precompute(tmp_path / "out"),
        lambda: list(expanded.to_hf(streaming=True)),
    ]
    for use in uses:
        with pytest.raises(SourceError, match=r"bee/1\.png of seeds has changed"):
            use()
    assert not expanded.imaginer.has(expanded.plan.seeds[5], 1)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_previews_show_no_edited_image(seed_folder: Path, tmp_path: Path) -> None:
    """Neither that of the command, nor that of a folder whose shards are there."""
    config = ExpansionConfig(ratio=1, prior="linear")
    opened = open_expansion(open_source(str(seed_folder)), config)
    preview_expansion(opened, tmp_path / "a.png", 12, tmp_path / "cache")
    expanded = ExpandedDataset(str(seed_folder), ratio=1, prior="linear", cache_dir=tmp_path / "cache")
    expanded.precompute(tmp_path / "out")
    (tmp_path / "out" / "preview.png").unlink()
    edit(seed_folder)
    for use in (
        lambda: preview_expansion(opened, tmp_path / "b.png", 12, tmp_path / "cache"),
        lambda: expanded.precompute(tmp_path / "out"),
    ):
        with pytest.raises(SourceError, match=r"bee/1\.png of seeds has changed"):
            use()
