"""Which sample comes when: a pure function of (seed, epoch, position), with numpy and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from gif_datasets.data.keyed_random import Ints, Keys, Stream, make_stream, stream_key, uniform
from gif_datasets.errors import ConfigError
from gif_datasets.types import ItemTable


@dataclass(frozen=True)
class Mix:
    """How originals and copies are mixed.

    Attributes:
        kind: ``"all"``, ``"originals"``, ``"synthetic"``, ``"share"`` or ``"replace"``.
        amount: The share of copies, or the probability that one takes its original's place; 0 for the others.
    """

    kind: str
    amount: Fraction = Fraction(0)


def parse_mix(text: str) -> Mix:
    """Read a mixing policy.

    Args:
        text: ``"all"``; ``"originals"``; ``"synthetic"``; ``"share:0.5"``, that part of every batch copies, exactly;
            ``"replace:0.3"``, each original replaced by one of its copies with that probability.

    Raises:
        ConfigError: If it is none of these.

    Example:
        >>> parse_mix("share:0.25")
        Mix(kind='share', amount=Fraction(1, 4))
    """
    kind, colon, number = text.partition(":")
    if kind in ("all", "originals", "synthetic") and not colon:
        return Mix(kind)
    if kind in ("share", "replace") and colon:
        try:
            amount = Fraction(number)
        except (ValueError, ZeroDivisionError):
            amount = Fraction(-1)
        if 0 <= amount < 1 or (kind == "replace" and amount == 1):
            return Mix(kind, amount.limit_denominator(1_000_000))
    raise ConfigError(
        f"mix must be all, originals, synthetic, share:X with 0 <= X < 1, or replace:P with 0 <= P <= 1, got {text!r}"
    )


# --- orders: positions of an epoch to samples ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Replacement:
    """Puts one of an original's copies in its place, with a probability."""

    key: Keys
    probability: float
    copies: Ints
    first: Ints
    count: Ints

    def __call__(self, draws: Ints, originals: Ints) -> Ints:
        """The originals of draws, some of them replaced, ``(N,)``."""
        number = np.minimum(
            uniform(self.key ^ np.uint64(1), draws) * self.count[originals], np.maximum(self.count[originals] - 1, 0)
        )
        there = self.count[originals] > 0
        copies = self.copies[np.where(there, self.first[originals] + number.astype(np.int64), 0)]
        return np.where(there & (uniform(self.key, draws) < self.probability), copies, originals)


@dataclass(frozen=True, eq=False)
class Order:
    """``order(epoch, positions)`` is the sample at each position of an epoch.

    Attributes:
        length: Positions in an epoch.
        main: Stream of all samples, of the originals, or of the copies.
        copies: Stream of the copies, when they take a fixed share.
        share: That share.
        replacement: What takes originals' places, if anything does.
    """

    length: int
    main: Stream
    copies: Stream | None = None
    share: Fraction = Fraction(0)
    replacement: Replacement | None = None

    def __call__(self, epoch: int, positions: Ints) -> Ints:
        """Sample indices at ``positions``, ``(N,)`` in ``[0, length)``."""
        if self.copies is not None:
            return self._shared(self.copies, epoch, positions)
        draws = epoch * self.length + positions
        chosen = self.main(draws)
        return chosen if self.replacement is None else self.replacement(draws, chosen)

    def _shared(self, copies: Stream, epoch: int, positions: Ints) -> Ints:
        """Position ``p`` is a copy when ``floor(share * p)`` steps up: every window of N holds its exact share."""
        before = self._copies_before(positions)
        is_copy = self._copies_before(positions + 1) > before
        in_epoch = self.length * self.share.numerator // self.share.denominator
        chosen = self.main(epoch * (self.length - in_epoch) + positions - before)
        chosen[is_copy] = copies((epoch * in_epoch + before)[is_copy])
        return chosen

    def _copies_before(self, positions: Ints) -> Ints:
        return positions * self.share.numerator // self.share.denominator


