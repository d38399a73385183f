"""CLIP models and zero-shot classifiers; the only module that imports open_clip."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gif_datasets.errors import ConfigError, PriorError, did_you_mean, one_line
from gif_datasets.guidance import int8_rows
from gif_datasets.io.parsing import read_json
from gif_datasets.io.threads import ordered_map

if TYPE_CHECKING:
    from PIL.Image import Image


TINY = 1e-12  # floor of a norm, as torch.nn.functional.normalize has it
WEIGHTS = "open_clip_model.safetensors"  # the file that open_clip prefers


@dataclass(frozen=True)
class ZeroShotClassifier:
    """Class texts as a linear classifier on unit-norm embeddings.

    Attributes:
        weights: Unit-norm text embeddings, one row a class, ``(C, D)``; of a fitted head, of mean norm 1.
        logit_scale: Inverse temperature of the softmax over cosines.
    """

    weights: Tensor
    logit_scale: float

    def merged(self, counts: Sequence[int]) -> ZeroShotClassifier:
        """A class for each of ``counts``: the mean direction of so many following ones."""
        if all(count == 1 for count in counts):
            return self
        means = [F.normalize(rows.mean(0), dim=-1) for rows in torch.split(self.weights, list(counts))]
        return ZeroShotClassifier(torch.stack(means), self.logit_scale)

    def scores(self, embedding: Tensor) -> Tensor:
        """Class probabilities of CLIP embeddings of any norm, ``(..., D)`` to ``(..., C)``.

        Source:
            Section 4: ``s_y = cos(f(x), w_y)``. The paper does not say how cosines become the probabilities whose
            entropy it takes; this is CLIP's own softmax with its own scale.
        """
        return self.logits(embedding).softmax(-1)

    def logits(self, embedding: Tensor) -> Tensor:
        """Scaled cosines, whose softmax the scores are."""
        return embedding @ self.weights.T * self._sharpness(embedding)

    def embedding_gradient(self, embedding: Tensor, logits: Tensor, of_logits: Tensor) -> Tensor:
        """Gradient with respect to embeddings ``(N, D)``, given that with respect to their logits, ``(N, C)``.

        The chain rule through the cosine, in closed form: a fraction of automatic differentiation's passes.
        """
        sharpness = self._sharpness(embedding)
        along = (of_logits * logits).sum(1, keepdim=True) * (sharpness / self.logit_scale).square()
        return torch.addcmul((of_logits * sharpness) @ self.weights, embedding, -along)

    def _sharpness(self, embedding: Tensor) -> Tensor:
        """What turns products with the weights into logits: inverse temperature over the embedding's norm."""
        sharpness: Tensor = self.logit_scale / embedding.norm(dim=-1, keepdim=True).clamp(min=TINY)
        return sharpness


@dataclass(frozen=True)
class OwnHead(ZeroShotClassifier):
    """The head of a network whose embeddings are its logits.

    Attributes:
        weights: The identity, ``(C, C)``.
        logit_scale: Inverse temperature; 1: the network's own probabilities.
    """

    def logits(self, embedding: Tensor) -> Tensor:
        """The embeddings themselves, sharpened."""
        return embedding * self.logit_scale

    def embedding_gradient(self, embedding: Tensor, logits: Tensor, of_logits: Tensor) -> Tensor:
        """Gradient with respect to embeddings ``(N, C)``, given that with respect to their logits."""
        return of_logits * self.logit_scale


