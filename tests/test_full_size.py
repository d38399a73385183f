"""Published architectures at full size, without their weights: sizes, every shape along the way, and one step.

pytest -m slow tests/test_full_size.py
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from pathlib import Path

import diffusers
import full_size
import open_clip
import pytest
import torch
from PIL import Image
from pipelines import forget, tokenizer, write_snapshot
from safetensors.torch import save_file

import gif_datasets.priors as priors
from gif_datasets import ExpansionConfig
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.priors.weights import CLIPS
from gif_datasets.rng import generator_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_downloads(name: str) -> None:
    """The table's gigabytes are those of the architecture's parameters; an adapter adds less than one."""
    prior = PUBLISHED[name]
    width = 2 if prior.decoder.variant else 4
    found = sum(full_size.count(full_size.build(part)) for part in full_size.PARTS[name].values()) * width / 1e9
    extra = 0.8 if prior.adapter else 0.06
    assert found - 0.06 < prior.gigabytes < found + extra


@pytest.mark.parametrize("name", CLIPS)
def test_sizes_of_clips(name: str) -> None:
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(CLIPS[name].model))
        assert model.encode_image(torch.empty(2, 3, 224, 224)).shape == (2, CLIPS[name].width)
    assert full_size.count(model) * 4 / 1e9 == pytest.approx(CLIPS[name].gigabytes, abs=0.06)


def test_parameters_are_those_that_the_makers_state() -> None:
    """859.5 and 2,567 million in the U-Nets of Stable Diffusion 1.5 and XL; 3.54 and 2.77 GB in Karlo's files."""
    stated = {("sd15", "unet"): 859_520_964, ("sdxl", "unet"): 2_567_463_684}
    stated |= {("karlo", "decoder"): 3.54e9 / 4, ("karlo", "super_res_first"): 2.77e9 / 4}
    stated |= {("mae-base", "model"): 448e6 / 4, ("sd21-unclip-small", "unet"): 3.48e9 / 4}
    for (name, part), count in stated.items():
        assert full_size.count(full_size.build(full_size.PARTS[name][part])) == pytest.approx(count, rel=2e-3)


CONDITIONS = {
    "karlo": lambda n: {"encoder_hidden_states": (n, 81, 1536), "class_labels": (n, 1280)},
    "sd21-unclip-small": lambda n: {"encoder_hidden_states": (n, 77, 1024), "class_labels": (n, 1536)},
    "sd21-unclip": lambda n: {"encoder_hidden_states": (n, 77, 1024), "class_labels": (n, 2048)},
    "kandinsky22": lambda n: {"added_cond_kwargs": {"image_embeds": (n, 1280)}},
    "sd15": lambda n: {"encoder_hidden_states": (n, 77, 768)},
    "sd-turbo": lambda n: {"encoder_hidden_states": (n, 77, 1024)},
    "sdxl": lambda n: {
        "encoder_hidden_states": (n, 77, 2048), "added_cond_kwargs": {"text_embeds": (n, 1280), "time_ids": (n, 6)}
    },
}  # fmt: skip
"""Shapes of what each decoder is conditioned on."""


@pytest.mark.parametrize("name", CONDITIONS)
def test_shapes_along_the_way(name: str) -> None:
    """Denoiser and autoencoder, on the meta device: from the noise's shape to the picture's."""
    prior, parts = PUBLISHED[name], full_size.PARTS[name]
    net = full_size.build(parts.get("unet") or parts["decoder"])

    def empty(shapes: object) -> object:
        if isinstance(shapes, dict):
            return {key: empty(value) for key, value in shapes.items()}
        return torch.empty(shapes, device="meta")

    inner = prior.image_size // (4 if name == "karlo" else 8)
    channels = net.config.in_channels
    noise = torch.empty(2, channels, inner, inner, device="meta")
    shapes = CONDITIONS[name](2)
    shapes.setdefault("encoder_hidden_states", None)
    given = {key: None if value is None else empty(value) for key, value in shapes.items()}
    out = net(noise, torch.tensor(1, device="meta"), **given).sample
    assert out.shape == (2, net.config.out_channels, inner, inner)
    if name == "karlo":
        larger = full_size.build(parts["super_res_last"])
        assert larger(torch.empty(1, 6, 256, 256, device="meta"), torch.tensor(1, device="meta")).sample.shape[1:] == (
            3, 256, 256,
        )  # fmt: skip
        return
    autoencoder = full_size.build(parts.get("vae") or parts["movq"])
    picture = autoencoder.decode(torch.empty(1, 4, inner, inner, device="meta")).sample
    assert picture.shape == (1, 3, prior.image_size, prior.image_size)


def publish(name: str, scratch: Path) -> None:
    """Write a full-size prior of random weights into the Hub's cache."""
    prior = PUBLISHED[name]
    torch.manual_seed(0)

    def clip(folder: Path) -> None:
        config = open_clip.get_model_config(CLIPS[prior.clip].model)
        quick = {"quick_gelu": True} if prior.clip.endswith("openai") else {}
        with torch.device("meta"):
            model = open_clip.CLIP(**config, **quick)
        state = {key: torch.empty(value.shape).normal_(0, 0.02) for key, value in model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        value = {"model_cfg": config | quick, "preprocess_cfg": {"mean": mean, "std": std}}
        (folder / "open_clip_config.json").write_text(json.dumps(value))

    def decoder(folder: Path) -> None:
        parts = {key: _filled(part) for key, part in full_size.PARTS[name].items()}
        if "model" in parts:
            parts["model"].save_pretrained(folder)
            return
        pipeline = diffusers.StableDiffusionPipeline(
            **parts, tokenizer=tokenizer(scratch / "tokenizer"), safety_checker=None, feature_extractor=None,
            scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False),
            requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(folder)

    write_snapshot(CLIPS[prior.clip].weights, clip)
    write_snapshot(prior.decoder, decoder)


def _filled(part: full_size.Part) -> torch.nn.Module:
    model = full_size.build(part).to_empty(device="cpu")
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.normal_(0, 0.02)
            else:
                value.copy_(torch.arange(value.numel()).reshape(value.shape))
    return model


@pytest.mark.parametrize("name", ["mae-base", "mae-large", "sd15"])
def test_one_step_at_full_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the loader, from a picture to a picture, in random weights; memory and time are told (-s)."""
    prior = PUBLISHED[name]
    monkeypatch.setitem(priors.PUBLISHED, name, dataclasses.replace(prior))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    publish(name, tmp_path)
    started = time.monotonic()
    try:
        options = {"method": "sd", "decode_steps": 2, "strength": 0.5, "guidance_scale": 1} if name == "sd15" else {}
        config = ExpansionConfig(**{"method": "mae", "ratio": 1, "decode_batch": 1} | options)
        loaded = load_prior(find_prior(name), prior.family, torch.device("cpu"), config)
        after_load = time.monotonic()
        image = Image.new("RGB", (300, 200), "orange")
        latents = loaded.encode([image])
        moved = loaded.start([image], latents, ["bee"], ["key"], config)[:, 0]
        assert loaded.embed_images([image]).shape == (1, CLIPS[prior.clip].width)
        pictures = loaded.decode(moved, [generator_for(0, "a", "decode", 1)], config)
    finally:
        for weights in prior.sources:
            forget(weights)
    assert pictures.shape == (1, 3, prior.image_size, prior.image_size)
    assert moved.shape[1:] == latents.shape[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    told = f"peak {peak:.1f} GB, load {after_load - started:.0f} s, step {time.monotonic() - after_load:.0f} s"
    with capsys.disabled():
        sys.stdout.write(f"\n{name}: {told}\n")
