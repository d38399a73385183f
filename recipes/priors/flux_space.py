"""The latent space that the embedded autoencoder learns: that of FLUX.2, by its tiny autoencoder ``taef2``.

``taef2`` (MIT; github.com/madebyollin/taesd, files ``taef2_encoder.pth`` and ``taef2_decoder.pth``) maps images to 32
channels at an eighth of their size. Its files stay outside this repository; recipes take the folder that holds them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 32
_WIDTH = 64


class _Residual(nn.Module):
    """Three convolutions beside the identity, after an optional path with normalisation over the whole image."""

    def __init__(self, normalised: bool = False) -> None:
        super().__init__()
        convs = [_conv(_WIDTH, _WIDTH) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        wide = 4 * _WIDTH
        self.pool = (
            nn.Sequential(
                nn.Conv2d(_WIDTH, wide, 1, bias=False),
                nn.GroupNorm(4, wide),
                nn.ReLU(),
                nn.Conv2d(wide, _WIDTH, 1, bias=False),
            )
            if normalised
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(x + self.conv(x))


class _Bound(nn.Module):
    """Bound latents to (-3, 3), smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _conv(inputs: int, outputs: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)  # type: ignore[arg-type]


def encoder() -> nn.Sequential:
    """Images ``(B, 3, H, W)`` in [0, 1] to latents ``(B, 32, H/8, W/8)``."""
    layers: list[nn.Module] = [_conv(3, _WIDTH), _Residual()]
    for level in range(3):
        layers += [_conv(_WIDTH, _WIDTH, stride=2, bias=False), *(_Residual(level == 2) for _ in range(3))]
    return nn.Sequential(*layers, _conv(_WIDTH, CHANNELS))


def decoder() -> nn.Sequential:
    """Latents to images in [0, 1], not clamped."""
    layers: list[nn.Module] = [_Bound(), _conv(CHANNELS, _WIDTH), nn.ReLU()]
    for level in range(3):
        layers += [*(_Residual(level == 0) for _ in range(3)), nn.Upsample(scale_factor=2)]
        layers += [_conv(_WIDTH, _WIDTH, bias=False)]
    return nn.Sequential(*layers, _Residual(), _conv(_WIDTH, 3))


def load(module: nn.Sequential, file: Path) -> nn.Module:
    """Load published weights for inference."""
    module.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
