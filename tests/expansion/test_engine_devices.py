"""One process per GPU: who sees which, without any GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu_task import Look

import gif_datasets
from gif_datasets import ConfigError
from gif_datasets.expansion.engines.local import (
    VISIBLE,
    default_workers,
    pool,
    run_local,
    visible_gpus,
)


@pytest.mark.parametrize(("devices", "wanted"), [(("2", "GPU-5f"), ["2", "2", "GPU-5f"]), ((), [None] * 3)])
def test_workers_take_the_gpus_in_turn(
    devices: tuple[str, ...], wanted: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees one of its own; of more workers than GPUs, several share one. Without GPUs nothing is set."""
    monkeypatch.delenv(VISIBLE, raising=False)
    seen = dict(run_local(Look(tmp_path, 3), range(9), 3, devices))
    assert sorted(seen.values(), key=str) == wanted


def test_probes_take_the_gpus_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plan measures with is started as the workers are: each sees one GPU."""
    monkeypatch.delenv(VISIBLE, raising=False)
    with pool(3, ["2", "GPU-5f"], "no advice") as executor:
        seen = dict(executor.map(Look(tmp_path, 3), range(9)))
    assert sorted(map(str, seen.values())) == ["2", "2", "GPU-5f"]


def test_the_starting_process_keeps_no_prior(seed_folder: Path, tmp_path: Path) -> None:
    """It loads one for the classifier, and lets go of it before workers load theirs."""
    config = {"ratio": 2, "prior": "linear", "classifier": "both", "samples_per_shard": 4}
    expanded = gif_datasets.ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c", **config)
    expanded.imaginer.prepare()
    expanded.imaginer.recognition()
    assert expanded.imaginer._loaded is not None
    expanded.precompute(tmp_path / "out", workers=2)
    assert expanded.imaginer._loaded is None
    assert expanded[1][0].size == (32, 32)


@pytest.mark.parametrize(
    ("count", "variable", "wanted"),
    [(2, None, ["0", "1"]), (2, "3, 1", ["3", "1"]), (1, "GPU-5f,GPU-6a", ["GPU-5f"]), (0, "", [])],
)
def test_visible_gpus(count: int, variable: str | None, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, or as the environment names them; there are as many workers, and one where there is none."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv(VISIBLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(VISIBLE, variable)
    assert visible_gpus("cuda") == wanted
    assert default_workers("cuda") == max(1, len(wanted))
    assert visible_gpus("cuda:1") == visible_gpus("cpu") == []
    assert default_workers("cuda:1") == default_workers("mps") == 1


@pytest.mark.parametrize("gpus", [0.0, -1.0, 1.5])
def test_shares_that_no_gpu_has(gpus: float, seed_folder: Path, tmp_path: Path) -> None:
    """Ray gives parts of one, or whole ones."""
    with pytest.raises(ConfigError, match=f"got {gpus}"):
        gif_datasets.expand(str(seed_folder), tmp_path / "out", engine="ray", gpus_per_worker=gpus)
