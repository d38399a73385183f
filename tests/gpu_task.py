"""What the workers of test_devices.py run; a module of its own, so that a new process finds it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from gif_datasets.expansion.engines.local import VISIBLE


@dataclass(frozen=True)
class Look:
    """Says which GPU a worker sees, once all ``workers`` have looked."""

    folder: Path
    workers: int

    def __call__(self, item: int) -> tuple[int, str | None]:
        (self.folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(self.folder.iterdir())) < self.workers and time.monotonic() < deadline:
            time.sleep(0.02)
        return os.getpid(), os.environ.get(VISIBLE)
