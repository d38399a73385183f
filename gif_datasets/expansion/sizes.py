"""How many bytes an expansion takes: in its shards, and in the cache; and whether the disks have room."""

from __future__ import annotations

import contextlib
import tarfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gif_datasets.chunks import evenly
from gif_datasets.expansion.imagination.candidates import unscored
from gif_datasets.expansion.imagination.samples import Verdict, make_sample
from gif_datasets.expansion.plan import Plan
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.room import free_bytes, mount_of
from gif_datasets.io.stores import AnyPath
from gif_datasets.io.threads import ordered_map
from gif_datasets.io.units import size_text
from gif_datasets.methods import AUGMENT, METHODS
from gif_datasets.shards.tar import record_bytes
from gif_datasets.shards.ustar import BLOCK
from gif_datasets.sources.base import Source
from gif_datasets.types import Sample, Seed

if TYPE_CHECKING:
    from PIL.Image import Image

LOOKED_AT = 16  # seeds whose images say how large copies will be
COUNTED = 200  # shards of which a copy is looked for in the cache
DISK_BLOCK = 4096


def mean_size(samples: Sequence[Sample]) -> float:
    """Mean bytes of a sample in a shard."""
    parts = [(len(s.image), len(record_bytes(s.provenance)), 1) for s in samples]
    return sum(BLOCK + -(-size // BLOCK) * BLOCK for part in parts for size in part) / len(samples)


def shard_bytes(plan: Plan, original: float, copy: float, shard_ids: Sequence[int] | None = None) -> int:
    """Bytes of a plan's shards, or of some; a tar is filled up to whole records.

    Args:
        plan: The plan.
        original: Mean bytes of a seed sample in a shard.
        copy: Of a copy.
        shard_ids: Which shards; None: all.
    """
    sizes = [count * (copy if section.imagined else original) for section in plan.sections for count in section.sizes]
    wanted = sizes if shard_ids is None else [sizes[shard_id] for shard_id in shard_ids]
    return sum(-(-(round(size) + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE for size in wanted)


def warn_of_lack(plan: Plan, source: Source, cache: Cache, folder: AnyPath, shard_ids: Sequence[int]) -> None:
    """Warn before the work if the shards that are still to be made, with their copies in the cache, will not fit."""
    needs: dict[Path, int] = {}
    with contextlib.suppress(Exception):  # this is only a look ahead: the work says what fails
        needs = _needs(plan, source, cache, folder, shard_ids)
    for mount in {mount_of(place) for place in needs}:
        here = {place: size for place, size in needs.items() if mount_of(place) == mount}
        needed, free = sum(here.values()), free_bytes(mount)
        if needed > free:
            names = " and ".join(f"{place} ({size_text(size)})" for place, size in here.items())
            warnings.warn(
                f"about {size_text(needed)} more will be written to {names}, and the file system at {mount} has"
                f" {size_text(free)} free; make room, or choose another output or cache folder",
                stacklevel=3,
            )


def _needs(plan: Plan, source: Source, cache: Cache, folder: AnyPath, shard_ids: Sequence[int]) -> dict[Path, int]:
    """About how many bytes go where; a store's room is not known."""
    seed_samples, copies = _typical(plan, source)
    entry = sum(-(-(len(s.image) + len(record_bytes(s.provenance))) // DISK_BLOCK) for s in copies) / len(copies)
    stored = round(_missing_copies(plan, cache, shard_ids) * entry * DISK_BLOCK)
    needs = {cache.folder: stored if cache.limit is None else min(stored, cache.limit)}
    if isinstance(folder, Path):
        needs[folder] = shard_bytes(plan, mean_size(seed_samples), mean_size(copies), shard_ids)
    return needs


def _missing_copies(plan: Plan, cache: Cache, shard_ids: Sequence[int]) -> float:
    """About how many copies of some shards the cache does not have."""
    imagined = [section.imagined for section in plan.sections for _ in section.sizes]
    made = [shard_id for shard_id in shard_ids if imagined[shard_id]]
    some = [plan.rows_of(made[index]) for index in evenly(len(made), COUNTED)]
    missing = sum(plan.recipe.cache_key(*rows[0]) not in cache for rows in some) / max(1, len(some))
    copies = len(made) * sum(map(len, some)) / max(1, len(some))
    return copies * missing * plan.recipe.config.draws_a_copy


def _typical(plan: Plan, source: Source) -> tuple[list[Sample], list[Sample]]:
    """Samples like those that will be made: of some seeds themselves, and of copies of the prior's size."""
    recipe = plan.recipe
    side = 0 if METHODS[recipe.config.method].family == AUGMENT else int(recipe.prior.card.get("image_size", 32))
    seeds = plan.seeds or plan.validation

    def typical(seed: Seed, picture: Image, copy: int) -> Sample:
        shown = picture.resize((side, side)) if copy and side else picture
        return make_sample(recipe, seed, copy, 1, shown, unscored(), Verdict())

    some = (seeds[index] for index in evenly(len(seeds), LOOKED_AT))
    pictures = ((seed, source.sample(seed.index)[0]) for seed in some)
    made = list(ordered_map(lambda row: typical(*row), ((*row, copy) for row in pictures for copy in (0, 1))))
    return made[::2], made[1::2]
