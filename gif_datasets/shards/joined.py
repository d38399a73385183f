"""Several expanded folders read as one: seeds once, with the copies of all, each with its provenance.

They are of one source, expanded by several methods or ratios; or of several sources whose classes are matched by name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gif_datasets.errors import ShardError, UsageError
from gif_datasets.io.digests import digest
from gif_datasets.prompts import canonical
from gif_datasets.ratios import MAX_RATIO
from gif_datasets.shards import index, tar
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.index import Index
from gif_datasets.shards.manifest import RecipeRecord, withdrawn_digest
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import LeftOut, split_of_key
from gif_datasets.types import VALIDATION, Provenance

Ints = NDArray[np.int64]
NAMED = 5
"""Classes that an error names."""


@dataclass(frozen=True)
class JoinedSeed:
    """A seed of a folder: its number there, what it is, and whether it is held out."""

    number: int
    key: str
    label: int
    origin: str
    held: bool

    @property
    def identity(self) -> tuple[bool, str, int]:
        """What is equal in two folders."""
        return self.held, self.key, self.label


@dataclass(frozen=True, eq=False)
class Member:
    """One of the folders.

    Attributes:
        folder: The folder.
        classes: Class names of the whole.
        labels: The whole's label of each of its labels.
        seeds: The whole's number of each of its seeds, by ``seed_index``.
        origins: Where the whole's seeds are from, likewise, if that is not what it says itself.
        brings: By ``seed_index``, whether the seed itself is taken from this folder, not from an earlier one.
        copies: What is added to the number of each of its copies.
    """

    folder: ExpandedFolder
    classes: tuple[str, ...]
    labels: Ints
    seeds: Ints
    origins: Mapping[int, str]
    brings: NDArray[np.bool_]
    copies: int

    def split(self, held: bool) -> str | None:
        """The folder's name of the expanded split, or of what is held out; None if nothing is."""
        manifest = self.folder.manifest
        return (VALIDATION if manifest.validation else None) if held else manifest.split

    def kept(self, entries: Index) -> NDArray[np.bool_]:
        """Which entries of its index are in the whole."""
        kept: NDArray[np.bool_] = (entries.copy > 0) | self.brings[entries.seed]
        return kept

    def moved(self, entries: Index) -> Index:
        """Entries with the labels and numbers of the whole."""
        return dataclasses.replace(
            entries,
            label=self.labels[entries.label].astype(np.int32),
            seed=self.seeds[entries.seed].astype(np.int32),
            copy=np.where(entries.copy > 0, entries.copy + self.copies, 0).astype(np.int32),
        )

    def record(self, record: Provenance) -> Provenance:
        """A record with the labels and numbers of the whole; how its image was made stays.

        Raises:
            ShardError: If it names a seed or a class that its folder has not.
        """
        highest = max(record.label, record.partner_label, record.picture_class, record.held_class)
        if not 0 <= record.seed_index < len(self.seeds) or record.label < 0 or highest >= len(self.labels):
            place = self.folder.path
            raise ShardError(
                f"a record in {place} names a seed or a class that is not there; run: gif-datasets verify {place}"
            )

        def moved(label: int) -> int:
            return int(self.labels[label]) if label >= 0 else label

        label = moved(record.label)
        return dataclasses.replace(
            record,
            label=label,
            class_name=self.classes[label],
            partner_label=moved(record.partner_label),
            picture_class=moved(record.picture_class),
            held_class=moved(record.held_class),
            seed_index=int(self.seeds[record.seed_index]),
            seed_origin=self.origins.get(record.seed_index, record.seed_origin),
            copy=record.copy + self.copies * (record.copy > 0),
        )

    def left_out(self, entry: LeftOut) -> LeftOut:
        """The same of a sample that was left out."""
        key, label, number, origin = entry.seed
        seed = key, int(self.labels[label]), int(self.seeds[number]), self.origins.get(number, origin)
        return dataclasses.replace(entry, seed=seed, copy=entry.copy + self.copies * (entry.copy > 0))


