"""The page of a comparison."""

from __future__ import annotations

import html
from pathlib import Path

from gif_datasets.comparison.architectures import SMALL
from gif_datasets.comparison.results import Comparison
from gif_datasets.io import atomic
from gif_datasets.report import charts


def publish(found: Comparison) -> None:
    """Write the page and the JSON."""
    folder = Path(found.out)
    atomic.write_json(folder / "compare.json", found.to_json())
    atomic.write_bytes(folder / "compare.html", _page(found).encode("utf-8"))


def _page(found: Comparison) -> str:
    title = f"Does it help? {found.source}, tested on {found.test}"
    networks = ", ".join(dict.fromkeys(row.training.architecture for row in found.rows))
    network = f" Network: {networks}{' (four-block ResNet, 0.7M parameters)' if networks == SMALL else ''}."
    plot = charts.dots(
        "percent right of all test images", list(zip(found.labels(), (r.accuracies for r in found.rows), strict=True))
    )
    told = "".join(f"<li>{html.escape(text)}</li>" for text in (*found.notes, *found.left_out, *found.bad))
    body = f"""<p>{html.escape(found.heading() + network)}</p>
{plot}<p>A ring is a run, a disc the mean of an arm's runs.</p>
{charts.grid(found.table())}
<p>The interval is Student's, of the differences between runs of the same number.</p>
<h2>Classes</h2>{charts.grid(found.class_table())}
{f"<h2>Notes</h2><ul>{told}</ul>" if told else ""}"""
    return charts.page(title, body)
