"""The models of a recipe, in memory: what makes candidates, and what scores images and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeAlias

import torch

from gif_datasets.chunks import evenly
from gif_datasets.expansion.imagination.candidates import AugmentMaker, GuidedMaker, Maker
from gif_datasets.expansion.imagination.novelty import Novelty
from gif_datasets.expansion.imagination.scoring import Scorer, SeedEmbeddings
from gif_datasets.expansion.recipe import Recipe, fitted_seeds, ordered, spread
from gif_datasets.guidance import fitted_heads, recognition
from gif_datasets.guidance.prototypes import Prototypes
from gif_datasets.guidance.recognition import OwnClass, Recognition
from gif_datasets.guidance.zeroshot import OwnHead
from gif_datasets.io.cache.store import Cache
from gif_datasets.methods import AUGMENT, METHODS
from gif_datasets.priors import load_prior
from gif_datasets.types import Seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from gif_datasets.guidance.zeroshot import ZeroShotClassifier
    from gif_datasets.priors.base import Prior
    from gif_datasets.priors.guide_models import Guide

MOST_RECOGNISED = 200  # seeds that are embedded to see whether a classifier of texts alone recognises them

Known: TypeAlias = "tuple[list[Seed], torch.Tensor, torch.Tensor]"
"""Seeds, their embeddings ``(N, D)`` and their labels ``(N,)``."""


@dataclass(frozen=True)
class Models:
    """What makes candidates, and what scores images and seeds, where any are scored.

    ``confirm`` scores images by the prior's CLIP, where that says the class and a guide the entropy; ``own_class`` says
    of finished copies, each with its seed, how many look like their class; ``novelty`` compares candidates with images
    that are there already.
    """

    maker: Maker
    scorer: Scorer | None = None
    seed_scores: Callable[[Sequence[Seed]], torch.Tensor] | None = None
    recognition: Callable[[], Recognition] | None = None
    own_class: Callable[[Sequence[tuple[Seed, Image]]], OwnClass] | None = None
    novelty: Novelty | None = None
    confirm: Scorer | None = None


def load_models(
    recipe: Recipe,
    seeds: Sequence[Seed],
    picture: Callable[[Seed], Image],
    cache: Cache,
    given_prior: Prior | None = None,
) -> Models:
    """Load what a recipe needs, and what compares images where that is its check.

    Args:
        recipe: As :func:`_load_models`.
        seeds: As there.
        picture: As there.
        cache: As there; keeps what is compared of the seeds, too.
        given_prior: As there.
    """
    novelty = Novelty(recipe, seeds, picture, cache) if recipe.config.compares else None
    return dataclasses.replace(_load_models(recipe, seeds, picture, cache, given_prior), novelty=novelty)


def _load_models(
    recipe: Recipe,
    seeds: Sequence[Seed],
    picture: Callable[[Seed], Image],
    cache: Cache,
    given_prior: Prior | None,
) -> Models:
    """Load what makes and scores; no prior where nothing is asked of one.

    Args:
        recipe: What is made.
        seeds: All seeds, for what depends on more of them than one.
        picture: Reads a seed's image.
        cache: Keeps the embeddings that a classifier is fitted to.
        given_prior: A prior that is loaded already.
    """
    config, family = recipe.config, METHODS[recipe.config.method].family
    augments, scored = family == AUGMENT, config.judges_class or config.measure_pictures
    if augments and not scored:
        return Models(AugmentMaker(recipe, picture, ordered(seeds)))
    device = torch.device(recipe.device)
    guide, prior = recipe.guide.load(device) if recipe.guide else None, given_prior
    if prior is None and not (augments and guide and not config.asks_prior_too):
        prior = load_prior(recipe.prior, None if augments else family, device, config)
    space = partial(_Space, recipe, seeds, picture, cache)
    own = space(prior, recipe.prior.digest) if prior else None
    judge = space(guide, recipe.guide.digest) if guide and recipe.guide else own
    assert judge is not None
    maker: Maker = AugmentMaker(recipe, picture, ordered(seeds))
    if not augments:
        assert prior is not None
        assert own is not None
        space_of_latents = own if prior.latent_is_embedding or prior.guides_itself else judge
        maker = GuidedMaker(
            recipe,
            prior,
            space_of_latents.classifier,
            space_of_latents.embeddings,
            _embed(prior, guide),
            cache,
            ordered(seeds if config.pairs else ()),
            space_of_latents.prototypes if config.prototype_weight else None,
        )
    means = guide is not None or (prior is not None and prior.recognises)
    recognise, look = (judge.recognition, judge.own_class) if means else (None, None)
    if not scored:
        return Models(maker, recognition=recognise, own_class=None if augments else look)
    scorer = Scorer(judge.embedder, judge.classifier, config.decode_batch)
    confirm = Scorer(own.embedder, own.classifier, config.decode_batch) if own and config.asks_prior_too else None
    return Models(maker, scorer, judge.scores, recognise, None if augments else look, confirm=confirm)


def _embed(prior: Prior, guide: Guide | None) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Embeddings of latents: by the guide, of their images; None where the latents are embeddings."""
    if prior.latent_is_embedding:
        return None
    if guide is None or prior.guides_itself:
        return prior.embed
    return lambda latents: guide.embed_pixels(prior.pixels(latents))


