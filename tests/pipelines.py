"""Pipelines of the published architectures' own classes and kinds of blocks, tiny, in the layout of the Hub's cache."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import open_clip
import pytest
import timm
import torch
import transformers
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from safetensors.torch import save_file

from gif_datasets.priors import embedded_folder
from gif_datasets.priors.published import PUBLISHED, REDUX, Published
from gif_datasets.priors.weights import CLIPS, Weights

UnCLIPTextProjModel = sys.modules[diffusers.UnCLIPPipeline.__module__].UnCLIPTextProjModel  # which has moved since 0.36
WIDTH, TEXT, SIDE = 16, 32, 32
"""Of the CLIP's embeddings, of the pipelines' text encoders, of the CLIP's pictures."""


def draws_alike(kind: torch.dtype) -> bool:
    """Whether torch draws the same noise in half as in single precision, which older ones do not."""
    single, half = (
        torch.randn(32, dtype=one, generator=torch.Generator().manual_seed(0)) for one in (torch.float, kind)
    )
    return torch.allclose(single, half.float(), atol=0.1)


def write_snapshot(weights: Weights, write: Callable[[Path], None], commit: str | None = None) -> Path:
    """Put files into the Hub's cache as a download would."""
    commit = commit or (weights.revision if weights.pinned else hashlib.sha1(weights.repository.encode()).hexdigest())
    root = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{weights.repository.replace('/', '--')}"
    folder = root / "snapshots" / commit
    if not folder.exists():
        folder.mkdir(parents=True)
        write(folder)
    if not weights.pinned:
        ref = root / "refs" / weights.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
    return folder


def forget(weights: Weights) -> None:
    root = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{weights.repository.replace('/', '--')}"
    shutil.rmtree(root, ignore_errors=True)


@timm.models.register_model
def tiny_siglip(pretrained: bool = False, *, num_classes: int, global_pool: str, **_: Any) -> torch.nn.Module:
    """As timm's ``vit_so400m_patch16_siglip_512``: tokens without a class token, pooled by attention."""
    return timm.models.VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=TEXT, depth=2, num_heads=2, class_token=False, num_classes=num_classes,
        global_pool=global_pool,
    )  # fmt: skip


def clip_config(name: str, **smaller: Any) -> dict[str, Any]:
    """open_clip's configuration of a published CLIP; its shape is kept but for what ``smaller`` says."""
    config = open_clip.get_model_config(name.split("/")[0])
    if "SigLIP" in name:
        vision = config["vision_cfg"] | {"timm_model_name": "tiny_siglip", "image_size": SIDE}
        text = config["text_cfg"] | {"layers": 2, "width": TEXT, "heads": 2, "vocab_size": 80}
        return config | {"embed_dim": TEXT, "vision_cfg": vision, "text_cfg": text} | smaller
    vision = config["vision_cfg"] | {"layers": 2, "width": 32, "image_size": SIDE, "patch_size": 8, "head_width": 8}
    text = config["text_cfg"] | {"layers": 2, "width": TEXT, "heads": 2}
    quick = {"quick_gelu": True} if name.endswith("openai") else {}
    return config | quick | {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text} | smaller


def write_clip(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        torch.manual_seed(0)
        model = tiny_clip(name)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / CLIP_FILE)
        published = open_clip.get_pretrained_cfg(*name.split("/"))
        how = {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode") if published.get(key)}
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": clip_config(name), "preprocess_cfg": how})
        )
        if "hf_tokenizer_name" in clip_config(name)["text_cfg"]:
            with tempfile.TemporaryDirectory() as scratch:
                tokens = tokenizer(Path(scratch) / "tokens")
                tokens.add_special_tokens({"pad_token": "<|endoftext|>", "sep_token": "<|endoftext|>"})
                tokens.save_pretrained(folder)

    return write


def tiny_clip(name: str) -> Any:
    """A tiny published CLIP of open_clip's."""
    config = clip_config(name)
    custom = config.pop("custom_text", False)
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()


CLIP_FILE = "open_clip_model.safetensors"


