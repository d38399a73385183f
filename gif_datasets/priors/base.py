"""What every prior is: an encoder, a decoder, and the CLIP space that scores its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.guidance.zeroshot import Clip, ZeroShotClassifier

if TYPE_CHECKING:
    from PIL.Image import Image


class Prior(Protocol):
    """A pre-trained generative prior.

    To bring your own, inherit from this class, implement ``encode``, ``decode`` and ``classifier``, and pass the object
    as ``prior=``. What else there is defaults to an unCLIP prior's, whose latent is the CLIP embedding itself; another
    kind of prior also implements ``embed`` and ``embed_images``.

    Attributes:
        channel_axis: Which axis of one latent counts its channels.
        latent_is_embedding: Whether ``embed`` is the identity.
        decodes_noise: Whether ``decode`` draws from its generators, so that a picture can be drawn again.
        recognises: Whether its classifier means anything, so that it is worth telling where it fails.
    """

    channel_axis: int = 0
    latent_is_embedding: bool = True
    decodes_noise: bool = True
    recognises: bool = True

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Raw latents of RGB images, ``(B, *axes)``."""
        ...

    def start(
        self,
        images: Sequence[Image],
        latents: Tensor,
        names: Sequence[str],
        keys: Sequence[str],
        config: ExpansionConfig,
    ) -> Tensor:
        """Latents that the copies start from, ``(B, K, *axes)``, or ``(B, 1, *axes)`` where all start from the seed's.

        Args:
            images: The seeds' pictures.
            latents: What ``encode`` gave for them.
            names: Their class names.
            keys: What their noise is drawn for, besides ``config.rng_seed`` and the copy.
            config: The options.
        """
        return latents[:, None]

    def embed(self, latents: Tensor) -> Tensor:
        """CLIP embeddings of latents, ``(B, *axes)`` to ``(B, D)``, differentiably."""
        return latents

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """CLIP embeddings of pictures, ``(B, D)``."""
        return self.encode(images)

    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Images of latents, ``(B, 3, H, W)`` in [0, 1]. Row ``i`` draws its noise from ``generators[i]`` alone."""
        ...

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """The zero-shot classifier of ``class_names`` in the space that :meth:`embed` maps to."""
        ...


class ClipPrior(Prior):
    """A prior that an open_clip model scores; what the kinds of priors in this package share.

    Attributes:
        clip: The model.
    """

    clip: Clip

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """CLIP embeddings of pictures themselves, not of their reconstructions (Algorithm 2)."""
        return self.clip.encode_images(images)

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """The CLIP's zero-shot classifier of ``class_names``, the texts of a class's synonyms averaged."""
        called = [config.names_of(name) for name in class_names]
        found = self.clip.classifier([name for names in called for name in names], config.templates, config.logit_scale)
        return found.merged([len(names) for names in called])
