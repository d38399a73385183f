"""WebDataset shards: byte-reproducible tars, their index files, reading and checking them.

The only module that imports webdataset. The folder's layout is that of ``docs/format.md``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gif_datasets import atomic
from gif_datasets.errors import ShardError, UsageError
from gif_datasets.fingerprint import digest_file
from gif_datasets.types import Provenance, Sample

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
IMAGE_SUFFIXES = ("png", "jpg", "webp")
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
    atomic.write_json(folder / MANIFEST, manifest)


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


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    key: str
    members: dict[str, tuple[int, int]]  # suffix: (offset, size)


class ShardReader:
    """Random access to the samples of an expanded folder, through an index of the tars' members.

    Args:
        folder: A finished expanded folder.

    Raises:
        ShardError: If the manifest or a shard is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.classes: tuple[str, ...] = tuple(self.manifest["classes"])
        self._shards = manifest_shards(self.manifest)
        self._entries = [list(_index(folder / shard.name)) for shard in self._shards]
        self._starts = [0]
        for entries in self._entries:
            self._starts.append(self._starts[-1] + len(entries))
        self._positions = {entry.key: i for i, entry in enumerate(e for entries in self._entries for e in entries)}

    def __len__(self) -> int:
        return self._starts[-1]

    def key(self, index: int) -> str:
        """``__key__`` of a sample."""
        return self._find(index)[1].key

    def index_of(self, key: str) -> int:
        """Position of a sample by its ``__key__``; raises KeyError."""
        return self._positions[key]

    def label(self, index: int) -> int:
        """Class index of a sample."""
        return int(self._read(index, ("cls",)))

    def image_bytes(self, index: int) -> bytes:
        """The stored image file of a sample."""
        return self._read(index, IMAGE_SUFFIXES)

    def provenance(self, index: int) -> Provenance:
        """The provenance of a sample."""
        return Provenance.from_json(json.loads(self._read(index, ("json",))))

    def _find(self, index: int) -> tuple[Path, _Entry]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} samples")
        shard = bisect_right(self._starts, index) - 1
        return self.folder / self._shards[shard].name, self._entries[shard][index - self._starts[shard]]

    def _read(self, index: int, suffixes: tuple[str, ...]) -> bytes:
        path, entry = self._find(index)
        for suffix in suffixes:
            if suffix in entry.members:
                offset, size = entry.members[suffix]
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(size)
        raise ShardError(f"{entry.key} in {path.name} has no member {' or '.join(suffixes)}")


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
