"""Every method: augmentations, checks with redraws, selection, classifiers that know the seeds, MAE and SD priors."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from PIL import Image
from pipelines import folder_of
from torch.nn import functional as F

import gif_datasets
from gif_datasets import ExpandedDataset, ExpansionConfig, load_expanded
from gif_datasets.errors import ConfigError, PriorError
from gif_datasets.expansion import recipe
from gif_datasets.expansion.imagination import augment, halving
from gif_datasets.expansion.imagination.shared_guidance import identity
from gif_datasets.guidance import accept, criteria, fitted_heads
from gif_datasets.guidance.rng import generator_for
from gif_datasets.guidance.zeroshot import ZeroShotClassifier
from gif_datasets.io.digests import digest
from gif_datasets.methods import METHODS, PRESETS
from gif_datasets.priors import PriorInfo, embedded_folder, find_prior, load_prior
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.priors.mae import MaePrior
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.verify import verify
from gif_datasets.tune.objectives import objective_of
from gif_datasets.types import Seed

AUGMENTATIONS = sorted(augment.AUGMENTATIONS)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_the_size_and_depend_on_their_generator_alone(
    name: str, picture: Callable[[int], Image.Image]
) -> None:
    """Same draw, same picture, whatever was drawn before; another draw, another picture."""
    image, partner = picture(1).resize((40, 28)), picture(2)
    apply, config = augment.AUGMENTATIONS[name], ExpansionConfig(method=name)

    def drawn(copy: int) -> np.ndarray:
        torch.rand(copy)  # the global stream moves on
        return np.asarray(apply(image, partner, config, generator_for(0, "k", "augment", copy)).image)

    first = [drawn(copy) for copy in range(6)]
    assert {array.shape for array in first} == {(28, 40, 3)}
    assert all(np.array_equal(one, drawn(copy)) for copy, one in enumerate(first))
    assert len({one.tobytes() for one in first}) >= 4


def test_randaugment_is_torchvision_s(picture: Callable[[int], Image.Image]) -> None:
    """It gives what torchvision's own transform gives after seeding the global generator, which it leaves alone."""
    from torchvision.transforms import v2

    generator = generator_for(0, "k", "augment", 3)
    before = torch.random.get_rng_state()
    found = augment.randaugment(picture(1), picture(1), ExpansionConfig(method="randaugment"), generator).image
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(generator.initial_seed())
    assert found.tobytes() == v2.RandAugment()(picture(1)).tobytes()


def test_masks_hide_the_share_they_say() -> None:
    """Cutout hides one square of the given side; gridmask a quarter of its area at side one half."""
    image = Image.new("RGB", (200, 200), "red")

    def hidden(name: str, copy: int) -> np.ndarray:
        generator = generator_for(0, "k", "augment", copy)
        config = ExpansionConfig(method=name, mask_size=0.5)
        return np.asarray(augment.AUGMENTATIONS[name](image, image, config, generator).image)[..., 0] == 128

    for copy in range(10):
        rows, columns = np.nonzero(hidden("cutout", copy))
        assert rows.max() - rows.min() < 100
        assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) == len(rows)
        assert 0.1 < hidden("gridmask", copy).mean() < 0.4


def test_cutmix_shows_the_partner_where_it_says() -> None:
    """The recorded share is the partner's share of the area, and the seed keeps at least half."""
    image, partner = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (64, 64), "blue")
    shares = []
    for copy in range(30):
        generator = generator_for(0, "k", "augment", copy)
        found = augment.cutmix(image, partner, ExpansionConfig(method="cutmix"), generator)
        assert (np.asarray(found.image)[..., 2] == 255).mean() == pytest.approx(found.partner_share)
        shares.append(found.partner_share)
    assert 0 <= min(shares) < 0.1
    assert 0.3 < max(shares) <= 0.5
    for side in (1, 2, 3, 8, 28):
        small, other = image.resize((side, side)), partner.resize((side, side))
        for copy in range(30):
            generator = generator_for(0, "k", "augment", copy)
            assert augment.cutmix(small, other, ExpansionConfig(method="cutmix"), generator).partner_share <= 0.5


