"""What is in an expanded folder, and how it compares with its seeds: a page for a browser, and its figures as JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from gif_datasets.chunks import evenly
from gif_datasets.config import CRITERIA
from gif_datasets.errors import ConfigError
from gif_datasets.guidance.recognition import read_own_class
from gif_datasets.io import atomic, images
from gif_datasets.io.parsing import read_json
from gif_datasets.methods import METHODS, is_imagined
from gif_datasets.report import charts, clip_metrics
from gif_datasets.report.clip_metrics import SAME, Compared, Likeness
from gif_datasets.report.html import render
from gif_datasets.report.set_statistics import Measures, measure_records
from gif_datasets.shards import card
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.image_sizes import sizes_text
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import Progress, Provenance, no_progress

SHEET_ROWS, SHEET_COPIES = 6, 6
SIDE = 128  # pixels of the images shown
SHEET_IMAGES = 600
"""Images of seeds and copies, about: a page of many classes shows fewer copies of each seed, and smaller ones."""


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` computes.

    Attributes:
        page: Path of the page; from :func:`draw`, its HTML.
        fingerprint: Fingerprint of the dataset.
        measures: Statistics of the records.
        likeness: Comparison with a CLIP; None without a prior, or where there are too few images.
    """

    page: str
    fingerprint: str
    measures: Measures
    likeness: Likeness | None

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return asdict(self)


def write_report(
    folder: str | Path, out: str | Path, prior: str = "embedded", progress: Progress | None = None
) -> Report:
    """Write a page about an expanded folder: the command ``gif-datasets report`` as a function.

    The page contains its images and needs no network. Its figures are written beside it, as JSON, under the same name
    with the suffix ``.json``; :func:`gif_datasets.push_to_hub` reads them for the dataset's card.

    Args:
        folder: Output of ``gif-datasets expand``.
        out: The page, HTML.
        prior: Name or folder of the prior whose CLIP compares the images.
        progress: Wraps the loops.

    Raises:
        UsageError: If the folder is not a finished expansion.
        ConfigError: If the prior is unknown or has no CLIP, or the name of the JSON file is taken.
    """
    page = Path(out)
    _check_name_of_figures(page)
    report = draw(Path(folder), prior, progress or no_progress)
    atomic.write_json(figures_path(page), {**report.to_json(), "page": page.name})
    atomic.write_bytes(page, report.page.encode("utf-8"))
    return replace(report, page=str(out))


def figures_path(page: Path) -> Path:
    """The JSON file beside a page."""
    return page.with_suffix(".json")


def read_figures(page: Path) -> tuple[str, Likeness | None] | None:
    """Read the fingerprint of the dataset and the comparison from the JSON file beside a page.

    Returns:
        None if there is no such file, or it does not belong to a report.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or another version wrote it.
    """
    path = figures_path(page)
    value: Any = read_json(path.read_bytes()) if path.is_file() else None
    if not _is_report(value):
        return None
    try:
        likeness = value["likeness"]
        return str(value["fingerprint"]), None if likeness is None else Likeness.from_json(likeness)
    except (TypeError, KeyError) as error:
        raise ValueError("its figures are not those of this version") from error


def _is_report(value: Any) -> bool:
    return isinstance(value, dict) and {"page", "fingerprint"} <= set(value)


def _check_name_of_figures(page: Path) -> None:
    """Refuse to overwrite a JSON file that is not a report's."""
    path = figures_path(page)
    if path == page:
        raise ConfigError(f"the figures of the report are written to {path}; give the page another name, such as .html")
    try:
        is_free = not path.exists() or _is_report(read_json(path.read_bytes()))
    except (OSError, ValueError):
        is_free = False
    if not is_free:
        raise ConfigError(
            f"the figures of the report would overwrite {path}, which is not a report's; give the page another name"
        )


