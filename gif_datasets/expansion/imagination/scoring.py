"""Score images, and keep the embeddings of seeds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from gif_datasets.chunks import blocks, padded
from gif_datasets.expansion.imagination.halving import Memory
from gif_datasets.types import Seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from gif_datasets.guidance.zeroshot import ZeroShotClassifier
    from gif_datasets.priors.base import Prior
    from gif_datasets.priors.guide_models import Guide


KEEP_EMBEDDED = 20_000  # seeds whose CLIP embeddings stay in memory: 100 MB at a width of 1,280


Key = TypeVar("Key")


Value = TypeVar("Value")


def keep_last(kept: OrderedDict[Key, Value], asked: Mapping[Key, Value], most: int) -> None:
    """Keep what was asked for last."""
    for key, value in asked.items():
        kept[key] = value
        kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


@dataclass(frozen=True)
class Scorer:
    """Class probabilities of images; in padded blocks, so that they depend on nothing else."""

    embedder: Prior | Guide
    classifier: ZeroShotClassifier
    block: int
    _memory: Memory = field(default_factory=Memory)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image]) -> Tensor:
        """Class probabilities, ``(N, C)``."""
        out = [torch.empty(0, len(self.classifier.weights))]
        for part in blocks(pictures, self.block):
            embeddings = self._memory.rows(self.embedder.embed_images, padded(part, self.block), "decode_batch")
            out.append(self.classifier.scores(torch.stack(embeddings))[: len(part)].cpu())
        return torch.cat(out)


@dataclass
class SeedEmbeddings:
    """CLIP embeddings of seeds, made in padded blocks; the last ones made stay in memory."""

    embedder: Prior | Guide
    picture: Callable[[Seed], Image]
    block: int
    _kept: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    _memory: Memory = field(default_factory=Memory)

    @torch.no_grad()
    def __call__(self, seeds: Sequence[Seed]) -> Tensor:
        """Raw embeddings, ``(N, D)``."""
        unique = {seed.key: seed for seed in seeds}
        found = {key: self._kept[key] for key in unique if key in self._kept}
        for part in blocks([seed for key, seed in unique.items() if key not in found], self.block):
            pictures = [self.picture(seed) for seed in part]
            rows = self._memory.rows(self.embedder.embed_images, padded(pictures, self.block), "encode_batch")
            found.update({seed.key: row for seed, row in zip(part, rows, strict=False)})
        self._keep(found)
        return torch.stack([found[seed.key] for seed in seeds])

    @torch.no_grad()
    def of_images(self, images: Sequence[Image]) -> Tensor:
        """Raw embeddings of other images, ``(N, D)``; they are not kept."""
        parts = [
            self._memory.rows(self.embedder.embed_images, padded(part, self.block), "encode_batch")[: len(part)]
            for part in blocks(images, self.block)
        ]
        return torch.stack([row for part in parts for row in part])

    def __contains__(self, seed: Seed) -> bool:
        return seed.key in self._kept

    def add(self, seeds: Sequence[Seed], rows: Tensor) -> None:
        """Take embeddings that were made before."""
        self._keep({seed.key: row for seed, row in zip(seeds, rows, strict=True)})

    def _keep(self, rows: dict[str, Tensor]) -> None:
        keep_last(self._kept, rows, KEEP_EMBEDDED)
