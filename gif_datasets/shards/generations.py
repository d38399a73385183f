"""Generations of an expanded folder: seeds come and go, and the shards of all others keep their names and bytes.

New seeds bring shards of their own. Shards that lose samples are written again under new names. The next state of the
folder is built as a whole beside it and takes its place by one rename (:mod:`gif_datasets.shards.switch`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gif_datasets.config import AGNOSTIC
from gif_datasets.errors import UsageError
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest, digest_file
from gif_datasets.io.parsing import read_json
from gif_datasets.shards import index, rejections, switch, tar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.columns import SOURCE, merged_source
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.folder import complete, draw_preview
from gif_datasets.shards.index import Index
from gif_datasets.shards.manifest import (
    COPIES,
    GENERATIONS,
    LEFT_OUT,
    OBJECTS_DIGEST,
    WITHDRAWN,
    WITHDRAWN_IMAGES,
    Generation,
    Shard,
    shard_size,
    split_of,
    withdrawn_digest,
)
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import LeftOut
from gif_datasets.types import CLASSIFIER_FILE, OWN_CLASS_FILE, Provenance, Seed


@dataclass(frozen=True)
class StoredSeed:
    """A seed of a folder.

    Attributes:
        seed: Its index is its number in the folder.
        split: Where it is.
        own: Digest of the source's own columns of it; empty if there are none.
    """

    seed: Seed
    split: str
    own: str = ""


@dataclass(frozen=True, eq=False)
class State:
    """A folder as one generation left it.

    Attributes:
        folder: The folder.
        entries: The index of all its shards.
        seeds: Its seeds, by number.
    """

    folder: ExpandedFolder
    entries: Index
    seeds: Mapping[int, StoredSeed]

    @classmethod
    def of(cls, opened: ExpandedFolder) -> State:
        """Read the state of a folder.

        Raises:
            ShardError: If a shard or the index is missing or damaged.
        """
        splits = opened.manifest.splits
        entries = index.joined([ShardReader(opened, split, whole=True).index for split in splits])
        return cls(opened, entries, dict(sorted(_seeds(opened, entries), key=itemgetter(0))))

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Its shards, in the order of the index."""
        return self.folder.manifest.shards

    @property
    def shard_of(self) -> NDArray[np.int64]:
        """The place in :attr:`shards` of every entry's shard, ``(N,)``."""
        return _shard_of(self.shards)

    @property
    def generations(self) -> tuple[Generation, ...]:
        """Its generations; the first one's entry follows from the manifest until there is a second."""
        manifest = self.folder.manifest
        recipe = manifest.plan.recipe
        first = Generation(
            after="",
            added=len(self.seeds),
            withdrawn=0,
            unmixed=0,
            shards=len(self.shards),
            samples=len(self.entries),
            next_seed=1 + max(self.seeds, default=-1),
            device=recipe.device,
            versions=recipe.versions,
            population=recipe.content.get("population", ""),
        )
        return manifest.plan.generations or (first,)

    def images(self, rows: NDArray[np.bool_]) -> Iterator[str]:
        """SHA-256 of the image files of some entries, ``(N,)``."""
        return _images(self.folder.local, self.shards, self.entries, rows)

    def check_current(self) -> None:
        """Raise UsageError if the folder has another state now."""
        if manifests.read_manifest(self.folder.path).content != self.folder.manifest.content:
            raise UsageError(f"{self.folder.path} was changed by another process meanwhile; run the same command again")

    def leaving(self, seeds: Iterable[int]) -> Leaving:
        """What leaves a folder with some seeds: their samples, and copies that show a part of one of them."""
        numbers = frozenset(seeds)
        rows = np.isin(self.entries.seed, sorted(numbers))
        keys = {self.seeds[number].seed.key for number in numbers}
        others = np.flatnonzero(~rows & (self.entries.copy > 0) & bool(keys))
        for number, record in _records(self.folder.local, self.shards, self.entries, others):
            rows[number] = tar.partner_of(record) in keys
        counts = np.bincount(self.shard_of[~rows], minlength=len(self.shards)).tolist()
        touched = np.unique(self.shard_of[rows]).tolist()
        again = self._packed([place for place in touched if counts[place]], counts, len(numbers))
        names = [tuple(self.shards[place].name for place in group) for group in again]
        gone = {self.shards[place].name for place in touched if not counts[place]}
        return Leaving(numbers, rows, self._new_names(names), frozenset(gone))

    def _packed(self, places: Sequence[int], counts: Sequence[int], most: int) -> list[list[int]]:
        """Shards in groups of one kind, each to become one shard; ``most``, as far as none gets twice the usual size.

        A seed and its copies are in shards of their own, so ten seeds may be in twenty shards.
        """
        size = shard_size(len(self.entries), self.folder.manifest.options["decode_batch"])
        starts = np.cumsum([0, *(shard.samples for shard in self.shards)])
        groups, at = [[place] for place in places], 0

        def kind(place: int) -> tuple[str, bool, bool]:
            first = starts[place]
            copy, synthetic = bool(self.entries.copy[first]), bool(self.entries.synthetic[first])
            return split_of(self.shards[place].name), copy, synthetic

        while len(groups) > most and at + 1 < len(groups):
            both = groups[at] + groups[at + 1]
            if kind(both[0]) == kind(both[-1]) and sum(counts[place] for place in both) <= 2 * size:
                groups[at : at + 2] = [both]
            else:
                at += 1
        return groups

    def _new_names(self, groups: Sequence[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """The next names for shards that take the place of some."""
        following = manifests.next_numbers(self.shards)
        last = following + Counter(split_of(group[0]) for group in groups)
        names = dict[str, tuple[str, ...]]()
        for group in groups:
            split = split_of(group[0])
            names[manifests.shard_name(split, following[split], last[split])] = group
            following[split] += 1
        return names


@dataclass(frozen=True, eq=False)
class Leaving:
    """What leaves a folder.

    Attributes:
        numbers: Seeds.
        rows: Whether an entry of the index goes, ``(N,)``.
        written: Names of the shards that are written for what is left of some, with the names of these.
        gone: Shards that have no sample left.
    """

    numbers: frozenset[int]
    rows: NDArray[np.bool_]
    written: Mapping[str, tuple[str, ...]]
    gone: frozenset[str]


@dataclass(frozen=True)
class Added:
    """Shards of new seeds, finished in a folder of their own.

    Attributes:
        folder: That folder.
        shards: Its shards.
        seeds: The seeds.
        source: :data:`~gif_datasets.shards.columns.SOURCE` of them; None if the source has no columns of its own.
        device: Kind of device that made them.
        versions: Versions of the libraries that did.
        population: Digest of the seeds that all their copies depend on; empty if there are none.
        kept: What follows from all seeds, and was kept as the first generation had it.
        revision: Commit of a source on the Hub.
        more: Copies of seeds that are there, by the seed's number.
    """

    folder: Path
    shards: Sequence[Shard]
    seeds: Sequence[StoredSeed]
    source: bytes | None
    device: str
    versions: Mapping[str, str]
    population: str
    kept: tuple[str, ...]
    revision: str = ""
    more: Mapping[int, int] = field(default_factory=dict)


def succeed(
    state: State,
    leaving: Leaving,
    added: Added | None = None,
    never: Iterable[str] = (),
    beside: Mapping[Path, bytes] | None = None,
) -> ExpandedFolder:
    """Make the next generation of a folder.

    The caller has :func:`~gif_datasets.shards.switch.changing`. Killed at any moment, this leaves the old generation or
    the new one.

    Args:
        state: The folder.
        leaving: What leaves it.
        added: What is added.
        never: Keys of seeds that must not come back.
        beside: Hidden files to write into the folder, by path.

    Returns:
        The folder with its next generation.
    """
    folder, manifest = state.folder.local, state.folder.manifest
    seeds = [stored for number, stored in state.seeds.items() if number not in leaving.numbers]
    seeds += added.seeds if added else []
    if not any(stored.split == manifest.split for stored in seeds):
        raise UsageError(f"no seed of {folder} would be left; remove the folder instead")
    building = folder / switch.BUILDING
    switch.clear(building)
    listed, entries = _put_shards(building, state, leaving, added)
    left_out = _left_out(state, leaving)
    entry = _entry(state, leaving, added, len(entries))
    plan = _plan(state, seeds, listed, entry, added, never)
    if images := _withdrawn_images(state, leaving if never else None, added):
        plan[WITHDRAWN_IMAGES] = sorted(images)
    held = np.repeat([split_of(shard.name) != manifest.split for shard in listed], [shard.samples for shard in listed])
    if plan["recipe"]["options"].get("selection") == AGNOSTIC or COPIES in plan or (added and added.more):
        plan[COPIES] = int((entries.copy > 0).sum()) + sum(one.copy > 0 for one in left_out.values())
    content = {
        **{name: value for name, value in manifest.to_json().items() if name != LEFT_OUT},
        "samples": int((~held).sum()),
        "originals": int((~held & ~entries.synthetic).sum()),
        "synthetic": int((~held & entries.synthetic).sum()),
        "validation": int(held.sum()),
        "failed_checks": sum(shard.failed for shard in listed),
        "plan": plan,
        "plan_hash": digest(plan),
        "shards": [manifests.shard_json(shard) for shard in listed],
        **({LEFT_OUT: {key: asdict(one) for key, one in sorted(left_out.items())}} if left_out else {}),
    }
    built = complete(building, content, plan, _own_files(state, leaving, added), entries)
    _put_beside(state, leaving, built)
    for name, hidden in (beside or {}).items():
        atomic.write_bytes(building / name, hidden)
    switch.switch(folder)
    return ExpandedFolder(folder, built.manifest)


def _shard_of(shards: Sequence[Shard]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(shards)), [shard.samples for shard in shards])


def _records(
    folder: Path, shards: Sequence[Shard], entries: Index, numbers: Iterable[int]
) -> Iterator[tuple[int, bytes]]:
    """Entries of an index, in its order, each with its record."""
    shard_of = _shard_of(shards)
    for place, own in itertools.groupby(numbers, key=lambda number: int(shard_of[number])):
        with (folder / shards[place].name).open("rb") as file:
            for number in own:
                file.seek(int(entries.record_offset[number]))
                yield int(number), file.read(int(entries.record_size[number]))


def _seeds(opened: ExpandedFolder, entries: Index) -> Iterator[tuple[int, StoredSeed]]:
    """The seeds of a folder by number, also of samples that were left out, from a record of each."""
    manifest, folder = opened.manifest, opened.local
    for key, value in manifest.left_out.items():
        one = LeftOut.from_json(value)
        seed_key, label, number, origin = one.seed
        yield number, StoredSeed(Seed(number, seed_key, label, origin), rejections.split_of_key(key), one.own)
    first = np.sort(np.unique(entries.seed, return_index=True)[1])
    shard_of, own = _shard_of(manifest.shards), dict[str, str]()
    if manifest.plan.own_columns is not None:
        members = _own_members(opened, entries, first)
        own = {key: hashlib.sha256(content).hexdigest() for key, content in members}
    for place, content in _records(folder, manifest.shards, entries, first):
        split = split_of(manifest.shards[shard_of[place]].name)
        key = tar.sample_key(split, int(entries.seed[place]), int(entries.copy[place]))
        seed = tar.read_seed(content, key)
        yield seed.index, StoredSeed(seed, split, own.get(key, ""))


def own_rows(state: State) -> Iterator[tuple[int, dict[str, Any]]]:
    """Seeds of a folder, each with the source's own columns of it."""
    first = np.sort(np.unique(state.entries.seed, return_index=True)[1])
    for key, content in _own_members(state.folder, state.entries, first):
        _, number, _ = tar.parse_key(key) or ("", -1, 0)
        yield number, dict(read_json(content))


def own_columns_of(state: State, numbers: Iterable[int]) -> dict[int, bytes]:
    """The source's own columns of some seeds, as samples have them, by number."""
    first = np.sort(np.unique(state.entries.seed, return_index=True)[1])
    wanted = first[np.isin(state.entries.seed[first], sorted(numbers))]
    members = _own_members(state.folder, state.entries, wanted)
    return {(tar.parse_key(key) or ("", -1, 0))[1]: content for key, content in members}


def _own_members(opened: ExpandedFolder, entries: Index, places: NDArray[np.int64]) -> Iterator[tuple[str, bytes]]:
    """Keys of some samples, and the source's own columns in them."""
    shards = opened.manifest.shards
    shard_of = _shard_of(shards)
    for number, own in itertools.groupby(places.tolist(), key=lambda place: int(shard_of[place])):
        split = split_of(shards[number].name)
        keys = {tar.sample_key(split, int(entries.seed[place]), int(entries.copy[place])) for place in own}
        for key, parts in tar.read_samples(opened.local / shards[number].name, keys.__contains__):
            yield key, parts[tar.SOURCE_MEMBER]


def _put_shards(building: Path, state: State, leaving: Leaving, added: Added | None) -> tuple[list[Shard], Index]:
    """Put all shards of the next generation into a folder; returns them in order, and their index."""
    folder, starts = state.folder.local, np.cumsum([0, *(shard.samples for shard in state.shards)]).tolist()
    parts = list[tuple[Shard, Index]]()
    first = {group[0]: (name, group) for name, group in leaving.written.items()}
    dropped = {name for group in leaving.written.values() for name in group} | leaving.gone
    keys = _keys(state, leaving, np.flatnonzero(leaving.rows).tolist())
    for place, shard in enumerate(state.shards):
        if shard.name in first:
            name, group = first[shard.name]
            parts.append(_indexed(building, tar.copy_shards([folder / one for one in group], building / name, keys)))
        elif shard.name not in dropped:
            atomic.link_or_copy(folder / shard.name, building / shard.name)
            parts.append((shard, state.entries.part(starts[place], starts[place + 1])))
    if added is not None:
        for shard in added.shards:
            atomic.link_or_copy(added.folder / shard.name, building / shard.name)
            parts.append(_indexed(building, shard))
    parts.sort(key=lambda part: split_of(part[0].name) != state.folder.manifest.split)
    return [shard for shard, _ in parts], index.joined([part for _, part in parts])


def _indexed(folder: Path, shard: Shard) -> tuple[Shard, Index]:
    return shard, tar.index_of(folder / shard.name)


def _keys(state: State, leaving: Leaving, places: Iterable[int]) -> set[str]:
    """Keys of the samples among some entries that leave."""
    entries, shards, shard_of = state.entries, state.shards, state.shard_of
    return {
        tar.sample_key(split_of(shards[shard_of[place]].name), int(entries.seed[place]), int(entries.copy[place]))
        for place in places
        if leaving.rows[place]
    }


def _left_out(state: State, leaving: Leaving) -> dict[str, LeftOut]:
    """Samples of seeds that stay, which are not there: those that were left out before, and copies that leave now."""
    before = {key: LeftOut.from_json(value) for key, value in state.folder.manifest.left_out.items()}
    kept = {key: one for key, one in before.items() if one.seed[2] not in leaving.numbers}
    rows = np.flatnonzero(leaving.rows & ~np.isin(state.entries.seed, sorted(leaving.numbers)))
    for _, content in _records(state.folder.local, state.shards, state.entries, rows):
        record = Provenance.from_json(read_json(content))
        stored = state.seeds[record.seed_index]
        kept[tar.sample_key(stored.split, record.seed_index, record.copy)] = LeftOut.of(record, stored.own)
    return kept


def _entry(state: State, leaving: Leaving, added: Added | None, samples: int) -> Generation:
    """The entry of the next generation."""
    last = state.generations[-1]
    new = added.seeds if added else ()
    unmixed = leaving.rows & ~np.isin(state.entries.seed, sorted(leaving.numbers))
    return Generation(
        after=state.folder.manifest.plan_hash,
        added=len(new),
        withdrawn=len(leaving.numbers),
        unmixed=int(unmixed.sum()),
        shards=len(leaving.written) + (len(added.shards) if added else 0),
        samples=samples,
        next_seed=max([last.next_seed, *(stored.seed.index + 1 for stored in new)]),
        device=added.device if added else last.device,
        versions=added.versions if added else last.versions,
        population=added.population if added else last.population,
        kept=added.kept if added else (),
        more={str(seed): count for seed, count in sorted(added.more.items())} if added else {},
    )


def _plan(
    state: State,
    seeds: Sequence[StoredSeed],
    shards: Sequence[Shard],
    entry: Generation,
    added: Added | None,
    never: Iterable[str],
) -> dict[str, Any]:
    """The plan of the next generation: the first one's, with the seeds and shards that are there now."""
    manifest = state.folder.manifest
    plan = dict(manifest.plan.content)
    parts = {held: [one for one in seeds if (one.split != manifest.split) == held] for held in (False, True)}
    never_again = {*manifest.plan.withdrawn, *map(withdrawn_digest, never)}
    plan |= {
        "seeds": len(parts[False]),
        "limit": None,
        "synthetic_seeds": sum(stored.seed.synthetic for stored in parts[False]),
        "seeds_digest": _digest(parts[False]),
        "validation_seeds": len(parts[True]),
        "synthetic_validation": sum(stored.seed.synthetic for stored in parts[True]),
        "validation_digest": _digest(parts[True]),
        "shards": [shard.samples for shard in shards],
        GENERATIONS: [generation.to_json() for generation in (*state.generations, entry)],
        **({WITHDRAWN: sorted(never_again)} if never_again else {}),
        **({"source_revision": added.revision} if added and added.revision else {}),
    }
    if (own := manifest.plan.own_columns) is not None:
        digests = {stored.seed.index: stored.own for stored in seeds if stored.own}
        plan["own_columns"] = {**own, "digest": tar.own_digest(digests)}
    if manifest.plan.objects is not None:
        plan[OBJECTS_DIGEST] = tar.objects_digest(map(_in_order, (parts[False], parts[True])))
    return plan


def _withdrawn_images(state: State, withdrawn: Leaving | None, added: Added | None) -> set[str]:
    """Digests of the images that must not be there: those before, and those that are withdrawn now.

    Images that other seeds have as well, such as one of a single colour, are not among them.
    """
    found = set(state.folder.manifest.plan.withdrawn_images)
    if withdrawn is not None:
        found |= set(map(withdrawn_digest, state.images(withdrawn.rows)))
        found.difference_update(map(withdrawn_digest, state.images(~withdrawn.rows)))
    if found and added is not None:
        made = index.joined([tar.index_of(added.folder / shard.name) for shard in added.shards])
        images = _images(added.folder, added.shards, made, np.ones(len(made), bool))
        found.difference_update(map(withdrawn_digest, images))
    return found


def _images(folder: Path, shards: Sequence[Shard], entries: Index, rows: NDArray[np.bool_]) -> Iterator[str]:
    records = _records(folder, shards, entries, np.flatnonzero(rows).tolist())
    return (tar.image_digest(record) for _, record in records)


def _digest(seeds: Iterable[StoredSeed]) -> str:
    return tar.seeds_digest([seed.key, seed.label, seed.index, seed.origin] for seed in _in_order(seeds))


def _in_order(seeds: Iterable[StoredSeed]) -> list[Seed]:
    return sorted((stored.seed for stored in seeds), key=lambda seed: seed.index)


def _own_files(state: State, leaving: Leaving, added: Added | None) -> dict[str, bytes]:
    """Files of the next generation that are not derived from its shards."""
    folder, listed = state.folder.path, state.folder.manifest.files
    files = {name: (folder / name).read_bytes() for name in (CLASSIFIER_FILE,) if name in listed}
    tables = [(folder / SOURCE).read_bytes()] if SOURCE in listed else []
    tables += [added.source] if added and added.source is not None else []
    return {**files, SOURCE: merged_source(tables, leaving.numbers)} if tables else files


def _put_beside(state: State, leaving: Leaving, built: ExpandedFolder) -> None:
    """Put the files into a built folder that its manifest does not list: preview, rejections; and an edited card."""
    folder, manifest, building = state.folder.local, state.folder.manifest, built.local
    for name in (OWN_CLASS_FILE, *(() if leaving.numbers else (switch.PREVIEW,))):
        if (folder / name).is_file():
            atomic.link_or_copy(folder / name, building / name)
    if leaving.numbers:
        draw_preview(built)
    if rejected := state.folder.rejected - _keys(state, leaving, np.flatnonzero(leaving.rows).tolist()):
        rejections.write(building, built.manifest.plan_hash, rejected)
    card = folder / manifests.CARD
    if card.is_file() and digest_file(card) != manifest.files[manifests.CARD]["sha256"]:
        atomic.write_bytes(building / manifests.CARD, card.read_bytes())
