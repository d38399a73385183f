"""Teach the unCLIP decoder to draw with guidance in one evaluation a step instead of two.

    python recipes/priors/distil_unclip.py --latents runs/latents --unclip runs/unclip --teacher taef2 \
        --out runs/distilled --images 200000

The student begins as the decoder. At every time it learns what the decoder gives under classifier-free guidance,
``null + scale (conditioned - null)``, of the same noised latents (Meng et al. 2023, stage one, for one scale). So it is
sampled with guidance scale 1, which diffusers takes for no guidance. Run again = resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import flux_space
import torch
import training
from diffusers import UNet2DConditionModel
from latents import Latents
from torch import Tensor, nn
from torch.nn import functional as F
from train_unclip import CONDITION_NOISE, HELD_OUT, contact_sheet, times

from gif_datasets.io.devices import fast_autocast


@torch.no_grad()
def guided(network: nn.Module, x: Tensor, t: Tensor, condition: Tensor, scale: float) -> Tensor:
    """The decoder's velocity under guidance, ``(N, C, 8, 8)``."""
    both = torch.cat([torch.zeros_like(condition), condition])
    null, conditioned = predicted(network, torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
    return null + scale * (conditioned - null)


def predicted(network: nn.Module, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
    """A network's velocity, ``(N, C, 8, 8)``; times in (0, 1)."""
    with fast_autocast(x.device.type):
        out = network(x, t * 1000, None, added_cond_kwargs={"image_embeds": condition}, return_dict=False)[0]
    velocity: Tensor = out[:, : x.shape[1]].float()
    return velocity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_run_options(parser)
    parser.add_argument("--latents", type=Path, required=True, help="written by latents.py")
    parser.add_argument("--unclip", type=Path, required=True, help="output of train_unclip.py, whose decoder teaches")
    parser.add_argument("--teacher", type=Path, required=True, help="folder with taef2_decoder.pth, for the sheets")
    parser.add_argument("--scale", type=float, default=2.0, help="guidance scale that is learned")
    parser.add_argument("--images", type=int, default=200_000, help="training images to see, in all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-4)
    args = parser.parse_args()

    torch.manual_seed(0)
    device, data = torch.device(args.device), Latents(args.latents)
    count = len(data) - HELD_OUT
    decoder, student, averaged = (UNet2DConditionModel.from_pretrained(args.unclip / "unet") for _ in range(3))
    decoder.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    student.to(device, memory_format=torch.channels_last)
    averaged.eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    ema = training.Ema(student, decay=0.998)
    run = training.Run(args.out, student, ema, optimizer)
    forward, teach = (torch.compile(model) if args.compile else model for model in (student, decoder))
    batches = training.shuffled_batches(count, args.batch_size, run.step)
    show = flux_space.load(flux_space.decoder(), args.teacher / "taef2_decoder.pth")

    def loss_of(index: Tensor) -> Tensor:
        view = torch.zeros_like(index)
        condition = data.conditions[view, index].float()
        condition = condition + torch.rand(len(index), 1) * CONDITION_NOISE * torch.randn_like(condition)
        x0, condition = data.normalised(view, index).to(device), condition.to(device)
        t, noise = times(len(x0), device), torch.randn(x0.shape).to(device)
        level = t[:, None, None, None]
        x = ((1 - level) * x0 + level * noise).contiguous(memory_format=torch.channels_last)
        return F.mse_loss(predicted(forward, x, t, condition), guided(teach, x, t, condition, args.scale))

    def checkpoint() -> None:
        run.save()
        averaged.load_state_dict(ema.shadow)
        averaged.save_pretrained(args.out / "unet")
        contact_sheet(averaged, data, show, 1.0, args.out / f"sheet-{run.step:06d}.png")

    rate = training.cosine(args.lr, args.images)
    training.fit(run, batches, loss_of, rate, args.images, checkpoint, every=500, minutes=args.minutes)


if __name__ == "__main__":
    main()
