"""The whole method on one page: seed samples to imagined samples, through the cache."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from gif_datasets import images
from gif_datasets.cache import Cache
from gif_datasets.config import METHODS, ExpansionConfig
from gif_datasets.fingerprint import digest
from gif_datasets.priors import PriorInfo, check_fit, find_prior, load_prior
from gif_datasets.sources import Source
from gif_datasets.types import Provenance, Sample, Seed

if TYPE_CHECKING:
    import torch

    from gif_datasets.guidance import Guided
    from gif_datasets.priors.base import Prior
    from gif_datasets.zeroshot import ZeroShotClassifier

RECIPE_FORMAT = 1
KEEP_GUIDED = 256  # seeds whose guided latents stay in memory, for lazy access copy by copy
_LIBRARIES = ("torch", "diffusers", "open_clip_torch", "timm", "transformers", "pillow")
_NOT_IN_PIXELS = ("originals", "split", "samples_per_shard", "on_bad_image", "prior")


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed sample that decides a picture's bytes.

    Attributes:
        config: The options.
        classes: Class names, in label order.
        prior: The prior, found but not loaded.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    config: ExpansionConfig
    classes: tuple[str, ...]
    prior: PriorInfo
    device: str

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types; what :attr:`digest` hashes."""
        options = {name: value for name, value in self.config.to_json().items() if name not in _NOT_IN_PIXELS}
        return {
            "format": RECIPE_FORMAT,
            "options": options,
            "classes": list(self.classes),
            "prior": {"name": self.prior.name, "digest": self.prior.digest},
            "device": self.device,
            "versions": {name: _version(name) for name in _LIBRARIES},
        }

    @cached_property
    def digest(self) -> str:
        """Digest of the recipe: part of every cache key, and in every sample's provenance."""
        return digest(self.to_json())

    def cache_key(self, seed: Seed, copy: int) -> str:
        """Key of one imagined sample."""
        return digest([self.digest, seed.key, seed.label, copy])


def make_recipe(config: ExpansionConfig, classes: Sequence[str], device: str = "auto") -> Recipe:
    """Find the prior and settle the device, loading neither.

    Raises:
        ConfigError: If the prior is unknown, does not fit the method, or there are too few classes to guide.
    """
    from gif_datasets.errors import SourceError

    prior = find_prior(config.prior)
    check_fit(prior, config.method)
    if len(classes) < 2:
        raise SourceError(
            f"only {len(classes)} class ({', '.join(classes)}): guidance compares classes and needs at least 2;"
            " put the pictures of each class into a sub-folder of its own"
        )
    if len(set(classes)) < len(classes) or not all(name.strip() for name in classes):
        raise SourceError(f"class names must be different and not empty, got {', '.join(map(repr, classes[:20]))}")
    return Recipe(config, tuple(classes), prior, resolve_device(device))


def resolve_device(device: str) -> str:
    """``auto`` to the best device there is; others are checked."""
    from gif_datasets.errors import ConfigError

    if device == "cpu":
        return device
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present.get(device.partition(":")[0], False):
        raise ConfigError(
            f"device {device!r} is not available here; available: {', '.join(d for d in present if present[d])}"
        )
    return device


@dataclass(frozen=True)
class GuidedSeed:
    """One seed after guidance: its copies' latents ``(K, *axes)``, and what :class:`Provenance` tells of each."""

    latents: torch.Tensor
    held_class: int
    seed_criteria: dict[str, float]
    copy_criteria: tuple[dict[str, float], ...]


