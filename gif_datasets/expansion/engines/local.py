"""Run shard tasks on this machine: in this process, or in a pool of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from gif_datasets.errors import EngineError
from gif_datasets.io.devices import keep_freed_memory, usable_cpus

Result = TypeVar("Result")
VISIBLE = "CUDA_VISIBLE_DEVICES"
SPAWN = "spawn"  # forking a process whose torch already runs threads can hang, and cannot use CUDA


def run_local(
    task: Callable[[int], Result], ids: Sequence[int], workers: int = 1, devices: Sequence[str] = ()
) -> Iterator[Result]:
    """Yield ``task(id)`` for every id, as they finish.

    Args:
        task: Picklable when ``workers`` is above 1.
        ids: What to run.
        workers: Processes; 1 runs in this process. Each loads the prior once.
        devices: GPUs, as :func:`visible_gpus` names them; the workers take them in turn, and each sees its own alone.

    Raises:
        EngineError: If a worker process dies. What other workers finished is kept.
    """
    workers = min(workers, len(ids))
    if workers <= 1:
        yield from map(task, ids)
        return
    let_go(task)
    context = multiprocessing.get_context(SPAWN)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (task, in_turn(workers, devices)))
    try:
        for future in as_completed([pool.submit(_run_in_worker, item) for item in ids]):
            yield future.result()
    except BaseException as error:
        stop_workers(pool)
        if isinstance(error, BrokenProcessPool):
            raise EngineError(
                "a worker process died (killed, or out of memory); run the same command again to go on,"
                f" with fewer than --workers {workers} if memory is short"
            ) from error
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stop_workers(pool: ProcessPoolExecutor) -> None:
    """End a pool's processes in the middle of what they do, which bears it: the rest of a shard may take an hour."""
    for process in list((pool._processes or {}).values()):  # terminate_workers() of Python 3.14
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


def in_turn(workers: int, devices: Sequence[str]) -> Any:
    """A queue of the device that each process takes for its own as it starts; see :func:`start_process`."""
    own = multiprocessing.get_context(SPAWN).SimpleQueue()
    for number in range(workers):
        own.put(devices[number % len(devices)] if devices else None)
    return own


def start_process(own: Any) -> None:
    """What a worker process does first: take one GPU of :func:`in_turn`, keep freed memory, end with its parent."""
    if device := own.get():  # before anything here looks for GPUs: "cuda" is then this one, and plans do not differ
        os.environ[VISIBLE] = device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    keep_freed_memory()


_task: Callable[[int], Any] | None = None


def _start_worker(task: Callable[[int], Any], own: Any) -> None:
    global _task
    start_process(own)
    _task = task


def _exit_with_parent() -> None:
    """End this worker when its parent is gone: a pool's workers outlive a parent killed by SIGKILL otherwise."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(item: int) -> Any:
    assert _task is not None
    return _task(item)
