"""WebDataset shards: byte-reproducible tars, and their index files.

The only module that imports webdataset. The folder's layout is that of ``docs/format.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from gif_datasets import atomic, index, ustar
from gif_datasets.config import MAX_RATIO
from gif_datasets.errors import ShardError, UsageError
from gif_datasets.fingerprint import digest, digest_file, digest_rows
from gif_datasets.index import IMAGE_SUFFIXES, LONGEST_LABEL, LONGEST_RECORD, Index
from gif_datasets.parsing import read_json
from gif_datasets.remote import AnyPath, RemotePath, at_hand, size_of
from gif_datasets.splits import VALIDATION
from gif_datasets.types import Provenance, Sample

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 3
CARD = "README.md"
PREVIEW = "preview.png"
EXPORTED = "export.json"
"""Written last into an export; marks it as one."""
LEFT_OUT = "left_out"
"""In the manifest of a folder without rejected samples: what those were that its shards would hold."""
OWN = "source.json"
"""Suffix of the member with the source's own columns, where it has some."""
_SYNTHETIC = b'"synthetic": true'  # in a record; a quotation mark within a text of it has a backslash before it
_LONGEST = {"cls": LONGEST_LABEL, "json": LONGEST_RECORD}
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
_SAMPLE_KEY = re.compile(r"([A-Za-z0-9_-]{1,70})-([0-9]{7,10})-([0-9]{4,10})")


@dataclass(frozen=True)
class Shard:
    """One finished shard, as its sidecar and the manifest describe it; ``failed`` of its samples failed their check."""

    name: str
    samples: int
    failed: int
    bytes: int
    sha256: str
    md5: str

    @classmethod
    def from_json(cls, value: Any) -> Shard:
        """Rebuild from JSON; raises ShardError when a field is missing, unknown or of another type."""
        try:
            shard = cls(**value)
            if not all(type(getattr(shard, name)) is kind for name, kind in _SHARD_FIELDS.items()):
                raise TypeError(value)
        except TypeError as error:
            raise ShardError(f"damaged shard entry: {value!r}") from error
        if not re.fullmatch(r"data/[A-Za-z0-9_-]+\.tar", shard.name):
            raise ShardError(f"a shard entry names a path outside data/: {shard.name!r}")
        return shard


_SHARD_FIELDS = {"name": str, "samples": int, "failed": int, "bytes": int, "sha256": str, "md5": str}


_MANIFEST_FIELDS = {
    "source": str,
    "split": str,
    "classes": list,
    "samples": int,
    "originals": int,
    "synthetic": int,
    "validation": int,
    "failed_checks": int,
    "plan": dict,
    "plan_hash": str,
    "shards": list,
    "files": dict,
    "digest": str,
}
_PRIOR_FIELDS = {"name": str, "digest": str}
_RECIPE_FIELDS = {"options": dict, "prior": dict, "device": str, "versions": dict}


def shard_name(split: str, index: int, count: int) -> str:
    """``data/train-00000-of-00064.tar``: the pattern that Hugging Face datasets finds without configuration."""
    return f"data/{split}-{index:05d}-of-{count:05d}.tar"


def split_of(name: str) -> str:
    """The split of a shard, from its name."""
    return name.removeprefix("data/").partition("-")[0]


def sample_key(split: str, seed_index: int, copy: int) -> str:
    """``__key__`` of a sample: unique over shards and splits, without dots, under 100 characters."""
    return f"{split}-{seed_index:07d}-{copy:04d}"


def parse_key(key: str) -> tuple[str, int, int] | None:
    """Split, ``seed_index`` and copy of a ``__key__``; None of a text that is none.

    Example:
        >>> parse_key("train-0000012-0003"), parse_key("train-12-3")
        (('train', 12, 3), None)
    """
    found = _SAMPLE_KEY.fullmatch(key)
    place = (found[1], int(found[2]), int(found[3])) if found else None
    return place if place and place[1] < 2**31 and sample_key(*place) == key else None


