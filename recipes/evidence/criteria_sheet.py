"""What each criterion does to pictures: seeds, and a copy of each under other criteria.

    python recipes/evidence/criteria_sheet.py --out docs/criteria.png

All columns begin with the same random perturbation and are decoded with the same noise; what differs is where guidance
led it. Under each picture: the probability that the classifier which guides gives to its label.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gif_datasets import ExpandedDataset

COLUMNS = {
    "random": {"steps": 0},
    "consistency": {"criteria": ("consistency",)},
    "entropy": {"criteria": ("entropy",), "entropy_weight": 1.0},
    "diversity": {"criteria": ("diversity",)},
    "all three": {},
}
SEEDS = (0, 23, 61, 103, 120, 142, 163, 183)
COPIES = 3
CELL, GAP, HEAD, FOOT = 40, 2, 18, 14
INK, SOFT, PAPER = "#1a1a1a", "#666666", "#ffffff"


def column(options: dict[str, object]) -> list[list[tuple[Image.Image, float]]]:
    """The first copies of each seed, with the probability of the label on what was decoded."""
    expanded = ExpandedDataset("demo", ratio=5, held_class="label", **options)
    count = len(expanded) // 6
    indices = [count + 5 * seed + copy for seed in SEEDS for copy in range(COPIES)]
    expanded.imagine_missing(indices)  # in common blocks
    found = [(expanded[i][0], expanded.provenance(i).consistency_after) for i in indices]
    return [found[start : start + COPIES] for start in range(0, len(found), COPIES)]


def draw(seeds: list[Image.Image], columns: dict[str, list[list[tuple[Image.Image, float]]]]) -> Image.Image:
    """A row for each seed: itself, then its copies of each column."""
    block, font = COPIES * (CELL + GAP) + 4 * GAP, ImageFont.load_default(size=11)
    sheet = Image.new("RGB", (CELL + 4 * GAP + len(columns) * block, HEAD + len(seeds) * (CELL + FOOT + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 2), "seed", INK, font=font)
    for x, (name, rows) in enumerate(columns.items()):
        left = CELL + 4 * GAP + x * block
        pen.text((left, 2), name, INK, font=font)
        for y, row in enumerate(rows):
            top = HEAD + y * (CELL + FOOT + GAP)
            sheet.paste(seeds[y].resize((CELL, CELL), Image.Resampling.BICUBIC), (0, top))
            for copy, (picture, probability) in enumerate(row):
                place = left + copy * (CELL + GAP)
                sheet.paste(picture.resize((CELL, CELL), Image.Resampling.BICUBIC), (place, top))
                pen.text((place + 8, top + CELL), f"{probability:.2f}", SOFT, font=ImageFont.load_default(size=10))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    args = parser.parse_args()
    demo = ExpandedDataset("demo", ratio=1)
    sheet = draw([demo[i][0] for i in SEEDS], {name: column(options) for name, options in COLUMNS.items()})
    sheet.quantize(256, dither=Image.Dither.NONE).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
