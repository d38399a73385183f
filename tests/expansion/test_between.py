"""Copies that start between two seeds of a class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import contents
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig
from gif_datasets.expansion.imagination.between import companion, on_arc
from gif_datasets.expansion.recipe import ordered
from gif_datasets.expansion.withdraw import withdraw
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.shards.verify import verify
from gif_datasets.types import Seed

Draw = Callable[[int], Image.Image]
BETWEEN: dict[str, Any] = {"prior": "linear", "ratio": 3, "start": "between"}


def test_points_on_the_short_arc() -> None:
    """At their share of the angle, in the plane of both, of a length between theirs; ends and no arc at all too."""
    rng = torch.Generator().manual_seed(0)
    own, other = torch.randn(20, 7, generator=rng).double(), 3 * torch.randn(20, 7, generator=rng).double()
    share = torch.linspace(0, 1, 20).double()
    found = on_arc(own, other, share)

    def angle(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cosine_similarity(one, two, dim=-1).clamp(-1, 1).arccos()

    whole = angle(own, other)
    assert angle(own, found) == pytest.approx((share * whole).numpy(), abs=1e-6)
    assert angle(found, other) == pytest.approx(((1 - share) * whole).numpy(), abs=1e-6)
    assert found.norm(dim=-1) == pytest.approx(((1 - share) * own.norm(dim=-1) + share * other.norm(dim=-1)).numpy())
    assert torch.allclose(found[0], own[0])
    assert torch.allclose(found[-1], other[-1])
    for same in (own, 2 * own, -own):
        assert torch.allclose(torch.nn.functional.normalize(on_arc(own, same, share), dim=-1),
                              torch.nn.functional.normalize(own, dim=-1))  # fmt: skip
    assert on_arc(torch.zeros(2), torch.ones(2), torch.tensor(0.5)).isfinite().all()


def test_the_other_seed_is_another_image_of_the_class() -> None:
    """Whatever the order of the source; every one is taken at times; the share is at most a half."""
    seeds = [Seed(i, f"{i * 7919 % 1000:064d}", i % 2, f"{i}.png") for i in range(12)]
    seeds.append(Seed(12, seeds[0].key, 0, "again.png"))  # the same image is no other
    seeds.append(Seed(13, f"{13:064d}", 2, "alone.png"))
    tables = [ordered(seeds), ordered(reversed(seeds))]
    found = [[companion(5, table, seeds[0], copy) for copy in range(1, 200)] for table in tables]
    assert [(one.key, share) for one, share in found[0]] == [(one.key, share) for one, share in found[1]]
    assert {one.label for one, _ in found[0]} == {0}
    assert {one.key for one, _ in found[0]} == {seed.key for seed in seeds[2:12:2]}
    shares = np.array([share for _, share in found[0]])
    assert 0 <= shares.min() < 0.05
    assert 0.45 < shares.max() <= 0.5
    assert companion(5, tables[0], seeds[13], 1) == (seeds[13], 0.0)
    assert companion(6, tables[0], seeds[0], 1) != companion(5, tables[0], seeds[0], 1)


def test_copies_are_decoded_from_there(seed_folder: Path) -> None:
    """Without a perturbation a copy is what the prior makes of the point on the arc; its record names the other."""
    expanded = ExpandedDataset(str(seed_folder), method="unclip", **BETWEEN)
    config, seeds = expanded.config, expanded.plan.seeds
    prior = load_prior(find_prior("linear"), "unclip", torch.device("cpu"), config)
    latents = prior.encode([Image.open(seed_folder / seed.origin).convert("RGB") for seed in seeds])
    place = {seed.key: number for number, seed in enumerate(seeds)}
    for index in (12, 20, 40):
        record = expanded.provenance(index)
        other, share = companion(0, ordered(seeds), seeds[record.seed_index], record.copy)
        assert (record.partner_key, record.partner_share) == (other.key, share)
        assert record.partner_label == record.label == other.label
        assert record.partner_key != record.seed_key
        start = on_arc(latents[place[record.seed_key]], latents[place[other.key]], torch.tensor(share))
        generator = generator_for(0, record.seed_key, "decode", record.copy)
        wanted = (prior.decode(start[None], [generator], config)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(expanded[index][0], np.int64) - wanted).max() <= 1


@pytest.mark.parametrize("method", ["gif-unclip", "unclip"])
def test_a_copy_is_the_same_however_it_is_asked_for(method: str, seed_folder: Path, tmp_path: Path) -> None:
    """Order, workers and the number of copies by class change nothing; the start changes the copies."""
    options: dict[str, Any] = {**BETWEEN, "method": method, "samples_per_shard": 5}
    gif_datasets.expand(str(seed_folder), tmp_path / "a", cache_dir=tmp_path / "c1", **options)
    gif_datasets.expand(str(seed_folder), tmp_path / "b", cache_dir=tmp_path / "c2", workers=2, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert verify(tmp_path / "a") == []
    loaded = gif_datasets.load_expanded(tmp_path / "a")
    records = {(r.seed_index, r.copy): r for r in map(loaded.provenance, range(len(loaded)))}
    lazy = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c3", **options)
    for index in reversed(range(12, len(lazy))):
        record = lazy.provenance(index)
        assert record == records[record.seed_index, record.copy]
    seed = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c3", **{**options, "start": "seed"})
    assert all(seed.provenance(i).image_sha256 != lazy.provenance(i).image_sha256 for i in range(12, len(lazy)))


def test_both_seeds_stay_on_one_side_and_leave_together(seed_folder: Path, tmp_path: Path) -> None:
    """Splits keep what a copy shows apart from what is held out, and a withdrawn seed takes such copies along."""
    expanded = ExpandedDataset(str(seed_folder), method="unclip", **BETWEEN)
    train, held = expanded.split(0.25)
    keys = {expanded.provenance(i).seed_key for i in held.indices}
    records = [expanded.provenance(i) for i in train.indices]
    assert not keys & {key for record in records for key in (record.seed_key, record.partner_key)}
    expanded.precompute(tmp_path / "out")
    shown = Counter(expanded.provenance(i).partner_key for i in range(12, len(expanded)))
    gone = expanded.provenance(0)
    found = withdraw(tmp_path / "out", [gone.seed_origin])
    assert found.unmixed == shown[gone.seed_key]
    assert verify(tmp_path / "out") == []


def test_where_it_has_an_effect() -> None:
    """Options of other versions have the digests that they had; other methods say that it does nothing."""
    assert "start" not in ExpansionConfig().to_json()
    assert ExpansionConfig(start="between").uses_all_seeds
    with pytest.warns(UserWarning, match="start does nothing for method 'gif-mae'"):
        assert ExpansionConfig(method="gif-mae", start="between") == ExpansionConfig(method="gif-mae")
    with pytest.raises(ConfigError, match="unknown start 'betwen'; did you mean 'between'"):
        ExpansionConfig(start="betwen")


def test_a_class_of_one_seed_starts_there(seed_folder: Path, picture: Draw) -> None:
    """And says nothing of another."""
    for number in range(1, 4):
        (seed_folder / "ant" / f"{number}.png").unlink()
    expanded = ExpandedDataset(str(seed_folder), method="unclip", **BETWEEN)
    record = expanded.provenance(9)
    assert (record.class_name, record.copy, record.partner_key, record.partner_share) == ("ant", 1, "", 0.0)
    assert math.isclose(sum(1 for i in range(9, 36) if expanded.provenance(i).partner_key), 24)
