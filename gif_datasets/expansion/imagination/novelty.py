"""Find candidates that show what a seed, or an earlier copy of their seed, shows already."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from gif_datasets.expansion.imagination.scoring import keep_last
from gif_datasets.expansion.recipe import MOST_COMPARED, Recipe, spread
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.duplicates import KnownImages, Spectra, spectra
from gif_datasets.types import Row, Seed

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_KEPT = 256  # seeds whose spectra stay in memory


@dataclass
class Novelty:
    """Says of candidates how near they are to images that are there already.

    Attributes:
        recipe: How copies are made.
        seeds: All seeds; of more than ``MOST_COMPARED`` so many, evenly spread, beside a candidate's own.
        picture: Reads a seed's image.
        cache: Keeps what is compared of the seeds' images.
    """

    recipe: Recipe
    seeds: Sequence[Seed]
    picture: Callable[[Seed], Image]
    cache: Cache
    _own: OrderedDict[str, Spectra] = field(default_factory=OrderedDict)

    def __call__(
        self, rows: Sequence[Row], pictures: Sequence[Image], earlier: Mapping[str, Sequence[Spectra]]
    ) -> list[int | None]:
        """Bits in which each candidate differs from the nearest image that shows the same; None for a new one.

        Args:
            rows: Its seed, and its number.
            pictures: Its image.
            earlier: Spectra of the finished copies of lower numbers, by the cache key of their seed, as copy 0.
        """
        found = []
        for (seed, _), image in zip(rows, pictures, strict=True):
            copies = earlier.get(self.recipe.cache_key(seed, 0), ())
            shown, own = spectra(image), np.stack([self._seed(seed), *copies])
            near = [known.nearest(shown) for known in (KnownImages.of(own, self._limit), self._known)]
            found.append(min((pair[0] for pair in near if pair), default=None))
        return found

    @property
    def _limit(self) -> int:
        limit = self.recipe.config.novel_bits
        assert limit is not None  # settled before anything is made
        return limit

    def _seed(self, seed: Seed) -> Spectra:
        """Of a candidate's own seed; kept, because copies of one seed are asked for in turn."""
        found = self._own[seed.key] if seed.key in self._own else spectra(self.picture(seed))
        keep_last(self._own, {seed.key: found}, MOST_KEPT)
        return found

    @cached_property
    def _known(self) -> KnownImages:
        def look() -> dict[str, torch.Tensor]:
            chosen = spread(self.seeds, MOST_COMPARED)
            return {"spectra": torch.from_numpy(np.stack([spectra(self.picture(seed)) for seed in chosen]))}

        return KnownImages.of(self.cache.tensors(self.recipe.spectra_key, look)["spectra"].numpy(), self._limit)
