"""Train the embedded masked autoencoder.

    python recipes/priors/train_mae.py --pool runs/pool --out runs/mae --images 600000

Half of the batches hide three quarters of the patches, as He et al. (2022) do, the other half none; the loss is taken
over all patches. So the encoder learns what an image consists of, and the decoder also draws what is not hidden, which
is how guided imagination uses it (the released checkpoints, trained on hidden patches alone, blur the seen ones).
Run again = resume; ``sheet.png`` shows images that are held out, their reconstructions and channel-level perturbations.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import training
from torch import Tensor
from train_movq import HELD_OUT, pool_pixels

from gif_datasets.io.devices import fast_autocast
from gif_datasets.priors import mae

HIDDEN_SHARE = 0.75
CONFIG = mae.MaeConfig(
    image_size=64, patch_size=8, width=256, depth=6, heads=8, decoder_width=192, decoder_depth=4, decoder_heads=6
)


def visible_patches(count: int) -> Tensor:
    """Indices of the patches left visible, ``(count, 16)``, another draw for each image."""
    patches = (CONFIG.image_size // CONFIG.patch_size) ** 2
    order = torch.rand(count, patches).argsort(1)
    return order[:, : round(patches * (1 - HIDDEN_SHARE))]


@torch.no_grad()
def reconstruct(model: mae.MaskedAutoencoder, pixels: Tensor) -> Tensor:
    """Images after encoding and decoding with nothing hidden."""
    return torch.cat([model.decode(model.encode(x)).clamp(0, 1) for x in pixels.split(250)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_run_options(parser)
    parser.add_argument("--pool", type=Path, required=True, help="written by pool.py")
    parser.add_argument("--images", type=int, default=600_000, help="training images to see, in all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device(args.device)
    images = np.load(args.pool / "images.npy", mmap_mode="r")
    count = len(images) - HELD_OUT
    model = mae.MaskedAutoencoder(CONFIG).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.02, fused=True)
    ema = training.Ema(model, decay=0.998)
    run = training.Run(args.out, model, ema, optimizer)
    batches = training.shuffled_batches(count, args.batch_size, run.step)

    def loss_of(index: Tensor) -> Tensor:
        x = pool_pixels(images, index).to(device)
        x = torch.where(torch.rand(len(x), 1, 1, 1).to(device) < 0.5, x, x.flip(3))
        keep = visible_patches(len(x)).to(device) if run.step % 2 else None
        with fast_autocast(device.type):
            y = model.decode(model.encode(x, keep), keep)
        return ((y.float() - x) / model.std).square().mean()

    rate = training.cosine(args.lr, args.images)
    training.fit(run, batches, loss_of, rate, args.images, run.save, minutes=args.minutes)

    model.load_state_dict(ema.shadow)
    model.cpu().eval()
    mae.save(model, args.out / "mae")
    test = pool_pixels(images, torch.arange(count, len(images)))
    rebuilt = reconstruct(model, test)
    psnr = -10 * torch.log10((rebuilt - test).square().mean((1, 2, 3))).mean()
    measures = {"held_out_psnr_db": round(psnr.item(), 2), "parameters": sum(p.numel() for p in model.parameters())}
    print(json.dumps(measures))
    (args.out / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")
    _sheet(model, test[:16], rebuilt[:16], args.out / "sheet.png")


@torch.no_grad()
def _sheet(model: mae.MaskedAutoencoder, pixels: Tensor, rebuilt: Tensor, path: Path) -> None:
    """Images, reconstructions, and channel-level perturbations of growing size."""
    latent, generator = model.encode(pixels), torch.Generator().manual_seed(0)
    rows = [pixels, rebuilt]
    for strength in (0.1, 0.2, 0.4):
        z, b = torch.randn(2, len(pixels), 1, latent.shape[2], generator=generator) * strength
        rows.append(model.decode((1 + z) * latent + b).clamp(0, 1))
    training.sheet([row * 2 - 1 for row in rows], path)


if __name__ == "__main__":
    main()
