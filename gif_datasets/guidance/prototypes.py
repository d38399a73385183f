"""Prototypes of classes, from the seeds' embeddings alone: what guidance can go by where class texts mean nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

CLUSTERS = 3
MOST = 300
"""Seeds of a class that are clustered, evenly spread: the time grows with the cube of their number."""
TINY = 1e-6


@dataclass(frozen=True)
class Prototypes:
    """Class means and cluster means of unit embeddings, of unit length.

    Attributes:
        means: ``(C, D)``.
        clusters: ``(C, CLUSTERS, D)``; a class with fewer seeds has some twice.

    Source:
        DistDiff (arXiv 2403.06741): hierarchical prototypes, by average linkage.
    """

    means: Tensor
    clusters: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor, classes: int) -> Prototypes:
        """The prototypes of seeds.

        Args:
            embeddings: Of the seeds, ``(N, D)``, any norm, in an order that does not depend on the source's.
            labels: Their class indices, ``(N,)``.
            classes: Number of classes; one without seeds has zeros.
        """
        unit = F.normalize(embeddings.double(), dim=-1)
        means, clusters = unit.new_zeros(classes, unit.shape[1]), unit.new_zeros(classes, CLUSTERS, unit.shape[1])
        for label in sorted(set(labels.tolist())):
            rows = unit[labels == label]
            some = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST)).round().astype(int)]
            groups = average_linkage(some.cpu().numpy(), CLUSTERS)
            own = torch.stack([some[torch.from_numpy(groups == group)].mean(0) for group in np.unique(groups)])
            means[label] = F.normalize(rows.mean(0), dim=-1)
            clusters[label] = F.normalize(own[torch.arange(CLUSTERS) % len(own)], dim=-1)
        return cls(means.to(embeddings), clusters.to(embeddings))

    def nearness(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Minus the distances of unit embeddings from their class's mean and its nearest cluster, ``(N,)``.

        Args:
            embeddings: ``(N, D)``, any norm.
            labels: Class indices, ``(N,)``.
        """
        to_mean, to_cluster = self._offsets(embeddings, labels)
        distance: Tensor = to_mean.norm(dim=-1) + to_cluster.norm(dim=-1)
        return -distance

    def gradient(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Gradient of ``nearness(..).sum()`` with respect to the embeddings, in closed form."""
        ascent = -sum(F.normalize(offset, dim=-1, eps=TINY) for offset in self._offsets(embeddings, labels))
        norm = embeddings.norm(dim=-1, keepdim=True).clamp(min=TINY)
        unit = embeddings / norm
        tangent: Tensor = (ascent - (ascent * unit).sum(-1, keepdim=True) * unit) / norm
        return tangent

    def _offsets(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """From the class mean, and from the nearest cluster, to each unit embedding."""
        unit = F.normalize(embeddings, dim=-1)
        to_clusters = unit[:, None] - self.clusters[labels]
        nearest = to_clusters.norm(dim=-1).argmin(-1)
        return unit - self.means[labels], to_clusters[torch.arange(len(unit), device=unit.device), nearest]


def average_linkage(rows: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Group rows, ``(N, D)``, into at most ``count`` groups, by the mean distance between their members.

    Example:
        >>> average_linkage(np.array([[0.0], [0.1], [5.0], [5.1], [9.0]]), 3).tolist()
        [0, 0, 2, 2, 4]
    """
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    groups, sizes = np.arange(len(rows)), np.ones(len(rows))
    for _ in range(len(rows) - count):
        first, second = sorted(divmod(int(distances.argmin()), len(rows)))
        weights = sizes[[first, second]] / sizes[[first, second]].sum()
        joined = weights[0] * distances[first] + weights[1] * distances[second]
        distances[first], distances[:, first] = joined, joined
        distances[second], distances[:, second], distances[first, first] = np.inf, np.inf, np.inf
        sizes[first] += sizes[second]
        groups[groups == second] = first
    return groups