def write_shard(
    path: Path, samples: Iterable[tuple[str, Sample]], image_format: str, own: Mapping[int, bytes] | None = None
) -> Shard:
    """Write one tar atomically. Its bytes depend on the samples alone: no clock, no owner, fixed order.

    Args:
        path: The final name.
        samples: Keys and samples, in order.
        image_format: Suffix of the image members.
        own: What :data:`OWN` holds, by index of the seed; None where the source has no columns of its own.
    """

    def members(sample: Sample) -> dict[str, bytes]:
        record = sample.provenance
        label, last = str(record.label).encode("ascii"), {OWN: own[record.seed_index]} if own is not None else {}
        return {"cls": label, image_format: sample.image, "json": record_bytes(record), **last}

    return _write_members(path, ((key, members(sample), sample.provenance.passed) for key, sample in samples))


def copy_shard(source: Path, target: Path, left_out: Container[str]) -> Shard:
    """Copy a shard without some samples, byte for byte as :func:`write_shard` would write the others.

    Args:
        source: The shard.
        target: Where to write it.
        left_out: Keys of the samples to leave out.

    Raises:
        ShardError: If the shard is missing or damaged.
    """
    samples = read_samples(source, lambda key: key not in left_out)
    return _write_members(target, ((key, parts, read_record(parts["json"], key).passed) for key, parts in samples))


