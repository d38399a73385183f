"""Refine an expanded folder by what a network trained on it still gets wrong: train, imagine for that, train again.

Held-out folds of the folder's own seeds decide everything: which seeds get more copies, and when to stop. The test set
is looked at twice, before the first round and after the last one, and decides nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from gif_datasets.comparison import page
from gif_datasets.comparison.architectures import SMALL, check_network
from gif_datasets.comparison.compare import asks_a_prior, median_side
from gif_datasets.comparison.compare_config import CompareConfig
from gif_datasets.comparison.experiment import ORIGINAL, buffer, fill, tested, versions
from gif_datasets.comparison.results import Comparison, Result, Row
from gif_datasets.comparison.rounds import BY, Folds, Round, part_of, pictures_of, rises, wanted
from gif_datasets.comparison.test_set import TestSet, read_test_set, refuse_seen
from gif_datasets.comparison.train import Pictures, Training, train
from gif_datasets.data.map_style import load_expanded
from gif_datasets.errors import ConfigError
from gif_datasets.expansion.expand import engine_of, showing
from gif_datasets.expansion.more_copies import Stored, add_copies, open_stored
from gif_datasets.io import atomic
from gif_datasets.io.cache.store import open_cache
from gif_datasets.io.devices import resolve_device
from gif_datasets.io.digests import digest
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import as_path
from gif_datasets.io.units import aligned
from gif_datasets.options import closest
from gif_datasets.ratios import MAX_RATIO
from gif_datasets.shards.folder import claim_folder
from gif_datasets.shards.manifest import Generation, Manifest
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import SeedList
from gif_datasets.types import Progress, no_progress, silently

FORMAT = 1
COPIES = 5
MOST_ROUNDS = 100
DECIDED_BY = (
    "Held-out folds of the seeds chose what to imagine and when to stop. The test set was looked at before the first"
    " round and after the last one alone, and decided nothing."
)


@dataclass(frozen=True)
class Refinement:
    """The result of :func:`refine`.

    Attributes:
        folder: The expanded folder.
        generation: Which generation of it this is now.
        rounds: Its states, as far as they were measured with these choices: before the first round, and after each.
        stopped: Why no further round followed.
        by: Whether seeds or classes got more copies.
        wrong: Of the last state: names of the seeds that are still wrong while they are held out.
        classes: Of the last state: percent of each class's seeds that are.
        comparison: The test, before and after.
    """

    folder: str
    generation: int
    rounds: tuple[Round, ...]
    stopped: str
    by: str
    wrong: tuple[str, ...]
    classes: dict[str, float]
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("rounds", "comparison")},
            "rounds": [one.to_json() for one in self.rounds],
            "decided_by": DECIDED_BY,
            "test": self.comparison.to_json(),
        }

    def table(self) -> list[list[str]]:
        """The rounds: a head and rows."""
        head = ["round", "copies", "held-out seeds right, %", "against the seeds alone, 95% interval", "still wrong"]
        return [head, *map(_row, self.rounds)]

    def text(self) -> str:
        """The rounds, why they ended, and the test."""
        worst = sorted(self.classes.items(), key=lambda one: -one[1])[:5]
        named = ", ".join(f"{name} {share:.0f}%" for name, share in worst if share)
        return "\n".join(
            [
                *aligned(self.table(), numbers=True),
                self.stopped,
                *([f"Most of its seeds are wrong of: {named}."] if named else []),
                f"{DECIDED_BY}\n",
                self.comparison.text(),
            ]
        )


def refine(
    folder: str | Path,
    test: Any,
    *,
    out: str | Path | None = None,
    rounds: int = 4,
    by: str = "seeds",
    copies: int | None = None,
    folds: int = 5,
    runs: int = 3,
    architecture: str = SMALL,
    epochs: int | None = None,
    steps: int | None = None,
    augment: str = "light",
    image_size: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    shared: str = "refuse",
    allow_seen: bool = False,
    workers: int | None = None,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    say: Callable[[str], None] = silently,
    **options: Any,
) -> Refinement:
    """Imagine more of what a network still gets wrong: the command ``gif-datasets refine`` as a function.

    Each round holds out each seed once, in folds that keep look-alikes together, trains a network on the others and
    their copies, and adds copies of the seeds, or of the classes, that it gets wrong. These are new shards of the
    folder's next generation; older shards stay as they are. It ends after ``rounds``, or when the interval of the gain
    over the seeds alone no longer rises. Run again = resume.

    Args:
        folder: A finished expanded folder on this machine, with its seeds (``originals=true``) as they are.
        test: A test set that shows none of the seeds. It decides nothing: it is tested on before the first round and
            after the last one.
        out: Folder of results, ``refine.json``, ``compare.html`` and ``compare.json``; by default ``FOLDER-refine``.
        rounds: Most rounds.
        by: ``"seeds"``: seeds that are wrong get copies; ``"classes"``: all seeds of the classes that are wrong more
            often than all together.
        copies: Of each of these seeds, in each round; by default the folder's ratio, or 5 where that differs.
        folds: Number of folds, at least 2; the interval is over their pairs.
        runs: Runs of every arm of the test.
        architecture: As :func:`gif_datasets.compare`.
        epochs: Length of training, in passes over the folder before the first round; 40 by default.
        steps: The same in update steps, instead. All rounds train for equally many.
        augment: As there, one.
        image_size: As there.
        batch_size: As there.
        learning_rate: As there.
        shared: As there.
        allow_seen: As there.
        workers: Worker processes that imagine; None: this process alone.
        cache_dir: Where imagined samples are kept.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        progress: Wraps the loops.
        say: Called with a line after each round, and with warnings.
        options: ``prior`` and ``guide``, where the folder names them without the place where they are. Others must be
            those that the folder was made with.

    Raises:
        UsageError: If the folder, the test set and the choices do not fit, before anything is made.

    Example:
        >>> import tempfile
        >>> from gif_datasets import expand
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = expand("demo", f"{folder}/out", ratio=1, method="cutout", prior="linear", limit=20)
        ...     quick = {"steps": 20, "image_size": 8, "folds": 2, "runs": 1, "rounds": 1, "shared": "drop"}
        ...     found = refine(f"{folder}/out", "demo", **quick)
        >>> found.generation, [one.number for one in found.rounds], found.comparison.test_pictures
        (2, [0, 1], 180)
    """
    path, show = as_path(folder), progress or no_progress
    _check(path, rounds, by, copies, folds)
    assert isinstance(path, Path)
    config = CompareConfig(
        runs=runs,
        architectures=(architecture,),
        epochs=(epochs,) if epochs is not None else (),
        steps=(steps,) if steps is not None else (),
        augments=(augment,),
        image_size=image_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        workers=workers,
        cache_dir=cache_dir,
        device=resolve_device(device),
    )
    stored = open_stored(path, options, config.device, show)
    recipe, seeds = stored.plan.recipe, stored.plan.seeds
    if not allow_seen and asks_a_prior(recipe.config):
        refuse_seen(test, recipe.prior)
    listed = SeedList(seeds, ())
    test_set = read_test_set(stored.source, listed, wrap_source(test), shared, show)
    size = image_size or median_side(test_set, listed)
    check_network(architecture, len(recipe.classes), size)
    added = _rounds_of(stored)
    training = config.trainings(stored.state.generations[-1 - len(added)].samples)[0]
    results = Path(out) if out is not None else path.with_name(f"{path.name}-refine")
    claim_folder(results, _claim(stored, test_set), "refinement")
    held = Folds(results, folds, training, size, config.device, recipe.config.rng_seed, show)
    tests = _Tests(results, test_set, training, size, config, recipe.config.rng_seed, show)
    each = copies or (recipe.config.ratio if isinstance(recipe.config.ratio, int) else COPIES)
    cache, engine = open_cache(cache_dir), showing(engine_of("local", workers, config.device), show)
    history = _earlier(stored, added, held)
    if not added:
        tests.run(path, stored, "expanded")
    while True:
        manifest = stored.state.folder.manifest
        now = held.measure(load_expanded(path), _digest_of(stored), len(added), manifest.plan_hash)
        history.append(now)
        say(f"round {now.number}: {now.accuracy:.1f}% of the held-out seeds right, {len(now.wrong)} still wrong")
        if stopped := _why_stopped(history, rounds):
            break
        add_copies(stored, wanted(now, stored.plan.seeds, by, each), cache, engine, say)
        stored = open_stored(path, options, config.device, show)
        added = _rounds_of(stored)
    after = f"refined, {len(added)} round{'s' * (len(added) > 1)}" if added else "expanded"
    comparison = tests.comparison(path, stored, after, tuple(held.notes))
    found = _refinement(path, stored, history, stopped, by, comparison)
    atomic.write_json(results / "refine.json", found.to_json())
    page.publish(comparison, found.table(), [stopped, DECIDED_BY])
    return found


def _check(path: Any, rounds: int, by: str, copies: int | None, folds: int) -> None:
    if not isinstance(path, Path):
        raise ConfigError(f"refine changes folders on this machine, got {path}; refine a copy, and send it")
    if by not in BY:
        raise ConfigError(f"unknown by {by!r}{closest(by, BY)}")
    for name, value, low, high in (
        ("rounds", rounds, 0, MOST_ROUNDS),
        ("copies", copies, 1, MAX_RATIO),
        ("folds", folds, 2, 1000),
    ):
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name} must be from {low} to {high}, got {value}")


def _claim(stored: Stored, test_set: TestSet) -> dict[str, Any]:
    """What all results of an output folder share."""
    return {
        "format": FORMAT,
        "source": stored.plan.source_name,
        "classes": list(stored.plan.recipe.classes),
        "test": test_set.name,
        "test_digest": SeedList(test_set.seeds, ()).digest,
    }


def _rounds_of(stored: Stored) -> list[Generation]:
    """The generations that added copies, after the last one that changed the seeds."""
    return list(takewhile(lambda one: one.more, reversed(stored.state.folder.manifest.plan.generations)))[::-1]


def _earlier(stored: Stored, added: Sequence[Generation], held: Folds) -> list[Round]:
    """The states before the present one, as far as they were measured with the same choices."""
    manifest, seeds_digest, seeds = stored.state.folder.manifest, _digest_of(stored), len(stored.plan.seeds)
    later = [sum(sum(one.more.values()) for one in added[number:]) for number in range(len(added))]
    found = [
        held.read(seeds_digest, number, one.after, manifest.synthetic - later[number], seeds)
        for number, one in enumerate(added)
    ]
    return [one for one in found if one is not None]


def _digest_of(stored: Stored) -> str:
    """What all states have in common: the seeds, and which samples somebody rejected."""
    rejected = stored.state.folder.rejected
    found = SeedList(stored.plan.seeds, ()).digest
    return digest([found, sorted(rejected)]) if rejected else found


def _why_stopped(history: Sequence[Round], rounds: int) -> str:
    """Why no further round follows; empty if one does."""
    now = history[-1]
    if not now.wrong:
        return "Stopped: no held-out seed is wrong any more."
    if not rises(history):
        best = max(history[:-1], key=lambda one: one.low)
        return (
            f"Stopped after round {now.number}: the interval no longer rises (it begins at {now.low:+.1f} points, after"
            f" round {best.number} at {best.low:+.1f}). The last round's copies stay in the folder."
        )
    if now.number >= rounds:
        return f"Stopped after round {now.number}, the last one that was asked for; more: --rounds {rounds + 2}."
    return ""


def _refinement(
    path: Path, stored: Stored, history: Sequence[Round], stopped: str, by: str, comparison: Comparison
) -> Refinement:
    now, classes = history[-1], stored.plan.recipe.classes
    every = Counter(seed.label for seed in stored.plan.seeds)
    wrong = [seed for seed in stored.plan.seeds if seed.index in now.wrong]
    of_class = Counter(seed.label for seed in wrong)
    return Refinement(
        folder=str(path),
        generation=len(stored.state.generations),
        rounds=tuple(history),
        stopped=stopped,
        by=by,
        wrong=tuple(seed.origin for seed in wrong),
        classes={classes[label]: 100 * of_class[label] / count for label, count in sorted(every.items())},
        comparison=comparison,
    )


def _row(one: Round) -> list[str]:
    found = one.difference
    interval = f"{found.mean:+.1f} ± {found.half or 0.0:.1f}"
    return [str(one.number), str(one.copies), f"{one.accuracy:.1f}", interval, f"{len(one.wrong)} of {one.seeds}"]


# --- the test -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tests:
    """Tests of the folder as a whole, which nothing is decided by; each result is a file of its own."""

    folder: Path
    test_set: TestSet
    training: Training
    size: int
    config: CompareConfig
    first: int
    show: Progress

    def run(self, folder: Path, stored: Stored, arm: str) -> dict[str, list[Result]]:
        """Results of the seeds alone and of a state of the folder, one for each run."""
        manifest, numbers = stored.state.folder.manifest, range(self.first, self.first + self.config.runs)
        states = {ORIGINAL: ORIGINAL, arm: manifest.plan_hash}
        files = {name: [self._file(stored, state, number) for number in numbers] for name, state in states.items()}
        found = {name: [_result(path, key) for path, key in row] for name, row in files.items()}
        if any(one is None for row in found.values() for one in row):
            pictures, test = pictures_of(load_expanded(folder), self.size, self.folder, self.show), self._test()
            real = torch.nonzero(~pictures.synthetic).flatten().tolist()
            arms = {ORIGINAL: part_of(pictures, real), arm: pictures}
            for name, row in files.items():
                for place, (path, key) in enumerate(row):
                    if found[name][place] is None:
                        result = self._train(name, arms[name], test, numbers[place])
                        atomic.write_json(path, {"key": key, "result": asdict(result)})
                        found[name][place] = result
        return {name: [one for one in row if one is not None] for name, row in found.items()}

    def comparison(self, folder: Path, stored: Stored, arm: str, notes: tuple[str, ...]) -> Comparison:
        """What the test says, before the first round, where that was measured, and now."""
        manifest, now = stored.state.folder.manifest, self.run(folder, stored, arm)
        before = self._before(stored) if arm != "expanded" else None
        arms = {ORIGINAL: now[ORIGINAL], **({"expanded": before} if before else {}), arm: now[arm]}
        labels = Counter(seed.label for seed in self.test_set.seeds)
        return Comparison(
            out=str(self.folder),
            source=stored.plan.source_name,
            test=self.test_set.name,
            seeds=len(stored.plan.seeds),
            test_pictures=len(self.test_set.seeds),
            chance=100 / len(manifest.classes),
            majority=100 * max(labels.values()) / len(self.test_set.seeds),
            left_out=self.test_set.left_out,
            classes=manifest.classes,
            image_size=self.size,
            runs=self.config.runs,
            synthetic_share=None,
            teacher="",
            bad=self.test_set.bad,
            notes=notes,
            rows=tuple(self._row(name, arms, manifest) for name in arms),
        )

    def _row(self, name: str, arms: dict[str, list[Result]], manifest: Manifest) -> Row:
        alone = name == ORIGINAL
        return Row.of(
            arms[name],
            None if alone else arms[ORIGINAL],
            arm=name,
            method=ORIGINAL if alone else manifest.plan.recipe.method,
            ratio=0 if alone else manifest.plan.recipe.ratio,
            only_synthetic=False,
            training=self.training,
        )

    def _before(self, stored: Stored) -> list[Result] | None:
        """Results of the state before the first round; None where they are missing."""
        state, numbers = _rounds_of(stored)[0].after, range(self.first, self.first + self.config.runs)
        found = [_result(*self._file(stored, state, number)) for number in numbers]
        known = [one for one in found if one is not None]
        return known if len(known) == len(found) else None

    def _train(self, name: str, pictures: Pictures, test: Pictures, number: int) -> Result:
        started, classes = time.monotonic(), len(self.test_set.source.classes)

        def shown(rows: Any, title: str, total: int | None = None) -> Any:
            return self.show(rows, f"test of {name}, run {number}", total)

        model = train(pictures, self.training, classes, number, self.config.device, None, shown)
        return tested(model, test, pictures, classes, self.config.device, started)

    def _test(self) -> Pictures:
        seeds = self.test_set.seeds
        images = buffer(len(seeds), self.size, self.folder)
        fill(images, seeds, self.test_set.images.look, self.show)
        labels = torch.tensor([seed.label for seed in seeds])
        return Pictures(images, labels, torch.zeros(len(seeds), dtype=torch.bool))

    def _file(self, stored: Stored, state: str, number: int) -> tuple[Path, dict[str, Any]]:
        key = {
            **_claim(stored, self.test_set),
            "seeds": _digest_of(stored),
            "state": state,
            "number": number,
            "training": asdict(self.training),
            "image_size": self.size,
            "device": self.config.device,
            "versions": versions(),
        }
        return self.folder / "tests" / f"{state[:12]}-{number}-{digest(key)[:12]}.json", key


def _result(path: Path, key: dict[str, Any]) -> Result | None:
    try:
        value = read_json(path.read_text(encoding="utf-8"))
        result = Result(**value["result"])
        same = value["key"] == key
    except (OSError, ValueError, LookupError, TypeError):  # missing or damaged: it is computed again
        return None
    return result if same else None
