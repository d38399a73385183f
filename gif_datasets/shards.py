"""WebDataset shards: byte-reproducible tars, their index files, and checking them.

The only module that imports webdataset. The folder's layout is that of ``docs/format.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gif_datasets import atomic, index, ustar
from gif_datasets.config import AGNOSTIC, MAX_RATIO
from gif_datasets.errors import ShardError, UsageError
from gif_datasets.fingerprint import digest, digest_file
from gif_datasets.index import IMAGE_SUFFIXES, INDEX, Index
from gif_datasets.splits import VALIDATION
from gif_datasets.types import Provenance, Sample

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 3
CARD = "README.md"
PREVIEW = "preview.png"
EXPORTED = "export.json"
"""Written last into an export; marks it as one."""
OWN = "source.json"
"""Suffix of the member with the source's own columns, where it has some."""
_SYNTHETIC = b'"synthetic": true'  # in a record; a quotation mark within a text of it has a backslash before it
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")


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
    import webdataset

    count = failed = 0
    buffer = io.BytesIO()
    # an integer mtime gives plain USTAR headers
    writer = webdataset.TarWriter(buffer, mtime=0, user="", group="", mode=ustar.MODE)
    for key, sample in samples:
        writer.write(
            {
                "__key__": key,
                "cls": str(sample.provenance.label).encode("ascii"),
                image_format: sample.image,
                "json": record_bytes(sample.provenance),
                **({OWN: own[sample.provenance.seed_index]} if own is not None else {}),
            }
        )
        count += 1
        failed += not sample.provenance.passed
    writer.close()
    content = buffer.getvalue()
    atomic.write_bytes(path, content)
    sha256, md5 = hashlib.sha256(content).hexdigest(), hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Shard(f"data/{path.name}", count, failed, len(content), sha256, md5)


def intact(folder: Path, shard: Shard) -> bool:
    """Whether the shard's file is there, byte for byte."""
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.bytes and digest_file(path) == shard.sha256


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


def write_files(folder: Path, manifest: dict[str, Any], files: Mapping[str, bytes]) -> None:
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check ``manifest.json``.

    Raises:
        UsageError: If there is none.
        ShardError: If it is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (folder / EXPORTED).is_file():
            raise UsageError(f"{folder} is an export; to check it, run the same `gif-datasets export` again") from error
        raise UsageError(f"no {MANIFEST} in {folder}: not an expanded folder, or not finished") from error
    except (OSError, ValueError, RecursionError) as error:
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
    for part, fields in ((manifest, _MANIFEST_FIELDS), (recipe, _RECIPE_FIELDS)):
        for name, kind in fields.items():
            if not isinstance(part, dict) or type(part.get(name)) is not kind:
                raise ShardError(f"{path} is damaged: {name!r} is missing or of another type")
    ratio = manifest["plan"]["recipe"]["options"].get("ratio")
    if type(ratio) is not int or not 1 <= ratio <= MAX_RATIO:
        raise ShardError(f"{path} is damaged: its ratio is {ratio!r}")
    if not all(isinstance(name, str) for name in manifest["classes"]):
        raise ShardError(f"{path} is damaged: a class name is no text")
    all_shards(manifest)
    if not _is_sealed(manifest, content):
        raise ShardError(f"{path} is damaged: it differs from its own digest; expand again into {folder} to mend it")
    return manifest


def listed_file(folder: Path, name: str) -> bytes | None:
    """A file of the folder as its manifest lists it; None where there is no such file, or it is another."""
    try:
        entry, content = read_manifest(folder)["files"].get(name), (folder / name).read_bytes()
    except (OSError, ShardError, UsageError):
        return None
    return content if entry and file_entries({name: content}) == {name: entry} else None


def may_hold(folder: Path, name: str) -> bool:
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
class _Entry:
    key: str
    members: dict[str, tuple[int, int]]  # suffix: (offset, size)


def build_index(folder: Path, listed: Sequence[Shard]) -> Index:
    """Build the index of a folder from its shards, in their order.

    Raises:
        ShardError: If a shard is missing or damaged, or holds something else than its samples.
    """
    return index.from_entries(row for shard in listed for row in _rows(folder / shard.name, split_of(shard.name)))


def _rows(path: Path, split: str) -> Iterator[tuple[int, ...]]:
    with contextlib.ExitStack() as stack:
        file = None
        for entry in _index(path):
            file = file or stack.enter_context(path.open("rb"))
            pictures = [suffix for suffix in IMAGE_SUFFIXES if suffix in entry.members]
            if len(pictures) != 1 or entry.members.keys() - {OWN} != {"cls", "json", *pictures}:
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
            file.seek(record[0])
            made = _SYNTHETIC in file.read(record[1])
            yield (*picture, *record, label, seed, copy, made, IMAGE_SUFFIXES.index(pictures[0]))


