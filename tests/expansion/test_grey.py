"""Grey stays grey: no method marks a copy of a grey seed by its colours."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gif_datasets import ExpandedDataset, ExpansionConfig, expand, load_expanded
from gif_datasets.expansion.open import open_expansion
from gif_datasets.io.cache.entries import CACHE_FORMAT
from gif_datasets.io.digests import digest_text
from gif_datasets.io.images import is_grey
from gif_datasets.methods import METHODS
from gif_datasets.publish.export import export_expanded
from gif_datasets.sources import wrap_source


@pytest.fixture
def half_grey(tmp_path: Path) -> Path:
    """Two classes of two grey images and a coloured one."""
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "seeds" / label).mkdir(parents=True)
        for name, shape in (("grey1", (8, 8)), ("grey2", (8, 8)), ("colour", (8, 8, 3))):
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(tmp_path / "seeds" / label / f"{name}.png")
    return tmp_path / "seeds"


def grey(image: Image.Image) -> bool:
    return is_grey(np.asarray(image.convert("RGB")))


EMBEDDED = [name for name in METHODS if not METHODS[name].selects and METHODS[name].family != "rae"]


@pytest.mark.parametrize("method", [*EMBEDDED, "select:unclip"])
def test_copies_of_grey_seeds_are_grey(method: str, half_grey: Path, tmp_path: Path) -> None:
    """By every method; those of coloured seeds in the same set keep their colours."""
    few = {"redraws": 1, "steps": 1, "decode_steps": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at options that the method has no use for
        expanded = ExpandedDataset(half_grey, ratio=1, method=method, cache_dir=tmp_path / "cache", **few)
    for index in range(6, 12):
        assert grey(expanded[index][0]) == ("grey" in expanded.provenance(index).seed_origin)


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_grey_in_shards_and_exports(image_format: str, half_grey: Path, tmp_path: Path) -> None:
    """Wherever copies go, and scored as they are stored."""
    options = {"method": "unclip", "image_format": image_format, "measure_pictures": True}
    expand(half_grey, tmp_path / "x", ratio=1, cache_dir=tmp_path / "cache", **options)
    loaded = load_expanded(tmp_path / "x")
    for index in range(len(loaded)):
        assert grey(loaded[index][0]) == ("grey" in loaded.provenance(index).seed_origin)
    export_expanded(tmp_path / "x", tmp_path / "y")
    stored = [path for path in (tmp_path / "y").rglob(f"*.{image_format}") if path.name != "preview.png"]
    assert sorted(grey(Image.open(path)) for path in stored) == [False] * 4 + [True] * 8


@pytest.mark.parametrize("method", ["gif-unclip", "mae", "select:sd", "cutmix", "randaugment", "select:cutout"])
def test_only_what_was_coloured_is_made_again(method: str, half_grey: Path) -> None:
    """Plans and keys are marked where an older version would have coloured a copy of a grey seed, and nowhere else."""

    def opened() -> tuple[int, list[bool]]:
        plan = open_expansion(wrap_source(half_grey), ExpansionConfig(method=method)).plan
        recipe = plan.recipe
        keys = [digest_text(f"{CACHE_FORMAT} {recipe.digest} {seed.key} {seed.label} 1") for seed in plan.seeds]
        same = [recipe.cache_key(seed, 1) == key for seed, key in zip(plan.seeds, keys, strict=True)]
        return plan.json.get("grey_seeds", 0), same

    colours = METHODS[method].colours
    assert opened() == (4 * colours, [True, not colours, not colours] * 2)
    for path in half_grey.rglob("grey*"):
        path.unlink()
    assert opened() == (0, [True] * 2)
