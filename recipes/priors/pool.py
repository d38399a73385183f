"""Gather training images for the embedded priors: every folder of images that is given, as one array of 64 x 64 pixels.

    python recipes/priors/pool.py --folder tiny=tiny-imagenet-200/train --folder woof=imagewoof/train ... \
        --parquet pool64.parquet --names pool64.parquet --apart-from DATA --out runs/pool

A folder has one sub-folder a class, at any depth; a Parquet file has the columns ``image`` (the file's bytes), ``id``
and ``class``. ImageNet's identifiers become class names by ``--names``, a Parquet file whose classes read
``n01443537_goldfish``, or a ``words.txt``. Tiny-ImageNet, Imagenette and Imagewoof come from their own pages; their
terms are ImageNet's (research).

An image that occurs twice is kept once. An image that nearly equals one of ``--apart-from`` (folders, tars and Parquet
files of the datasets that a prior is judged on) is left out: 64-bit difference hashes at most ``NEAR`` bits apart,
mirrored or not, and thumbnails with a mean squared error below ``SAME``.

Writes ``images.npy`` (N, 64, 64, 3), ``labels.npy`` and ``pool.json``: the class names and how many images each source
gave. ``--pack FILE.parquet --megabytes 60`` also writes as many of the first images as fit, as WebP, for a machine that
takes little: there, ``--parquet FILE.parquet`` reads them again. The pool is in random order, so any part is a fair
sample.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

SIDE = 64
NEAR = 6  # bits of 64
SAME = 0.004  # of squared units in [0, 1]; another JPEG of the same photograph is below 0.001
IMAGES = {".jpeg", ".jpg", ".png"}


class Item(NamedTuple):
    """One image to read: its bytes or its path."""

    source: str
    class_name: str
    image: bytes | Path


def folder_items(source: str, folder: Path) -> Iterator[Item]:
    """Images of a folder; the class is the nearest folder that is not called ``images``."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES:
            parent = path.parent.parent if path.parent.name == "images" else path.parent
            yield Item(source, parent.name, path)


def parquet_items(path: Path, without: set[str]) -> Iterator[Item]:
    """Images of a Parquet file, except those of sources that ``without`` names."""
    table = pq.read_table(path)
    sources = table["source"].to_pylist() if "source" in table.column_names else [path.stem] * len(table)
    for source, name, image in zip(sources, table["class"].to_pylist(), table["image"], strict=True):
        if source not in without:
            yield Item(source, name, image.as_py())


def tar_items(path: Path) -> Iterator[Item]:
    """Images of a tar of ``CLASS/ID.jpg``."""
    with tarfile.open(path) as tar:
        for member in tar:
            if Path(member.name).suffix.lower() in IMAGES:
                file = tar.extractfile(member)
                assert file is not None
                yield Item(path.stem, Path(member.name).parent.name, file.read())


def items_of(path: Path) -> Iterator[Item]:
    """Images of a folder, a tar or a Parquet file."""
    if path.is_dir():
        return folder_items(path.name, path)
    return tar_items(path) if path.suffix == ".tar" else parquet_items(path, set())


def pixels(item: Item) -> np.ndarray:
    """The image, centre-cropped to a square of ``SIDE`` pixels."""
    source = item.image if isinstance(item.image, Path) else io.BytesIO(item.image)
    with Image.open(source) as image:
        image.draft("RGB", (SIDE * 2, SIDE * 2))
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (SIDE, SIDE), Image.Resampling.BICUBIC))


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Grey 8 x 8 means, ``(N, 8, 8)`` in [0, 1]."""
    grey = images.reshape(len(images), 8, 8, 8, 8, 3).mean((2, 4, 5), dtype=np.float32)
    return grey / 255


def hashes(images: np.ndarray) -> np.ndarray:
    """Difference hash of each image, 64 bits: whether the luminance rises from one ninth of the width to the next."""
    grey = images.mean(3, dtype=np.float32)
    rows = grey.reshape(len(images), 8, 8, SIDE).mean(2)
    edges = np.linspace(0, SIDE, 10).round().astype(int)
    columns = np.stack([rows[:, :, a:b].mean(2) for a, b in pairwise(edges)], 2)
    bits = (np.diff(columns, axis=2) > 0).reshape(len(images), 64)
    return np.packbits(bits, axis=1).view(">u8").reshape(-1)


def near_judged(images: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Which of ``images`` nearly equal one of ``judged`` or its mirror image."""
    found = np.zeros(len(images), bool)
    own, own_small = hashes(images), thumbnails(images)
    for flip in (False, True):
        others = judged[:, :, ::-1] if flip else judged
        other_hashes, other_small = hashes(others), thumbnails(others)
        for start in range(0, len(images), 512):
            part = slice(start, start + 512)
            distance = np.bitwise_count(own[part, None] ^ other_hashes[None])
            for row, column in np.argwhere(distance <= NEAR):
                error = np.square(own_small[start + row] - other_small[column]).mean()
                found[start + row] |= bool(error < SAME)
    return found


