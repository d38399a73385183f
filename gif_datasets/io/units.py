"""Sizes, durations and tables as people read and write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from gif_datasets.errors import ConfigError


def parse_size(text: str, name: str = "a size") -> int:
    """Bytes in a text such as ``10GB``; units of 1000 (kB, MB, GB, TB) or of 1024 (KiB, MiB, GiB, TiB).

    Raises:
        ConfigError: If it is not a size; the message calls it ``name``.

    Example:
        >>> parse_size("10GB"), parse_size("1.5 MiB"), parse_size("200")
        (10000000000, 1572864, 200)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b?)", text.strip().lower())
    if not match or (match[3] and not match[2]):
        raise ConfigError(f"{name} must be a size such as 500MB, 10GB or 10GiB, got {text!r}")
    return int(Fraction(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))


def parse_duration(text: str, name: str = "a duration") -> float:
    """Seconds in a text such as ``30d``; units are m(inutes), h(ours), d(ays) and w(eeks).

    Raises:
        ConfigError: If it is not a duration; the message calls it ``name``.

    Example:
        >>> parse_duration("1.5h"), parse_duration("30d")
        (5400.0, 2592000.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", text.strip().lower())
    if not match:
        raise ConfigError(f"{name} must be a duration such as 90m, 12h, 30d or 8w, got {text!r}")
    return float(match[1]) * {"m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def size_text(count: float) -> str:
    """Bytes in the largest unit that gives at least 1, in steps of 1000.

    Example:
        >>> size_text(12), size_text(1_500_000)
        ('12 B', '1.5 MB')
    """
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def duration_text(seconds: float) -> str:
    """Seconds below two minutes, minutes below two hours, else hours.

    Example:
        >>> duration_text(90), duration_text(5400), duration_text(9000)
        ('90.0 s', '90.0 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def aligned(rows: Sequence[Sequence[str]], numbers: bool = False) -> list[str]:
    """Lines of a table with two spaces between its columns, each as wide as its widest cell.

    Args:
        rows: The cells; all rows have as many.
        numbers: Align all columns except the first to the right.

    Example:
        >>> aligned([("arm", "accuracy"), ("gif", "71.2")], numbers=True)
        ['arm  accuracy', 'gif      71.2']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<", *(">" if numbers else "<" for _ in widths[1:])]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
