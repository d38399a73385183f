"""Run shard tasks on this machine: in this process, or in a pool of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

from gif_datasets.errors import ConfigError, EngineError
from gif_datasets.io.devices import keep_freed_memory, usable_cpus
from gif_datasets.io.sending import unsendable
from gif_datasets.io.terminal import escape_output

Result = TypeVar("Result")
VISIBLE = "CUDA_VISIBLE_DEVICES"
MOST_ON_GPU = 4  # shards that a worker is given at once: a device does not wait between them
SPAWN = "spawn"  # forking a process whose torch already runs threads can hang, and cannot use CUDA


@runtime_checkable
class Streaming(Protocol):
    """A task that does several ids better than one after the other."""

    def stream(self, ids: Sequence[int]) -> Iterator[Any]:
        """The results, in order."""
        ...


def run_local(
    task: Callable[[int], Result], ids: Sequence[int], workers: int = 1, devices: Sequence[str] = ()
) -> Iterator[Result]:
    """Yield ``task(id)`` for every id, as they finish.

    Args:
        task: Picklable when ``workers`` is above 1. One that can stream begins with an id while it ends the one before.
        ids: What to run.
        workers: Processes; 1 runs in this process. Each loads the prior once.
        devices: GPUs, as :func:`visible_gpus` names them; the workers take them in turn, and each sees its own alone.

    Raises:
        ConfigError: If a worker cannot be sent the task.
        EngineError: If a worker process dies. What other workers finished is kept.
    """
    workers = min(workers, len(ids))
    if workers <= 1:
        yield from in_turn(task, ids)
        return
    refuse_unsendable(task, workers)
    let_go(task)
    advice = f"run the same command again to go on, with fewer than --workers {workers} if memory is short"
    with pool(workers, devices, advice, task) as executor:
        parts = portions(ids, workers, MOST_ON_GPU if devices else 1)
        for future in as_completed([executor.submit(_run_in_worker, part) for part in parts]):
            yield from future.result()


def in_turn(task: Callable[[int], Result], ids: Sequence[int]) -> Iterator[Result]:
    """``task(id)`` for each id, in this process. A task that can stream begins with one while it ends another."""
    return task.stream(ids) if isinstance(task, Streaming) else (task(item) for item in ids)


def portions(ids: Sequence[int], workers: int, most: int) -> Iterator[Sequence[int]]:
    """Parts of ids for workers: each half a worker's share of what is left, so that all end at the same time.

    Example:
        >>> [len(part) for part in portions(range(20), 2, 4)]
        [4, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]
    """
    first = 0
    while first < len(ids):
        count = max(1, min(most, (len(ids) - first) // (2 * workers)))
        yield ids[first : first + count]
        first += count


def refuse_unsendable(work: Any, workers: int) -> None:
    """Raise ConfigError if new processes cannot be sent something; it says what, and the way out."""
    if reason := unsendable(work):
        raise ConfigError(
            f"the work cannot be sent to {workers} workers ({reason}); define it at the top level of a module"
            " that is imported, or use workers=1"
        )


@contextmanager
def pool(
    workers: int, devices: Sequence[str], advice: str, task: Callable[[int], Any] | None = None
) -> Iterator[ProcessPoolExecutor]:
    """A pool of new processes; an error in the block stops them at once.

    Args:
        workers: Processes.
        devices: GPUs, as :func:`visible_gpus` names them; the processes take them in turn, and each sees its own alone.
        advice: What to do when a process dies, for the error.
        task: What each process keeps for :func:`run_local`.

    Raises:
        EngineError: If a process dies.
    """
    context = multiprocessing.get_context(SPAWN)
    started = context.SimpleQueue()
    executor = ProcessPoolExecutor(workers, context, _start_worker, (task, _in_turn(workers, devices), started))
    try:
        yield executor
    except BaseException as error:
        _stop(executor)
        if isinstance(error, BrokenProcessPool) and started.empty():
            raise EngineError(
                "no worker process could start (its error is above); the script that starts them needs"
                ' `if __name__ == "__main__":`; or use workers=1'
            ) from error
        if isinstance(error, BrokenProcessPool):
            raise EngineError(f"a worker process died (killed, or out of memory); {advice}") from error
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _stop(executor: ProcessPoolExecutor) -> None:
    """End a pool's processes in the middle of their work, which is safe: the rest of a shard may take an hour."""
    for process in list((executor._processes or {}).values()):  # terminate_workers() of Python 3.14
        process.terminate()


def default_workers(device: str) -> int:
    """One worker per CPU this process may use, but at most 8; one per GPU that ``cuda`` may use, else one."""
    if device != "cpu":
        return max(1, len(visible_gpus(device)))
    return usable_cpus()


def visible_gpus(device: str) -> list[str]:
    """The GPUs that ``device`` stands for, as ``CUDA_VISIBLE_DEVICES`` names them; none unless it is ``"cuda"``."""
    if device != "cuda":
        return []
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (named or list(map(str, range(count))))[:count]


def let_go(task: object) -> None:
    """Let a task free what this process holds for it, as a prior on a GPU: its workers load their own."""
    release = getattr(task, "release", None)
    if release is not None:
        release()


def _in_turn(workers: int, devices: Sequence[str]) -> Any:
    """A queue of the device that each process takes as its own when it starts; see :func:`_start_process`."""
    own = multiprocessing.get_context(SPAWN).SimpleQueue()
    for number in range(workers):
        own.put(devices[number % len(devices)] if devices else None)
    return own


def _start_process(own: Any) -> None:
    """What a worker process does first: take one GPU of :func:`_in_turn`, keep freed memory, end with its parent."""
    if device := own.get():  # before anything here looks for GPUs: "cuda" is then this one, and plans do not differ
        os.environ[VISIBLE] = device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    keep_freed_memory()
    escape_output()


_task: Callable[[int], Any] | None = None


def _start_worker(task: Callable[[int], Any] | None, own: Any, started: Any) -> None:
    global _task
    started.put(True)
    _start_process(own)
    _task = task


def _exit_with_parent() -> None:
    """End this worker when its parent is gone: a pool's workers outlive a parent killed by SIGKILL otherwise."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(ids: Sequence[int]) -> list[Any]:
    assert _task is not None
    return list(in_turn(_task, ids))
