"""Option values: read from text or a TOML file, and checked against the type and limits of a dataclass field."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from gif_datasets.errors import ConfigError, did_you_mean
from gif_datasets.io.parsing import read_toml


def parse_setting(text: str) -> tuple[str, Any]:
    """Read one ``KEY=VALUE`` of the command line; the value is TOML, or a bare word.

    Example:
        >>> parse_setting("epsilon=0.2"), parse_setting("held_class=label")
        (('epsilon', 0.2), ('held_class', 'label'))
    """
    name, equals, raw = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
    try:
        return name, read_toml(f"value = {raw}")["value"]
    except ValueError:
        return name, raw


def closest(name: str, known: Any) -> str:
    """Return ``"; did you mean 'x'?"`` or all known names, for an error message."""
    return did_you_mean(name, known) or f"; known: {', '.join(sorted(known))}"


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file; raises ConfigError if it cannot be read."""
    try:
        return read_toml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


def checked_fields(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check one value per field of a dataclass; raises ConfigError with the field's name and its value."""
    kinds = _field_types(config)
    return {spec.name: checked(spec, kinds[spec.name], values[spec.name]) for spec in dataclasses.fields(config)}


@functools.cache
def _field_types(config: type) -> dict[str, Any]:
    return get_type_hints(config)


def _accepted(kind: Any) -> tuple[type, ...]:
    """Types of the values that a field of this type takes; integers are floats, lists are tuples."""
    kind = next(part for part in get_args(kind) if part is not NoneType) if isinstance(kind, UnionType) else kind
    if get_origin(kind) is tuple:
        return (tuple, list)
    return (float, int) if kind is float else (kind,)


def _stands_for_value(spec: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a value is a text, or a table, that stands for a value of another type."""
    kinds = (str, Mapping) if spec.metadata.get("table") else (str,)
    return isinstance(value, kinds) and "word" in spec.metadata and bool(spec.metadata["word"](value))


def _read(spec: dataclasses.Field[Any], value: Any) -> Any:
    """The value that a text stands for."""
    return spec.metadata["read"](value) if isinstance(value, str) and "read" in spec.metadata else value


def _finite(name: str, value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:  # an integer too large for a float
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be finite, got {number}")
    return number


def checked(spec: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
    """Check one value by a field's type and the limits in its metadata.

    Args:
        spec: The dataclass field. Its metadata may hold ``low`` and ``high`` (both inclusive), ``choices``, ``items``
            (choices of each item of a tuple), ``word`` (a function that says whether a text stands for a value of
            another type; a mapping, too, if ``table`` is true) and ``read`` (a function that turns a text into the
            value).
        kind: The field's type.
        value: The value; None passes if it is the default.

    Returns:
        The value; integers as floats and lists as tuples where the type says so.

    Raises:
        ConfigError: If the type or a limit is violated; it has the name and the value.
    """
    if _stands_for_value(spec, value) or (value is None and spec.default is None):
        return value
    value = _read(spec, value)
    kinds = _accepted(kind)
    wrong_bool = isinstance(value, bool) and bool not in kinds
    if wrong_bool or not isinstance(value, kinds):
        raise ConfigError(f"{spec.name} must be {spec.type}, got {value!r}")
    if isinstance(value, (tuple, list)):
        if not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{spec.name} must be {spec.type}, got {value!r}")
        known = spec.metadata.get("items", value)
        for item in value:
            if item not in known:
                raise ConfigError(f"unknown {spec.name} {item!r}{closest(item, known)}")
        return tuple(value)
    if "choices" in spec.metadata and value not in spec.metadata["choices"]:
        choices = spec.metadata["choices"]
        raise ConfigError(f"unknown {spec.name} {value!r}{closest(str(value), choices)}")
    if float in kinds:
        value = _finite(spec.name, value)
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    if low is not None and value < low:
        raise ConfigError(f"{spec.name} must be at least {low}, got {value}")
    if high is not None and value > high:
        raise ConfigError(f"{spec.name} must be at most {high}, got {value}")
    return value