def _index(path: Path) -> Iterator[_Entry]:
    """Group a tar's members by key, refusing anything but plain files under plain names."""
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    for member in ustar.members(path):
        name, _, suffix = member.name.partition(".")
        if not _KEY.fullmatch(name) or suffix not in ("cls", "json", OWN, *IMAGE_SUFFIXES):
            raise ShardError(f"foreign member {member.name!r} in {path.name}")
        if name != key:
            if key is not None:
                yield _Entry(key, members)
            key, members = name, {}
        if suffix in members:
            raise ShardError(f"doubled member {member.name!r} in {path.name}")
        members[suffix] = (member.offset, member.size)
    if key is not None:
        yield _Entry(key, members)


# --- checking -----------------------------------------------------------------------------------------------------


def verify(folder: Path, progress: Callable[..., Iterable[Shard]] | None = None) -> list[str]:
    """Check every byte of an expanded folder's shards, indices and card, and every record against the plan.

    Args:
        folder: The expanded folder.
        progress: Wraps the loop over the shards, for a progress bar.

    Returns:
        One line for each thing that is wrong; empty when all is well.

    Raises:
        ShardError: If there is no whole manifest to check against.
    """
    manifest = read_manifest(folder)
    if digest(manifest["plan"]) != manifest["plan_hash"]:
        raise ShardError(f"{folder / MANIFEST} is damaged: its plan differs from the plan's digest")
    shards = all_shards(manifest)
    problems = _verify_listing(folder, manifest, {shard.name for shard in shards})
    problems += _verify_files(folder, manifest["files"])
    found = {split: _Found() for split in splits(manifest)}
    for shard in progress(shards, "checking shards") if progress else shards:
        split = split_of(shard.name)
        if split not in found:
            problems.append(f"{shard.name}: the folder has no split {split!r}")
        else:
            problems += _verify_shard(folder, shard, manifest, split, found[split])
    if not problems:  # a damaged shard's samples are missing for a reason that is named already
        problems += _verify_plan(manifest, found)
        problems += _verify_indices(folder, manifest, shards)
    return problems


def _verify_listing(folder: Path, manifest: Mapping[str, Any], tars: set[str]) -> list[str]:
    """Files that do not belong here; hidden ones are nobody's data."""
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    top = {MANIFEST, PREVIEW, "data", *manifest["files"]}
    inner = [path for path in (folder / "data").glob("*") if not path.name.startswith(".")]
    foreign = [path.name for path in shown if path.name not in top]
    foreign += [f"data/{path.name}" for path in inner if f"data/{path.name}" not in tars]
    return [f"foreign file {name}" for name in sorted(foreign)]


