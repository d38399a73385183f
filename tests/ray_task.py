"""What the Ray tests run in workers; light to import, since every worker does."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from gif_datasets.errors import SourceError


@dataclass(frozen=True)
class Task:
    """Says on which node it ran; does something else for some ids the first time, or always.

    No id is made before ``nodes`` nodes have begun one: a worker that starts fast would else do the slow ones' work.
    """

    folder: Path
    nodes: int = 1
    seconds: float = 0.0
    dies_once: tuple[int, ...] = ()
    dies: tuple[int, ...] = ()
    fails: tuple[int, ...] = ()

    def __call__(self, item: int) -> tuple[int, str]:
        node = ray.get_runtime_context().get_node_id()
        self._meet(node)
        time.sleep(self.seconds)
        first = not (self.folder / str(item)).exists()
        (self.folder / str(item)).touch()
        if item in self.dies or (item in self.dies_once and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self.fails:
            raise (SourceError if item % 2 else ZeroDivisionError)(f"number {item}")
        return item, node

    def _meet(self, node: str) -> None:
        (self.folder / f"node-{node}").touch()
        deadline = time.monotonic() + 120
        while len(list(self.folder.glob("node-*"))) < self.nodes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {self.nodes} nodes work")
            time.sleep(0.05)


def slow_down() -> None:
    """Make every shard of this worker take longer."""
    from gif_datasets.expansion.tasks import ShardTask

    write = ShardTask._write

    def slow(self: ShardTask, made: Any) -> Any:
        time.sleep(0.5)
        return write(self, made)

    ShardTask._write = slow  # type: ignore[method-assign]
