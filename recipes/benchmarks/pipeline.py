"""Does the device wait? `expand` with a prior that sleeps as long as a device would draw, against that prior alone.

    python recipes/benchmarks/pipeline.py                             # 5, 30 and 100 images of 512 x 512 a second
    python recipes/benchmarks/pipeline.py --rates 30 --formats jpg --ray

The bare loop calls the prior block by block and takes its images as bytes, nothing more. `expand` reads the seeds (JPEG
files of the same size), guides, encodes, hashes, and writes cache, shards, index, card and preview. Both are timed in
turn. Where encoding alone takes the cores longer than the prior takes, no overlap helps: the bound is then "encoding",
and `least` is the ratio that it leaves; otherwise the bound is "prior". Give the cores with `taskset`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import times
from torch import Tensor
from torch.nn import functional as F

from gif_datasets import ExpandedDataset
from gif_datasets.config import ExpansionConfig
from gif_datasets.io import images
from gif_datasets.io.devices import usable_cpus
from gif_datasets.priors.linear import LinearPrior

CLASSES = 4


def texture(side: int, number: int) -> np.ndarray:
    """Something with the spectrum of a photograph, ``(side, side, 3)`` in [0, 1]."""
    rng = np.random.default_rng(number)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    spectrum = np.fft.fft2(rng.standard_normal((side, side, 3)), axes=(0, 1)) / (frequency[..., None] + 1 / side) ** 1.2
    field = np.fft.ifft2(spectrum, axes=(0, 1)).real
    return (np.clip((field - field.mean()) / (5 * field.std()) + 0.5, 0, 1)).astype(np.float32)


class SleepingPrior(LinearPrior):
    """Takes as long for a block as a device that draws ``rate`` images a second."""

    def __init__(self, rate: float, side: int) -> None:
        self.rate, self.size = rate, side
        self.key = f"sleeping {rate} {side}"
        self.texture = torch.from_numpy(texture(side, 0)).permute(2, 0, 1)

    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """The texture, tinted by the latent."""
        ready = time.perf_counter() + len(latents) / self.rate
        small = latents.reshape(-1, 3, self.side, self.side)
        tint = F.interpolate(small, size=(self.size, self.size), mode="bilinear") * 0.1
        pixels = (self.texture + tint).clamp_(0, 1)
        time.sleep(max(0.0, ready - time.perf_counter()))
        return pixels


def write_seeds(folder: Path, count: int, side: int) -> None:
    """JPEG files, a folder for each class."""
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((texture(side, number) * 255).astype(np.uint8)).save(path, quality=95, subsampling=0)


def bare(prior: SleepingPrior, samples: int, config: ExpansionConfig) -> None:
    """The prior alone, whose images become bytes."""
    latents = torch.zeros(config.decode_batch, 3 * prior.side**2)
    for _ in range(-(-samples // config.decode_batch)):
        (prior.decode(latents, (), config) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def whole(seeds: Path, prior: SleepingPrior, options: dict[str, object]) -> None:
    """`expand`, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        expanded = ExpandedDataset(str(seeds), prior=prior, cache_dir=f"{folder}/c", **options)
        expanded.precompute(Path(folder) / "out")


def through_ray(seeds: Path, prior: SleepingPrior, options: dict[str, object]) -> None:
    """`expand`, in an actor of a Ray cluster of its own, whose start is not counted."""
    from gif_datasets.expansion.engines.ray import run_ray
    from gif_datasets.expansion.run import run
    from gif_datasets.io.stores import as_path

    with tempfile.TemporaryDirectory() as folder:
        expanded = ExpandedDataset(str(seeds), prior=prior, cache_dir=f"{folder}/c", **options)
        imaginer = expanded.imaginer
        run(
            expanded.plan, expanded.source, imaginer.cache, as_path(f"{folder}/out"),
            lambda task, ids: run_ray(task, ids, 1), (), imaginer,
        )  # fmt: skip


def encode_seconds(prior: SleepingPrior, config: ExpansionConfig) -> float:
    """Seconds of one core to encode one image."""
    pixels = (prior.texture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    options = config.image_format, config.jpeg_quality, config.webp_effort
    return min(times(lambda: images.encode(pixels, *options), 3))


def measure(seeds: Path, rate: float, image_format: str, args: argparse.Namespace) -> dict[str, object]:
    """One rate and format."""
    name, _, effort = image_format.partition("-")
    options = {"ratio": args.ratio, "image_format": name, "webp_effort": int(effort or 4), "originals": args.originals}
    config, prior = ExpansionConfig(**options), SleepingPrior(rate, args.side)
    run, samples = through_ray if args.ray else whole, args.seeds * args.ratio

    def one_round() -> float:
        [alone] = times(lambda: bare(prior, samples, config), 1, warm_up=False)
        [ours] = times(lambda: run(seeds, prior, options), 1, warm_up=False)
        return ours / alone

    least = encode_seconds(prior, config) * rate / usable_cpus()
    return {
        "images a second": rate,
        "format": image_format,
        "whole / prior": round(statistics.median(one_round() for _ in range(args.repeats)), 3),
        "bound": "encoding" if least > 1 else "prior",
        "least": round(max(1.0, least), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[5, 30, 100], help="images a second")
    parser.add_argument(
        "--formats", nargs="+", default=["jpg", "webp-0", "webp", "png"], help="webp-0: webp of effort 0"
    )
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--ratio", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--originals", action="store_true", help="also write the seeds into the shards")
    parser.add_argument("--ray", action="store_true", help="through Ray, in a cluster that is started once")
    args = parser.parse_args()

    warnings.simplefilter("ignore")  # of names of classes that a prior without weights cannot tell apart
    torch.set_num_threads(1)
    if args.ray:
        import ray

        ray.init("local", include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        write_seeds(Path(folder), args.seeds, args.side)
        rows = [measure(Path(folder), rate, kind, args) for rate in args.rates for kind in args.formats]
    setting = f"{args.seeds} seeds, ratio {args.ratio}, {args.side} pixels, {usable_cpus()} cores"
    print(json.dumps({"setting": setting, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
