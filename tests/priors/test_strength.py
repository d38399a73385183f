"""Strength of unCLIP priors: copies that begin near their seed, as diffusers' own img2img pipelines draw them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from pipelines import published_here

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig, PriorError
from gif_datasets.cli import main
from gif_datasets.config import readable_options, stored_options
from gif_datasets.expansion import trial
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.open import open_expansion
from gif_datasets.expansion.recipe import make_recipe
from gif_datasets.guidance.recognition import OwnClass, read_own_class
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.priors.unclip import UnclipPrior
from gif_datasets.report.page import write_report
from gif_datasets.shards.manifest import Manifest
from gif_datasets.sources import open_source

CPU = torch.device("cpu")
NEAR = ("kandinsky22", "ip-adapter-sd15", "ip-adapter-sdxl")
QUICK = {"decode_steps": 2, "decode_batch": 4, "encode_batch": 4, "criteria": ("consistency",)}


@pytest.fixture
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with published_here(request.param, tmp_path, monkeypatch) as name:
        yield name


@pytest.fixture(scope="module")
def prior() -> UnclipPrior:
    loaded = load_prior(find_prior("embedded"), "unclip", CPU)
    assert isinstance(loaded, UnclipPrior)
    return loaded


@pytest.fixture(scope="module")
def seeds() -> list[Image.Image]:
    demo = gif_datasets.ExpandedDataset("demo", method="randaugment", ratio=1)
    return [demo[index][0] for index in (0, 70, 140)]


def generators(count: int) -> list[torch.Generator]:
    return [generator_for(0, str(number), "decode", 1) for number in range(count)]


def pixels_of(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255


@pytest.mark.parametrize("published", ["kandinsky22"], indirect=True)
@pytest.mark.parametrize(("strength", "of", "run"), [(0.5, 6, 3), (0.4, 8, 3), (0.05, 20, 1)])
def test_images_are_those_of_diffusers(published: str, strength: float, of: int, run: int) -> None:
    """Their pipeline encodes the seed itself, and runs the same steps of a process of the same noise."""
    config = ExpansionConfig(strength=strength)
    prior = load_prior(find_prior(published), "unclip", CPU, config)
    images = [Image.effect_noise((16, 16), 90).convert("RGB") for _ in range(3)]
    latents = prior.encode(images)
    ours = prior.decode_near(latents, prior.anchors(images), generators(3), config)
    parts = prior.pipeline
    theirs = diffusers.KandinskyV22Img2ImgPipeline(parts.unet, parts.scheduler, parts.movq)
    theirs.set_progress_bar_config(disable=True)
    with torch.no_grad():
        drawn = theirs(
            image_embeds=latents,
            negative_image_embeds=prior.null.expand_as(latents),
            image=pixels_of(images),
            height=16,
            width=16,
            strength=(run + 0.5) / of,
            num_inference_steps=of,
            guidance_scale=config.guidance_scale,
            generator=generators(3),
            output_type="pt",
        ).images
    torch.testing.assert_close(ours, drawn, atol=1e-4, rtol=1e-4)


def test_lower_strength_stays_nearer(prior: UnclipPrior, seeds: list[Image.Image]) -> None:
    latents, anchors, pixels = (
        prior.encode(seeds),
        prior.anchors(seeds),
        pixels_of([seed.resize((64, 64)) for seed in seeds]),
    )
    errors = [
        float((prior.decode_near(latents, anchors, generators(3), ExpansionConfig(strength=s)) - pixels).abs().mean())
        for s in (0.9, 0.6, 0.3, 0.1)
    ]
    free = float((prior.decode(latents, generators(3), ExpansionConfig()) - pixels).abs().mean())
    assert sorted(errors, reverse=True) == errors
    assert errors[0] <= free * 1.05
    assert errors[-1] < free / 2


@pytest.mark.parametrize("published", NEAR, indirect=True)
def test_published_priors_begin_near_their_seeds(published: str, seed_folder: Path, tmp_path: Path) -> None:
    """A whole expansion, and in half precision; its images are other ones than those of strength 1."""
    options = {"prior": published, "ratio": 2, "steps": 2, **QUICK}
    near, free = (
        ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c", strength=strength, **options)
        for strength in (0.5, 1.0)
    )
    assert near[12][0].size == (16, 16)
    assert near[12][0].tobytes() != free[12][0].tobytes()
    config = ExpansionConfig(**QUICK, strength=0.5, dtype="float16")
    prior = load_prior(find_prior(published), "unclip", CPU, config)
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    drawn = prior.decode_near(prior.encode(images), prior.anchors(images), generators(2), config)
    assert drawn.shape == (2, 3, 16, 16)
    assert drawn.isfinite().all()
    assert {part.dtype for part in (prior.pipeline.unet, prior.img2img.unet)} == {torch.float16}


@pytest.mark.parametrize("name", ["karlo", "sd21-unclip", "linear"])
def test_priors_that_cannot_are_refused_before_anything_is_loaded(name: str) -> None:
    """Nothing is fetched: the table says that their pipelines begin from noise alone."""
    with pytest.raises(ConfigError, match=r"strength=1"):
        make_recipe(ExpansionConfig(prior=name, strength=0.5), ["a", "b"])
    make_recipe(ExpansionConfig(prior="linear", strength=1), ["a", "b"])


class Own(LinearPrior):
    """A prior of one's own without anchors."""

    key = "own-1"