def transformers_names(visual: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's vision tower under the names of transformers' ``CLIPVisionModelWithProjection``."""
    blocks = "vision_model.encoder.layers."
    named = {
        "vision_model.embeddings.class_embedding": visual["class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": visual["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": visual["positional_embedding"],
        "visual_projection.weight": visual["proj"].T,
    }
    renamed = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    renamed |= {"attn.out_proj": "self_attn.out_proj"}
    for name, value in visual.items():
        _, _, rest = name.partition("resblocks.")
        number, _, part = rest.partition(".")
        if "in_proj" in part:
            for kind, third in zip("qkv", value.chunk(3), strict=True):
                named[f"{blocks}{number}.self_attn.{kind}_proj.{part.rsplit('_', 1)[1]}"] = third
        elif part:
            inner, _, kind = part.rpartition(".")
            named[f"{blocks}{number}.{renamed[inner]}.{kind}"] = value
        elif name.startswith("ln_"):
            layer = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}[name.partition(".")[0]]
            named[f"vision_model.{layer}.{name.partition('.')[2]}"] = value
    return named


def siglip_names(trunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's SigLIP under the names of transformers' ``SiglipVisionModel``."""
    named = {
        "embeddings.patch_embedding.weight": trunk["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": trunk["patch_embed.proj.bias"],
        "embeddings.position_embedding.weight": trunk["pos_embed"][0],
        "head.probe": trunk["attn_pool.latent"],
    }
    renamed = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1"}
    renamed |= {"mlp.fc2": "mlp.fc2"}
    pooled = {"proj": "attention.out_proj", "norm": "layernorm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for kind in ("weight", "bias"):
        named[f"post_layernorm.{kind}"] = trunk[f"norm.{kind}"]
        named[f"head.attention.in_proj_{kind}"] = torch.cat([trunk[f"attn_pool.{part}.{kind}"] for part in ("q", "kv")])
        named |= {f"head.{new}.{kind}": trunk[f"attn_pool.{old}.{kind}"] for old, new in pooled.items()}
        for number in range(2):
            block, layer = f"blocks.{number}", f"encoder.layers.{number}"
            named |= {f"{layer}.{new}.{kind}": trunk[f"{block}.{old}.{kind}"] for old, new in renamed.items()}
            for part, third in zip("qkv", trunk[f"{block}.attn.qkv.{kind}"].chunk(3), strict=True):
                named[f"{layer}.self_attn.{part}_proj.{kind}"] = third
    return named


def siglip_encoder(ours: Any) -> transformers.SiglipVisionModel:
    """The vision tower of a tiny published SigLIP as a pipeline has it."""
    theirs = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            hidden_size=TEXT, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4 * TEXT, image_size=SIDE,
            patch_size=8, hidden_act="gelu",
        )
    )  # fmt: skip
    given = siglip_names(ours.visual.trunk.state_dict())
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in theirs.state_dict()) else ""
    theirs.load_state_dict({f"{prefix}{name}": value for name, value in given.items()})
    return theirs.eval()


def image_encoder(name: str, ours: open_clip.CLIP) -> transformers.CLIPVisionModelWithProjection:
    """The vision tower of a tiny published CLIP as a pipeline has it."""
    config = clip_config(name)
    vision = config["vision_cfg"]
    theirs = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=vision["width"], num_hidden_layers=vision["layers"], image_size=vision["image_size"],
            num_attention_heads=vision["width"] // vision["head_width"], patch_size=vision["patch_size"],
            intermediate_size=int(vision["width"] * vision.get("mlp_ratio", 4)), projection_dim=config["embed_dim"],
            hidden_act="quick_gelu" if config.get("quick_gelu") else "gelu",
        )
    )  # fmt: skip
    theirs.load_state_dict(transformers_names(ours.visual.state_dict()))
    return theirs.eval()


def tokenizer(folder: Path) -> transformers.CLIPTokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,."
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def _text_config(width: int = TEXT, projection: int = TEXT) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2, vocab_size=80,
        max_position_embeddings=77, projection_dim=projection, bos_token_id=76, eos_token_id=77, pad_token_id=77,
    )  # fmt: skip


def _vision() -> transformers.CLIPVisionModelWithProjection:
    """A pipeline's own image encoder, which is in the repositories and is not loaded."""
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE,
            patch_size=8, projection_dim=WIDTH,
        )
    )  # fmt: skip


SMALL = {"block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 8, "norm_num_groups": 8}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,
    "cross_attention_dim": TEXT,
}


