"""JSON and TOML as people's editors save them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gif_datasets.io.parsing import finite, read_json, read_toml
from gif_datasets.options import read_options
from gif_datasets.prompts import read_synonyms


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_not_part_of_the_text(encoding: str, tmp_path: Path) -> None:
    """In options and synonyms, TOML and JSON; with the line ends that come with them."""
    path = {suffix: tmp_path / f"names.{suffix}" for suffix in ("toml", "json")}
    path["toml"].write_bytes('"café" = ["coffee house"]\r\nb = ["x"]\r\n'.encode(encoding))
    path["json"].write_bytes('{"café": ["coffee house"],\r\n "b": ["x"]}'.encode(encoding))
    for file in path.values():
        assert read_synonyms(str(file)) == ("b = x", "café = coffee house")
    assert read_options(path["toml"]) == {"café": ["coffee house"], "b": ["x"]}
    assert read_json("\ufeff[1]") == [1]
    assert read_toml("\ufeffa = 1") == {"a": 1}


def test_what_is_in_no_encoding_of_unicode_is_a_value_error() -> None:
    """Not a text of an old code page, and not half a character."""
    for content in ("é".encode("latin-1"), "é = 1".encode()[:1], b"\xff\xfea"):
        for read in (read_json, read_toml):
            with pytest.raises(ValueError, match="codec can't decode"):
                read(content)


def test_numbers_that_json_does_not_have_are_null() -> None:
    """At any depth; all else stays as it is."""
    value = {"a": [1.5, float("nan"), {"b": float("-inf")}], "c": "NaN", "d": None, "e": 2**70}
    assert finite(value) == {"a": [1.5, None, {"b": None}], "c": "NaN", "d": None, "e": 2**70}
