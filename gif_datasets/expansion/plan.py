"""The plan of an expansion, which fixes every sample, its shard and its bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gif_datasets.chunks import evenly
from gif_datasets.config import AUTO, ExpansionConfig
from gif_datasets.errors import ConfigError
from gif_datasets.expansion.recipe import Recipe, spread, with_population
from gif_datasets.io.digests import digest
from gif_datasets.io.duplicates import MOST, different_from, spectra
from gif_datasets.io.images import JPEG
from gif_datasets.io.stores import AnyPath
from gif_datasets.methods import METHODS
from gif_datasets.ratios import copies_of_each
from gif_datasets.shards import manifest, tar
from gif_datasets.shards.columns import yaml_list
from gif_datasets.shards.folder import begun_plan
from gif_datasets.shards.manifest import COPIES, OBJECTS_DIGEST, ORIGINAL_FILES, shard_size
from gif_datasets.sources.base import (
    SeedList,
    Source,
    jpeg_as_it_is,
    object_classes_of,
    revision_of,
    seed_image,
)
from gif_datasets.sources.joined import parts_of
from gif_datasets.sources.own_columns import own_columns, own_members
from gif_datasets.sources.seed_table import Rows, SeedTable
from gif_datasets.sources.splits import hold_out
from gif_datasets.types import OBJECTS, VALIDATION, Row, Seed

PLAN_FORMAT = 3
MOST_NAMED = 10  # classes in a message
LOOKED_AT = 16
"""Seeds whose files say whether any is stored as it is."""


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
class After:
    """The generation of a folder that a plan adds seeds to.

    Attributes:
        plan_hash: The digest of its plan.
        numbers: Numbers of the first new shards, by split.
        shard_size: Samples of its largest shard; default size of the new ones.
    """

    plan_hash: str
    numbers: Mapping[str, int]
    shard_size: int


@dataclass(frozen=True)
class Plan:
    """An expansion, fixed: which samples, in which shards, made how.

    Attributes:
        source_name: Name of the seed dataset.
        recipe: How samples are made.
        seeds: The seed samples that are expanded, in source order.
        validation: Those that are held out, in source order; none of their images is among the others'.
        validation_name: Name of the dataset that they are from, when it is another one.
        limit: How many seeds were asked for, where that was said.
        chosen: The copies, where they are chosen among those of all seeds and have been (see
            :func:`gif_datasets.expansion.tasks.select`), or are further ones of seeds that a folder has.
        revision: The commit of the seed dataset, where it was read from the Hub.
        own: What the seed dataset has of its own, where it has more than images and labels.
        strength_choice: How the strength was chosen, where that was left to be done.
        original_files: Whether seeds that are upright JPEG files are stored as they are, where all images are JPEG.
        after: What the seeds are added to; None for a folder of their own.
        object_classes: Names of the classes of objects, where these are kept.
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
    strength_choice: dict[str, Any] | None = None
    original_files: bool = False
    after: After | None = None
    object_classes: tuple[str, ...] = ()

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """Originals (copy 0), then copies, then what is held out (copy 0).

        Within each, classes are mixed by key order; real and synthetic seeds are in shards of their own.
        """
        config = self.recipe.config
        own, held = (
            _by_kind(seeds) for seeds in (self.seeds if config.originals else SeedTable.of(()), self.validation)
        )
        each = None if config.uneven else config.copies
        made = _mixed_rows(self.chosen) if self.chosen else Rows(self.seeds, _mixed(self.seeds), each)
        size, held_size = (
            config.samples_per_shard
            or (self.after.shard_size if self.after else shard_size(samples, config.decode_batch))
            for samples in (sum(map(len, own)) + len(made), sum(map(len, held)))
        )
        return (
            *(Section(rows, size, config.split) for rows in own),
            Section(made, size, config.split, imagined=True),
            *(Section(rows, held_size, VALIDATION) for rows in held),
        )

    @cached_property
    def copies(self) -> NDArray[np.int64]:
        """Copies of each seed, ``(N,)``; their mean, where they are chosen among those of all seeds."""
        if self.recipe.config.uneven:
            return self.seeds.copies.astype(np.int64)
        return np.full(len(self.seeds), self.recipe.config.copies, np.int64)

    @property
    def expanded(self) -> SeedTable:
        """The seeds that have copies."""
        return self.seeds.take(np.flatnonzero(self.copies)) if self.recipe.config.uneven else self.seeds

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
        first = Counter(self.after.numbers if self.after else {})
        numbers = {split: itertools.count(first[split]) for split in counts}
        return tuple(
            manifest.shard_name(section.split, next(numbers[section.split]), (first + counts)[section.split])
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
            **self.kept_objects,
            **({OBJECTS_DIGEST: tar.objects_digest((self.seeds, self.validation))} if self.kept_objects else {}),
            **({"strength_choice": self.strength_choice} if self.strength_choice else {}),
            **({"grey_seeds": self._grey_seeds} if self._grey_seeds else {}),
            **({ORIGINAL_FILES: True} if self.original_files else {}),
            **({"after": dataclasses.asdict(self.after)} if self.after else {}),
            **({"chosen": _rows_digest(self.chosen)} if self.after and self.chosen else {}),
            **({COPIES: int(self.copies.sum())} if config.uneven else {}),
        }

    @property
    def kept_objects(self) -> dict[str, Any]:
        """What is kept of objects; empty where nothing is."""
        if not self.recipe.config.keeps:
            return {}
        return {OBJECTS: {"keep": self.recipe.config.keep, "classes": list(self.object_classes)}}

    @property
    def _grey_seeds(self) -> int:
        """Seeds whose copies would have colours if these were not taken away."""
        grey, config = int(self.seeds.grey.sum()), self.recipe.config
        may_colour = METHODS[config.method].colours and not (config.mixes and grey == len(self.seeds))
        return grey if may_colour else 0

    @property
    def hash(self) -> str:
        """Digest of :attr:`json`: two folders of the same hash have the same bytes, on one kind of device."""
        return digest(self.json)

    def seed(self, index: int) -> Seed:
        """The seed that is expanded at an index of the source."""
        return self.seeds[int(np.searchsorted(self.seeds.indices, index))]

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


