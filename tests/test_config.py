"""Options are checked before anything heavy is loaded, and errors name the value and the way out."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gif_datasets import ConfigError, ExpansionConfig
from gif_datasets.methods import METHODS, PRESETS
from gif_datasets.options import parse_setting


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 0}, ["ratio", "at least 1", "0"]),
        ({"ratio": -1}, ["ratio", "-1"]),
        ({"ratio": 10**9}, ["ratio", "at most"]),
        ({"ratio": 2.5}, ["ratio", "int", "2.5"]),
        ({"ratio": True}, ["ratio", "True"]),
        ({"epsilon": -0.1}, ["epsilon", "-0.1"]),
        ({"epsilon": float("nan")}, ["epsilon", "finite"]),
        ({"method": "gif-unclp"}, ["gif-unclp", "did you mean 'gif-unclip'"]),
        ({"projection": "none"}, ["projection", "none"]),
        ({"templates": ["a photo"]}, ["templates", "a photo"]),
        ({"templates": []}, ["templates"]),
        ({"templates": "a {}"}, ["templates"]),
        ({"split": "tr/ain"}, ["split"]),
        ({"guidance_scale": 0.5}, ["guidance_scale", "0.5"]),
        ({"criteria": ["consistncy"]}, ["criteria", "consistncy", "did you mean 'consistency'"]),
        ({"criteria": ["diversity"], "ratio": 1}, ["ratio 1", "diversity"]),
        ({"epsilonn": 1}, ["epsilonn", "did you mean 'epsilon'"]),
        ({"epsilon": 10**400}, ["epsilon", "finite"]),
        ({"preset": ["paper"]}, ["preset", "paper"]),
        ({"preset": "official", "epsilon": "abc"}, ["epsilon", "abc"]),
        ({"preset": "paper", "method": "gif"}, ["method", "gif"]),
        ({"method": "select:cutout", "check": "none"}, ["select:cutout", "check", "none"]),
        ({"method": "sd", "strength": 0.05}, ["strength", "0.05", "15 decode_steps"]),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: list[str]) -> None:
    """Each bad option raises one line with its name and value."""
    with pytest.raises(ConfigError) as caught:
        ExpansionConfig.build(options)
    for word in words:
        assert word in str(caught.value)


def test_criteria_are_any_subset() -> None:
    """What is not named has no weight; a single copy has no diversity to guide by, unless it is asked for."""
    assert ExpansionConfig().criteria_weights == (1, 0.1, 1)
    assert ExpansionConfig.build({"preset": "paper"}).criteria_weights == (1, 1, 1)
    assert ExpansionConfig(ratio=1).criteria_weights == (1, 0.1, 0)
    assert ExpansionConfig(criteria=("diversity",), diversity_weight=2).criteria_weights == (0, 0, 2)
    assert ExpansionConfig(criteria=()).criteria_weights == (0, 0, 0)


def test_a_choice_of_several_is_a_list_or_plain_text() -> None:
    """As one writes it behind --set, with commas between."""
    config = ExpansionConfig.build(
        dict([parse_setting("criteria=entropy"), parse_setting("save_memory=offload, vae-tiling")])
    )
    assert (config.criteria, config.save_memory) == (("entropy",), ("offload", "vae-tiling"))
    assert ExpansionConfig(save_memory="").save_memory == ()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown save_memory 'ofload'; did you mean 'offload'"):
        ExpansionConfig.build({"save_memory": "vae-tiling,ofload"})


def test_methods_bring_their_defaults_and_options_win() -> None:
    """An option left open is the method's; one that is given stays."""
    for name, method in METHODS.items():
        config = ExpansionConfig(method=name)
        assert {key: getattr(config, key) for key in method.defaults} == method.defaults
    assert ExpansionConfig(method="unclip", epsilon=0.3).epsilon == 0.3


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_preset_sets_what_the_method_has(name: str, preset: str) -> None:
    """It guides no unguided method, leaves a selection its check, and is the same however the method is named."""
    config, method = ExpansionConfig.build({"preset": preset, "method": name}), METHODS[name]
    assert (config.steps > 0) == method.guided
    assert config.check == method.defaults["check"]
    if not method.guided:
        assert config.epsilon == method.defaults["epsilon"]
    if method.guided and preset == "official":
        assert config.step_size * config.epsilon == pytest.approx(0.1)
    if name == "gif-unclip":
        assert ExpansionConfig.build({"preset": preset}) == config
    assert ExpansionConfig.build(config.to_json()) == config


