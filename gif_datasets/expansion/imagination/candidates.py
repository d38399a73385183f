"""How candidate images are made of seed samples: by a guided prior, or by classical augmentation."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from gif_datasets.chunks import blocks, padded
from gif_datasets.config import BETWEEN, CRITERIA, ExpansionConfig
from gif_datasets.errors import PriorError
from gif_datasets.expansion.imagination import augment
from gif_datasets.expansion.imagination.between import companion, on_arc
from gif_datasets.expansion.imagination.composite import composed
from gif_datasets.expansion.imagination.halving import Memory
from gif_datasets.expansion.imagination.scoring import SeedEmbeddings, keep_last
from gif_datasets.expansion.imagination.shared_guidance import KEEP_GUIDED, SharedGuidance, identity
from gif_datasets.expansion.recipe import Recipe
from gif_datasets.guidance import criteria
from gif_datasets.guidance.guide import WHEN, Guided, guide
from gif_datasets.guidance.prototypes import Prototypes
from gif_datasets.guidance.rng import generator_for
from gif_datasets.io.cache.store import Cache
from gif_datasets.methods import METHODS
from gif_datasets.objects import Objects
from gif_datasets.priors.base import Prior
from gif_datasets.sources.seed_table import SeedTable
from gif_datasets.types import OBJECTS, Row, Seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from gif_datasets.guidance.zeroshot import ZeroShotClassifier


@dataclass(frozen=True)
class Candidate:
    """An image that may become a sample, with the fields of :class:`~gif_datasets.types.Provenance` it brings."""

    picture: Image
    fields: dict[str, Any]

    def in_grey(self) -> Candidate:
        """With the luminance of the image in each of its channels."""
        return Candidate(self.picture.convert("L").convert("RGB"), self.fields)

    def keeping(self, seen: Image, objects: Objects) -> Candidate:
        """With the pixels of ``seen``, the part of the seed that this image is of, where objects are."""
        return Candidate(composed(self.picture, seen, objects), {**self.fields, OBJECTS: objects})

    def no_larger_than(self, size: tuple[int, int]) -> Candidate:
        """Shrunk, if need be, to the shorter side of its seed's ``size``."""
        side = min(*self.picture.size, *size)
        if side == min(self.picture.size):
            return self
        return Candidate(self.picture.resize((side, side), PillowImage.Resampling.BICUBIC), self.fields)


@dataclass(frozen=True)
class Draw:
    """One draw of one copy of a seed: ``copy`` from 1 to the ratio, ``attempt`` from 0."""

    seed: Seed
    copy: int
    attempt: int


