"""FLUX.1 Redux: guidance of a SigLIP's tokens, copies near their seeds, and what is refused in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import reference
import torch
from hub_server import HubServer
from PIL import Image
from pipelines import TEXT, published_here
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import to_tensor

from gif_datasets import ExpandedDataset, ExpansionConfig, PriorError
from gif_datasets.cli import main
from gif_datasets.guidance.guide import guide
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import embedded_folder, find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.priors.redux import ReduxPrior

CPU = torch.device("cpu")
NAMES = ["ant", "bee", "crab"]
NAME = "flex1-redux"
QUICK = {"decode_steps": 2, "decode_batch": 4, "encode_batch": 4, "criteria": ("consistency",), "noise": "channel"}


@pytest.fixture(scope="module")
def redux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, published_here(NAME, tmp_path_factory.mktemp("scratch"), patch):
        yield NAME


@pytest.fixture(scope="module")
def prior(redux: str) -> ReduxPrior:
    loaded = load_prior(find_prior(redux), "unclip", CPU)
    assert isinstance(loaded, ReduxPrior)
    return loaded


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC) for small in noise]


def draws(count: int) -> list[torch.Generator]:
    return [generator_for(0, str(number), "decode", 1) for number in range(count)]


def test_an_expansion_is_guided_by_the_siglip_itself(redux: str, seed_folder: Path, tmp_path: Path) -> None:
    """The label's probability rises; a guide beside it scores the images, and the latents are the same."""
    options: dict[str, Any] = {"prior": redux, "ratio": 2, "steps": 3, **QUICK}
    expanded = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "a", **options)
    records = [expanded.provenance(12 + index) for index in range(4)]
    assert np.mean([record.consistency_after - record.consistency_before for record in records]) > 0
    assert expanded[12][0].size == (16, 16)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 224 * 224, len(expanded.classes)))
    beside = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "b", guide=other, **options)
    assert beside[12][0].tobytes() == expanded[12][0].tobytes()


