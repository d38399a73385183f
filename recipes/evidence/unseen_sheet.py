"""Sheets of copies of sets that the prior never saw, unpicked: what the defaults make, without the seeds.

    python recipes/evidence/unseen_sheet.py caltech101 flowers grocery pets --sets runs/sets --out unseen.png

``--sets`` is written by ``recipes/paper/packed.py``. A row is the first seed of a class, the classes evenly spread over
the names; its cells are copies 1, 2, .. of it. The seeds are not shown: their terms do not let this repository do so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gif_datasets import ExpandedDataset
from gif_datasets.chunks import evenly

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "paper")]
import packed
from sheet import GAP, HEAD, INK, PAPER, SOFT, save

CELL, NAME, MARGIN = 64, 14, 12


def copies(folder: Path, domain: str, rows: int, count: int) -> dict[str, list[Image.Image]]:
    """Copies by class, of the first seed of each of some classes; nothing else is made."""
    expanded = ExpandedDataset(str(folder), ratio=count, domain=domain)
    seeds = len(expanded) // (1 + count)
    labels = np.array(expanded.targets[:seeds])
    first = [int(np.flatnonzero(labels == label)[0]) for label in evenly(len(expanded.classes), rows)]
    items = expanded.__getitems__([seeds + seed * count + copy for seed in first for copy in range(count)])
    images = [image for image, _ in items]
    return {expanded.classes[labels[seed]]: images[i * count : (i + 1) * count] for i, seed in enumerate(first)}


def block(title: str, found: dict[str, list[Image.Image]]) -> Image.Image:
    """A set: a row for each class, its name above it."""
    count = max(map(len, found.values()))
    sheet = Image.new("RGB", (count * (CELL + GAP) + MARGIN, HEAD + len(found) * (CELL + NAME)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 2), title, INK, font=ImageFont.load_default(size=12))
    for y, (name, row) in enumerate(found.items()):
        top = HEAD + y * (CELL + NAME)
        pen.text((GAP, top), name, SOFT, font=ImageFont.load_default(size=9))
        for x, picture in enumerate(row):
            shown = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
            sheet.paste(shown, (x * (CELL + GAP), top + NAME - 2))
    return sheet


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=packed.SETS, help="sets")
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8, help="classes of a set")
    parser.add_argument("--copies", type=int, default=4, help="copies of the seed of each")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    args = parser.parse_args(given)
    blocks = [
        block(name, copies(args.sets / name / "train", packed.SETS[name].domain, args.rows, args.copies))
        for name in args.names
    ]
    sheet = Image.new("RGB", (sum(one.width for one in blocks), max(one.height for one in blocks)), PAPER)
    for number, one in enumerate(blocks):
        sheet.paste(one, (sum(left.width for left in blocks[:number]), 0))
    save(sheet, args.out)


if __name__ == "__main__":
    main()
