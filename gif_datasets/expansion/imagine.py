"""The whole method on one page: seed samples to imagined samples, checked, through the cache."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from gif_datasets import chunks
from gif_datasets.errors import EngineError, GifDatasetsError
from gif_datasets.expansion.recipe import Recipe
from gif_datasets.expansion.samples import Verdict, make_sample, relabelled
from gif_datasets.guidance.recognition import OwnClass, Recognition
from gif_datasets.io.cache.sharing import Keep, share
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.forks import on_fork
from gif_datasets.methods import METHODS
from gif_datasets.priors import fetch_prior
from gif_datasets.sources.base import Source, seed_image
from gif_datasets.types import Row, Sample, Seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from gif_datasets.expansion.draws import Judge
    from gif_datasets.expansion.models import Models
    from gif_datasets.priors.base import Prior

ROWS_AHEAD = 160  # whose seeds are guided together, in full blocks; fewer seeds than a maker keeps
MOST_NAMED = 50  # copies in an error: a block of them

Block: TypeAlias = "Sequence[tuple[str, Row]]"
"""Rows of (seed, copy) that are drawn together, each with its cache key."""


@dataclass(eq=False)
class Imaginer:
    """Makes imagined samples of one recipe, each once.

    The prior is loaded at the first miss and never pickled. What is made does not depend on what else is asked for:
    encoding, guidance, decoding and scoring always run on blocks of one fixed size, padded.

    Attributes:
        recipe: What to make.
        source: Where the seeds' images are.
        cache: Where samples are kept.
        seeds: All seeds, for what depends on more of them than one.
        given_prior: A prior of the user's own, already loaded.
        generated: Number of images drawn so far, cache hits and padding left out.
    """

    recipe: Recipe
    source: Source
    cache: Cache
    seeds: Sequence[Seed] = ()
    given_prior: Prior | None = None
    generated: int = 0
    _loaded: Models | None = None
    _lock: Any = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        on_fork(self._new_lock)

    def _new_lock(self) -> None:
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._new_lock()
        on_fork(self._new_lock)

    def has(self, seed: Seed, copy: int) -> bool:
        """Whether a sample is in the cache; in a bounded one it then counts as used, so that it stays for a while."""
        key = self.recipe.cache_key(seed, copy)
        return key in self.cache if self.cache.limit is None else self.cache.renew(key)

    def imagine(self, wanted: Sequence[Row]) -> list[Sample]:
        """Return one sample for each (seed, copy), copies counted from 1; from the cache where it is there.

        Raises:
            BadImage: If a seed's image has become unreadable.
            SourceError: If it has changed.
            CacheError: If the cache cannot be written.
        """
        keys = [self.recipe.cache_key(seed, copy) for seed, copy in wanted]
        found = self._cached(dict.fromkeys(keys))
        missing = {key: row for key, row in zip(keys, wanted, strict=True) if key not in found}
        if missing:
            found |= self._make_or_await(missing)
        return [relabelled(found[key], seed) for key, (seed, _) in zip(keys, wanted, strict=True)]

    def pictures(self, wanted: Sequence[Row], beside: Callable[[], Sequence[Row]] = tuple) -> list[bytes]:
        """The image files of :meth:`imagine`, without their records, which take longer to read than they do.

        Args:
            wanted: (seed, copy) rows.
            beside: Names further rows to make, asked only where one is missing.
        """
        found = []
        for seed, copy in wanted:
            image = self.cache.picture(self.recipe.cache_key(seed, copy))
            if image is None:
                return [sample.image for sample in self.imagine([*wanted, *beside()])[: len(wanted)]]
            found.append(image)
        return found

    def originals(self, seeds: Sequence[Seed]) -> list[Sample]:
        """The seed samples themselves, in the form of the imagined ones; their own images, re-encoded."""
        with self._lock, _settled(self.recipe):
            loaded = self._load()
            fields = loaded.maker.seed_fields(seeds)
            pictures = [self._picture(seed) for seed in seeds]
            scores = loaded.seed_scores(seeds) if loaded.seed_scores else None
        return [
            make_sample(self.recipe, seed, 0, 0, picture, own, Verdict(scores[row] if scores is not None else None))
            for row, (seed, picture, own) in enumerate(zip(seeds, pictures, fields, strict=True))
        ]

    def gains(self, wanted: Sequence[Row]) -> list[float]:
        """Entropy of each sample's image above its seed's, nats; minus infinity where its zero-shot class is another.

        What is missing is made. These are the criteria of selective expansion (section 3.2).
        """
        from gif_datasets.guidance.criteria import entropy

        records = [sample.provenance for sample in self.imagine(wanted)]
        with self._lock, _settled(self.recipe):
            score = self._load().seed_scores
            assert score is not None
            of_seeds = score([seed for seed, _ in wanted])
        return [
            record.picture_entropy - float(entropy(scores)) if record.picture_class == int(scores.argmax()) else -inf
            for record, scores in zip(records, of_seeds, strict=True)
        ]

    def prepare(self) -> None:
        """Make what all samples depend on, so that workers find it in the cache, and fetch a published prior."""
        if self.given_prior is None and self.recipe.config.classifies:
            fetch_prior(self.recipe.prior, self.recipe.device, self.recipe.config)
        if self.recipe.config.fits_classifier:
            with self._lock, _settled(self.recipe):
                self._load()

    def recognition(self) -> Recognition | None:
        """How well the classifier recognises the seeds' classes; None if it does not influence the copies."""
        config = self.recipe.config
        if not (METHODS[config.method].guided or config.check != "none"):
            return None
        with self._lock, _settled(self.recipe):
            recognise = self._load().recognition
            return recognise() if recognise else None

    def own_class(self, copies: Sequence[tuple[Seed, Image]]) -> OwnClass | None:
        """How many finished copies, each with its seed, look like their class; None where no prior made them."""
        with self._lock, _settled(self.recipe):
            look = self._load().own_class
            return look(copies) if look and copies else None

    def release(self) -> None:
        """Let go of the prior, and of its memory on a GPU; it is loaded again when it is wanted again."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None and self.recipe.device.startswith("cuda"):
            import torch

            del loaded
            torch.cuda.empty_cache()

    def _cached(self, keys: Iterable[str]) -> dict[str, Sample]:
        """Those samples that are in the cache."""
        return {key: sample for key in keys if (sample := self.cache.get(key)) is not None}

    def _make_or_await(self, missing: dict[str, Row]) -> dict[str, Sample]:
        """Make what nobody else is making, and wait for the rest."""

        def make(blocks: Iterator[list[str]], keep: Keep[Sample]) -> None:
            with self._lock, _settled(self.recipe):
                self._make(blocks, missing, keep)

        size = self.recipe.config.decode_batch
        return share(self.cache.claims(), missing, size, self.cache.get, self.cache.put, make)

    def _make(self, claimed: Iterator[list[str]], missing: Mapping[str, Row], keep: Keep[Sample]) -> None:
        """Draw what can be claimed, check it, and draw again what fails; after the last attempt the best draw stays."""
        from gif_datasets.expansion.draws import BestDraws, Judge

        config = self.recipe.config
        attempts = 1 if config.check == "none" or config.agnostic else 1 + config.redraws
        judge, best = Judge(config, [seed for seed, _ in missing.values()], self._load), BestDraws()

        def settle(key: str, sample: Sample) -> None:
            keep(key, sample)
            self._load().maker.let_go([missing[key][0]])

        blocks: Iterable[Block] = ([(key, missing[key]) for key in keys] for keys in claimed)
        rows = missing
        for attempt in range(attempts):
            for key, row, sample, verdict in self._draw(blocks, rows, attempt, judge):
                if best.settles(key, row, sample, verdict):
                    settle(key, sample)
            rows = best.take_failed()
            blocks = chunks.blocks(list(rows.items()), config.decode_batch)
        for key, sample in best.samples(attempts):
            settle(key, sample)

    def _draw(
        self, blocks: Iterable[Block], rows: Mapping[str, Row], attempt: int, judge: Judge
    ) -> Iterator[tuple[str, Row, Sample, Verdict]]:
        """One draw of each row of each block, with its verdict."""
        for block, seeds in _with_seeds_ahead(blocks, rows):
            wanted = [row for _, row in block]
            maker = self._load().maker
            with _naming([f"copies of {_name(seed)}" for seed in seeds]):
                maker.prepare(seeds, attempt)
            with _naming([f"copy {copy} of {_name(seed)}" for seed, copy in wanted]):
                candidates = [
                    candidate.in_grey() if self.recipe.takes_colours(seed) else candidate
                    for candidate, (seed, _) in zip(maker.draw(wanted, attempt), wanted, strict=True)
                ]
                verdicts = judge(wanted, candidates)
            self.generated += len(block)
            for (key, row), candidate, verdict in zip(block, candidates, verdicts, strict=True):
                sample = make_sample(self.recipe, *row, attempt + 1, candidate.picture, candidate.fields, verdict)
                yield key, row, sample, verdict

    def _load(self) -> Models:
        """What makes and scores; loads the prior the first time."""
        if self._loaded is None:
            from gif_datasets.expansion.models import load_models

            self._loaded = load_models(self.recipe, self.seeds, self._picture, self.cache, self.given_prior)
        return self._loaded

    def _picture(self, seed: Seed) -> Image:
        """The seed's own image; an error of its dataset names the seed."""
        with _naming([_name(seed)]):
            return seed_image(self.source, seed)


