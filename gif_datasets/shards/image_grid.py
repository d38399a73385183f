"""An image to look at before the long run: each seed beside its imagined copies."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from PIL import Image, ImageDraw, ImageFont

from gif_datasets.io import atomic
from gif_datasets.io.stores import AnyPath
from gif_datasets.io.threads import ordered_map
from gif_datasets.types import Seed

ROWS = 10
MOST_COPIES = 20
CELL = 96
GAP = 6
LABEL_WIDTH = 130
HEADER = 22
INK, SOFT, PAPER, RULE = "#1a1a1a", "#666666", "#ffffff", "#d0d0d0"


@dataclass(frozen=True)
class Row:
    """A seed's class name, its image, and its copies, all RGB."""

    name: str
    seed: Image.Image
    copies: tuple[Image.Image, ...]


def choose_seeds(seeds: Iterable[Seed], rows: int) -> list[Seed]:
    """Up to ``rows`` seeds, classes in turn, each class from its first."""
    by_class: dict[int, list[Seed]] = {}
    for seed in seeds:
        members = by_class.setdefault(seed.label, [])
        if len(members) < rows:
            members.append(seed)
    chosen: list[Seed] = []
    turn = 0
    while len(chosen) < min(rows, sum(map(len, by_class.values()))):
        chosen += [members[turn] for _, members in sorted(by_class.items()) if turn < len(members)]
        turn += 1
    return chosen[:rows]


def save_preview(rows: Sequence[Row], title: str, path: AnyPath) -> None:
    """Draw the rows and save them atomically as PNG."""
    copies = max(len(row.copies) for row in rows)
    width = LABEL_WIDTH + (1 + copies) * (CELL + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (CELL + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text((LABEL_WIDTH, 4), "seed", INK, font=font)
    draw.text((LABEL_WIDTH + CELL + 3 * GAP, 4), title, INK, font=font)
    cells = ordered_map(_cell, (image for row in rows for image in (row.seed, *row.copies)))
    for number, row in enumerate(rows):
        top = HEADER + number * (CELL + GAP)
        draw.text((GAP, top + CELL // 2 - 8), _fitted(draw, row.name, font), SOFT, font=font)
        sheet.paste(next(cells), (LABEL_WIDTH, top))
        for copy, cell in enumerate(islice(cells, len(row.copies))):
            sheet.paste(cell, (LABEL_WIDTH + (copy + 1) * (CELL + GAP) + 2 * GAP, top))
    line = LABEL_WIDTH + CELL + GAP + GAP // 2
    draw.line((line, 0, line, sheet.height), RULE)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    atomic.write_bytes(path, buffer.getvalue())


def _cell(image: Image.Image) -> Image.Image:
    """Fit into a square cell; small images are enlarged without blurring what is there."""
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    cell.paste(image.resize(size, smooth), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = " ".join(text.split())
    if draw.textlength(text, font=font) <= LABEL_WIDTH - 2 * GAP:
        return text
    while text and draw.textlength(text + "…", font=font) > LABEL_WIDTH - 2 * GAP:
        text = text[:-1]
    return text + "…"
