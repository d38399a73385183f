"""Guide each seed once, for all its copies and for all processes that share a cache."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from gif_datasets.chunks import padded
from gif_datasets.expansion.imagination.halving import Memory
from gif_datasets.expansion.imagination.scoring import keep_last
from gif_datasets.expansion.recipe import Recipe
from gif_datasets.guidance.guide import Guided
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.threads import submit
from gif_datasets.types import Seed

KEEP_GUIDED = 256  # seeds whose guided latents stay in memory, for lazy access copy by copy

GuideBlock: TypeAlias = "Callable[[Sequence[Seed], int], list[Guided]]"
Identity: TypeAlias = "tuple[str, int, int | None]"


def identity(seed: Seed) -> Identity:
    """What guidance knows of a seed besides its image: key, label, and number of copies, where seeds differ in it."""
    return seed.key, seed.label, seed.copies


@dataclass
class SharedGuidance:
    """What guidance finds for seeds: in memory, or in the cache until all copies of a seed are there.

    Attributes:
        recipe: How copies are made.
        cache: Shared with those that make copies of the same seeds.
        guide_block: Guides a block of seeds with equally many copies, in one draw of the perturbation.
    """

    recipe: Recipe
    cache: Cache
    guide_block: GuideBlock
    _kept: OrderedDict[tuple[Identity, int], Guided] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of what is kept
    _memory: Memory = field(default_factory=Memory)

    def __call__(self, seeds: Sequence[Seed], attempt: int) -> dict[Identity, Guided]:
        """What guidance finds for each seed, by identity; what others are guiding is waited for."""
        return self._guide_all(seeds, attempt, ahead=False)

    def ahead(self, seeds: Sequence[Seed], attempt: int) -> None:
        """Guide in full blocks those seeds that will be needed, and that nobody else is guiding."""
        self._guide_all(seeds, attempt, ahead=True)

    @contextlib.contextmanager
    def beside(self, seeds: Sequence[Seed], attempt: int) -> Iterator[None]:
        """:meth:`ahead` in a thread while the body runs; what fails there is left to :meth:`ahead`, which says why.

        No model may be asked for these seeds.
        """

        def guide() -> None:
            torch.set_num_threads(self.recipe.config.threads)  # each thread has a number of its own
            self.ahead(seeds, attempt)

        begun = [submit(guide)] if seeds else []
        try:
            yield
        finally:
            wait(begun)

    def let_go(self, seeds: Sequence[Seed]) -> None:
        """Remove from the cache what was found for those seeds whose copies are all there."""
        for seed in {identity(seed): seed for seed in seeds}.values():
            if self._is_spent(seed):
                with self._lock:
                    made = {attempt for one, attempt in self._kept if one == identity(seed)}
                attempts = {*range(1 + self.recipe.config.redraws), *made}  # copies above the ratio have more
                self.cache.drop_tensors(self.recipe.guidance_key(seed, attempt) for attempt in attempts)

    def _guide_all(self, seeds: Sequence[Seed], attempt: int, ahead: bool) -> dict[Identity, Guided]:
        """Guide seeds, those with equally many copies together."""
        parts: dict[int | None, list[Seed]] = {}
        for seed in seeds:
            parts.setdefault(seed.copies, []).append(seed)
        result: dict[Identity, Guided] = {}
        for part in parts.values():
            result |= self._guide(part, attempt, ahead)
        return result

    def _guide(self, seeds: Sequence[Seed], attempt: int, ahead: bool) -> dict[Identity, Guided]:
        names = {(identity(seed), attempt): seed for seed in seeds}
        with self._lock:
            result = {name: self._kept[name] for name in names if name in self._kept}
        missing = {self.recipe.guidance_key(seed, attempt): name for name, seed in names.items() if name not in result}

        def make(keys: list[str]) -> list[dict[str, torch.Tensor]]:
            size = self.recipe.config.encode_batch
            block = padded([names[missing[key]] for key in keys], size)
            found = self._memory.rows(lambda part: self.guide_block(part, attempt), block, "encode_batch")
            return [one.tensors() for one in found[: len(keys)]]

        def is_needless(key: str) -> bool:  # asked when nothing is stored, which is removed after the last copy is
            return self._is_spent(names[missing[key]])

        size = self.recipe.config.encode_batch
        stored = self.cache.all_tensors(list(missing), size, make, is_needless if ahead else None)
        device = self.recipe.device
        for key, tensors in stored.items():
            result[missing[key]] = Guided.of({name: value.to(device) for name, value in tensors.items()})
        with self._lock:
            keep_last(self._kept, result, KEEP_GUIDED)
        return {seed: found for (seed, _), found in result.items()}

    def _is_spent(self, seed: Seed) -> bool:
        """Whether all copies of a seed are in the cache."""
        copies = range(1, self.recipe.of(seed).config.draws + 1)
        return all(self.recipe.cache_key(seed, copy) in self.cache for copy in copies)
