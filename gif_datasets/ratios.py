"""How many copies each seed gets: the same number for all, a common count of each class, or a table of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gif_datasets.errors import ConfigError
from gif_datasets.io.digests import digest
from gif_datasets.options import closest
from gif_datasets.prompts import canonical

Ratio: TypeAlias = "int | str | Mapping[str, int]"
"""Copies of every seed; ``"balance:COUNT"``; or copies of each seed of a class, by its name."""

MAX_RATIO = 1000
MOST_NAMED = 40  # characters of a table in a name
OTHERS = "*"
"""In a table: every class that it does not name."""
_FORMS = "a number, balance:COUNT, or a table of classes"
_BALANCE = re.compile(r"balance:0*([1-9][0-9]{0,9})")


def read_ratio(text: str) -> int | str:
    """The value of ``--ratio``: a number, or a text that :func:`stands_for_copies` checks.

    Example:
        >>> read_ratio("5"), read_ratio("balance:200")
        (5, 'balance:200')
    """
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text


def stands_for_copies(value: str | Mapping[Any, Any]) -> bool:
    """Whether a text is ``balance:COUNT``, or a table says how many copies seeds of some classes get.

    Classes are compared with the source's by :func:`copies_of_each`.

    Raises:
        ConfigError: If it does not; the message has what is wrong.
    """
    if isinstance(value, str):
        if not _BALANCE.fullmatch(value):
            raise ConfigError(f'ratio must be {_FORMS} such as {{cat = 20, "*" = 5}}, got {value!r:.60}')
        return True
    if not value:
        raise ConfigError('a table of ratios needs at least one class, such as {cat = 20, "*" = 5}')
    for name, copies in value.items():
        if type(name) is not str or type(copies) is not int or not 0 <= copies <= MAX_RATIO:
            raise ConfigError(
                f"ratio of class {name!r:.60} must be a whole number from 0 to {MAX_RATIO}, got {copies!r:.60}"
            )
    if not any(value.values()):
        raise ConfigError(f"ratio makes no copies: every class has 0 ({', '.join(map(repr, list(value)[:5]))})")
    return True


def is_ratio(value: object) -> bool:
    """Whether a value that was read from elsewhere, such as a manifest, is a ratio."""
    if isinstance(value, dict):
        return bool(value) and all(type(k) is str and type(v) is int and 0 <= v <= MAX_RATIO for k, v in value.items())
    if isinstance(value, str):
        return _BALANCE.fullmatch(value) is not None
    return type(value) is int and 1 <= value <= MAX_RATIO


def expanded_text(ratio: Ratio) -> str:
    """How much a dataset was expanded, for titles.

    Example:
        >>> expanded_text(5), expanded_text("balance:200"), expanded_text({"cat": 20, "*": 5})
        ('5x', 'to 200 images of each class', '5x to 20x by class')
    """
    if isinstance(ratio, int):
        return f"{ratio}x"
    if isinstance(ratio, str):
        return f"to {_count(ratio)} images of each class"
    low, high = min(ratio.values()), max(ratio.values())
    return f"{low}x" if low == high else f"{low}x to {high}x by class"


def short_text(ratio: Ratio) -> str:
    """A ratio for names; different ones have different texts.

    Example:
        >>> short_text(5), short_text("balance:200"), short_text({"cat": 20, "*": 5})
        ('5x', 'balance:200', 'cat 20x, * 5x')
    """
    if not isinstance(ratio, Mapping):
        return f"{ratio}x" if isinstance(ratio, int) else ratio
    text = ", ".join(f"{name} {copies}x" for name, copies in ratio.items())
    return text if len(text) <= MOST_NAMED else f"{expanded_text(ratio)} {digest(ratio)[:6]}"


def copies_of_each(
    ratio: Ratio,
    classes: Sequence[str],
    labels: NDArray[np.integer],
    keys: NDArray[np.bytes_],
    indices: NDArray[np.integer],
    present: Mapping[int, int] | None = None,
) -> NDArray[np.int64]:
    """Copies of each seed, ``(N,)``.

    ``balance:COUNT`` gives each class so many copies that its seeds and copies are COUNT together; a class of COUNT
    seeds or more gets none. They are spread evenly over its seeds: no seed has two more than another, and those with
    one more are the first in the order of their keys, so that the order of the source does not matter.

    Args:
        ratio: As :class:`~gif_datasets.config.ExpansionConfig` has it.
        classes: Class names, in label order.
        labels: Class index of each seed.
        keys: Content key of each.
        indices: Its place in the source, for seeds of the same content.
        present: By label, the samples that a finished folder has already, to which these are added; None: none, and a
            count that no class is below is refused.

    Raises:
        ConfigError: If a table has other classes than the source, or a count is out of reach.

    Example:
        >>> labels, keys = np.array([0, 0, 0, 1]), np.array([b"d", b"a", b"c", b"b"])
        >>> copies_of_each("balance:5", ["cat", "dog"], labels, keys, np.arange(4)).tolist()
        [0, 1, 1, 4]
    """
    if isinstance(ratio, int):
        return np.full(len(labels), ratio, np.int64)
    if not isinstance(ratio, str):
        table: NDArray[np.int64] = np.array(_by_label(ratio, classes), np.int64)
        return np.take(table, labels)
    order, copies = np.lexsort((indices, keys)), np.zeros(len(labels), np.int64)
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    for label, needed in _needed(_count(ratio), classes, counts, present).items():
        members = order[labels[order] == label]
        each, more = divmod(needed, len(members))
        copies[members] = each
        copies[members[:more]] += 1
    return copies


def _by_label(table: Mapping[str, int], classes: Sequence[str]) -> list[int]:
    """Copies of a seed of each class, in label order."""
    named, known = {canonical(name): copies for name, copies in table.items()}, set(map(canonical, classes))
    for name in table:
        if name != OTHERS and canonical(name) not in known:
            raise ConfigError(f"ratio is given for class {name!r}, which is not here{closest(name, classes)}")
    if OTHERS not in named and (left := [name for name in classes if canonical(name) not in named]):
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ConfigError(
            f'ratio does not say how many copies class {left[0]!r}{more} gets; add it, or "*" for all others'
        )
    return [named[canonical(name)] if canonical(name) in named else named[OTHERS] for name in classes]


def _needed(
    count: int, classes: Sequence[str], counts: Sequence[int], present: Mapping[int, int] | None
) -> dict[int, int]:
    """Copies of each class that has seeds and is below the count, by label."""
    before = present or {}
    needed = {
        label: count - have - before.get(label, 0)
        for label, have in enumerate(counts)
        if have and have + before.get(label, 0) < count
    }
    if not needed and present is None:
        have, smallest = min((have, name) for have, name in zip(counts, classes, strict=True) if have)
        raise ConfigError(
            f"balance:{count} makes no copies: the smallest class, {smallest!r}, has {have} seeds; give a count above"
            f" {have}, such as {max(max(counts), have + 1)}"
        )
    for label, copies in needed.items():
        if copies > MAX_RATIO * counts[label]:
            raise ConfigError(
                f"balance:{count} needs more than {MAX_RATIO} copies of each of the {counts[label]} seeds of class"
                f" {classes[label]!r}; give a count of at most {counts[label] * (1 + MAX_RATIO)}"
            )
    return needed


def _count(ratio: str) -> int:
    """The count of ``balance:COUNT``."""
    return int(ratio.partition(":")[2])