def read_samples(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The content of a shard's samples whose keys are wanted, by suffix of the member."""
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
    """Whether the shard's file is there, byte for byte; in a store, which checks what it takes, by its size."""
    path = folder / shard.name
    try:
        same = size_of(path) == shard.bytes
    except OSError:
        return False
    return same and (isinstance(path, RemotePath) or digest_file(path) == shard.sha256)


def index_files(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """What readers look for, by name: timm's ``_info.json``, and wids' index of each split."""
    files, infos = {}, {}
    for split in splits(manifest):
        shards = [asdict(shard) for shard in manifest_shards(manifest, split)]
        names, counts = [shard["name"] for shard in shards], [shard["samples"] for shard in shards]
        infos[split] = {
            "name": split,
            "num_samples": sum(counts),
            "filenames": names,
            "shard_lengths": counts,
            "alt_label": "",
        }
        wids = {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": manifest["source"],
            "shardlist": [
                {
                    "url": shard["name"],
                    "nsamples": shard["samples"],
                    "filesize": shard["bytes"],
                    "md5sum": shard["md5"],
                    "sha256": shard["sha256"],
                }
                for shard in shards
            ],
        }
        files[f"wids-{split}.json"] = atomic.json_bytes(wids)
    return {"_info.json": atomic.json_bytes({"splits": infos}), **files}


def file_entries(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Size and digest of each file, as manifests list them."""
    return {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }


def sealed(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest with the digests of the other files of the folder, and its own."""
    content: dict[str, Any] = json.loads(json.dumps({**manifest, "files": file_entries(files)}))
    content.pop("digest", None)
    return {**content, "digest": digest(content)}


def write_files(folder: AnyPath, manifest: dict[str, Any], files: Mapping[str, bytes]) -> None:
    """Write what is missing or differs of ``files``, and the manifest last. A card that somebody edited is kept."""
    try:
        before: dict[str, Any] = read_manifest(folder)
    except (UsageError, ShardError):
        before = {}
    for name, content in files.items():
        path = folder / name
        found = path.read_bytes() if path.is_file() else None
        entry = before.get("files", {}).get(name)
        written = entry.get("sha256") if isinstance(entry, dict) else None
        edited = name == CARD and found is not None and written not in (None, hashlib.sha256(found).hexdigest())
        if found != content and not edited:
            atomic.write_bytes(path, content)
    if before != manifest:
        atomic.write_json(folder / MANIFEST, manifest)


def read_manifest(folder: AnyPath) -> dict[str, Any]:
    """Read and check ``manifest.json``.

    Raises:
        UsageError: If there is none.
        ShardError: If it is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    content = _manifest_of(folder)
    try:
        manifest = read_json(content)
    except ValueError as error:
        raise ShardError(f"cannot read {path}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise ShardError(f"{path} is damaged")
    if manifest["format"] != MANIFEST_FORMAT:
        newer = manifest["format"] > MANIFEST_FORMAT
        raise ShardError(
            f"{path} is of format {manifest['format']}, {'newer' if newer else 'older'} than {MANIFEST_FORMAT}; "
            + ("upgrade gif_datasets" if newer else "expand again into another folder")
        )
    recipe = manifest["plan"].get("recipe") if isinstance(manifest.get("plan"), dict) else None
    prior = recipe.get("prior") if isinstance(recipe, dict) else None
    parts = (
        (manifest, _MANIFEST_FIELDS),
        (manifest.get("plan"), {"seeds": int}),
        (recipe, _RECIPE_FIELDS),
        (prior, _PRIOR_FIELDS),
    )
    for part, fields in parts:
        for name, kind in fields.items():
            if not isinstance(part, dict) or type(part.get(name)) is not kind:
                raise ShardError(f"{path} is damaged: {name!r} is missing or of another type")
    if not isinstance(manifest.get(LEFT_OUT, {}), dict):
        raise ShardError(f"{path} is damaged: {LEFT_OUT!r} is of another type")
    ratio = manifest["plan"]["recipe"]["options"].get("ratio")
    if type(ratio) is not int or not 1 <= ratio <= MAX_RATIO:
        raise ShardError(f"{path} is damaged: its ratio is {ratio!r}")
    if not all(isinstance(name, str) for name in manifest["classes"]):
        raise ShardError(f"{path} is damaged: a class name is no text")
    all_shards(manifest)
    if not _is_sealed(manifest, content):
        raise ShardError(f"{path} is damaged: it differs from its own digest; expand again into {folder} to mend it")
    return manifest


def is_newer(folder: AnyPath) -> bool:
    """Whether a folder has a manifest of a format that this version does not know yet."""
    try:
        value = read_json(_manifest_of(folder))
    except (UsageError, ShardError, ValueError):
        return False
    return isinstance(value, dict) and type(value.get("format")) is int and value["format"] > MANIFEST_FORMAT


def _manifest_of(folder: AnyPath) -> bytes:
    path = folder / MANIFEST
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if (folder / EXPORTED).is_file():
            raise UsageError(f"{folder} is an export; to check it, run the same `gif-datasets export` again") from error
        raise UsageError(f"no {MANIFEST} in {folder}: not an expanded folder, or not finished") from error
    except OSError as error:
        raise ShardError(f"cannot read {path}: {error}") from error


def listed_file(folder: AnyPath, name: str) -> bytes | None:
    """A file of the folder as its manifest lists it; None where there is no such file, or it is another."""
    try:
        entry, content = read_manifest(folder)["files"].get(name), (folder / name).read_bytes()
    except (OSError, ShardError, UsageError):
        return None
    return content if entry and file_entries({name: content}) == {name: entry} else None


def may_hold(folder: AnyPath, name: str) -> bool:
    """Whether a folder is not finished yet, or its manifest lists a file of this name."""
    try:
        return name in read_manifest(folder)["files"]
    except (ShardError, UsageError):
        return True


def _is_sealed(manifest: Mapping[str, Any], content: bytes) -> bool:
    """Whether a manifest is written as this package writes it, and holds its own digest."""
    bare = {name: value for name, value in manifest.items() if name != "digest"}
    try:
        return atomic.json_bytes(manifest) == content and digest(bare) == manifest["digest"]
    except ValueError:  # a NaN, or half of a surrogate pair
        return False


def splits(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the splits of a folder: the expanded one, and the one held out if there is one."""
    return (manifest["split"], VALIDATION) if manifest["validation"] else (manifest["split"],)


def check_split(manifest: Mapping[str, Any], split: str | None) -> None:
    """Raise UsageError for a split that the folder has not."""
    if split is not None and split not in splits(manifest):
        raise UsageError(f"no split {split!r} here; there is {' and '.join(splits(manifest))}")


def manifest_shards(manifest: Mapping[str, Any], split: str | None = None) -> list[Shard]:
    """The shards that a manifest lists for one split; the expanded one if none is named."""
    return [shard for shard in all_shards(manifest) if split_of(shard.name) == (split or manifest["split"])]


def all_shards(manifest: Mapping[str, Any]) -> list[Shard]:
    """The shards that a manifest lists, of all splits."""
    return [Shard.from_json(value) for value in manifest["shards"]]


# --- what shards hold -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A sample in a tar: its key, and offset and size of each member, by suffix."""

    key: str
    members: dict[str, tuple[int, int]]


def build_index(folder: AnyPath, listed: Sequence[Shard]) -> Index:
    """Build the index of a folder from its shards, in their order.

    Raises:
        ShardError: If a shard is missing or damaged, or holds something else than its samples.
    """
    return index.joined([_fetched_index(folder / shard.name) for shard in listed])


def _fetched_index(place: AnyPath) -> Index:
    try:
        with at_hand(place) as path:
            return index_of(path)
    except FileNotFoundError as error:
        raise ShardError(f"missing shard {place.name}") from error


def index_of(path: Path) -> Index:
    """The index of one shard, by its file; raises ShardError as :func:`build_index` does."""
    return index.from_entries(_rows(path, split_of(path.name)))


def _rows(path: Path, split: str) -> Iterator[tuple[int, ...]]:
    with contextlib.ExitStack() as stack:
        file = None
        for entry in entries(path):
            file = file or stack.enter_context(path.open("rb"))
            pictures = [suffix for suffix in IMAGE_SUFFIXES if suffix in entry.members]
            if len(pictures) != 1 or entry.members.keys() - {OWN} != {"cls", "json", *pictures}:
                raise ShardError(f"{entry.key} in {path.name} has members {', '.join(sorted(entry.members))}")
            offset, size = entry.members["cls"]
            file.seek(offset)
            try:
                label = int(file.read(size))
            except ValueError as error:
                raise ShardError(f"damaged label of {entry.key!r} in {path.name}") from error
            found = parse_key(entry.key)
            if found is None or found[0] != split:
                raise ShardError(f"foreign key {entry.key!r} in {path.name}")
            seed, copy = found[1:]
            picture, record = entry.members[pictures[0]], entry.members["json"]
            if abs(label) >= 2**31:
                raise ShardError(f"{entry.key} in {path.name} has a label over 2^31")
            file.seek(record[0])
            made = _SYNTHETIC in file.read(record[1])
            yield (*picture, *record, label, seed, copy, made, IMAGE_SUFFIXES.index(pictures[0]))


def entries(path: Path) -> Iterator[Entry]:
    """Group a tar's members by key, refusing anything but plain files under plain names."""
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    for member in ustar.members(path):
        name, _, suffix = member.name.partition(".")
        if not _KEY.fullmatch(name) or suffix not in ("cls", "json", OWN, *IMAGE_SUFFIXES):
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


def seeds_digest(seeds: Iterable[Sequence[Any]]) -> str:
    """Digest of seeds, each given as its key, label, index and origin, in order of index."""
    return digest_rows(list(seed) for seed in seeds)


def own_digest(digests: Mapping[int, str]) -> str:
    """Digest of the source's own columns, given as the sha256 of each seed's :data:`OWN` by its index."""
    return digest_rows(list(pair) for pair in sorted(digests.items()))


def read_record(content: bytes, key: str) -> Provenance:
    """A sample's provenance from its ``KEY.json``; raises ShardError if that is damaged."""
    try:
        return Provenance.from_json(read_json(content))
    except (ValueError, TypeError) as error:
        raise ShardError(f"damaged record of {key}: {error}") from error


def record_bytes(record: Provenance) -> bytes:
    """A sample's ``KEY.json``."""
    return json.dumps(record.to_json(), sort_keys=True, ensure_ascii=True).encode("ascii")


def shard_json(shard: Shard) -> dict[str, Any]:
    """A shard's entry as JSON types."""
    return asdict(shard)
