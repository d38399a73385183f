"""Load a diffusers pipeline from a local folder: safetensors only, no download, no code from the folder."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from gif_datasets.config import OWN_SCHEDULER, ExpansionConfig
from gif_datasets.errors import ConfigError, MissingExtra, PriorError, one_line
from gif_datasets.io.parsing import read_json
from gif_datasets.priors.parts import Parts

INDEX = "model_index.json"
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
}
"""Classes of diffusers by option value; each accepts one generator per image."""
_IMAGE_MODELS = ("unet", "movq", "vae", "decoder", "super_res_first", "super_res_last")
_VAE_WAYS = {"vae-slicing", "vae-tiling"}
_FLOWS = ("StableDiffusion3", "Flux", "ZImage", "Chroma", "SanaSprint")
"""Begin the names of pipelines that learned a flow, or times of their own: no scheduler of the table fits them."""
_ENLARGES = "UnCLIPImageVariationPipeline"  # it enlarges small images by interpolation between its networks


def pipeline_class(parts: Parts, known: Collection[str]) -> str:
    """The class that ``model_index.json`` names, if it is one of ``known``.

    Raises:
        PriorError: If the file is missing, or it names another class.
    """
    name = pipeline_name(parts.decoder)
    if name not in known:
        raise PriorError(
            f"{parts.decoder / INDEX}: a {name!r} cannot decode this prior's latents; known: {', '.join(known)}"
        )
    return name


def pipeline_name(decoder: Path) -> str:
    """The class that ``model_index.json`` names, known or not.

    Raises:
        PriorError: If the file is missing.
    """
    try:
        return str(read_json((decoder / INDEX).read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PriorError(f"cannot load the decoder in {decoder}: {INDEX}: {error}") from error


def check_options(kind: str, adapted: bool, device: torch.device, config: ExpansionConfig) -> None:
    """Refuse options that this pipeline or device does not support, before anything is fetched or loaded.

    Args:
        kind: Name of the diffusers class.
        adapted: Whether it has an IP-Adapter.
        device: Where it runs.
        config: The options: precision, scheduler, memory and speed.

    Raises:
        ConfigError: If an option is not supported; the message says which one to remove.
        MissingExtra: If an option needs a package that is not installed.
    """
    on_cpu = device.type == "cpu"
    if kind.startswith("Kolors"):
        _need("sentencepiece")
    if config.noise_level and kind != "StableUnCLIPImg2ImgPipeline":
        raise ConfigError(f"noise_level is for Stable unCLIP decoders; this one is a {kind}")
    if config.scheduler not in (OWN_SCHEDULER, *_schedulers_of(kind)):
        raise _misfit(config.scheduler, kind)
    if _VAE_WAYS & set(config.save_memory) and kind in (_ENLARGES, "KandinskyV22Pipeline"):
        raise _whole(kind)
    if "offload" in config.save_memory:
        if on_cpu:
            raise ConfigError("save_memory: 'offload' needs a GPU, and this is a CPU; drop it")
        _need("accelerate")
    if "attention-slicing" in config.save_memory and adapted:
        raise ConfigError(
            "save_memory: 'attention-slicing' would replace the attention of the IP-Adapter; drop it:"
            " attention='sdpa', the default, needs no slices"
        )
    if config.attention == "xformers":
        if device.type != "cuda":
            raise ConfigError(f"attention='xformers' needs a CUDA device, and this is {device.type!r}; take 'sdpa'")
        _need("xformers")
    if on_cpu and config.dtype != "float32" and kind == _ENLARGES:
        raise ConfigError(
            f"dtype={config.dtype!r}: torch cannot enlarge half-precision images on a CPU; take 'float32'"
        )
    if config.compile:
        _try_compiler(device)


def _schedulers_of(kind: str) -> set[str]:
    """Names of the schedulers that can replace any scheduler of the folder."""
    if kind == _ENLARGES or kind.startswith(_FLOWS):
        return set()
    if kind.startswith("KandinskyV22"):  # it does not scale its network's input, which these schedulers need
        return SCHEDULERS.keys() - {"lcm", "euler", "euler-a"}
    return {"lcm"} if kind.startswith("LatentConsistency") else SCHEDULERS.keys() - {"lcm"}


def _misfit(scheduler: str, kind: str) -> ConfigError:
    return ConfigError(f"scheduler {scheduler!r} does not fit a {kind}; take {OWN_SCHEDULER!r}")


def _whole(kind: str) -> ConfigError:
    return ConfigError(f"save_memory: the autoencoder of a {kind} cannot slice or tile")


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(package)


def _try_compiler(device: torch.device) -> None:
    """Compile a tiny function: torch looks for a compiler only at the first call."""
    try:
        torch.compile(lambda x: x.sin())(torch.zeros(1, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        raise ConfigError(f"compile=True: torch cannot compile here ({_first_line(error)}); drop it") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def load_pipeline(kind: str, parts: Parts, device: torch.device, config: ExpansionConfig, **components: Any) -> Any:
    """Load a pipeline for inference with the given options.

    Args:
        kind: Name of the diffusers class; the class that the folder names is already checked.
        parts: Where the pipeline is.
        device: Where it runs.
        config: Its precision, scheduler, and how it saves memory.
        components: Parts that are missing in the folder; None: a part that is not loaded.

    Raises:
        PriorError: If the folder is incomplete or does not fit.
        ConfigError: If an option does not fit the pipeline.
    """
    with quiet_diffusers():
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
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            reason = one_line(error)
            raise PriorError(f"cannot load the decoder in {parts.decoder}: {reason}") from error
        _set_scheduler(pipeline, config.scheduler)
        _place(pipeline, device, config)
    return pipeline


def _name_moved_modules() -> None:
    """Make ``unclip`` available: Karlo's ``model_index.json`` names it, and diffusers has moved it."""
    from diffusers import pipelines

    if not hasattr(pipelines, "unclip"):
        pipelines.unclip = importlib.import_module("diffusers.pipelines.deprecated.unclip")


