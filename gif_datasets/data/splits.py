"""Splits of an expanded dataset that do not leak: a seed, its copies and whatever shows the same are on one side."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, Subset

from gif_datasets.errors import ConfigError, UsageError
from gif_datasets.io.digests import digest
from gif_datasets.io.duplicates import joined_sets, sets_of_alike, spectra
from gif_datasets.types import ItemTable, Provenance

Ints = NDArray[np.int64]
NAMED = 5
"""Classes that a warning names."""


class Grouped:
    """Items; each is a seed or a copy of one."""

    @property
    def facts(self) -> ItemTable:
        """Label, kind and seed of every item, for samplers."""
        raise NotImplementedError

    @property
    def groups(self) -> Ints:
        """The seed of every item, ``(N,)``: ``seed_index`` of its provenance, the same for a seed and its copies.

        For ``StratifiedGroupKFold`` and its like. It is the column ``seed_index`` of exports, of the Hub's forms and of
        :meth:`ExpandedDataset.to_hf`.
        """
        return np.asarray(self.facts.seeds, dtype=np.int64)

    @property
    def synthetic(self) -> NDArray[np.bool_]:
        """Whether each item was imagined, ``(N,)``."""
        return np.asarray(self.facts.synthetic, dtype=np.bool_)


class Divisible(Grouped, Dataset[Any]):
    """A dataset of seeds and their copies that can be split."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        raise NotImplementedError

    def split(self, share: float, *, seed: int = 0, duplicates: bool = True) -> tuple[Part, Part]:
        """Hold out some of the seeds: what to train on, and what to test on.

        Which seeds are held out depends on their pixels and ``seed`` alone: where no two look alike, on the same as
        ``validation_share`` with this ``rng_seed``. Each class has its share.

        Args:
            share: Share of each class's real images to hold out, between 0 and 1.
            seed: The split's number.
            duplicates: Look for near-duplicates among the real images, which reads each of them once, and keep those
                together. False: only images of equal pixels.

        Returns:
            The other seeds with their copies, without the copies that were mixed with an image that is held out
            (``left_out`` counts them); and the real images that are held out, without copies.

        Raises:
            ConfigError: If the share does not fit.
            UsageError: If there are no real images, or some seeds are copies themselves.

        Example:
            >>> from gif_datasets import ExpandedDataset
            >>> train, held_out = ExpandedDataset("demo", ratio=2, prior="linear", classifier="text").split(0.2)
            >>> len(train), len(held_out), set(train.groups) & set(held_out.groups)
            (480, 40, set())
        """
        _check(share, seed)
        seeds = _seeds_of(self, duplicates)

        def wanted(counts: Ints) -> NDArray[np.float64]:
            held = np.clip(np.round(share * counts), 1, np.maximum(counts - 1, 0))
            return np.stack([held, counts - held], axis=1)

        return _pairs(self, seeds, [seeds.dealt(wanted, seed) == 0])[0]

    def folds(self, count: int, *, seed: int = 0, duplicates: bool = True) -> list[tuple[Part, Part]]:
        """Pairs as :meth:`split` gives them, in which each real image is held out once.

        Args:
            count: Number of pairs, at least 2.
            seed: The folds' number.
            duplicates: As in :meth:`split`.

        Raises:
            ConfigError: If there are fewer images, near-duplicates counted once, than folds.
            UsageError: As in :meth:`split`.

        Example:
            >>> from gif_datasets import ExpandedDataset
            >>> expanded = ExpandedDataset("demo", ratio=2, prior="linear", classifier="text")
            >>> [(len(train), len(held_out)) for train, held_out in expanded.folds(5)]
            [(480, 40), (480, 40), (480, 40), (480, 40), (480, 40)]
        """
        if not _is_whole(count) or count < 2:
            raise ConfigError(f"folds must be a whole number of at least 2, got {count!r}")
        _check(1 / count, seed)
        seeds = _seeds_of(self, duplicates)
        if (different := len(np.unique(seeds.sets))) < count:
            raise ConfigError(f"{count} folds need as many different images; here are {different}, look-alikes as one")
        bins = seeds.dealt(lambda counts: np.repeat(counts[:, None] / count, count, axis=1), seed)
        return _pairs(self, seeds, [bins == number for number in range(count)])

    def provenance(self, index: int) -> Provenance:
        """Where an item comes from."""
        raise NotImplementedError

    def _real_images(self, places: Sequence[int]) -> Iterator[Image.Image]:
        """The images of some items that are real."""
        raise NotImplementedError

    def _keys(self, places: Sequence[int]) -> list[str]:
        """Content keys of some items that are seeds."""
        raise NotImplementedError

    def _partner_keys(self, places: Sequence[int]) -> list[str]:
        """Content key of the other seed that each of some copies shows; empty without one."""
        raise NotImplementedError

    @property
    def _fitted(self) -> str:
        """The classifier that guided the copies, if it was fitted to the seeds; else empty."""
        raise NotImplementedError

    @property
    def _expands_copies(self) -> bool:
        """Whether some seeds were imagined themselves."""
        raise NotImplementedError

    @cached_property
    def _alike(self) -> Ints:
        """The set of near-duplicates that each real image is in."""
        real = np.flatnonzero(~self.synthetic).tolist()
        return sets_of_alike(np.stack([spectra(image) for image in self._real_images(real)]))


