"""Which candidate images are kept: a check of the decoded image itself, not of the latent it came from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gif_datasets.guidance import criteria


class Verdicts(NamedTuple):
    """What :func:`accept` says of ``N`` images.

    Attributes:
        passed: Whether each passes, ``(N,)``.
        rank: Its rank among the draws for one copy, ``(N,)``: when none settles it, the highest is kept.
        held_class: Class that it was asked for, ``(N,)``.
    """

    passed: Tensor
    rank: Tensor
    held_class: Tensor


def accept(check: str, scores: Tensor, seed_scores: Tensor, labels: Tensor) -> Verdicts:
    """Judge candidate images by their zero-shot scores.

    Args:
        check: ``"label"``: the image's most probable class is its label; ``"prediction"``: it is the class predicted
            for its seed; ``"selective"``: that, and the prediction's entropy is higher than the seed's (the paper's
            selective expansion).
        scores: Class probabilities of the images, ``(N, C)``.
        seed_scores: Those of each image's seed, ``(N, C)``.
        labels: Class index of each seed, ``(N,)``.

    Source:
        Section 3.2 and appendix B of the paper for ``"selective"``.

    Example:
        >>> import torch
        >>> scores, seeds = torch.tensor([[0.6, 0.4], [0.2, 0.8]]), torch.tensor([[0.9, 0.1], [0.7, 0.3]])
        >>> accept("selective", scores, seeds, torch.tensor([0, 0])).passed
        tensor([ True, False])
    """
    held = labels if check == "label" else seed_scores.argmax(1)
    own = scores.gather(1, held[:, None]).squeeze(1)
    passed = scores.argmax(1) == held
    if check == "selective":
        passed = passed & (criteria.entropy(scores) > criteria.entropy(seed_scores))
    return Verdicts(passed, own, held)


def hardest(entropies: Tensor, confirming: Tensor, labels: Tensor) -> Verdicts:
    """Rank candidate images: those whose label is confirmed by their entropy, above all others, by the label's share.

    Args:
        entropies: Of the images' class probabilities by the network that is to learn, ``(N,)``, nats.
        confirming: Class probabilities of the images by what confirms, ``(N, C)``.
        labels: Class index of each seed, ``(N,)``.

    Source:
        The entropy of the learner in place of CLIP's is the criterion of Deliberate Practice (Askari-Hemmat et al.
        2025, arXiv 2502.15588); there it guides the sampler, here the best of several draws is taken.

    Example:
        >>> import torch
        >>> confirming = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
        >>> hardest(torch.tensor([0.5, 0.3, 0.6]), confirming, torch.tensor([0, 0, 0])).rank
        tensor([1.5000, 1.3000, 0.2000])
    """
    own = confirming.gather(1, labels[:, None]).squeeze(1)
    passed = confirming.argmax(1) == labels
    return Verdicts(passed, own.where(~passed, 1 + entropies), labels)
