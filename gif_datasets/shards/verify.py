"""Checking an expanded folder: every byte of its shards, indices and card, and every record against the plan."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.config import AGNOSTIC
from gif_datasets.errors import BadImage, ConfigError, ShardError
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.decode import decode
from gif_datasets.io.digests import digest, digest_file, keys_of
from gif_datasets.io.images import LOSSLESS
from gif_datasets.io.stores import AnyPath
from gif_datasets.io.temporary import local_copy
from gif_datasets.ratios import copies_of_each
from gif_datasets.shards import index, tar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.index import INDEX, Index
from gif_datasets.shards.manifest import Manifest, Shard
from gif_datasets.shards.rejections import REJECTED, LeftOut
from gif_datasets.types import OWN_CLASS_FILE, VALIDATION, Provenance


def verify(
    folder: AnyPath | ExpandedFolder,
    progress: Callable[..., Iterable[Shard]] | None = None,
    cache: Cache | None = None,
) -> list[str]:
    """Check every byte of an expanded folder's shards, indices and card, and every record against the plan.

    Args:
        folder: The expanded folder; one in a store is fetched shard by shard.
        progress: Wraps the loop over the shards, for a progress bar.
        cache: Where to look for withdrawn images, too.

    Returns:
        One line for each problem; empty if there is none.

    Raises:
        ShardError: If there is no intact manifest to check against.
    """
    opened = ExpandedFolder.open(folder)
    path, manifest = opened.path, opened.manifest
    if digest(manifest.plan.content) != manifest.plan_hash:
        raise ShardError(f"{path / manifests.MANIFEST} is damaged: its plan differs from the plan's digest")
    problems = _verify_listing(path, manifest)
    problems += _verify_files(path, manifest.files)
    splits = {manifest.split: _Split(), VALIDATION: _Split()}
    problems += _count_left_out(manifest, splits)
    parts, odd = list[Index](), list[str]()
    for shard in progress(manifest.shards, "checking shards") if progress else manifest.shards:
        split = manifests.split_of(shard.name)
        if split not in manifest.splits:
            problems.append(f"{shard.name}: the folder has no split {split!r}")
            continue
        try:
            with local_copy(path / shard.name) as local:
                problems += _verify_shard(local, shard, manifest, splits[split])
                parts.append(tar.index_of(local))
        except FileNotFoundError:
            problems.append(f"missing shard {shard.name}")
        except ShardError as error:  # of the index; problems of the shard itself are in the list
            odd.append(str(error))
    if not problems:  # samples of a damaged shard are missing for a reason that is reported already
        problems += _verify_plan(manifest, splits[manifest.split], splits[VALIDATION])
        problems += odd[:1] or _verify_indices(path, manifest, index.joined(parts))
        problems += _verify_rejections(opened, {key for split in splits.values() for key in split.keys})
    if manifest.plan.withdrawn:
        problems += _withdrawn_elsewhere(path, manifest, cache)
    return problems


def _verify_listing(folder: AnyPath, manifest: Manifest) -> list[str]:
    """Files that do not belong to the folder; hidden files are ignored."""
    tars = {shard.name for shard in manifest.shards}
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    top = {manifests.MANIFEST, manifests.PREVIEW, OWN_CLASS_FILE, REJECTED, "data", *manifest.files}
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
            problems.append(f"missing file {name}; expand again to write it")
        elif digest_file(path) != entry.get("sha256"):
            way = "edited, or damaged; remove it and expand again" if name == manifests.CARD else "expand again"
            problems.append(f"{name} differs from what was written ({way} to restore it)")
    return problems


@dataclass
class _Seed:
    """The samples of one seed.

    Attributes:
        identity: Its key, label, index and origin.
        copies: Numbers of the samples; 0 is the seed itself.
        own: Digest of the source's own columns; empty if there are none.
    """

    identity: list[Any]
    copies: set[int] = field(default_factory=set)
    own: str = ""


@dataclass
class _Split:
    """The samples of one split, counted after each was checked.

    Attributes:
        keys: Keys of the samples in the shards.
        seeds: Their seeds, by index, and the seeds of samples that were left out.
        failed: Samples that did not pass their check.
        synthetic: Number of synthetic samples, by whether they are copies.
        left_out: The same for samples that were left out.
    """

    keys: set[str] = field(default_factory=set)
    seeds: dict[int, _Seed] = field(default_factory=dict)
    failed: int = 0
    synthetic: Counter[bool] = field(default_factory=Counter)
    left_out: Counter[bool] = field(default_factory=Counter)

    def add(self, sample: _Sample) -> None:
        """Count a sample of a shard."""
        record = sample.record
        seed = self.seeds.setdefault(record.seed_index, _Seed(sample.seed))
        seed.copies.add(record.copy)
        seed.own = seed.own or sample.own
        self.keys.add(sample.key)
        self.failed += not record.passed
        self.synthetic[record.copy > 0] += record.synthetic

    def add_left_out(self, entry: LeftOut) -> None:
        """Count a sample that was left out when the folder was written."""
        seed = self.seeds.setdefault(entry.seed[2], _Seed(list(entry.seed)))
        seed.copies.add(entry.copy)
        seed.own = entry.own or seed.own
        self.left_out[entry.copy > 0] += entry.synthetic


def _count_left_out(manifest: Manifest, splits: Mapping[str, _Split]) -> list[str]:
    """Count the samples that the plan asks for, and that were rejected before the shards were written."""
    problems = []
    for key, value in manifest.left_out.items():
        try:
            entry = LeftOut.from_json(value)
        except ShardError as error:
            problems.append(str(error))
            continue
        split, seed, copy = tar.parse_key(key) or ("", 0, 0)
        if split not in splits or (seed, copy) != (entry.seed[2], entry.copy):
            problems.append(f"the entry {key!r} of what was left out is another sample")
        else:
            splits[split].add_left_out(entry)
    return problems


@dataclass(frozen=True)
class _Sample:
    """One sample of a shard: its key, its members by suffix, and its record."""

    split: str
    key: str
    members: Mapping[str, bytes]
    record: Provenance

    @property
    def seed(self) -> list[Any]:
        """Key, label, index and origin of its seed."""
        record = self.record
        return [record.seed_key, record.label, record.seed_index, record.seed_origin]

    @property
    def own(self) -> str:
        """Digest of the source's own columns in it; empty if there are none."""
        content = self.members.get(tar.SOURCE_MEMBER)
        return "" if content is None else hashlib.sha256(content).hexdigest()


