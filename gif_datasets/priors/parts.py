"""The files that a prior is loaded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Parts:
    """The files of a prior, with their settings from ``prior.json`` or from the table of published priors.

    Attributes:
        clip: An open_clip folder; None where the decoder needs none.
        decoder: The decoder's folder, or a checkpoint's file.
        image_size: Side of the images, pixels.
        adapter: The file of an IP-Adapter or of Redux, if any.
        variant: ``"fp16"`` if the decoder's file names contain it.
        null_latent: The latent of unconditional steps: ``"zeros"`` or ``"mean image"``.
        max_sequence_length: Longest prompt of an img2img pipeline, in tokens; None: the pipeline's own default.
    """

    clip: Path | None
    decoder: Path
    image_size: int
    adapter: Path | None = None
    variant: str | None = None
    null_latent: str = "zeros"
    max_sequence_length: int | None = None

    @property
    def scored_by(self) -> Path:
        """The CLIP's folder, of a decoder that is scored by one."""
        assert self.clip is not None
        return self.clip
