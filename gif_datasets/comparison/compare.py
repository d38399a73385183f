"""Does it help? Train on the seeds, and on each expansion of them, and test on images that neither has.

Every arm trains from scratch for the same number of steps, in the same way, and is tested once, after its last step.
Run ``r`` of every arm expands, initialises and draws with the number ``rng_seed + r``, so that arms are compared in
pairs of runs. A result is a file of its own, named by the digest of all that decides it: run again = resume.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.comparison import page
from gif_datasets.comparison.architectures import SMALL, check_network
from gif_datasets.comparison.compare_config import SMALLEST_SIDE, CompareConfig
from gif_datasets.comparison.experiment import ORIGINAL, Arm, Experiment, RunKey
from gif_datasets.comparison.results import Comparison, Result, Row
from gif_datasets.comparison.teacher import TEMPERATURE, Teaching
from gif_datasets.comparison.test_set import TestSet, read_test_set, refuse_seen
from gif_datasets.comparison.train import Training
from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError
from gif_datasets.expansion.plan import copies_in
from gif_datasets.expansion.recipe import Recipe, make_recipe
from gif_datasets.io.devices import resolve_device
from gif_datasets.methods import METHODS
from gif_datasets.options import closest
from gif_datasets.ratios import Ratio
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import SeedList, list_seeds, refuse_bad
from gif_datasets.sources.identity import is_part_of
from gif_datasets.sources.kept import keeping
from gif_datasets.types import Progress, no_progress

LARGEST_SIDE = 224


def compare(
    source: Any,
    test: Any,
    methods: str | Sequence[str],
    *,
    out: str | Path = "comparison",
    runs: int = 3,
    ratios: Sequence[Ratio] | None = None,
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
        ratios: Copies per seed, one arm each; by default that of the options. Each may be ``"balance:COUNT"`` or a
            table of classes, too.
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
    config = CompareConfig(
        runs=runs,
        architectures=tuple(architectures),
        epochs=tuple(epochs or ()),
        steps=tuple(steps or ()),
        augments=tuple(augments),
        distil=tuple(distil),
        teacher=teacher,
        temperature=temperature,
        synthetic_share=synthetic_share,
        only_synthetic=only_synthetic,
        same_expansion=same_expansion,
        image_size=image_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        limit=limit,
        workers=workers,
        cache_dir=cache_dir,
        device=resolve_device(device),
    )
    expansions = _expansions(methods, ratios, config_file, options)
    opened = keeping(wrap_source(source), expansions[0].keep)
    arms = _arms([make_recipe(each, opened.classes, config.device) for each in expansions], only_synthetic)
    teaching = _teaching(arms, config_file, options, config) if any(distil) else None
    notes = _check_priors(arms, any(distil), source, test, allow_seen)
    listed = list_seeds(opened, limit, show)
    test_set = read_test_set(opened, listed, wrap_source(test), shared, show)
    bad = (*listed.bad, *test_set.bad)
    refuse_bad(SeedList((), bad), expansions[0].on_bad_image)
    size = image_size or median_side(test_set, listed)
    for architecture in architectures:
        check_network(architecture, len(opened.classes), size)
    trainings = config.trainings(len(listed.seeds) + max(copies_in(arm.recipe, listed.seeds) for arm in arms))
    first = expansions[0].rng_seed
    experiment = Experiment(Path(out), source, listed, test_set, size, config, first, teaching, show)
    results = experiment.run(arms, trainings)
    notes += experiment.warnings(arms)
    comparison = Comparison(
        out=str(out),
        source=opened.name,
        test=test_set.name,
        seeds=len(listed.seeds),
        test_pictures=len(test_set.seeds),
        chance=100 / len(opened.classes),
        majority=100 * max(Counter(seed.label for seed in test_set.seeds).values()) / len(test_set.seeds),
        left_out=test_set.left_out,
        classes=tuple(opened.classes),
        image_size=size,
        runs=runs,
        synthetic_share=synthetic_share,
        teacher=str(teaching or ""),
        bad=bad,
        notes=notes,
        rows=_rows(arms, trainings, results),
    )
    page.publish(comparison)
    return comparison


# --- what is compared ---------------------------------------------------------------------------------------------


def _expansions(
    methods: str | Sequence[str], ratios: Sequence[Ratio] | None, config_file: Path | None, options: dict[str, Any]
) -> list[ExpansionConfig]:
    """Options of every expansion."""
    listed = methods.split(",") if isinstance(methods, str) else methods
    named = [name for name in dict.fromkeys(listed) if name != ORIGINAL]
    if not named:
        raise ConfigError("methods contains no method to compare; see `gif-datasets methods`")
    for name in named:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}{closest(name, METHODS)}")
    given = ratios or (options.get("ratio"),)
    each = [ratio for place, ratio in enumerate(given) if ratio not in given[:place]]
    configs = [
        ExpansionConfig.build({**options, "method": name, "ratio": ratio}, config_file)
        for name in named
        for ratio in each
    ]
    if configs[0].validation_share:
        raise ConfigError(
            f"validation_share must be 0 in a comparison, got {configs[0].validation_share}: the test set is the"
            " held-out set"
        )
    return configs


def _teaching(
    arms: Sequence[Arm], config_file: Path | None, options: dict[str, Any], config: CompareConfig
) -> Teaching:
    """The teacher: the prior of all arms, with the class texts of the options even if no arm's method uses them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about options that this method ignores
        worded = ExpansionConfig.build({**options, "method": "gif-unclip", "contexts": ()}, config_file)
    return Teaching(next(arm.recipe.prior for arm in arms if arm.recipe), worded, config.teacher, config.temperature)


def _arms(recipes: Sequence[Recipe], only_synthetic: bool) -> list[Arm]:
    kinds = (False, True) if only_synthetic else (False,)
    return [Arm(), *(Arm(recipe, kind) for recipe in recipes for kind in kinds)]


def _check_priors(arms: Sequence[Arm], taught: bool, source: Any, test: Any, allow_seen: bool) -> tuple[str, ...]:
    """Refuse a test set that a prior was trained on; return a note for seeds that it was trained on."""
    used = [arm.recipe for arm in arms if arm.recipe and (taught or asks_a_prior(arm.recipe.config))]
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


def asks_a_prior(config: ExpansionConfig) -> bool:
    """Whether a prior makes the images, or its CLIP chooses among them."""
    return METHODS[config.method].imagines or config.classifies


def median_side(test_set: TestSet, listed: SeedList) -> int:
    """The median of the seeds' shorter sides, within what small networks take."""
    sides = [min(test_set.images.look(seed).size) for seed in listed.seeds]
    return max(SMALLEST_SIDE, min(LARGEST_SIDE, round(float(np.median(sides)))))


def _rows(arms: Sequence[Arm], trainings: Sequence[Training], results: dict[RunKey, Result]) -> tuple[Row, ...]:
    """Results as a table's rows: each training's arms together, the seeds alone first."""
    numbers = sorted({number for _, _, number in results})
    rows = []
    for training in trainings:
        base = [results[arms[0].name, training, number] for number in numbers]
        for arm in arms:
            of_arm = [results[arm.name, training, number] for number in numbers]
            config = arm.recipe.config if arm.recipe else None
            rows.append(
                Row.of(
                    of_arm,
                    None if config is None else base,
                    arm=arm.name,
                    method=config.method if config else ORIGINAL,
                    ratio=config.ratio if config else 0,
                    only_synthetic=arm.only_synthetic,
                    training=training,
                )
            )
    return tuple(rows)
