"""End to end: `expand` against a bare loop over the same diffusers pipeline, in one run on one machine.

    python recipes/benchmarks/expand.py

The loop encodes each seed once and calls the pipeline on its latent, at whichever batch size is fastest, on the threads
that a worker has, and keeps nothing. `expand` does as much, and reads and hashes the seeds, builds the classifier,
guides, encodes images as PNG, and writes cache, shards, index, card and preview; it runs here in this process, models
loaded before. Both are timed in turn; the ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from timing import times

from gif_datasets import ExpandedDataset
from gif_datasets.config import ExpansionConfig
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.sources import open_source


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one run."""
    return times(run, 1, warm_up=False)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--ratio", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--prior", default="embedded")
    args = parser.parse_args()

    config = ExpansionConfig(ratio=args.ratio, prior=args.prior)
    torch.set_num_threads(config.threads)
    source = open_source(args.source)
    chosen = [source.sample(i * len(source) // args.seeds) for i in range(args.seeds)]
    prior = load_prior(find_prior(args.prior), "unclip", torch.device("cpu"))
    prior.key = "benchmark"  # type: ignore[attr-defined]

    def bare(size: int, seeds: Sequence[tuple[Image, int]] = chosen) -> None:
        encoded = [prior.encode([image for image, _ in seeds[i : i + size]]) for i in range(0, len(seeds), size)]
        latents = torch.cat(encoded).repeat_interleave(args.ratio, 0)
        for start in range(0, len(latents), size):
            part = latents[start : start + size]
            generators = [generator_for(0, str(start + i), "decode", 1) for i in range(len(part))]
            prior.decode(part, generators, config)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            expanded = ExpandedDataset(chosen, args.ratio, prior=prior, classes=source.classes, cache_dir=f"{folder}/c")
            expanded.precompute(Path(folder) / "out")

    few = chosen[: max(args.batch_sizes) * 2 // args.ratio]
    bare(args.batch_sizes[0], few)
    probed = {size: seconds(lambda size=size: bare(size, few)) for size in args.batch_sizes}
    best = min(probed, key=lambda size: probed[size])
    rounds = [(seconds(lambda: bare(best)), seconds(whole)) for _ in range(args.repeats)]
    made = args.seeds * args.ratio
    report = {
        "setting": f"{args.seeds} seeds of {args.source}, ratio {args.ratio}, {config.threads} thread",
        "milliseconds a picture, few, by batch size": {
            size: round(1000 * value / (len(few) * args.ratio), 1) for size, value in probed.items()
        },
        "milliseconds a picture": {
            f"bare, batch {best}": round(1000 * statistics.median(loop for loop, _ in rounds) / made, 1),
            "expand": round(1000 * statistics.median(ours for _, ours in rounds) / made, 1),
        },
        "expand / bare": round(statistics.median(ours / loop for loop, ours in rounds), 3),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