def _verify_shard(path: Path, shard: Shard, manifest: Manifest, split: _Split) -> list[str]:
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
    failed_before = split.failed
    with path.open("rb") as file:
        for entry in entries:
            members = tar.read_members(file, entry)
            texts = _verify_sample(manifests.split_of(shard.name), entry.key, members, manifest, split)
            problems += [f"{shard.name}: {entry.key}: {text}" for text in texts]
    if (failed := split.failed - failed_before) != shard.failed:
        problems.append(f"{shard.name}: {failed} samples failed their check, should be {shard.failed}")
    return problems


def _verify_sample(name: str, key: str, members: Mapping[str, bytes], manifest: Manifest, split: _Split) -> list[str]:
    """Read a sample, check it, and count it; a sample that cannot be read is not counted."""
    own = {tar.SOURCE_MEMBER} if manifest.plan.own_columns is not None else set()
    if list(members) != sorted({"cls", "json", manifest.plan.recipe.image_format, *own}):
        return [f"has members {', '.join(members)}"]
    try:
        sample = _Sample(name, key, members, tar.read_record(members["json"], key))
    except ShardError as error:
        return [str(error)]
    problems = [text for check in _SAMPLE_CHECKS for text in check(sample, manifest, split)]
    split.add(sample)
    return problems


