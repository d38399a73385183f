"""unCLIP priors: a CLIP image latent, and a diffusion decoder conditioned on it.

The decoder is a diffusers pipeline folder in the layout of ``KandinskyV22Pipeline``; its CLIP is an open_clip folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.priors.base import ClipPrior
from gif_datasets.priors.diffusers_folder import load_pipeline
from gif_datasets.zeroshot import Clip

if TYPE_CHECKING:
    from PIL.Image import Image


class UnclipPrior(ClipPrior):
    """An open_clip model and a ``KandinskyV22Pipeline`` that decodes its raw image latents.

    Args:
        clip_folder: The open_clip folder.
        pipeline_folder: The diffusers pipeline folder, safetensors only.
        image_size: Side of the decoded pictures, pixels.
        device: Where both run.
        dtype: Precision that the pipeline runs in.
    """

    def __init__(
        self, clip_folder: Path, pipeline_folder: Path, image_size: int, device: torch.device, dtype: str = "float32"
    ) -> None:
        self.clip = Clip(clip_folder, device)
        self.pipeline = load_pipeline("KandinskyV22Pipeline", pipeline_folder, device, dtype)
        self.pipeline.movq.to(memory_format=torch.channels_last)
        self.image_size = image_size
        self.device = device

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Raw CLIP image latents, ``(B, D)``."""
        return self.clip.encode_images(images)

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Sample one picture a latent, ``(B, 3, H, W)`` in [0, 1]."""
        latents = latents.to(self.pipeline.unet.dtype)
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
