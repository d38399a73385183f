"""Values that modules pass to each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from gif_datasets.objects import Objects

Progress = Callable[..., Any]
"""``progress(iterable, title, total=None)`` returns the iterable, wrapped."""


class Reading(str, Enum):
    """Titles of the loops that read and check input; work that makes something starts after them."""

    SEEDS = "reading seeds"
    VALIDATION = "reading validation set"
    TEST = "reading test set"
    DUPLICATES = "looking for duplicates"

    def __str__(self) -> str:
        return self.value


PLAN_FILE = "plan.json"
"""Written first into an expanded folder; marks it as one."""


def no_progress(rows: Any, title: str, total: int | None = None) -> Any:
    """The :data:`Progress` that shows nothing."""
    return rows


def silently(text: str) -> None:
    """Ignore the message."""


@dataclass(frozen=True)
class Seed:
    """One seed sample, without its pixels.

    Attributes:
        index: Position in the source.
        key: Content key: digest of size and RGB pixels.
        label: Class index, into the source's ``classes``.
        origin: Where the source has it (a relative path, or ``row 17``), for messages and provenance.
        synthetic: Whether it is an imagined image itself, of an expansion that is expanded again.
        grey: Whether the channels of its image are equal; those of its copies are then equal too.
        objects: What is marked in its image, where that is kept.
        copies: How many copies a plan makes of it, where seeds have different numbers of them; else None.
    """

    index: int
    key: str
    label: int
    origin: str
    synthetic: bool = False
    grey: bool = False
    objects: Objects | None = None
    copies: int | None = None


OBJECTS = "objects"
"""The field of a record that only some expansions have: see :class:`~gif_datasets.objects.Objects`."""

Row = tuple[Seed, int]
"""A seed sample and the number of one of its copies, from 1; 0 is the seed itself."""


@dataclass(frozen=True)
class Provenance:
    """Where one sample of an expanded dataset comes from; its ``KEY.json``.

    Every field is present, with one type, in every sample, so that any reader infers one schema. For a seed sample
    (``copy`` 0) criteria before and after are those of its own image, and diversity is 0.

    Attributes:
        synthetic: False for a real image; true for an imagined copy, also where it is the seed of another one.
        seed_key: Content key of the seed sample.
        seed_index: Its position in the source; a validation source's images count on after the source's own.
        seed_origin: Where the source has it.
        copy: 0 for the seed itself, 1 to K for its imagined copies.
        label: Class index, the seed's.
        class_name: Its name.
        method: Method that made the sample; ``"none"`` for a seed.
        prior: Name of the prior.
        prior_digest: Digest of its weights, its CLIP's included.
        recipe: Digest of everything but the seed that decides the pixels.
        rng_seed: The run's number.
        image_sha256: Digest of the stored image file.
        attempts: Number of draws; 0 for a seed.
        passed: Whether the image passed its check, or there was no check; false if every draw failed, and the one
            with the highest probability of its class was kept.
        partner_key: Content key of the other seed that a mix shows; empty without one.
        partner_label: That seed's class index; -1 without one.
        partner_share: Share of the image's area that is the other seed's.
        picture_class: Most probable class of the image itself; -1 if it was not scored.
        picture_consistency: Probability of its label, given the image.
        picture_entropy: Entropy of the prediction for the image, nats.
        held_class: Class that prediction consistency was measured on, or the check; the label, where nothing was.
        consistency_before: Probability of that class on the randomly perturbed latent that guidance starts from.
        consistency_after: On the latent that was decoded.
        entropy_before: Prediction entropy of the latent that guidance starts from, nats.
        entropy_after: Of the latent that was decoded, nats.
        diversity_before: KL from the mean of the copies, where guidance starts, nats.
        diversity_after: Of those that were decoded, nats.
        objects: Boxes and masks in the stored image, where they are kept; the record of others has no such field.
    """

    synthetic: bool
    seed_key: str
    seed_index: int
    seed_origin: str
    copy: int
    label: int
    class_name: str
    method: str
    prior: str
    prior_digest: str
    recipe: str
    rng_seed: int
    image_sha256: str
    attempts: int
    passed: bool
    partner_key: str
    partner_label: int
    partner_share: float
    picture_class: int
    picture_consistency: float
    picture_entropy: float
    held_class: int
    consistency_before: float
    consistency_after: float
    entropy_before: float
    entropy_after: float
    diversity_before: float
    diversity_after: float
    objects: Objects | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        value = dict(vars(self))
        objects = value.pop(OBJECTS)
        return value if objects is None else {**value, OBJECTS: objects.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Provenance:
        """Rebuild from :meth:`to_json`.

        Raises:
            TypeError: If a field is missing, unknown or of another type.
            ValueError: If a number is NaN, infinite or too large, or a text has half of a surrogate pair.
        """
        marked = {OBJECTS: Objects.from_json(value[OBJECTS])} if OBJECTS in value else {}
        record = cls(**{**value, **marked})
        for name, kind in _provenance_types().items():
            found = getattr(record, name)
            if type(found) is not kind:
                raise TypeError(f"{name} must be {kind.__name__}, got {found!r:.60}")
            if (most := _LARGEST.get(kind)) and not abs(getattr(record, name)) <= most:  # NaN is in no order
                raise ValueError(f"{name} is {found!r:.60}, which is not the number of a sample")
            if kind is str:
                getattr(record, name).encode()
        return record


_LARGEST: dict[type, float] = {int: 2**63 - 1, float: 1e9}
"""Of the numbers in a record: other readers have 64-bit integers; floats are probabilities, shares and nats, and
sums of these must stay finite."""


@functools.cache
def _provenance_types() -> dict[str, type]:
    return {name: kind for name, kind in get_type_hints(Provenance).items() if name != OBJECTS}


@dataclass(frozen=True)
class Sample:
    """One encoded sample: image file bytes and where they come from."""

    image: bytes
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class ItemTable:
    """What an order may depend on: one entry per sample.

    Attributes:
        labels: Class index, ``(N,)`` int.
        synthetic: Whether it is an imagined copy, ``(N,)`` bool.
        seeds: Number of the seed sample it is or comes from, ``(N,)`` int.
    """

    labels: NDArray[np.integer]
    synthetic: NDArray[np.bool_]
    seeds: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Sequence[int]) -> ItemTable:
        chosen = np.asarray(rows, dtype=np.int64)
        return ItemTable(self.labels[chosen], self.synthetic[chosen], self.seeds[chosen])


def item_table(dataset: object) -> ItemTable | None:
    """The item table of a dataset of this package, through any ``Subset``; None for other datasets."""
    table = getattr(dataset, "facts", None)
    if isinstance(table, ItemTable):
        return table
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        inner = item_table(dataset.dataset)
        return None if inner is None else inner[list(dataset.indices)]
    return None


VALIDATION = "validation"
"""Name of the split that is held out."""


EXPORTED = "export.json"
"""Written last into an export; marks it as one."""


CLASSIFIER_FILE = "classifier.json"
OWN_CLASS_FILE = "own_class.json"
"""File of an expanded folder with the result of :meth:`Recognition.to_json`."""
