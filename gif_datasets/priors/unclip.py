"""unCLIP priors: a CLIP image latent, and a diffusion decoder conditioned on it.

The decoder is a diffusers pipeline folder in the layout of ``KandinskyV22Pipeline``; its CLIP is an open_clip folder.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError
from gif_datasets.zeroshot import Clip, ZeroShotClassifier

if TYPE_CHECKING:
    from PIL.Image import Image


class UnclipPrior:
    """An open_clip model and a ``KandinskyV22Pipeline`` that decodes its raw image latents.

    Args:
        clip_folder: The open_clip folder.
        pipeline_folder: The diffusers pipeline folder, safetensors only.
        image_size: Side of the decoded pictures, pixels.
        device: Where both run.
    """

    channel_axis = 0

    def __init__(self, clip_folder: Path, pipeline_folder: Path, image_size: int, device: torch.device) -> None:
        self.clip = Clip(clip_folder, device)
        self.pipeline = _load_pipeline(pipeline_folder, device)
        self.image_size = image_size
        self.device = device

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Raw CLIP image latents, ``(B, D)``."""
        return self.clip.encode_images(images)

    def embed(self, latents: Tensor) -> Tensor:
        """The identity: the latent space is the CLIP space."""
        return latents

    def embed_images(self, images: Sequence[Image], latents: Tensor) -> Tensor:
        """The latents themselves."""
        return latents

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """The classifier of the decoder's own CLIP."""
        return self.clip.classifier(class_names, config.templates, config.logit_scale)

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Sample one picture a latent, ``(B, 3, H, W)`` in [0, 1]."""
        pixels = self.pipeline(
            image_embeds=latents,
            negative_image_embeds=torch.zeros_like(latents),
            height=self.image_size,
            width=self.image_size,
            num_inference_steps=config.decode_steps,
            guidance_scale=config.guidance_scale,
            generator=list(generators),
            output_type="pt",
        ).images
        scaled: Tensor = (pixels.float() / 2 + 0.5).clamp(0, 1)
        return scaled


def _load_pipeline(folder: Path, device: torch.device) -> Any:
    with _quiet_diffusers():
        from diffusers import KandinskyV22Pipeline

        try:
            pipeline = KandinskyV22Pipeline.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise PriorError(f"cannot load the decoder in {folder}: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    pipeline.unet.eval().to(memory_format=torch.channels_last)
    pipeline.movq.eval().to(memory_format=torch.channels_last)
    return pipeline


@contextlib.contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Silence diffusers' own progress bars and advice while it loads."""
    from diffusers.utils import logging

    verbosity = copy.copy(logging.get_verbosity())
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
