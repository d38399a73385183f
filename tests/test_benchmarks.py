"""The benchmarks: each runs at its smallest; that of loaders can read its own data, and its claim can fail."""

from __future__ import annotations

import runpy
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

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
def loading() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield runpy.run_path(str(SCRIPT))


def test_ours_is_measured_in_every_cell(loading: dict[str, Any], tmp_path: Path) -> None:
    """On images that are made here, in a process of its own; rounds that were measured before are kept."""
    images = loading["Images"]("webp", 24, 96, 4)

    def rounds(known: dict[str, Any], number: int) -> list[dict[str, Any]]:
        args = Namespace(rounds=number, only="none of them", environments=tmp_path / "made")
        return list(loading["measured"](known, tmp_path, images, args))

    (first,) = rounds({}, 1)
    runs = first["runs"]
    assert [(run["workers"], run["shuffled"]) for run in runs] == [(w, s) for w in (0, 1, 2) for s in (False, True)]
    assert {run["samples"] for run in runs} == {96}
    assert all(0 < run["first"] < 60 and run["rate"] > 0 for run in runs)
    assert loading["table"](runs).count(loading["OURS"]) == 2
    (second,) = rounds(first, 2)
    assert second["runs"][: len(runs)] == runs
    assert {run["round"] for run in second["runs"]} == {0, 1}
    assert rounds(second, 2) == []


def test_a_loader_that_fails_is_named(loading: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be installed, one that does not start, and one that finds too few images to be measured."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    images, case = loading["Images"]("jpg", 24, 16, 4), loading["Case"]
    loading["prepare"](tmp_path, images)
    absent, unknown = case("absent", lambda _: (), ("no-such-package",)), case("unknown", lambda _: ())
    with loading["running"]([absent, unknown, loading["CASES"][0]], images, tmp_path, tmp_path) as (started, missing):
        assert loading["one_round"](0, started, missing) == []
    assert list(missing) == ["absent", "unknown", loading["OURS"]]
    assert "no-such-package" in missing["absent"]
    assert "ended with 1" in missing["unknown"]
    assert "too few" in missing[loading["OURS"]]


def test_an_environment_hides_what_it_replaces_and_changes_nothing_else(tmp_path: Path) -> None:
    """It has its own tqdm and the running one's torch; what runs here still has its own tqdm. It is made once."""
    environments = runpy.run_path(str(SCRIPT.parent / "environments.py"))
    wheel = tmp_path / "tqdm-999.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tqdm/__init__.py", "")
        file.writestr("tqdm-999.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tqdm\nVersion: 999.0\n")
        file.writestr("tqdm-999.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tqdm-999.0.dist-info/RECORD", "")
    before = metadata.version("tqdm")
    python = environments["environment"](tmp_path / "own", (str(wheel),))
    found = "from importlib import metadata; import torch; print(metadata.version('tqdm'), torch.__file__)"
    printed = subprocess.run([python, "-c", found], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["999.0", torch.__file__]
    assert metadata.version("tqdm") == before != "999.0"
    wheel.unlink()
    assert environments["environment"](tmp_path / "own", (str(wheel),)) == python


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
        (0.98, 0.96, 0.98, 1.9, "jpg-224: shuffled, 2: ours is not ahead of a peer"),
        (0.98, 0.94, 0.97, 1.9, "jpg-224: shuffled, 2: ours is at 0.94 of torchvision's bound"),
        (0.98, 0.96, 0.97, 2.1, "the first batch of 1,000,000 entries took 2.1 s"),
        (None, 0.96, 0.97, 1.9, "jpg-224: shuffled, 2: ours was not measured"),
        (0.98, 0.96, None, 1.9, "jpg-224: a peer was not measured (why)"),
    ],
)
def test_the_claim_can_fail(
    loading: dict[str, Any], ours: float | None, torchvision: float, peer: float | None, late: float, reason: str
) -> None:
    """Behind a peer or the target in one cell, late, or not measured: each is a line, and nothing else is."""

    def run(name: str, ratio: float, workers: int, shuffled: bool) -> dict[str, Any]:
        cell = {"loader": name, "workers": workers, "shuffled": shuffled}
        return {**cell, "decoder": ratio, "torchvision": torchvision if shuffled else 1.2}

    runs = [run(loading["OURS"], 0.9, 0, False), run(PEER, 0.8, 0, False)]
    runs += [run(name, ratio, 2, True) for name, ratio in ((loading["OURS"], ours), (PEER, peer)) if ratio]
    tables = {"jpg-224": {"runs": runs, "missing": {} if peer else {PEER: "why"}}}
    opened = {"entries": 1e6, "seconds_to_first_batch": late}
    found = loading["failures"]({"tables": tables, "opening": opened})
    assert len(found) == bool(reason)
    assert not reason or found[0].startswith(reason)
    assert loading["failures"]({"tables": {}, "opening": {}}) == ["nothing was measured"]


def test_rates_are_of_the_time_in_which_all_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards count by their share of it: of 20 seconds these are ten, in which two workers make 200."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    scale = runpy.run_path(str(SCRIPT.parent / "scale.py"))
    shards = [("a", 0, 10), ("a", 10, 20), ("b", 5, 15)]
    stamps = [scale["Stamp"](process, begun, ended, 100, 1) for process, begun, ended in shards]
    assert scale["steady"](stamps) == (20.0, 2)
