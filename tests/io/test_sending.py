"""What new processes cannot be sent is named."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gif_datasets import ConfigError, EngineError
from gif_datasets.expansion.engines.local import run_local
from gif_datasets.io.sending import unsendable


def inner() -> Any:
    class Own:
        pass

    return Own()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"work": [lambda: 0]}, r"<lambda> of .*test_sending has no name that another process finds"),
        (inner(), r"inner.<locals>.Own of .*test_sending has no name .*"),
        (threading.Lock(), "cannot pickle '_thread.lock' object"),
        ((partial(max, 1), torch.ones(2), Path), ""),
    ],
)
def test_reasons(value: Any, reason: str) -> None:
    """A word for what another process finds nowhere; nothing where it finds all."""
    assert re.fullmatch(reason, unsendable(value))


def test_workers_are_refused_before_any_starts() -> None:
    """With the way out; one worker is this process, which needs no name."""
    with pytest.raises(ConfigError, match=r"cannot be sent to 2 workers \(.*<lambda> of .*or use workers=1"):
        list(run_local(lambda number: number, [1, 2], workers=2))
    assert list(run_local(lambda number: number, [1, 2], workers=1)) == [1, 2]


PROGRAM = """
from gif_datasets.expansion.engines.local import run_local
class Double:
    def __call__(self, number):
        return 2 * number
"""
WORK = "print(sorted(run_local({}, [3, 4], workers=2)))"


@pytest.mark.parametrize(
    ("kind", "work", "wanted"),
    [
        ("-c", WORK.format("Double()"), "Double is defined in a notebook or on the command line alone"),
        ("file", "if __name__ == '__main__':\n    " + WORK.format("Double()"), "[6, 8]"),
        ("file", WORK.format("abs"), "no worker process could start"),
    ],
)
def test_classes_of_the_program_itself(kind: str, work: str, wanted: str, tmp_path: Path) -> None:
    """A script with the guard is run again by its workers; a notebook cannot be, and without the guard none starts."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM + work)
    command = ["-c", PROGRAM + work] if kind == "-c" else [str(script)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert wanted in done.stdout + done.stderr  # warnings of multiprocessing may follow
    assert (EngineError.__name__ in done.stderr) == (wanted.startswith("no worker"))
