"""How the copies of an expanded folder compare with real pictures, in the feature space of a CLIP."""

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
"""Pictures of each kind that are compared, spread evenly."""
FEWEST = 8
"""Below so many of either kind nothing is compared."""
SAME = 0.98
"""Cosine of two pictures' CLIP embeddings from which they are called near-duplicates."""
BLOCK = 50


@dataclass(frozen=True)
class Shift:
    """How far copies move from their seeds in the CLIP's feature map, as shares of the seeds' own length.

    Attributes:
        token: Of the means over channels, one a place: content.
        channel: Of the means over places, one a channel: style (Figure 11).
    """

    token: float
    channel: float


@dataclass(frozen=True)
class Likeness:
    """How copies compare with real pictures, by the embeddings of a CLIP.

    Attributes:
        clip: Name of the prior whose CLIP it is.
        real: Real pictures compared.
        made: Copies compared.
        frechet: Fréchet distance of copies and real pictures.
        frechet_of_halves: That of one half of the real pictures and the other: what a perfect copy could reach.
        precision: Share of copies within the real manifold.
        recall: Share of real pictures within the copies' manifold.
        density: How deep copies lie in the real manifold.
        coverage: Share of real pictures with a copy within their neighbourhood.
        radius_of: What covering radii are of: ``"validation"`` or ``"seeds, each left out with its copies"``.
        radius_seeds: Median and largest distance to the nearest seed (Appendix G).
        radius_expanded: The same to the nearest seed or copy.
        like_seed: Share of copies that are near-duplicates of their own seed, of those whose seed is compared; None: of
            none.
        alike: Share of copies that are near-duplicates of another copy.
        consistent: Share of copies that are nearest to the mean of the real pictures of their own class.
        consistent_real: The same of the real pictures, each left out of its mean; of classes with several; None: there
            are no such classes.
        shift: Where the CLIP has a feature map.
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
    shift: Shift | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Likeness:
        """Rebuild from JSON types; raises KeyError, TypeError or ValueError if a field is missing or damaged."""
        return cls(**{spec.name: _FROM_JSON[str(spec.type)](value[spec.name]) for spec in fields(cls)})


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "float | None": lambda value: None if value is None else float(value),
    "tuple[float, float]": lambda pair: (float(pair[0]), float(pair[1])),
    "Shift | None": lambda value: None if value is None else Shift(float(value["token"]), float(value["channel"])),
}


def spread(indices: Sequence[int]) -> list[int]:
    """At most ``MOST`` of them, evenly."""
    return [indices[i] for i in evenly(len(indices), MOST)]


def sample(records: Sequence[Provenance]) -> tuple[list[int], list[int]]:
    """Real pictures and copies to compare, at most ``MOST`` of each, spread evenly.

    Copies come with all copies of their seed, as many seeds as fit, and with that seed where it is compared too: of one
    copy a seed nothing could be said about how copies repeat each other.
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
    """Unit embeddings of real pictures, copies and held-out pictures, by the CLIP of the prior ``clip``.

    Of the first two also the feature map's means by place and by channel, if there is one.
    """

    clip: str
    real: Tensor
    made: Tensor
    held: Tensor
    real_map: tuple[Tensor, Tensor] | None
    made_map: tuple[Tensor, Tensor] | None


def embed(reader: ShardReader, real: Sequence[int], made: Sequence[int], prior: str, show: Progress) -> Compared:
    """Embed pictures of an expanded folder, and what it holds out.

    Args:
        reader: The folder.
        real: Samples that are real.
        made: Samples that are synthetic.
        prior: Name or folder of a prior, whose CLIP embeds them.
        show: Wraps the loop.

    Raises:
        ConfigError: If the prior is unknown, or has no CLIP.
    """
    info = find_prior(prior)
    if not info.has_clip:
        raise ConfigError(f"prior {prior!r} has no CLIP to compare pictures by; give another with --prior")
    clip = load_prior(info, None, torch.device(devices.resolve_device("auto")))
    held = ShardReader(reader.folder, VALIDATION) if reader.manifest["validation"] else None
    total = len(real) + len(made) + (min(len(held), MOST) if held else 0)
    bar = iter(show(range(total), "comparing pictures", total))

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

    (real_rows, real_map), (made_rows, made_map) = embedded(reader, real), embedded(reader, made)
    held_rows = embedded(held, spread(range(len(held))))[0] if held else torch.empty(0, 1)
    next(bar, None)
    return Compared(info.name, real_rows, made_rows, held_rows, real_map, made_map)


