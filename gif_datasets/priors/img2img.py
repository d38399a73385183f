"""Img2img priors: diffusers' img2img pipelines that decode with one autoencoder, scored by an open_clip model.

As in the paper's released code, each copy first goes through img2img. Guidance then perturbs the final latent, and
only the autoencoder decodes it. Stable Diffusion 1, 2, XL and their distilled models return that latent. Others (Stable
Diffusion 3, Flux, ..) pack it in other formats: their output image is encoded again.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError
from gif_datasets.guidance.rng import generator_for
from gif_datasets.guidance.zeroshot import Clip, readable
from gif_datasets.priors.base import ClipPrior, pixels_of
from gif_datasets.priors.diffusers_folder import (
    INDEX,
    check_options,
    denoiser,
    load_pipeline,
    pipeline_name,
    quiet_diffusers,
    shift_of,
)
from gif_datasets.priors.parts import Parts

if TYPE_CHECKING:
    from PIL.Image import Image

_SD, _SDXL = "StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"
_LCM = "LatentConsistencyModelImg2ImgPipeline"
_IMG2IMG = {
    _SD: _SD,
    "StableDiffusionPipeline": _SD,
    _SDXL: _SDXL,
    "StableDiffusionXLPipeline": _SDXL,
    _LCM: _LCM,
    "LatentConsistencyModelPipeline": _LCM,
}
"""The img2img class for a folder's class, where the pipeline returns latents. Most are published as text-to-image
pipelines with the same parts."""
_NOT_IN_TABLE = {
    "ChromaPipeline": "ChromaImg2ImgPipeline",
    "KolorsPipeline": "KolorsImg2ImgPipeline",
    "SanaSprintPipeline": "SanaSprintImg2ImgPipeline",
}
"""The img2img class for a folder's class, where diffusers has one and its table of architectures does not name it."""
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderDC")
_BOTH_STEPS = 2
"""Number of steps for which SANA-Sprint has a time of its own between them; with another it takes none."""
_CHECKED = ("safety_checker", "feature_extractor", "image_encoder")
_UNUSED = {_SD: _CHECKED, _LCM: _CHECKED, _SDXL: ("feature_extractor", "image_encoder")}


def _text_tower(clip: Clip, parts: Parts) -> Any:
    """The CLIP's text tower; a pipeline can run it only if it is a transformers model."""
    from transformers import PreTrainedModel

    tower = getattr(getattr(clip.model, "text", None), "transformer", None)
    if not isinstance(tower, PreTrainedModel):
        raise PriorError(
            f"{parts.decoder} contains no text_encoder, and the CLIP's text tower is not a transformers model"
        )
    return tower


def _check_vocabulary(clip: Clip, pipeline: Any, parts: Parts) -> None:
    """Raise PriorError unless the pipeline's tokens are those of the CLIP's text tower, which is to read them."""
    its = getattr(clip.tokenizer, "tokenizer", None)  # open_clip's own tokenizers have none
    if its is not None and getattr(pipeline.tokenizer, "get_vocab", dict)() != its.get_vocab():
        raise PriorError(
            f"{parts.decoder / 'tokenizer'} has another vocabulary than {parts.scored_by}, whose text tower reads its"
            " tokens; put the tokenizer.json of the one into the other"
        )


def _check_known(name: str, parts: Parts) -> None:
    """Raise PriorError unless diffusers has an img2img pipeline for this class."""
    from diffusers.pipelines import auto_pipeline as auto

    tables = (auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING, auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING)
    listed = {one.__name__ for table in tables for one in table.values()}
    if name not in {*listed, *_NOT_IN_TABLE, *_NOT_IN_TABLE.values()}:
        raise PriorError(f"{parts.decoder / INDEX}: diffusers has no img2img pipeline for a {name!r}")


def _as_img2img(pipeline: Any, parts: Parts) -> Any:
    """The img2img pipeline with the same parts, by diffusers' table of architectures or by ours."""
    import diffusers

    name = type(pipeline).__name__
    explicit = name if name in _NOT_IN_TABLE.values() else _NOT_IN_TABLE.get(name)
    try:
        with quiet_diffusers():
            if explicit:  # which would else be cast to single precision
                img2img = getattr(diffusers, explicit).from_pipe(pipeline, torch_dtype=denoiser(pipeline).dtype)
            else:
                img2img = diffusers.AutoPipelineForImage2Image.from_pipe(pipeline)
    except ValueError as error:
        raise PriorError(f"{parts.decoder}: {error}") from error
    img2img.set_progress_bar_config(disable=True)
    wanted = {"prompt", "image", "strength", "num_inference_steps", "guidance_scale", "generator", "output_type"}
    missing = sorted(wanted - {*inspect.signature(img2img.__call__).parameters})
    vae = type(getattr(img2img, "vae", None)).__name__
    if missing or vae not in _AUTOENCODERS:
        known = " or ".join(_AUTOENCODERS)
        lack = f"has no argument {missing[0]}" if missing else f"decodes with {vae}, not with an {known}"
        raise PriorError(f"{parts.decoder}: a {type(img2img).__name__} {lack}, so gif-sd cannot use it as a prior")
    return img2img


