"""Load a diffusers pipeline from a local folder: safetensors only, nothing fetched, no code from the folder."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import torch
from safetensors import SafetensorError

from gif_datasets.config import OWN, ExpansionConfig
from gif_datasets.errors import ConfigError, MissingExtra, PriorError
from gif_datasets.parsing import read_json
from gif_datasets.priors.parts import Parts

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
}
"""Classes of diffusers, by the option's names; each takes a generator for every picture."""
_IMAGE_MODELS = ("unet", "movq", "vae", "decoder", "super_res_first", "super_res_last")


def pipeline_class(parts: Parts, known: Collection[str]) -> str:
    """The class that ``model_index.json`` names, if it is one of ``known``.

    Raises:
        PriorError: If there is no such file, or it names another class.
    """
    path = parts.decoder / "model_index.json"
    try:
        name = read_json(path.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PriorError(f"cannot load the decoder in {parts.decoder}: {path.name}: {error}") from error
    if name not in known:
        raise PriorError(f"{path}: a {name!r} does not decode this prior's latents; known: {', '.join(known)}")
    return str(name)


def load_pipeline(kind: str, parts: Parts, device: torch.device, config: ExpansionConfig, **components: Any) -> Any:
    """Load a pipeline for inference, as the options say.

    Args:
        kind: Name of the diffusers class; the folder's own choice has been checked.
        parts: Where the pipeline is.
        device: Where it runs.
        config: Its precision, scheduler, and how it saves memory.
        components: Parts that the folder does not hold, or, None, that are not loaded.

    Raises:
        PriorError: If the folder is incomplete or does not fit.
        ConfigError: If an option does not fit the pipeline.
        MissingExtra: If an option needs a package that is absent.
    """
    with _quiet_diffusers():
        import diffusers

        _name_moved_modules()
        try:
            pipeline = getattr(diffusers, kind).from_pretrained(
                str(parts.decoder),
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
                torch_dtype=getattr(torch, config.dtype),
                variant=parts.variant,
                **components,
            )
            if parts.adapter:
                _load_adapter(pipeline, parts)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise PriorError(f"cannot load the decoder in {parts.decoder}: {reason}") from error
        _set_scheduler(pipeline, config.scheduler)
        _place(pipeline, device, config)
    return pipeline


def _name_moved_modules() -> None:
    """Let Karlo's ``model_index.json`` name ``unclip``, which diffusers 0.34 moved and looks up by its old name."""
    from diffusers import pipelines

    if not hasattr(pipelines, "unclip"):
        pipelines.unclip = importlib.import_module("diffusers.pipelines.deprecated.unclip")


def _load_adapter(pipeline: Any, parts: Parts) -> None:
    """Add an IP-Adapter; its image encoder is the CLIP that scores."""
    assert parts.adapter is not None
    pipeline.load_ip_adapter(
        str(parts.adapter.parent),
        subfolder="",
        weight_name=parts.adapter.name,
        image_encoder_folder=None,
        local_files_only=True,
        low_cpu_mem_usage=False,
    )


def _set_scheduler(pipeline: Any, name: str) -> None:
    import diffusers

    if name == OWN:
        return
    kind, own = getattr(diffusers, SCHEDULERS[name]), getattr(pipeline, "scheduler", None)
    if own is None or (kind is not type(own) and kind not in getattr(own, "compatibles", [])):
        raise ConfigError(f"scheduler {name!r} does not fit a {type(pipeline).__name__}; take {OWN!r}")
    pipeline.scheduler = kind.from_config(own.config)


def _place(pipeline: Any, device: torch.device, config: ExpansionConfig) -> None:
    """Settle where the models run and how; none of them is trained."""
    pipeline.set_progress_bar_config(disable=True)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
            if name in _IMAGE_MODELS:
                part.to(memory_format=torch.channels_last)
    saving = config.save_memory
    if {"vae-slicing", "vae-tiling"} & set(saving):
        autoencoder = getattr(pipeline, "vae", None)
        if not hasattr(autoencoder, "enable_slicing"):
            raise ConfigError(f"save_memory: the autoencoder of a {type(pipeline).__name__} cannot slice or tile")
        for way in {"vae-slicing", "vae-tiling"} & set(saving):
            getattr(autoencoder, way.replace("vae-", "enable_"))()
    if "attention-slicing" in saving:
        pipeline.enable_attention_slicing()
    _set_attention(pipeline, config.attention)
    if "offload" in saving:
        if importlib.util.find_spec("accelerate") is None:
            raise MissingExtra("accelerate")
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if config.compile:
        denoiser(pipeline).compile()


def _set_attention(pipeline: Any, backend: str) -> None:
    if backend == "sdpa":  # what diffusers does by itself
        return
    if importlib.util.find_spec("xformers") is None:
        raise MissingExtra("xformers")
    pipeline.enable_xformers_memory_efficient_attention()


def denoiser(pipeline: Any) -> Any:
    """The network that runs at every step."""
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.decoder


@contextlib.contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Silence diffusers' and transformers' own progress bars and advice while it loads."""
    import transformers.utils.logging
    from diffusers.utils import logging

    verbosity = copy.copy(logging.get_verbosity())
    shown = transformers.utils.logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)  # until diffusers 1.0
            yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
        if shown:
            transformers.utils.logging.enable_progress_bar()
