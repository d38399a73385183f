"""Plan an expansion, run its shard tasks, finish the folder.

A plan fixes every sample, its shard and its bytes; a task makes one shard of it and is idempotent; who runs the tasks
(:mod:`gif_datasets.engines`) decides nothing. Run again = resume: finished shards are checked and kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gif_datasets import atomic, manifests, recognition, shards
from gif_datasets.cache import Cache
from gif_datasets.columns import yaml_list
from gif_datasets.errors import ConfigError
from gif_datasets.fingerprint import digest
from gif_datasets.folder import (
    STATE,
    claim,
    draw_preview,
    finish,
    finished,
    own_files,
    put_shard,
    sidecar,
    write_sidecar,
)
from gif_datasets.imagine import Imaginer
from gif_datasets.manifests import Shard
from gif_datasets.recipe import Recipe, with_population
from gif_datasets.recognition import Recognition
from gif_datasets.remote import AnyPath
from gif_datasets.seeds import Rows, SeedTable
from gif_datasets.sources import SeedList, Source, own_columns, own_members, revision_of, source_columns
from gif_datasets.splits import VALIDATION, hold_out
from gif_datasets.types import Row, Seed

PLAN_FORMAT = 3
SELECTION_SEEDS = 8  # whose copies are drawn in one task, where copies are chosen among those of all seeds


@dataclass(frozen=True)
class OwnColumns:
    """Columns of the seed dataset that go into every sample: features as a card has them, digest of all values."""

    features: tuple[dict[str, Any], ...]
    digest: str


@dataclass(frozen=True)
class Section:
    """Rows that follow each other in shards of ``size`` of one split; imagined, or seeds."""

    rows: Sequence[Row]
    size: int
    split: str
    imagined: bool = False

    @cached_property
    def sizes(self) -> list[int]:
        """Samples of every shard."""
        full, rest = divmod(len(self.rows), self.size)
        return [self.size] * full + [rest] * (rest > 0)


@dataclass(frozen=True)
class Plan:
    """An expansion, fixed: which samples, in which shards, made how.

    Attributes:
        source_name: Name of the seed dataset.
        recipe: How samples are made.
        seeds: The seed samples that are expanded, in source order.
        validation: Those that are held out, in source order; none of their pictures is among the others'.
        validation_name: Name of the dataset that they are from, when it is another one.
        limit: How many seeds were asked for, where that was said.
        chosen: The copies, where they are chosen among those of all seeds and have been; see :func:`select`.
        revision: The commit of the seed dataset, where it was read from the Hub.
        own: What the seed dataset has of its own, where it has more than pictures and labels.
    """

    source_name: str
    recipe: Recipe
    seeds: SeedTable
    validation: SeedTable = field(default_factory=lambda: SeedTable.of(()))
    validation_name: str = ""
    limit: int | None = None
    chosen: tuple[Row, ...] = ()
    revision: str = ""
    own: OwnColumns | None = None

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """Originals (copy 0), then copies, then what is held out (copy 0).

        Within each, classes are mixed by key order; real and synthetic seeds are in shards of their own.
        """
        config = self.recipe.config
        own, held = (
            _by_kind(seeds) for seeds in (self.seeds if config.originals else SeedTable.of(()), self.validation)
        )
        made = _mixed_rows(self.chosen) if self.chosen else Rows(self.seeds, _mixed(self.seeds), config.ratio)
        size, held_size = (
            config.samples_per_shard or shard_size(samples, config.decode_batch)
            for samples in (sum(map(len, own)) + len(made), sum(map(len, held)))
        )
        return (
            *(Section(rows, size, config.split) for rows in own),
            Section(made, size, config.split, imagined=True),
            *(Section(rows, held_size, VALIDATION) for rows in held),
        )

    def rows_of(self, shard_id: int) -> Sequence[Row]:
        """(seed, copy) rows of a shard."""
        for section in self.sections:
            if shard_id < len(section.sizes):
                return section.rows[shard_id * section.size : (shard_id + 1) * section.size]
            shard_id -= len(section.sizes)
        raise IndexError(f"no shard {shard_id} beyond the last")

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """Path of every shard below the output folder."""
        counts = Counter[str]()
        for section in self.sections:
            counts[section.split] += len(section.sizes)
        numbers = {split: itertools.count() for split in counts}
        return tuple(
            manifests.shard_name(section.split, next(numbers[section.split]), counts[section.split])
            for section in self.sections
            for _ in section.sizes
        )

    @cached_property
    def json(self) -> dict[str, Any]:
        """All that decides the bytes of the folder."""
        config = self.recipe.config
        return {
            "format": PLAN_FORMAT,
            "source": self.source_name,
            "seeds": len(self.seeds),
            "limit": self.limit,
            "synthetic_seeds": int(self.seeds.synthetic.sum()),
            "seeds_digest": _seeds_digest(self.seeds),
            "split": config.split,
            "validation_share": config.validation_share,
            "validation": self.validation_name,
            "validation_seeds": len(self.validation),
            "synthetic_validation": int(self.validation.synthetic.sum()),
            "validation_digest": _seeds_digest(self.validation),
            "originals": config.originals,
            "shards": [count for section in self.sections for count in section.sizes],
            "recipe": self.recipe.to_json(),
            # not in the plans of other sources, whose folders are as they were without it
            **({"source_revision": self.revision} if self.revision else {}),
            **({"own_columns": dataclasses.asdict(self.own)} if self.own else {}),
        }

    @property
    def hash(self) -> str:
        """Digest of :attr:`json`: two folders of the same hash have the same bytes, on one kind of device."""
        return digest(self.json)

    def shard_name(self, shard_id: int) -> str:
        """Path of a shard below the output folder."""
        return self.shard_names[shard_id]


def _mixed(seeds: SeedTable) -> NDArray[np.int64]:
    """Places of seeds in key order, which mixes the classes."""
    return np.lexsort((seeds.indices, seeds.keys))


def _mixed_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows in key order."""
    return sorted(rows, key=lambda row: (row[0].key, row[0].index, row[1]))


