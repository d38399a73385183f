"""Prototypes of the seeds: what they are, their gradient, and that guidance goes towards them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import contents
from scipy.cluster.hierarchy import fcluster, linkage
from torch.nn import functional as F

import gif_datasets
from gif_datasets import ExpandedDataset, ExpansionConfig
from gif_datasets.guidance.guide import guide
from gif_datasets.guidance.prototypes import CLUSTERS, Prototypes, average_linkage
from gif_datasets.guidance.zeroshot import ZeroShotClassifier


@pytest.mark.parametrize("count", [3, 4, 17, 60])
def test_groups_are_scipy_s(count: int) -> None:
    """Average linkage, cut at three groups."""
    rows = np.random.default_rng(count).normal(size=(count, 5))
    found = average_linkage(rows, CLUSTERS)
    wanted = fcluster(linkage(rows, "average"), CLUSTERS, "maxclust")
    assert len(set(zip(found.tolist(), wanted.tolist(), strict=True))) == len(set(found.tolist())) == CLUSTERS


def test_prototypes_of_few_seeds() -> None:
    """Means of unit length, whatever the seeds' length; one seed is all its prototypes, no seed is none."""
    rows = torch.tensor([[2.0, 0.0], [0.0, 5.0], [3.0, 3.0]])
    found = Prototypes.of(rows, torch.tensor([0, 0, 2]), 3)
    assert torch.allclose(found.means, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 0.0], [0.5**0.5, 0.5**0.5]]))
    assert {tuple(row.tolist()) for row in found.clusters[0]} == {(1.0, 0.0), (0.0, 1.0)}
    assert torch.allclose(found.clusters[2], F.normalize(rows[2], dim=0).expand(CLUSTERS, 2))


def test_the_gradient_is_autograd_s() -> None:
    """Of the sum of both distances, through the unit norm."""
    rng = torch.Generator().manual_seed(0)
    seeds, labels = torch.randn(40, 6, generator=rng).double(), torch.arange(40) % 4
    found = Prototypes.of(seeds, labels, 4)
    rows = (3 * torch.randn(10, 6, generator=rng).double()).requires_grad_()
    asked = torch.arange(10) % 4
    total = found.nearness(rows, asked).sum()
    assert torch.allclose(found.gradient(rows.detach(), asked), torch.autograd.grad(total, rows)[0])
    at = found.means[asked]  # a copy that is there already: no direction, and no NaN
    assert found.gradient(at, asked).isfinite().all()


@pytest.mark.parametrize("balance", ["sum", "unit"])
@pytest.mark.parametrize("through", [False, True])
def test_guidance_goes_there(balance: str, through: bool) -> None:
    """Nearness rises, of copies whose latents are embeddings, or are embedded; without a weight it does not."""
    rng = torch.Generator().manual_seed(1)
    latents, labels = torch.randn(4, 16, generator=rng), torch.arange(4) % 2
    classifier = ZeroShotClassifier(F.normalize(torch.randn(2, 16, generator=rng), dim=-1), 10.0)
    found = Prototypes.of(torch.randn(30, 16, generator=rng), torch.arange(30) % 2, 2)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=rng)).Q if through else torch.eye(16)

    def nearness(weight: float, known: Prototypes | None) -> float:
        config = ExpansionConfig(
            prior="linear", ratio=2, criteria=(), epsilon=0.5, steps=20, balance=balance, prototype_weight=weight
        )
        embed = (lambda rows: rows @ turn) if through else None
        made = guide(latents, labels, list("abcd"), classifier, config, embed=embed, prototypes=known).latents
        return float(found.nearness((made @ turn).flatten(0, 1), labels.repeat_interleave(2)).mean())

    assert nearness(1.0, found) > nearness(0.0, None) + 0.05


def test_end_to_end(seed_folder: Path, tmp_path: Path) -> None:
    """The same copies in any order and by any number of workers; they depend on all seeds, and others do not change."""
    options: dict[str, Any] = {"prior": "linear", "ratio": 2, "classifier": "text", "samples_per_shard": 5}
    weighed = {**options, "prototype_weight": 1.0}
    gif_datasets.expand(str(seed_folder), tmp_path / "a", cache_dir=tmp_path / "c1", **weighed)
    gif_datasets.expand(str(seed_folder), tmp_path / "b", cache_dir=tmp_path / "c2", workers=2, **weighed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    lazy = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c3", **weighed)
    loaded = gif_datasets.load_expanded(tmp_path / "a")
    wanted = {(r.seed_index, r.copy): r for r in map(loaded.provenance, range(len(loaded)))}
    for index in reversed(range(12, len(lazy))):
        record = lazy.provenance(index)
        assert record == wanted[record.seed_index, record.copy]
    plain = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c3", **options)
    assert lazy.plan.recipe.population
    assert not plain.plan.recipe.population
    assert "prototype_weight" not in plain.config.to_json()
    assert any(plain.provenance(i).image_sha256 != lazy.provenance(i).image_sha256 for i in range(12, 36))
    with pytest.warns(UserWarning, match="prototype_weight does nothing for method 'unclip'"):
        assert ExpansionConfig(method="unclip", prototype_weight=1.0) == ExpansionConfig(method="unclip")