class Part(Subset[Any], Divisible):
    """One side of a split: some items, as a dataset of its own.

    Its ``dataset`` is a copy of the dataset that was split: ``part.dataset.transform = ..`` changes this part alone.

    Attributes:
        left_out: Copies that are on neither side, because they were mixed with an image of the other.
    """

    dataset: Divisible

    def __init__(self, dataset: Divisible, indices: Sequence[int], left_out: int = 0) -> None:
        super().__init__(copy.copy(dataset), indices)
        self.left_out = left_out

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.dataset.classes

    @property
    def targets(self) -> NDArray[np.integer]:
        """The label of every item, ``(N,)``."""
        return self.facts.labels

    @property
    def facts(self) -> ItemTable:
        """Label, kind and seed of every item, for samplers."""
        return self.dataset.facts[self.indices]

    def provenance(self, index: int) -> Provenance:
        """Where an item comes from."""
        return self.dataset.provenance(self.indices[index])

    def _real_images(self, places: Sequence[int]) -> Iterator[Image.Image]:
        return self.dataset._real_images(self._inner(places))

    def _keys(self, places: Sequence[int]) -> list[str]:
        return self.dataset._keys(self._inner(places))

    def _partner_keys(self, places: Sequence[int]) -> list[str]:
        return self.dataset._partner_keys(self._inner(places))

    @property
    def _fitted(self) -> str:
        return self.dataset._fitted

    @property
    def _expands_copies(self) -> bool:
        return self.dataset._expands_copies

    def _inner(self, places: Sequence[int]) -> list[int]:
        return [self.indices[place] for place in places]


@dataclass(frozen=True, eq=False)
class _Seeds:
    """The real images of a dataset, ``(N,)`` each.

    Attributes:
        places: Their items.
        labels: Class indices.
        keys: Content keys.
        sets: Number of the set that each is in; what is in one set stays together.
    """

    places: Ints
    labels: Ints
    keys: list[str]
    sets: Ints

    def dealt(self, wanted: Callable[[Ints], NDArray[np.float64]], seed: int) -> Ints:
        """Deal them to bins, class by class: sets of several first, the largest before the others, then one by one.

        Args:
            wanted: How many each bin should have, ``(C, bins)``, of the number of each class.
            seed: Chooses another order.
        """
        labels = np.unique(self.labels, return_inverse=True)[1]
        room = wanted(np.bincount(labels))
        bins = np.full(len(labels), -1)
        # the order of hold_out, so that both hold out the same
        drawn = np.argsort([digest(["validation", int(seed), key]) for key in self.keys], kind="stable")
        for members in _of_several(self.sets, drawn):
            counts = np.bincount(labels[members], minlength=len(room))
            number = int(np.lexsort((room.sum(0), counts @ room))[-1])
            bins[members], room[:, number] = number, room[:, number] - counts
        for label in range(len(room)):
            members = drawn[(labels[drawn] == label) & (bins[drawn] < 0)]
            counts = _places_for(len(members), room[label], room.sum(0))
            bins[members], room[label] = np.repeat(np.arange(len(counts)), counts), room[label] - counts
        return bins


