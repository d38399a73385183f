"""Images like photographs, and expanded folders of them, for the benchmarks of loading."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gif_datasets.io import atomic, images
from gif_datasets.shards import index, tar
from gif_datasets.shards import manifest as manifests
from gif_datasets.types import OBJECTS, Provenance, Sample

CLASSES = 10
SHARDS = 8


@dataclass(frozen=True)
class Images:
    """Which images a table is of.

    Attributes:
        suffix: Their format.
        size: Pixels of a side.
        samples: How many are read in an epoch.
        batch: How many are a batch.
    """

    suffix: str
    size: int
    samples: int
    batch: int

    @property
    def name(self) -> str:
        """What the table is called."""
        return f"{self.suffix}-{self.size}"


def pixels(number: int, size: int = 224) -> np.ndarray:
    """``(size, size, 3)`` uint8 with the statistics of a photograph: 1/f noise and rectangles."""
    random = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        spectrum = (random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)) / frequency**1.15
        plane = np.fft.irfft2(spectrum, s=(size, size))
        planes.append(plane / plane.std())
    made = 128 + 45 * (0.8 * np.stack([planes[0]] * 3, -1) + 0.35 * np.stack(planes, -1))
    for _ in range(4):
        (top, bottom), (left, right) = np.sort(random.integers(0, size, (2, 2)), axis=1)
        made[top:bottom, left:right] += random.uniform(-60, 60, 3)
    return made.clip(0, 255).astype(np.uint8)


def picture(number: int, size: int = 224, suffix: str = "jpg") -> bytes:
    """An image file: of 224 pixels a JPEG of quality 90, about 25 KB; others as this package writes them.

    Of these, JPEG has quality 95 without subsampling, and WebP is lossless, as ``image_format=auto`` writes it.
    """
    if (suffix, size) != ("jpg", 224):
        return images.encode(pixels(number, size), suffix, jpeg_quality=95, webp_effort=0)
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "JPEG", quality=90)
    return file.getvalue()


def record(number: int, image: bytes = b"", ratio: int = 3) -> Provenance:
    """A record of an image with all its fields, for seed ``number // (ratio + 1)``."""
    kinds = {"int": 0, "float": 0.0, "str": "x", "bool": False}
    values: dict[str, Any] = {
        field.name: kinds[str(field.type)] for field in fields(Provenance) if field.name != OBJECTS
    }
    seed, copy = divmod(number, ratio + 1)
    values |= {"seed_index": seed, "copy": copy, "synthetic": copy > 0, "label": number % CLASSES}
    return Provenance(**{**values, "image_sha256": hashlib.sha256(image).hexdigest()})


def finish(folder: Path, listed: list[manifests.Shard], made: index.Index, suffix: str = "jpg") -> None:
    """Write the index, and as much of a manifest as readers look at."""
    samples = sum(shard.samples for shard in listed)
    recipe: dict[str, Any] = {
        "options": {"method": "cutout", "ratio": 3, "image_format": suffix, "decode_batch": 20},
        "prior": {"name": "", "digest": "0" * 64},
        "device": "cpu",
        "versions": {},
    }
    manifest = {
        "format": manifests.MANIFEST_FORMAT,
        "source": "benchmark",
        "split": "train",
        "classes": [f"class {i}" for i in range(CLASSES)],
        "samples": samples,
        "originals": samples // 4,
        "synthetic": samples - samples // 4,
        "validation": 0,
        "failed_checks": 0,
        "plan": {"recipe": recipe, "seeds": samples // 4},
        "plan_hash": "0" * 64,
        "shards": [manifests.shard_json(shard) for shard in listed],
    }
    draft = manifests.Manifest.from_json(manifests.sealed(manifest, {}))
    files = {**manifests.index_files(draft), index.INDEX: index.to_bytes(made)}
    manifests.write_files(folder, files)
    manifests.write_manifest(folder, manifests.Manifest.from_json(manifests.sealed(manifest, files)))


def expanded(folder: Path, pool: list[bytes], per: int, suffix: str = "jpg") -> None:
    """An expanded folder of ``SHARDS * per`` samples, images of ``pool`` in turn."""
    listed = []
    for i in range(SHARDS):
        images = [(n, pool[n % len(pool)]) for n in range(i * per, (i + 1) * per)]
        rows = [(image, record(n, image)) for n, image in images]
        made = [(tar.sample_key("train", r.seed_index, r.copy), Sample(image, r)) for image, r in rows]
        listed.append(tar.write_shard(folder / manifests.shard_name("train", i, SHARDS), made, suffix))
    finish(folder, listed, tar.build_index(folder, listed), suffix)


def prepare(base: Path, wanted: Images, different: int = 400) -> None:
    """The same images as an expanded folder, ``tar``, and as a folder for each class, ``folder``; once."""
    if (base / "tar" / manifests.MANIFEST).exists():
        return
    pool = [picture(i, wanted.size, wanted.suffix) for i in range(min(wanted.samples, different))]
    per = wanted.samples // SHARDS
    for n in range(per * SHARDS):
        path = base / "folder" / f"{n % CLASSES:02d}" / f"{n:07d}.{wanted.suffix}"
        atomic.write_bytes(path, pool[n % len(pool)])
    expanded(base / "tar", pool, per, wanted.suffix)
