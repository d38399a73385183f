"""Photographs of 12 megapixels: listing against their decoder, listing again, bytes of stored originals, memory.

    python recipes/benchmarks/sizes.py                          # 40 files of 4000 x 3000, 5 MB each
    python recipes/benchmarks/sizes.py --photographs 200
    python recipes/benchmarks/sizes.py --photographs 10000 --size 64 64     # the second listing of many small files

Listing decodes each file, digests its pixels and looks whether it is grey; the decoder alone is simplejpeg, in as many
threads. Both are timed in turn, so that the ratio is that of one machine at one time. The second listing finds the keys
in the cache. Then `--max` seeds are expanded by cutout, as JPEG, and the stored originals compared with the files. Peak
memory is that of a process that only lists, and of one that also expands. Reducing by ``--max-side`` is compared with
reducing the whole image. Give the cores with `taskset`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
from blake3 import blake3
from PIL import Image
from timing import times

import gif_datasets
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.decode import Scratch, plain
from gif_datasets.io.devices import usable_cpus
from gif_datasets.io.images import at_most
from gif_datasets.shards.reader import ShardReader
from gif_datasets.sources import open_source
from gif_datasets.sources.base import list_seeds


def scene(width: int, height: int) -> np.ndarray:
    """A field with the spectrum of a photograph, ``(height, width, 3)`` uint8."""
    rng, frequency = np.random.default_rng(0), np.hypot(*np.meshgrid(np.fft.rfftfreq(width), np.fft.fftfreq(height)))
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / (frequency + 1 / width) ** 1.3
        field = np.fft.irfft2(spectrum, (height, width))
        planes.append(np.clip((field - field.mean()) / (5 * field.std()) + 0.5, 0, 1))
    return (np.stack(planes, -1) * 255).astype(np.uint8)


def write_photographs(folder: Path, count: int, width: int, height: int) -> int:
    """JPEG files of two classes, each another place of one scene; their bytes. They are as old as photographs are."""
    field, total = scene(width, height), 0
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = np.ascontiguousarray(np.roll(field, (number * 37, number * 61), (0, 1)))
        path.write_bytes(simplejpeg.encode_jpeg(pixels, quality=92, colorsubsampling="420"))
        total += path.stat().st_size
    time.sleep(2.1)  # a younger file may change again without another time
    return total


def decode_all(files: list[Path], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda path: simplejpeg.decode_jpeg(path.read_bytes(), "RGB").shape, files):
            pass


def reduce_whole(path: Path, side: int) -> None:
    """Decode a whole file, and reduce the image."""
    at_most(Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes(), "RGB")), side)


def milliseconds(path: Path, side: int) -> dict[str, float]:
    """Of one core, for one photograph: read and decoded into memory that is used again, hashed, and reduced."""
    scratch = Scratch()
    pixels = plain(path.read_bytes(), scratch)
    assert pixels is not None
    steps = {
        "decoding": lambda: plain(path.read_bytes(), scratch),
        "SHA-256": lambda: hashlib.sha256(pixels.data).digest(),
        "BLAKE3": lambda: blake3(pixels.data).digest(),
        f"reducing to {side} pixels": lambda: plain(path.read_bytes(), scratch, side),
        "decoding whole, then reducing": lambda: reduce_whole(path, side),
    }
    return {name: round(1000 * min(times(step, 5)), 2) for name, step in steps.items()}


def peak(folder: Path, cache: Path, count: int) -> int:
    """Peak memory of a new process that lists a folder, and expands `count` of its images; MB."""
    of_listing = f"list_seeds(open_source({str(folder)!r}))"
    options = f"method='cutout', ratio=1, image_format='auto', limit={count}, cache_dir={str(cache)!r}"
    work = f"expand({str(folder)!r}, {str(cache.parent / 'peak')!r}, {options})" if count else of_listing
    code = (
        "import resource; from gif_datasets import expand; from gif_datasets.sources import open_source\n"
        f"from gif_datasets.sources.base import list_seeds; {work}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=40)
    parser.add_argument("--size", type=int, nargs=2, default=[4000, 3000], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--max", type=int, default=8, help="expand so many of them")
    parser.add_argument("--max-side", type=int, default=256, help="pixels to which an image is reduced")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, cores = Path(name), usable_cpus()
        (folder / "seeds").mkdir()
        written = write_photographs(folder / "seeds", args.photographs, *args.size)
        files = sorted((folder / "seeds").rglob("*.jpg"))
        rounds = [
            (
                times(lambda: decode_all(files, cores), 1, warm_up=False)[0],
                times(lambda: list_seeds(open_source(str(folder / "seeds"))), 1, warm_up=False)[0],
            )
            for _ in range(args.repeats)
        ]
        cache = Cache(folder / "cache")
        list_seeds(open_source(str(folder / "seeds")), cache=cache)
        [again] = times(lambda: list_seeds(open_source(str(folder / "seeds")), cache=cache), 1, warm_up=False)
        options = {"method": "cutout", "ratio": 1, "image_format": "auto", "limit": args.max}
        gif_datasets.expand(str(folder / "seeds"), folder / "out", cache_dir=folder / "cache", **options)
        reader = ShardReader(folder / "out")
        real = [i for i in range(len(reader)) if not reader.is_synthetic(i)]
        peaks = {
            what: peak(folder / "seeds", folder / "peak_cache", n)
            for what, n in (("listing", 0), ("expanding", args.max))
        }
        one = milliseconds(files[0], args.max_side)
        stored = sum(len(reader.image_bytes(i)) for i in real)
        given = sum(os.stat(folder / "seeds" / reader.provenance(i).seed_origin).st_size for i in real)  # noqa: PTH116
    report = {
        "setting": f"{len(files)} files of {args.size[0]} x {args.size[1]}, {written / 1e6:.0f} MB, {cores} cores",
        "listing / decoding, rate": round(statistics.median(alone / ours for alone, ours in rounds), 3),
        "listing, files a second": round(len(files) / statistics.median(ours for _, ours in rounds), 2),
        "a photograph, ms of one core": one,
        "listing again, seconds": round(again, 3),
        "listing again, seconds for 10,000": round(again / len(files) * 10_000, 3),
        "originals / files, bytes": round(stored / given, 4),
        "peak memory, MB": peaks,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
