"""Hostile and odd pictures by the hundred; `recipes/faults/fuzz_images.py` draws the same by the thousand."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "recipes" / "faults" / "fuzz_images.py"


@pytest.fixture(scope="module")
def fuzz() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_each_case_is_read_or_refused_by_name(fuzz: dict[str, Any]) -> None:
    """Of 500 cases each is a picture or BadImage under its name, twice the same, and as a source none is lost."""
    report = fuzz["run"](500)
    assert report["crashes"] == []
    assert report["read"] + report["refused"] == 500
    assert report["as_source"] == {"seeds": report["read"], "named_as_bad": report["refused"]}
    assert report["read"] > 100
    assert {"refused: not an image", "refused: unreadable", "refused: too many pixels"} <= set(report["outcomes"])


def test_cases_are_a_function_of_their_number(fuzz: dict[str, Any]) -> None:
    """A case that once failed can be made again."""
    assert [fuzz["case"](number) for number in range(40)] == [fuzz["case"](number) for number in range(40)]


def test_what_is_whole_is_read(fuzz: dict[str, Any]) -> None:
    """Every undamaged file of a supported format is read, and no foreign one."""
    seen = set()
    for number in range(400):
        what, name, content = fuzz["case"](number)
        found = fuzz["outcome"](lambda c=content, n=name: fuzz["images"].read_rgb(c, n), name)
        if what.startswith("whole"):
            assert found == "read", (number, what)
            seen.add(what)
        elif what.startswith(("foreign", "bomb")):
            assert found.startswith("refused"), (number, what)
    assert len(seen) >= 8


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x"), KeyError("x"), AttributeError("x"), ZeroDivisionError(), MemoryError(), RecursionError()],
)
def test_whatever_a_decoder_raises(fuzz: dict[str, Any], error: Exception) -> None:
    """It becomes BadImage under the picture's name."""
    from gif_datasets import BadImage
    from gif_datasets.io.images import as_bad_image

    with pytest.raises(BadImage, match=r"a\.png: unreadable"), as_bad_image("a.png"):
        raise error


def test_the_script_reports(tmp_path: Path) -> None:
    """Run as a program it prints one JSON report and exits with 0."""
    command = [sys.executable, str(SCRIPT), "--count", "20", "--first", "70"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cases"] == 20
