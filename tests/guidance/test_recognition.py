"""What classes are called, and what is told where a classifier cannot tell them apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import contents
from PIL import Image
from torch.nn import functional as F

import gif_datasets
from gif_datasets import ConfigError, ExpansionConfig
from gif_datasets.cli import main
from gif_datasets.expansion.recipe import make_recipe
from gif_datasets.guidance import fitted_heads, recognition
from gif_datasets.guidance.zeroshot import ZeroShotClassifier
from gif_datasets.io.digests import digest
from gif_datasets.options import parse_setting
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.prompts import DOMAINS, read_synonyms
from gif_datasets.shards.verify import verify
from gif_datasets.sources import open_source

CLASSES = ("ant", "bee", "crab")


def test_a_domain_names_the_prompts() -> None:
    """By option, or of all options at once; the default is the natural domain, and hashes as before."""
    assert ExpansionConfig(templates="medical").templates == DOMAINS["medical"].templates
    for method, named in (("gif-sd", ("templates", "prompts")), ("gif-mae", ("templates",)), ("cutmix", ())):
        found, usual = ExpansionConfig.build({"method": method, "domain": "texture"}), ExpansionConfig(method=method)
        changed = {name for name, value in found.to_json().items() if value != usual.to_json()[name]}
        assert changed == set(named)
        assert all(getattr(found, name) == getattr(DOMAINS["texture"], name) for name in named)
    assert ExpansionConfig.build({"domain": "natural"}) == ExpansionConfig()
    own = ExpansionConfig.build({"domain": "medical", "templates": ("an x-ray of {}",)})
    assert own.templates == ("an x-ray of {}",)
    assert "synonyms" not in ExpansionConfig().to_json()
    for name in ("templates", "prompts", "domain"):
        with pytest.raises(ConfigError, match="did you mean 'medical'"):
            ExpansionConfig.build(dict([parse_setting(f"{name}=medcal")]) | {"method": "gif-sd"})


def test_a_domain_sets_the_strength_of_img2img() -> None:
    """For methods of that family, and unless a strength, a preset or a file of options says otherwise."""

    def strength(method: str, **options: Any) -> float | str:
        return ExpansionConfig.build({"method": method, **options}).strength

    named = {"natural": 0.9, "fine-grained": 0.1, "species": 0.1, "medical": 0.3, "microscopy": 0.3, "industrial": 0.3}
    assert {name: strength("sd", domain=name) for name in named} == named
    assert strength("gif-sd", domain="texture") == strength("gif-sd") == 0.6
    assert strength("gif-sd", domain="medical", strength=0.5) == 0.5
    assert strength("gif-sd", domain="medical", preset="official") == 0.9
    assert strength("gif-unclip", domain="medical") == "own"


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_is_whole(domain: str) -> None:
    """Each prompt has one place for a name."""
    config = ExpansionConfig.build({"method": "gif-sd", "domain": domain})
    assert len(set(config.templates)) == len(config.templates) >= 4
    assert config.prompts


def test_synonyms_are_known_by_content(tmp_path: Path) -> None:
    """TOML or JSON, wherever it is and in whatever order of classes: one recipe; other names: another."""
    toml, moved, text = tmp_path / "a.toml", tmp_path / "elsewhere.toml", tmp_path / "a.JSON"
    toml.write_text('bee = ["honey bee", "bumblebee"]\nant = ["fire ant"]\n')
    moved.write_text('ant = ["fire ant"]\nbee = ["honey bee", "bumblebee"]\n')
    text.write_text(json.dumps({"bee": ["honey bee", "bumblebee"], "ant": ["fire ant"]}))
    configs = [ExpansionConfig(synonyms=str(path)) for path in (toml, moved, text)]
    assert configs[0].synonyms == ("ant = fire ant", "bee = honey bee", "bee = bumblebee")
    assert len({digest(config.to_json()) for config in configs}) == 1
    assert ExpansionConfig(**configs[0].to_json()) == configs[0]
    assert configs[0].names_of("bee") == ("honey bee", "bumblebee")
    assert configs[0].names_of("crab") == ("crab",)
    before = make_recipe(configs[0], CLASSES).digest
    toml.write_text('bee = ["honey bee"]\nant = ["fire ant"]\n')
    assert make_recipe(ExpansionConfig(synonyms=str(toml)), CLASSES).digest != before
    with pytest.raises(ConfigError, match="class 'bee', which is not here; did you mean 'beetle'"):
        make_recipe(configs[0], ("ant", "beetle"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("bee = 3", "bee = 3"),
        ("bee = []", "bee"),
        ("bee = [3]", "bee"),
        ('bee = [" "]', "bee"),
        ("bee", "cannot read the synonyms"),
        ('"a = b" = ["c"]', "a = b"),
    ],
)
def test_a_file_of_another_form_is_told(content: str, told: str, tmp_path: Path) -> None:
    """The line that is wrong is named."""
    (tmp_path / "names.toml").write_text(content)
    with pytest.raises(ConfigError, match=told):
        ExpansionConfig(synonyms=str(tmp_path / "names.toml"))


def test_other_bad_synonyms(tmp_path: Path) -> None:
    """No such file; a list instead of a map; an entry without a name."""
    with pytest.raises(ConfigError, match="No such file"):
        read_synonyms(str(tmp_path / "nowhere.toml"))
    (tmp_path / "names.json").write_text("[]")
    with pytest.raises(ConfigError, match="got list"):
        read_synonyms(str(tmp_path / "names.json"))
    with pytest.raises(ConfigError, match="got 'bee'"):
        ExpansionConfig(synonyms=("bee",))


def test_the_classifier_averages_synonyms() -> None:
    """A class's text is the mean direction of its names' texts; classes without synonyms keep theirs, bit by bit."""
    prior = load_prior(find_prior("embedded"), "mae", torch.device("cpu"))
    names = ("cat", "n02084071", "ship")
    config = ExpansionConfig(synonyms=("n02084071 = dog", "n02084071 = puppy"))
    found = prior.classifier(names, config).weights
    each = prior.classifier(("cat", "dog", "puppy", "ship"), ExpansionConfig()).weights
    torch.testing.assert_close(found[1], F.normalize(each[1:3].mean(0), dim=-1))
    torch.testing.assert_close(found[[0, 2]], each[[0, 3]], rtol=0, atol=1e-6)
    plain = prior.classifier(names, ExpansionConfig())
    assert torch.equal(plain.merged([1, 1, 1]).weights, plain.weights)
    image = open_source("demo").sample(100)[0]  # a dog
    scores = [prior.classifier(names, c).scores(prior.embed_images([image]))[0, 1] for c in (ExpansionConfig(), config)]
    assert scores[1] > scores[0]


def test_telling_apart_leaves_the_seed_out() -> None:
    """Seeds of no structure are told by chance, though class means fitted to them know each; clusters are told."""
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(120, 256, generator=generator), torch.arange(120) % 3
    text = ZeroShotClassifier(F.normalize(torch.randn(3, 256, generator=generator), dim=-1), 20.0)
    fitted = fitted_heads.fit("seeds", text, noise, labels).scores(noise).argmax(1) == labels
    assert fitted.float().mean() > 0.8
    clusters = noise + 8 * torch.eye(256)[labels]
    for kind in ("seeds", "both", "linear"):
        assert fitted_heads.recognised(kind, text, noise, labels).float().mean() < 0.5
        assert fitted_heads.recognised(kind, text, clusters, labels).float().mean() > 0.9
    assert torch.equal(fitted_heads.recognised("text", text, noise, labels), text.scores(noise).argmax(1) == labels)


def test_the_advice_is_what_applies() -> None:
    """Only what is not done already, and another classifier only where it was measured to be better."""
    found = recognition.count("text", CLASSES, [0, 1, 2] * 10, [False] * 29 + [True])
    assert found.weak
    assert recognition.Recognition.from_json(json.dumps(found.to_json()).encode()) == found
    told = found.warning(ExpansionConfig(held_class="prediction"), ("unclip", "mae"))
    for words in ("only 3% of 30 seeds", "chance 33%", "worst: ant 0%", "synonyms=FILE", "held_class=label", "gif-mae"):
        assert words in told
    assert "classifier=" not in told
    better = recognition.Recognition("text", found.right, found.seeds, {"linear": 0.9, "both": 0.5})
    told = better.warning(ExpansionConfig(synonyms=("ant = emmet",)), ("unclip",))
    assert "--set classifier=linear names 90%" in told
    assert not any(words in told for words in ("synonyms", "held_class", "gif-mae"))
    assert (
        recognition.count("text", CLASSES, [0, 1, 2] * 10, [True] * 20 + [False] * 10).warning(ExpansionConfig(), ())
        == ""
    )


def test_a_weak_classifier_is_told_before_the_work_and_written_down(
    seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr by `expand` and `preview`; counts in the folder, which verify and a second run keep."""
    monkeypatch.setattr("gif_datasets.priors.linear.LinearPrior.recognises", True)
    out = tmp_path / "out"
    common = [str(seed_folder), "--prior", "linear", "--ratio", "1", "--set", "classifier=text"]
    assert main(["preview", *common, "--out", str(tmp_path / "p.png"), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("gif-datasets: warning: the classifier (text) names the class of only")
    assert len(shown.err.splitlines()) == 1
    assert main(["expand", *common, "--out", str(out), "--workers", "1", "--json"]) == 0
    made = capsys.readouterr()
    assert made.err == shown.err
    told = json.loads((out / "classifier.json").read_text())
    assert (told["seeds"], set(told["classes"]), told["weak"]) == (12, set(CLASSES), True)
    assert json.loads(made.out)["recognised"] == json.loads(shown.out)["recognised"] == told["accuracy"]
    assert not verify(out)
    before = contents(out)
    assert main(["expand", *common, "--out", str(out), "--workers", "1"]) == 0
    assert capsys.readouterr().err == shown.err
    assert contents(out) == before
    (out / "classifier.json").write_text("{}")
    assert any("classifier.json" in line for line in verify(out))
    assert main(["expand", *common, "--out", str(out), "--workers", "1"]) == 0
    assert contents(out) == before


def test_parts_tell_as_the_whole(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part with the first shard writes it down, and merging brings it."""
    monkeypatch.setattr("gif_datasets.priors.linear.LinearPrior.recognises", True)
    options = {"ratio": 2, "prior": "linear", "samples_per_shard": 4}
    said: list[str] = []
    gif_datasets.expand(seed_folder, tmp_path / "whole", say=said.append, **options)
    for index in (0, 1):
        gif_datasets.expand(seed_folder, tmp_path / f"part-{index}", part=(index, 2), **options)
    gif_datasets.merge_parts([tmp_path / "part-0", tmp_path / "part-1"], tmp_path / "merged")
    left = {name: content for name, content in contents(tmp_path / "merged").items() if not name.startswith(".state")}
    whole = {name: content for name, content in contents(tmp_path / "whole").items() if not name.startswith(".state")}
    assert left == whole
    assert len(said) == 1


def test_nothing_is_told_where_nothing_hangs_on_it(seed_folder: Path, tmp_path: Path) -> None:
    """Random perturbation and augmentation use no classifier; the linear prior's means nothing."""
    for method in ("unclip", "randaugment", "gif-unclip"):
        summary = gif_datasets.expand(seed_folder, tmp_path / method, method=method, prior="linear", ratio=1)
        assert summary.recognised is None
        assert not (tmp_path / method / "classifier.json").exists()
        shutil.rmtree(tmp_path / method)


def test_img2img_asks_by_the_first_name(
    seed_folder: Path, tmp_path: Path, picture: Callable[[int], Image.Image]
) -> None:
    """A class's code is not what a caption should say."""
    seen: list[str] = []

    class Listening(LinearPrior):
        key = "listening"

        def start(
            self, images: Sequence[Image.Image], latents: torch.Tensor, names: Sequence[str], *rest: object
        ) -> torch.Tensor:
            seen.extend(names)
            return latents[:, None]

    expanded = gif_datasets.ExpandedDataset(
        seed_folder, ratio=1, prior=Listening(), synonyms=("ant = fire ant", "ant = emmet"), cache_dir=tmp_path
    )
    for index in range(12, 24):
        expanded[index]
    assert set(seen) == {"fire ant", "bee", "crab"}
