"""WebDataset shards: byte-reproducible tars, and their content.

The only module that imports webdataset. The folder's layout is that of ``docs/format.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gif_datasets.errors import ShardError
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest_file, digest_rows
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import AnyPath, RemotePath, size_of
from gif_datasets.io.temporary import local_copy
from gif_datasets.objects import Objects
from gif_datasets.shards import index, ustar
from gif_datasets.shards.index import IMAGE_SUFFIXES, LONGEST_LABEL, LONGEST_RECORD, Index
from gif_datasets.shards.manifest import Shard, split_of
from gif_datasets.types import OBJECTS, Provenance, Sample, Seed

SOURCE_MEMBER = "source.json"
"""Suffix of the member with the source's own columns, if it has any."""
_SYNTHETIC = b'"synthetic": true'  # in a record; quotation marks inside its strings have a backslash, as below, too
_IMAGE_DIGEST = re.compile(rb'"image_sha256": "([0-9a-f]{64})"')
_PARTNER = re.compile(rb'"partner_key": "([0-9a-f]{64})"')
_LONGEST = {"cls": LONGEST_LABEL, "json": LONGEST_RECORD}
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
_SAMPLE_KEY = re.compile(r"([A-Za-z0-9_-]{1,70})-([0-9]{7,10})-([0-9]{4,10})")


def sample_key(split: str, seed_index: int, copy: int) -> str:
    """``__key__`` of a sample: unique over shards and splits, without dots, under 100 characters."""
    return f"{split}-{seed_index:07d}-{copy:04d}"


def parse_key(key: str) -> tuple[str, int, int] | None:
    """Split, ``seed_index`` and copy of a ``__key__``; None if the text is not a key.

    Example:
        >>> parse_key("train-0000012-0003"), parse_key("train-12-3")
        (('train', 12, 3), None)
    """
    match = _SAMPLE_KEY.fullmatch(key)
    parts = (match[1], int(match[2]), int(match[3])) if match else None
    return parts if parts and parts[1] < 2**31 and sample_key(*parts) == key else None


def write_shard(
    path: Path, samples: Iterable[tuple[str, Sample]], image_format: str, own: Mapping[int, bytes] | None = None
) -> Shard:
    """Write one tar atomically. Its bytes depend only on the samples: no clock, no owner, fixed order.

    Args:
        path: The final name.
        samples: Keys and samples, in order.
        image_format: Suffix of the image members.
        own: Content of :data:`SOURCE_MEMBER`, by index of the seed; None if the source has no columns of its own.
    """

    def members(sample: Sample) -> dict[str, bytes]:
        record = sample.provenance
        label, last = (
            str(record.label).encode("ascii"),
            {SOURCE_MEMBER: own[record.seed_index]} if own is not None else {},
        )
        return {"cls": label, image_format: sample.image, "json": record_bytes(record), **last}

    return _write_members(path, ((key, members(sample), sample.provenance.passed) for key, sample in samples))


def copy_shards(sources: Sequence[Path], target: Path, left_out: Container[str]) -> Shard:
    """Copy shards into one without some samples, byte for byte as :func:`write_shard` would write the others.

    Args:
        sources: The shards.
        target: Where to write it.
        left_out: Keys of the samples to leave out.

    Raises:
        ShardError: If a shard is missing or damaged.
    """
    samples = (sample for source in sources for sample in read_samples(source, lambda key: key not in left_out))
    return _write_members(target, ((key, parts, read_record(parts["json"], key).passed) for key, parts in samples))


def move_shard(source: Path, target: Path, moved: Callable[[Provenance], Provenance | None]) -> Shard:
    """Copy a shard with other records: keys and labels follow from these, images stay byte for byte.

    Args:
        source: The shard.
        target: Where to write it; its name has the split of the keys.
        moved: Another record for each, or None to leave a sample out.

    Raises:
        ShardError: If the shard is missing or damaged.
    """

    def samples() -> Iterator[tuple[str, dict[str, bytes], bool]]:
        for key, parts in read_samples(source, lambda key: True):
            record = moved(read_record(parts["json"], key))
            if record is not None:
                texts = {"cls": str(record.label).encode("ascii"), "json": record_bytes(record)}
                key = sample_key(split_of(target.name), record.seed_index, record.copy)
                yield key, {**parts, **texts}, record.passed

    return _write_members(target, samples())


