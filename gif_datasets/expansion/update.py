"""Update an expanded folder from its source: new images get shards of their own, and the others keep theirs.

What follows from all seeds, such as a fitted classifier, the partners of mixes or a strength that was chosen, is kept
as the first generation had it, or the update is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gif_datasets.config import AUTO, ExpansionConfig
from gif_datasets.errors import ConfigError, PlanMismatch, UsageError, escaped
from gif_datasets.expansion.estimate import Asked, Estimate
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.open import Opened
from gif_datasets.expansion.plan import PLAN_FORMAT, After, OwnColumns, Plan, with_copies
from gif_datasets.expansion.recipe import with_population
from gif_datasets.expansion.run import WHOLE, Made, PlanPart, Summary, make, partly, summarise
from gif_datasets.expansion.tasks import Engine
from gif_datasets.io import atomic
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.digests import keys_of
from gif_datasets.io.stores import AnyPath
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import switch, tar
from gif_datasets.shards.columns import SOURCE
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.folder import difference
from gif_datasets.shards.generations import Added, Leaving, State, StoredSeed, succeed
from gif_datasets.shards.manifest import ORIGINAL_FILES, read_manifest
from gif_datasets.shards.rejections import LeftOut
from gif_datasets.sources.base import WARNED, Source
from gif_datasets.sources.numbered import NumberedSource
from gif_datasets.sources.own_columns import own_members
from gif_datasets.sources.seed_table import SeedTable
from gif_datasets.types import OBJECTS, PLAN_FILE, VALIDATION, Seed, silently

if TYPE_CHECKING:
    from gif_datasets.priors.base import Prior

_OF_EACH_RUN = ("versions", "device", "population")
"""Fields of a recipe that another generation may have otherwise."""


@dataclass(frozen=True)
class Difference:
    """What an update would do.

    Attributes:
        generation: The folder's generation afterwards.
        same: Seeds that stay.
        new: Names of images that are new, and of changed ones as they are now.
        changed: Names of seeds whose image or label is another one now; they are removed and made again.
        left: Names of seeds that are no longer in the source.
        left_stay: Whether these stay in the folder.
        refused: Names of images that were withdrawn from the folder, and are left out.
        copies: Copies that will be made.
        shards: Shards that will be written for new images.
        rewritten: Shards that will be written again because samples leave some.
        kept: What follows from all seeds, and is kept as the first generation had it.
    """

    generation: int
    same: int
    new: tuple[str, ...]
    changed: tuple[str, ...]
    left: tuple[str, ...]
    left_stay: bool
    refused: tuple[str, ...]
    copies: int
    shards: int
    rewritten: int
    kept: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Update:
    """An update, fixed: the folder as it is, what leaves it, and the plan of what is added."""

    state: State
    source: NumberedSource
    plan: Plan
    seeds: tuple[StoredSeed, ...]
    population: Sequence[Seed]
    leaving: Leaving
    left: tuple[StoredSeed, ...]
    difference: Difference
    more: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Copies to add to seeds that are there, by the seed's number."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.seeds and not self.leaving.numbers and not self.more


def kept_settings(folder: AnyPath, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an update: those that are given, over those of the finished folder, which need not be repeated."""
    opened = ExpandedFolder.find(folder)
    if opened is None:
        return dict(given)
    refuse_merged(opened)
    plan = opened.manifest.plan
    if (method := given.get("method", plan.recipe.method)) != plan.recipe.method:
        raise _other_options(folder, f"options.method: {plan.recipe.method!r} there, {method!r} here")
    again = {"strength"} if isinstance(given.get("strength"), str) and "strength_choice" in plan.content else set()
    again |= {"image_format"} if given.get("image_format") == AUTO else set()
    return {**plan.settings, **{name: value for name, value in given.items() if name not in again}}


def refuse_merged(folder: ExpandedFolder) -> None:
    """Raise PlanMismatch for a folder that several expansions were merged into."""
    if parts := len(folder.manifest.plan.merged):
        raise PlanMismatch(
            f"{folder.path} was merged from {parts} expansions, and no one plan makes it; update each of them, and"
            " merge again"
        )


