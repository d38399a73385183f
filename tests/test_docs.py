"""Examples in docstrings and documents run; what the README says of its commands holds."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import gif_datasets

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    m.name for m in pkgutil.walk_packages(gif_datasets.__path__, "gif_datasets.") if not m.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    """Every `>>>` example gives what it shows."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    """The check above has something to check."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 10


def test_train_on_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/train_on_demo.py expands the demo, trains a small network with a DataLoader, and its loss falls."""
    runpy.run_path(str(ROOT / "docs" / "train_on_demo.py"))["main"](ratio=1)
    losses = [float(x) for x in re.findall(r"epoch \d+: loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) >= 3
    assert losses[-1] < losses[0] - 0.1


def test_loading_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of docs/loading.md run one after another."""
    gif_datasets.expand("demo", tmp_path / "flowers-gif5x", ratio=1, prior="linear", limit=30)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "loading.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/loading.md", "exec"), names)
    assert sum(len(labels) for _, labels in names["again"]) == 60


def test_every_local_link_leads_somewhere() -> None:
    """Relative links of README and docs point to files that are there."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())]
    assert links
    for page, link in links:
        assert (page.parent / link).exists(), f"{page.name} links to {link}"
