"""Orders as batches: which samples of an epoch come when, on which rank, from any position on."""

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

from gif_datasets.chunks import blocks
from gif_datasets.data.keyed_random import Ints
from gif_datasets.data.order import Mix, make_order, next_position, parse_mix, rank_positions
from gif_datasets.data.prefetch import prefetch
from gif_datasets.data.spans import Spans
from gif_datasets.errors import ConfigError
from gif_datasets.types import ItemTable, item_table

Make: TypeAlias = Callable[[list[int], list[int]], None]
"""Makes the missing samples of a batch; the second argument lists samples of the batches after it."""

PREFETCH = 2  # batches a thread is ahead; torch's default for worker processes
FOLLOWING = 4  # batches whose missing samples may fill a block
CHUNK = 4096  # positions whose samples are looked up at once


@dataclass(frozen=True)
class Position:
    """Where an iteration is.

    Attributes:
        epoch: Its number.
        position: Samples of the epoch that all ranks together have had; with a sampler of the user, batches.
        left: What is left of a stream that several processes read, each one part; if empty, all from the
            position on.
    """

    epoch: int
    position: int
    left: Spans = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; ``left`` only if it is not empty."""
        parts = {"left": [list(span) for span in self.left]} if self.left else {}
        return {"epoch": self.epoch, "position": self.position, **parts}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Position:
        """Read a loader's state; raises ConfigError, KeyError, TypeError or ValueError if it is not one."""
        left = tuple((int(first), int(last)) for first, last in state.get("left", ()))
        position = cls(int(state["epoch"]), int(state["position"]), left)
        bounds = [0, *(bound for span in left for bound in span), *([state["order"]["samples"]] if left else [])]
        if position.epoch < 0 or position.position < 0 or bounds != sorted(bounds):
            raise ConfigError(f"a state cannot be at {position}")
        return position


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
        """Whether the policy needs more than a sampler can do."""
        return self.mix != "all" or self.balance or self.weights is not None or self.length is not None