def make_order(
    facts: ItemTable,
    mix: Mix | str = "all",
    *,
    shuffle: bool = True,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    balance: bool = False,
    length: int | None = None,
) -> Order:
    """Fix the order of all epochs.

    Every stream goes on over epochs: with ``share:0.5`` and five copies a seed, an epoch shows each original once and a
    fifth of the copies, and five epochs show each copy once.

    Args:
        facts: What is known of the samples.
        mix: A mixing policy, or its text; see :func:`parse_mix`.
        shuffle: Whether plain streams are shuffled.
        seed: The order's number.
        weights: One a sample: draws are independent, with replacement, in proportion.
        balance: Give every class the same number of places.
        length: Positions in an epoch; by default as many as show every sample of the policy's main stream once.

    Raises:
        ConfigError: If there is nothing of a kind the policy asks for, or an argument does not fit.
    """
    mix = mix if isinstance(mix, Mix) else parse_mix(str(mix))
    checked = _check_weights(weights, balance, len(facts))
    labels = facts.labels if balance else None

    def stream(pool: Ints, name: str) -> Stream:
        if not len(pool) and (name != "all" or length is not None or weights is not None):
            raise ConfigError(f"mix {mix.kind!r} needs {name} samples, and there are none")
        return make_stream(pool, seed, name, shuffle=shuffle, labels=labels, weights=checked)

    main = stream(*_main_pool(facts, mix.kind))
    natural = math.floor(len(main.pool) / (1 - mix.amount)) if mix.kind == "share" else len(main.pool)
    if length is not None and length < 1:
        raise ConfigError(f"the length of an epoch must be at least 1, got {length}")
    length = length or natural
    if mix.kind == "share" and mix.amount:
        return Order(length, main, stream(np.flatnonzero(facts.synthetic), "synthetic"), mix.amount)
    if mix.kind == "replace":
        return Order(length, main, replacement=_replacement(facts, float(mix.amount), seed))
    return Order(length, main)


def _main_pool(facts: ItemTable, kind: str) -> tuple[Ints, str]:
    """The samples of a policy's main stream, and what they are called."""
    if kind == "all":
        return np.arange(len(facts), dtype=np.int64), "all"
    name = "synthetic" if kind == "synthetic" else "original"
    return np.flatnonzero(facts.synthetic == (name == "synthetic")), name


def _check_weights(weights: Sequence[float] | None, balance: bool, count: int) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    if balance:
        raise ConfigError("give either weights or balance, not both")
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (count,) or not np.isfinite(array).all() or (array < 0).any():
        raise ConfigError(f"weights must be {count} finite numbers >= 0, got an array of shape {array.shape}")
    return array


def _replacement(facts: ItemTable, probability: float, seed: int) -> Replacement:
    copies = np.flatnonzero(facts.synthetic)
    if not len(copies):
        raise ConfigError("mix 'replace' needs synthetic samples, and there are none")
    copies = copies[np.argsort(facts.seeds[copies], kind="stable")]
    owners = facts.seeds[copies]
    first = np.searchsorted(owners, facts.seeds, side="left")
    count = np.searchsorted(owners, facts.seeds, side="right") - first
    return Replacement(stream_key(seed, "replace"), probability, copies, first, count)


# --- ranks --------------------------------------------------------------------------------------------------------


def rank_positions(
    start: int, length: int, rank: int, ranks: int, batch: int, *, stride: bool = False, drop_tail: bool = False
) -> Iterator[Ints]:
    """Positions of one rank from ``start`` to the end of the epoch, one array a step.

    All ranks together take ``batch * ranks`` adjacent positions a step, so the position after a step does not depend on
    who took which, and any number of ranks can go on from it. The last step is filled up from the epoch's beginning
    until every rank has the same number, as ``DistributedSampler`` does.

    Args:
        start: Position to begin at.
        length: Positions in the epoch.
        rank: This rank.
        ranks: Number of ranks.
        batch: Positions a rank takes in a step.
        stride: Deal positions out in turn, as ``DistributedSampler`` does, instead of in slices. A slice keeps a
            policy's share exact in each rank's batch.
        drop_tail: Leave out what cannot be dealt evenly instead of filling up.

    Example:
        >>> [p.tolist() for p in rank_positions(0, 10, rank=1, ranks=2, batch=3)]
        [[3, 4, 5], [8, 9]]
    """
    stop = start + (length - start) // ranks * ranks if drop_tail else length
    while start < stop:
        each = -(-min(batch * ranks, stop - start) // ranks)
        places = rank + ranks * np.arange(each) if stride else rank * each + np.arange(each)
        yield ((start + places) % length).astype(np.int64)
        start += batch * ranks


def next_position(start: int, steps: int, batch: int, ranks: int, length: int) -> int:
    """The position after ``steps`` steps of all ranks."""
    return min(start + steps * batch * ranks, length)
