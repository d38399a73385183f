"""Representation autoencoders: diffusers' own path, Algorithm 2 over tokens, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from diffusers import AutoencoderRAE
from PIL import Image
from pipelines import RAE, published_here, represented
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision.transforms.functional import to_tensor

from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig, PriorError
from gif_datasets.cli import main
from gif_datasets.comparison.teacher import Teaching
from gif_datasets.expansion.recipe import make_recipe
from gif_datasets.guidance import fitted_heads
from gif_datasets.guidance.guide import guide
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import embedded_folder, find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.priors.rae import load

CPU = torch.device("cpu")
NAMES = ["ant", "bee", "crab"]
QUICK = {"ratio": 2, "encode_batch": 4, "decode_batch": 4, "score_batch": 4, "steps": 3}
BASE = "rae-dinov2-base"


@pytest.fixture(params=RAE)
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with published_here(request.param, tmp_path, monkeypatch) as name:
        yield name


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with published_here(BASE, tmp_path, monkeypatch) as name:
        yield name


@pytest.fixture
def images() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    return [Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC) for small in noise]


def test_tokens_and_images_are_diffusers_own(published: str, images: list[Image.Image]) -> None:
    """https://huggingface.co/docs/diffusers/api/models/autoencoder_rae: encode(x), decode(latents)."""
    prior = load_prior(find_prior(published), "rae", CPU)
    theirs = AutoencoderRAE.from_pretrained(PUBLISHED[published].decoder.bring()).eval()
    side = theirs.config.encoder_input_size
    ours = prior.encode(images)
    draws = [generator_for(0, str(number), "decode", 1) for number in range(len(images))]
    decoded = prior.decode(ours, draws, ExpansionConfig(method="rae"))
    for row, image in enumerate(images):
        x = to_tensor(image.convert("RGB").resize((side, side))).unsqueeze(0)
        with torch.no_grad():
            latents = theirs.encode(x).latent
            rebuilt = theirs.decode(latents).sample
        torch.testing.assert_close(ours[row : row + 1], latents, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decoded[row], rebuilt[0].clamp(0, 1), rtol=1e-4, atol=1e-4)
        mean = latents.flatten(2).mean(2)
        torch.testing.assert_close(prior.embed_images([image]), mean, rtol=1e-4, atol=1e-4)
    assert ours.shape[1:] == (64, 4, 4)
    assert decoded.shape[1:] == (3, 16, 16)


def test_guidance_is_the_literal_algorithm_over_tokens(base: str, images: list[Image.Image]) -> None:
    """One draw a channel, in the ball, scored by class means of the tokens' means: no decoder and no text."""
    prior, labels = load_prior(find_prior(base), "rae", CPU), torch.tensor([0, 0, 1, 1, 2, 2])
    config = ExpansionConfig(method="gif-rae", ratio=2, steps=4, entropy_weight=1.0, step_size=0.1)
    latents, rows = prior.encode(images), prior.embed_images(images)
    head = fitted_heads.fit(config.classifier, prior.classifier(NAMES, config), rows, labels)
    guided = guide(
        latents, labels, list("abcdef"), head, config, embed=prior.embed, channel_axis=prior.channel_axis,
        seed_scores=head.scores(rows),
    )  # fmt: skip
    zero_shot = partial(reference.zero_shot, weights=head.weights, scale=head.logit_scale)
    for row, key in ((0, "a"), (5, "f")):
        tokens = latents[row].flatten(1).T.contiguous()
        expected = reference.guided_imagination(
            tokens, head.scores(rows[row]), key, lambda x: zero_shot(x.mean(0)), shape=(1, 64), copies=2,
            epsilon=0.8, steps=4, length=0.1 * 0.8, projection="post-step", held=int(labels[row]),
        )  # fmt: skip
        ours = guided.latents[row].flatten(2).transpose(1, 2)
        torch.testing.assert_close(ours, torch.stack(expected), rtol=1e-3, atol=1e-3)
    assert (guided.latents - latents[:, None]).abs().max() <= 0.8 + 1e-5


def test_guided_copies_are_surer_and_differ(published: str, seed_folder: Path, tmp_path: Path) -> None:
    """By its name alone: the label's probability rises; copies differ from each other and keep the decoder's size."""
    options = {"method": "gif-rae", "prior": published, "cache_dir": tmp_path / "c", **QUICK}
    expanded = ExpandedDataset(str(seed_folder), **options, criteria=("consistency",))
    records = [expanded.provenance(12 + index) for index in range(4)]
    assert {record.prior for record in records} == {published}
    assert np.mean([record.consistency_after - record.consistency_before for record in records]) > 0
    assert expanded[12][0].size == (16, 16)
    assert np.abs(np.asarray(expanded[12][0], float) - np.asarray(expanded[13][0], float)).mean() > 0.5


def test_checks_and_recognition_are_by_the_seeds(base: str, seed_folder: Path, tmp_path: Path) -> None:
    """A finished folder says how many copies look like their class, without a CLIP anywhere."""
    options = ["--method", "gif-rae", "--prior", base, "--set", "check=label", "--set", "redraws=1"]
    options += [text for name, value in QUICK.items() for text in ("--set", f"{name}={value}")]
    out = tmp_path / "out"
    assert main(["expand", str(seed_folder), "--out", str(out), "--workers", "1", "--device", "cpu", *options]) == 0
    recognised = json.loads((out / "classifier.json").read_text())
    assert recognised["classifier"] == "seeds"
    assert "text" not in recognised["others"]
    assert 0 <= json.loads((out / "own_class.json").read_text())["copies"] <= 1