def _unet(**more: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(**{**SMALL, **CROSS, **more})


def _vae(**more: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), norm_num_groups=8, latent_channels=4, sample_size=16, **more,
    )  # fmt: skip


def karlo(scratch: Path) -> diffusers.DiffusionPipeline:
    common = {"resnet_time_scale_shift": "scale_shift", "norm_num_groups": 8, "layers_per_block": 1}
    resnets = {"down_block_types": ("ResnetDownsampleBlock2D",) * 2, "up_block_types": ("ResnetUpsampleBlock2D",) * 2}
    decoder = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=6, block_out_channels=(32, 64), cross_attention_dim=TEXT,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", attention_head_dim=8, class_embed_type="identity", **common,
    )  # fmt: skip
    larger = [
        diffusers.UNet2DModel(
            sample_size=16, in_channels=6, out_channels=3, block_out_channels=(16, 32), add_attention=False,
            **common, **resnets,
        )
        for _ in range(2)
    ]  # fmt: skip
    scheduler = {"variance_type": "learned_range", "prediction_type": "epsilon", "num_train_timesteps": 1000}
    return diffusers.UnCLIPImageVariationPipeline(
        decoder=decoder,
        text_encoder=transformers.CLIPTextModelWithProjection(_text_config(WIDTH, WIDTH)),
        tokenizer=tokenizer(scratch / "tokenizer"),
        text_proj=UnCLIPTextProjModel(
            clip_extra_context_tokens=2, clip_embeddings_dim=WIDTH, time_embed_dim=128, cross_attention_dim=TEXT
        ),
        feature_extractor=transformers.CLIPImageProcessor(crop_size=SIDE, size=SIDE),
        image_encoder=_vision(),
        super_res_first=larger[0],
        super_res_last=larger[1],
        decoder_scheduler=diffusers.UnCLIPScheduler(**scheduler),
        super_res_scheduler=diffusers.UnCLIPScheduler(variance_type="fixed_small_log", num_train_timesteps=1000),
    )


def stable_unclip(scratch: Path) -> diffusers.DiffusionPipeline:
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=WIDTH)
    torch.nn.init.uniform_(normalizer.mean, -0.1, 0.1)
    torch.nn.init.uniform_(normalizer.std, 0.2, 0.4)
    return diffusers.StableUnCLIPImg2ImgPipeline(
        feature_extractor=transformers.CLIPImageProcessor(crop_size=SIDE, size=SIDE),
        image_encoder=_vision(),
        image_normalizer=normalizer,
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tokenizer(scratch / "tokenizer"),
        text_encoder=transformers.CLIPTextModel(_text_config()),
        unet=_unet(
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH, use_linear_projection=True
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="scaled_linear", prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1
        ),
        vae=_vae(),
    )


def kandinsky(scratch: Path) -> diffusers.DiffusionPipeline:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=8, block_out_channels=(32, 64), layers_per_block=1,
        cross_attention_dim=TEXT, encoder_hid_dim=WIDTH, encoder_hid_dim_type="image_proj", addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", attention_head_dim=8, resnet_time_scale_shift="scale_shift",
        norm_num_groups=8,
    )  # fmt: skip
    movq = diffusers.VQModel(
        in_channels=3, out_channels=3, latent_channels=4, num_vq_embeddings=12, vq_embed_dim=4, norm_type="spatial",
        block_out_channels=(32, 32), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, variance_type="learned_range",
        thresholding=False,
    )  # fmt: skip
    return diffusers.KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq)


def sd15(scratch: Path, **unet: Any) -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_text_config()),
        tokenizer=tokenizer(scratch / "tokenizer"),
        unet=_unet(**unet),
        scheduler=diffusers.PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(scratch: Path) -> diffusers.DiffusionPipeline:
    unet = _unet(
        cross_attention_dim=2 * TEXT, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT, use_linear_projection=True,
        transformer_layers_per_block=(1, 2), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=transformers.CLIPTextModel(_text_config()),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_text_config()),
        tokenizer=tokenizer(scratch / "tokenizer"),
        tokenizer_2=tokenizer(scratch / "tokenizer_2"),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
    )


