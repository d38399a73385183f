"""unCLIP priors: a CLIP image latent, and a diffusion decoder conditioned on it.

The decoder is a diffusers pipeline; its class decides how it takes a latent. The CLIP is an open_clip folder: the
pipeline's image encoder is the same network under other names, and is not loaded a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError
from gif_datasets.guidance.zeroshot import Clip
from gif_datasets.priors.base import ClipPrior, pixels_of
from gif_datasets.priors.diffusers_folder import check_options, denoiser, load_pipeline, pipeline_class, shift_of
from gif_datasets.priors.parts import Parts
from gif_datasets.priors.published import from_noise_alone

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
        self.clip = Clip(parts.scored_by, device)
        self.pipeline = load_pipeline(kind, parts, device, config, **dict.fromkeys(self.kind.unused))
        if self.kind.stand_in:  # the pipeline reads the image encoder's precision, even if it encodes nothing
            self.pipeline.image_encoder = getattr(self.pipeline, self.kind.stand_in)
        if self.kind.adapted:
            _rows_apart(self.pipeline)
        self.null = self.clip.mean_image_latent() if parts.null_latent == MEAN_IMAGE else None
        self.image_size = parts.image_size
        self.device = device

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Raw CLIP image latents, ``(B, D)``."""
        return self.clip.encode_images(images)

    @torch.no_grad()
    def anchors(self, images: Sequence[Image]) -> Tensor:
        """Latents of the decoder's autoencoder, in the units of its network, ``(B, C, h, w)``."""
        if self.kind.img2img is None:
            raise PriorError(from_noise_alone(type(self.pipeline).__name__))
        return self.compress(pixels_of(images, self.image_size).to(self.device))

    def compress(self, pixels: Tensor) -> Tensor:
        """What the network denoises, of images ``(B, 3, H, W)`` in [0, 1]: latents, or for Karlo pixels in [-1, 1]."""
        parts = self.pipeline.components
        scaled = pixels.to(denoiser(self.pipeline).dtype) * 2 - 1
        if "movq" in parts:
            latents: Tensor = parts["movq"].encode(scaled).latents
        elif "vae" in parts:
            latents = encoded(parts["vae"], scaled)
        else:
            latents = scaled
        return latents.float()

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Sample one image per latent, ``(B, 3, H, W)`` in [0, 1]."""
        latents = latents.to(self.device, denoiser(self.pipeline).dtype)
        return self.kind.decode(self, latents, list(generators), config, None).float().clamp(0, 1)

    @torch.no_grad()
    def decode_near(
        self, latents: Tensor, anchors: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig
    ) -> Tensor:
        """Sample one image per latent, ``(B, 3, H, W)`` in [0, 1], from anchors noised to the strength."""
        latents, anchors = (part.to(self.device, denoiser(self.pipeline).dtype) for part in (latents, anchors))
        return self.kind.decode(self, latents, list(generators), config, anchors).float().clamp(0, 1)

    @cached_property
    def img2img(self) -> Any:
        """The pipeline that begins near a seed; it shares all models with :attr:`pipeline`."""
        assert self.kind.img2img is not None
        near = self.kind.img2img(self.pipeline)
        near.set_progress_bar_config(disable=True)
        return near


MEAN_IMAGE = "mean image"
"""An alternative to zeros as the latent of unconditional steps: that of an image of CLIP's mean colour."""


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    """Scaled latents of an AutoencoderKL; in single precision where half precision overflows."""
    dtype = vae.dtype
    if dtype == torch.float16 and vae.config.force_upcast:
        vae.to(torch.float32)
    means = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    latents: Tensor = (means - shift_of(vae)) * vae.config.scaling_factor
    if vae.dtype != dtype:
        vae.to(dtype)
    return latents


def sampling(image_size: int, generators: Generators, config: ExpansionConfig) -> dict[str, Any]:
    """Arguments of a call that all pipelines except Karlo's share."""
    return {
        "height": image_size,
        "width": image_size,
        "num_inference_steps": config.decode_steps,
        "guidance_scale": config.guidance_scale,
        "generator": generators,
        "output_type": "pt",
    }


def steps_near(config: ExpansionConfig) -> tuple[int, int]:
    """How many steps begin near a seed, and of how many.

    So that few steps do not make the strength coarse, their number is chosen for it: with 6 decode steps, a strength of
    0.4 runs 3 of 8.
    """
    assert isinstance(config.strength, float)
    steps = math.ceil(config.decode_steps * config.strength - 1e-9)
    return steps, max(steps, round(steps / config.strength))


def _near_seed(anchors: Tensor, generators: Generators, config: ExpansionConfig) -> dict[str, Any]:
    """Arguments of an img2img call that begins from anchors, noised to the strength.

    Of N steps an img2img pipeline runs ``int(N * strength)``.
    """
    steps, of = steps_near(config)
    return {
        "image": anchors,
        "strength": min(1.0, (steps + 0.5) / of),
        "num_inference_steps": of,
        "guidance_scale": config.guidance_scale,
        "generator": generators,
        "output_type": "pt",
    }


