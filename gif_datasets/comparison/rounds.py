"""What held-out seeds say of an expanded folder: a network for each fold, trained on the other seeds and their copies.

This is what decides which seeds get more copies, and whether more rounds follow. It sees no test set.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gif_datasets.comparison.experiment import ORIGINAL, buffer, fill, versions
from gif_datasets.comparison.intervals import Difference, Spread, paired_difference
from gif_datasets.comparison.train import Pictures, Training, predict, train
from gif_datasets.data.map_style import LoadedDataset
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.io.parsing import read_json
from gif_datasets.types import Progress, Seed

BY = ("seeds", "classes")
FORMAT = 1


@dataclass(frozen=True)
class Round:
    """A state of a folder, by its held-out seeds.

    Attributes:
        number: How many times copies were added before it.
        plan_hash: Of the state.
        copies: Copies in it.
        accuracies: Percent of each fold's held-out seeds that a network classifies correctly that was trained on the
            others and their copies.
        base: The same for one that was trained on the other seeds alone.
        wrong: Numbers of the seeds that were classified wrongly while they were held out, with copies.
        seeds: All seeds that were held out.
    """

    number: int
    plan_hash: str
    copies: int
    accuracies: tuple[float, ...]
    base: tuple[float, ...]
    wrong: tuple[int, ...]
    seeds: int

    @property
    def accuracy(self) -> float:
        """Mean of the folds', percent."""
        return Spread.of(self.accuracies).mean

    @property
    def difference(self) -> Difference:
        """Points above the seeds alone, with the 95% interval over folds, as `compare` has it over runs."""
        return paired_difference(self.accuracies, self.base)

    @property
    def low(self) -> float:
        """The lower end of that interval: what the copies add at least."""
        return self.difference.mean - (self.difference.half or 0.0)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {**asdict(self), "accuracy": self.accuracy, "difference": asdict(self.difference)}


def rises(history: Sequence[Round]) -> bool:
    """Whether the last round's interval begins above those of all rounds before it; true of the first.

    Example:
        >>> states = [Round(n, "", 0, (50.0 + n, 52.0 + n), (50.0, 50.0), (), 4) for n in (0, 1, 1)]
        >>> [rises(states[:count]) for count in (1, 2, 3)]
        [True, True, False]
    """
    return len(history) < 2 or history[-1].low > max(one.low for one in history[:-1])


def wanted(found: Round, seeds: Sequence[Seed], by: str, copies: int) -> dict[int, int]:
    """How many more copies each seed gets, by its number.

    Args:
        found: What the held-out seeds say.
        seeds: All seeds.
        by: ``"seeds"``: those that are wrong; ``"classes"``: all of the classes that are wrong more often than all
            together.
        copies: Of each.

    Example:
        >>> seeds = [Seed(number, "", label, "") for number, label in enumerate((0, 0, 1, 1))]
        >>> found = Round(0, "", 0, (75.0,), (75.0,), (2,), 4)
        >>> wanted(found, seeds, "seeds", 5), wanted(found, seeds, "classes", 5)
        ({2: 5}, {2: 5, 3: 5})
    """
    if by == "seeds":
        return dict.fromkeys(found.wrong, copies)
    labels, wrong = np.array([seed.label for seed in seeds]), np.array([seed.index in found.wrong for seed in seeds])
    share = np.bincount(labels, wrong) / np.maximum(np.bincount(labels), 1)
    return {seed.index: copies for seed in seeds if share[seed.label] > len(found.wrong) / found.seeds}


