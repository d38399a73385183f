"""The whole method on one page: seed samples to imagined samples, checked, through the cache."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from gif_datasets import chunks
from gif_datasets.errors import EngineError, GifDatasetsError
from gif_datasets.expansion.imagination.groups import Group, group_of
from gif_datasets.expansion.imagination.pictures import PicturesAhead
from gif_datasets.expansion.imagination.samples import Verdict, make_sample, relabelled
from gif_datasets.expansion.recipe import Recipe, fitted_seeds
from gif_datasets.guidance.recognition import OwnClass, Recognition
from gif_datasets.io import decode
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.duplicates import Spectra, spectra
from gif_datasets.io.forks import on_fork
from gif_datasets.io.threads import ordered_map
from gif_datasets.methods import METHODS
from gif_datasets.priors import fetch_prior
from gif_datasets.sources.base import Source, jpeg_as_it_is, plain_image, seed_image
from gif_datasets.types import Row, Sample, Seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from gif_datasets.expansion.imagination.candidates import Candidate
    from gif_datasets.expansion.imagination.draws import Judge
    from gif_datasets.expansion.imagination.models import Models
    from gif_datasets.priors.base import Prior

ROWS_AHEAD = 160  # whose seeds are guided together, in full blocks; fewer seeds than a maker keeps
MOST_NAMED = 50  # copies in an error: a block of them

Block: TypeAlias = "Sequence[tuple[str, Row]]"
"""Rows of (seed, copy) that are drawn together, each with its cache key."""
Drawn: TypeAlias = "tuple[str, Row, Candidate, Verdict]"
"""One draw of a row, with its cache key and its verdict."""


@dataclass(eq=False)
class Imaginer:
    """Makes imagined samples of one recipe, each once.

    The prior is loaded at the first miss and never pickled. What is made does not depend on what else is asked for:
    encoding, guidance, decoding and scoring always run on blocks of one fixed size, padded.

    The models run in the caller's thread, one call after the other: they need not be safe for threads, and what they
    take of a device's memory is the same. While they do, threads read the next seeds' images, and encode, hash and keep
    the images of the block before.

    Attributes:
        recipe: What to make.
        source: Where the seeds' images are.
        cache: Where samples are kept.
        seeds: All seeds, for what depends on more of them than one.
        given_prior: A prior of the user's own, already loaded.
        original_files: Whether seeds that are JPEG files are stored as they are.
        generated: Number of images drawn so far, cache hits and padding left out.
    """

    recipe: Recipe
    source: Source
    cache: Cache
    seeds: Sequence[Seed] = ()
    given_prior: Prior | None = None
    original_files: bool = False
    generated: int = 0
    _loaded: Models | None = None
    _lock: Any = field(init=False)
    _pictures: PicturesAhead = field(init=False)

    def __post_init__(self) -> None:
        self._renew()
        on_fork(self._renew)

    def _renew(self) -> None:
        """What no other process shares."""
        self._lock = threading.RLock()
        self._pictures = PicturesAhead(self._read, partial(plain_image, self.source))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_lock": None, "_pictures": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

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
        [(samples, _)] = self.stream([wanted])
        return samples

    def stream(self, groups: Iterable[Sequence[Row]]) -> Iterator[tuple[list[Sample], int]]:
        """The samples of :meth:`imagine` for one group after the other, and how many images were drawn for each.

        While the last images of a group are encoded and kept, the first of the next one are drawn. A group of rows of
        copy 0 is one of :meth:`originals`. Copies that are compared with those of lower numbers are made one number
        after the other.
        """
        if self.recipe.config.compares:
            return map(self._in_turn, groups)
        return self._stream(groups)

    def _in_turn(self, wanted: Sequence[Row]) -> tuple[list[Sample], int]:
        """The samples of a group, lower numbers first, because a copy is compared with them."""
        if not any(copy for _, copy in wanted):
            return self.originals([seed for seed, _ in wanted]), 0
        keys, drawn = [self.recipe.cache_key(*row) for row in wanted], 0
        samples = {key: sample for key in dict.fromkeys(keys) if (sample := self.cache.get(key)) is not None}
        last: dict[str, Row] = {}
        for key, (seed, copy) in zip(keys, wanted, strict=True):
            own = self.recipe.cache_key(seed, 0)
            if key not in samples and copy > last.get(own, (seed, 0))[1]:
                last[own] = seed, copy
        earlier = defaultdict[str, list[Spectra]](list)
        for number in range(1, max((copy for _, copy in last.values()), default=0) + 1):
            rows = [(seed, number) for seed, most in last.values() if number <= most]
            [(made, count)] = self._stream([rows], earlier)
            drawn += count
            for (seed, _), sample in zip(rows, made, strict=True):
                samples[self.recipe.cache_key(seed, number)] = sample
                earlier[self.recipe.cache_key(seed, 0)].append(spectra(decode.picture(sample.image, "a copy")))
        return [relabelled(samples[key], seed) for key, (seed, _) in zip(keys, wanted, strict=True)], drawn

    def _stream(
        self, groups: Iterable[Sequence[Row]], earlier: Mapping[str, Sequence[Spectra]] | None = None
    ) -> Iterator[tuple[list[Sample], int]]:
        """See :meth:`stream`; ``earlier`` has the spectra of images to compare with, by key of their seed."""
        making = deque[Group]()
        try:
            for wanted, following in _with_next(groups):
                if not any(copy for _, copy in wanted):
                    yield from _finished(making, 0)
                    yield self.originals([seed for seed, _ in wanted]), 0
                    continue
                making.append(group_of(self.recipe, self.cache, wanted, earlier))
                try:
                    for _ in self._draw_all(making[-1], following):
                        yield from _finished(making, 1)
                except Exception:
                    making[-1].jobs.let_finish()  # what was drawn is kept
                    yield from _finished(making, 1)
                    raise
                yield from _finished(making, 1 if making[-1].jobs else 0)
            yield from _finished(making, 0)
        finally:
            for group in making:
                group.stop()
            with self._lock:
                self._pictures.forget()

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
        """The seed samples themselves, in the form of the imagined ones: encoded again, or as they are."""
        with self._lock, _settled(self.recipe):
            loaded = self._load()
            if self.recipe.config.classifies:
                self._pictures.expect(seeds)
            fields = loaded.maker.seed_fields(seeds)
            scores = loaded.seed_scores(seeds) if loaded.seed_scores else [None] * len(seeds)
            verdicts = map(Verdict, scores)
            rows = zip(seeds, self._stored(seeds), fields, verdicts, strict=True)
            made = list(ordered_map(self._original, rows))
            self._pictures.forget()
            return made

    def _stored(self, seeds: Sequence[Seed]) -> Iterator[Image | bytes]:
        for seed, found in zip(seeds, ordered_map(self._stored_in_thread, seeds), strict=True):
            yield found or self._read(seed)

    def _stored_in_thread(self, seed: Seed) -> Image | bytes | None:
        return (self.original_files and jpeg_as_it_is(self.source, seed)) or plain_image(self.source, seed)

    def _original(self, row: tuple[Seed, Image | bytes, dict[str, Any], Verdict]) -> Sample:
        seed, picture, fields, verdict = row
        with _naming([_name(seed)]):
            return make_sample(self.recipe, seed, 0, 0, picture, fields, verdict)

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
        """Make what all samples depend on, so that workers find it in the cache; fetch a published prior or guide."""
        config, guide = self.recipe.config, self.recipe.guide
        asked = METHODS[config.method].imagines or guide is None or config.asks_prior_too
        if self.given_prior is None and config.classifies and asked:
            fetch_prior(self.recipe.prior, self.recipe.device, config)
        if guide is not None and guide.weights is not None:
            guide.weights.bring()
        if config.embeds_all_seeds:
            with self._lock, _settled(self.recipe):
                self._load()

    def recognition(self) -> Recognition | None:
        """How well the classifier recognises the seeds' classes; None if it does not influence the copies."""
        config = self.recipe.config
        if not (METHODS[config.method].guided or config.judges_class):
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

    def _draw_all(self, group: Group, following: Sequence[Row]) -> Iterator[None]:
        """Draw what can be claimed, check it, and draw again what fails; after the last attempt the best draw stays.

        A turn a block; threads encode and keep what passes.
        """
        from gif_datasets.expansion.imagination.draws import BestDraws, Judge

        config = self.recipe.config
        attempts = config.attempts
        for claimed in group.rounds():
            seeds = [seed for seed, _ in group.missing.values()]
            judge, best = Judge(config, seeds, self._load, group.earlier), BestDraws()
            blocks: Iterable[Block] = ([(key, group.missing[key]) for key in keys] for keys in claimed)
            rows, upcoming = group.missing, following
            for attempt in range(attempts):
                for drawn in self._draw(blocks, rows, upcoming, attempt, judge):
                    group.drawn += len(drawn)
                    for key, row, candidate, verdict in drawn:
                        encode = partial(self._encoded, row, attempt, candidate, verdict)
                        if best.settles(key, row, verdict):
                            group.jobs.start(self._settle, group, key, encode)
                        elif best.improves(key, verdict):
                            best.take(key, verdict, group.jobs.start(encode))
                    yield
                rows, upcoming = best.take_failed(), ()
                blocks = chunks.blocks(list(rows.items()), config.decode_batch)
            for key, sample in best.samples(attempts):
                self._settle(group, key, partial(_same, sample))

    def _draw(
        self, blocks: Iterable[Block], rows: Mapping[str, Row], upcoming: Sequence[Row], attempt: int, judge: Judge
    ) -> Iterator[list[Drawn]]:
        """One draw of each row of each block, with its verdict; seeds are read ahead for the first attempt."""
        for block, seeds, after in _with_seeds_ahead(blocks, rows, upcoming):
            with self._lock, _settled(self.recipe):
                if seeds and not attempt:
                    self._pictures.expect([*seeds, *after])
                drawn = self._draw_block(block, seeds, () if attempt else after, attempt, judge)
                self.generated += len(block)
            yield drawn

    def _draw_block(
        self, block: Block, seeds: Sequence[Seed], after: Sequence[Seed], attempt: int, judge: Judge
    ) -> list[Drawn]:
        """Prepare seeds and draw a block; meanwhile, what can be prepared of the seeds after these."""
        wanted = [row for _, row in block]
        maker = self._load().maker
        with _naming([f"copies of {_name(seed)}" for seed in seeds]):
            maker.prepare(seeds, attempt)
        with _naming([f"copy {copy} of {_name(seed)}" for seed, copy in wanted]):
            with maker.beside(after, attempt):
                drawn = maker.draw(wanted, attempt)
            candidates = [self._like_seed(candidate, seed) for candidate, (seed, _) in zip(drawn, wanted, strict=True)]
            verdicts = judge(wanted, candidates)
        return [(*row, *found) for row, found in zip(block, zip(candidates, verdicts, strict=True), strict=True)]

    def _like_seed(self, candidate: Candidate, seed: Seed) -> Candidate:
        """A copy of a grey seed in grey; of a small one, where the prior asks for that, as small; with its objects."""
        if self.recipe.shrinks:
            candidate = candidate.no_larger_than(self._pictures.size(seed))
        candidate = candidate.in_grey() if self.recipe.takes_colours(seed) else candidate
        objects = self.recipe.objects_of(seed, candidate.picture.size)
        return candidate if objects is None else candidate.keeping(self._picture(seed), objects)

    def _encoded(self, row: Row, attempt: int, candidate: Candidate, verdict: Verdict) -> Sample:
        seed, copy = row
        with _naming([f"copy {copy} of {_name(seed)}"]):
            recipe = self.recipe.of(seed)
            return make_sample(recipe, seed, copy, attempt + 1, candidate.picture, candidate.fields, verdict)

    def _settle(self, group: Group, key: str, encode: Callable[[], Sample]) -> None:
        """Keep a sample; what the copies of its seed share goes with the last of them."""
        group.keep(key, encode())
        self._load().maker.let_go([group.missing[key][0]])

    def _load(self) -> Models:
        """What makes and scores; loads the prior the first time."""
        if self._loaded is None:
            from gif_datasets.expansion.imagination.models import load_models

            if self.recipe.config.embeds_all_seeds:
                self._pictures.expect(fitted_seeds(self.seeds, len(self.recipe.classes)))
            self._loaded = load_models(self.recipe, self.seeds, self._picture, self.cache, self.given_prior)
        return self._loaded

    def _picture(self, seed: Seed) -> Image:
        image = self._pictures(seed)
        left, top, width, height = self.recipe.window(image.size)
        return image.crop((left, top, left + width, top + height)) if self.recipe.squares else image

    def _read(self, seed: Seed) -> Image:
        """The seed's own image; an error of its dataset names the seed."""
        with _naming([_name(seed)]):
            return seed_image(self.source, seed)


