"""Orders as batches: which samples of an epoch come when, on which rank, from which place on."""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch.utils.data as tud

from gif_datasets.data.keyed_random import Ints
from gif_datasets.data.order import Mix, make_order, next_position, parse_mix, rank_positions
from gif_datasets.data.prefetch import ahead
from gif_datasets.data.spans import Spans
from gif_datasets.errors import ConfigError
from gif_datasets.types import ItemTable, item_table

Make: TypeAlias = Callable[[list[int], list[int]], None]
"""Makes the missing samples of a batch; the second are those of batches after it."""

PREFETCH = 2  # batches a thread is ahead; torch's default for worker processes
FOLLOWING = 4  # batches whose missing samples may fill a block
CHUNK = 4096  # positions whose samples are looked up at once


@dataclass(frozen=True)
class Place:
    """Where an iteration stands.

    Attributes:
        epoch: Its number.
        position: Samples that all ranks together have had of it; batches, of a sampler that was given.
        left: What is to come of a stream that several read, each its own part; else all from the position on.
    """

    epoch: int
    position: int
    left: Spans = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON types; parts are named where there are some."""
        parts = {"left": [list(span) for span in self.left]} if self.left else {}
        return {"epoch": self.epoch, "position": self.position, **parts}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Place:
        """From a loader's state; raises ConfigError, KeyError, TypeError or ValueError where it is none."""
        left = tuple((int(first), int(last)) for first, last in state.get("left", ()))
        place = cls(int(state["epoch"]), int(state["position"]), left)
        bounds = [0, *(bound for span in left for bound in span), *([state["order"]["samples"]] if left else [])]
        if place.epoch < 0 or place.position < 0 or bounds != sorted(bounds):
            raise ConfigError(f"a state cannot be at {place}")
        return place


@dataclass(frozen=True)
class Policy:
    """The arguments that make an order."""

    mix: str
    shuffle: bool
    seed: int
    balance: bool
    weights: Sequence[float] | None
    length: int | None

    @property
    def chosen(self) -> bool:
        """Whether anything goes beyond what a sampler does."""
        return self.mix != "all" or self.balance or self.weights is not None or self.length is not None


@dataclass(frozen=True, eq=False)
class Epochs:
    """A whole order, and this process's part of it.

    Attributes:
        length: Samples in an epoch, all ranks together.
        samples: ``samples(epoch)`` gives a function of positions.
        rank: This process.
        ranks: Number of processes.
        description: What must be equal to resume.
        stride: Positions are dealt out in turn.
        drop_tail: What cannot be dealt evenly is left out.
    """

    length: int
    samples: Callable[[int], Callable[[Ints], Ints]]
    rank: int
    ranks: int
    description: dict[str, Any]
    stride: bool = False
    drop_tail: bool = False


def own_epochs(dataset: Any, policy: Policy, rank: int, ranks: int) -> Epochs:
    """The order of a policy.

    Raises:
        ConfigError: If the dataset does not say what the policy needs to know, or has nothing that it asks for.
    """
    order = make_order(
        _facts(dataset, policy),
        policy.mix,
        shuffle=policy.shuffle,
        seed=policy.seed,
        weights=policy.weights,
        balance=policy.balance,
        length=policy.length,
    )
    weights = None
    if policy.weights is not None:
        weights = hashlib.sha256(np.asarray(policy.weights, dtype="<f8").tobytes()).hexdigest()[:16]
    description = {**asdict(policy), "weights": weights, "length": order.length, "samples": len(dataset)}
    return Epochs(order.length, lambda epoch: lambda positions: order(epoch, positions), rank, ranks, description)


def distributed_epochs(sampler: tud.DistributedSampler[Any]) -> Epochs:
    """The order of torch's DistributedSampler, of which it deals out one rank."""
    whole = copy.copy(sampler)
    count = len(sampler.dataset)  # type: ignore[arg-type]
    whole.num_replicas, whole.rank, whole.num_samples, whole.total_size = 1, 0, count, count

    def samples(epoch: int) -> Callable[[Ints], Ints]:
        whole.epoch = epoch
        listed = np.fromiter(whole, dtype=np.int64, count=count)
        return lambda positions: listed[positions]

    description = {"sampler": "DistributedSampler", "samples": count, "shuffle": sampler.shuffle, "seed": sampler.seed}
    return Epochs(
        count, samples, sampler.rank, sampler.num_replicas, description, stride=True, drop_tail=sampler.drop_last
    )


class EpochSampler(tud.Sampler[int]):
    """One rank's samples of an epoch from its beginning, for whoever takes a loader apart."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs, self.epoch = epochs, 0
        self.asked: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, of the loader too; training frameworks call this."""
        self.epoch = self.asked = epoch

    def __iter__(self) -> Iterator[int]:
        for batch in EpochBatches(self._epochs, 1, False, None).batches(Place(self.epoch, 0)):
            yield from batch

    def __len__(self) -> int:
        return len(EpochBatches(self._epochs, 1, False, None))