def _kandinsky(
    prior: UnclipPrior, latents: Tensor, generators: Generators, config: ExpansionConfig, anchors: Tensor | None
) -> Tensor:
    null = torch.zeros_like(latents) if prior.null is None else prior.null.to(latents).expand_as(latents)
    condition = {"image_embeds": latents, "negative_image_embeds": null}
    if anchors is not None:
        near: Tensor = prior.img2img(**condition, **_near_seed(anchors, generators, config)).images
        return near
    pixels: Tensor = prior.pipeline(**condition, **sampling(prior.image_size, generators, config)).images
    return pixels.float() / 2 + 0.5


def _karlo(
    prior: UnclipPrior, latents: Tensor, generators: Generators, config: ExpansionConfig, anchors: None
) -> Tensor:
    pixels = prior.pipeline(
        image_embeddings=latents,
        decoder_num_inference_steps=config.decode_steps,
        decoder_guidance_scale=config.guidance_scale,
        generator=generators,
        output_type="np",
    ).images
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(latents.device)


def _stable(
    prior: UnclipPrior, latents: Tensor, generators: Generators, config: ExpansionConfig, anchors: None
) -> Tensor:
    condition = {"image_embeds": latents, "noise_level": config.noise_level}
    return _diffused(prior.pipeline, len(latents), **condition, **sampling(prior.image_size, generators, config))


def _adapter(
    prior: UnclipPrior, latents: Tensor, generators: Generators, config: ExpansionConfig, anchors: Tensor | None
) -> Tensor:
    guided = config.guidance_scale > 1
    rows = torch.cat([torch.zeros_like(latents), latents]) if guided else latents  # null first, as in diffusers
    condition = {"ip_adapter_image_embeds": [rows[:, None]]}
    if anchors is not None:
        return _diffused(prior.img2img, len(latents), **condition, **_near_seed(anchors, generators, config))
    return _diffused(prior.pipeline, len(latents), **condition, **sampling(prior.image_size, generators, config))


def _rows_apart(pipeline: Any) -> Any:
    """Let each image see its own embedding: diffusers repeats embeddings that it is given by the number of images, so
    that each sees all of them (https://github.com/huggingface/diffusers/issues/9813).
    """
    pipeline.prepare_ip_adapter_image_embeds = lambda image, embeds, device, *_: [rows.to(device) for rows in embeds]
    return pipeline


def _diffused(pipeline: Any, count: int, **arguments: Any) -> Tensor:
    """Images of a Stable Diffusion pipeline conditioned on the latent only: the prompts are empty."""
    pixels: Tensor = pipeline(prompt=[""] * count, **arguments).images
    return pixels


@dataclass(frozen=True)
class _Encoded:
    """An autoencoder for a pipeline whose images are latents already: it only decodes.

    Kandinsky's img2img pipeline encodes the image of every copy; here a seed is encoded once for all of its copies.
    """

    movq: Any

    @property
    def config(self) -> Any:
        return self.movq.config

    def encode(self, latents: Tensor) -> dict[str, Tensor]:
        return {"latents": latents}

    def decode(self, latents: Tensor, **arguments: Any) -> Any:
        return self.movq.decode(latents, **arguments)


def _kandinsky_img2img(pipeline: Any) -> Any:
    from diffusers import KandinskyV22Img2ImgPipeline
    from diffusers.utils.torch_utils import randn_tensor

    class NearSeed(KandinskyV22Img2ImgPipeline):  # type: ignore[misc]
        """diffusers' encodes the image once more unless it has four channels."""

        def prepare_latents(
            self,
            image: Tensor,
            timestep: Tensor,
            batch_size: int,
            num_images_per_prompt: int,
            dtype: torch.dtype,
            device: torch.device,
            generator: Any = None,
        ) -> Tensor:
            noise = randn_tensor(image.shape, generator=generator, device=device, dtype=dtype)
            noised: Tensor = self.scheduler.add_noise(image.to(device, dtype), noise, timestep)
            return noised

    return NearSeed(pipeline.unet, pipeline.scheduler, _Encoded(pipeline.movq))


def _adapted_img2img(pipeline: Any) -> Any:
    from diffusers import AutoPipelineForImage2Image

    return _rows_apart(AutoPipelineForImage2Image.from_pipe(pipeline))


@dataclass(frozen=True)
class _Kind:
    """How a class of pipelines decodes a CLIP latent, and which of its parts are not needed.

    ``img2img`` makes, of a pipeline, the one that begins near a seed; None: there is none.
    """

    decode: Callable[[UnclipPrior, Tensor, Generators, ExpansionConfig, Any], Tensor]
    unused: tuple[str, ...] = ()
    stand_in: str = ""
    adapted: bool = False
    img2img: Callable[[Any], Any] | None = None


_ENCODER = ("image_encoder", "feature_extractor")
_KINDS = {
    "KandinskyV22Pipeline": _Kind(_kandinsky, img2img=_kandinsky_img2img),
    "UnCLIPImageVariationPipeline": _Kind(_karlo, _ENCODER, "text_proj"),
    "StableUnCLIPImg2ImgPipeline": _Kind(_stable, _ENCODER, "image_normalizer"),
    "StableDiffusionPipeline": _Kind(_adapter, (*_ENCODER, "safety_checker"), adapted=True, img2img=_adapted_img2img),
    "StableDiffusionXLPipeline": _Kind(_adapter, _ENCODER, adapted=True, img2img=_adapted_img2img),
}
"""By diffusers class."""
