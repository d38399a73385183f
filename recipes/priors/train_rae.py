"""Train a representation autoencoder on the embedded CLIP's image tower: a decoder of its 7 x 7 tokens, 64 pixels.

    python recipes/priors/train_rae.py --pool runs/pool --out runs/rae --images 70400 --decay-images 25600

It follows Zheng et al. (2025, arXiv 2510.11690) in small: the encoder stays as it is, the decoder is diffusers'
``RAEDecoder``, and it learns from tokens with noise of up to ``NOISE`` of their deviations. The loss is on pixels, on
differences of neighbouring pixels, and on features of the tower's own first blocks; it has no critic. Run again =
resume; ``sheet.png`` shows held-out images, their reconstructions, and decodings of tokens with channel-level noise.

``TowerRae`` is the prior: ``gif_datasets.ExpandedDataset(.., prior=TowerRae("runs/rae"), method="gif-rae")``. The tower
is not one that diffusers' ``AutoencoderRAE`` builds, so it is a class here and not a folder. What it is good for was
measured by ``recipes/evidence/tokens.py``; docs/priors.md has the figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import training
from diffusers.models.autoencoders.autoencoder_rae import RAEDecoder
from PIL.Image import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision
from train_movq import HELD_OUT, pool_pixels, psnr, reconstruction_loss

from gif_datasets.config import ExpansionConfig
from gif_datasets.extend import Clip
from gif_datasets.guidance.zeroshot import ZeroShotClassifier
from gif_datasets.io.devices import fast_autocast, keep_freed_memory
from gif_datasets.io.digests import digest_file
from gif_datasets.priors import embedded_folder
from gif_datasets.priors.base import Prior, pixels_of, text_classifier

SIDE, WIDTH = 64, 1280
NOISE = 0.8  # deviations of the tokens, as in the authors' n08 decoders
FEATURES = 1.0  # weight of the loss on features
BLOCKS = 4  # of the tower, whose features those are
COUNTED = 2048  # images from which the mean and deviation of the tokens are estimated


class TokenDecoder(nn.Module):
    """Images of normalised tokens, and the statistics that normalise them."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = RAEDecoder(
            hidden_size=WIDTH,
            decoder_hidden_size=192,
            decoder_num_hidden_layers=4,
            decoder_num_attention_heads=3,
            decoder_intermediate_size=768,
            num_patches=64,
            patch_size=8,
            image_size=SIDE,
        )
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(WIDTH, 1, 1))
        self.register_buffer("deviation", torch.ones(WIDTH, 1, 1))

    def normalised(self, tokens: Tensor) -> Tensor:
        """Tokens of the tower to latents, ``(B, 1280, 7, 7)``."""
        return (tokens - self.mean) / self.deviation

    def raw(self, latents: Tensor) -> Tensor:
        """The reverse."""
        return latents * self.deviation + self.mean

    def forward(self, latents: Tensor) -> Tensor:
        """Images ``(B, 3, 64, 64)``, mostly in [-1, 1]."""
        images: Tensor = self.decoder.unpatchify(self.decoder(latents.flatten(2).mT).logits)
        return images