@dataclass(frozen=True)
class Joined:
    """How folders go together.

    Attributes:
        members: The folders.
        same_seeds: Whether all have the same seeds.
    """

    members: tuple[Member, ...]
    same_seeds: bool


def join(folders: Sequence[ExpandedFolder], match_classes: bool = False) -> Joined:
    """How folders go together; the numbers of the first stay.

    Args:
        folders: Finished expanded folders.
        match_classes: Also of other seeds: classes are matched by name, and what is in several folders under one class
            is one seed.

    Raises:
        UsageError: If a folder is there twice, or classes or seeds differ; the message has the difference.
    """
    _refuse_twice(folders)
    _refuse_other_objects(folders)
    classes = _classes(folders, match_classes)
    labels = [_labels(folder, classes) for folder in folders]
    same = len({(f.manifest.plan.seeds_digest, f.manifest.plan.validation_digest) for f in folders}) == 1
    seeds = None if same else _matched(folders, labels, match_classes)
    members, brought, copies = list[Member](), np.zeros(0, bool), 0
    for place, folder in enumerate(folders):
        own, last = _there(folder)
        numbers, whole = np.arange(len(own)), {} if seeds is None else seeds[place]
        numbers[list(whole)] = [seed.number for seed in whole.values()]
        origins = {number: seed.origin for number, seed in whole.items()}
        brought = np.pad(brought, (0, max(0, int(numbers.max(initial=-1)) + 1 - len(brought))))
        brings = own & ~brought[numbers]
        brought[numbers[own]] = True
        members.append(Member(folder, classes, labels[place], numbers, origins, brings, copies))
        copies += last
    if copies > MAX_RATIO:
        raise UsageError(f"together they have {copies} copies a seed, and {MAX_RATIO} are the most; join fewer")
    return Joined(tuple(members), seeds is None or len({frozenset(whole.values()) for whole in seeds}) == 1)


def _refuse_twice(folders: Sequence[ExpandedFolder]) -> None:
    seen: dict[str, ExpandedFolder] = {}
    for folder in folders:
        plan = folder.manifest.plan
        for part in map(digest, plan.merged or (plan.content,)):
            if part in seen:
                raise UsageError(f"{folder.path} and {seen[part].path} hold the same expansion; give it once")
            seen[part] = folder


def _refuse_other_objects(folders: Sequence[ExpandedFolder]) -> None:
    first, *others = folders
    for other in others:
        if other.manifest.plan.objects != first.manifest.plan.objects:
            texts = [
                f"{folder.path} keeps {kept['keep'] + ' of ' + _named(kept['classes']) if kept else 'no objects'}"
                for folder in (first, other)
                for kept in [folder.manifest.plan.objects]
            ]
            raise UsageError(f"{' and '.join(texts)}; join folders that were expanded with the same keep")


def _classes(folders: Sequence[ExpandedFolder], match: bool) -> tuple[str, ...]:
    """Class names of the whole: those of the first, followed by others by name where that is asked for."""
    first, *others = folders
    classes = list(first.manifest.classes)
    known = set(map(canonical, classes))
    for other in others:
        theirs = other.manifest.classes
        new = [name for name in theirs if canonical(name) not in known]
        if not match and theirs != first.manifest.classes:
            gone = [name for name in classes if canonical(name) not in set(map(canonical, theirs))]
            listed = [(new, other), (gone, first)]
            texts = [f"only in {folder.path}: {_named(names)}" for names, folder in listed if names]
            raise UsageError(
                f"{other.path} has other classes than {first.path} ({'; '.join(texts) or 'in another order'}); join"
                f" expansions of one source, or {_MATCH}"
            )
        classes += new
        known.update(map(canonical, new))
    return tuple(classes)


_MATCH = "have their classes matched by name: match_classes=True, or merge --match-classes"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _labels(folder: ExpandedFolder, classes: Sequence[str]) -> Ints:
    places = {canonical(name): label for label, name in enumerate(classes)}
    return np.array([places[canonical(name)] for name in folder.manifest.classes], dtype=np.int64)


