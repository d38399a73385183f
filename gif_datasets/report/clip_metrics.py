"""How the copies of an expanded folder compare with real images, in the feature space of a CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.chunks import blocks, evenly
from gif_datasets.errors import ConfigError
from gif_datasets.guidance.zeroshot import Clip
from gif_datasets.io import devices, images
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.report import metrics
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import VALIDATION, Progress, Provenance

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 1_000
"""Images of each kind that are compared, evenly spaced."""
FEWEST = 8
"""With fewer images of either kind, nothing is compared."""
SAME = 0.98
"""Two images are near-duplicates if the cosine of their CLIP embeddings is at least this."""
BLOCK = 50


@dataclass(frozen=True)
class Shift:
    """How far copies move from their seeds in the CLIP's feature map, as shares of the seeds' own length.

    Attributes:
        token: Shift of the means over channels, one per place: content.
        channel: Shift of the means over places, one per channel: style (Figure 11).
    """

    token: float
    channel: float


@dataclass(frozen=True)
class OwnClass:
    """Shares of one class's images that are nearest to the mean of its own real images; None where there are none.

    Attributes:
        label: Class index.
        copies: Of its copies.
        real: Of its real images, each left out of the mean; None for a class of one.
    """

    label: int
    copies: float | None
    real: float | None


@dataclass(frozen=True)
class Likeness:
    """How copies compare with real images, by the embeddings of a CLIP.

    Attributes:
        clip: Name of the prior that has the CLIP.
        real: Real images compared.
        made: Copies compared.
        frechet: Fréchet distance between copies and real images.
        frechet_of_halves: The same between the two halves of the real images: what perfect copies could reach.
        precision: Share of copies within the real manifold.
        recall: Share of real images within the copies' manifold.
        density: How deep copies lie in the real manifold.
        coverage: Share of real images with a copy within their neighbourhood.
        radius_of: Images whose covering radii are measured, in words: the validation split or, without one, the seeds.
        radius_seeds: Median and largest distance to the nearest seed (Appendix G).
        radius_expanded: The same to the nearest seed or copy.
        like_seed: Share of copies that are near-duplicates of their own seed, among those whose seed is compared; None
            if there are none.
        alike: Share of copies that are near-duplicates of another copy.
        consistent: Share of copies that are nearest to the mean of the real images of their own class.
        consistent_real: The same for the real images of classes with several, each left out of its mean; None if there
            is no such class.
        own_class: Both of each class, by label.
        shift: None if the CLIP has no feature map.
    """

    clip: str
    real: int
    made: int
    frechet: float
    frechet_of_halves: float
    precision: float
    recall: float
    density: float
    coverage: float
    radius_of: str
    radius_seeds: tuple[float, float]
    radius_expanded: tuple[float, float]
    like_seed: float | None
    alike: float
    consistent: float
    consistent_real: float | None
    own_class: tuple[OwnClass, ...]
    shift: Shift | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Likeness:
        """Rebuild from JSON types; raises KeyError, TypeError or ValueError if a field is missing or damaged."""
        return cls(**{spec.name: _FROM_JSON[str(spec.type)](value[spec.name]) for spec in fields(cls)})


def _share(value: Any) -> float | None:
    return None if value is None else float(value)


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "float | None": lambda value: _share(value),
    "tuple[float, float]": lambda pair: (float(pair[0]), float(pair[1])),
    "tuple[OwnClass, ...]": lambda rows: tuple(
        OwnClass(int(row["label"]), *(_share(row[kind]) for kind in ("copies", "real"))) for row in rows
    ),
    "Shift | None": lambda value: None if value is None else Shift(float(value["token"]), float(value["channel"])),
}


def spread(indices: Sequence[int]) -> list[int]:
    """At most ``MOST`` of the indices, evenly spaced."""
    return [indices[i] for i in evenly(len(indices), MOST)]


def sample(records: Sequence[Provenance]) -> tuple[list[int], list[int]]:
    """Real images and copies to compare, at most ``MOST`` of each, evenly spaced.

    All copies of a seed are compared together, for as many seeds as fit, preferably of seeds that are compared too: one
    copy per seed could not show how copies repeat each other.
    """
    real = spread([i for i, record in enumerate(records) if not record.synthetic])
    families: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        if record.synthetic:
            families.setdefault(record.seed_key, []).append(i)
    shown = {records[i].seed_key for i in real}
    chosen = [family for key, family in families.items() if key in shown] or list(families.values())
    copies = sum(map(len, chosen))
    fitting = [chosen[i] for i in evenly(len(chosen), max(1, len(chosen) * MOST // max(copies, MOST)))]
    return real, sorted(i for family in fitting for i in family)[:MOST]


@dataclass(frozen=True)
class Compared:
    """Unit embeddings of real images, copies and validation images, by the CLIP of the prior ``clip``.

    For the first two also the means of the feature map by place and by channel, if the CLIP has one.
    """

    clip: str
    real: Tensor
    synthetic: Tensor
    validation: Tensor
    real_map: tuple[Tensor, Tensor] | None
    synthetic_map: tuple[Tensor, Tensor] | None


def embed(reader: ShardReader, real: Sequence[int], synthetic: Sequence[int], prior: str, show: Progress) -> Compared:
    """Embed images of an expanded folder, and its validation split.

    Args:
        reader: The folder.
        real: Samples that are real.
        synthetic: Samples that are synthetic.
        prior: Name or folder of a prior, whose CLIP embeds them.
        show: Wraps the loop.

    Raises:
        ConfigError: If the prior is unknown, or has no CLIP.
    """
    info = find_prior(prior)
    if not info.has_clip:
        raise ConfigError(f"prior {prior!r} has no CLIP to compare images with; use another with --prior")
    clip = load_prior(info, None, torch.device(devices.resolve_device("auto")))
    validation = ShardReader(reader.opened, VALIDATION) if reader.manifest.validation else None
    total = len(real) + len(synthetic) + (min(len(validation), MOST) if validation else 0)
    bar = iter(show(range(total), "comparing images", total))

    def embedded(source: ShardReader, indices: Sequence[int]) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        rows, maps = [torch.empty(0, 1)], []
        for part in blocks(indices, BLOCK):
            pictures = [images.read_rgb(source.image_bytes(i), source.key(i)) for i in part]
            rows.append(F.normalize(clip.embed_images(pictures), dim=-1).cpu())
            maps.append(_feature_map(clip, pictures))
            for _ in part:
                next(bar, None)
        known = [pair for pair in maps if pair is not None]
        joined = (torch.cat([p[0] for p in known]), torch.cat([p[1] for p in known])) if known else None
        return torch.cat(rows[1:] or rows), joined

    (real_rows, real_map), (synthetic_rows, synthetic_map) = embedded(reader, real), embedded(reader, synthetic)
    validation_rows = embedded(validation, spread(range(len(validation))))[0] if validation else torch.empty(0, 1)
    next(bar, None)
    return Compared(info.name, real_rows, synthetic_rows, validation_rows, real_map, synthetic_map)


def _feature_map(prior: Any, pictures: Sequence[Image]) -> tuple[Tensor, Tensor] | None:
    """Means over channels ``(B, places)`` and over places ``(B, channels)``, of the CLIP's feature map."""
    clip = getattr(prior, "clip", None)
    features = clip.feature_map(pictures) if isinstance(clip, Clip) else None
    return None if features is None else (features.mean(2), features.mean(1))


