"""How large the images of a folder are: measured on some when it is finished, said by its card, page and command."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from gif_datasets.chunks import evenly
from gif_datasets.io.stores import AnyPath, RemotePath
from gif_datasets.shards.index import Index
from gif_datasets.shards.manifest import Shard

MOST = 100
"""Images of each kind that are measured, evenly spaced: in a store, each is a request."""
KINDS = ("real", "synthetic")


def measure(folder: AnyPath, shards: Sequence[Shard], entries: Index) -> dict[str, list[int]]:
    """Least width and height, then largest, of the real and of the synthetic images; without a kind that is not there.

    Args:
        folder: The folder.
        shards: All of its shards.
        entries: Their index.
    """
    shard_of = np.repeat(np.arange(len(shards)), [shard.samples for shard in shards])
    found = {}
    for kind, wanted in zip(KINDS, (~entries.synthetic, entries.synthetic), strict=True):
        numbers = np.flatnonzero(wanted)
        chosen = numbers[evenly(len(numbers), MOST)].tolist() if len(numbers) else []
        sizes = [
            _size(folder / shards[shard_of[i]].name, int(entries.image_offset[i]), int(entries.image_size[i]))
            for i in chosen
        ]
        if sizes:
            found[kind] = np.concatenate([np.min(sizes, 0), np.max(sizes, 0)]).tolist()
    return found


def sizes_text(sizes: Mapping[str, Sequence[int]]) -> str:
    """What :func:`measure` found in words; empty for a folder of a version that did not measure.

    Example:
        >>> sizes_text({"real": [96, 72, 500, 72], "synthetic": [64, 64, 64, 64]})
        'real 96 to 500 x 72 pixels, synthetic 64 x 64 pixels'
    """
    return ", ".join(
        f"{kind} {_span(*sizes[kind][::2])} x {_span(*sizes[kind][1::2])} pixels" for kind in KINDS if kind in sizes
    )


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _size(shard: AnyPath, offset: int, length: int) -> tuple[int, int]:
    """Width and height of the image at a place of a shard; its pixels are not decoded."""
    if isinstance(shard, RemotePath):
        content = shard.read_range(offset, offset + length)
    else:
        with shard.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    return int(width), int(height)
