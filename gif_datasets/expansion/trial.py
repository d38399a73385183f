"""A few copies before the long run: do they look like their class, and how near to their seeds must they begin?

What is drawn here stays in the cache: the run finds it there.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gif_datasets.config import ExpansionConfig
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.plan import Plan
from gif_datasets.expansion.recipe import Recipe, spread
from gif_datasets.guidance.recognition import OwnClass
from gif_datasets.io import decode
from gif_datasets.io.cache.store import Cache
from gif_datasets.methods import METHODS
from gif_datasets.priors import load_prior
from gif_datasets.priors.published import FROM_NOISE_ALONE
from gif_datasets.sources.base import Source
from gif_datasets.types import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gif_datasets.priors.base import Prior
    from gif_datasets.types import Seed

COPIES = 40
"""Copies that are drawn, one of each seed: their share is known to 8 points either way."""
STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEAST_KEPT = 0.75
"""Of the share of real images that look like their class; below, the prior does not draw such images."""


@dataclass(frozen=True)
class StrengthChoice:
    """How ``strength=auto`` was settled.

    Attributes:
        strength: The highest strength that was tried at which enough copies keep their class; the lowest if none does.
        target: The share that was asked for, relative to that of real images.
        reached: Whether :attr:`strength` reaches it.
        copies: Copies that were drawn at each strength.
        real: Share of the real images that look like their class.
        tried: Share of the copies that do, by strength.
        epsilon: Radius of the perturbation, which goes with it.
    """

    strength: float
    target: float
    reached: bool
    copies: int
    real: float
    tried: dict[str, float]
    epsilon: float

    def text(self) -> str:
        """One line."""
        tried = ", ".join(f"{share:.0%} at {strength}" for strength, share in sorted(self.tried.items(), reverse=True))
        found = "" if self.reached else "; no strength reaches the target, and the lowest is taken"
        return (
            f"strength {self.strength}: of {self.copies} copies look like their class {tried}"
            f" (real images: {self.real:.0%}, target: {self.target:.0%} of that){found}"
        )


def look(imaginer: Imaginer, seeds: Sequence[Seed], copies: int = COPIES) -> OwnClass | None:
    """Draw one copy of some seeds that have any, spread over all, and look at them; None where no prior makes them."""
    if not METHODS[imaginer.recipe.config.method].imagines or not imaginer.recipe.prior.trained:
        return None
    recipe = imaginer.recipe
    chosen = spread(seeds, copies)
    rows: list[Row] = [(seed, 1 + place % recipe.of(seed).config.copies) for place, seed in enumerate(chosen)]
    images = [decode.picture(content, "a copy") for content in imaginer.pictures(rows)]
    return imaginer.own_class(list(zip(chosen, images, strict=True)))


def warning(found: OwnClass | None, recipe: Recipe) -> str:
    """One line if the prior does not draw such images, with what to try next; empty otherwise."""
    if found is None or found.kept >= LEAST_KEPT or not found.tells_apart:
        return ""
    return (
        f"{found.text()} (of {found.looked_at} copies drawn so far; worst: {found.worst()}):"
        f" prior {recipe.prior.name!r} does not draw such images well; {_advice(recipe)}"
    )


def _advice(recipe: Recipe) -> str:
    config, published = recipe.config, recipe.prior.published
    near = METHODS[config.method].family == "unclip" and not (published and published.pipeline in FROM_NOISE_ALONE)
    if near and recipe.prior.name != "linear" and isinstance(config.strength, float) and config.strength > 0.4:
        return "begin nearer to the seeds (--set strength=auto)"
    if published is None and recipe.prior.name == "embedded":
        return "take a published prior (gif-datasets priors), tune it (gif-datasets tune), or use --method randaugment"
    return "tune it (gif-datasets tune), or use --method randaugment"


def settle_strength(
    plan: Plan, source: Source, cache: Cache, given: Prior | None = None
) -> tuple[Plan, StrengthChoice]:
    """The plan with ``strength=auto`` replaced by the highest strength at which enough copies keep their class.

    The share falls as the strength rises, so the strengths are searched by halves: three or four are tried.
    """
    recipe, target = plan.recipe, target_of(plan.recipe.config)
    prior = given or load_prior(
        recipe.prior, METHODS[recipe.config.method].family, torch.device(recipe.device), recipe.config
    )
    tried: dict[float, OwnClass] = {}

    def enough(strength: float) -> bool:
        imaginer = Imaginer(_at(recipe, strength), source, cache, plan.seeds, prior)
        found = look(imaginer, plan.expanded)
        assert found is not None
        tried[strength] = found
        return found.kept >= target

    passing = bisect_left(STRENGTHS, True, key=lambda strength: not enough(strength))
    strength = STRENGTHS[max(passing - 1, 0)]
    choice = StrengthChoice(
        strength=strength,
        target=target,
        reached=tried[strength].kept >= target,
        copies=tried[strength].looked_at,
        real=round(tried[strength].real_share, 4),
        tried={str(one): round(found.share, 4) for one, found in sorted(tried.items())},
        epsilon=recipe.config.epsilon,
    )
    return dataclasses.replace(plan, recipe=_at(recipe, strength), strength_choice=dataclasses.asdict(choice)), choice


def _at(recipe: Recipe, strength: float) -> Recipe:
    return dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, strength=strength))


def target_of(config: ExpansionConfig) -> float:
    """The share that ``strength=auto`` or ``auto:SHARE`` asks for."""
    _, _, share = str(config.strength).partition(":")
    return float(share) if share else LEAST_KEPT
