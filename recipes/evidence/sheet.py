"""A sheet of seeds and their copies: a row for each seed, a block of columns for each way its copies were made.

    python recipes/evidence/sheet.py untuned=runs/A/unclip-5x-0 tuned=runs/A/unclip-tuned-5x-0 --out sheet.png

The folders are expansions of the same seeds. Rows are spread over the seeds in the order of their keys.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import gif_datasets
from gif_datasets.data.map_style import LoadedDataset

CELL, GAP, HEAD, FOOT = 40, 2, 18, 14
INK, SOFT, PAPER = "#1a1a1a", "#666666", "#ffffff"
COLORS = 256

Copies = list[tuple[Image.Image, str]]
"""Of one seed: images, and what is written below each."""


def draw(seeds: Sequence[Image.Image], columns: dict[str, list[Copies]]) -> Image.Image:
    """A row for each seed: itself, then its copies of each column."""
    written = any(text for rows in columns.values() for row in rows for _, text in row)
    height, most = CELL + GAP + FOOT * written, max(len(row) for rows in columns.values() for row in rows)
    block, font = most * (CELL + GAP) + 4 * GAP, ImageFont.load_default(size=11)
    sheet = Image.new("RGB", (CELL + 4 * GAP + len(columns) * block, HEAD + len(seeds) * height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 2), "seed", INK, font=font)
    for y, seed in enumerate(seeds):
        sheet.paste(_cell(seed), (0, HEAD + y * height))
    for x, (name, rows) in enumerate(columns.items()):
        left = CELL + 4 * GAP + x * block
        pen.text((left, 2), name, INK, font=font)
        for y, row in enumerate(rows):
            for copy, (picture, text) in enumerate(row):
                place = left + copy * (CELL + GAP), HEAD + y * height
                sheet.paste(_cell(picture), place)
                pen.text((place[0] + 8, place[1] + CELL), text, SOFT, font=ImageFont.load_default(size=10))
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """As a small PNG file."""
    sheet.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


def _cell(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)


def _by_seed(expanded: LoadedDataset) -> dict[str, list[int]]:
    """Places of each seed's copies, after its own."""
    places: dict[str, list[int]] = {}
    for i in range(len(expanded)):
        record = expanded.provenance(i)
        places.setdefault(record.seed_key, []).insert(len(expanded) if record.synthetic else 0, i)
    return places


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER", help="a column's name, and an expanded folder")
    parser.add_argument("--rows", type=int, default=8, help="seeds that are shown")
    parser.add_argument("--copies", type=int, default=4, help="copies of each")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    args = parser.parse_args(given)
    sets = {name: gif_datasets.load_expanded(folder) for name, folder in (text.split("=", 1) for text in args.folders)}
    places = {name: _by_seed(found) for name, found in sets.items()}
    first = next(iter(places))
    keys = sorted(places[first])
    keys = [keys[i] for i in np.linspace(0, len(keys) - 1, args.rows).round().astype(int)]
    columns = {
        name: [[(found[i][0], "") for i in places[name][key][1 : args.copies + 1]] for key in keys]
        for name, found in sets.items()
    }
    save(draw([sets[first][places[first][key][0]][0] for key in keys], columns), args.out)


if __name__ == "__main__":
    main()
