"""Seeds that are held out: never expanded, written untouched, no image of theirs among the expanded ones."""

from __future__ import annotations

from collections.abc import Sequence

from gif_datasets.io.digests import digest
from gif_datasets.types import Seed


def hold_out(seeds: Sequence[Seed], share: float, rng_seed: int) -> tuple[tuple[Seed, ...], tuple[Seed, ...]]:
    """Split seeds into those that are expanded and those that are held out, class by class.

    Which images are held out depends on their pixels and ``rng_seed`` alone, not on names or order; equal images
    stay together. With a share above 0, a class of at least two different images has one on either side.

    Args:
        seeds: All seeds.
        share: Share of each class's different images to hold out.
        rng_seed: The run's number; another one holds out others.

    Returns:
        The seeds to expand and those held out, each in the order given.

    Example:
        >>> seeds = [Seed(i, f"key{i}", i % 2, f"row {i}") for i in range(8)]
        >>> train, validation = hold_out(seeds, 0.25, rng_seed=0)
        >>> len(train), sorted(seed.label for seed in validation)
        (6, [0, 1])
    """
    if share == 0:
        return tuple(seeds), ()
    label_of: dict[str, int] = {}
    for seed in seeds:  # an image that is there under several labels counts for the lowest
        label_of[seed.key] = min(seed.label, label_of.get(seed.key, seed.label))
    keys: dict[int, list[str]] = {}
    for key, label in label_of.items():
        keys.setdefault(label, []).append(key)
    held: set[str] = set()
    for members in keys.values():
        members.sort(key=lambda key: digest(["validation", rng_seed, key]))
        held.update(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    return tuple(s for s in seeds if s.key not in held), tuple(s for s in seeds if s.key in held)


def without(seeds: Sequence[Seed], held: Sequence[Seed]) -> tuple[tuple[Seed, ...], tuple[str, ...]]:
    """Leave out the seeds whose image is held out too; returns the others, and a message for each left out."""
    origins = {seed.key: seed.origin for seed in held}
    kept = tuple(seed for seed in seeds if seed.key not in origins)
    same = (seed for seed in seeds if seed.key in origins)
    return kept, tuple(f"{s.origin}: the same image as {origins[s.key]} of the validation set" for s in same)