def sd3(scratch: Path) -> diffusers.DiffusionPipeline:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=2 * TEXT, pooled_projection_dim=2 * TEXT,
    )  # fmt: skip
    encoders, tokenizers = ("text_encoder", "text_encoder_2"), ("tokenizer", "tokenizer_2")
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        vae=_vae(scaling_factor=1.5305, shift_factor=0.0609),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        **{name: transformers.CLIPTextModelWithProjection(_text_config()) for name in encoders},
        **{name: tokenizer(scratch / name) for name in tokenizers},
        text_encoder_3=_long_texts(2 * TEXT),
        tokenizer_3=tokenizer(scratch / "tokenizer_3"),
    )


def _long_texts(width: int) -> transformers.T5EncoderModel:
    return transformers.T5EncoderModel(
        transformers.T5Config(d_model=width, d_ff=32, d_kv=8, num_layers=1, num_heads=2, vocab_size=80)
    )


def flux(scratch: Path) -> diffusers.DiffusionPipeline:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT, pooled_projection_dim=TEXT, axes_dims_rope=[4, 4, 8], guidance_embeds=True,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer,
        vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=transformers.CLIPTextModel(_text_config()),
        tokenizer=tokenizer(scratch / "tokenizer"),
        text_encoder_2=_long_texts(TEXT),
        tokenizer_2=tokenizer(scratch / "tokenizer_2"),
    )


def redux(scratch: Path) -> diffusers.DiffusionPipeline:
    """A Flux without text encoders, whose texts have the width that FluxPriorReduxPipeline writes zeros of."""
    pipeline = flux(scratch)
    widths = {"joint_attention_dim": REDUX_WIDTH, "pooled_projection_dim": 768}
    network = diffusers.FluxTransformer2DModel.from_config({**pipeline.transformer.config, **widths})
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline.register_modules(transformer=network, scheduler=scheduler)
    return pipeline


REDUX_WIDTH = 4096


def write_redux(folder: Path) -> None:
    """Redux under the names of the published files, of 50 million parameters: its inner widths follow from a text's."""
    inner = 3 * REDUX_WIDTH
    tensors = {
        "redux_up.weight": torch.randn(inner, TEXT) / TEXT**0.5,
        "redux_up.bias": torch.zeros(inner),
        "redux_down.weight": torch.randn(REDUX_WIDTH, inner) / 8,
        "redux_down.bias": torch.zeros(REDUX_WIDTH),
    }
    for file in ("flux1-redux-dev", "flex1_redux_siglip2_512"):
        save_file({name: value.bfloat16() for name, value in tensors.items()}, folder / f"{file}.safetensors")


def lcm(scratch: Path) -> diffusers.DiffusionPipeline:
    parts = sd15(scratch, time_cond_proj_dim=32).components
    scheduler = diffusers.LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return diffusers.LatentConsistencyModelPipeline(**parts | {"scheduler": scheduler}, requires_safety_checker=False)


def turbo(scratch: Path) -> diffusers.DiffusionPipeline:
    pipeline = sd15(scratch, use_linear_projection=True)
    pipeline.scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")
    return pipeline


def schnell(scratch: Path) -> diffusers.DiffusionPipeline:
    pipeline = flux(scratch)
    config = {**pipeline.transformer.config, "guidance_embeds": False}
    pipeline.register_modules(transformer=diffusers.FluxTransformer2DModel.from_config(config))
    return pipeline


def z_image(scratch: Path) -> diffusers.DiffusionPipeline:
    chat = tokenizer(scratch / "tokenizer")
    chat.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    encoder = transformers.Qwen3Model(
        transformers.Qwen3Config(
            hidden_size=TEXT, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, vocab_size=80,
        )
    )  # fmt: skip
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=TEXT,
        axes_dims=[4, 6, 6], axes_lens=[256, 32, 32],
    )  # fmt: skip
    with torch.no_grad():
        for name, value in transformer.named_parameters():
            value.normal_(0, 0.1) if "pad_token" in name else None
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=encoder,
        tokenizer=chat,
        transformer=transformer,
    )


def sana_sprint(scratch: Path) -> diffusers.DiffusionPipeline:
    encoder = transformers.Gemma2Model(
        transformers.Gemma2Config(
            hidden_size=TEXT, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, vocab_size=80, pad_token_id=0, bos_token_id=76, eos_token_id=77,
        )
    )  # fmt: skip
    blocks = ("ResBlock", "EfficientViTBlock")
    vae = diffusers.AutoencoderDC(
        latent_channels=8, attention_head_dim=4, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        upsample_block_type="interpolate", downsample_block_type="Conv", scaling_factor=0.41407,
    )  # fmt: skip
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=TEXT,
        sample_size=32, guidance_embeds=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    return diffusers.SanaSprintPipeline(
        tokenizer=tokenizer(scratch / "tokenizer"),
        text_encoder=encoder,
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.SCMScheduler(prediction_type="trigflow", sigma_data=0.5),
    )