def _there(folder: ExpandedFolder) -> tuple[NDArray[np.bool_], int]:
    """Whether each seed is there itself, or was and was left out, by ``seed_index``; and the highest copy."""
    parts = [ShardReader(folder, split, whole=True).index for split in folder.manifest.splits]
    gone = [LeftOut.from_json(entry) for entry in folder.manifest.left_out.values()]
    numbers = np.concatenate([*(part.seed for part in parts), [entry.seed[2] for entry in gone]]).astype(np.int64)
    copies = np.concatenate([*(part.copy for part in parts), [entry.copy for entry in gone]]).astype(np.int64)
    own = np.zeros(int(numbers.max(initial=-1)) + 1, bool)
    own[numbers[copies == 0]] = True
    return own, int(copies.max(initial=0))


def seeds_of(folder: ExpandedFolder) -> list[JoinedSeed]:
    """The seeds of a folder that have or had samples in it, in order."""
    found = {}
    for split in folder.manifest.splits:
        reader = ShardReader(folder, split, whole=True)
        held = split == VALIDATION != folder.manifest.split
        for number, place in zip(
            *(part.tolist() for part in np.unique(reader.index.seed, return_index=True)), strict=True
        ):
            record = reader.provenance(place)
            found[number] = JoinedSeed(number, record.seed_key, reader.label(place), record.seed_origin, held)
    for name, entry in folder.manifest.left_out.items():
        key, label, number, origin = LeftOut.from_json(entry).seed
        found.setdefault(number, JoinedSeed(number, key, label, origin, split_of_key(name) != folder.manifest.split))
    return [found[number] for number in sorted(found)]


def _matched(folders: Sequence[ExpandedFolder], labels: Sequence[Ints], match: bool) -> list[dict[int, JoinedSeed]]:
    """The whole's seed for each folder's, by its number there, where these are not known to be the same."""
    every = [
        [dataclasses.replace(seed, label=int(own[seed.label])) for seed in seeds_of(folder)]
        for folder, own in zip(folders, labels, strict=True)
    ]
    if not match:
        for folder, seeds in zip(folders[1:], every[1:], strict=True):
            _refuse_other(folders[0], every[0], folder, seeds)
    _refuse_leaks(folders, every)
    _refuse_withdrawn(folders, every)
    known: dict[tuple[tuple[bool, str, int], int], JoinedSeed] = {}
    following = max((seed.number for seed in every[0]), default=-1) + 1
    result = []
    for place, seeds in enumerate(every):
        whole, met = dict[int, JoinedSeed](), Counter[object]()
        for seed in seeds:
            which = seed.identity, met[seed.identity]  # an image may be there several times
            met[seed.identity] += 1
            if which not in known:
                known[which] = dataclasses.replace(seed, number=following) if place else seed
                following += place > 0
            whole[seed.number] = known[which]
        result.append(whole)
    return result


def _refuse_other(
    first: ExpandedFolder, ours: Sequence[JoinedSeed], other: ExpandedFolder, theirs: Sequence[JoinedSeed]
) -> None:
    """Refuse a folder of other seeds, and name the first."""
    texts = []
    if first.manifest.source != other.manifest.source:
        texts.append(f"source: {first.manifest.source} there, {other.manifest.source} here")
    counts = [Counter(seed.identity for seed in seeds) for seeds in (ours, theirs)]
    for folder, seeds, missing in ((first, ours, counts[0] - counts[1]), (other, theirs, counts[1] - counts[0])):
        if missing:
            seed = next(seed for seed in seeds if seed.identity in missing)
            about = f"{folder.manifest.classes[seed.label]}, {'held out' if seed.held else 'expanded'}"
            texts.append(f"{missing.total()} only in {folder.path}, the first {seed.origin} ({about})")
    if counts[0] != counts[1]:
        raise UsageError(
            f"{other.path} is of other seeds than {first.path} ({'; '.join(texts)}); join expansions of one source, or"
            f" {_MATCH}"
        )


