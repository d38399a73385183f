"""DataLoader: the same samples whoever reads them, and exactly the rest after any interruption."""

from __future__ import annotations

import inspect
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data as tud
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

import gif_datasets
from gif_datasets import BadImage, CacheError, ConfigError, EngineError, ExpandedDataset
from gif_datasets.data.loader import DataLoader, _Iteration, collate
from gif_datasets.data.map_style import LoadedDataset
from gif_datasets.data.order import make_order
from gif_datasets.data.prefetch import prefetch
from gif_datasets.expansion.dataset import ValidationSplit
from gif_datasets.expansion.imagination.candidates import GuidedMaker
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.sources.just_read import JUST_READ
from gif_datasets.types import ItemTable

TO_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
some = settings(max_examples=60, deadline=None)


class Numbers(tud.Dataset[int]):
    """Item ``i`` is ``i``; the first third are originals."""

    def __init__(self, size: int, fails_at: int = -1) -> None:
        self.size, self.fails_at = size, fails_at
        owner = np.arange(size) % max(1, size // 3)
        self.facts = ItemTable(owner % 3, np.arange(size) >= max(1, size // 3), owner)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        if index == self.fails_at:
            raise BadImage(f"number {index} is bad")
        return index


def numbers(batches: Any) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def flat(batches: Any) -> list[int]:
    return [number for batch in batches for number in batch.tolist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 seeds and 36 copies, as JPEG, in 8 shards."""
    base = tmp_path_factory.mktemp("loader")
    for label, name in enumerate(("ant", "bee", "crab")):
        (base / "seeds" / name).mkdir(parents=True)
        for i in range(4):
            small = np.random.default_rng(10 * label + i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(small).resize((32, 32)).save(base / "seeds" / name / f"{i}.png")
    options = {"ratio": 3, "prior": "linear", "image_format": "jpg", "samples_per_shard": 7}
    gif_datasets.expand(str(base / "seeds"), base / "out", cache_dir=base / "cache", **options)
    return base / "out"


@pytest.fixture
def loaded(folder: Path) -> LoadedDataset:
    return gif_datasets.load_expanded(folder)


@pytest.fixture
def expanded(folder: Path, tmp_path: Path) -> ExpandedDataset:
    """The same set, lazily, with nothing in its cache."""
    return ExpandedDataset(
        str(folder.parent / "seeds"), ratio=3, prior="linear", cache_dir=tmp_path / "cold", transform=TO_TENSOR
    )


# --- the same samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "method", "threads"),
    [(0, None, 0), (0, None, 1), (0, None, 3), (2, "fork", None), (4, "fork", None), (2, "spawn", None),
     (4, "spawn", None), (2, "forkserver", None), (4, "forkserver", None)],
)  # fmt: skip
def test_the_same_batches_whoever_reads_them(
    loaded: LoadedDataset, workers: int, method: str | None, threads: int | None
) -> None:
    """Threads and worker processes of any number and start give what item by item gives, in the order of the seed."""
    loader = DataLoader(
        loaded, batch_size=10, shuffle=True, seed=3, num_workers=workers, multiprocessing_context=method,
        threads=threads,
    )  # fmt: skip
    order = make_order(loaded.facts, seed=3)(0, np.arange(48))
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [10, 10, 10, 10, 8] == [10] * (len(loader) - 1) + [8]
    pixels, labels = torch.cat([p for p, _ in batches]), torch.cat([y for _, y in batches])
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((48, 3, 32, 32), torch.uint8, torch.int64)
    for place, index in enumerate(order):
        image, label = loaded[int(index)]
        assert np.array_equal(pixels[place].permute(1, 2, 0).numpy(), np.asarray(image))
        assert labels[place] == label


def test_transforms_and_collate_fn_see_the_same_items(loaded: LoadedDataset, folder: Path) -> None:
    """With a transform or a collate_fn, threads or not, batches are those of torch's own DataLoader."""
    transformed = gif_datasets.load_expanded(folder, transform=TO_TENSOR)
    for threads in (0, 2):
        ours = DataLoader(transformed, batch_size=9, threads=threads)
        for (pixels, labels), (wanted, known) in zip(ours, tud.DataLoader(transformed, batch_size=9), strict=True):
            assert torch.equal(pixels, wanted)
            assert torch.equal(labels, known)
        pairs = DataLoader(loaded, batch_size=5, threads=threads, collate_fn=lambda rows: [row[1] for row in rows])
        assert [label for batch in pairs for label in batch] == loaded.targets.tolist()
        part = DataLoader(tud.Subset(loaded, [5, 40, 7]), batch_size=3, threads=threads)
        assert next(iter(part))[1].tolist() == loaded.targets[[5, 40, 7]].tolist()


def test_random_transforms_repeat(folder: Path) -> None:
    """With threads a random transform draws in the order of the samples, in the calling thread."""
    random = gif_datasets.load_expanded(folder, transform=v2.Compose([v2.RandomCrop(20), TO_TENSOR]))
    runs = []
    for threads in (0, 1, 4):
        torch.manual_seed(5)
        runs.append(torch.cat([pixels for pixels, _ in DataLoader(random, 7, shuffle=True, threads=threads)]))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_rows_are_a_sequence(loaded: LoadedDataset) -> None:
    """What `__getitems__` gives behaves like the list of items, its negative places and slices too."""
    rows = loaded.__getitems__([3, -1, 20])
    assert [label for _, label in rows] == [loaded[3][1], loaded[47][1], loaded[20][1]]
    assert len(rows) == 3
    assert [label for _, label in rows[1:]] == [loaded[47][1], loaded[20][1]]
    before = loaded[3][0].getpixel((0, 0))
    rows[0][0].putpixel((0, 0), (1, 2, 3))
    assert rows[0][0].getpixel((0, 0)) == (1, 2, 3)  # an item is made once
    assert loaded[3][0].getpixel((0, 0)) == before
    assert tuple(rows.tensors()[0][0, :, 0, 0].tolist()) == before  # and is no part of the batch
    with pytest.raises(IndexError, match="48"):
        loaded.__getitems__([48])


def test_iterations_are_epochs(loaded: LoadedDataset) -> None:
    """Each `iter` is another epoch, also side by side or after a break; `set_epoch` goes to any."""
    loader = DataLoader(Numbers(30), 7, shuffle=True)
    first, second = iter(loader), iter(loader)
    pairs = list(zip(first, second, strict=True))
    one, two = flat(a for a, _ in pairs), flat(b for _, b in pairs)
    assert sorted(one) == sorted(two) == list(range(30))
    assert one != two
    assert flat(loader) not in (one, two)
    for choose in (loader.set_epoch, loader.sampler.set_epoch):
        choose(1)
        assert flat(loader) == two
    next(iter(loader))
    loader.set_epoch(0)
    assert flat(loader) == one
    assert flat(loader) == two


# --- resuming -----------------------------------------------------------------------------------------------------


@some
@given(
    size=st.integers(1, 80), first=st.integers(1, 3), then=st.integers(1, 3), batch=st.integers(1, 12),
    other=st.integers(1, 12), steps=st.integers(0, 8), epoch=st.integers(0, 2), shuffle=st.booleans(),
    mix=st.sampled_from(["all", "originals", "share:0.5", "replace:0.5"]),
)  # fmt: skip
def test_resuming_gives_exactly_the_rest(
    size: int, first: int, then: int, batch: int, other: int, steps: int, epoch: int, shuffle: bool, mix: str
) -> None:
    """Some ranks stop after some steps; other ranks with another batch size yield what was left, and the next epoch."""
    data = Numbers(size + 3)
    options = {"shuffle": shuffle, "seed": 5, "mix": mix}
    whole = DataLoader(data, batch_size=1, **options)
    whole.set_epoch(epoch)
    wanted, following = flat(whole), flat(whole)
    before, states = [], []
    for rank in range(first):
        loader = DataLoader(data, batch, rank=rank, world_size=first, **options)
        loader.set_epoch(epoch)
        for taken in itertools.islice(loader, steps):
            before += taken.tolist()
        states.append(json.loads(json.dumps(loader.state_dict())))
    assert all(state == states[0] for state in states)
    done = states[0]["position"] if states[0]["epoch"] == epoch else len(wanted)
    if done < len(wanted) and steps:
        assert sorted(before) == sorted(wanted[:done])
    after, next_ones = [], []
    for rank in range(then):
        loader = DataLoader(data, other, rank=rank, world_size=then, **options)
        loader.load_state_dict(states[0])
        assert loader.state_dict() == states[0]
        if states[0]["epoch"] == epoch:
            after.append(flat(loader))
        next_ones += flat(loader)
    rest = wanted[done:]
    assert {len(part) for part in after} <= {-(-len(rest) // then)}
    taken_after = sorted(number for part in after for number in part)
    for number in rest:
        taken_after.remove(number)
    assert len(taken_after) < then  # only what fills the last step up
    for number in following:
        next_ones.remove(number)
    assert len(next_ones) < then


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 4)])
def test_resuming_with_other_workers(loaded: LoadedDataset, before: int, after: int) -> None:
    """What workers have read ahead but not yielded is not lost."""
    options = {"batch_size": 6, "shuffle": True, "seed": 1}
    reference = [labels.tolist() for _, labels in DataLoader(loaded, **options)]
    loader = DataLoader(loaded, num_workers=before, **options)
    found = [labels.tolist() for _, labels in itertools.islice(loader, 3)]
    state = loader.state_dict()
    assert state["position"] == 18
    again = DataLoader(loaded, num_workers=after, persistent_workers=after > 0, **options)
    again.load_state_dict(state)
    assert found + [labels.tolist() for _, labels in again] == reference
    again.load_state_dict(state)
    assert [labels.tolist() for _, labels in again] == reference[3:]


def test_states_at_the_ends() -> None:
    """Before anything a state is the beginning; after an epoch, the next one's."""
    loader = DataLoader(Numbers(10), 4)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, 0)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, 10)
    assert list(batches) == []
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 2}, "seed was 0, now 2"),
        ({"mix": "share:0.5"}, "mix was 'all'"),
        ({"shuffle": False}, "shuffle"),
        ({"balance": True}, "balance"),
        ({"epoch_length": 5}, "length"),
        ({"weights": [1.0] * 30}, "weights"),
        ({"dataset": Numbers(31)}, "length was 30"),
    ],
)
def test_states_of_another_order_are_refused(other: dict[str, Any], words: str) -> None:
    """The first difference is named."""
    state = DataLoader(Numbers(30), shuffle=True).state_dict()
    with pytest.raises(ConfigError, match=words):
        DataLoader(**{"dataset": Numbers(30), "shuffle": True, **other}).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"format": 1}, {"format": 9, "epoch": 0}, [], {"format": 1, "epoch": "x"}])