def draw(folder: Path | ExpandedFolder, prior: str | None, show: Progress) -> Report:
    """Compute what :func:`write_report` writes; without a prior, images are not compared with a CLIP."""
    reader = ShardReader(folder)
    records = [reader.provenance(index) for index in show(range(len(reader)), "measuring")]
    measures = measure_records(reader, records)
    real, copies = clip_metrics.sample(records)
    likeness, values = None, _not_compared()
    if prior is not None and min(len(real), len(copies)) < clip_metrics.FEWEST:
        few = {"real": len(real), "copies": len(copies), "needed": clip_metrics.FEWEST}
        values = {**values, "too_few": few}
    elif prior is not None:
        compared = clip_metrics.embed(reader, real, copies, prior, show)
        likeness = clip_metrics.compare(compared, [records[i] for i in real], [records[i] for i in copies])
        labels = [[records[i].label for i in part] for part in (real, copies)]
        rows, own = _likeness_rows(likeness), _own_class(likeness, reader.classes)
        plane = _plane(compared, labels[0], labels[1], reader.classes)
        values = {**values, "likeness": likeness, "likeness_rows": rows, "own_class": own, "plane": plane}
    html = render("report.html", **_values(reader, records, measures), **values)
    return Report(html, reader.fingerprint, measures, likeness)


# --- the values of the template -----------------------------------------------------------------------------------


def _not_compared() -> dict[str, Any]:
    return {"too_few": None, "likeness": None, "likeness_rows": (), "own_class": (), "plane": ""}


def _plane(c: Compared, real: Sequence[int], copies: Sequence[int], classes: Sequence[str]) -> Markup:
    """Both kinds, by label, in the plane of the first two principal components of the real images."""
    centre = c.real.mean(0)
    axes = torch.linalg.svd(c.real - centre, full_matrices=False).Vh[:2]
    kinds = ((c.synthetic, copies, False), (c.real, real, True))
    series = [charts.Points(((rows - centre) @ axes.T).numpy(), labels, filled) for rows, labels, filled in kinds]
    return charts.scatter(series, classes)


def _values(reader: ShardReader, records: Sequence[Provenance], measures: Measures) -> dict[str, Any]:
    """All that the page shows besides the comparison with a CLIP."""
    m = reader.manifest
    options = m.options
    method = METHODS.get(options["method"])
    scored = is_imagined(options["method"])
    synthetic = sum(record.synthetic for record in records)
    per_class = zip(reader.classes, measures.per_class, strict=True)
    return {
        "title": m.title,
        "verdict": seen.verdict() if (seen := read_own_class(reader.folder)) else "",
        "real": len(records) - synthetic,
        "synthetic": synthetic,
        "classes": len(m.classes),
        "sizes": sizes_text(m.image_sizes),
        "how": method.how if method else "",
        "rejected": reader.missing,
        "families": _families(reader, records),
        "extremes": _extremes(reader, records) if scored else (),
        "criteria": _criteria(measures) if scored else (),
        "histograms": _histograms(records) if scored else (),
        "measures": measures,
        "failed": sum(not record.passed for record in records),
        "copies_per_seed": ", ".join(
            f"{copies} copies: {seeds} seeds" for copies, seeds in reader.expansion_counts().items()
        ),
        "class_bars": charts.bars([(name, real, copies) for name, (real, copies) in per_class]),
        "options": [*card.refined(m).items(), *((name, str(value)) for name, value in sorted(options.items()))],
    }


