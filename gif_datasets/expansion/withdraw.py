"""Withdraw seeds from an expanded folder: they, their copies, and whatever shows them leave its bytes and the cache."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.config import uniform_options
from gif_datasets.errors import ConfigError, UsageError, did_you_mean
from gif_datasets.expansion.recipe import embeddings_keys, guidance_key
from gif_datasets.io import atomic
from gif_datasets.io.cache.store import Cache, open_cache
from gif_datasets.io.digests import digest
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import as_path
from gif_datasets.shards import generations, switch, tar
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.generations import State
from gif_datasets.shards.manifest import GENERATIONS, withdrawn_digest
from gif_datasets.sources import known_files

_DONE = Path(".state") / "withdrawn.json"
"""Digest of what the latest withdrawal was asked for, so that it can be asked for again; never published."""


@dataclass(frozen=True)
class Withdrawal:
    """What a withdrawal did.

    Attributes:
        folder: The expanded folder.
        generation: Which generation of it this is.
        seeds: Names of the seeds that were withdrawn; empty if that was done before.
        samples: Samples that left the folder.
        unmixed: Those of them that are copies of other seeds, and showed one that was withdrawn.
        rewritten: Shards that were written for what is left of those that the samples were in.
        removed: Shards that had no sample left.
        cache: The cache that was searched.
        cache_entries: Entries that were removed from it.
        seconds: Wall-clock time.
    """

    folder: str
    generation: int
    seeds: tuple[str, ...]
    samples: int
    unmixed: int
    rewritten: int
    removed: int
    cache: str
    cache_entries: int
    seconds: float


def withdraw(
    folder: str | Path,
    seeds: Iterable[str] = (),
    *,
    column: str | None = None,
    cache_dir: str | Path | None = None,
) -> Withdrawal:
    """Withdraw seeds from an expanded folder: the command ``gif-datasets withdraw`` as a function.

    The seeds, all their copies, copies of others that show a part of them, their records and their cache entries are
    removed. Shards that they were in are written again, and no others. The manifest keeps how many there were, and
    digests of their keys and images: an update leaves these out, and ``verify`` looks for them. Run again = resume.

    Args:
        folder: A finished folder on this machine.
        seeds: Of each, its name (``seed_origin``, such as ``b/3.png``), its key (``seed_key``), or the key of one of
            its samples. Seeds with the same image go together.
        column: ``NAME=VALUE``: all seeds with this value in a column that the source has of its own.
        cache_dir: Where imagined samples are kept.

    Raises:
        UsageError: If nothing is so called, or the folder is being read or changed; nothing is removed then.
        ShardError: If the folder is damaged.

    Example:
        >>> import tempfile
        >>> from gif_datasets import expand
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = expand("demo", folder, ratio=1, prior="linear", limit=20)
        ...     found = withdraw(folder, ["airplane/00-40355.png"])
        >>> found.generation, found.seeds, found.samples
        (2, ('airplane/00-40355.png',), 2)
    """
    started, path, wanted = time.monotonic(), as_path(folder), list(dict.fromkeys(seeds))
    if not isinstance(path, Path):
        raise ConfigError(
            f"a withdrawal changes folders on this machine, got {path}; withdraw from a copy, and send it"
        )
    if not wanted and column is None:
        raise ConfigError("nothing to withdraw: name seeds, or a column and a value")
    cache, opened = open_cache(cache_dir), ExpandedFolder.open(path)
    state, request = State.of(opened), digest([sorted(wanted), column])
    numbers = _numbers(state, wanted, column, _was_done(opened, request))
    keys = {state.seeds[number].seed.key for number in numbers}
    leaving = state.leaving(number for number, one in state.seeds.items() if one.seed.key in keys)
    with switch.changing(path):
        state.check_current()
        entries = _clear_cache(cache, state, keys, set(state.images(leaving.rows)))
        if numbers:
            switch.tidy(path)
            note = {"request": request}
            opened = generations.succeed(state, leaving, never=keys, beside={_DONE: atomic.json_bytes(note)})
    last = opened.manifest.plan.generations[-1] if numbers else None
    return Withdrawal(
        folder=str(path),
        generation=max(1, len(opened.manifest.plan.generations)),
        seeds=tuple(state.seeds[number].seed.origin for number in sorted(leaving.numbers)),
        samples=int(leaving.rows.sum()),
        unmixed=last.unmixed if last else 0,
        rewritten=len(leaving.written),
        removed=len(leaving.gone),
        cache=str(cache.folder),
        cache_entries=entries,
        seconds=round(time.monotonic() - started, 1),
    )


def _was_done(folder: ExpandedFolder, request: str) -> bool:
    """Whether the folder's latest generation is a withdrawal of the same."""
    try:
        return bool(read_json((folder.local / _DONE).read_bytes())["request"] == request)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _numbers(state: State, wanted: Sequence[str], column: str | None, done: bool) -> set[int]:
    """The seeds that are meant.

    Raises:
        UsageError: If a name is unknown, or has two meanings.
    """
    by_name: dict[str, set[int]] = {}
    for number, stored in state.seeds.items():
        for name in (stored.seed.origin, stored.seed.key):
            by_name.setdefault(name, set()).add(number)
    found = set[int]()
    for name in wanted:
        parts = tar.parse_key(name)
        numbers = by_name.get(name) or ({parts[1]} if parts and parts[1] in state.seeds else set())
        keys = sorted({state.seeds[number].seed.key for number in numbers})
        if len(keys) > 1:
            raise UsageError(f"{len(keys)} seeds are called {name!r}; give their keys: {', '.join(keys)}")
        if not numbers and not done and withdrawn_digest(name) not in state.folder.manifest.plan.withdrawn:
            raise UsageError(
                f"no seed of {state.folder.path} is called {name!r}{did_you_mean(name, by_name)}; nothing was"
                " withdrawn: give the name or the key that the samples' records have (seed_origin, seed_key)"
            )
        found |= numbers
    if column is not None:
        of_column = set(_with_value(state, column))
        if not of_column and not done:
            raise UsageError(f"no seed of {state.folder.path} has {column}; nothing was withdrawn")
        found |= of_column
    return found


