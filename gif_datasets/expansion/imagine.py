"""The whole method on one page: seed samples to imagined samples, checked, through the cache."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from gif_datasets.chunks import blocks
from gif_datasets.expansion.recipe import Recipe
from gif_datasets.expansion.samples import Verdict, make_sample, relabelled
from gif_datasets.guidance.recognition import Recognition
from gif_datasets.io.cache.claims import Claims
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.forks import on_fork
from gif_datasets.methods import METHODS
from gif_datasets.priors import fetch_prior
from gif_datasets.sources.base import Source
from gif_datasets.types import Row, Sample, Seed

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from gif_datasets.expansion.candidates import Candidate
    from gif_datasets.expansion.models import Models
    from gif_datasets.expansion.scoring import Scorer
    from gif_datasets.priors.base import Prior

ROWS_AHEAD = 160  # whose seeds are guided together, in full blocks; fewer seeds than a maker keeps


@dataclass(eq=False)
class Imaginer:
    """Makes imagined samples of one recipe, each once.

    The prior is loaded at the first miss and never pickled. What is made does not depend on what else is asked for:
    encoding, guidance, decoding and scoring always run on blocks of one fixed size, padded.

    Attributes:
        recipe: What to make.
        source: Where the seeds' pictures are.
        cache: Where samples are kept.
        seeds: All seeds, for what depends on more of them than one.
        given_prior: A prior of the user's own, already loaded.
        generated: Number of pictures drawn so far, cache hits and padding left out.
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
            BadImage: If a seed's picture has become unreadable.
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
        """The seed samples themselves, in the form of the imagined ones; their own pictures, re-encoded."""
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
        """Entropy of each sample's picture above its seed's, nats; minus infinity where its zero-shot class is another.

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
        """How well the classifier tells the seeds' classes apart; None where nothing is made by what it says."""
        config = self.recipe.config
        if not (METHODS[config.method].guided or config.check != "none"):
            return None
        with self._lock, _settled(self.recipe):
            recognise = self._load().recognition
            return recognise() if recognise else None

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
        """Make what nobody else is making, and wait for the rest; takes over from whoever dies meanwhile."""
        found: dict[str, Sample] = {}
        with self.cache.claims() as claims:
            while left := {key: row for key, row in missing.items() if key not in found}:
                with self._lock, _settled(self.recipe):
                    for key, sample in self._make(left, claims):
                        self.cache.put(key, sample)
                        claims.release(key)
                        found[key] = sample
                found |= self._cached(key for key in left if key not in found)
                if any(key in found for key in left):
                    claims.went_on()
                else:
                    claims.wait()
        return found

    def _claimed_blocks(self, missing: dict[str, Row], claims: Claims) -> Iterator[list[tuple[str, Row]]]:
        """Claim a block at a time, so that several who want the same share the work."""
        block = []
        for key, row in missing.items():
            if not claims.take(key):
                continue
            if self.cache.get(key) is not None:  # who had the claim before has made it
                claims.release(key)
                continue
            block.append((key, row))
            if len(block) == self.recipe.config.decode_batch:
                yield block
                block = []
        if block:
            yield block

    def _make(self, missing: dict[str, Row], claims: Claims) -> Iterator[tuple[str, Sample]]:
        """Draw what can be claimed, check, and draw again what fails; the last attempt keeps the best draw."""
        config = self.recipe.config
        best, seed_scores = dict[str, tuple[float, Sample]](), dict[str, "torch.Tensor"]()
        pending: Iterable[Sequence[tuple[str, Row]]] = self._claimed_blocks(missing, claims)
        attempts = 1 if config.check == "none" or config.agnostic else 1 + config.redraws
        rows = list(missing.items())
        for attempt in range(attempts):
            failed: list[tuple[str, Row]] = []
            for block, seeds in _with_seeds_ahead(pending, rows):
                loaded = self._load()
                loaded.maker.prepare(seeds, attempt)
                seed_scores = seed_scores or self._seed_scores([seed for seed, _ in missing.values()], loaded)
                candidates = loaded.maker.draw([row for _, row in block], attempt)
                self.generated += len(block)
                judged = self._judge([row for _, row in block], candidates, loaded.scorer, seed_scores)
                for (key, (seed, copy)), candidate, verdict in zip(block, candidates, judged, strict=True):
                    sample = make_sample(
                        self.recipe, seed, copy, attempt + 1, candidate.picture, candidate.fields, verdict
                    )
                    if verdict.passed:
                        best.pop(key, None)
                        yield key, sample
                        continue
                    if key not in best or verdict.rank > best[key][0]:
                        best[key] = verdict.rank, sample
                    failed.append((key, (seed, copy)))
            rows = failed
            pending = blocks(failed, config.decode_batch)
        for key, (_, sample) in best.items():
            yield key, Sample(sample.image, dataclasses.replace(sample.provenance, attempts=attempts))

    def _judge(
        self,
        rows: Sequence[Row],
        candidates: Sequence[Candidate],
        scorer: Scorer | None,
        seed_scores: dict[str, torch.Tensor],
    ) -> list[Verdict]:
        """What each candidate's own picture says."""
        if scorer is None:
            return [Verdict()] * len(rows)
        scores = scorer([candidate.picture for candidate in candidates])
        if self.recipe.config.check == "none":
            return [Verdict(row) for row in scores]
        import torch

        from gif_datasets.guidance.accept import accept

        seeds = [seed for seed, _ in rows]
        of_seeds = torch.stack([seed_scores[seed.key] for seed in seeds])
        labels = torch.tensor([seed.label for seed in seeds])
        found = accept(self.recipe.config.check, scores, of_seeds, labels)
        return [Verdict(*row) for row in zip(scores, *(part.tolist() for part in found), strict=True)]

    def _seed_scores(self, seeds: Sequence[Seed], loaded: Models) -> dict[str, torch.Tensor]:
        """Scores of the seeds' own pictures by content key, once for all copies and attempts; none without a check."""
        if loaded.seed_scores is None or self.recipe.config.check == "none":
            return {}
        unique = {seed.key: seed for seed in seeds}
        return dict(zip(unique, loaded.seed_scores(list(unique.values())), strict=True))

    def _load(self) -> Models:
        """What makes and scores; loads the prior the first time."""
        if self._loaded is None:
            from gif_datasets.expansion.models import load_models

            self._loaded = load_models(self.recipe, self.seeds, self._picture, self.cache, self.given_prior)
        return self._loaded

    def _picture(self, seed: Seed) -> Image:
        return self.source.sample(seed.index)[0]


def _with_seeds_ahead(
    blocks: Iterable[Sequence[tuple[str, Row]]], rows: Sequence[tuple[str, Row]]
) -> Iterator[tuple[Sequence[tuple[str, Row]], list[Seed]]]:
    """Each block with the seeds to prepare before it: those of ``ROWS_AHEAD`` rows, or none while they last."""
    place = {key: number for number, (key, _) in enumerate(rows)}
    prepared = 0
    for block in blocks:
        first, last = place[block[0][0]], place[block[-1][0]]
        if last < prepared:
            yield block, []
            continue
        prepared = max(first + ROWS_AHEAD, last + 1)
        yield block, [seed for _, (seed, _) in rows[first:prepared]]


@contextlib.contextmanager
def _settled(recipe: Recipe) -> Iterator[None]:
    """Arithmetic as it is whoever asks: what a caller has set of torch's would change pixels, or the sums' order."""
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
