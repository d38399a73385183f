"""The plan before the bill: what it foresees is what `expand` then makes, and its arithmetic is plain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gif_datasets
from gif_datasets import ConfigError, ExpansionConfig
from gif_datasets.expansion.estimate import estimate


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 3, "validation_share": 0.25},
        {"ratio": 1, "method": "randaugment", "originals": False},
        {"ratio": 2, "method": "select:unclip", "redraws": 2},
    ],
)
def test_samples_shards_and_bytes_are_those_of_the_run(
    options: dict[str, Any], seed_folder: Path, tmp_path: Path
) -> None:
    """Counted exactly; bytes from the mean of what was made; nothing is left behind."""
    config = ExpansionConfig(prior="linear", samples_per_shard=8, **options)
    found = estimate(str(seed_folder), workers=2, config=config)
    summary = gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / "cache", config=config)
    for name in ("originals", "synthetic", "validation", "shards"):
        assert getattr(found, name) == getattr(summary, name), name
    assert found.bytes == pytest.approx(summary.bytes, rel=0.15)
    assert found.seconds == pytest.approx(sum(found.stages.values()))
    assert found.bottleneck == max(found.stages, key=lambda name: found.stages[name])
    assert min(found.probe.start, found.probe.original, found.probe.copy, found.memory) > 0
    assert (found.probe.fit > 0) <= config.fits_classifier


def test_more_machines_share_what_can_be_shared(seed_folder: Path) -> None:
    """Reading and starting take as long on each; the price is of all of them together; no shard is shared."""
    config = ExpansionConfig(prior="linear", samples_per_shard=20, originals=False)
    found = estimate(str(seed_folder), workers=1, price=3.0, config=config)
    first, second, *_ = found.machines
    assert (first.machines, second.machines) == (1, 2)
    assert first.hours == pytest.approx(found.seconds / 3600)
    assert found.stages["waiting for the last shards"] == pytest.approx(0)
    saved = found.stages["copies"] / 3  # of three shards one worker makes two
    assert first.hours - second.hours == pytest.approx(saved / 3600)
    assert len({machines.hours for machines in found.machines[2:]}) == 1  # for 4 and more of them there are not enough
    assert [m.price for m in (first, second)] == [pytest.approx(3 * first.hours), pytest.approx(6 * second.hours)]


def test_the_command(seed_folder: Path) -> None:
    """As text it names the bottleneck and the machines; as JSON it has all figures."""
    words = [sys.executable, "-m", "gif_datasets", "plan", str(seed_folder), "--prior", "linear", "--workers", "1"]
    text = subprocess.run([*words, "--price", "2"], capture_output=True, text=True, check=True).stdout
    assert "12 seeds + 60 imagined samples" in text
    assert "largest stage" in text
    assert " 16 machines like this" in text
    value = json.loads(subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout)
    assert value["synthetic"] == 60
    assert value["machines"][0]["price"] is None


def test_numbers_out_of_range(seed_folder: Path) -> None:
    """Before anything is read."""
    for options, words in (({"workers": 0}, "got 0"), ({"price": -1.0}, "price"), ({"price": float("nan")}, "price")):
        with pytest.raises(ConfigError, match=words):
            estimate(str(seed_folder), **options)
