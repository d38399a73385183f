"""Canonical JSON and digests."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gif_datasets.guidance.rng import generator_for
from gif_datasets.io import digests, unchanged
from gif_datasets.io.digests import (
    canonical_json,
    digest,
    digest_file,
    digest_folder,
    digest_pixels,
    digest_rows,
    digest_text,
    keys_of,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_canonical_json_is_json_and_stable(value: Any) -> None:
    """It parses back to the same value and to the same text."""
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert text.isascii()


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """Insertion order leaves no trace."""
    assert digest(value) == digest(dict(reversed(value.items())))


def test_texts_and_draws_are_those_of_the_first_version() -> None:
    """Every cache and every published set hangs on them."""
    value = {"b": [1, 2.5, None], "a": {"ö": True}}
    assert canonical_json(value) == '{"a":{"\\u00f6":true},"b":[1,2.5,null]}'
    assert digest(value) == hashlib.sha256(canonical_json(value).encode()).hexdigest()
    assert digest_text("abc") == hashlib.sha256(b"abc").hexdigest()
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    assert digest_pixels(pixels) == hashlib.sha256(b"rgb8 2 5\n" + bytes(range(30))).hexdigest()
    for place, draws in (
        ((0, "cat", "noise", 1), [1128773, 8738044, 6187204]),
        ((7, "dög", "decode", 12), [15753160, 649125]),
    ):
        found = torch.randint(0, 2**24, (len(draws),), generator=generator_for(*place))  # torch 2.7 changed wider ones
        assert found.tolist() == draws


@given(st.lists(values, max_size=4))
def test_digest_of_rows_is_that_of_their_list(rows: list[Any]) -> None:
    assert digest_rows(iter(rows)) == digest(rows)


def test_the_key_that_is_no_text_is_named() -> None:
    with pytest.raises(TypeError, match="must be strings, got 3"):
        canonical_json([{"a": ({3: 4},)}])


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, {"a": object()}, [b"x"], {"a": {"b": {3: 4}}}])
def test_what_cannot_be_keyed_is_an_error(value: Any) -> None:
    """Nothing is keyed by its repr or address."""
    with pytest.raises((TypeError, ValueError)):
        digest(value)


def test_pixel_digest_knows_the_shape() -> None:
    """The same bytes in another shape are another picture."""
    pixels = np.arange(2 * 6 * 3, dtype=np.uint8)
    assert digest_pixels(pixels.reshape(2, 6, 3)) != digest_pixels(pixels.reshape(6, 2, 3))


def test_large_images_are_keyed_by_blake3() -> None:
    """Those of up to 2,048 x 2,048 pixels keep the keys that they have had; of others the former key is known, too."""
    pixels = np.zeros((2048, 2049, 3), np.uint8)
    pixels[0, 0] = 1, 2, 3
    wanted = blake3(b"blake3 rgb8 2048 2049\n" + pixels.tobytes()).hexdigest()
    former = hashlib.sha256(b"rgb8 2048 2049\n" + pixels.tobytes()).hexdigest()
    assert digest_pixels(pixels) == wanted
    assert keys_of(pixels) == (wanted, former)
    assert digest_pixels(pixels[:, ::-1]) == digest_pixels(np.ascontiguousarray(pixels[:, ::-1])) != wanted
    square = pixels[:, :2048]
    assert keys_of(square) == (hashlib.sha256(b"rgb8 2048 2048\n" + square.tobytes()).hexdigest(),)


def test_folder_digest_sees_contents_and_names(tmp_path: Path) -> None:
    """Renaming or changing a file changes it; hidden files and cards do not."""
    (tmp_path / "a").write_text("1")
    first = digest_folder(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_text("x")
    assert digest_folder(tmp_path) == first
    (tmp_path / "a").write_text("2")
    second = digest_folder(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, digest_folder(tmp_path)}) == 3


def test_generators_are_pure_functions_of_their_arguments() -> None:
    """Global state has no part in them, and each argument changes the draw."""
    torch.manual_seed(1)
    a = torch.rand(4, generator=generator_for(0, "k", "noise", 1))
    torch.manual_seed(2)
    assert torch.equal(a, torch.rand(4, generator=generator_for(0, "k", "noise", 1)))
    for other in [(1, "k", "noise", 1), (0, "l", "noise", 1), (0, "k", "bias", 1), (0, "k", "noise", 2)]:
        assert not torch.equal(a, torch.rand(4, generator=generator_for(*other)))


def test_digest_of_a_file_without_the_library_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.10 has no `hashlib.file_digest`; the digest is the same."""
    (tmp_path / "x").write_bytes(bytes(range(256)) * 9000)
    wanted = hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    assert digest_file(tmp_path / "x") == wanted
    monkeypatch.delattr(hashlib, "file_digest", raising=False)
    assert digest_file(tmp_path / "x") == wanted


@pytest.mark.parametrize("settled", [True, False])
def test_a_file_is_read_again_when_it_may_have_changed(
    settled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its old size and times, too; while it was just written, always; the same name elsewhere is another file."""
    monkeypatch.setattr(unchanged, "SETTLED", -10 * 10**9 if settled else 10 * 10**9)
    read, whole = list[str](), digests.digest_file
    monkeypatch.setattr(digests, "digest_file", lambda path: (read.append(path.name), whole(path))[1])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_bytes(folder.encode())
    monkeypatch.chdir(tmp_path / "a")
    first = [digest_folder(Path()), digest_folder(tmp_path / "a")]
    monkeypatch.chdir(tmp_path / "b")
    assert digest_folder(Path()) != first[0] == first[1]
    assert len(read) == (2 if settled else 3)
    status = (tmp_path / "a" / "weights").stat()
    (tmp_path / "a" / "weights").write_bytes(b"c")
    os.utime(tmp_path / "a" / "weights", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest_folder(tmp_path / "a") != first[0]