class SdPrior(ClipPrior):
    """An img2img pipeline and an open_clip model.

    Args:
        parts: Their files. A pipeline without a text encoder uses the CLIP's text tower.
        device: The device that both run on.
        config: Options of the pipeline: precision, scheduler and memory.
    """

    latent_is_embedding = False
    decodes_noise = False

    def __init__(self, parts: Parts, device: torch.device, config: ExpansionConfig) -> None:
        name = pipeline_name(parts.decoder)
        kind, self.hands_latents = _IMG2IMG.get(name, name), name in _IMG2IMG
        check_options(kind, False, device, config)
        if not self.hands_latents:
            _check_known(name, parts)
        self.clip = Clip(parts.scored_by, device)
        components: dict[str, Any] = dict.fromkeys(_UNUSED.get(kind, ()))
        if self.hands_latents and not (parts.decoder / "text_encoder").exists():
            tower, dtype = _text_tower(self.clip, parts), getattr(torch, config.dtype)
            components["text_encoder"] = copy.deepcopy(tower).to(dtype) if dtype != torch.float32 else tower
        self.pipeline = load_pipeline(kind, parts, device, config, **components)
        if "text_encoder" in components:
            _check_vocabulary(self.clip, self.pipeline, parts)
        if not self.hands_latents:
            self.pipeline = _as_img2img(self.pipeline, parts)
        self.upcasts = kind == _SDXL and self.pipeline.vae.config.force_upcast
        self.image_size = parts.image_size
        self.longest_prompt = parts.max_sequence_length
        self.device = device

    @torch.no_grad()
    def encode(self, images: Sequence[Image]) -> Tensor:
        """Means of the autoencoder's latents, scaled as the diffusion model expects, ``(B, C, H / 4, W / 4)``."""
        return self._encoded(pixels_of(images, self.image_size).to(self.device))

    @torch.no_grad()
    def start(
        self,
        images: Sequence[Image],
        latents: Tensor,
        names: Sequence[str],
        keys: Sequence[str],
        config: ExpansionConfig,
    ) -> Tensor:
        """Latents after img2img, a different one for every copy, ``(B, K, C, H / 4, W / 4)``."""
        pixels = pixels_of(images, self.image_size).to(self.device).repeat_interleave(config.copies, 0)
        copies = range(1, config.copies + 1)
        rows = [(name, key, number) for name, key in zip(names, keys, strict=True) for number in copies]
        generators = [generator_for(config.rng_seed, key, "start", number) for _, key, number in rows]
        prompts = [
            _prompt(config.captions, name, generator) for (name, _, _), generator in zip(rows, generators, strict=True)
        ]
        size, blocks, options = config.decode_batch, [], self._call(config)
        for first in range(0, len(rows), size):
            part = slice(first, first + size)
            short = size - len(prompts[part])
            output = self.pipeline(
                prompt=[*prompts[part], *prompts[:1] * short],
                image=torch.cat([pixels[part], pixels[:1].expand(short, -1, -1, -1)]),
                generator=[*generators[part], *(torch.Generator() for _ in range(short))],
                **options,
            ).images
            blocks.append((output if self.hands_latents else self._encoded(output))[: size - short])
        starts = torch.cat(blocks).float()
        return starts.reshape(len(images), config.copies, *starts.shape[1:])

    def _call(self, config: ExpansionConfig) -> dict[str, Any]:
        """Arguments of the pipeline beside prompts, images and generators."""
        options: dict[str, Any] = {
            "strength": config.strength,
            "num_inference_steps": config.decode_steps,
            "guidance_scale": config.guidance_scale,
            "output_type": "latent" if self.hands_latents else "pt",
        }
        takes = inspect.signature(self.pipeline.__call__).parameters
        if "height" in takes:  # without them a pipeline draws at its default size, not at the image's
            options |= {"height": self.image_size, "width": self.image_size}
        if "use_resolution_binning" in takes:  # which would resize to the nearest size that it was trained on, and back
            options["use_resolution_binning"] = False
        if "intermediate_timesteps" in takes and config.decode_steps != _BOTH_STEPS:
            options["intermediate_timesteps"] = None
        if self.longest_prompt is not None:
            options["max_sequence_length"] = self.longest_prompt
        return options

    def embed(self, latents: Tensor) -> Tensor:
        """CLIP embeddings of the decoded images."""
        return self.clip.embed_pixels(self.pixels(latents))

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Images of latents, ``(B, 3, H, W)`` in [0, 1]; the autoencoder draws no noise."""
        return self.pixels(latents)

    def _autoencoder(self) -> Any:
        """The autoencoder, in single precision where half overflows; the pipeline resets that after it encodes."""
        vae = self.pipeline.vae
        if self.upcasts and vae.dtype == torch.float16:
            vae.to(torch.float32)
        return vae

    def _encoded(self, pixels: Tensor) -> Tensor:
        """Latents of images ``(B, 3, H, W)`` in [0, 1]."""
        vae = self._autoencoder()
        encoded = vae.encode((pixels * 2 - 1).to(vae.dtype))
        means: Tensor = (encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent).float()
        latents: Tensor = (means - shift_of(vae)) * vae.config.scaling_factor
        return latents

    def pixels(self, latents: Tensor) -> Tensor:
        """Images of latents, differentiably."""
        vae = self._autoencoder()
        unscaled = latents / vae.config.scaling_factor + shift_of(vae)
        pixels: Tensor = vae.decode(unscaled.to(vae.dtype)).sample.float()
        return (pixels / 2 + 0.5).clamp(0, 1)


def _prompt(prompts: Sequence[str], name: str, generator: torch.Generator) -> str:
    """A random one of the prompts, filled with a class name."""
    return prompts[int(torch.randint(len(prompts), (), generator=generator))].replace("{}", readable(name))
