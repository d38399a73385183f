"""What an expansion costs beside its prior, and how that grows with seeds and workers.

    python recipes/benchmarks/scale.py                               growth: 1,000 and 10,000 seeds x 5
    python recipes/benchmarks/scale.py --seeds 1000 100000 --wait 0.001
    python recipes/benchmarks/scale.py --plan 100000 1000000         listing and planning alone
    python recipes/benchmarks/scale.py --workers 1 2 4 8             scaling, a prior that waits
    python recipes/benchmarks/scale.py --workers 1 2 --busy          scaling, a prior that computes on one thread

The prior is the one without weights, and takes ``--wait`` seconds a sample: asleep, as one behind a network or on an
accelerator, or computing. All else is real: images are read, hashed and encoded, samples go through the cache into
shards, the folder is finished. Each line runs in a fresh process with an empty cache. Its rate is that of the time in
which all workers were at work, its overhead is a worker's time a sample less the wait. Only a machine with nothing else
to do gives a fair answer. ``--engine ray`` does the same with Ray's workers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from memory import Noise

from gif_datasets.config import ExpansionConfig
from gif_datasets.expansion.engines.local import run_local
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.plan import Plan, make_plan
from gif_datasets.expansion.recipe import make_recipe
from gif_datasets.expansion.run import run
from gif_datasets.io.cache.store import Cache
from gif_datasets.priors import own_prior
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import Source, list_seeds

RATIO = 5
SHARD = 100  # samples
MEETING = 240.0  # seconds until all workers must have started


class Simulated(LinearPrior):
    """Takes so many seconds a sample, asleep or computing."""

    key = "simulated"

    def __init__(self, wait: float, busy: bool) -> None:
        self.wait, self.busy = wait, busy

    def decode(
        self, latents: torch.Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig
    ) -> torch.Tensor:
        """Wait, and decode."""
        clock = time.thread_time if self.busy else time.perf_counter
        until = clock() + self.wait * len(latents)
        while (left := until - clock()) > 0:
            if self.busy:
                sum(range(10_000))
            else:
                time.sleep(left)
        return super().decode(latents, generators, config)


@dataclass(frozen=True)
class Stamp:
    """One shard: whose, from when to when, samples, and the process's most memory, bytes."""

    process: str
    begun: float
    ended: float
    samples: int
    memory: int


@dataclass(frozen=True)
class Watched:
    """Runs a task; the first time in a process, when all ``workers`` are there."""

    task: Callable[[int], Any]
    workers: int
    folder: str

    def __call__(self, item: int) -> tuple[Any, Stamp]:
        """The result, and its stamp."""
        name = f"{os.uname().nodename}-{os.getpid()}"
        self._meet(Path(self.folder) / name)
        begun = time.time()
        result = self.task(item)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return result, Stamp(name, begun, time.time(), result[0].samples, memory)

    def _meet(self, own: Path) -> None:
        if own.exists():
            return
        own.touch()
        deadline = time.monotonic() + MEETING
        while len(list(own.parent.iterdir())) < self.workers and time.monotonic() < deadline:
            time.sleep(0.01)


def planned(seeds: int, prior: Simulated) -> tuple[Plan, Source]:
    """The plan of an expansion of generated images."""
    source = wrap_source(Noise(seeds))
    config = ExpansionConfig.build(
        {"ratio": RATIO, "method": "unclip", "prior": "linear", "originals": False, "samples_per_shard": SHARD}
    )
    recipe = make_recipe(config, source.classes, "cpu", own_prior("simulated", prior))
    return make_plan(source, list_seeds(source), recipe), source


def planning(args: argparse.Namespace) -> dict[str, Any]:
    """List and plan; touch every row once, as the workers together do."""
    before, started = _memory(), time.perf_counter()
    plan, _ = planned(args.only, Simulated(0, False))
    spent = time.perf_counter() - started
    peak = _memory()
    rows = sum(len(plan.rows_of(shard_id)) for shard_id in range(len(plan.shard_names)))
    assert rows == args.only * RATIO
    return {
        "seeds": args.only,
        "seconds": round(spent, 1),
        "peak memory, MB": peak >> 20,
        "bytes a seed": round((peak - before) / args.only),
        "bytes a seed, rows gone through": round((_memory() - before) / args.only),
    }


