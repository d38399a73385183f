"""Kill -9 at random moments, while processes expand one dataset; then the set must be whole.

    python recipes/faults/kill.py --kills 100                          one `gif-datasets expand`
    python recipes/faults/kill.py --kills 100 --processes 2            two with one output folder and one cache
    python recipes/faults/kill.py --kills 100 --processes 2 --ranks    two ranks of a training with one cache

Whoever is killed is replaced by a process that runs the same again, until all have ended well; then the folder is
checked and the next one begun, on an empty cache, until there were enough kills. Ranks leave samples in the cache, of
which the command makes a folder. Checked is, against a run that nobody disturbed: the same files with the same bytes,
every (seed, copy) once, every entry of the cache whole. Prints JSON; exit code 1 if any of it fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import gif_datasets
from gif_datasets.chunks import blocks
from gif_datasets.cli import main as command_line
from gif_datasets.config import ExpansionConfig
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.open import open_expansion
from gif_datasets.io.atomic import TEMPORARY
from gif_datasets.io.cache.store import open_cache
from gif_datasets.shards.verify import verify
from gif_datasets.sources import wrap_source

RATIO = 4
OPTIONS = {"ratio": RATIO, "prior": "linear", "samples_per_shard": 10, "decode_batch": 4, "encode_batch": 4}
"""Small shards and blocks, so that there are many moments to be killed at."""
ASKED_AT_ONCE = 8  # copies, by a rank
_fork = multiprocessing.get_context("fork")  # so that a process is at work at once, not importing for seconds


def run_command(source: str, limit: int, place: Path) -> None:
    """`gif-datasets expand`, as the shell runs it; raises SystemExit if it fails."""
    settings = [word for name, value in OPTIONS.items() for word in ("--set", f"{name}={value}")]
    where = ["--out", str(place / "out"), "--cache-dir", str(place / "cache")]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        code = command_line(["expand", source, "--limit", str(limit), "--workers", "1", *where, *settings])
    if code:
        raise SystemExit(code)


def run_rank(source: str, limit: int, place: Path, rank: int, ranks: int) -> None:
    """Ask for one rank's share of the copies, in a shuffled order."""
    opened = open_expansion(wrap_source(source), ExpansionConfig.build(OPTIONS), limit=limit)
    plan = opened.plan
    imaginer = Imaginer(plan.recipe, opened.source, open_cache(place / "cache"), plan.seeds)
    rows = [(seed, copy) for seed in plan.seeds for copy in range(1, RATIO + 1)]
    random.Random(0).shuffle(rows)
    for part in blocks(rows[rank::ranks], ASKED_AT_ONCE):
        imaginer.imagine(part)


def contents(folder: Path) -> dict[str, bytes]:
    """All files by name, except what a killed process left half-written under a hidden name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(TEMPORARY))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def rows_of(folder: Path) -> Counter[tuple[int, int]]:
    """How often a folder has each (seed, copy)."""
    loaded = gif_datasets.load_expanded(folder)
    records = (loaded.provenance(i) for i in range(len(loaded)))
    return Counter((record.seed_index, record.copy) for record in records)


def wrong(place: Path, undisturbed: Path) -> list[str]:
    """What is wrong with a finished folder and its cache."""
    found, wanted, problems = contents(place / "out"), contents(undisturbed / "out"), verify(place / "out")
    problems += [f"{name} differs" for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    there, rows = rows_of(place / "out"), rows_of(undisturbed / "out")
    problems += [f"lost: {row}" for row in sorted(rows.keys() - there.keys())]
    problems += [f"twice: {row}" for row, count in sorted(there.items()) if count > 1]
    audit = open_cache(place / "cache").verify()
    return problems + [f"damaged: {name}" for name in audit.damaged]


class Crashed(Exception):
    """A process ended by itself, and not well."""


def disturbed(works: Sequence[Callable[[], Any]], kills: int, span: float, chance: random.Random) -> list[float]:
    """Run each work until it has ended well, killing at most ``kills`` processes; returns when, in seconds."""
    running, moments, begun = dict[int, BaseProcess](), list[float](), time.monotonic()
    left = set(range(len(works)))
    while left:
        for number in left - running.keys():
            running[number] = _fork.Process(target=works[number])
            running[number].start()
        victim = chance.choice(sorted(left))
        if len(moments) < kills:
            time.sleep(chance.uniform(0, span))
            running[victim].kill()
        running[victim].join()
        if running[victim].exitcode == -signal.SIGKILL:  # it was not done yet
            moments.append(time.monotonic() - begun)
            del running[victim]
        for number in [number for number in running if not running[number].is_alive()]:
            if running[number].exitcode:
                raise Crashed(f"nobody killed a process that ended with {running[number].exitcode}; see its traceback")
            left.discard(number)
    return moments


def main(
    kills: int = 100, processes: int = 1, ranks: bool = False, rng_seed: int = 0, source: str = "demo", limit: int = 40
) -> dict[str, Any]:
    """Kill so many processes, and count what came of it."""
    chance = random.Random(rng_seed)
    problems, moments, left_behind, latents, sets = list[str](), list[float](), 0, 0, 0
    with tempfile.TemporaryDirectory() as work:
        run_command(source, limit, Path(work) / "first")  # imports what the processes inherit
        undisturbed, begun = Path(work) / "undisturbed", time.monotonic()
        run_command(source, limit, undisturbed)
        alone = time.monotonic() - begun
        while len(moments) < kills or not sets:
            place = Path(work) / str(sets)
            works: list[Callable[[], None]] = [partial(run_command, source, limit, place)] * processes
            if ranks:
                works = [partial(run_rank, source, limit, place, rank, processes) for rank in range(processes)]
            moments += disturbed(works, kills - len(moments), alone / (8 if ranks else 2), chance)
            run_command(source, limit, place)
            problems += wrong(place, undisturbed)
            left_behind += sum(path.name.startswith(TEMPORARY) for path in place.rglob("*"))
            latents += len(list(place.rglob("*.tensors"))) - 1  # without the embeddings of all seeds
            sets += 1
        samples = sum(rows_of(undisturbed / "out").values())
    return {
        "kills": len(moments),
        "processes": processes,
        "ranks": ranks,
        "sets": sets,
        "samples_per_set": samples,
        "seconds_undisturbed": round(alone, 2),
        "seconds_into_a_set": [round(x, 2) for x in statistics.quantiles(moments, n=4)]
        if len(moments) > 1
        else moments,
        "half_written_files": left_behind,
        "guidance_left_behind": latents,
        "problems": problems,
        "ok": not problems,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many processes to kill (default: 100)")
    parser.add_argument("--processes", type=int, default=1, help="how many run at once (default: 1)")
    parser.add_argument("--ranks", action="store_true", help="they are ranks that share a cache, not an output")
    parser.add_argument("--rng-seed", type=int, default=0, help="another number kills at other moments")
    parser.add_argument("--source", default="demo", help="the seed dataset (default: demo)")
    parser.add_argument("--limit", type=int, default=40, help="how many seeds of it (default: 40)")
    found = main(**vars(parser.parse_args()))
    print(json.dumps(found, indent=1))
    sys.exit(0 if found["ok"] else 1)
