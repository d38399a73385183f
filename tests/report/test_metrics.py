"""Measures of a set of pictures agree with slow, literal ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gif_datasets.report.metrics import density_coverage, frechet_distance, nearest, precision_recall


def sets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(60, 5, generator=generator)
    return real, torch.randn(40, 5, generator=generator) * 1.5 + 0.5


def test_frechet_distance_agrees_with_the_eigenvalues_of_the_product() -> None:
    """tr (C1 C2)^(1/2) is the sum of the square roots of the eigenvalues of C1 C2."""
    real, made = (part.double().numpy() for part in sets())
    first, second = np.cov(real.T), np.cov(made.T)
    overlap = np.sqrt(np.linalg.eigvals(first @ second).real.clip(0)).sum()
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * overlap
    assert frechet_distance(*sets()) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(sets()[0], sets()[0]) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_fewer_pictures_than_features_is_finite() -> None:
    """A singular covariance is no error."""
    real = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    assert 0 < frechet_distance(real, real + 1) < 100


def test_precision_and_recall_agree_with_the_definition() -> None:
    """Counted one pair at a time."""
    real, made = sets()

    def covered(points: torch.Tensor, centres: torch.Tensor) -> float:
        count = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = sorted(float((centre - other).norm()) for j, other in enumerate(centres) if i != j)
                if float((point - centre).norm()) <= others[2]:
                    count += 1
                    break
        return count / len(points)

    assert precision_recall(real, made) == pytest.approx((covered(made, real), covered(real, made)))


@pytest.mark.parametrize("neighbours", [1, 3])
def test_density_and_coverage_agree_with_a_loop(neighbours: int) -> None:
    """Naeem et al.'s definitions, a pair at a time; more made features than one block of the fast one."""
    real, few = (part.double() for part in sets())
    made = torch.cat([few, torch.randn(1003, 5, generator=torch.Generator().manual_seed(2)).double() + 1])
    apart = [[float((a - b).norm()) for b in real] for a in real]
    radius = [sorted(row)[neighbours] for row in apart]
    inside = [[float((a - b).norm()) <= r for b, r in zip(real, radius, strict=True)] for a in made]
    density = sum(map(sum, inside)) / (neighbours * len(made))
    coverage = sum(map(any, zip(*inside, strict=True))) / len(real)
    assert density_coverage(real, made, neighbours) == pytest.approx((density, coverage), abs=1e-12)


def test_neighbours_are_the_papers_by_default() -> None:
    """Three in Kynkäänniemi et al., five in Naeem et al."""
    assert precision_recall(*sets()) == precision_recall(*sets(), 3)
    assert density_coverage(*sets()) == density_coverage(*sets(), 5) != density_coverage(*sets(), 6)


def test_nearest_agrees_with_a_loop() -> None:
    """Also where some centres do not count, and over more points than one block."""
    points = torch.randn(1003, 4, generator=torch.Generator().manual_seed(3)).double()
    centres = torch.randn(7, 4, generator=torch.Generator().manual_seed(4)).double()
    without = torch.rand(1003, 7, generator=torch.Generator().manual_seed(5)) < 0.5
    without[:, 0] = False
    for leave_out in (None, without):
        wanted = [
            min(float((a - b).norm()) for j, b in enumerate(centres) if leave_out is None or not leave_out[i, j])
            for i, a in enumerate(points)
        ]
        assert nearest(points, centres, leave_out).tolist() == pytest.approx(wanted, abs=1e-9)
