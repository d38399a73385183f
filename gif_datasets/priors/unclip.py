"""unCLIP priors: a CLIP image latent, and a diffusion decoder conditioned on it.

The decoder is a diffusers pipeline; its class decides how it takes a latent. The CLIP is an open_clip folder: the
pipeline's image encoder is the same network under other names, and is not loaded a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError
from gif_datasets.guidance.zeroshot import Clip
from gif_datasets.priors.base import ClipPrior
from gif_datasets.priors.diffusers_folder import check_options, denoiser, load_pipeline, pipeline_class
from gif_datasets.priors.parts import Parts

if TYPE_CHECKING:
    from PIL.Image import Image

Generators = list[torch.Generator]


class UnclipPrior(ClipPrior):
    """An open_clip model and a pipeline that decodes its raw image latents.

    Args:
        parts: Their files.
        device: The device that both run on.
        config: Options of the pipeline: precision, scheduler and memory.
    """

    def __init__(self, parts: Parts, device: torch.device, config: ExpansionConfig) -> None:
        kind = pipeline_class(parts, _KINDS)
        self.kind = _KINDS[kind]
        if self.kind.adapted != (parts.adapter is not None):
            raise PriorError(
                f"{parts.decoder}: a {kind} needs an IP-Adapter to be an unCLIP decoder, and no other class takes one"
            )
        check_options(kind, self.kind.adapted, device, config)
        self.clip = Clip(parts.clip, device)
        self.pipeline = load_pipeline(kind, parts, device, config, **dict.fromkeys(self.kind.unused))
        if self.kind.stand_in:  # the pipeline reads the image encoder's precision, even if it encodes nothing
            self.pipeline.image_encoder = getattr(self.pipeline, self.kind.stand_in)
        self.null = self.clip.mean_image_latent() if parts.null_latent == MEAN_IMAGE else None
        self.image_size = parts.image_size
        self.device = device

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Raw CLIP image latents, ``(B, D)``."""
        return self.clip.encode_images(images)

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Sample one image per latent, ``(B, 3, H, W)`` in [0, 1]."""
        latents = latents.to(self.device, denoiser(self.pipeline).dtype)
        return self.kind.decode(self, latents, list(generators), config).float().clamp(0, 1)


MEAN_IMAGE = "mean image"
"""An alternative to zeros as the latent of unconditional steps: that of an image of CLIP's mean colour."""


def _sampling(prior: UnclipPrior, generators: Generators, config: ExpansionConfig) -> dict[str, Any]:
    """Arguments of a call that all pipelines except Karlo's share."""
    return {
        "height": prior.image_size,
        "width": prior.image_size,
        "num_inference_steps": config.decode_steps,
        "guidance_scale": config.guidance_scale,
        "generator": generators,
        "output_type": "pt",
    }


def _kandinsky(prior: UnclipPrior, latents: Tensor, generators: Generators, config: ExpansionConfig) -> Tensor:
    null = torch.zeros_like(latents) if prior.null is None else prior.null.to(latents).expand_as(latents)
    pixels: Tensor = prior.pipeline(
        image_embeds=latents,
        negative_image_embeds=null,
        **_sampling(prior, generators, config),
    ).images
    return pixels.float() / 2 + 0.5


def _karlo(prior: UnclipPrior, latents: Tensor, generators: Generators, config: ExpansionConfig) -> Tensor:
    pixels = prior.pipeline(
        image_embeddings=latents,
        decoder_num_inference_steps=config.decode_steps,
        decoder_guidance_scale=config.guidance_scale,
        generator=generators,
        output_type="np",
    ).images
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(latents.device)


def _stable(prior: UnclipPrior, latents: Tensor, generators: Generators, config: ExpansionConfig) -> Tensor:
    return _diffused(prior, len(latents), generators, config, image_embeds=latents, noise_level=config.noise_level)


def _adapter(prior: UnclipPrior, latents: Tensor, generators: Generators, config: ExpansionConfig) -> Tensor:
    guided = config.guidance_scale > 1
    rows = torch.cat([torch.zeros_like(latents), latents]) if guided else latents  # null first, as in diffusers
    return _diffused(prior, len(latents), generators, config, ip_adapter_image_embeds=[rows[:, None]])


def _diffused(
    prior: UnclipPrior, count: int, generators: Generators, config: ExpansionConfig, **condition: Any
) -> Tensor:
    """Images of a Stable Diffusion pipeline conditioned on the latent only: the prompts are empty."""
    pixels: Tensor = prior.pipeline(
        prompt=[""] * count,
        **_sampling(prior, generators, config),
        **condition,
    ).images
    return pixels


@dataclass(frozen=True)
class _Kind:
    """How a class of pipelines decodes a CLIP latent, and which of its parts are not needed."""

    decode: Callable[[UnclipPrior, Tensor, Generators, ExpansionConfig], Tensor]
    unused: tuple[str, ...] = ()
    stand_in: str = ""
    adapted: bool = False


_ENCODER = ("image_encoder", "feature_extractor")
_KINDS = {
    "KandinskyV22Pipeline": _Kind(_kandinsky),
    "UnCLIPImageVariationPipeline": _Kind(_karlo, _ENCODER, "text_proj"),
    "StableUnCLIPImg2ImgPipeline": _Kind(_stable, _ENCODER, "image_normalizer"),
    "StableDiffusionPipeline": _Kind(_adapter, (*_ENCODER, "safety_checker"), adapted=True),
    "StableDiffusionXLPipeline": _Kind(_adapter, _ENCODER, adapted=True),
}
"""By diffusers class."""
