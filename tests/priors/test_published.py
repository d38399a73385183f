"""Published priors: their architectures, tiny and without their weights, go through the loader that real ones do."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import re
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import full_size
import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import transformers
from diffusers.loaders import IPAdapterMixin
from helpers import install
from hub_server import HubServer
from PIL import Image
from pipelines import (
    ADAPTED,
    WIDTH,
    adapted_layers,
    adapter_tensors,
    clip_config,
    draws_alike,
    forget,
    image_encoder,
    masked,
    published_here,
    side_of,
    siglip_encoder,
    tiny_clip,
    write_clip,
)
from safetensors.torch import load_file, save_file

from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig, MissingExtra, PriorError
from gif_datasets.cli import main
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import diffusers_folder, embedded_folder, find_prior, load_prior, mae, mae_checkpoints
from gif_datasets.priors.diffusers_folder import SCHEDULERS, denoiser
from gif_datasets.priors.parts import Parts
from gif_datasets.priors.published import PUBLISHED, REDUX, Published
from gif_datasets.priors.weights import CLIPS, Weights

CPU = torch.device("cpu")
UNCLIP, SD, MAE = (
    [name for name, prior in PUBLISHED.items() if prior.family == family and prior.pipeline != REDUX]
    for family in ("unclip", "sd", "mae")
)
PLAIN = [name for name in CLIPS if "SigLIP" not in name]
QUICK = {"decode_steps": 2, "decode_batch": 4, "encode_batch": 4, "criteria": ("consistency",)}


@pytest.fixture
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with published_here(request.param, tmp_path, monkeypatch) as name:
        yield name


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
    assert expanded[12][0].size == (side_of(published),) * 2
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
        assert mae_checkpoints.from_transformers(tensors).keys() == ours.state_dict().keys()


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


def original_names(width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model of the original code with patches of 16 pixels (models_mae.py)."""
    names: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 197, width), "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, 197, 512), "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
        "decoder_embed.weight": (512, width), "decoder_embed.bias": (512,), "decoder_norm.weight": (512,),
        "decoder_norm.bias": (512,), "decoder_pred.weight": (768, 512), "decoder_pred.bias": (768,),
    }  # fmt: skip
    for part, inner, blocks in (("blocks", width, depth), ("decoder_blocks", 512, 8)):
        for number in range(blocks):
            for name, shape in (
                ("norm1", (inner,)), ("attn.qkv", (3 * inner, inner)), ("attn.proj", (inner, inner)),
                ("norm2", (inner,)), ("mlp.fc1", (4 * inner, inner)), ("mlp.fc2", (inner, 4 * inner)),
            ):  # fmt: skip
                names[f"{part}.{number}.{name}.weight"] = shape
                names[f"{part}.{number}.{name}.bias"] = shape[:1]
    return names


