"""Train the embedded unCLIP decoder: a diffusers U-Net in the layout of ``KandinskyV22Pipeline``.

    python recipes/priors/train_unclip.py --latents runs/latents --teacher taef2 --out runs/unclip --images 3000000

The U-Net draws 8 x 8 x 32 autoencoder latents, given the raw 1,280-wide image latent of the embedded CLIP in two ways
at once (Kandinsky 2.2's own): added to the time embedding, which scales and shifts every norm, and as 32 tokens that
every attention layer reads. Flow matching (Lipman et al. 2023): ``x_t = (1 - t) x_0 + t noise``, the network predicts
``noise - x_0``. One image in ten is trained without its condition (zeros), for classifier-free guidance.

Run again = resume, to the bit. ``sheet-*.png`` shows pool images that are held out above what their latents become.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flux_space
import torch
import training
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from latents import Latents
from torch import Tensor, nn
from torch.nn import functional as F

from gif_datasets.io.devices import fast_autocast

DROP_CONDITION = 0.1
CONDITION_NOISE = 0.1  # largest standard deviation added to a latent, the radius of the paper's ball
HELD_OUT = 1000  # last images of the pool, which no step sees
UNIFORM_TIMES = 0.15  # share of times drawn uniformly; the rest are logistic-normal, dense in the middle
SCHEDULE = {
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "algorithm_type": "dpmsolver++",
}


def build(condition_width: int = 1280, latent_channels: int = flux_space.CHANNELS) -> UNet2DConditionModel:
    """The architecture. Kandinsky's pipeline expects twice the latent channels out (mean and variance)."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent_channels,
        out_channels=2 * latent_channels,
        block_out_channels=(192, 320),
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


def times(count: int, device: torch.device) -> Tensor:
    """Noise levels to train at, in (0, 1)."""
    middle = torch.randn(count).sigmoid()
    return torch.where(torch.rand(count) < UNIFORM_TIMES, torch.rand(count), middle).to(device)


def flow_loss(network: Callable[..., Any], x0: Tensor, *condition: Any, **conditions: Any) -> Tensor:
    """Mean squared error of the predicted velocity, over all elements.

    Args:
        network: Called with noised latents, times in [0, 1000), and the conditions.
        x0: Latents, ``(N, C, 8, 8)``.
        condition: Further arguments of the network.
        conditions: Likewise, by name.
    """
    t = times(len(x0), x0.device)
    noise = torch.randn(x0.shape).to(x0.device)
    level = t[:, None, None, None]
    xt = ((1 - level) * x0 + level * noise).contiguous(memory_format=torch.channels_last)
    with fast_autocast(x0.device.type):
        out = network(xt, t * 1000, *condition, **conditions, return_dict=False)[0]
    return F.mse_loss(out[:, : x0.shape[1]].float(), noise - x0)


@torch.no_grad()
def draw(network: nn.Module, condition: Tensor, scale: float, steps: int, generator: torch.Generator) -> Tensor:
    """Latents for conditions, by DPM-Solver++ with classifier-free guidance; the draws of ``generator``."""
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)
    x = torch.randn(len(condition), flux_space.CHANNELS, 8, 8, generator=generator)
    rows = condition if scale == 1 else torch.cat([torch.zeros_like(condition), condition])
    for t in scheduler.timesteps:
        inputs = torch.cat([x] * (len(rows) // len(x)))
        with fast_autocast("cpu"):
            out = network(inputs, t, None, added_cond_kwargs={"image_embeds": rows}, return_dict=False)[0]
        *null, conditioned = out[:, : x.shape[1]].float().split(len(x))
        velocity = null[0] + scale * (conditioned - null[0]) if null else conditioned
        x = scheduler.step(velocity, t, x).prev_sample
    return x


@torch.no_grad()
def contact_sheet(network: nn.Module, data: Latents, decoder: nn.Module, scale: float, path: Path) -> None:
    """Held-out images of the pool, each above two images that are drawn from its image latent."""
    shown = torch.arange(len(data) - HELD_OUT, len(data))[:32]
    view, rows = torch.zeros_like(shown), []
    condition, real = data.conditions[view, shown].float(), data.targets[view, shown].float()
    for part in (slice(0, 16), slice(16, 32)):
        latents = [real[part]]
        for number in range(2):
            generator = torch.Generator().manual_seed(number)
            latents.append(data.raw(draw(network, condition[part], scale, 10, generator)))
        rows += [decoder(x) * 2 - 1 for x in latents]
    training.sheet(rows, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_run_options(parser)
    parser.add_argument("--latents", type=Path, required=True, help="written by latents.py")
    parser.add_argument("--views", type=int, default=1, help="views of the pool to train on: 2 has mirror images")
    parser.add_argument("--teacher", type=Path, required=True, help="folder with taef2_decoder.pth, for the sheets")
    parser.add_argument("--images", type=int, default=3_000_000, help="training images to see, in all")
    parser.add_argument("--decay-images", type=int, default=0, help="over so many last images the rate falls to zero")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--ema", type=float, default=0.9993, help="decay of the averaged weights, a step")
    args = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device(args.device)
    data = Latents(args.latents, args.views)
    count = len(data) - HELD_OUT
    unet = build(data.conditions.shape[2], data.targets.shape[2]).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = training.Ema(unet, decay=args.ema)
    run = training.Run(args.out, unet, ema, optimizer)
    forward = torch.compile(unet) if args.compile else unet
    batches = training.shuffled_batches(count, args.batch_size, run.step)
    averaged = build(data.conditions.shape[2], data.targets.shape[2]).eval().to(memory_format=torch.channels_last)
    decoder = flux_space.load(flux_space.decoder(), args.teacher / "taef2_decoder.pth")

    def loss_of(index: Tensor) -> Tensor:
        n = len(index)
        view = torch.randint(0, args.views, (n,))
        condition = data.conditions[view, index].float()
        condition = condition + torch.rand(n, 1) * CONDITION_NOISE * torch.randn_like(condition)
        condition = condition * (torch.rand(n, 1) >= DROP_CONDITION)
        added = {"image_embeds": condition.to(device)}
        return flow_loss(forward, data.normalised(view, index).to(device), None, added_cond_kwargs=added)

    def checkpoint() -> None:
        run.save()
        averaged.load_state_dict(ema.shadow)
        averaged.save_pretrained(args.out / "unet")
        contact_sheet(averaged, data, decoder, 2.0, args.out / f"sheet-{run.step:06d}.png")

    rate = training.constant_then_linear(args.lr, args.images, args.decay_images)
    training.fit(run, batches, loss_of, rate, args.images, checkpoint, every=500, minutes=args.minutes)


if __name__ == "__main__":
    main()