class EpochBatches:
    """Batches of indices of one rank, from a place; lazy samples are made ahead.

    Args:
        epochs: The order.
        batch_size: Samples in a batch; None yields single indices.
        drop_last: Leave out a last batch that is not full.
        make: Makes the missing samples of a batch, or None.
    """

    def __init__(self, epochs: Epochs, batch_size: int | None, drop_last: bool, make: Make | None) -> None:
        self.epochs, self.single, self.size = epochs, batch_size is None, batch_size or 1
        self.drop_last, self.make = drop_last, make
        self.description = epochs.description
        self._place = Place(0, 0)

    def begin(self, place: Place) -> None:
        """Where the next iteration starts."""
        self._place = place

    def __iter__(self) -> Iterator[Any]:
        place = self._place  # now, not at the first batch: another iteration may have begun by then
        batches = self.batches(place)
        made = batches if self.make is None else make_ahead(batches, self.make)
        return (batch[0] for batch in made) if self.single else made

    def __len__(self) -> int:
        length, step = self.epochs.length, self.size * self.epochs.ranks
        if self.epochs.drop_tail:
            length -= length % self.epochs.ranks
        own = length // step * self.size + -(-(length % step) // self.epochs.ranks)
        return own // self.size if self.drop_last else -(-own // self.size)

    def after(self, place: Place, steps: int) -> Place:
        """The place after some batches on every rank."""
        return Place(
            place.epoch, next_position(place.position, steps, self.size, self.epochs.ranks, self.epochs.length)
        )

    def batches(self, place: Place) -> Iterator[list[int]]:
        """Batches from ``place`` to the end of its epoch."""
        e = self.epochs
        samples = e.samples(place.epoch)
        steps = rank_positions(
            place.position, e.length, e.rank, e.ranks, self.size, stride=e.stride, drop_tail=e.drop_tail
        )
        while some := list(islice(steps, max(1, CHUNK // self.size))):
            found = samples(np.concatenate(some)).tolist()
            for start in range(0, len(found), self.size):
                batch = found[start : start + self.size]
                if len(batch) == self.size or not self.drop_last:
                    yield batch


class Skipping:
    """A given sampler's batches; resumes by leaving out those that were yielded before."""

    def __init__(self, inner: Any, make: Make | None, batched: bool) -> None:
        self._inner, self._make, self._batched, self._skip = inner, make, batched, 0
        self.description = {"sampler": type(getattr(inner, "sampler", inner)).__name__, "batches": _length(inner)}

    def begin(self, place: Place) -> None:
        """Where the next iteration starts."""
        self._skip = place.position

    def __iter__(self) -> Iterator[Any]:
        batches = islice(iter(self._inner), self._skip, None)
        if self._make is None:
            return batches
        listed = batches if self._batched else ([index] for index in batches)
        made = make_ahead((list(batch) for batch in listed), self._make)
        return made if self._batched else (batch[0] for batch in made)

    def __len__(self) -> int:
        return len(self._inner)

    def after(self, place: Place, steps: int) -> Place:
        """The place after some batches."""
        return Place(place.epoch, place.position + steps)


def make_ahead(batches: Iterable[list[int]], make: Make) -> Iterator[list[int]]:
    """Batches, yielded once their samples are made; one thread makes them, some batches ahead."""

    def made(two: tuple[list[int], list[int]]) -> list[int]:
        make(*two)
        return two[0]

    return ahead(_with_following(iter(batches)), made, threads=1, depth=PREFETCH)


def _with_following(batches: Iterator[list[int]]) -> Iterator[tuple[list[int], list[int]]]:
    """Each batch, and the items of some batches after it."""
    waiting = deque(islice(batches, 1 + FOLLOWING))
    while waiting:
        batch = waiting.popleft()
        yield batch, [item for later in waiting for item in later]
        waiting.extend(islice(batches, 1))


def lazily(dataset: Any) -> Make | None:
    """What makes missing samples of a lazy dataset, below any ``Subset``; None for others."""
    if isinstance(dataset, tud.Subset):
        inner = lazily(dataset.dataset)
        return None if inner is None else lambda *both: inner(*([dataset.indices[i] for i in part] for part in both))
    return getattr(dataset, "imagine_missing", None)


def _facts(dataset: Any, policy: Policy) -> ItemTable:
    found = item_table(dataset)
    count = len(dataset)
    if found is None and policy.mix != "all":
        raise ConfigError(
            f"mix {policy.mix!r} needs a dataset that says which samples are copies: load_expanded(..), an"
            f" ExpandedDataset, or a Subset of one; got {type(dataset).__name__}"
        )
    if found is None and policy.balance:
        targets = getattr(dataset, "targets", None)
        if targets is None or len(targets) != count:
            raise ConfigError(f"balance needs labels, and {type(dataset).__name__} has no targets, one a sample")
        return ItemTable(np.asarray(targets, dtype=np.int64), np.zeros(count, bool), np.arange(count))
    none = np.zeros(count, np.int8)
    return found or ItemTable(none, none.view(bool), none)


def mix_text(mix: str | Mix) -> str:
    """A mix in one form of words, however it was written."""
    parsed = mix if isinstance(mix, Mix) else parse_mix(str(mix))
    return f"{parsed.kind}:{parsed.amount}" if parsed.kind in ("share", "replace") else parsed.kind


def _length(sampler: Any) -> int | None:
    try:
        return len(sampler)
    except TypeError:
        return None
