"""The test set: none of its images are among the seeds or in the training data of a prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gif_datasets.comparison.images_once import ImagesOnce
from gif_datasets.errors import ConfigError, SourceError
from gif_datasets.io.duplicates import BITS, near_duplicates, spectra
from gif_datasets.options import closest
from gif_datasets.priors import PriorInfo
from gif_datasets.sources.base import SeedList, Source, list_seeds
from gif_datasets.sources.identity import is_part_of
from gif_datasets.sources.joined import JoinedSource
from gif_datasets.types import Progress, Reading, Seed

SHARED = ("refuse", "drop", "allow")


@dataclass(frozen=True)
class TestSet:
    """A test set.

    Attributes:
        source: The seeds' source, followed by the test source; labels are those of the seeds' source.
        name: Name of the test source.
        seeds: Its images, as ``source`` counts them.
        left_out: A message for each image that was left out, because it is also among the seeds.
        bad: A message for each image that cannot be read.
        images: Images of ``source``, of seeds and test images alike.
    """

    source: Source
    name: str
    seeds: tuple[Seed, ...]
    left_out: tuple[str, ...]
    bad: tuple[str, ...]
    images: ImagesOnce


def read_test_set(source: Source, listed: SeedList, test: Source, shared: str, show: Progress) -> TestSet:
    """Read a test set, and look for its images among the seeds: the same pixels, and the same to the eye.

    Args:
        source: The seeds' source.
        listed: The seeds.
        test: The test source; its classes are found in ``source`` by name.
        shared: What to do with images that both show: ``"refuse"`` the test set, ``"drop"`` them from it, or
            ``"allow"`` them.
        show: Wraps the loops.

    Raises:
        SourceError: If its classes or images do not fit.
    """
    if shared not in SHARED:
        raise ConfigError(f"unknown shared {shared!r}{closest(shared, SHARED)}")
    joined = JoinedSource(source, test, "test set")
    listed_tests = list_seeds(test, None, show, Reading.TEST)
    seeds = joined.validation_seeds(listed_tests)
    for name, rows in ((source.name, listed.seeds), (test.name, seeds)):
        synthetic = next((seed for seed in rows if seed.synthetic), None)
        if synthetic is not None:
            raise SourceError(f"{name} holds imagined images, such as {synthetic.origin}; compare takes only real ones")
    images = ImagesOnce(joined)
    same = {} if shared == "allow" else _same(images, listed.seeds, seeds, show)
    if same and (shared == "refuse" or len(same) == len(seeds)):
        ways = "give a test set of other images" + (", or --shared drop to leave these out" if shared != "drop" else "")
        raise SourceError(
            f"{len(same)} of {len(seeds)} images of the test set {test.name} are among the seeds of {source.name};"
            f" the first: {next(iter(same.values()))}; {ways} (--shared allow to keep them)"
        )
    kept = tuple(seed for number, seed in enumerate(seeds) if number not in same)
    return TestSet(joined, test.name, kept, tuple(same.values()), listed_tests.bad, images)


def _same(images: ImagesOnce, seeds: Sequence[Seed], tests: Sequence[Seed], show: Progress) -> dict[int, str]:
    """Those test images that the seeds show too, by number, with what is the same."""
    origins = {seed.key: seed.origin for seed in seeds}
    known = np.stack([spectra(images.look(seed)) for seed in show(seeds, Reading.DUPLICATES)])
    asked = [spectra(images.look(test)) for test in show(tests, Reading.DUPLICATES)]
    near = near_duplicates(known, asked)
    same = {}
    for number, test in enumerate(tests):
        if test.key in origins:
            same[number] = f"{test.origin} has the pixels of {origins[test.key]}"
        elif number in near:
            nearest, bits = near[number]
            same[number] = f"{test.origin} looks like {seeds[nearest].origin} ({bits} of {BITS} bits differ)"
    return same


def refuse_seen(test: Any, prior: PriorInfo) -> None:
    """Refuse a test source that the prior's card names as training data.

    Args:
        test: The test source's text, or a dataset of torchvision's, below a ``Subset`` too; of others nothing is known.
        prior: The prior.

    Raises:
        SourceError: If the card names it.
    """
    for listed in prior.training_sources:
        if is_part_of(test, listed):
            raise SourceError(
                f"prior {prior.name!r} was trained on {listed}, which contains the test set: it would be tested on its"
                " training data; give another test set, or --allow-seen"
            )