def chroma(scratch: Path) -> diffusers.DiffusionPipeline:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=32,
        approximator_layers=1,
    )  # fmt: skip
    return diffusers.ChromaPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=_long_texts(TEXT),
        tokenizer=tokenizer(scratch / "tokenizer"),
        transformer=transformer,
    )


MAKERS: dict[str, Callable[[Path], Any]] = {
    "karlo": karlo,
    "sd21-unclip-small": stable_unclip,
    "sd21-unclip": stable_unclip,
    "kandinsky22": kandinsky,
    "ip-adapter-sd15": sd15,
    "ip-adapter-sdxl": sdxl,
    "ip-adapter-sdxl-vit-h": sdxl,
    "flex1-redux": redux,
    "flux1-redux": redux,
    "sd15": sd15,
    "sdxl": sdxl,
    "lcm-dreamshaper": lcm,
    "sd-turbo": turbo,
    "sdxl-turbo": sdxl,
    "sd35-medium": sd3,
    "flux1-schnell": schnell,
    "z-image-turbo": z_image,
    "sana-sprint": sana_sprint,
}
"""A tiny pipeline by the name of the published prior."""


PUBLISHED_NAMES = {
    "text_proj": ["unclip", "UnCLIPTextProjModel"],
    "image_normalizer": ["stable_diffusion", "StableUnCLIPImageNormalizer"],
}
"""Classes that the published ``model_index.json`` files name otherwise than diffusers saves them today."""


def write_adapter(pipeline: diffusers.DiffusionPipeline) -> Callable[[Path], None]:
    """An IP-Adapter for a pipeline, under the names and in the order of the published files."""

    def write(folder: Path) -> None:
        unet, tokens = pipeline.unet, 4
        cross = unet.config.cross_attention_dim
        tensors = {
            "image_proj.proj.weight": torch.randn(tokens * cross, WIDTH),
            "image_proj.proj.bias": torch.zeros(tokens * cross),
            "image_proj.norm.weight": torch.ones(cross),
            "image_proj.norm.bias": torch.zeros(cross),
        }
        number = 1  # each cross attention has an odd number, in diffusers' order of processors
        for name in unet.attn_processors:
            if "attn2" not in name:
                continue
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
            for kind in ("k", "v"):
                tensors[f"ip_adapter.{number}.to_{kind}_ip.weight"] = torch.randn(width, cross) * 2
            number += 2
        for file in ("models/ip-adapter_sd15", "sdxl_models/ip-adapter_sdxl", "sdxl_models/ip-adapter_sdxl_vit-h"):
            (folder / file).parent.mkdir(exist_ok=True)
            save_file(tensors, folder / f"{file}.safetensors")

    return write


ADAPTED = {
    "ip-adapter-sd15": (
        ("down_blocks.0", 2, 1), ("down_blocks.1", 2, 1), ("down_blocks.2", 2, 1),
        ("up_blocks.1", 3, 1), ("up_blocks.2", 3, 1), ("up_blocks.3", 3, 1), ("mid_block", 1, 1),
    ),
    "ip-adapter-sdxl": (
        ("down_blocks.1", 2, 2), ("down_blocks.2", 2, 10), ("up_blocks.0", 3, 10), ("up_blocks.1", 3, 2),
        ("mid_block", 1, 10),
    ),
}  # fmt: skip
"""Blocks of a U-Net in the order in which the adapters' files number them 1, 3, 5 and so on: attentions, their depth.

As the adapters' author lists them (tencent-ailab/IP-Adapter, README.md and issue 162).
"""
ADAPTED["ip-adapter-sdxl-vit-h"] = ADAPTED["ip-adapter-sdxl"]


def adapted_layers(name: str) -> dict[int, str]:
    """Cross attentions by the numbers that the adapter's file gives them."""
    layers = [
        f"{block}.attentions.{attention}.transformer_blocks.{depth}.attn2"
        for block, attentions, depths in ADAPTED[name]
        for attention in range(attentions)
        for depth in range(depths)
    ]
    return {2 * place + 1: layer for place, layer in enumerate(layers)}