def test_a_guide_with_texts_scores_the_decoded_images(base: str, seed_folder: Path, tmp_path: Path) -> None:
    """Through the decoder, as for the other priors of tokens; then class texts may decide."""
    guide_of = str(embedded_folder() / "clip")
    options = {"method": "gif-rae", "prior": base, "cache_dir": tmp_path / "c", "guide": guide_of, **QUICK}
    expanded = ExpandedDataset(str(seed_folder), classifier="text", criteria=("consistency",), **options)
    records = [expanded.provenance(12 + index) for index in range(4)]
    assert np.mean([record.consistency_after - record.consistency_before for record in records]) > 0


def test_the_key_follows_the_weights_and_not_the_name_of_another_family() -> None:
    """Each published one has its own digest; a recipe of an older method is what it was."""
    digests = {find_prior(name).digest for name in (BASE, "rae-mae-base")}
    assert len(digests) == 2
    assert make_recipe(ExpansionConfig(method="mae"), NAMES, "cpu").to_json()["options"]["classifier"] == "text"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--method", "gif-rae"], "needs a prior of family 'rae', but 'embedded' has unclip, mae, sd; "),
        (["--method", "gif-rae"], "published priors that fit: rae-dinov2-base, rae-dinov2-small, rae-dinov2-large, .."),
        (["--method", "gif-rae", "--prior", BASE, "--set", "classifier=text"], "have no class texts; give classifier="),
        (["--method", "mae", "--prior", BASE], "methods that fit: gif-rae, rae"),
        (["--method", "randaugment", "--prior", BASE, "--set", "check=label"], "have no class texts; give classifier="),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_download(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["expand", "demo", "--out", str(tmp_path / "out"), *flags]) == 2
    told = capsys.readouterr().err.strip()
    assert words in told
    assert "\n" not in told


def test_what_has_no_clip_is_no_teacher_and_is_not_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=f"prior '{BASE}' has no CLIP"):
        Teaching(find_prior(BASE), ExpansionConfig())
    assert main(["tune", "demo", "--out", str(tmp_path / "out"), "--prior", BASE]) == 2
    assert f"cannot tune prior '{BASE}': its decoder draws the tokens of a frozen" in capsys.readouterr().err


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A prior folder without a CLIP."""
    torch.manual_seed(0)
    represented("mae").save_pretrained(tmp_path / "own" / "rae")
    card = {"format": 2, "name": "own", "decoders": {"rae": "rae"}, "image_size": 16}
    (tmp_path / "own" / "prior.json").write_text(json.dumps(card))
    return tmp_path / "own"


def test_a_folder_needs_a_clip_only_for_other_families(own: Path) -> None:
    """Beside another decoder the CLIP stays the one that reports and comparisons take."""
    info = find_prior(str(own))
    assert (info.families, info.has_clip, info.trained) == (("rae",), False, True)
    assert load_prior(info, "rae", CPU).encode([Image.new("RGB", (9, 7))]).shape == (1, 64, 4, 4)
    card = json.loads((own / "prior.json").read_text())
    card["decoders"]["mae"] = "mae"
    (own / "prior.json").write_text(json.dumps(card))
    with pytest.raises(PriorError, match="'clip' must be str, got None"):
        find_prior(str(own))
    for part in ("clip", "mae"):
        shutil.copytree(embedded_folder() / part, own / part)
    (own / "prior.json").write_text(json.dumps(card | {"clip": "clip"}))
    both = find_prior(str(own))
    assert (both.has_clip, both.clip_family) == (True, "mae")
    assert type(load_prior(both, None, CPU)).__name__ == "MaePrior"


def test_a_folder_that_is_not_such_an_autoencoder_is_named(own: Path) -> None:
    folder, path = own / "rae", own / "rae" / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    changes = {
        "a 'AutoencoderKL' is not a representation autoencoder": {"_class_name": "AutoencoderKL"},
        "an encoder 'siglip2' cannot be used; take one of dinov2 and mae": {"encoder_type": "siglip2"},
        "reshape_to_2d is off": {"reshape_to_2d": False},
        "cannot load the autoencoder in .*image_size=99 must equal": {"image_size": 99},
    }
    for words, change in changes.items():
        path.write_text(json.dumps(config | change))
        with pytest.raises(PriorError, match=words):
            load(folder)
    path.write_text("{")
    with pytest.raises(PriorError, match="cannot load the autoencoder in"):
        load(folder)
    path.write_text(json.dumps(config))
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: value for name, value in tensors.items() if name != "decoder.decoder_pred.bias"}, weights)
    with pytest.raises(PriorError, match=r"no decoder\.decoder_pred\.bias among its weights"):
        load(folder)


def test_a_gradient_through_the_decoder_is_there_for_a_guide(own: Path, images: list[Image.Image]) -> None:
    prior = load_prior(find_prior(str(own)), "rae", CPU)
    latents = prior.encode(images).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.pixels(latents).square().sum(), latents)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()
    (of_embedding,) = torch.autograd.grad(F.normalize(prior.embed(latents), dim=-1).sum(), latents)
    assert of_embedding.isfinite().all()