def _verify_files(folder: Path, files: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, entry in sorted(files.items()):
        path = folder / name
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not isinstance(entry, dict):
            problems.append(f"damaged file entry {name!r}")
        elif not path.is_file():
            problems.append(f"missing file {name}; expand again to have it written")
        elif digest_file(path) != entry.get("sha256"):
            way = "edited, or damaged; remove it and expand again" if name == CARD else "expand again"
            problems.append(f"{name} differs from what was written ({way} to have it anew)")
    return problems


@dataclass
class _Found:
    """What the shards of one split hold, gathered while they are checked."""

    keys: set[str] = field(default_factory=set)
    seeds: dict[int, list[Any]] = field(default_factory=dict)  # index: key, label, index, origin
    copies: dict[int, set[int]] = field(default_factory=dict)
    own: dict[int, str] = field(default_factory=dict)  # index: digest of the source's own columns
    failed: int = 0
    synthetic: Counter[bool] = field(default_factory=Counter)  # synthetic samples, by whether they are copies


def _verify_shard(folder: Path, shard: Shard, manifest: Mapping[str, Any], split: str, found: _Found) -> list[str]:
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
    failed = found.failed
    with path.open("rb") as file:
        for entry in entries:
            parts = {}
            for suffix, (offset, size) in entry.members.items():
                file.seek(offset)
                parts[suffix] = file.read(size)
            texts = _verify_sample(entry.key, parts, manifest, split, found)
            problems += [f"{shard.name}: {entry.key}: {text}" for text in texts]
    if found.failed - failed != shard.failed:
        problems.append(f"{shard.name}: {found.failed - failed} samples failed their check, should be {shard.failed}")
    return problems


def _verify_sample(
    key: str, parts: Mapping[str, bytes], manifest: Mapping[str, Any], split: str, found: _Found
) -> list[str]:
    picture = manifest["plan"]["recipe"]["options"].get("image_format")
    owns = {OWN} if "own_columns" in manifest["plan"] else set()
    if list(parts) != sorted({"cls", "json", str(picture), *owns}):
        return [f"has members {', '.join(parts)}"]
    try:
        record = Provenance.from_json(json.loads(parts["json"]))
    except (ValueError, TypeError, RecursionError) as error:
        return [f"damaged record: {error}"]
    problems = _verify_own(parts.get(OWN), record, found)
    if record_bytes(record) != parts["json"]:
        problems.append("record is not written as records are")
    if hashlib.sha256(parts[str(picture)]).hexdigest() != record.image_sha256:
        problems.append("picture differs from its digest")
    if parts["cls"] != str(record.label).encode("ascii") or not 0 <= record.label < len(manifest["classes"]):
        problems.append(f"label {parts['cls'][:20]!r} is wrong")
    elif manifest["classes"][record.label] != record.class_name:
        problems.append(f"class name {record.class_name!r} is wrong")
    if key in found.keys:
        problems.append("key used twice")
    elif key != sample_key(split, record.seed_index, record.copy):
        problems.append(f"its record is that of {sample_key(split, record.seed_index, record.copy)}")
    if record.copy in found.copies.setdefault(record.seed_index, set()):
        problems.append(f"copy {record.copy} of seed {record.seed_index} is there twice")
    if record.copy > 0 and not record.synthetic:
        problems.append(f"copy {record.copy} says synthetic false")
    seed = [record.seed_key, record.label, record.seed_index, record.seed_origin]
    if found.seeds.setdefault(record.seed_index, seed) != seed:
        problems.append(f"names another seed {record.seed_index} than its other copies")
    found.keys.add(key)
    found.failed += not record.passed
    found.synthetic[record.copy > 0] += record.synthetic
    found.copies[record.seed_index].add(record.copy)
    return problems


def _verify_own(content: bytes | None, record: Provenance, found: _Found) -> list[str]:
    """Whether the source's own columns are the same in all copies of a seed."""
    if content is None:
        return []
    own = hashlib.sha256(content).hexdigest()
    same = found.own.setdefault(record.seed_index, own) == own
    return [] if same else [f"has other values in {OWN} than other copies of its seed"]


def _verify_plan(manifest: Mapping[str, Any], found: Mapping[str, _Found]) -> list[str]:
    """Whether the samples are those of the plan, none missing; asked when each is whole."""
    plan, problems = manifest["plan"], []
    main, held = found[manifest["split"]], found.get(VALIDATION, _Found())
    options = plan["recipe"]["options"]
    agnostic = options.get("selection") == AGNOSTIC  # then seeds have more copies than others, and some none
    wanted = {0 if plan.get("originals") else 1, *range(1, options["ratio"] + 1)}
    for split, part, copies, seeds in (
        (manifest["split"], main, wanted, plan.get("seeds_digest")),
        (VALIDATION, held, {0}, plan.get("validation_digest")),
    ):
        for number, copies_there in sorted(part.copies.items()):
            odd = sorted(copies_there ^ copies)
            if odd and (split == VALIDATION or not agnostic):
                problems.append(f"split {split}: seed {number}: copy {odd[0]} is missing, or one too many")
        if seeds_digest(part.seeds[number] for number in sorted(part.seeds)) != seeds:
            problems.append(f"split {split}: the seeds in the shards are not those of the plan")
    if "own_columns" in plan and own_digest({**main.own, **held.own}) != plan["own_columns"].get("digest"):
        problems.append("the source's own columns in the shards are not those of the plan")
    both = {seed[0] for seed in main.seeds.values()} & {seed[0] for seed in held.seeds.values()}
    problems += [f"the picture {key} is in both splits" for key in sorted(both)]
    counts = {"samples": len(main.keys), "validation": len(held.keys), "failed_checks": main.failed + held.failed}
    counts["synthetic"] = main.synthetic.total()
    counts["originals"] = counts["samples"] - counts["synthetic"]
    if agnostic and main.synthetic[True] != plan.get("seeds", 0) * options["ratio"]:
        problems.append(f"{main.synthetic[True]} copies, but the plan asks for {options['ratio']} a seed")
    wanted_seeds = (plan.get("synthetic_seeds", 0) if plan.get("originals") else 0, plan.get("synthetic_validation", 0))
    if (main.synthetic[False], held.synthetic[False]) != wanted_seeds:
        problems.append("seeds are called synthetic that are real in the plan, or the reverse")
    problems += [
        f"{count} {name}, but the manifest says {manifest[name]}"
        for name, count in counts.items()
        if manifest[name] != count
    ]
    return problems


def _verify_indices(folder: Path, manifest: Mapping[str, Any], shards: Sequence[Shard]) -> list[str]:
    """Whether the indices say what the shards hold; a digest that fits does not show it."""
    try:
        wanted = {**index_files(manifest), INDEX: index.to_bytes(build_index(folder, shards))}
    except ShardError as error:
        return [str(error)]
    return [
        f"{name} does not describe these shards (expand again to have it anew)"
        for name, content in wanted.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]


def seeds_digest(seeds: Iterable[Sequence[Any]]) -> str:
    """Digest of seeds, each given as its key, label, index and origin, in order of index."""
    return digest([list(seed) for seed in seeds])


def own_digest(digests: Mapping[int, str]) -> str:
    """Digest of the source's own columns, given as the sha256 of each seed's :data:`OWN` by its index."""
    return digest([list(pair) for pair in sorted(digests.items())])


def record_bytes(record: Provenance) -> bytes:
    """A sample's ``KEY.json``."""
    return json.dumps(record.to_json(), sort_keys=True, ensure_ascii=True).encode("ascii")


def shard_json(shard: Shard) -> dict[str, Any]:
    """A shard's entry as JSON types."""
    return asdict(shard)
