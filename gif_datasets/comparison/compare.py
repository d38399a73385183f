"""Does it help? Train on the seeds, and on each expansion of them, and test on images that neither has.

Every arm trains from scratch for the same number of steps, in the same way, and is tested once, after its last step.
Run ``r`` of every arm expands, initialises and draws with the number ``rng_seed + r``, so that arms are compared in
pairs of runs. A result is a file of its own, named by the digest of all that decides it: run again = resume.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.comparison import page
from gif_datasets.comparison.architectures import SMALL, check_network
from gif_datasets.comparison.experiment import ORIGINAL, Arm, Experiment, RunKey
from gif_datasets.comparison.results import Comparison, Result, Row
from gif_datasets.comparison.teacher import TEMPERATURE, Teaching
from gif_datasets.comparison.test_set import TestSet, read_test_set, refuse_seen
from gif_datasets.comparison.train import AUGMENTS, Training
from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError
from gif_datasets.expansion.recipe import Recipe, make_recipe
from gif_datasets.io.devices import resolve_device
from gif_datasets.methods import METHODS
from gif_datasets.options import closest
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import SeedList, list_seeds, refuse_bad
from gif_datasets.sources.identity import is_part_of
from gif_datasets.types import Progress, no_progress

EPOCHS = 40
FEWEST_STEPS = 20
SMALLEST_SIDE, LARGEST_SIDE = 8, 224


def compare(
    source: Any,
    test: Any,
    methods: str | Sequence[str],
    *,
    out: str | Path = "comparison",
    runs: int = 3,
    ratios: Sequence[int] | None = None,
    architectures: Sequence[str] = (SMALL,),
    epochs: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    augments: Sequence[str] = ("light",),
    distil: Sequence[float] = (0.0,),
    teacher: str = "both",
    temperature: float = TEMPERATURE,
    synthetic_share: float | None = None,
    only_synthetic: bool = False,
    same_expansion: bool = False,
    image_size: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    shared: str = "refuse",
    allow_seen: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    config_file: Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Train on the seeds and on each expansion, and test both: the command ``gif-datasets compare`` as a function.

    Args:
        source: The seeds: a source's text, or a dataset object.
        test: The test set, likewise. Its classes are found in ``source`` by name.
        methods: Methods to expand by, as a list or with commas between. The seeds alone are always there, as
            ``"original"``.
        out: Folder of expansions, results, ``compare.json`` and ``compare.html``. Run again = resume; more methods,
            runs and settings may be added, other seeds or test images are refused.
        runs: Runs of every arm.
        ratios: Copies per seed, one arm each; by default that of the options.
        architectures: ``"small"``, names of timm's, or ``"torchvision:NAME"``; each trains on all arms. From scratch,
            or, after ``"pretrained:"``, from the weights that these libraries publish, which are fetched.
        epochs: Lengths of training, in passes over the largest expansion; 40 by default.
        steps: Lengths of training in update steps, instead.
        augments: Online augmentations of all arms: ``"none"``, ``"light"``, ``"randaugment"``; each is tried.
        distil: Weights of a teacher's probabilities beside the labels, 0 to 1; each is tried. The teacher is the CLIP
            of the options' prior, and knows the seeds.
        teacher: Its classifier: ``"text"`` (zero-shot), ``"seeds"``, ``"both"`` or ``"linear"``.
        temperature: Divides the logits of teacher and student.
        synthetic_share: Share of a batch that is imagined; by default all images are drawn alike.
        only_synthetic: Train on each expansion's imagined images alone, too (Table 15).
        same_expansion: Expand once for all runs: quicker, and the deviation leaves out how expansions differ.
        image_size: Side that all images are resized to; by default the median of the seeds' shorter sides, at most
            224.
        batch_size: Images a step.
        learning_rate: The highest.
        shared: What to do with test images that the seeds show too: ``"refuse"``, ``"drop"`` or ``"allow"``.
        allow_seen: Take a test set that a prior's card names as training data.
        limit: Use this many seeds, spread evenly.
        workers: Worker processes that expand; None: this process alone.
        cache_dir: Where imagined samples are kept.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        config_file: TOML file of options.
        progress: Wraps the loops.
        options: Fields of :class:`~gif_datasets.config.ExpansionConfig`, for all methods.

    Raises:
        UsageError: If options, seeds and test set do not fit, before anything is made.
    """
    show = progress or no_progress
    _check(runs, architectures, augments, distil, epochs, steps, synthetic_share, image_size, batch_size, learning_rate)
    configs = _configs(methods, ratios, config_file, options)
    opened, settled = wrap_source(source), resolve_device(device)
    arms = _arms([make_recipe(config, opened.classes, settled) for config in configs], only_synthetic)
    teaching = _teaching(arms, config_file, options, teacher, temperature) if any(distil) else None
    notes = _check_priors(arms, any(distil), source, test, allow_seen)
    listed = list_seeds(opened, limit, show)
    held = read_test_set(opened, listed, wrap_source(test), shared, show)
    bad = (*listed.bad, *held.bad)
    refuse_bad(SeedList((), bad), configs[0].on_bad_image)
    size = image_size or _median_side(held, listed)
    for architecture in architectures:
        check_network(architecture, len(opened.classes), size)
    lengths = steps or _steps(epochs or (EPOCHS,), len(listed.seeds), configs, batch_size)
    grid = product(dict.fromkeys(architectures), dict.fromkeys(lengths), dict.fromkeys(augments), dict.fromkeys(distil))
    trainings = [
        Training(count, architecture, augment, batch_size, learning_rate, weight)
        for architecture, count, augment, weight in grid
    ]
    how = {"workers": workers, "cache_dir": cache_dir, "limit": limit, "device": settled}
    first = configs[0].rng_seed
    expansion = first if same_expansion else None
    experiment = Experiment(
        Path(out), source, listed, held, size, settled, how, synthetic_share, expansion, teaching, show
    )
    results = experiment.run(arms, trainings, range(first, first + runs))
    notes += experiment.warnings(arms, first)
    found = Comparison(
        out=str(out),
        source=opened.name,
        test=held.name,
        seeds=len(listed.seeds),
        test_pictures=len(held.seeds),
        left_out=held.left_out,
        classes=tuple(opened.classes),
        image_size=size,
        runs=runs,
        synthetic_share=synthetic_share,
        teacher=str(teaching or ""),
        bad=bad,
        notes=notes,
        rows=_rows(arms, trainings, results),
    )
    page.publish(found)
    return found