@dataclass(frozen=True, eq=False)
class Epochs:
    """The order of all ranks, and this process's part of it.

    Attributes:
        length: Samples in an epoch, all ranks together.
        samples: ``samples(epoch)`` gives a function of positions.
        rank: This process.
        ranks: Number of processes.
        description: What must be equal to resume.
        stride: Whether ranks take positions in turn, not in slices.
        drop_tail: Whether samples that cannot be shared evenly are left out.
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
        ConfigError: If the dataset lacks the labels or samples that the policy needs.
    """
    order = make_order(
        _item_table(dataset, policy),
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
    """The order of torch's DistributedSampler over all ranks, and this rank's part of it."""
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
    """One rank's samples of an epoch from its beginning, for frameworks that take a loader apart.

    Attributes:
        epoch: The epoch that is iterated over.
        epoch_calls: How often :meth:`set_epoch` was called; a loader compares it with what it saw before.
    """

    def __init__(self, epochs: Epochs) -> None:
        self._epochs, self.epoch, self.epoch_calls = epochs, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, of the loader too; training frameworks call this."""
        self.epoch, self.epoch_calls = epoch, self.epoch_calls + 1

    def __iter__(self) -> Iterator[int]:
        return EpochBatches(self._epochs, None, False, None).from_(Position(self.epoch, 0))

    def __len__(self) -> int:
        length, ranks = self._epochs.length, self._epochs.ranks
        return length // ranks if self._epochs.drop_tail else -(-length // ranks)


class EpochBatches:
    """Batches of indices of one rank; samples of lazy datasets are generated before a batch is yielded.

    Args:
        epochs: The order.
        batch_size: Samples in a batch; None yields single indices.
        drop_last: Leave out the last batch if it is not full.
        make: Makes the missing samples of a batch; None if none can be missing.
    """

    def __init__(self, epochs: Epochs, batch_size: int | None, drop_last: bool, make: Make | None) -> None:
        self.epochs, self.single, self.size = epochs, batch_size is None, batch_size or 1
        self.drop_last, self.make = drop_last, make
        self.description = epochs.description

    def from_(self, start: Position) -> Iterator[Any]:
        """Batches from ``start`` to the end of its epoch, each yielded once its samples are generated."""
        batches = self._indices(start)
        if self.make is not None:
            batches = prefetch_made(batches, self.make)
        return (batch[0] for batch in batches) if self.single else batches

    def after(self, start: Position, steps: int) -> Position:
        """The position after some batches on every rank."""
        e = self.epochs
        return Position(start.epoch, next_position(start.position, steps, self.size, e.ranks, e.length))

    def _indices(self, start: Position) -> Iterator[list[int]]:
        e = self.epochs
        samples = e.samples(start.epoch)
        steps = rank_positions(
            start.position, e.length, e.rank, e.ranks, self.size, stride=e.stride, drop_tail=e.drop_tail
        )
        while chunk := list(islice(steps, max(1, CHUNK // self.size))):
            for batch in blocks(samples(np.concatenate(chunk)).tolist(), self.size):
                if len(batch) == self.size or not self.drop_last:
                    yield list(batch)


class Skipping:
    """The batches of a user's sampler; resumes by skipping those that were yielded before."""

    def __init__(self, inner: Any, make: Make | None, batched: bool) -> None:
        self._inner, self._make, self._batched = inner, make, batched
        self.description = {"sampler": type(getattr(inner, "sampler", inner)).__name__, "batches": _length(inner)}

    def from_(self, start: Position) -> Iterator[Any]:
        """Batches from ``start`` on, each yielded once its samples are generated."""
        batches = islice(iter(self._inner), start.position, None)
        if self._make is None:
            return batches
        if self._batched:
            return prefetch_made((list(batch) for batch in batches), self._make)
        return (batch[0] for batch in prefetch_made(([index] for index in batches), self._make))

    def after(self, start: Position, steps: int) -> Position:
        """The position after some batches."""
        return Position(start.epoch, start.position + steps)


def prefetch_made(batches: Iterable[list[int]], make: Make) -> Iterator[list[int]]:
    """Batches, yielded once their samples are generated; one thread makes them, some batches ahead."""

    def make_batch(batch_and_following: tuple[list[int], list[int]]) -> list[int]:
        make(*batch_and_following)
        return batch_and_following[0]

    return prefetch(_with_following(iter(batches)), make_batch, threads=1, depth=PREFETCH)


def _with_following(batches: Iterator[list[int]]) -> Iterator[tuple[list[int], list[int]]]:
    """Each batch with the items of some batches after it."""
    waiting = deque(islice(batches, 1 + FOLLOWING))
    while waiting:
        batch = waiting.popleft()
        yield batch, [item for later in waiting for item in later]
        waiting.extend(islice(batches, 1))


def maker_of(dataset: Any) -> Make | None:
    """The function that makes missing samples of a lazy dataset, through any ``Subset``; None for other datasets."""
    if isinstance(dataset, tud.Subset):
        inner = maker_of(dataset.dataset)
        return None if inner is None else lambda *both: inner(*([dataset.indices[i] for i in part] for part in both))
    return getattr(dataset, "imagine_missing", None)


def _item_table(dataset: Any, policy: Policy) -> ItemTable:
    table = item_table(dataset)
    count = len(dataset)
    if table is None and policy.mix != "all":
        raise ConfigError(
            f"mix {policy.mix!r} needs a dataset that knows which samples are copies: load_expanded(..), an"
            f" ExpandedDataset, or a Subset of one; got {type(dataset).__name__}"
        )
    if table is None and policy.balance:
        targets = getattr(dataset, "targets", None)
        if targets is None or len(targets) != count:
            raise ConfigError(
                f"balance needs labels, and {type(dataset).__name__} has no targets with one label per sample"
            )
        return ItemTable(np.asarray(targets, dtype=np.int64), np.zeros(count, bool), np.arange(count))
    zeros = np.zeros(count, np.int8)
    return table or ItemTable(zeros, zeros.view(bool), zeros)


def mix_text(mix: str | Mix) -> str:
    """The canonical text of a mix."""
    parsed = mix if isinstance(mix, Mix) else parse_mix(str(mix))
    return f"{parsed.kind}:{parsed.amount}" if parsed.kind in ("share", "replace") else parsed.kind


def _length(sampler: Any) -> int | None:
    try:
        return len(sampler)
    except TypeError:
        return None
