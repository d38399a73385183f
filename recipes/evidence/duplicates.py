"""What `compare` takes for the same image: the share of changed images that are found among those they were made from.

    python recipes/evidence/duplicates.py demo [more sources] [--limit 200]

Each image is changed, turned in a random one of eight orientations, and looked for among the source's images.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from gif_datasets.chunks import evenly
from gif_datasets.io.duplicates import near_duplicates, spectra
from gif_datasets.sources import open_source


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Encode and decode."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def gamma(image: Image.Image, power: float) -> Image.Image:
    """Change the middle tones."""
    return image.point([round(255 * (value / 255) ** power) for value in range(256)] * 3)


def crop(image: Image.Image, share: float) -> Image.Image:
    """Cut a share of the sides off, on each side."""
    return ImageOps.crop(image, (round(share * image.width), round(share * image.height)) * 2)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "turned or mirrored alone": lambda image: image,
    "JPEG of quality 75": lambda image: jpeg(image, 75),
    "half the size": lambda image: image.resize((max(1, image.width // 2), max(1, image.height // 2))),
    **{
        f"brightness x {by}": lambda image, by=by: ImageEnhance.Brightness(image).enhance(by)
        for by in (0.5, 0.7, 1.3, 1.5, 2)
    },
    **{f"contrast x {by}": lambda image, by=by: ImageEnhance.Contrast(image).enhance(by) for by in (0.5, 1.5, 2)},
    **{f"gamma {by}": lambda image, by=by: gamma(image, by) for by in (0.5, 2)},
    "histogram equalised": ImageOps.equalize,
    "negative": ImageOps.invert,
    "2% cut off each side": lambda image: crop(image, 0.02),
    "5% cut off each side": lambda image: crop(image, 0.05),
    "turned by 2 degrees": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
    "turned by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
}


def found(images: list[Image.Image]) -> dict[str, float]:
    """Percent of the images that are found, by what was done to them."""
    known, turn = np.stack([spectra(image) for image in images]), random.Random(0)
    ways = [None, *Image.Transpose]
    shares = {}
    for name, change in CHANGES.items():
        changed = [change(image) for image in images]
        turned = [one if (way := turn.choice(ways)) is None else one.transpose(way) for one in changed]
        shares[name] = 100 * len(near_duplicates(known, [spectra(one) for one in turned])) / len(images)
    return shares


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--limit", type=int, default=200)
    args = parser.parse_args()
    columns = []
    for name in args.sources:
        source = open_source(name)
        columns.append(found([source.sample(index)[0] for index in evenly(len(source), args.limit)]))
    for change in CHANGES:
        print(f"{change:<26}", *(f"{column[change]:5.0f}" for column in columns))
