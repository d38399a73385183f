"""What each image format costs: bytes, decibels, and time to write and to read, per image.

    python recipes/benchmarks/image_formats.py                   # the 200 pictures of demo, 32 x 32
    python recipes/benchmarks/image_formats.py --photographs     # 18 tiles of 224 x 224 from scikit-image's photographs
    python recipes/benchmarks/image_formats.py FOLDER            # such tiles of a folder's pictures

Images should come from files without loss (PNG): what JPEG once smoothed, every format then stores in fewer bytes.
Times are one thread's, the fastest of several rounds over all images; compare them within one run only.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from timing import times

from gif_datasets.io import images
from gif_datasets.sources import open_source

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle_left")
"""Those in colour that scikit-image's package holds without loss."""

VARIANTS = (("png", 0), ("webp", 4), ("webp", 0), ("jpg", 98), ("jpg", 95), ("jpg", 90), ("jpg", 75))
"""Formats, with quality or effort."""


def tiles(path: Path, size: int) -> list[np.ndarray]:
    """All whole tiles of an image, side by side; different ones only."""
    pixels = np.asarray(images.read_rgb(path, path.name))
    rows, columns = (side // size for side in pixels.shape[:2])
    found = [pixels[size * i : size * (i + 1), size * j : size * (j + 1)] for i in range(rows) for j in range(columns)]
    return list({hashlib.sha256(tile.tobytes()).digest(): np.ascontiguousarray(tile) for tile in found}.values())


def photographs() -> list[Path]:
    """Files of :data:`PHOTOGRAPHS`."""
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("--photographs are those of scikit-image, which is not installed: pip install scikit-image")
    return [Path(found.submodule_search_locations[0]) / "data" / f"{name}.png" for name in PHOTOGRAPHS]


def pictures_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and images.is_picture_name(path.name)]


def collect(paths: list[Path] | None, size: int, most: int) -> list[np.ndarray]:
    """Tiles of images; None: the images of `demo`."""
    if paths is None:
        demo = open_source("demo")
        return [np.asarray(demo.sample(index)[0]) for index in range(len(demo))]
    return [tile for path in paths for tile in tiles(path, size)][:most]


def fastest(run: Callable[[], Any], rounds: int) -> float:
    return min(times(run, rounds, warm_up=False))


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def measure(pictures: list[np.ndarray], image_format: str, number: int, rounds: int) -> dict[str, Any]:
    """One format over all images."""

    def write() -> list[bytes]:
        return [images.encode(pixels, image_format, jpeg_quality=number, webp_effort=number) for pixels in pictures]

    files = write()

    def read() -> list[np.ndarray]:
        return [np.asarray(images.read_rgb(content, "x")) for content in files]

    ratios = sorted(decibels(a, b) for a, b in zip(pictures, read(), strict=True))
    lossless = ratios[0] == math.inf
    return {
        "format": image_format if image_format == "png" else f"{image_format} {number}",
        "bytes": round(sum(map(len, files)) / len(files)),
        "psnr_median": None if lossless else round(ratios[len(ratios) // 2], 1),
        "psnr_worst": None if lossless else round(ratios[0], 1),
        "write_ms": round(fastest(write, rounds) / len(files) * 1000, 3),
        "read_ms": round(fastest(read, rounds) / len(files) * 1000, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("folder", type=Path, nargs="?")
    which.add_argument("--photographs", action="store_true", help="five pictures of scikit-image, which it needs")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--most", type=int, default=200, help="use so many tiles at most")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    paths = photographs() if args.photographs else pictures_in(args.folder) if args.folder else None
    pictures = collect(paths, args.size, args.most)
    if not pictures:
        parser.error(f"no picture of {args.size} x {args.size} pixels or more in {args.folder}")
    rows = [measure(pictures, kind, quality, args.rounds) for kind, quality in VARIANTS]
    print(json.dumps({"pictures": len(pictures), "pixels": pictures[0].size // 3, "formats": rows}, indent=1))


if __name__ == "__main__":
    main()
