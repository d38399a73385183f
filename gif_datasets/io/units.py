"""Sizes and durations as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

from gif_datasets.errors import ConfigError


def parse_size(text: str, name: str = "a size") -> int:
    """Bytes in a text such as ``10GB``; units of 1000 (kB, MB, GB, TB) or of 1024 (KiB, MiB, GiB, TiB).

    Raises:
        ConfigError: If it is no size; the message calls it ``name``.

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
        ConfigError: If it is no duration; the message calls it ``name``.

    Example:
        >>> parse_duration("1.5h"), parse_duration("30d")
        (5400.0, 2592000.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", text.strip().lower())
    if not match:
        raise ConfigError(f"{name} must be a duration such as 90m, 12h, 30d or 8w, got {text!r}")
    return float(match[1]) * {"m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]
