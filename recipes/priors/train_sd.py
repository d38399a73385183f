"""Train the embedded Stable-Diffusion-shaped prior: a text-conditioned U-Net behind diffusers' img2img pipeline.

    python recipes/priors/train_sd.py --pool runs/pool --latents runs/latents --clip runs/clip/clip \
        --movq runs/movq/movq --out runs/sd

The autoencoder is the unCLIP decoder's, as an ``AutoencoderKL`` without variance; the text encoder is the embedded
CLIP's text tower, read token by token. Captions are prompts around the pool's class names. Flow matching, as in
``train_unclip.py``. Run again = resume; ``sheet-*.png`` shows images that are held out and their variations at three
strengths.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
    VQModel,
)
from latents import Latents
from pool import SIDE
from torch import Tensor
from train_movq import HELD_OUT, pool_pixels
from train_unclip import DROP_CONDITION, SCHEDULE, flow_loss
from transformers import PreTrainedTokenizerFast

from gif_datasets.guidance.zeroshot import Clip

TOKENS = 12
TEMPLATES = ("{}", "a {}", "a photo of a {}")
STRENGTHS = (0.4, 0.6, 0.8)


def build(latent_channels: int) -> UNet2DConditionModel:
    """The architecture: Stable Diffusion's blocks at a thirtieth of its widths."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(96, 128),
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
        sample_size=SIDE,
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
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE)
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
    training.add_run_options(parser)
    parser.add_argument("--pool", type=Path, required=True, help="written by pool.py")
    parser.add_argument("--latents", type=Path, required=True, help="written by latents.py")
    parser.add_argument("--clip", type=Path, required=True, help="open_clip folder, written by build_clip.py")
    parser.add_argument("--movq", type=Path, required=True, help="autoencoder, written by train_movq.py")
    parser.add_argument("--images", type=int, default=800_000, help="training images to see, in all")
    parser.add_argument("--decay-images", type=int, default=200_000, help="over so many last ones the rate falls")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights, a step")
    args = parser.parse_args()

    torch.manual_seed(0)
    device, data = torch.device(args.device), Latents(args.latents)
    count = len(data) - HELD_OUT
    labels = torch.from_numpy(np.load(args.pool / "labels.npy").astype(np.int64))
    classes = json.loads((args.pool / "pool.json").read_text())["classes"]
    movq, text = VQModel.from_pretrained(args.movq).eval(), text_parts(args.clip)
    vae, unet = as_autoencoder_kl(movq), build(movq.config.latent_channels).to(memory_format=torch.channels_last)
    prompts = [template.format(name) for template in TEMPLATES for name in classes] + [""]
    tokens = pipeline(unet, vae, text).encode_prompt(prompts, torch.device("cpu"), 1, False)[0].detach().half()

    unet.to(device)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = training.Ema(unet, decay=args.ema)
    run = training.Run(args.out, unet, ema, optimizer)
    forward = torch.compile(unet) if args.compile else unet
    batches = training.shuffled_batches(count, args.batch_size, run.step)
    averaged = build(movq.config.latent_channels).eval()

    def loss_of(index: Tensor) -> Tensor:
        n = len(index)
        prompt = torch.randint(0, len(TEMPLATES), (n,)) * len(classes) + labels[index]
        prompt = torch.where(torch.rand(n) < DROP_CONDITION, len(prompts) - 1, prompt)
        x0 = data.normalised(torch.zeros_like(index), index).to(device)
        return flow_loss(forward, x0, tokens[prompt].float().to(device))

    def checkpoint() -> None:
        run.save()
        averaged.load_state_dict(ema.shadow)
        pipe = pipeline(averaged, vae, text)
        pipeline(averaged, vae, (text[0], None)).save_pretrained(args.out / "pipeline")
        shown = torch.arange(count, count + 16)
        images = np.load(args.pool / "images.npy", mmap_mode="r")
        names = [classes[label] for label in labels[shown]]
        _sheet(pipe, pool_pixels(images, shown), names, args.out / f"sheet-{run.step:06d}.png")

    rate = training.constant_then_linear(args.lr, args.images, args.decay_images)
    training.fit(run, batches, loss_of, rate, args.images, checkpoint, minutes=args.minutes)


def _sheet(pipe: StableDiffusionImg2ImgPipeline, pixels: Tensor, names: list[str], path: Path) -> None:
    prompts = [f"a photo of a {name}" for name in names]
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
