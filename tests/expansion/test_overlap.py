"""Images are encoded, kept and written, and seeds are read, while the prior draws; the samples are the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import contents, write_noise
from PIL import Image

from gif_datasets import ExpandedDataset
from gif_datasets.errors import EngineError
from gif_datasets.expansion import tasks
from gif_datasets.expansion.imagination import imagine
from gif_datasets.expansion.imagination.candidates import GuidedMaker
from gif_datasets.expansion.imagination.pictures import PicturesAhead
from gif_datasets.guidance.guide import Guided
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.shards import folder as folders
from gif_datasets.types import Seed

SMALL = {"ratio": 2, "samples_per_shard": 4, "decode_batch": 4, "originals": False}
PATIENCE = 60


class Watched(LinearPrior):
    """Does something before each block, which is counted from 0."""

    key = "watched"

    def __init__(self, before: Callable[[int], None]) -> None:
        self.before, self.blocks = before, 0

    def decode(self, latents: Any, generators: Sequence[torch.Generator], config: Any) -> Any:
        self.before(self.blocks)
        self.blocks += 1
        return super().decode(latents, generators, config)


class Starting(Watched):
    """Says where copies start, which is where others start, too."""

    def start(self, *given: Any) -> torch.Tensor:
        return super().start(*given)


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Eight seeds of two classes."""
    return write_noise(tmp_path / "seeds", 8)


def precompute(seeds: Path, out: Path, prior: LinearPrior, **options: Any) -> None:
    ExpandedDataset(str(seeds), prior=prior, cache_dir=f"{out}-cache", **{**SMALL, **options}).precompute(out)


