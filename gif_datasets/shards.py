"""WebDataset shards: byte-reproducible tars, their index files, and checking them.

The only module that imports webdataset. The folder's layout is that of ``docs/format.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gif_datasets import atomic, index
from gif_datasets.errors import ShardError, UsageError
from gif_datasets.fingerprint import digest_file
from gif_datasets.index import IMAGE_SUFFIXES, INDEX, Index
from gif_datasets.types import Provenance, Sample

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")


@dataclass(frozen=True)
class Shard:
    """One finished shard, as its sidecar and the manifest describe it."""

    name: str
    samples: int
    bytes: int
    sha256: str
    md5: str

    @classmethod
    def from_json(cls, value: Any) -> Shard:
        """Rebuild from JSON; raises ShardError when a field is missing, unknown or of another type."""
        try:
            shard = cls(**value)
            if not all(isinstance(getattr(shard, name), kind) for name, kind in _SHARD_FIELDS.items()):
                raise TypeError(value)
        except TypeError as error:
            raise ShardError(f"damaged shard entry: {value!r}") from error
        if not re.fullmatch(r"data/[A-Za-z0-9_-]+\.tar", shard.name):
            raise ShardError(f"a shard entry names a path outside data/: {shard.name!r}")
        return shard


_SHARD_FIELDS = {"name": str, "samples": int, "bytes": int, "sha256": str, "md5": str}


_MANIFEST_FIELDS = {
    "source": str,
    "split": str,
    "classes": list,
    "samples": int,
    "originals": int,
    "synthetic": int,
    "plan": dict,
    "plan_hash": str,
    "shards": list,
}
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


def write_shard(path: Path, samples: Iterable[tuple[str, Sample]], image_format: str) -> Shard:
    """Write one tar atomically. Its bytes depend on the samples alone: no clock, no owner, fixed order.

    Args:
        path: The final name.
        samples: Keys and samples, in order.
        image_format: Suffix of the image members.
    """
    import webdataset

    count = 0
    buffer = io.BytesIO()
    writer = webdataset.TarWriter(buffer, mtime=0, user="", group="", mode=0o644)  # integer mtime: plain USTAR headers
    for key, sample in samples:
        record = json.dumps(sample.provenance.to_json(), sort_keys=True, ensure_ascii=True)
        writer.write(
            {
                "__key__": key,
                "cls": str(sample.provenance.label).encode("ascii"),
                image_format: sample.image,
                "json": record.encode("ascii"),
            }
        )
        count += 1
    writer.close()
    content = buffer.getvalue()
    atomic.write_bytes(path, content)
    sha256, md5 = hashlib.sha256(content).hexdigest(), hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Shard(f"data/{path.name}", count, len(content), sha256, md5)


def intact(folder: Path, shard: Shard) -> bool:
    """Whether the shard's file is there, byte for byte."""
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.bytes and digest_file(path) == shard.sha256


