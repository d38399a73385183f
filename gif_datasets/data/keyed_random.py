"""Draws that are a function of a key and a counter: permutations, uniform numbers, endless samples from a pool.

Nothing is drawn in sequence and no permutation is stored: a position is carried to its place by a keyed bijection (an
alternating Feistel network with cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), so a
full shuffle costs no memory, any position can be asked for first, and resuming is arithmetic. Only 64-bit integer
arithmetic is used: what is drawn does not change with numpy's random streams.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gif_datasets.errors import ConfigError

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

ROUNDS = 8  # even, so that unequal halves end where they began
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # increment and multipliers of splitmix64 (Steele, Lea and Flood, 2014)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = (np.uint64(bits) for bits in (30, 27, 31, 11))
_ONE = np.uint64(1)


def stream_key(seed: int, name: str) -> Keys:
    """The key of one stream of draws: ``(1,)``."""
    text = hashlib.blake2b(f"{seed}/{name}".encode("ascii"), digest_size=8).digest()
    return np.frombuffer(text, dtype="<u8").astype(np.uint64)


def subkey(key: Keys, numbers: Ints) -> Keys:
    """A key for each of ``numbers``, ``(N,)``."""
    keys: Keys = _scramble(key ^ _scramble(numbers.astype(np.uint64) + _GOLDEN))
    return keys


def uniform(key: Keys, counters: Ints) -> NDArray[np.float64]:
    """The ``counters``-th numbers of a stream, in [0, 1), 53 bits each."""
    drawn: NDArray[np.float64] = (subkey(key, counters) >> _11) * 2.0**-53
    return drawn


def permute(key: Keys, size: Ints, positions: Ints) -> Ints:
    """Carry each position to its place in a keyed permutation.

    Args:
        key: Chooses the permutation, ``(N,)`` or ``(1,)``.
        size: Number of elements permuted, ``(N,)`` or ``(1,)``, at least 1.
        positions: In ``[0, size)``, ``(N,)``.

    Returns:
        ``(N,)`` in ``[0, size)``; a bijection for each (key, size).

    Example:
        >>> sorted(permute(stream_key(0, "x"), np.array([5]), np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """
    key, size, out = (np.array(part) for part in np.broadcast_arrays(key, size, positions))
    key, limit, out = key.astype(np.uint64), size.astype(np.uint64), out.astype(np.uint64)
    bits = np.frexp(np.maximum(size - 1, 1))[1].astype(np.uint64)  # of the largest element
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():  # cycle walking: what falls outside is carried on until it is inside
        out[outside] = _feistel(key[outside], bits[outside], out[outside])
        outside = out >= limit
    return out.astype(np.int64)


def _feistel(key: Keys, bits: Keys, value: Keys) -> Keys:
    left_bits, right_bits = bits - bits // np.uint64(2), bits // np.uint64(2)
    left, right = value >> right_bits, value & ((_ONE << right_bits) - _ONE)
    for number in range(ROUNDS):
        turned = left ^ (_scramble(key + right + np.uint64(number << 40)) & ((_ONE << left_bits) - _ONE))
        left, right, left_bits, right_bits = right, turned, right_bits, left_bits
    joined: Keys = (left << right_bits) | right
    return joined


def _scramble(value: Keys) -> Keys:
    """The finaliser of splitmix64."""
    value = (value ^ (value >> _30)) * _FIRST
    value = (value ^ (value >> _27)) * _SECOND
    scrambled: Keys = value ^ (value >> _31)
    return scrambled


# --- streams: endless draws from a pool ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stream:
    """Endless draws from a pool of samples; draw ``j`` is a pure function of ``j``.

    Without ``starts`` and ``heights`` the pool is gone through again and again, each element once a round, shuffled or
    in order. With ``starts`` each class comes once in every run of as many draws as there are classes, and each class's
    samples are gone through in separate rounds. With ``heights`` draws are independent, with replacement.

    Attributes:
        pool: Sample indices, ``(N,)``; grouped by class when balanced.
        key: Chooses the draws.
        shuffle: Whether rounds are shuffled.
        starts: Where each class begins in the pool, and the pool's length last: ``(C + 1,)``.
        heights: Cumulated weights, ``(N,)``.
    """

    pool: Ints
    key: Keys
    shuffle: bool = True
    starts: Ints | None = None
    heights: NDArray[np.float64] | None = None

    def __call__(self, draws: Ints) -> Ints:
        """Sample indices of draws, ``(N,)``, counted from 0."""
        chosen: Ints = self.pool[self._places(draws)]
        return chosen

    def _places(self, draws: Ints) -> Ints:
        if self.heights is not None:
            targets = uniform(self.key, draws) * self.heights[-1]
            positions: Ints = np.searchsorted(self.heights, targets, side="right").clip(max=len(self.pool) - 1)
            return positions
        if self.starts is not None:
            return self._balanced(draws, self.starts)
        rounds, places = np.divmod(draws, len(self.pool))
        if self.shuffle:
            places = permute(subkey(self.key, rounds), np.array([len(self.pool)]), places)
        return places

    def _balanced(self, draws: Ints, starts: Ints) -> Ints:
        classes = len(starts) - 1
        blocks, places = np.divmod(draws, classes)
        chosen = permute(subkey(self.key, blocks), np.array([classes]), places)
        sizes = np.diff(starts)[chosen]
        rounds, members = np.divmod(blocks, sizes)
        keys = subkey(subkey(self.key ^ _GOLDEN, chosen), rounds)
        positions: Ints = starts[chosen] + permute(keys, sizes, members)
        return positions


def make_stream(
    pool: Ints,
    seed: int,
    name: str,
    *,
    shuffle: bool = True,
    labels: NDArray[np.integer] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> Stream:
    """A stream over ``pool``: balanced over ``labels``, or by ``weights``, or plain.

    Args:
        pool: Sample indices.
        seed: The order's number.
        name: Another name is another stream.
        shuffle: Whether rounds of a plain stream are shuffled.
        labels: Class index of every sample, to balance them.
        weights: Weight of every sample, to draw by them.
    """
    key = stream_key(seed, name)
    if labels is not None:
        pool_labels = labels[pool]
        by_class = np.argsort(pool_labels, kind="stable")
        counts = np.bincount(pool_labels)
        starts = np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64)
        return Stream(pool[by_class], key, starts=starts)
    if weights is not None:
        heights = np.cumsum(weights[pool])
        if not heights[-1] > 0:
            raise ConfigError(f"all weights of the {name} samples are 0; nothing can be drawn")
        return Stream(pool, key, heights=heights)
    return Stream(pool, key, shuffle)