@dataclass
class Folds:
    """Trains and tests on folds of a folder's seeds; a result is a file of its own, so that a run resumes.

    Attributes:
        folder: Where results are.
        count: Number of folds.
        training: How networks are trained: alike in all rounds.
        size: Side of all images.
        device: Where.
        rng_seed: Of the folds, and of the training of each.
        show: Wraps the loops.
        notes: Warnings about the folds.
    """

    folder: Path
    count: int
    training: Training
    size: int
    device: str
    rng_seed: int
    show: Progress
    notes: dict[str, None] = field(default_factory=dict)

    def measure(self, loaded: LoadedDataset, seeds_digest: str, number: int, plan_hash: str) -> Round:
        """Train and test what is missing of a state.

        Args:
            loaded: The folder.
            seeds_digest: Of its seeds.
            number: How many times copies were added.
            plan_hash: Of its plan.
        """
        table = loaded.facts
        copies = int(table.synthetic.sum())
        if (known := self.read(seeds_digest, number, plan_hash, copies, len(loaded) - copies)) is not None:
            return known
        pictures = pictures_of(loaded, self.size, self.folder, self.show)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pairs = loaded.folds(self.count, seed=self.rng_seed)
        self.notes |= dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning)
        for fold, (kept, held) in enumerate(pairs):
            places = np.asarray(kept.indices)
            for state, own in ((ORIGINAL, places[~table.synthetic[places]]), (plan_hash, places)):
                path, key = self._file(seeds_digest, state, fold)
                if _read(path, key) is None:
                    model = self._train(pictures, own.tolist(), fold, len(loaded.classes))
                    test = part_of(pictures, held.indices)
                    wrong = (predict(model, test.images, self.device) != test.labels).numpy()
                    numbers = np.asarray(table.seeds)[np.asarray(held.indices)[wrong]].tolist()
                    atomic.write_json(path, {"key": key, "wrong": sorted(numbers), "held": len(held)})
        found = self.read(seeds_digest, number, plan_hash, copies, len(loaded) - copies)
        assert found is not None
        return found

    def read(self, seeds_digest: str, number: int, plan_hash: str, copies: int, seeds: int) -> Round | None:
        """A state as it was measured before; None if something is missing of that."""
        files = [[self._file(seeds_digest, s, fold) for fold in range(self.count)] for s in (ORIGINAL, plan_hash)]
        found = [[_read(path, key) for path, key in row] for row in files]
        base, own = ([one for one in row if one is not None] for row in found)
        if len(base) < self.count or len(own) < self.count:
            return None
        right = [tuple(100 * (1 - len(one["wrong"]) / one["held"]) for one in row) for row in (base, own)]
        wrong = tuple(sorted(seed for one in own for seed in one["wrong"]))
        return Round(number, plan_hash, copies, right[1], right[0], wrong, seeds)

    def _train(self, pictures: Pictures, places: Sequence[int], fold: int, classes: int) -> torch.nn.Module:
        def shown(rows: Any, title: str, total: int | None = None) -> Any:
            return self.show(rows, f"fold {fold + 1} of {self.count}, {title}", total)

        return train(part_of(pictures, places), self.training, classes, self.rng_seed, self.device, None, shown)

    def _file(self, seeds_digest: str, state: str, fold: int) -> tuple[Path, dict[str, Any]]:
        key = {
            "format": FORMAT,
            "seeds": seeds_digest,
            "state": state,
            "fold": fold,
            "folds": self.count,
            "training": asdict(self.training),
            "image_size": self.size,
            "device": self.device,
            "number": self.rng_seed,
            "versions": versions(),
        }
        return self.folder / "folds" / f"{state[:12]}-{fold + 1}-of-{self.count}-{digest(key)[:12]}.json", key


def pictures_of(loaded: LoadedDataset, size: int, folder: Path, show: Progress) -> Pictures:
    """All samples of a folder, decoded."""
    images = buffer(len(loaded), size, folder)
    fill(images, range(len(loaded)), lambda place: loaded[place][0], show)
    labels = torch.from_numpy(np.asarray(loaded.targets).astype(np.int64))
    return Pictures(images, labels, torch.from_numpy(np.array(loaded.facts.synthetic)))


def part_of(pictures: Pictures, places: Sequence[int]) -> Pictures:
    """Some of them."""
    chosen = torch.as_tensor(places, dtype=torch.int64)
    return Pictures(pictures.images[chosen], pictures.labels[chosen], pictures.synthetic[chosen])


def _read(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """A result; None if it is missing or damaged, or of other choices."""
    try:
        value = read_json(path.read_text(encoding="utf-8"))
        whole = value["key"] == json.loads(json.dumps(key)) and type(value["held"]) is int and value["held"] > 0
        wrong = isinstance(value["wrong"], list) and all(type(seed) is int for seed in value["wrong"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return value if whole and wrong else None
