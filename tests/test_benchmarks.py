"""The benchmarks: each runs at its smallest; that of loaders can read its own data, and its claim can fail."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "recipes" / "benchmarks" / "loading.py"
PEER = "a peer"


@pytest.mark.filterwarnings("ignore")  # of other libraries' decoders, and of names that a prior cannot tell apart
@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("first_read", "--pictures 2 --rounds 1", "jpg 224"),
        ("guidance", "--seeds 4 --block 2 --looped 1 --repeats 1 --threads 1", "batched"),
        ("expand", "--seeds 2 --ratio 1 --repeats 1 --batch-sizes 2", "ratio"),
        ("image_formats", "--most 2 --rounds 1", "png"),
        ("memory", "--only 4", ""),
        ("pipeline", "--rates 1000 --formats jpg --side 16 --seeds 4 --ratio 1", "bound"),
        ("scale", "--plan 40 --only 40", ""),
        ("sizes", "--photographs 4 --size 40 30 --max 2 --repeats 1", "listing"),
        ("store", "--pictures 1 --rounds 1", "shard"),
    ],
)
def test_smoke(
    name: str, arguments: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs to its end, in this process, and says what it measured."""
    script = SCRIPT.parent / f"{name}.py"
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), *arguments.split()])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert told in printed.lower()
    assert any(character.isdigit() for character in printed)


@pytest.fixture(scope="module")
def loading() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.filterwarnings("ignore:The image decoding", "ignore:The given buffer")  # torchvision, torch
def test_ours_is_measured_in_every_cell(loading: dict[str, Any], tmp_path: Path) -> None:
    """A loader that fails is named and left out; ours, on the data that is made here, is not."""
    loading["expanded"](tmp_path / "tar", [loading["picture"](i) for i in range(4)], 64)
    ours = next(case for case in loading["CASES"] if case.name == loading["OURS"])
    absent = loading["Case"]("absent", lambda *_: __import__("no_such_module"))
    runs, missing = loading["measure"](tmp_path, [ours, absent], 1)
    assert list(missing) == ["absent"]
    assert [(run["workers"], run["shuffled"]) for run in runs] == [(w, s) for w in (0, 1, 2) for s in (False, True)]
    assert {run["samples"] for run in runs} == {64 * loading["SHARDS"]}
    assert all(0 < run["first"] < 60 and run["rate"] > 0 for run in runs)
    assert loading["table"](runs).count(loading["OURS"]) == 2


def test_a_first_batch_of_many_entries(loading: dict[str, Any], tmp_path: Path) -> None:
    """It is read and decoded, from files that are mostly holes."""
    found = loading["opening"](tmp_path, 2000, 1)
    assert found["entries"] == 2000
    assert 0 < found["seconds"] < found["seconds_to_first_shuffled_indices"] < found["seconds_to_first_batch"]
    assert found["own_mb_after_first_batch"] > 64 * 224 * 224 * 3 / 2**20


@pytest.mark.parametrize(
    ("ours", "torchvision", "peer", "late", "reason"),
    [
        (0.98, 0.96, 0.97, 1.9, ""),
        (0.98, 0.96, 0.98, 1.9, "shuffled, 2: ours is not ahead of a peer"),
        (0.98, 0.94, 0.97, 1.9, "shuffled, 2: ours is at 0.94 of torchvision's bound"),
        (0.98, 0.96, 0.97, 2.1, "the first batch of 1,000,000 entries took 2.1 s"),
        (None, 0.96, 0.97, 1.9, "shuffled, 2: ours was not measured"),
    ],
)
def test_the_claim_can_fail(
    loading: dict[str, Any], ours: float | None, torchvision: float, peer: float, late: float, reason: str
) -> None:
    """Behind a peer or the target in one cell, late, or not measured: each is a line, and nothing else is."""

    def run(name: str, ratio: float, workers: int, shuffled: bool) -> dict[str, Any]:
        cell = {"loader": name, "workers": workers, "shuffled": shuffled}
        return {**cell, "simplejpeg": ratio, "torchvision": torchvision if shuffled else 1.2}

    runs = [run(loading["OURS"], 0.9, 0, False), run(PEER, 0.8, 0, False), run(PEER, peer, 2, True)]
    runs += [run(loading["OURS"], ours, 2, True)] if ours else []
    found = loading["failures"](runs, {"entries": 1e6, "seconds_to_first_batch": late})
    assert len(found) == bool(reason)
    assert not reason or found[0].startswith(reason)
    assert loading["failures"]([], {}) == ["nothing was measured"]


def test_rates_are_of_the_time_in_which_all_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards count by their share of it: of 20 seconds these are ten, in which two workers make 200."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    scale = runpy.run_path(str(SCRIPT.parent / "scale.py"))
    shards = [("a", 0, 10), ("a", 10, 20), ("b", 5, 15)]
    stamps = [scale["Stamp"](process, begun, ended, 100, 1) for process, begun, ended in shards]
    assert scale["steady"](stamps) == (20.0, 2)
