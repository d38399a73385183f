"""Comparing reads an image once for its steps, as far as memory allows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gif_datasets.comparison import images_once
from gif_datasets.comparison.images_once import ImagesOnce
from gif_datasets.io.digests import digest_pixels
from gif_datasets.types import Seed


class Counted:
    """A source that counts its reads."""

    name, classes = "counted", ("a", "b")

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 3

    def origin(self, index: int) -> str:
        return f"row {index}"

    def sample(self, index: int) -> tuple[Image.Image, int]:
        self.reads.append(index)
        return Image.new("RGB", (8, 8), (index, 0, 0)), 0


@pytest.mark.parametrize(("room", "reads"), [(10_000, [0, 1, 2]), (2 * 8 * 8 * 4, [0, 1, 2, 2, 2]), (0, [0, 1, 2] * 3)])
def test_looked_at_twice_and_taken(room: int, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is read each time; what was taken makes room."""
    monkeypatch.setattr(images_once, "MOST", room)
    source = Counted()
    pixels = [np.asarray(source.sample(number)[0]) for number in range(3)]
    seeds = [Seed(number, digest_pixels(pixels[number]), 0, "") for number in range(3)]
    source.reads.clear()
    images = ImagesOnce(source)
    for step in (images.look, images.look, images.take):
        assert all(np.array_equal(step(seed), pixels[seed.index]) for seed in seeds)
    assert sorted(source.reads) == sorted(reads)
    source.reads.clear()
    images.look(seeds[2])
    images.look(seeds[2])
    assert source.reads == [2] * (1 if room else 2)
