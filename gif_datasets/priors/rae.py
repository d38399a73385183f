"""Representation autoencoders (Zheng et al. 2025): the tokens of a frozen DINOv2 or MAE are the latent.

diffusers' ``AutoencoderRAE`` encodes and decodes. No CLIP and no class text is needed: a classifier fitted to the seeds
guides in the space of the tokens themselves, and the decoder, one pass without a gradient, draws what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError, one_line
from gif_datasets.guidance.zeroshot import ZeroShotClassifier
from gif_datasets.io.parsing import read_json
from gif_datasets.priors.base import Prior, pixels_of
from gif_datasets.priors.diffusers_folder import quiet_diffusers
from gif_datasets.priors.parts import Parts

if TYPE_CHECKING:
    from PIL.Image import Image

_CLASS = "AutoencoderRAE"
_ENCODERS = ("dinov2", "mae")


class RaePrior(Prior):
    """A representation autoencoder, scored by what its own tokens say.

    The latent is the map of tokens as the autoencoder normalises them, ``(C, h, w)``. Its embedding is the mean over
    positions, ``(C,)``.

    Args:
        parts: Its files; a CLIP is not read.
        device: The device that it runs on.
        config: Not used: it runs in single precision.

    Source:
        Diffusion Transformers with Representation Autoencoders (arXiv 2510.11690) for the autoencoder.
    """

    latent_is_embedding = False
    decodes_noise = False

    def __init__(self, parts: Parts, device: torch.device, config: ExpansionConfig) -> None:
        self.model = load(parts.decoder).to(device)
        self.device = device

    @torch.no_grad()
    def encode(self, images: Sequence[Image]) -> Tensor:
        """Tokens of images, ``(B, C, h, w)``."""
        pixels = pixels_of(images, self.model.config.encoder_input_size).to(self.device)
        latents: Tensor = self.model.encode(pixels).latent
        return latents

    def embed(self, latents: Tensor) -> Tensor:
        """Means of tokens over positions, ``(B, C)``."""
        return latents.mean((2, 3))

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Means of the tokens of images, ``(B, C)``."""
        return self.embed(self.encode(images))

    def pixels(self, latents: Tensor) -> Tensor:
        """Images of latents, differentiably: what a guide apart from the prior scores."""
        pixels: Tensor = self.model.decode(latents).sample
        return pixels.clamp(0, 1)

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Images of latents, ``(B, 3, H, W)`` in [0, 1]; the decoder draws no noise."""
        return self.pixels(latents)

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """Nothing yet: tokens have no class texts, so a classifier is fitted to those of the seeds."""
        width = self.model.config.encoder_hidden_size
        return ZeroShotClassifier(torch.zeros(len(class_names), width, device=self.device), 1.0)


def load(folder: Path) -> Any:
    """Read an ``AutoencoderRAE`` as diffusers saves it, in single precision.

    Raises:
        PriorError: If a file is missing, does not fit, or the encoder is of a kind that diffusers cannot build.
    """
    _check(folder)
    with quiet_diffusers():
        try:
            from diffusers import AutoencoderRAE

            model, found = AutoencoderRAE.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
        except (
            ImportError,  # of a diffusers that has none yet
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RuntimeError,
            SafetensorError,
        ) as error:
            raise PriorError(f"cannot load the autoencoder in {folder}: {one_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise PriorError(f"cannot load the autoencoder in {folder}: no {missing[0]} among its weights")
    return model.eval().requires_grad_(False)


def _check(folder: Path) -> None:
    """Raise PriorError unless a folder's configuration is of an autoencoder that can be a prior."""
    path = folder / "config.json"
    try:
        config: Any = read_json(path.read_text(encoding="utf-8"))
        kind, encoder, mapped = config["_class_name"], config["encoder_type"], config.get("reshape_to_2d", True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PriorError(f"cannot load the autoencoder in {folder}: {one_line(error)}") from error
    if kind != _CLASS:
        raise PriorError(f"{path}: a {kind!r} is not a representation autoencoder; known: {_CLASS}")
    if encoder not in _ENCODERS:
        raise PriorError(
            f"{path}: an encoder {encoder!r} cannot be used; take one of {' and '.join(_ENCODERS)} (diffusers cannot"
            " build siglip2 with transformers 5)"
        )
    if not mapped:
        raise PriorError(f"{path}: reshape_to_2d is off, so its tokens have no places; take an autoencoder with it on")
