"""Compare CLIPs that share an image tower by their texts: zero-shot accuracy, and cosines of the class texts.

    python recipes/priors/zeroshot.py --clip A/clip runs/clip-small --out runs/zeroshot SOURCE ...

A source is any that ``gif-datasets`` reads. Its images are encoded once, by the first CLIP, and kept in ``--out``, so
that other CLIPs can be compared in seconds. Each CLIP stands beside the first one: ``same`` is the share of images with
the same predicted class, ``cosine`` the least and the mean over class texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gif_datasets.guidance.zeroshot import Clip
from gif_datasets.io.digests import digest
from gif_datasets.prompts import templates_of
from gif_datasets.sources import open_source
from gif_datasets.sources.base import Source

BATCH = 16


def encoded(clip: Clip, source: Source, folder: Path) -> tuple[Tensor, Tensor]:
    """Raw image latents and labels of a source, from ``folder`` if they are there."""
    origins = [source.origin(index) for index in range(len(source))]
    path = folder / f"{digest([source.name, origins])[:16]}.safetensors"
    if not path.exists():
        latents, labels = [], []
        for first in range(0, len(source), BATCH):
            images, own = zip(*(source.sample(i) for i in range(first, min(first + BATCH, len(source)))), strict=True)
            latents.append(clip.encode_images(images))
            labels += own
        save_file({"latents": torch.cat(latents), "labels": torch.tensor(labels)}, path)
    kept = load_file(path)
    return kept["latents"], kept["labels"]


def compare(clips: list[Clip], source: Source, folder: Path) -> list[dict[str, object]]:
    """A row of figures for each CLIP."""
    latents, labels = encoded(clips[0], source, folder)
    texts = [clip.classifier(source.classes, templates_of("natural")) for clip in clips]
    predictions = [text.logits(latents).argmax(1) for text in texts]
    rows = []
    for text, predicted in zip(texts, predictions, strict=True):
        cosines = (text.weights * texts[0].weights).sum(1)
        rows.append(
            {
                "source": Path(source.name).name,
                "images": len(labels),
                "classes": len(source.classes),
                "accuracy": round(100 * (predicted == labels).float().mean().item(), 2),
                "same": round(100 * (predicted == predictions[0]).float().mean().item(), 2),
                "cosine": [round(cosines.min().item(), 4), round(cosines.mean().item(), 4)],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--clip", type=Path, nargs="+", required=True, help="open_clip folders; others stand beside the first"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for image latents")
    parser.add_argument("source", nargs="+")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    clips = [Clip(folder, torch.device("cpu")) for folder in args.clip]
    means: dict[Path, list[float]] = {folder: [] for folder in args.clip}
    for name in args.source:
        for folder, row in zip(args.clip, compare(clips, open_source(name), args.out), strict=True):
            means[folder].append(row["accuracy"])
            print(json.dumps({"clip": folder.name} | row), flush=True)
    for folder, accuracies in means.items():
        print(json.dumps({"clip": folder.name, "mean accuracy": round(sum(accuracies) / len(accuracies), 2)}))


if __name__ == "__main__":
    main()
