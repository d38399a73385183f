"""Guided imagination: optimise the perturbation of K copies of a seed's latent together (Eq. 2, Algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.config import CRITERIA, ExpansionConfig
from gif_datasets.guidance import criteria
from gif_datasets.guidance.perturb import perturb, project
from gif_datasets.guidance.prototypes import Prototypes
from gif_datasets.guidance.rng import generator_for
from gif_datasets.guidance.zeroshot import TINY, ZeroShotClassifier

Embed = Callable[[Tensor], Tensor]
"""Maps raw latents ``(N, *axes)`` to CLIP embeddings ``(N, D)``, differentiably."""
WHEN = ("before", "after")


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
        before: Criteria of the random perturbation that guidance started from, in the ball.
        after: Criteria of ``latents``.
    """

    latents: Tensor
    held_class: Tensor
    before: Criteria
    after: Criteria

    def row(self, index: int) -> Guided:
        """What was found for one seed, the batch axis kept."""
        return Guided.of({name: values[index : index + 1] for name, values in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, flat."""
        criteria = {f"{when}.{name}": value for when in WHEN for name, value in vars(getattr(self, when)).items()}
        return {"latents": self.latents, "held_class": self.held_class, **criteria}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Guided:
        """What :meth:`tensors` gave."""
        before, after = (Criteria(**{name: tensors[f"{when}.{name}"] for name in CRITERIA}) for when in WHEN)
        return cls(tensors["latents"], tensors["held_class"], before, after)


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
    noise, bias = torch.empty(2, len(keys), copies, *shape, dtype=torch.float32)
    for row, key in enumerate(keys):
        for copy in range(copies):
            noise[row, copy].uniform_(generator=generator_for(rng_seed, key, "noise", copy + 1))
            bias[row, copy].normal_(generator=generator_for(rng_seed, key, "bias", copy + 1))
    return noise, bias


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
    prototypes: Prototypes | None = None,
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
        seed_scores: Class probabilities of the seeds' own images, ``(B, C)``; None: those of their latents.
        channel_axis: Which axis of one latent counts its channels.
        centre: Where the copies start and the middle of their balls, ``(B, K, *axes)`` or ``(B, 1, *axes)``; None: the
            seeds' latents.
        prototypes: Of the labels' classes, where ``config.prototype_weight`` is above 0.

    Returns:
        Perturbed latents with the criteria before and after.

    Source:
        Eq. 1 to 5. The paper leaves the optimiser open; its code takes one sign step of the gradient. Here
        ``config.steps`` of them, each ``step_size * epsilon`` long, and by default the ball is enforced after each
        step: a clamp inside the objective would have no gradient in the 92% of coordinates that start outside.
    """
    if seed_scores is None:
        with torch.no_grad():
            seed_scores = classifier.scores(embed(latent) if embed else latent)
    centre = latent[:, None] if centre is None else centre
    held = seed_scores.argmax(-1) if config.held_class == "prediction" else labels
    shape = noise_shape(latent.shape[1:], config.noise, channel_axis)
    noise, bias = (part.to(latent) for part in draw(keys, config.copies, shape, config.rng_seed))
    objective = _Objective(classifier, embed, held, config, labels, prototypes)
    if config.steps and config.projection == "post-step":
        _into_ball(centre, noise, bias, config.epsilon)
    final = project(perturb(centre, noise, bias), centre, config.epsilon)
    before = after = objective.measure(final)
    if config.steps:
        final = _optimise(objective, centre, noise, bias, config)
        after = objective.measure(final)
    return Guided(final, held, before, after)


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
    labels: Tensor | None = None
    prototypes: Prototypes | None = None

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
        held, labels = (
            rows.repeat_interleave(copies) for rows in (self.held, self.held if self.labels is None else self.labels)
        )
        parts = zip(*(self._parts(rows) for rows in (perturbed.flatten(0, 1), spread, held, labels)), strict=True)
        gradients, slacks = zip(*(self._part_gradient(*part) for part in parts), strict=True)
        gradient, slack = (_joined(found)[: len(held)] for found in (gradients, slacks))
        return gradient.reshape(perturbed.shape), slack.reshape(-1, copies)

    def _part_gradient(self, rows: Tensor, pull: Tensor, classes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and slack of some copies; ``pull`` is diversity's gradient where diversity is taken.

        The criteria's gradients in the embedding are closed forms; only ``embed`` is differentiated automatically.
        """
        embedding, back = self._embedded(rows)
        logits = self.classifier.logits(embedding)
        log_scores = logits.log_softmax(-1)
        slack = self._slack(log_scores, classes)
        consistency, entropy, diversity = self._weights(slack)
        terms = criteria.score_gradients(log_scores, classes)
        nearness, near = self._prototype_gradient(embedding, labels, slack)
        embedded = self.config.diversity_space == "embedding"
        if embedded:
            pull = _through_unit_norm(embedding, pull)
        if self.config.balance == "sum":
            of_logits = consistency[:, None] * terms[0] + entropy[:, None] * terms[1]
            own = self.classifier.embedding_gradient(embedding, logits, of_logits)
            own = own if near is None else own.add_(nearness[:, None] * near)
            pull = pull * diversity.reshape(-1, *[1] * (pull.dim() - 1))
            return (back([own.add_(pull)])[0] if embedded else back([own])[0].add_(pull)), slack
        gradients = [self.classifier.embedding_gradient(embedding, logits, of_logits) for of_logits in terms]
        gradients += [] if near is None else [near]
        gradients = back([*gradients, pull]) if embedded else [*back(gradients), pull]
        weights = (consistency, entropy, *([] if near is None else [nearness]), diversity)
        weighted = zip(weights, gradients, strict=True)
        directions = [weight[:, None] * F.normalize(gradient.flatten(1), dim=1) for weight, gradient in weighted]
        return torch.stack(directions).sum(0).reshape(rows.shape), slack

    def _embedded(self, rows: Tensor) -> tuple[Tensor, Callable[[list[Tensor]], list[Tensor]]]:
        """Embeddings of latents, and the function that takes gradients in the embedding back to the latents."""
        if self.embed is None:
            return rows, lambda gradients: gradients
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_()
            embedding = self.embed(leaf)

        def back(gradients: list[Tensor]) -> list[Tensor]:
            last = len(gradients) - 1
            return [
                torch.autograd.grad(embedding, leaf, gradient, retain_graph=i < last)[0]
                for i, gradient in enumerate(gradients)
            ]

        return embedding.detach(), back

    def _prototype_gradient(self, embedding: Tensor, labels: Tensor, slack: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight of nearness to prototypes for each copy, 0 where the constraint fails; and its gradient, if any."""
        weight = slack.new_tensor(self.config.prototype_weight) * (slack >= 0)
        return weight, None if self.prototypes is None else self.prototypes.gradient(embedding, labels)

    def _weights(self, slack: Tensor) -> Sequence[Tensor]:
        """Weights of the three criteria for each copy, ``(N,)`` each: consistency alone where the constraint fails."""
        free = slack.new_tensor(self.config.criteria_weights)
        return torch.where(slack[:, None] < 0, slack.new_tensor([1.0, 0.0, 0.0]), free).unbind(1)

    @torch.no_grad()
    def slack(self, perturbed: Tensor) -> Tensor:
        """By how much each copy's consistency is above what the constraint asks for, ``(B, K)``."""
        log_scores = self.classifier.logits(self._embeddings(perturbed)).log_softmax(-1).flatten(0, 1)
        return self._slack(log_scores, self.held.repeat_interleave(perturbed.shape[1])).reshape(perturbed.shape[:2])

    def _embeddings(self, perturbed: Tensor) -> Tensor:
        if self.embed is None:
            return perturbed
        rows = perturbed.flatten(0, 1)
        parts = [self.embed(part) for part in self._parts(rows)]
        return _joined(parts)[: len(rows)].reshape(*perturbed.shape[:2], -1)

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Parts of one size, so that a row is rounded alike wherever it stands; the last row repeats to fill them."""
        if self.embed is None:
            return (rows,)
        count = -(-len(rows) // self.config.score_batch)
        size = -(-len(rows) // count)
        if missing := count * size - len(rows):
            rows = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
        return torch.split(rows, size)

    def _diversity_space(self, latents: Tensor, embeddings: Tensor) -> Tensor:
        return latents if self.config.diversity_space == "latent" else F.normalize(embeddings, dim=-1)

    @torch.no_grad()
    def _diversity_gradient(self, perturbed: Tensor) -> Tensor:
        embeddings = self._embeddings(perturbed) if self.config.diversity_space == "embedding" else perturbed
        space = self._diversity_space(perturbed, embeddings)
        return criteria.diversity_gradient(space, self.config.diversity_order)

    def _slack(self, log_scores: Tensor, classes: Tensor) -> Tensor:
        """Consistency minus what the constraint asks for; at least 0 where it holds, and where there is none."""
        if not self.config.constrained:
            return log_scores.new_zeros(len(log_scores))
        scores = log_scores.exp()
        own = scores.gather(1, classes[:, None]).squeeze(1)
        slack = own - self.config.consistency_floor
        if self.config.keep_class:
            rival = scores.scatter(1, classes[:, None], -1.0).amax(1)
            slack = torch.minimum(slack, own - rival)
        return slack


@torch.no_grad()
def _optimise(objective: _Objective, centre: Tensor, noise: Tensor, bias: Tensor, config: ExpansionConfig) -> Tensor:
    """Perturbed latents after ``config.steps`` steps; with a constraint, the last ones that satisfy it.

    Moves ``noise`` and ``bias`` in place.
    """
    epsilon, projection = config.epsilon, config.projection
    ascend = _ascent([noise, bias], config.optimizer, config.step_size * epsilon)
    kept = _Kept(centre, centre.new_full(noise.shape[:2], -torch.inf))
    for _ in range(config.steps):
        free = perturb(centre, noise, bias)
        scored = project(free, centre, epsilon) if projection in ("literal", "straight-through") else free
        gradient, slack = objective.gradient(scored)
        if config.constrained:
            inside = project(free, centre, epsilon)
            kept = kept.update(inside, objective.slack(inside) if projection == "end" else slack)
        if projection == "literal":
            gradient.mul_((free - centre).abs() <= epsilon)  # a clamp passes no gradient where it clips
        ascend([(gradient * centre).sum_to_size(noise.shape), gradient.sum_to_size(bias.shape)])
        if projection == "post-step":
            _into_ball(centre, noise, bias, epsilon)
    final = project(perturb(centre, noise, bias), centre, epsilon)
    return kept.update(final, objective.slack(final)).latents if config.constrained else final


def _ascent(parts: list[Tensor], optimizer: str, length: float) -> Callable[[list[Tensor]], None]:
    """The function that moves ``parts`` in place, one step up their gradients."""
    if optimizer == "sign":

        def sign_step(gradients: list[Tensor]) -> None:
            for part, gradient in zip(parts, gradients, strict=True):
                part.add_(gradient.sign_(), alpha=length)

        return sign_step
    adam = torch.optim.Adam(parts, lr=length, maximize=True)

    def adam_step(gradients: list[Tensor]) -> None:
        for part, gradient in zip(parts, gradients, strict=True):
            part.grad = gradient
        adam.step()

    return adam_step


@dataclass(frozen=True)
class _Kept:
    """Each copy's newest iterate that satisfies the constraint or, while none does, the one nearest to it."""

    latents: Tensor
    slack: Tensor

    def update(self, latents: Tensor, slack: Tensor) -> _Kept:
        better = (slack >= 0) | (slack > self.slack)
        rows = better.reshape(*better.shape, *[1] * (latents.dim() - 2))
        return _Kept(torch.where(rows, latents, self.latents), torch.where(better, slack, self.slack))


def _into_ball(centre: Tensor, noise: Tensor, bias: Tensor, epsilon: float) -> None:
    """Move noise and bias in place so that their perturbed latent lies in the ball.

    Where every coordinate has its own bias, the bias alone is moved, which is the projection. Where one draw is shared,
    it is shrunk until the coordinate that it moves furthest lies on the ball: that keeps it shared.
    """
    offset = perturb(centre, noise, bias).sub_(centre)
    if bias.shape == offset.shape:
        bias.add_(offset.clamp(-epsilon, epsilon).sub_(offset))
        return
    shared = [axis for axis, size in enumerate(bias.shape) if size == 1 < offset.shape[axis]]
    reach = offset.abs_().amax(dim=shared, keepdim=True)
    shrink = torch.where(reach > epsilon, epsilon / reach, torch.ones_like(reach))
    noise.mul_(shrink)
    bias.mul_(shrink)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """All rows in one tensor, without a copy where they are in one already."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _through_unit_norm(embedding: Tensor, gradient: Tensor) -> Tensor:
    """Gradient in an embedding, given that in the embedding scaled to unit norm; ``(N, D)``."""
    norm = embedding.norm(dim=-1, keepdim=True).clamp(min=TINY)
    unit = embedding / norm
    tangent: Tensor = (gradient - (gradient * unit).sum(-1, keepdim=True) * unit) / norm
    return tangent
