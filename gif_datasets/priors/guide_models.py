"""What guides are, once they are loaded: a CLIP, or a network with a head or features."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError, PriorError, one_line
from gif_datasets.guidance.zeroshot import Clip, OwnHead, ZeroShotClassifier
from gif_datasets.priors.base import pixels_of, text_classifier

if TYPE_CHECKING:
    from PIL.Image import Image


class Guide(Protocol):
    """Scores images. A :class:`~gif_datasets.priors.base.Prior` does too, by its own CLIP."""

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Embeddings of images, ``(B, D)``."""
        ...

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Embeddings of images ``(B, 3, H, W)`` in [0, 1], differentiably."""
        ...

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """What gives embeddings their class probabilities before any seed is known."""
        ...


@dataclass(frozen=True)
class ClipGuide:
    """A CLIP."""

    clip: Clip

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Raw image latents, ``(B, D)``."""
        return self.clip.encode_images(images)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Raw image latents of images ``(B, 3, H, W)`` in [0, 1], differentiably."""
        return self.clip.embed_pixels(pixels)

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """The texts of the classes."""
        return text_classifier(self.clip, class_names, config)


@dataclass(frozen=True)
class NetworkGuide:
    """A network: logits of its own head, or features.

    Attributes:
        network: From normalised images to rows.
        width: Length of a row.
        prepare: From images of any size to a batch of normalised ones.
        resize: The same of images ``(B, 3, H, W)`` in [0, 1], differentiably.
        own_head: Whether rows are logits of the classes.
        device: Where it runs.
    """

    network: Callable[[Tensor], Tensor]
    width: int
    prepare: Callable[[Sequence[Image]], Tensor]
    resize: Callable[[Tensor], Tensor]
    own_head: bool
    device: torch.device

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Its rows for images, ``(B, width)``."""
        return self.network(self.prepare(images).to(self.device)).float()

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Its rows for images ``(B, 3, H, W)`` in [0, 1], differentiably."""
        return self.network(self.resize(pixels)).float()

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """Its own head; or, of features, nothing yet: a classifier is fitted to the seeds."""
        classes = len(class_names)
        if self.own_head:
            scale = 1.0 if config.logit_scale is None else config.logit_scale
            return OwnHead(torch.eye(classes, device=self.device), scale)
        return ZeroShotClassifier(torch.zeros(classes, self.width, device=self.device), 1.0)


def load_network(
    path: Path, architecture: str, about: Mapping[str, Any], outputs: int | None, device: torch.device
) -> Guide:
    """A network of timm from its tensors, with a head of so many classes or without one."""
    import timm

    sizes = {"img_size": about["img_size"]} if "img_size" in about else {}
    try:
        network = timm.create_model(architecture, pretrained=False, num_classes=outputs or 0, **sizes)
        tensors, wanted = load_file(path), network.state_dict()
        kept = tensors if outputs else {name: value for name, value in tensors.items() if name in wanted}
        network.load_state_dict(kept)
        images = timm.data.resolve_data_config(dict(about), model=network)
        transform = timm.data.create_transform(**images, is_training=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise PriorError(f"cannot load the guide in {path} as a {architecture}: {one_line(error)}") from error
    network = network.eval().requires_grad_(False).to(device)
    return _network_guide(
        network, partial(_transformed, transform), partial(_seen, images), outputs is not None, device
    )


def _transformed(transform: Callable[[Image], Tensor], images: Sequence[Image]) -> Tensor:
    return torch.stack([transform(image) for image in images])


def _seen(images: Mapping[str, Any], pixels: Tensor) -> Tensor:
    """Pixels as timm's own transform of images gives them, differentiably."""
    from torchvision.transforms.v2 import functional as vision

    size, way = images["input_size"][-1], vision.InterpolationMode(images["interpolation"])
    shown = vision.resize(pixels, [int(size / images["crop_pct"])], way, antialias=True).clamp(0, 1)
    seen: Tensor = vision.normalize(vision.center_crop(shown, [size, size]), list(images["mean"]), list(images["std"]))
    return seen


def of_module(module: nn.Module, side: int, device: torch.device) -> NetworkGuide:
    """A network of the caller's own, whose images have this side."""
    from torchvision.transforms.v2 import functional as vision

    resize = partial(vision.resize, size=[side, side], antialias=True)
    return _network_guide(copy.deepcopy(module).to(device), partial(pixels_of, side=side), resize, True, device)


def _network_guide(
    network: nn.Module,
    prepare: Callable[[Sequence[Image]], Tensor],
    resize: Callable[[Tensor], Tensor],
    own_head: bool,
    device: torch.device,
) -> NetworkGuide:
    with torch.no_grad():
        rows = network(resize(torch.zeros(2, 3, 32, 32, device=device)))
    if not isinstance(rows, Tensor) or rows.dim() != 2 or len(rows) != 2:
        shape = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ConfigError(f"a guide returns one row of values an image, (N, values); of 2 images it returned {shape}")
    return NetworkGuide(network, rows.shape[1], prepare, resize, own_head, device)


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Digest of a network's tensors."""
    hasher = hashlib.sha256()
    for name, value in tensors.items():
        flat = value.detach().cpu().contiguous().flatten()
        hasher.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        hasher.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return hasher.hexdigest()