@dataclass
class Imaginer:
    """Makes imagined samples of one recipe, each once.

    The prior is loaded at the first miss and never pickled. What is made does not depend on what else is asked for:
    encoding, guidance and decoding always run on blocks of one fixed size, padded.

    Attributes:
        recipe: What to make.
        source: Where the seeds' pictures are.
        cache: Where samples are kept.
        generated: Number of pictures decoded so far, cache hits and padding left out.
    """

    recipe: Recipe
    source: Source
    cache: Cache
    given_prior: Prior | None = None
    generated: int = 0
    _guided: OrderedDict[tuple[str, int], GuidedSeed] = field(default_factory=OrderedDict)
    _loaded: tuple[Prior, ZeroShotClassifier] | None = None
    _lock: Any = field(default_factory=threading.RLock)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_guided": OrderedDict(), "_loaded": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def has(self, seed: Seed, copy: int) -> bool:
        """Whether a sample is in the cache."""
        return self.recipe.cache_key(seed, copy) in self.cache

    def imagine(self, wanted: Sequence[tuple[Seed, int]]) -> list[Sample]:
        """Return one sample for each (seed, copy), copies counted from 1; from the cache where it is there.

        Raises:
            BadImage: If a seed's picture has become unreadable.
            CacheError: If the cache cannot be written.
        """
        keys = [self.recipe.cache_key(seed, copy) for seed, copy in wanted]
        found = {key: self.cache.get(key) for key in dict.fromkeys(keys)}
        missing = {key: pair for key, pair in zip(keys, wanted, strict=True) if found[key] is None}
        if missing:
            with self._lock, _fixed_threads(self.recipe.config.threads):
                for key, sample in self._make(missing):
                    self.cache.put(key, sample)
                    found[key] = sample
        samples = [found[key] for key in keys]
        return [
            _relabelled(sample, seed) for sample, (seed, _) in zip(samples, wanted, strict=True) if sample is not None
        ]

    def originals(self, seeds: Sequence[Seed]) -> list[Sample]:
        """The seed samples themselves, in the form of the imagined ones; their own pictures, re-encoded."""
        config = self.recipe.config
        with self._lock, _fixed_threads(config.threads):
            guided = self._guide(seeds)
        samples = []
        for seed in seeds:
            image = images.encode(
                np.asarray(self.source.sample(seed.index)[0]), config.image_format, config.jpeg_quality
            )
            samples.append(Sample(image, self._provenance(seed, 0, image, guided[seed.key, seed.label])))
        return samples

    def _make(self, missing: dict[str, tuple[Seed, int]]) -> Iterator[tuple[str, Sample]]:
        """Guide the seeds of all missing samples, then decode the samples, block by block."""
        import torch

        config = self.recipe.config
        guided = self._guide([seed for seed, _ in missing.values()])
        prior, _ = self._prior()
        for block in _blocks(list(missing.items()), config.decode_batch):
            pairs = [pair for _, pair in block]
            latents = torch.stack([guided[seed.key, seed.label].latents[copy - 1] for seed, copy in pairs])
            generators = [_decode_generator(config, seed, copy) for seed, copy in _padded(pairs, config.decode_batch)]
            pixels = prior.decode(_pad(latents, config.decode_batch), generators, config)[: len(block)]
            self.generated += len(block)
            array = (pixels * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            for (key, (seed, copy)), picture in zip(block, array, strict=True):
                image = images.encode(np.ascontiguousarray(picture), config.image_format, config.jpeg_quality)
                yield key, Sample(image, self._provenance(seed, copy, image, guided[seed.key, seed.label]))

    def _guide(self, seeds: Sequence[Seed]) -> dict[tuple[str, int], GuidedSeed]:
        """Guide each seed once, by key and label; the last ones asked for stay in memory."""
        result = {(s.key, s.label): self._guided[s.key, s.label] for s in seeds if (s.key, s.label) in self._guided}
        fresh = list({(s.key, s.label): s for s in seeds if (s.key, s.label) not in result}.values())
        for block in _blocks(fresh, self.recipe.config.encode_batch):
            found = self._guide_block(block)
            for row, seed in enumerate(block):
                entry = _guided_seed(found, row)
                result[seed.key, seed.label] = self._guided[seed.key, seed.label] = entry
        while len(self._guided) > KEEP_GUIDED:
            self._guided.popitem(last=False)
        return result

    def _guide_block(self, seeds: Sequence[Seed]) -> Guided:
        import torch

        from gif_datasets.guidance import guide

        config = self.recipe.config
        prior, classifier = self._prior()
        padded = _padded(seeds, config.encode_batch)
        pictures = {seed.index: self.source.sample(seed.index)[0] for seed in seeds}
        shown = [pictures[seed.index] for seed in padded]
        latents = prior.encode(shown)
        seed_scores = classifier.scores(prior.embed_images(shown, latents))
        labels = torch.tensor([seed.label for seed in padded], device=latents.device)
        keys = [seed.key for seed in padded]
        return guide(
            latents,
            labels,
            keys,
            classifier,
            config,
            embed=prior.embed,
            seed_scores=seed_scores,
            channel_axis=prior.channel_axis,
        )

    def _prior(self) -> tuple[Prior, ZeroShotClassifier]:
        if self._loaded is None:
            import torch

            prior = self.given_prior or load_prior(
                self.recipe.prior, METHODS[self.recipe.config.method].family, torch.device(self.recipe.device)
            )
            self._loaded = prior, prior.classifier(self.recipe.classes, self.recipe.config)
        return self._loaded

    def _provenance(self, seed: Seed, copy: int, image: bytes, guided: GuidedSeed) -> Provenance:
        return Provenance(
            synthetic=copy > 0,
            seed_key=seed.key,
            seed_index=seed.index,
            seed_origin=seed.origin,
            copy=copy,
            label=seed.label,
            class_name=self.recipe.classes[seed.label],
            method=self.recipe.config.method if copy else "none",
            prior=self.recipe.prior.name,
            prior_digest=self.recipe.prior.digest,
            recipe=self.recipe.digest,
            rng_seed=self.recipe.config.rng_seed,
            image_sha256=hashlib.sha256(image).hexdigest(),
            held_class=guided.held_class,
            **(guided.copy_criteria[copy - 1] if copy else guided.seed_criteria),
        )


_CRITERIA = ("consistency", "entropy", "diversity")


def _guided_seed(found: Guided, row: int) -> GuidedSeed:
    consistency, entropy = _short(found.seed_consistency[row]), _short(found.seed_entropy[row])
    seed = {"consistency": consistency, "entropy": entropy, "diversity": 0.0}
    return GuidedSeed(
        found.latents[row],
        int(found.held_class[row]),
        {f"{name}_{when}": seed[name] for name in _CRITERIA for when in ("before", "after")},
        tuple(
            {
                f"{name}_{when}": _short(getattr(values, name)[row, copy])
                for when, values in (("before", found.before), ("after", found.after))
                for name in _CRITERIA
            }
            for copy in range(found.latents.shape[1])
        ),
    )


def _short(value: torch.Tensor) -> float:
    """Six decimals: what a reader needs, and the same text on machines that round the last bits otherwise."""
    return round(float(value), 6)


def _decode_generator(config: ExpansionConfig, seed: Seed, copy: int) -> torch.Generator:
    from gif_datasets.rng import generator_for

    return generator_for(config.rng_seed, seed.key, "decode", copy)


def _relabelled(sample: Sample, seed: Seed) -> Sample:
    """A cached sample under this source's index and origin: the same picture may lie elsewhere in another source."""
    import dataclasses

    provenance = dataclasses.replace(
        sample.provenance, seed_index=seed.index, seed_origin=seed.origin, label=seed.label
    )
    return Sample(sample.image, provenance)


def _blocks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _padded(items: Sequence[Any], size: int) -> list[Any]:
    return [*items, *[items[-1]] * (size - len(items))]


def _pad(rows: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])


@contextlib.contextmanager
def _fixed_threads(threads: int) -> Iterator[None]:
    """Another number of threads sums in another order, so it is set around all arithmetic and then put back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
