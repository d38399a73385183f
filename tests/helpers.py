"""Datasets that several tests build."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import fsspec
import numpy as np
from PIL import Image

from gif_datasets.io import atomic
from gif_datasets.io.digests import digest


def forge_manifest(folder: Path, **changes: object) -> None:
    """Change entries of an expanded folder's manifest, its own digest with them, as somebody with intent would."""
    manifest = {**json.loads((folder / "manifest.json").read_text()), **changes}
    manifest["digest"] = digest({name: value for name, value in manifest.items() if name != "digest"})
    atomic.write_json(folder / "manifest.json", manifest)


def hugging_face(folder: Path) -> datasets.Dataset:
    """The pictures of a class-per-folder tree as a Hugging Face dataset with columns id, picture and kind."""
    paths = sorted(folder.rglob("*.png"))
    names = sorted({path.parent.name for path in paths})
    features = datasets.Features(
        {"id": datasets.Value("int64"), "picture": datasets.Image(), "kind": datasets.ClassLabel(names=names)}
    )
    rows = {
        "id": list(range(100, 100 + len(paths))),
        "picture": [str(path) for path in paths],
        "kind": [names.index(path.parent.name) for path in paths],
    }
    return datasets.Dataset.from_dict(rows, features=features)


OPTIONS = {"ratio": 2, "prior": "linear", "samples_per_shard": 4}
"""A small expansion of several shards."""


def write_noise(folder: Path, count: int) -> Path:
    """Images of 16 x 16 pixels of two classes, a and b in turn; returns the folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stored(url: str) -> dict[str, bytes]:
    """All objects below a URL but the parts of the index, by relative name."""
    store, root = fsspec.url_to_fs(url, skip_instance_cache=True)
    found = {name.removeprefix(f"{root}/"): store.cat_file(name) for name in store.find(root)}
    return {name: content for name, content in found.items() if not name.endswith(".index.safetensors")}


def install(site: Path, name: str, entry_points: str) -> None:
    """What pip leaves of an installed package: that it is there, and what it registers."""
    info = site / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(entry_points)