def make_plan(
    source: Source,
    listed: SeedList,
    recipe: Recipe,
    validation: Sequence[Seed] = (),
    validation_name: str = "",
    limit: int | None = None,
    adds: bool = False,
) -> Plan:
    """Fix the plan of an expansion.

    Args:
        source: The seed dataset.
        listed: Its seeds.
        recipe: How samples are made.
        validation: Seeds to hold out that are not among ``listed``; without them, ``validation_share`` of ``listed``.
        validation_name: Name of the dataset that ``validation`` is from.
        limit: How many seeds were asked for, where that was said.
        adds: Whether the seeds are compared with those of a finished folder: then no class needs to grow.

    Raises:
        ConfigError: If both say what to hold out, or copies would be apart from their seeds; or if the ratio does not
            fit the classes.
    """
    config = recipe.config
    seeds, held = SeedTable.of(listed.seeds), SeedTable.of(validation)
    _check_validation(config, source.name, seeds, validation_name)
    if config.validation_share:
        seeds, held = map(SeedTable.of, hold_out(seeds, config.validation_share, config.rng_seed))
    return Plan(
        source.name,
        with_population(recipe, seeds),
        with_copies(seeds, recipe, {} if adds else None),
        held,
        validation_name,
        limit,
        revision=revision_of(source),
        own=_own_columns(source, [*seeds.indices.tolist(), *held.indices.tolist()]),
        original_files=config.image_format == JPEG and any(_as_they_are(source, seeds if config.originals else held)),
        object_classes=object_classes_of(parts_of(source)[0]) if config.keeps else (),
    )


def with_copies(seeds: SeedTable, recipe: Recipe, present: Mapping[int, int] | None = None) -> SeedTable:
    """Seeds with their number of copies, where it differs between classes.

    Args:
        seeds: The seeds.
        recipe: How samples are made.
        present: As :func:`gif_datasets.ratios.copies_of_each` takes it.
    """
    if not recipe.config.uneven:
        return seeds
    columns = seeds.labels, seeds.keys, seeds.indices
    return seeds.with_copies(copies_of_each(recipe.config.ratio, recipe.classes, *columns, present))