def test_guidance_is_the_literal_algorithm_over_tokens(prior: ReduxPrior, images: list[Image.Image]) -> None:
    """Algorithm 2: one draw a channel, in the ball, scored by class texts of what the SigLIP pools of the tokens."""
    config = ExpansionConfig(ratio=2, steps=4, noise="channel", entropy_weight=1.0, step_size=0.1, classifier="text")
    latents, labels, head = prior.encode(images), torch.tensor([0, 1, 2]), prior.classifier(NAMES, config)
    scores = head.scores(prior.embed_images(images))
    torch.testing.assert_close(scores, head.scores(prior.embed(latents)), rtol=1e-4, atol=1e-4)
    guided = guide(
        latents, labels, list("abc"), head, config, embed=prior.embed, channel_axis=prior.channel_axis,
        seed_scores=scores,
    )  # fmt: skip
    zero_shot = partial(reference.zero_shot, weights=head.weights, scale=head.logit_scale)
    for row, key in ((0, "a"), (2, "c")):
        expected = reference.guided_imagination(
            latents[row], scores[row], key, lambda x: zero_shot(prior.embed(x[None])[0]), shape=(1, TEXT), copies=2,
            epsilon=0.3, steps=4, length=0.1 * 0.3, projection="post-step", held=int(labels[row]),
        )  # fmt: skip
        torch.testing.assert_close(guided.latents[row], torch.stack(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("strength", "of", "run"), [(0.5, 6, 3), (0.4, 8, 3), (0.05, 20, 1)])
def test_copies_near_their_seeds_are_diffusers_own(
    prior: ReduxPrior, images: list[Image.Image], strength: float, of: int, run: int
) -> None:
    """FluxImg2ImgPipeline runs as many steps, from the seed's mean latent and the same noise."""
    config = ExpansionConfig(strength=strength)
    latents, anchors, vae = prior.encode(images), prior.anchors(images), prior.pipeline.vae
    pixels = torch.stack([to_tensor(image) for image in images])
    with torch.no_grad():
        means = vae.encode(pixels * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(anchors, (means - vae.config.shift_factor) * vae.config.scaling_factor)
    theirs = diffusers.FluxImg2ImgPipeline.from_pipe(prior.pipeline)
    theirs.set_progress_bar_config(disable=True)
    drawn = theirs(
        image=anchors, height=16, width=16, strength=run / of, num_inference_steps=of, output_type="pt",
        guidance_scale=config.guidance_scale, generator=draws(3), **prior._condition(latents),
    ).images  # fmt: skip
    assert theirs.num_timesteps == run
    torch.testing.assert_close(prior.decode_near(latents, anchors, draws(3), config), drawn, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--set", "start=between"), f"start='between' does not fit prior '{NAME}': its latent is a map of tokens"),
        (("--set", "scheduler=ddim"), "scheduler 'ddim' does not fit a FluxPipeline"),
        (("--set", "noise_level=5"), "noise_level is for Stable unCLIP decoders; this one is a FluxPipeline"),
        (("--method", "gif-rae"), "needs a prior of family 'rae'"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_weights(
    redux: str, flags: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["expand", "demo", "--out", out, "--prior", NAME, "--device", "cpu", *flags]) == 2
    told = capsys.readouterr().err.strip()
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize("gated", ["decoder", "adapter"])
def test_a_gated_part_is_found_before_large_files(
    gated: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Either repository has terms of its own; no weights of the transformer or of the SigLIP are asked for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # which the tiny prior of this module sets
    entry = PUBLISHED["flux1-redux"].at(hub.new_oid())
    assert entry.adapter is not None
    adapter = dataclasses.replace(entry.adapter, revision=hub.new_oid())
    monkeypatch.setitem(PUBLISHED, "flux1-redux", dataclasses.replace(entry, adapter=adapter))
    for weights, files in (
        (entry.decoder, ("model_index.json", "transformer/x.safetensors", "vae/x.safetensors")),
        (adapter, adapter.files),
    ):
        hub.create(weights.repository)
        for file in files:
            hub.write(weights.repository, file, b"{}")
        branch = hub.repositories[weights.repository].branches["main"]
        branch[-1] = dataclasses.replace(branch[-1], oid=weights.revision)
    closed = entry.decoder if gated == "decoder" else adapter
    headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}
    hub.fail("GET", f"{closed.repository}/resolve/", status=403, headers=headers, times=-1)
    hub.fail("HEAD", f"{closed.repository}/resolve/", status=403, headers=headers, times=-1)
    out = str(tmp_path / "out")
    assert main(["expand", "demo", "--out", out, "--prior", "flux1-redux", "--workers", "1", "--device", "cpu"]) == 2
    told = capsys.readouterr().err.strip()
    assert f"accept its terms at https://huggingface.co/{closed.repository}, then run: hf auth login" in told
    assert "\n" not in told
    assert not hub.requests("GET", r"resolve/.*/x\.safetensors")


def test_it_is_not_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "demo", "--out", str(tmp_path / "out"), "--prior", "flux1-redux"]) == 2
    assert "cannot tune prior 'flux1-redux'" in capsys.readouterr().err


@pytest.fixture
def own(redux: str, tmp_path: Path) -> Path:
    """A folder of the same parts."""
    decoder, clip, adapter = (weights.bring() for weights in PUBLISHED[redux].sources)
    shutil.copytree(decoder, tmp_path / "own" / "flux")
    shutil.copytree(clip, tmp_path / "own" / "clip")
    shutil.copy(adapter, tmp_path / "own" / "redux.safetensors")
    write_card(tmp_path / "own", adapter="redux.safetensors")
    return tmp_path / "own"


def write_card(folder: Path, **more: object) -> None:
    card = {"format": 2, "name": "own", "clip": "clip", "decoders": {"unclip": "flux"}, "image_size": 16}
    (folder / "prior.json").write_text(json.dumps(card | more))


def test_a_folder_of_the_same_parts_is_the_same_prior(own: Path, prior: ReduxPrior, images: list[Image.Image]) -> None:
    info = find_prior(str(own))
    assert (info.reads_tokens, info.adapted) == (True, False)
    config, latents = ExpansionConfig(decode_steps=2), prior.encode(images)
    again = load_prior(info, "unclip", CPU, config).decode(latents, draws(3), config)
    torch.testing.assert_close(again, prior.decode(latents, draws(3), config))


def test_files_that_do_not_fit_are_named(own: Path) -> None:
    def raises(words: str) -> None:
        with pytest.raises(PriorError, match=words) as told:
            load_prior(find_prior(str(own)), "unclip", CPU)
        assert "\n" not in str(told.value)

    file = own / "redux.safetensors"
    tensors = load_file(file)
    save_file({name: value for name, value in tensors.items() if name != "redux_up.bias"}, file)
    raises(f"is not a Redux from {TEXT} channels of a SigLIP to 4096 of a text: .*redux_up.bias")
    save_file(tensors | {"redux_up.weight": tensors["redux_up.weight"][:, 1:].contiguous()}, file)
    raises(f"is not a Redux from {TEXT} channels .*size mismatch for redux_up.weight")
    file.write_bytes(b"{}")
    raises("redux.safetensors is not a Redux")
    write_card(own)
    raises(r"a FluxPipeline needs the file of a Redux to be an unCLIP decoder \(adapter\)")
    write_card(own, adapter="redux.safetensors", clip="vit")
    shutil.copytree(embedded_folder() / "clip", own / "vit")
    raises("vit is not a SigLIP, whose tokens Redux reads")
