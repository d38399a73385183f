"""Published architectures at full size, without their weights: sizes, every shape along the way, and one step.

pytest -m slow tests/priors/test_full_size.py
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import full_size
import open_clip
import pipelines
import pytest
import timm
import torch
from PIL import Image
from pipelines import adapter_tensors, forget

from gif_datasets import ExpansionConfig
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.priors.weights import CLIPS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_downloads(name: str) -> None:
    """The table's gigabytes are those of the architecture's parameters; an adapter adds less than one."""
    prior = PUBLISHED[name]
    counts = {part: full_size.count(full_size.build(spec)) / 1e9 for part, spec in full_size.PARTS[name].items()}
    found = sum(count * full_size.width(name, part, prior.decoder.variant) for part, count in counts.items())
    extra = 0.8 if prior.adapter and "redux" not in counts else 0.06
    extra += 0.45 if name == "sd35-medium" else 0  # places of 384 x 384 patches, which are no parameter
    assert found - 0.06 < prior.gigabytes < found + extra
    if prior.half_gigabytes:
        assert 2 * sum(counts.values()) - 0.06 < prior.half_gigabytes < 2 * sum(counts.values()) + extra


@pytest.mark.parametrize("name", CLIPS)
def test_sizes_of_clips(name: str) -> None:
    config = open_clip.get_model_config(CLIPS[name].model)
    custom, side = config.pop("custom_text", False), config["vision_cfg"]["image_size"]
    with torch.device("meta"):
        model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
        assert model.encode_image(torch.empty(2, 3, side, side)).shape == (2, CLIPS[name].width)
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


@pytest.mark.parametrize(("name", "tokens"), [("flux1-redux", 729), ("flex1-redux", 1024)])
def test_shapes_of_redux(name: str, tokens: int) -> None:
    """From a picture to tokens, to those of a text behind 512 zeros, and through the network, on the meta device."""
    prior, parts = PUBLISHED[name], full_size.PARTS[name]
    config = open_clip.get_model_config(CLIPS[prior.clip].model)
    side = config["vision_cfg"]["image_size"]
    with torch.device("meta"):
        trunk = timm.create_model(config["vision_cfg"]["timm_model_name"], num_classes=0, global_pool="map")
        found = trunk.forward_features(torch.empty(2, 3, side, side))
        assert found.shape == (2, tokens, 1152)
        assert trunk.forward_head(found).shape == (2, CLIPS[prior.clip].width)
    texts = full_size.build(parts["redux"])(found).image_embeds
    network, inner = full_size.build(parts["transformer"]), prior.image_size // 16
    out = network(
        torch.empty(2, inner**2, 64, device="meta"), torch.cat([texts.new_empty(2, 512, 4096), texts], 1),
        torch.empty(2, 768, device="meta"), torch.empty(2, device="meta"), torch.empty(inner**2, 3, device="meta"),
        torch.empty(512 + tokens, 3, device="meta"), torch.empty(2, device="meta"),
    ).sample  # fmt: skip
    assert out.shape == (2, inner**2, 64)
    vae = full_size.build(parts["vae"])
    assert vae.decode(torch.empty(1, 16, 2 * inner, 2 * inner, device="meta")).sample.shape == (1, 3, 1024, 1024)
    assert full_size.count(network) == pytest.approx({"flux1-redux": 11.9e9, "flex1-redux": 8.16e9}[name], rel=2e-3)


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
    """Put a full-size prior of random weights into the Hub's cache: a tiny one, its weights replaced."""
    prior = PUBLISHED[name]
    pipelines.publish(prior, scratch)
    torch.manual_seed(0)
    folder = prior.decoder.bring()
    for part, spec in full_size.PARTS[name].items():
        full_size.write(spec, folder if part == "model" else folder / part, prior.decoder.variant)
    if not prior.clip:
        return
    folder = CLIPS[prior.clip].weights.bring()
    config = open_clip.get_model_config(CLIPS[prior.clip].model)
    quick = {"quick_gelu": True} if prior.clip.endswith("openai") else {}
    with torch.device("meta"):
        state = open_clip.CLIP(**config, **quick).state_dict()
    full_size.write_tensors(state, folder / pipelines.CLIP_FILE, torch.float32)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    value = {"model_cfg": config | quick, "preprocess_cfg": {"mean": mean, "std": std}}
    (folder / "open_clip_config.json").write_text(json.dumps(value))
    if prior.adapter:
        unet = full_size.build(full_size.PARTS[name]["unet"])
        with torch.device("meta"):
            state = adapter_tensors(name, unet, lambda number, *shape: torch.empty(shape))
        full_size.write_tensors(state, prior.adapter.bring(), torch.float16)


