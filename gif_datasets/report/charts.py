"""Small charts as SVG, for pages that need no network and no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

BINS = 24
WIDTH, HEIGHT, LINE = 320, 150, 16
MOST_BARS = 60
_STANDALONE = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12" '


@dataclass(frozen=True)
class Points:
    """Points of a scatter plot.

    Attributes:
        places: ``(N, 2)``.
        labels: Class index of each.
        filled: Discs; else rings.
    """

    places: NDArray[np.floating]
    labels: Sequence[int]
    filled: bool


def histograms(title: str, series: Mapping[str, NDArray[np.floating]]) -> Markup:
    """Histograms one above the other, on one scale."""
    values = np.concatenate([*series.values(), [0.0]])
    low, high = float(values.min()), float(values.max())
    high = high if high > low else low + 1
    each = (HEIGHT - 40) / len(series)
    shapes = [f'<text x="0" y="12">{escape(title)}</text>']
    for number, (name, points) in enumerate(series.items()):
        counts = np.histogram(points, BINS, (low, high))[0]
        base, top = 18 + each * (number + 1), max(int(counts.max()), 1)
        step = WIDTH / BINS
        for place, count in enumerate(counts.tolist()):
            tall = (each - LINE) * count / top
            shapes.append(
                f'<rect class="{"ab"[number % 2]}" x="{place * step:.1f}" y="{base - tall:.1f}" width="{step - 1:.1f}"'
                f' height="{tall:.1f}"/>'
            )
        shapes.append(f'<text x="{WIDTH}" y="{base - each + 10:.1f}" text-anchor="end">{escape(name)}</text>')
    shapes.append(f'<text x="0" y="{HEIGHT - 4}">{low:.3g}</text>')
    shapes.append(f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{high:.3g}</text>')
    return _svg(WIDTH, HEIGHT, shapes)


def curves(title: str, axis: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines of values over steps, as a complete SVG file; a dot marks each value."""
    width, height, margin = 640, 320, 40
    points = np.array([point for line in series.values() for point in line], dtype=float).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, 1.0)
    shapes = [f'<text x="{margin}" y="16">{escape(title)}</text>']
    for number, (name, line) in enumerate(series.items()):
        colour = _colour(number, len(series))
        scaled = (np.array(line, dtype=float).reshape(-1, 2) - low) / span
        places = [
            (margin + (width - 2 * margin) * x, height - margin - (height - 2 * margin) * y) for x, y in scaled.tolist()
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        place = f'x="{width - margin}" y="{16 + 16 * number}" text-anchor="end"'
        shapes.append(f'<text {place} fill="{colour}">{escape(name)}</text>')
    for value, y in ((high[1], margin), (low[1], height - margin)):
        shapes.append(f'<text x="2" y="{y + 4}">{value:.3g}</text>')
    for value, x, anchor in ((low[0], margin, "start"), (high[0], width - margin, "end")):
        shapes.append(f'<text x="{x}" y="{height - 16}" text-anchor="{anchor}">{value:.6g}</text>')
    shapes.append(f'<text x="{width / 2:.0f}" y="{height - 16}" text-anchor="middle">{escape(axis)}</text>')
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return _svg(width, height, [background, *shapes], _STANDALONE) + "\n"


def bars(rows: Sequence[tuple[str, int, int]]) -> Markup:
    """One bar per class, of two parts; only the first :data:`MOST_BARS` classes."""
    shown, left = rows[:MOST_BARS], max(0, len(rows) - MOST_BARS)
    longest = max((first + second for _, first, second in shown), default=1) or 1
    width, label, line = 420, 140, 18  # readable on a phone, where it is made narrower
    shapes = []
    for number, (name, first, second) in enumerate(shown):
        y, scale = number * line, (width - label - 90) / longest
        short = name if len(name) <= 22 else name[:21] + "…"
        shapes.append(f'<text x="0" y="{y + 13}">{escape(short)}</text>')
        shapes.append(f'<rect class="b" x="{label}" y="{y + 3}" width="{first * scale:.1f}" height="12"/>')
        shapes.append(
            f'<rect class="a" x="{label + first * scale:.1f}" y="{y + 3}" width="{second * scale:.1f}" height="12"/>'
        )
        end = label + (first + second) * scale + 6
        shapes.append(f'<text x="{end:.1f}" y="{y + 13}">{first} + {second}</text>')
    more = Markup("<p>and {} more classes</p>").format(left) if left else Markup("")
    return _svg(width, max(1, len(shown)) * line + 4, shapes) + more


def scatter(series: Sequence[Points], classes: Sequence[str]) -> Markup:
    """Points coloured by class, with a legend if there are few classes."""
    places = np.concatenate([points.places for points in series])
    low, high = np.quantile(places, 0.002, axis=0), np.quantile(places, 0.998, axis=0)
    size, span = 480, np.where(high > low, high - low, 1.0)
    shapes = []
    for points in series:
        scaled = 10 + (size - 20) * np.clip((points.places - low) / span, 0, 1)
        for (x, y), label in zip(scaled.tolist(), points.labels, strict=True):
            colour = _colour(label, len(classes))
            look = f'fill="{colour}"' if points.filled else f'fill="none" stroke="{colour}" stroke-opacity="0.45"'
            shapes.append(f'<circle cx="{x:.0f}" cy="{size - y:.0f}" r="{4 if points.filled else 3}" {look}/>')
    names = classes if len(classes) <= 20 else ()
    for number, name in enumerate(names):
        y = 16 + 18 * number
        shapes.append(f'<circle cx="{size + 14}" cy="{y - 4}" r="4" fill="{_colour(number, len(classes))}"/>')
        shapes.append(f'<text x="{size + 24}" y="{y}">{escape(name[:24])}</text>')
    return _svg(size + (170 if names else 0), size, shapes)


def dots(title: str, rows: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    """One line per row: its values as rings, their mean as a disc, all on one scale."""
    values = [value for _, numbers in rows for value in numbers]
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), 0.5)
    low, high = low - margin, high + margin
    label, width, line, top = 230, 640, 22, 20
    shapes = [f'<text x="0" y="12">{escape(title)}</text>']
    for number, (name, numbers) in enumerate(rows):
        y = top + line * number + line / 2
        short = name if len(name) <= 38 else name[:37] + "…"
        shapes.append(f'<text x="0" y="{y + 4:.1f}">{escape(short)}</text>')
        shapes.append(f'<rect class="a" x="{label}" y="{y:.1f}" width="{width - label - 50}" height="1"/>')
        places = [label + (width - label - 50) * (value - low) / (high - low) for value in numbers]
        shapes += [f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x in places]
        mean = sum(numbers) / len(numbers)
        shapes.append(f'<circle class="b" cx="{sum(places) / len(places):.1f}" cy="{y:.1f}" r="5"/>')
        shapes.append(f'<text x="{width}" y="{y + 4:.1f}" text-anchor="end">{mean:.1f}</text>')
    bottom = top + line * len(rows) + 14
    shapes.append(f'<text x="{label}" y="{bottom}">{low:.1f}</text>')
    shapes.append(f'<text x="{width - 50}" y="{bottom}" text-anchor="end">{high:.1f}</text>')
    return _svg(width, bottom + 6, shapes)


def _colour(number: int, count: int) -> str:
    """Hues around the circle, in two lightnesses, so that neighbours differ even if there are many."""
    return f"hsl({360 * number / max(count, 1):.0f} 65% {45 + 12 * (number % 2)}%)"


def _svg(width: float, height: float, shapes: Sequence[str], attributes: str = "") -> Markup:
    """An SVG element; texts in ``shapes`` are escaped already."""
    start = f'<svg {attributes}viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return Markup(f'{start} role="img">{"".join(shapes)}</svg>')  # noqa: S704 - see above
