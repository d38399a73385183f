"""Published priors: their architectures, tiny and without their weights, go through the loader that real ones do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pipelines import WIDTH, forget, masked, publish, tiny
from safetensors.torch import load_file

import gif_datasets.priors as priors
from gif_datasets import ExpandedDataset, ExpansionConfig, PriorError
from gif_datasets.priors import embedded_folder, find_prior, load_prior, mae, mae_names
from gif_datasets.priors.parts import Parts
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


@pytest.mark.parametrize("published", MAE, indirect=True)
def test_masked_autoencoders_guide_and_decode(published: str, seed_folder: Path, tmp_path: Path) -> None:
    """As transformers publishes them: guidance raises the label's probability."""
    options = {"method": "gif-mae", "ratio": 2, "steps": 3, "score_batch": 4, **QUICK}
    del options["decode_steps"]
    expanded = ExpandedDataset(str(seed_folder), prior=published, cache_dir=tmp_path / "c", **options)
    records = [expanded.provenance(12 + index) for index in range(4)]
    assert np.mean([record.consistency_after - record.consistency_before for record in records]) > 0
    assert expanded[12][0].size == (16, 16)


def test_a_masked_autoencoder_is_that_of_transformers(tmp_path: Path) -> None:
    """Loaded from transformers' files, latents and pictures are those of transformers; so under its older names."""
    torch.manual_seed(0)
    theirs = masked()
    theirs.save_pretrained(tmp_path)
    ours = mae.load(tmp_path)
    pixels = torch.rand(2, 3, 16, 16)
    normal = (pixels - ours.mean) / ours.std
    in_order = torch.arange(16.0).expand(2, -1)
    with torch.no_grad():
        latent, logits = theirs.vit(normal, noise=in_order).last_hidden_state, theirs(normal, noise=in_order).logits
        torch.testing.assert_close(ours.encode(pixels), latent, rtol=1e-3, atol=1e-3)
        picture = theirs.unpatchify(logits) * ours.std + ours.mean
        torch.testing.assert_close(ours.decode(ours.encode(pixels)), picture, rtol=1e-3, atol=1e-3)
    saved = load_file(tmp_path / "model.safetensors")
    older = {name.replace("decoder_encoder.layer.", "decoder_layers."): value for name, value in saved.items()}
    for tensors in (saved, older):
        assert mae_names.from_transformers(tensors).keys() == ours.state_dict().keys()


def test_normalised_pixels_are_told_apart(tmp_path: Path) -> None:
    """Such a model rebuilds a picture exactly from patches normalised as its loss does; as a prior it is refused."""
    theirs = masked(norm_pix_loss=True)
    theirs.save_pretrained(tmp_path)
    ours = mae.load(tmp_path)
    pixels = torch.rand(2, 3, 16, 16)
    patches = theirs.patchify((pixels - ours.mean) / ours.std)
    normalised = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(ours._pixels(ours._spread(normalised, pixels)), pixels)
    with pytest.raises(PriorError, match="mae_visualize"):
        mae.MaePrior(Parts(embedded_folder() / "clip", tmp_path, 16), CPU, ExpansionConfig())


def test_original_names_are_ours() -> None:
    """A published checkpoint's names and shapes, as the original code's model has them (ViT-B/16), fit as they are."""
    names = {
        "cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, 197, 512), "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
        "norm.weight": (768,), "norm.bias": (768,), "decoder_embed.weight": (512, 768), "decoder_embed.bias": (512,),
        "decoder_norm.weight": (512,), "decoder_norm.bias": (512,), "decoder_pred.weight": (768, 512),
        "decoder_pred.bias": (768,),
    }  # fmt: skip
    for part, width, depth in (("blocks", 768, 12), ("decoder_blocks", 512, 8)):
        for number in range(depth):
            for name, shape in (
                ("norm1", (width,)), ("attn.qkv", (3 * width, width)), ("attn.proj", (width, width)),
                ("norm2", (width,)), ("mlp.fc1", (4 * width, width)), ("mlp.fc2", (width, 4 * width)),
            ):  # fmt: skip
                names[f"{part}.{number}.{name}.weight"] = shape
                names[f"{part}.{number}.{name}.bias"] = shape[:1]
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in names.items()}
        found = mae_names.original_config(tensors, normalised_pixels=False)
        model = mae.MaskedAutoencoder(mae.MaeConfig(**found))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == names
    assert (found["image_size"], found["heads"], found["decoder_depth"]) == (224, 12, 8)
    with pytest.raises(KeyError, match="mask_token"):  # mae_pretrain_vit_base.pth has no decoder
        mae_names.original_config({name: value for name, value in tensors.items() if "mask" not in name}, False)
