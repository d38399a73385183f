"""The condition of a denoiser, computed as in its pipeline's call, but such that gradients can be taken.

Each function returns keyword arguments of the network, one row per image; rows that are not kept get the condition of
the pipeline's unconditional steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gif_datasets.priors.unclip import UnclipPrior

Condition = dict[str, Any]


def of_texts(pipeline: Any, texts: Sequence[str], kept: Tensor, side: int) -> Condition:
    """The condition of captions, in Stable Diffusion 1, 2 and XL.

    Args:
        pipeline: Encodes them.
        texts: One per image, or one for all; empty where the row is not kept.
        kept: Which rows have a condition, ``(N,)``.
        side: Side of the images, pixels; XL gets it, without a crop.
    """
    tokens, _, *pooled = pipeline.encode_prompt(
        prompt=list(texts), device=kept.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    tokens = tokens.expand(len(kept), -1, -1)
    if not pooled:
        return {"encoder_hidden_states": tokens}
    text = pooled[0].expand(len(kept), -1)
    if pipeline.config.force_zeros_for_empty_prompt:
        tokens, text = tokens * kept[:, None, None], text * kept[:, None]
    sizes = tokens.new_tensor([[side, side, 0, 0, side, side]]).expand(len(kept), -1)
    return {"encoder_hidden_states": tokens, "added_cond_kwargs": {"text_embeds": text, "time_ids": sizes}}


def _kandinsky(prior: UnclipPrior, latents: Tensor, kept: Tensor, generator: torch.Generator) -> Condition:
    null = torch.zeros_like(latents) if prior.null is None else prior.null.to(latents)
    shown = torch.where(kept[:, None], latents, null)
    return {"encoder_hidden_states": None, "added_cond_kwargs": {"image_embeds": shown}}


def _karlo(prior: UnclipPrior, latents: Tensor, kept: Tensor, generator: torch.Generator) -> Condition:
    pipeline, project, n = prior.pipeline, prior.pipeline.text_proj, len(latents)
    text, states, mask = pipeline._encode_prompt([""], latents.device, 1, False)
    tokens, times = project(
        image_embeddings=torch.where(kept[:, None], latents, project.learned_classifier_free_guidance_embeddings),
        prompt_embeds=text.expand(n, -1),
        text_encoder_hidden_states=states.expand(n, -1, -1),
        do_classifier_free_guidance=False,
    )
    mask = torch.cat([mask.new_ones(1, project.clip_extra_context_tokens), mask], dim=1).expand(n, -1)
    return {"encoder_hidden_states": tokens, "class_labels": times, "attention_mask": mask}


def _stable(prior: UnclipPrior, latents: Tensor, kept: Tensor, generator: torch.Generator) -> Condition:
    """At a random noise level, as in its training, so that ``noise_level`` keeps its meaning."""
    pipeline = prior.pipeline
    most = pipeline.image_noising_scheduler.config.num_train_timesteps
    levels = torch.randint(most, (len(latents),), generator=generator).tolist()
    rows = [
        pipeline.noise_image_embeddings(latent[None], level, generator=generator)
        for latent, level in zip(latents, levels, strict=True)
    ]
    return of_texts(pipeline, [""], kept, prior.image_size) | {"class_labels": torch.cat(rows) * kept[:, None]}


def _adapter(prior: UnclipPrior, latents: Tensor, kept: Tensor, generator: torch.Generator) -> Condition:
    condition = of_texts(prior.pipeline, [""], kept, prior.image_size)
    added = condition.get("added_cond_kwargs", {}) | {"image_embeds": [(latents * kept[:, None])[:, None]]}
    return condition | {"added_cond_kwargs": added}


OF_LATENTS: dict[str, Callable[[UnclipPrior, Tensor, Tensor, torch.Generator], Condition]] = {
    "KandinskyV22Pipeline": _kandinsky,
    "UnCLIPImageVariationPipeline": _karlo,
    "StableUnCLIPImg2ImgPipeline": _stable,
    "StableDiffusionPipeline": _adapter,
    "StableDiffusionXLPipeline": _adapter,
}
"""The condition of CLIP latents ``(N, D)``, kept rows ``(N,)`` and a generator on the CPU; by diffusers class."""
