"""A prior draws what its diffusers pipeline draws when it is called as its page says: with an image, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from pipelines import SIDE, TEXT, image_encoder, published_here, side_of, siglip_encoder
from safetensors.torch import load_file

from gif_datasets import ExpansionConfig
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.diffusers_folder import _name_moved_modules
from gif_datasets.priors.published import PUBLISHED, REDUX

UNCLIP, SD = ([name for name, prior in PUBLISHED.items() if prior.family == family] for family in ("unclip", "sd"))
TOKENS = [name for name in UNCLIP if PUBLISHED[name].pipeline == REDUX]
"""Priors whose latent is a map of tokens."""

CPU = torch.device("cpu")


def draws(keys: str) -> list[torch.Generator]:
    return [generator_for(0, key, "decode", 1) for key in keys]


@pytest.fixture
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with published_here(request.param, tmp_path, monkeypatch) as name:
        yield name


@pytest.fixture
def seeds() -> list[Image.Image]:
    torch.manual_seed(0)
    return [Image.fromarray(small.numpy()) for small in (torch.rand(3, SIDE, SIDE, 3) * 255).byte()]


def pipeline_of(name: str, prior: Any) -> Any:
    """The published pipeline as diffusers loads it, with the CLIP's image tower under transformers' names."""
    _name_moved_modules()
    entry = PUBLISHED[name]
    encoder = image_encoder(entry.clip, prior.clip.model)
    extractor = transformers.CLIPImageProcessor(size=SIDE, crop_size=SIDE)
    parts = {} if "Kandinsky" in entry.pipeline else {"image_encoder": encoder, "feature_extractor": extractor}
    theirs = getattr(diffusers, entry.pipeline).from_pretrained(
        entry.decoder.bring(), variant=entry.decoder.variant, **parts
    )
    theirs.set_progress_bar_config(disable=True)
    if entry.adapter:
        file = entry.adapter.bring()
        theirs.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None)
    return theirs


def adapter(theirs: Any, image: Image.Image, prior: Any, **call: Any) -> Any:
    """https://huggingface.co/docs/diffusers/using-diffusers/ip_adapter"""
    return theirs(prompt="", ip_adapter_image=image, height=16, width=16, **call)


def stable(theirs: Any, image: Image.Image, prior: Any, **call: Any) -> Any:
    """https://huggingface.co/docs/diffusers/api/pipelines/stable_unclip"""
    return theirs(image, height=16, width=16, **call)


def karlo(theirs: Any, image: Image.Image, prior: Any, **call: Any) -> Any:
    """https://huggingface.co/docs/diffusers/api/pipelines/unclip: the image variation"""
    steps, scale = call.pop("num_inference_steps"), call.pop("guidance_scale")
    return theirs(image, decoder_num_inference_steps=steps, decoder_guidance_scale=scale, **call)


def kandinsky(theirs: Any, image: Image.Image, prior: Any, **call: Any) -> Any:
    """https://huggingface.co/docs/diffusers/api/pipelines/kandinsky_v22: the zeros of its prior are a blank image's"""
    encoder = image_encoder(PUBLISHED["kandinsky22"].clip, prior.clip.model)
    pixels = transformers.CLIPImageProcessor(size=SIDE, crop_size=SIDE)(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        embeds, blank = (encoder(part).image_embeds for part in (pixels, torch.zeros_like(pixels)))
    return theirs(image_embeds=embeds, negative_image_embeds=blank, height=16, width=16, **call)


CALLS: dict[str, Callable[..., Any]] = {
    "UnCLIPImageVariationPipeline": karlo,
    "StableUnCLIPImg2ImgPipeline": stable,
    "KandinskyV22Pipeline": kandinsky,
    "StableDiffusionPipeline": adapter,
    "StableDiffusionXLPipeline": adapter,
}


@pytest.mark.parametrize("published", [name for name in UNCLIP if name not in TOKENS], indirect=True)
def test_an_image_s_variation_is_diffusers_own(published: str, seeds: list[Image.Image]) -> None:
    """Three copies in one block are the three variations that the pipeline draws of one image after another."""
    config = ExpansionConfig(decode_steps=3, guidance_scale=4.0)
    prior = load_prior(find_prior(published), "unclip", CPU, config)
    ours = prior.decode(prior.encode(seeds), draws("abc"), config)
    theirs, call = pipeline_of(published, prior), CALLS[PUBLISHED[published].pipeline]
    for row, (seed, generator) in enumerate(zip(seeds, draws("abc"), strict=True)):
        drawn = call(theirs, seed, prior, num_inference_steps=3, guidance_scale=4.0, generator=generator).images[0]
        expected = torch.from_numpy(numpy_of(drawn)).permute(2, 0, 1)
        torch.testing.assert_close(ours[row], expected, rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize("published", TOKENS, indirect=True)
def test_a_variation_by_redux_is_diffusers_own(published: str, seeds: list[Image.Image]) -> None:
    """https://huggingface.co/docs/diffusers/api/pipelines/flux, Redux: one pipeline reads an image, another draws."""
    config = ExpansionConfig(decode_steps=3, guidance_scale=2.5)
    prior = load_prior(find_prior(published), "unclip", CPU, config)
    ours = prior.decode(prior.encode(seeds), draws("abc"), config)
    entry = PUBLISHED[published]
    assert entry.adapter is not None
    embedder = ReduxImageEncoder(redux_dim=TEXT)
    embedder.load_state_dict(load_file(entry.adapter.bring()))
    reads = diffusers.FluxPriorReduxPipeline(
        image_encoder=siglip_encoder(prior.clip.model),
        feature_extractor=transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}),
        image_embedder=embedder,
    )
    paints = diffusers.FluxPipeline.from_pretrained(entry.decoder.bring(), text_encoder=None, text_encoder_2=None)
    for pipeline in (reads, paints):
        pipeline.set_progress_bar_config(disable=True)
    for row, (seed, generator) in enumerate(zip(seeds, draws("abc"), strict=True)):
        call = {"guidance_scale": 2.5, "num_inference_steps": 3, "generator": generator}
        drawn = paints(**call, **reads(seed), height=16, width=16).images[0]
        expected = torch.from_numpy(numpy_of(drawn)).permute(2, 0, 1)
        torch.testing.assert_close(ours[row], expected, rtol=0, atol=1.5 / 255)


