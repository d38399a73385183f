"""Classifiers by name: untrained, or with the weights that timm and torchvision publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gif_datasets.errors import ConfigError, GifDatasetsError, HubError, did_you_mean, one_line

SMALL = "small"
"""Architecture of :func:`small_resnet`."""
PRETRAINED = "pretrained:"
TORCHVISION = "torchvision:"
KEPT_SIDE = 64  # up to this side a small network looks at images in full size; above it, its stem shrinks them
_WITH_HELPERS = ("googlenet", "inception_v3")  # have further outputs while they train, unless turned off


def network(architecture: str, classes: int, size: int) -> nn.Module:
    """A network for images with values in [-1, 1].

    Args:
        architecture: ``"small"``, a timm name, or ``"torchvision:NAME"``, with random weights; after
            ``"pretrained:"`` with the published weights, except for a new last layer.
        classes: Number of classes.
        size: Side of the images.

    Raises:
        ConfigError: If the architecture is unknown or has no published weights.
        HubError: If the weights cannot be downloaded.
    """
    name = architecture.removeprefix(PRETRAINED)
    pretrained = name != architecture
    if architecture == SMALL:
        return small_resnet(classes, size)
    if name.startswith(TORCHVISION):
        model = _from_torchvision(name.removeprefix(TORCHVISION), classes, pretrained)
    else:
        model = _from_timm(name, classes, size, pretrained)
    channels_last: nn.Module = model.to(memory_format=torch.channels_last)
    return channels_last


def small_resnet(classes: int, size: int) -> nn.Module:
    """A ResNet of four basic blocks, 0.7M parameters; for images up to 64 pixels its stem keeps their size."""
    from timm.models.resnet import BasicBlock, ResNet

    model: Any = ResNet(BasicBlock, (1, 1, 1, 1), channels=(24, 48, 96, 192), num_classes=classes)
    if size <= KEPT_SIDE:
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    channels_last: nn.Module = model.to(memory_format=torch.channels_last)
    return channels_last


def check_network(architecture: str, classes: int, size: int) -> None:
    """Check, before any expansion, that an architecture is available and takes the images.

    Raises:
        ConfigError: If it is not available or does not take them.
    """
    try:
        with torch.random.fork_rng(), torch.no_grad():
            model, images = network(architecture, classes, size), torch.zeros(2, 3, size, size)
            shape = tuple(model.train()(images).shape)  # some return other values while they train
    except GifDatasetsError:
        raise
    except Exception as error:  # of many kinds: sizes that vanish, sizes that are fixed, tuples for tensors
        raise ConfigError(
            f"architecture {architecture!r} does not take images of {size} x {size}"
            f" ({one_line(error, 120)}); give another image size"
        ) from error
    if shape != (2, classes):
        raise ConfigError(
            f"architecture {architecture!r} is not a classifier: its output has shape {shape}, not (2, {classes})"
        )


def _from_torchvision(name: str, classes: int, pretrained: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision has no architecture {name!r}{did_you_mean(name, known)}")
    single_output = {"aux_logits": False, "init_weights": True} if name in _WITH_HELPERS else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **single_output)
    if not pretrained:
        return model
    weights = models.get_model_weights(name).DEFAULT
    published = _fetched(name, lambda: weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    initial = model.state_dict()
    fitting = {key: value for key, value in published.items() if key in initial and initial[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)  # all but the last layer, which is for other classes
    transforms = weights.transforms()
    return nn.Sequential(_Normalised(transforms.mean, transforms.std), model)


def _from_timm(name: str, classes: int, size: int, pretrained: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        known = [*timm.list_models(), *[SMALL] * (not pretrained)]
        raise ConfigError(
            f"timm has no architecture {name!r}{did_you_mean(name, known)} (torchvision's: torchvision:NAME)"
        )
    about = timm.get_pretrained_cfg(name)
    if pretrained and not getattr(about, "has_weights", False):
        raise ConfigError(f"timm has no weights of {name!r}; `timm.list_pretrained()` in Python lists what has")
    fixed = {"img_size": size} if getattr(about, "fixed_input_size", False) else {}

    def make() -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=classes, **fixed)
        return model

    return nn.Sequential(_Normalised(about.mean, about.std), _fetched(name, make)) if pretrained else make()


def _fetched(name: str, fetch: Callable[[], Any]) -> Any:
    """Call a library's download, and raise one error for its many."""
    try:
        return fetch()
    except OSError as error:  # the Hub's, the file system's and those of addresses are all of this kind
        reason = one_line(error, 200)
        raise HubError(
            f"cannot fetch the weights of {name} ({reason}); once they are here no network is needed"
        ) from error


class _Normalised(nn.Module):
    """Brings images with values in [-1, 1] to the mean and deviation that published weights were trained with."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", 2 * torch.tensor(mean).view(-1, 1, 1) - 1, persistent=False)
        self.register_buffer("std", 2 * torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