def class_names(path: Path) -> dict[str, str]:
    """Names by ImageNet's identifiers."""
    if path.suffix == ".txt":
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        return {row[0]: row[1].split(",")[0] for row in rows}
    classes = sorted(set(pq.read_table(path, columns=["class"])["class"].to_pylist()))
    pairs = [name.partition("_") for name in classes if name[:1] == "n" and name[1:9].isdigit()]
    return {wnid: words.replace("_", " ") for wnid, _, words in pairs}


def named(name: str, names: dict[str, str]) -> str:
    """A class name in words: without ImageNet's identifier."""
    wnid, _, words = name.partition("_")
    if wnid in names:
        return names[wnid]
    return words.replace("_", " ") if wnid[:1] == "n" and wnid[1:].isdigit() else name.replace("_", " ")


def pack(images: np.ndarray, words: Sequence[str], path: Path, megabytes: float) -> int:
    """Write the first images as WebP into a Parquet file of at most so many megabytes; returns how many.

    At quality 80 an image of 64 pixels takes 1.3 kB, and differs from its original by less than the autoencoder does.
    """
    files: list[bytes] = []
    room = megabytes * 1e6 * 0.98  # for names and the file's own index
    for image, word in zip(images, words, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "WEBP", quality=80, method=6)
        room -= len(buffer.getvalue()) + len(word) + 16
        if room < 0:
            break
        files.append(buffer.getvalue())
    count = len(files)
    columns = {"image": files, "id": [str(i) for i in range(count)], "class": list(words[:count])}
    pq.write_table(pa.table(columns), path, compression="zstd")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=DIR", help="images, a folder a class")
    parser.add_argument("--parquet", type=Path, help="packed images")
    parser.add_argument("--without", default="", help="sources of the Parquet file to leave out, separated by commas")
    parser.add_argument("--names", type=Path, help="class names of ImageNet's identifiers")
    parser.add_argument("--apart-from", type=Path, nargs="*", default=[], help="datasets that the prior is judged on")
    parser.add_argument("--pack", type=Path, metavar="FILE.parquet", help="also write a small copy")
    parser.add_argument("--megabytes", type=float, default=60, help="size of the small copy (default: 60)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    items: list[Item] = []
    for spec in args.folder:
        source, _, folder = spec.partition("=")
        items += folder_items(source, Path(folder))
    if args.parquet:
        items += parquet_items(args.parquet, set(args.without.split(",")))
    judged_items = [item for path in args.apart_from for item in items_of(path)]
    with ProcessPoolExecutor() as pool:
        images = np.stack(list(pool.map(pixels, items, chunksize=200)))
        judged = np.stack(list(pool.map(pixels, judged_items, chunksize=200))) if judged_items else None
    _, first = np.unique(images.reshape(len(images), -1).view(f"V{SIDE * SIDE * 3}").ravel(), return_index=True)
    keep = np.zeros(len(images), bool)
    keep[first] = True
    twice = int((~keep).sum())
    if judged is not None:
        keep &= ~near_judged(images, judged)
    chosen = np.random.default_rng(0).permutation(np.nonzero(keep)[0])  # so that any first part is a fair sample

    names = class_names(args.names) if args.names else {}
    words = [named(items[i].class_name, names) for i in chosen]
    classes = sorted(set(words))
    args.out.mkdir(parents=True, exist_ok=True)
    np.save(args.out / "images.npy", images[chosen])
    np.save(args.out / "labels.npy", np.array([classes.index(word) for word in words], np.int16))
    facts = {
        "images": len(chosen),
        "sources": dict(Counter(items[i].source for i in chosen)),
        "left out": {"equal to another": twice, "near a judged image": int(len(images) - twice - len(chosen))},
        "classes": classes,
    }
    (args.out / "pool.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps({key: value for key, value in facts.items() if key != "classes"}), len(classes), "classes")
    if args.pack:
        count = pack(images[chosen], words, args.pack, args.megabytes)
        print(f"{args.pack}: {count:,} images, {args.pack.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
