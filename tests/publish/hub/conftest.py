"""What the tests of the Hub share: sets, tokens, and how contents go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from hub_server import WRITER, HubServer
from hub_sets import expand_noise


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five pictures, one of each held out, expanded."""
    return expand_noise(tmp_path_factory.mktemp("made"), rng_seed=0)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures, expanded otherwise."""
    return expand_noise(tmp_path_factory.mktemp("other"), rng_seed=1)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "set"))


@pytest.fixture
def bees(seed_folder: Path) -> datasets.Dataset:
    """A Hugging Face dataset with columns of its own, one of which is named as one of ours."""
    paths = sorted(seed_folder.rglob("*.png"))
    names = sorted({path.parent.name for path in paths})
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=names),
            "method": datasets.Value("string"),
            "boxes": datasets.List(datasets.List(datasets.Value("float32"))),
            "mask": datasets.Image(),
        }
    )
    rows = {
        "id": list(range(100, 112)),
        "picture": [str(path) for path in paths],
        "kind": [names.index(path.parent.name) for path in paths],
        "method": [f"trap {i}" for i in range(12)],
        "boxes": [[[0.5, i]] for i in range(12)],
        "mask": [str(path) for path in reversed(paths)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long whoever waited; nobody really waits."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


@pytest.fixture(params=["lfs", "xet"])
def wire(request: pytest.FixtureRequest) -> str:
    """How contents go: by LFS, or by Xet."""
    if request.param == "xet":
        request.getfixturevalue("xet")
    return str(request.param)


@pytest.fixture
def xet(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The client speaks Xet, and its store is a folder: what hf_xet 1.x takes a ``local://`` address for."""
    pytest.importorskip("hf_xet", reason="needs hf_xet, which comes with huggingface_hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    (tmp_path / "cas").mkdir()
    hub.xet = f"local://{tmp_path / 'cas'}"
    return hub


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has downloaded nothing yet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