def test_a_block_is_encoded_and_a_shard_is_written_while_the_next_one_is_drawn(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding the first block waits for the second to begin, writing the first shard for the third."""
    precompute(seeds, tmp_path / "plain", Watched(lambda block: None))
    begun = [threading.Event() for _ in range(4)]
    encode, put = imagine.make_sample, folders.put_shard
    prior = Watched(lambda block: begun[block].set())

    def slow_encode(*given: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        assert begun[min(1, prior.blocks)].wait(PATIENCE)
        return encode(*given)

    def slow_put(*given: Any) -> Any:
        assert begun[2].wait(PATIENCE)
        return put(*given)

    monkeypatch.setattr(imagine, "make_sample", slow_encode)
    monkeypatch.setattr(tasks, "put_shard", slow_put)
    precompute(seeds, tmp_path / "out", prior)
    assert prior.blocks == 4
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_the_next_seeds_are_guided_while_a_block_is_drawn(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the first, by another thread, and none twice; where the prior says where copies start, by the caller."""
    precompute(seeds, tmp_path / "plain", Watched(lambda block: None))
    monkeypatch.setattr(imagine, "ROWS_AHEAD", 4)
    guide_block, guided = GuidedMaker._guide_block, list[tuple[bool, list[int]]]()

    def watched(self: GuidedMaker, given: Sequence[Seed], attempt: int) -> list[Guided]:
        here = threading.current_thread() is threading.main_thread()
        guided.append((here, sorted({seed.index for seed in given})))
        return guide_block(self, given, attempt)

    monkeypatch.setattr(GuidedMaker, "_guide_block", watched)
    precompute(seeds, tmp_path / "out", Watched(lambda block: None))
    assert [here for here, _ in guided] == [True, False, False, False]
    assert sorted(index for _, some in guided for index in some) == list(range(8))
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")

    guided.clear()
    precompute(seeds, tmp_path / "own", Starting(lambda block: None))
    assert {here for here, _ in guided} == {True}


def test_what_fails_beside_a_block_is_told_where_it_is_wanted(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block that was drawn meanwhile is kept, and the error has its seeds' names."""
    monkeypatch.setattr(imagine, "ROWS_AHEAD", 4)
    guide_block = GuidedMaker._guide_block

    def failing(self: GuidedMaker, given: Sequence[Seed], attempt: int) -> list[Guided]:
        if any(seed.index == 4 for seed in given):
            raise RuntimeError("no such class")
        return guide_block(self, given, attempt)

    monkeypatch.setattr(GuidedMaker, "_guide_block", failing)
    prior = Watched(lambda block: None)
    with pytest.raises(EngineError, match=r"copies of seed \d .*: RuntimeError: no such class"):
        precompute(seeds, tmp_path / "out", prior)
    assert prior.blocks == 1


def test_what_was_drawn_before_an_error_is_kept(seeds: Path, tmp_path: Path) -> None:
    """The first shard is written, and the first blocks are in the cache; the error has its seed's name."""

    def fail(block: int) -> None:
        if block == 2:
            raise RuntimeError("the device is gone")

    with pytest.raises(EngineError, match=r"copy 1 of seed \d \(.*\): RuntimeError: the device is gone"):
        precompute(seeds, tmp_path / "out", Watched(fail))
    assert len(list((tmp_path / "out" / "data").iterdir())) == 2
    prior = Watched(lambda block: None)
    precompute(seeds, tmp_path / "out", prior)
    assert prior.blocks == 2


def test_an_error_of_a_thread_has_its_seeds_name(seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of the prior has."""
    monkeypatch.setattr(imagine, "make_sample", lambda *given: 1 / 0)
    with pytest.raises(EngineError, match=r"cannot imagine copy \d of seed \d \([ab]/\d.png\): ZeroDivisionError"):
        precompute(seeds, tmp_path / "out", Watched(lambda block: None))


def test_ctrl_c_keeps_claims_of_nothing(seeds: Path, tmp_path: Path) -> None:
    """The same process goes on at once, and makes what is missing."""

    def interrupt(block: int) -> None:
        if block == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        precompute(seeds, tmp_path / "out", Watched(interrupt))
    precompute(seeds, tmp_path / "out", Watched(lambda block: None))
    precompute(seeds, tmp_path / "plain", Watched(lambda block: None))
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_draws_that_fail_their_check_are_the_same(tmp_path: Path) -> None:
    """The best of several draws is taken, in blocks of any size."""
    images = []
    for size in (4, 16):
        options = {"ratio": 2, "decode_batch": size, "check": "label", "redraws": 1}
        expanded = ExpandedDataset("demo", prior="linear", cache_dir=tmp_path / str(size), **options)
        copies = range(200, 224)
        images.append([np.asarray(image) for image, _ in expanded.__getitems__(copies)])
        found = [expanded.provenance(index) for index in copies]
        assert {one.attempts for one in found if not one.passed} == {2}
        assert any(one.passed for one in found)
    assert np.array_equal(*images)


def image_of(seed: Seed) -> Image.Image:
    return Image.new("RGB", (8, 8), (seed.index, 0, 0))


def test_images_are_read_ahead_in_order_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread cannot read, the caller reads; each caller has an image of its own."""
    monkeypatch.setattr("gif_datasets.expansion.imagination.pictures.MOST_AHEAD", 3 * 8 * 8 * 4)
    monkeypatch.setattr("gif_datasets.expansion.imagination.pictures.MOST_KEPT", 2 * 8 * 8 * 4)
    monkeypatch.setattr("gif_datasets.expansion.imagination.pictures.threads", lambda: 1)
    asked, ahead, seeds = list[int](), list[int](), [Seed(number, "", 0, "") for number in range(20)]

    def read(seed: Seed) -> Image.Image:
        asked.append(seed.index)
        return image_of(seed)

    def read_plain(seed: Seed) -> Image.Image | None:
        ahead.append(seed.index)
        return None if seed.index == 2 else image_of(seed)

    pictures = PicturesAhead(read, read_plain)
    pictures.expect(seeds)
    for seed in seeds:
        first = pictures(seed)
        assert first.getpixel((0, 0)) == (seed.index, 0, 0)
        first.paste((1, 1, 1), (0, 0, 8, 8))
        assert pictures(seed).getpixel((0, 0)) == (seed.index, 0, 0)
        assert max(ahead) <= seed.index + 5
    assert asked == [2]
    assert ahead == list(range(20))
    pictures.forget()
    pictures(seeds[0])
    assert asked == [2, 0]
