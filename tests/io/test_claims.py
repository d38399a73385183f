"""Real processes on one cache and one folder: each sample is made once, whoever dies, stops or turns the clock."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import runpy
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from gif_datasets import ExpandedDataset
from gif_datasets.config import ExpansionConfig
from gif_datasets.expansion.imagination.candidates import GuidedMaker
from gif_datasets.guidance import accept
from gif_datasets.io.cache import claims
from gif_datasets.io.cache.claims import Claims
from gif_datasets.io.cache.store import Cache
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.shards.verify import verify
from gif_datasets.types import Sample, Seed

SEEDS, RATIO, BLOCK = 12, 5, 4
MADE = SEEDS * RATIO
TIMEOUT = 60.0
_fork = multiprocessing.get_context("fork")  # the parent's imports and images at once; torch runs one thread


class Patient(LinearPrior):
    """A prior that takes its time, so that processes meet; it can be made to hang at its second block."""

    key = "patient"
    hangs_after = 10**9

    def decode(self, latents: torch.Tensor, generators: Any, config: ExpansionConfig) -> torch.Tensor:
        if not self.hangs_after:
            signal.pause()
        self.hangs_after -= 1
        time.sleep(0.01)
        return super().decode(latents, generators, config)


class Noiseless(Patient):
    """One whose second draw is that of another perturbation."""

    key = "noiseless"
    decodes_noise = False


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What torch imports when first used is imported before the forks, once."""
    folder = tmp_path_factory.mktemp("warm")
    ExpandedDataset("demo", ratio=1, prior="linear", cache_dir=folder)[200]


@pytest.fixture
def dataset(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExpandedDataset]:
    """Makes datasets on one cache; what any process stores is written down in ``tmp_path/stored``."""
    put = Cache.put

    def put_and_tell(self: Cache, key: str, sample: Sample) -> None:
        with (tmp_path / "stored").open("a") as file:
            file.write(f"{key} {os.getpid()}\n")
        put(self, key, sample)

    monkeypatch.setattr(Cache, "put", put_and_tell)

    def make(prior: LinearPrior | None = None, **options: Any) -> ExpandedDataset:
        fixed = {"ratio": RATIO, "decode_batch": BLOCK, "encode_batch": BLOCK, "samples_per_shard": 10}
        return ExpandedDataset(
            str(seed_folder), prior=prior or Patient(), cache_dir=tmp_path / "shared", **{**fixed, **options}
        )

    return make


def stored(folder: Path) -> Counter[str]:
    """How often each sample was stored, over all processes."""
    return Counter(line.split()[0] for line in (folder / "stored").read_text().splitlines())