def _feature_map(prior: Any, pictures: Sequence[Image]) -> tuple[Tensor, Tensor] | None:
    """Means over channels ``(B, places)`` and over places ``(B, channels)``, of the CLIP's feature map."""
    clip = getattr(prior, "clip", None)
    found = clip.feature_map(pictures) if isinstance(clip, Clip) else None
    return None if found is None else (found.mean(2), found.mean(1))


def compare(c: Compared, real: Sequence[Provenance], made: Sequence[Provenance]) -> Likeness:
    """Compare copies with real pictures, whose records are ``made`` and ``real``."""
    seed_row = {record.seed_key: row for row, record in enumerate(real)}
    own = torch.tensor([seed_row.get(record.seed_key, -1) for record in made])
    has_seed = own >= 0
    cosine_to_seed = (c.made[has_seed] * c.real[own[has_seed]]).sum(1)
    among = (c.made @ c.made.T).fill_diagonal_(-1)
    half = len(c.real) // 2
    density, coverage = metrics.density_coverage(c.real, c.made)
    precision, recall = metrics.precision_recall(c.real, c.made)
    of, to_seeds, to_all = _radii(c, own)
    consistent, consistent_real = _consistency(c, [r.label for r in real], [r.label for r in made])
    return Likeness(
        clip=c.clip,
        real=len(real),
        made=len(made),
        frechet=metrics.frechet_distance(c.real, c.made),
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
        consistent=consistent,
        consistent_real=consistent_real,
        shift=_shift(c, own) if c.real_map and c.made_map and has_seed.any() else None,
    )


def _radii(c: Compared, own: Tensor) -> tuple[str, tuple[float, float], tuple[float, float]]:
    """Covering radii of held-out pictures or, without any, of each seed when it and its copies are left out."""
    if len(c.held):
        seeds, both = metrics.nearest(c.held, c.real), metrics.nearest(c.held, torch.cat([c.real, c.made]))
        return "pictures that were held out", _median_and_most(seeds), _median_and_most(both)
    itself = torch.eye(len(c.real), dtype=torch.bool)
    copies = own[None] == torch.arange(len(c.real))[:, None]
    seeds = metrics.nearest(c.real, c.real, itself)
    both = torch.minimum(seeds, metrics.nearest(c.real, c.made, copies))
    return "seeds, each left out with its copies", _median_and_most(seeds), _median_and_most(both)


def _consistency(c: Compared, real: Sequence[int], made: Sequence[int]) -> tuple[float, float | None]:
    """Share of copies, and of real pictures, that are nearest to their own class's mean of the real pictures."""
    known, place, counts = torch.unique(torch.tensor(real), return_inverse=True, return_counts=True)
    sums = torch.zeros(len(known), c.real.shape[1]).index_add(0, place, c.real)
    means = F.normalize(sums, dim=1)
    copies = known[(c.made @ means.T).argmax(1)] == torch.tensor(made)
    scores = c.real @ means.T
    without_itself = F.normalize(sums[place] - c.real, dim=1)
    scores[torch.arange(len(place)), place] = (without_itself * c.real).sum(1)
    several = counts[place] > 1
    right = (scores.argmax(1) == place)[several]
    return float(copies.double().mean()), float(right.double().mean()) if len(right) else None


def _median_and_most(values: Tensor) -> tuple[float, float]:
    finite = values[torch.isfinite(values)]
    return float(finite.median()), float(finite.max())


def _shift(c: Compared, own: Tensor) -> Shift:
    assert c.real_map is not None
    assert c.made_map is not None
    rows = torch.nonzero(own >= 0).flatten()
    token, channel = (
        float(((made[rows] - real[own[rows]]).norm(dim=1) / real[own[rows]].norm(dim=1)).mean())
        for real, made in zip(c.real_map, c.made_map, strict=True)
    )
    return Shift(token, channel)