def compare(c: Compared, real: Sequence[Provenance], synthetic: Sequence[Provenance]) -> Likeness:
    """Compare copies with real images, whose records are ``synthetic`` and ``real``."""
    seed_row = {record.seed_key: row for row, record in enumerate(real)}
    seed_rows = torch.tensor([seed_row.get(record.seed_key, -1) for record in synthetic])
    has_seed = seed_rows >= 0
    cosine_to_seed = (c.synthetic[has_seed] * c.real[seed_rows[has_seed]]).sum(1)
    among = (c.synthetic @ c.synthetic.T).fill_diagonal_(-1)
    half = len(c.real) // 2
    density, coverage = metrics.density_coverage(c.real, c.synthetic)
    precision, recall = metrics.precision_recall(c.real, c.synthetic)
    of, to_seeds, to_all = _radii(c, seed_rows)
    labels, synthetic_labels = torch.tensor([r.label for r in real]), torch.tensor([r.label for r in synthetic])
    right, right_made = _nearest_to_own(c, labels, synthetic_labels)
    several = torch.bincount(labels)[labels] > 1
    return Likeness(
        clip=c.clip,
        real=len(real),
        made=len(synthetic),
        frechet=metrics.frechet_distance(c.real, c.synthetic),
        frechet_of_halves=metrics.frechet_distance(c.real[:half], c.real[half:]),
        precision=precision,
        recall=recall,
        density=density,
        coverage=coverage,
        radius_of=of,
        radius_seeds=to_seeds,
        radius_expanded=to_all,
        like_seed=float((cosine_to_seed >= SAME).double().mean()) if len(cosine_to_seed) else None,
        alike=float((among >= SAME).any(1).double().mean()),
        consistent=float(right_made.double().mean()),
        consistent_real=_mean(right[several]),
        own_class=tuple(
            OwnClass(label, _mean(right_made[synthetic_labels == label]), _mean(right[several & (labels == label)]))
            for label in torch.unique(torch.cat([labels, synthetic_labels])).tolist()
        ),
        shift=_shift(c, seed_rows) if c.real_map and c.synthetic_map and has_seed.any() else None,
    )


