"""How a set of pictures compares with another, in a feature space: Fréchet distance, precision and recall."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """Fréchet distance of two sets of features, ``(N, D)`` and ``(M, D)``, each taken for a Gaussian.

    The estimate grows as the sets shrink: compare it only among sets of equal sizes, and with that of real pictures.

    Source:
        Heusel et al. 2017, ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(x, x), 6), round(frechet_distance(x, x + 3), 6)
        (0.0, 9.0)
    """
    real, made = real.double(), made.double()
    first, second = torch.cov(real.T).reshape(real.shape[1], -1), torch.cov(made.T).reshape(made.shape[1], -1)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    shift = (real.mean(0) - made.mean(0)).square().sum()
    return float(shift + first.trace() + second.trace() - 2 * overlap)


def precision_recall(real: Tensor, made: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of made features within the real manifold, and of real ones within the made manifold.

    A set's manifold is the union of balls around its members, each reaching to its ``neighbours``-th nearest one.

    Source:
        Kynkäänniemi et al. 2019.

    Example:
        >>> line = torch.arange(10.0)[:, None]
        >>> precision_recall(line, line[:5] + 0.1, neighbours=1)
        (1.0, 0.6)
    """
    return _share_covered(made, real, neighbours), _share_covered(real, made, neighbours)


def _share_covered(points: Tensor, centres: Tensor, neighbours: int) -> float:
    radius = torch.cdist(centres, centres).kthvalue(neighbours + 1).values  # the nearest is the centre itself
    covered = torch.cat([(torch.cdist(part, centres) <= radius).any(1) for part in torch.split(points, 1000)])
    return float(covered.double().mean())
