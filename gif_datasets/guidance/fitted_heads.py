"""Classifiers that know the seeds: class means, a mix of them with the class texts, or a fitted linear head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.guidance.zeroshot import ZeroShotClassifier

SCALES = torch.logspace(0, 2.3, 100)  # 1 to 200: from almost no to more than CLIP's own sharpness
PENALTY = 1e-4  # of the linear head; times the squared norm of its weights, beside a mean cross-entropy


def fit(kind: str, text: ZeroShotClassifier, embeddings: Tensor, labels: Tensor) -> ZeroShotClassifier:
    """Build a classifier from class texts and the seeds' embeddings.

    Args:
        kind: ``"text"``: the texts alone; ``"seeds"``: mean unit embedding of each class's seeds; ``"both"``: the mean
            of those two; ``"linear"``: a linear head fitted to the seeds (the paper's appendix E.5).
        text: The zero-shot classifier.
        embeddings: CLIP embeddings of the seeds, ``(N, D)``, any norm.
        labels: Their class indices, ``(N,)``.

    Returns:
        A classifier. Its temperature is calibrated on the seeds, each scored without its own part in the class mean, so
        far as that leaves any; a linear head's is the mean length of its weights. A class without seeds keeps its text.
    """
    if kind == "text":
        return text
    unit = F.normalize(embeddings, dim=-1)
    if kind == "linear":
        return _linear(text, unit, labels)
    sums, texts = _means(kind, text, unit, labels)
    weights = F.normalize(F.normalize(sums, dim=-1) + texts, dim=-1)
    several = _several(labels)
    if not several.any():
        return ZeroShotClassifier(weights, text.logit_scale)
    cosines, known = _left_out(sums, texts, unit, labels)[several], labels[several]
    losses = torch.stack([F.cross_entropy(scale * cosines, known) for scale in SCALES])
    return ZeroShotClassifier(weights, float(SCALES[losses.argmin()]))


def recognised(kind: str, text: ZeroShotClassifier, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Whether each seed is given its class by a classifier of this kind that was not fitted to it, ``(N,)``.

    A class mean leaves the seed out; a linear head is fitted to every other seed. Where that leaves nothing to go by,
    as for the only seed of a class, the texts decide. Arguments as of :func:`fit`.
    """
    unit = F.normalize(embeddings, dim=-1)
    by_text = text.logits(unit).argmax(1) == labels
    if kind == "text" or len(labels) < 2:
        return by_text
    if kind != "linear":
        found = _left_out(*_means(kind, text, unit, labels), unit, labels).argmax(1) == labels
        return torch.where(_several(labels), found, by_text)
    right = torch.zeros_like(labels, dtype=torch.bool)
    for first in (0, 1):
        one, other = slice(first, None, 2), slice(1 - first, None, 2)
        right[other] = _linear(text, unit[one], labels[one]).logits(unit[other]).argmax(1) == labels[other]
    return right


def named_right(
    kind: str, text: ZeroShotClassifier, seeds: Tensor, labels: Tensor, copies: Tensor, rows: Tensor
) -> Tensor:
    """Whether each copy is given its seed's class by a classifier of this kind that does not know that seed, ``(M,)``.

    A copy resembles its seed whatever it shows, so the seed is left out as in :func:`recognised`: the two shares can be
    compared. A linear head, which cannot leave out each, is replaced by ``"both"``.

    Args:
        kind: As of :func:`fit`.
        text: The zero-shot classifier.
        seeds: CLIP embeddings of seeds, ``(N, D)``, any norm.
        labels: Their class indices, ``(N,)``.
        copies: Embeddings of the copies, ``(M, D)``.
        rows: Row of each copy's seed, ``(M,)``.

    Example:
        >>> text = ZeroShotClassifier(torch.eye(2), 1.0)
        >>> seeds, labels = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), torch.tensor([0, 0, 1, 1])
        >>> copies = torch.tensor([[0.2, 1.0], [0.9, 0.1]])
        >>> named_right("both", text, seeds, labels, copies, torch.tensor([0, 1])).tolist()
        [False, True]
    """
    unit, shown, own = F.normalize(seeds, dim=-1), F.normalize(copies, dim=-1), labels[rows]
    by_text = text.logits(shown).argmax(1) == own
    if kind == "text":
        return by_text
    sums, texts = _means("seeds" if kind == "seeds" else "both", text, unit, labels)
    found = _left_out(sums, texts, unit[rows], own, shown).argmax(1) == own
    return torch.where(_several(labels)[rows], found, by_text)


def _several(labels: Tensor) -> Tensor:
    """Which seeds are not their class's only one, ``(N,)``."""
    return torch.bincount(labels)[labels] > 1


def _means(kind: str, text: ZeroShotClassifier, unit: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of each class's unit embeddings, and the texts that are added to their directions."""
    hot = F.one_hot(labels, len(text.weights)).to(unit)
    texts = text.weights if kind == "both" else text.weights * (hot.sum(0) == 0)[:, None]
    return hot.T @ unit, texts


def _left_out(sums: Tensor, texts: Tensor, unit: Tensor, labels: Tensor, shown: Tensor | None = None) -> Tensor:
    """Cosines of seeds, or of an image ``shown`` for each, and classes, ``(N, C)``; a seed is left out of its mean."""
    shown = unit if shown is None else shown
    weights = F.normalize(F.normalize(sums, dim=-1) + texts, dim=-1)
    cosines = shown @ weights.T
    without = F.normalize(F.normalize(sums[labels] - unit, dim=-1) + texts[labels], dim=-1)
    return cosines.scatter(1, labels[:, None], (shown * without).sum(1, keepdim=True))


def _linear(text: ZeroShotClassifier, unit: Tensor, labels: Tensor) -> ZeroShotClassifier:
    """Penalised logistic regression on unit embeddings, starting from the texts."""
    weights = (text.logit_scale * text.weights).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(unit @ weights.T, labels) + PENALTY * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    fitted = weights.detach()
    scale = fitted.norm(dim=-1).mean()
    return ZeroShotClassifier(fitted / scale, float(scale))
