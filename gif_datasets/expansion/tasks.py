"""What engines run: tasks that each make a shard of a plan, or draw copies to choose from, and are idempotent.

Who runs them (:mod:`gif_datasets.expansion.engines`) decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.plan import Plan
from gif_datasets.io.stores import AnyPath
from gif_datasets.io.threads import ordered_map
from gif_datasets.shards import tar
from gif_datasets.shards.folder import put_shard, write_sidecar
from gif_datasets.shards.manifest import Shard, split_of
from gif_datasets.sources.own_columns import own_members
from gif_datasets.types import Row, Sample

SELECTION_SEEDS = 8  # whose copies are drawn in one task, where copies are chosen among those of all seeds

_MadeShard: TypeAlias = "tuple[int, list[Sample], int, Mapping[int, bytes] | None]"
"""A shard's number, samples, how many images were drawn for them, and the source's own columns, if it has any."""
Engine = Callable[[Any, Sequence[int]], Any]
"""Runs ``task(id)`` for each id, in any order, and yields the results as they come."""


@dataclass(frozen=True)
class _Task:
    """Work of a plan; picklable, holds no model until it is first done."""

    plan: Plan
    imaginer: Imaginer

    def release(self) -> None:
        """Let go of the prior: others will run this, with one of their own."""
        self.imaginer.release()


@dataclass(frozen=True)
class ShardTask(_Task):
    """Makes shards of one plan."""

    folder: AnyPath
    title: ClassVar[str] = "making shards"

    def __call__(self, shard_id: int) -> tuple[Shard, int]:
        """Make one shard and its sidecar; returns it with the number of images drawn for it."""
        [result] = self.stream([shard_id])
        return result

    def stream(self, shard_ids: Sequence[int]) -> Iterator[tuple[Shard, int]]:
        """Make one shard after the other; while one is written, the next one is drawn."""
        return ordered_map(self._write, self._made(shard_ids), most=1)

    def _made(self, shard_ids: Sequence[int]) -> Iterator[_MadeShard]:
        made = self.imaginer.stream(map(self.plan.rows_of, shard_ids))
        for shard_id, (samples, drawn) in zip(shard_ids, made, strict=True):
            indices = [sample.provenance.seed_index for sample in samples]
            own = own_members(self.imaginer.source, indices) if self.plan.own else None
            yield shard_id, samples, drawn, own

    def _write(self, made: _MadeShard) -> tuple[Shard, int]:
        shard_id, samples, drawn, own = made
        name = self.plan.shard_name(shard_id)
        keys = [tar.sample_key(split_of(name), seed.index, copy) for seed, copy in self.plan.rows_of(shard_id)]
        keyed = list(zip(keys, samples, strict=True))
        shard = put_shard(self.folder, name, keyed, self.plan.recipe.config.image_format, own)
        write_sidecar(self.folder, self.plan.hash, shard_id, shard)
        return shard, drawn


@dataclass(frozen=True)
class DrawTask(_Task):
    """Draws copies to choose from, of one block of seeds."""

    title: ClassVar[str] = "drawing copies to choose from"

    def rows(self, block: int) -> list[Row]:
        """(seed, copy) rows of a block."""
        config = self.plan.recipe.config
        part = self.plan.seeds[block * SELECTION_SEEDS : (block + 1) * SELECTION_SEEDS]
        return [(seed, copy) for seed in part for copy in range(1, config.draws + 1)]

    def __call__(self, block: int) -> tuple[int, list[float], int]:
        """The block, the gain of each of its rows, and the number of images made."""
        before = self.imaginer.generated
        gains = self.imaginer.gains(self.rows(block))
        return block, gains, self.imaginer.generated - before


def select(plan: Plan, imaginer: Imaginer, engine: Engine) -> tuple[Plan, int]:
    """Choose the copies among those of all seeds: the highest gains of entropy first, of those that keep their class.

    Returns:
        The plan with ``ratio`` copies a seed on average, and the number of images made for it.

    Source:
        Appendix B, "sample-agnostic expansion".
    """
    task, generated, gained = DrawTask(plan, imaginer), 0, list[tuple[float, Row]]()
    for block, gains, made in engine(task, range(-(-len(plan.seeds) // SELECTION_SEEDS))):
        gained += zip(gains, task.rows(block), strict=True)
        generated += made
    best = sorted(gained, key=lambda one: (-one[0], one[1][0].key, one[1][0].index, one[1][1]))
    rows = [row for _, row in best[: int(plan.copies.sum())]]
    return dataclasses.replace(plan, chosen=tuple(sorted(rows, key=lambda row: (row[0].index, row[1])))), generated
