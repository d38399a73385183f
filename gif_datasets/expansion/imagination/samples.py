"""Images as samples: encoded, with what was found and where they come from."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gif_datasets.expansion.recipe import Recipe
from gif_datasets.io import images
from gif_datasets.types import OBJECTS, Provenance, Sample, Seed

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_NO_PARTNER = {"partner_key": "", "partner_label": -1, "partner_share": 0.0}


@dataclass(frozen=True)
class Verdict:
    """Scores of a candidate's image, if it was scored; whether it passes, its rank, and the class asked of it.

    ``settles`` says whether no other draw is made once one passes.
    """

    scores: torch.Tensor | None = None
    passed: bool = True
    rank: float = 0.0
    held_class: int | None = None
    settles: bool = True


def make_sample(
    recipe: Recipe,
    seed: Seed,
    copy: int,
    attempts: int,
    picture: Image | bytes,
    fields: dict[str, Any],
    verdict: Verdict,
) -> Sample:
    """Encode an image and write down where it comes from.

    Args:
        recipe: How it was made.
        seed: Of what.
        copy: Which copy it is; 0 for the seed itself.
        attempts: How often it was drawn.
        picture: What was drawn; or a file that is stored as it is.
        fields: Extra provenance fields, from its maker.
        verdict: The verdict of its check.
    """
    config = recipe.config
    image = picture
    if not isinstance(image, bytes):
        image = images.encode(np.asarray(picture), config.image_format, config.jpeg_quality, config.webp_effort)
    provenance = Provenance(
        synthetic=copy > 0 or seed.synthetic,
        seed_key=seed.key,
        seed_index=seed.index,
        seed_origin=seed.origin,
        copy=copy,
        label=seed.label,
        class_name=recipe.classes[seed.label],
        method=config.method if copy else "none",
        prior=recipe.prior.name,
        prior_digest=recipe.prior.digest,
        recipe=recipe.digest,
        rng_seed=config.rng_seed,
        image_sha256=hashlib.sha256(image).hexdigest(),
        attempts=attempts,
        passed=verdict.passed,
        **{
            **_NO_PARTNER,
            "held_class": seed.label if verdict.held_class is None else verdict.held_class,
            **_picture_fields(verdict.scores, seed.label),
            OBJECTS: None if copy else seed.objects,
            **fields,
        },
    )
    return Sample(image, provenance)


def _picture_fields(scores: torch.Tensor | None, label: int) -> dict[str, Any]:
    if scores is None:
        return {"picture_class": -1, "picture_consistency": 0.0, "picture_entropy": 0.0}
    from gif_datasets.guidance.criteria import entropy

    return {
        "picture_class": int(scores.argmax()),
        "picture_consistency": round(float(scores[label]), 6),
        "picture_entropy": round(float(entropy(scores)), 6),
    }


def relabelled(sample: Sample, seed: Seed) -> Sample:
    """A cached sample under this source's index and origin: the same image may lie elsewhere in another source."""
    provenance = dataclasses.replace(
        sample.provenance, seed_index=seed.index, seed_origin=seed.origin, label=seed.label
    )
    return Sample(sample.image, provenance)