def _radii(c: Compared, seed_rows: Tensor) -> tuple[str, tuple[float, float], tuple[float, float]]:
    """Covering radii of validation images or, without any, of each seed with itself and its copies left out."""
    if len(c.validation):
        seeds, both = (
            metrics.nearest(c.validation, c.real),
            metrics.nearest(c.validation, torch.cat([c.real, c.synthetic])),
        )
        return "validation images", _median_and_most(seeds), _median_and_most(both)
    itself = torch.eye(len(c.real), dtype=torch.bool)
    copies = seed_rows[None] == torch.arange(len(c.real))[:, None]
    seeds = metrics.nearest(c.real, c.real, itself)
    both = torch.minimum(seeds, metrics.nearest(c.real, c.synthetic, copies))
    return "seeds, each left out with its copies", _median_and_most(seeds), _median_and_most(both)


def _nearest_to_own(c: Compared, real: Tensor, synthetic: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each real image, and each copy, is nearest to the mean of the real images of its own class."""
    known, place = torch.unique(real, return_inverse=True)
    sums = torch.zeros(len(known), c.real.shape[1]).index_add(0, place, c.real)
    means = F.normalize(sums, dim=1)
    copies = known[(c.synthetic @ means.T).argmax(1)] == synthetic
    scores = c.real @ means.T
    without_itself = F.normalize(sums[place] - c.real, dim=1)
    scores[torch.arange(len(place)), place] = (without_itself * c.real).sum(1)
    return scores.argmax(1) == place, copies


def _mean(found: Tensor) -> float | None:
    return float(found.double().mean()) if len(found) else None


def _median_and_most(values: Tensor) -> tuple[float, float]:
    finite = values[torch.isfinite(values)]
    return float(finite.median()), float(finite.max())


def _shift(c: Compared, seed_rows: Tensor) -> Shift:
    assert c.real_map is not None
    assert c.synthetic_map is not None
    rows = torch.nonzero(seed_rows >= 0).flatten()
    token, channel = (
        float(((synthetic[rows] - real[seed_rows[rows]]).norm(dim=1) / real[seed_rows[rows]].norm(dim=1)).mean())
        for real, synthetic in zip(c.real_map, c.synthetic_map, strict=True)
    )
    return Shift(token, channel)
