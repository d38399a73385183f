"""Orders: pure functions of (seed, epoch, position) that lose nothing, whoever asks for which part."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from gif_datasets import ConfigError
from gif_datasets.data.keyed_random import permute, stream_key
from gif_datasets.data.order import Mix, make_order, next_position, parse_mix, rank_positions
from gif_datasets.types import ItemTable

some = settings(max_examples=50, deadline=None)
SIZES = st.integers(1, 300)
SEEDS = st.integers(0, 2**63)
GOLDEN_ORDER = [0, 5, 8, 6, 1, 4, 2, 9, 3, 7]


def facts(seeds: int, ratio: int, classes: int = 3) -> ItemTable:
    """Seeds first, then ``ratio`` copies of each."""
    owner = np.concatenate([np.arange(seeds), np.repeat(np.arange(seeds), ratio)])
    return ItemTable(owner % classes, np.arange(len(owner)) >= seeds, owner)


@some
@given(size=SIZES, seed=SEEDS)
def test_permutations_are_bijections(size: int, seed: int) -> None:
    """Every element comes once; single positions give what all together give."""
    key, sizes = stream_key(seed, "t"), np.array([size])
    found = permute(key, sizes, np.arange(size))
    assert sorted(found) == list(range(size))
    place = seed % size
    assert permute(key, sizes, np.array([place]))[0] == found[place]


def test_permutations_of_many_sizes_at_once() -> None:
    """Keys and sizes may differ from element to element."""
    pairs = [(size, place) for size in (1, 2, 3, 17, 1000) for place in range(min(size, 20))]
    sizes, places = (np.array(part) for part in zip(*pairs, strict=True))
    keys = np.concatenate([stream_key(int(size), "t") for size in sizes])
    alone = [permute(stream_key(s, "t"), np.array([s]), np.array([p]))[0] for s, p in pairs]
    assert permute(keys, sizes, places).tolist() == alone


@pytest.mark.parametrize("size", [3, 4])
def test_small_permutations_are_all_as_likely(size: int) -> None:
    """Over keys each permutation of a few elements comes about equally often (chi-square under its 0.999 quantile)."""
    found = Counter(tuple(permute(stream_key(i, "u"), np.array([size]), np.arange(size)).tolist()) for i in range(4800))
    possible = list(itertools.permutations(range(size)))
    expected = 4800 / len(possible)
    assert sum((found[p] - expected) ** 2 / expected for p in possible) < {3: 20.5, 4: 49.7}[size]


def test_large_permutations_show_no_pattern() -> None:
    """Positions and their places, and neighbours' places, are uncorrelated; few stay where they were."""
    size = 50_000
    found = permute(stream_key(1, "v"), np.array([size]), np.arange(size))
    assert abs(np.corrcoef(np.arange(size), found)[0, 1]) < 0.02
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.02
    assert (found == np.arange(size)).sum() < 8


@some
@given(count=st.integers(2, 60), ratio=st.integers(1, 4), seed=SEEDS, epoch=st.integers(0, 5), shuffle=st.booleans())
def test_an_epoch_of_all_shows_each_once(count: int, ratio: int, seed: int, epoch: int, shuffle: bool) -> None:
    """Every sample comes once an epoch; in order without shuffling; the same for the same seed."""
    known = facts(count, ratio)
    order = make_order(known, shuffle=shuffle, seed=seed)
    found = order(epoch, np.arange(order.length))
    assert sorted(found) == list(range(len(known)))
    assert shuffle or found.tolist() == list(range(len(known)))
    again = make_order(known, shuffle=shuffle, seed=seed)
    assert again(epoch, np.arange(5, order.length) if order.length > 5 else np.arange(0)).tolist() == found[5:].tolist()


def test_epochs_and_seeds_differ() -> None:
    """Another epoch and another seed are other orders."""
    known, positions = facts(40, 2), np.arange(120)
    order = make_order(known, seed=0)
    first = order(0, positions).tolist()
    assert order(1, positions).tolist() != first
    assert make_order(known, seed=1)(0, positions).tolist() != first


def test_the_order_is_fixed_for_good() -> None:
    """A stored state must find the same order under any later version."""
    assert make_order(facts(5, 1), seed=7)(3, np.arange(10)).tolist() == GOLDEN_ORDER


@some
@given(
    count=st.integers(1, 50), ratio=st.integers(1, 4), share=st.integers(0, 19), batch=st.sampled_from([20, 40]),
    seed=SEEDS,
)  # fmt: skip
def test_shares_are_exact_in_every_batch(count: int, ratio: int, share: int, batch: int, seed: int) -> None:
    """With share n/20 every window of 20 holds n copies; each original comes once an epoch; copies take turns."""
    known = facts(count, ratio)
    order = make_order(known, Mix("share", Fraction(share, 20)), seed=seed)
    everything = np.concatenate([order(epoch, np.arange(order.length)) for epoch in range(4)])
    for epoch in range(4):
        found = everything[epoch * order.length : (epoch + 1) * order.length]
        for start in range(0, order.length - batch + 1, batch):
            assert known.synthetic[found[start : start + batch]].sum() == share * batch // 20
        assert sorted(found[~known.synthetic[found]]) == list(range(count))
    drawn = Counter(everything[known.synthetic[everything]].tolist())
    if drawn:
        times = [drawn[i] for i in range(count, len(known))]
        assert max(times) - min(times) <= 1


@some
@given(count=st.integers(1, 50), ratio=st.integers(1, 4), seed=SEEDS)
def test_replacement_keeps_the_seed(count: int, ratio: int, seed: int) -> None:
    """Each seed comes once an epoch, as itself or as one of its own copies."""
    known = facts(count, ratio)
    for text in ("replace:0", "replace:1", "replace:0.5"):
        order = make_order(known, text, seed=seed)
        found = order(1, np.arange(order.length))
        assert sorted(known.seeds[found]) == list(range(count))
        assert text == "replace:0.5" or known.synthetic[found].all() == (text == "replace:1")