def test_hostile_states(state: Any) -> None:
    """Anything that is no state is one clear error."""
    with pytest.raises(ConfigError, match="state"):
        DataLoader(Numbers(30)).load_state_dict(state)


def test_given_samplers_resume_by_skipping() -> None:
    """A sampler or batch sampler that repeats itself resumes, and reads nothing of what it skips."""
    data = Numbers(20)
    for options in (
        {"sampler": [4, 2, 9, 1, 7, 3, 0], "batch_size": 2},
        {"batch_sampler": [[4, 2], [9, 1], [7, 3], [0]]},
    ):
        loader = DataLoader(data, **options)
        batches = iter(loader)
        found = [next(batches).tolist(), next(batches).tolist()]
        state = loader.state_dict()
        again = DataLoader(Numbers(20, fails_at=2), **options)
        again.load_state_dict(state)
        assert found + numbers(again) == [[4, 2], [9, 1], [7, 3], [0]]
        assert len(loader) == 4


# --- ranks --------------------------------------------------------------------------------------------------------


@some
@given(
    size=st.integers(1, 60), ranks=st.integers(1, 4), batch=st.integers(1, 9), drop=st.booleans(),
    drop_last=st.booleans(), shuffle=st.booleans(), epoch=st.integers(0, 3),
)  # fmt: skip
def test_distributed_sampler_as_torch_does(
    size: int, ranks: int, batch: int, drop: bool, drop_last: bool, shuffle: bool, epoch: int
) -> None:
    """With torch's DistributedSampler every rank gets the batches that torch's loader gives it."""
    data = Numbers(size)
    for rank in range(ranks):
        sampler = tud.DistributedSampler(data, ranks, rank, shuffle, seed=4, drop_last=drop)
        sampler.set_epoch(epoch)
        ours = DataLoader(data, batch, sampler=sampler, drop_last=drop_last)
        wanted = numbers(tud.DataLoader(data, batch, sampler=sampler, drop_last=drop_last))
        assert numbers(ours) == wanted
        assert len(ours) == len(wanted)
        assert numbers(ours) == wanted  # as with torch, without set_epoch the epoch is the same


