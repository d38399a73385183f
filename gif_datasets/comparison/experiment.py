"""Train and test the arms of a comparison one by one; results on disk are kept."""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from gif_datasets.comparison.compare_config import CompareConfig
from gif_datasets.comparison.results import Result
from gif_datasets.comparison.teacher import Teacher, Teaching, as_images, load_teacher
from gif_datasets.comparison.test_set import TestSet
from gif_datasets.comparison.train import Pictures, Taught, Training, predict, train
from gif_datasets.data.map_style import load_expanded
from gif_datasets.expansion.expand import expand
from gif_datasets.expansion.recipe import Recipe
from gif_datasets.guidance import recognition
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.io.parsing import read_json
from gif_datasets.ratios import short_text
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.folder import claim_folder
from gif_datasets.sources.base import SeedList
from gif_datasets.types import CLASSIFIER_FILE, Progress, Seed

RESULT_FORMAT = 1
ORIGINAL = "original"
IN_MEMORY = 4 << 30
"""Bytes of decoded images above which they are kept in a file."""
_LIBRARIES = ("torch", "torchvision", "timm", "pillow")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Arm:
    """One way to obtain training images.

    Attributes:
        recipe: How the seeds are expanded; None if they are not.
        only_synthetic: Leave the seeds out.
    """

    recipe: Recipe | None = None
    only_synthetic: bool = False

    @property
    def name(self) -> str:
        """Name in tables and files."""
        if self.recipe is None:
            return ORIGINAL
        config = self.recipe.config
        return f"{config.method} {short_text(config.ratio)}{', only synthetic' if self.only_synthetic else ''}"

    def expansion(self, number: int) -> Recipe | None:
        """How the seeds are expanded in the run of that number."""
        if self.recipe is None:
            return None
        return replace(self.recipe, config=replace(self.recipe.config, rng_seed=number))


RunKey = tuple[str, Training, int]
"""Name of an arm, its training, and its run's number."""


@dataclass(frozen=True)
class Task:
    """One network to train and test."""

    arm: Arm
    training: Training
    number: int

    @property
    def key(self) -> RunKey:
        """Key of its result."""
        return self.arm.name, self.training, self.number