def test_cutmix_names_its_partner_and_all_seeds(seed_folder: Path) -> None:
    """Provenance names the partner; the recipe names all seeds, whatever their order, and another seed is another."""
    expanded = ExpandedDataset(str(seed_folder), ratio=3, method="cutmix", prior="linear")
    records = [expanded.provenance(12 + i) for i in range(36)]
    keys = {seed.key: seed.label for seed in expanded.plan.seeds}
    assert all(keys[record.partner_key] == record.partner_label for record in records if record.partner_key)
    assert sum(bool(record.partner_key) for record in records) > 25
    assert all(record.label == keys[record.seed_key] for record in records)
    before = expanded.plan.recipe.digest
    (seed_folder / "ant" / "0.png").unlink()
    assert ExpandedDataset(str(seed_folder), ratio=3, method="cutmix", prior="linear").plan.recipe.digest != before
    plain = ExpandedDataset(str(seed_folder), ratio=3, method="cutout", prior="linear").plan.recipe
    assert plain.population == ""


def test_checks_say_what_they_ask_for() -> None:
    """Each check, on a table of pictures."""
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.4, 0.35, 0.25]])
    seeds = torch.tensor([[0.7, 0.2, 0.1]]).repeat(4, 1)
    labels = torch.tensor([1, 1, 1, 0])
    assert accept.accept("label", scores, seeds, labels)[0].tolist() == [False, False, True, True]
    assert accept.accept("prediction", scores, seeds, labels)[0].tolist() == [True, True, False, True]
    assert accept.accept("selective", scores, seeds, labels)[0].tolist() == [True, False, False, True]
    assert accept.accept("label", scores, seeds, labels)[1].tolist() == pytest.approx([0.3, 0.1, 0.7, 0.4])


def chosen_of(passed: torch.Tensor, rank: torch.Tensor) -> int:
    """Which of the draws for one copy is taken: the first that passes, or the highest of those that fail."""
    return int(passed.int().argmax()) if passed.any() else int(rank.argmax())


@pytest.mark.parametrize("method", ["unclip", "select:randaugment", "gif-unclip"])
def test_what_fails_is_drawn_again(method: str, seed_folder: Path) -> None:
    """A sample passes its check, or is the best of all its draws; one at a time or all at once."""
    check = "selective" if method.startswith("select") else "label"
    options = {"ratio": 2, "method": method, "prior": "linear", "redraws": 3, "check": check, "logit_scale": 60.0}
    expanded = ExpandedDataset(str(seed_folder), **options)
    records = [expanded.provenance(12 + i) for i in range(24)]
    attempts = [record.attempts for record in records]
    assert set(attempts) <= {1, 2, 3, 4}
    loaded = expanded.imaginer._load()
    maker, scorer = loaded.maker, loaded.scorer
    assert scorer is not None
    for index, record in enumerate(records):
        seed, copy = expanded._row(12 + index)
        draws = [maker.draw([(seed, copy)], attempt)[0] for attempt in range(4)]
        scores = scorer([draw.picture for draw in draws])
        seed_scores = scorer([expanded.source.sample(seed.index)[0]]).expand(4, -1)
        passed, rank, held = accept.accept(check, scores, seed_scores, torch.tensor([seed.label] * 4))
        assert record.held_class == held[chosen_of(passed, rank)] or method != "select:randaugment"
        chosen = chosen_of(passed, rank)
        assert record.passed == bool(passed.any())
        assert record.attempts == (chosen + 1 if record.passed else 4)
        assert record.picture_class == scores[chosen].argmax()
        assert record.picture_entropy == pytest.approx(float(criteria.entropy(scores[chosen])), abs=1e-5)
    if check == "selective":
        assert max(attempts) > 1


