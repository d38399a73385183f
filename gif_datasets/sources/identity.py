"""Whether two sources are the same dataset, by their names and options."""

from __future__ import annotations

import inspect
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

_PARTS = ("train", "split")
"""Options that say which part of a dataset a source is."""


def is_part_of(source: Any, listed: str) -> bool:
    """Whether a source is, or holds, the one that is listed: the same dataset, and each option that this names.

    Example:
        >>> is_part_of("torchvision:CIFAR10?root=data", "torchvision:CIFAR10?train=true")
        True
        >>> is_part_of("hf:uoft-cs/cifar10?split=test", "hf:uoft-cs/cifar10?split=train")
        False
    """
    if hasattr(source, "indices") and hasattr(source, "dataset"):  # a Subset
        return is_part_of(source.dataset, listed)
    scheme, _, rest = listed.partition(":")
    name, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query))
    own_scheme, own_name, own = _named(source, tuple(options))
    same = own_scheme == scheme and own_name.lower() == name.lower()
    return same and all(_covers(own.get(key, ""), value) for key, value in options.items())


def as_listed(source: Any) -> tuple[str, ...]:
    """How a prior's card lists a source that it was trained on, part by part; nothing if its name does not say it.

    Example:
        >>> as_listed("hf:me/cells?split=train%2Btest&image=img"), as_listed("my-images")
        (('hf:me/cells?split=train', 'hf:me/cells?split=test'), ())
    """
    scheme, name, options = _named(source, _PARTS)
    if scheme not in ("torchvision", "hf") or options.keys().isdisjoint(_PARTS):
        return ()
    part = next(key for key in _PARTS if key in options)
    values = [_plain(re.sub(r"\[.*", "", value)) for value in options[part].split("+")]
    return tuple(f"{scheme}:{name}?{part}={value}" for value in values)


def _named(source: Any, asked: Sequence[str]) -> tuple[str, str, dict[str, str]]:
    """Scheme, name and options of a source: of its text, what that leaves open too; of an object, what is asked for."""
    if not isinstance(source, str):
        options = {key: str(value) for key in asked if (value := getattr(source, key, None)) is not None}
        return type(source).__module__.partition(".")[0], type(source).__name__, options
    scheme, _, rest = source.partition(":")
    name, _, query = rest.partition("?")
    return scheme, name, {**_defaults(scheme, name), **dict(urllib.parse.parse_qsl(query))}


def _defaults(scheme: str, name: str) -> dict[str, str]:
    """Options that a source has where its text does not say."""
    if scheme == "hf":
        return {"split": "train"}
    if scheme != "torchvision":
        return {}
    import torchvision.datasets

    factory = getattr(torchvision.datasets, name, None)
    parameters = inspect.signature(factory).parameters if factory is not None else {}
    return {key: str(parameters[key].default) for key in parameters if parameters[key].default is not inspect._empty}


def _covers(own: str, listed: str) -> bool:
    """Whether an option's value names the one that is listed: itself, a slice of it, it and others, or all."""
    parts = {_plain(re.sub(r"\[.*", "", part)) for part in own.split("+")}
    return not parts.isdisjoint({_plain(listed), "all"})


def _plain(value: str) -> str:
    """An option's value, however it is spelled."""
    value = value.strip().lower()
    return {"1": "true", "0": "false"}.get(value, value)
