"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gif_datasets.comparison.architectures import SMALL
from gif_datasets.comparison.results import Comparison
from gif_datasets.io import atomic
from gif_datasets.report import charts
from gif_datasets.report.html import render


def publish(comparison: Comparison, rounds: Sequence[Sequence[str]] = (), about: Sequence[str] = ()) -> None:
    """Write the page and the JSON; of a refinement with the table of its rounds, and sentences about them."""
    folder = Path(comparison.out)
    atomic.write_json(folder / "compare.json", comparison.to_json())
    atomic.write_bytes(folder / "compare.html", _page(comparison, rounds, about).encode("utf-8"))


def _page(comparison: Comparison, rounds: Sequence[Sequence[str]], about: Sequence[str]) -> str:
    accuracies = [row.accuracies for row in comparison.rows]
    return render(
        "compare.html",
        title=f"Does it help? {comparison.source}, tested on {comparison.test}",
        heading=f"{comparison.heading()} {_networks(comparison)}",
        plot=charts.dots("percent right of all test images", list(zip(comparison.labels(), accuracies, strict=True))),
        arms=comparison.table(),
        baselines=comparison.baselines(),
        doubts=comparison.doubts(),
        verdict=comparison.verdict.text,
        rounds=rounds,
        about=about,
        classes=comparison.class_table(),
        notes=(*comparison.notes, *comparison.left_out, *comparison.bad),
    )


def _networks(comparison: Comparison) -> str:
    """The architectures, as a sentence."""
    names = ", ".join(dict.fromkeys(row.training.architecture for row in comparison.rows))
    return f"Network: {names}{' (four-block ResNet, 0.7M parameters)' if names == SMALL else ''}."