class TintGuide(torch.nn.Module):
    """Logits of an image's tint; a stand-in for the network that is to learn."""

    image_size = 8

    def __init__(self, scale: float = 4.0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scale * pixels.mean((2, 3))


@pytest.mark.parametrize("confirmed_by", ["prior", "guide"])
@pytest.mark.parametrize("method", ["select:unclip", "select:cutout"])
def test_the_hardest_confirmed_draw_is_taken(method: str, confirmed_by: str, seed_folder: Path) -> None:
    """Of all draws of a copy, that of the highest entropy to the guide of those that CLIP, or it, gives the label."""
    options = {
        "ratio": 2, "method": method, "prior": "linear", "redraws": 3, "logit_scale": 60.0, "classifier": "both",
        "guide": TintGuide(), "selection": "hardest", "confirmed_by": confirmed_by,
    }  # fmt: skip
    expanded = ExpandedDataset(str(seed_folder), **options)
    records = [expanded.provenance(12 + i) for i in range(24)]
    loaded = expanded.imaginer._load()
    maker, scorer = loaded.maker, loaded.scorer
    assert scorer is not None
    assert (loaded.confirm is None) == (confirmed_by == "guide")
    taken, first = [], []
    for index, record in enumerate(records):
        row = expanded._row(12 + index)
        pictures = [maker.draw([row], attempt)[0].picture for attempt in range(4)]
        entropies = criteria.entropy(scorer(pictures))
        confirming = (loaded.confirm or scorer)(pictures)
        confirmed = confirming.argmax(1) == row[0].label
        chosen = int((entropies + 10).where(confirmed, confirming[:, row[0].label]).argmax())
        assert (record.passed, record.attempts, record.held_class) == (bool(confirmed.any()), 4, row[0].label)
        assert record.picture_entropy == pytest.approx(float(entropies[chosen]), abs=1e-5)
        taken.append(record.picture_entropy)
        first.append(float(entropies[0]))
    assert any(record.passed for record in records)
    assert confirmed_by == "guide" or np.mean(taken) > np.mean(first)


def test_who_confirms_is_an_option_of_hardest_alone(seed_folder: Path) -> None:
    """It changes no other digest, is refused where nothing is selected, and does nothing without a guide."""
    plain = ExpansionConfig(method="select:unclip")
    assert "confirmed_by" not in plain.to_json()
    with pytest.raises(ConfigError, match="selection 'hardest' is for the select: methods"):
        ExpansionConfig(selection="hardest")
    with pytest.warns(UserWarning, match="confirmed_by does nothing .* without selection='hardest' and a guide"):
        assert ExpansionConfig(method="select:unclip", confirmed_by="guide") == plain
    alone = ExpandedDataset(str(seed_folder), ratio=1, method="select:cutout", prior="linear", selection="hardest",
                            redraws=1)  # fmt: skip
    assert alone.provenance(12).attempts == 2
    assert alone.imaginer._load().confirm is None


def test_a_check_that_fails_in_every_draw_is_told(seed_folder: Path, tmp_path: Path) -> None:
    """Summary, manifest and record say of which copies every draw failed; a false count is found by `verify`."""
    options = {"ratio": 2, "method": "select:cutout", "prior": "linear", "redraws": 1, "logit_scale": 60.0}
    summary = gif_datasets.expand(str(seed_folder), tmp_path / "out", **options)
    loaded = load_expanded(tmp_path / "out")
    records = [loaded.provenance(index) for index in range(len(loaded))]
    failed = [record for record in records if not record.passed]
    assert 0 < len(failed) < 24
    assert all(record.attempts == 2 and record.synthetic for record in failed)
    assert summary.failed == manifests.read_manifest(tmp_path / "out").failed_checks == len(failed)
    assert verify(tmp_path / "out") == []


def test_selection_needs_more_draws_than_the_plain_method(seed_folder: Path) -> None:
    """The base method draws once; selection reports how often it had to."""
    summaries = [
        gif_datasets.expand(str(seed_folder), seed_folder.parent / name.replace(":", "-"), method=name, prior="linear")
        for name in ("cutout", "select:cutout")
    ]
    assert summaries[0].generated == 60
    assert summaries[1].generated > 60
    assert summaries[0].synthetic == summaries[1].synthetic == 60


def test_pictures_are_scored_where_asked(seed_folder: Path) -> None:
    """Without a check, `measure_pictures` records the pictures' own class and entropy; otherwise nothing is scored."""
    for measured in (True, False):
        expanded = ExpandedDataset(
            str(seed_folder), ratio=1, method="unclip", prior="linear", measure_pictures=measured
        )
        record = expanded.provenance(12)
        assert (record.picture_class >= 0) == measured
        assert (record.picture_entropy > 0) == measured


def clusters(spread: float) -> tuple[torch.Tensor, torch.Tensor, ZeroShotClassifier]:
    """Four classes of ten embeddings around directions that the class texts miss by an angle."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(4, 30, generator=generator), dim=-1)
    labels = torch.arange(4).repeat_interleave(10)
    embeddings = centres[labels] + spread * torch.randn(40, 30, generator=generator)
    texts = F.normalize(centres + 0.3 * torch.randn(4, 30, generator=generator), dim=-1)
    return embeddings * 7, labels, ZeroShotClassifier(texts, 10.0)


@pytest.mark.parametrize("kind", ["seeds", "both", "linear"])
def test_classifiers_learn_from_the_seeds(kind: str) -> None:
    """They name the seeds' classes better than the texts, and their probabilities are calibrated better."""
    embeddings, labels, text = clusters(0.2)
    fitted = fitted_heads.fit(kind, text, embeddings, labels)

    def loss(classifier: ZeroShotClassifier) -> float:
        return float(F.nll_loss(classifier.scores(embeddings).log(), labels))

    def right(classifier: ZeroShotClassifier) -> float:
        return float((classifier.scores(embeddings).argmax(1) == labels).float().mean())

    if kind == "linear":
        assert fitted.weights.norm(dim=-1).mean() == pytest.approx(1)
        softer = dataclasses.replace(fitted, logit_scale=fitted.logit_scale / 10)
        assert criteria.entropy(softer.scores(embeddings)).mean() > criteria.entropy(fitted.scores(embeddings)).mean()
    assert fitted_heads.fit("text", text, embeddings, labels) is text
    assert right(fitted) >= right(text)
    assert loss(fitted) < loss(text)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    again = fitted_heads.fit(kind, text, embeddings[order], labels[order])
    torch.testing.assert_close(again.scores(embeddings), fitted.scores(embeddings), rtol=1e-2, atol=1e-3)


def test_a_class_without_seeds_keeps_its_text() -> None:
    """Class means of a class that has none would be nothing at all."""
    embeddings, labels, text = clusters(0.2)
    some = labels < 3
    fitted = fitted_heads.fit("seeds", text, embeddings[some], labels[some])
    torch.testing.assert_close(fitted.weights[3], text.weights[3])
    means = F.normalize(torch.stack([F.normalize(embeddings[labels == c], dim=-1).mean(0) for c in range(3)]), dim=-1)
    torch.testing.assert_close(fitted.weights[:3], means)


def test_calibration_leaves_each_seed_out() -> None:
    """Where a class's seeds have nothing in common, a seed says nothing of itself: the flattest scale is the best."""
    embeddings = torch.eye(8)
    text = ZeroShotClassifier(F.normalize(torch.ones(4, 8), dim=-1), 10.0)
    assert fitted_heads.fit("seeds", text, embeddings, torch.arange(8) % 4).logit_scale == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["seeds", "both", "linear"])
