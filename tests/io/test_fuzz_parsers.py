"""Hostile files for every parser, some of each; `recipes/faults/fuzz_parsers.py` makes them by the thousand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from gif_datasets.errors import ShardError
from gif_datasets.io.parsing import DEEPEST, read_json, read_toml
from gif_datasets.shards import index, tar, ustar

SCRIPT = Path(__file__).parents[2] / "recipes" / "faults" / "fuzz_parsers.py"


def test_each_file_is_read_or_refused() -> None:
    """Every parser gives a value or an error of this package."""
    report = runpy.run_path(str(SCRIPT))["run"](15)
    assert report["crashes"] == []
    assert len(report["outcomes"]) == 13
    assert report["cases"] >= 13 * 12


@pytest.mark.parametrize("levels", [DEEPEST + 1, 900, 100_000])
def test_deep_nesting_is_a_value_error(levels: int) -> None:
    """However deep, on any Python; what a file may need is read."""
    for text in ("[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels):
        with pytest.raises(ValueError, match="50 levels"):
            read_json(text)
    with pytest.raises(ValueError, match="50 levels"):
        read_toml("a = " + "[" * levels + "]" * levels)
    assert read_json("[" * DEEPEST + "1" + "]" * DEEPEST) is not None
    assert read_toml("a = " + "[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1))


@pytest.mark.parametrize(("suffix", "size"), [("cls", 21), ("json", index.LONGEST_RECORD + 1), ("png", 2**31)])
def test_gigantic_members_are_not_read(tmp_path: Path, suffix: str, size: int) -> None:
    """A label, record or picture that no sample has is refused by its header, in a sparse file too."""
    path = tmp_path / "train-00000-of-00001.tar"
    with path.open("wb") as file:
        file.write(ustar.header(f"train-0000000-0000.{suffix}", size))
        whole = ustar.BLOCK + size + -size % ustar.BLOCK + 2 * ustar.BLOCK
        file.truncate(whole + -whole % 10_240)
    with pytest.raises(ShardError, match=f"gigantic member .* {size} bytes"):
        list(tar.entries(path))
