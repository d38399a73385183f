"""FLUX.1 Redux: the tokens of a SigLIP's image tower are the latent, and a Flux pipeline reads them like a text.

What diffusers does in two pipelines, ``FluxPriorReduxPipeline`` and ``FluxPipeline``, without their text encoders. The
SigLIP is an open_clip folder, as for every unCLIP prior; Redux itself is one file of two linear layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError, one_line
from gif_datasets.guidance.zeroshot import Clip
from gif_datasets.priors.base import ClipPrior, pixels_of
from gif_datasets.priors.diffusers_folder import check_options, denoiser, load_pipeline
from gif_datasets.priors.parts import Parts
from gif_datasets.priors.published import REDUX
from gif_datasets.priors.unclip import encoded, sampling, steps_near

if TYPE_CHECKING:
    from PIL.Image import Image

_UNUSED = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "image_encoder", "feature_extractor")
_WORDS = 512
"""Places of a text in FLUX.1, which come before the image's tokens; zeros, as FluxPriorReduxPipeline has them."""


class ReduxPrior(ClipPrior):
    """A SigLIP, Redux, and a Flux pipeline that draws what the tokens show.

    The latent is the feature map of the SigLIP's image tower, ``(places, channels)``. Its embedding is what the
    SigLIP's own attention pools of it, so class texts score it, and no gradient passes through the decoder
    (Algorithm 2).

    Args:
        parts: Their files.
        device: The device that all run on.
        config: Options of the pipeline: precision and memory.
    """

    channel_axis = 1
    latent_is_embedding = False
    guides_itself = True

    def __init__(self, parts: Parts, device: torch.device, config: ExpansionConfig) -> None:
        if parts.adapter is None:
            raise PriorError(f"{parts.decoder}: a {REDUX} needs the file of a Redux to be an unCLIP decoder (adapter)")
        check_options(REDUX, False, device, config)
        self.clip = Clip(parts.scored_by, device)
        if not self.clip.pools_map:
            raise PriorError(f"the CLIP in {parts.scored_by} is not a SigLIP, whose tokens Redux reads")
        plain = dataclasses.replace(parts, adapter=None)
        self.pipeline = load_pipeline(REDUX, plain, device, config, **dict.fromkeys(_UNUSED))
        network = denoiser(self.pipeline)
        self.redux = _load(
            parts.adapter, self.clip.map_width, network.config.joint_attention_dim, device, network.dtype
        )
        self.image_size = parts.image_size
        self.device = device

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Feature maps of images, ``(B, places, channels)``."""
        found = self.clip.feature_map(images)
        assert found is not None
        return found.to(self.device)

    def embed(self, latents: Tensor) -> Tensor:
        """The SigLIP's image latents of feature maps, ``(B, D)``, differentiably."""
        return self.clip.pool_map(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Sample one image per latent, ``(B, 3, H, W)`` in [0, 1]."""
        options = sampling(self.image_size, list(generators), config)
        pixels: Tensor = self.pipeline(**self._condition(latents), **options).images
        return pixels.float().clamp(0, 1)

    @torch.no_grad()
    def anchors(self, images: Sequence[Image]) -> Tensor:
        """Latents of the autoencoder, in the units of the network, ``(B, C, h, w)``."""
        vae = self.pipeline.vae
        pixels = pixels_of(images, self.image_size).to(self.device, vae.dtype)
        return encoded(vae, pixels * 2 - 1).float()

    @torch.no_grad()
    def decode_near(
        self, latents: Tensor, anchors: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig
    ) -> Tensor:
        """Sample one image per latent, ``(B, 3, H, W)`` in [0, 1], from anchors noised to the strength."""
        steps, of = steps_near(config)
        options = sampling(self.image_size, list(generators), config) | {
            "image": anchors.to(self.device, denoiser(self.pipeline).dtype),
            "strength": (steps - 0.5) / of,  # of N steps it runs N - int(N * (1 - strength))
            "num_inference_steps": of,
        }
        pixels: Tensor = self.img2img(**self._condition(latents), **options).images
        return pixels.float().clamp(0, 1)

    @cached_property
    def img2img(self) -> Any:
        """The pipeline that begins near a seed; it shares all models with :attr:`pipeline`."""
        from diffusers import FluxImg2ImgPipeline

        parts = {name: part for name, part in self.pipeline.components.items() if part is not None}
        near = FluxImg2ImgPipeline(**dict.fromkeys(_UNUSED[:4]) | parts)
        near.set_progress_bar_config(disable=True)
        return near

    def _condition(self, latents: Tensor) -> dict[str, Tensor]:
        """What the pipeline draws, a row an image: FluxPriorReduxPipeline would add the rows up."""
        network = denoiser(self.pipeline)
        tokens = self.redux(latents.to(self.device, network.dtype)).image_embeds
        words = tokens.new_zeros(len(tokens), _WORDS, tokens.shape[2])
        pooled = tokens.new_zeros(len(tokens), network.config.pooled_projection_dim)
        return {"prompt_embeds": torch.cat([words, tokens], 1), "pooled_prompt_embeds": pooled}


def _load(file: Path, channels: int, width: int, device: torch.device, dtype: torch.dtype) -> Any:
    """Redux, from tokens of so many channels to those of a text.

    Raises:
        PriorError: If the file is not one, or fits another SigLIP or pipeline.
    """
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    try:
        tensors = {name: value.to(device, dtype) for name, value in load_file(file).items()}
        with torch.device("meta"):
            redux = ReduxImageEncoder(redux_dim=channels, txt_in_features=width)
        redux.load_state_dict(tensors, assign=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise PriorError(
            f"{file} is not a Redux from {channels} channels of a SigLIP to {width} of a text: {one_line(error)}"
        ) from error
    return redux.eval().requires_grad_(False)
