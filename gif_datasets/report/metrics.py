"""How a set of images compares with another, in a feature space: Fréchet distance, precision and recall."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(real: Tensor, copies: Tensor) -> float:
    """Fréchet distance of two sets of features, ``(N, D)`` and ``(M, D)``, each taken for a Gaussian.

    The estimate grows as the sets shrink: compare it only among sets of equal sizes, and with that of real images.

    Source:
        Heusel et al. 2017, ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(x, x), 6), round(frechet_distance(x, x + 3), 6)
        (0.0, 9.0)
    """
    real, copies = real.double(), copies.double()
    first, second = torch.cov(real.T).reshape(real.shape[1], -1), torch.cov(copies.T).reshape(copies.shape[1], -1)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    shift = (real.mean(0) - copies.mean(0)).square().sum()
    return float(shift + first.trace() + second.trace() - 2 * overlap)


def precision_recall(real: Tensor, copies: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of copies within the real manifold, and of real images within the manifold of the copies.

    A set's manifold is the union of balls around its members, each reaching to its ``neighbours``-th nearest one.

    Source:
        Kynkäänniemi et al. 2019.

    Example:
        >>> line = torch.arange(10.0)[:, None]
        >>> precision_recall(line, line[:5] + 0.1, neighbours=1)
        (1.0, 0.6)
    """
    return _share_covered(copies, real, neighbours), _share_covered(real, copies, neighbours)


def _share_covered(points: Tensor, centres: Tensor, neighbours: int) -> float:
    radius = torch.cdist(centres, centres).kthvalue(neighbours + 1).values  # the nearest is the centre itself
    covered = torch.cat([(torch.cdist(part, centres) <= radius).any(1) for part in torch.split(points, 1000)])
    return float(covered.double().mean())


def density_coverage(real: Tensor, copies: Tensor, neighbours: int = 5) -> tuple[float, float]:
    """How deep copies lie in the real manifold, and the share of real images that have a copy near.

    Density is 1 where copies lie as real images do; above, where they crowd the middle.

    Source:
        Naeem et al. 2020.

    Example:
        >>> line = torch.arange(10.0)[:, None]
        >>> density_coverage(line, line[:5], neighbours=1)
        (2.8, 0.6)
    """
    radius = torch.cdist(real, real).kthvalue(neighbours + 1).values
    inside = torch.cat([(torch.cdist(part, real) <= radius).double() for part in torch.split(copies, 1000)])
    return float(inside.sum(1).mean() / neighbours), float((inside.sum(0) > 0).double().mean())


def nearest(points: Tensor, centres: Tensor, leave_out: Tensor | None = None) -> Tensor:
    """Distance of each point to the nearest centre, ``(N,)``; the largest of them is the covering radius.

    Args:
        points: ``(N, D)``.
        centres: ``(M, D)``.
        leave_out: Which centres do not count for which points, ``(N, M)``.

    Source:
        Appendix G of the paper: the generalisation error is bounded by the covering radius of the training set.

    Example:
        >>> nearest(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [7.0]]))
        tensor([1., 3.])
    """
    parts = []
    for start in range(0, len(points), 1000):
        distances = torch.cdist(points[start : start + 1000], centres)
        if leave_out is not None:
            distances = distances.masked_fill(leave_out[start : start + 1000], torch.inf)
        parts.append(distances.amin(1))
    return torch.cat(parts)
