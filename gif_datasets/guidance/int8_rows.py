"""Weights as int8 with one scale a row: half the bytes of half precision, dequantised when they are read.

In a safetensors file such a weight is two tensors, named as compressed-tensors names them: ``NAME``, int8, and
``NAME_scale``, floating-point, one value a row, ``(rows, 1, ..)``. The weight is their product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

SCALE = "_scale"
LEVELS = 127  # on each side of zero: the most that int8 has


def quantized(weight: Tensor, steps: float = math.inf) -> tuple[Tensor, Tensor]:
    """The int8 rows of a weight and their scales.

    Args:
        weight: ``(rows, ..)``.
        steps: How many levels the root mean square of a row has at most. Fewer take less space where the file is
            compressed: about ``log2(4.1 * steps)`` bits a value.

    Example:
        >>> rows, scale = quantized(torch.tensor([[0.5, -1.0], [0.0, 0.0]]))
        >>> rows.tolist(), (rows * scale).round(decimals=2).tolist()
        ([[64, -127], [0, 0]], [[0.5, -1.0], [0.0, 0.0]])
    """
    weight = weight.float()
    axes = tuple(range(1, weight.dim()))
    finest = weight.abs().amax(axes, keepdim=True) / LEVELS
    scale = torch.maximum(finest, weight.square().mean(axes, keepdim=True).sqrt() / steps)
    scale = torch.where(scale > 0, scale, 1.0)
    return (weight / scale).round().to(torch.int8), scale


def dequantized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each pair of int8 rows and scales as one weight of single precision.

    Raises:
        ValueError: If int8 rows have no scales, or scales that do not fit.
    """
    whole = dict(tensors)
    for name in (name for name, tensor in tensors.items() if tensor.dtype == torch.int8):
        rows, scale = tensors[name], whole.pop(name + SCALE, None)
        if scale is None:
            raise ValueError(f"{name} is int8 and has no {name}{SCALE}")
        one_a_row = (*rows.shape[:1], *[1] * (rows.dim() - 1))
        if scale.shape != one_a_row or not scale.is_floating_point():
            raise ValueError(
                f"{name}{SCALE} must be floating-point of shape {one_a_row}, one value a row of {name},"
                f" got {scale.dtype} of shape {tuple(scale.shape)}"
            )
        whole[name] = rows.float() * scale.float()
    return whole


def read(path: Path) -> dict[str, Tensor] | None:
    """The dequantised tensors of a safetensors file; None if nothing in it is int8.

    Raises:
        ValueError: If int8 rows have no scales, or scales that do not fit.
        SafetensorError: If it is no safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if not any(file.get_slice(name).get_dtype() == "I8" for name in names):
            return None
        return dequantized({name: file.get_tensor(name) for name in names})