def plan_update(opened: Opened, folder: ExpandedFolder, withdraw_missing: bool = False) -> Update:
    """Compare a source with what a folder was made of, and fix what an update does.

    Args:
        opened: The source as it is now, and the plan that it would have by itself.
        folder: The finished folder.
        withdraw_missing: Whether seeds that are no longer in the source leave the folder.

    Raises:
        PlanMismatch: If the options are not those of the first generation, or what follows from all seeds cannot be
            kept; or if the folder was merged from several.
        UsageError: If the source is another dataset.
    """
    refuse_merged(folder)
    state, now = State.of(folder), opened.plan
    check_options(state, now)
    digests = _own_digests(opened.source, [*now.seeds.indices.tolist(), *now.validation.indices.tolist()])
    found = _compare(state, now, digests, opened.source)
    if not found.same:
        raise UsageError(f"no image of {now.source_name} is in {folder.path}; an update needs the folder's own source")
    leaving = state.leaving(stored.seed.index for stored in (*found.changed, *(found.left if withdraw_missing else ())))
    population = population_of(state, now, found.same)
    places = {number: seed.index for number, seed in found.same.items()}
    first, seeds = state.generations[-1].next_seed, list[StoredSeed]()
    for number, (split, seed) in enumerate(found.new, first):
        places[number] = seed.index
        seeds.append(StoredSeed(dataclasses.replace(seed, index=number), split, digests.get(seed.index, "")))
    numbers = manifests.next_numbers(state.shards)
    for name in leaving.written:
        numbers[manifests.split_of(name)] += 1
    of_split = {
        held: SeedTable.of(one.seed for one in seeds if (one.split != folder.manifest.split) == held)
        for held in (False, True)
    }
    own = now.own and OwnColumns(now.own.features, tar.own_digest({one.seed.index: one.own for one in seeds}))
    largest = max(shard.samples for shard in state.shards)
    plan = dataclasses.replace(
        now,
        recipe=with_population(now.recipe, population) if population else now.recipe,
        seeds=with_copies(of_split[False], now.recipe, _present(state, leaving)),
        validation=of_split[True],
        limit=None,
        own=own,
        original_files=bool(folder.manifest.plan.content.get(ORIGINAL_FILES)),
        after=After(folder.manifest.plan_hash, dict(sorted(numbers.items())), largest),
    )
    return Update(
        state,
        NumberedSource(opened.source, places),
        plan,
        tuple(seeds),
        population or plan.seeds,
        leaving,
        () if withdraw_missing else found.left,
        _difference(state, plan, found, leaving, len(population), withdraw_missing),
    )


def estimate_update(
    source: Any, out: AnyPath, *, withdraw_missing: bool = False, **asked: Any
) -> tuple[Difference, Estimate | None]:
    """What an update would do, without doing it, and what it would take: ``gif-datasets plan --update``.

    Args:
        source: A source's text, or a dataset object.
        out: The folder to update.
        withdraw_missing: Whether seeds that are no longer in the source are to leave.
        asked: Fields of :class:`~gif_datasets.expansion.estimate.Asked`; a limit is refused.

    Returns:
        The difference, and the estimate; None where no copies will be made.

    Raises:
        UsageError: If the folder is not finished, and as :func:`plan_update`.
    """
    wanted = Asked(**asked)
    folder = to_update(out, True, withdraw_missing, wanted.limit) or ExpandedFolder.open(out)
    config = wanted.config or ExpansionConfig.build(kept_settings(out, {}))
    opened, reading = dataclasses.replace(wanted, config=config).open(source, adds=True)
    found = plan_update(opened, folder, withdraw_missing)
    if not found.plan.copies.any():
        return found.difference, None
    return found.difference, wanted.measure(found.plan, found.source, reading)


def update(
    opened: Opened,
    folder: ExpandedFolder,
    cache: Cache,
    engine: Engine,
    *,
    withdraw_missing: bool = False,
    given: Prior | None = None,
    part: PlanPart = WHOLE,
    say: Callable[[str], None] = silently,
) -> Summary:
    """Bring a finished folder up to date with its source. Run again = resume.

    Args:
        opened: The source as it is now.
        folder: The finished folder.
        cache: Where imagined samples are kept.
        engine: What runs tasks.
        withdraw_missing: Whether seeds that are no longer in the source leave the folder; otherwise they stay.
        given: A prior of the user's own, already loaded.
        part: Make this part of the new shards; the last part that is made finishes the update.
        say: Called with warnings.

    Raises:
        PlanMismatch: As :func:`plan_update`.
        UsageError: If the folder is being changed, or is being read and shards must be written again.
    """
    wanted = plan_update(opened, folder, withdraw_missing)
    refused = tuple(f"{name}: withdrawn from {folder.path}" for name in wanted.difference.refused)
    if refused:
        warnings.warn(escaped(f"left out {len(refused)} images: {'; '.join(refused[:WARNED])}"), stacklevel=3)
    return carry_out(wanted, cache, engine, (*opened.listed.bad, *refused), given=given, part=part, say=say)


