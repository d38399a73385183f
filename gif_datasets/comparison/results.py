"""The results of a comparison: as values, as text, as a page for a browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gif_datasets.comparison.intervals import Difference, Spread, paired_difference
from gif_datasets.comparison.train import Training
from gif_datasets.comparison.verdict import Verdict, decide
from gif_datasets.io.units import aligned
from gif_datasets.ratios import Ratio

MOST_CLASSES, MOST_COLUMNS = 20, 6
"""Classes and arms up to which the text has a table of classes; the page and the JSON always have it."""
WIDE = 5.0  # points from one end of an interval to the other


@dataclass(frozen=True)
class Result:
    """One network's test, after its last step.

    Attributes:
        accuracy: Percent of the test images classified correctly.
        per_class: The same for each class; None for a class without test images.
        images: Images that it was trained on.
        seconds: Of training and testing.
        threads: CPU threads that it used; another number rounds differently.
        training_accuracy: As ``accuracy``, of the images trained on, not augmented; None of a version that did not
            measure it.
    """

    accuracy: float
    per_class: list[float | None]
    pictures: int
    seconds: float
    threads: int
    training_accuracy: float | None = None

    @property
    def macro(self) -> float:
        """Mean of the classes' accuracies."""
        known = [value for value in self.per_class if value is not None]
        return sum(known) / len(known)