def test_an_only_seed_is_told_by_its_text(kind: str) -> None:
    """Nothing else is left where it is left out; others are told and calibrated as if it were not there."""
    embeddings, labels, text = clusters(0.2)
    first = torch.tensor([int((labels == c).nonzero()[0]) for c in range(len(text.weights))])
    right = fitted_heads.recognised("text", text, embeddings[first], labels[first])
    if kind != "linear":
        assert torch.equal(fitted_heads.recognised(kind, text, embeddings[first], labels[first]), right)
        assert fitted_heads.fit(kind, text, embeddings[first], labels[first]).logit_scale == text.logit_scale
    one = fitted_heads.recognised(kind, text, embeddings[first[:1]], labels[first[:1]])
    assert torch.equal(one, right[:1])


@pytest.mark.parametrize("kind", ["seeds", "linear"])
def test_expansion_with_a_classifier_of_the_seeds(kind: str, seed_folder: Path, tmp_path: Path) -> None:
    """Workers and order do not matter, and another seed changes the recipe."""
    options = {"ratio": 1, "prior": "linear", "classifier": kind}
    one = gif_datasets.expand(str(seed_folder), tmp_path / "one", cache_dir=tmp_path / "c1", **options)
    two = gif_datasets.expand(str(seed_folder), tmp_path / "two", cache_dir=tmp_path / "c2", workers=2, **options)
    assert one.synthetic == two.synthetic == 12
    written = [(tmp_path / name / "manifest.json").read_bytes() for name in ("one", "two")]
    assert written[0] == written[1]
    assert json.loads(written[0])["plan"]["recipe"]["population"]


def test_a_classifier_is_fitted_to_so_many_seeds_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rare class is kept whole; of the others the first by key are taken, whatever the source's order."""
    monkeypatch.setattr(recipe, "MOST_FITTED", 12)
    seeds = [Seed(i, digest(i), 0 if i < 30 else i % 3, "") for i in range(40)]
    chosen = recipe.fitted_seeds(seeds, 3)
    assert Counter(seed.label for seed in chosen) == {0: 4, 1: 3, 2: 3}
    assert [seed.key for seed in chosen if seed.label == 0] == sorted(s.key for s in seeds if s.label == 0)[:4]
    assert chosen == recipe.fitted_seeds(seeds[::-1], 3)


