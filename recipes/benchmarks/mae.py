"""GIF-MAE: guided seeds a second, where the time goes, and the memory that guidance holds.

    python recipes/benchmarks/mae.py

Guidance backpropagates through the autoencoder's decoder and CLIP's image tower. The parts are timed on one
``score_batch`` of copies; peak memory is that of a fresh process for each number of seeds guided at once, which what
is kept for the gradient must not grow with.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from timing import times

from gif_datasets.config import ExpansionConfig
from gif_datasets.guidance.guide import Guided, guide
from gif_datasets.io.devices import keep_freed_memory
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.mae import MaePrior
from gif_datasets.sources import open_source


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Median wall-clock time, after one run to warm up."""
    return statistics.median(times(run, repeats))


def guide_seeds(prior: MaePrior, config: ExpansionConfig, count: int) -> Guided:
    """Guide the first seeds of ``demo`` together."""
    source = open_source("demo")
    images = [source.sample(i)[0] for i in range(count)]
    classifier = prior.classifier(source.classes, config)
    return guide(
        prior.encode(images),
        torch.zeros(count, dtype=torch.long),
        [str(i) for i in range(count)],
        classifier,
        config,
        embed=prior.embed,
        seed_scores=classifier.scores(prior.embed_images(images)),
        channel_axis=prior.channel_axis,
    )


def parts(prior: MaePrior, config: ExpansionConfig) -> dict[str, float]:
    """Milliseconds a copy of each part of one step."""
    source = open_source("demo")
    latents = prior.encode([source.sample(i)[0] for i in range(config.score_batch)])
    pixels = prior.model.decode(latents)

    def backward() -> None:
        leaf = latents.clone().requires_grad_()
        embedding = prior.embed(leaf)
        torch.autograd.grad(embedding.sum(), leaf)

    with torch.no_grad():
        decoding = seconds(lambda: prior.model.decode(latents))
        seeing = seconds(lambda: prior.clip.embed_pixels(pixels))
    whole = seconds(backward)
    found = {"decoder, forward": decoding, "CLIP, forward": seeing, "both, backward": whole - decoding - seeing}
    return {name: round(1000 * value / config.score_batch, 2) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="seeds guided at once")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()

    config = ExpansionConfig(method="gif-mae", ratio=5)
    torch.set_num_threads(config.threads)
    keep_freed_memory()  # as the package's own processes do
    prior = load_prior(find_prior("embedded"), "mae", torch.device("cpu"))
    assert isinstance(prior, MaePrior)
    if args.memory_of is not None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        guide_seeds(prior, config, args.memory_of)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        return
    held = {
        str(count): int(subprocess.check_output([sys.executable, __file__, "--memory-of", str(count)])) // 1000
        for count in (4, 16, 64)
    }
    whole = seconds(lambda: guide_seeds(prior, config, args.seeds))
    report = {
        "setting": f"K={config.ratio}, {config.steps} steps, score_batch {config.score_batch}, {config.threads} thread",
        "seeds a second": round(args.seeds / whole, 3),
        "milliseconds a copy and step": parts(prior, config),
        "peak memory above the loaded prior, MB, by seeds guided at once": held,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
