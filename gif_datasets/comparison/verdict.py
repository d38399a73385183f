"""One sentence at the end of a comparison: use an expansion, do not, or not decided, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gif_datasets.comparison.intervals import Spread, student_t

USE, DO_NOT, UNDECIDED = "use", "do not use", "not decided"
WORTH = 1.0
"""Points of accuracy below which copies are not worth their making."""
CHANCE = 0.05
"""Of being wrong, over all arms together (Bonferroni): the best of many arms is above the seeds by luck alone."""
MOST_RUNS = 1000


@dataclass(frozen=True)
class Verdict:
    """What a comparison says.

    Attributes:
        decision: :data:`USE`, :data:`DO_NOT` or :data:`UNDECIDED`.
        arm: The arm that decides it: the one to use, or the one that comes nearest to that.
        mean: Its difference from the seeds alone, in points.
        low, high: Ends of the interval of the difference; None of one run.
        runs: Runs of every arm.
        runs_to_decide: How many would decide it if they scatter like these; None if it is decided or not known.
        text: The sentence.
    """

    decision: str
    arm: str
    mean: float
    low: float | None
    high: float | None
    runs: int
    runs_to_decide: int | None
    text: str


@dataclass(frozen=True)
class _Arm:
    """An arm's differences from the seeds alone, with their interval at the confidence of all arms together."""

    name: str
    mean: float
    half: float

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    @property
    def interval(self) -> str:
        return f"{self.low:+.1f} to {self.high:+.1f}"


def decide(differences: Mapping[str, Sequence[float]]) -> Verdict:
    """Decide by the differences from the seeds alone, in points, of each arm's runs.

    None is to be used if all intervals end below :data:`WORTH`; else one whose interval lies above 0. The intervals are
    Student's, over pairs of runs, and wide enough to hold all together with a probability of 95%.

    Example:
        >>> decide({"unclip 5x": [2.0, 3.0, 2.5]}).text
        'Use unclip 5x: it adds 2.5 points to the seeds alone, +1.3 to +3.7 (95% interval of 3 runs).'
        >>> decide({"unclip 5x": [0.0, 3.0, 1.5]}).runs_to_decide
        7
    """
    runs, confidence = len(next(iter(differences.values()))), 1 - CHANCE / len(differences)
    spreads = {name: Spread.of(values) for name, values in differences.items()}
    if runs < 2:
        first = max(spreads, key=lambda name: spreads[name].mean)
        text = f"Not decided: one run of {first} cannot tell a difference from chance; take --runs 3 at least."
        return Verdict(UNDECIDED, first, spreads[first].mean, None, None, runs, None, text)
    arms = [_Arm(name, one.mean, _half(one.deviation or 0.0, runs, confidence)) for name, one in spreads.items()]
    by = f"95% interval of {runs} runs" + (f", for {len(arms)} arms together" if len(arms) > 1 else "")
    highest = max(arms, key=lambda arm: arm.high)
    if highest.high < WORTH:
        text = f"Do not use {_named(highest, arms)}: {_too_little(highest)} ({by})."
        return _verdict(DO_NOT, highest, runs, None, text)
    if above := [arm for arm in arms if arm.low > 0 and arm.high >= WORTH]:
        best = max(above, key=lambda arm: arm.low)
        text = f"Use {best.name}: it adds {best.mean:.1f} points to the seeds alone, {best.interval} ({by})."
        return _verdict(USE, best, runs, None, text)
    best = max(arms, key=lambda arm: arm.mean)
    margin = max(best.mean, WORTH - best.mean)
    needed = _runs_for(margin, spreads[best.name].deviation or 0.0, runs, confidence)
    text = (
        f"Not decided: {best.name} is {best.mean:+.1f} points from the seeds alone, and {best.interval} contains 0"
        f" ({by}); {_wanted(needed)}."
    )
    return _verdict(UNDECIDED, best, runs, needed, text)


def _verdict(decision: str, arm: _Arm, runs: int, needed: int | None, text: str) -> Verdict:
    return Verdict(decision, arm.name, arm.mean, arm.low, arm.high, runs, needed, text)


def _named(arm: _Arm, arms: Sequence[_Arm]) -> str:
    return arm.name if len(arms) == 1 else f"any of {len(arms)} arms, of which {arm.name} comes nearest to a gain"


def _too_little(arm: _Arm) -> str:
    if arm.high < 0:
        return f"it takes {-arm.mean:.1f} points from the seeds alone, {arm.interval}"
    return f"it adds {arm.high:.1f} points at most, {arm.interval}, and fewer than {WORTH:.0f} are not worth the copies"


def _wanted(needed: int | None) -> str:
    if needed is None:
        return f"more than {MOST_RUNS} runs would be needed to decide it"
    return f"about {needed} runs would decide it, if they scatter like these (--runs {needed})"


def _half(deviation: float, runs: int, confidence: float) -> float:
    """Half the width of the interval of a mean."""
    return student_t(confidence, runs - 1) * deviation / math.sqrt(runs)


def _runs_for(margin: float, deviation: float, runs: int, confidence: float) -> int | None:
    """The fewest runs, more than there were, after which half an interval is below a margin; None if too many."""
    low, high = runs, runs + 1
    while _half(deviation, high, confidence) >= margin:
        low, high = high, 2 * high
        if low > MOST_RUNS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _half(deviation, middle, confidence) < margin else (middle, high)
    return high if high <= MOST_RUNS else None