# --- what is compared ---------------------------------------------------------------------------------------------


def _configs(
    methods: str | Sequence[str], ratios: Sequence[int] | None, config_file: Path | None, options: dict[str, Any]
) -> list[ExpansionConfig]:
    """Options of every expansion."""
    listed = methods.split(",") if isinstance(methods, str) else methods
    named = [name for name in dict.fromkeys(listed) if name != ORIGINAL]
    if not named:
        raise ConfigError("methods contains no method to compare; see `gif-datasets methods`")
    for name in named:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}{closest(name, METHODS)}")
    configs = [
        ExpansionConfig.build({**options, "method": name, "ratio": ratio}, config_file)
        for name in named
        for ratio in dict.fromkeys(ratios or (options.get("ratio"),))
    ]
    if configs[0].validation_share:
        raise ConfigError(
            f"validation_share must be 0 in a comparison, got {configs[0].validation_share}: the test set is the"
            " held-out set"
        )
    return configs


def _teaching(
    arms: Sequence[Arm], config_file: Path | None, options: dict[str, Any], teacher: str, temperature: float
) -> Teaching:
    """Who teaches: the prior of all arms, in the words of the options even where no arm's method takes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what means nothing to this method
        worded = ExpansionConfig.build({**options, "method": "gif-unclip"}, config_file)
    return Teaching(next(arm.recipe.prior for arm in arms if arm.recipe), worded, teacher, temperature)


def _arms(recipes: Sequence[Recipe], only_synthetic: bool) -> list[Arm]:
    kinds = (False, True) if only_synthetic else (False,)
    return [Arm(), *(Arm(recipe, kind) for recipe in recipes for kind in kinds)]


def _check(
    runs: int,
    architectures: Sequence[str],
    augments: Sequence[str],
    distil: Sequence[float],
    epochs: Sequence[int] | None,
    steps: Sequence[int] | None,
    share: float | None,
    image_size: int | None,
    batch_size: int,
    learning_rate: float,
) -> None:
    given = {
        "runs": ([runs], 1),
        "epochs": (epochs or [], 1),
        "steps": (steps or [], FEWEST_STEPS),
        "image_size": ([] if image_size is None else [image_size], SMALLEST_SIDE),
        "batch_size": ([batch_size], 2),
    }
    for name, (values, low) in given.items():
        if values and min(values) < low:
            raise ConfigError(f"{name} must be at least {low}, got {min(values)}")
    if epochs and steps:
        raise ConfigError("give either epochs or steps, got both")
    if share is not None and not 0 < share < 1:
        raise ConfigError(
            f"synthetic_share must be above 0 and below 1, got {share}; for imagined images alone use only_synthetic"
        )
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"learning_rate must be above 0, got {learning_rate}")
    if not architectures or not augments or not distil:
        raise ConfigError("give at least one architecture, one augmentation and one weight to distil by (0 for none)")
    for weight in distil:
        if not 0 <= weight <= 1:
            raise ConfigError(f"distil must be from 0 to 1, got {weight}")
    for name in augments:
        if name not in AUGMENTS:
            raise ConfigError(f"unknown augmentation {name!r}{closest(name, AUGMENTS)}")


def _check_priors(arms: Sequence[Arm], taught: bool, source: Any, test: Any, allow_seen: bool) -> tuple[str, ...]:
    """Refuse a test set that a prior was trained on; return a note for seeds that it was trained on."""
    used = [arm.recipe for arm in arms if arm.recipe and (taught or _asks_a_prior(arm.recipe.config))]
    if not used:
        return ()
    prior = used[0].prior
    if not allow_seen:
        refuse_seen(test, prior)
    return tuple(
        f"prior {prior.name!r} was trained on {listed}, which contains the seeds: it may know them better"
        for listed in prior.training_sources
        if is_part_of(source, listed)
    )


def _asks_a_prior(config: ExpansionConfig) -> bool:
    """Whether a prior makes the images, or its CLIP chooses among them."""
    return METHODS[config.method].imagines or config.classifies


def _steps(epochs: Sequence[int], seeds: int, configs: Sequence[ExpansionConfig], batch_size: int) -> list[int]:
    """Update steps of so many passes over the largest expansion."""
    largest = seeds * (1 + max(config.ratio for config in configs))
    return [max(FEWEST_STEPS, math.ceil(count * largest / batch_size)) for count in epochs]


def _median_side(held: TestSet, listed: SeedList) -> int:
    sides = [min(held.source.sample(seed.index)[0].size) for seed in listed.seeds]
    return max(SMALLEST_SIDE, min(LARGEST_SIDE, round(float(np.median(sides)))))


def _rows(arms: Sequence[Arm], trainings: Sequence[Training], found: dict[RunKey, Result]) -> tuple[Row, ...]:
    """Results as a table's rows: each training's arms together, the seeds alone first."""
    numbers = sorted({number for _, _, number in found})
    rows = []
    for training in trainings:
        base = [found[arms[0].name, training, number] for number in numbers]
        for arm in arms:
            own = [found[arm.name, training, number] for number in numbers]
            config = arm.recipe.config if arm.recipe else None
            rows.append(
                Row.of(
                    own,
                    None if config is None else base,
                    arm=arm.name,
                    method=config.method if config else ORIGINAL,
                    ratio=config.ratio if config else 0,
                    only_synthetic=arm.only_synthetic,
                    training=training,
                )
            )
    return tuple(rows)
