"""Train a classifier from scratch on pictures in memory, for a fixed number of steps; nothing chooses among epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gif_datasets.errors import ConfigError, did_you_mean
from gif_datasets.types import Progress, silent

SMALL = "small"
"""Architecture of :func:`small_resnet`."""
TORCHVISION = "torchvision:"
AUGMENTS = ("none", "light", "randaugment")
KEPT_SIDE = 64  # up to this side a small network looks at the pictures as they are; else its stem makes them smaller
GROUP = 8  # pictures of a batch that share one draw of RandAugment
_WITH_HELPERS = ("googlenet", "inception_v3")  # whose training has further outputs, unless asked for none
WARM_UP = 0.1  # share of the steps in which the rate rises


@dataclass(frozen=True)
class Taught:
    """What a teacher says of the pictures, beside their labels.

    Attributes:
        probabilities: Of the classes, ``(N, C)``.
        weight: Of the cross-entropy against them, in (0, 1]; that against the labels has the rest.
        temperature: Divides the student's logits there. The teacher's own must have been divided before its softmax.

    Source:
        Hinton, Vinyals and Dean 2015: the cross-entropy against softened probabilities, times the squared temperature,
        so that its gradient keeps its size.
    """

    probabilities: Tensor
    weight: float
    temperature: float = 1.0


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures.

    Attributes:
        images: ``(N, 3, H, W)`` uint8.
        labels: ``(N,)`` int64.
        made: ``(N,)`` bool: which are imagined.
        taught: What a teacher says of them; None: labels alone.
        weights: ``(N,)``, how much each picture of a batch counts beside the others; None: alike.
    """

    images: Tensor
    labels: Tensor
    made: Tensor
    taught: Taught | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        steps: Update steps.
        architecture: ``"small"``, a name of timm's, or ``"torchvision:NAME"``.
        augment: Online augmentation: ``"none"``; ``"light"``, mirroring and shifts by up to an eighth of the side;
            ``"randaugment"``, RandAugment before that.
        batch_size: Pictures a step.
        learning_rate: The highest rate; it rises for a tenth of the steps, then falls to nothing along a cosine.
        distil: Weight of a teacher's probabilities beside the labels; it asks for :attr:`Pictures.taught`.
    """

    steps: int
    architecture: str = SMALL
    augment: str = "light"
    batch_size: int = 64
    learning_rate: float = 0.1
    distil: float = 0.0


def network(architecture: str, classes: int, size: int) -> nn.Module:
    """A network with random weights.

    Args:
        architecture: See :class:`Training`.
        classes: Number of classes.
        size: Side of the pictures.

    Raises:
        ConfigError: If there is no such architecture, or it does not take such pictures.
    """
    if architecture == SMALL:
        return small_resnet(classes, size)
    if architecture.startswith(TORCHVISION):
        model = _from_torchvision(architecture.removeprefix(TORCHVISION), classes)
    else:
        model = _from_timm(architecture, classes, size)
    found: nn.Module = model.to(memory_format=torch.channels_last)
    return found


def small_resnet(classes: int, size: int) -> nn.Module:
    """A ResNet of four basic blocks, 0.7M parameters; for pictures up to 64 pixels its stem keeps their size."""
    from timm.models.resnet import BasicBlock, ResNet

    model: Any = ResNet(BasicBlock, (1, 1, 1, 1), channels=(24, 48, 96, 192), num_classes=classes)
    if size <= KEPT_SIDE:
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    found: nn.Module = model.to(memory_format=torch.channels_last)
    return found


def check_network(architecture: str, classes: int, size: int) -> None:
    """Find out now, not after an expansion, that an architecture cannot be had or does not take the pictures.

    Raises:
        ConfigError: Then.
    """
    try:
        with torch.random.fork_rng(), torch.no_grad():
            model, pictures = network(architecture, classes, size), torch.zeros(2, 3, size, size)
            shape = tuple(model.train()(pictures).shape)  # some give other things while they train
    except ConfigError:
        raise
    except Exception as error:  # of many kinds: sizes that vanish, sizes that are fixed, tuples for tensors
        raise ConfigError(
            f"architecture {architecture!r} does not take pictures of {size} x {size}"
            f" ({' '.join(str(error).split())[:120]}); give another image size"
        ) from error
    if shape != (2, classes):
        raise ConfigError(f"architecture {architecture!r} is no classifier: it gives {shape}, not (2, {classes})")


def _from_torchvision(name: str, classes: int) -> Any:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision has no architecture {name!r}{did_you_mean(name, known)}")
    alone = {"aux_logits": False, "init_weights": True} if name in _WITH_HELPERS else {}
    return models.get_model(name, weights=None, num_classes=classes, **alone)


def _from_timm(name: str, classes: int, size: int) -> Any:
    import timm

    if not timm.is_model(name):
        known = [*timm.list_models(), SMALL]
        raise ConfigError(
            f"timm has no architecture {name!r}{did_you_mean(name, known)} (torchvision's: torchvision:NAME)"
        )
    fixed = {"img_size": size} if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False) else {}
    return timm.create_model(name, pretrained=False, num_classes=classes, **fixed)


def train(
    data: Pictures,
    training: Training,
    classes: int,
    seed: int,
    device: str = "cpu",
    share: float | None = None,
    show: Progress = silent,
) -> nn.Module:
    """Train from scratch.

    Every step draws its pictures anew, with replacement, so that a set of any size trains for as many steps.

    Args:
        data: What to train on.
        training: How.
        classes: Number of classes.
        seed: Of the initial weights, of the pictures that are drawn and of their augmentation.
        device: Where.
        share: Share of the draws that are of imagined pictures; None: of all pictures alike.
        show: Wraps the loop over steps.

    Returns:
        The network after the last step, in evaluation mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = network(training.architecture, classes, data.images.shape[-1]).to(device).train()
        rate = training.learning_rate
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=training.steps, pct_start=WARM_UP)
        draw = _Draws(data.made, share, training.batch_size, generator)
        for _ in show(range(training.steps), "training"):
            index = draw()
            x = _augmented(data.images[index].to(device), training.augment, generator)
            with _autocast(device):
                logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = _loss(logits.float(), data, index)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, device: str = "cpu") -> Tensor:
    """Classes, ``(N,)``, that a network gives to pictures, ``(N, 3, H, W)`` uint8."""
    block = max(32, 500 * 32 * 32 // images.shape[-1] ** 2)
    found = []
    for part in torch.split(images, block):
        x = part.to(device).float() / 127.5 - 1
        with _autocast(device):
            found.append(model(x.contiguous(memory_format=torch.channels_last)).argmax(1).cpu())
    return torch.cat(found)


def _loss(logits: Tensor, data: Pictures, index: Tensor) -> Tensor:
    """Cross-entropy of a batch, given the places of its pictures."""
    labels = data.labels[index].to(logits.device)
    if data.taught is None and data.weights is None:
        return F.cross_entropy(logits, labels)
    losses = F.cross_entropy(logits, labels, reduction="none")
    if data.taught is not None:
        temperature, wanted = data.taught.temperature, data.taught.probabilities[index].to(logits.device)
        soft = F.cross_entropy(logits / temperature, wanted, reduction="none") * temperature**2
        losses = torch.lerp(losses, soft, data.taught.weight)
    if data.weights is None:
        return losses.mean()
    weights = data.weights[index].to(logits.device)
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _autocast(device: str) -> Any:
    """Half the time; MPS keeps single precision."""
    kind = device.partition(":")[0]
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "mps")