def test_presets_set_the_open_choices() -> None:
    """`official` is one sign step of 0.1; what is given beside a preset wins; an unknown one is named."""
    official = ExpansionConfig.build({"preset": "official", "method": "gif-sd"})
    assert official.steps == 1
    assert official.step_size * official.epsilon == pytest.approx(0.1)
    assert (official.projection, official.diversity_order, official.logit_scale) == ("end", "official", 100.0)
    paper = ExpansionConfig.build({"preset": "paper", "epsilon": 0.2})
    assert (paper.projection, paper.epsilon, paper.check) == ("literal", 0.2, "none")
    with pytest.raises(ConfigError, match=r"papr.*paper"):
        ExpansionConfig.build({"preset": "papr"})
    assert set(PRESETS) == {"paper", "official"}
    assert "select:gif-mae" in METHODS


class LinearPrior2(LinearPrior):
    """A linear prior as an object of the user's own."""

    key = "linear-2"


class NoisyPrior(LinearPrior):
    """A linear prior whose copies start from different places, as Stable Diffusion's do."""

    key = "noisy-1"
    latent_is_embedding = False

    def start(self, images, latents, names, keys, config):  # type: ignore[no-untyped-def]
        shift = [
            torch.stack([torch.randn(192, generator=generator_for(0, key, name, k)) for k in range(config.ratio)])
            for key, name in zip(keys, names, strict=True)
        ]
        return latents[:, None] + torch.stack(shift)


def test_copies_may_start_from_places_of_their_own(seed_folder: Path) -> None:
    """The ball is around each copy's own start, not around the seed."""
    expanded = ExpandedDataset(str(seed_folder), ratio=2, prior=NoisyPrior(), epsilon=0.05, steps=2)
    maker = expanded.imaginer._load().maker
    seeds = list(expanded.plan.seeds[:2])
    found = maker.guide(seeds, 0)
    for seed in seeds:
        picture = expanded.source.sample(seed.index)[0]
        prior = maker.prior
        start = prior.start(
            [picture], prior.encode([picture]), [expanded.classes[seed.label]], [seed.key], expanded.config
        )
        moved = (found[identity(seed)].latents - start).abs().max()
        assert 0 < moved <= 0.05 + 1e-5


def tiny_mae(folder: Path) -> None:
    from gif_datasets.priors import mae

    torch.manual_seed(0)
    config = mae.MaeConfig(32, 8, 24, 1, 2, 16, 1, 2)
    mae.save(mae.MaskedAutoencoder(config), folder)


def tiny_sd(folder: Path) -> None:
    from diffusers import (
        AutoencoderKL,
        DPMSolverMultistepScheduler,
        StableDiffusionImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        cross_attention_dim=384,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=32,
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(embedded_folder() / "clip", model_max_length=8)
    StableDiffusionImg2ImgPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


@pytest.mark.parametrize("make", [pipelines.sd3, pipelines.flux])
def test_img2img_pipelines_of_other_architectures(
    make: Callable[[Path], Any], seed_folder: Path, tmp_path: Path
) -> None:
    """Whatever form their latents have: copies differ, guidance raises the label's probability, and runs are alike."""
    torch.manual_seed(0)
    prior = folder_of(tmp_path / "prior", "sd", make(tmp_path / "scratch").save_pretrained)
    options = {"method": "gif-sd", "ratio": 2, "steps": 3, "strength": 0.5, "decode_steps": 4}
    options |= {"prior": prior, "criteria": ["consistency"], "classifier": "text", "encode_batch": 1}
    options |= {"noise": "element", "step_size": 0.02}  # which lead up, whatever the weights are
    first, again = (
        ExpandedDataset(str(seed_folder), cache_dir=tmp_path / name, decode_batch=size, **options)
        for name, size in (("a", 2), ("b", 1))
    )
    records = [first.provenance(12), first.provenance(13)]
    assert np.mean([record.consistency_after - record.consistency_before for record in records]) > 0
    one, other, repeated = (np.asarray(picture, float) for picture in (first[12][0], first[13][0], again[12][0]))
    assert one.shape == (32, 32, 3)
    assert np.abs(one - other).mean() > 0.5
    assert np.abs(one - repeated).mean() < 0.25 * np.abs(one - other).mean()  # another batch rounds otherwise


def test_of_img2img_only_stable_diffusion_is_tuned(tmp_path: Path) -> None:
    """Other transformers' losses are not known here, which is said."""
    folder = folder_of(tmp_path / "prior", "sd", pipelines.sd3(tmp_path / "scratch").save_pretrained)
    prior = load_prior(find_prior(folder), "sd", torch.device("cpu"), ExpansionConfig(method="sd"))
    with pytest.raises(ConfigError, match="cannot tune a StableDiffusion3Img2ImgPipeline"):
        objective_of(prior, ["ant"], ["a {}"], None, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"_class_name": "FluxFillPipeline"}, "diffusers has no img2img pipeline for a 'FluxFillPipeline'"),
        ({"_class_name": "QwenImagePipeline"}, "cannot load the decoder"),
        ({"_class_name": "os"}, "diffusers has no img2img pipeline for a 'os'"),
    ],
)
def test_pipelines_that_are_none_of_img2img(
    change: dict[str, str], told: str, seed_folder: Path, tmp_path: Path
) -> None:
    """A name in the folder is that of a pipeline which diffusers knows, or nothing is loaded."""
    prior = folder_of(tmp_path / "prior", "sd", pipelines.sd3(tmp_path / "scratch").save_pretrained)
    index = Path(prior) / "decoder" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(PriorError, match=told):
        ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c", method="gif-sd", ratio=1, prior=prior)[13]