def read_samples(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The content of the samples whose keys are wanted, by suffix of the member."""
    with contextlib.ExitStack() as stack:
        file: IO[bytes] | None = None
        for entry in entries(path):
            file = file or stack.enter_context(path.open("rb"))
            if wanted(entry.key):
                yield entry.key, read_members(file, entry)


def read_members(file: IO[bytes], entry: Entry) -> dict[str, bytes]:
    """The content of a sample's members in an open shard, by suffix."""
    parts = {}
    for suffix, (offset, size) in entry.members.items():
        file.seek(offset)
        parts[suffix] = file.read(size)
    return parts


def _write_members(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes], bool]]) -> Shard:
    """Write a tar of samples: key, content by suffix, and whether it passed its check."""
    import webdataset

    count = failed = 0
    buffer = io.BytesIO()
    # an integer mtime gives plain USTAR headers
    writer = webdataset.TarWriter(buffer, mtime=0, user="", group="", mode=ustar.MODE)
    for key, members, passed in samples:
        writer.write({"__key__": key, **members})
        count += 1
        failed += not passed
    writer.close()
    content = buffer.getvalue()
    atomic.write_bytes(path, content)
    sha256, md5 = hashlib.sha256(content).hexdigest(), hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Shard(f"data/{path.name}", count, failed, len(content), sha256, md5)


def intact(folder: AnyPath, shard: Shard) -> bool:
    """Whether the shard's file is intact: by its digest; in a store, which checks uploads itself, by its size."""
    path = folder / shard.name
    try:
        same = size_of(path) == shard.bytes
    except OSError:
        return False
    return same and (isinstance(path, RemotePath) or digest_file(path) == shard.sha256)


@dataclass(frozen=True)
class Entry:
    """A sample in a tar: its key, and offset and size of each member, by suffix."""

    key: str
    members: dict[str, tuple[int, int]]


def build_index(folder: AnyPath, listed: Sequence[Shard]) -> Index:
    """Build the index of a folder from its shards, in their order.

    Raises:
        ShardError: If a shard is missing or damaged, or contains something other than its samples.
    """
    return index.joined([_fetched_index(folder / shard.name) for shard in listed])


def _fetched_index(remote: AnyPath) -> Index:
    try:
        with local_copy(remote) as path:
            return index_of(path)
    except FileNotFoundError as error:
        raise ShardError(f"missing shard {remote.name}") from error


def index_of(path: Path) -> Index:
    """The index of one shard file; raises ShardError as :func:`build_index` does."""
    return index.from_entries(_rows(path, split_of(path.name)))


def _rows(path: Path, split: str) -> Iterator[tuple[int, ...]]:
    with contextlib.ExitStack() as stack:
        file = None
        for entry in entries(path):
            file = file or stack.enter_context(path.open("rb"))
            images = [suffix for suffix in IMAGE_SUFFIXES if suffix in entry.members]
            if len(images) != 1 or entry.members.keys() - {SOURCE_MEMBER} != {"cls", "json", *images}:
                raise ShardError(f"{entry.key} in {path.name} has members {', '.join(sorted(entry.members))}")
            offset, size = entry.members["cls"]
            file.seek(offset)
            try:
                label = int(file.read(size))
            except ValueError as error:
                raise ShardError(f"damaged label of {entry.key!r} in {path.name}") from error
            parts = parse_key(entry.key)
            if parts is None or parts[0] != split:
                raise ShardError(f"foreign key {entry.key!r} in {path.name}")
            seed, copy = parts[1:]
            image, record = entry.members[images[0]], entry.members["json"]
            if abs(label) >= 2**31:
                raise ShardError(f"{entry.key} in {path.name} has a label over 2^31")
            file.seek(record[0])
            synthetic = _SYNTHETIC in file.read(record[1])
            yield (*image, *record, label, seed, copy, synthetic, IMAGE_SUFFIXES.index(images[0]))