class Clip:
    """An open_clip model from a local folder: raw image latents, and classifiers from class names.

    Args:
        folder: Holds ``open_clip_config.json``, the weights as safetensors and, for a Hugging Face text tower, its
            configuration and tokenizer. Weights may be int8 (:mod:`gif_datasets.guidance.int8_rows`).
        device: Where the model runs.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        model, self.preprocess, self.tokenizer = _load(folder, device)
        self.model = model.eval().requires_grad_(False)
        _fold_batch_norms(self.model.visual)
        self.model.visual.to(memory_format=torch.channels_last)  # convolutions take half the time on a CPU
        self.device = device
        self.logit_scale = float(model.logit_scale.detach().exp())

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Raw (not normalised) image latents, ``(B, D)``."""
        pixels = torch.stack(list(ordered_map(self.preprocess, images))).to(self.device)
        return self._latents(pixels)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Raw image latents of images ``(B, 3, H, W)`` in [0, 1], differentiably: resized and normalised as tensors.

        Resizing a tensor rounds otherwise than resizing an 8-bit image, so :meth:`encode_images` differs a little.
        """
        from torchvision.transforms.v2 import functional as vision

        visual, size = self.model.visual, self.image_size
        way = vision.InterpolationMode.BICUBIC
        if visual.preprocess_cfg["interpolation"] == "bilinear":
            way = vision.InterpolationMode.BILINEAR
        x = vision.resize(pixels, [size], way, antialias=True).clamp(0, 1)
        x = vision.normalize(vision.center_crop(x, [size, size]), list(visual.image_mean), list(visual.image_std))
        return self._latents(x)

    @torch.no_grad()
    def feature_map(self, images: Sequence[Image]) -> Tensor | None:
        """The feature map of the image tower before pooling, ``(B, places, channels)``; None if it has none."""
        visual = self.model.visual
        pixels = torch.stack(list(ordered_map(self.preprocess, images))).to(self.device)
        if trunk := getattr(visual, "trunk", None):  # of timm
            found = trunk.forward_features(pixels)
            if found.dim() == 4:
                found = found.flatten(1, 2) if getattr(trunk, "output_fmt", "") == "NHWC" else found.flatten(2).mT
            else:
                found = found[:, getattr(trunk, "num_prefix_tokens", 0) :]
            return _at_rest(found)
        if not hasattr(visual, "output_tokens"):
            return None
        visual.output_tokens = True
        try:
            return _at_rest(visual(pixels)[1])
        finally:
            visual.output_tokens = False

    @property
    def pools_map(self) -> bool:
        """Whether an image latent is a function of the whole feature map alone, as SigLIP's attention pools it."""
        trunk: Any = getattr(self.model.visual, "trunk", None)
        return getattr(trunk, "attn_pool", None) is not None and trunk.num_prefix_tokens == 0

    @property
    def map_width(self) -> int:
        """Channels of the feature map, where :attr:`pools_map`."""
        return int(self.model.visual.trunk.num_features)

    def pool_map(self, found: Tensor) -> Tensor:
        """Raw image latents of feature maps ``(B, places, channels)``, differentiably, where :attr:`pools_map`."""
        visual = self.model.visual
        latents: Tensor = visual.head(visual.trunk.forward_head(found)).float()
        return latents

    @property
    def image_size(self) -> int:
        """Side of the images that it sees, pixels."""
        size = self.model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    @torch.no_grad()
    def mean_image_latent(self) -> Tensor:
        """The latent of an image of the mean colour, zero when normalised, ``(1, D)``."""
        return self._latents(torch.zeros(1, 3, self.image_size, self.image_size, device=self.device))

    def _latents(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self.model.encode_image(pixels.contiguous(memory_format=torch.channels_last))
        return latents.float()

    @torch.no_grad()
    def classifier(
        self, class_names: Sequence[str], templates: Sequence[str], logit_scale: float | None = None
    ) -> ZeroShotClassifier:
        """Build the zero-shot classifier of ``class_names``, averaging over prompt ``templates``."""
        weights = _import_open_clip().build_zero_shot_classifier(
            self.model,
            tokenizer=self.tokenizer,
            classnames=[readable(name) for name in class_names],
            templates=[functools.partial(template.replace, "{}") for template in templates],
            device=self.device,
        )
        return ZeroShotClassifier(
            weights.T.float().contiguous(), self.logit_scale if logit_scale is None else logit_scale
        )


def _at_rest(found: Tensor) -> Tensor:
    return found.float().cpu()


def _fold_batch_norms(tower: nn.Module) -> None:
    """Let an EfficientNet's convolutions do what the normalisations behind them do: a third less time for gradients.

    At rest a normalisation is a linear map, so what comes out differs by rounding alone.
    """
    from timm.models import EfficientNet

    trunk = getattr(tower, "trunk", None)
    for block in trunk.modules() if isinstance(trunk, EfficientNet) else ():
        for (conv, convolution), (norm, normalisation) in pairwise(list(block.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
                setattr(block, conv, fuse_conv_bn_eval(convolution, normalisation))
                setattr(block, norm, normalisation.act)


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


def hub_repository(name: str) -> str:
    """The repository of a CLIP by open_clip's names, ``MODEL/CHECKPOINT``.

    Raises:
        ConfigError: If open_clip knows no such CLIP.
    """
    open_clip = _import_open_clip()
    found = open_clip.get_pretrained_cfg(*name.split("/")) if name.count("/") == 1 else None
    if not found or not found.get("hf_hub"):
        known = ["/".join(pair) for pair in open_clip.list_pretrained()]
        raise ConfigError(
            f"unknown guide {name!r}, and no folder of that name{did_you_mean(name, known)}; a guide is open_clip's"
            " MODEL/CHECKPOINT, hf-hub:OWNER/NAME, timm:NAME, a folder or a .safetensors file"
        )
    repository = str(found["hf_hub"]).strip("/")
    if repository.count("/") != 1:  # and a file in it
        raise ConfigError(
            f"guide {name!r} is published as a pickle alone ({repository}), and only safetensors are loaded"
        )
    return repository


def _load(folder: Path, device: torch.device) -> tuple[Any, Any, Any]:
    """The model, its preprocessing and its tokenizer, from a folder that has been checked."""
    text_cfg = checked_text_config(folder)
    open_clip = _import_open_clip()
    # open_clip reads the tokenizer of a local folder from there, whatever its name, but not the text tower's config
    here = {"hf_model_name": str(folder), "hf_model_pretrained": False}
    tower = {"text_cfg": {**text_cfg, **here}} if text_cfg.get("hf_model_name") else {}
    safe = {"trust_remote_code": False} if text_cfg.get("hf_tokenizer_name") else {}
    try:
        model, preprocess = _model(folder, device, tower)
        return model, preprocess, open_clip.get_tokenizer(f"local-dir:{folder}", **safe)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise PriorError(f"cannot load the CLIP in {folder}: {one_line(error)}") from error


def _model(folder: Path, device: torch.device, tower: dict[str, Any]) -> tuple[Any, Any]:
    """The model and its preprocessing; weights that are int8 are loaded here, all others by open_clip."""
    weights = int8_rows.read(folder / WEIGHTS) if (folder / WEIGHTS).exists() else None
    with _without_warning_of_missing_weights():
        model, _, preprocess = _import_open_clip().create_model_and_transforms(
            f"local-dir:{folder}",
            load_weights=weights is None,
            pretrained_text=False,
            device=device,
            weights_only=True,
            **tower,
        )
    if weights is not None:
        model.load_state_dict(weights)
    return model, preprocess


@contextlib.contextmanager
def _without_warning_of_missing_weights() -> Iterator[None]:
    """Without open_clip's warning, on the root logger, that a model has no weights: int8 ones are loaded after it."""
    logger = logging.getLogger()

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


_TOKENIZER_KWARGS = {"clean": ("canonicalize", "lower", "whitespace"), "strip_sep_token": (True, False)}
"""Arguments of open_clip's own tokenizers, and their values; all others would reach the loaders of transformers."""
_TOWER_FILES = {
    "hf_model_name": ("text tower", ("config.json",)),
    "hf_tokenizer_name": ("tokenizer", ("tokenizer.json", "*.model", "vocab.*")),
}
"""What a configuration may name of the Hub, and the files in the folder of which one is read instead."""


def checked_text_config(folder: Path) -> dict[str, Any]:
    """The configuration of the text tower.

    A folder is data: nothing that it names elsewhere is read, nor does it pass arguments to loaders.

    Raises:
        PriorError: If it would, if a file is missing or cannot be read.
    """
    if not any(folder.glob("*.safetensors")):
        raise PriorError(f"no CLIP weights (*.safetensors) in {folder}; other formats are not loaded")
    config = _read_json(folder / "open_clip_config.json")
    try:
        text_cfg, vision_cfg = dict(config["model_cfg"]["text_cfg"]), dict(config["model_cfg"]["vision_cfg"])
        given = dict(text_cfg.get("tokenizer_kwargs") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise PriorError(f"no usable model_cfg in {folder / 'open_clip_config.json'}: {error!r}") from error
    for name, value in given.items():
        if value not in _TOKENIZER_KWARGS.get(name, ()):
            raise PriorError(f"{folder}: tokenizer_kwargs {name}={value!r} is refused; known: {_TOKENIZER_KWARGS}")
    if ":" in str(vision_cfg.get("timm_model_name", "")):
        raise PriorError(f"{folder}: timm models of another place are refused")
    for setting, (what, patterns) in _TOWER_FILES.items():
        named = text_cfg.get(setting)
        if named and not any(path for pattern in patterns for path in folder.glob(pattern)):
            raise PriorError(
                f"{folder}: the {what} ({setting} {named!r}) must lie in the folder, which has no {patterns[0]}; put"
                f" the files of {named!r} there"
            )
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists() and "auto_map" in _read_json(folder / name):
            raise PriorError(f"{folder / name} asks for code of its own (auto_map), which is never run")
    return text_cfg


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PriorError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise PriorError(f"{path} is not a JSON object")
    return value
