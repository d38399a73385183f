"""A prior without weights: linear, instant and deterministic. Examples, docs and most tests use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.config import ExpansionConfig
from gif_datasets.guidance.rng import generator_for
from gif_datasets.guidance.zeroshot import ZeroShotClassifier
from gif_datasets.priors.base import Prior

if TYPE_CHECKING:
    from PIL.Image import Image


class LinearPrior(Prior):
    """Latents are the pixels of an 8 x 8 thumbnail; decoding adds a little noise and enlarges them.

    Class directions are random, seeded by the class names: its zero-shot scores are well formed but meaningless.

    Example:
        >>> from PIL import Image
        >>> prior = LinearPrior()
        >>> latents = prior.encode([Image.new("RGB", (32, 32), "red")])
        >>> latents.shape
        torch.Size([1, 192])
    """

    recognises = False
    side = 8
    size = 32

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Thumbnails in [-1, 1], ``(B, 192)``."""
        small = [np.asarray(image.convert("RGB").resize((self.side, self.side))) for image in images]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).flatten(1).float() / 127.5 - 1

    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Enlarged thumbnails with a little noise from each generator, ``(B, 3, 32, 32)`` in [0, 1]."""
        small = latents.reshape(-1, 3, self.side, self.side)
        noise = torch.stack([torch.randn(small.shape[1:], generator=generator) for generator in generators])
        large = F.interpolate(small + 0.02 * noise.to(small), size=(self.size, self.size), mode="nearest")
        return (large / 2 + 0.5).clamp(0, 1)

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """One random unit direction per class, seeded by its name."""
        rows = [torch.randn(3 * self.side**2, generator=generator_for(0, name, "class", 0)) for name in class_names]
        return ZeroShotClassifier(
            F.normalize(torch.stack(rows), dim=-1), 20.0 if config.logit_scale is None else config.logit_scale
        )
