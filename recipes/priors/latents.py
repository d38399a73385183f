"""Encode the pool once: latents that the decoders learn to draw, and the image latents that condition them.

    python recipes/priors/latents.py --pool runs/pool --teacher taef2 --clip runs/clip \
        --out runs/latents --minutes 60

The pool is encoded in parts of 8,192 images, one file each and written atomically: run again = resume. Training can
start with the parts that exist. A second view of every image (``--view 1``) is its mirror image.

What a prior meets is not always as sharp and colourful as the pool: in each view one image in ten is shrunk to 32
pixels and enlarged again, and one in twenty is made grey (:func:`seen`).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import flux_space
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.extend import Clip
from gif_datasets.io.devices import fast_autocast

PART = 8192
SHRUNK, GREY = 0.1, 0.05


def seen(images: Tensor, first: int, view: int) -> Tensor:
    """Images as a view shows them, ``(N, 3, 64, 64)`` in [0, 1].

    Args:
        images: ``(N, 64, 64, 3)``, uint8.
        first: Place of the first image in the pool; the draw for an image depends on its place and the view alone.
        view: 0 for the image, 1 for its mirror image.
    """
    x = images.permute(0, 3, 1, 2).float().div(255)
    draws = np.stack([np.random.default_rng([view, place]).random(2) for place in range(first, first + len(x))])
    draws = torch.from_numpy(draws)
    shrunk, grey = draws[:, 0] < SHRUNK, draws[:, 1] < GREY
    if shrunk.any():
        small = F.interpolate(x[shrunk], size=(32, 32), mode="bicubic", antialias=True)
        x[shrunk] = F.interpolate(small, size=x.shape[2:], mode="bicubic").clamp(0, 1)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    x[grey] = (x[grey] * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    return (x.flip(3) if view else x).contiguous(memory_format=torch.channels_last)


class Latents:
    """The parts that ``folder`` holds, as two arrays in memory.

    Attributes:
        targets: Autoencoder latents, ``(views, N, 32, 8, 8)``, half precision.
        conditions: Raw image latents of the embedded CLIP, ``(views, N, 1280)``, half precision.
    """

    def __init__(self, folder: Path, views: int = 1) -> None:
        parts = [
            [load_file(path) for path in sorted(folder.glob(f"view{view}-*.safetensors"))] for view in range(views)
        ]
        count = min(len(of_view) for of_view in parts)
        self.targets, self.conditions = (
            torch.stack([torch.cat([part[name] for part in of_view[:count]]) for of_view in parts])
            for name in ("targets", "conditions")
        )
        self.mean, self.deviation = self._statistics()

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation by channel of the first part; the space that the decoder draws in has neither."""
        some = self.targets[0, :PART].float()
        return some.mean((0, 2, 3)), some.std((0, 2, 3))

    def __len__(self) -> int:
        return self.targets.shape[1]

    def normalised(self, view: Tensor, index: Tensor) -> Tensor:
        """Latents of so many images, in the space that the decoder draws in, ``(N, 32, 8, 8)``."""
        rows = self.targets[view, index].float()
        return (rows - self.mean[:, None, None]) / self.deviation[:, None, None]

    def raw(self, latents: Tensor) -> Tensor:
        """The autoencoder's own latents, of what the decoder drew."""
        return latents * self.deviation[:, None, None] + self.mean[:, None, None]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="written by pool.py")
    parser.add_argument("--teacher", type=Path, required=True, help="folder with taef2_encoder.pth")
    parser.add_argument("--clip", type=Path, required=True, help="open_clip folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--view", type=int, choices=(0, 1), default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after the part that passes this time")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    began, device = time.time(), torch.device(args.device)
    images = np.load(args.pool / "images.npy", mmap_mode="r")
    encoder = flux_space.load(flux_space.encoder(), args.teacher / "taef2_encoder.pth").to(device)
    clip = Clip(args.clip, device)
    args.out.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(images), PART):
        path = args.out / f"view{args.view}-{first // PART:03d}.safetensors"
        if path.exists():
            continue
        targets, conditions = [], []
        for start in range(first, min(first + PART, len(images)), 128):
            x = seen(torch.from_numpy(images[start : min(start + 128, first + PART)]), start, args.view).to(device)
            with fast_autocast(device.type):
                targets.append(encoder(x).float().half().cpu())
                conditions.append(clip.embed_pixels(x).float().half().cpu())
        parts = {"targets": torch.cat(targets).contiguous(), "conditions": torch.cat(conditions)}
        save_file(parts, f"{path}.tmp")
        Path(f"{path}.tmp").replace(path)
        print(f"{path.name}: {time.time() - began:.0f} s", flush=True)
        if time.time() - began > 60 * args.minutes:
            break


if __name__ == "__main__":
    main()
