"""Guided imagination: optimise the perturbation of K copies of a seed's latent together (Eq. 2, Algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gif_datasets import criteria
from gif_datasets.config import ExpansionConfig
from gif_datasets.perturb import perturb, project
from gif_datasets.rng import generator_for
from gif_datasets.zeroshot import ZeroShotClassifier

Embed = Callable[[Tensor], Tensor]
"""Maps raw latents ``(N, *axes)`` to CLIP embeddings ``(N, D)``, differentiably."""


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

    def row(self, index: int) -> Guided:
        """What was found for one seed, the batch axis kept."""
        at = slice(index, index + 1)

        def of(values: Criteria) -> Criteria:
            return Criteria(values.consistency[at], values.entropy[at], values.diversity[at])

        return Guided(
            self.latents[at],
            self.held_class[at],
            self.seed_consistency[at],
            self.seed_entropy[at],
            of(self.before),
            of(self.after),
        )


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
    classifier: ZeroShotClassifier,
    config: ExpansionConfig,
    *,
    embed: Embed | None = None,
    seed_scores: Tensor | None = None,
    channel_axis: int = 0,
    centre: Tensor | None = None,
) -> Guided:
    """Perturb each latent K times and ascend the weighted criteria, for all seeds at once.

    No result depends on the other seeds of the batch: criteria are summed over seeds, so each seed's gradient is its
    own, and every step is element by element.

    Args:
        latent: Raw latents of the seeds, ``(B, *axes)``.
        labels: Class indices of the seeds, ``(B,)``; used when ``config.held_class`` is ``"label"``.
        keys: Their content keys; the noise depends on nothing else but ``config.rng_seed``.
        classifier: Gives class probabilities of embeddings.
        config: Every option from ``epsilon`` to ``score_batch``.
        embed: CLIP embeddings of latents, called on ``config.score_batch`` of them at a time, so that what is kept for
            the gradient is bounded; None where the latent is the embedding.
        seed_scores: Class probabilities of the seeds' own pictures, ``(B, C)``; None: those of their latents.
        channel_axis: Which axis of one latent counts its channels.
        centre: Where the copies start and the middle of their balls, ``(B, K, *axes)`` or ``(B, 1, *axes)``; None: the
            seeds' latents.

    Returns:
        Perturbed latents with the criteria before and after.

    Source:
        Eq. 1 to 5. The paper leaves the optimiser open; its code takes one sign step of the gradient. Here
        ``config.steps`` of them, each ``step_size * epsilon`` long, and by default the ball is enforced after each
        step: a clamp inside the objective would have no gradient in the 92% of coordinates that start outside.
    """
    epsilon, steps, kind = config.epsilon, config.steps, config.noise
    assert epsilon is not None
    assert steps is not None
    assert kind is not None
    if seed_scores is None:
        with torch.no_grad():
            seed_scores = classifier.scores(embed(latent) if embed else latent)
    centre = latent[:, None] if centre is None else centre
    held = seed_scores.argmax(-1) if config.held_class == "prediction" else labels
    shape = noise_shape(latent.shape[1:], kind, channel_axis)
    noise, bias = (part.to(latent) for part in draw(keys, config.ratio, shape, config.rng_seed))
    objective = _Objective(classifier, embed, held, config)
    final = project(perturb(centre, noise, bias), centre, epsilon)
    before = after = objective.measure(final)
    if steps:
        final = _optimise(objective, centre, noise, bias, config)
        after = objective.measure(final)
    seed_consistency = seed_scores.gather(-1, held[:, None]).squeeze(-1)
    return Guided(final, held, seed_consistency, criteria.entropy(seed_scores), before, after)


@dataclass(frozen=True)
class _Objective:
    """What guidance ascends: the weighted criteria, where the constraint holds; consistency alone, where it does not.

    Consistency and entropy belong to one copy each; diversity needs all copies of a seed. So latents are embedded and
    scored part by part, twice where diversity is taken on embeddings.
    """

    classifier: ZeroShotClassifier
    embed: Embed | None
    held: Tensor
    config: ExpansionConfig

    @torch.no_grad()
    def measure(self, perturbed: Tensor) -> Criteria:
        """The criteria of all copies, ``(B, K, *axes)`` to ``(B, K)`` each."""
        embeddings = self._embeddings(perturbed)
        scores = self.classifier.scores(embeddings)
        space = self._diversity_space(perturbed, embeddings)
        return Criteria(
            criteria.prediction_consistency(scores, self.held),
            criteria.entropy(scores),
            criteria.diversity(space, self.config.diversity_order),
        )

    def gradient(self, perturbed: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient at ``perturbed``, and the :meth:`slack` there."""
        copies = perturbed.shape[1]
        spread = self._diversity_gradient(perturbed).flatten(0, 1)
        held = self.held.repeat_interleave(copies)
        gradients, slacks = [], []
        parts = (self._parts(rows) for rows in (perturbed.flatten(0, 1), spread, held))
        for rows, pull, classes in zip(*parts, strict=True):
            gradient, slack = self._part_gradient(rows, pull, classes)
            gradients.append(gradient)
            slacks.append(slack)
        return torch.cat(gradients).reshape(perturbed.shape), torch.cat(slacks).reshape(-1, copies)

    @torch.enable_grad()
    def _part_gradient(self, rows: Tensor, pull: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and slack of some copies; ``pull`` is diversity's gradient where diversity is taken."""
        rows = rows.detach().requires_grad_()
        embedding = self.embed(rows) if self.embed else rows
        scores = self.classifier.scores(embedding)
        slack = self._slack(scores.detach(), classes)
        weights = self._weights(slack)
        own = criteria.prediction_consistency(scores[:, None], classes).squeeze(1), criteria.entropy(scores)
        embedded = self.config.diversity_space == "embedding"
        if self.config.balance == "sum":
            value = (weights[:, :2] * torch.stack(own, 1)).sum()
            pull = pull * weights[:, 2].reshape(-1, *[1] * (pull.dim() - 1))
            if embedded:
                return torch.autograd.grad(value + (F.normalize(embedding, dim=-1) * pull).sum(), rows)[0], slack
            return torch.autograd.grad(value, rows)[0] + pull, slack
        gradients = [torch.autograd.grad(term.sum(), rows, retain_graph=True)[0] for term in own]
        if embedded:
            pull = torch.autograd.grad((F.normalize(embedding, dim=-1) * pull).sum(), rows)[0]
        directions = [F.normalize(gradient.flatten(1), dim=1) for gradient in (*gradients, pull)]
        total = torch.stack([weight[:, None] * d for weight, d in zip(weights.T, directions, strict=True)]).sum(0)
        return total.reshape(rows.shape), slack

    def _weights(self, slack: Tensor) -> Tensor:
        """Weights of the three criteria for each copy: consistency alone where the constraint is violated."""
        c = self.config
        weights = slack.new_tensor([c.consistency_weight, c.entropy_weight, c.diversity_weight]).repeat(len(slack), 1)
        weights[slack < 0] = slack.new_tensor([1.0, 0.0, 0.0])
        return weights

    @torch.no_grad()
    def slack(self, perturbed: Tensor) -> Tensor:
        """By how much each copy's consistency is above what the constraint asks for, ``(B, K)``."""
        scores = self.classifier.scores(self._embeddings(perturbed)).flatten(0, 1)
        return self._slack(scores, self.held.repeat_interleave(perturbed.shape[1])).reshape(perturbed.shape[:2])

    def _embeddings(self, perturbed: Tensor) -> Tensor:
        if self.embed is None:
            return perturbed
        parts = [self.embed(part) for part in self._parts(perturbed.flatten(0, 1))]
        return torch.cat(parts).reshape(*perturbed.shape[:2], -1)

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, self.config.score_batch if self.embed else len(rows))

    def _diversity_space(self, latents: Tensor, embeddings: Tensor) -> Tensor:
        return latents if self.config.diversity_space == "latent" else F.normalize(embeddings, dim=-1)

    @torch.no_grad()
    def _diversity_gradient(self, perturbed: Tensor) -> Tensor:
        embeddings = self._embeddings(perturbed) if self.config.diversity_space == "embedding" else perturbed
        space = self._diversity_space(perturbed, embeddings)
        return criteria.diversity_gradient(space, self.config.diversity_order)

    def _slack(self, scores: Tensor, classes: Tensor) -> Tensor:
        """Consistency minus what the constraint asks for; at least 0 where it holds."""
        own = scores.gather(1, classes[:, None]).squeeze(1)
        slack = own - self.config.consistency_floor
        if self.config.keep_class:
            rival = scores.scatter(1, classes[:, None], -1.0).amax(1)
            slack = torch.minimum(slack, own - rival)
        return slack