def _check_own(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    seed = split.seeds.get(sample.record.seed_index)
    if sample.own and seed and seed.own and seed.own != sample.own:
        yield f"has other values in {tar.SOURCE_MEMBER} than other copies of its seed"


def _check_record(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    if tar.record_bytes(sample.record) != sample.members["json"]:
        yield "record is not written as records are"


def _check_image(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    content = sample.members[manifest.plan.recipe.image_format]
    found = hashlib.sha256(content).hexdigest()
    if found != sample.record.image_sha256:
        yield "image differs from its digest"
    if _is_withdrawn(manifest, found, sample.record.seed_key, sample.record.partner_key):
        yield _WITHDRAWN


def _check_pixels(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    """Compare an original that is stored losslessly with the key of its seed, which is that of its pixels."""
    suffix = manifest.plan.recipe.image_format
    if sample.record.copy == 0 and suffix in LOSSLESS:
        try:
            pixels = decode(sample.members[suffix], sample.key)
        except BadImage as error:
            yield f"image cannot be read ({error})"
        else:
            if sample.record.seed_key not in keys_of(pixels):
                yield f"shows other pixels than {sample.record.seed_origin} had when it was listed"


def _check_objects(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    """Compare the objects with what the plan keeps, and their boxes with the image."""
    kept, objects = manifest.plan.objects, sample.record.objects
    if (kept is None) != (objects is None) or (kept and objects and objects.masks != (kept["keep"] == "masks")):
        yield "its record has other objects than the plan keeps"
        return
    if kept is None or objects is None:
        return
    for one in objects.items:
        ends = [start + length for start, length in zip(one.box[:2], one.box[2:], strict=True)]
        most = [side + 0.01 for side in objects.size]  # coordinates have three decimals
        if min(one.box) < 0 or ends[0] > most[0] or ends[1] > most[1] or one.category not in kept["classes"]:
            yield f"its object {one.id} is outside the image, or of no class"


def _check_label(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    record, text = sample.record, sample.members["cls"]
    if text != str(record.label).encode("ascii") or not 0 <= record.label < len(manifest.classes):
        yield f"label {text[:20]!r} is wrong"
    elif manifest.classes[record.label] != record.class_name:
        yield f"class name {record.class_name!r} is wrong"


def _check_key(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    key = tar.sample_key(sample.split, sample.record.seed_index, sample.record.copy)
    if sample.key in split.keys:
        yield "key used twice"
    elif sample.key != key:
        yield f"its record is that of {key}"


def _check_copy(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    record = sample.record
    seed = split.seeds.get(record.seed_index)
    if seed and record.copy in seed.copies:
        yield f"copy {record.copy} of seed {record.seed_index} is there twice"
    if record.copy > 0 and not record.synthetic:
        yield f"copy {record.copy} says synthetic false"


def _check_seed(sample: _Sample, manifest: Manifest, split: _Split) -> Iterator[str]:
    seed = split.seeds.get(sample.record.seed_index)
    if seed and seed.identity != sample.seed:
        yield f"names another seed {sample.record.seed_index} than its other copies"


_SAMPLE_CHECKS = (
    _check_own,
    _check_record,
    _check_image,
    _check_pixels,
    _check_objects,
    _check_label,
    _check_key,
    _check_copy,
    _check_seed,
)
"""Checks of one sample against the manifest, and against the samples of its split that were counted before it."""


def _verify_plan(manifest: Manifest, main: _Split, validation: _Split) -> list[str]:
    """Compare the samples with the plan; only if each sample is intact."""
    return [text for check in _PLAN_CHECKS for text in check(manifest, main, validation)]


def _check_seeds(manifest: Manifest, main: _Split, validation: _Split) -> Iterator[str]:
    plan = manifest.plan
    try:
        copies = _copies(manifest, main)
    except ConfigError as error:
        yield f"split {manifest.split}: {error}"
        return
    seed = {0} if plan.originals else set[int]()
    for number, count in copies.items():
        yield from _check_copies(manifest.split, number, main.seeds[number], seed | set(range(1, count + 1)))
    for number, held in sorted(validation.seeds.items()):
        yield from _check_copies(VALIDATION, number, held, {0})
    if plan.originals or not _is_uneven(manifest):  # others lack the seeds that have no copies
        yield from _check_identities(manifest.split, main, plan.seeds_digest)
    yield from _check_identities(VALIDATION, validation, plan.validation_digest)


def _check_copies(split: str, number: int, seed: _Seed, wanted: set[int]) -> Iterator[str]:
    if odd := sorted(seed.copies ^ wanted):
        yield f"split {split}: seed {number}: copy {odd[0]} is missing, or one too many"


def _check_identities(name: str, split: _Split, seeds_digest: str | None) -> Iterator[str]:
    if tar.seeds_digest(split.seeds[number].identity for number in sorted(split.seeds)) != seeds_digest:
        yield f"split {name}: the seeds in the shards are not those of the plan"


def _copies(manifest: Manifest, main: _Split) -> dict[int, int]:
    """Copies of each seed by its number, as the plan asks for them; empty where it leaves them open."""
    plan, numbers, more = manifest.plan, sorted(main.seeds), manifest.plan.more
    follows_all_seeds = isinstance(plan.recipe.ratio, str) and (plan.generations or len(numbers) != plan.seeds)
    if follows_all_seeds or (isinstance(plan.recipe.ratio, int) and _is_uneven(manifest) and not more):
        return {}
    identities = [main.seeds[number].identity for number in numbers]
    labels = np.array([label for _, label, _, _ in identities], np.int64)
    keys = np.array([key.encode() for key, _, _, _ in identities], np.bytes_)
    copies = copies_of_each(plan.recipe.ratio, manifest.classes, labels, keys, np.array(numbers, np.int64))
    return {number: count + more[number] for number, count in zip(numbers, copies.tolist(), strict=True)}


def _is_uneven(manifest: Manifest) -> bool:
    """Whether some seeds have more copies than others, and some none."""
    return manifest.options.get("selection") == AGNOSTIC or manifests.COPIES in manifest.plan.content


def _check_own_columns(manifest: Manifest, main: _Split, validation: _Split) -> Iterator[str]:
    digests = {number: seed.own for split in (main, validation) for number, seed in split.seeds.items() if seed.own}
    wanted = manifest.plan.own_columns
    if wanted is not None and tar.own_digest(digests) != wanted.get("digest"):
        yield "the source's own columns in the shards are not those of the plan"


def _check_overlap(manifest: Manifest, main: _Split, validation: _Split) -> Iterator[str]:
    keys, other = ({seed.identity[0] for seed in split.seeds.values()} for split in (main, validation))
    for key in sorted(keys & other):
        yield f"the image {key} is in both splits"


def _check_synthetic(manifest: Manifest, main: _Split, validation: _Split) -> Iterator[str]:
    plan = manifest.plan
    counts, other = main.synthetic + main.left_out, validation.synthetic + validation.left_out
    if _is_uneven(manifest) and counts[True] != plan.copies:
        yield f"{counts[True]} copies, but the plan asks for {plan.copies}"
    if (counts[False], other[False]) != (plan.synthetic_seeds if plan.originals else 0, plan.synthetic_validation):
        yield "seeds are called synthetic that are real in the plan, or the reverse"


def _check_counts(manifest: Manifest, main: _Split, validation: _Split) -> Iterator[str]:
    samples, synthetic = len(main.keys), main.synthetic.total()
    for name, count, listed in (
        ("samples", samples, manifest.samples),
        ("validation", len(validation.keys), manifest.validation),
        ("failed_checks", main.failed + validation.failed, manifest.failed_checks),
        ("synthetic", synthetic, manifest.synthetic),
        ("originals", samples - synthetic, manifest.originals),
    ):
        if count != listed:
            yield f"{count} {name}, but the manifest says {listed}"


_PLAN_CHECKS = (_check_seeds, _check_own_columns, _check_overlap, _check_synthetic, _check_counts)
"""Checks of all samples, of the expanded and the validation split, against the manifest and its plan."""


_WITHDRAWN = "was withdrawn, or shows an image that was, and is still there"


def _is_withdrawn(manifest: Manifest, image: str, *keys: str) -> bool:
    """Whether one of some seeds was withdrawn, or the image file of this SHA-256 was, by its content."""
    plan = manifest.plan
    if not plan.withdrawn:
        return False
    if manifests.withdrawn_digest(image) in plan.withdrawn_images:
        return True
    return any(manifests.withdrawn_digest(key) in plan.withdrawn for key in keys)


def _withdrawn_elsewhere(folder: AnyPath, manifest: Manifest, cache: Cache | None) -> Iterator[str]:
    """Look for what was withdrawn in hidden folders, where other commands are at work, and in a cache."""
    for path in sorted(folder.glob(".*/**/*.tar")) if isinstance(folder, Path) else ():
        yield from _withdrawn_in(path, manifest)
    for name, record, content in cache.samples() if cache else ():
        keys = (str(record.get(key)) for key in ("seed_key", "partner_key"))
        if _is_withdrawn(manifest, hashlib.sha256(content).hexdigest(), *keys):
            yield f"{name} in the cache {_WITHDRAWN}"


def _withdrawn_in(path: Path, manifest: Manifest) -> Iterator[str]:
    """Look for what was withdrawn in a shard that the manifest does not list."""
    name = f"{path.parent.parent.name}/{path.name}"
    try:
        for key, members in tar.read_samples(path, lambda _: True):
            record = tar.read_record(members.get("json", b""), key)
            content = members.get(manifest.plan.recipe.image_format, b"")
            if _is_withdrawn(manifest, hashlib.sha256(content).hexdigest(), record.seed_key, record.partner_key):
                yield f"{name}: {key} {_WITHDRAWN}"
    except ShardError as error:
        yield f"{name}: {error}"


def _verify_rejections(folder: ExpandedFolder, keys: set[str]) -> list[str]:
    """Check that the list of rejected samples can be read, and names samples."""
    try:
        unknown = sorted(folder.rejected - keys)
    except ShardError as error:
        return [str(error)]
    return [f"{REJECTED} names {key!r}, which is not a sample" for key in unknown]


def _verify_indices(folder: AnyPath, manifest: Manifest, whole: Index) -> list[str]:
    """Check that the indices describe the shards; a digest that fits does not show it."""
    wanted = {**manifests.index_files(manifest), INDEX: index.to_bytes(whole)}
    return [
        f"{name} does not describe these shards (expand again to restore it)"
        for name, content in wanted.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]