class Maker(Protocol):
    """Makes candidates in blocks; what one looks like does not depend on its block."""

    def prepare(self, seeds: Sequence[Seed], attempt: int) -> None:
        """Do ahead, in full blocks, what the copies of a seed share; at most ``KEEP_GUIDED`` seeds."""
        ...

    def beside(self, seeds: Sequence[Seed], attempt: int) -> contextlib.AbstractContextManager[None]:
        """Begin what :meth:`prepare` will do for seeds, in threads, as far as it calls no model; the body draws."""
        ...

    def let_go(self, seeds: Sequence[Seed]) -> None:
        """Remove what the copies of a seed share, where all of them are there."""
        ...

    def draw(self, rows: Sequence[Row], attempt: int) -> list[Candidate]:
        """One candidate a row; another ``attempt`` is another draw."""
        ...

    def seed_fields(self, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
        """The same fields for the seeds themselves."""
        ...


@dataclass
class GuidedMaker:
    """Guides the copies of a seed together, once, and decodes those that are wanted.

    ``classifier`` gives class probabilities to ``embeddings`` of seeds, and to what ``embed`` makes of latents (None:
    the latents themselves). ``seeds`` are all of them, ordered, where copies start between two.
    """

    recipe: Recipe
    prior: Prior
    classifier: ZeroShotClassifier
    embeddings: SeedEmbeddings
    embed: Callable[[Tensor], Tensor] | None
    cache: Cache
    seeds: SeedTable = field(default_factory=lambda: SeedTable.of(()))
    prototypes: Prototypes | None = None
    _anchors: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    _memory: Memory = field(default_factory=Memory)

    @functools.cached_property
    def guide(self) -> SharedGuidance:
        """Guides seeds."""
        return SharedGuidance(self.recipe, self.cache, self._guide_block)

    def prepare(self, seeds: Sequence[Seed], attempt: int) -> None:
        """Guide, and encode what the copies begin from."""
        self.guide.ahead(seeds, self._perturbation(attempt))
        if self.recipe.config.near_seed:
            self._anchored(seeds)

    def beside(self, seeds: Sequence[Seed], attempt: int) -> contextlib.AbstractContextManager[None]:
        """Guide, where that takes no more than embeddings that are there."""
        known = [seed for seed in seeds if seed in self.embeddings] if self._starts_from_embeddings else []
        return self.guide.beside(known, self._perturbation(attempt))

    def let_go(self, seeds: Sequence[Seed]) -> None:
        """Remove what guidance found."""
        self.guide.let_go(seeds)

    def draw(self, rows: Sequence[Row], attempt: int) -> list[Candidate]:
        """Decode; another attempt draws the decoder's noise again, or the perturbation where decoding has no noise.

        A copy above the ratio is what a later attempt makes of a copy within it.
        """
        draws = [self._draw_of(seed, copy, attempt) for seed, copy in rows]
        guided = self._guided_rows(draws)
        arrays = self._decode(draws, [one.latents[0, draw.copy - 1] for one, draw in zip(guided, draws, strict=True)])
        return [
            Candidate(
                PillowImage.fromarray(array), {**_copy_fields(one, draw.copy - 1), **self._companion_fields(draw)}
            )
            for array, one, draw in zip(arrays, guided, draws, strict=True)
        ]

    def _decode(self, draws: Sequence[Draw], latents: Sequence[Tensor]) -> list[NDArray[np.uint8]]:
        """Images of latents, ``(H, W, 3)`` each, decoded in one full block."""
        config = self.recipe.config
        anchors = self._anchored([draw.seed for draw in draws]) if config.near_seed else {}

        def decode(block: Sequence[tuple[Draw, Tensor]]) -> list[NDArray[np.uint8] | None]:
            generators = [
                generator_for(config.rng_seed, draw.seed.key, _stream("decode", draw.attempt), draw.copy)
                for draw, _ in block
            ]
            rows = torch.stack([latent for _, latent in block])
            if not anchors:
                return as_bytes(self.prior.decode(rows, generators, config))
            begin = torch.stack([anchors[draw.seed.key] for draw, _ in block])
            return as_bytes(self.prior.decode_near(rows, begin, generators, config))

        block = padded(list(zip(draws, latents, strict=True)), config.decode_batch)
        made = []
        for draw, image in zip(draws, self._memory.rows(decode, block, "decode_batch"), strict=False):
            if image is None:
                advice = "" if config.dtype == "float32" else f"; {config.dtype} can overflow, try --set dtype=float32"
                raise PriorError(f"prior {self.recipe.prior.name!r} returned NaN for seed {draw.seed.origin}{advice}")
            made.append(image)
        return made

    def seed_fields(self, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
        """Criteria of the seeds' own images; nothing is guided for them."""
        scores = self.classifier.scores(self.embeddings(seeds)).cpu()
        by_label = self.recipe.config.held_class == "label"
        held = [seed.label if by_label else int(row.argmax()) for seed, row in zip(seeds, scores, strict=True)]
        return [_seed_fields(row, one) for row, one in zip(scores, held, strict=True)]

    def _anchored(self, seeds: Sequence[Seed]) -> dict[str, Tensor]:
        """What the copies of each seed begin from, by key; encoded once, in padded blocks."""
        unique = {seed.key: seed for seed in seeds}
        found = {key: self._anchors[key] for key in unique if key in self._anchors}
        for part in blocks([seed for key, seed in unique.items() if key not in found], self.recipe.config.encode_batch):
            shown = padded([self.embeddings.picture(seed) for seed in part], self.recipe.config.encode_batch)
            rows = self._memory.rows(self.prior.anchors, shown, "encode_batch")
            found.update({seed.key: row for seed, row in zip(part, rows, strict=False)})
        keep_last(self._anchors, found, KEEP_GUIDED)
        return found

    def _draw_of(self, seed: Seed, copy: int, attempt: int) -> Draw:
        """The draw of a copy of any number: a copy above the ratio is a later attempt of a copy within it."""
        turn, within = divmod(copy - 1, self.recipe.of(seed).config.copies)
        return Draw(seed, within + 1, attempt + turn * self.recipe.config.attempts)

    def _guided_rows(self, draws: Sequence[Draw]) -> list[Guided]:
        """The guided latents of each draw's seed."""
        seeds: dict[int, list[Seed]] = {}
        for draw in draws:
            seeds.setdefault(self._perturbation(draw.attempt), []).append(draw.seed)
        guided = {perturbation: self.guide(part, perturbation) for perturbation, part in seeds.items()}
        return [guided[self._perturbation(draw.attempt)][identity(draw.seed)] for draw in draws]

    @property
    def _starts_from_embeddings(self) -> bool:
        """Whether guidance asks the embeddings of its seeds alone, and neither images nor a model."""
        own_start = type(self.prior).start is not Prior.start
        return self.prior.latent_is_embedding and not own_start and self.recipe.config.start != BETWEEN

    def _perturbation(self, attempt: int) -> int:
        """Which draw of the perturbation an attempt uses: the first, if the decoder draws noise of its own."""
        return 0 if self.prior.decodes_noise else attempt

    def _companion(self, seed: Seed, copy: int) -> tuple[Seed, float]:
        return companion(self.recipe.config.rng_seed, self.seeds, seed, copy)

    def _companion_fields(self, draw: Draw) -> dict[str, Any]:
        """The other seed that a copy starts towards, as its record names it; empty without one."""
        if self.recipe.config.start != BETWEEN:
            return {}
        other, share = self._companion(draw.seed, draw.copy)
        if other.key == draw.seed.key:
            return {}
        return {"partner_key": other.key, "partner_label": other.label, "partner_share": share}

    def _between(self, seeds: Sequence[Seed], latents: Tensor) -> Tensor:
        """Where each copy of seeds starts, ``(B, K, D)``, on the way to another seed of its class."""
        if not self.prior.latent_is_embedding or latents.dim() != 2:
            raise PriorError(f"start={BETWEEN!r} needs a prior whose latent is one embedding; give start='seed'")
        copies = range(1, self.recipe.of(seeds[0]).config.copies + 1)
        others, shares = zip(*(self._companion(seed, copy) for seed in seeds for copy in copies), strict=True)
        embeddings = self.embeddings(others).to(latents).reshape(len(seeds), len(copies), -1)
        share = torch.tensor(shares).to(latents).reshape(len(seeds), len(copies))
        return on_arc(latents[:, None].expand_as(embeddings), embeddings, share)

    def _guide_block(self, seeds: Sequence[Seed], attempt: int) -> list[Guided]:
        config, prior = self.recipe.of(seeds[0]).config, self.prior
        shown = [] if self._starts_from_embeddings else list(map(self.embeddings.picture, seeds))
        embeddings = self.embeddings(seeds)
        latents = embeddings if prior.latent_is_embedding else prior.encode(shown)
        keys = [_stream(seed.key, attempt) for seed in seeds]
        names = [config.names_of(self.recipe.classes[seed.label])[0] for seed in seeds]
        guided = self._memory.scored(
            functools.partial(
                guide,
                latents,
                torch.tensor([seed.label for seed in seeds], device=latents.device),
                keys,
                self.classifier,
                embed=self.embed,
                seed_scores=self.classifier.scores(embeddings),
                channel_axis=prior.channel_axis,
                prototypes=self.prototypes,
                centre=self._between(seeds, latents)
                if config.start == BETWEEN
                else prior.start(shown, latents, names, keys, config),
            ),
            config,
        )
        return [guided.row(index) for index in range(len(seeds))]


def as_bytes(pixels: Tensor) -> list[NDArray[np.uint8] | None]:
    """Images ``(H, W, 3)`` of pixels ``(N, 3, H, W)`` in [0, 1]; None for one that has NaN.

    From a device they come in one transfer. On a CPU they are made one by one, in its cache: a third of the time.
    """
    finite = pixels.sum((1, 2, 3), dtype=torch.float32).isfinite().tolist()
    parts = torch.tensor_split(pixels, len(pixels) if pixels.device.type == "cpu" else 1)
    rows = [
        row for part in parts for row in (part * 255).round_().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    ]
    return [row if whole else None for row, whole in zip(rows, finite, strict=True)]


@dataclass(frozen=True)
class AugmentMaker:
    """Applies a classical augmentation to the seeds' images; needs no prior.

    Attributes:
        seeds: All seeds, in an order of their own; partners of a mix are drawn from them.
    """

    recipe: Recipe
    picture: Callable[[Seed], Image]
    seeds: Sequence[Seed]

    def prepare(self, seeds: Sequence[Seed], attempt: int) -> None:
        """Copies share nothing."""

    def beside(self, seeds: Sequence[Seed], attempt: int) -> contextlib.AbstractContextManager[None]:
        """Copies share nothing."""
        return contextlib.nullcontext()

    def let_go(self, seeds: Sequence[Seed]) -> None:
        """Nothing is there to remove."""

    def draw(self, rows: Sequence[Row], attempt: int) -> list[Candidate]:
        """Augment; the partner of a mix is drawn from all seeds, whatever their order."""
        config = self.recipe.config
        apply = augment.augmentation_of(METHODS[config.method])
        made = []
        for seed, copy in rows:
            generator = generator_for(config.rng_seed, seed.key, _stream("augment", attempt), copy)
            partner = partner_of(config, self.seeds, seed, copy, attempt) if config.mixes else seed
            found = apply(self.picture(seed), self.picture(partner), config, generator)
            mixed = {"partner_key": partner.key, "partner_label": partner.label, "partner_share": found.partner_share}
            made.append(Candidate(found.image, {**unscored(), **(mixed if partner is not seed else {})}))
        return made

    def seed_fields(self, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
        """Nothing is scored."""
        return [unscored() for _ in seeds]


def partner_of(config: ExpansionConfig, seeds: Sequence[Seed], seed: Seed, copy: int, attempt: int = 0) -> Seed:
    """The other seed that a copy is mixed with.

    Args:
        config: All options.
        seeds: All seeds, as :class:`AugmentMaker` has them.
        seed: The copy's own.
        copy: Its number.
        attempt: Which draw of it.
    """
    generator = generator_for(config.rng_seed, seed.key, _stream("partner", attempt), copy)
    return seeds[int(torch.randint(len(seeds), (), generator=generator))]


def _stream(name: str, attempt: int) -> str:
    """Name of a random stream; the first attempt's is the plain name."""
    return f"{name}/{attempt}" if attempt else name


def _seed_fields(scores: Tensor, held: int) -> dict[str, Any]:
    values = {"consistency": _short(scores[held]), "entropy": _short(criteria.entropy(scores)), "diversity": 0.0}
    fields = {f"{name}_{when}": values[name] for name in CRITERIA for when in WHEN}
    return {"held_class": held, **fields}


def _copy_fields(found: Guided, copy: int) -> dict[str, Any]:
    fields = {
        f"{name}_{when}": _short(getattr(values, name)[0, copy])
        for when, values in (("before", found.before), ("after", found.after))
        for name in CRITERIA
    }
    if not all(map(math.isfinite, fields.values())):
        raise PriorError("guidance led to latents whose scores are NaN; give a smaller epsilon or logit_scale")
    return {"held_class": int(found.held_class[0]), **fields}


def unscored() -> dict[str, Any]:
    """Fields of what is not scored."""
    return {f"{name}_{when}": 0.0 for name in CRITERIA for when in WHEN}


def _short(value: Tensor) -> float:
    """Six decimals: what a reader needs, and the same text on machines that round the last bits otherwise."""
    return round(float(value), 6)
