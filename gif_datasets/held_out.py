"""A test set of its own: none of its pictures among the seeds, nor among what a prior was trained on."""

from __future__ import annotations

import inspect
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gif_datasets.duplicates import BITS, both_ways, near_duplicates, perceptual_hash
from gif_datasets.errors import ConfigError, SourceError
from gif_datasets.option_values import closest
from gif_datasets.priors import PriorInfo
from gif_datasets.sources.base import SeedList, Source, list_seeds
from gif_datasets.sources.joined import JoinedSource
from gif_datasets.types import Progress, Seed

SHARED = ("refuse", "drop", "allow")
_PARTS = ("train", "split")
"""Options that say which part of a dataset a source is."""


@dataclass(frozen=True)
class HeldOut:
    """A test set.

    Attributes:
        source: The seeds' source, followed by the test source; labels are the former's.
        name: Name of the test source.
        seeds: Its pictures, as ``source`` counts them.
        left_out: A message for each picture that was left out, because the seeds show it too.
        bad: A message for each picture that cannot be read.
    """

    source: Source
    name: str
    seeds: tuple[Seed, ...]
    left_out: tuple[str, ...]
    bad: tuple[str, ...]


def hold_out_source(source: Source, listed: SeedList, test: Source, shared: str, show: Progress) -> HeldOut:
    """Read a test set, and look for its pictures among the seeds: the same pixels, and the same to the eye.

    Args:
        source: The seeds' source.
        listed: The seeds.
        test: The test source; its classes are found in ``source`` by name.
        shared: What to do with pictures that both show: ``"refuse"`` the test set, ``"drop"`` them from it, or
            ``"allow"`` them.
        show: Wraps the loops.

    Raises:
        SourceError: If its classes or pictures do not fit.
    """
    if shared not in SHARED:
        raise ConfigError(f"unknown shared {shared!r}{closest(shared, SHARED)}")
    joined = JoinedSource(source, test, "test set")
    found = list_seeds(test, progress=lambda rows: show(rows, "reading test set"))
    seeds = joined.validation_seeds(found)
    for name, rows in ((source.name, listed.seeds), (test.name, seeds)):
        made = next((seed for seed in rows if seed.synthetic), None)
        if made is not None:
            raise SourceError(f"{name} holds imagined pictures, such as {made.origin}; compare takes real ones alone")
    same = {} if shared == "allow" else _same(joined, listed.seeds, seeds, show)
    if same and (shared == "refuse" or len(same) == len(seeds)):
        ways = "give a test set of other pictures" + (
            ", or --shared drop to leave these out" if shared != "drop" else ""
        )
        raise SourceError(
            f"{len(same)} of {len(seeds)} pictures of the test set {test.name} are among the seeds of {source.name};"
            f" the first: {next(iter(same.values()))}; {ways} (--shared allow to keep them)"
        )
    kept = tuple(seed for number, seed in enumerate(seeds) if number not in same)
    return HeldOut(joined, test.name, kept, tuple(same.values()), found.bad)


def _same(source: Source, seeds: Sequence[Seed], tests: Sequence[Seed], show: Progress) -> dict[int, str]:
    """Those test pictures that the seeds show too, by number, with what is the same."""
    origins = {seed.key: seed.origin for seed in seeds}
    known = np.stack([perceptual_hash(source.sample(seed.index)[0]) for seed in show(seeds, "looking for duplicates")])
    asked = [both_ways(source.sample(test.index)[0]) for test in show(tests, "looking for duplicates")]
    near = near_duplicates(known, asked)
    found = {}
    for number, test in enumerate(tests):
        if test.key in origins:
            found[number] = f"{test.origin} has the pixels of {origins[test.key]}"
        elif number in near:
            nearest, bits = near[number]
            found[number] = f"{test.origin} looks like {seeds[nearest].origin} ({bits} of {BITS} bits differ)"
    return found


def refuse_seen(test: Any, prior: PriorInfo) -> None:
    """Refuse a test source that the prior's card names as training data.

    Args:
        test: The test source's text, or a dataset of torchvision's, below a ``Subset`` too; of others nothing is known.
        prior: The prior.

    Raises:
        SourceError: If it is.
    """
    for listed in prior.training_sources:
        if is_part_of(test, listed):
            raise SourceError(
                f"prior {prior.name!r} was trained on {listed}, which the test set is of: it would be tested on what it"
                " has seen; give another test set, or --allow-seen"
            )


def is_part_of(source: Any, listed: str) -> bool:
    """Whether a source is, or holds, the one that is listed: the same dataset, and each option that the latter names.

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
    """How a prior's card lists a source that it was trained on, part by part; nothing where no name tells it.

    Example:
        >>> as_listed("hf:me/cells?split=train%2Btest&image=img"), as_listed("my-pictures")
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
