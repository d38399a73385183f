"""Which candidate images are kept: a check of the decoded image itself, not of the latent it came from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gif_datasets.guidance import criteria


class Verdicts(NamedTuple):
    """What :func:`accept` says of ``N`` images.

    Attributes:
        passed: Whether each passes, ``(N,)``.
        rank: Its rank among the draws for one copy, ``(N,)``: when all fail, the highest is kept.
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
