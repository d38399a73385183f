"""Tuning a prior: on the loss that it was trained on, never on what is held out, the same after any kill."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel
from helpers import contents
from PIL import Image
from pipelines import published_here
from safetensors.torch import load_file, save_file

import gif_datasets
from gif_datasets import ConfigError, ExpansionConfig, PriorError
from gif_datasets.cli import main
from gif_datasets.errors import MissingExtra, PlanMismatch
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.sources import open_source
from gif_datasets.sources.base import list_seeds
from gif_datasets.sources.folders import FolderSource
from gif_datasets.sources.splits import hold_out
from gif_datasets.tune.fine_tune import TuneConfig, tune
from gif_datasets.tune.objectives import PREDICTIONS, Noising, objective_of

WIDTH = 16
CLIP = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
}
OPTIONS: dict[str, Any] = {"steps": 12, "every": 4, "batch_size": 4, "learning_rate": 3e-3, "held_out": 0.25}


def build_prior(folder: Path, prediction: str = "v_prediction") -> Path:
    """A prior of the published architecture's own classes, at a hundredth of its width."""
    torch.manual_seed(0)
    (folder / "clip").mkdir(parents=True)
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps(CLIP))
    clip = open_clip.CLIP(**CLIP["model_cfg"])  # type: ignore[attr-defined]
    weights = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "clip" / "open_clip_model.safetensors")
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=16,
        norm_num_groups=8,
        cross_attention_dim=16,
        resnet_time_scale_shift="scale_shift",
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
    )
    movq = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("AttnUpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        latent_channels=4,
        norm_num_groups=8,
        norm_type="spatial",
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type=prediction, beta_schedule="squaredcos_cap_v2", use_flow_sigmas=prediction == "flow_prediction"
    )
    KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq).save_pretrained(folder / "unclip")
    card = {"format": 2, "name": "tiny", "clip": "clip", "decoders": {"unclip": "unclip"}, "image_size": 16}
    (folder / "prior.json").write_text(json.dumps({**card, "license": "MIT"}))
    return folder


@pytest.fixture(autouse=True)
def _small_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets take most of a short run."""
    monkeypatch.setattr("gif_datasets.tune.fine_tune.SHEET_SEEDS", 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_prior(tmp_path_factory.mktemp("prior") / "tiny")


@pytest.fixture
def seeds(seed_folder: Path, picture: Callable[[int], Image.Image]) -> Path:
    """Three classes with eight pictures each."""
    for label, name in enumerate(("ant", "bee", "crab")):
        for i in range(4, 8):
            picture(10 * label + i).save(seed_folder / name / f"{i}.png")
    return seed_folder


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "tuning" / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_targets_are_what_the_scheduler_takes(kind: str) -> None:
    """A decoder that predicts the target exactly lets diffusers' own sampler see the clean latent."""
    scheduler = DPMSolverMultistepScheduler(
        prediction_type=kind, beta_schedule="squaredcos_cap_v2", use_flow_sigmas=kind == "flow_prediction"
    )
    scheduler.set_timesteps(10)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for index in (1, 5, 8):
        time_ = float(scheduler.timesteps[index]) - (kind == "flow_prediction")
        mixed, times, target, _ = Noising.of(scheduler).mix(clean, noise, torch.tensor([(time_ + 0.5) / 1000]))
        assert int(times) == int(scheduler.timesteps[index])
        scheduler._step_index = index
        found = scheduler.convert_model_output(target, sample=mixed)
        torch.testing.assert_close(found, clean, atol=0.02 if kind == "flow_prediction" else 1e-3, rtol=0)


@pytest.mark.parametrize("family", ["unclip", "sd"])
def test_the_loss_is_the_one_that_the_embedded_prior_was_trained_on(family: str) -> None:
    """Flow matching: a decoder that predicts nothing has a loss of 2, the variances of noise and latents."""
    source = open_source("demo")
    pictures, labels = zip(*(source.sample(index) for index in range(0, 200, 20)), strict=True)
    prior = load_prior(find_prior("embedded"), family, torch.device("cpu"))
    objective = objective_of(prior, source.classes, ("a photo of a {}",), None, 0)
    rows, when = objective.rows(pictures, labels), (torch.arange(10) + 0.5) / 10
    assert objective.noising.kind == "flow_prediction"  # type: ignore[attr-defined]
    with torch.no_grad():
        found = float(objective.losses(rows, when, torch.Generator().manual_seed(0)).mean())
        for weight in objective.module.parameters():  # type: ignore[attr-defined]
            weight.zero_()
        nothing = float(objective.losses(rows, when, torch.Generator().manual_seed(0)).mean())
    assert 1.7 < nothing < 2.3
    assert found < 0.75 * nothing


