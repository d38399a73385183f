"""Full disks: which errors say so, and what is told of them."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from gif_datasets.cli import main
from gif_datasets.errors import DiskFull
from gif_datasets.io import atomic, room
from gif_datasets.io.hub_retry import with_retries


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (OSError(errno.EACCES, "No space left, says a file's name"), False),
        (ValueError("no such value"), False),
    ],
)
def test_what_says_that_a_disk_is_full(error: Exception, full: bool, tmp_path: Path) -> None:
    """Errors by number, of libraries by word, become one error that names the file; all others stay as they are."""
    kinds = (OSError, RuntimeError, ValueError)
    with pytest.raises(kinds) as raised, atomic.atomic_write(tmp_path / "sub" / "a.bin", size=12345):
        raise error
    assert room.is_full(error) == full
    assert isinstance(raised.value, DiskFull) == full
    assert list((tmp_path / "sub").iterdir()) == []
    if full:
        text = str(raised.value)
        assert f"{tmp_path}/sub/a.bin (12.3 kB) does not fit on the file system at {room.mount_of(tmp_path)}" in text
        assert " free of " in text
        assert "run the same command again to go on" in text
        again = pickle.loads(pickle.dumps(raised.value))
        assert (str(again), again.errno, again.filename) == (text, raised.value.errno, raised.value.filename)


def test_used_up_inodes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has bytes, but no room for another file, says that."""
    found = SimpleNamespace(f_files=100, f_favail=0, f_bavail=7, f_bfree=7, f_blocks=9, f_frsize=1000)
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    assert "7.0 kB free of 9.0 kB, but no room for another file (its inodes are used up)" in str(
        room.disk_full(tmp_path / "a")
    )


def test_a_full_hub_cache(tmp_path: Path) -> None:
    """A download that does not fit is no error of the Hub's."""

    @with_retries
    def fetch(client: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match="hub"):
        fetch(SimpleNamespace(repository=None, say=print))


@pytest.mark.parametrize("name", [None, "some/file"])
def test_a_full_disk_that_nobody_named(
    name: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line exits with 1, one line and the way on, wherever the error comes from."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr("gif_datasets.cli.methods.print_result", full)
    assert main(["methods", "--json"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "No space left on device" in told
    assert "run the same command again to go on" in told
    assert (name or "/") in told
