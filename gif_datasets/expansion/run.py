"""Carry a plan out: run its tasks, finish the folder, summarise what was done.

Run again = resume: finished shards are checked and kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from gif_datasets.errors import ConfigError
from gif_datasets.expansion import trial
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.plan import Plan, as_begun
from gif_datasets.expansion.recipe import spread
from gif_datasets.expansion.sizes import warn_of_lack
from gif_datasets.expansion.tasks import Engine, ShardTask, select
from gif_datasets.guidance import recognition
from gif_datasets.io import atomic, decode
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.stores import AnyPath
from gif_datasets.io.threads import ordered_map
from gif_datasets.methods import METHODS
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.folder import (
    STATE,
    claim_folder,
    draw_preview,
    finish,
    finished,
    own_files,
    put_own_files,
    sidecar,
)
from gif_datasets.shards.manifest import PREVIEW, Shard
from gif_datasets.shards.reader import ShardReader
from gif_datasets.sources.base import Source, seed_image
from gif_datasets.sources.joined import refuse_output
from gif_datasets.sources.own_columns import source_columns
from gif_datasets.types import CLASSIFIER_FILE, OWN_CLASS_FILE, Seed, silently


@dataclass(frozen=True)
class Summary:
    """What an expansion did.

    Attributes:
        folder: The expanded folder.
        originals: Real seed samples in it.
        synthetic: Imagined samples in it, seeds that were imagined included.
        validation: Seed samples that were held out.
        classes: Number of classes.
        shards: Number of shards.
        bytes: Size of the shards.
        generated: Images decoded in this run; 0 when all were there.
        bad: Messages of unreadable images that were skipped.
        seconds: Wall-clock time of this run.
        missing: Shards that other parts are to make; 0 when the folder is whole.
        failed: Generated samples whose draws all failed the check; the best draw was kept.
        recognised: Share of the seeds whose class the classifier names; None where nothing is made by what it says.
        own_class: Share of the copies, of at most 200, that look like their class to the classifier; None where no
            prior made them.
        own_class_real: The same for real images.
        generation: Which generation of the folder this is.
        added: Seeds that came with an update.
        withdrawn: Seeds that left with it.
        left: Seeds that are in the folder and no longer in the source.
    """

    folder: str
    originals: int
    synthetic: int
    validation: int
    classes: int
    shards: int
    bytes: int
    generated: int
    bad: tuple[str, ...]
    seconds: float
    missing: int = 0
    failed: int = 0
    recognised: float | None = None
    own_class: float | None = None
    own_class_real: float | None = None
    generation: int = 1
    added: int = 0
    withdrawn: int = 0
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanPart:
    """Which of a plan's shards are made here: those whose number leaves ``index`` when divided by ``count``.

    Raises:
        ConfigError: If ``index`` is not in 0 to ``count`` - 1.

    Example:
        >>> [shard_id for shard_id in range(7) if PlanPart(1, 3).has(shard_id)]
        [1, 4]
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise ConfigError(
                f"a part's index must be from 0 to the number of parts - 1, got {self.index} of {self.count}"
            )

    def has(self, shard_id: int) -> bool:
        """Whether a shard belongs to the part."""
        return shard_id % self.count == self.index


WHOLE = PlanPart(0, 1)
MOST_LOOKED_AT = 200
"""Finished copies that are looked at: their share is known to 4 points either way."""


def run(
    plan: Plan,
    source: Source,
    cache: Cache,
    folder: AnyPath,
    engine: Engine,
    bad: Sequence[str] = (),
    imaginer: Imaginer | None = None,
    part: PlanPart = WHOLE,
    say: Callable[[str], None] = silently,
) -> Summary:
    """Make what is missing of ``plan``, or of a part of it, in ``folder``; the last part that is made finishes it.

    ``say`` gets one line before the work if the classifier does not recognise the seeds' classes, and one if the first
    copies do not look like theirs.

    Raises:
        PlanMismatch: If the folder holds another plan; nothing in it is touched.
        ConfigError: If the folder cannot be written, or a plan cannot be made in parts.
        SourceError: If the folder or the cache lies in one that counts as a class of the source.
    """
    started = time.monotonic()
    plan = as_begun(plan, folder)
    imaginer = _imaginer(plan, source, cache, imaginer)
    made = make(plan, source, folder, engine, imaginer, part, say)
    if len(made.shards) < len(plan.shard_names):
        return partly(folder, made, tuple(bad), time.monotonic() - started)
    plan = made.plan
    listed = [made.shards[shard_id] for shard_id in sorted(made.shards)]
    finished_folder = finish(folder, plan.json, plan.hash, listed, made.own)
    if made.fresh or not (folder / PREVIEW).exists():
        draw_preview(finished_folder, lambda index: seed_image(source, plan.seed(index)))
    if made.fresh or not (folder / OWN_CLASS_FILE).exists():
        _look_at_copies(plan, imaginer, finished_folder)
    return summarise(finished_folder, made.generated, tuple(bad), time.monotonic() - started)


