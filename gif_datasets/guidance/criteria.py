"""The three informativeness criteria (Eq. 3 to 5). All work on the last axis and keep the others."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(scores: Tensor) -> Tensor:
    """Shannon entropy of class probabilities, in nats: ``(..., C)`` to ``(...)``. ``0 log 0`` counts as 0.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    total: Tensor = torch.special.entr(scores).sum(-1)
    return total


def prediction_consistency(scores: Tensor, held_class: Tensor) -> Tensor:
    """Probability that a copy gives to the class its seed is held to (Eq. 3).

    Args:
        scores: Class probabilities of the copies, ``(B, K, C)``.
        held_class: One class index per seed, ``(B,)``: the seed's predicted class in the paper, or its label.

    Returns:
        ``(B, K)``, in [0, 1].
    """
    index = held_class[:, None, None].expand(-1, scores.shape[1], 1)
    return scores.gather(-1, index).squeeze(-1)


def entropy_gain(scores: Tensor, seed_scores: Tensor) -> Tensor:
    """Entropy of a copy's prediction minus that of its seed's, in nats (Eq. 4).

    Args:
        scores: ``(B, K, C)``.
        seed_scores: ``(B, C)``.

    Returns:
        ``(B, K)``.
    """
    return entropy(scores) - entropy(seed_scores)[:, None]


def diversity(perturbed: Tensor, order: str = "paper") -> Tensor:
    """KL divergence of each copy from the mean of its seed's copies, in nats (Eq. 5).

    Latents become distributions by a softmax over all their coordinates, as the paper's Appendix C.1 says.

    Args:
        perturbed: Raw latents of all K copies, ``(B, K, *axes)``.
        order: ``"paper"`` for ``KL(softmax f' || softmax mean f')``; ``"official"`` for the two exchanged, which is
            what the paper's code computes.

    Returns:
        ``(B, K)``, at least 0, and 0 when the copies are equal (so for K = 1).
    """
    flat = perturbed.flatten(2)
    log_p = flat.log_softmax(-1)
    log_mean = flat.mean(1, keepdim=True).log_softmax(-1)
    first, second = (log_p, log_mean) if order == "paper" else (log_mean, log_p)
    total: Tensor = (first.exp() * (first - second)).sum(-1)
    return total


def diversity_gradient(perturbed: Tensor, order: str = "paper") -> Tensor:
    """Gradient of ``diversity(perturbed, order).sum()`` with respect to ``perturbed``, in closed form.

    Automatic differentiation gives the same in three times the passes over the latents.

    Args:
        perturbed: ``(B, K, *axes)``.
        order: As in :func:`diversity`.

    Returns:
        Of the shape of ``perturbed``.
    """
    flat = perturbed.flatten(2)
    mean = flat.mean(1, keepdim=True)
    p, q = flat.softmax(-1), mean.softmax(-1)
    if order == "official":  # the mean of log p differs from log q by a constant, so nothing comes through the mean
        return (p - q).reshape(perturbed.shape)
    ratio = flat - mean  # log p - log q except a constant, which falls out
    own = p * ratio.sub_((p * ratio).sum(-1, keepdim=True))
    return own.add_(q - p.mean(1, keepdim=True)).reshape(perturbed.shape)


def score_gradients(log_scores: Tensor, held_class: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of prediction consistency and of entropy with respect to the logits, in closed form.

    Args:
        log_scores: Logarithms of the class probabilities, the log-softmax of those logits, ``(N, C)``.
        held_class: One class index a row, ``(N,)``.

    Returns:
        Two tensors ``(N, C)``.
    """
    scores = log_scores.exp()
    own = scores.gather(1, held_class[:, None])
    of_consistency = (-own * scores).scatter_add(1, held_class[:, None], own)
    weighted = scores * log_scores
    of_entropy = torch.addcmul(-weighted, scores, weighted.sum(1, keepdim=True))
    return of_consistency, of_entropy
