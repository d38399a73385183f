"""The manifest of an expanded folder: what it lists, its checks, and the files that are made of it for readers.

The folder's layout is that of ``docs/format.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gif_datasets.config import MAX_RATIO
from gif_datasets.errors import ShardError, UsageError
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import AnyPath
from gif_datasets.shards.index import IMAGE_SUFFIXES
from gif_datasets.types import EXPORTED, VALIDATION

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 3
CARD = "README.md"
PREVIEW = "preview.png"
LEFT_OUT = "left_out"
"""In the manifest of a folder without rejected samples: what those were that its shards would hold."""


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
_PLAN_FIELDS = {
    "source": str,
    "split": str,
    "seeds": int,
    "synthetic_seeds": int,
    "validation_seeds": int,
    "originals": bool,
    "shards": list,
    "recipe": dict,
}
SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
"""Names of splits: they become parts of files' names."""
_RECIPE_FIELDS = {"options": dict, "prior": dict, "device": str, "versions": dict}


def shard_name(split: str, index: int, count: int) -> str:
    """``data/train-00000-of-00064.tar``: the pattern that Hugging Face datasets finds without configuration."""
    return f"data/{split}-{index:05d}-of-{count:05d}.tar"


def split_of(name: str) -> str:
    """The split of a shard, from its name."""
    return name.removeprefix("data/").partition("-")[0]


def index_files(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """What readers look for, by name: timm's ``_info.json``, and wids' index of each split."""
    files, infos = {}, {}
    for split in splits(manifest):
        listed = manifest_shards(manifest, split)
        counts = [shard.samples for shard in listed]
        infos[split] = {
            "name": split,
            "num_samples": sum(counts),
            "filenames": [shard.name for shard in listed],
            "shard_lengths": counts,
            "alt_label": "",
        }
        wids = {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": manifest["source"],
            "shardlist": [
                {
                    "url": shard.name,
                    "nsamples": shard.samples,
                    "filesize": shard.bytes,
                    "md5sum": shard.md5,
                    "sha256": shard.sha256,
                }
                for shard in listed
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
    if problem := _damage(manifest):
        raise ShardError(f"{path} is damaged: {problem}")
    all_shards(manifest)
    if not _is_sealed(manifest, content):
        raise ShardError(f"{path} is damaged: it differs from its own digest; expand again into {folder} to mend it")
    return manifest


def _damage(manifest: Mapping[str, Any]) -> str:
    """Which field is not as this package writes it; empty where all are."""
    recipe = manifest["plan"].get("recipe") if isinstance(manifest.get("plan"), dict) else None
    prior = recipe.get("prior") if isinstance(recipe, dict) else None
    parts = (
        (manifest, _MANIFEST_FIELDS),
        (manifest.get("plan"), {"seeds": int}),
        (recipe, _RECIPE_FIELDS),
        (prior, _PRIOR_FIELDS),
    )
    for part, fields in parts:
        if problem := _unlike(part, fields):
            return problem
    if (kind := manifest["plan"]["recipe"]["options"].get("image_format")) not in IMAGE_SUFFIXES:
        return f"its image_format is {str(kind)[:60]!r}"
    if not isinstance(manifest.get(LEFT_OUT, {}), dict):
        return f"{LEFT_OUT!r} is of another type"
    ratio = manifest["plan"]["recipe"]["options"].get("ratio")
    if type(ratio) is not int or not 1 <= ratio <= MAX_RATIO:
        return f"its ratio is {ratio!r}"
    return "" if all(isinstance(name, str) for name in manifest["classes"]) else "a class name is no text"


def plan_damage(plan: Any) -> str:
    """What of a plan is not as this package writes it; empty where all that a folder is finished by is."""
    if problem := _unlike(plan, _PLAN_FIELDS):
        return problem
    recipe = plan["recipe"]
    if not isinstance(recipe.get("classes"), list) or not isinstance(recipe.get("options"), dict):
        return "its recipe is none"
    return "" if type(recipe["options"].get("ratio")) is int else f"its ratio is {recipe['options'].get('ratio')!r}"


def _unlike(part: Any, fields: Mapping[str, type]) -> str:
    """Which of some fields is missing, of another type, or names no split; empty where none is."""
    for name, kind in fields.items():
        if not isinstance(part, dict) or type(part.get(name)) is not kind:
            return f"{name!r} is missing or of another type"
    if "split" in fields and not SPLIT.fullmatch(part["split"]):
        return f"its split is {part['split'][:60]!r}"
    return ""


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


def shard_json(shard: Shard) -> dict[str, Any]:
    """A shard's entry as JSON types."""
    return asdict(shard)


def shard_size(samples: int, block: int) -> int:
    """Samples a shard, unless told otherwise: about 64 shards, within limits, in blocks so that none is padded."""
    size = min(max(-(-samples // 64), 50), 1_000)
    return -(-size // block) * block
