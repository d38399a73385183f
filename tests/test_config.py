"""Options are checked before anything heavy is loaded, and errors name the value and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gif_datasets import ConfigError, ExpansionConfig
from gif_datasets.config import METHODS, parse_setting


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


def test_methods_bring_their_defaults_and_options_win() -> None:
    """An option left open is the method's; one that is given stays."""
    for name, method in METHODS.items():
        config = ExpansionConfig(method=name)
        assert {key: getattr(config, key) for key in method.defaults} == method.defaults
    assert ExpansionConfig(method="unclip", epsilon=0.3).epsilon == 0.3


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
