"""What every source is, and its seeds: each image read once, and keyed by its pixels."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gif_datasets.chunks import evenly
from gif_datasets.errors import BadImage, SourceError, escaped
from gif_datasets.io import decode, images, jpeg
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.digests import digest_pixels, digest_rows
from gif_datasets.io.threads import ordered_map, threads
from gif_datasets.objects import Objects
from gif_datasets.sources.just_read import JUST_READ
from gif_datasets.sources.known_files import Facts, Identity, KnownFiles, identity_of, known_files
from gif_datasets.sources.seed_table import SeedTable
from gif_datasets.types import Progress, Reading, Seed, no_progress

READ_TWICE = 16
"""Seeds that are read again, to see whether something random is done to them."""
READ_TOGETHER = 8
"""Files that a thread reads in one go, at most; fewer where all threads would not get several turns."""
TURNS = 4
WARNED = 5
"""Samples that a warning names."""


class Source(Protocol):
    """A labelled image dataset as this package reads it."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        ...

    def __len__(self) -> int: ...

    def origin(self, index: int) -> str:
        """Where the sample is, for messages and provenance."""
        ...

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index; raises BadImage."""
        ...


def revision_of(source: Source) -> str:
    """The commit of a source that was read from the Hub; empty for any other."""
    return str(getattr(source, "revision", ""))


def object_classes_of(source: Source) -> tuple[str, ...]:
    """Names of the classes of a source's objects; empty if it has no boxes that can be kept."""
    found: tuple[str, ...] = getattr(source, "object_classes", ())
    return found


def marks_of(source: Source) -> str:
    """What a source has that is lost unless it is kept, such as ``boxes in column 'objects'``; empty if nothing."""
    return str(getattr(source, "marks", ""))


def annotated(source: Source, index: int, masks: bool) -> tuple[Image.Image, int, Objects]:
    """A sample with its objects, in pixels of its image; with masks, or with boxes alone.

    Raises:
        BadImage: If either cannot be read, or an object has no mask where masks are wanted.
    """
    found: tuple[Image.Image, int, Objects] = source.annotated(index, masks)  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True)
class SeedList:
    """The readable samples of a source, and a message for each of the others."""

    seeds: Sequence[Seed]
    bad: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Digest of every seed's key and label, in order."""
        return digest_rows([seed.key, seed.label] for seed in self.seeds)


def seed_image(source: Source, seed: Seed) -> Image.Image:
    """The image of a seed, read again: whatever is made of it is filed under its key, so its pixels must be that key's.

    Raises:
        BadImage: If it can no longer be read.
        SourceError: If its pixels are others than when it was listed.
    """
    if (plain := plain_image(source, seed)) is not None:
        return plain
    image = source.sample(seed.index)[0]
    if digest_pixels(np.asarray(image)) != seed.key:
        raise changed(source, seed)
    return image


def plain_image(source: Source, seed: Seed) -> Image.Image | None:
    """:func:`seed_image` as any thread may call it: None where that takes a dataset's own code, care, or an error."""
    if (listed := _just_read(source, seed)) is not None:
        return Image.fromarray(listed)
    pixels = plain_pixels(source, seed.index)
    return None if pixels is None or digest_pixels(pixels) != seed.key else Image.fromarray(pixels)


def _just_read(source: Source, seed: Seed) -> NDArray[np.uint8] | None:
    """The pixels of a seed as listing has decoded them, if its file is still the same."""
    identity = identity_of(source, seed.index) if JUST_READ else None
    return None if identity is None else JUST_READ.take((identity, max_side_of(source)), seed.key)


def plain_pixels(source: Source, index: int, scratch: decode.Scratch | None = None) -> NDArray[np.uint8] | None:
    """The pixels of a sample that is a plain file, which any number of threads may read at once; None for any other."""
    with contextlib.suppress(Exception):  # who reads it with care says what
        content = file_of(source, index)
        return None if content is None else decode.plain(content, scratch, max_side_of(source))
    return None