def _optimise(objective: _Objective, centre: Tensor, noise: Tensor, bias: Tensor, config: ExpansionConfig) -> Tensor:
    """Perturbed latents after ``config.steps`` steps; with a constraint, the last ones that satisfy it."""
    epsilon, projection = config.epsilon, config.projection
    assert epsilon is not None
    assert config.steps is not None
    if projection == "post-step":
        noise, bias = _into_ball(centre, noise, bias, epsilon)
    noise, bias = noise.clone().requires_grad_(), bias.clone().requires_grad_()
    kind = {"sign": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
    optimizer = kind([noise, bias], lr=config.step_size * epsilon, maximize=True)
    kept = _Kept(centre, centre.new_full(noise.shape[:2], -torch.inf))
    for _ in range(config.steps):
        free = perturb(centre, noise, bias)
        inside = project(free, centre, epsilon)
        gradient, slack = objective.gradient((free if projection == "end" else inside).detach())
        kept = kept.update(inside.detach(), slack)
        path = inside if projection == "literal" else free
        noise.grad, bias.grad = torch.autograd.grad(path, (noise, bias), gradient)
        if config.optimizer == "sign":
            noise.grad, bias.grad = noise.grad.sign(), bias.grad.sign()
        optimizer.step()
        if projection == "post-step":
            for part, moved in zip((noise, bias), _into_ball(centre, noise, bias, epsilon), strict=True):
                part.data.copy_(moved)
    final = project(perturb(centre, noise, bias), centre, epsilon).detach()
    return kept.update(final, objective.slack(final)).latents if config.constrained else final


@dataclass(frozen=True)
class _Kept:
    """Each copy's newest iterate that satisfies the constraint or, while none does, the one nearest to it."""

    latents: Tensor
    slack: Tensor

    def update(self, latents: Tensor, slack: Tensor) -> _Kept:
        better = (slack >= 0) | (slack > self.slack)
        rows = better.reshape(*better.shape, *[1] * (latents.dim() - 2))
        return _Kept(torch.where(rows, latents, self.latents), torch.where(better, slack, self.slack))


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