def _same(sample: Sample) -> Sample:
    return sample


def _finished(making: deque[Group], left: int) -> Iterator[tuple[list[Sample], int]]:
    """All but the last ones, finished."""
    while len(making) > left:
        yield making.popleft().finish()


def _with_next(groups: Iterable[Sequence[Row]]) -> Iterator[tuple[Sequence[Row], Sequence[Row]]]:
    """Each group with the one after it; none follows the last."""
    rest = iter(groups)
    group = next(rest, None)
    while group is not None:
        following = next(rest, None)
        yield group, following or ()
        group = following


def _with_seeds_ahead(
    blocks: Iterable[Block], rows: Mapping[str, Row], upcoming: Sequence[Row]
) -> Iterator[tuple[Block, list[Seed], list[Seed]]]:
    """Each block with the seeds to prepare before it: those of ``ROWS_AHEAD`` rows, or none while they last.

    And the seeds after these, of as many rows more, which may be in ``upcoming``.
    """
    position = {key: number for number, key in enumerate(rows)}
    seeds = [seed for seed, _ in (*rows.values(), *upcoming[:ROWS_AHEAD])]
    prepared = 0
    for block in blocks:
        first, last = position[block[0][0]], position[block[-1][0]]
        if last < prepared:
            yield block, [], []
            continue
        prepared = min(max(first + ROWS_AHEAD, last + 1), len(rows))
        yield block, seeds[first:prepared], seeds[prepared : prepared + ROWS_AHEAD]


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