def _refuse_leaks(folders: Sequence[ExpandedFolder], every: Sequence[Sequence[JoinedSeed]]) -> None:
    """Refuse an image that one folder holds out and another one expands."""
    sides = ({}, {})  # type: tuple[dict[str, str], dict[str, str]]
    for folder, seeds in zip(folders, every, strict=True):
        for seed in seeds:
            sides[seed.held].setdefault(seed.key, f"{seed.origin} in {folder.path}")
    for key in sides[0].keys() & sides[1].keys():
        raise UsageError(
            f"an image is held out and expanded: {sides[1][key]}, {sides[0][key]}; hold out the same images in all"
        )


def _refuse_withdrawn(folders: Sequence[ExpandedFolder], every: Sequence[Sequence[JoinedSeed]]) -> None:
    """Refuse an image that was withdrawn from one folder and is still in another one."""
    gone = {one: folder for folder in folders for one in folder.manifest.plan.withdrawn}
    for folder, seeds in zip(folders, every, strict=True):
        for seed in seeds if gone else ():
            if (digested := withdrawn_digest(seed.key)) in gone:
                raise UsageError(
                    f"{seed.origin} in {folder.path} was withdrawn from {gone[digested].path}; withdraw it there, too"
                )


class JoinedReader:
    """The samples of several folders as one, with what :class:`ShardReader` has for those of one folder.

    Args:
        joined: The result of :func:`join`.
        split: Name of the split; the expanded one by default, as the first folder calls it.
        check: Whether to compare each image with its digest when it is first read.

    Raises:
        UsageError: If no folder has the split.
    """

    def __init__(self, joined: Joined, split: str | None = None, *, check: bool = True) -> None:
        members = joined.members
        first = members[0].folder.manifest.split
        splits = [first, *([VALIDATION] if any(member.split(held=True) for member in members) else [])]
        if split not in (None, *splits):
            raise UsageError(f"no split {split!r} here; there is {' and '.join(splits)}")
        self.classes, self.split = members[0].classes, split or first
        found = [(member, member.split(held=self.split != first)) for member in members]
        self._parts = [
            (member, ShardReader(member.folder, name, check=check)) for member, name in found if name is not None
        ]
        kept = [np.flatnonzero(member.kept(reader.index)) for member, reader in self._parts]
        self._places = np.concatenate(kept)
        self._starts = np.cumsum([0, *map(len, kept)])
        self.index = index.joined(
            [member.moved(reader.index.rows(rows)) for (member, reader), rows in zip(self._parts, kept, strict=True)]
        )

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the samples: that of each folder, in order, and the classes."""
        parts = [[reader.fingerprint, member.labels.tolist()] for member, reader in self._parts]
        return f"{digest(['joined', list(self.classes), parts])}/{self.split}"

    @property
    def object_classes(self) -> tuple[str, ...]:
        """Names of the classes of objects; empty where none are kept."""
        return self._parts[0][1].object_classes

    @property
    def recipes(self) -> tuple[RecipeRecord, ...]:
        """How the samples of each folder were made."""
        return tuple(member.folder.manifest.plan.recipe for member, _ in self._parts)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, number: int) -> str:
        """``__key__`` of a sample in the whole."""
        return tar.sample_key(self.split, int(self.index.seed[number]), int(self.index.copy[number]))

    def label(self, number: int) -> int:
        """Class index of a sample."""
        return int(self.index.label[number])

    def image_bytes(self, number: int) -> bytes:
        """The stored image file of a sample."""
        _, reader, place = self._at(number)
        return reader.image_bytes(place)

    def provenance(self, number: int) -> Provenance:
        """The provenance of a sample."""
        member, reader, place = self._at(number)
        return member.record(reader.provenance(place))

    def record(self, number: int) -> bytes:
        """The provenance of a sample as it is stored, with the numbers of its own folder."""
        _, reader, place = self._at(number)
        return reader.record(place)

    def _at(self, number: int) -> tuple[Member, ShardReader, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of {len(self)} samples")
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return *self._parts[part], int(self._places[number])
