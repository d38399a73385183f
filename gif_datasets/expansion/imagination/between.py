"""Copies that start between two seeds of a class, on the short arc of their image embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gif_datasets.guidance.rng import generator_for
from gif_datasets.sources.seed_table import SeedTable
from gif_datasets.types import Seed

FURTHEST = 0.5
"""Share of the arc that a copy goes at most: it stays nearer to its own seed than to the other."""


def companion(rng_seed: int, seeds: SeedTable, seed: Seed, copy: int) -> tuple[Seed, float]:
    """The other seed that a copy starts towards, and the share of the arc that it goes.

    Args:
        rng_seed: The run's number.
        seeds: All seeds, ordered by key, so that the source's order does not matter.
        seed: The copy's own.
        copy: Its number.

    Returns:
        Another image of its class; the seed itself and 0 where there is none.
    """
    generator = generator_for(rng_seed, seed.key, "between", copy)
    share, place = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    others = np.flatnonzero((seeds.labels == seed.label) & (seeds.keys != seed.key.encode("ascii")))
    if not len(others):
        return seed, 0.0
    return seeds[int(others[int(place * len(others))])], round(FURTHEST * share, 6)


def on_arc(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Points on the short great circle between the directions of embeddings; their lengths are mixed linearly.

    Args:
        own: Raw embeddings, ``(.., D)``.
        other: Those that they go towards, ``(.., D)``.
        share: Of the arc, 0 to 1, ``(..)``.

    Source:
        Spherical linear interpolation (Shoemake 1985). Directions that are the same, or opposite, have no arc: then the
        own one stays.

    Example:
        >>> on_arc(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0]), torch.tensor(0.5)).tolist()
        [2.1213202476501465, 2.1213202476501465]
    """
    lengths = [rows.norm(dim=-1, keepdim=True) for rows in (own, other)]
    first, second = (rows / length.clamp(min=1e-12) for rows, length in zip((own, other), lengths, strict=True))
    angle, t = (first * second).sum(-1, keepdim=True).clamp(-1, 1).arccos(), share[..., None]
    sine = angle.sin()
    flat = sine < 1e-4
    weights = [(part * angle).sin() / sine.where(~flat, torch.ones_like(sine)) for part in (1 - t, t)]
    direction = torch.where(flat, first, weights[0] * first + weights[1] * second)
    points: Tensor = direction * ((1 - t) * lengths[0] + t * lengths[1])
    return points
