"""The examples of docs/frameworks.md run with the real libraries, on lazy, precomputed and Hub-loaded sets alike."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pages
import pytest
import torch
from hub_server import WRITER
from torch.utils.data import DistributedSampler

import gif_datasets
from gif_datasets import ConfigError, DataLoader, ExpandedDataset, load_expanded

KINDS = ("lazy", "precomputed", "hub")
SAMPLES = 60
DEMO = Path(gif_datasets.__file__).parent / "assets" / "demo"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's first example ran: `images`, the folder made from it, and what the Hub gave."""
    place = tmp_path_factory.mktemp("frameworks")
    for kind in sorted(path for path in DEMO.iterdir() if path.is_dir()):
        (place / "images" / kind.name).mkdir(parents=True)
        for path in sorted(kind.iterdir())[:2]:
            shutil.copy(path, place / "images" / kind.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HF_TOKEN", WRITER)
        patch.setenv("GIF_DATASETS_CACHE", str(place / "cache"))
        names: dict[str, Any] = {}
        exec(pages.block(), names)
    (place / "hub.pickle").write_bytes(pickle.dumps(names["train"]))
    return place


@pytest.fixture(params=KINDS)
def train(request: pytest.FixtureRequest, place: Path, tmp_path: Path) -> Any:
    """A set of each kind; the lazy one has imagined nothing yet."""
    return opened(request.param, place, tmp_path)


def opened(kind: str, place: Path, own: Path) -> Any:
    if kind == "hub":
        return pickle.loads((place / "hub.pickle").read_bytes())
    if kind == "precomputed":
        return load_expanded(place / "images-gif2x")
    return ExpandedDataset(str(place / "images"), ratio=2, prior="linear", cache_dir=own / "cache")


@pytest.fixture(scope="module")
def truth(place: Path) -> Counter[str]:
    """Every image of the set, once."""
    loaded = load_expanded(place / "images-gif2x", pages.Seen())
    assert len(list(loaded)) == SAMPLES
    return loaded.transform.counts


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_lightning(train: Any, truth: Counter[str]) -> None:
    """A LightningDataModule gives a Trainer every sample once an epoch."""
    pytest.importorskip("lightning")
    names, seen = pages.run("Lightning", train)
    assert seen == truth
    assert names["trainer"].global_step == 3


def test_hugging_face_trainer(train: Any, truth: Counter[str]) -> None:
    """The Trainer of transformers sees every sample once an epoch."""
    pytest.importorskip("accelerate")
    names, seen = pages.run("Hugging Face Trainer", train)
    assert seen == truth
    assert names["trainer"].state.global_step == 3


def test_accelerate(train: Any) -> None:
    """A loader that accelerate prepares keeps its order: half copies, each original once."""
    pytest.importorskip("accelerate")
    names, seen = pages.run("accelerate", train)
    assert len(names["loader"]) == 2
    assert seen.total() == 40
    assert len(seen) == 40


def test_cutmix_and_mixup(train: Any, truth: Counter[str]) -> None:
    """A batch that torchvision mixes has labels that are shares of classes."""
    names, seen = pages.run("torchvision's CutMix and MixUp", train)
    assert seen == truth
    assert names["labels"].shape == (20, 10)
    assert torch.allclose(names["labels"].sum(1), torch.ones(20))


def test_keras(train: Any, truth: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras' `fit` takes the loader; it looks at one batch before the epoch."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("keras")
    names, seen = pages.run("Keras", train)
    assert set(seen) == set(truth)
    assert int(names["model"].optimizer.iterations) == 3


def test_timm(train: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's calls train from the shards, and from any of the sets, with timm's own transforms."""
    monkeypatch.chdir(place)
    names, seen = pages.run("timm", train)
    assert not seen  # timm exchanged the transform
    assert sum(len(labels) for _, labels in names["loader"]) == SAMPLES
    assert names["images"].shape == (20, 3, 32, 32)
    assert torch.isfinite(names["loss"])


RANK = """
import json, os, pickle, sys
import pages
for port, path in zip(sys.argv[1].split(), sys.argv[2:]):
    os.environ["MASTER_PORT"] = port
    names, seen = pages.run("PyTorch, several processes", pickle.load(open(path, "rb")))
    weights = sum(float(weight.detach().double().sum()) for weight in names["model"].parameters())
    print(json.dumps([seen, weights]))
"""


def test_two_processes(place: Path, truth: Counter[str], tmp_path: Path) -> None:
    """Two gloo processes see every sample once together, and end with the same weights; of each kind of set."""
    for kind in KINDS:
        (tmp_path / kind).write_bytes(pickle.dumps(opened(kind, place, tmp_path)))
    command = [sys.executable, "-c", RANK, " ".join(free_ports(len(KINDS))), *(str(tmp_path / kind) for kind in KINDS)]
    path = os.pathsep.join([str(Path(pages.__file__).parent), *filter(None, sys.path)])
    shared = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    jobs = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = ([json.loads(line) for line in job.communicate(timeout=240)[0].splitlines()] for job in jobs)
    assert len(first) == len(second) == len(KINDS)
    for (one, weights), (other, same) in zip(first, second, strict=True):
        assert Counter(one) + Counter(other) == truth
        assert weights == same


def free_ports(count: int) -> list[str]:
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(server.getsockname()[1]) for server in listening]
    for server in listening:
        server.close()
    return ports


# --- what frameworks do to loaders and sets -----------------------------------------------------------------------


def test_lightning_resumes_in_mid_epoch(place: Path, truth: Counter[str], tmp_path: Path) -> None:
    """A checkpoint after one of three batches leads to exactly the other two."""
    lightning = pytest.importorskip("lightning")
    train = load_expanded(place / "images-gif2x")
    names, _ = pages.run("Lightning", train)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "use_distributed_sampler": False}

    def fit(steps: int, path: Path | None = None) -> Counter[str]:
        train.transform = pages.Seen()
        trainer = lightning.Trainer(max_steps=steps, enable_checkpointing=False, **quiet)
        trainer.fit(names["Classifier"](10), names["Expanded"](train), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return train.transform.counts

    first = fit(1)
    assert first.total() == 20
    assert fit(3, tmp_path / "1.ckpt") + first == truth


def test_lightning_cannot_lose_a_mix(place: Path) -> None:
    """Lightning's own sampler is put in the place of a plain order; of any other it is refused, not lost."""
    pytest.importorskip("lightning")
    from lightning.pytorch.utilities.data import _update_dataloader

    train = load_expanded(place / "images-gif2x")
    sampler = DistributedSampler(train, 2, 1)
    assert _update_dataloader(DataLoader(train, 20, shuffle=True), sampler).sampler is sampler
    for options in ({"mix": "share:0.5"}, {"balance": True}, {"seed": 3}, {"rank": 1, "world_size": 2}):
        with pytest.raises(ConfigError, match="without sampler"):
            _update_dataloader(DataLoader(train, 20, **options), sampler)


def test_transforms_may_be_exchanged(train: Any) -> None:
    """As timm and others do; also with none."""
    train.transform = None
    train.transform = lambda image: image.size
    assert train[0][0] == train[40][0] == (32, 32)
    train.transform = None
    assert train[0][0].mode == "RGB"
