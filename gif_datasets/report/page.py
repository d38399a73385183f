"""What is in an expanded folder, and how it compares with its seeds, as one page for a browser."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gif_datasets.chunks import evenly
from gif_datasets.config import CRITERIA
from gif_datasets.io import atomic, images
from gif_datasets.io.parsing import read_json
from gif_datasets.methods import METHODS, is_imagined
from gif_datasets.report import charts, clip_metrics
from gif_datasets.report.clip_metrics import SAME, Compared, Likeness
from gif_datasets.report.set_statistics import Measures, measure_records
from gif_datasets.shards import card
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import Progress, Provenance, no_progress

SHEET_ROWS, SHEET_COPIES = 6, 6


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` found.

    Attributes:
        page: The page.
        measures: What the records tell.
        likeness: None where there are too few pictures to compare.
    """

    page: str
    measures: Measures
    likeness: Likeness | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return asdict(self)


_FIGURES = '<meta name="gif-datasets" content="'


def write_report(
    folder: str | Path, out: str | Path, prior: str = "embedded", progress: Progress | None = None
) -> Report:
    """Write a page about an expanded folder: the command ``gif-datasets report`` as a function.

    The page holds its pictures and needs no network.

    Args:
        folder: What ``gif-datasets expand`` wrote.
        out: The page, HTML.
        prior: Name or folder of a prior, whose CLIP compares the pictures.
        progress: Wraps the loops.

    Raises:
        UsageError: If the folder is no finished expansion.
        ConfigError: If the prior is unknown, or has no CLIP.
    """
    found = draw(Path(folder), prior, progress or no_progress)
    atomic.write_bytes(Path(out), found.page.encode("utf-8"))
    return replace(found, page=str(out))


def draw(folder: Path, prior: str | None, show: Progress) -> Report:
    """What :func:`write_report` writes, as the ``page`` itself; without a prior nothing is compared by a CLIP."""
    reader = ShardReader(folder)
    records = [reader.provenance(index) for index in show(range(len(reader)), "measuring")]
    found = measure_records(reader, records)
    real, made = clip_metrics.sample(records)
    like, nearness = None, ""
    if prior is not None and min(len(real), len(made)) < clip_metrics.FEWEST:
        nearness = (
            f"<h2>Copies and real pictures</h2><p>Not compared by a CLIP: {len(real)} real pictures and {len(made)}"
            f" copies are too few; {clip_metrics.FEWEST} of each are needed.</p>"
        )
    elif prior is not None:
        compared = clip_metrics.embed(reader, real, made, prior, show)
        like = clip_metrics.compare(compared, [records[i] for i in real], [records[i] for i in made])
        labels = [[records[i].label for i in part] for part in (real, made)]
        nearness = _compared(like) + _plane(compared, labels[0], labels[1], reader.classes)
    return Report(_page(reader, records, found, nearness, _figures(reader, like)), found, like)


def figures_of(page: bytes) -> tuple[str, Likeness | None] | None:
    """The set's fingerprint and the likeness that a page of ours tells, for programs; None of another page.

    Raises:
        ValueError: If it is damaged, or another version's.
    """
    found = re.search(_FIGURES.encode("ascii") + rb'([^"]*)">', page)
    if found is None:
        return None
    try:
        value = read_json(html.unescape(found[1].decode("utf-8")))
        like = value["likeness"]
        return str(value["set"]), None if like is None else Likeness(**like)
    except (TypeError, KeyError) as error:
        raise ValueError("its figures are not those of this version") from error


def _figures(reader: ShardReader, like: Likeness | None) -> str:
    value = {"set": reader.fingerprint, "likeness": asdict(like) if like else None}
    return f'{_FIGURES}{html.escape(json.dumps(value, sort_keys=True), quote=True)}">'


# --- the page -----------------------------------------------------------------------------------------------------


def _plane(c: Compared, real: Sequence[int], made: Sequence[int], classes: Sequence[str]) -> str:
    """Both kinds, by label, in the plane of the real pictures' first two principal components."""
    centre = c.real.mean(0)
    axes = torch.linalg.svd(c.real - centre, full_matrices=False).Vh[:2]
    kinds = ((c.made, made, False), (c.real, real, True))
    series = [charts.Points(((rows - centre) @ axes.T).numpy(), labels, filled) for rows, labels, filled in kinds]
    drawn = charts.scatter(series, classes)
    return (
        f"<h2>Where copies lie</h2>{drawn}<p>The plane of the real pictures' first two principal components."
        " Discs are real pictures, rings are copies.</p>"
    )


def _page(reader: ShardReader, records: Sequence[Provenance], found: Measures, nearness: str, figures: str) -> str:
    m = reader.manifest
    options = m["plan"]["recipe"]["options"]
    method = METHODS.get(options["method"])
    imagines = is_imagined(options["method"])
    made = sum(record.synthetic for record in records)
    lead = (
        f"<p>{len(records) - made} real and {made} synthetic pictures of {len(m['classes'])} classes."
        f" {html.escape(method.how if method else '')}{_missing(reader)}</p>"
    )
    settings = charts.table([(name, str(value)) for name, value in sorted(options.items())])
    parts = [
        lead,
        _sheets(reader, records, imagines),
        _criteria(records, found) if imagines else "",
        _labels(reader, records, found),
        nearness,
        f"<h2>How it was made</h2>{settings}",
    ]
    body = "\n".join(part for part in parts if part)
    return charts.page(card.title(m), body, figures)