@dataclass
class Experiment:
    """Seeds, test set and folder of a comparison; computes missing results.

    Attributes:
        folder: Where expansions and results are.
        source: The text or dataset object of the seeds, as :func:`gif_datasets.expand` takes it.
        listed: The seeds.
        test_set: The test set.
        size: Side of all images.
        config: The choices of the comparison; its device is resolved.
        first: Number of the first run.
        teaching: The teacher of the trainings that distil; None if none does.
        show: Wraps the loops.
    """

    folder: Path
    source: Any
    listed: SeedList
    test_set: TestSet
    size: int
    config: CompareConfig
    first: int
    teaching: Teaching | None
    show: Progress

    def run(self, arms: Sequence[Arm], trainings: Sequence[Training]) -> dict[RunKey, Result]:
        """All results, run by run."""
        claim_folder(self.folder, self._plan, "comparison")
        results: dict[RunKey, Result] = {}
        for number in range(self.first, self.first + self.config.runs):
            for arm in arms:
                tasks = [Task(arm, training, number) for training in trainings]
                results |= {task.key: result for task in tasks if (result := self._read(task))}
                results |= self._missing_results([task for task in tasks if task.key not in results])
        return results

    def warnings(self, arms: Sequence[Arm]) -> tuple[str, ...]:
        """Warnings of the first run's expansions whose guiding classifier does not recognise the classes."""
        arm_of_warning = {}
        for arm in arms:
            recipe = arm.expansion(self.first)
            opened = None if recipe is None else ExpandedFolder.find(self._expanded(recipe))
            known = recognition.read(opened.file(CLASSIFIER_FILE) if opened else None)
            if recipe is not None and known is not None:
                arm_of_warning[known.warning(recipe.config, recipe.prior.families)] = arm.name
        return tuple(f"{name}: {warning}" for warning, name in arm_of_warning.items() if warning)

    @property
    def _plan(self) -> dict[str, Any]:
        """What all results of a folder share."""
        return {
            "format": RESULT_FORMAT,
            "source": self.test_set.source.name,
            "classes": list(self.test_set.source.classes),
            "seeds": len(self.listed.seeds),
            "seeds_digest": self.listed.digest,
            "test": self.test_set.name,
            "test_pictures": len(self.test_set.seeds),
            "test_digest": SeedList(self.test_set.seeds, ()).digest,
        }

    def _key(self, task: Task) -> dict[str, Any]:
        """All that decides a result."""
        recipe = task.arm.expansion(self._expansion(task.number))
        training = asdict(task.training)
        taught = {}
        if training["distil"]:
            assert self.teaching is not None
            taught["teacher"] = self.teaching.to_json()
        else:
            del training["distil"]  # results from versions without teachers stay valid
        return {
            **self._plan,
            **taught,
            "expansion": recipe.to_json() if recipe else None,
            "only_synthetic": task.arm.only_synthetic,
            "synthetic_share": None if recipe is None or task.arm.only_synthetic else self.config.synthetic_share,
            "training": training,
            "number": task.number,
            "image_size": self.size,
            "device": self.config.device,
            "versions": versions(),
        }

    def _expansion(self, number: int) -> int:
        return self.first if self.config.same_expansion else number

    def _path(self, task: Task) -> Path:
        t = task.training
        name = (
            f"{task.arm.name} {t.architecture} {t.steps} {t.augment} run {task.number} {digest(self._key(task))[:12]}"
        )
        return self.folder / "results" / f"{file_name(name)}.json"

    def _read(self, task: Task) -> Result | None:
        try:
            value = read_json(self._path(task).read_text(encoding="utf-8"))
            result = Result(**value["result"])
        except (OSError, ValueError, LookupError, TypeError):  # missing or damaged: it is computed again
            return None
        return result if value["key"] == json.loads(json.dumps(self._key(task))) else None

    def _missing_results(self, tasks: Sequence[Task]) -> dict[RunKey, Result]:
        """Results of one arm and run, which share their images and the teacher's probabilities."""
        if not tasks:
            return {}
        pictures = self._pictures(tasks[0].arm, tasks[0].number)
        soft = self._teacher_probabilities(pictures) if any(task.training.distil for task in tasks) else None
        return {task.key: self._make(task, pictures, soft) for task in tasks}

    def _make(self, task: Task, pictures: Pictures, soft: Tensor | None) -> Result:
        """Train and test a network, and write its result; ``soft`` are the teacher's probabilities of the images."""
        started = time.monotonic()
        key, classes = self._key(task), len(self.test_set.source.classes)

        def shown(rows: Any, title: str, total: int | None = None) -> Any:
            return self.show(rows, f"run {task.number}, {task.arm.name}", total)

        share = key["synthetic_share"]
        if task.training.distil:
            assert self.teaching is not None
            assert soft is not None
            taught = Taught(soft, task.training.distil, self.teaching.temperature)
            pictures = replace(pictures, taught=taught)
        model = train(pictures, task.training, classes, task.number, self.config.device, share, shown)
        result = tested(model, self._test, pictures, classes, self.config.device, started)
        atomic.write_json(self._path(task), {"key": key, "result": asdict(result)})
        return result

    def _teacher_probabilities(self, pictures: Pictures) -> Tensor:
        """The teacher's class probabilities of images, ``(N, C)``; the seeds come first, and are already embedded."""
        by = self.teaching
        assert by is not None
        seeds, copies = int((~pictures.synthetic).sum()), pictures.images[pictures.synthetic]
        asked = self._teacher.seeds[:seeds]
        if len(copies):
            embeddings = self._teacher.embeddings(as_images(copies), self.show, len(copies))
            asked = torch.cat([asked, embeddings.to(asked.device)])
        return self._teacher.probabilities(asked, by.classifier, by.temperature).cpu()

    @cached_property
    def _teacher(self) -> Teacher:
        assert self.teaching is not None
        seeds, classes = self._seeds, self.test_set.source.classes
        return load_teacher(self.teaching, classes, as_images(seeds.images), seeds.labels, self.config.device)

    @cached_property
    def _test(self) -> Pictures:
        return self._of(self.test_set.seeds)

    @cached_property
    def _seeds(self) -> Pictures:
        return self._of(self.listed.seeds)

    def _of(self, seeds: Sequence[Seed]) -> Pictures:
        """A source's images, decoded."""
        images = buffer(len(seeds), self.size, self.folder)
        fill(images, seeds, self.test_set.images.take, self.show)
        labels = torch.tensor([seed.label for seed in seeds])
        return Pictures(images, labels, torch.zeros(len(seeds), dtype=torch.bool))

    def _pictures(self, arm: Arm, number: int) -> Pictures:
        """What an arm trains on: the seeds, then their copies."""
        recipe = arm.expansion(self._expansion(number))
        if recipe is None:
            return self._seeds
        folder = self._expanded(recipe)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "left out .* images")  # which the comparison names once, for all arms
            expand(
                self.source,
                folder,
                config=recipe.config,
                workers=self.config.workers,
                cache_dir=self.config.cache_dir,
                limit=self.config.limit,
                device=self.config.device,
                progress=self.show,
            )
        loaded = load_expanded(folder)
        copies = np.flatnonzero(loaded.facts.synthetic).tolist()
        seeds = 0 if arm.only_synthetic else len(self._seeds.labels)
        images = buffer(seeds + len(copies), self.size, self.folder)
        images[:seeds] = self._seeds.images[:seeds]
        fill(images[seeds:], copies, lambda index: loaded[index][0], self.show)
        labels = torch.from_numpy(loaded.targets[copies].astype(np.int64))
        return Pictures(images, torch.cat([self._seeds.labels[:seeds], labels]), torch.arange(len(images)) >= seeds)

    def _expanded(self, recipe: Recipe) -> Path:
        """Folder of an expansion."""
        config = recipe.config
        name = f"{config.method} {short_text(config.ratio)} {config.rng_seed} {digest(recipe.to_json())[:12]}"
        return self.folder / "expansions" / file_name(name)


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: version(name) for name in _LIBRARIES}