def entries(path: Path) -> Iterator[Entry]:
    """Group a tar's members by key; anything except plain files with plain names is refused."""
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    for member in ustar.members(path):
        name, _, suffix = member.name.partition(".")
        if not _KEY.fullmatch(name) or suffix not in ("cls", "json", SOURCE_MEMBER, *IMAGE_SUFFIXES):
            raise ShardError(f"foreign member {member.name!r} in {path.name}")
        if name != key:
            if key is not None:
                yield Entry(key, members)
            key, members = name, {}
        if suffix in members:
            raise ShardError(f"doubled member {member.name!r} in {path.name}")
        if member.size > _LONGEST.get(suffix, 2**31 - 1):
            raise ShardError(f"gigantic member {member.name!r} in {path.name}: {member.size} bytes")
        members[suffix] = (member.offset, member.size)
    if key is not None:
        yield Entry(key, members)


def objects_digest(splits: Iterable[Iterable[Seed]]) -> str:
    """Digest of what is marked in the seeds of each split, in order of index."""
    return digest_rows(
        [split, seed.index, seed.objects.to_json() if seed.objects else None]
        for split, seeds in enumerate(splits)
        for seed in seeds
    )


def seeds_digest(seeds: Iterable[Sequence[Any]]) -> str:
    """Digest of seeds, each given as its key, label, index and origin, in order of index."""
    return digest_rows(list(seed) for seed in seeds)


def own_digest(digests: Mapping[int, str]) -> str:
    """Digest of the source's own columns, given as the sha256 of each seed's :data:`SOURCE_MEMBER` by its index."""
    return digest_rows(list(pair) for pair in sorted(digests.items()))


def read_record(content: bytes, key: str) -> Provenance:
    """A sample's provenance from its ``KEY.json``; raises ShardError if it is damaged."""
    try:
        return Provenance.from_json(read_json(content))
    except (ValueError, TypeError) as error:
        raise ShardError(f"damaged record of {key}: {error}") from error


def image_digest(record: bytes) -> str:
    """The digest of the image that a ``KEY.json`` has, which is searched; empty without one."""
    found = _IMAGE_DIGEST.search(record)
    return found[1].decode("ascii") if found else ""


def read_seed(content: bytes, key: str) -> Seed:
    """The seed that a ``KEY.json`` names, quicker than :func:`read_record`; raises ShardError as that does.

    Its objects are known from its own record, not from that of a copy.
    """
    try:
        record = read_json(content)
        own = record[OBJECTS] if OBJECTS in record and record["copy"] == 0 else None
        seed = Seed(
            record["seed_index"],
            record["seed_key"],
            record["label"],
            record["seed_origin"],
            record["synthetic"] is True and record["copy"] == 0,
            objects=None if own is None else Objects.from_json(own),
        )
    except (ValueError, TypeError, LookupError) as error:
        raise ShardError(f"damaged record of {key}: {error}") from error
    if [type(value) for value in (seed.index, seed.key, seed.label, seed.origin)] != [int, str, int, str]:
        raise ShardError(f"damaged record of {key}: its seed is {seed!r:.200}")
    return seed


def names_image(record: bytes, image: bytes) -> bool:
    """Whether a ``KEY.json`` has the digest of an image; the record is searched, which is quicker than parsing it."""
    return image_digest(record) == hashlib.sha256(image).hexdigest()


def partner_of(record: bytes) -> str:
    """Key of the other seed that a mix shows, from a ``KEY.json``, which is searched; empty without one."""
    found = _PARTNER.search(record)
    return found[1].decode("ascii") if found else ""


def record_bytes(record: Provenance) -> bytes:
    """A sample's ``KEY.json``."""
    return json.dumps(record.to_json(), sort_keys=True, ensure_ascii=True).encode("ascii")