def _missing(reader: ShardReader) -> str:
    return f" {reader.missing} were looked at and rejected; this page is without them." if reader.missing else ""


def _sheets(reader: ShardReader, records: Sequence[Provenance], scored: bool) -> str:
    """Seeds with their copies, evenly spread; and the copies that the criteria call best and worst."""
    by_seed: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        by_seed.setdefault(record.seed_index, []).append(index)
    seeds = list(by_seed)
    chosen = [seeds[i] for i in evenly(len(seeds), SHEET_ROWS)]
    rows = [sorted(by_seed[seed], key=lambda i: records[i].copy)[: 1 + SHEET_COPIES] for seed in chosen]
    text = "<h2>Seeds and copies</h2>" + "".join(
        _strip(reader, row, [records[i].class_name if not records[i].copy else "" for i in row]) for row in rows
    )
    made = [i for i, record in enumerate(records) if record.copy]
    if not scored or not made:
        return text
    for name in CRITERIA:
        ranked = sorted(made, key=lambda i: getattr(records[i], f"{name}_after"))
        for title, part in (("lowest", ranked[: 1 + SHEET_COPIES]), ("highest", ranked[: -2 - SHEET_COPIES : -1])):
            labels = [f"{getattr(records[i], f'{name}_after'):.3f}" for i in part]
            text += f"<h3>{title} {name}</h3>{_strip(reader, part, labels)}"
    return text


def _strip(reader: ShardReader, indices: Sequence[int], labels: Sequence[str]) -> str:
    cells = "".join(
        f"<figure><img alt='{html.escape(reader.classes[reader.label(i)], quote=True)}' src='{_picture(reader, i)}'>"
        f"<figcaption>{html.escape(label)}</figcaption></figure>"
        for i, label in zip(indices, labels, strict=True)
    )
    return f"<div class=strip>{cells}</div>"


def _picture(reader: ShardReader, index: int) -> str:
    """A picture as an address that holds it, at most 128 pixels wide."""
    image = images.read_rgb(reader.image_bytes(index), reader.key(index))
    image.thumbnail((128, 128))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _criteria(records: Sequence[Provenance], found: Measures) -> str:
    rows = [(name, f"{before:.4f} before, {after:.4f} after") for name, (before, after) in found.criteria.items()]
    copies = [record for record in records if record.copy]
    drawn = "".join(
        charts.histograms(
            name,
            {when: np.array([getattr(r, f"{name}_{when}") for r in copies]) for when in ("before", "after")},
        )
        for name in CRITERIA
    )
    return f"<h2>Criteria, before and after guidance</h2>{charts.table(rows)}<div class=row>{drawn}</div>"


def _labels(reader: ShardReader, records: Sequence[Provenance], found: Measures) -> str:
    scored = (
        f"{found.consistent:.1%} of {found.scored} copies whose picture was classified have the class of their label."
        if found.scored
        else "The pictures were not classified; expand with <code>--set measure_pictures=true</code> for that."
    )
    failed = sum(not record.passed for record in records)
    counts = ", ".join(f"{copies} copies: {seeds} seeds" for copies, seeds in reader.expansion_counts().items())
    bars = charts.bars([(name, real, made) for name, (real, made) in zip(reader.classes, found.per_class, strict=True)])
    return (
        f"<h2>Classes and labels</h2><p>{scored}{f' {failed} failed their check in every draw.' if failed else ''}"
        f" Copies a seed: {counts}. {found.repeated} copies are, byte for byte, the picture of another sample.</p>"
        f"{bars}"
    )


def _compared(it: Likeness) -> str:
    seeds, both = (f"median {median:.3f}, largest {most:.3f}" for median, most in (it.radius_seeds, it.radius_expanded))
    rows = [
        ("Fréchet distance", f"{it.frechet:.4f} (of the halves of the real pictures: {it.frechet_of_halves:.4f})"),
        ("precision, recall", f"{it.precision:.3f}, {it.recall:.3f}"),
        ("density, coverage", f"{it.density:.3f}, {it.coverage:.3f}"),
        (f"covering radius of {it.radius_of}", f"by seeds: {seeds}; by seeds and copies: {both}"),
        ("near-duplicates of their own seed", f"{card.percent(it.like_seed)} of copies (cosine from {SAME})"),
        ("near-duplicates of another copy", f"{it.alike:.1%} of copies"),
        (
            "nearest to the mean of their own class",
            f"{it.consistent:.1%} of copies; {card.percent(it.consistent_real)} of real pictures, each left out",
        ),
    ]
    if it.shift:
        shift = f"{it.shift.token:.3f} by place, {it.shift.channel:.3f} by channel"
        rows.append(("shift of content and of style", shift))
    told = f"{it.made} copies and {it.real} real pictures, by the CLIP of <code>{html.escape(it.clip)}</code>."
    return f"<h2>Copies and real pictures</h2><p>{told}</p>{charts.table(rows)}"