def published_names(original: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same as transformers' conversion wrote them into what is on the Hub (convert_vit_mae_to_pytorch.py)."""
    renamed = {
        "decoder_blocks.": "decoder.decoder_layers.", "blocks.": "vit.encoder.layer.",
        "attn.proj": "attention.output.dense", "attn.": "attention.attention.", "norm1": "layernorm_before",
        "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    outer = {"cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings"}
    outer |= {f"patch_embed.proj.{kind}": f"vit.embeddings.patch_embeddings.projection.{kind}" for kind in KINDS}
    outer |= {f"norm.{kind}": f"vit.layernorm.{kind}" for kind in KINDS}
    names = {}
    for name, shape in original.items():
        if "blocks." not in name:
            names[outer.get(name, f"decoder.{name}")] = shape
            continue
        for old, new in renamed.items():
            name = name.replace(old, new) if new not in name else name
        thirds = [name.replace("qkv", part) for part in ("query", "key", "value")] if "qkv" in name else [name]
        names |= dict.fromkeys(thirds, (shape[0] // len(thirds), *shape[1:]))
    return names


KINDS = ("weight", "bias")
SIZES = {"mae-base": (768, 12, 12), "mae-large": (1024, 24, 16)}
"""Width, depth and attention heads of ViT-B/16 and ViT-L/16."""


@pytest.mark.parametrize("name", SIZES)
def test_original_names_are_ours(name: str) -> None:
    """A published checkpoint's names and shapes, as the original code's model has them, fit as they are."""
    width, depth, heads = SIZES[name]
    names = original_names(width, depth)
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in names.items()}
        found = mae_checkpoints.original_config(tensors, normalised_pixels=False)
        model = mae.MaskedAutoencoder(mae.MaeConfig(**found))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == names
    assert (found["image_size"], found["heads"], found["decoder_depth"]) == (224, heads, 8)
    with pytest.raises(KeyError, match="mask_token"):  # mae_pretrain_vit_*.pth have no decoder
        mae_checkpoints.original_config({name: value for name, value in tensors.items() if "mask" not in name}, False)


@pytest.mark.parametrize("name", SIZES)
def test_names_on_the_hub_become_the_original_ones(name: str) -> None:
    """Names and shapes of facebook/vit-mae-base and -large, and their count, as transformers' conversion has them."""
    width, depth, heads = SIZES[name]
    names = original_names(width, depth)
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in published_names(names).items()}
        ours = {name: tuple(value.shape) for name, value in mae_checkpoints.from_transformers(tensors).items()}
    assert len(tensors) == 14 + 16 * (depth + 8)
    assert {"vit.encoder.layer.0.attention.attention.query.weight", "decoder.decoder_pos_embed"} <= tensors.keys()
    assert ours == names
    config = transformers.ViTMAEConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width
    )
    found = mae_checkpoints.transformers_config(config.to_dict())
    with torch.device("meta"):
        model = mae.MaskedAutoencoder(mae.MaeConfig(**found))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == names


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_s_numbers_are_the_layers_that_its_author_lists(name: str, tmp_path: Path) -> None:
    """All blocks of the published U-Net, narrow, through the loader: each takes the tensors of its own number."""
    kind, published = full_size.PARTS[name]["unet"]
    heads = [1] * len(published.get("block_out_channels", range(4)))
    narrow = {"block_out_channels": [8 * number for number in range(1, len(heads) + 1)], "norm_num_groups": 8}
    unet = kind(**published | narrow | {"attention_head_dim": heads, "cross_attention_dim": 16})
    tensors = adapter_tensors(name, unet, lambda number, *shape: torch.full(shape, float(number)))
    save_file(tensors, tmp_path / "adapter.safetensors")
    pipeline = Adapted(unet)
    diffusers_folder._load_adapter(pipeline, Parts(tmp_path, tmp_path, 16, tmp_path / "adapter.safetensors"))
    found = {
        place.removesuffix(".processor"): {float(weights.mean()) for weights in taken.state_dict().values()}
        for place, taken in unet.attn_processors.items()
        if place.endswith("attn2.processor")
    }
    assert found == {layer: {number} for number, layer in adapted_layers(name).items()}


class Adapted(IPAdapterMixin):
    """As much of a pipeline as an adapter is loaded into."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_s_shapes_fit_the_published_network(name: str) -> None:
    """At full size, on the meta device: widths of the CLIP, of the text's tokens and of each block."""
    unet: Any = full_size.build(full_size.PARTS[name]["unet"])
    with torch.device("meta"):
        tensors = adapter_tensors(name, unet, lambda number, *shape: torch.empty(shape))
        state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            state[part][rest] = value
        Adapted(unet).load_ip_adapter(state, "", "", image_encoder_folder=None, low_cpu_mem_usage=False)
        shown = unet.encoder_hid_proj([torch.empty(3, 1, CLIPS[PUBLISHED[name].clip].width)])
    stated = {"ip-adapter-sd15": (768, 1024, 16), "ip-adapter-sdxl": (2048, 1280, 70)}
    stated |= {"ip-adapter-sdxl-vit-h": (2048, 1024, 70)}
    cross, width, layers = stated[name]
    assert tensors["image_proj.proj.weight"].shape == (4 * cross, width)
    assert len(tensors) == 4 + 2 * layers
    assert shown[0].shape == (3, 1, 4, cross)
    parameters = sum(value.numel() for value in tensors.values())  # 22M, as its author says; 0.7 GB in half precision
    assert parameters == pytest.approx(22e6 if name == "ip-adapter-sd15" else 350e6, rel=0.02)


# --- from the Hub --------------------------------------------------------------------------------------------------


def upload(hub: HubServer, weights: Weights, folder: Path, commit: str = "") -> None:
    """Put a folder on the Hub of these tests, at the commit that is pinned."""
    hub.create(weights.repository)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        hub.write(weights.repository, path.relative_to(folder).as_posix(), path.read_bytes())
    branch = hub.repositories[weights.repository].branches["main"]
    branch[-1] = dataclasses.replace(branch[-1], oid=commit or branch[-1].oid)


@pytest.fixture
def masked_on_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    """A tiny masked autoencoder and its CLIP on the Hub, with files that nobody needs; nothing of it is here.

    Each test pins another commit: the Hub's client remembers what a commit holds.
    """
    monkeypatch.setitem(PUBLISHED, "mae-base", PUBLISHED["mae-base"].at(hub.new_oid()))
    prior = PUBLISHED["mae-base"]
    decoder, clip = prior.sources
    masked().save_pretrained(tmp_path / "mae")
    (tmp_path / "mae" / "pytorch_model.bin").write_bytes(b"a pickle")
    (tmp_path / "mae" / "preprocessor_config.json").write_text("{}")
    upload(hub, decoder, tmp_path / "mae", decoder.revision)
    (tmp_path / "clip").mkdir()
    write_clip(prior.clip)(tmp_path / "clip")
    upload(hub, clip, tmp_path / "clip", clip.revision)
    yield prior
    for weights in prior.sources:
        forget(weights)


def test_a_prior_is_fetched_once_and_only_what_is_needed(hub: HubServer, masked_on_hub: Published) -> None:
    """Its pinned commit is asked for; pickles stay there; a second load asks nothing, with or without a network."""
    info = find_prior("mae-base")
    assert not hub.log  # it is pinned: a plan asks nothing
    assert not masked_on_hub.here
    load_prior(info, "mae", CPU)
    assert masked_on_hub.here
    decoder = masked_on_hub.decoder
    theirs = huggingface_hub.snapshot_download(
        decoder.repository, revision=decoder.revision, allow_patterns=list(decoder.files), local_files_only=True
    )
    assert decoder.bring() == Path(theirs)
    assert not hub.requests("GET", r"pytorch_model\.bin|preprocessor_config")
    assert hub.requests("GET", f"resolve/{masked_on_hub.decoder.revision}/model.safetensors")
    hub.log.clear()
    load_prior(info, "mae", CPU)
    assert not hub.log


def test_a_revision_by_name_is_settled_in_the_plan(hub: HubServer, masked_on_hub: Published) -> None:
    """NAME@BRANCH stands for the commit that it points to, and another commit is another prior."""
    first = find_prior("mae-base@main")
    assert first.published is not None
    assert first.published.decoder.revision == masked_on_hub.decoder.revision
    assert first.digest == find_prior("mae-base").digest
    hub.write(masked_on_hub.decoder.repository, "config.json", b"{}")
    assert find_prior("mae-base@main").digest != first.digest


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("offline", "hf download facebook/vit-mae-base --revision"),
        ("gated", "accept its terms at https://huggingface.co/facebook/vit-mae-base, then run: hf auth login"),
        ("absent", "the Hub does not give model facebook/vit-mae-base"),
        ("pickles", "has no model.safetensors"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    case: str,
    words: str,
    hub: HubServer,
    masked_on_hub: Published,
    seed_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command line says in one line what is wrong and which command mends it, and exits with 2."""
    name = masked_on_hub.decoder.repository
    if case == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif case == "gated":
        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}
        hub.fail("GET", f"api/models/{name}", status=403, headers=headers, times=-1)
    elif case == "absent":
        del hub.repositories[name]
    else:
        del hub.repositories[name].branches["main"][-1].files["model.safetensors"]
    out = str(tmp_path / "out")
    code = main(["expand", str(seed_folder), "--out", out, "--method", "mae", "--prior", "mae-base", "--ratio", "1"])
    told = capsys.readouterr().err.strip()
    assert words in told
    assert (code, told.count("\n")) == (2, 0)


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", ["ip-adapter-sd15"], indirect=True)
def test_options_of_a_pipeline(published: str) -> None:
    """Scheduler, slicing, tiling and precision reach the pipeline; what does not fit is named."""
    info = find_prior(published)
    config = ExpansionConfig(scheduler="dpm++", save_memory=["vae-slicing", "vae-tiling"], dtype="bfloat16", **QUICK)
    prior = load_prior(info, "unclip", CPU, config)
    pipeline = prior.pipeline
    assert type(pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert (pipeline.vae.use_slicing, pipeline.vae.use_tiling, pipeline.unet.dtype) == (True, True, torch.bfloat16)
    pictures = prior.decode(prior.encode([Image.new("RGB", (8, 8), "red")] * 2), generators(2), config)
    assert pictures.dtype == torch.float32


COLOURS = ("red", "blue", "green")


def drawn(published: str, **options: object) -> torch.Tensor:
    """Three pictures that a prior draws: of a latent, or by img2img from the first to the last step."""
    family = PUBLISHED[published].family
    config = ExpansionConfig(**{"method": family, **QUICK, **options})
    prior, seeds = (
        load_prior(find_prior(published), family, CPU, config),
        [Image.new("RGB", (32, 32), c) for c in COLOURS],
    )
    latents = prior.encode(seeds)
    if family == "sd":
        config = dataclasses.replace(config, ratio=1, strength=1.0)
        latents = prior.start(seeds, latents, COLOURS, COLOURS, config)[:, 0]
    pictures = prior.decode(latents, generators(3), config)
    assert pictures.shape == (3, 3, 16, 16)
    assert pictures.isfinite().all()
    return pictures


@pytest.mark.parametrize("published", ["ip-adapter-sd15", "kandinsky22", "sd15"], indirect=True)
def test_every_scheduler_draws_its_own_pictures(published: str) -> None:
    """Each decodes what the network predicts, a learned variance beside it or not; no two draw the same.

    Kandinsky's pipeline does not scale its network's input, as Euler's schedulers ask for.
    """
    unfit = {"lcm", "euler", "euler-a"} if published == "kandinsky22" else {"lcm"}
    pictures = {name: drawn(published, scheduler=name, decode_steps=4) for name in SCHEDULERS if name not in unfit}
    for one, other in itertools.combinations(pictures, 2):
        assert (pictures[one] - pictures[other]).abs().max() > 1e-4, (one, other)


@pytest.mark.parametrize("published", ["lcm-dreamshaper"], indirect=True)
def test_a_latent_consistency_pipeline_takes_its_scheduler_alone(published: str) -> None:
    """By name it is the folder's own; another does not know what such a network was trained for, and is refused."""
    assert torch.equal(drawn(published, scheduler="lcm"), drawn(published))


@pytest.mark.parametrize("published", ["karlo", "sd21-unclip", "kandinsky22", "sd15"], indirect=True)
def test_attention_in_slices_draws_the_same(published: str) -> None:
    options = {"save_memory": ["attention-slicing"]}
    config = ExpansionConfig(method=PUBLISHED[published].family, **options, **QUICK)
    network = denoiser(load_prior(find_prior(published), PUBLISHED[published].family, CPU, config).pipeline)
    assert any("Sliced" in type(processor).__name__ for processor in network.attn_processors.values())
    torch.testing.assert_close(drawn(published, **options), drawn(published), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("published", ["sd21-unclip", "kandinsky22", "ip-adapter-sd15", "sd15", "sdxl"], indirect=True)
def test_half_precision_on_a_cpu(published: str) -> None:
    """It is slow there and draws the same, but for rounding, where torch draws the same noise."""
    apart = (drawn(published, dtype="float16") - drawn(published)).abs().mean()
    assert apart < 0.02 if draws_alike(torch.float16) else 0 < apart < 1


@pytest.mark.parametrize("published", ["sd15"], indirect=True)
@pytest.mark.parametrize("way", ["vae-slicing", "vae-tiling"])
def test_an_autoencoder_works_on_a_part_at_a_time(published: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one picture, or on one tile of all; guidance differentiates through either."""
    monkeypatch.setitem(PUBLISHED, published, dataclasses.replace(PUBLISHED[published], image_size=32))
    config = ExpansionConfig(method="gif-sd", save_memory=[way], **QUICK)
    saving, usual = (
        load_prior(find_prior(published), "sd", CPU, c) for c in (config, ExpansionConfig(method="gif-sd"))
    )
    shapes: list[tuple[int, ...]] = []
    saving.pipeline.vae.decoder.register_forward_hook(lambda part, given, out: shapes.append(tuple(out.shape)))
    latents = usual.encode([Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").convert("RGB")])
    pictures = saving.decode(latents, generators(2), config)
    assert len(shapes) > 1
    assert {out[0] for out in shapes} == ({1} if way == "vae-slicing" else {2})
    assert (pictures - usual.decode(latents, generators(2), config)).abs().mean() < (1e-5 if "slicing" in way else 0.2)
    given = latents.requires_grad_()
    (gradient,) = torch.autograd.grad(saving.embed(given).square().sum(), given)
    assert gradient.isfinite().all()
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


REFUSED = [
    ("ip-adapter-sd15", "cpu", {"save_memory": "offload"}, "'offload' needs a GPU, .* drop it"),
    ("sd15", "cpu", {"save_memory": "offload"}, "'offload' needs a GPU, .* drop it"),
    (
        "ip-adapter-sd15",
        "cpu",
        {"save_memory": "attention-slicing"},
        "'attention-slicing'.*IP-Adapter.*'sdpa', the def",
    ),
    ("kandinsky22", "cpu", {"save_memory": "vae-tiling"}, "autoencoder of a KandinskyV22Pipeline cannot slice or tile"),
    ("karlo", "cpu", {"save_memory": "vae-slicing"}, "autoencoder of a UnCLIPImage.* cannot slice or tile"),
    ("kandinsky22", "cpu", {"attention": "xformers"}, "needs a CUDA device, and this is 'cpu'; take 'sdpa'"),
    ("karlo", "cpu", {"dtype": "float16"}, "cannot enlarge half-precision images on a CPU; take 'float32'"),
    ("karlo", "cpu", {"dtype": "bfloat16"}, "cannot enlarge half-precision images on a CPU; take 'float32'"),
    ("karlo", "cpu", {"scheduler": "ddim"}, "scheduler 'ddim' does not fit a UnCLIPImageVariationPipeline; take 'own'"),
    ("lcm-dreamshaper", "cpu", {"scheduler": "ddim"}, "scheduler 'ddim' does not fit a LatentConsistency"),
    ("kandinsky22", "cpu", {"scheduler": "euler"}, "scheduler 'euler' does not fit a KandinskyV22Pipeline; take 'own'"),
    ("sdxl", "cpu", {"scheduler": "lcm"}, "scheduler 'lcm' does not fit a StableDiffusionXLImg2ImgPipeline"),
    ("ip-adapter-sdxl", "cpu", {"noise_level": 5}, "noise_level is for Stable unCLIP"),
    ("z-image-turbo", "cpu", {"scheduler": "euler"}, "scheduler 'euler' does not fit a ZImageImg2ImgPipeline; take"),
    ("sana-sprint", "cpu", {"scheduler": "ddim"}, "scheduler 'ddim' does not fit a SanaSprintImg2ImgPipeline; take"),
    ("kandinsky22", "cuda", {"attention": "xformers"}, "pip install xformers"),
    ("kandinsky22", "cuda", {"save_memory": "offload"}, "pip install accelerate"),
]


@pytest.mark.parametrize(("name", "device", "options", "words"), REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_fetched(
    name: str,
    device: str,
    options: dict[str, object],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of the prior is here, nor is the Hub; of a folder nothing but the class is readable."""
    package = words.removeprefix("pip install ")
    if package != words and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    prior = PUBLISHED[name].at("0" * 40)
    config = ExpansionConfig(**{"method": prior.family, **options, **QUICK})
    with pytest.raises(MissingExtra if package != words else ConfigError, match=words):
        load_prior(find_prior(f"{name}@{prior.decoder.revision}"), prior.family, torch.device(device), config)
    card = {"format": 2, "name": "mine", "clip": "clip", "decoders": {prior.family: "."}, "image_size": 16}
    adapter = {"adapter": "adapter.safetensors"} if prior.adapter else {}
    (tmp_path / "prior.json").write_text(json.dumps(card | adapter))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": prior.pipeline}))
    with pytest.raises(MissingExtra if package != words else ConfigError, match=words):
        load_prior(find_prior(str(tmp_path)), prior.family, torch.device(device), config)


@pytest.mark.parametrize("way", ["offload", "attention-slicing"])
def test_a_refused_option_is_one_line_at_the_command_line(
    way: str, seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a file of the prior, and without a Hub to fetch it from."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    flags = ["--prior", "ip-adapter-sd15", "--ratio", "1", "--workers", "1", "--device", "cpu"]
    flags += ["--method", "unclip", "--set", f"save_memory={way}"]
    assert main(["expand", str(seed_folder), "--out", str(tmp_path / "out"), *flags]) == 2
    told = capsys.readouterr().err.strip()
    assert f"save_memory: '{way}'" in told
    assert "\n" not in told


@pytest.mark.parametrize("published", ["kandinsky22"], indirect=True)
def test_xformers_that_does_not_work_is_named(published: str) -> None:
    """diffusers tells that the package is absent, or what it needs and does not find."""
    if torch.cuda.is_available() and importlib.util.find_spec("xformers"):
        pytest.skip("xformers works here")
    pipeline = load_prior(find_prior(published), "unclip", CPU).pipeline
    with pytest.raises(ConfigError, match=r"attention='xformers' does not work here \(.*; take 'sdpa'"):
        diffusers_folder._set_attention(pipeline, "xformers")


@pytest.mark.parametrize("published", ["kandinsky22"], indirect=True)
def test_without_a_compiler_compile_is_refused(published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what was compiled before needs no compiler
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "/no/compiler")}):
        with pytest.raises(ConfigError, match=r"compile=True: torch cannot compile here .*drop it"):
            load_prior(find_prior(published), "unclip", CPU, ExpansionConfig(compile=True, **QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("published", ["kandinsky22"], indirect=True)
def test_a_compiled_network_draws_the_same(published: str) -> None:
    """The compiler takes a minute on a busy machine, even for a tiny network."""
    torch.testing.assert_close(drawn(published, compile=True), drawn(published), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("published", ["sd21-unclip"], indirect=True)
def test_the_noise_level_of_stable_unclip(published: str) -> None:
    """More noise on the embedding, which the normaliser brings to its scale, changes the picture."""
    prior = load_prior(find_prior(published), "unclip", CPU)
    latents = prior.encode([Image.new("RGB", (8, 8), "red")])
    clear, noisy = (
        prior.decode(latents, generators(1), ExpansionConfig(noise_level=level, **QUICK)) for level in (0, 800)
    )
    assert (clear - noisy).abs().max() > 1e-3


# --- the CLIP ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPS)
def test_a_pipeline_s_image_encoder_is_open_clip_s(name: str) -> None:
    """transformers' vision tower, with open_clip's tensors under its names, gives equal embeddings."""
    quick = clip_config(name).get("quick_gelu", False)
    assert quick == (open_clip.get_pretrained_cfg(*name.split("/")).get("quick_gelu", False))
    torch.manual_seed(0)
    ours, pixels = tiny_clip(name), torch.randn(2, 3, 32, 32)
    if name not in PLAIN:
        with torch.no_grad():
            expected = siglip_encoder(ours)(pixels).pooler_output
            torch.testing.assert_close(ours.encode_image(pixels), expected, rtol=1e-4, atol=1e-4)
        return
    theirs = image_encoder(name, ours)
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels).image_embeds, ours.encode_image(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("published", ["karlo", "sd21-unclip"], indirect=True)
def test_a_picture_reaches_the_clip_as_it_reaches_a_pipeline_s_image_encoder(published: str) -> None:
    """Resized, cropped and normalised alike, but for the rounding of two levels of 255."""
    extractor = transformers.CLIPImageProcessor.from_pretrained(
        PUBLISHED[published].decoder.bring() / "feature_extractor"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((96, 72), Image.Resampling.BILINEAR)
    theirs = extractor([picture], return_tensors="pt").pixel_values[0]
    ours = load_prior(find_prior(published), "unclip", CPU).clip.preprocess(picture)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2 / 255 / min(open_clip.OPENAI_DATASET_STD))


def test_published_clips_see_pictures_as_transformers_does_by_default() -> None:
    """Size, mean and spread of open_clip's checkpoints are those that a pipeline's feature extractor has."""
    theirs, squashing = transformers.CLIPImageProcessor(), transformers.SiglipImageProcessor()
    for name in CLIPS.keys() - set(PLAIN):
        cfg = open_clip.get_pretrained_cfg(*name.split("/"))
        assert (list(cfg["mean"]), list(cfg["std"])) == (list(squashing.image_mean), list(squashing.image_std))
        assert (cfg["interpolation"], squashing.resample) == ("bicubic", Image.Resampling.BICUBIC)
        assert cfg["resize_mode"] == "squash"
    for name in PLAIN:
        model, pretrained = name.split("/")
        cfg, size = open_clip.get_pretrained_cfg(model, pretrained), open_clip.get_model_config(model)["vision_cfg"]
        assert {size["image_size"]} == {
            theirs.size["shortest_edge"],
            theirs.crop_size["height"],
            theirs.crop_size["width"],
        }
        assert (tuple(cfg["mean"]), tuple(cfg["std"])) == (tuple(theirs.image_mean), tuple(theirs.image_std))
        assert (cfg["interpolation"], theirs.resample) == ("bicubic", Image.Resampling.BICUBIC)


# --- the script for true weights -----------------------------------------------------------------------------------


@pytest.fixture
def check() -> dict[str, Any]:
    """What tests/weights/check.py defines."""
    return runpy.run_path(str(Path(__file__).parents[1] / "weights" / "check.py"))


@pytest.mark.parametrize("published", ["sd21-unclip"], indirect=True)
def test_the_check_of_weights_runs(
    published: str,
    check: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An image encoder of the CLIP's weights passes, another fails, and a missing one is told."""
    prior = load_prior(find_prior(published), "unclip", CPU)
    encoder = PUBLISHED[published].decoder.bring() / "image_encoder"
    picture, name = Image.linear_gradient("L").convert("RGB"), PUBLISHED[published].clip
    (other,) = check["encoder"](published, prior, [picture])
    image_encoder(name, prior.clip.model).save_pretrained(encoder)
    for label in ("n01440764", "n01443537"):
        (tmp_path / "imagenet" / label).mkdir(parents=True)
        picture.save(tmp_path / "imagenet" / label / "1.png")
    monkeypatch.setattr(open_clip, "IMAGENET_CLASSNAMES", open_clip.IMAGENET_CLASSNAMES[:2])
    monkeypatch.setattr(open_clip, "OPENAI_IMAGENET_TEMPLATES", open_clip.OPENAI_IMAGENET_TEMPLATES[:2])
    assert not check["check"](published, CPU, "float32", tmp_path / "imagenet")  # tiny weights recognise nothing
    lines = capsys.readouterr().out.splitlines()
    assert check["told"](other).endswith("FAILED")
    told = ("demo, %: ", "own latent, %: ", "image encoder: ", "ImageNet (2 pictures), %: ")
    assert all(what in line for what, line in zip(told, lines, strict=True))
    assert re.search(r"image encoder: (1\.000|0\.999), .*: ok$", lines[2])
    assert lines[3].endswith("50.000, expected at least 77.0: FAILED")
    (encoder / "model.safetensors").unlink()
    (missing,) = check["encoder"](published, prior, [picture])
    assert re.match(r"not checked: .* \(no image_encoder/model\.safetensors in ", check["told"](missing))


@pytest.mark.parametrize("published", ["mae-base", "sd15", "rae-mae-base"], indirect=True)
def test_the_check_of_weights_rebuilds_pictures(
    published: str, check: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    check["check"](published, CPU, "float32", None)
    _, rebuilt = capsys.readouterr().out.splitlines()
    assert re.match(rf"{published}: rebuilt pictures, dB: \d+\.\d{{3}}, expected at least 20\.0: ", rebuilt)


@pytest.mark.parametrize(
    "published", ["ip-adapter-sd15", "flex1-redux", "mae-base", "sd15", "rae-mae-base"], indirect=True
)
def test_the_check_of_weights_times_a_prior(published: str, check: dict[str, Any], tmp_path: Path) -> None:
    """A block to paste, and seeds above their copies."""
    lines = check["timed"](published, CPU, "float32", tmp_path / "sheet.png").splitlines()
    told = ("prior: ", "where: ", "fetch and load: ", "a block against", "images a second", "peak memory: ")
    assert all(line.startswith(what) for line, what in zip(lines, told, strict=True))
    assert lines[3].endswith("ok")
    assert Image.open(tmp_path / "sheet.png").size == (8 * 16, 2 * 16)


@pytest.mark.parametrize("name", CLIPS)
def test_the_table_of_clips_is_open_clip_s(name: str) -> None:
    """Widths and repositories are those that open_clip itself names."""
    clip = CLIPS[name]
    assert clip.width == open_clip.get_model_config(clip.model)["embed_dim"]
    assert open_clip.get_pretrained_cfg(clip.model, clip.pretrained)["hf_hub"] == f"{clip.weights.repository}/"


# --- of the user's own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", ["ip-adapter-sd15"], indirect=True)
def test_a_diffusers_folder_with_an_adapter_and_a_published_clip(published: str, tmp_path: Path) -> None:
    """prior.json inside a community checkpoint's folder, with an IP-Adapter beside, makes it a prior."""
    decoder, _, adapter = (weights.bring() for weights in PUBLISHED[published].sources)
    shutil.copytree(decoder, tmp_path / "mine")
    shutil.copy(adapter, tmp_path / "mine" / "adapter.safetensors")
    card = {"format": 2, "name": "mine", "clip": PUBLISHED[published].clip, "decoders": {"unclip": ".", "sd": "."}}
    card |= {"image_size": 16, "adapter": "adapter.safetensors"}
    (tmp_path / "mine" / "prior.json").write_text(json.dumps(card))
    info = find_prior(str(tmp_path / "mine"))
    for family in ("unclip", "sd"):
        load_prior(info, family, CPU)
    (tmp_path / "mine" / "prior.json").write_text(json.dumps(card | {"null_latent": "noise"}))
    with pytest.raises(PriorError, match="null_latent"):
        find_prior(str(tmp_path / "mine"))


@pytest.mark.parametrize("published", ["sd15"], indirect=True)
def test_a_text_encoder_that_nobody_has_is_named(published: str, tmp_path: Path) -> None:
    """A CLIP's own text tower stands in where it is of transformers, not where it is of open_clip."""
    shutil.copytree(PUBLISHED[published].decoder.bring(), tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine" / "text_encoder")
    card = {"format": 2, "name": "mine", "clip": PUBLISHED[published].clip, "decoders": {"sd": "."}, "image_size": 16}
    (tmp_path / "mine" / "prior.json").write_text(json.dumps(card))
    with pytest.raises(PriorError, match=r"contains no text_encoder, and .* is not a transformers model"):
        load_prior(find_prior(str(tmp_path / "mine")), "sd", CPU)


def test_an_entry_point_is_a_prior(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that a package registers is found by its name, and made where it is used."""
    install(tmp_path / "site", "mine", "[gif_datasets.priors]\nmine = registered_prior:Mine\n")
    (tmp_path / "site" / "registered_prior.py").write_text(
        "from gif_datasets.priors.linear import LinearPrior\nclass Mine(LinearPrior):\n    key = 'mine 1'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    expanded = ExpandedDataset(str(seed_folder), prior="mine", ratio=1, cache_dir=tmp_path / "c")
    assert expanded.provenance(12).prior == "mine"
    assert type(expanded.imaginer._load().maker.prior).__name__ == "Mine"


def test_an_original_checkpoint_becomes_a_prior(tmp_path: Path) -> None:
    """recipes/priors/convert_mae.py reads what the original code saves, and the folder loads."""
    recipe = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "priors" / "convert_mae.py"))
    torch.manual_seed(0)
    model = mae.MaskedAutoencoder(mae.MaeConfig(32, 16, 768, 1, 12, 512, 1, 16))
    torch.save({"model": model.state_dict()}, tmp_path / "mae_visualize_vit_base.pth")
    recipe["convert"](tmp_path / "mae_visualize_vit_base.pth", tmp_path / "mine", "ViT-B-32/openai")
    assert find_prior(str(tmp_path / "mine")).families == ("mae",)
    pixels = torch.rand(1, 3, 32, 32)
    again = mae.load(tmp_path / "mine" / "mae")
    with torch.no_grad():
        torch.testing.assert_close(again.decode(again.encode(pixels)), model.eval().decode(model.encode(pixels)))


# --- what is told --------------------------------------------------------------------------------------------------


def test_the_command_line_and_the_page_tell_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """`priors --json` has every entry, and docs/priors.md has exactly those rows."""
    assert main(["priors", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["published"]
    assert [prior["name"] for prior in told] == list(PUBLISHED)
    assert {"repository", "revision", "license", "latent", "clip", "image_size", "download_gb", "here"} <= told[
        0
    ].keys()
    assert main(["priors"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in PUBLISHED)
    page = (Path(__file__).parents[2] / "docs" / "priors.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 11]
    assert rows == [prior.row() for prior in PUBLISHED.values()]


def test_what_is_not_pinned_says_why() -> None:
    for prior in PUBLISHED.values():
        assert prior.note or all(weights.pinned for weights in prior.sources)
