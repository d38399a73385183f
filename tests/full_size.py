"""Published configurations at full size, part by part: classes and arguments, as the repositories' files give them.

Sources: diffusers' conversion scripts (convert_kakao_brain_unclip_to_diffusers.py, convert_from_ckpt.py), its training
and test configurations, and the published config.json files as public code quotes them. The counts of parameters that
the makers state are checked in test_full_size.py.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

UnCLIPTextProjModel = sys.modules[diffusers.UnCLIPPipeline.__module__].UnCLIPTextProjModel  # which has moved since 0.36
Part = tuple[Any, dict[str, Any]]

_RESNETS = {
    "sample_size": 256, "layers_per_block": 3, "block_out_channels": (320, 640, 960, 1280), "in_channels": 6,
    "out_channels": 3, "add_attention": False, "down_block_types": ("ResnetDownsampleBlock2D",) * 4,
    "up_block_types": ("ResnetUpsampleBlock2D",) * 4,
}  # fmt: skip
_SIMPLE = {
    "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "attention_head_dim": 64, "layers_per_block": 3,
    "resnet_time_scale_shift": "scale_shift", "sample_size": 64,
}  # fmt: skip
_TEXT_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768,
}  # fmt: skip
_TEXT_H: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "projection_dim": 512, "hidden_act": "gelu",
}  # fmt: skip
_TEXT_G: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
}  # fmt: skip
_SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
_SDXL = {
    "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
    "sample_size": 128,
}  # fmt: skip
_UNET = diffusers.UNet2DConditionModel


def _text(config: dict[str, Any], projects: bool = False) -> Part:
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    return kind, {"config": transformers.CLIPTextConfig(**config)}


def _sd(unet: dict[str, Any], text: dict[str, Any] = _TEXT_L) -> dict[str, Part]:
    return {
        "unet": (_UNET, {"sample_size": 64, "cross_attention_dim": 768, **unet}),
        "vae": (diffusers.AutoencoderKL, _VAE),
        "text_encoder": _text(text),
    }


def _stable_unclip(width: int) -> dict[str, Part]:
    condition = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * width}
    normalizer = (StableUnCLIPImageNormalizer, {"embedding_dim": width})
    return _sd({**_SD2, **condition, "sample_size": 96}, _TEXT_H) | {"image_normalizer": normalizer}


def _sdxl() -> dict[str, Part]:
    return _sd(_SDXL) | {"text_encoder_2": _text(_TEXT_G, projects=True)}


def _mae(width: int, depth: int, heads: int) -> dict[str, Part]:
    config = transformers.ViTMAEConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width
    )
    return {"model": (transformers.ViTMAEForPreTraining, {"config": config})}


def _rae(width: int, depth: int, **more: Any) -> dict[str, Part]:
    """With the decoder that the authors name ViTXL (bytetriper/RAE, configs/decoder/ViTXL)."""
    decoder = {
        "decoder_hidden_size": 1152, "decoder_num_hidden_layers": 28, "decoder_num_attention_heads": 16,
        "decoder_intermediate_size": 4096,
    }  # fmt: skip
    encoder = {"encoder_hidden_size": width, "encoder_num_hidden_layers": depth}
    return {"model": (diffusers.AutoencoderRAE, {**decoder, **encoder, **more})}


_VAE16 = (
    diffusers.AutoencoderKL,
    {**_VAE, "latent_channels": 16, "sample_size": 1024, "use_quant_conv": False, "use_post_quant_conv": False},
)
_T5 = (
    transformers.T5EncoderModel,
    {
        "config": transformers.T5Config(
            d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, vocab_size=32128,
            feed_forward_proj="gated-gelu",
        )
    },
)  # fmt: skip
_SD35 = {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
}  # fmt: skip
_QWEN3 = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
}  # fmt: skip
_GEMMA2 = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
}  # fmt: skip
_SANA = {
    "num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152, "guidance_embeds": True, "qk_norm": "rms_norm_across_heads",
}  # fmt: skip
_DC_AE = {
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "upsample_block_type": "interpolate", "downsample_block_type": "Conv",
}  # fmt: skip


def _redux(network: dict[str, Any]) -> dict[str, Part]:
    """With the file of Redux as a part; Flex.1 has 8 of FLUX.1's 19 double blocks."""
    return {
        "transformer": (diffusers.FluxTransformer2DModel, {"guidance_embeds": True, **network}),
        "vae": _VAE16,
        "redux": (ReduxImageEncoder, {}),
    }


IN_HALF: dict[str, tuple[str, ...]] = {
    "sd35-medium": (), "flux1-schnell": (), "z-image-turbo": ("transformer",), "sana-sprint": ("vae",),
    "flux1-redux": (), "flex1-redux": (),
}  # fmt: skip
"""Priors whose files are in half precision though their names do not say so, and parts of them that are not."""


