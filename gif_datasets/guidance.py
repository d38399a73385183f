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


def noise_shape(axes: Sequence[int], kind: str, channel_axis: int) -> tuple[int, ...]:
    """Shape of one noise for latents of shape ``axes``: what is drawn once and shared has length 1.

    Args:
        axes: Shape of one latent.
        kind: ``"element"``: nothing is shared; ``"channel"``: one draw a channel, shared by all positions (the paper's
            GIF-MAE); ``"token"``: one draw a position, shared by all channels (the paper's "pixel level").
        channel_axis: Which of ``axes`` counts the channels.

    Example:
        >>> noise_shape((65, 160), "channel", 1), noise_shape((12, 8, 8), "token", 0)
        ((1, 160), (1, 8, 8))
    """
    if kind == "element":
        return tuple(axes)
    shared = [axis for axis in range(len(axes)) if (axis == channel_axis) == (kind == "token")]
    return tuple(1 if axis in shared else size for axis, size in enumerate(axes))


def guide(
    latent: Tensor,
    labels: Tensor,
    keys: Sequence[str],
    scores_of: Scorer,
    config: ExpansionConfig,
    seed_scores: Tensor | None = None,
    channel_axis: int = 0,
) -> Guided:
    """Perturb each latent K times and ascend the sum of the criteria by sign steps, for all seeds at once.

    No result depends on the other seeds of the batch: criteria are summed over seeds, so each seed's gradient is its
    own, and a sign step has no norm to share.

    Args:
        latent: Raw latents of the seeds, ``(B, *axes)``.
        labels: Their class indices, ``(B,)``; used when ``config.held_class`` is ``"label"``.
        keys: Their content keys; the noise depends on nothing else but ``config.rng_seed``.
        scores_of: Class probabilities of latents. Called on ``config.score_batch`` of them at a time, so what it keeps
            for its gradient is bounded.
        config: ``ratio``, ``epsilon``, ``noise``, ``steps``, ``step_size``, ``projection``, ``held_class``,
            ``score_batch`` and the weights.
        seed_scores: Class probabilities of the seeds' own pictures, ``(B, C)``; None: those of their latents.
        channel_axis: Which axis of one latent counts its channels.

    Returns:
        Perturbed latents with the criteria before and after.

    Source:
        Eq. 1 to 5. The paper leaves the optimiser open; its code takes one sign step of the gradient. Here
        ``config.steps`` of them, each ``step_size * epsilon`` long, and by default the ball is enforced after each
        step: a clamp inside the objective would have no gradient in the 92% of coordinates that start outside.
    """
    assert config.epsilon is not None
    assert config.steps is not None
    assert config.noise is not None
    if seed_scores is None:
        with torch.no_grad():
            seed_scores = scores_of(latent)
    centre = latent[:, None]
    shape = noise_shape(latent.shape[1:], config.noise, channel_axis)
    noise, bias = (part.to(latent) for part in draw(keys, config.ratio, shape, config.rng_seed))
    held = seed_scores.argmax(-1) if config.held_class == "prediction" else labels

    def direction(perturbed: Tensor) -> Tensor:
        return _gradient(perturbed, held, scores_of, config)

    @torch.no_grad()
    def measure(perturbed: Tensor) -> Criteria:
        flat = perturbed.flatten(0, 1)
        scores = torch.cat([scores_of(part) for part in torch.split(flat, config.score_batch)])
        scores = scores.reshape(*perturbed.shape[:2], -1)
        return Criteria(
            criteria.prediction_consistency(scores, held), criteria.entropy(scores), criteria.diversity(perturbed)
        )

    before = measure(project(perturb(centre, noise, bias), centre, config.epsilon))
    step = _STEPS[config.projection]
    for _ in range(config.steps):
        noise, bias = step(direction, centre, noise, bias, config.epsilon, config.step_size * config.epsilon)
    final = project(perturb(centre, noise, bias), centre, config.epsilon)
    after = measure(final) if config.steps else before
    seed_consistency = seed_scores.gather(-1, held[:, None]).squeeze(-1)
    return Guided(final, held, seed_consistency, criteria.entropy(seed_scores), before, after)


