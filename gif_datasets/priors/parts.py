"""The files that a prior is loaded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Parts:
    """Where the files of a prior are, and what ``prior.json`` or the table of published priors says of them.

    Attributes:
        clip: An open_clip folder.
        decoder: The decoder's folder, or a checkpoint's file.
        image_size: Side of the pictures, pixels.
        adapter: An IP-Adapter's file.
        variant: ``"fp16"`` where the decoder's files are of that name.
        null_latent: What an unconditional step is given, where it is not zeros.
    """

    clip: Path
    decoder: Path
    image_size: int
    adapter: Path | None = None
    variant: str | None = None
    null_latent: str = "zeros"
