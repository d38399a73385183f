"""`DataLoader`: torch's, with an order that is a function of (epoch, position), so that it resumes exactly."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
import torch.utils.data as tud
from PIL import Image
from torch.utils.data._utils import pin_memory as pinning
from torch.utils.data._utils.collate import collate as collate_by
from torch.utils.data._utils.collate import default_collate_fn_map

from gif_datasets.data.batches import (
    PREFETCH,
    EpochBatches,
    Epochs,
    EpochSampler,
    Policy,
    Position,
    Skipping,
    distributed_epochs,
    maker_of,
    mix_text,
    own_epochs,
)
from gif_datasets.data.map_style import LoadedDataset, LoadedRows, different_sizes
from gif_datasets.data.order import Mix
from gif_datasets.data.prefetch import prefetch
from gif_datasets.data.spans import Readers
from gif_datasets.data.splits import Part
from gif_datasets.data.streaming import StreamBatches, StreamedDataset
from gif_datasets.errors import ConfigError, EngineError
from gif_datasets.io import images
from gif_datasets.io.devices import usable_cpus
from gif_datasets.io.digests import digest

Batches: TypeAlias = EpochBatches | Skipping | StreamBatches

STATE_FORMAT = 1
MOST_THREADS = 8
LOCK_SECONDS = 5.0


class DataLoader(tud.DataLoader[Any]):
    """torch's DataLoader, with every argument and its meaning, and the following differences.

    - The order is a pure function of ``seed``, epoch and position: the same at any number of workers, and
      :meth:`state_dict` resumes within an epoch exactly, also with other workers, ranks or another batch size. Each
      ``iter(loader)`` is the next epoch; :meth:`set_epoch` chooses one.
    - Without ``collate_fn``, PIL images become uint8 tensors ``(N, 3, H, W)``.
    - Without workers, an expanded folder is read and decoded by threads, which is faster than worker processes: nothing
      has to be sent. Transforms and ``collate_fn`` run in the calling thread, as with torch.
    - Missing copies of an :class:`ExpandedDataset` are imagined by one thread of this process, ahead of the order;
      worker processes only read.

    Args:
        dataset: Any dataset; mixing needs ``load_expanded(..)``, an ``ExpandedDataset``, or a ``Subset`` of one.
        batch_size: As torch's.
        shuffle: As torch's.
        sampler: As torch's. The order and ranks of a ``DistributedSampler`` are taken over, and resume as ours do; any
            other is begun again and skipped through when resuming, which is exact if it repeats itself.
        batch_sampler: As torch's; resumes by skipping.
        num_workers: As torch's.
        collate_fn: As torch's.
        pin_memory: As torch's.
        drop_last: As torch's.
        timeout: As torch's.
        worker_init_fn: As torch's.
        multiprocessing_context: As torch's.
        generator: As torch's; its ``initial_seed()`` is the seed, if none is given.
        prefetch_factor: As torch's.
        persistent_workers: As torch's.
        pin_memory_device: As torch's.
        in_order: As torch's; has no state to save when False.
        mix: ``"all"``, ``"originals"``, ``"synthetic"``, ``"share:0.5"`` (that part of every batch copies, exactly) or
            ``"replace:0.3"`` (each original replaced by one of its copies, with that probability).
        weights: One a sample: draws are independent, with replacement, in proportion.
        balance: Give every class the same number of places.
        epoch_length: Samples in an epoch, all ranks together; see :func:`gif_datasets.data.order.make_order`.
        seed: The order's number; 0 by default. All ranks need the same.
        rank: This process's number among ``world_size``.
        world_size: Number of processes that share an epoch.
        threads: Decoding threads when there are no workers; by default one a CPU, at most 8; 0 decodes in the caller.

    Raises:
        ConfigError: If arguments do not fit each other or the dataset.
        EngineError: While iterating, if a worker process died, or a lazy sample cannot be generated.

    Example:
        >>> from gif_datasets import ExpandedDataset
        >>> expanded = ExpandedDataset("demo", ratio=1, prior="linear")
        >>> loader = DataLoader(expanded, batch_size=50, shuffle=True, mix="originals")
        >>> batches = iter(loader)
        >>> images, labels = next(batches)
        >>> images.shape, loader.state_dict()["position"], len(loader)
        (torch.Size([50, 3, 32, 32]), 50, 4)
        >>> rest = DataLoader(expanded, batch_size=25, shuffle=True, mix="originals")
        >>> rest.load_state_dict(loader.state_dict())
        >>> torch.equal(torch.cat([labels for _, labels in rest]), torch.cat([labels for _, labels in batches]))
        True
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        mix: str | Mix = "all",
        weights: Sequence[float] | None = None,
        balance: bool = False,
        epoch_length: int | None = None,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
    ) -> None:
        orders_itself = sampler is None and batch_sampler is None and not isinstance(dataset, tud.IterableDataset)
        policy = Policy(
            mix=mix_text(mix),
            shuffle=bool(shuffle),
            seed=seed if seed is not None else generator.initial_seed() if generator is not None else 0,
            balance=balance,
            weights=weights,
            length=epoch_length,
        )
        _check(orders_itself, policy.chosen or seed is not None or world_size != 1, rank, world_size, threads)
        epochs: Epochs | None = None
        if orders_itself:
            epochs = own_epochs(dataset, policy, rank, world_size)
        elif type(sampler) is tud.DistributedSampler and batch_sampler is None:
            epochs = distributed_epochs(sampler)
        super().__init__(
            dataset,
            batch_size,
            None if orders_itself else shuffle,
            EpochSampler(epochs) if orders_itself and epochs else sampler,
            batch_sampler,
            num_workers,
            collate_fn if collate_fn is not None or (batch_size is None and batch_sampler is None) else collate,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        self.threads = usable_cpus(MOST_THREADS) if threads is None else threads
        # under their names, so that a framework that builds the loader again with its own sampler keeps them, and
        # gets an error that they do not go together
        self.mix, self.weights, self.balance, self.epoch_length = mix, weights, balance, epoch_length
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._batches = self._batches_of(epochs)
        self._next_epoch = 0
        self._epoch_calls = 0  # of set_epoch of sampler or stream, as of the latest iteration
        self._resumed: Position | None = None
        self._progress = Progress(Position(0, 0))

    def __iter__(self) -> Any:
        if not all(worker.is_alive() for worker in getattr(self._iterator, "_workers", ())):
            self._iterator = None  # a worker has died since; torch would fail in every pass
        if self._batches is None:
            return super().__iter__()
        start = self._start()
        rows = self._rows_from(self._batches, start)
        self._next_epoch = start.epoch + 1
        self._progress = Progress(start)  # of this iteration; earlier ones keep their own
        return _Iteration(self, rows, self._progress)

    def _get_iterator(self) -> Any:
        """Torch's, which a killed worker cannot hang."""
        iterator: Any = super()._get_iterator()
        if self.num_workers:
            iterator._workers_done_event = _DoneEvent(iterator._workers_done_event)
        return iterator

    def _rows_from(self, batches: Batches, start: Position) -> Iterator[Any]:
        """Collated batches from a position to the end of its epoch."""
        if isinstance(batches, StreamBatches):
            self._iterator = None  # persistent workers have a dataset that starts elsewhere
            return self._by_torch("dataset", batches.from_(start))
        indices = batches.from_(start)
        if self.batch_sampler is None:
            return self._by_torch("sampler", indices)
        if self.num_workers or not self.threads or not _is_loaded(self.dataset):
            return self._by_torch("batch_sampler", indices)
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # torch draws its workers' seed here
        return self._threaded(indices)

    def _by_torch(self, name: str, value: Any) -> Iterator[Any]:
        """Torch's iterator over this loader with another ``dataset``, ``sampler`` or ``batch_sampler``."""
        if self._iterator is not None:
            self._iterator._index_sampler = value  # of persistent workers; torch would begin its first one again
        view = copy.copy(self)
        vars(view)[name] = value  # torch lets nobody assign these after __init__
        rows: Iterator[Any] = super(DataLoader, view).__iter__()
        self._iterator = view._iterator
        return rows

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the next one; a loaded state of the same epoch still resumes within it."""
        if isinstance(self.sampler, tud.DistributedSampler):
            self.sampler.set_epoch(epoch)
        if self._resumed is not None and self._resumed.epoch != epoch:
            self._resumed = None
        self._next_epoch = epoch
        if not self._progress.steps:  # between two epochs
            self._progress.start = Position(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """The position of the latest iteration after the batches it has yielded, as JSON types; equal on all ranks.

        Raises:
            ConfigError: If the loader cannot return to a position: an iterable dataset, or batches out of order.
        """
        batches = self._resumable()
        if self.num_workers and not self.in_order:
            raise ConfigError("with in_order=False the position cannot be saved; leave in_order at True")
        position = self._resumed or batches.after(self._progress.start, self._progress.steps)
        return {"format": STATE_FORMAT, **position.to_json(), "order": self._order_of(batches)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state with the next ``iter(loader)``; batch size, workers and ranks may differ.

        Raises:
            ConfigError: If the state was saved with another order; the message names the difference.
        """
        batches = self._resumable()
        try:
            if state["format"] != STATE_FORMAT:
                raise ConfigError(f"the state is of format {state['format']}, not {STATE_FORMAT}")
            position, saved = Position.from_json(state), dict(state["order"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"not a state of a gif_datasets.DataLoader: {error!r}") from error
        order = self._order_of(batches)
        for name in dict.fromkeys(["dataset", *order, *saved]):  # another generation has other lengths, too
            if saved.get(name) != order.get(name):
                raise ConfigError(
                    f"the state was saved with another order: {name} was {saved.get(name)!r}, now {order.get(name)!r}"
                )
        if isinstance(self.sampler, tud.DistributedSampler):
            self.sampler.set_epoch(position.epoch)
        self._resumed = position

    def _batches_of(self, epochs: Epochs | None) -> Batches | None:
        """Batches that can start at any position; None for an iterable dataset that is not ours."""
        if epochs is not None:
            return EpochBatches(epochs, self.batch_size, self.drop_last, maker_of(self.dataset))
        if isinstance(self.dataset, StreamedDataset):
            readers = Readers(self.dataset.world_size, self.num_workers, self.batch_size or 1, self.drop_last)
            return StreamBatches(self.dataset, readers)
        if isinstance(self.dataset, tud.IterableDataset):
            return None
        batched = self.batch_sampler is not None
        return Skipping(self.batch_sampler if batched else self.sampler, maker_of(self.dataset), batched)

    def _order_of(self, batches: Batches) -> dict[str, Any]:
        """What must be equal to resume."""
        return {**batches.description, "dataset": _fingerprint(self.dataset)}

    def _start(self) -> Position:
        """The first position of the next iteration."""
        resumed, self._resumed = self._resumed, None
        requested = self._requested_epoch()
        if resumed is not None and requested in (None, resumed.epoch):
            return resumed
        return Position(self._next_epoch if requested is None else requested, 0)

    def _requested_epoch(self) -> int | None:
        """The epoch that sampler or stream were set to since the latest iteration; None if nobody set one."""
        if isinstance(self.sampler, tud.DistributedSampler):
            return int(self.sampler.epoch)  # torch's rule: the epoch stays until another one is set
        holder = self.dataset if isinstance(self.dataset, StreamedDataset) else self.sampler
        if not isinstance(holder, EpochSampler | StreamedDataset) or holder.epoch_calls == self._epoch_calls:
            return None
        self._epoch_calls = holder.epoch_calls
        return holder.epoch

    def _resumable(self) -> Batches:
        if self._batches is None:
            raise ConfigError(
                f"{type(self.dataset).__name__} is an iterable dataset, whose position the loader does not know"
            )
        return self._batches

    def _threaded(self, batches: Iterator[list[int]]) -> Iterator[Any]:
        """Read and decode in threads, some batches ahead; code of the user runs in this thread."""
        dataset, combine, pin = cast(Any, self.dataset), cast(Any, self.collate_fn), cast(Any, pinning.pin_memory)

        def load(indices: list[int]) -> LoadedRows:
            rows: LoadedRows = dataset.__getitems__(indices)
            return rows.load()

        device = _pinning_device() if self.pin_memory else None
        for rows in prefetch(batches, load, self.threads, PREFETCH * self.threads):
            batch = combine(rows)
            yield batch if device is None else pin(batch, device)


def _check(orders_itself: bool, ordered: bool, rank: int, world_size: int, threads: int | None) -> None:
    """Raise ConfigError where arguments do not go together, or are out of range."""
    if ordered and not orders_itself:
        raise ConfigError(
            "mix, weights, balance, epoch_length, seed, rank and world_size make an order of their own;"
            " give them without sampler and batch_sampler, and with a map-style dataset (seed, rank and world_size"
            " of a stream are stream_expanded's)"
        )
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be 0 to {world_size - 1} with world_size {world_size}, got {rank}")
    if threads is not None and threads < 0:
        raise ConfigError(f"threads must be >= 0, got {threads}")


@dataclass
class Progress:
    """How far an iteration is. The loader keeps it, and not the iteration, whose workers would then stay alive.

    Attributes:
        start: The position it started from.
        steps: Batches that it has yielded since.
    """

    start: Position
    steps: int = 0


class _Iteration:
    """One pass over a loader; keeps its progress up to date."""

    def __init__(self, loader: DataLoader, rows: Iterator[Any], progress: Progress) -> None:
        self._loader, self._rows, self._progress = loader, rows, progress
        self._start, self._steps = progress.start, 0

    def __iter__(self) -> _Iteration:
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        try:
            batch = next(self._rows)
        except StopIteration:
            self._note(Position(self._start.epoch + 1, 0), 0)
            raise
        except (ConnectionError, EOFError, FileNotFoundError, RuntimeError) as error:
            if self._loader.num_workers and _is_of_a_dead_worker(error):
                self._loader._iterator = None  # of persistent workers; the next pass starts new ones
                raise EngineError(
                    f"a worker process died (killed, or out of memory): {error}; go on from state_dict()"
                ) from error
            raise
        self._steps += 1
        self._note(self._start, self._steps)
        return batch

    def _note(self, start: Position, steps: int) -> None:
        self._progress.start, self._progress.steps = start, steps


class _DoneEvent:
    """Tells workers to end, as torch's event that it wraps, but never waits for the event's lock.

    A worker takes that lock for every batch, and keeps it when it is killed meanwhile. Torch's loop then waits for
    it forever: before it says that a worker died, and when it shuts down. Nobody but the loop sets the event.
    """

    def __init__(self, event: Any) -> None:
        self._event, self._set = event, False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        thread = threading.Thread(target=self._event.set, daemon=True)
        thread.start()
        thread.join(LOCK_SECONDS)  # torch ends workers that were not told


def _is_of_a_dead_worker(error: Exception) -> bool:
    """Whether torch says so, or a batch could not be received from its worker; errors of the dataset do not count."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker (pid")
    return not str(error).startswith("Caught ")  # in DataLoader worker process


def collate(rows: Any) -> Any:
    """Torch's default collation, that also takes PIL images of one size: uint8 ``(N, 3, H, W)``.

    ``(N, 1, H, W)`` where all are grey.
    """
    if isinstance(rows, LoadedRows) and rows.plain:
        return rows.tensors()
    return collate_by(list(rows), collate_fn_map={Image.Image: _stack_pictures, **default_collate_fn_map})


def _stack_pictures(pictures: Sequence[Image.Image], *, collate_fn_map: Any = None) -> torch.Tensor:
    if len({picture.size for picture in pictures}) > 1:
        raise ConfigError(different_sizes(picture.size for picture in pictures))
    if {picture.mode for picture in pictures} not in ({"L"}, {"RGB"}):
        pictures = [images.to_rgb(picture) for picture in pictures]
    stacked = np.stack([np.atleast_3d(np.asarray(picture)) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def _fingerprint(dataset: Any) -> str | None:
    """What a dataset of ours says it is, below any ``Subset``."""
    if isinstance(dataset, tud.Subset):
        inner = _fingerprint(dataset.dataset)
        indices = np.asarray(dataset.indices, dtype=np.int64)
        return None if inner is None else digest([inner, hashlib.sha256(indices.tobytes()).hexdigest()])
    fingerprint = getattr(dataset, "fingerprint", None)
    return fingerprint if isinstance(fingerprint, str) else None


def _is_loaded(dataset: Any) -> bool:
    while type(dataset) in (tud.Subset, Part):
        dataset = dataset.dataset
    return isinstance(dataset, LoadedDataset)


def _pinning_device() -> str | None:
    """The device whose transfers pinned memory speeds up, by torch's own rule; None without one."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if accelerator is None or accelerator.type == "mps" else accelerator.type
