"""What guidance does to each criterion: on the latents it moves, and on the images that are decoded from them.

    gif-datasets expand demo --out guided --set measure_pictures=true
    python recipes/evidence/criteria.py guided [more folders] [--judge runs/judge]

One column a folder, all expanded by the embedded prior; folders are compared row by row. Guidance that raises a
criterion of the latent and not of the image is not guidance. The judge (``recipes/priors/judge.py``) is a network
that no prior has seen: what it says of an image's class is the measure of its label.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gif_datasets import load_expanded
from gif_datasets.data.map_style import LoadedDataset
from gif_datasets.guidance import criteria
from gif_datasets.priors import find_prior, load_prior

sys.path.append(str(Path(__file__).parents[1] / "priors"))
import judge


def spread(loaded: LoadedDataset, groups: list[list[int]]) -> tuple[float, float]:
    """Diversity (Eq. 5) of the images' raw embeddings, nats, and the mean cosine of two copies of one seed."""
    prior = load_prior(find_prior("embedded"), None, torch.device("cpu"))
    kl, cosines = [], []
    for group in groups:
        latents = prior.embed_images([loaded[i][0] for i in group])
        kl.append(float(criteria.diversity(latents[None]).mean()))
        unit = torch.nn.functional.normalize(latents, dim=-1)
        cosines += [float(unit[i] @ unit[j]) for i in range(len(group)) for j in range(i)]
    return float(np.mean(kl)), float(np.mean(cosines))


def judged(loaded: LoadedDataset, indices: list[int], folder: Path) -> float:
    """Share of images that the judge gives their label."""
    network, right = judge.load(folder), 0
    for start in range(0, len(indices), 500):
        part = [loaded[i] for i in indices[start : start + 500]]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image, _ in part])).permute(0, 3, 1, 2).float() / 255
        right += int((judge.verdicts(network, pixels) == torch.tensor([label for _, label in part])).sum())
    return right / len(indices)


def column(folder: Path, judge_folder: Path | None, sampled: int) -> dict[str, str]:
    """The figures of one expanded folder."""
    loaded = load_expanded(folder)
    records = [loaded.provenance(i) for i in range(len(loaded))]
    made = [i for i, record in enumerate(records) if record.synthetic]
    by_seed: dict[str, list[int]] = {}
    for i in made:
        by_seed.setdefault(records[i].seed_key, []).append(i)
    groups = [group for group in by_seed.values() if len(group) > 1][:sampled]

    def mean(name: str) -> str:
        return f"{np.mean([getattr(records[i], name) for i in made]):.3f}"

    def share(holds: Tensor) -> str:
        return f"{holds.float().mean():.1%}"

    def of(name: str) -> Tensor:
        return torch.tensor([getattr(records[i], name) for i in made])

    figures = {
        f"latent: {name}, random perturbation -> guided": f"{mean(f'{name}_before')} -> {mean(f'{name}_after')}"
        for name in ("consistency", "entropy", "diversity")
    }
    if any(records[i].picture_class >= 0 for i in made):
        figures |= {
            "picture: probability of its label": mean("picture_consistency"),
            "picture: entropy": mean("picture_entropy"),
            "picture: has the held class": share(of("picture_class") == of("held_class")),
            "picture: has its label's class": share(of("picture_class") == of("label")),
        }
    if groups:
        kl, cosine = spread(loaded, groups)
        figures |= {"picture: diversity": f"{kl:.4f}", "picture: cosine of two copies": f"{cosine:.3f}"}
    if judge_folder:
        figures["picture: has its label, by the judge"] = f"{judged(loaded, made, judge_folder):.1%}"
    return figures | {"draws a picture": mean("attempts")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="expanded folders")
    parser.add_argument("--judge", type=Path, help="output of recipes/priors/judge.py")
    parser.add_argument("--sampled", type=int, default=100, help="seeds whose pictures are embedded again")
    args = parser.parse_args()

    columns = {folder.name: column(folder, args.judge, args.sampled) for folder in args.folders}
    rows = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name in rows:
        print(f"| {name} | " + " | ".join(figures.get(name, "") for figures in columns.values()) + " |")


if __name__ == "__main__":
    main()
