"""`Recipe`: everything but the seed sample that decides an image's bytes, settled before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from gif_datasets.chunks import evenly
from gif_datasets.config import OWN_STRENGTH, ExpansionConfig, stored_options
from gif_datasets.errors import ConfigError, SourceError
from gif_datasets.io.cache.entries import CACHE_FORMAT
from gif_datasets.io.devices import memory_of, resolve_device
from gif_datasets.io.digests import digest, digest_rows, digest_text
from gif_datasets.methods import METHODS
from gif_datasets.objects import Objects, Window, middle_square
from gif_datasets.options import closest
from gif_datasets.priors import (
    SHRINKS,
    PriorInfo,
    check_classifier,
    check_fit,
    check_published_strength,
    check_start,
    check_strength,
    find_prior,
)
from gif_datasets.priors.guides import GuideInfo, find_guide
from gif_datasets.prompts import IS, canonical
from gif_datasets.sources.seed_table import SeedTable
from gif_datasets.types import Seed

RECIPE_FORMAT = 5
MOST_COMPARED = 20_000  # seeds whose images copies are compared with: 40 MB
MOST_FITTED = 20_000  # seeds that a classifier is fitted to: 100 MB of embeddings at a width of 1,280
BYTES_A_PIXEL = 6_000  # of a decoded image, while it is decoded: Stable Diffusion's autoencoder, single precision
KEPT_A_PIXEL = 25_000  # of an image whose gradient is taken: what that autoencoder keeps (22,753 bytes a pixel)
KEPT_BY_CLIP = 100 << 20  # for the gradient of one image
_LIBRARIES = ("torch", "diffusers", "open_clip_torch", "timm", "transformers", "pillow")
_NOT_IN_PIXELS = ("originals", "split", "validation_share", "samples_per_shard", "on_bad_image", "prior", "guide")


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed sample that decides an image's bytes.

    Attributes:
        config: The options.
        classes: Class names, in label order.
        prior: The prior, found but not loaded.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        population: Digest of the seeds that every sample depends on; empty where each depends on its own seed alone.
        method_key: Key of a method that another package registers; empty for those that ship.
        guide: What scores images instead of the prior's CLIP, found but not loaded.
    """

    config: ExpansionConfig
    classes: tuple[str, ...]
    prior: PriorInfo
    device: str
    population: str = ""
    method_key: str = ""
    guide: GuideInfo | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types; what :attr:`digest` hashes."""
        stored = stored_options(self.config.to_json())
        left_out = _NOT_IN_PIXELS if self.config.keeps else (*_NOT_IN_PIXELS, "keep")
        options = {name: value for name, value in stored.items() if name not in left_out}
        return {
            "format": RECIPE_FORMAT,
            "options": options,
            "classes": list(self.classes),
            "prior": {"name": self.prior.name, "digest": self.prior.digest},
            "device": self.device,
            "population": self.population,
            "versions": {name: version_of(name) for name in _LIBRARIES},
            **({"method_key": self.method_key} if self.method_key else {}),
            **({"rows": "apart"} if self._once_mixed else {}),
            **({"guide": {"name": self.guide.name, "digest": self.guide.digest}} if self.guide else {}),
        }

    @property
    def _once_mixed(self) -> bool:
        """Whether older versions drew each image from all latents of its block: their copies are not to be taken."""
        through_adapter = self.prior.adapted and METHODS[self.config.method].family == "unclip"
        return through_adapter and self.config.decode_batch > 1

    @cached_property
    def digest(self) -> str:
        """Digest of the recipe: part of every cache key, and in every sample's provenance."""
        return digest(self.to_json())

    @cached_property
    def embeddings_key(self) -> str:
        """Key of the embeddings of all seeds by the prior's CLIP."""
        return self.embeddings_key_of(self.prior.digest)

    @property
    def spectra_key(self) -> str:
        """Key of what is compared of the seeds' images."""
        return _spectra_key(self.to_json())

    def embeddings_key_of(self, embedder: str) -> str:
        """Key of the embeddings of all seeds: what ``embedder`` sees, and nothing of what is made from them."""
        return _embeddings_key(self.to_json(), embedder)

    def of(self, seed: Seed) -> Recipe:
        """How the copies of a seed are made: as in an expansion that makes as many of every seed.

        So they have the keys of that expansion, whose copies are taken from the cache.
        """
        if not self.config.uneven or not seed.copies:
            return self
        if seed.copies not in self._uniform:
            self._uniform[seed.copies] = dataclasses.replace(self, config=self.config.with_copies(seed.copies))
        return self._uniform[seed.copies]

    @cached_property
    def _uniform(self) -> dict[int, Recipe]:
        return {}

    def cache_key(self, seed: Seed, copy: int) -> str:
        """Key of one imagined sample; of the cache's format too, so that versions that share a cache drop nothing."""
        mark = " grey" if self.takes_colours(seed) else ""  # without it lie the coloured copies of older versions
        if seed.objects is not None:
            mark += f" objects {digest_text(seed.objects.text().decode('ascii'))}"
        return digest_text(f"{CACHE_FORMAT} {self.of(seed).digest} {seed.key} {seed.label} {copy}{mark}")

    def takes_colours(self, seed: Seed) -> bool:
        """Whether the colours are taken from copies of a seed: it is grey, and the method may make them coloured."""
        return seed.grey and METHODS[self.config.method].colours

    @property
    def shrinks(self) -> bool:
        """Whether copies of seeds that are smaller than what the prior draws are shrunk to their seed's size."""
        return METHODS[self.config.method].imagines and self.prior.card.get(SHRINKS) is True

    @property
    def squares(self) -> bool:
        """Whether priors see, and copies show, the middle square of a seed in which something is kept."""
        return self.config.keeps and METHODS[self.config.method].imagines

    def window(self, size: tuple[int, int]) -> Window:
        """The part of a seed of some width and height that its copies show."""
        return middle_square(size) if self.squares else (0, 0, *size)

    def objects_of(self, seed: Seed, size: tuple[int, int]) -> Objects | None:
        """The objects in a seed's copies, which have some width and height; None where they are not kept."""
        return seed.objects and seed.objects.seen_through(self.window(seed.objects.size), size)

    def guidance_key(self, seed: Seed, attempt: int) -> str:
        """Key of what guidance found for all copies of a seed, in one draw of the perturbation."""
        return guidance_key(self.of(seed).digest, seed.key, seed.label, attempt)