def test_distributed_sampler_resumes_with_other_ranks() -> None:
    """A state of two ranks goes on with three, each sample of the epoch once."""
    data, before, after = Numbers(36), [], []

    def loader(rank: int, ranks: int, batch: int) -> DataLoader:
        return DataLoader(data, batch, sampler=tud.DistributedSampler(data, ranks, rank, seed=1))

    for rank in range(2):
        one = loader(rank, 2, 3)
        one.sampler.set_epoch(2)
        before += flat(itertools.islice(one, 2))
        state = one.state_dict()
    assert (state["epoch"], state["position"]) == (2, 12)
    for rank in range(3):
        other = loader(rank, 3, 4)
        other.load_state_dict(state)
        other.sampler.set_epoch(2)
        after += flat(other)
    assert sorted(before + after) == list(range(36))
    fresh = loader(0, 2, 3)
    fresh.load_state_dict(state)
    fresh.sampler.set_epoch(3)
    assert len(flat(fresh)) == 18


GLOO = """
import sys, torch, torch.distributed as dist
from torch.utils.data import DistributedSampler
import gif_datasets
rank, folder, meeting = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
data = gif_datasets.load_expanded(folder)
number = {data._reader.image_bytes(i): i for i in range(len(data))}
class Number(torch.utils.data.Dataset):
    facts = data.facts
    def __len__(self): return len(data)
    def __getitem__(self, i): return i
for options in (
    {"sampler": DistributedSampler(Number())},
    {"shuffle": True, "rank": dist.get_rank(), "world_size": dist.get_world_size()},
    {"shuffle": True, "rank": rank, "world_size": 2, "mix": "share:0.5", "num_workers": 2},
):
    loader = gif_datasets.DataLoader(Number(), batch_size=4, **options)
    for _ in range(2):
        for batch in loader:
            both = [torch.zeros_like(batch) for _ in range(2)]
            dist.all_gather(both, batch)  # hangs if ranks had different numbers of batches
            if rank == 0:
                print(*torch.cat(both).tolist(), end=" ")
    if rank == 0:
        print()
dist.destroy_process_group()
"""


