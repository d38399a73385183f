"""JSON and TOML from untrusted files: a value, or ValueError, and no other error.

A byte order mark, which editors on Windows write, is not part of the text.

Python's parsers raise RecursionError if a text is nested too deeply, and so does code that walks through a value that
is just shallow enough for them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

DEEPEST = 50
"""Levels of lists and dicts in one another. This package writes 7; features of nested columns have more."""


def read_json(content: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: If it is not JSON, or nested too deeply.

    Example:
        >>> read_json(b'{"a": [1]}')
        {'a': [1]}
        >>> read_json("[" * 100 + "]" * 100)
        Traceback (most recent call last):
        ...
        ValueError: nested more than 50 levels deep
    """
    return _shallow(json.loads, _text(content))


def read_toml(content: bytes | str) -> dict[str, Any]:
    """Parse TOML; raises ValueError as :func:`read_json` does."""
    value: dict[str, Any] = _shallow(tomllib.loads, _text(content))
    return value


def finite(value: Any) -> Any:
    """A value with None for NaN and infinities, which JSON does not have.

    Example:
        >>> finite({"age": [31.5, float("nan")]})
        {'age': [31.5, None]}
    """
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(content: bytes | str) -> str:
    """The text without its byte order mark; of bytes, in the Unicode encoding that the mark, or the bytes, tell."""
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    return text.removeprefix("\ufeff")


def _shallow(parse: Callable[[str], Any], text: str) -> Any:
    problem = f"nested more than {DEEPEST} levels deep"
    try:
        value = parse(text)
    except RecursionError as error:
        raise ValueError(problem) from error
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _within(outer) if isinstance(inner, (dict, list))]
        if not level:
            return value
    raise ValueError(problem)


def _within(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
