"""Loading: samples a second of ours and of other loaders, from the same images, and opening a million entries.

    python recipes/benchmarks/loading.py

Loaders whose requirements do not go together run in environments of their own. Each is made on first use, in
`--environments`, on top of the environment that this runs in, which stays as it is.

There is a table for each of `TABLES`. Every loader yields batches of uint8 RGB tensors and labels, with its fastest
documented settings; those that let one choose get the same decoder as ours. Columns are the calling thread alone, and
1 and 2 threads (ours, SPDL, DALI) or worker processes. In every round all loaders take turns at each cell; medians.

The rate is that of the steady state, for every loader alike: the clock begins at the first batch, so that neither the
start of workers nor the building of a pipeline counts, and ends at least `UNDER_WAY` batches before the last, when as
many are under way as at its beginning. The time to the first batch, from before the loader is built, is the last
column, for as many threads or workers as the loader was measured with.

Just before and after each run two bounds are measured: decoding alone, from memory, in as many threads, by what ours
uses (simplejpeg; Pillow for other formats than JPEG), and by torchvision. Ratios to them, in parentheses, are what to
compare, because they move less with the machine than the numbers do.

The exit code is 1, with a line for each reason, unless every loader was measured, ours (threads) is ahead of every
other one in every cell, reaches `TARGET` of torchvision's bound, and has its first batch of a million entries within
`OPENS_WITHIN` seconds. A run that is started again with the same `--out` measures only the rounds that are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import loaders
import numpy as np
from environments import environment
from loaders import CASES, OURS, Case
from loading_data import CLASSES, Images, finish, picture, prepare, record

import gif_datasets
from gif_datasets.io import atomic
from gif_datasets.shards import index, tar, ustar
from gif_datasets.shards import manifest as manifests

TABLES = (Images("jpg", 224, 4000, 64), Images("jpg", 512, 1280, 32), Images("webp", 512, 640, 32))
TARGET = 0.95
OPENS_WITHIN = 2.0
LONGEST = 300  # seconds that one cell may take
WORKERS = (0, 1, 2)
BOUNDS = ("decoder", "torchvision")
ENVIRONMENTS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gif_datasets-loaders"


# --- measuring ----------------------------------------------------------------------------------------------------


class Loader:
    """A process that measures one loader, in the environment that it needs.

    Raises:
        RuntimeError: If its environment or its form of the images cannot be made.
    """

    def __init__(self, case: Case, images: Images, base: Path, environments: Path) -> None:
        self.case = case
        python = environment(environments / case.requires[0], case.requires) if case.requires else sys.executable
        command = [str(python), loaders.__file__]
        rest = [case.name, str(base), images.suffix, str(images.batch)]
        written = base / f"{case.form}.written"
        if case.write is not None and not written.exists():
            shutil.rmtree(base / case.form, ignore_errors=True)
            # in a process of its own: litdata.optimize sets the start method of all later processes
            done = subprocess.run([*command, loaders.PREPARE, *rest], stdout=subprocess.DEVNULL, check=False)
            if done.returncode:
                raise RuntimeError(f"writing the images in its form ended with {done.returncode}")
            written.touch()
        self._process = subprocess.Popen(
            [*command, loaders.MEASURE, *rest],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def measure(self, workers: int, shuffled: bool) -> dict[str, Any]:
        """One cell; a dictionary with ``error`` where that failed."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"workers": workers, "shuffled": shuffled}), file=process.stdin, flush=True)
        ready = select.select([process.stdout], [], [], LONGEST)[0]
        answer = process.stdout.readline() if ready else f'{{"error": "no answer within {LONGEST} s"}}'
        found: dict[str, Any] = json.loads(answer) if answer else {"error": f"it ended with {process.wait()}"}
        return found

    def close(self) -> None:
        """End the process, and its workers with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@contextlib.contextmanager
def running(
    chosen: list[Case], images: Images, base: Path, environments: Path
) -> Iterator[tuple[list[Loader], dict[str, str]]]:
    """The chosen loaders, started, and why those that are missing are."""
    started: list[Loader] = []
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for case in chosen:
            try:
                started.append(stack.enter_context(contextlib.closing(Loader(case, images, base, environments))))
            except RuntimeError as error:  # noqa: PERF203
                missing[case.name] = str(error)
        yield started, missing


def one_round(number: int, started: list[Loader], missing: dict[str, str]) -> list[dict[str, Any]]:
    """Runs of all cells; in each, loaders are measured one after the other. One that fails is missing from then on."""
    runs = []
    for workers, shuffled in itertools.product(WORKERS, (False, True)):
        for loader in started:
            case = loader.case
            if case.name in missing or workers not in case.workers or shuffled not in case.orders:
                continue
            found = loader.measure(workers, shuffled)
            if "error" in found:
                missing[case.name] = found["error"]
            else:
                runs.append({"loader": case.name, "workers": workers, "shuffled": shuffled, "round": number, **found})
    return runs


# --- results ------------------------------------------------------------------------------------------------------


def table(runs: list[dict[str, Any]]) -> str:
    """Medians as Markdown: samples a second, and the ratios to the bounds of our decoder and of torchvision."""
    lines = [
        "| samples a second | order | alone | 1 thread or worker | 2 | first batch, s |",
        "|---|---|---|---|---|---|",
    ]
    measured = {run["loader"] for run in runs}
    for name in (case.name for case in CASES if case.name in measured):
        for shuffled in (False, True):
            own = [run for run in runs if run["loader"] == name and run["shuffled"] == shuffled]
            entries = []
            for workers in WORKERS:
                some = [run for run in own if run["workers"] == workers]
                ratios = ", ".join(f"{_median(some, name):.2f}" for name in BOUNDS) if some else ""
                entries.append(f"{_median(some, 'rate'):,.0f} ({ratios})" if some else "-")
            if own:
                last = [run for run in own if run["workers"] == max(run["workers"] for run in own)]
                lines.append(f"| {name} | {_order(shuffled)} | {' | '.join(entries)} | {_median(last, 'first'):.2f} |")
    return "\n".join(lines)


def behind(runs: list[dict[str, Any]]) -> list[str]:
    """Cells of a table where ours is behind another loader or the target."""
    found_in: dict[tuple[int, bool], dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        found_in.setdefault((run["workers"], run["shuffled"]), {}).setdefault(run["loader"], []).append(run)
    lines = [] if runs else ["nothing was measured"]
    for (workers, shuffled), found in sorted(found_in.items()):
        where = f"{_order(shuffled)}, {workers or 'alone'}"
        if OURS not in found:
            lines.append(f"{where}: ours was not measured")
            continue
        others = {name: _median(some, "decoder") for name, some in found.items() if "gif_datasets" not in name}
        mine, reached = _median(found[OURS], "decoder"), _median(found[OURS], "torchvision")
        lines += [
            f"{where}: ours is not ahead of {name}, at {mine:.2f} and {theirs:.2f} of the bound of our decoder"
            for name, theirs in others.items()
            if theirs >= mine
        ]
        if reached < TARGET:
            lines.append(f"{where}: ours is at {reached:.2f} of torchvision's bound, below {TARGET}")
    return lines


def failures(result: dict[str, Any]) -> list[str]:
    """What the claim fails on: see the module's docstring."""
    lines = [] if result["tables"] else ["nothing was measured"]
    for name, found in result["tables"].items():
        lines += [f"{name}: {line}" for line in behind(found["runs"])]
        lines += [f"{name}: {loader} was not measured ({why})" for loader, why in found["missing"].items()]
    return lines + late(result["opening"])