@dataclass(frozen=True)
class Made:
    """What :func:`make` made and found.

    Attributes:
        plan: The plan, with its copies chosen.
        shards: The shards that are there, by number.
        own: Its files other than shards; empty while shards are missing.
        generated: Images that were decoded.
        fresh: Whether anything was to be done.
    """

    plan: Plan
    shards: dict[int, Shard]
    own: dict[str, bytes]
    generated: int
    fresh: bool


def make(
    plan: Plan,
    source: Source,
    folder: AnyPath,
    engine: Engine,
    imaginer: Imaginer,
    part: PlanPart = WHOLE,
    say: Callable[[str], None] = silently,
) -> Made:
    """Make what is missing of the shards of a plan, or of a part of it; see :func:`run`, which finishes the folder."""
    if plan.recipe.config.agnostic and part != WHOLE:
        raise ConfigError("selection sample-agnostic compares the copies of all seeds; it cannot be made in parts")
    for place in (folder, imaginer.cache.folder):
        refuse_output(source, place)
    claim_folder(folder, plan.json, seeds=chain(plan.seeds, plan.validation))
    todo, done = _state(plan, folder, part)
    if todo:
        warn_of_lack(plan, source, imaginer.cache, folder, list(todo.values()))
    plan, generated = _prepared(plan, imaginer, engine) if todo else (plan, 0)
    own = _put_own_files(plan, source, imaginer, folder, say) if part.has(0) else None
    if todo and not done and part.has(0) and say is not silently:
        before = imaginer.generated
        if warning := trial.warning(trial.look(imaginer, plan.expanded), plan.recipe):
            say(warning)
        generated += imaginer.generated - before
    for shard, count in engine(ShardTask(plan, imaginer, folder), list(todo.values())):
        done[todo[shard.name]] = shard
        generated += count
    if part != WHOLE:
        done |= _made_by_others(plan, folder, done)
    if len(done) < len(plan.shard_names):
        return Made(plan, done, {}, generated, bool(todo))
    if own is None and (own := own_files(folder, plan.hash)) is None:  # the part with the first shard was cut off
        own = _put_own_files(plan, source, imaginer, folder, say)
    return Made(plan, done, own, generated, bool(todo))


def _imaginer(plan: Plan, source: Source, cache: Cache, given: Imaginer | None) -> Imaginer:
    """What makes the samples; one that is given stores originals as this plan says."""
    imaginer = given or Imaginer(plan.recipe, source, cache, plan.seeds)
    if imaginer.original_files == plan.original_files:
        return imaginer
    return dataclasses.replace(imaginer, original_files=plan.original_files)


def _state(plan: Plan, folder: AnyPath, part: PlanPart) -> tuple[dict[str, int], dict[int, Shard]]:
    """Shards of a part that are still to be made, number by name, and those that are finished."""
    names = {shard_id: name for shard_id, name in enumerate(plan.shard_names) if part.has(shard_id)}
    done = finished(folder, plan.hash, names)
    return {name: shard_id for shard_id, name in names.items() if shard_id not in done}, done


def _prepared(plan: Plan, imaginer: Imaginer, engine: Engine) -> tuple[Plan, int]:
    """The plan with its copies chosen, where they are chosen among those of all seeds; and the images drawn for it."""
    imaginer.prepare()
    return select(plan, imaginer, engine) if plan.recipe.config.agnostic else (plan, 0)