def all_copies(expanded: ExpandedDataset, order: int = 0, at_once: int = MADE // 2) -> dict[str, bytes]:
    """Ask for every copy, many at a time, in an order of one's own; returns the pictures by sample."""
    rows = [(seed, copy) for seed in expanded.plan.seeds for copy in range(1, RATIO + 1)]
    random.Random(order).shuffle(rows)
    found = {}
    for start in range(0, MADE, at_once):
        part = rows[start : start + at_once]
        for (seed, copy), sample in zip(part, expanded.imaginer.imagine(part), strict=True):
            found[f"{seed.index}-{copy}"] = sample.image
    return found


def start(job: Callable[[], Any]) -> tuple[BaseProcess, Connection]:
    receiver, sender = _fork.Pipe(duplex=False)
    process = _fork.Process(target=lambda: sender.send(job()))
    process.start()
    sender.close()
    return process, receiver


def result(process: BaseProcess, receiver: Connection) -> Any:
    assert receiver.poll(TIMEOUT), "a process hangs"
    found = receiver.recv()
    process.join()
    assert process.exitcode == 0
    return found


def together(jobs: list[Callable[[], Any]]) -> list[Any]:
    return [result(*running) for running in [start(job) for job in jobs]]


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(("processes", "clock"), [(2, "right"), (4, "right"), (2, "jumping")])
def test_each_sample_is_made_once(
    processes: int,
    clock: str,
    dataset: Callable[..., ExpandedDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Processes that want the same in different orders get the same bytes, and nothing is made twice."""
    if clock == "jumping":
        monkeypatch.setattr(time, "time", lambda: random.uniform(0, 4e9))

    def job(order: int) -> Callable[[], Any]:
        def run() -> Any:
            expanded = dataset()
            return all_copies(expanded, order), expanded.imaginer.generated

        return run

    found = together([job(order) for order in range(processes)])
    assert sum(generated for _, generated in found) == MADE
    assert all(pictures == found[0][0] for pictures, _ in found)
    assert len(found[0][0]) == MADE
    assert set(stored(tmp_path).values()) == {1}


@pytest.mark.parametrize("processes", [2, 4])
def test_one_output_folder(processes: int, dataset: Callable[..., ExpandedDataset], tmp_path: Path) -> None:
    """Processes that precompute the same folder share the work, and leave the bytes that one alone writes."""

    def run() -> int:
        return dataset().precompute(tmp_path / "out").generated

    assert sum(together([run] * processes)) == MADE
    assert set(stored(tmp_path).values()) == {1}
    dataset().precompute(tmp_path / "alone")
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert verify(tmp_path / "out") == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("check", ["none", "label"])
def test_redraws_are_shared_too(check: str, dataset: Callable[..., ExpandedDataset], tmp_path: Path) -> None:
    """With a check, which draws again what fails, each sample is stored once, and is the same as alone."""
    options = {"check": check, "epsilon": 3.0, **({"redraws": 2} if check != "none" else {})}

    def run() -> dict[str, bytes]:
        return all_copies(dataset(**options))

    first, second = together([run, run])
    assert set(stored(tmp_path).values()) == {1}
    alone = dataset(**options)
    alone.imaginer.cache.clear()
    assert first == second == all_copies(alone)


class OneByOne(Dataset[tuple[torch.Tensor, int]]):
    """Asks for item by item, whereupon the whole block around each is made."""

    def __init__(self, expanded: ExpandedDataset) -> None:
        self.expanded = expanded

    def __len__(self) -> int:
        return len(self.expanded)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture, label = self.expanded[index]
        return torch.tensor(picture.getpixel((3, 3))), label


def test_data_loader_workers(dataset: Callable[..., ExpandedDataset], tmp_path: Path) -> None:
    """Worker processes of a shuffling DataLoader on a cold cache make nothing twice."""
    loader = DataLoader(OneByOne(dataset()), batch_size=6, shuffle=True, num_workers=2, multiprocessing_context="fork")
    assert sum(len(labels) for _, labels in loader) == SEEDS * (1 + RATIO)
    assert set(stored(tmp_path).values()) == {1}
    assert len(stored(tmp_path)) == MADE


def test_threads(dataset: Callable[..., ExpandedDataset], tmp_path: Path) -> None:
    """Threads of one process, on the same and on another dataset object, make nothing twice either."""
    one, other = dataset(), dataset()
    found: list[dict[str, bytes]] = []
    jobs = [
        threading.Thread(target=lambda job=job, use=use: found.append(all_copies(use, job)))
        for job, use in enumerate((one, one, other, other))
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(TIMEOUT)
    assert len(found) == 4
    assert all(pictures == found[0] for pictures in found)
    assert one.imaginer.generated + other.imaginer.generated == MADE
    assert set(stored(tmp_path).values()) == {1}


@pytest.fixture
def hanging(dataset: Callable[..., ExpandedDataset]) -> Iterator[tuple[BaseProcess, BaseProcess, Connection]]:
    """A process that hangs in the midst of a block, and one that has all else and waits for that block."""
    prior = Patient()
    prior.hangs_after = 1
    owner, _ = start(lambda: all_copies(dataset(prior), at_once=MADE))
    cache = dataset().imaginer.cache
    until(lambda: cache.stats()["entries"] == BLOCK)
    waiter, answer = start(lambda: all_copies(dataset(), at_once=MADE))
    until(lambda: cache.stats()["entries"] == MADE - BLOCK)
    yield owner, waiter, answer
    owner.kill()
    waiter.kill()


@pytest.fixture
def guided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Counter[str]]:
    """How often each seed was guided, over all processes."""
    guide_block = GuidedMaker._guide_block

    def guide_and_tell(self: GuidedMaker, seeds: Sequence[Seed], attempt: int) -> Any:
        with (tmp_path / "guided").open("a") as file:
            file.writelines(f"{key}\n" for key in {f"{seed.key}/{attempt}" for seed in seeds})
        time.sleep(0.01)
        return guide_block(self, seeds, attempt)

    monkeypatch.setattr(GuidedMaker, "_guide_block", guide_and_tell)
    return lambda: Counter((tmp_path / "guided").read_text().split())


def stored_tensors(folder: Path) -> list[str]:
    return [path.stem for path in (folder / "shared").rglob("*.tensors")]


@pytest.mark.parametrize("processes", [2, 4])
def test_each_seed_is_guided_once(
    processes: int, dataset: Callable[..., ExpandedDataset], guided: Callable[[], Counter[str]], tmp_path: Path
) -> None:
    """Ranks that want other copies of the same seeds guide each once; of finished seeds nothing stays but copies."""

    def rank(number: int) -> int:
        expanded = dataset(encode_batch=2)
        rows = [(seed, copy) for seed in expanded.plan.seeds for copy in range(1, RATIO + 1)]
        random.Random(0).shuffle(rows)
        return len(expanded.imaginer.imagine(rows[number::processes]))

    assert sum(together([lambda number=number: rank(number) for number in range(processes)])) == MADE
    assert (set(guided().values()), len(guided())) == ({1}, SEEDS)
    assert stored_tensors(tmp_path) == [dataset(encode_batch=2).plan.recipe.embeddings_key]
    shared = all_copies(dataset(encode_batch=2))
    dataset().imaginer.cache.clear()
    assert all_copies(dataset(encode_batch=2)) == shared


def test_redrawn_guidance_is_shared_and_removed(
    dataset: Callable[..., ExpandedDataset],
    guided: Callable[[], Counter[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each draw of the perturbation is guided once too, and nothing of any draw stays."""

    def reject(check: str, scores: torch.Tensor, *_: torch.Tensor) -> accept.Verdicts:
        return accept.Verdicts(scores[:, 0] < 0, scores[:, 0], scores[:, 0].long())

    monkeypatch.setattr(accept, "accept", reject)
    options = {"check": "label", "classifier": "text", "redraws": 1}
    first, second = together([lambda: all_copies(dataset(Noiseless(), **options))] * 2)
    assert first == second
    assert any(key.endswith("/1") for key in guided())
    assert set(guided().values()) == {1}
    assert stored_tensors(tmp_path) == []


def test_copies_asked_for_one_by_one(
    dataset: Callable[..., ExpandedDataset], guided: Callable[[], Counter[str]]
) -> None:
    """What a process found is there for the next one, until the last copy of the seed is."""
    for copy in range(1, RATIO + 1):
        expanded = dataset(decode_batch=1, encode_batch=1)
        result(*start(lambda expanded=expanded, copy=copy: expanded[SEEDS + copy - 1][1]))
    assert list(guided().values()) == [1]


def test_who_guides_is_killed(
    dataset: Callable[..., ExpandedDataset], guided: Callable[[], Counter[str]], tmp_path: Path
) -> None:
    """Whoever waits for a seed's guidance goes on with it when its owner is killed in the midst of guiding."""

    def hang(self: GuidedMaker, seeds: Sequence[Seed], attempt: int) -> Any:
        (tmp_path / "hangs").touch()
        signal.pause()

    def copies(expanded: ExpandedDataset, number: int) -> list[bytes]:
        rows = [(seed, number) for seed in expanded.plan.seeds]
        return [sample.image for sample in expanded.imaginer.imagine(rows)]

    def owner_job() -> None:
        GuidedMaker._guide_block = hang  # type: ignore[method-assign]
        copies(dataset(), 1)

    owner, _ = start(owner_job)
    until((tmp_path / "hangs").exists)
    waiter, answer = start(lambda: copies(dataset(), 2))
    assert not answer.poll(1.0)
    os.kill(owner.pid, signal.SIGKILL)
    assert len(result(waiter, answer)) == SEEDS
    assert (set(guided().values()), len(guided())) == ({1}, SEEDS)


def test_owner_is_killed(
    hanging: tuple[BaseProcess, BaseProcess, Connection], dataset: Callable[..., ExpandedDataset], tmp_path: Path
) -> None:
    """Whoever waits for a process that is killed with -9 goes on with its samples, and makes only those."""
    owner, waiter, answer = hanging
    assert not answer.poll(0.3)
    os.kill(owner.pid, signal.SIGKILL)
    found = result(waiter, answer)
    assert set(stored(tmp_path).values()) == {1}
    assert len(stored(tmp_path)) == MADE
    again = dataset()
    assert all_copies(again) == found
    assert again.imaginer.generated == 0


def test_owner_is_stopped(
    monkeypatch: pytest.MonkeyPatch, dataset: Callable[..., ExpandedDataset], tmp_path: Path
) -> None:
    """An owner that lives but does not go on is not waited for for ever; when it does go on, nothing is lost."""
    monkeypatch.setattr(claims, "PATIENCE", 0.2)
    owner, owners_answer = start(lambda: all_copies(dataset()))
    cache = dataset().imaginer.cache
    until(lambda: cache.stats()["entries"] > 0)
    os.kill(owner.pid, signal.SIGSTOP)
    found = result(*start(lambda: all_copies(dataset())))
    os.kill(owner.pid, signal.SIGCONT)
    assert result(owner, owners_answer) == found
    assert len(stored(tmp_path)) == MADE
    assert sum(cache.verify().made_by.values()) == MADE


def test_what_an_earlier_boot_left_behind(dataset: Callable[..., ExpandedDataset], tmp_path: Path) -> None:
    """A claims file of whatever content and age, and half-written entries, keep nobody from anything."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "claims").write_text(json.dumps({"pid": os.getppid(), "host": "gone", "until": 4e9}))
    os.utime(tmp_path / "shared" / "claims", (4e9, 4e9))
    expanded = dataset()
    first = expanded.plan.recipe.cache_key(expanded.plan.seeds[0], 1)
    half = tmp_path / "shared" / first[:2]
    half.mkdir()
    (half / f".tmp-{first}.sample-0123456789ab").write_bytes(b"half")
    assert len(all_copies(expanded)) == MADE
    assert expanded.imaginer.generated == MADE


def test_damaged_entries_are_remade_once(dataset: Callable[..., ExpandedDataset], tmp_path: Path) -> None:
    """Of two processes that both find entries damaged, one makes each of them again."""
    whole = all_copies(dataset())
    paths = sorted((tmp_path / "shared").rglob("*.sample"))
    for path in paths[::2]:
        path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "stored").unlink()
    assert together([lambda: all_copies(dataset())] * 2) == [whole, whole]
    assert stored(tmp_path) == Counter(path.stem for path in paths[::2])


def test_forked_child_holds_no_claim(tmp_path: Path) -> None:
    """A child can neither use nor prolong its parent's claims: they end with the parent, though the child lives on."""
    path = tmp_path / "claims"
    answer, answered = _fork.Pipe(duplex=False)
    end, ended = _fork.Pipe(duplex=False)

    def child() -> None:
        answered.send([free(path, "ab12"), free(path, "ab13")])
        end.poll(TIMEOUT)

    def parent() -> None:
        with Claims(path) as mine:
            assert mine.take("ab12")
            _fork.Process(target=child).start()
            signal.pause()

    process, _ = start(parent)
    assert answer.poll(TIMEOUT)
    assert answer.recv() == [False, True]
    process.kill()
    process.join()
    assert free(path, "ab12")
    ended.send("the child may go")


def free(path: Path, key: str) -> bool:
    with Claims(path) as some:
        return some.take(key)


def test_without_locks(monkeypatch: pytest.MonkeyPatch, dataset: Callable[..., ExpandedDataset]) -> None:
    """On a file system that knows no locks, several processes get the same bytes all the same."""

    def refuse(*args: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(claims.fcntl, "lockf", refuse)
    first, second = together([lambda: all_copies(dataset())] * 2)
    assert first == second
    assert len(first) == MADE


def test_the_lock_file_is_closed_after_use(tmp_path: Path) -> None:
    """Nothing stays open, so that the disk can be unmounted; a claim outlives other users of its file."""
    path = tmp_path / "claims"
    before = open_files()
    with Claims(path) as mine:
        assert mine.take("ab12")
        with Claims(path) as others:
            assert not others.take("ab12")
        assert together([lambda: free(path, "ab12")]) == [False]
    assert together([lambda: free(path, "ab12")]) == [True]
    assert open_files() == before


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.parametrize(("processes", "ranks"), [(1, False), (2, False), (2, True)])
def test_killed_again_and_again(processes: int, ranks: bool, seed_folder: Path) -> None:
    """recipes/faults/kill.py, in short: killed at random moments, the set is whole and has the same bytes."""
    recipe = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "faults" / "kill.py"))
    found = recipe["main"](kills=4, processes=processes, ranks=ranks, source=str(seed_folder), limit=12)
    assert found["problems"] == []
    assert found["kills"] == 4
