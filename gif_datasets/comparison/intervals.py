"""Means of few runs, and how sure their differences are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of several runs.

    Attributes:
        mean: Their mean.
        deviation: Their sample standard deviation; None of a single run.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0]), Spread.of([5.0])
            (Spread(mean=2.0, deviation=1.0), Spread(mean=5.0, deviation=None))
        """
        mean = math.fsum(values) / len(values)
        if len(values) < 2:
            return cls(mean, None)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)))


@dataclass(frozen=True)
class Difference:
    """A mean difference of paired runs.

    Attributes:
        mean: Its value.
        half: Half the width of its interval; None of a single pair.
    """

    mean: float
    half: float | None


def paired_difference(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Difference:
    """Mean of ``first[i] - second[i]``, with its confidence interval (Student's t).

    Example:
        >>> found = paired_difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
        >>> found.mean, round(found.half, 3)
        (2.0, 2.484)
    """
    spread = Spread.of([one - other for one, other in zip(first, second, strict=True)])
    if spread.deviation is None:
        return Difference(spread.mean, None)
    half = student_t(confidence, len(first) - 1) * spread.deviation / math.sqrt(len(first))
    return Difference(spread.mean, half)


def student_t(confidence: float, freedom: int) -> float:
    """The t within which Student's distribution of ``freedom`` degrees has the share ``confidence``.

    Args:
        confidence: In (0, 1).
        freedom: Degrees of freedom, at least 1.

    Source:
        Abramowitz and Stegun, 26.7.3 and 26.7.4: for whole degrees the share is a finite sum in the angle
        ``atan(t / sqrt(freedom))``, which is solved here by bisection.

    Example:
        >>> round(student_t(0.95, 2), 4), round(student_t(0.95, 9), 4)
        (4.3027, 2.2622)
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, freedom) < confidence else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _share_within(angle: float, freedom: int) -> float:
    """Share of Student's distribution within ``sqrt(freedom) * tan(angle)`` of 0."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