@dataclass(frozen=True)
class Row:
    """An arm under one training: accuracies in percent, of all runs.

    Attributes:
        arm: Its name.
        method: Of the expansion; ``"original"`` for the seeds alone.
        ratio: Copies per seed; or the count of each class, or the table of classes.
        only_synthetic: Whether the seeds were left out.
        training: How it was trained.
        images: Images trained on.
        accuracies: Of each run.
        accuracy: Their mean and deviation.
        macro: Mean and deviation of the mean over classes.
        training_accuracy: Mean and deviation of the accuracy on the images trained on; None if a run lacks it.
        per_class: Mean over runs, of each class.
        difference: Of accuracy from the seeds alone, with its 95% interval over pairs of runs; None for these.
        macro_difference: The same of macro accuracy.
    """

    arm: str
    method: str
    ratio: Ratio
    only_synthetic: bool
    training: Training
    pictures: int
    accuracies: tuple[float, ...]
    accuracy: Spread
    macro: Spread
    training_accuracy: Spread | None
    per_class: tuple[float | None, ...]
    difference: Difference | None
    macro_difference: Difference | None

    @classmethod
    def of(cls, results: Sequence[Result], base: Sequence[Result] | None, **named: Any) -> Row:
        """Sum up an arm's runs, against those of the seeds alone."""
        accuracies, macros = [r.accuracy for r in results], [r.macro for r in results]
        fitted = [r.training_accuracy for r in results if r.training_accuracy is not None]
        columns = (
            [value for value in column if value is not None]
            for column in zip(*(r.per_class for r in results), strict=True)
        )
        return cls(
            pictures=results[0].pictures,
            accuracies=tuple(accuracies),
            accuracy=Spread.of(accuracies),
            macro=Spread.of(macros),
            training_accuracy=Spread.of(fitted) if len(fitted) == len(results) else None,
            per_class=tuple(Spread.of(values).mean if values else None for values in columns),
            difference=paired_difference(accuracies, [r.accuracy for r in base]) if base else None,
            macro_difference=paired_difference(macros, [r.macro for r in base]) if base else None,
            **named,
        )


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`gif_datasets.compare`.

    Attributes:
        out: Its folder, with ``compare.html`` and ``compare.json``.
        source: Name of the seeds' source.
        test: Name of the test source.
        seeds: Seeds.
        test_pictures: Images tested on.
        chance: Percent that a guess among the classes names right.
        majority: Percent of the test images that are of its largest class: what naming always that one gets right.
        left_out: A message for each test image that was left out, because it is also among the seeds.
        classes: Class names.
        image_size: Side that all images were resized to.
        runs: Runs of every arm.
        synthetic_share: Share of a batch that was imagined, if it was set.
        teacher: The teacher of the trainings that distil.
        bad: Messages of images that cannot be read.
        notes: Further remarks for the reader.
        rows: The arms; of each training together, the seeds alone first.
    """

    out: str
    source: str
    test: str
    seeds: int
    test_pictures: int
    chance: float
    majority: float
    left_out: tuple[str, ...]
    classes: tuple[str, ...]
    image_size: int
    runs: int
    synthetic_share: float | None
    teacher: str
    bad: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def page(self) -> str:
        """The page."""
        return str(Path(self.out) / "compare.html")

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        rows = [{**asdict(row), "per_class": dict(zip(self.classes, row.per_class, strict=True))} for row in self.rows]
        return {
            **asdict(self),
            "page": self.page,
            "rows": rows,
            "doubts": self.doubts(),
            "verdict": asdict(self.verdict),
        }

    def text(self) -> str:
        """Two tables: the arms, and, where there are not too many, the classes; then the verdict."""
        parts = [f"{self.heading()}\n", "\n".join(aligned(self.table(), numbers=True)), f"\n{self.baselines()}"]
        parts += self.doubts()
        if len(self.classes) <= MOST_CLASSES and len(self.rows) <= MOST_COLUMNS:
            parts += [
                "\npercent right of each class, mean of the runs",
                "\n".join(aligned(self.class_table(), numbers=True)),
            ]
        parts += [f"\nplot and tables: {self.page}", self.verdict.text]
        return "\n".join(parts)

    def heading(self) -> str:
        """What was compared, in two sentences."""
        one = self.rows[0].training
        steps = ", ".join(dict.fromkeys(str(row.training.steps) for row in self.rows))
        augments = ", ".join(dict.fromkeys(row.training.augment for row in self.rows))
        share = "" if self.synthetic_share is None else f", {self.synthetic_share:.0%} of a batch imagined"
        taught = f"; taught by {self.teacher}" if self.teacher else ""
        left = f" ({len(self.left_out)} left out, which the seeds show too)" if self.left_out else ""
        return (
            f"{self.seeds} seeds of {self.source}, tested on {self.test_pictures} images of {self.test}{left}.\n"
            f"{self.runs} run{'s' * (self.runs > 1)}; {steps} steps of {one.batch_size} images at {self.image_size} x"
            f" {self.image_size}{share}; augmentation: {augments}{taught}; tested after the last step."
        )

    def baselines(self) -> str:
        """What needs no training, in a sentence."""
        return (
            f"Without training: a guess is right in {self.chance:.1f}%, the name of the test set's largest class in"
            f" {self.majority:.1f}%."
        )

    @property
    def verdict(self) -> Verdict:
        """Whether to use one of the expansions: see :func:`gif_datasets.comparison.verdict.decide`."""
        differences, base = dict[str, list[float]](), tuple[float, ...]()
        for name, row in zip(self.labels(), self.rows, strict=True):
            if row.difference is None:
                base = row.accuracies  # of the arms that follow
            else:
                differences[name] = [own - other for own, other in zip(row.accuracies, base, strict=True)]
        return decide(differences)

    def doubts(self) -> list[str]:
        """A sentence for each difference whose interval is wide, contains 0, or is not known."""
        named = zip(self.labels(), (row.difference for row in self.rows), strict=True)
        return [f"{name}: {why}" for name, found in named if found is not None and (why := _doubt(found, self.runs))]

    def table(self) -> list[list[str]]:
        """The arms: a head and rows."""
        shown = [
            [
                *self._setting(row),
                row.arm,
                str(row.pictures),
                "-" if row.training_accuracy is None else _spread(row.training_accuracy),
                _spread(row.accuracy),
                _spread(row.macro),
                _difference(row.difference),
            ]
            for row in self.rows
        ]
        columns = ("arm", "images", "training, %", "accuracy, %", "macro, %", "against original, 95% interval")
        return [[*self._varied(), *columns], *shown]

    def class_table(self) -> list[list[str]]:
        """A row a class, a column an arm."""
        labels = self.labels()
        rows = [
            [name, *("-" if row.per_class[i] is None else f"{row.per_class[i]:.1f}" for row in self.rows)]
            for i, name in enumerate(self.classes)
        ]
        return [["class", *labels], *rows]

    def labels(self) -> list[str]:
        """The arms' names, with the settings that differ."""
        return [", ".join([row.arm, *self._setting(row)]) for row in self.rows]

    def _varied(self) -> list[str]:
        """Names of the settings that differ between trainings."""
        names = ("architecture", "steps", "augment", "distil")
        return [name for name in names if len({getattr(row.training, name) for row in self.rows}) > 1]

    def _setting(self, row: Row) -> list[str]:
        return [str(getattr(row.training, name)) for name in self._varied()]


def _spread(value: Spread) -> str:
    return f"{value.mean:.1f}" + ("" if value.deviation is None else f" ± {value.deviation:.1f}")


def _doubt(value: Difference, runs: int) -> str:
    """Why a difference is not sure; empty if it is."""
    if value.half is None:
        return "one run cannot tell a difference from chance; add some with --runs"
    contains = value.half >= abs(value.mean)
    if not contains and 2 * value.half <= WIDE:
        return ""
    low, high = value.mean - value.half, value.mean + value.half
    wide = f"is wide, {2 * value.half:.1f} points" if 2 * value.half > WIDE else ""
    why = ", and ".join(filter(None, (wide, "contains 0" if contains else "")))
    shows = "do not show a difference" if contains else "show a difference, but hardly how large it is"
    return f"the interval {low:+.1f} to {high:+.1f} {why}: {runs} runs {shows}; add some with --runs"


def _difference(value: Difference | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:+.1f}" + (" (one run)" if value.half is None else f" ± {value.half:.1f}")
