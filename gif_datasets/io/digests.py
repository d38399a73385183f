"""Canonical JSON and digests: the only way this package names content."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gif_datasets.io.stores import AnyPath
from gif_datasets.io.unchanged import Status, is_settled, status_of

if TYPE_CHECKING:
    import numpy as np


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, ASCII, no NaN.

    Raises:
        TypeError: If ``value`` holds anything but dicts with string keys, lists, tuples, strings, numbers, booleans and
            None. What cannot be written cannot be keyed.
        ValueError: If a number is NaN or infinite.

    Example:
        >>> canonical_json({"b": 1, "a": (0.5, None)})
        '{"a":[0.5,null],"b":1}'
    """
    _check_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON keys must be strings, got {key!r}")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, in hex.

    Example:
        >>> digest({"a": 1})[:16]
        '015abd7f5cc57a2d'
    """
    return digest_text(canonical_json(value))


def digest_rows(rows: Iterable[Any]) -> str:
    """:func:`digest` of a list that need never be there as a whole.

    Example:
        >>> digest_rows(iter([[1, "a"], [2, "b"]])) == digest([[1, "a"], [2, "b"]])
        True
    """
    hasher, before = hashlib.sha256(b"["), ""
    for row in rows:
        hasher.update((before + canonical_json(row)).encode("ascii"))
        before = ","
    hasher.update(b"]")
    return hasher.hexdigest()


def digest_text(text: str) -> str:
    """SHA-256 of an ASCII text, in hex; of parts that cannot run into each other, this is quicker than their JSON."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


LARGEST_BY_SHA = 2048 * 2048
"""Pixels; SHA-256 of a photograph takes 0.4 of the time that decoding it takes, BLAKE3 0.15."""


def digest_pixels(pixels: np.ndarray) -> str:
    """Digest of an image's size and pixels: a content key that no container, path or order changes.

    SHA-256, and BLAKE3 for images of more than ``LARGEST_BY_SHA`` pixels.

    Args:
        pixels: ``(H, W, 3)`` uint8.
    """
    if not _is_large(pixels):
        return _sha_of_pixels(pixels)
    from blake3 import blake3

    return _digest_of(pixels, blake3(), "blake3 rgb8")


def keys_of(pixels: np.ndarray) -> tuple[str, ...]:
    """The content key of an image; of a large one also the key that earlier versions gave it, by SHA-256."""
    own = digest_pixels(pixels)
    return (own, _sha_of_pixels(pixels)) if _is_large(pixels) else (own,)


def _is_large(pixels: np.ndarray) -> bool:
    height, width = pixels.shape[:2]
    return bool(height * width > LARGEST_BY_SHA)


def _sha_of_pixels(pixels: np.ndarray) -> str:
    return _digest_of(pixels, hashlib.sha256(), "rgb8")


def _digest_of(pixels: np.ndarray, hasher: Any, kind: str) -> str:
    hasher.update(f"{kind} {pixels.shape[0]} {pixels.shape[1]}\n".encode("ascii"))
    hasher.update(pixels.data if pixels.flags.c_contiguous else pixels.tobytes())
    found: str = hasher.hexdigest()
    return found


def digest_file(path: AnyPath) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _stream(file)


def _stream(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    hasher = hashlib.sha256()
    while block := file.read(1 << 20):
        hasher.update(block)
    return hasher.hexdigest()


def digest_folder(folder: Path, parts: Iterable[str] = (".",)) -> str:
    """Digest of every file in ``parts`` of ``folder``, by relative POSIX name and content.

    Hidden files and ``*.md`` are left out: a corrected card changes no result. A process reads a file once, and again
    when it has changed.
    """
    below = {path for part in parts for path in (folder / part, *(folder / part).rglob("*"))}
    names = sorted(path.relative_to(folder) for path in below if path.is_file() and path.suffix != ".md")
    kept = [name for name in names if not any(part.startswith((".", "__pycache__")) for part in name.parts)]
    return digest({name.as_posix(): _digest_once(folder / name) for name in kept})


def _digest_once(path: Path) -> str:
    status = status_of(path.stat())
    return _digest_while(path.absolute(), status) if is_settled(status, time.time_ns()) else digest_file(path)


@lru_cache(maxsize=1024)
def _digest_while(path: Path, status: Status) -> str:
    return digest_file(path)
