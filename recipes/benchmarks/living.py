"""What a change of a dataset costs: 1% more pictures, ten withdrawals, and loading ten generations.

    python recipes/benchmarks/living.py                 10,000 seeds, RandAugment x 5
    python recipes/benchmarks/living.py --seeds 500

Pictures of 32 x 32 pixels are expanded in this process on an empty cache, and pushed to a small Hub on loopback, which
is that of the tests. Then 1% more are added, and the difference is pushed; ten seeds are withdrawn. A fifth as many
pictures are expanded at once and in ten generations, and both folders are read at random in one thread; rounds
alternate. Times are of the processor (what other processes take does not count); ratios are to the whole in the same
run. Prints JSON; exit code 1 if growth takes more than 3% of the time or of the bytes, ten withdrawals write more than
ten shards, or ten generations are read at less than 0.95 of the speed of one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GENERATIONS = 10
WITHDRAWN = 10
BATCH = 64
OPTIONS: dict[str, Any] = {"method": "randaugment", "ratio": 5}
NAME = "me/living"


def draw(folder: Path, numbers: range) -> None:
    """Smooth noise in ten classes, one file a number; names mix old and new."""
    for number in numbers:
        generator = np.random.default_rng(number)
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        place = folder / f"class-{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        name = f"{generator.integers(10**9):09d}-{number}.png"
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(place / name)


def measured(act: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process, and what came of it."""
    started = time.process_time()
    found = act()
    return time.process_time() - started, found


def read_seconds(folder: Path) -> float:
    """One thread's seconds to read a sample, in a random order."""
    import gif_datasets

    data = gif_datasets.load_expanded(folder)
    order = random.Random(0).sample(range(len(data)), len(data))
    started = time.thread_time()
    for first in range(0, len(order), BATCH):
        data.__getitems__(order[first : first + BATCH]).load()
    return (time.thread_time() - started) / len(order)


def changes(work: Path, seeds: int) -> dict[str, Any]:
    """Growth by 1%, and ten withdrawals, beside the whole."""
    import gif_datasets

    source, out, cache = work / "source", work / "out", work / "cache"
    draw(source, range(seeds))
    time.sleep(3)  # files that have just been written are not taken as known, and those of a dataset are older
    gif_datasets.expand("demo", work / "warm", limit=10, cache_dir=work / "warm-cache", **OPTIONS)  # what is imported
    whole, _ = measured(lambda: gif_datasets.expand(str(source), out, cache_dir=cache, **OPTIONS))
    first_push, pushed = measured(lambda: gif_datasets.push_to_hub(out, NAME))
    draw(source, range(seeds, seeds + max(1, seeds // 100)))
    growth, grown = measured(lambda: gif_datasets.expand(str(source), out, cache_dir=cache, update=True))
    second_push, sent = measured(lambda: gif_datasets.push_to_hub(out, NAME))
    origins = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    names = random.Random(0).sample(origins, WITHDRAWN)
    before = _shards(out).keys()
    withdrawal, gone = measured(lambda: gif_datasets.withdraw(out, names, cache_dir=cache))
    written = sum(size for name, size in _shards(out).items() if name not in before)
    return {
        "seeds": seeds,
        "added": grown.added,
        "shards": grown.shards,
        "seconds": {"whole": round(whole, 2), "growth": round(growth, 2), "withdrawal": round(withdrawal, 2)},
        "seconds_of_pushes": {"first": round(first_push, 2), "second": round(second_push, 2)},
        "bytes_of_pushes": {"first": pushed.uploaded_bytes, "second": sent.uploaded_bytes},
        "growth_to_whole": {
            "time": round(growth / whole, 4),
            "bytes": round(sent.uploaded_bytes / pushed.uploaded_bytes, 4),
        },
        "withdrawn": len(gone.seeds),
        "shards_that_lost_samples": len(before - _shards(out).keys()),
        "shards_written_for_withdrawn": gone.rewritten,
        "bytes_written_for_withdrawn_to_all": round(written / sum(_shards(out).values()), 4),
    }


def _shards(folder: Path) -> dict[str, int]:
    """Sizes of a folder's shards, by name."""
    return {path.name: path.stat().st_size for path in (folder / "data").iterdir()}


def loading(work: Path, seeds: int, rounds: int) -> dict[str, Any]:
    """How quickly a folder of ten generations is read, to one of the same pictures made at once."""
    import gif_datasets

    source, several, once, cache = (work / name for name in ("part", "several", "once", "part-cache"))
    step = max(1, seeds // (2 * GENERATIONS))
    draw(source, range(seeds - step * (GENERATIONS - 1)))
    gif_datasets.expand(str(source), several, cache_dir=cache, **OPTIONS)
    for number in range(GENERATIONS - 1, 0, -1):
        draw(source, range(seeds - step * number, seeds - step * (number - 1)))
        found = gif_datasets.expand(str(source), several, cache_dir=cache, update=True)
    gif_datasets.expand(str(source), once, cache_dir=cache, **OPTIONS)
    pairs = [(read_seconds(once), read_seconds(several)) for _ in range(rounds)]
    return {
        "generations": found.generation,
        "samples": found.originals + found.synthetic,
        "microseconds_a_sample": [round(1e6 * statistics.median(times), 2) for times in zip(*pairs, strict=True)],
        "speed_of_ten_generations": round(statistics.median(one / ten for one, ten in pairs), 3),
    }


def small_hub(work: Path) -> Any:
    """The Hub of the tests, which huggingface_hub speaks to if it was not imported before."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from hub_server import serve

    return serve(work / "hf")


def main(seeds: int = 10_000, rounds: int = 9, hub: Any = None) -> dict[str, Any]:
    """Measure all; ``ok`` says whether the bounds hold. ``hub`` is the one that huggingface_hub speaks to already."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        _ = hub or small_hub(work)  # it lives as long as this process
        found = {**changes(work, seeds), **loading(work, max(seeds // 5, 4 * GENERATIONS), rounds)}
    growth = found["growth_to_whole"]
    few = found["shards_written_for_withdrawn"] <= found["withdrawn"]
    found["ok"] = max(growth.values()) <= 0.03 and few and found["speed_of_ten_generations"] >= 0.95
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10_000, help="pictures at first (default: 10,000)")
    parser.add_argument("--rounds", type=int, default=9, help="times that each folder is read (default: 9)")
    result = main(**vars(parser.parse_args()))
    print(json.dumps(result, indent=1))
    sys.exit(0 if result["ok"] else 1)
