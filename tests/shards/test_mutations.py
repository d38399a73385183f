"""Damaged and forged folders, some of each kind; `recipes/faults/mutate.py` makes them by the thousand."""

from __future__ import annotations

import os
import random
import runpy
from pathlib import Path
from typing import Any

import pytest

from gif_datasets.shards import tar

SCRIPT = Path(__file__).parents[2] / "recipes" / "faults" / "mutate.py"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    for name in ("sync", "fsync"):  # which the tool replaces
        monkeypatch.setattr(os, name, getattr(os, name))
    return runpy.run_path(str(SCRIPT))


def test_each_is_read_or_refused(tool: dict[str, Any]) -> None:
    """Every command ends in one line, and none gives another image without a word."""
    report = tool["mutate"](12)
    assert report["wrong"] == []
    assert len(report["kinds"]) >= 5


def test_another_image_would_be_noticed(tool: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the tool, were it not by the package."""
    folder = tool["written"](tmp_path, "jpg")
    truth = tool["images"](folder, check=True)
    assert tool["faults"](folder, truth, forged=False) == {}
    path = min((folder / "data").iterdir())
    start, size = next(tar.entries(path)).members["jpg"]
    tool["flip"](random.Random(0), path, start + size // 2, start + size - 2)  # of the compressed pixels
    monkeypatch.setattr(tar, "names_image", lambda record, image: True)
    assert "another image" in tool["faults"](folder, truth, forged=False)["load_expanded, check"]
