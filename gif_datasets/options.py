"""Values of options: written as text, held in a TOML file, checked against a dataclass field's type and limits."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

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
    """Return ``"; did you mean 'x'?"`` or the whole choice, for an error message."""
    return did_you_mean(name, known) or f"; known: {', '.join(sorted(known))}"


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file; raises ConfigError if it cannot be read."""
    try:
        return read_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "tuple[str, ...]": (tuple, list),
}


def _finite(name: str, value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:  # an integer beyond any float
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be finite, got {number}")
    return number


def checked(spec: dataclasses.Field[Any], value: Any) -> Any:
    """One value of a dataclass field, by its type and the limits in its metadata; raises ConfigError naming both."""
    if value is None and spec.default is None:
        return None
    if isinstance(value, str) and "read" in spec.metadata:
        value = spec.metadata["read"](value)
    kinds = _TYPES[str(spec.type).removesuffix(" | None")]
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
