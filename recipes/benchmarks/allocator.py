"""What keeping freed memory saves: images a second through the embedded CLIP, with glibc's defaults and without.

    python recipes/benchmarks/allocator.py

Each run is a fresh process of one thread, as a worker is; the two take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

import torch
from PIL import Image
from timing import times

from gif_datasets.io.devices import keep_freed_memory
from gif_datasets.priors import find_prior, load_prior

PICTURES = 20


def rate(keep: bool) -> float:
    """Images a second in this process."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    prior = load_prior(find_prior("embedded"), None, torch.device("cpu"))
    images = [Image.effect_noise((32, 32), i).convert("RGB") for i in range(PICTURES)]
    return PICTURES / statistics.median(times(lambda: prior.embed_images(images), 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("default", "kept"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(rate(args.only == "kept"))
        return
    rounds = [
        {
            name: float(subprocess.check_output([sys.executable, __file__, "--only", name]))
            for name in ("default", "kept")
        }
        for _ in range(args.repeats)
    ]
    ratios = [one["kept"] / one["default"] for one in rounds]
    report = {
        "pictures a second": {
            name: round(statistics.median(one[name] for one in rounds), 1) for name in ("default", "kept")
        },
        "kept / default": [round(value, 2) for value in (min(ratios), statistics.median(ratios), max(ratios))],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