def carry_out(
    wanted: Update,
    cache: Cache,
    engine: Engine,
    bad: tuple[str, ...] = (),
    *,
    given: Prior | None = None,
    part: PlanPart = WHOLE,
    say: Callable[[str], None] = silently,
) -> Summary:
    """Make what an update adds, and the folder's next generation; the arguments are those of :func:`update`."""
    started, folder = time.monotonic(), wanted.state.folder
    path = folder.local
    if wanted.empty:
        found = summarise(folder, bad=bad)
        return dataclasses.replace(found, left=wanted.difference.left)
    added, before = path / switch.ADDED, folder.manifest.content
    if wanted.leaving.numbers:
        switch.check_unread(path)
    with switch.working(path):
        _drop_other(added, wanted.plan)
        recipe, original_files = wanted.plan.recipe, wanted.plan.original_files
        imaginer = Imaginer(recipe, wanted.source, cache, wanted.population, given, original_files)
        made = make(wanted.plan, wanted.source, added, engine, imaginer, part, say)
    if len(made.shards) < len(made.plan.shard_names) and read_manifest(path).content == before:
        some = partly(path, made, bad, time.monotonic() - started)
        return dataclasses.replace(some, generation=wanted.difference.generation)
    with switch.changing(path, wait=True, shards=bool(wanted.leaving.numbers)):
        current = ExpandedFolder.open(path)
        after = [generation.after for generation in current.manifest.plan.generations]
        if after[-1:] != [folder.manifest.plan_hash]:  # else another part has finished the update
            wanted.state.check_current()
            current = succeed(wanted.state, wanted.leaving, _added(added, wanted, made))
    return dataclasses.replace(
        summarise(current, made.generated, bad, time.monotonic() - started),
        added=len(wanted.seeds),
        withdrawn=len(wanted.leaving.numbers),
        left=tuple(one.seed.origin for one in wanted.left),
    )


def _added(folder: Path, wanted: Update, made: Made) -> Added | None:
    """What was made, for the next generation; None if seeds only leave."""
    if not made.shards:
        return None
    recipe = made.plan.recipe
    return Added(
        folder,
        [made.shards[number] for number in sorted(made.shards)],
        wanted.seeds,
        made.own.get(SOURCE),
        recipe.device,
        recipe.to_json()["versions"],
        recipe.population,
        wanted.difference.kept,
        made.plan.revision,
        wanted.more,
    )


def _drop_other(folder: Path, plan: Plan) -> None:
    """Remove what an update of another content has left."""
    path = folder / PLAN_FILE
    if folder.exists() and not (path.is_file() and path.read_bytes() == atomic.json_bytes(plan.json)):
        shutil.rmtree(folder, ignore_errors=True)


