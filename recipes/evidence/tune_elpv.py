"""Does a prior that was tuned on the small dataset help where the untuned one knows nothing of its domain?

    python recipes/evidence/tune_elpv.py recipes/evidence/tune_elpv.toml --elpv A/elpv_dataset --out runs/tune-elpv

The pictures are ELPV's: 2,624 solar cells in electroluminescence (Buerhop-Lutz et al. 2018, Deitsch et al. 2019), of
which those that experts called surely sound or surely defective are used. They are CC BY-NC-SA 4.0 and are fetched,
never shipped: ``pip download --no-deps -d A elpv-dataset==1.0.0.post1``, and unzip the wheel. All are made 32 x 32,
the size of the embedded prior. Seeds and test pictures are chosen by their content; the prior is
tuned on the seeds alone.

Every arm is trained as in ``downstream.py`` and tested once. The table also tells the Fréchet distance of an arm's
imagined pictures from the test pictures, in the embedding of the embedded prior's CLIP, and that of the seeds. Run
again = resume. Sheets of seeds and copies: ``preview.png`` in each arm's folder; of the tuning: ``tuned/tuning``.
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
from torch import Tensor

from gif_datasets.fingerprint import digest_file
from gif_datasets.metrics import frechet_distance
from gif_datasets.networks import Pictures, Training, train
from gif_datasets.priors import embedded_folder
from gif_datasets.tune import tune
from gif_datasets.zeroshot import Clip

sys.path.append(str(Path(__file__).parent))
import downstream

CLASSES = {"0.0": "sound solar cell", "1.0": "defective solar cell"}
SIDE = 32


@dataclass(frozen=True)
class Cells:
    """Test pictures ``(N, 32, 32, 3)`` uint8 and their labels, as ``downstream.accuracy`` takes them."""

    test_images: np.ndarray
    test_labels: np.ndarray


def split(elpv: Path, per_class: int, test_per_class: int) -> dict[str, tuple[list[Path], list[Path]]]:
    """Seeds and test pictures of each class, by the order of their files' digests."""
    rows = [line.split() for line in (elpv / "data" / "labels.csv").read_text().splitlines()]
    chosen = {}
    for probability, name in CLASSES.items():
        paths = sorted((elpv / "data" / path for path, p, _ in rows if str(float(p)) == probability), key=digest_file)
        chosen[name] = paths[:per_class], paths[per_class : per_class + test_per_class]
    return chosen


def small(path: Path) -> Image.Image:
    """A picture at the prior's size."""
    return Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write_seeds(chosen: dict[str, tuple[list[Path], list[Path]]], folder: Path) -> None:
    for name, (seeds, _) in chosen.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in seeds:
            small(path).save(folder / name / path.name)


def load_test(chosen: dict[str, tuple[list[Path], list[Path]]]) -> Cells:
    """Labels count classes by name, as a folder of pictures does."""
    rows = [(np.asarray(small(path)), label) for label, name in enumerate(sorted(chosen)) for path in chosen[name][1]]
    return Cells(np.stack([image for image, _ in rows]), np.array([label for _, label in rows]))


def embeddings(clip: Clip, images: Tensor) -> Tensor:
    """CLIP embeddings of pictures ``(N, 3, H, W)`` uint8."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return torch.cat([clip.encode_images(pictures[i : i + 20]) for i in range(0, len(pictures), 20)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "config", type=Path, help="TOML file: per_class, test_per_class, runs, steps, tune, arms, pairs"
    )
    parser.add_argument("--elpv", type=Path, required=True, help="folder elpv_dataset of the unzipped wheel")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    config = tomllib.loads(args.config.read_text())
    chosen = split(args.elpv, config["per_class"], config["test_per_class"])
    seeds, tuned = args.out / "seeds", args.out / "tuned"
    write_seeds(chosen, seeds)
    print(tune(seeds, tuned, source_license="CC BY-NC-SA 4.0", **config["tune"]), flush=True)
    cells, clip = load_test(chosen), Clip(embedded_folder() / "clip", torch.device("cpu"))
    real = embeddings(clip, torch.from_numpy(cells.test_images).permute(0, 3, 1, 2))
    distances: dict[str, list[float]] = {}
    for run in range(config["runs"]):
        for name, own in config["arms"].items():
            result, distance = run_arm(args.out, config, name, dict(own), run, cells, (clip, real), args.workers)
            distances.setdefault(name, []).append(distance)
            print(f"run {run}, {name}: {result:.2f}%, Fréchet distance {distance:.1f}", flush=True)
    table = downstream.table(downstream.read_results(args.out, config), list(config["arms"]), config["pairs"])
    rows = [f"| {name} | {np.mean(found):.1f} |" for name, found in distances.items()]
    text = "\n".join([table, "", "| pictures of | Fréchet distance from the test pictures |", "|---|---|", *rows])
    (args.out / "table.md").write_text(text + "\n")
    print(text)


def run_arm(
    out: Path,
    config: dict[str, Any],
    name: str,
    options: dict[str, Any],
    run: int,
    cells: Cells,
    likeness: tuple[Clip, Tensor],
    workers: int,
) -> tuple[float, float]:
    """Accuracy of one arm, and the distance of its imagined pictures, or of its seeds; kept in two files."""
    path = downstream.result_path(out, name, run)
    distance = path.with_suffix(".distance")
    if path.exists() and distance.exists():
        return json.loads(path.read_text())["accuracy"], float(distance.read_text())
    if options.get("prior") == "tuned":
        options["prior"] = str(out / "tuned")
    own = {**config.get("common", {}), **(options or {"method": "randaugment", "ratio": 1})}
    arm = downstream.load_arm(out / "seeds", own, run, path.parents[1] / path.stem, workers)
    if not options:  # the seeds alone
        arm = Pictures(arm.images[~arm.made], arm.labels[~arm.made], arm.made[~arm.made])
    shown = arm.images[arm.made] if options else arm.images
    clip, real = likeness
    found = frechet_distance(real, embeddings(clip, shown[:: max(1, len(shown) // len(real))]))
    accuracy = downstream.accuracy(train(arm, Training(config["steps"]), len(CLASSES), run), cells)
    path.parent.mkdir(exist_ok=True)
    distance.write_text(f"{found}\n")
    path.write_text(json.dumps(asdict(downstream.Result(accuracy, None))) + "\n")
    return accuracy, found


if __name__ == "__main__":
    main()