BUILDERS = {"mae": tiny_mae, "sd": tiny_sd}


@pytest.mark.parametrize("family", ["mae", "sd"])
def test_priors_scored_through_their_decoder(family: str, seed_folder: Path, tmp_path: Path) -> None:
    """Guided and unguided, through the loader of real checkpoints: deterministic, in any order, and guidance climbs."""
    prior = folder_of(tmp_path / "prior", family, BUILDERS[family])
    options = {
        "ratio": 2,
        "prior": prior,
        "encode_batch": 2,
        "decode_batch": 4,
        "logit_scale": 100.0,
        "classifier": "text",
        "held_class": "prediction",
        **({"decode_steps": 4} if family == "sd" else {}),
    }
    climbing = {**options, "method": f"gif-{family}", "steps": 2, "step_size": 0.02, "entropy_weight": 1.0}
    guided = ExpandedDataset(str(seed_folder), **climbing)
    records = [guided.provenance(12 + i) for i in range(4)]
    before = np.mean([r.consistency_before + r.entropy_before + r.diversity_before for r in records])
    after = np.mean([r.consistency_after + r.entropy_after + r.diversity_after for r in records])
    assert after > before
    again = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "other", **climbing)
    assert [again.provenance(12 + i) for i in (3, 0, 2, 1)] == [records[i] for i in (3, 0, 2, 1)]
    plain = ExpandedDataset(str(seed_folder), method=family, **options)
    images = [np.asarray(plain[12 + i][0]) for i in range(2)]
    assert not np.array_equal(*images)
    assert plain.provenance(12).consistency_before == plain.provenance(12).consistency_after


def test_half_precision_changes_rounding_only(seed_folder: Path, tmp_path: Path) -> None:
    """A pipeline in half precision draws the same and gives nearly the same pictures, under another recipe."""
    options = {
        "ratio": 1,
        "method": "gif-sd",
        "steps": 1,
        "prior": folder_of(tmp_path / "prior", "sd", tiny_sd),
    }
    made = [
        ExpandedDataset(str(seed_folder), decode_steps=4, encode_batch=1, decode_batch=1, dtype=kind, **options)
        for kind in ("float32", "bfloat16")
    ]
    whole, half = (np.asarray(expanded[12][0], dtype=np.float64) for expanded in made)
    assert 0 < np.mean((whole - half) ** 2) < (255**2 * 10**-2.5 if pipelines.draws_alike(torch.bfloat16) else 255**2)
    assert made[0].plan.recipe.digest != made[1].plan.recipe.digest


def test_the_part_size_bounds_memory_and_changes_rounding_only(seed_folder: Path, tmp_path: Path) -> None:
    """Scoring three copies at a time gives the latents of scoring all at once, but for signs of vanishing slopes."""
    prior = folder_of(tmp_path / "prior", "mae", tiny_mae)
    latents = []
    for score_batch in (3, 20):
        expanded = ExpandedDataset(
            str(seed_folder), ratio=2, method="gif-mae", prior=prior, steps=2, score_batch=score_batch, encode_batch=4
        )
        maker = expanded.imaginer._load().maker
        latents.append(torch.cat([found.latents for found in maker.guide(expanded.plan.seeds[:4], 0).values()]))
    assert ((latents[0] - latents[1]).abs() < 1e-4).float().mean() > 0.97