@dataclass(frozen=True)
class _Space:
    """Embeddings of images, and what gives them class probabilities: those of a prior's CLIP, or of a guide.

    Attributes:
        recipe: What is made.
        seeds: All seeds.
        picture: Reads a seed's image.
        cache: Keeps the embeddings that a classifier is fitted to.
        embedder: Embeds images, and knows the texts of the classes or has a head of them.
        digest: Of its weights.
    """

    recipe: Recipe
    seeds: Sequence[Seed]
    picture: Callable[[Seed], Image]
    cache: Cache
    embedder: Prior | Guide
    digest: str

    @cached_property
    def embeddings(self) -> SeedEmbeddings:
        """Those of seeds."""
        return SeedEmbeddings(self.embedder, self.picture, self.recipe.config.encode_batch)

    @cached_property
    def text(self) -> ZeroShotClassifier:
        """What knows no seed."""
        return self.embedder.classifier(self.recipe.classes, self.recipe.config)

    @property
    def kind(self) -> str:
        """Which classifier; of a network's own head, no other."""
        return "text" if isinstance(self.text, OwnHead) else self.recipe.config.classifier

    @property
    def fits(self) -> bool:
        """Whether it is fitted to the seeds."""
        return self.recipe.config.fits_classifier and self.kind != "text"

    @cached_property
    def classifier(self) -> ZeroShotClassifier:
        """What guides and scores; it knows the seeds, if it is fitted to them."""
        if not self.fits:
            return self.text
        seeds, rows, labels = self.known()
        self.embeddings.add(seeds, rows)
        fitted = fitted_heads.fit(self.kind, self.text, rows, labels)
        scale = self.recipe.config.logit_scale
        return fitted if scale is None else dataclasses.replace(fitted, logit_scale=scale)

    def scores(self, seeds: Sequence[Seed]) -> torch.Tensor:
        """Class probabilities of seeds, ``(N, C)``."""
        return self.classifier.scores(self.embeddings(seeds)).cpu()

    def known(self) -> Known:
        """Seeds looked at together: all that a classifier is fitted to, if one is; their embeddings are kept then."""
        chosen = fitted_seeds(self.seeds, len(self.recipe.classes))
        if self.fits or self.recipe.config.embeds_all_seeds:
            key = self.recipe.embeddings_key_of(self.digest)
            stored = self.cache.tensors(key, lambda: {"embeddings": self.embeddings(chosen).cpu()})
            rows = stored["embeddings"].to(self.recipe.device)
        else:
            chosen = [chosen[index] for index in evenly(len(chosen), MOST_RECOGNISED)]
            rows = self.embeddings(chosen)
        return chosen, rows, torch.tensor([seed.label for seed in chosen], device=rows.device)

    @cached_property
    def prototypes(self) -> Prototypes:
        """Those of the classes."""
        _, rows, labels = self.known()
        return Prototypes.of(rows, labels, len(self.recipe.classes))

    def own_class(self, copies: Sequence[tuple[Seed, Image]]) -> OwnClass:
        """How many copies look like their class, beside at most ``MOST_RECOGNISED`` seeds and those of the copies."""
        chosen = (*spread(self.seeds, MOST_RECOGNISED), *(seed for seed, _ in copies))
        known = list({seed.key: seed for seed in chosen}.values())
        row = {seed.key: number for number, seed in enumerate(known)}
        rows = self.embeddings(known)
        labels, own = (
            torch.tensor(values, device=rows.device)
            for values in ([seed.label for seed in known], [row[seed.key] for seed, _ in copies])
        )
        shown = self.embeddings.of_images([image for _, image in copies])
        right = fitted_heads.named_right(self.kind, self.text, rows, labels, shown, own)
        of_seeds = fitted_heads.recognised(self.kind, self.text, rows, labels)
        return OwnClass(
            recognition.by_class(self.recipe.classes, labels[own].tolist(), right.tolist()),
            recognition.by_class(self.recipe.classes, labels.tolist(), of_seeds.tolist()),
        )

    def recognition(self) -> Recognition:
        """Count the seeds that the classifier recognises; if these are too few, try the other kinds too."""
        _, rows, labels = self.known()
        right = fitted_heads.recognised(self.kind, self.text, rows, labels).tolist()
        found = recognition.count(self.kind, self.recipe.classes, labels.tolist(), right)
        if not found.weak or isinstance(self.text, OwnHead):
            return found
        others = {
            other: round(float(fitted_heads.recognised(other, self.text, rows, labels).float().mean()), 4)
            for other in recognition.KINDS
            if other != self.kind and (other != "text" or self.text.weights.any())
        }
        return dataclasses.replace(found, others=others)
