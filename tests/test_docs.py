"""Examples in docstrings and documents run; what the README says of its commands holds."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gif_datasets
from gif_datasets.cli import main
from gif_datasets.methods import registered_methods

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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


def fenced(page: str, language: str) -> list[str]:
    """Code blocks of one language of a page of docs."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def run_commands(block: str) -> None:
    """Run the lines of a block of commands, each of which must succeed."""
    for line in block.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "gif-datasets"
        here = ["--workers", "1"] if words[0] == "expand" else []  # in this process, which has everything loaded
        assert main([*words, *here]) == 0, line


@pytest.fixture
def extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The three files of docs/extend.md, installed as a package."""
    blocks, (pyproject,) = fenced("extend.md", "python"), fenced("extend.md", "toml")
    info = tmp_path / "site" / "mine-1.dist-info"
    info.mkdir(parents=True)
    for block in blocks:
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / "site" / name).write_text(block)
    groups = tomllib.loads(pyproject)["project"]["entry-points"]
    lines = [line for group in groups for line in (f"[{group}]", *(f"{n} = {v}" for n, v in groups[group].items()))]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registered_methods.cache_clear()
    yield blocks
    registered_methods.cache_clear()


def test_extending_page(
    extensions: list[str], seed_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method, a prior and a source of another package, in under 50 lines each, work from the command line."""
    assert len(extensions) == 3
    assert all(len(block.splitlines()) < 50 for block in extensions)
    rows = [f"{path.relative_to(seed_folder)},{path.parent.name}" for path in sorted(seed_folder.rglob("*.png"))]
    (seed_folder / "pictures.csv").write_text("\n".join(["path,grade", *rows]))
    monkeypatch.chdir(seed_folder)
    for block in fenced("extend.md", "bash"):
        run_commands(block)
    speckled, waved = (gif_datasets.load_expanded(seed_folder / name) for name in ("speckled", "waved"))
    assert speckled.classes == waved.classes == ("ant", "bee", "crab")
    assert speckled.provenance(12).method == "speckle"
    assert waved.provenance(12).prior == "waves"
    assert not np.array_equal(np.asarray(speckled[0][0]), np.asarray(speckled[12][0]))
    capsys.readouterr()
    assert main(["methods"]) == 0
    assert "my_method:speckle" in capsys.readouterr().out


def test_a_registered_method_needs_its_key(
    extensions: list[str], seed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another key makes other pictures; without one the method is refused by name, as an unknown one is."""
    method = registered_methods()["speckle"].registered.load()
    first = gif_datasets.ExpandedDataset(str(seed_folder), method="speckle").fingerprint
    monkeypatch.setattr(method, "key", "speckle 2")
    assert gif_datasets.ExpandedDataset(str(seed_folder), method="select:speckle").plan.recipe.to_json()["method_key"]
    assert gif_datasets.ExpandedDataset(str(seed_folder), method="speckle").fingerprint != first
    monkeypatch.delattr(method, "key")
    with pytest.raises(gif_datasets.ConfigError, match=r"speckle.*key.*my_method:speckle"):
        gif_datasets.ExpandedDataset(str(seed_folder), method="speckle")
    with pytest.raises(gif_datasets.ConfigError, match="did you mean 'speckle'"):
        gif_datasets.ExpandedDataset(str(seed_folder), method="spekle")


def test_a_registered_source_that_fails_is_named(extensions: list[str]) -> None:
    """What another package raises becomes one line with the source's text."""
    with pytest.raises(gif_datasets.SourceError, match=r"csv:nowhere\.csv.*No such file"):
        gif_datasets.ExpandedDataset("csv:nowhere.csv")