def tested(model: nn.Module, test: Pictures, fitted: Pictures, classes: int, device: str, started: float) -> Result:
    """Test a network after its last step.

    Args:
        model: The network.
        test: What it is tested on.
        fitted: What it was trained on.
        classes: Number of classes.
        device: Where it is.
        started: When its training began, on the monotonic clock.
    """
    right = predict(model, test.images, device) == test.labels
    counts = torch.bincount(test.labels, minlength=classes).tolist()
    hits = torch.bincount(test.labels[right], minlength=classes).tolist()
    learned = predict(model, fitted.images, device) == fitted.labels
    return Result(
        accuracy=100 * int(right.sum()) / len(right),
        per_class=[100 * hit / count if count else None for hit, count in zip(hits, counts, strict=True)],
        pictures=len(fitted.labels),
        seconds=round(time.monotonic() - started, 1),
        threads=torch.get_num_threads(),
        training_accuracy=100 * int(learned.sum()) / len(learned),
    )


def fill(images: Tensor, rows: Sequence[_Item], read: Callable[[_Item], Image], show: Progress) -> None:
    """Decode images into a :func:`buffer` for so many."""
    for row, one in zip(images, show(rows, "decoding"), strict=True):
        row[:] = _pixels(read(one), images.shape[-1])


def buffer(count: int, size: int, folder: Path) -> Tensor:
    """Room for images, ``(N, 3, S, S)`` uint8: in memory, or in an unnamed file if there are too many."""
    shape = (count, 3, size, size)
    if math.prod(shape) <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.NamedTemporaryFile(prefix=atomic.TEMPORARY, dir=folder) as file:
        atomic.hold(file)
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=torch.uint8).view(shape)


def _pixels(image: Image, size: int) -> torch.Tensor:
    """An image as ``(3, S, S)`` uint8, squeezed into the square."""
    fitted = image if image.size == (size, size) else image.resize((size, size), Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def file_name(name: str) -> str:
    """A name with only the characters that are safe in a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