def write_indices(folder: Path, manifest: dict[str, Any], card: str) -> None:
    """Write what readers look for: timm's ``_info.json``, wids' index, the card; the manifest last."""
    split, shards = manifest["split"], manifest["shards"]
    names, counts = [shard["name"] for shard in shards], [shard["samples"] for shard in shards]
    info = {"name": split, "num_samples": sum(counts), "filenames": names, "shard_lengths": counts, "alt_label": ""}
    atomic.write_json(folder / "_info.json", {"splits": {split: info}})
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
    atomic.write_json(folder / f"wids-{split}.json", wids)
    atomic.write_bytes(folder / "README.md", card.encode("utf-8"))
    content = index.to_bytes(build_index(folder, manifest_shards(manifest)))
    atomic.write_bytes(folder / INDEX, content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    atomic.write_json(folder / MANIFEST, {**manifest, "files": {INDEX: entry}})


def is_current(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the folder's manifest is this one, and its index is there."""
    try:
        found = read_manifest(folder)
    except (UsageError, ShardError):
        return False
    entry, path = listed_file(found, INDEX), folder / INDEX
    found.pop("files", None)
    return (
        found == json.loads(json.dumps(manifest))
        and entry is not None
        and path.is_file()
        and digest_file(path) == entry["sha256"]
    )


def listed_file(manifest: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Bytes and digest that the manifest gives for a file beside it; None where it lists no such file."""
    files = manifest.get("files", {})
    entry = files.get(name) if isinstance(files, dict) else None
    if entry is None:
        return None
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("bytes"), int)
        or not isinstance(entry.get("sha256"), str)
    ):
        raise ShardError(f"damaged entry of {name} in {MANIFEST}: {entry!r}")
    return entry


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check ``manifest.json``.

    Raises:
        UsageError: If there is none.
        ShardError: If it is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no {MANIFEST} in {folder}: not an expanded folder, or not finished") from error
    except (OSError, ValueError) as error:
        raise ShardError(f"cannot read {path}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise ShardError(f"{path} is damaged")
    if manifest["format"] > MANIFEST_FORMAT:
        raise ShardError(
            f"{path} is of format {manifest['format']}, newer than {MANIFEST_FORMAT}; upgrade gif_datasets"
        )
    recipe = manifest["plan"].get("recipe") if isinstance(manifest.get("plan"), dict) else None
    for part, fields in ((manifest, _MANIFEST_FIELDS), (recipe, _RECIPE_FIELDS)):
        for name, kind in fields.items():
            if not isinstance(part, dict) or not isinstance(part.get(name), kind):
                raise ShardError(f"{path} is damaged: {name!r} is missing or of another type")
    return manifest


def manifest_shards(manifest: dict[str, Any]) -> list[Shard]:
    """The shards a manifest lists."""
    return [Shard.from_json(value) for value in manifest["shards"]]


# --- what shards hold -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    key: str
    members: dict[str, tuple[int, int]]  # suffix: (offset, size)


def build_index(folder: Path, listed: Sequence[Shard]) -> Index:
    """Build the index of a folder from its shards, in their order.

    Raises:
        ShardError: If a shard is missing or damaged, or holds something else than its samples.
    """
    return index.from_entries(row for shard in listed for row in _rows(folder / shard.name, split_of(shard.name)))


def _rows(path: Path, split: str) -> Iterator[tuple[int, int, int, int, int, int, int, int]]:
    with contextlib.ExitStack() as stack:
        file = None
        for entry in _index(path):
            file = file or stack.enter_context(path.open("rb"))
            pictures = [suffix for suffix in IMAGE_SUFFIXES if suffix in entry.members]
            if len(pictures) != 1 or set(entry.members) != {"cls", "json", *pictures}:
                raise ShardError(f"{entry.key} in {path.name} has members {', '.join(sorted(entry.members))}")
            offset, size = entry.members["cls"]
            file.seek(offset)
            try:
                label = int(file.read(min(size, 20)))
                seed, copy = (int(part) for part in entry.key.rsplit("-", 2)[1:])
            except ValueError as error:
                raise ShardError(f"damaged label or key of {entry.key!r} in {path.name}") from error
            if sample_key(split, seed, copy) != entry.key:
                raise ShardError(f"foreign key {entry.key!r} in {path.name}")
            picture, record = entry.members[pictures[0]], entry.members["json"]
            if max(picture[1], record[1], abs(label), seed) >= 2**31:
                raise ShardError(f"{entry.key} in {path.name} has a size, label or seed over 2^31")
            yield (*picture, *record, label, seed, copy, IMAGE_SUFFIXES.index(pictures[0]))


def _index(path: Path) -> Iterator[_Entry]:
    """Group a tar's members by key, refusing anything but plain files under plain names."""
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name, _, suffix = member.name.partition(".")
                if not member.isreg() or not _KEY.fullmatch(name) or suffix not in ("cls", "json", *IMAGE_SUFFIXES):
                    raise ShardError(f"foreign member {member.name!r} in {path.name}")
                if name != key:
                    if key is not None:
                        yield _Entry(key, members)
                    key, members = name, {}
                if suffix in members:
                    raise ShardError(f"doubled member {member.name!r} in {path.name}")
                members[suffix] = (member.offset_data, member.size)
    except FileNotFoundError as error:
        raise ShardError(f"missing shard {path.name}") from error
    except (OSError, tarfile.TarError) as error:
        raise ShardError(f"cannot read shard {path.name}: {error}") from error
    if key is not None:
        yield _Entry(key, members)


# --- checking -----------------------------------------------------------------------------------------------------


def verify(folder: Path) -> list[str]:
    """Check every shard and record of an expanded folder.

    Returns:
        One line for each thing that is wrong; empty when all is well.

    Raises:
        ShardError: If there is no readable manifest to check against.
    """
    manifest = read_manifest(folder)
    shards = manifest_shards(manifest)
    problems: list[str] = []
    expected = {shard.name for shard in shards}
    found = {f"data/{path.name}" for path in (folder / "data").glob("*") if not path.name.startswith(".")}
    problems += [f"foreign file {name}" for name in sorted(found - expected)]
    seen: set[tuple[str, int, int]] = set()
    keys: set[str] = set()
    for shard in shards:
        problems += _verify_shard(folder, shard, manifest, seen, keys)
    if not problems and len(keys) != manifest["samples"]:
        problems.append(f"{len(keys)} samples, but the manifest says {manifest['samples']}")
    for name in ("_info.json", f"wids-{manifest['split']}.json", "README.md"):
        if not (folder / name).is_file():
            problems.append(f"missing file {name}")
    entry = listed_file(manifest, INDEX)
    if entry and (folder / INDEX).is_file() and digest_file(folder / INDEX) != entry["sha256"]:
        problems.append(f"{INDEX}: content differs from its digest")
    return problems


def _verify_shard(
    folder: Path, shard: Shard, manifest: dict[str, Any], seen: set[tuple[str, int, int]], keys: set[str]
) -> list[str]:
    path = folder / shard.name
    if not path.is_file():
        return [f"missing shard {shard.name}"]
    problems = []
    if path.stat().st_size != shard.bytes:
        problems.append(f"{shard.name}: {path.stat().st_size} bytes, should be {shard.bytes}")
    elif digest_file(path) != shard.sha256:
        problems.append(f"{shard.name}: content differs from its digest")
    try:
        entries = list(_index(path))
    except ShardError as error:
        return [*problems, str(error)]
    if len(entries) != shard.samples:
        problems.append(f"{shard.name}: {len(entries)} samples, should be {shard.samples}")
    content = path.read_bytes()
    for entry in entries:
        parts = {suffix: content[offset : offset + size] for suffix, (offset, size) in entry.members.items()}
        problems += [f"{shard.name}: {entry.key}: {text}" for text in _verify_sample(parts, manifest, seen)]
        if entry.key in keys:
            problems.append(f"{shard.name}: {entry.key}: key used twice")
        keys.add(entry.key)
    return problems


def _verify_sample(parts: dict[str, bytes], manifest: dict[str, Any], seen: set[tuple[str, int, int]]) -> list[str]:
    pictures = [suffix for suffix in parts if suffix in IMAGE_SUFFIXES]
    if len(pictures) != 1 or set(parts) != {"cls", "json", *pictures}:
        return [f"has members {', '.join(sorted(parts))}"]
    try:
        record = Provenance.from_json(json.loads(parts["json"]))
        label = int(parts["cls"])
    except (ValueError, TypeError) as error:
        return [f"damaged record: {error}"]
    problems = []
    if hashlib.sha256(parts[pictures[0]]).hexdigest() != record.image_sha256:
        problems.append("picture differs from its digest")
    if label != record.label or not 0 <= label < len(manifest["classes"]):
        problems.append(f"label {label} is wrong")
    elif manifest["classes"][label] != record.class_name:
        problems.append(f"class name {record.class_name!r} is wrong")
    if (record.seed_key, record.seed_index, record.copy) in seen:
        problems.append(f"copy {record.copy} of seed {record.seed_index} is there twice")
    seen.add((record.seed_key, record.seed_index, record.copy))
    return problems


def shard_json(shard: Shard) -> dict[str, Any]:
    """A shard's entry as JSON types."""
    return asdict(shard)
