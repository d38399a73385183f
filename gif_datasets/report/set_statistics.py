"""Statistics of an expanded folder that need no model: criteria, repeats, and how near copies are to real images.

Nearness is measured on images scaled to 16 x 16 pixels: it finds repeats and near repeats, not similar content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gif_datasets.chunks import evenly
from gif_datasets.config import CRITERIA
from gif_datasets.io import images
from gif_datasets.methods import is_imagined
from gif_datasets.report import near_copies
from gif_datasets.report.near_copies import NearCopies
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import Provenance

SIDE = 16
MOST = 1_000
"""Images of each kind on which nearness is measured, evenly spaced."""


@dataclass(frozen=True)
class Nearness:
    """How near copies are to real images; distances are root mean squares of pixel values 0 to 255.

    Attributes:
        real: Real images compared.
        copies: Copies compared.
        to_copy: Median distance from a copy to the nearest real image.
        between_real: Median distance from a real image to the nearest other one.
        own_seed: Share of copies whose nearest real image is their own seed.
        covered: Share of real images that have a copy nearer than the nearest other real image.
    """

    real: int
    copies: int
    to_copy: float
    between_real: float
    own_seed: float
    covered: float


@dataclass(frozen=True)
class Measures:
    """Measures of the expanded split.

    Attributes:
        per_class: Real and synthetic samples of each class, by label.
        criteria: Means over the copies: (before, after) of each criterion. Seeds that are themselves imagined, as those
            of an expansion of an expansion, are not copies.
        scored: Copies whose image was classified.
        consistent: Share of these with the class of their label.
        repeated: Copies whose image is, byte for byte, that of another sample.
        nearness: None if there are too few images.
        near_copies: Near-duplicates among the copies; None without copies.
    """

    per_class: tuple[tuple[int, int], ...]
    criteria: dict[str, tuple[float, float]]
    scored: int
    consistent: float
    repeated: int
    nearness: Nearness | None
    near_copies: NearCopies | None = None


def measure_records(reader: ShardReader, records: Sequence[Provenance]) -> Measures:
    """Measure the expanded split of a folder, given its records; reads at most 2 x 1,000 images."""
    real = [index for index, record in enumerate(records) if not record.synthetic]
    synthetic = [index for index, record in enumerate(records) if record.synthetic]
    copies = [record for record in records if record.copy]
    counts = Counter((record.label, record.synthetic) for record in records)
    scored = [record for record in copies if record.picture_class >= 0]
    pictures = Counter(record.image_sha256 for record in records)
    return Measures(
        per_class=tuple((counts[label, False], counts[label, True]) for label in range(len(reader.classes))),
        criteria={name: _means([r for r in copies if is_imagined(r.method)], name) for name in CRITERIA},
        scored=len(scored),
        consistent=sum(r.picture_class == r.label for r in scored) / len(scored) if scored else 0.0,
        repeated=sum(pictures[record.image_sha256] > 1 for record in copies),
        nearness=_nearness(reader, [r.seed_key for r in records], real, synthetic),
        near_copies=near_copies.measure(reader, records),
    )


def _means(records: Sequence[Any], name: str) -> tuple[float, float]:
    before, after = ([getattr(r, f"{name}_{when}") for r in records] for when in ("before", "after"))
    return float(np.mean(before)) if before else 0.0, float(np.mean(after)) if after else 0.0


def _nearness(
    reader: ShardReader, keys: Sequence[str], real: Sequence[int], synthetic: Sequence[int]
) -> Nearness | None:
    real, synthetic = ([indices[i] for i in evenly(len(indices), MOST)] for indices in (real, synthetic))
    if len(real) < 2 or not synthetic:
        return None
    seeds, copies = _thumbnails(reader, real), _thumbnails(reader, synthetic)
    among, across = _distances(seeds, seeds), _distances(copies, seeds)
    np.fill_diagonal(among, np.inf)
    nearest = across.argmin(1)
    is_own_seed = [keys[index] == keys[real[place]] for index, place in zip(synthetic, nearest, strict=True)]
    return Nearness(
        real=len(real),
        copies=len(synthetic),
        to_copy=float(np.median(across.min(1))),
        between_real=float(np.median(among.min(1))),
        own_seed=float(np.mean(is_own_seed)),
        covered=float(np.mean(across.min(0) <= among.min(1))),
    )


def _thumbnails(reader: ShardReader, indices: Sequence[int]) -> NDArray[np.float32]:
    def small(index: int) -> NDArray[np.float32]:
        image = images.read_rgb(reader.image_bytes(index), reader.key(index))
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32).ravel()

    return np.stack([small(index) for index in indices])


def _distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    one, other = first.astype(np.float64), second.astype(np.float64)
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    return np.asarray(np.sqrt(np.maximum(squares, 0) / one.shape[1]))