def tokens_of(clip: Clip, pixels: Tensor) -> Tensor:
    """The tower's last map of images ``(B, 3, H, W)`` in [0, 1], ``(B, 1280, 7, 7)``."""
    side = clip.image_size
    large = vision.resize(pixels, [side, side], vision.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    tokens: Tensor = clip.model.visual.trunk.forward_features(_shown(clip, large))
    return tokens


def _shown(clip: Clip, pixels: Tensor) -> Tensor:
    visual = clip.model.visual
    shown: Tensor = vision.normalize(pixels, list(visual.image_mean), list(visual.image_std))
    return shown.contiguous(memory_format=torch.channels_last)


def features_of(clip: Clip, pixels: Tensor) -> list[Tensor]:
    """What the tower's first blocks make of images at their own size, each place of unit norm."""
    trunk = clip.model.visual.trunk
    x, found = trunk.bn1(trunk.conv_stem(_shown(clip, pixels))), []
    for block in trunk.blocks[:BLOCKS]:
        x = block(x)
        found.append(F.normalize(x.float(), dim=1))
    return found


def feature_loss(clip: Clip, output: Tensor, target: Tensor) -> Tensor:
    """Squared distance of features, summed over channels and averaged over places and blocks."""
    with torch.no_grad():
        wanted = features_of(clip, target)
    parts = [(a - b).square().sum(1).mean() for a, b in zip(features_of(clip, output), wanted, strict=True)]
    return torch.stack(parts).mean()


class TowerRae(Prior):
    """The prior: tokens of the embedded tower, and their decoder.

    The embedding of tokens is what the CLIP makes of their mean, its image latent, so that class texts score it too.

    Args:
        folder: What this recipe wrote.
    """

    latent_is_embedding = False
    decodes_noise = False
    families = ("rae",)

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / "decoder.safetensors"
        self.key = f"tower rae {digest_file(path)}"
        self.clip = Clip(embedded_folder() / "clip", torch.device("cpu"))
        self.model = TokenDecoder()
        self.model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        self.model.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, images: Sequence[Image]) -> Tensor:
        """Normalised tokens, ``(B, 1280, 7, 7)``."""
        return self.model.normalised(tokens_of(self.clip, pixels_of(images, SIDE)).contiguous())

    def embed(self, latents: Tensor) -> Tensor:
        """The CLIP's image latents of tokens, ``(B, 1280)``."""
        latent: Tensor = self.clip.model.visual.head(self.model.raw(latents).mean((2, 3)))
        return latent

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Those of images."""
        return self.embed(self.encode(images))

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Sequence[torch.Generator], config: ExpansionConfig) -> Tensor:
        """Images of latents, ``(B, 3, 64, 64)`` in [0, 1]; the decoder draws no noise."""
        return (self.model(latents) / 2 + 0.5).clamp(0, 1)

    def classifier(self, class_names: Sequence[str], config: ExpansionConfig) -> ZeroShotClassifier:
        """The CLIP's texts of the classes."""
        return text_classifier(self.clip, class_names, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training.add_run_options(parser)
    parser.add_argument("--pool", type=Path, required=True, help="written by pool.py")
    parser.add_argument("--images", type=int, default=70_400, help="training images to see, in all")
    parser.add_argument("--decay-images", type=int, default=25_600, help="the last of them: the learning rate falls")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()

    keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device(args.device)
    images = np.load(args.pool / "images.npy", mmap_mode="r")
    count = len(images) - HELD_OUT
    clip = Clip(embedded_folder() / "clip", device)
    model = TokenDecoder().to(device)
    _count(model, clip, pool_pixels(images, torch.arange(COUNTED)).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.02, fused=True)
    ema = training.Ema(model, decay=0.998)
    run = training.Run(args.out, model, ema, optimizer)
    forward = torch.compile(model) if args.compile else model
    batches = training.shuffled_batches(count, args.batch_size, run.step)

    def loss_of(index: Tensor) -> Tensor:
        x = pool_pixels(images, index).to(device)
        x = torch.where(torch.rand(len(x), 1, 1, 1).to(device) < 0.5, x, x.flip(3))
        with torch.no_grad(), fast_autocast(device.type):
            latents = model.normalised(tokens_of(clip, x).float())
        noise = NOISE * torch.rand(len(x), 1, 1, 1) * torch.randn(latents.shape)
        with fast_autocast(device.type):
            y = forward(latents + noise.to(device)).float()
        felt = feature_loss(clip, y / 2 + 0.5, x)  # in single precision: depthwise convolutions are slower in half
        return reconstruction_loss(y, x * 2 - 1) + FEATURES * felt

    rate = training.constant_then_linear(args.lr, args.images, args.decay_images, warmup=200)
    training.fit(run, batches, loss_of, rate, args.images, run.save, every=100, minutes=args.minutes)
    model.load_state_dict(ema.shadow)
    tensors = {name: value.half().contiguous() for name, value in model.cpu().state_dict().items()}
    save_file(tensors, args.out / "decoder.safetensors")
    _measure(TowerRae(args.out), pool_pixels(images, torch.arange(count, len(images))), args.out)


@torch.no_grad()
def _count(model: TokenDecoder, clip: Clip, pixels: Tensor) -> None:
    """Take mean and deviation of the tokens by channel."""
    tokens = torch.cat([tokens_of(clip, part) for part in pixels.split(128)])
    model.mean.copy_(tokens.mean((0, 2, 3))[:, None, None])
    model.deviation.copy_(tokens.std((0, 2, 3)).clamp(min=1e-3)[:, None, None])


@torch.no_grad()
def _measure(prior: TowerRae, pixels: Tensor, out: Path) -> None:
    """Measure the decoder on held-out images, and draw a sheet."""
    target = pixels * 2 - 1
    latents = torch.cat([prior.model.normalised(tokens_of(prior.clip, part)) for part in pixels.split(100)])
    output = torch.cat([prior.model(part) for part in latents.split(100)])
    again = torch.cat(
        [prior.embed(prior.model.normalised(tokens_of(prior.clip, y / 2 + 0.5))) for y in output.split(100)]
    )
    measures = {
        "held-out PSNR, dB": round(psnr(output, target), 2),
        "cosine of image latents before and after": round(
            F.cosine_similarity(prior.embed(latents), again).mean().item(), 3
        ),
        "parameters": sum(part.numel() for part in prior.model.parameters()),
    }
    print(json.dumps(measures))
    (out / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")
    generator, shown = torch.Generator().manual_seed(0), latents[:16]
    rows = [target[:16], output[:16]]
    for epsilon in (0.4, NOISE):
        z, b = (torch.rand(2, 16, WIDTH, 1, 1, generator=generator) * 2 - 1) * epsilon
        rows.append(prior.model((1 + z) * shown + b))
    training.sheet(rows, out / "sheet.png")


if __name__ == "__main__":
    main()