def test_a_scheduler_that_is_not_known_is_named(tmp_path: Path, tiny: Path) -> None:
    """A prediction type is read, not assumed."""
    folder = build_prior(tmp_path / "odd")
    config = json.loads((folder / "unclip" / "scheduler" / "scheduler_config.json").read_text())
    (folder / "unclip" / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**config, "_class_name": "EulerDiscreteScheduler", "prediction_type": "velocity"})
    )
    index = json.loads((folder / "unclip" / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (folder / "unclip" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(PriorError, match="EulerDiscreteScheduler has prediction_type 'velocity'"):
        tune("demo", tmp_path / "out", prior=str(folder), limit=40, **OPTIONS)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_the_loss_falls_and_the_result_is_a_prior(prediction: str, seeds: Path, tmp_path: Path) -> None:
    """A decoder of random weights learns a little; its folder tells how, and expands."""
    base = build_prior(tmp_path / "base", prediction)
    out = tmp_path / "tuned"
    summary = tune(seeds, out, prior=str(base), source_license="CC0-1.0", **{**OPTIONS, "steps": 60, "every": 20})
    assert (summary.seeds, summary.held_out, summary.rank, summary.steps) == (18, 6, 0, 60)
    log = log_of(out)
    assert [record["step"] for record in log] == [0, 20, 40, 60]
    assert log[-1]["loss"] < 0.9 * log[1]["loss"]
    assert summary.loss_after == min(record["held_out_loss"] for record in log) < 0.9 * summary.loss_before
    assert summary.loss_before == log[0]["held_out_loss"]
    assert ET.parse(out / "tuning" / "loss.svg").getroot().tag.endswith("svg")
    sheets = sorted((out / "tuning").glob("sheet-*.png"))
    assert [sheet.name for sheet in sheets] == [f"sheet-{step:06d}.png" for step in (0, 20, 40, 60)]
    assert Image.open(sheets[0]).height > 100
    assert Image.open(sheets[0]).tobytes() != Image.open(sheets[-1]).tobytes()
    found, card = find_prior(str(out)), (out / "README.md").read_text()
    assert found.card["base"] == {"name": "tiny", "digest": find_prior(str(base)).digest}
    assert found.digest != find_prior(str(base)).digest
    assert found.training_sources == find_prior(str(base)).training_sources
    for told in (
        "UNet2DConditionModel",
        found.card["base"]["digest"],
        "CC0-1.0",
        "MIT",
        "60",
        f"{summary.loss_after:.5f}",
    ):
        assert told in card
    assert not list(out.rglob("*checkpoint*"))
    made = gif_datasets.expand(seeds, tmp_path / "made", prior=str(out), ratio=1, steps=1, decode_steps=2, limit=6)
    assert made.synthetic == 6


def test_the_card_s_loss_is_that_of_the_weights_beside_it(seeds: Path, tmp_path: Path, tiny: Path) -> None:
    """What is on disk is the best step's, not the last's; tuned again from there, the first look finds that loss."""
    options = {**OPTIONS, "steps": 24, "learning_rate": 0.02}
    first = tune(seeds, tmp_path / "first", prior=str(tiny), **options)
    assert first.best_step > 0
    again = tune(seeds, tmp_path / "again", prior=str(tmp_path / "first"), **{**OPTIONS, "steps": 1, "every": 1})
    assert again.loss_before == pytest.approx(first.loss_after, rel=1e-5)


def test_tuning_stops_when_the_held_out_loss_no_longer_falls(seeds: Path, tmp_path: Path, tiny: Path) -> None:
    """A learning rate far too high makes it worse; the untuned weights are kept, and few steps are made."""
    options = {**OPTIONS, "steps": 400, "every": 2, "patience": 2, "learning_rate": 1.0}
    summary = tune(seeds, tmp_path / "out", prior=str(tiny), **options)
    assert summary.steps < 40
    assert summary.steps == summary.best_step + 4
    weights = [load_file(folder / "unclip" / "movq" / "diffusion_pytorch_model.safetensors") for folder in
               (tiny, tmp_path / "out")]  # fmt: skip
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


class Replacing(FolderSource):
    """A folder whose held-out pictures turn to black once they have been listed."""

    black: frozenset[int] = frozenset()

    def sample(self, index: int) -> tuple[Image.Image, int]:
        picture, label = super().sample(index)
        return (Image.new("RGB", picture.size), label) if index in self.black else (picture, label)


def test_what_is_held_out_is_never_trained_on(
    seeds: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other pixels in the held-out pictures change their loss, and nothing of what is trained on."""
    source = Replacing(seeds, "seeds")
    monkeypatch.setattr("gif_datasets.tune.fine_tune.wrap_source", lambda opened: opened)
    listed = list_seeds(source)
    held = hold_out(listed.seeds, 0.25, 0)[1]
    tune(source, tmp_path / "own", prior=str(tiny), **OPTIONS)
    source.black = frozenset(seed.index for seed in held)
    monkeypatch.setattr("gif_datasets.tune.fine_tune.list_seeds", lambda *_: listed)
    monkeypatch.setattr("gif_datasets.tune.fine_tune.seed_image", lambda opened, seed: opened.sample(seed.index)[0])
    tune(source, tmp_path / "black", prior=str(tiny), **OPTIONS)
    own, black = log_of(tmp_path / "own"), log_of(tmp_path / "black")
    assert [record["loss"] for record in own] == [record["loss"] for record in black]
    assert all(a["held_out_loss"] != b["held_out_loss"] for a, b in zip(own, black, strict=True))


def test_killed_and_run_again_is_as_never_killed(
    seeds: Path, tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 in mid-run, then the same command: the same bytes in every file; where it is, lines say on stderr."""
    options = {**OPTIONS, "steps": 16, "every": 2, "patience": 30, "limit": 12}
    out = tmp_path / "killed"
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    arguments = ["tune", str(seeds), "--prior", str(tiny), "--out", str(out), *flags]
    code = (
        "import sys, gif_datasets.tune.fine_tune as t, gif_datasets.cli as c; t.SHEET_SEEDS = 1; c.main(sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})
    log = out / "tuning" / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "prior.json").exists()
    assert list(out.rglob("checkpoint.safetensors"))
    assert main(arguments) == 0
    told = re.findall(r"^gif-datasets: tuning, step (\d+) of 16, held-out loss \d", capsys.readouterr().err, re.M)
    assert told[-1] == "14"
    assert {int(after) - int(step) for step, after in itertools.pairwise(told)} <= {2}
    tune(seeds, tmp_path / "whole", prior=str(tiny), **options)
    left = {name: content for name, content in contents(out).items() if ".tmp-" not in name}  # of the killed one
    assert left == contents(tmp_path / "whole")
    before = contents(out)
    assert tune(seeds, out, prior=str(tiny), **options).steps == 16
    assert contents(out) == before


def test_another_configuration_is_refused(seeds: Path, tmp_path: Path, tiny: Path) -> None:
    """What differs is told, and nothing is touched; so is a folder of something else, and a damaged checkpoint."""
    tune(seeds, tmp_path / "out", prior=str(tiny), **OPTIONS)
    before = contents(tmp_path / "out")
    with pytest.raises(PlanMismatch, match=r"another tuning \(options.learning_rate: 0.003 there, 0.1 here\)"):
        tune(seeds, tmp_path / "out", prior=str(tiny), **{**OPTIONS, "learning_rate": 0.1})
    with pytest.raises(PlanMismatch, match=r"prior\.digest"):
        tune(seeds, tmp_path / "out", **OPTIONS)
    with pytest.raises(PlanMismatch, match="holds no tuning"):
        tune(seeds, seeds, prior=str(tiny), **OPTIONS)
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / "prior.json").unlink()
    (tmp_path / "out" / ".state").mkdir()
    (tmp_path / "out" / ".state" / "checkpoint.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(PriorError, match=r"cannot go on from .*remove it"):
        tune(seeds, tmp_path / "out", prior=str(tiny), **OPTIONS)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--learning-rate", "nan"], "learning_rate must be finite"),
        (["--held-out", "1"], "held_out must be at most 0.9"),
        (["--dtype", "float16"], "unknown dtype 'float16'"),
        (["--family", "gan"], "unknown family 'gan'"),
        (["--prior", "linear"], "no weights to tune"),
        (["--prior", "nowhere"], "unknown prior 'nowhere'"),
        (["--family", "mae", "--rank", "4"], "rank must be 0 for a masked autoencoder"),
        (["--prompt", "a photo"], "prompts must be a list of texts, or the name of a domain, got 'a photo'"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--limit", "3"], "needs at least one class with two different real images"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line, the value in it."""
    assert main(["tune", "demo", "--out", str(tmp_path / "out"), *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_without_peft_a_lora_is_refused_in_one_line(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is the command that installs it."""
    prior = load_prior(find_prior(str(tiny)), "unclip", torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"peft is not installed; run: pip install 'gif_datasets\[tune\]'"):
        objective_of(prior, ("ant", "bee"), ("a {}",), 4, 0)


def test_without_peft_a_published_prior_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main(["tune", "demo", "--out", str(tmp_path / "out"), "--prior", "kandinsky22"]) == 2
    assert "peft is not installed; run: pip install 'gif_datasets[tune]'" in capsys.readouterr().err


def test_a_lora_is_merged(seeds: Path, tmp_path: Path, tiny: Path) -> None:
    """A LoRA trains a few weights; its result has the base's tensors, which need no peft, and the card's loss."""
    pytest.importorskip("peft")
    first = tune(seeds, tmp_path / "first", prior=str(tiny), **{**OPTIONS, "learning_rate": 0.03}, rank=4)
    assert first.rank == 4
    assert first.loss_after < first.loss_before
    base, tuned = (
        load_file(folder / "unclip" / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in (tiny, tmp_path / "first")
    )
    changed = {name for name, value in base.items() if not torch.equal(value, tuned[name])}
    assert {name: value.shape for name, value in base.items()} == {name: value.shape for name, value in tuned.items()}
    assert changed
    assert all(".attentions." in name and name.endswith("weight") for name in changed)
    again = tune(seeds, tmp_path / "again", prior=str(tmp_path / "first"), **{**OPTIONS, "steps": 1})
    assert again.loss_before == pytest.approx(first.loss_after, rel=1e-4)


TUNED = ("karlo", "sd21-unclip", "ip-adapter-sd15", "ip-adapter-sdxl", "sdxl")


@pytest.fixture
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with published_here(request.param, tmp_path, monkeypatch) as name:
        yield name


def told(network: torch.nn.Module, draw: Callable[[], object]) -> dict[str, Any]:
    """What a network is told besides pixels and time, the first time that it is called."""
    calls: list[dict[str, Any]] = []
    hook = network.register_forward_pre_hook(lambda _, given, named: calls.append(named), with_kwargs=True)
    draw()
    hook.remove()
    names = ("encoder_hidden_states", "class_labels", "attention_mask", "added_cond_kwargs")
    return {name: calls[0][name] for name in names if calls[0].get(name) is not None}


@pytest.mark.parametrize("published", ["kandinsky22", *TUNED], indirect=True)
def test_a_decoder_is_told_in_training_what_its_pipeline_tells_it(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a row without its condition, and of one with it: those of the two halves of a guided step."""
    family, seed = PUBLISHED[published].family, Image.radial_gradient("L").convert("RGB")
    prior: Any = load_prior(find_prior(published), family, torch.device("cpu"))
    objective: Any = objective_of(prior, ("bee",), ("a {}",), 0, 0)
    config = ExpansionConfig(method=family, ratio=1, decode_steps=2, decode_batch=1, prompts=["a {}"])
    generators = [torch.Generator()]
    draw = prior.decode
    if family == "sd":
        draw = lambda latents, *_: prior.start([seed], latents, ["bee"], ["key"], config)  # noqa: E731
    theirs = told(objective.module, lambda: draw(prior.encode([seed]), generators, config))
    rows = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in objective.rows([seed], [0]).items()}
    monkeypatch.setattr("gif_datasets.tune.objectives.CONDITION_NOISE", 0.0)
    draws, lowest = iter([torch.zeros(2, 1), torch.tensor([0.0, 0.5])]), torch.zeros(2, dtype=torch.int64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(draws) if family == "unclip" else torch.tensor([0.0, 0.5]))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: lowest)  # no noise on the embedding, and the only prompt
    ours = told(objective.module, lambda: objective.losses(rows, torch.tensor([0.1, 0.9]), torch.Generator()))
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.1 if published == "sd21-unclip" else 1e-5)


@pytest.mark.parametrize("published", TUNED, indirect=True)
def test_a_lora_of_a_published_prior(published: str, seeds: Path, tmp_path: Path) -> None:
    """Its loss falls; of all files only the network's attention differs; the folder loads, draws, has that loss."""
    pytest.importorskip("peft")
    prior = PUBLISHED[published]
    options = {**OPTIONS, "family": prior.family, "steps": 6, "every": 6, "batch_size": 8, "rank": 4}
    first = tune(seeds, tmp_path / "first", prior=published, **options | {"learning_rate": 0.03})
    assert first.rank == 4
    assert first.loss_after < first.loss_before
    base, out = prior.decoder.bring(), tmp_path / "first" / prior.family
    changed = {name for name, content in contents(out).items() if content != (base / name).read_bytes()}
    assert {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()} == contents(out).keys()
    (weights,) = changed
    assert weights.split("/")[0] == ("decoder" if published == "karlo" else "unet")
    before, after = load_file(base / weights), load_file(out / weights)
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
    moved = {name.split(".attentions.")[-1] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert all(re.search(r"\.(to_[qkv]|to_out\.0|add_[kv]_proj)\.weight$", name) for name in moved)
    found = find_prior(str(tmp_path / "first"))
    assert found.card["clip"] == prior.clip
    if prior.adapter:
        assert (tmp_path / "first" / found.card["adapter"]).read_bytes() == prior.adapter.bring().read_bytes()
    again = tune(seeds, tmp_path / "again", prior=str(tmp_path / "first"), **options | {"steps": 1, "rank": 0})
    assert again.loss_before == pytest.approx(first.loss_after, rel=1e-4)


@pytest.mark.parametrize("published", ["ip-adapter-sd15"], indirect=True)
def test_all_weights_but_an_adapter_s(published: str) -> None:
    """The adapter is saved as it was, so it is not trained."""
    prior: Any = load_prior(find_prior(published), "unclip", torch.device("cpu"))
    objective_of(prior, ("bee",), ("a {}",), 0, 0)
    frozen = {name for name, weights in prior.pipeline.unet.named_parameters() if not weights.requires_grad}
    assert any("to_k_ip" in name for name in frozen)
    assert all("processor" in name or name.startswith("encoder_hid_proj.") for name in frozen)
    prior.pipeline.unload_ip_adapter()
    assert all(weights.requires_grad for weights in prior.pipeline.unet.parameters())


@pytest.mark.parametrize("name", ["lcm-dreamshaper", "sd-turbo", "sdxl-turbo"])
def test_a_distillate_is_refused_before_it_is_fetched(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "demo", "--out", str(tmp_path / "out"), "--prior", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    to = "LCM" if "lcm" in name else "Turbo"
    assert f"cannot tune {name}: it is distilled to a few steps ({to}), and training on predicted noise would" in line


@pytest.mark.parametrize(
    ("published", "to"), [("lcm-dreamshaper", "LCM"), ("sd-turbo", "Turbo")], indirect=["published"]
)
def test_a_folder_of_a_distillate_is_told_by_what_it_holds(published: str, to: str, tmp_path: Path) -> None:
    prior = PUBLISHED[published]
    card = {"format": 2, "name": "mine", "clip": prior.clip, "decoders": {"sd": "sd"}, "image_size": 16}
    shutil.copytree(prior.decoder.bring(), tmp_path / "mine" / "sd")
    (tmp_path / "mine" / "prior.json").write_text(json.dumps(card | {"variant": prior.decoder.variant}))
    with pytest.raises(ConfigError, match=rf"cannot tune .* few steps \({to}"):
        tune("demo", tmp_path / "out", prior=str(tmp_path / "mine"), limit=40, **OPTIONS)


@pytest.mark.parametrize("family", ["sd", "mae"])
def test_the_embedded_prior_s_other_decoders(family: str, tmp_path: Path) -> None:
    """A handful of steps on each; the result holds that decoder, and expands by its methods."""
    options = {"steps": 2, "every": 2, "batch_size": 4, "mirror": True}
    summary = tune("demo", tmp_path / "out", family=family, limit=20, **options)
    assert (summary.seeds, summary.held_out, summary.steps) == (10, 10, 2)
    found = find_prior(str(tmp_path / "out"))
    assert found.families == (family,)
    options = {"ratio": 1, "steps": 1, "encode_batch": 2, "decode_batch": 2, "score_batch": 2}
    options |= {"decode_steps": 5} if family == "sd" else {}
    made = gif_datasets.expand(
        "demo", tmp_path / "made", method=f"gif-{family}", prior=str(tmp_path / "out"), limit=2, **options
    )
    assert made.synthetic == 2


def test_imagined_pictures_are_left_out(seeds: Path, tmp_path: Path, tiny: Path) -> None:
    """A prior is tuned on real pictures; those of an expansion's copies are counted and named."""
    gif_datasets.expand(seeds, tmp_path / "made", prior="linear", ratio=1)
    summary = tune(tmp_path / "made", tmp_path / "out", prior=str(tiny), **{**OPTIONS, "steps": 1})
    assert summary.seeds + summary.held_out == 24
    assert summary.bad == ("24 imagined images were skipped: tuning uses real ones",)


def test_a_wrong_option_names_the_right_one(tmp_path: Path) -> None:
    """As in every other place."""
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        tune("demo", tmp_path, learning_rat=1.0)
    assert TuneConfig().prior == "embedded"
