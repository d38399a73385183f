"""Images that a CLIP picks from a larger set, instead of imagined ones (Table 14).

    python recipes/paper/pick.py sets/cifar100-s/train --pool torchvision:ImageNet?root=imagenet --out sets/picked

Writes the seeds, and of the larger set those whose top prediction among the seeds' classes is sure enough, under that
class: a folder a class, which `gif-datasets compare` takes as seeds. The larger set's own labels are not looked at.
Nothing is resumed: a folder that is there is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image

sys.path += [str(Path(__file__).parents[1] / "evidence"), str(Path(__file__).parents[1] / "priors")]
from teacher import picks

from gif_datasets.comparison.teacher import Teaching, load_teacher
from gif_datasets.config import ExpansionConfig
from gif_datasets.priors import find_prior
from gif_datasets.sources import open_source
from gif_datasets.sources.base import Source


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="the seeds, as `gif-datasets expand` takes them")
    parser.add_argument("--pool", required=True, help="the larger set, likewise")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--ratio", type=int, default=5, help="pictures for each seed (default: 5)")
    parser.add_argument("--threshold", type=float, default=0.1, help="of the top prediction (default: 0.1)")
    parser.add_argument("--prior", default="embedded", help="whose CLIP picks (default: embedded)")
    parser.add_argument("--domain", default="natural", help="whose prompts are put around class names")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rng-seed", type=int, default=0, help="of the order in which the larger set is looked at")
    args = parser.parse_args(given)
    if args.out.exists():
        parser.error(f"{args.out} is there already")

    source, pool = open_source(args.source), open_source(args.pool)
    seeds = Counter(write(source, range(len(source)), args.out, "seed"))
    teaching = Teaching(find_prior(args.prior), ExpansionConfig.build({"domain": args.domain}), "text")
    clip = load_teacher(teaching, source.classes, [], torch.empty(0, dtype=torch.int64), args.device)
    order = np.random.default_rng(args.rng_seed).permutation(len(pool)).tolist()
    picked = Counter[int]()
    for place, label in picks(
        (pool.sample(index)[0] for index in order),
        lambda some: clip.probabilities(clip.embeddings(some), "text").cpu(),
        args.threshold,
        args.ratio * max(seeds.values()),
    ):
        save(pool.sample(order[place])[0], args.out / source.classes[label] / f"picked-{order[place]}.png")
        picked[label] += 1
    each = [picked[label] for label in range(len(source.classes))]
    print(f"{seeds.total()} seeds and {sum(each)} pictures of {pool.name}, {min(each)} to {max(each)} a class")


def write(source: Source, indices: Sequence[int], folder: Path, name: str) -> Iterator[int]:
    """Write a source's images into class folders; their labels."""
    for index in indices:
        picture, label = source.sample(index)
        save(picture, folder / source.classes[label] / f"{name}-{index}.png")
        yield label


def save(picture: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


if __name__ == "__main__":
    main()
