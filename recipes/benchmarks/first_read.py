"""The first read of an image, with and without the comparison with the digest in its record.

    python recipes/benchmarks/first_read.py

Photograph-like images of 224 pixels as JPEG and lossless WebP, and of 32 pixels as PNG, are read and decoded in one
thread, as :func:`gif_datasets.load_expanded` does, in the order of the shards. Rounds with and without alternate;
medians, in microseconds an image. The files are in the page cache: from a disk, the share of the comparison is smaller.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from loading_data import expanded, pixels

from gif_datasets.data.map_style import LoadedDataset
from gif_datasets.io import images

KINDS = (("jpg", 224), ("webp", 224), ("png", 32))
BATCH = 64


def seconds(folder: Path, check: bool) -> float:
    """One thread's time, which other processes do not lengthen, for an image of a folder that was just opened."""
    data = LoadedDataset(folder, check=check)
    started = time.thread_time()
    for first in range(0, len(data), BATCH):
        data.__getitems__(range(first, min(first + BATCH, len(data)))).load()
    return (time.thread_time() - started) / len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100, help="different images of each kind")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    for suffix, side in KINDS:
        with tempfile.TemporaryDirectory() as place:
            pool = [images.encode(pixels(number, side), suffix, 90) for number in range(args.pictures)]
            expanded(Path(place), pool, args.pictures, suffix)
            rounds = [(seconds(Path(place), False), seconds(Path(place), True)) for _ in range(args.rounds)]
        without, compared = (1e6 * statistics.median(times) for times in zip(*rounds, strict=True))
        share = statistics.median(checked / plain for plain, checked in rounds) - 1
        print(f"{suffix} {side}: {without:.1f} us without, {compared:.1f} us with the comparison: {share:+.1%}")


if __name__ == "__main__":
    main()