def jpeg_as_it_is(source: Source, seed: Seed) -> bytes | None:
    """The JPEG file that a seed is, without its metadata, if every reader finds the seed's own pixels in it."""
    with contextlib.suppress(Exception):  # as above
        content = file_of(source, seed.index)
        found = None if content is None else jpeg.bare(content)
        pixels = None if found is None else decode.plain(found)
        if pixels is not None and digest_pixels(pixels) == seed.key:
            return found
    return None


def max_side_of(source: Source) -> int | None:
    """The longest side to which a source reduces its images; None if it leaves them as they are."""
    found: int | None = getattr(source, "max_side", None)
    return found


def file_of(source: Source, index: int) -> bytes | None:
    """The file of a sample, whose image, upright and reduced, is that of the sample; None if the source has none."""
    read = getattr(source, "file", None)
    found: bytes | None = None if read is None else read(index)
    return found


def has_file(source: Source, index: int) -> bool:
    """Whether a sample is a file, to which nothing random is done."""
    return hasattr(source, "entry") or (hasattr(source, "file") and file_of(source, index) is not None)


def label_at(source: Source, index: int) -> int:
    """The class index of a sample that has a file; raises BadImage if it has none."""
    found: int = source.label_at(index)  # type: ignore[attr-defined]
    return found


def changed(source: Source, seed: Seed) -> SourceError:
    """The error of a seed whose image is another one now."""
    return SourceError(
        f"{seed.origin} of {source.name} has changed since the images were listed, and nothing is made of it;"
        " restore it, or start again with the images as they are now"
    )


def refuse_bad(listed: SeedList, on_bad_image: str) -> None:
    """Raise BadImage for the first unreadable sample when ``on_bad_image`` is ``"stop"``."""
    if listed.bad and on_bad_image == "stop":
        raise BadImage(f"{listed.bad[0]} (to go on without it: --set on_bad_image=skip)")


def warn_of_bad(listed: SeedList) -> None:
    """Warn the caller of the caller of the samples that are left out: how many, and the first of them."""
    if listed.bad:
        count, rest = len(listed.bad), len(listed.bad) - WARNED
        names = "; ".join([*listed.bad[:WARNED], *([f"and {rest:,} more"] if rest > 0 else [])])
        warnings.warn(escaped(f"left out {count:,} of {count + len(listed.seeds):,} images: {names}"), stacklevel=3)


def list_seeds(
    source: Source,
    limit: int | None = None,
    show: Progress = no_progress,
    title: Reading = Reading.SEEDS,
    cache: Cache | None = None,
    keep: str | None = None,
) -> SeedList:
    """Read every image of ``source`` once; key it by its pixels.

    Args:
        source: The seed dataset.
        limit: Take this many, spread evenly over the source.
        show: Wraps the loop, for a progress bar.
        title: What the bar says.
        cache: Where the keys of a folder's files are kept, so that they need not be read again.
        keep: ``"boxes"`` or ``"masks"`` to read them, too.

    Raises:
        SourceError: If nothing can be read, or labels and class names disagree.
    """
    count = len(source)
    indices = range(count) if limit is None else evenly(count, limit)
    of_seeds = getattr(source, "seed_warnings", ()) if title == Reading.SEEDS else ()
    for text in (*of_seeds, *getattr(source, "warnings", ())):
        warnings.warn(escaped(f"{source.name}: {text}"), stacklevel=2)
    bad: list[str] = list(getattr(source, "unreadable", ()))
    negative: set[int] = set()
    known = known_files(source, cache)
    if title == Reading.SEEDS:
        JUST_READ.forget()
    seeds = SeedTable.of(_readable(source, show(indices, title), known, bad, negative, keep))
    known.keep(whole=limit is None)
    if limit is None or len(source.classes) <= 2:  # of more, chance may have taken all but one
        _refuse_shifted(source, seeds, negative)
    if not seeds:
        raise SourceError(f"no readable image in {source.name}" + (f"; the first: {bad[0]}" if bad else ""))
    for seed in (seeds[place] for place in evenly(len(seeds), READ_TWICE)):
        if not has_file(source, seed.index) and digest_pixels(np.asarray(source.sample(seed.index)[0])) != seed.key:
            raise SourceError(f"{source.name} gives other pixels each time; take its random transforms away")
    return SeedList(seeds, tuple(bad))