def _families(reader: ShardReader, records: Sequence[Provenance]) -> list[list[Mapping[str, str]]]:
    """Seeds of every class with their copies, evenly spread."""
    by_class: dict[int, dict[int, list[int]]] = {}
    for index, record in enumerate(records):
        by_class.setdefault(record.label, {}).setdefault(record.seed_index, []).append(index)
    each = -(-SHEET_ROWS // max(1, len(by_class)))
    chosen = [[*families.values()][i] for _, families in sorted(by_class.items()) for i in evenly(len(families), each)]
    copies = min(SHEET_COPIES, max(1, SHEET_IMAGES // max(1, len(chosen)) - 1))
    side = SIDE if len(chosen) * (1 + SHEET_COPIES) <= SHEET_IMAGES else SIDE // 2
    rows = [sorted(family, key=lambda i: records[i].copy)[: 1 + copies] for family in chosen]
    return [
        [_cell(reader, i, f"copy {records[i].copy}" if place else records[i].class_name, side) for place, i in row]
        for row in map(enumerate, rows)
    ]


def _extremes(reader: ShardReader, records: Sequence[Provenance]) -> list[tuple[str, list[Mapping[str, str]]]]:
    """The copies with the lowest and the highest value of each criterion."""
    copies = [i for i, record in enumerate(records) if record.copy]
    sheets = []
    for name in CRITERIA if copies else ():
        values = {i: getattr(records[i], f"{name}_after") for i in copies}
        ranked = sorted(copies, key=values.__getitem__)
        for title, part in (("lowest", ranked[: 1 + SHEET_COPIES]), ("highest", ranked[: -2 - SHEET_COPIES : -1])):
            sheets.append((f"{title} {card.of_latents(name)}", [_cell(reader, i, f"{values[i]:.3f}") for i in part]))
    return sheets


def _cell(reader: ShardReader, index: int, caption: str, side: int = SIDE) -> Mapping[str, str]:
    return {
        "class_name": reader.classes[reader.label(index)],
        "address": _thumbnail(reader, index, side),
        "caption": caption,
    }


def _thumbnail(reader: ShardReader, index: int, side: int) -> str:
    """An address that contains the image, at most ``side`` pixels wide."""
    image = images.read_rgb(reader.image_bytes(index), reader.key(index))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _criteria(measures: Measures) -> list[tuple[str, str]]:
    return [
        (card.of_latents(name), f"{before:.4f} before, {after:.4f} after")
        for name, (before, after) in measures.criteria.items()
    ]


def _histograms(records: Sequence[Provenance]) -> list[Markup]:
    copies = [record for record in records if record.copy]
    return [
        charts.histograms(
            card.of_latents(name),
            {when: np.array([getattr(r, f"{name}_{when}") for r in copies]) for when in ("before", "after")},
        )
        for name in CRITERIA
    ]


def _own_class(it: Likeness, classes: Sequence[str]) -> list[tuple[str, str]]:
    """How many images of each class are nearest to its mean; the class whose copies are least so first."""
    ranked = sorted(it.own_class, key=lambda one: (one.copies is None, one.copies or 0))
    return [
        (classes[one.label], f"{card.percent(one.copies)} of copies; {card.percent(one.real)} of real images")
        for one in ranked
    ]


def _likeness_rows(it: Likeness) -> list[tuple[str, str]]:
    seeds, both = (f"median {median:.3f}, largest {most:.3f}" for median, most in (it.radius_seeds, it.radius_expanded))
    rows = [
        ("Fréchet distance", f"{it.frechet:.4f} (between the halves of the real images: {it.frechet_of_halves:.4f})"),
        ("precision, recall", f"{it.precision:.3f}, {it.recall:.3f}"),
        ("density, coverage", f"{it.density:.3f}, {it.coverage:.3f}"),
        (f"covering radius of {it.radius_of}", f"by seeds: {seeds}; by seeds and copies: {both}"),
        ("near-duplicates of their own seed", f"{card.percent(it.like_seed)} of copies (cosine of at least {SAME})"),
        ("near-duplicates of another copy", f"{it.alike:.1%} of copies"),
        (
            "nearest to the mean of their own class",
            f"{it.consistent:.1%} of copies; {card.percent(it.consistent_real)} of real images, each left out",
        ),
    ]
    if it.shift:
        shift = f"{it.shift.token:.3f} by place, {it.shift.channel:.3f} by channel"
        rows.append(("shift of content and of style", shift))
    return rows
