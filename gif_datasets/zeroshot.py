"""CLIP models and zero-shot classifiers; the only module that imports open_clip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.errors import PriorError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ZeroShotClassifier:
    """Class texts as a linear classifier on unit-norm embeddings.

    Attributes:
        weights: Unit-norm text embeddings, one row a class, ``(C, D)``.
        logit_scale: Inverse temperature of the softmax over cosines.
    """

    weights: Tensor
    logit_scale: float

    def scores(self, embedding: Tensor) -> Tensor:
        """Class probabilities of CLIP embeddings of any norm, ``(..., D)`` to ``(..., C)``.

        Source:
            Section 4: ``s_y = cos(f(x), w_y)``. The paper does not say how cosines become the probabilities whose
            entropy it takes; this is CLIP's own softmax with its own scale.
        """
        cosines = F.normalize(embedding, dim=-1) @ self.weights.T
        return (self.logit_scale * cosines).softmax(-1)


class Clip:
    """An open_clip model from a local folder: raw image latents, and classifiers from class names.

    Args:
        folder: Holds ``open_clip_config.json``, the weights as safetensors and, for a Hugging Face text tower, its
            configuration and tokenizer.
        device: Where the model runs.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._open_clip = _import_open_clip()
        if not any(folder.glob("*.safetensors")):
            raise PriorError(f"no CLIP weights (*.safetensors) in {folder}; other formats are not loaded")
        model, _, preprocess = self._open_clip.create_model_and_transforms(
            f"local-dir:{folder}", device=device, weights_only=True, **_local_text_tower(folder)
        )
        self.model = model.eval().requires_grad_(False)
        self.preprocess = preprocess
        self.tokenizer = self._open_clip.get_tokenizer(f"local-dir:{folder}")
        self.device = device
        self.logit_scale = float(model.logit_scale.detach().exp())

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Raw (not normalised) image latents, ``(B, D)``."""
        pixels = torch.stack([self.preprocess(image) for image in images]).to(self.device)
        latents: Tensor = self.model.encode_image(pixels)
        return latents.float()

    @torch.no_grad()
    def classifier(
        self, class_names: Sequence[str], templates: Sequence[str], logit_scale: float | None = None
    ) -> ZeroShotClassifier:
        """Build the zero-shot classifier of ``class_names``, averaging over prompt ``templates``."""
        weights = self._open_clip.build_zero_shot_classifier(
            self.model,
            tokenizer=self.tokenizer,
            classnames=[readable(name) for name in class_names],
            templates=[template.format for template in templates],
            device=self.device,
        )
        return ZeroShotClassifier(weights.T.float().contiguous(), logit_scale or self.logit_scale)


def readable(class_name: str) -> str:
    """A class name as a person would write it in a prompt.

    Example:
        >>> readable("great_white-shark")
        'great white-shark'
    """
    return class_name.replace("_", " ").strip()


def _import_open_clip() -> Any:
    import open_clip

    return open_clip


def _local_text_tower(folder: Path) -> dict[str, Any]:
    """Point a Hugging Face text tower that lies in the folder itself (``hf_model_name`` of ``.``) at its real path.

    open_clip does this for the tokenizer of a ``local-dir:`` model but not for the tower's configuration.
    """
    try:
        text_cfg = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PriorError(f"no usable open_clip_config.json in {folder}: {error!r}") from error
    if text_cfg.get("hf_model_name") != ".":
        return {}
    return {"text_cfg": {**text_cfg, "hf_model_name": str(folder), "hf_model_pretrained": False}}
