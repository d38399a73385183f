"""What every prior is: an encoder, a decoder, and the CLIP space that scores its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.zeroshot import ZeroShotClassifier

if TYPE_CHECKING:
    from PIL.Image import Image


class Prior(Protocol):
    """A pre-trained generative prior.

    Implement these five methods and pass the object as ``prior=``; nothing is to be inherited.

    Attributes:
        channel_axis: Which axis of one latent counts its channels; 0 for a vector.
    """

    channel_axis: int

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Raw latents of RGB images, ``(B, *axes)``."""
        ...

    def embed(self, latents: Tensor) -> Tensor:
        """CLIP embeddings of latents, ``(B, *axes)`` to ``(B, D)``, differentiably; the identity for unCLIP."""
        ...

    def embed_images(self, images: Sequence[Image], latents: Tensor) -> Tensor:
        """CLIP embeddings of seed images, ``(B, D)``; ``latents`` are theirs, and already the answer for unCLIP."""
        ...

    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Images of latents, ``(B, 3, H, W)`` in [0, 1]. Row ``i`` draws its noise from ``generators[i]`` alone."""
        ...

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """The zero-shot classifier of ``class_names`` in the space that :meth:`embed` maps to."""
        ...