# --- what differs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    """Seeds of a source and of a folder, compared.

    Attributes:
        same: Seeds of the source that are in the folder, by their number there.
        new: Those that are not, each with its split.
        changed: Seeds of the folder whose image, label, objects or own columns are others now.
        left: Seeds of the folder that the source has no longer.
        refused: Seeds of the source that were withdrawn from the folder.
    """

    same: dict[int, Seed]
    new: list[tuple[str, Seed]]
    changed: tuple[StoredSeed, ...]
    left: tuple[StoredSeed, ...]
    refused: tuple[Seed, ...]


def _compare(state: State, now: Plan, digests: Mapping[int, str], source: Source) -> _Found:
    """Find each seed again, by its image, label, objects and own columns: by its name first, then under any name."""
    manifest, by_identity = state.folder.manifest, dict[tuple[Any, ...], list[int]]()
    apart = bool(now.validation_name)  # two sources: an image that is in the other one now has changed sides
    for number, stored in state.seeds.items():
        side = stored.split if apart else ""
        seed = stored.seed
        by_identity.setdefault((seed.key, seed.label, seed.objects, stored.own, side), []).append(number)
    keys, same = {stored.seed.key for stored in state.seeds.values()}, dict[int, Seed]()
    listed = [*((manifest.split, seed) for seed in now.seeds), *((VALIDATION, seed) for seed in now.validation)]
    never = manifest.plan.withdrawn
    refused = [seed for _, seed in listed if never and seed.key not in keys and _is_among(never, source, seed)]
    out = {seed.index for seed in refused}
    rest = [(split, seed) for split, seed in listed if seed.index not in out]

    def is_new(split: str, seed: Seed, named: bool) -> bool:
        own, side = digests.get(seed.index, ""), split if apart else ""
        numbers = by_identity.get((seed.key, seed.label, seed.objects, own, side), [])
        for number in numbers:
            if not named or state.seeds[number].seed.origin == seed.origin:
                numbers.remove(number)
                same[number] = seed
                return False
        return True

    for named in (True, False):
        rest = [(split, seed) for split, seed in rest if is_new(split, seed, named)]
    gone = [stored for number, stored in state.seeds.items() if number not in same]
    new_keys, origins = {seed.key for _, seed in rest}, {seed.origin for _, seed in rest}
    changed = tuple(one for one in gone if one.seed.key in new_keys or one.seed.origin in origins)
    numbers = {one.seed.index for one in changed}
    left = tuple(one for one in gone if one.seed.index not in numbers)
    sides = {state.seeds[number].seed.key: state.seeds[number].split for number in same}
    sides |= {stored.seed.key: stored.split for stored in left}
    new = sorted(((sides.get(seed.key, split), seed) for split, seed in rest), key=lambda one: one[1].index)
    return _Found(same, new, changed, left, tuple(refused))


def _is_among(withdrawn: Container[str], source: Source, seed: Seed) -> bool:
    """Whether an image that is not in the folder was withdrawn from it, by this version or an earlier one."""
    if manifests.withdrawn_digest(seed.key) in withdrawn:
        return True
    pixels = np.asarray(source.sample(seed.index)[0])
    return any(manifests.withdrawn_digest(key) in withdrawn for key in keys_of(pixels))


def _present(state: State, leaving: Leaving) -> Counter[int]:
    """By label, the seeds that stay in the expanded split and their copies, with those that were left out."""
    split, stays = state.folder.manifest.split, Counter[int]()
    for number, stored in state.seeds.items():
        if stored.split == split and number not in leaving.numbers:
            stays[stored.seed.label] += 1
    copies = (state.entries.copy > 0) & ~np.isin(state.entries.seed, sorted(leaving.numbers))
    stays.update(state.entries.label[copies].tolist())
    left_out = map(LeftOut.from_json, state.folder.manifest.left_out.values())
    stays.update(one.seed[1] for one in left_out if one.copy and one.seed[2] not in leaving.numbers)
    return stays


def _own_digests(source: Source, indices: Sequence[int]) -> dict[int, str]:
    """Digest of the source's own columns of each seed; none where it has none."""
    members = own_members(source, indices) or {}
    return {index: hashlib.sha256(content).hexdigest() for index, content in members.items()}


def _difference(
    state: State, plan: Plan, found: _Found, leaving: Leaving, population: int, withdraw_missing: bool
) -> Difference:
    return Difference(
        generation=len(state.generations) + bool(found.new or leaving.numbers),
        same=len(found.same),
        new=tuple(seed.origin for _, seed in found.new),
        changed=tuple(stored.seed.origin for stored in found.changed),
        left=tuple(stored.seed.origin for stored in found.left),
        left_stay=not withdraw_missing,
        refused=tuple(seed.origin for seed in found.refused),
        copies=int(plan.copies.sum()),
        shards=len(plan.shard_names),
        rewritten=len(leaving.written),
        kept=kept_of(state, plan, population),
    )


# --- what must not differ -----------------------------------------------------------------------------------------


def check_options(state: State, now: Plan) -> None:
    """Refuse other options than the first generation's, and methods that choose among the copies of all seeds."""
    plan, path = state.folder.manifest.plan.content, state.folder.path
    before, wanted = _comparable(plan), _comparable(_settled(now))
    if before != wanted:
        raise _other_options(path, difference(before, wanted), f": with these, {_whole(now)}")
    if now.recipe.config.uneven and not now.recipe.config.originals:
        raise PlanMismatch(
            f"{path} has no originals, so it does not say which seeds had no copies by ratio"
            f" {now.recipe.config.ratio!r}; choose another --out: {_whole(now)}"
        )
    if now.recipe.config.keeps and any(stored.seed.objects is None for stored in state.seeds.values()):
        raise PlanMismatch(
            f"{path} lacks originals, so it does not say what is marked in their images; choose another --out:"
            f" {_whole(now)}"
        )
    if now.recipe.config.agnostic:
        raise PlanMismatch(
            f"{path} has the best copies of all seeds together, which new seeds change; choose another --out:"
            f" {_whole(now)}"
        )


