"""Open a seed dataset for an expansion: list its seeds, refuse bad images, settle the recipe, fix the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import SourceError
from gif_datasets.expansion.plan import Plan, about_ratio, make_plan, with_image_format, with_novel_bits
from gif_datasets.expansion.recipe import make_recipe
from gif_datasets.expansion.trial import settle_strength
from gif_datasets.io.cache.store import Cache, open_cache
from gif_datasets.io.duplicates import BITS
from gif_datasets.io.images import JPEG
from gif_datasets.priors import PriorInfo
from gif_datasets.sources.base import SeedList, Source, list_seeds, refuse_bad
from gif_datasets.sources.joined import JoinedSource
from gif_datasets.sources.kept import keeping
from gif_datasets.sources.reduced import reduced
from gif_datasets.sources.splits import without
from gif_datasets.types import Progress, Reading, Seed, no_progress, silently

if TYPE_CHECKING:
    from gif_datasets.priors.base import Prior
    from gif_datasets.priors.guides import GuideInfo


@dataclass(frozen=True)
class Opened:
    """A seed dataset, its seeds, and the plan of its expansion.

    Attributes:
        source: The seed dataset, followed by its validation source if there is one.
        listed: Its seeds, and a message for each image that was left out.
        plan: What will be made.
    """

    source: Source
    listed: SeedList
    plan: Plan


def open_expansion(
    source: Source,
    config: ExpansionConfig,
    *,
    limit: int | None = None,
    device: str = "auto",
    validation: Source | None = None,
    own_prior: PriorInfo | None = None,
    given: Prior | None = None,
    own_guide: GuideInfo | None = None,
    cache_dir: str | Path | None = None,
    show: Progress = no_progress,
    say: Callable[[str], None] = silently,
    adds: bool = False,
) -> Opened:
    """List the seeds of a source and fix the plan of its expansion.

    ``strength=auto`` is settled here, by drawing a few copies; everything else needs no model.

    Args:
        source: The seed dataset.
        config: All options.
        limit: Use this many seeds, spread evenly; of ``validation`` too.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        validation: Another source, which becomes the split ``validation``.
        own_prior: Describes a prior object of the caller; None: the prior that ``config.prior`` names.
        given: That object.
        own_guide: Describes a guide that is an object of the caller; None: the one that ``config.guide`` names, if any.
        cache_dir: Where imagined samples are kept, and the keys of a folder's images.
        show: Wraps the loops over seeds.
        say: Called with one line for each of strength and format that was chosen, and one for classes without copies.
        adds: As :func:`~gif_datasets.expansion.plan.make_plan` takes it.

    Raises:
        BadImage: If an image cannot be read and ``on_bad_image`` is ``"stop"``.
        ConfigError: If the prior, the method and the classes do not fit each other.
        SourceError: If the source cannot be read.
    """
    source = keeping(source, config.keep)
    recipe = make_recipe(config, source.classes, device, own_prior, own_guide)
    source = reduced(source, config.max_side)
    cache, keep = open_cache(cache_dir), config.keep if config.keeps else None
    listed = list_seeds(source, limit, show, cache=cache, keep=keep)
    validation_seeds: tuple[Seed, ...] = ()
    if validation is not None:
        validation = reduced(keeping(validation, config.keep, source), config.max_side)
        source, listed, validation_seeds = _joined(source, listed, validation, limit, show, cache, keep)
    refuse_bad(listed, config.on_bad_image)
    name = "" if validation is None else validation.name
    real_limit = limit if limit is not None and limit < len(source) else None  # only if it leaves anything out
    recipe = with_image_format(recipe, source, listed.seeds)
    if recipe.config.image_format != config.image_format:
        say(f"image_format: {_format_text(recipe.config)}")
    recipe = with_novel_bits(recipe, source, listed.seeds)
    if recipe.config.novel_bits != config.novel_bits:
        say(f"novel_bits: images count as different from {recipe.config.novel_bits} of {BITS} bits")
    plan = make_plan(source, listed, recipe, validation_seeds, name, real_limit, adds)
    if not adds and (text := about_ratio(plan)):
        say(text)
    if config.auto_strength:
        plan, choice = settle_strength(plan, source, cache, given)
        say(choice.text())
    return Opened(source, listed, plan)


def _format_text(config: ExpansionConfig) -> str:
    if config.image_format == JPEG:
        quality = config.jpeg_quality
        return f"{JPEG}: the seeds are JPEG files, which are stored as they are; copies have quality {quality}"
    return f"{config.image_format}, lossless, of effort {config.webp_effort}"


def _joined(
    source: Source,
    listed: SeedList,
    validation: Source,
    limit: int | None,
    show: Progress,
    cache: Cache,
    keep: str | None,
) -> tuple[Source, SeedList, tuple[Seed, ...]]:
    """Both sources as one, the seeds whose image is not in the validation source, and the validation seeds."""
    joined = JoinedSource(source, validation)
    listed_validation = list_seeds(validation, limit, show, Reading.VALIDATION, cache, keep)
    validation_seeds = joined.validation_seeds(listed_validation)
    kept, same = without(listed.seeds, validation_seeds)
    if not kept:
        raise SourceError(f"every image of {source.name} is in the validation set {validation.name} too")
    return joined, SeedList(kept, (*listed.bad, *listed_validation.bad, *same)), validation_seeds