class Anchored(Own):
    """One with anchors: their mean with the image."""

    def anchors(self, images: list[Image.Image]) -> torch.Tensor:  # type: ignore[override]
        return self.decode(self.encode(images), generators(len(images)), ExpansionConfig())

    def decode_near(
        self,
        latents: torch.Tensor,
        anchors: torch.Tensor,
        generators: list[torch.Generator],  # type: ignore[override]
        config: ExpansionConfig,
    ) -> torch.Tensor:
        return (anchors + self.decode(latents, generators, config)) / 2


@pytest.mark.parametrize("prior", [Own(), Own])
def test_an_own_prior_without_anchors_is_refused(prior: object, seed_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no autoencoder.*strength=1"):
        ExpandedDataset(str(seed_folder), prior=prior, strength=0.5)
    with pytest.raises(PriorError, match=r"Own has no autoencoder"):
        Own().anchors([])


def test_an_own_prior_with_anchors_draws_from_them(seed_folder: Path, tmp_path: Path) -> None:
    expanded = ExpandedDataset(str(seed_folder), prior=Anchored(), strength=0.5, ratio=1, cache_dir=tmp_path / "c")
    assert expanded[12][0].size == (32, 32)


def test_strength_1_has_the_digest_of_versions_that_had_no_other() -> None:
    """They wrote a neutral 0.6; a real 0.6 has a mark, and readers of a manifest see what was done."""
    whole, part = ExpansionConfig(strength=1), ExpansionConfig(strength=0.6)
    assert (whole.strength, part.strength) == (1.0, 0.6)
    stored = [stored_options(config.to_json()) for config in (whole, part)]
    assert [options["strength"] for options in stored] == [0.6, 0.6]
    assert ["near_seed" in options for options in stored] == [False, True]
    assert make_recipe(whole, ["a", "b"]).digest != make_recipe(part, ["a", "b"]).digest
    for config in (whole, part, ExpansionConfig(method="gif-sd"), ExpansionConfig(method="cutout")):
        assert readable_options(stored_options(config.to_json())) == config.to_json()


@pytest.mark.parametrize(
    ("card", "method", "strength"),
    [
        ({"unclip": 0.4}, "gif-unclip", 0.4),
        ({"unclip": 0.4}, "gif-sd", 0.6),
        ({"sd": 0.3}, "sd", 0.3),
        ({"sd": 0.3}, "unclip", 1.0),
        (None, "unclip", 1.0),
        ("much", "unclip", 1.0),
    ],
)
def test_the_default_is_what_the_prior_names(card: object, method: str, strength: float) -> None:
    """The embedded prior names 0.6; what is given goes first."""
    info = dataclasses.replace(find_prior("embedded"), card={**find_prior("embedded").card, "strength": card})
    config = ExpansionConfig(method=method, strength="own")
    assert make_recipe(config, ["a", "b"], own_prior=info).config.strength == strength
    given = dataclasses.replace(config, strength=0.9)
    assert make_recipe(given, ["a", "b"], own_prior=info).config.strength == 0.9
    assert make_recipe(ExpansionConfig(), ["a", "b"]).config.strength == 0.6
    assert make_recipe(ExpansionConfig(prior="linear"), ["a", "b"]).config.strength == 1.0


def test_a_card_names_a_strength_within_the_range() -> None:
    info = dataclasses.replace(find_prior("embedded"), card={**find_prior("embedded").card, "strength": {"unclip": 2}})
    with pytest.raises(ConfigError, match=r"strength must be .*got 2"):
        make_recipe(ExpansionConfig(), ["a", "b"], own_prior=info)


@pytest.mark.parametrize("method", ["unclip", "mae"])
def test_copies_by_a_small_prior_are_no_larger_than_their_seeds(method: str, tmp_path: Path) -> None:
    """It adds no detail to a small image; and seeds and copies of one size go into one batch."""
    sizes = [(100, 80), (32, 32), (20, 40), (1, 1), (64, 64)]
    for number, size in enumerate(sizes):
        (tmp_path / "seeds" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.effect_noise(size, 50).convert("RGB").save(tmp_path / "seeds" / "ab"[number % 2] / f"{number}.png")
    options = (
        {"ratio": 1, "method": method, "decode_steps": 1} if method == "unclip" else {"ratio": 1, "method": method}
    )
    expanded = ExpandedDataset(str(tmp_path / "seeds"), cache_dir=tmp_path / "c", **options)
    sizes_of = {expanded[place][0].size: expanded[place + 5][0].size for place in range(5)}
    assert sizes_of == {(100, 80): (64, 64), (32, 32): (32, 32), (20, 40): (20, 20), (1, 1): (1, 1), (64, 64): (64, 64)}


def test_a_folder_says_its_strength(tmp_path: Path) -> None:
    gif_datasets.expand("demo", tmp_path / "out", ratio=1, limit=10, steps=1, strength=0.4, cache_dir=tmp_path / "c")
    manifest = Manifest.from_json(json.loads((tmp_path / "out/manifest.json").read_text()))
    assert manifest.options["strength"] == 0.4
    assert "| strength | `0.4` |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("strength", [0, 0.0, -1, 1.01, float("nan"), "half", True])
def test_strength_is_in_its_range(strength: object) -> None:
    with pytest.raises(ConfigError, match="strength"):
        ExpansionConfig(strength=strength)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["", "x", "0", "0.0", "1.5", "-0.5", "nan"])
def test_an_unknown_target_is_named(target: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown target '{target}' of strength=auto; .*auto:0.9"):
        ExpansionConfig(strength=f"auto:{target}")


@pytest.mark.parametrize("prior", ["karlo", "linear"])
def test_auto_is_refused_where_nothing_begins_near_a_seed(prior: str) -> None:
    with pytest.raises(ConfigError, match="strength=1"):
        make_recipe(ExpansionConfig(prior=prior, strength="auto"), ["a", "b"])


FAST = {"ratio": 1, "steps": 1, "decode_steps": 1, "guidance_scale": 1.0}


def test_auto_takes_the_highest_strength_that_keeps_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of a strength is given here; three or four are looked at, and the plan, the summary and info say so."""
    looked: list[float] = []

    def look(imaginer: Imaginer, seeds: object, copies: int = 0) -> OwnClass:
        strength = imaginer.recipe.config.strength
        looked.append(strength)  # type: ignore[arg-type]
        right = round(100 * (1 - 0.5 * strength))  # type: ignore[operator]
        return OwnClass({"cat": (100, right)}, {"cat": (100, 100)})

    monkeypatch.setattr(trial, "look", look)
    opened = open_expansion(open_source("demo"), ExpansionConfig(strength="auto:0.6", **FAST), limit=10)
    assert opened.plan.recipe.config.strength == 0.8
    assert len(looked) <= 4
    choice = opened.plan.json["strength_choice"]
    assert (choice["strength"], choice["target"], choice["reached"], choice["real"]) == (0.8, 0.6, True, 1.0)
    assert choice["tried"]["0.8"] == 0.6
    whole, none = (
        open_expansion(open_source("demo"), ExpansionConfig(strength=f"auto:{target}", **FAST), limit=10).plan
        for target in (0.5, 1)
    )
    assert (whole.recipe.config.strength, none.recipe.config.strength) == (1.0, 0.3)
    assert none.strength_choice is not None
    assert not none.strength_choice["reached"]
    said = ExpandedDataset("demo", strength="auto", cache_dir=tmp_path / "c", **FAST)
    assert said.config.strength == 0.5


def test_copies_are_looked_at_and_the_folder_says_what_was_seen(tmp_path: Path) -> None:
    """At almost no strength a copy is its seed, so that what is said of copies is what is said of real images."""
    said: list[str] = []
    summary = gif_datasets.expand(
        "photos", tmp_path / "out", limit=24, strength=0.05, cache_dir=tmp_path / "c", say=said.append, **FAST
    )
    found = read_own_class(tmp_path / "out")
    assert found is not None
    assert found.looked_at == 24
    assert (summary.own_class, summary.own_class_real) == (round(found.share, 4), round(found.real_share, 4))
    assert found.real_share > 0.8
    assert found.share > 0.75 * found.real_share
    assert not said
    assert OwnClass.from_json(found.to_json()) == found
    again = gif_datasets.expand("photos", tmp_path / "out", limit=24, strength=0.05, cache_dir=tmp_path / "c", **FAST)
    assert (again.generated, again.own_class) == (0, summary.own_class)


def test_a_prior_that_does_not_draw_such_images_is_said_before_the_work(tmp_path: Path) -> None:
    """The next step that is named works: nearer to the seeds more copies keep their class."""
    said: list[str] = []
    options = {"limit": 24, "cache_dir": tmp_path / "c", "say": said.append}
    gif_datasets.expand("photos", tmp_path / "out", strength=1, **options, **FAST)
    [line] = said
    assert "does not draw such images well" in line
    assert "--set strength=auto" in line


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"classes": {"a": [1, 2, 0, 0]}}', '{"classes": {"a": [1]}}'])
def test_what_cannot_be_read_says_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "own_class.json").write_text(content)
    assert read_own_class(tmp_path) is None


def test_a_manifest_of_any_options_is_read() -> None:
    for stored in ({}, {"method": []}, {"method": "other", "strength": 0.6}, {"method": None, "strength": "x"}):
        assert readable_options(stored) == stored


def test_pages_begin_with_what_was_seen_of_the_copies(tmp_path: Path) -> None:
    """The report and info; what a forged file says is escaped."""
    out = tmp_path / "out"
    gif_datasets.expand("photos", out, limit=12, strength=0.5, cache_dir=tmp_path / "c", **FAST)
    found = read_own_class(out)
    assert found is not None
    write_report(out, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.index(found.text()) < page.index("real and 12 synthetic images")
    forged = {**found.to_json(), "classes": {"<b>x</b>": [10, 1, 10, 10]}}
    (out / "own_class.json").write_text(json.dumps(forged))
    write_report(out, tmp_path / "r.html")
    assert "&lt;b&gt;x&lt;/b&gt; 10%" in (tmp_path / "r.html").read_text()


def test_the_card_and_info_say_how_a_strength_was_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, options = tmp_path / "out", {"limit": 8, "cache_dir": tmp_path / "c", **FAST}
    said: list[str] = []
    gif_datasets.expand("photos", out, strength="auto:0.2", say=said.append, **options)
    assert any("of 40 copies" in line or "copies look like their class" in line for line in said)
    card = (out / "README.md").read_text()
    assert '| strength was chosen | `{"copies": 8, "epsilon": 0.3, ' in card
    assert main(["info", str(out), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["strength_choice"]["strength"] == value["options"]["strength"]
    again = gif_datasets.expand("photos", out, strength="auto:0.2", **options)
    assert again.generated == 0
