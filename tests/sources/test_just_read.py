"""What listing has decoded is not decoded again by who uses it first, unless the file has changed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import write_noise
from PIL import Image

import gif_datasets
from gif_datasets.errors import SourceError
from gif_datasets.io import decode
from gif_datasets.io.cache.store import Cache
from gif_datasets.sources import just_read, open_source
from gif_datasets.sources.base import list_seeds, plain_image, seed_image
from gif_datasets.sources.just_read import JUST_READ
from gif_datasets.sources.reduced import ReducedSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of two classes."""
    return write_noise(tmp_path / "seeds", 6)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each image that is decoded."""
    found, plain = list[int](), decode.plain

    def watched(*given: Any) -> Any:
        found.append(len(found))
        return plain(*given)

    monkeypatch.setattr(decode, "plain", watched)
    return found


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written count as old."""
    now = time.time_ns
    monkeypatch.setattr("gif_datasets.sources.known_files.time.time_ns", lambda: now() + 3600 * 10**9)


@pytest.mark.usefixtures("later")
def test_an_expansion_decodes_each_file_once(folder: Path, tmp_path: Path, decoded: list[int]) -> None:
    """And once more for the preview, which is drawn at the end."""
    options: dict[str, Any] = {"method": "cutout", "ratio": 2, "cache_dir": tmp_path / "c", "originals": False}
    gif_datasets.expand(str(folder), tmp_path / "out", **options)
    assert len(decoded) == 6 + 6
    assert not JUST_READ


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("side", [None, 8])
def test_images_are_those_of_their_keys(folder: Path, tmp_path: Path, decoded: list[int], side: int | None) -> None:
    """Each is taken once; one whose file has changed is read, and refused."""
    source = open_source(str(folder)) if side is None else ReducedSource(open_source(str(folder)), side)
    first, second, *others = list_seeds(source, cache=Cache(tmp_path / "c")).seeds
    count = len(decoded)
    assert np.array_equal(seed_image(source, first), source.sample(first.index)[0])
    taken = len(decoded) - count
    assert plain_image(source, first) is not None
    assert len(decoded) == count + taken + 1
    Image.new("RGB", (16, 16), "red").save(folder / second.origin)
    os.utime(folder / second.origin, (0, 0))
    with pytest.raises(SourceError, match="has changed since the images were listed"):
        seed_image(source, second)
    list_seeds(source, cache=Cache(tmp_path / "c"))
    assert len(others) == 4


@pytest.mark.usefixtures("later")
def test_there_is_room_for_so_many(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are listed first are kept."""
    monkeypatch.setattr(just_read, "MOST", 2 * 16 * 16 * 3)
    source = open_source(str(folder))
    listed = list_seeds(source, cache=Cache(tmp_path / "c")).seeds
    assert len(JUST_READ._kept) == 2
    just_read._forget()  # as a forked child does
    assert not JUST_READ
    listed = list_seeds(source, cache=Cache(tmp_path / "other")).seeds
    assert len(JUST_READ._kept) == 2
    for seed in listed:
        assert plain_image(source, seed) is not None
    assert not JUST_READ


def test_files_that_may_still_change_are_read_again(folder: Path, tmp_path: Path) -> None:
    """Two changes within the clock's step would look the same."""
    list_seeds(open_source(str(folder)), cache=Cache(tmp_path / "c"))
    assert not JUST_READ
