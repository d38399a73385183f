"""The choices of a comparison, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from gif_datasets.comparison.architectures import SMALL
from gif_datasets.comparison.teacher import TEMPERATURE
from gif_datasets.comparison.train import AUGMENTS, Training
from gif_datasets.errors import ConfigError
from gif_datasets.options import closest

EPOCHS = 40
FEWEST_STEPS = 20
SMALLEST_SIDE = 8


@dataclass(frozen=True)
class CompareConfig:
    """Every choice of a comparison except its images and the options of its expansions.

    The fields are the arguments of :func:`gif_datasets.compare` with the same names. Without ``epochs`` and ``steps``,
    training takes :data:`EPOCHS` passes.

    Raises:
        ConfigError: If a value lies outside its range.
    """

    runs: int = 3
    architectures: tuple[str, ...] = (SMALL,)
    epochs: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    augments: tuple[str, ...] = ("light",)
    distil: tuple[float, ...] = (0.0,)
    teacher: str = "both"
    temperature: float = TEMPERATURE
    synthetic_share: float | None = None
    only_synthetic: bool = False
    same_expansion: bool = False
    image_size: int | None = None
    batch_size: int = 64
    learning_rate: float = 0.1
    limit: int | None = None
    workers: int | None = None
    cache_dir: str | Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._check_counts()
        share = self.synthetic_share
        if share is not None and not 0 < share < 1:
            raise ConfigError(
                f"synthetic_share must be above 0 and below 1, got {share}; for imagined images alone use"
                " only_synthetic"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.architectures or not self.augments or not self.distil:
            raise ConfigError(
                "give at least one architecture, one augmentation and one weight to distil by (0 for none)"
            )
        for weight in self.distil:
            if not 0 <= weight <= 1:
                raise ConfigError(f"distil must be from 0 to 1, got {weight}")
        for name in self.augments:
            if name not in AUGMENTS:
                raise ConfigError(f"unknown augmentation {name!r}{closest(name, AUGMENTS)}")

    def _check_counts(self) -> None:
        lowest = {
            "runs": ((self.runs,), 1),
            "epochs": (self.epochs, 1),
            "steps": (self.steps, FEWEST_STEPS),
            "image_size": (() if self.image_size is None else (self.image_size,), SMALLEST_SIDE),
            "batch_size": ((self.batch_size,), 2),
        }
        for name, (values, low) in lowest.items():
            if values and min(values) < low:
                raise ConfigError(f"{name} must be at least {low}, got {min(values)}")
        if self.epochs and self.steps:
            raise ConfigError("give either epochs or steps, got both")

    def trainings(self, largest: int) -> list[Training]:
        """Every combination of architecture, length, augmentation and weight of the teacher.

        Args:
            largest: Number of images of the largest expansion, with its seeds; an epoch is a pass over them.
        """
        epochs = self.epochs or (EPOCHS,)
        steps = self.steps or [max(FEWEST_STEPS, math.ceil(count * largest / self.batch_size)) for count in epochs]
        unique = dict.fromkeys
        choices = product(unique(self.architectures), unique(steps), unique(self.augments), unique(self.distil))
        return [
            Training(count, architecture, augment, self.batch_size, self.learning_rate, weight)
            for architecture, count, augment, weight in choices
        ]