@pytest.mark.filterwarnings("always:.* at once need more memory")
def test_scoring_goes_on_in_halves(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the copies of a single seed are more than can be differentiated through at once, too."""
    options = {
        "ratio": 6,
        "method": "gif-mae",
        "prior": folder_of(tmp_path / "prior", "mae", tiny_mae),
        "steps": 1,
    }
    embed, scored = MaePrior.embed, []

    def hungry(self: MaePrior, latents: torch.Tensor) -> torch.Tensor:
        scored.append(len(latents))
        if len(latents) > 2:
            raise torch.OutOfMemoryError
        return embed(self, latents)

    def starved(*_: object) -> torch.Tensor:
        raise MemoryError

    def latents(name: str, score_batch: int) -> torch.Tensor:
        cache = tmp_path / name
        expanded = ExpandedDataset(
            str(seed_folder), cache_dir=cache, score_batch=score_batch, encode_batch=1, **options
        )
        (found,) = expanded.imaginer._load().maker.guide(expanded.plan.seeds[:1], 0).values()
        return found.latents

    enough = latents("enough", 1)
    monkeypatch.setattr(MaePrior, "embed", hungry)
    with pytest.warns(UserWarning, match="Set score_batch below 5"):
        assert torch.allclose(latents("scarce", 5), enough, atol=1e-4)
    assert scored[:2] == [3, 2]  # two parts of six that hold at most five, then of two
    monkeypatch.setattr(MaePrior, "embed", starved)
    with pytest.raises(PriorError, match="even for one image"), pytest.warns(UserWarning, match="score_batch"):
        latents("none", 3)


class HungryPrior(LinearPrior):
    """Runs out of memory above three pictures: as a GPU does when decoding, as a CPU does when encoding."""

    key = "hungry-1"
    limit = 3

    def encode(self, images):  # type: ignore[no-untyped-def]
        if len(images) > self.limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate")
        return super().encode(images)

    def decode(self, latents, generators, config):  # type: ignore[no-untyped-def]
        pixels = super().decode(latents, generators, config)
        if len(latents) > self.limit:
            raise torch.OutOfMemoryError
        return pixels


@pytest.mark.filterwarnings("always:.* at once need more memory")
def test_a_block_too_large_for_memory_is_made_in_halves(seed_folder: Path, tmp_path: Path) -> None:
    """The pictures are those of a run with enough memory; where not even one fits, that is said."""
    options = {"ratio": 2, "method": "unclip", "decode_batch": 8}
    plain = ExpandedDataset(str(seed_folder), prior=LinearPrior2(), cache_dir=tmp_path / "a", **options)
    with pytest.warns(UserWarning, match="8 images at once"):
        hungry = ExpandedDataset(str(seed_folder), prior=HungryPrior(), cache_dir=tmp_path / "b", **options)[13][0]
    assert np.array_equal(np.asarray(plain[13][0]), np.asarray(hungry))
    starved = HungryPrior()
    starved.limit = 0
    with pytest.raises(PriorError, match="even for one"), pytest.warns(UserWarning, match="at once"):
        ExpandedDataset(str(seed_folder), prior=starved, cache_dir=tmp_path / "c", **{**options, "encode_batch": 6})[13]


def test_other_errors_than_a_lack_of_memory_are_not_retried() -> None:
    """They come as they are, at once."""
    calls = []

    def broken(rows: Sequence[int]) -> list[int]:
        calls.append(len(rows))
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        halving.Memory().rows(broken, [1, 2, 3, 4], "decode_batch")
    assert calls == [4]


@pytest.mark.filterwarnings("always:.* at once need more memory")
def test_a_size_that_did_not_fit_is_not_tried_again() -> None:
    """Blocks are cut in the same way each time; smaller ones are tried as before."""
    tried: list[int] = []

    def run(rows: Sequence[int]) -> Sequence[int]:
        tried.append(len(rows))
        if len(rows) > 3:
            raise MemoryError
        return rows

    memory = halving.Memory()
    with pytest.warns(UserWarning, match="at once need more memory"):
        assert memory.rows(run, range(12), "a size of a test") == list(range(12))
    assert tried == [12, 6, 3, 3, 3, 3]
    tried.clear()
    assert memory.rows(run, range(12), "a size of a test") == list(range(12))
    assert memory.rows(run, range(5), "a size of a test") == list(range(5))
    assert memory.rows(run, range(12), "another") == list(range(12))
    assert tried == [3, 3, 3, 3, 5, 2, 3, 12, 6, 3, 3, 3, 3]


def test_blocks_follow_from_the_memory_there_is() -> None:
    """Large pictures are decoded, and differentiated through, fewer at once; small ones as configured."""
    config = ExpansionConfig(method="gif-sd")

    def fitting(side: int, memory: int) -> tuple[int, int]:
        info = PriorInfo("p", ("sd",), None, "", {"image_size": side})
        fitted = recipe._fitting(config, info, memory)
        return fitted.decode_batch, fitted.score_batch

    assert fitting(32, 16 << 30) == (20, 20)
    assert fitting(512, 16 << 30) == (5, 1)
    assert fitting(512, 80 << 30) == (20, 6)
    assert fitting(512, 1 << 20) == (1, 1)


def test_a_prior_of_one_s_own_takes_the_methods_of_every_family(seed_folder: Path) -> None:
    """Which noise and which defaults it gets is the user's choice."""
    for method in ("gif-mae", "sd"):
        expanded = ExpandedDataset(str(seed_folder), ratio=2, method=method, prior=NoisyPrior())
        assert expanded.provenance(13).method == method


def test_sample_agnostic_selection_takes_the_best_of_all_seeds(seed_folder: Path, tmp_path: Path) -> None:
    """As many copies as sample-wise, but those of the highest entropy gain of all draws, whichever seed they are of."""
    options = {"ratio": 2, "method": "select:unclip", "prior": "linear", "redraws": 2, "logit_scale": 60.0}
    wise = ExpandedDataset(str(seed_folder), **options)
    loaded = wise.imaginer._load()
    assert loaded.scorer is not None
    gains = {}
    for seed in wise.plan.seeds:
        own = loaded.scorer([wise.source.sample(seed.index)[0]])[0]
        for number in range(6):  # what sample-wise selection would draw, attempt by attempt
            picture = loaded.maker.draw([(seed, number % 2 + 1)], number // 2)[0].picture
            scores = loaded.scorer([picture])[0]
            gain = float(criteria.entropy(scores) - criteria.entropy(own))
            gains[seed.key, number + 1] = gain if scores.argmax() == own.argmax() else -np.inf
    best = sorted(gains, key=lambda one: (-gains[one], *one))[:24]

    folder = tmp_path / "out"
    summary = gif_datasets.expand(str(seed_folder), folder, workers=2, selection="sample-agnostic", **options)
    assert (summary.originals, summary.synthetic) == (12, 24)
    assert verify(folder) == []
    records = [record for i in range(36) if (record := load_expanded(folder).provenance(i)).synthetic]
    assert {(record.seed_key, record.copy) for record in records} == set(best)
    assert gif_datasets.expand(str(seed_folder), folder, selection="sample-agnostic", **options).generated == 0
    counts = ShardReader(folder).expansion_counts()
    assert sum(counts.values()) == 12
    failed = [gains[one] <= 0 for one in best]
    assert summary.failed == sum(failed) == sum(not record.passed for record in records)
    assert sum(copies * seeds for copies, seeds in counts.items()) == 24
    assert len(counts) > 1

    lazy = ExpandedDataset(str(seed_folder), selection="sample-agnostic", **options)
    assert len(lazy) == 36
    assert {(lazy.provenance(i).seed_key, lazy.provenance(i).copy) for i in range(12, 36)} == set(best)
    assert lazy.targets == [lazy[i][1] for i in range(36)]
    with pytest.raises(ConfigError, match="select:"):
        ExpansionConfig(selection="sample-agnostic")


def test_methods_and_families_must_fit(seed_folder: Path, tmp_path: Path) -> None:
    """A prior without the method's decoder is refused; an augmentation fits any prior."""
    with pytest.raises(ConfigError, match="family 'mae'"):
        ExpandedDataset(str(seed_folder), method="gif-mae", prior="linear")
    assert len(ExpandedDataset(str(seed_folder), method="select:gridmask", prior="linear")) == 12 * 6


def test_replacing_an_option_keeps_the_method_s_other_defaults() -> None:
    """Defaults of a method fill what is not given, and nothing else."""
    config = ExpansionConfig(method="select:unclip", redraws=3)
    assert (config.check, config.redraws, config.epsilon) == ("selective", 3, 0.0)
    assert dataclasses.replace(config, redraws=4).check == "selective"


def test_augmenting_leaves_a_gpu_s_draws_alone(
    seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeding the CPU's generator for one picture must not restart those that a network's dropout draws from."""

    def seeded(number: int) -> None:
        raise AssertionError("a GPU's generators were seeded")

    for name in ("torch.cuda.manual_seed_all", "torch.manual_seed", "torch.random.manual_seed"):
        monkeypatch.setattr(name, seeded)
    before = torch.get_rng_state()
    expanded = ExpandedDataset(str(seed_folder), ratio=1, method="randaugment", cache_dir=tmp_path)
    assert expanded[13][0].size == expanded[1][0].size
    assert torch.equal(before, torch.get_rng_state())
