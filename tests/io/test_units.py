"""Sizes, durations and tables as text."""

from __future__ import annotations

import pytest

from gif_datasets.io.units import aligned, duration_text, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (4e9, "4.0 GB"), (5.25e15, "5250.0 TB")],
)
def test_sizes(count: float, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.26, "1.3 s"), (119.9, "119.9 s"), (120, "2.0 min"), (7199, "120.0 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_tables() -> None:
    rows = [("name", "value"), ("a", "10"), ("longer", "")]
    assert aligned(rows) == ["name    value", "a       10", "longer"]
    assert aligned(rows, numbers=True) == ["name    value", "a          10", "longer"]