@pytest.mark.parametrize(("method", "epsilon"), [("gif-unclip", 0.1), ("gif-mae", 5.0), ("gif-sd", 0.8)])
def test_the_paper_s_epsilon(method: str, epsilon: float) -> None:
    """Section 5 of the paper: 0.1 for GIF-DALLE and 5 for GIF-MAE; an epsilon that is given stays."""
    assert ExpansionConfig.build({"preset": "paper", "method": method}).epsilon == epsilon
    assert ExpansionConfig.build({"preset": "paper", "method": method, "epsilon": 0.2}).epsilon == 0.2


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("randaugment", "epsilon", 0.5),
        ("unclip", "steps", 10),
        ("mae", "keep_class", True),
        ("gif-mae", "strength", 0.9),
        ("gif-unclip", "redraws", 7),
        ("cutout", "classifier", "both"),
    ],
)
def test_what_does_nothing_is_told_and_changes_nothing(method: str, option: str, value: Any) -> None:
    """So it changes no digest either."""
    with pytest.warns(UserWarning, match=f"{option} does nothing for method '{method}'"):
        config = ExpansionConfig.build({"method": method, option: value})
    assert config == ExpansionConfig(method=method)


@pytest.mark.parametrize("options", [{"ratio": 1}, {"criteria": ["consistency", "entropy"]}])
def test_a_weight_without_its_criterion_is_told_and_changes_nothing(options: dict[str, Any]) -> None:
    """A single copy has no diversity; a preset's weights are not the user's, so nothing is said of them."""
    with pytest.warns(UserWarning, match="diversity_weight does nothing where 'diversity' is not among the criteria"):
        config = ExpansionConfig.build({**options, "diversity_weight": 2.0})
    assert config == ExpansionConfig.build(options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExpansionConfig.build({"preset": "paper", **options})


@pytest.mark.parametrize(
    "options",
    [
        "epsilon=-1",
        "ratio=0",
        "criteria=['x']",
        "ratio=1, criteria=['consistency', 'diversity']",
        "method='gif-sdd'",
        "method='gif-mae', prior='linear'",
        "method='gif-sd', prior='kandinsky22'",
    ],
)
def test_bad_options_load_no_model(options: str, seed_folder: Path, tmp_path: Path) -> None:
    """Neither a prior nor the libraries that would load one."""
    code = f"""
import sys, gif_datasets
try:
    gif_datasets.expand({str(seed_folder)!r}, {str(tmp_path / "out")!r}, {options})
except gif_datasets.ConfigError:
    sys.exit(len({{"open_clip", "diffusers", "timm", "transformers"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert not (tmp_path / "out").exists()


def test_file_then_command_line(tmp_path: Path) -> None:
    """A TOML file sets options, and explicit values override it."""
    path = tmp_path / "c.toml"
    path.write_text('ratio = 7\nepsilon = 0.4\ntemplates = ["an x-ray of a {}"]\n')
    config = ExpansionConfig.build({"ratio": 2, "method": None}, path)
    assert (config.ratio, config.epsilon, config.templates) == (2, 0.4, ("an x-ray of a {}",))


@pytest.mark.parametrize("text", ["ratio = = 2", "\xff"])
def test_broken_file(tmp_path: Path, text: str) -> None:
    """A file that is no TOML is named."""
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"c\.toml"):
        ExpansionConfig.build({}, path)


@given(st.text(max_size=40))
def test_any_setting_parses_or_is_refused(text: str) -> None:
    """No text given to --set crashes the parser."""
    try:
        name, _ = parse_setting(text)
    except ConfigError:
        return
    assert name


@given(ratio=st.integers(1, 1000), epsilon=st.floats(0, 1e6), steps=st.integers(0, 100))
def test_json_round_trip(ratio: int, epsilon: float, steps: int) -> None:
    """A configuration rebuilt from its JSON is equal."""
    config = ExpansionConfig(ratio=ratio, epsilon=epsilon, steps=steps)
    assert ExpansionConfig.build(config.to_json()) == config