def adapter_tensors(name: str, unet: Any, fill: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    """What an adapter's file holds: projections of the embedding to four tokens, and of tokens to keys and values."""
    cross, width = unet.config.cross_attention_dim, CLIPS[PUBLISHED[name].clip].width
    tensors = {
        "image_proj.proj.weight": fill(0, 4 * cross, width), "image_proj.proj.bias": fill(0, 4 * cross),
        "image_proj.norm.weight": fill(0, cross), "image_proj.norm.bias": fill(0, cross),
    }  # fmt: skip
    for number, layer in adapted_layers(name).items():
        inner = unet.get_submodule(layer).to_q.in_features
        tensors |= {f"ip_adapter.{number}.to_{kind}_ip.weight": fill(number, inner, cross) for kind in "kv"}
    return tensors


def masked(**more: Any) -> transformers.ViTMAEForPreTraining:
    config = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 16,
        "patch_size": 4, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 64, "mask_ratio": 0.0, "initializer_range": 0.3,
    }  # fmt: skip
    return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**config | more)).eval()


MAKERS |= dict.fromkeys(("mae-base", "mae-large"), lambda scratch: masked())


def represented(kind: str) -> diffusers.AutoencoderRAE:
    """A tiny representation autoencoder of 4 x 4 tokens, with statistics of its latents as published ones have them.

    DINOv2's have deviations, MAE's also means, each of a channel at a place.
    """
    places, patch = (64, 4, 4), {"dinov2": 14, "mae": 16}[kind]
    model = diffusers.AutoencoderRAE(
        encoder_type=kind, encoder_hidden_size=64, encoder_num_hidden_layers=2, encoder_patch_size=patch,
        encoder_input_size=4 * patch, patch_size=4, decoder_hidden_size=32, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4, decoder_intermediate_size=64, noise_tau=0.8,
        latents_std=torch.rand(places) + 0.5, latents_mean=torch.randn(places) if kind == "mae" else None,
    )  # fmt: skip
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape))
    return model.eval()


RAE = {name: "mae" if "mae" in name else "dinov2" for name, prior in PUBLISHED.items() if prior.family == "rae"}
"""Kind of the encoder, by the name of the published prior."""
MAKERS |= {name: lambda scratch, kind=kind: represented(kind) for name, kind in RAE.items()}


def folder_of(folder: Path, family: str, build: Callable[[Path], Any]) -> str:
    """A prior's folder with the embedded CLIP and a decoder of its own, which ``build`` writes."""
    folder.mkdir()
    shutil.copytree(embedded_folder() / "clip", folder / "clip")
    build(folder / "decoder")
    card = {"format": 2, "name": "tiny", "clip": "clip", "decoders": {family: "decoder"}, "image_size": 32}
    (folder / "prior.json").write_text(json.dumps(card))
    return str(folder)


def publish(prior: Published, scratch: Path) -> None:
    """Put a tiny prior of the same architecture where a download of ``prior`` would be."""
    torch.manual_seed(1)
    pipeline = MAKERS[prior.name](scratch)

    def write(folder: Path) -> None:
        pipeline.save_pretrained(folder, variant=prior.decoder.variant)
        if not (folder / "model_index.json").exists():
            return
        index = json.loads((folder / "model_index.json").read_text())
        published = {name: value for name, value in PUBLISHED_NAMES.items() if name in index}
        (folder / "model_index.json").write_text(json.dumps(index | published))

    write_snapshot(prior.decoder, write)
    if prior.clip:
        write_snapshot(CLIPS[prior.clip].weights, write_clip(prior.clip))
    if prior.adapter:
        write_snapshot(prior.adapter, write_redux if prior.pipeline == REDUX else write_adapter(pipeline))


def side_of(name: str) -> int:
    """Side of a tiny prior's images; SANA's pipeline takes multiples of 32."""
    return 32 if name == "sana-sprint" else 16


@contextlib.contextmanager
def published_here(name: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A published prior by name, tiny, in the Hub's cache, without a Hub to ask."""
    prior = PUBLISHED[name]
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(prior, image_size=side_of(name)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    publish(prior, scratch)
    yield name
    for weights in prior.sources:
        forget(weights)