def _with_value(state: State, column: str) -> Iterator[int]:
    """Seeds that have a value in a column of the source's own."""
    name, equals, value = column.partition("=")
    own = state.folder.manifest.plan.own_columns
    if not equals:
        raise ConfigError(f"a column and its value are given as NAME=VALUE, got {column!r}")
    names = [feature["name"] for feature in own["features"]] if own else []
    if name not in names:
        known = f"it has {', '.join(names)}" if names else "the samples have no columns of their source"
        raise UsageError(f"{state.folder.path} has no column {name!r}; {known}")
    for number, row in generations.own_rows(state):
        found = row.get(name)
        if value == (found if isinstance(found, str) else json.dumps(found)):
            yield number


# --- the cache ----------------------------------------------------------------------------------------------------


def _recipes(state: State) -> list[dict[str, Any]]:
    """The recipe of each generation of a folder, or of each folder that it was merged from.

    Where the ratio differs between classes, those that the copies were made by: one for each number of copies.
    """
    plan = state.folder.manifest.plan
    listed = [(plan.recipe.content, [generation.to_json() for generation in state.generations])]
    if plan.merged:
        listed = [(part["recipe"], part.get(GENERATIONS) or [part["recipe"]]) for part in plan.merged]
    names = ("population", "device", "versions")
    counts = sorted({int(count) for count in np.unique(state.entries.copy) if count})
    return [
        {**recipe, "options": options, **{name: entry[name] for name in names if name in entry}}
        for recipe, entries in listed
        for entry in entries
        for options in _even(recipe["options"], counts)
    ]


def _even(options: dict[str, Any], counts: Sequence[int]) -> list[dict[str, Any]]:
    """The options, or those for each number of copies."""
    return [options] if type(options["ratio"]) is int else [uniform_options(options, count) for count in counts]


def _clear_cache(cache: Cache, state: State, keys: set[str], images: set[str]) -> int:
    """Remove what a cache has of some seeds: samples, guidance, embeddings of all seeds together, and their keys."""
    if not keys:
        return 0
    recipes = _recipes(state)
    found, removed = cache.drop_seeds(keys, images)
    seeds = {(one.seed.key, one.seed.label) for one in state.seeds.values() if one.seed.key in keys}
    attempts = range(1 + max(int(recipe["options"].get("redraws") or 0) for recipe in recipes))
    guidance = itertools.product({*found, *map(digest, recipes)}, seeds, attempts)
    cache.drop_tensors(guidance_key(recipe, *seed, attempt) for recipe, seed, attempt in guidance)
    cache.drop_tensors(key for recipe in recipes for key in embeddings_keys(recipe))
    known_files.forget(cache, keys)
    return removed