def _refuse_shifted(source: Source, seeds: SeedTable, negative: set[int]) -> None:
    """Refuse labels below 0 if they may be classes: with them, there are as many labels as classes, or one class alone.

    Otherwise they say that there is no label, as in datasets of which a part is labelled.
    """
    labels = sorted({*negative, *np.unique(seeds.labels).tolist()})
    if negative and (len(labels) == len(source.classes) or len(labels) - len(negative) < 2):
        raise SourceError(
            f"{source.name} has the labels {', '.join(map(str, labels[:10]))}, and labels count classes from 0; number"
            f" the classes 0 to {max(len(labels), 2) - 1}, or leave out the images that have no label"
        )


def _readable(
    source: Source, indices: Iterable[int], known: KnownFiles, bad: list[str], negative: set[int], keep: str | None
) -> Iterator[Seed]:
    """Seeds of the images that can be read; a message for each other one goes into ``bad``.

    Labels below 0, which name no class, are put into ``negative``.
    """
    is_synthetic = getattr(source, "is_synthetic", _real)
    looked_at = ((index, None, None) for index in indices) if keep else _looked_at(source, indices, known)
    for index, identity, found in looked_at:
        origin, objects = source.origin(index), None
        try:
            if keep:
                image, label, objects = annotated(source, index, keep == "masks")
                found = _facts(np.asarray(image))
            elif found is None:
                image, label = source.sample(index)
                found = _facts(np.asarray(image))
            else:
                label = label_at(source, index)
        except BadImage as error:
            bad.append(str(error))
            continue
        assert found is not None
        known.note(identity, found)
        if label < 0:
            negative.add(label)
            bad.append(f"{origin}: no label ({label})")
            continue
        if label >= len(source.classes):
            raise SourceError(f"{origin} has label {label}, but {source.name} names {len(source.classes)} classes")
        yield Seed(index, found[0], label, origin, is_synthetic(index), found[1], objects)


def _looked_at(
    source: Source, indices: Iterable[int], known: KnownFiles
) -> Iterator[tuple[int, Identity | None, Facts | None]]:
    """Each index, with the identity and the facts of its file: known, or read by a thread; None for what takes care.

    What is read is also kept, as long as there is room, for who uses it next.
    """
    if not hasattr(source, "file"):
        yield from ((index, None, None) for index in indices)
        return

    scratch, side = decode.Scratch(), max_side_of(source)

    def look(part: Sequence[int]) -> list[tuple[int, Identity | None, Facts | None]]:
        return [one(index) for index in part]

    def one(index: int) -> tuple[int, Identity | None, Facts | None]:
        identity = identity_of(source, index)
        found = known.of(identity)
        if found is None and (pixels := plain_pixels(source, index, scratch)) is not None:
            found = _facts(pixels)
            if identity is not None and known.would_show(identity):
                JUST_READ.keep((identity, side), found[0], pixels)
        return index, identity, found

    rest, together = iter(indices), max(1, min(READ_TOGETHER, len(source) // (TURNS * threads())))
    parts = iter(lambda: list(islice(rest, together)), [])
    for part in ordered_map(look, parts):
        yield from part


def _facts(pixels: NDArray[np.uint8]) -> Facts:
    return digest_pixels(pixels), images.is_grey(pixels)


def _real(index: int) -> bool:
    """Of a source that does not say: its images count as real."""
    return False