def guidance_key(recipe: str, seed_key: str, label: int, attempt: int) -> str:
    """:meth:`Recipe.guidance_key` by the digest of a recipe."""
    return digest_text(f"{CACHE_FORMAT} guidance {recipe} {seed_key} {label} {attempt}")


def embeddings_keys(recipe: Mapping[str, Any]) -> list[str]:
    """Keys of what is known of all seeds, of a recipe as JSON: embeddings by each CLIP or guide, and spectra."""
    embedders = [recipe[name]["digest"] for name in ("prior", "guide") if name in recipe]
    return [*(_embeddings_key(recipe, embedder) for embedder in embedders), _spectra_key(recipe)]


def _spectra_key(recipe: Mapping[str, Any]) -> str:
    options = recipe["options"]
    cut = [options["keep"]] if "keep" in options else []  # to the middle square
    return digest([CACHE_FORMAT, "spectra", recipe["population"], options.get("max_side"), recipe["versions"], *cut])


def _embeddings_key(recipe: Mapping[str, Any], embedder: str) -> str:
    options = recipe["options"]
    shape = {name: options[name] for name in ("encode_batch", "threads", "keep") if name in options}
    fields = [recipe[name] for name in ("population", "device")]
    return digest([CACHE_FORMAT, "embeddings", embedder, *fields, shape, recipe["versions"]])


def ordered(seeds: Iterable[Seed]) -> SeedTable:
    """Seeds in an order that does not depend on the source's: by key, label and index."""
    table = SeedTable.of(seeds)
    return table.take(np.lexsort((table.indices, table.labels, table.keys)))


def spread(seeds: Iterable[Seed], most: int) -> list[Seed]:
    """At most so many seeds, evenly spread over all, whatever their order."""
    every = ordered(seeds)
    return [every[index] for index in evenly(len(every), most)]


