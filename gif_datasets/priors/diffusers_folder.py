"""Load a diffusers pipeline from a local folder: safetensors only, nothing fetched, no code from the folder."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from gif_datasets.errors import PriorError


def load_pipeline(kind: str, folder: Path, device: torch.device, dtype: str, **parts: Any) -> Any:
    """Load a pipeline for inference.

    Args:
        kind: Name of the diffusers class; the folder's own choice is not followed.
        folder: The pipeline's folder.
        device: Where it runs.
        dtype: Name of its precision.
        parts: Components that the folder does not hold.

    Raises:
        PriorError: If the folder is incomplete or does not fit.
    """
    with _quiet_diffusers():
        import diffusers

        try:
            pipeline = getattr(diffusers, kind).from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                torch_dtype=getattr(torch, dtype),
                **parts,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise PriorError(f"cannot load the decoder in {folder}: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    pipeline.unet.eval().to(memory_format=torch.channels_last)
    return pipeline


@contextlib.contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Silence diffusers' own progress bars and advice while it loads."""
    from diffusers.utils import logging

    verbosity = copy.copy(logging.get_verbosity())
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)  # until diffusers 1.0
            yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