def test_two_processes(folder: Path, loaded: LoadedDataset, tmp_path: Path) -> None:
    """Two gloo processes together see each epoch once, in as many steps each; shares are exact on each rank."""
    command = [sys.executable, "-c", GLOO]
    arguments = [str(folder), str(tmp_path / "meeting")]
    jobs = [subprocess.Popen([*command, str(r), *arguments], stdout=subprocess.PIPE, text=True) for r in range(2)]
    out = [job.communicate(timeout=240)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    runs = [[int(n) for n in line.split()] for line in out[0].splitlines()]
    for run in runs[:2]:
        assert sorted(run) == sorted(list(range(48)) * 2)
    synthetic = loaded.facts.synthetic[runs[2]]
    assert len(synthetic) == 2 * 24
    for start in range(0, 48, 4):
        assert synthetic[start : start + 4].sum() == 2


# --- torch's arguments --------------------------------------------------------------------------------------------


def test_every_argument_of_torch_is_taken() -> None:
    """Names, order, kinds and defaults are torch's."""
    theirs = inspect.signature(tud.DataLoader.__init__).parameters
    ours = inspect.signature(DataLoader.__init__).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 4},
        {"batch_size": 4, "drop_last": True},
        {"batch_size": None},
        {"batch_size": None, "sampler": [3, 1]},
        {"batch_sampler": [[1, 2], [5]]},
        {"batch_size": 3, "sampler": [4, 5, 6, 7]},
        {"batch_size": 3, "collate_fn": sum},
        {"batch_size": 3, "num_workers": 1, "timeout": 60, "prefetch_factor": 3, "persistent_workers": True},
        {"batch_size": 3, "num_workers": 2, "in_order": False},
        {"batch_size": 3, "num_workers": 1, "worker_init_fn": torch.manual_seed, "multiprocessing_context": "fork"},
    ],
)
def test_arguments_mean_what_they_mean_to_torch(options: dict[str, Any]) -> None:
    """Without shuffling, batches and attributes are torch's."""
    ours, theirs = DataLoader(Numbers(10), **options), tud.DataLoader(Numbers(10), **options)
    found, wanted = ([b if isinstance(b, int) else b.tolist() for b in loader] for loader in (ours, theirs))
    assert sorted(map(str, found)) == sorted(map(str, wanted))
    assert found == wanted or not options.get("in_order", True)
    assert len(ours) == len(theirs)
    for name in ("batch_size", "drop_last", "num_workers", "timeout", "prefetch_factor", "persistent_workers"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True, "sampler": [1]},
        {"batch_sampler": [[1]], "batch_size": 2},
        {"batch_size": None, "drop_last": True},
        {"prefetch_factor": 2},
        {"num_workers": -1},
        {"persistent_workers": True},
        {"multiprocessing_context": "fork"},
    ],
)
def test_what_torch_refuses_is_refused(options: dict[str, Any]) -> None:
    """The same ValueErrors."""
    with pytest.raises(ValueError) as wanted:  # noqa: PT011
        tud.DataLoader(Numbers(10), **options)
    with pytest.raises(ValueError, match=str(wanted.value)[:20]):
        DataLoader(Numbers(10), **options)


def test_a_generator_is_a_seed() -> None:
    """A seeded generator decides the order by the number it was seeded with."""
    seeded = DataLoader(Numbers(30), shuffle=True, generator=torch.Generator().manual_seed(9))
    assert flat(seeded) == flat(DataLoader(Numbers(30), shuffle=True, seed=9))