SIZE = {"height": 16, "width": 16}
PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "StableDiffusion3Img2ImgPipeline": ("StableDiffusion3Img2ImgPipeline", SIZE),
    "FluxImg2ImgPipeline": ("FluxImg2ImgPipeline", {**SIZE, "max_sequence_length": 256}),
    "ZImageImg2ImgPipeline": ("ZImageImg2ImgPipeline", SIZE),
    "SanaSprintImg2ImgPipeline": (
        "SanaSprintImg2ImgPipeline",
        {"height": 32, "width": 32, "intermediate_timesteps": None, "use_resolution_binning": False},
    ),
}
"""Class and further arguments of what has a page of its own: https://huggingface.co/docs/diffusers/api/pipelines/flux,
stable_diffusion/stable_diffusion_3, z_image and sana_sprint. The sizes are those of tiny images; at 1024 pixels, their
default, binning changes nothing."""


def numpy_of(image: Image.Image) -> Any:
    import numpy as np

    return np.asarray(image, np.float32) / 255


@pytest.mark.parametrize("published", SD, indirect=True)
def test_a_redrawn_image_is_diffusers_own(published: str, seeds: list[Image.Image]) -> None:
    """https://huggingface.co/docs/diffusers/using-diffusers/img2img: prompt, image and strength."""
    scale, side = 1.0 if "turbo" in published else 5.0, side_of(published)
    config = ExpansionConfig(
        method="sd", ratio=1, decode_steps=4, strength=0.5, guidance_scale=scale, prompts=["a {}"], decode_batch=4
    )
    prior = load_prior(find_prior(published), "sd", CPU, config)
    names, keys = ("ant", "bee", "crab"), ("a", "b", "c")
    small = [seed.resize((side, side)) for seed in seeds]
    starts = prior.start(small, prior.encode(small), names, keys, config)[:, 0]
    drawn = prior.decode(starts, draws("abc"), config)
    entry = PUBLISHED[published]
    kind, page = PAGES.get(entry.pipeline, ("AutoPipelineForImage2Image", {}))
    theirs = getattr(diffusers, kind).from_pretrained(entry.decoder.bring(), variant=entry.decoder.variant)
    theirs.set_progress_bar_config(disable=True)
    for row, (seed, name, key) in enumerate(zip(small, names, keys, strict=True)):
        generator = generator_for(0, key, "start", 1)
        torch.randint(1, (), generator=generator)  # which of the prompts
        (expected,) = theirs(
            prompt=f"a {name}", image=seed, strength=0.5, num_inference_steps=4, guidance_scale=scale,
            generator=generator, output_type="pt", **page,
        ).images  # fmt: skip
        if entry.pipeline in PAGES:  # its image is what guidance begins with, encoded again
            torch.testing.assert_close(starts[row], encoded(theirs.vae, expected), rtol=1e-3, atol=2e-2)
        else:
            torch.testing.assert_close(drawn[row], expected, rtol=0, atol=1.5 / 255)


@torch.no_grad()
def encoded(vae: Any, image: torch.Tensor) -> torch.Tensor:
    """An image as latents in the units of the network: https://huggingface.co/docs/diffusers/api/models/autoencoderkl"""
    found = vae.encode(image[None] * 2 - 1)
    latent = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
    scaled: torch.Tensor = (latent[0] - (getattr(vae.config, "shift_factor", None) or 0)) * vae.config.scaling_factor
    return scaled