def _load_adapter(pipeline: Any, parts: Parts) -> None:
    """Add an IP-Adapter; the CLIP that scores images is its image encoder."""
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

    if name == OWN_SCHEDULER:
        return
    kind, present = getattr(diffusers, SCHEDULERS[name]), getattr(pipeline, "scheduler", None)
    if present is None or (kind is not type(present) and kind not in getattr(present, "compatibles", [])):
        raise _misfit(name, type(pipeline).__name__)
    learned = () if kind is diffusers.DDPMScheduler else ("variance_type",)  # the others cannot use a learned variance
    config = {key: value for key, value in present.config.items() if key not in learned}
    pipeline.scheduler = kind.from_config(config)


def _place(pipeline: Any, device: torch.device, config: ExpansionConfig) -> None:
    """Move the models to their device and set how they run; none of them is trained."""
    pipeline.set_progress_bar_config(disable=True)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
            if name in _IMAGE_MODELS:
                part.to(memory_format=torch.channels_last)
    saving = config.save_memory
    for way in _VAE_WAYS & set(saving):
        enable = getattr(pipeline.vae, way.replace("vae-", "enable_"), None)
        if enable is None:
            raise _whole(type(pipeline).__name__)
        enable()
    if "attention-slicing" in saving:
        pipeline.enable_attention_slicing()
    _set_attention(pipeline, config.attention)
    if "offload" in saving:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if config.compile:
        denoiser(pipeline).compile()


def _set_attention(pipeline: Any, backend: str) -> None:
    if backend == "sdpa":  # the default of diffusers
        return
    try:
        pipeline.enable_xformers_memory_efficient_attention()
    except (RuntimeError, ValueError, ImportError, OSError) as error:  # xformers was built for another torch or device
        raise ConfigError(f"attention='xformers' does not work here ({_first_line(error)}); take 'sdpa'") from error


def shift_of(vae: Any) -> float:
    """The shift of an autoencoder's latents before they are scaled; Stable Diffusion 1, 2 and XL have none."""
    return float(getattr(vae.config, "shift_factor", None) or 0.0)


def denoiser(pipeline: Any) -> Any:
    """The network that runs at every step."""
    return next(getattr(pipeline, name) for name in ("unet", "transformer", "decoder") if hasattr(pipeline, name))


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Silence the progress bars and advice of diffusers and transformers during loading."""
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