PARTS: dict[str, dict[str, Part]] = {
    "karlo": {
        "decoder": (
            _UNET,
            {
                **_SIMPLE, "block_out_channels": (320, 640, 960, 1280), "in_channels": 3, "out_channels": 6,
                "cross_attention_dim": 1536, "class_embed_type": "identity",
            },
        ),
        "text_encoder": _text(_TEXT_L, projects=True),
        "text_proj": (
            UnCLIPTextProjModel,
            {
                "clip_extra_context_tokens": 4, "clip_embeddings_dim": 768, "time_embed_dim": 1280,
                "cross_attention_dim": 1536,
            },
        ),
        "super_res_first": (diffusers.UNet2DModel, _RESNETS),
        "super_res_last": (diffusers.UNet2DModel, _RESNETS),
    },
    "sd21-unclip-small": _stable_unclip(768),
    "sd21-unclip": _stable_unclip(1024),
    "kandinsky22": {
        "unet": (
            _UNET,
            {
                **_SIMPLE, "block_out_channels": (384, 768, 1152, 1536), "in_channels": 4, "out_channels": 8,
                "cross_attention_dim": 768, "encoder_hid_dim": 1280, "encoder_hid_dim_type": "image_proj",
                "addition_embed_type": "image",
            },
        ),
        "movq": (
            diffusers.VQModel,
            {
                "latent_channels": 4, "num_vq_embeddings": 16384, "vq_embed_dim": 4, "norm_type": "spatial",
                "block_out_channels": (128, 256, 256, 512), "layers_per_block": 2, "norm_num_groups": 32,
                "down_block_types": (*("DownEncoderBlock2D",) * 3, "AttnDownEncoderBlock2D"),
                "up_block_types": ("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 3),
            },
        ),
    },
    "ip-adapter-sd15": _sd({}),
    "ip-adapter-sdxl": _sdxl(),
    "ip-adapter-sdxl-vit-h": _sdxl(),
    "sd15": _sd({}),
    "sdxl": _sdxl(),
    "lcm-dreamshaper": _sd({"time_cond_proj_dim": 256}),
    "sd-turbo": _sd(_SD2, _TEXT_H),
    "sdxl-turbo": _sdxl(),
    "mae-base": _mae(768, 12, 12),
    "mae-large": _mae(1024, 24, 16),
    "sd35-medium": {
        "transformer": (diffusers.SD3Transformer2DModel, _SD35), "vae": _VAE16, "text_encoder_3": _T5,
        "text_encoder": _text(_TEXT_L, projects=True), "text_encoder_2": _text(_TEXT_G, projects=True),
    },
    "flux1-schnell": {
        "transformer": (diffusers.FluxTransformer2DModel, {"guidance_embeds": False}), "vae": _VAE16,
        "text_encoder": _text(_TEXT_L), "text_encoder_2": _T5,
    },
    "z-image-turbo": {
        "transformer": (diffusers.ZImageTransformer2DModel, {}), "vae": _VAE16,
        "text_encoder": (transformers.Qwen3Model, {"config": transformers.Qwen3Config(**_QWEN3)}),
    },
    "sana-sprint": {
        "transformer": (diffusers.SanaTransformer2DModel, _SANA), "vae": (diffusers.AutoencoderDC, _DC_AE),
        "text_encoder": (transformers.Gemma2Model, {"config": transformers.Gemma2Config(**_GEMMA2)}),
    },
    "flux1-redux": _redux({}),
    "flex1-redux": _redux({"num_layers": 8}),
    "rae-dinov2-base": _rae(768, 12),
    "rae-dinov2-small": _rae(384, 12),
    "rae-dinov2-large": _rae(1024, 24),
    "rae-dinov2-base-512": _rae(768, 12, encoder_input_size=448),
    "rae-mae-base": _rae(768, 12, encoder_type="mae", encoder_patch_size=16, encoder_input_size=256),
}  # fmt: skip
"""Parts with weights, by the name of the published prior."""


def build(part: Part, device: str = "meta", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    kind, arguments = part
    with torch.device(device):
        model: torch.nn.Module = kind(**arguments)
    return model.to(dtype).eval()


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def width(name: str, part: str, variant: str | None) -> int:
    """Bytes of a parameter in the published file of a part."""
    return 2 if variant or part not in IN_HALF.get(name, (part,)) else 4


def write(part: Part, folder: Path, variant: str | None = None) -> None:
    """Write a part at full size with random weights, in half precision for ``"fp16"``, as its own library saves it."""
    dtype = torch.float16 if variant else torch.float32
    model: Any = build(part)
    if isinstance(model, transformers.PreTrainedModel):
        filled(model, dtype).save_pretrained(folder, variant=variant)
        return
    model.save_config(folder)
    name = f"diffusion_pytorch_model{f'.{variant}' if variant else ''}.safetensors"
    write_tensors(model.state_dict(), folder / name, dtype)


def filled(model: Any, dtype: torch.dtype) -> Any:
    """A model of the meta device with random weights."""
    model = model.to(dtype).to_empty(device="cpu")
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.normal_(0, SPREAD)
            else:
                value.copy_(torch.arange(value.numel()).reshape(value.shape))
    return model


SPREAD = 0.02
"""Standard deviation of the random weights."""


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write random tensors of these shapes one by one: a safetensors file that need not fit into memory."""
    kind, size = {torch.float32: ("F32", 4), torch.float16: ("F16", 2)}[dtype]
    header, end = {}, 0
    for name, value in tensors.items():
        first, end = end, end + size * value.numel()
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(torch.empty(value.shape).normal_(0, SPREAD).to(dtype).numpy().data)
