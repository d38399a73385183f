"""Residual multiplicative perturbation and its projection (Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def perturb(latent: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """Return ``(1 + z) f + b``, not yet projected.

    Args:
        latent: Raw latents ``f`` of the seed samples, ``(B, 1, *axes)``.
        noise: Multiplicative noise ``z``, dimensionless, ``(B, K, *axes)`` or any shape that broadcasts to it.
        bias: Additive bias ``b``, in units of the latent, like ``noise``.

    Returns:
        Perturbed latents, ``(B, K, *axes)``.

    Source:
        Eq. 1 and Algorithms 1 and 2 of the paper.

    Example:
        >>> import torch
        >>> f = torch.tensor([[[1.0, -2.0]]])
        >>> perturb(f, torch.tensor([[[0.5, 0.0]]]), torch.tensor([[[0.0, 0.05]]]))
        tensor([[[ 1.5000, -1.9500]]])
    """
    return torch.addcmul(bias, 1 + noise, latent)


def project(perturbed: Tensor, latent: Tensor, epsilon: float) -> Tensor:
    """Project onto the L-infinity ball of radius ``epsilon`` around ``latent`` (``P_{f,eps}`` of Eq. 1).

    The gradient is zero in every coordinate that is clipped. With ``b ~ N(0, 1)`` and a radius of 0.1 that is 92% of
    them at the start, so :mod:`gif_datasets.guidance.guide` does not optimise through this function by default.

    Example:
        >>> import torch
        >>> project(torch.tensor([1.5, -1.95]), torch.tensor([1.0, -2.0]), 0.25)
        tensor([ 1.2500, -1.9500])
    """
    return latent + (perturbed - latent).clamp(-epsilon, epsilon)
