"""Masked autoencoders (He et al. 2022): a ViT encoder whose tokens are the latent, and a light decoder.

Sub-modules and parameters have the names of the original code, so that its checkpoints load unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import ImageOps
from PIL.Image import Resampling
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError, one_line
from gif_datasets.guidance.zeroshot import Clip
from gif_datasets.io.parsing import read_json
from gif_datasets.io.threads import ordered_map
from gif_datasets.priors import mae_checkpoints
from gif_datasets.priors.base import ClipPrior
from gif_datasets.priors.parts import Parts

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class MaeConfig:
    """Architecture of a masked autoencoder.

    Attributes:
        image_size: Side of the square images, pixels.
        patch_size: Side of a patch, pixels.
        width: Width of the encoder, channels of the latent.
        depth: Encoder blocks.
        heads: Encoder attention heads.
        decoder_width: Width of the decoder.
        decoder_depth: Decoder blocks.
        decoder_heads: Decoder attention heads.
        mean: Subtracted from each channel of an image in [0, 1].
        std: Each channel is then divided by it.
        normalised_pixels: Whether the decoder predicts patches that are each normalised to zero mean and unit variance.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    normalised_pixels: bool = False


class MaskedAutoencoder(nn.Module):
    """An encoder and a decoder built from timm's transformer blocks.

    Example:
        >>> model = MaskedAutoencoder(MaeConfig(8, 4, 16, 1, 2, 8, 1, 2))
        >>> latent = model.encode(torch.zeros(3, 3, 8, 8))
        >>> latent.shape, model.decode(latent).shape
        (torch.Size([3, 5, 16]), torch.Size([3, 3, 8, 8]))
    """

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        from timm.layers import PatchEmbed
        from timm.models.vision_transformer import Block

        c = self.config = config
        self.patch_embed = PatchEmbed(c.image_size, c.patch_size, 3, c.width)
        tokens = 1 + self.patch_embed.num_patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.pos_embed = nn.Parameter(_positions(c.width, tokens), requires_grad=False)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, qkv_bias=True) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
        self.decoder_embed = nn.Linear(c.width, c.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_width))
        self.decoder_pos_embed = nn.Parameter(_positions(c.decoder_width, tokens), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, qkv_bias=True) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(c.decoder_width)
        self.decoder_pred = nn.Linear(c.decoder_width, 3 * c.patch_size**2)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(c.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(c.std)[:, None, None], persistent=False)

    def encode(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """The latent: the class token, then one token per patch.

        Args:
            pixels: ``(B, 3, H, W)`` in [0, 1].
            keep: Indices of the visible patches, ``(B, L)``; None: all.

        Returns:
            ``(B, 1 + L, width)``, normalised by the encoder's last LayerNorm.
        """
        x = self.patch_embed((pixels - self.mean) / self.std) + self.pos_embed[:, 1:]
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
        first = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat([first.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        latent: Tensor = self.norm(x)
        return latent

    def decode(self, latent: Tensor, keep: Tensor | None = None, like: Tensor | None = None) -> Tensor:
        """Images of latents, ``(B, 3, H, W)``, mostly in [0, 1]: values can overshoot.

        Args:
            latent: From :meth:`encode`.
            keep: As in :meth:`encode`.
            like: For a model of normalised pixels: the images, ``(B, 3, H, W)``, whose mean and spread per patch are
                given to the predicted patches.
        """
        x = self.decoder_embed(latent)
        if keep is not None:
            masked = self.mask_token.to(x.dtype).repeat(len(x), self.patch_embed.num_patches, 1)
            seen = masked.scatter(1, keep[..., None].expand(-1, -1, x.shape[2]), x[:, 1:])
            x = torch.cat([x[:, :1], seen], dim=1)
        x = x + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        patches = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        return self._pixels(patches if like is None else self._spread(patches, like))

    def _spread(self, patches: Tensor, like: Tensor) -> Tensor:
        """Normalised patches with the mean and spread of an image's patches, as in the original loss."""
        side, p = self.config.image_size // self.config.patch_size, self.config.patch_size
        target = ((like - self.mean) / self.std).reshape(-1, 3, side, p, side, p).permute(0, 2, 4, 3, 5, 1)
        target = target.reshape(len(like), side * side, -1)
        spread = (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return patches * spread + target.mean(-1, keepdim=True)

    def _pixels(self, patches: Tensor) -> Tensor:
        """Patches ``(B, L, p * p * 3)`` to an image, its normalisation undone."""
        side, p = self.config.image_size // self.config.patch_size, self.config.patch_size
        x = patches.reshape(-1, side, side, p, p, 3).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, 3, side * p, side * p) * self.std + self.mean


def _positions(width: int, tokens: int) -> Tensor:
    """Fixed 2-D sine and cosine positions, ``(1, tokens, width)``; zeros for the class token."""
    from timm.layers import build_sincos2d_pos_embed

    side = round((tokens - 1) ** 0.5)
    grid: Tensor = build_sincos2d_pos_embed([side, side], dim=width, interleave_sin_cos=False)
    return torch.cat([torch.zeros(1, width), grid])[None]


def save(model: MaskedAutoencoder, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(model.config), indent=1) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")


def load(folder: Path) -> MaskedAutoencoder:
    """Read a folder of :func:`save`, or a ``ViTMAEForPreTraining`` of transformers, in single precision.

    Raises:
        PriorError: If a file is missing or does not fit.
    """
    try:
        fields: Any = read_json((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        if fields.get("model_type") == "vit_mae":
            fields, tensors = mae_checkpoints.transformers_config(fields), mae_checkpoints.from_transformers(tensors)
        model = MaskedAutoencoder(MaeConfig(**fields))
        model.load_state_dict(tensors)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = one_line(error)
        raise PriorError(f"cannot load the masked autoencoder in {folder}: {reason}") from error
    return model.float().eval()


class MaePrior(ClipPrior):
    """A masked autoencoder whose images are scored by an open_clip model (Algorithm 2).

    The latent is the encoder's tokens, ``(1 + L, width)``, without masking. To score a latent its image is decoded;
    gradients pass through decoder and CLIP.

    Args:
        parts: Their files.
        device: The device that both run on.
    """

    channel_axis = 1
    latent_is_embedding = False
    decodes_noise = False

    def __init__(self, parts: Parts, device: torch.device, config: ExpansionConfig) -> None:
        self.clip = Clip(parts.scored_by, device)
        self.model = load(parts.decoder).requires_grad_(False).to(device)
        if self.model.config.normalised_pixels:
            raise PriorError(
                f"{parts.decoder} predicts patches without their mean and spread, so images cannot be decoded; take"
                " a checkpoint that rebuilds pixels (mae_visualize_*)"
            )
        self.device = device

    @torch.no_grad()
    def encode(self, images: Sequence[Image]) -> Tensor:
        """Encoder tokens, ``(B, 1 + L, width)``."""
        from torchvision.transforms.v2 import functional as vision

        side = self.model.config.image_size
        squares = ordered_map(lambda image: ImageOps.fit(image, (side, side), Resampling.BICUBIC), images)
        pixels = torch.stack([vision.pil_to_tensor(image) for image in squares]).to(self.device)
        return self.model.encode(pixels.float() / 255)

    def embed(self, latents: Tensor) -> Tensor:
        """CLIP embeddings of the decoded images."""
        return self.clip.embed_pixels(self.pixels(latents))

    def pixels(self, latents: Tensor) -> Tensor:
        """Images of latents, differentiably."""
        return self.model.decode(latents).clamp(0, 1)

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Images of latents, ``(B, 3, H, W)`` in [0, 1]; the decoder draws no noise, so generators are not used."""
        return self.pixels(latents)