def _with_seeds_ahead(blocks: Iterable[Block], rows: Mapping[str, Row]) -> Iterator[tuple[Block, list[Seed]]]:
    """Each block with the seeds to prepare before it: those of ``ROWS_AHEAD`` rows, or none while they last."""
    position = {key: number for number, key in enumerate(rows)}
    seeds = [seed for seed, _ in rows.values()]
    prepared = 0
    for block in blocks:
        first, last = position[block[0][0]], position[block[-1][0]]
        if last < prepared:
            yield block, []
            continue
        prepared = max(first + ROWS_AHEAD, last + 1)
        yield block, seeds[first:prepared]


@contextlib.contextmanager
def _naming(wanted: Sequence[str]) -> Iterator[None]:
    """Turn an error that names no seed into an EngineError that names the copies in question; our own errors pass."""
    try:
        yield
    except GifDatasetsError:
        raise
    except Exception as error:
        more = f" and {len(wanted) - MOST_NAMED} more" if len(wanted) > MOST_NAMED else ""
        named = ", ".join(wanted[:MOST_NAMED]) + more
        raise EngineError(f"cannot imagine {named}: {type(error).__name__}: {error}") from error


def _name(seed: Seed) -> str:
    return f"seed {seed.index} ({seed.origin})"


@contextlib.contextmanager
def _settled(recipe: Recipe) -> Iterator[None]:
    """Use the same arithmetic for every caller: its settings of torch would change pixels, or the order of sums."""
    import torch

    threads, dtype, precision = torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with (
        torch.inference_mode(False),
        torch.autocast(recipe.device.partition(":")[0], enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True),
    ):
        torch.set_num_threads(recipe.config.threads)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)