def test_iterable_datasets_are_left_to_torch() -> None:
    """They load as with torch, and have no place to save."""

    class Stream(tud.IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

    loader = DataLoader(Stream(), batch_size=2)
    assert numbers(loader) == [[0, 1], [2, 3], [4]]
    with pytest.raises(ConfigError, match="iterable"):
        loader.state_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": [1], "mix": "originals"}, "without sampler"),
        ({"batch_sampler": [[1]], "world_size": 2}, "without sampler"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to 1"),
        ({"threads": -1}, "threads"),
        ({"mix": "half"}, "half"),
        ({"dataset": [1, 2], "mix": "originals"}, "got list"),
        ({"dataset": [1, 2], "balance": True}, "targets"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], words: str) -> None:
    """What does not fit is refused by name."""
    with pytest.raises(ConfigError, match=words):
        DataLoader(**{"dataset": Numbers(10), **options})


def test_out_of_order_has_no_state() -> None:
    """With in_order=False nobody knows what was yielded."""
    with pytest.raises(ConfigError, match="in_order"):
        DataLoader(Numbers(10), num_workers=1, in_order=False).state_dict()


# --- mixing -------------------------------------------------------------------------------------------------------


def test_mixing_policies(loaded: LoadedDataset, expanded: ExpandedDataset) -> None:
    """Every policy works on loaded and lazy sets and their subsets; labels stay the seeds'."""
    for data in (loaded, expanded, tud.Subset(loaded, range(0, 48, 2))):
        facts = data.facts if not isinstance(data, tud.Subset) else loaded.facts[range(0, 48, 2)]
        bare = Numbers(len(data))
        bare.facts = facts
        for mix, share in (("originals", 0), ("synthetic", 1), ("share:0.25", 0.25)):
            for batch in DataLoader(bare, 4, mix=mix, shuffle=True, drop_last=True):
                assert facts.synthetic[batch].mean() == share
        assert DataLoader(data, 4, mix="originals").state_dict()["order"]["length"] == (~facts.synthetic).sum()
    labels = torch.cat([labels for _, labels in DataLoader(loaded, 6, balance=True, epoch_length=30)])
    assert torch.bincount(labels).tolist() == [10, 10, 10]
    replaced = torch.cat([labels for _, labels in DataLoader(loaded, 6, mix="replace:0.5")])
    assert sorted(replaced.tolist()) == [0] * 4 + [1] * 4 + [2] * 4


# --- lazy samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "method"),
    [(0, None), (2, "fork"), (4, "fork"), (2, "spawn"), (4, "spawn"), (2, "forkserver"), (4, "forkserver")],
)
def test_lazy_samples_are_made_in_one_place(
    expanded: ExpandedDataset, folder: Path, tmp_path: Path, workers: int, method: str | None
) -> None:
    """On a cold cache this process makes each copy once, workers none; a second epoch makes nothing."""
    expanded.transform = np.array  # which a fresh process has sooner than torchvision's
    reference = {i: expanded[i] for i in range(48)}
    cold = ExpandedDataset(
        str(folder.parent / "seeds"), ratio=3, prior="linear", cache_dir=tmp_path / "other", transform=np.array
    )
    loader = DataLoader(
        cold, batch_size=7, shuffle=True, num_workers=workers, multiprocessing_context=method,
        persistent_workers=workers > 0,
    )  # fmt: skip
    order = make_order(cold.facts)
    for epoch in range(2):
        wanted = order(epoch, np.arange(48))
        pixels, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert cold.imaginer.generated == 36
        for place, index in enumerate(wanted):
            assert np.array_equal(pixels[place], reference[int(index)][0])
            assert labels[place] == reference[int(index)][1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_batch_is_made_while_an_earlier_one_is_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The block of a batch that was not asked for begins, and ends, while the loop still holds the first one."""
    later, events = 1 + 2 * workers, list[str]()  # torch asks for two batches a worker, and one more for the first
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()
    decode = LinearPrior.decode

    def decode_block(*args: Any) -> Any:
        made = decode(*args)
        block = next(blocks)
        if block == later:
            events.append("begun")
            begun.set()
            assert may_end.wait(60)
            events.append("ended")
            ended.set()
        return made

    blocks = itertools.count()
    monkeypatch.setattr(LinearPrior, "decode", decode_block)
    options = {"ratio": 3, "prior": "linear", "decode_batch": 4, "transform": np.array}
    lazy = ExpandedDataset(str(folder.parent / "seeds"), cache_dir=tmp_path / "cold", **options)
    batches = iter(DataLoader(lazy, 4, shuffle=True, mix="synthetic", num_workers=workers))
    next(batches)
    assert begun.wait(60)
    events.append("used")
    may_end.set()
    assert ended.wait(60)
    assert len(list(batches)) == 8
    assert events == ["begun", "used", "ended"]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 4)])
def test_lazy_sets_resume(folder: Path, tmp_path: Path, before: int, after: int) -> None:
    """In mid-epoch, on a cold cache, with other workers: exactly the rest, and no copy made twice."""
    options = {"ratio": 3, "prior": "linear", "cache_dir": tmp_path / "cold", "transform": TO_TENSOR}
    expanded = ExpandedDataset(str(folder.parent / "seeds"), **options)
    loader = DataLoader(expanded, 6, shuffle=True, num_workers=before)
    found = flat(labels for _, labels in itertools.islice(loader, 3))
    again = DataLoader(ExpandedDataset(str(folder.parent / "seeds"), **options), 6, shuffle=True, num_workers=after)
    again.load_state_dict(loader.state_dict())
    found += flat(labels for _, labels in again)
    assert found == [expanded.targets[index] for index in make_order(expanded.facts)(0, np.arange(48)).tolist()]
    assert len(list((tmp_path / "cold").rglob("*.sample"))) == 36


def test_lazy_subsets(expanded: ExpandedDataset) -> None:
    """Below a Subset missing samples are made in this process too, and nothing but full blocks of what is wanted."""
    part = tud.Subset(expanded, [0, 13, 30, 47])
    assert len(flat(labels for _, labels in DataLoader(part, 2, num_workers=1))) == 4
    assert 3 <= expanded.imaginer.generated <= 3 * expanded.config.decode_batch


def test_blocks_are_full(expanded: ExpandedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """However batches cut the order, what is decoded in padded blocks fills them, but for the last."""
    blocks = []
    decode = LinearPrior.decode
    monkeypatch.setattr(LinearPrior, "decode", lambda *args: blocks.append(1) or decode(*args))
    assert sum(len(labels) for _, labels in DataLoader(expanded, 7, shuffle=True)) == 48
    assert len(blocks) == -(-36 // expanded.config.decode_batch)


def test_what_a_bound_removes_is_made_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cache with a bound nothing is taken to be there because it was: each epoch is made beside the workers."""
    monkeypatch.setenv("GIF_DATASETS_CACHE_LIMIT", "10MB")
    options = {"ratio": 3, "prior": "linear", "classifier": "text", "cache_dir": tmp_path / "small"}
    expanded = ExpandedDataset(str(folder.parent / "seeds"), transform=TO_TENSOR, **options)
    loader = DataLoader(expanded, 16, num_workers=1)
    for epoch in (1, 2):
        assert sum(len(labels) for _, labels in loader) == 48
        assert expanded.imaginer.generated == epoch * 36
        assert len(expanded.imaginer.cache.prune(max_bytes=0)) == 36


class RecordingPrior(LinearPrior):
    """Writes down which process decodes."""

    key = "recording-1"

    def __init__(self, log: Path) -> None:
        self.log = log

    def decode(self, latents: Any, generators: Any, config: Any) -> Any:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return super().decode(latents, generators, config)


def test_workers_imagine_nothing_in_a_small_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wanted next counts as used, so that making further samples does not push it out before it is read."""
    options = {"ratio": 20, "classifier": "text", "prior": RecordingPrior(tmp_path / "log")}
    whole = ExpandedDataset(str(folder.parent / "seeds"), cache_dir=tmp_path / "whole", **options)
    reference = sorted(item[1] for item in whole)
    size = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*.sample"))
    (tmp_path / "log").unlink()
    monkeypatch.setenv("GIF_DATASETS_CACHE_LIMIT", str(size * 7 // 10))
    expanded = ExpandedDataset(
        str(folder.parent / "seeds"), transform=TO_TENSOR, cache_dir=tmp_path / "small", **options
    )
    loader = DataLoader(expanded, 4, shuffle=True, num_workers=2, multiprocessing_context="fork")
    for _ in range(4):
        assert sorted(flat(labels for _, labels in loader)) == reference
    makers = set((tmp_path / "log").read_text().split())
    assert makers == {str(os.getpid())}
    assert expanded.imaginer.generated > 240  # so something was pushed out and made again


def test_a_fork_while_the_generator_works_does_not_hang(folder: Path, tmp_path: Path) -> None:
    """The child has no thread that would give the parent's lock back."""
    expanded = ExpandedDataset(str(folder.parent / "seeds"), ratio=1, prior="linear", cache_dir=tmp_path)
    expanded[12]
    with expanded.imaginer._lock:
        context = multiprocessing.get_context("fork")
        found: Any = context.Queue()
        child = context.Process(target=lambda: found.put(expanded[13][1]))
        child.start()
        child.join(60)
        assert child.exitcode == 0
    assert found.get(timeout=10) == expanded.targets[13]


def test_a_state_of_another_dataset_is_refused(loaded: LoadedDataset, folder: Path, tmp_path: Path) -> None:
    """Of as many samples, but others; of the same samples in a subset, too."""
    seeds = str(folder.parent / "seeds")
    sets = [
        ExpandedDataset(seeds, ratio=3, prior="linear", rng_seed=number, cache_dir=tmp_path, transform=TO_TENSOR)
        for number in (0, 0, 1)
    ]
    state = DataLoader(sets[0], 4).state_dict()
    DataLoader(sets[1], 4).load_state_dict(state)
    with pytest.raises(ConfigError, match="dataset was"):
        DataLoader(sets[2], 4).load_state_dict(state)
    halves = [tud.Subset(loaded, range(start, len(loaded), 2)) for start in (0, 0, 1)]
    state = json.loads(json.dumps(DataLoader(halves[0], 4).state_dict()))
    DataLoader(halves[1], 4).load_state_dict(state)
    with pytest.raises(ConfigError, match="dataset was"):
        DataLoader(halves[2], 4).load_state_dict(state)


@pytest.fixture
def held(folder: Path, tmp_path: Path) -> ValidationSplit:
    """6 of the 12 seeds."""
    return ExpandedDataset(
        str(folder.parent / "seeds"), ratio=1, prior="linear", cache_dir=tmp_path, transform=TO_TENSOR,
        validation_share=0.5,
    ).validation  # fmt: skip


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")])
def test_held_out_seeds(held: ValidationSplit, workers: int, method: str | None) -> None:
    """The validation set of a lazy set loads like any other; nothing is imagined for it."""
    loader = DataLoader(held, 4, num_workers=workers, multiprocessing_context=method)
    batches = list(loader)
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), torch.stack([pixels for pixels, _ in held]))
    assert [label for _, labels in batches for label in labels.tolist()] == held.targets
    assert not list(held._expanded.imaginer.cache.folder.rglob("*.sample"))


