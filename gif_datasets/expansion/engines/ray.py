"""Run shard tasks on a Ray cluster; the only home of ray.

Ray promises to run a call at least once; that every shard is there exactly once follows from the task, whose file and
bytes are functions of the plan. What is lost with an actor or a node is given to another actor, a bounded number of
times; what a lost driver had finished, the next run finds.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from gif_datasets.errors import EngineError, GifDatasetsError, MissingExtra, one_line
from gif_datasets.expansion.engines.local import in_turn, let_go, portions
from gif_datasets.io.devices import keep_freed_memory

Result = TypeVar("Result")
MOST_TOGETHER = 16  # ids that an actor is given at once
MOST_LOSSES = 5  # of one id's actors, or one after the other of actors that never start, before the run is given up
_OWN = "local"  # Ray's word for a cluster of our own; without, it joins whatever runs on this machine
PATIENCE = 60.0  # seconds without a single free place in the cluster, until a message says so


def run_ray(
    task: Callable[[int], Result],
    ids: Sequence[int],
    workers: int | None = None,
    *,
    address: str | None = None,
    gpus: float = 0.0,
) -> Iterator[Result]:
    """Yield ``task(id)`` for every id, as they finish, from a pool of actors that each hold the task, and so one prior.

    Args:
        task: Picklable; what it reads and writes must be reachable from every node, by the same path.
        ids: What to run.
        workers: Actors; None: as many as the cluster has places for. Those it has no place for wait, and get no work.
        address: Of a running cluster; None: that of ``RAY_ADDRESS``, or a local one that is started for this.
        gpus: Share of a GPU that each actor holds; 0: one CPU each.

    Raises:
        EngineError: If the actors of one id die again and again, or an id fails.
        MissingExtra: If Ray is not installed.
    """
    if not ids:  # a folder that is only checked again wants no cluster
        return
    with _connected(address) as ray:
        needed = {"num_gpus": gpus, "num_cpus": 0} if gpus else {"num_cpus": 1}
        places = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1) / (gpus or 1))
        actor_type = ray.remote(**needed, max_restarts=0)(_Holder)
        let_go(task)
        shared = ray.put(task)
        pool = _Pool(ray, lambda: actor_type.remote(shared), ids)
        try:
            yield from pool.run(min(workers or max(places, 1), len(ids)))
        finally:
            pool.close()


class _Holder:
    """Holds the task, and with it the prior that it loads, in a process of a cluster."""

    def __init__(self, task: Callable[[int], Any]) -> None:
        keep_freed_memory()
        self.task = task

    def ready(self) -> None:
        """Answer as soon as the actor has a place."""

    def run(self, items: Sequence[int]) -> Iterator[Any]:
        """Run some ids in order. A task that can stream draws one while it writes the one before."""
        yield from in_turn(self.task, items)


@dataclass(frozen=True)
class _Call:
    """A call that an actor is answering.

    Attributes:
        actor: The actor.
        ids: Those that it runs and has not finished; None: it was asked whether it is ready.
    """

    actor: Any
    ids: deque[int] | None = None


class _Pool:
    """Gives each actor that is ready some ids: half of its share of what is left, so that all end at the same time."""

    def __init__(self, ray: Any, start: Callable[[], Any], ids: Sequence[int]) -> None:
        self.ray, self.start = ray, start
        self.waiting = list(ids)
        self.running: dict[Any, _Call] = {}
        self.losses: Counter[int | None] = Counter()

    def run(self, actors: int) -> Iterator[Any]:
        """Yield results until no id is left."""
        left, warned = len(self.waiting), False
        for _ in range(actors):
            self._add()
        while left:
            done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=PATIENCE)
            if not done and not warned and all(call.ids is None for call in self.running.values()):
                warnings.warn("the cluster has had no free place for a worker yet; waiting on", stacklevel=2)
                warned = True
            for answer in done:
                call = self.running[answer]
                try:
                    result = self.ray.get(answer if call.ids is None else next(answer))
                except StopIteration:
                    del self.running[answer]
                    self._give(call.actor, actors)
                except self.ray.exceptions.RayTaskError as error:
                    raise _cause(error, call.ids[0] if call.ids else None) from error
                except self.ray.exceptions.RayError as error:
                    del self.running[answer]
                    self._lost(call.ids, error)
                else:
                    if call.ids is None:
                        del self.running[answer]
                        self.losses[None] = 0
                        self._give(call.actor, actors)
                    else:
                        left -= 1
                        call.ids.popleft()
                        yield result

    def close(self) -> None:
        """Stop all actors that are known to run."""
        for call in self.running.values():
            self.ray.kill(call.actor)
        self.running.clear()

    def _give(self, actor: Any, actors: int) -> None:
        """Let an actor run some of the ids that wait; those that were lost before, one at a time."""
        if self.waiting:
            most = 1 if self.losses[self.waiting[0]] else MOST_TOGETHER
            ids = deque(next(portions(self.waiting, actors, most)))
            self.waiting = self.waiting[len(ids) :]
            self.running[actor.run.options(num_returns="streaming").remote(list(ids))] = _Call(actor, ids)

    def _add(self) -> None:
        actor = self.start()
        self.running[actor.ready.remote()] = _Call(actor)

    def _lost(self, ids: deque[int] | None, error: Exception) -> None:
        """An actor, its worker process or its node is gone: another one takes its ids first."""
        item = ids[0] if ids else None
        self.losses[item] += 1
        if self.losses[item] >= MOST_LOSSES:
            what = "workers died before they had started" if item is None else f"workers died on shard {item}"
            raise EngineError(
                f"{self.losses[item]} {what} (killed, or out of memory): {one_line(error)};"
                " run the same command again to go on"
            ) from error
        self.waiting = [*(ids or ()), *self.waiting]
        self._add()


def _cause(error: Any, item: int | None) -> Exception:
    """What was raised in the worker: an error of ours as it is, any other with the shard's number."""
    cause = error.cause
    if isinstance(cause, GifDatasetsError):
        return cause
    return EngineError(f"shard {item} failed: {type(cause).__name__}: {cause}")


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """The ray module, connected to a cluster: a caller's connection is left as it is, one of our own is closed."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray") from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster sends no usage statistics
    named = address or os.environ.get("RAY_ADDRESS") or _OWN
    try:
        ray.init(named, include_dashboard=False if named == _OWN else None, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineError(f"cannot reach a Ray cluster at {named!r}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