def expansion(args: argparse.Namespace) -> dict[str, Any]:
    """Expand, and watch the workers."""
    prior, workers = Simulated(args.wait, args.busy), args.worker_count
    stamps: list[Stamp] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        plan, source = planned(args.only, prior)
        listed = time.perf_counter() - started
        meeting = Path(place) / "meeting"
        meeting.mkdir()

        def engine(task: Callable[[int], Any], ids: Sequence[int]) -> Iterator[Any]:
            watched = Watched(task, workers, str(meeting))
            for result, stamp in _runner(args.engine)(watched, ids, workers):
                stamps.append(stamp)
                yield result

        cache = Cache(Path(place) / "cache")
        imaginer = Imaginer(plan.recipe, source, cache, plan.seeds, prior)
        run(plan, source, cache, Path(place) / "out", engine, imaginer=imaginer)
    rate, busy = steady(stamps)
    return {
        "seeds": args.only,
        "workers": workers,
        "samples": args.only * RATIO,
        "samples a second": round(rate, 1),
        "overhead a sample, ms": round(1000 * (busy / rate - args.wait), 2),
        "driver, MB": _memory() >> 20,
        "worker, MB": max(stamp.memory for stamp in stamps) >> 20,
        "listing, s": round(listed, 1),
        "all, s": round(time.perf_counter() - started, 1),
    }


def steady(stamps: Sequence[Stamp]) -> tuple[float, int]:
    """Samples a second while all workers were at work, and how many these are."""
    own: dict[str, list[Stamp]] = {}
    for stamp in stamps:
        own.setdefault(stamp.process, []).append(stamp)
    start = max(min(stamp.begun for stamp in part) for part in own.values())
    stop = min(max(stamp.ended for stamp in part) for part in own.values())
    done = 0.0
    for stamp in stamps:
        inside = max(0.0, min(stop, stamp.ended) - max(start, stamp.begun))
        done += stamp.samples * inside / (stamp.ended - stamp.begun)
    return done / (stop - start), len(own)


def _runner(engine: str) -> Callable[..., Iterator[Any]]:
    if engine == "local":
        return run_local
    from gif_datasets.expansion.engines.ray import run_ray

    return run_ray


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _lines(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One fresh process a line; shows each as it comes."""
    for seeds, workers in _settings(args):
        words = [*sys.argv[1:], "--only", str(seeds), "--worker-count", str(workers)]
        line = json.loads(subprocess.check_output([sys.executable, __file__, *words]))
        print(" | ".join(f"{name} {value}" for name, value in line.items()), flush=True)
        yield line


def _settings(args: argparse.Namespace) -> list[tuple[int, int]]:
    """Seeds and workers of each line."""
    if args.workers:
        shards = max(2, round(args.seconds / args.wait / SHARD))  # of each worker
        return [(shards * workers * SHARD // RATIO, workers) for workers in args.workers]
    return [(seeds, 1 if args.plan else 2) for seeds in args.plan or args.seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[1000, 10_000])
    add("--plan", type=int, nargs="+")
    add("--workers", type=int, nargs="+")
    add("--seconds", type=float, default=15.0, help="of work for each of --workers")
    add("--wait", type=float, help="seconds a sample (default: 0.002, with --workers 0.05)")
    add("--busy", action="store_true")
    add("--engine", choices=("local", "ray"), default="local")
    add("--only", type=int, help=argparse.SUPPRESS)
    add("--worker-count", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.wait is None:
        args.wait = 0.05 if args.workers else 0.002
    if args.only is not None:
        print(json.dumps(planning(args) if args.plan else expansion(args)))
        return
    lines = list(_lines(args))
    if args.workers:
        first = lines[0]["samples a second"] / lines[0]["workers"]
        shares = {str(line["workers"]): round(line["samples a second"] / line["workers"] / first, 3) for line in lines}
        print(json.dumps({"share of linear, by workers": shares}))


if __name__ == "__main__":
    main()
