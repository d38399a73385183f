"""Published priors: their architectures, tiny and without their weights, go through the loader that real ones do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pipelines import WIDTH, forget, publish, tiny

import gif_datasets.priors as priors
from gif_datasets import ExpandedDataset, ExpansionConfig
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.rng import generator_for

CPU = torch.device("cpu")
UNCLIP, SD, MAE = (
    [name for name, prior in PUBLISHED.items() if prior.family == family] for family in ("unclip", "sd", "mae")
)
QUICK = {"decode_steps": 2, "decode_batch": 4, "encode_batch": 4, "criteria": ("consistency",)}


@pytest.fixture
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A published prior by name, tiny, in the Hub's cache, without a Hub to ask."""
    prior = PUBLISHED[request.param]
    monkeypatch.setitem(priors.PUBLISHED, prior.name, tiny(prior))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    publish(prior, tmp_path)
    yield prior.name
    for weights in prior.sources:
        forget(weights)


def generators(count: int) -> list[torch.Generator]:
    return [generator_for(0, str(number), "decode", 1) for number in range(count)]


@pytest.mark.parametrize("published", UNCLIP, indirect=True)
def test_unclip_families_encode_guide_and_decode(published: str, seed_folder: Path, tmp_path: Path) -> None:
    """By its name alone, a prior guides: the label's probability rises; pictures follow their latents and draws."""
    expanded = ExpandedDataset(str(seed_folder), prior=published, ratio=2, steps=3, cache_dir=tmp_path / "c", **QUICK)
    records = [expanded.provenance(12 + index) for index in range(4)]
    assert {record.prior for record in records} == {published}
    assert np.mean([record.consistency_after - record.consistency_before for record in records]) > 0
    assert expanded[12][0].size == (16, 16)
    prior, config = load_prior(find_prior(published), "unclip", CPU), ExpansionConfig(**QUICK)
    latents = prior.encode([Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")])
    assert latents.shape == (3, WIDTH)
    assert torch.equal(latents, prior.embed_images([Image.new("RGB", (32, 32), c) for c in ("red", "blue", "green")]))
    pictures = prior.decode(latents, generators(3), config)
    assert pictures.shape == (3, 3, 16, 16)
    assert 0 <= pictures.min() < pictures.max() <= 1
    assert torch.equal(pictures, prior.decode(latents, generators(3), config))
    others = prior.decode(-latents, generators(3), config)
    assert (others - pictures).abs().max() > 1e-3  # the decoder is conditioned on the latent


@pytest.mark.parametrize("published", SD, indirect=True)
def test_stable_diffusion_redraws_guides_and_decodes(published: str, seed_folder: Path, tmp_path: Path) -> None:
    """img2img of each class: copies differ from each other, guidance raises the label's probability."""
    options = {"method": "gif-sd", "ratio": 2, "steps": 3, "strength": 0.5, "score_batch": 4, **QUICK}
    options |= {"decode_steps": 4, "guidance_scale": 1 if "turbo" in published else 5}
    expanded = ExpandedDataset(str(seed_folder), prior=published, cache_dir=tmp_path / "c", **options)
    records = [expanded.provenance(12 + index) for index in range(4)]
    assert np.mean([record.consistency_after - record.consistency_before for record in records]) > 0
    assert expanded[12][0].size == (16, 16)
    assert np.abs(np.asarray(expanded[12][0], float) - np.asarray(expanded[13][0], float)).mean() > 0.5
