"""The models of a recipe, in memory: what makes candidates, and what scores images and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch

from gif_datasets.chunks import evenly
from gif_datasets.expansion.candidates import AugmentMaker, GuidedMaker, Maker
from gif_datasets.expansion.recipe import Recipe, fitted_seeds, ordered, spread
from gif_datasets.expansion.scoring import Scorer, SeedEmbeddings
from gif_datasets.guidance import fitted_heads, recognition
from gif_datasets.guidance.recognition import OwnClass, Recognition
from gif_datasets.io.cache.store import Cache
from gif_datasets.methods import AUGMENT, METHODS
from gif_datasets.priors import load_prior
from gif_datasets.types import Seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from gif_datasets.guidance.zeroshot import ZeroShotClassifier
    from gif_datasets.priors.base import Prior

MOST_RECOGNISED = 200  # seeds that are embedded to see whether a classifier of texts alone recognises them

Known: TypeAlias = "tuple[list[Seed], torch.Tensor, torch.Tensor]"
"""Seeds, their embeddings ``(N, D)`` and their labels ``(N,)``."""


@dataclass(frozen=True)
class Models:
    """What makes candidates, and what scores images and seeds, where any are scored.

    ``own_class`` says of finished copies, each with its seed, how many look like their class.
    """

    maker: Maker
    scorer: Scorer | None = None
    seed_scores: Callable[[Sequence[Seed]], torch.Tensor] | None = None
    recognition: Callable[[], Recognition] | None = None
    own_class: Callable[[Sequence[tuple[Seed, Image]]], OwnClass] | None = None


def load_models(
    recipe: Recipe,
    seeds: Sequence[Seed],
    picture: Callable[[Seed], Image],
    cache: Cache,
    given_prior: Prior | None = None,
) -> Models:
    """Load what a recipe needs; no prior where nothing is asked of one.

    Args:
        recipe: What is made.
        seeds: All seeds, for what depends on more of them than one.
        picture: Reads a seed's image.
        cache: Keeps the embeddings that a classifier is fitted to.
        given_prior: A prior that is loaded already.
    """
    config, family = recipe.config, METHODS[recipe.config.method].family
    augments, scored = family == AUGMENT, config.check != "none" or config.measure_pictures
    if augments and not scored:
        return Models(AugmentMaker(recipe, picture, ordered(seeds)))
    prior = given_prior or load_prior(recipe.prior, None if augments else family, torch.device(recipe.device), config)
    embeddings = SeedEmbeddings(prior, picture, config.encode_batch)
    known = partial(_known_seeds, recipe, seeds, cache, embeddings)
    text = classifier = prior.classifier(recipe.classes, config)
    if config.fits_classifier:
        classifier = _fitted(recipe, text, embeddings, known())
    recognise = partial(_recognise, recipe, text, known) if prior.recognises else None
    maker: Maker = (
        AugmentMaker(recipe, picture, ordered(seeds))
        if augments
        else GuidedMaker(recipe, prior, classifier, embeddings, cache)
    )
    look = partial(_own_class, recipe, text, seeds, embeddings) if prior.recognises and not augments else None
    if not scored:
        return Models(maker, recognition=recognise, own_class=look)
    scorer = Scorer(prior, classifier, config.decode_batch)
    return Models(maker, scorer, lambda asked: classifier.scores(embeddings(asked)).cpu(), recognise, look)


def _known_seeds(recipe: Recipe, seeds: Sequence[Seed], cache: Cache, embeddings: SeedEmbeddings) -> Known:
    """Seeds looked at together: all that a classifier is fitted to, if one is; their embeddings are kept then."""
    chosen = fitted_seeds(seeds, len(recipe.classes))
    if recipe.config.fits_classifier:
        stored = cache.tensors(recipe.embeddings_key, lambda: {"embeddings": embeddings(chosen).cpu()})
        rows = stored["embeddings"].to(recipe.device)
    else:
        chosen = [chosen[index] for index in evenly(len(chosen), MOST_RECOGNISED)]
        rows = embeddings(chosen)
    return chosen, rows, torch.tensor([seed.label for seed in chosen], device=rows.device)


def _own_class(
    recipe: Recipe,
    text: ZeroShotClassifier,
    seeds: Sequence[Seed],
    embeddings: SeedEmbeddings,
    copies: Sequence[tuple[Seed, Image]],
) -> OwnClass:
    """How many copies look like their class, beside at most ``MOST_RECOGNISED`` seeds and those of the copies."""
    kind = recipe.config.classifier
    chosen = (*spread(seeds, MOST_RECOGNISED), *(seed for seed, _ in copies))
    known = list({seed.key: seed for seed in chosen}.values())
    row = {seed.key: number for number, seed in enumerate(known)}
    rows = embeddings(known)
    labels, own = (
        torch.tensor(values, device=rows.device)
        for values in ([seed.label for seed in known], [row[seed.key] for seed, _ in copies])
    )
    right = fitted_heads.named_right(
        kind, text, rows, labels, embeddings.of_images([image for _, image in copies]), own
    )
    of_seeds = fitted_heads.recognised(kind, text, rows, labels)
    return OwnClass(
        recognition.by_class(recipe.classes, labels[own].tolist(), right.tolist()),
        recognition.by_class(recipe.classes, labels.tolist(), of_seeds.tolist()),
    )


def _fitted(recipe: Recipe, text: ZeroShotClassifier, embeddings: SeedEmbeddings, known: Known) -> ZeroShotClassifier:
    """The classifier that knows the seeds."""
    seeds, rows, labels = known
    embeddings.add(seeds, rows)
    fitted = fitted_heads.fit(recipe.config.classifier, text, rows, labels)
    scale = recipe.config.logit_scale
    return fitted if scale is None else dataclasses.replace(fitted, logit_scale=scale)


def _recognise(recipe: Recipe, text: ZeroShotClassifier, known: Callable[[], Known]) -> Recognition:
    """Count the seeds that the classifier recognises; if these are too few, try the other kinds too."""
    (_, rows, labels), kind = known(), recipe.config.classifier
    right = fitted_heads.recognised(kind, text, rows, labels).tolist()
    found = recognition.count(kind, recipe.classes, labels.tolist(), right)
    if not found.weak:
        return found
    others = {
        other: round(float(fitted_heads.recognised(other, text, rows, labels).float().mean()), 4)
        for other in recognition.KINDS
        if other != kind
    }
    return dataclasses.replace(found, others=others)