def _gradient(perturbed: Tensor, held: Tensor, scores_of: Scorer, config: ExpansionConfig) -> Tensor:
    """Gradient of the weighted sum of the criteria at ``perturbed``; the seeds' own entropy is a constant in it.

    Consistency and entropy belong to one copy each, so they are scored part by part; diversity needs all copies of a
    seed, but no scores.
    """
    with torch.enable_grad():
        copies = perturbed.detach().requires_grad_()
        spread = config.diversity_weight * criteria.diversity(copies).sum()
        total: Tensor = torch.autograd.grad(spread, copies)[0]
        held_of_row = held.repeat_interleave(perturbed.shape[1])
        parts = []
        for rows, classes in zip(
            torch.split(perturbed.detach().flatten(0, 1), config.score_batch),
            torch.split(held_of_row, config.score_batch),
            strict=True,
        ):
            part = rows.clone().requires_grad_()
            scores = scores_of(part)
            value = config.consistency_weight * criteria.prediction_consistency(scores[:, None], classes).sum()
            value = value + config.entropy_weight * criteria.entropy(scores).sum()
            parts.append(torch.autograd.grad(value, part)[0])
        return total + torch.cat(parts).reshape(perturbed.shape)


Direction = Callable[[Tensor], Tensor]


def _ascend(perturbed: Tensor, direction: Tensor, noise: Tensor, bias: Tensor, length: float) -> tuple[Tensor, Tensor]:
    """One sign step of noise and bias along ``direction``, a gradient with respect to ``perturbed``."""
    grad_noise, grad_bias = torch.autograd.grad(perturbed, (noise, bias), direction)
    return (noise + length * grad_noise.sign()).detach(), (bias + length * grad_bias.sign()).detach()


def _post_step(
    direction: Direction, centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float, length: float
) -> tuple[Tensor, Tensor]:
    """Projected gradient ascent: score inside the ball, step, and bring noise and bias back into the ball."""
    noise, bias = (part.requires_grad_() for part in _into_ball(centre, noise, bias, epsilon))
    perturbed = perturb(centre, noise, bias)
    noise, bias = _ascend(perturbed, direction(perturbed), noise, bias, length)
    return _into_ball(centre, noise, bias, epsilon)


def _straight_through(
    direction: Direction, centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float, length: float
) -> tuple[Tensor, Tensor]:
    """Score the projected latent, and let the gradient pass the projection as if it were the identity."""
    noise, bias = noise.detach().requires_grad_(), bias.detach().requires_grad_()
    free = perturb(centre, noise, bias)
    return _ascend(free, direction(project(free, centre, epsilon)), noise, bias, length)


def _literal(
    direction: Direction, centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float, length: float
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 to the letter: the clamp's own gradient."""
    noise, bias = noise.detach().requires_grad_(), bias.detach().requires_grad_()
    inside = project(perturb(centre, noise, bias), centre, epsilon)
    return _ascend(inside, direction(inside), noise, bias, length)


_STEPS = {"post-step": _post_step, "straight-through": _straight_through, "literal": _literal}


@torch.no_grad()
def _into_ball(centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Noise and bias whose perturbed latent lies in the ball.

    Where every coordinate has its own bias, the bias alone is moved, which is the projection. Where one draw is shared,
    it is shrunk until the coordinate that it moves furthest lies on the ball: that keeps it shared.
    """
    free = perturb(centre, noise, bias)
    if bias.shape == free.shape:
        return noise.detach(), bias + (project(free, centre, epsilon) - free)
    shared = [axis for axis, size in enumerate(bias.shape) if size == 1 < free.shape[axis]]
    reach = (free - centre).abs().amax(dim=shared, keepdim=True)
    shrink = torch.where(reach > epsilon, epsilon / reach, torch.ones_like(reach))
    return noise * shrink, bias * shrink