def late(opened: dict[str, float]) -> list[str]:
    """That the first batch comes late, if it does."""
    seconds = opened.get("seconds_to_first_batch", 0.0)
    message = f"the first batch of {opened.get('entries', 0):,.0f} entries took {seconds:.1f} s, over {OPENS_WITHIN}"
    return [message] if seconds > OPENS_WITHIN else []


def _order(shuffled: bool) -> str:
    return "shuffled" if shuffled else "in order"


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


# --- opening ------------------------------------------------------------------------------------------------------

OPENING = """
import json, sys, time, numpy, torch.utils.data
from gif_datasets import DataLoader, load_expanded
def memory():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return kilobytes["Rss"] / 1024, (kilobytes["Private_Dirty"]) / 1024
import gif_datasets.data.loader
before, started = memory(), time.perf_counter()
data = load_expanded(sys.argv[1])
opened = time.perf_counter() - started
after = memory()
loader = DataLoader(data, 64, shuffle=True)
next(loader._batches.from_(loader._start()))
ready, with_loader = time.perf_counter() - started, memory()
pictures, labels = next(iter(loader))
first = time.perf_counter() - started
assert pictures.shape == (64, 3, 224, 224)
print(json.dumps({"entries": len(data), "seconds": opened, "seconds_to_first_shuffled_indices": ready,
    "seconds_to_first_batch": first, "resident_mb": after[0] - before[0], "of_it_own_mb": after[1] - before[1],
    "own_mb_with_loader": with_loader[1] - before[1], "own_mb_after_first_batch": memory()[1] - before[1]}))
"""

APART, PLACE, ROOM = 32_768, 1536, 29_000  # bytes from sample to sample; where its image is, and how long
RECORD_PLACE, RECORD_ROOM = PLACE + ROOM + -ROOM % ustar.BLOCK + ustar.BLOCK, 1200  # the same for its record
FIRST_BATCH = 64
WRITTEN = 16  # batches whose images are there: more than threads read ahead of the first