def copies_in(recipe: Recipe | None, seeds: Sequence[Seed]) -> int:
    """How many copies an expansion of some seeds has; 0 without a recipe."""
    if recipe is None or not recipe.config.uneven:
        return len(seeds) * recipe.config.copies if recipe else 0
    return int(with_copies(SeedTable.of(seeds), recipe).copies.sum())


def about_ratio(plan: Plan) -> str:
    """One line about classes that get no copies by ``balance:COUNT``; empty where there are none."""
    if not isinstance(plan.recipe.config.ratio, str) or plan.copies.all():
        return ""
    grown = set(plan.seeds.labels[plan.copies > 0].tolist())
    full = [plan.recipe.classes[label] for label in sorted(set(plan.seeds.labels.tolist()) - grown)]
    if not full:
        return ""
    return (
        f"{plan.recipe.config.ratio}: no copies of classes that have as many images already:"
        f" {', '.join(full[:MOST_NAMED])}{f' and {len(full) - MOST_NAMED} more' * (len(full) > MOST_NAMED)}"
    )


def with_image_format(recipe: Recipe, source: Source, seeds: Sequence[Seed]) -> Recipe:
    """The recipe with ``image_format=auto`` settled.

    Lossless WebP of the least effort is smaller and quicker than PNG at every size; JPEG copies of seeds that are JPEG
    lose less than these have lost, and the seeds themselves lose nothing.
    """
    if recipe.config.image_format != AUTO:
        return recipe
    found: dict[str, Any] = {"image_format": "webp", "webp_effort": 0}
    if all(_as_they_are(source, seeds)):
        found = {"image_format": JPEG}
    return dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, **found))


def with_novel_bits(recipe: Recipe, source: Source, seeds: Sequence[Seed]) -> Recipe:
    """The recipe with the bits of ``check="novel"`` settled, by how alike the seeds are."""
    if not recipe.config.compares or recipe.config.novel_bits is not None:
        return recipe
    shown = [spectra(seed_image(source, seed)) for seed in spread(seeds, MOST)]
    return dataclasses.replace(
        recipe, config=dataclasses.replace(recipe.config, novel_bits=different_from(np.stack(shown)))
    )


def as_begun(plan: Plan, folder: AnyPath) -> Plan:
    """The plan as a folder was begun with: one of a version that encoded every seed again is finished so."""
    begun = begun_plan(folder)
    without = dataclasses.replace(plan, original_files=False)
    return without if plan.original_files and begun is not None and ORIGINAL_FILES not in begun else plan


def _as_they_are(source: Source, seeds: Sequence[Seed]) -> Iterator[bool]:
    """Of some seeds, whether they are JPEG files that need no conversion."""
    for index in evenly(len(seeds), LOOKED_AT):
        yield jpeg_as_it_is(source, seeds[index]) is not None


def _check_validation(config: ExpansionConfig, source: str, seeds: SeedTable, validation: str) -> None:
    """Refuse two sayings of what is held out, and copies that would be apart from their seeds."""
    if validation and (config.validation_share or config.split == VALIDATION):
        raise ConfigError(
            f"a validation set of its own ({validation}) leaves nothing for validation_share, got"
            f" {config.validation_share}, or for split={VALIDATION!r}; take them away"
        )
    if config.validation_share and seeds.synthetic.any():
        raise ConfigError(
            f"validation_share must be 0 for {source}, which holds imagined copies beside their seeds;"
            " hold out when the seeds are first expanded, or give a validation set"
        )


def _own_columns(source: Source, indices: Sequence[int]) -> OwnColumns | None:
    members = own_members(source, indices)
    if members is None:
        return None
    digests = {index: hashlib.sha256(content).hexdigest() for index, content in members.items()}
    return OwnColumns(tuple(yaml_list(own_columns(source))), tar.own_digest(digests))


def _rows_digest(rows: Iterable[Row]) -> str:
    return digest([[seed.index, copy] for seed, copy in rows])


def _seeds_digest(seeds: Sequence[Seed]) -> str:
    return tar.seeds_digest([seed.key, seed.label, seed.index, seed.origin] for seed in seeds)
