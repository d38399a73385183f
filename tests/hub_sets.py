"""Sets that the tests of the Hub publish, and how they are compared."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
from hub_server import HubServer
from PIL import Image

import gif_datasets
from gif_datasets.shards import manifest

CLASSES = ("bee", "ant: `x` | <b>&amp;\n---\n# no\x07", "crab 🦀 'or\" so")
"""Not in the order of their names, and hostile to YAML, Markdown and HTML."""
COUNTS = {"train": 36, "validation": 3}
NAME = "me/tiny-gif2x"


def expand_noise(place: Path, rng_seed: int) -> Path:
    generator = np.random.default_rng(0)
    rows = [(Image.fromarray(generator.integers(0, 256, (12, 9, 3), dtype=np.uint8)), i % 3) for i in range(15)]
    options: dict[str, Any] = {"validation_share": 0.2, "samples_per_shard": 6, "cache_dir": place / "c"}
    options |= {"ratio": 2, "prior": "linear", "classes": CLASSES, "rng_seed": rng_seed}
    gif_datasets.ExpandedDataset(rows, **options).precompute(place / "set")
    return place / "set"


def expansion(rows: datasets.Dataset, **options: Any) -> gif_datasets.ExpandedDataset:
    return gif_datasets.ExpandedDataset(rows, **{"ratio": 1, "prior": "linear", "image_column": "picture", **options})


def pixels(image: Image.Image) -> str:
    return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()


def truth(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """What must be found, by key: picture digest and record."""
    loaded = gif_datasets.load_expanded(folder, split=split)
    records = [loaded.provenance(index).to_json() for index in range(len(loaded))]
    keys = [f"{split}-{r['seed_index']:07d}-{r['copy']:04d}" for r in records]
    return {k: {"pixels": pixels(loaded[i][0]), **r} for i, (k, r) in enumerate(zip(keys, records, strict=True))}


def metadata(text: str) -> dict[str, Any]:
    return dict(huggingface_hub.DatasetCard(text).data.to_dict())


def published(hub: HubServer, folder: Path) -> bool:
    """Whether `main` holds the shards of a folder and no others."""
    listed = {path: file.oid for path, file in hub.head(NAME).files.items() if path.endswith(".tar")}
    return listed == {shard.name: shard.sha256 for shard in manifest.read_manifest(folder).shards}
