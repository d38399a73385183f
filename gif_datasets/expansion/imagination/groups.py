"""Samples that are wanted together, such as those of a shard, while they are made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gif_datasets.expansion.imagination.samples import relabelled
from gif_datasets.expansion.recipe import Recipe
from gif_datasets.io.cache.sharing import Sharing
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.duplicates import Spectra
from gif_datasets.io.threads import Jobs
from gif_datasets.types import Row, Sample, Seed


@dataclass
class Group:
    """Some samples, in order.

    Attributes:
        seeds: The seed of each.
        keys: The cache key of each.
        found: Those that were in the cache.
        missing: Rows to make, by key.
        sharing: What shares them with others; None where nothing is missing.
        jobs: What threads do for them: at most a block waits while the next one is drawn.
        drawn: Number of images drawn for them.
        earlier: Spectra of images that they are compared with, by seed.
    """

    seeds: Sequence[Seed]
    keys: Sequence[str]
    found: dict[str, Sample]
    missing: dict[str, Row]
    sharing: Sharing[Sample] | None
    jobs: Jobs
    drawn: int = field(default=0)
    earlier: Mapping[str, Sequence[Spectra]] = field(default_factory=dict)

    def rounds(self) -> Iterator[Iterator[list[str]]]:
        """See :meth:`Sharing.rounds`."""
        return self.sharing.rounds() if self.sharing else iter(())

    def keep(self, key: str, sample: Sample) -> None:
        """See :meth:`Sharing.keep`."""
        assert self.sharing is not None
        self.sharing.keep(key, sample)

    def finish(self) -> tuple[list[Sample], int]:
        """Wait for the threads; the samples, and how many images were drawn for them."""
        try:
            self.jobs.finish()
        finally:
            self.stop()
        made = {**self.found, **(self.sharing.results if self.sharing else {})}
        return [relabelled(made[key], seed) for key, seed in zip(self.keys, self.seeds, strict=True)], self.drawn

    def stop(self) -> None:
        """Leave out what threads have not begun, and give the claims back."""
        with self.sharing.claims if self.sharing else contextlib.nullcontext():
            self.jobs.stop()


def group_of(
    recipe: Recipe, cache: Cache, wanted: Sequence[Row], earlier: Mapping[str, Sequence[Spectra]] | None = None
) -> Group:
    """Look for some samples in the cache."""
    keys = [recipe.cache_key(seed, copy) for seed, copy in wanted]
    found = {key: sample for key in dict.fromkeys(keys) if (sample := cache.get(key)) is not None}
    missing = {key: row for key, row in zip(keys, wanted, strict=True) if key not in found}
    block = recipe.config.decode_batch
    sharing = Sharing(cache.claims(), missing, block, cache.get, cache.put) if missing else None
    return Group([seed for seed, _ in wanted], keys, found, missing, sharing, Jobs(block), earlier=earlier or {})
