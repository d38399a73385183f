"""Sizes of images: measured when a folder is finished, said by its card and by info; a forged one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gif_datasets
from gif_datasets import ShardError
from gif_datasets.cli import main
from gif_datasets.shards.image_sizes import measure, sizes_text
from gif_datasets.shards.manifest import IMAGE_SIZES, Manifest, read_manifest
from gif_datasets.shards.reader import ShardReader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds of three sizes and their copies."""
    place = tmp_path_factory.mktemp("sizes")
    for label, (width, height) in enumerate([(12, 9), (30, 8), (7, 20)]):
        (place / "seeds" / f"c{label}").mkdir(parents=True)
        pixels = np.random.default_rng(label).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "seeds" / f"c{label}" / "a.png")
    gif_datasets.expand(str(place / "seeds"), place / "out", method="cutout", ratio=1, cache_dir=place / "cache")
    return place / "out"


def test_sizes_are_on_card_and_info(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Least and largest width and height of each kind; nothing of a kind that is not there."""
    text = "real 7 to 30 x 8 to 20 pixels, synthetic 7 to 30 x 8 to 20 pixels"
    assert f"Image sizes, width x height, of at most 100 of each kind: {text}." in (made / "README.md").read_text()
    assert main(["info", str(made)]) == 0
    assert f"image sizes: {text}\n" in capsys.readouterr().out
    assert main(["info", str(made), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["image_sizes"]
    assert found == {"real": [7, 8, 30, 20], "synthetic": [7, 8, 30, 20]}
    reader = ShardReader(made)
    assert measure(made, [], reader.index.part(0, 0)) == {}
    assert sizes_text({}) == ""


@pytest.mark.parametrize(
    "forged",
    [
        [],
        {"real": 3},
        {"real": [1, 2, 3]},
        {"real": [1, 2, 3, -4]},
        {"real": [1, 2, 3, "<b>"]},
        {"real": [1, 2, 3, True]},
    ],
)
def test_forged_sizes_are_refused(forged: Any, made: Path) -> None:
    """They become text of cards and pages; a manifest without them is one of an older version."""
    content = read_manifest(made).to_json()
    with pytest.raises(ShardError, match="'image_sizes' is of another type"):
        Manifest.from_json({**content, IMAGE_SIZES: forged})
    del content[IMAGE_SIZES]
    assert Manifest.from_json(content).image_sizes == {}
