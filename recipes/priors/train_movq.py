"""Train the small autoencoder (diffusers ``VQModel``, used without quantisation) that the unCLIP decoder draws in.

    python recipes/priors/train_movq.py --pool runs/pool --latents runs/latents --out runs/movq --images 600000

64 x 64 images become 8 x 8 x 32 latents. The encoder learns FLUX.2's latent space, by regression onto the latents that
``latents.py`` wrote; the decoder learns to invert both that space and the encoder. So the unCLIP decoder can be trained
on the teacher's latents at the same time. What both learn is normalised by channel (:class:`latents.Latents`), so the
stored model gives unit-variance latents by itself. Gaussian noise on the latents makes the decoder tolerate small
errors of the diffusion model. Run again = resume.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import flux_space
import numpy as np
import torch
import training
from diffusers import VQModel
from latents import Latents, seen
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.io.devices import fast_autocast

LATENT_NOISE = 0.07  # standard deviation, in units of the latent's own
SPACE_WEIGHT = 0.5  # of the distance to the teacher's latents
HELD_OUT = 1000  # last images of the pool, as in train_unclip.py


def build() -> VQModel:
    """The architecture: four levels, no attention, no codebook in use."""
    return VQModel(
        block_out_channels=(32, 64, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=flux_space.CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        num_vq_embeddings=1,
        sample_size=64,
    )


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Absolute error, plus that of finite differences, so that edges are not traded for flat areas."""
    loss = F.l1_loss(output, target)
    for dim in (2, 3):
        loss = loss + F.l1_loss(output.diff(dim=dim), target.diff(dim=dim))
    return loss


def psnr(output: Tensor, target: Tensor) -> float:
    """Mean peak signal-to-noise ratio of images in [-1, 1], dB."""
    error = ((output.clamp(-1, 1) - target) / 2).square().mean((1, 2, 3))
    return float(-10 * torch.log10(error).mean())


def pool_pixels(images: np.ndarray, index: Tensor) -> Tensor:
    """Images of the pool as the first view shows them, ``(N, 3, 64, 64)`` in [0, 1]."""
    rows = [seen(torch.from_numpy(images[i : i + 1]), i, 0) for i in index.tolist()]
    return torch.cat(rows).contiguous(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_run_options(parser)
    parser.add_argument("--pool", type=Path, required=True, help="written by pool.py")
    parser.add_argument("--latents", type=Path, required=True, help="written by latents.py")
    parser.add_argument("--images", type=int, default=600_000, help="training images to see, in all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device(args.device)
    data = Latents(args.latents)
    images = np.load(args.pool / "images.npy", mmap_mode="r")
    count = len(data) - HELD_OUT
    model = build().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = training.Ema(model, decay=0.998)
    run = training.Run(args.out, model, ema, optimizer)
    forward = torch.compile(model) if args.compile else model
    batches = training.shuffled_batches(count, args.batch_size, run.step)

    def loss_of(index: Tensor) -> Tensor:
        x = (pool_pixels(images, index) * 2 - 1).to(device)
        target = data.normalised(torch.zeros_like(index), index).to(device)
        with fast_autocast(device.type):
            z = forward.encode(x).latents.float()
            half = torch.cat([target[::2], z[1::2]])  # the decoder sees the teacher's latents, and its encoder's
            noisy = half + LATENT_NOISE * torch.randn(half.shape).to(device)
            y = forward.decode(noisy, force_not_quantize=True).sample
        space = F.mse_loss(z, target)
        return SPACE_WEIGHT * space + reconstruction_loss(y.float(), torch.cat([x[::2], x[1::2]]))

    rate = training.cosine(args.lr, args.images)
    training.fit(run, batches, loss_of, rate, args.images, run.save, minutes=args.minutes)
    model.load_state_dict(ema.shadow)
    _finish(model.cpu().eval(), images, data, args.out)


@torch.no_grad()
def _finish(model: VQModel, images: np.ndarray, data: Latents, out: Path) -> None:
    """Store the model, measure it on held-out images, and draw a sheet."""
    model.save_pretrained(out / "movq")
    shown = torch.arange(len(data) - HELD_OUT, len(data))
    x, target = pool_pixels(images, shown) * 2 - 1, data.normalised(torch.zeros_like(shown), shown)
    latents = torch.cat([model.encode(part).latents for part in x.split(100)])
    output = torch.cat([model.decode(part, force_not_quantize=True).sample for part in latents.split(100)])
    of_target = torch.cat([model.decode(part, force_not_quantize=True).sample for part in target.split(100)])
    measures = {
        "held-out PSNR, dB": round(psnr(output, x), 2),
        "the same from the teacher's latents": round(psnr(of_target, x), 2),
        "squared distance to the teacher's latents": round(F.mse_loss(latents, target).item(), 4),
    }
    print(json.dumps(measures))
    (out / "measures.json").write_text(json.dumps(measures, indent=1))
    training.sheet([x[:16], output[:16], of_target[:16]], out / "sheet.png")


if __name__ == "__main__":
    main()
