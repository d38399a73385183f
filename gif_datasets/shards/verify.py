"""Checking an expanded folder: every byte of its shards, indices and card, and every record against the plan."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gif_datasets.config import AGNOSTIC
from gif_datasets.errors import ShardError
from gif_datasets.io.digests import digest, digest_file
from gif_datasets.io.stores import AnyPath, local_copy
from gif_datasets.shards import index, tar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.index import INDEX, Index
from gif_datasets.shards.manifest import Shard
from gif_datasets.shards.rejections import REJECTED, LeftOut, rejected_keys
from gif_datasets.types import VALIDATION, Provenance


def verify(folder: AnyPath, progress: Callable[..., Iterable[Shard]] | None = None) -> list[str]:
    """Check every byte of an expanded folder's shards, indices and card, and every record against the plan.

    Args:
        folder: The expanded folder; one in a store is fetched shard by shard.
        progress: Wraps the loop over the shards, for a progress bar.

    Returns:
        One line for each thing that is wrong; empty when all is well.

    Raises:
        ShardError: If there is no whole manifest to check against.
    """
    manifest = manifests.read_manifest(folder)
    if digest(manifest["plan"]) != manifest["plan_hash"]:
        raise ShardError(f"{folder / manifests.MANIFEST} is damaged: its plan differs from the plan's digest")
    listed = manifests.all_shards(manifest)
    problems = _verify_listing(folder, manifest, {shard.name for shard in listed})
    problems += _verify_files(folder, manifest["files"])
    found = {manifest["split"]: _Found(), VALIDATION: _Found()}
    problems += _take_left_out(manifest, found)
    parts, odd = list[Index](), list[str]()
    for shard in progress(listed, "checking shards") if progress else listed:
        split = manifests.split_of(shard.name)
        if split not in manifests.splits(manifest):
            problems.append(f"{shard.name}: the folder has no split {split!r}")
            continue
        try:
            with local_copy(folder / shard.name) as path:
                problems += _verify_shard(path, shard, manifest, split, found[split])
                parts.append(tar.index_of(path))
        except FileNotFoundError:
            problems.append(f"missing shard {shard.name}")
        except ShardError as error:  # of the index; what is wrong with the shard itself is in the list
            odd.append(str(error))
    if not problems:  # a damaged shard's samples are missing for a reason that is named already
        problems += _verify_plan(manifest, found)
        problems += odd[:1] or _verify_indices(folder, manifest, index.joined(parts))
        problems += _verify_rejections(folder, manifest, {key for part in found.values() for key in part.keys})
    return problems


def _verify_listing(folder: AnyPath, manifest: Mapping[str, Any], tars: set[str]) -> list[str]:
    """Files that do not belong here; hidden ones are nobody's data."""
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    top = {manifests.MANIFEST, manifests.PREVIEW, REJECTED, "data", *manifest["files"]}
    inner = [path for path in (folder / "data").glob("*") if not path.name.startswith(".")]
    foreign = [path.name for path in shown if path.name not in top]
    foreign += [f"data/{path.name}" for path in inner if f"data/{path.name}" not in tars]
    return [f"foreign file {name}" for name in sorted(foreign)]