def opening(base: Path, entries: int, rounds: int) -> dict[str, float]:
    """Time and memory of opening ``entries`` index entries, and of a first batch, in fresh processes; medians.

    The shards are sparse files, which hold the images of the first batches only.
    """
    per = 1000
    spaced = np.tile(np.arange(per, dtype=np.int64) * APART, entries // per)
    numbers = np.arange(entries)
    made = index.Index(
        spaced + PLACE, np.full(entries, ROOM, np.int32), spaced + RECORD_PLACE,
        np.full(entries, RECORD_ROOM, np.int32),
        (numbers % CLASSES).astype(np.int32), (numbers // 4).astype(np.int32), (numbers % 4).astype(np.int32),
        numbers % 4 > 0, np.ones(entries, np.uint8),
    )  # fmt: skip
    listed = []
    (base / "data").mkdir(parents=True)
    for i in range(entries // per):
        name, size = manifests.shard_name("train", i, entries // per), per * APART + 10_240
        with (base / name).open("wb") as file:
            file.truncate(size)
        listed.append(manifests.Shard(name, per, 0, size, "", ""))
    finish(base, listed, made)
    pool = [content.ljust(ROOM, b"\0") for content in map(picture, range(FIRST_BATCH)) if len(content) <= ROOM]
    loader = gif_datasets.DataLoader(gif_datasets.load_expanded(base), FIRST_BATCH, shuffle=True)
    for number in islice(loader.sampler, WRITTEN * FIRST_BATCH):
        key, image = tar.sample_key("train", number // 4, number % 4), pool[number % len(pool)]
        text = tar.record_bytes(record(number, image)).ljust(RECORD_ROOM)
        with (base / listed[number // per].name).open("r+b") as file:
            for suffix, place, content in (("jpg", PLACE, image), ("json", RECORD_PLACE, text)):
                file.seek(int(spaced[number]) + place - ustar.BLOCK)
                file.write(ustar.header(f"{key}.{suffix}", len(content)) + content)
    size = (base / index.INDEX).stat().st_size
    runs = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", OPENING, str(base)], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {"index_mb": size / 2**20}


def into_page_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def measured(known: dict[str, Any], base: Path, images: Images, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A table after each round that it did not have."""
    settings = dataclasses.asdict(images)
    found = known if known.get("images") == settings else {"images": settings, "rounds": 0, "runs": []}
    if found["rounds"] >= max(1, args.rounds):
        return
    prepare(base, images)
    chosen = [case for case in CASES if args.only in case.name or case.name == OURS]
    with running(chosen, images, base, args.environments) as (started, missing):
        into_page_cache(base)
        for number in range(found["rounds"], args.rounds):
            runs = found["runs"] + one_round(number, started, missing)
            found = {"images": settings, "rounds": number + 1, "runs": runs, "missing": missing}
            print(f"{images.name}: round {number + 1} of {args.rounds}", file=sys.stderr)
            yield found


def report(result: dict[str, Any]) -> list[str]:
    """Lines of what was measured, as Markdown."""
    lines = []
    for name, found in result["tables"].items():
        lines += [f"{name}, medians of {found['rounds']} rounds:", "", table(found["runs"]), ""]
    if opened := result["opening"]:
        lines.append(
            f"Opening a dataset of {opened['entries']:,.0f} entries: {opened['seconds']:.2f} s, the first shuffled"
            f" batch after {opened['seconds_to_first_batch']:.2f} s, {opened['own_mb_with_loader']:.0f} MB of its own"
            f" memory (the index of {opened['index_mb']:.0f} MB is mapped)."
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [images.name for images in TABLES]
    parser.add_argument("--tables", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3, help="0 only makes environments and images")
    parser.add_argument("--samples", type=int, help="in each table, instead of what is usual")
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the dataset that is opened; 0 opens none")
    parser.add_argument("--only", default="", help="part of the names of the loaders to measure beside ours")
    parser.add_argument(
        "--environments", type=Path, default=ENVIRONMENTS, help="folder of the other loaders' (%(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="where to keep the images; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=Path("loading.json"), help="all runs; rounds that it has are kept")
    args = parser.parse_args()
    result = {"cpus": os.cpu_count(), "tables": {}, "opening": {}}
    if args.out.exists():
        result = json.loads(args.out.read_text())
    with tempfile.TemporaryDirectory() as temporary:
        for images in (images for images in TABLES if images.name in args.tables):
            if args.samples:
                images = dataclasses.replace(images, samples=args.samples)
            base = (args.folder or Path(temporary)) / images.name
            for found in measured(result["tables"].get(images.name, {}), base, images, args):
                result["tables"][images.name] = found
                atomic.write_json(args.out, result)
        if args.rounds and args.entries and result["opening"].get("entries") != args.entries:
            result["opening"] = opening(Path(temporary) / "million", args.entries, args.rounds)
            atomic.write_json(args.out, result)
    failed = failures(result)
    print("\n".join(report(result)))
    for line in failed:
        print(f"FAILED: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
