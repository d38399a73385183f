"""Convert checkpoints of masked autoencoders to the original names, which :mod:`~gif_datasets.priors.mae` uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_RENAMED = (
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.", ""),
    (r"^vit\.layernorm\.", "norm."),
    (r"^vit\.encoder\.layer\.", "blocks."),
    (r"^decoder\.decoder_(layers|encoder\.layer)\.", "decoder_blocks."),  # published files; saved by transformers 5
    (r"^decoder\.", ""),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
"""Patterns of transformers' names, and the original names; applied in this order."""
_HEADS = {768: 12, 1024: 16, 1280: 16}
"""Attention heads of ViT-B, L and H, by width."""


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a ``ViTMAEForPreTraining`` under the original names: query, key and value are joined.

    Example:
        >>> names = [f"vit.encoder.layer.0.attention.attention.{name}.bias" for name in ("query", "key", "value")]
        >>> {name: len(value) for name, value in from_transformers(dict.fromkeys(names, torch.zeros(2))).items()}
        {'blocks.0.attn.qkv.bias': 6}
    """
    named = {}
    for name, value in tensors.items():
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        named[name] = value
    for name in [name for name in named if ".attn.query." in name]:
        parts = [named.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        named[name.replace("query", "qkv")] = torch.cat(parts)
    return named


def transformers_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a ``ViTMAEConfig``, under the names of :class:`~gif_datasets.priors.mae.MaeConfig`."""
    return {
        "image_size": config["image_size"],
        "patch_size": config["patch_size"],
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "decoder_width": config["decoder_hidden_size"],
        "decoder_depth": config["decoder_num_hidden_layers"],
        "decoder_heads": config["decoder_num_attention_heads"],
        "normalised_pixels": config.get("norm_pix_loss", False),
    }


def original_config(tensors: Mapping[str, Tensor], normalised_pixels: bool) -> dict[str, Any]:
    """The architecture of an original checkpoint, derived from its tensors.

    Args:
        tensors: Its ``model`` entry.
        normalised_pixels: Whether it was trained on patches normalised to zero mean and unit variance: true for files
            named ``mae_pretrain_*_full``, false for ``mae_visualize_*``.

    Raises:
        KeyError: If it has no decoder, as in files named ``mae_pretrain_*``.
    """
    width, decoder_width = tensors["cls_token"].shape[-1], tensors["mask_token"].shape[-1]
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    depth, decoder_depth = (
        1 + max(int(name.split(".")[1]) for name in tensors if name.startswith(f"{part}."))
        for part in ("blocks", "decoder_blocks")
    )
    return {
        "image_size": patch * round((tensors["pos_embed"].shape[1] - 1) ** 0.5),
        "patch_size": patch,
        "width": width,
        "depth": depth,
        "heads": _HEADS[width],
        "decoder_width": decoder_width,
        "decoder_depth": decoder_depth,
        "decoder_heads": 16,
        "normalised_pixels": normalised_pixels,
    }