def _by_kind(seeds: SeedTable) -> list[Rows]:
    """Rows of the real and of the synthetic ones."""
    order = _mixed(seeds)
    return [Rows(seeds, order[seeds.synthetic[order] == kind], 0) for kind in (False, True)]


def shard_size(samples: int, block: int) -> int:
    """Samples a shard, unless told otherwise: about 64 shards, within limits, in blocks so that none is padded."""
    size = min(max(-(-samples // 64), 50), 1_000)
    return -(-size // block) * block


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
        generated: Pictures decoded in this run; 0 when all were there.
        bad: Messages of unreadable pictures that were skipped.
        seconds: Wall-clock time of this run.
        missing: Shards that other parts are to make; 0 when the folder is whole.
        failed: Imagined samples of which every draw failed the check; the best draw was kept.
        recognised: Share of the seeds whose class the classifier names; None where nothing is made by what it says.
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


@dataclass(frozen=True)
class Part:
    """Which of a plan's shards are made here: those whose number leaves ``index`` when divided by ``count``.

    Raises:
        ConfigError: If ``index`` is not in 0 to ``count`` - 1.

    Example:
        >>> [shard_id for shard_id in range(7) if Part(1, 3).has(shard_id)]
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


WHOLE = Part(0, 1)


@dataclass(frozen=True)
class ShardTask:
    """Makes shards of one plan; picklable, holds no model until the first shard."""

    plan: Plan
    imaginer: Imaginer
    folder: AnyPath
    title: str = "making shards"

    def release(self) -> None:
        """Let go of the prior: others will run this, with one of their own."""
        self.imaginer.release()

    def __call__(self, shard_id: int) -> tuple[Shard, int]:
        """Make one shard and its sidecar; returns it with the number of pictures decoded for it."""
        before = self.imaginer.generated
        rows, config = self.plan.rows_of(shard_id), self.plan.recipe.config
        copies = [(seed, copy) for seed, copy in rows if copy]
        made = self.imaginer.imagine(copies) if copies else self.imaginer.originals([seed for seed, _ in rows])
        name = self.plan.shard_name(shard_id)
        keys = [shards.sample_key(manifests.split_of(name), seed.index, copy) for seed, copy in rows]
        samples = list(zip(keys, made, strict=True))
        own = own_members(self.imaginer.source, [seed.index for seed, _ in rows]) if self.plan.own else None
        shard = put_shard(self.folder, name, samples, config.image_format, own)
        write_sidecar(self.folder, self.plan.hash, shard_id, shard)
        return shard, self.imaginer.generated - before


@dataclass(frozen=True)
class DrawTask:
    """Draws copies to choose from, of one block of seeds; picklable."""

    plan: Plan
    imaginer: Imaginer
    title: str = "drawing copies to choose from"

    def release(self) -> None:
        """Let go of the prior: others will run this, with one of their own."""
        self.imaginer.release()

    def rows(self, block: int) -> list[Row]:
        """(seed, copy) rows of a block."""
        config = self.plan.recipe.config
        part = self.plan.seeds[block * SELECTION_SEEDS : (block + 1) * SELECTION_SEEDS]
        return [(seed, copy) for seed in part for copy in range(1, config.draws + 1)]

    def __call__(self, block: int) -> tuple[int, list[float], int]:
        """The block, the gain of each of its rows, and the number of pictures made."""
        before = self.imaginer.generated
        gains = self.imaginer.gains(self.rows(block))
        return block, gains, self.imaginer.generated - before


def silently(text: str) -> None:
    """Tell nobody."""


Engine = Callable[[Any, Sequence[int]], Any]
"""Runs ``task(id)`` for each id, in any order, and yields the results as they come."""


def select(plan: Plan, imaginer: Imaginer, engine: Engine) -> tuple[Plan, int]:
    """Choose the copies among those of all seeds: the highest gains of entropy first, of those that keep their class.

    Returns:
        The plan with ``ratio`` copies a seed on average, and the number of pictures made for it.

    Source:
        Appendix B, "sample-agnostic expansion".
    """
    task, generated, gained = DrawTask(plan, imaginer), 0, list[tuple[float, Row]]()
    for block, gains, made in engine(task, range(-(-len(plan.seeds) // SELECTION_SEEDS))):
        gained += zip(gains, task.rows(block), strict=True)
        generated += made
    best = sorted(gained, key=lambda one: (-one[0], one[1][0].key, one[1][0].index, one[1][1]))
    rows = [row for _, row in best[: len(plan.seeds) * plan.recipe.config.ratio]]
    return dataclasses.replace(plan, chosen=tuple(sorted(rows, key=lambda row: (row[0].index, row[1])))), generated


def run(
    plan: Plan,
    source: Source,
    cache: Cache,
    folder: AnyPath,
    engine: Engine,
    bad: Sequence[str] = (),
    imaginer: Imaginer | None = None,
    part: Part = WHOLE,
    say: Callable[[str], None] = silently,
) -> Summary:
    """Make what is missing of ``plan``, or of a part of it, in ``folder``; the last part that is made finishes it.

    ``say`` is told before the work, in a line, where the classifier cannot tell the seeds' classes apart.

    Raises:
        PlanMismatch: If the folder holds another plan; nothing in it is touched.
        ConfigError: If the folder cannot be written, or a plan cannot be made in parts.
    """
    if plan.recipe.config.agnostic and part != WHOLE:
        raise ConfigError("selection sample-agnostic compares the copies of all seeds; it cannot be made in parts")
    started = time.monotonic()
    claim(folder, plan.json)
    names = dict(enumerate(plan.shard_names))
    mine = {shard_id: name for shard_id, name in names.items() if part.has(shard_id)}
    done = finished(folder, plan.hash, mine)
    todo = [shard_id for shard_id in mine if shard_id not in done]
    generated = 0
    imaginer = imaginer or Imaginer(plan.recipe, source, cache, plan.seeds)
    if todo:
        imaginer.prepare()
        if plan.recipe.config.agnostic:
            plan, generated = select(plan, imaginer, engine)
    own = _own_files(plan, source, imaginer, folder, say) if part.has(0) else {}
    if part != WHOLE:
        for name, content in own.items():
            atomic.write_bytes(folder / name, content)
    numbers = {name: shard_id for shard_id, name in names.items()}
    for shard, count in engine(ShardTask(plan, imaginer, folder), todo):
        done[numbers[shard.name]] = shard
        generated += count
    seconds = time.monotonic() - started
    if part != WHOLE:
        noted = {path.name for path in (folder / STATE).glob("*.json")}
        if any(sidecar(folder, name).name not in noted for name in names.values()):
            return _partly(folder, plan, done, generated, tuple(bad), seconds)
        done |= finished(folder, plan.hash, {shard_id: names[shard_id] for shard_id in names if shard_id not in done})
        if len(done) < len(names):
            return _partly(folder, plan, done, generated, tuple(bad), seconds)
        own = own_files(folder)
    finish(folder, plan.json, plan.hash, [done[shard_id] for shard_id in names], own)
    if todo or not (folder / manifests.PREVIEW).exists():
        draw_preview(folder, lambda index: source.sample(index)[0])
    return summarise(folder, generated, tuple(bad), time.monotonic() - started)


def _own_files(
    plan: Plan, source: Source, imaginer: Imaginer, folder: AnyPath, say: Callable[[str], None]
) -> dict[str, bytes]:
    """The source's own columns, and how well the classifier tells the seeds apart, known already or found out now."""
    own = source_columns(source, [*plan.seeds.indices.tolist(), *plan.validation.indices.tolist()])
    content = manifests.listed_file(folder, recognition.FILE)
    if content is None and manifests.may_hold(folder, recognition.FILE):
        found = imaginer.recognition()
        content = atomic.json_bytes(found.to_json()) if found else None
    if content is None:
        return own
    recipe = plan.recipe
    if warning := Recognition.from_json(content).warning(recipe.config, recipe.prior.families):
        say(warning)
    return {**own, recognition.FILE: content}


def _partly(
    folder: AnyPath, plan: Plan, done: dict[int, Shard], generated: int, bad: tuple[str, ...], seconds: float
) -> Summary:
    """Summarise a folder that wants other parts."""
    first_held = len(plan.shard_names) - sum(len(section.sizes) for section in plan.sections[-2:])
    own = [shard_id for shard_id in done if shard_id < first_held]
    made = [copy > 0 or seed.synthetic for shard_id in own for seed, copy in plan.rows_of(shard_id)]
    return Summary(
        folder=str(folder),
        originals=len(made) - sum(made),
        synthetic=sum(made),
        validation=sum(shard.samples for shard_id, shard in done.items() if shard_id >= first_held),
        classes=len(plan.recipe.classes),
        shards=len(done),
        bytes=sum(shard.bytes for shard in done.values()),
        generated=generated,
        bad=bad,
        seconds=round(seconds, 1),
        missing=len(plan.shard_names) - len(done),
        failed=sum(shard.failed for shard in done.values()),
    )


def summarise(folder: AnyPath, generated: int = 0, bad: tuple[str, ...] = (), seconds: float = 0.0) -> Summary:
    """Summarise a finished folder from its manifest."""
    manifest = manifests.read_manifest(folder)
    sizes = [shard.bytes for shard in manifests.all_shards(manifest)]
    told = manifests.listed_file(folder, recognition.FILE)
    return Summary(
        folder=str(folder),
        originals=manifest["originals"],
        synthetic=manifest["synthetic"],
        validation=manifest["validation"],
        classes=len(manifest["classes"]),
        shards=len(sizes),
        bytes=sum(sizes),
        generated=generated,
        bad=bad,
        seconds=round(seconds, 1),
        failed=manifest["failed_checks"],
        recognised=round(Recognition.from_json(told).accuracy, 4) if told else None,
    )


def make_plan(
    source: Source,
    listed: SeedList,
    recipe: Recipe,
    validation: Sequence[Seed] = (),
    validation_name: str = "",
    limit: int | None = None,
) -> Plan:
    """Fix the plan of an expansion.

    Args:
        source: The seed dataset.
        listed: Its seeds.
        recipe: How samples are made.
        validation: Seeds to hold out that are not among ``listed``; without them, ``validation_share`` of ``listed``.
        validation_name: Name of the dataset that ``validation`` is from.
        limit: How many seeds were asked for, where that was said.

    Raises:
        ConfigError: If both say what to hold out.
    """
    config = recipe.config
    if validation_name and (config.validation_share or config.split == VALIDATION):
        raise ConfigError(
            f"a validation set of its own ({validation_name}) leaves nothing for validation_share, got"
            f" {config.validation_share}, or for split={VALIDATION!r}; take them away"
        )
    seeds, held = SeedTable.of(listed.seeds), SeedTable.of(validation)
    if config.validation_share and seeds.synthetic.any():
        raise ConfigError(
            f"validation_share must be 0 for {source.name}, which holds imagined copies beside their seeds;"
            " hold out when the seeds are first expanded, or give a validation set"
        )
    if config.validation_share:
        seeds, held = map(SeedTable.of, hold_out(seeds, config.validation_share, config.rng_seed))
    return Plan(
        source.name,
        with_population(recipe, seeds),
        seeds,
        held,
        validation_name,
        limit,
        revision=revision_of(source),
        own=_own_columns(source, [*seeds.indices.tolist(), *held.indices.tolist()]),
    )


def _own_columns(source: Source, indices: Sequence[int]) -> OwnColumns | None:
    members = own_members(source, indices)
    if members is None:
        return None
    digests = {index: hashlib.sha256(content).hexdigest() for index, content in members.items()}
    return OwnColumns(tuple(yaml_list(own_columns(source))), shards.own_digest(digests))


def _seeds_digest(seeds: Sequence[Seed]) -> str:
    return shards.seeds_digest([seed.key, seed.label, seed.index, seed.origin] for seed in seeds)
