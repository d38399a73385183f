"""Ranks on one cold cache: how many seeds are guided more than once, and how many copies are made more than once.

    python recipes/benchmarks/ranks.py --seeds 20 --ratio 4 --ranks 1 2 4

Each rank is a process that reads its share of a shuffled epoch through the package's DataLoader, as ranks of a training
do. All want copies of the same seeds at the same time, and each holds every seed's guidance in memory once it has it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import gif_datasets
from gif_datasets import DataLoader, ExpandedDataset
from gif_datasets.chunks import evenly
from gif_datasets.expansion.imagination.candidates import GuidedMaker
from gif_datasets.io.atomic import link_or_copy
from gif_datasets.types import Seed

DEMO = Path(gif_datasets.__file__).parent / "assets" / "demo"
WAIT = 240.0  # seconds that a rank waits for the others to have loaded their priors


def rank_epoch(rank: int, ranks: int, options: dict[str, Any], start: Any, results: Any) -> None:
    """Read a rank's share of an epoch; tells which seeds were guided, how many copies were drawn, and seconds."""
    torch.set_num_threads(1)
    expanded = ExpandedDataset(**options)
    guided, guide_block = list[str](), GuidedMaker._guide_block

    def counted(maker: GuidedMaker, seeds: Sequence[Seed], attempt: int) -> Any:
        guided.extend({f"{seed.key}/{attempt}" for seed in seeds})  # a block that is padded repeats its last seed
        return guide_block(maker, seeds, attempt)

    GuidedMaker._guide_block = counted  # type: ignore[method-assign]
    loader = DataLoader(expanded, batch_size=8, shuffle=True, rank=rank, world_size=ranks)
    expanded.imaginer.prepare()
    expanded.imaginer.originals(expanded.plan.seeds[:1])  # loads the prior
    start.wait(WAIT)
    begun = time.monotonic()
    samples = sum(len(batch[1]) for batch in loader)
    results.put((guided, expanded.imaginer.generated, samples, time.monotonic() - begun))


def copy_demo(folder: Path, count: int) -> Path:
    """A folder of so many seeds of the demo dataset, of all classes."""
    images = sorted(DEMO.glob("*/*.*"))
    for index in evenly(len(images), count):
        link_or_copy(images[index], folder / images[index].relative_to(DEMO))
    return folder


def measure(ranks: int, options: dict[str, Any]) -> dict[str, Any]:
    """So many ranks at once, on an empty cache."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(ranks), context.Queue()
    with tempfile.TemporaryDirectory() as cache:
        shared = {**options, "cache_dir": cache}
        processes = [
            context.Process(target=rank_epoch, args=(rank, ranks, shared, start, results)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        found = [results.get(timeout=2 * WAIT) for _ in processes]
        for process in processes:
            process.join()
        left = len(list(Path(cache).rglob("*.tensors")))
    guided = Counter(key for keys, *_ in found for key in keys)
    copies, generated = len(guided) * options["ratio"], sum(generated for _, generated, *_ in found)
    return {
        "ranks": ranks,
        "seeds": len(guided),
        "guided_again": sum(guided.values()) - len(guided),
        "share_guided_again": round(sum(guided.values()) / len(guided) - 1, 3),
        "copies_made_again": generated - copies,
        "samples": sum(samples for *_, samples, _ in found),
        "seconds": round(max(seconds for *_, seconds in found), 2),
        "tensors_in_cache": left,
    }


def main() -> None:
    """Print one line for each number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="processes (default: 1 2 4)")
    parser.add_argument("--seeds", type=int, default=20, help="seeds of the demo dataset (default: 20)")
    parser.add_argument("--ratio", type=int, default=4, help="copies a seed (default: 4)")
    parser.add_argument("--method", default="gif-unclip", help="a guided method (default: gif-unclip)")
    parser.add_argument("--prior", default="embedded", help="the prior; linear takes no time (default: embedded)")
    parser.add_argument("--encode-batch", type=int, default=4, help="seeds guided in one block (default: 4)")
    args = parser.parse_args()
    options = {"ratio": args.ratio, "method": args.method, "prior": args.prior, "decode_batch": 8}
    options["encode_batch"] = args.encode_batch
    with tempfile.TemporaryDirectory() as folder:
        source = str(copy_demo(Path(folder), args.seeds))
        for ranks in args.ranks:
            print(json.dumps(measure(ranks, {"dataset": source, **options})), flush=True)


if __name__ == "__main__":
    main()
