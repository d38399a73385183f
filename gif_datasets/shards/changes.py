"""What changed in the images of a source since a folder was made of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from gif_datasets.errors import ShardError
from gif_datasets.io.stores import AnyPath
from gif_datasets.shards import tar
from gif_datasets.types import Provenance, Seed


def first_change(folder: AnyPath, seeds: Iterable[Seed], count: int) -> str:
    """The first image of a source that is added, removed or changed since a folder was made of it, with what it is.

    The shards that are there tell what it was made of; those of a store, which would have to be fetched, are not asked.

    Args:
        folder: The folder, finished or not.
        seeds: What the source has now, in its order.
        count: How many seeds the folder was to be made of. While its shards have fewer, one that they do not have may
            be old, and is not called new.

    Returns:
        A text such as ``pear/3.png has other pixels``; empty if nothing is known to differ.
    """
    before = {_identity(seed): seed for seed in _stored(folder)}
    now = {_identity(seed): seed for seed in seeds}
    gone = [seed for identity, seed in before.items() if identity not in now]
    new = [seed for identity, seed in now.items() if identity not in before]
    names_before, names_now = ({seed.origin: seed for seed in part} for part in (gone, new))
    found = [
        (seed.index, f"{seed.origin} {_what(seed, names_before[seed.origin])}")
        for seed in new
        if seed.origin in names_before
    ]
    found += [(seed.index, f"{seed.origin} is gone") for seed in gone if seed.origin not in names_now]
    if len(before) == count:
        found += [(seed.index, f"{seed.origin} is new") for seed in new if seed.origin not in names_before]
    return min(found)[1] if found else ""


def _identity(seed: Seed) -> tuple[str, str, int]:
    return seed.origin, seed.key, seed.label


def _what(now: Seed, before: Seed) -> str:
    return "has another label" if now.key == before.key else "has other pixels"


def _stored(folder: AnyPath) -> Iterator[Seed]:
    """The seeds of the samples in a folder's shards, each once; damaged shards are passed over."""
    seen = set[int]()
    for path in sorted((folder / "data").glob("*.tar")) if isinstance(folder, Path) else ():
        with contextlib.suppress(ShardError, OSError), path.open("rb") as file:
            for entry in tar.entries(path):
                number = (tar.parse_key(entry.key) or ("", -1, 0))[1]
                if number not in seen and "json" in entry.members:
                    seen.add(number)
                    offset, size = entry.members["json"]
                    file.seek(offset)
                    yield _seed_of(tar.read_record(file.read(size), entry.key))


def _seed_of(record: Provenance) -> Seed:
    return Seed(record.seed_index, record.seed_key, record.label, record.seed_origin)
