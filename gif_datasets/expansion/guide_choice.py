"""Which guide reads the seeds best: several, side by side, before any of them is given to a long run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from gif_datasets.errors import ConfigError
from gif_datasets.expansion.imagination.scoring import SeedEmbeddings
from gif_datasets.expansion.recipe import Recipe, spread
from gif_datasets.guidance import fitted_heads, recognition
from gif_datasets.guidance.zeroshot import Clip, OwnHead
from gif_datasets.priors import PriorInfo, load_prior, prior_parts
from gif_datasets.priors.guide_models import ClipGuide
from gif_datasets.priors.guides import GuideInfo, find_guide, guides_here
from gif_datasets.sources.base import Source, seed_image
from gif_datasets.types import Seed

if TYPE_CHECKING:
    from gif_datasets.guidance.zeroshot import ZeroShotClassifier
    from gif_datasets.priors.base import Prior
    from gif_datasets.priors.guide_models import Guide

MOST_READ = 200
"""Seeds that each guide reads."""
HERE = "here"
"""Stands for all guides of the documentation's table that are in the Hub's cache."""
HEAD = "head"
"""The kind of classifier that a network brings."""


@dataclass(frozen=True)
class Reading:
    """How well a guide names the seeds, each by a classifier that was not fitted to it.

    Attributes:
        guide: Its name; the prior's own is ``"prior"``.
        seeds: Seeds that it was shown.
        accuracy: Balanced accuracy, the mean of those of the classes, by kind of classifier: the options' values, or
            ``"head"`` for a network's own.
    """

    guide: str
    seeds: int
    accuracy: dict[str, float]

    @property
    def best(self) -> str:
        """The kind of classifier that names most."""
        return max(self.accuracy, key=lambda kind: self.accuracy[kind])

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {**asdict(self), "best": self.best}


def check_guides(names: Sequence[str], recipe: Recipe) -> list[GuideInfo]:
    """Find guides by name, before anything is made.

    Raises:
        ConfigError: If there is no such guide, it cannot tell the classes apart, or none is here.
    """
    found = [info for name in names for info in (guides_here() if name == HERE else [find_guide(name)])]
    if names and not found:
        raise ConfigError(
            "no guide of the table in docs/guides.md is in the Hub's cache; name one (--guide MODEL/CHECKPOINT), which"
            " is fetched"
        )
    for info in found:
        info.check(recipe.classes, "linear")
    return list({info.digest: info for info in found}.values())


def read_seeds(
    guides: Sequence[GuideInfo], recipe: Recipe, source: Source, seeds: Sequence[Seed]
) -> tuple[Reading, ...]:
    """Let each guide name some seeds, spread over all: first the prior's own, one after the other in memory."""
    chosen = spread(seeds, MOST_READ)
    return tuple(
        _reading(name, load(torch.device(recipe.device)), recipe, lambda seed: seed_image(source, seed), chosen)
        for name, load in _loaders(guides, recipe)
    )


def _loaders(
    guides: Sequence[GuideInfo], recipe: Recipe
) -> Iterator[tuple[str, Callable[[torch.device], Prior | Guide]]]:
    info = recipe.prior
    if info.trained and info.make is None:
        yield "prior", lambda device: own_scorer(info, device)
    for guide in guides:
        yield guide.name, guide.load


def own_scorer(info: PriorInfo, device: torch.device) -> Prior | Guide:
    """What scores by default: the prior's CLIP, or a prior that needs none."""
    if info.clip_family is None:
        return load_prior(info, None, device)
    return ClipGuide(Clip(prior_parts(info, info.clip_family).scored_by, device))


def _reading(
    name: str, guide: Prior | Guide, recipe: Recipe, picture: Callable[[Seed], Any], seeds: Sequence[Seed]
) -> Reading:
    text = guide.classifier(recipe.classes, recipe.config)
    rows = SeedEmbeddings(guide, picture, recipe.config.encode_batch)(seeds)
    labels = torch.tensor([seed.label for seed in seeds], device=rows.device)
    accuracy = {
        label: round(balanced(fitted_heads.recognised(kind, text, rows, labels), labels), 4)
        for label, kind in _kinds(text)
    }
    return Reading(name, len(seeds), accuracy)


def _kinds(text: ZeroShotClassifier) -> list[tuple[str, str]]:
    """Kinds of classifiers to try, each with its name: a head has no other, features have no texts."""
    if isinstance(text, OwnHead):
        return [(HEAD, "text")]
    return [(kind, kind) for kind in recognition.KINDS if kind != "text" or text.weights.any()]


def balanced(right: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over the classes of the share that is right.

    Example:
        >>> balanced(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 1]))
        0.5
    """
    return float(torch.stack([right[labels == label].float().mean() for label in sorted(set(labels.tolist()))]).mean())