def test_held_out_seeds_are_originals(held: ValidationSplit) -> None:
    """They are mixed and balanced as originals, and resume."""
    loader = DataLoader(held, 2, shuffle=True, mix="originals", balance=True)
    batches = iter(loader)
    before = next(batches)[1].tolist()
    again = DataLoader(held, 1, shuffle=True, mix="originals", balance=True)
    again.load_state_dict(loader.state_dict())
    assert sorted([*before, *flat(labels for _, labels in again)]) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ConfigError, match="synthetic"):
        DataLoader(held, mix="synthetic")


def test_no_seeds_are_held_out(expanded: ExpandedDataset) -> None:
    """Without a share the validation set is empty, and loads as such."""
    assert len(expanded.validation) == 0
    for options in ({}, {"shuffle": True}, {"balance": True}, {"num_workers": 1}):
        loader = DataLoader(expanded.validation, 4, **options)
        assert len(loader) == len(list(loader)) == 0
        assert loader.state_dict()["epoch"] == 1
    with pytest.raises(ConfigError, match="none"):
        DataLoader(expanded.validation, 4, epoch_length=8)


def test_errors_that_are_of_no_seed_stay_theirs(expanded: ExpandedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a missing prior is told as such, once, and not as a fault of the first seed."""
    calls = []

    def full(self: Any, wanted: Sequence[Any]) -> Any:
        calls.append(wanted)
        raise CacheError("cannot write to the cache")

    monkeypatch.setattr(type(expanded.imaginer), "imagine", full)
    with pytest.raises(CacheError, match="cannot write"):
        expanded.imagine_missing(range(12, 48))
    assert len(calls) == 1
    with pytest.raises(CacheError, match="cannot write"):
        list(DataLoader(expanded, 8))
    with pytest.raises(CacheError, match="cannot write"):
        expanded[20]


def test_hits_are_asked_for_once(expanded: ExpandedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first epoch the loader looks for no sample any more."""
    loader = DataLoader(expanded, 16)
    list(loader)
    monkeypatch.setattr(type(expanded.imaginer), "has", None)
    assert len(list(loader)) == 3


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (1, "spawn")])
@pytest.mark.parametrize("decode_batch", [1, 8])
def test_failing_generation_names_its_seed(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decode_batch: int,
    workers: int,
    method: str | None,
) -> None:
    """An error of the generator arrives in the training loop, with what it was making; other seeds are kept."""
    seeds, options = str(folder.parent / "seeds"), {"ratio": 3, "prior": "linear", "decode_batch": decode_batch}
    expanded = ExpandedDataset(seeds, cache_dir=tmp_path / "cold", transform=np.array, **options)
    draw = GuidedMaker.draw
    tried: list[int] = []

    def broken(self: Any, rows: Sequence[Any], attempt: int) -> Any:
        if any(seed.index == 5 for seed, _ in rows):
            tried.append(len(rows))
            raise RuntimeError("no such latent")
        return draw(self, rows, attempt)

    monkeypatch.setattr(GuidedMaker, "draw", broken)
    loader = DataLoader(expanded, 8, shuffle=True, num_workers=workers, multiprocessing_context=method)
    between = "" if decode_batch == 1 else ".*"
    with pytest.raises(EngineError, match=rf"copy \d of seed 5 \(bee/1.png\){between}: RuntimeError: no such latent"):
        list(loader)
    assert len(tried) == 1  # and nothing is made a second time to find out more
    monkeypatch.undo()
    assert sum(len(labels) for _, labels in loader) == 48