def test_replacement_has_its_probability() -> None:
    """Over many epochs the part replaced is the probability, and every copy has the same chance."""
    known = facts(50, 3)
    order = make_order(known, "replace:0.3", seed=2)
    found = np.concatenate([order(epoch, np.arange(50)) for epoch in range(400)])
    assert known.synthetic[found].mean() == pytest.approx(0.3, abs=0.015)
    times = np.bincount(found, minlength=200)[50:]
    assert times.min() > 15  # 40 expected
    assert times.max() < 75


def test_originals_only_and_synthetic_only() -> None:
    """Each policy shows its own kind, each once."""
    known = facts(6, 2)
    for text, wanted in (("originals", range(6)), ("synthetic", range(6, 18))):
        order = make_order(known, text)
        assert sorted(order(2, np.arange(order.length))) == list(wanted)


@some
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any), seed=SEEDS)
def test_balanced_classes(sizes: list[int], seed: int) -> None:
    """Each run of as many draws as classes shows each class once; within a class samples take turns."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    known = ItemTable(labels, np.zeros(len(labels), bool), np.arange(len(labels)))
    present = sum(size > 0 for size in sizes)
    order = make_order(known, balance=True, seed=seed, length=present * 40)
    found = order(0, np.arange(order.length))
    for start in range(0, order.length, present):
        assert len(set(labels[found[start : start + present]])) == present
    times = np.bincount(found, minlength=len(labels))
    for label in set(labels):
        assert np.ptp(times[labels == label]) <= 1


def test_weights() -> None:
    """Samples come in proportion to their weights; weight 0 never."""
    weights = [0.0, 1.0, 3.0]
    order = make_order(ItemTable(np.zeros(3, int), np.zeros(3, bool), np.arange(3)), weights=weights, length=8_000)
    times = np.bincount(order(0, np.arange(8_000)), minlength=3) / 8_000
    assert times.tolist() == pytest.approx([0, 0.25, 0.75], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mix": "some"}, "'some'"),
        ({"mix": "share:1"}, "share:1"),
        ({"mix": "share:x"}, "share:x"),
        ({"mix": "replace:1.5"}, "replace"),
        ({"weights": [1.0]}, "12 finite numbers"),
        ({"weights": [-1.0] * 12}, "12 finite numbers"),
        ({"weights": [0.0] * 12}, "weights of the all samples are 0"),
        ({"weights": [1.0] * 12, "balance": True}, "either"),
        ({"length": 0}, "at least 1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], words: str) -> None:
    """Each is refused by name."""
    with pytest.raises(ConfigError, match=words):
        make_order(facts(6, 1), **arguments)


def test_nothing_of_a_kind() -> None:
    """A policy that needs copies refuses a set without them."""
    for text in ("synthetic", "share:0.5", "replace:0.5"):
        with pytest.raises(ConfigError, match="none"):
            make_order(facts(6, 0), text)
    assert parse_mix("share:1/3").amount == Fraction(1, 3)


@some
@given(
    length=SIZES, ranks=st.integers(1, 5), batch=st.integers(1, 40), start=st.integers(0, 299), stride=st.booleans(),
    drop=st.booleans(),
)  # fmt: skip
def test_ranks_take_the_rest_exactly(length: int, ranks: int, batch: int, start: int, stride: bool, drop: bool) -> None:
    """All ranks' positions are the rest of the epoch, each as many, with less than one a rank filled up or left out."""
    start %= length
    parts = [
        list(rank_positions(start, length, rank, ranks, batch, stride=stride, drop_tail=drop)) for rank in range(ranks)
    ]
    assert len({tuple(len(step) for step in part) for part in parts}) == 1
    taken = np.concatenate([step for part in parts for step in part] or [np.arange(0)]).tolist()
    rest = length - start
    if drop:
        assert sorted(taken) == list(range(start, start + rest // ranks * ranks))
    else:
        assert set(taken) >= set(range(start, length))
        assert len(taken) == -(-rest // ranks) * ranks


@some
@given(
    length=SIZES, first=st.integers(1, 4), then=st.integers(1, 4), batch=st.integers(1, 20), other=st.integers(1, 20),
    steps=st.integers(0, 10),
)  # fmt: skip
def test_going_on_with_other_ranks(length: int, first: int, then: int, batch: int, other: int, steps: int) -> None:
    """What some ranks took in some steps and what others take from there is the epoch, each position once."""
    before = [p for r in range(first) for s in list(rank_positions(0, length, r, first, batch))[:steps] for p in s]
    place = next_position(0, steps, batch, first, length)
    after = [p for r in range(then) for s in rank_positions(place, length, r, then, other) for p in s]
    assert set(before) | set(after) == set(range(length))
    if place < length:
        assert sorted(before) == list(range(place))
        assert len(after) - (length - place) < then


@some
@given(length=SIZES, ranks=st.integers(1, 5), drop=st.booleans(), batch=st.integers(1, 9), epoch=st.integers(0, 3))
def test_the_same_as_distributed_sampler(length: int, ranks: int, drop: bool, batch: int, epoch: int) -> None:
    """With `stride`, each rank takes what torch's DistributedSampler gives it."""
    data = range(length)
    for rank in range(ranks):
        wanted = list(DistributedSampler(data, ranks, rank, shuffle=False, drop_last=drop))
        steps = rank_positions(0, length, rank, ranks, batch, stride=True, drop_tail=drop)
        assert [int(p) for step in steps for p in step] == wanted
