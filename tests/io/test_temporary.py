"""What a killed process leaves is removed by the next one, and nothing that somebody still uses."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import gif_datasets
from gif_datasets import ConfigError
from gif_datasets.cli import main
from gif_datasets.io import atomic, temporary
from gif_datasets.io.temporary import TemporaryFolder

KILLED = """
import os, signal, sys
from pathlib import Path
from gif_datasets.io.atomic import atomic_write
from gif_datasets.io.temporary import TemporaryFolder
with TemporaryFolder() as folder, atomic_write(Path(sys.argv[1]) / "x.tar") as file:
    (Path(folder) / "shard").write_bytes(b"half")
    file.write(b"half")
    file.flush()
    print(folder, flush=True)
    if len(sys.argv) > 2:
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def age(*folders: Path) -> None:
    """Let every file seem to be a minute old."""
    for folder in folders:
        for path in folder.rglob(".tmp-*"):
            minute_ago = path.stat().st_mtime - 60
            os.utime(path, (minute_ago, minute_ago))


@pytest.mark.parametrize("alive", [False, True])
def test_what_a_killed_process_leaves(alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is gone a minute later, not an hour; of one that is alive nothing is."""
    out, place = tmp_path / "out", tmp_path / "tmp"
    place.mkdir()
    (place / "gif_datasets-of-somebody-else").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    command = [sys.executable, "-c", KILLED, str(out), *["wait"] * alive]
    environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    left = Path(process.stdout.readline().strip())
    if not alive:
        assert process.wait(60) == -signal.SIGKILL
    assert left.parent == place
    age(out, place)
    temporary._sweep.cache_clear()
    with TemporaryFolder() as own:
        atomic.sweep(out)
        assert left.exists() == alive == bool(list(out.glob(".tmp-*")))
        assert Path(own).exists()
    assert sorted(path.name for path in place.iterdir() if path != left) == ["gif_datasets-of-somebody-else"]
    process.communicate("")


def test_without_locks_an_hour_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk has none, a file that was written a minute ago stays."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    atomic.write_bytes(tmp_path / "x", b"x")
    for name, seconds in (("young", 60), ("old", 7200)):
        (tmp_path / f".tmp-{name}").touch()
        os.utime(tmp_path / f".tmp-{name}", (0, (tmp_path / f".tmp-{name}").stat().st_mtime - seconds))
    atomic.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-young", "x"]
    assert not atomic.is_forgotten(tmp_path / "gone")


def test_a_crash_while_a_plan_is_written_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk without hard links too: the next run begins anew, and of two plans the first counts."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", refuse)
    for place, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as broken:
            broken.setattr(place, name, crash)
            with pytest.raises(KeyboardInterrupt):
                atomic.create_json(tmp_path / "plan.json", {"a": 1})
        assert list(tmp_path.iterdir()) == []
    assert atomic.create_json(tmp_path / "plan.json", {"a": 1})
    assert not atomic.create_json(tmp_path / "plan.json", {"a": 2})
    assert (tmp_path / "plan.json").read_bytes() == atomic.json_bytes({"a": 1})


def test_links_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As an output, or above it, each is named with its target, by commands and functions."""
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    for out in ("link", "link/in/it", "itself"):
        with pytest.raises(ConfigError, match=r"is a link to .*, which does not exist; remove the link"):
            gif_datasets.expand("demo", tmp_path / out, method="cutout", ratio=1, limit=10, cache_dir=tmp_path / "c")
        assert main(["expand", "demo", "--out", str(tmp_path / out), "--method", "cutout", "--limit", "10"]) == 2
        assert main(["report", str(tmp_path), "--out", str(tmp_path / out / "x.html")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [("is a link to" in line) for line in lines] == [True, True]
    assert not (tmp_path / "gone").exists()
