"""Names from data cannot act on a terminal: whatever is printed is escaped, and JSON stays JSON."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
from helpers import forge_manifest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import gif_datasets
from gif_datasets import UsageError
from gif_datasets.cli import parser
from gif_datasets.cli.shared import progress
from gif_datasets.errors import escaped
from gif_datasets.io.terminal import EscapedStream, escape_output

NAME = "a\x1b[2J\r\x07\x9b31m\u202egnp.exe\u2028\u200b\x7f\U000e0041"
"""It clears the screen, goes back to the start of its line, rings, turns red, is read backwards, and hides letters."""


def acts(text: str) -> list[str]:
    """Characters that do something to a terminal, or cannot be seen."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]


class Terminal(io.StringIO):
    """What a person sees."""

    def isatty(self) -> bool:
        return True


@given(st.text())
def test_texts_lose_nothing(text: str) -> None:
    """What is escaped is printable, and JSON gives it back; what is printable stays."""
    assert acts(escaped(text)) == []
    assert json.loads(escaped(json.dumps(text, ensure_ascii=False))) == text
    assert escaped(text) == text or not text.isprintable()


def test_a_bar_moves_and_its_title_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the beginning of what is written to a terminal may go back; to a file nothing may."""
    for stream, moves in ((Terminal(), "\r\x1b[A"), (io.StringIO(), r"\r\u001b[A")):
        EscapedStream(stream).writelines(["\r\x1b[A" + "1\r", NAME])
        assert stream.getvalue().startswith(moves + r"1\r")
        assert acts(stream.getvalue().removeprefix(moves)) == []
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    escape_output()
    assert [*progress(range(3), NAME)] == [0, 1, 2]
    assert r"a\u001b[2J\r" in shown.getvalue()
    assert acts(shown.getvalue().replace("\r", "")) == []


@pytest.fixture
def made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """An expansion of classes with such names, with an unreadable image of such a name."""
    for number, name in enumerate((NAME, "line\nbreak")):
        (tmp_path / "seeds" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (number, i, 3)).save(tmp_path / "seeds" / name / f"{i}.png")
    (tmp_path / "seeds" / NAME / f"x{NAME}\n.png").write_text("no image")
    words = ["expand", str(tmp_path / "seeds"), "--out", str(tmp_path / "set"), "--method", "cutout", "--ratio", "1"]
    assert parser.main([*words, "--workers", "1", "--cache-dir", str(tmp_path / "c")]) == 0
    printed = capsys.readouterr()
    assert r"skipped a\u001b[2J" in printed.err
    assert acts(printed.out + printed.err) == []
    with pytest.warns(UserWarning, match="left out 1 of 5 images") as warned:
        gif_datasets.ExpandedDataset(str(tmp_path / "seeds"), method="cutout", ratio=1, cache_dir=tmp_path / "c")
    assert [acts(str(warning.message)) for warning in warned] == [[]] * len(warned)
    return tmp_path / "set"


def test_every_command(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results, errors, and what was skipped: one line each, and nothing that acts."""
    forge_manifest(made, samples=3, source=f"source {NAME}")
    texts = list[str]()
    for words in (["info"], ["verify"], ["report", "--out", str(made.parent / f"{NAME}.html"), "--prior", NAME]):
        parser.main([words[0], str(made), *words[1:]])
        texts += capsys.readouterr()
    for words in (["info", f"no/{NAME}"], ["expand", "demo", "--set", NAME, "--out", "x"]):
        assert parser.main(words) == 2
        texts.append(capsys.readouterr().err)
        assert len(texts[-1].splitlines()) == 1
    with pytest.raises(SystemExit):
        parser.main(["info", "x", NAME])
    texts.append(capsys.readouterr().err)
    assert r"a\u001b[2J" in "".join(texts)
    assert r"line\nbreak" in "".join(texts)
    assert [acts(text) for text in texts] == [[]] * len(texts)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_stays_json(made: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names as they are, whatever the terminal can write."""
    names = json.loads((made / "manifest.json").read_text())["classes"]
    forge_manifest(made, classes=[names[0], "\u00e9\u65e5\U0001f98a"])
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert parser.main(["info", str(made), "--json"]) == 0
    text = written.getvalue().decode(encoding)
    assert json.loads(text)["classes"] == [NAME, "\u00e9\u65e5\U0001f98a"]
    assert acts(text) == []


def test_libraries_and_tracebacks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings, log lines, plain prints and errors of this package show no name as it is."""

    def run(args: Any) -> int:
        warnings.warn(f"a warning about {NAME}", stacklevel=1)
        logging.getLogger("some.library").warning(NAME)
        print(NAME)  # noqa: T201
        raise UsageError(f"one\ntwo {NAME}")

    monkeypatch.setattr(parser.info, "run", run)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert parser.main(["info", "x"]) == 2
    printed = capsys.readouterr()
    assert acts(printed.out + printed.err) == []
    assert r"one two a\u001b[2J" in printed.err
    assert str(UsageError(f"one\n{NAME}")) == "one\n" + escaped(NAME)
    assert str(gif_datasets.MissingExtra(NAME)).startswith(escaped(NAME))
