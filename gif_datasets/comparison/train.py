"""Train a classifier on images in memory, for a fixed number of steps; nothing chooses among epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gif_datasets.comparison.architectures import SMALL, network
from gif_datasets.io.devices import fast_autocast
from gif_datasets.types import Progress, no_progress

AUGMENTS = ("none", "light", "randaugment")
GROUP = 8  # images of a batch that share one draw of RandAugment
WARM_UP = 0.1  # share of the steps in which the rate rises


@dataclass(frozen=True)
class Taught:
    """A teacher's class probabilities of the images, used beside their labels.

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
    """Labelled images.

    Attributes:
        images: ``(N, 3, H, W)`` uint8.
        labels: ``(N,)`` int64.
        synthetic: ``(N,)`` bool: whether each is imagined.
        taught: A teacher's probabilities; None to train on labels alone.
        weights: ``(N,)``, weight of each image in the loss of a batch; None for equal weights.
    """

    images: Tensor
    labels: Tensor
    synthetic: Tensor
    taught: Taught | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        steps: Update steps.
        architecture: As :func:`gif_datasets.comparison.architectures.network` takes it.
        augment: Online augmentation: ``"none"``; ``"light"``, mirroring and shifts by up to an eighth of the side;
            ``"randaugment"``, RandAugment before that.
        batch_size: Images a step.
        learning_rate: The highest rate; it rises for a tenth of the steps, then falls to nothing along a cosine.
        distil: Weight of a teacher's probabilities beside the labels; it asks for :attr:`Pictures.taught`.
    """

    steps: int
    architecture: str = SMALL
    augment: str = "light"
    batch_size: int = 64
    learning_rate: float = 0.1
    distil: float = 0.0


def train(
    data: Pictures,
    training: Training,
    classes: int,
    seed: int,
    device: str = "cpu",
    share: float | None = None,
    show: Progress = no_progress,
    make: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """Train a network.

    Every step draws new images, with replacement, so that a dataset of any size trains for the same number of steps.

    Args:
        data: What to train on.
        training: How.
        classes: Number of classes.
        seed: Of the initial weights, of the images that are drawn and of their augmentation.
        device: Where.
        share: Share of the draws that are of imagined images; None: of all images alike.
        show: Wraps the loop over steps.
        make: Makes the network that is trained; by default that of ``training.architecture``.

    Returns:
        The network after the last step, in evaluation mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = make() if make else network(training.architecture, classes, data.images.shape[-1])
        model = model.to(device).train()
        rate = training.learning_rate
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=training.steps, pct_start=WARM_UP)
        draw = _Draws(data.synthetic, share, training.batch_size, generator)
        for _ in show(range(training.steps), "training"):
            index = draw()
            x = _augmented(data.images[index].to(device), training.augment, generator)
            with fast_autocast(device):
                logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = _loss(logits.float(), data, index)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, device: str = "cpu") -> Tensor:
    """Classes, ``(N,)``, that a network gives to images, ``(N, 3, H, W)`` uint8."""
    block = max(32, 500 * 32 * 32 // images.shape[-1] ** 2)
    predicted = []
    for part in torch.split(images, block):
        x = part.to(device).float() / 127.5 - 1
        with fast_autocast(device):
            predicted.append(model(x.contiguous(memory_format=torch.channels_last)).argmax(1).cpu())
    return torch.cat(predicted)


def _loss(logits: Tensor, data: Pictures, index: Tensor) -> Tensor:
    """Cross-entropy of a batch, given the places of its images."""
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


class _Draws:
    """Draws the places of a batch."""

    def __init__(self, synthetic: Tensor, share: float | None, count: int, generator: torch.Generator) -> None:
        self._share, self._count, self._generator = share, count, generator
        self._all, self._total = (
            (torch.nonzero(~synthetic).flatten(), torch.nonzero(synthetic).flatten()),
            len(synthetic),
        )

    def __call__(self) -> Tensor:
        if self._share is None:
            return self._numbers(self._total)
        wanted = torch.rand(self._count, generator=self._generator) < self._share
        real, synthetic = (places[self._numbers(len(places))] for places in self._all)
        return torch.where(wanted, synthetic, real)

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
    """Mirror half the images and shift each by up to an eighth of the side, zeros coming in."""
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
