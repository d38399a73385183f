"""Peak memory of an expansion against the number of its seeds.

    python recipes/benchmarks/memory.py

Each size runs in a fresh process on generated images and the prior without weights, so that what grows is the
package's own. The seeds are listed (some hundred bytes each) and their images streamed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import gif_datasets


class Noise:
    """A map-style dataset of random images, made when asked for."""

    classes = ("one", "two")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return Image.fromarray(pixels), index % 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            options = {"ratio": 5, "prior": "linear", "cache_dir": Path(folder) / "cache"}
            gif_datasets.expand(Noise(args.only), Path(folder) / "out", **options)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    peaks = {
        str(count): int(subprocess.check_output([sys.executable, __file__, "--only", str(count)])) // 1000
        for count in args.seeds
    }
    first, last = (peaks[str(count)] for count in (args.seeds[0], args.seeds[-1]))
    print(json.dumps({"peak memory, MB, by seeds": peaks, "last / first": round(last / first, 3)}, indent=1))


if __name__ == "__main__":
    main()