def _of_several(sets: Ints, drawn: Ints) -> list[Ints]:
    """The members of each set that has several, the largest first, then as they are drawn."""
    together = drawn[np.argsort(sets[drawn], kind="stable")]
    starts = np.flatnonzero(np.diff(sets[together], prepend=-1))
    several = [members for members in np.split(together, starts[1:]) if len(members) > 1]
    rank = np.argsort(drawn)
    return sorted(several, key=lambda members: (-len(members), int(rank[members[0]])))


def _places_for(count: int, room: NDArray[np.float64], total: NDArray[np.float64]) -> Ints:
    """How many of ``count`` each bin gets: always to the one with the most room, and of these to the emptiest."""
    numbers = np.repeat(np.arange(len(room)), count)
    left = (room[:, None] - np.arange(count)).ravel()
    first = np.lexsort((-total[numbers], -left))[:count]
    return np.bincount(numbers[first], minlength=len(room))


def _seeds_of(dataset: Divisible, duplicates: bool) -> _Seeds:
    if dataset._expands_copies:
        raise UsageError(
            "some seeds of this dataset are imagined copies, whose own seeds could be on the other side; split the"
            " dataset that was expanded first, and expand its training part again"
        )
    table = dataset.facts
    places = np.flatnonzero(~table.synthetic)
    if not len(places):
        raise UsageError("this dataset has no real images to hold out (originals=false); split an expansion with them")
    keys = dataset._keys(places.tolist())
    first = np.unique(keys, return_index=True, return_inverse=True)
    sets = first[1][first[2]]
    if duplicates:
        numbers = np.arange(len(places))
        sets = joined_sets(len(places), np.concatenate([np.stack([numbers, own], 1) for own in (sets, dataset._alike)]))
    return _Seeds(places, np.asarray(table.labels[places], dtype=np.int64), keys, sets)


def _pairs(dataset: Divisible, seeds: _Seeds, held: Sequence[NDArray[np.bool_]]) -> list[tuple[Part, Part]]:
    """What to train on and what is held out, for each choice of the seeds; warns of what is not as it seems."""
    table = dataset.facts
    mixed = _partners(dataset, seeds)
    pairs = []
    for chosen in held:
        kept = ~np.isin(table.seeds, table.seeds[seeds.places[chosen]])
        leaks = kept & np.isin(mixed, seeds.sets[chosen])
        train = Part(dataset, np.flatnonzero(kept & ~leaks).tolist(), int(leaks.sum()))
        pairs.append((train, Part(dataset, seeds.places[chosen].tolist())))
    for text in _warnings(dataset, seeds, held, pairs):
        warnings.warn(text, stacklevel=3)
    return pairs


def _partners(dataset: Divisible, seeds: _Seeds) -> Ints:
    """The set of the other seed that each item shows; -1 without one."""
    sets = dict(zip(seeds.keys, seeds.sets.tolist(), strict=True))
    partners = np.full(len(dataset.facts), -1)
    copies = np.flatnonzero(dataset.synthetic)
    partners[copies] = [sets.get(key, -1) for key in dataset._partner_keys(copies.tolist())]
    return partners


def _warnings(
    dataset: Divisible, seeds: _Seeds, held: Sequence[NDArray[np.bool_]], pairs: Sequence[tuple[Part, Part]]
) -> Iterator[str]:
    every = np.unique(seeds.labels)
    sides = [seeds.labels[side] for chosen in held for side in (chosen, ~chosen)]
    if lacking := [dataset.classes[label] for label in every if not all(np.isin(label, side) for side in sides)]:
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        yield (
            f"not on both sides of every split: {', '.join(lacking[:NAMED])}{more}; there are too few images of the"
            " class, or they look alike"
        )
    if any(train.left_out for train, _ in pairs):
        counts = ", ".join(f"{train.left_out:,}" for train, _ in pairs)
        yield f"left out of training, because they were mixed with an image that is held out: {counts} copies"
    if dataset._fitted and dataset.synthetic.any():
        yield (
            f"the copies were guided by a classifier that was fitted to all seeds (classifier={dataset._fitted}), those"
            " held out included: a result may be better than on new images; expand with classifier=text, or expand"
            " each training part by itself"
        )


def _check(share: float, seed: int) -> None:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise ConfigError(f"share must be a number above 0 and below 1, got {share!r}")
    if not _is_whole(seed):
        raise ConfigError(f"seed must be a whole number, got {seed!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
