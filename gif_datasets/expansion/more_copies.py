"""Give seeds of an expanded folder more copies: its next generation, with shards of their own, made from its own seeds.

Copies count on after those that a seed has. What they are made by is what made the others: options, prior, guide, and
what follows from all seeds.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.config import AGNOSTIC, ExpansionConfig
from gif_datasets.errors import ConfigError, PlanMismatch, UsageError
from gif_datasets.expansion.plan import After, OwnColumns, Plan
from gif_datasets.expansion.recipe import make_recipe, with_population
from gif_datasets.expansion.run import Summary
from gif_datasets.expansion.tasks import Engine
from gif_datasets.expansion.update import (
    Difference,
    Update,
    carry_out,
    check_options,
    kept_of,
    kept_settings,
    population_of,
    refuse_merged,
)
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.digests import keys_of
from gif_datasets.io.images import is_grey
from gif_datasets.priors.guides import apart
from gif_datasets.ratios import MAX_RATIO
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import tar
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.generations import State, own_columns_of
from gif_datasets.sources.seed_table import SeedTable
from gif_datasets.sources.stored import StoredSeeds
from gif_datasets.types import Progress, Reading, Row, Seed, no_progress, silently


@dataclass(frozen=True, eq=False)
class Stored:
    """A finished folder, its seeds as its shards have them, and how its copies were made.

    Attributes:
        state: The folder.
        source: The images of its seeds.
        plan: The expansion of all of them that are samples, real and of the expanded split.
    """

    state: State
    source: StoredSeeds
    plan: Plan


def open_stored(folder: Path, given: Mapping[str, Any], device: str = "auto", show: Progress = no_progress) -> Stored:
    """Open a folder whose seeds are to get more copies.

    Args:
        folder: A finished folder on this machine.
        given: Options that cannot be read from the folder: a prior's or a guide's path. Others must be those of it.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        show: Wraps the loop over seeds.

    Raises:
        PlanMismatch: If its copies were made in a way that cannot go on.
        UsageError: If it has no seeds, or has not their own pixels.
    """
    opened = ExpandedFolder.open(folder)
    _refuse(opened)
    options, own_guide = apart(given)
    config = ExpansionConfig.build(kept_settings(folder, options))
    manifest, state = opened.manifest, State.of(opened)
    source = StoredSeeds(folder, manifest.source)
    recipe = make_recipe(config, manifest.classes, device, own_guide=own_guide)
    seeds = [
        _as_stored(stored.seed, source, opened)
        for number, stored in show(state.seeds.items(), Reading.SEEDS, len(state.seeds))
        if stored.split == manifest.split and number in source.places and not stored.seed.synthetic
    ]
    if not seeds:
        raise UsageError(f"{folder} has no real seeds among its samples; expand with originals=true")
    largest = max(shard.samples for shard in state.shards)
    own = manifest.plan.own_columns
    plan = Plan(
        manifest.source,
        recipe,
        SeedTable.of(seeds),
        validation_name=str(manifest.plan.content.get("validation") or ""),
        own=OwnColumns(tuple(own["features"]), "") if own else None,
        original_files=bool(manifest.plan.content.get(manifests.ORIGINAL_FILES)),
        after=After(manifest.plan_hash, dict(sorted(manifests.next_numbers(state.shards).items())), largest),
    )
    check_options(state, plan)
    return Stored(state, source, plan)


def add_copies(
    stored: Stored, more: Mapping[int, int], cache: Cache, engine: Engine, say: Callable[[str], None] = silently
) -> Summary:
    """Add copies of some seeds as the folder's next generation. Run again = resume, until the folder has it.

    Args:
        stored: The folder; it has to be opened again afterwards.
        more: How many copies each seed gets beside those that it has, by its number.
        cache: Where imagined samples are kept.
        engine: What runs tasks.
        say: Called with warnings.

    Raises:
        ConfigError: If a seed would have more than ``MAX_RATIO`` copies.
        UsageError: If the folder is being changed.
    """
    try:
        return carry_out(_update(stored, more), cache, engine, say=say)
    finally:
        stored.source.release()


def _refuse(folder: ExpandedFolder) -> None:
    """Refuse folders to which copies cannot be added as they were made."""
    refuse_merged(folder)
    options = folder.manifest.options
    if options.get("keep") in ("boxes", "masks"):
        raise PlanMismatch(f"{folder.path} keeps {options['keep']}, which further copies do not; expand without keep")
    if options.get("selection") == AGNOSTIC:
        raise PlanMismatch(f"{folder.path} has the best copies of all seeds together, which more would change")


def _as_stored(seed: Seed, source: StoredSeeds, folder: ExpandedFolder) -> Seed:
    pixels = np.asarray(source.sample(seed.index)[0])
    now, *before = keys_of(pixels)
    if seed.key in before:
        raise PlanMismatch(
            f"{folder.path} was made by an earlier version, which keyed images as large as {seed.origin} otherwise;"
            " expand again into another folder"
        )
    if seed.key != now:
        kind = folder.manifest.plan.recipe.image_format
        raise UsageError(
            f"{folder.path} stores {seed.origin} as {kind}, with other pixels than the seed has, and copies of those"
            " would be others; expand with image_format=png, webp or auto"
        )
    return dataclasses.replace(seed, grey=is_grey(pixels))


def _update(stored: Stored, more: Mapping[int, int]) -> Update:
    """The update that adds copies."""
    state, now, wanted = stored.state, stored.plan, {seed: count for seed, count in more.items() if count}
    everyone = {number: one.seed for number, one in state.seeds.items()}
    population = population_of(state, now, everyone)
    recipe = with_population(now.recipe, population) if population else now.recipe
    rows = _rows(stored, wanted)
    own = own_columns_of(state, wanted) if now.own else {}
    stored.source.own, digests = own, {number: hashlib.sha256(content).hexdigest() for number, content in own.items()}
    seeds = SeedTable.of(dict.fromkeys(seed for seed, _ in rows))
    plan = dataclasses.replace(
        now,
        recipe=dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, originals=False)),
        seeds=seeds,
        chosen=tuple(rows),
        own=now.own and OwnColumns(now.own.features, tar.own_digest(digests)),
    )
    difference = Difference(
        generation=len(state.generations) + 1,
        same=len(state.seeds),
        new=(),
        changed=(),
        left=(),
        left_stay=True,
        refused=(),
        copies=len(rows),
        shards=len(plan.shard_names),
        rewritten=0,
        kept=kept_of(state, plan, len(population)),
    )
    leaving, all_seeds = state.leaving(()), population or list(now.seeds)
    return Update(state, stored.source, plan, (), all_seeds, leaving, (), difference, wanted)


def _rows(stored: Stored, more: Mapping[int, int]) -> list[Row]:
    """The copies to make: each counts on from the highest number that its seed has or had."""
    manifest, entries = stored.state.folder.manifest, stored.state.entries
    last, uneven = Counter[int](), stored.plan.recipe.config.uneven
    left_out = [parsed for key in manifest.left_out if (parsed := tar.parse_key(key))]
    pairs = [*zip(entries.seed.tolist(), entries.copy.tolist(), strict=True), *((seed, c) for _, seed, c in left_out)]
    for number, copy in pairs:
        last[number] = max(last[number], copy)
    rows = list[Row]()
    by_number = {seed.index: seed for seed in stored.plan.seeds}
    for number, count in sorted(more.items()):
        seed, before = by_number[number], last[number]
        if before + count > MAX_RATIO:
            raise ConfigError(f"{seed.origin} would have {before + count} copies; at most {MAX_RATIO} are possible")
        if uneven:  # made as the first ones were, whose number they depend on
            seed = dataclasses.replace(seed, copies=max(1, before - manifest.plan.more[number]))
        rows += [(seed, before + copy) for copy in range(1, count + 1)]
    return rows