class _Draws:
    """Draws the places of a batch."""

    def __init__(self, made: Tensor, share: float | None, count: int, generator: torch.Generator) -> None:
        self._share, self._count, self._generator = share, count, generator
        self._all, self._total = (torch.nonzero(~made).flatten(), torch.nonzero(made).flatten()), len(made)

    def __call__(self) -> Tensor:
        if self._share is None:
            return self._numbers(self._total)
        wanted = torch.rand(self._count, generator=self._generator) < self._share
        real, made = (places[self._numbers(len(places))] for places in self._all)
        return torch.where(wanted, made, real)

    def _numbers(self, below: int) -> Tensor:
        return torch.randint(below, (self._count,), generator=self._generator)


def _augmented(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Augment ``(N, 3, H, W)`` uint8; returns floats in [-1, 1]."""
    if kind == "randaugment":
        from torchvision.transforms import v2

        images = torch.cat([v2.RandAugment()(part) for part in torch.split(images, GROUP)])  # by the global generator
    x = images.float() / 127.5 - 1
    return x if kind == "none" else _shifted(x, generator)


def _shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures and shift each by up to an eighth of the side, zeros coming in."""
    n, _, height, width = x.shape
    most = height // 8
    x = torch.where((torch.rand(n, 1, 1, 1, generator=generator) < 0.5).to(x.device), x, x.flip(3))
    x = F.pad(x, (most,) * 4)
    offsets = torch.randint(0, 2 * most + 1, (2, n, 1), generator=generator)
    rows, columns = (
        (offset + torch.arange(side)).to(x.device) for offset, side in zip(offsets, (height, width), strict=True)
    )
    return x[torch.arange(n, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