def test_a_seed_that_cannot_be_read_any_more_is_named(
    expanded: ExpandedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its dataset raises, it is the one seed that is named, of all those of its block."""
    monkeypatch.setattr("gif_datasets.io.decode.plain", lambda *given: None)  # the source reads every image itself
    JUST_READ.forget()
    sample = type(expanded.source).sample
    for error in (OSError("gone"), BadImage("bee/1.png: truncated")):

        def broken(self: Any, index: int, error: Exception = error) -> Any:
            if index == 5:
                raise error
            return sample(self, index)

        monkeypatch.setattr(type(expanded.source), "sample", broken)
        with pytest.raises(EngineError, match=r"bee/1.png") as raised:
            expanded.__getitems__(list(range(12, 48)))
        assert "ant" not in str(raised.value)
        assert "crab" not in str(raised.value)


def test_no_model_on_a_device_in_a_worker(expanded: ExpandedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own loader a worker refuses to imagine on a GPU, and says what to use."""
    object.__setattr__(expanded.plan.recipe, "device", "cuda")
    monkeypatch.setattr("gif_datasets.expansion.dataset.get_worker_info", lambda: object())
    with pytest.raises(EngineError, match=r"gif_datasets\.DataLoader"):
        expanded.__getitems__([20])
    assert len(expanded.__getitems__([3, 4])) == 2


def test_forking_while_threads_decode(loaded: LoadedDataset, folder: Path) -> None:
    """A loader with workers that starts within a loop of a threaded one reads the same set, locks held or not."""
    for step, (_, labels) in enumerate(DataLoader(loaded, 4, threads=3)):
        if step in (0, 5):
            loaded._reader._lock.acquire()
            try:
                inner = DataLoader(loaded, 12, num_workers=1, timeout=600, multiprocessing_context="fork")
                assert sum(len(y) for _, y in inner) == 48
            finally:
                loaded._reader._lock.release()
        assert len(labels) == 4


# --- failures -----------------------------------------------------------------------------------------------------


KILLED = """
import os, pathlib, signal, sys, time
import torch.utils.data as tud
from gif_datasets import DataLoader, EngineError

may_die = pathlib.Path(sys.argv[2])

class Numbers(tud.Dataset):
    def __len__(self): return 60
    def __getitem__(self, i):
        if i == 33 and tud.get_worker_info() is not None:
            while not may_die.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return i

loader, found = DataLoader(Numbers(), 5, num_workers=int(sys.argv[1])), []

def train():
    for batch in loader:
        found.extend(batch.tolist())
        if len(found) == 30:
            may_die.touch()

# torch's handler of SIGCHLD raises, once, wherever this process is by then: here, or while another error is handled
try:
    try:
        train()
    except EngineError as error:
        print(error)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
except RuntimeError as error:
    print(error)
again = DataLoader(Numbers(), 5)
again.load_state_dict(loader.state_dict())
assert found == list(range(30)), found
assert found + [n for batch in again for n in batch.tolist()] == list(range(60))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_an_error(tmp_path: Path, workers: int) -> None:
    """A worker that dies within an epoch ends it with an error, and the state still leads to the rest."""
    command = [sys.executable, "-c", KILLED, str(workers), str(tmp_path / "may_die")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, "worker" in done.stdout) == (0, True), done.stderr


KILLED_READING = """
import os, pathlib, signal, sys
import numpy as np
import torch.utils.data as tud
import gif_datasets
from gif_datasets import DataLoader, EngineError, ExpandedDataset

folder, temporary = map(pathlib.Path, sys.argv[2:])
must_die = temporary / "must_die"

def transform(image):
    if tud.get_worker_info() is not None and must_die.exists():
        must_die.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return np.array(image)

def data(cache):
    if sys.argv[1] == "loaded":
        return gif_datasets.load_expanded(folder / "out", transform)
    return ExpandedDataset(
        str(folder / "seeds"), ratio=3, prior="linear", cache_dir=temporary / cache, transform=transform
    )

def rows(loader):
    return [(image.numpy().tobytes(), label) for images, labels in loader for image, label in zip(images, labels)]

loader, batches = DataLoader(data("cold"), 4, shuffle=True, num_workers=2), 0

# torch's handler of SIGCHLD raises, once, wherever this process is by then: here, or while another error is handled
try:
    try:
        for _ in loader:
            batches += 1
            if batches == 1:
                must_die.touch()
    except EngineError as error:
        print(error)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
except RuntimeError as error:
    print(error)
must_die.unlink(missing_ok=True)
assert 1 <= batches < 12, batches
loader.set_epoch(0)
again = rows(loader)
assert again == rows(DataLoader(data("other"), 4, shuffle=True))
assert len(again) == 48
"""


@pytest.mark.parametrize("kind", ["loaded", "lazy"])
def test_a_worker_killed_while_it_reads(kind: str, folder: Path, tmp_path: Path) -> None:
    """The loop is told what died, and does not wait for it; the same loader then gives the whole epoch."""
    command = [sys.executable, "-c", KILLED_READING, kind, str(folder.parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"worker process died|DataLoader worker \(pid\D* \d+", done.stdout), done.stdout


PERSISTENT = """
import os, signal, time
from gif_datasets import DataLoader, EngineError

loader = DataLoader(range(60), 5, num_workers=2, persistent_workers=True)
for epoch in range(2):
    try:
        for number, _ in enumerate(loader):
            if not number:
                os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
                time.sleep(1)  # until torch knows
        print("no error")
    except (RuntimeError, EngineError):
        pass
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert [int(i) for batch in loader for i in batch] == list(range(60))
    workers = loader._iterator._workers
    assert [int(i) for batch in loader for i in batch] == list(range(60))
    assert loader._iterator._workers is workers
"""


def test_persistent_workers_are_replaced_when_one_dies() -> None:
    """The passes after it are whole, by workers that persist again."""
    done = subprocess.run([sys.executable, "-c", PERSISTENT], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


KILLED_HOLDING = """
import os, signal, sys
from gif_datasets import DataLoader, EngineError

class Numbers:
    dies = True

    def __len__(self):
        return 60

    def __getitem__(self, i):
        if i == 30 and self.dies:
            frame = sys._getframe()
            while "done_event" not in frame.f_locals:
                frame = frame.f_back
            frame.f_locals["done_event"]._cond.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
        return i

numbers = Numbers()
loader = DataLoader(numbers, 5, num_workers=2, persistent_workers=sys.argv[1] == "persistent")
try:
    list(loader)
    print("no error")
except (RuntimeError, EngineError):
    pass
numbers.dies = False
assert [int(i) for batch in loader for i in batch] == list(range(60))
"""


@pytest.mark.parametrize("workers", ["persistent", "new"])
def test_a_worker_killed_while_it_holds_torch_s_lock(workers: str) -> None:
    """Torch's own shutdown would wait for that lock forever."""
    command = [sys.executable, "-c", KILLED_HOLDING, workers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), EngineError),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), EngineError),
        (ConnectionResetError(104, "Connection reset by peer"), EngineError),
        (EOFError(), EngineError),
        (FileNotFoundError(2, "No such file or directory"), EngineError),
        (FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0."), FileNotFoundError),
        (RuntimeError("stack expects each tensor to be equal size"), RuntimeError),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_torch_says_of_dead_workers(error: Exception, expected: type[Exception], workers: int) -> None:
    """Each way in which torch notices a worker's death is the one error of ours; other errors stay what they are."""

    def batches() -> Iterator[Any]:
        yield 1
        raise error

    loader = DataLoader(Numbers(10), num_workers=workers)
    rows = _Iteration(loader, batches(), loader._progress)
    assert next(rows) == 1
    with pytest.raises(expected if workers else type(error)):
        next(rows)
    assert loader.state_dict()["position"] == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_pictures_are_named(folder: Path, tmp_path: Path, workers: int) -> None:
    """A damaged picture is named by its key, from threads and from workers."""
    import shutil

    shutil.copytree(folder, tmp_path / "bad")
    loaded = gif_datasets.load_expanded(tmp_path / "bad")
    index, name = loaded._reader.index, sorted((tmp_path / "bad" / "data").glob("*.tar"))[0]
    with name.open("r+b") as file:
        file.seek(int(index.image_offset[2]) + 4)
        file.write(bytes(int(index.image_size[2]) - 4))
    with pytest.raises(BadImage, match=loaded._reader.key(2)):
        list(DataLoader(loaded, 4, num_workers=workers))


def test_pictures_of_different_sizes() -> None:
    """They are refused with the way out; equal ones stack, dictionaries and grey pictures included."""
    red, grey = Image.new("RGB", (4, 3), "red"), Image.new("L", (4, 3), 7)
    pictures, labels = collate([(red, 1), (red, 2)])
    assert pictures.shape == (2, 3, 3, 4)
    assert pictures[0, :, 0, 0].tolist() == [255, 0, 0]
    assert labels.tolist() == [1, 2]
    assert collate([{"x": grey}, {"x": grey}])["x"].shape == (2, 1, 3, 4)
    with pytest.raises(ConfigError, match="4 x 3 and 5 x 3"):
        collate([red, Image.new("RGB", (5, 3))])


def test_errors_of_the_dataset_stay_its_own() -> None:
    """A missing file in a worker is that, and no dead worker."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(DataLoader(Files(), 2, num_workers=1))


class Files(tud.Dataset[bytes]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> bytes:
        return Path("nowhere").read_bytes()


def test_prefetch_stops_where_its_consumer_stops() -> None:
    """Work is bounded ahead; an error comes at its place; nothing runs on after a break."""
    done: list[int] = []
    results = prefetch(itertools.count(), lambda n: done.append(n) or n, threads=2, depth=3)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    results.close()
    count = len(done)
    assert count <= 4 + 3 + 1
    assert len(done) == count

    def fail(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    failing = prefetch(range(5), fail, threads=3, depth=4)
    assert [next(failing), next(failing)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(failing)


BROKEN_OFF = """
import sys
from gif_datasets import DataLoader, load_expanded, stream_expanded
loaded = DataLoader(load_expanded(sys.argv[1]), batch_size=2, threads=2)
streamed = DataLoader(stream_expanded(sys.argv[1]), batch_size=2)
passes = [iter(loaded), iter(streamed)]
print(*(len(next(batches)[1]) for batches in passes))
"""


def test_a_pass_that_is_broken_off_says_nothing_when_the_interpreter_ends(tmp_path: Path) -> None:
    """As ``batches = iter(loader)`` leaves one at the end of a script."""
    gif_datasets.expand("demo", tmp_path / "out", ratio=1, method="cutout", limit=8)
    command = [sys.executable, "-c", BROKEN_OFF, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr, done.returncode) == ("2 2\n", "", 0)
