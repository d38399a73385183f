"""Guided imagination: optimise the perturbation of K copies of a seed's latent together (Eq. 2, Algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gif_datasets import criteria
from gif_datasets.config import ExpansionConfig
from gif_datasets.perturb import perturb, project
from gif_datasets.rng import generator_for

Scorer = Callable[[Tensor], Tensor]
"""Maps raw latents ``(N, *axes)`` to class probabilities ``(N, C)``, differentiably."""


@dataclass(frozen=True)
class Criteria:
    """The three criteria of every copy, each ``(B, K)``: a probability, and two values in nats."""

    consistency: Tensor
    entropy: Tensor
    diversity: Tensor


@dataclass(frozen=True)
class Guided:
    """What guidance found.

    Attributes:
        latents: Perturbed latents, ``(B, K, *axes)``, within epsilon of the seed's up to rounding.
        held_class: Class that consistency was measured on, ``(B,)``.
        seed_consistency: Probability of that class on the seed's own latent, ``(B,)``.
        seed_entropy: Prediction entropy of the seed's own latent, nats, ``(B,)``.
        before: Criteria of the random perturbation that guidance started from.
        after: Criteria of ``latents``.
    """

    latents: Tensor
    held_class: Tensor
    seed_consistency: Tensor
    seed_entropy: Tensor
    before: Criteria
    after: Criteria


def draw(keys: Sequence[str], copies: int, shape: Sequence[int], rng_seed: int) -> tuple[Tensor, Tensor]:
    """Draw ``z ~ U(0, 1)`` and ``b ~ N(0, 1)``, independently for every copy of every seed.

    Args:
        keys: Content keys of the seeds.
        copies: K.
        shape: Shape of one noise, ``(D,)`` for CLIP latents.
        rng_seed: The run's number.

    Returns:
        ``z`` and ``b``, each ``(B, K, *shape)``.
    """
    noise, bias = [], []
    for key in keys:
        for copy in range(1, copies + 1):
            noise.append(torch.rand(*shape, generator=generator_for(rng_seed, key, "noise", copy)))
            bias.append(torch.randn(*shape, generator=generator_for(rng_seed, key, "bias", copy)))
    whole = (len(keys), copies, *shape)
    return torch.stack(noise).reshape(whole), torch.stack(bias).reshape(whole)


def guide(latent: Tensor, labels: Tensor, keys: Sequence[str], scores_of: Scorer, config: ExpansionConfig) -> Guided:
    """Perturb each latent K times and ascend the sum of the criteria by sign steps, for all seeds at once.

    No result depends on the other seeds of the batch: criteria are summed over seeds, so each seed's gradient is its
    own, and a sign step has no norm to share.

    Args:
        latent: Raw latents of the seeds, ``(B, *axes)``.
        labels: Their class indices, ``(B,)``; used when ``config.held_class`` is ``"label"``.
        keys: Their content keys; the noise depends on nothing else but ``config.rng_seed``.
        scores_of: Class probabilities of latents.
        config: ``ratio``, ``epsilon``, ``steps``, ``step_size``, ``projection``, ``held_class`` and the weights.

    Returns:
        Perturbed latents with the criteria before and after.

    Source:
        Eq. 1 to 5. The paper leaves the optimiser open; its code takes one sign step of the gradient. Here
        ``config.steps`` of them, each ``step_size * epsilon`` long, and by default the ball is enforced after each
        step: a clamp inside the objective would have no gradient in the 92% of coordinates that start outside.
    """
    assert config.epsilon is not None
    assert config.steps is not None
    centre = latent[:, None]
    noise, bias = (part.to(latent) for part in draw(keys, config.ratio, latent.shape[1:], config.rng_seed))
    with torch.no_grad():
        seed_scores = scores_of(latent)
        held = seed_scores.argmax(-1) if config.held_class == "prediction" else labels

    def measure(perturbed: Tensor) -> Criteria:
        scores = scores_of(perturbed.flatten(0, 1)).reshape(*perturbed.shape[:2], -1)
        return Criteria(
            criteria.prediction_consistency(scores, held),
            criteria.entropy(scores),
            criteria.diversity(perturbed),
        )

    def objective(perturbed: Tensor) -> Tensor:
        found = measure(perturbed)
        gain = found.entropy - criteria.entropy(seed_scores)[:, None]
        total: Tensor = (
            config.consistency_weight * found.consistency
            + config.entropy_weight * gain
            + config.diversity_weight * found.diversity
        ).sum()
        return total

    step = _STEPS[config.projection]
    with torch.no_grad():
        before = measure(project(perturb(centre, noise, bias), centre, config.epsilon))
    for _ in range(config.steps):
        noise, bias = step(objective, centre, noise, bias, config.epsilon, config.step_size * config.epsilon)
    with torch.no_grad():
        final = project(perturb(centre, noise, bias), centre, config.epsilon)
        after = measure(final)
        seed_consistency = seed_scores.gather(-1, held[:, None]).squeeze(-1)
    return Guided(final, held, seed_consistency, criteria.entropy(seed_scores), before, after)


Objective = Callable[[Tensor], Tensor]


def _ascend(score: Tensor, noise: Tensor, bias: Tensor, length: float) -> tuple[Tensor, Tensor]:
    grad_noise, grad_bias = torch.autograd.grad(score, (noise, bias))
    return (noise + length * grad_noise.sign()).detach(), (bias + length * grad_bias.sign()).detach()


def _post_step(
    objective: Objective, centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float, length: float
) -> tuple[Tensor, Tensor]:
    """Projected gradient ascent: score inside the ball, step, and move the bias so that f' is back in the ball."""
    bias = _bias_into_ball(centre, noise, bias, epsilon).requires_grad_()
    noise = noise.detach().requires_grad_()
    noise, bias = _ascend(objective(perturb(centre, noise, bias)), noise, bias, length)
    return noise, _bias_into_ball(centre, noise, bias, epsilon)


def _straight_through(
    objective: Objective, centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float, length: float
) -> tuple[Tensor, Tensor]:
    """Score the projected latent, and let the gradient pass the projection as if it were the identity."""
    noise, bias = noise.detach().requires_grad_(), bias.detach().requires_grad_()
    free = perturb(centre, noise, bias)
    return _ascend(objective(free + (project(free, centre, epsilon) - free).detach()), noise, bias, length)


def _literal(
    objective: Objective, centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float, length: float
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 to the letter: the clamp's own gradient."""
    noise, bias = noise.detach().requires_grad_(), bias.detach().requires_grad_()
    return _ascend(objective(project(perturb(centre, noise, bias), centre, epsilon)), noise, bias, length)


_STEPS = {"post-step": _post_step, "straight-through": _straight_through, "literal": _literal}


def _bias_into_ball(centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    free = perturb(centre, noise, bias)
    return (bias + (project(free, centre, epsilon) - free)).detach()