UNGUIDED = {"decode_steps": 1, "guidance_scale": 1}
HALF = {"dtype": "bfloat16"}
STEPS: dict[str, dict[str, object]] = {
    "mae-base": {},
    "mae-large": {},
    "rae-dinov2-base": {},
    "rae-mae-base": {},
    "sd15": UNGUIDED | {"decode_steps": 2, "strength": 0.5},
    "sdxl": UNGUIDED | HALF | {"decode_steps": 2, "strength": 0.5},
    "karlo": UNGUIDED | {"decode_steps": 2},  # its scheduler divides by one less
    "sd21-unclip-small": UNGUIDED,
    "sd21-unclip": UNGUIDED,
    "kandinsky22": UNGUIDED | HALF,
    "ip-adapter-sd15": UNGUIDED,
    "ip-adapter-sdxl": UNGUIDED | HALF,
    "ip-adapter-sdxl-vit-h": UNGUIDED | HALF,
}
"""Options of one step; half precision where single would take more than 14 GB. Others repeat one of these networks."""


def shapes_seen(pipeline: Any) -> dict[str, tuple[int, ...]]:
    """What the networks of a pipeline put out, filled while it runs: of the last call."""
    parts = pipeline.components
    networks = {name: parts[name] for name in ("unet", "decoder", "super_res_first", "super_res_last") if name in parts}
    networks |= {name: parts[name].decoder for name in ("vae", "movq") if name in parts}
    seen = {}

    def note(name: str, out: Any) -> None:
        value = out[0] if isinstance(out, tuple) else getattr(out, "sample", out)
        assert value.isfinite().all()
        seen[name] = tuple(value.shape)

    for name, network in networks.items():
        network.register_forward_hook(lambda _, given, out, name=name: note(name, out))
    return seen


def shapes_expected(name: str) -> dict[str, tuple[int, ...]]:
    side = PUBLISHED[name].image_size
    if name == "karlo":
        return {"decoder": (1, 6, 64, 64)} | dict.fromkeys(("super_res_first", "super_res_last"), (1, 3, side, side))
    inner = side // 8
    if name == "kandinsky22":
        return {"unet": (1, 8, inner, inner), "movq": (1, 3, side, side)}
    return {"unet": (1, 4, inner, inner), "vae": (1, 3, side, side)}


@pytest.mark.parametrize("name", STEPS)
def test_one_step_at_full_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the loader, from a picture to a picture, in random weights; memory and time are told (-s)."""
    prior = PUBLISHED[name]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = ExpansionConfig(**{"method": prior.family, "ratio": 1, "decode_batch": 1} | STEPS[name])
    try:
        publish(name, tmp_path)
        started = time.monotonic()
        loaded = load_prior(find_prior(name), prior.family, torch.device("cpu"), config)
        after_load, used = time.monotonic(), time.process_time()
        seen = shapes_seen(loaded.pipeline) if prior.samples else {}
        if name == "karlo":  # of its seven steps of enlarging, one of each network
            kind = type(loaded.pipeline)
            call = functools.partialmethod(kind.__call__, super_res_num_inference_steps=2)
            monkeypatch.setattr(kind, "__call__", call)
        image = Image.new("RGB", (300, 200), "orange")
        latents = loaded.encode([image])
        moved = loaded.start([image], latents, ["bee"], ["key"], config)[:, 0]
        width = CLIPS[prior.clip].width if prior.clip else latents.shape[1]
        assert loaded.embed_images([image]).shape == (1, width)
        pictures = loaded.decode(moved, [generator_for(0, "a", "decode", 1)], config)
    finally:
        for weights in prior.sources:
            forget(weights)
    assert seen == (shapes_expected(name) if prior.samples else {})
    assert pictures.shape == (1, 3, prior.image_size, prior.image_size)
    assert 0 <= pictures.min() < pictures.max() <= 1
    assert moved.shape[1:] == latents.shape[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    took, used = time.monotonic() - after_load, time.process_time() - used
    told = f"peak {peak:.1f} GB, load {after_load - started:.0f} s, step {took:.0f} s ({used:.0f} s of a core)"
    with capsys.disabled():
        sys.stdout.write(f"\n{name}: {told}\n")