def fitted_seeds(seeds: Iterable[Seed], classes: int) -> list[Seed]:
    """Seeds that a classifier is fitted to, ordered: all, but of each class only so many that they fit into memory."""
    quota, counts, chosen = max(1, MOST_FITTED // classes), Counter[int](), []
    for seed in ordered(seeds):
        counts[seed.label] += 1
        if counts[seed.label] <= quota:
            chosen.append(seed)
    return chosen


def with_population(recipe: Recipe, seeds: Sequence[Seed]) -> Recipe:
    """Name in the recipe the seeds that all of its samples depend on, if there are any."""
    if not recipe.config.uses_all_seeds:
        return recipe
    every = recipe.config.pairs or recipe.config.compares
    used = ordered(seeds) if every else fitted_seeds(seeds, len(recipe.classes))
    return dataclasses.replace(recipe, population=digest_rows([seed.key, seed.label] for seed in used))


def make_recipe(
    config: ExpansionConfig,
    classes: Sequence[str],
    device: str = "auto",
    own_prior: PriorInfo | None = None,
    own_guide: GuideInfo | None = None,
) -> Recipe:
    """Find the prior and settle the device, loading neither.

    Args:
        config: The options.
        classes: Class names, in label order.
        device: ``"auto"`` or a device.
        own_prior: What is known of a prior of the user's own; None: the one that ``config.prior`` names.
        own_guide: What is known of a guide of the user's own; None: the one that ``config.guide`` names, if any.

    Raises:
        ConfigError: If the prior is unknown, does not fit the method, or there are too few classes to guide; or if a
            registered method has no key.
    """
    if own_prior is None:
        check_published_strength(config)
    prior = own_prior or find_prior(config.prior)
    check_fit(prior, config.method)
    config = _with_strength_of(prior, config)
    check_strength(prior, config)
    check_start(prior, config)
    if own_guide is None:
        check_classifier(prior, config)
    if len(classes) < 2:
        raise SourceError(
            f"only {len(classes)} class ({', '.join(classes)}): guidance compares classes and needs at least 2;"
            " put the images of each class into a separate sub-folder"
        )
    distinct = set(map(canonical, classes))
    if len(distinct) < len(classes) or not all(name.strip() for name in classes):
        raise SourceError(f"class names must be different and not empty, got {', '.join(map(repr, classes[:20]))}")
    for entry in config.synonyms:
        if canonical(named := entry.partition(IS)[0]) not in distinct:
            raise ConfigError(f"synonyms are given for class {named!r}, which is not here{closest(named, classes)}")
    settled = resolve_device(device)
    fitting = _fitting(config, prior, memory_of(settled))
    guide = own_guide or (find_guide(config.guide) if config.guide else None)
    if guide is not None:
        guide.check(classes, config.classifier)
    return Recipe(fitting, tuple(classes), prior, settled, method_key=METHODS[config.method].key, guide=guide)


def _with_strength_of(prior: PriorInfo, config: ExpansionConfig) -> ExpansionConfig:
    """The options with ``strength=own`` replaced by what the prior's card names for the family of the method."""
    if config.strength != OWN_STRENGTH:
        return config
    method, named = METHODS[config.method], prior.card.get("strength")
    usual = method.defaults["strength"]
    own = named.get(method.family) if isinstance(named, Mapping) else None
    if own is None:
        own = 1.0 if usual == OWN_STRENGTH else usual
    return dataclasses.replace(config, strength=own)


def _fitting(config: ExpansionConfig, prior: PriorInfo, memory: int) -> ExpansionConfig:
    """The options with blocks that half of a worker's ``memory``, bytes, holds.

    They follow from the size of the images and from the memory that there is, not from what happens to be free, so
    that a run that is started again on the same machine has the same plan.
    """
    pixels = int(prior.card.get("image_size", 32)) ** 2
    decoded, scored = (
        max(1, memory // 2 // size) for size in (pixels * BYTES_A_PIXEL, pixels * KEPT_A_PIXEL + KEPT_BY_CLIP)
    )
    return dataclasses.replace(
        config,
        decode_batch=min(config.decode_batch, decoded),
        score_batch=min(config.score_batch, scored),
    )


@cache
def version_of(name: str) -> str:
    """Version of an installed package, or ``absent``; that of the moment when this process first asked."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
