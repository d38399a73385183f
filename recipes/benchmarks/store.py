"""What the store costs, each beside a peer in the same run: cache hits, content keys, writing shards, decoding.

    python recipes/benchmarks/store.py

- A cache hit: an item of a lazy `ExpandedDataset`, alone and in batches, against torchvision's ImageFolder on the same
  PNGs. Both give PIL images; ours checks the digest of each.
- A content key: hashing the pixels of a seed, against decoding it, which comes before.
- Writing a shard: `shards.write_shard`, which also makes the records and the digests, against plain `tarfile` writing
  the same members from memory; both flush to disk.
- Decoding from memory into an array: ours against Pillow and torchvision, whose decoders are deprecated.

One thread; images of 32 pixels are those of `demo`, those of 224 have the statistics of photographs. Contestants take
turns; times are medians over the rounds, and a ratio is the median of the rounds' ratios, ours / peer: below 1 ours is
faster.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from loading_data import pixels, record
from PIL import Image
from timing import times
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg, decode_png

from gif_datasets import ExpandedDataset
from gif_datasets.io import decode, images
from gif_datasets.io.digests import digest_pixels
from gif_datasets.shards import tar as shards
from gif_datasets.sources import open_source
from gif_datasets.types import Sample

BATCH = 50


@dataclass(frozen=True)
class Contest:
    """What is compared: ours, and its peers by name; each runs over ``count`` things."""

    what: str
    size: int
    count: int
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]]


def hits(base: Path, size: int, pictures: list[np.ndarray]) -> Iterator[Contest]:
    """Items that are in the cache, and the same files in a folder per class."""
    count = len(pictures)
    seeds = [(Image.fromarray(picture), number % 10) for number, picture in enumerate(pictures)]
    cache_dir = base / f"cache {size}"
    expanded = ExpandedDataset(seeds, 1, prior="linear", classes=[f"{i:02d}" for i in range(10)], cache_dir=cache_dir)
    for seed, picture in zip(expanded.plan.seeds, pictures, strict=True):
        content = images.encode(picture, "png", 0)
        expanded.imaginer.cache.put(expanded.plan.recipe.cache_key(seed, 1), Sample(content, record(1)))
        path = base / f"folder {size}" / f"{seed.label:02d}" / f"{seed.index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder = ImageFolder(str(base / f"folder {size}"))
    copies = range(count, 2 * count)
    found = sorted((label, picture.tobytes()) for picture, label in map(expanded.__getitem__, copies))
    assert found == sorted((label, picture.tobytes()) for picture, label in folder)
    assert expanded.imaginer.generated == 0
    peers = {"ImageFolder": lambda: [folder[i] for i in range(count)]}
    batches = [copies[i : i + BATCH] for i in range(0, count, BATCH)]
    yield Contest("cache hit, one item", size, count, lambda: [expanded[i] for i in copies], peers)
    yield Contest(
        f"cache hit, {BATCH} items", size, count, lambda: [expanded.__getitems__(batch) for batch in batches], peers
    )


def hashing(size: int, pictures: list[np.ndarray]) -> Contest:
    files = [images.encode(picture, "png", 0) for picture in pictures]
    opened = [Image.fromarray(picture) for picture in pictures]
    return Contest(
        "content key of a seed", size, len(pictures),
        lambda: [digest_pixels(np.asarray(image)) for image in opened],
        {"decoding it": lambda: [images.read_rgb(content, "x") for content in files]},
    )  # fmt: skip


def writing(base: Path, size: int, pictures: list[np.ndarray]) -> Contest:
    keys = [shards.sample_key("train", number, 1) for number in range(len(pictures))]
    samples = [Sample(images.encode(p, "png", 0), record(4 * n + 1)) for n, p in enumerate(pictures)]
    members = [
        (f"{key}.{suffix}", content)
        for key, sample in zip(keys, samples, strict=True)
        for suffix, content in (
            ("cls", str(sample.provenance.label).encode()),
            ("json", shards.record_bytes(sample.provenance)),
            ("png", sample.image),
        )
    ]
    ours, plain = base / f"ours {size}.tar", base / f"plain {size}.tar"

    def with_tarfile() -> None:
        with plain.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for name, content in members:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            file.flush()
            os.fsync(file.fileno())

    def with_ours() -> None:
        shards.write_shard(ours, zip(keys, samples, strict=True), "png")

    with_tarfile()
    with_ours()
    assert plain.read_bytes() == ours.read_bytes()
    return Contest("sample written to a shard", size, len(pictures), with_ours, {"tarfile": with_tarfile})


def decoding(size: int, pictures: list[np.ndarray], suffix: str) -> Contest:
    files = [images.encode(picture, suffix, 90) for picture in pictures]
    tensors = [torch.from_numpy(np.frombuffer(content, np.uint8).copy()) for content in files]
    torchvision = {"png": decode_png, "jpg": decode_jpeg}[suffix]

    def ours() -> list[np.ndarray]:
        return [decode.decode(content, "x") for content in files]

    def pillow() -> list[np.ndarray]:
        return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in files]

    assert all(np.array_equal(a, b) for a, b in zip(ours(), pillow(), strict=True))
    return Contest(
        f"decoding, {suffix}", size, len(files), ours,
        {"Pillow": pillow, f"torchvision {torchvision.__name__}": lambda: [
            torchvision(content, ImageReadMode.RGB) for content in tensors
        ]},
    )  # fmt: skip


def rows(contest: Contest, rounds: int) -> Iterator[str]:
    """Microseconds a thing, and ours / peer, as Markdown."""
    runs = {"ours": contest.ours, **contest.peers}
    for run in runs.values():
        run()
    taken = [
        {name: times(run, 1, warm_up=False)[0] / contest.count for name, run in runs.items()} for _ in range(rounds)
    ]
    medians = {name: 1e6 * statistics.median(one[name] for one in taken) for name in runs}
    ours = f"| {contest.what} | {contest.size} | {medians['ours']:,.1f}"
    for name in contest.peers:
        ratio = statistics.median(one["ours"] / one[name] for one in taken)
        yield f"{ours} | {name} | {medians[name]:,.1f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=50, help="of 224 pixels; of those of 32 there are 200")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's, at each call
    demo = open_source("demo")
    sets = {
        32: [np.asarray(demo.sample(index)[0]) for index in range(len(demo))],
        224: [pixels(number) for number in range(args.pictures)],
    }
    print("| what | pixels | ours, us | peer | peer, us | ours / peer |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for size, pictures in sets.items():
            contests = [
                *hits(Path(temporary), size, pictures),
                hashing(size, pictures),
                writing(Path(temporary), size, pictures),
                decoding(size, pictures, "png"),
                decoding(size, pictures, "jpg"),
            ]
            # reading sources loads all plugins of Pillow, whose `open` then asks them in turn: let its users not pay
            Image.ID.sort(key=lambda kind: kind not in ("PNG", "JPEG"))
            for contest in contests:
                for line in rows(contest, args.rounds):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