def _made_by_others(plan: Plan, folder: AnyPath, done: Container[int]) -> dict[int, Shard]:
    """The other shards, looked at when each is noted down; none before."""
    noted = {path.name for path in (folder / STATE).glob("*.json")}
    if any(sidecar(folder, name).name not in noted for name in plan.shard_names):
        return {}
    names = enumerate(plan.shard_names)
    return finished(folder, plan.hash, {shard_id: name for shard_id, name in names if shard_id not in done})


def _put_own_files(
    plan: Plan, source: Source, imaginer: Imaginer, folder: AnyPath, say: Callable[[str], None]
) -> dict[str, bytes]:
    """Write the source's own columns, and how well the classifier recognises the seeds; returns the files."""
    own = source_columns(source, [*plan.seeds.indices.tolist(), *plan.validation.indices.tolist()])
    opened = ExpandedFolder.find(folder)
    recognised = recognition.read(opened.file(CLASSIFIER_FILE) if opened else None)
    asked = plan.after is None and (opened is None or CLASSIFIER_FILE in opened.manifest.files)
    if recognised is None and asked:
        recognised = imaginer.recognition()
    if recognised is not None:
        if warning := recognised.warning(plan.recipe.config, plan.recipe.prior.families):
            say(warning)
        own[CLASSIFIER_FILE] = atomic.json_bytes(recognised.to_json())
    put_own_files(folder, plan.hash, own)
    return own


def _look_at_copies(plan: Plan, imaginer: Imaginer, folder: ExpandedFolder) -> None:
    """Write how many finished copies look like their class: one of each seed, of at most ``MOST_LOOKED_AT`` seeds."""
    if not METHODS[plan.recipe.config.method].imagines or not plan.recipe.prior.trained:
        return
    reader = ShardReader(folder)

    def files() -> Iterator[tuple[Seed, bytes, str]]:
        for place, seed in enumerate(spread(plan.expanded, MOST_LOOKED_AT)):
            if numbers := reader.copies_of(seed.index):
                number = numbers[place % len(numbers)]
                yield seed, reader.image_bytes(number), reader.key(number)

    copies = list(ordered_map(lambda file: (file[0], decode.picture(*file[1:])), files()))
    if (found := imaginer.own_class(copies)) is not None:
        atomic.write_json(folder.path / OWN_CLASS_FILE, found.to_json())


def partly(folder: AnyPath, made: Made, bad: tuple[str, ...], seconds: float) -> Summary:
    """Summarise a folder that wants other parts."""
    plan, done = made.plan, made.shards
    first_held = len(plan.shard_names) - sum(len(section.sizes) for section in plan.sections[-2:])
    own = [shard_id for shard_id in done if shard_id < first_held]
    synthetic = [copy > 0 or seed.synthetic for shard_id in own for seed, copy in plan.rows_of(shard_id)]
    return Summary(
        folder=str(folder),
        originals=len(synthetic) - sum(synthetic),
        synthetic=sum(synthetic),
        validation=sum(shard.samples for shard_id, shard in done.items() if shard_id >= first_held),
        classes=len(plan.recipe.classes),
        shards=len(done),
        bytes=sum(shard.bytes for shard in done.values()),
        generated=made.generated,
        bad=bad,
        seconds=round(seconds, 1),
        missing=len(plan.shard_names) - len(done),
        failed=sum(shard.failed for shard in done.values()),
    )


def summarise(folder: ExpandedFolder, generated: int = 0, bad: tuple[str, ...] = (), seconds: float = 0.0) -> Summary:
    """Summarise a finished folder from its manifest."""
    manifest = folder.manifest
    sizes = [shard.bytes for shard in manifest.shards]
    classifier = recognition.read(folder.file(CLASSIFIER_FILE))
    own_class = recognition.read_own_class(folder.path)
    return Summary(
        folder=str(folder.path),
        originals=manifest.originals,
        synthetic=manifest.synthetic,
        validation=manifest.validation,
        classes=len(manifest.classes),
        shards=len(sizes),
        bytes=sum(sizes),
        generated=generated,
        bad=bad,
        seconds=round(seconds, 1),
        failed=manifest.failed_checks,
        recognised=round(classifier.accuracy, 4) if classifier else None,
        own_class=round(own_class.share, 4) if own_class else None,
        own_class_real=round(own_class.real_share, 4) if own_class else None,
        generation=max(1, len(manifest.plan.generations)),
    )
