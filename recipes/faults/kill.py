"""Kill -9 at random moments, while processes make one expanded folder together; then the set must be whole.

    python recipes/faults/kill.py --kills 200 --processes 2

Whoever is killed or done is replaced by a process that runs the same again; a finished folder is checked and the next
one begun, on an empty cache, until there were enough kills. Checked is, against a run that nobody disturbed: the same
files with the same bytes, every (seed, copy) once, every entry of the cache whole. Prints JSON; exit code 1 if any of
it fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gif_datasets import ExpandedDataset, load_expanded
from gif_datasets.io.atomic import TEMPORARY
from gif_datasets.shards.verify import verify

RATIO = 4
SAMPLES_PER_SHARD = 10
_fork = multiprocessing.get_context("fork")  # so that a process is at work at once, not importing for seconds


def dataset(source: str, cache: Path) -> ExpandedDataset:
    """The dataset that all processes make; blocks are small, so that there are many moments to be killed at."""
    options = {"ratio": RATIO, "prior": "linear", "samples_per_shard": SAMPLES_PER_SHARD}
    return ExpandedDataset(source, cache_dir=cache, decode_batch=4, encode_batch=4, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """All files by name, except what a killed process left half-written under a hidden name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(TEMPORARY))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def wrong(folder: Path, expanded: ExpandedDataset, undisturbed: dict[str, bytes]) -> list[str]:
    """What is wrong with a finished folder and its cache."""
    found, problems = contents(folder), verify(folder)
    problems += [
        f"{name} differs" for name in sorted({*found, *undisturbed}) if found.get(name) != undisturbed.get(name)
    ]
    loaded = load_expanded(folder)
    there = Counter((loaded.provenance(i).seed_index, loaded.provenance(i).copy) for i in range(len(loaded)))
    wanted = {(seed.index, copy) for seed in expanded.plan.seeds for copy in range(RATIO + 1)}
    problems += [f"lost: {row}" for row in sorted(wanted - set(there))]
    problems += [f"twice: {row}" for row, count in sorted(there.items()) if count > 1]
    audit = expanded.imaginer.cache.verify()
    return problems + [f"damaged: {name}" for name in audit.damaged]


class Crashed(Exception):
    """A process ended by itself, and not well."""


def disturbed(
    work: Callable[[], Any],
    finished: Callable[[], bool],
    kills: int,
    processes: int,
    span: float,
    chance: random.Random,
) -> list[float]:
    """Run processes until the work is finished, killing at most ``kills`` of them; returns when, in seconds."""
    running: list[BaseProcess] = []
    moments, begun = list[float](), time.monotonic()
    while not finished():
        for process in running:
            _check(process)
        running = [process for process in running if process.is_alive()]
        while len(running) < processes:
            running.append(_fork.Process(target=work))
            running[-1].start()
        if len(moments) == kills:
            running[0].join()
            continue
        time.sleep(chance.uniform(0, span))
        victim = chance.choice(running)
        victim.kill()
        victim.join()
        _check(victim)
        if victim.exitcode == -signal.SIGKILL:  # it was not done yet
            moments.append(time.monotonic() - begun)
    for process in running:
        process.join()
        _check(process)
    return moments


def _check(process: BaseProcess) -> None:
    if process.exitcode not in (None, 0, -signal.SIGKILL):
        raise Crashed(f"a process that nobody killed ended with exit code {process.exitcode}; see its traceback above")


def main(kills: int = 200, processes: int = 2, rng_seed: int = 0, source: str = "demo") -> dict[str, Any]:
    """Kill so many processes, and count what came of it."""
    chance = random.Random(rng_seed)
    problems, moments, left_behind, sets = list[str](), list[float](), 0, 0
    with tempfile.TemporaryDirectory() as work:
        begun = time.monotonic()
        expanded = dataset(source, Path(work) / "cache")
        expanded.precompute(Path(work) / "undisturbed")
        alone = time.monotonic() - begun
        undisturbed = contents(Path(work) / "undisturbed")
        while len(moments) < kills or not sets:
            place = Path(work) / str(sets)
            expanded, folder = dataset(source, place / "cache"), place / "out"
            moments += disturbed(
                lambda expanded=expanded, folder=folder: expanded.precompute(folder),  # type: ignore[misc]
                (folder / "manifest.json").exists,
                kills - len(moments),
                processes,
                alone / 5,
                chance,
            )
            expanded.precompute(folder)
            problems += wrong(folder, expanded, undisturbed)
            left_behind += sum(path.name.startswith(TEMPORARY) for path in place.rglob("*"))
            sets += 1
    return {
        "kills": len(moments),
        "processes": processes,
        "sets": sets,
        "samples_per_set": len(expanded),
        "seconds_undisturbed": round(alone, 2),
        "seconds_into_a_set": [round(x, 2) for x in statistics.quantiles(moments, n=4)]
        if len(moments) > 1
        else moments,
        "half_written_files": left_behind,
        "problems": problems,
        "ok": not problems,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many processes to kill (default: 200)")
    parser.add_argument("--processes", type=int, default=2, help="how many run at once (default: 2)")
    parser.add_argument("--rng-seed", type=int, default=0, help="another number kills at other moments")
    parser.add_argument("--source", default="demo", help="the seed dataset (default: demo)")
    found = main(**vars(parser.parse_args()))
    print(json.dumps(found, indent=1))
    sys.exit(0 if found["ok"] else 1)