def _other_options(path: AnyPath, what: str, cost: str = "") -> PlanMismatch:
    return PlanMismatch(
        f"{path} was made with other options ({what}); leave them out to keep the first ones, or choose another"
        f" --out{cost}"
    )


def _settled(now: Plan) -> dict[str, Any]:
    """What :func:`_comparable` reads of a plan's JSON, without the digests of all seeds."""
    config = now.recipe.config
    own = {name: getattr(config, name) for name in ("split", "validation_share", "originals")}
    columns = {"own_columns": dataclasses.asdict(now.own)} if now.own else {}
    kept = {**columns, **now.kept_objects}
    return {"format": PLAN_FORMAT, **own, "validation": now.validation_name, "recipe": now.recipe.to_json(), **kept}


def _comparable(plan: Mapping[str, Any]) -> dict[str, Any]:
    names = ("format", "split", "validation_share", "originals", OBJECTS)
    recipe = {name: value for name, value in plan["recipe"].items() if name not in _OF_EACH_RUN}
    fields = {name: plan.get(name) for name in names}
    compared = {**fields, "validation": bool(plan.get("validation")), "recipe": recipe, "own_columns": _features(plan)}
    found: dict[str, Any] = json.loads(json.dumps(compared))
    return found


def _features(plan: Mapping[str, Any]) -> Any:
    own = plan.get("own_columns")
    return [dict(feature) for feature in own["features"]] if own else None


def population_of(state: State, now: Plan, same: Mapping[int, Seed]) -> list[Seed]:
    """The seeds that all copies depend on, by number, if there are such: those of the first generation that remain."""
    if not now.recipe.config.uses_all_seeds:
        return []
    bound, split = state.generations[0].next_seed, state.folder.manifest.split
    first = [
        dataclasses.replace(seed, index=number)
        for number, seed in sorted(same.items())
        if number < bound and state.seeds[number].split == split
    ]
    before = {one.seed.label for one in state.seeds.values() if one.seed.index < bound and one.split == split}
    if lost := sorted(before - {seed.label for seed in first}):
        raise PlanMismatch(
            f"every copy in {state.folder.path} follows from the seeds of its first generation, and none of class"
            f" {now.recipe.classes[lost[0]]!r} is left of them; choose another --out: {_whole(now)}"
        )
    return first


def _whole(now: Plan) -> str:
    """What it costs to begin again."""
    copies = int(now.copies.sum())
    return f"a whole expansion makes {copies:,} copies of {len(now.seeds):,} seeds (`gif-datasets plan` says how long)"


def kept_of(state: State, plan: Plan, population: int) -> tuple[str, ...]:
    """What follows from all seeds and is kept as the first generation had it, in words."""
    config = plan.recipe.config
    kept = [f"a classifier fitted to {population} seeds of generation 1"] * config.fits_classifier
    kept += [f"prototypes of {population} seeds of generation 1"] * (config.prototype_weight > 0)
    kept += [f"partners of mixes among {population} seeds of generation 1"] * config.pairs
    kept += [f"images compared with those of {population} seeds of generation 1"] * config.compares
    return (*kept, *["the strength of generation 1"] * ("strength_choice" in state.folder.manifest.plan.content))


def to_update(
    folder: AnyPath, update: bool, withdraw_missing: bool = False, limit: int | None = None
) -> ExpandedFolder | None:
    """The finished folder to update; None where there is none, so that a first run begins or goes on.

    Raises:
        ConfigError: If the folder is in a store, or the options do not fit an update.
    """
    if withdraw_missing and not update:
        raise ConfigError("withdraw_missing goes with update: a first expansion has nothing to withdraw")
    if not update:
        return None
    if not isinstance(folder, Path):
        raise ConfigError(f"an update changes folders on this machine, got {folder}; update a copy, and send it")
    if limit is not None:
        raise ConfigError(f"a limit takes seeds spread over the whole source, got {limit} with update; leave it out")
    return ExpandedFolder.find(folder)