def _verify_files(folder: AnyPath, files: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, entry in sorted(files.items()):
        path = folder / name
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not isinstance(entry, dict):
            problems.append(f"damaged file entry {name!r}")
        elif not path.is_file():
            problems.append(f"missing file {name}; expand again to have it written")
        elif digest_file(path) != entry.get("sha256"):
            way = "edited, or damaged; remove it and expand again" if name == manifests.CARD else "expand again"
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
    left_out: Counter[bool] = field(default_factory=Counter)  # of them those that the folder was written without


def _take_left_out(manifest: Mapping[str, Any], found: Mapping[str, _Found]) -> list[str]:
    """Count what was rejected, and is not in the shards, among what the plan asks for."""
    problems = []
    for key, value in manifest.get(manifests.LEFT_OUT, {}).items():
        try:
            told = LeftOut.from_json(value)
        except ShardError as error:
            problems.append(str(error))
            continue
        split, seed, copy = tar.parse_key(key) or ("", 0, 0)
        if split not in found or (seed, copy) != (told.seed[2], told.copy):
            problems.append(f"what was left out as {key!r} is another sample")
            continue
        part = found[split]
        part.seeds.setdefault(seed, list(told.seed))
        part.copies.setdefault(seed, set()).add(copy)
        part.left_out[copy > 0] += told.synthetic
        part.own |= {seed: told.own} if told.own else {}
    return problems


def _verify_shard(path: Path, shard: Shard, manifest: Mapping[str, Any], split: str, found: _Found) -> list[str]:
    if not path.is_file():
        return [f"missing shard {shard.name}"]
    problems = []
    if path.stat().st_size != shard.bytes:
        problems.append(f"{shard.name}: {path.stat().st_size} bytes, should be {shard.bytes}")
    elif digest_file(path) != shard.sha256:
        problems.append(f"{shard.name}: content differs from its digest")
    try:
        entries = list(tar.entries(path))
    except ShardError as error:
        return [*problems, str(error)]
    if len(entries) != shard.samples:
        problems.append(f"{shard.name}: {len(entries)} samples, should be {shard.samples}")
    failed = found.failed
    with path.open("rb") as file:
        for entry in entries:
            texts = _verify_sample(entry.key, tar.read_members(file, entry), manifest, split, found)
            problems += [f"{shard.name}: {entry.key}: {text}" for text in texts]
    if found.failed - failed != shard.failed:
        problems.append(f"{shard.name}: {found.failed - failed} samples failed their check, should be {shard.failed}")
    return problems


def _verify_sample(
    key: str, parts: Mapping[str, bytes], manifest: Mapping[str, Any], split: str, found: _Found
) -> list[str]:
    picture = manifest["plan"]["recipe"]["options"].get("image_format")
    owns = {tar.OWN} if "own_columns" in manifest["plan"] else set()
    if list(parts) != sorted({"cls", "json", str(picture), *owns}):
        return [f"has members {', '.join(parts)}"]
    try:
        record = tar.read_record(parts["json"], key)
    except ShardError as error:
        return [str(error)]
    problems = _verify_own(parts.get(tar.OWN), record, found)
    if tar.record_bytes(record) != parts["json"]:
        problems.append("record is not written as records are")
    if hashlib.sha256(parts[str(picture)]).hexdigest() != record.image_sha256:
        problems.append("picture differs from its digest")
    if parts["cls"] != str(record.label).encode("ascii") or not 0 <= record.label < len(manifest["classes"]):
        problems.append(f"label {parts['cls'][:20]!r} is wrong")
    elif manifest["classes"][record.label] != record.class_name:
        problems.append(f"class name {record.class_name!r} is wrong")
    if key in found.keys:
        problems.append("key used twice")
    elif key != tar.sample_key(split, record.seed_index, record.copy):
        problems.append(f"its record is that of {tar.sample_key(split, record.seed_index, record.copy)}")
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
    return [] if same else [f"has other values in {tar.OWN} than other copies of its seed"]


def _verify_plan(manifest: Mapping[str, Any], found: Mapping[str, _Found]) -> list[str]:
    """Whether the samples are those of the plan, none missing; asked when each is whole."""
    plan, problems = manifest["plan"], []
    main, held = found[manifest["split"]], found[VALIDATION]
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
        if tar.seeds_digest(part.seeds[number] for number in sorted(part.seeds)) != seeds:
            problems.append(f"split {split}: the seeds in the shards are not those of the plan")
    if "own_columns" in plan and tar.own_digest({**main.own, **held.own}) != plan["own_columns"].get("digest"):
        problems.append("the source's own columns in the shards are not those of the plan")
    both = {seed[0] for seed in main.seeds.values()} & {seed[0] for seed in held.seeds.values()}
    problems += [f"the picture {key} is in both splits" for key in sorted(both)]
    counts = {"samples": len(main.keys), "validation": len(held.keys), "failed_checks": main.failed + held.failed}
    counts["synthetic"] = main.synthetic.total()
    counts["originals"] = counts["samples"] - counts["synthetic"]
    made, made_held = main.synthetic + main.left_out, held.synthetic + held.left_out
    if agnostic and made[True] != plan.get("seeds", 0) * options["ratio"]:
        problems.append(f"{made[True]} copies, but the plan asks for {options['ratio']} a seed")
    wanted_seeds = (plan.get("synthetic_seeds", 0) if plan.get("originals") else 0, plan.get("synthetic_validation", 0))
    if (made[False], made_held[False]) != wanted_seeds:
        problems.append("seeds are called synthetic that are real in the plan, or the reverse")
    problems += [
        f"{count} {name}, but the manifest says {manifest[name]}"
        for name, count in counts.items()
        if manifest[name] != count
    ]
    return problems


def _verify_rejections(folder: AnyPath, manifest: Mapping[str, Any], keys: set[str]) -> list[str]:
    """Whether the list of what was rejected can be read, and names samples."""
    try:
        unknown = sorted(rejected_keys(folder, manifest) - keys)
    except ShardError as error:
        return [str(error)]
    return [f"{REJECTED} names {key!r}, which is no sample" for key in unknown]


def _verify_indices(folder: AnyPath, manifest: Mapping[str, Any], whole: Index) -> list[str]:
    """Whether the indices say what the shards hold; a digest that fits does not show it."""
    wanted = {**manifests.index_files(manifest), INDEX: index.to_bytes(whole)}
    return [
        f"{name} does not describe these shards (expand again to have it anew)"
        for name, content in wanted.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]
