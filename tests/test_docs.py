"""Examples in docstrings and documents run; what the README says of its commands holds."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import importlib.util
import pkgutil
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import install
from hub_server import WRITER, HubServer
from objects import coco
from PIL import Image

import gif_datasets
from gif_datasets.cli import build_parser, main
from gif_datasets.io.parsing import read_toml
from gif_datasets.methods import registered_methods
from gif_datasets.options import parse_setting

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


def test_train_on_demo(seed_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/train_on_demo.py expands a set, trains a small network with a DataLoader, and its loss falls."""
    runpy.run_path(str(ROOT / "docs" / "train_on_demo.py"))["main"](str(seed_folder), ratio=1, epochs=6)
    losses = [float(x) for x in re.findall(r"epoch \d+: loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) >= 3
    assert losses[-1] < losses[0] - 0.1


def test_loading_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of docs/loading.md run one after another."""
    gif_datasets.expand("demo", tmp_path / "flowers-gif5x", ratio=1, method="randaugment", limit=30)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "loading.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/loading.md", "exec"), names)
    assert sum(len(labels) for _, labels in names["again"]) == 60


def test_splits_page(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of docs/splits.md run one after another, but for scikit-learn's where that is not there."""
    (tmp_path / "my-images").symlink_to(seed_folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in fenced("splits.md", "python"):
        if "sklearn" not in block or importlib.util.find_spec("sklearn"):
            exec(compile(block, "docs/splits.md", "exec"), names)
    assert len(names["inner"]) == 3 * len(names["seeds"])
    assert len(names["test"]) + len(names["seeds"]) == 12


def test_objects_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/objects.md: a target of torchvision's form, and batches."""
    options = {"keep": "boxes", "ratio": 1, "method": "cutout", "cache_dir": tmp_path / "cache"}
    gif_datasets.expand(coco(tmp_path / "seeds"), tmp_path / "x", **options)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in fenced("objects.md", "python"):
        exec(compile(block, "docs/objects.md", "exec"), names)
    assert names["target"]["boxes"].shape == (2, 4)
    assert names["target"]["labels"].tolist() == [0, 1]
    assert [len(images) for images, labels, objects in names["loader"]] == [8, 4]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FROM_CODE = "<!-- from code:"
"""Marks a page of which Sphinx makes a part, and whose anchors it therefore checks alone."""


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts and MyST name them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_local_link_leads_somewhere() -> None:
    """Relative links of README and docs point to files that are there, and to headings that they have."""
    links = [
        (page, *link) for page in PAGES for link in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", page.read_text())
    ]
    assert sum(bool(anchor) for _, _, anchor in links) > 20
    for page, path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {path}"
        if anchor and FROM_CODE not in target.read_text():
            assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


def test_every_recipe_that_is_named_is_there() -> None:
    """Paths of recipes in README, docs and the recipes' own pages exist, in links, commands and in passing."""
    there = r"(?<!--page )\brecipes/"  # a page is written there
    pages = [*PAGES, *sorted((ROOT / "recipes").rglob("*.md"))]
    named = {(page, path) for page in pages for path in re.findall(rf"{there}[\w./-]*\w", page.read_text())}
    assert len(named) > 30
    for page, path in sorted(named):
        assert (ROOT / path).exists(), f"{page.relative_to(ROOT)} names {path}"


def test_every_command_in_the_pages_is_one() -> None:
    """Commands that README and docs show parse, and the options that they set are there."""
    options = {spec.name for spec in dataclasses.fields(gif_datasets.ExpansionConfig)} | {"preset", "domain"}
    blocks = [
        block for page in PAGES for block in re.findall(r"```(?:bash|text)\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    lines = re.findall(r"gif-datasets [a-z].*", "\n".join(blocks).replace("\\\n", " "))
    assert len(lines) > 40
    for line in lines:
        words = shlex.split(re.sub(r"\$\w+", "0", line).removesuffix("&"), comments=True)
        args = build_parser().parse_args(words[1:])
        assert {parse_setting(setting)[0] for setting in getattr(args, "set", [])} <= options, line


def fenced(page: str, language: str) -> list[str]:
    """Code blocks of one language of a page of docs."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def run_commands(block: str, *more: str) -> None:
    """Run the lines of a block of commands, those that imagine with more flags; each must succeed."""
    for line in block.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "gif-datasets"
        here = ["--workers", "1"] if words[0] == "expand" else []  # in this process, which has everything loaded
        flags = more if words[0] in ("expand", "preview") else ()
        assert main([*words, *here, *flags]) == 0, line


@pytest.fixture
def extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The three files of docs/extend.md, installed as a package."""
    blocks, (pyproject,) = fenced("extend.md", "python"), fenced("extend.md", "toml")
    groups = read_toml(pyproject)["project"]["entry-points"]
    lines = [line for group in groups for line in (f"[{group}]", *(f"{n} = {v}" for n, v in groups[group].items()))]
    install(tmp_path / "site", "mine", "\n".join(lines))
    for block in blocks:
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / "site" / name).write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registered_methods.cache_clear()
    yield blocks
    registered_methods.cache_clear()


def few_pictures(folder: Path, classes: int, each: int) -> None:
    """Take away all but some pictures of some classes."""
    for number, group in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in sorted(group.iterdir())[each if number < classes else 0 :]:
            path.unlink()
        if number >= classes:
            group.rmdir()


def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/tutorial.md leads from a folder to a trained model; run on nine pictures, for three steps each."""
    tiny = ("--ratio=2", "--batch-size=6", "--set=decode_steps=1", "--set=guidance_scale=1")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tutorial.md").read_text()
    assert "STEPS = 600\n" in text
    (first, *rest) = re.findall(r"```(bash|python)\n(.*?)```", text.replace("STEPS = 600", "STEPS = 3"), re.DOTALL)
    names: dict[str, object] = {}
    exec(first[1], names)
    few_pictures(tmp_path / "my-images", classes=3, each=3)
    for language, block in rest:
        run_commands(block, *tiny) if language == "bash" else exec(compile(block, "docs/tutorial.md", "exec"), names)
    told = capsys.readouterr().out
    assert re.search(r"originals: \d+% of 3 held-out images\nall: \d+% of 3 held-out", told)
    assert re.search(r"it is (fish|hand tool|monument), taken for", told)
    assert {"look.png", "expanded", "report.html", "model.pt"} <= {path.name for path in tmp_path.iterdir()}


def test_life_page(
    hub: HubServer, seed_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/life.md goes through the generations of a folder and two pushes, one block after another."""
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.chdir(seed_folder.parent)
    seed_folder.parent.joinpath("my-images").symlink_to(seed_folder)
    names: dict[str, object] = {}
    for language, block in re.findall(
        r"```(bash|python)\n(.*?)```", (ROOT / "docs" / "life.md").read_text(), re.DOTALL
    ):
        run_commands(block) if language == "bash" else exec(compile(block, "docs/life.md", "exec"), names)
    told = capsys.readouterr().out
    assert "generation 2: 1 seeds added, 0 removed" in told
    assert "generation 3: 1 seeds added, 1 removed" in told
    assert "1 seeds withdrawn: ant/0.png" in told
    assert re.search(r"\d+ of \d+ files sent\n36 36\n", told)
    assert "super_squash_history" in told


def test_refine_page(seed_folder: Path, picture: Callable[[int], Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/refine.md runs, and leaves its results where the page says."""
    monkeypatch.chdir(seed_folder.parent)
    seed_folder.parent.joinpath("my-images").symlink_to(seed_folder)
    for label, name in enumerate(("ant", "bee", "crab")):
        Path("my-test-images", name).mkdir(parents=True)
        picture(100 + label).save(Path("my-test-images", name, "0.png"))
    (block,) = fenced("refine.md", "bash")
    run_commands(block.replace("--rounds 2", "--rounds 1 --folds 2 --runs 1 --steps 20 --image-size 8"))
    assert {path.name for path in Path("expanded-refine").iterdir()} >= {
        "folds",
        "tests",
        "refine.json",
        "compare.html",
    }


@pytest.mark.parametrize("page", ["own-data.md", "choosing.md", "domains.md"])
def test_how_to_pages(page: str, seed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of the how-to pages run; commands with the prior that has no weights."""
    monkeypatch.chdir(seed_folder.parent)
    for name in ("my-images", "my-scans"):
        seed_folder.parent.joinpath(name).symlink_to(seed_folder)
    commands, programs = fenced(page, "bash"), fenced(page, "python")
    assert commands or programs
    for block in commands:
        run_commands(block, "--prior", "linear")
    for block in programs:
        exec(compile(block, page, "exec"), {})


def test_extending_page(
    extensions: list[str], seed_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method, a prior and a source of another package, in under 50 lines each, work from the command line."""
    assert len(extensions) == 3
    assert all(len(block.splitlines()) < 50 for block in extensions)
    rows = [f"{path.relative_to(seed_folder)},{path.parent.name}" for path in sorted(seed_folder.rglob("*.png"))]
    (seed_folder / "images.csv").write_text("\n".join(["path,grade", *rows]))
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
