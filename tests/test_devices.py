"""One process per GPU: who sees which, without any GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu_task import Look

import gif_datasets
from gif_datasets import ConfigError
from gif_datasets.engines.local import VISIBLE, default_workers, run_local, visible_gpus


@pytest.mark.parametrize(("devices", "wanted"), [(("2", "GPU-5f"), ["2", "2", "GPU-5f"]), ((), [None] * 3)])
def test_workers_take_the_gpus_in_turn(
    devices: tuple[str, ...], wanted: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees one of its own; of more workers than GPUs, several share one. Without GPUs nothing is set."""
    monkeypatch.delenv(VISIBLE, raising=False)
    seen = dict(run_local(Look(tmp_path, 3), range(9), 3, devices))
    assert sorted(seen.values(), key=str) == wanted


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
