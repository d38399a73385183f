"""The protocol of a prior: an encoder, a decoder, and the CLIP space that scores its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError
from gif_datasets.guidance.zeroshot import Clip, ZeroShotClassifier
from gif_datasets.io.threads import ordered_map

if TYPE_CHECKING:
    from PIL.Image import Image


_FROM_NOISE = "a {} has no autoencoder to begin near a seed with; give strength=1"


class Prior(Protocol):
    """A pre-trained generative prior.

    To add a prior, inherit from this class, implement ``encode``, ``decode`` and ``classifier``, and pass the object
    as ``prior=``. The other members default to those of an unCLIP prior, whose latent is the CLIP embedding itself; a
    prior of another kind also implements ``embed`` and ``embed_images``.

    Attributes:
        channel_axis: Which axis of one latent counts its channels.
        latent_is_embedding: Whether ``embed`` is the identity.
        guides_itself: Whether its own classifier guides, even where a guide scores images.
        decodes_noise: Whether ``decode`` draws from its generators, so that an image can be drawn again.
        recognises: Whether its classifier's scores mean anything, so that a warning about them is useful.
    """

    channel_axis: int = 0
    latent_is_embedding: bool = True
    guides_itself: bool = False
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
            images: The seeds' images.
            latents: Their latents, from ``encode``.
            names: Their class names.
            keys: Content keys; with ``config.rng_seed`` and the copy they decide the noise.
            config: The options.
        """
        return latents[:, None]

    def embed(self, latents: Tensor) -> Tensor:
        """CLIP embeddings of latents, ``(B, *axes)`` to ``(B, D)``, differentiably."""
        return latents

    def pixels(self, latents: Tensor) -> Tensor:
        """Images of latents, ``(B, 3, H, W)`` in [0, 1], differentiably: what a guide apart from the prior scores.

        Raises:
            PriorError: If the prior has none; then no guide but its own guides it.
        """
        raise PriorError(f"a {type(self).__name__} gives no images to differentiate through; guide it without guide=")

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """CLIP embeddings of images, ``(B, D)``."""
        return self.encode(images)

    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Images of latents, ``(B, 3, H, W)`` in [0, 1]. Row ``i`` draws its noise from ``generators[i]`` alone."""
        ...

    def anchors(self, images: Sequence[Image]) -> Tensor:
        """What copies near their seed begin from, ``(B, *axes)``: latents of the decoder's autoencoder.

        Raises:
            PriorError: If the prior has none; then its ``strength`` is 1.
        """
        raise PriorError(_FROM_NOISE.format(type(self).__name__))

    def decode_near(
        self, latents: Tensor, anchors: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig
    ) -> Tensor:
        """Images of latents as :meth:`decode` makes them, but from anchors noised to ``config.strength``.

        Args:
            latents: ``(B, *axes)``.
            anchors: From :meth:`anchors`, one a row.
            generators: One a row.
            config: The options.
        """
        raise PriorError(_FROM_NOISE.format(type(self).__name__))

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """The zero-shot classifier of ``class_names`` in the space that :meth:`embed` maps to."""
        ...


def pixels_of(images: Sequence[Image], side: int) -> Tensor:
    """Pixels ``(B, 3, side, side)`` in [0, 1], of the largest square in the middle of each image."""
    from PIL import ImageOps
    from PIL.Image import Resampling
    from torchvision.transforms.v2 import functional as vision

    squares = ordered_map(lambda image: ImageOps.fit(image, (side, side), Resampling.BICUBIC), images)
    return torch.stack([vision.pil_to_tensor(image) for image in squares]).float() / 255


class ClipPrior(Prior):
    """A prior scored by an open_clip model: the base class of the priors in this package.

    Attributes:
        clip: The model.
    """

    clip: Clip

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """CLIP embeddings of images themselves, not of their reconstructions (Algorithm 2)."""
        return self.clip.encode_images(images)

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """The CLIP's zero-shot classifier of ``class_names``; the texts of a class's synonyms are averaged."""
        return text_classifier(self.clip, class_names, config)


def text_classifier(clip: Clip, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
    """A CLIP's zero-shot classifier of ``class_names``; the texts of a class's synonyms are averaged."""
    synonyms = [config.names_of(name) for name in class_names]
    every = clip.classifier([name for names in synonyms for name in names], config.templates, config.logit_scale)
    return every.merged([len(names) for names in synonyms])
