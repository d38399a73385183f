"""Fixtures shared by all tests. No test reaches the network, and none shares a cache with another."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf-datasets"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and str(address[0]) not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise AssertionError(f"a test tried to reach {address}")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def picture() -> Callable[[int], Image.Image]:
    """Make a smooth random 32 x 32 picture from a number."""

    def make(number: int) -> Image.Image:
        small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def seed_folder(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    """A folder of three classes with four pictures each."""
    folder = tmp_path / "seeds"
    for label, name in enumerate(("ant", "bee", "crab")):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            picture(10 * label + i).save(folder / name / f"{i}.png")
    return folder
