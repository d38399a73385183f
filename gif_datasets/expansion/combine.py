"""Write several expansions into one folder: seeds once, with the copies of all, each with its provenance."""

from __future__ import annotations

import dataclasses
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.config import AGNOSTIC
from gif_datasets.errors import ShardError, UsageError
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.methods import AND
from gif_datasets.shards import folder as folders
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import rejections, tar
from gif_datasets.shards.columns import SOURCE
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.index import Index
from gif_datasets.shards.joined import Member, join, seeds_of
from gif_datasets.shards.manifest import (
    COPIES,
    GENERATIONS,
    LEFT_OUT,
    MERGED,
    ORIGINAL_FILES,
    WITHDRAWN,
    WITHDRAWN_IMAGES,
    Shard,
    withdrawn_digest,
)
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import LeftOut
from gif_datasets.types import CLASSIFIER_FILE, VALIDATION, Progress, Provenance, no_progress


@dataclass(frozen=True, eq=False)
class _Task:
    """A shard to write: samples of a folder's shard.

    Attributes:
        member: The folder.
        shard: Its shard.
        held: Whether it is of the validation split.
        entries: Those entries of its index that are kept, with the whole's labels and numbers.
        as_it_is: Whether every sample is kept, under its own key and label.
    """

    member: Member
    shard: Shard
    held: bool
    entries: Index
    as_it_is: bool

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """Where it is among the shards: real seeds, imagined ones, copies; what is held out last."""
        return self.held, bool(self.entries.copy.any()), bool(self.entries.synthetic.any())


def combine(
    parts: Sequence[ExpandedFolder], out: Path, match_classes: bool = False, progress: Progress | None = None
) -> int:
    """Write several expansions into one folder; run again = resume.

    A shard whose samples all stay as they are is linked where the file system can, else copied; any other is written
    with the whole's numbers.

    Args:
        parts: Finished folders on this machine.
        out: The whole folder, another one.
        match_classes: Also other seeds; see :func:`gif_datasets.shards.joined.join`.
        progress: Wraps the loop over shards.

    Returns:
        Number of shards in ``out``.

    Raises:
        UsageError: If the folders do not go together; nothing is written.
        PlanMismatch: If ``out`` holds something else.
        ShardError: If a shard is missing or damaged.
    """
    joined = join(parts, match_classes)
    members, same = joined.members, joined.same_seeds
    _refuse_other_files(parts, out, same)
    tasks = _tasks(members)
    plan = _plan(members, tasks, same)
    plan_hash, names = digest(plan), _names(tasks, plan["split"])
    folders.claim_folder(out, plan)
    finished = folders.finished(out, plan_hash, dict(enumerate(names)))
    for number, task in enumerate((progress or no_progress)(tasks, "joining shards", len(tasks))):
        if number not in finished:
            finished[number] = _write(task, out, names[number])
            folders.write_sidecar(out, plan_hash, number, finished[number])
    shards = [finished[number] for number in range(len(tasks))]
    if manifests.finished_manifest(out) is None:
        _reject(members, out, plan)
    content, own = _content(members, tasks, plan, shards), _own_files(parts, same)
    whole = folders.complete(out, content, plan, own, beside=folders.draw_preview)
    _warn_of_equal(members, whole)
    return len(shards)


def _refuse_other_files(parts: Sequence[ExpandedFolder], out: Path, same: bool) -> None:
    """Refuse what cannot be one folder: other image formats, other columns of a source, or an ``out`` inside a part."""
    first, *others = parts
    for part in parts:
        if part.local.resolve() in (out.resolve(), *out.resolve().parents):
            raise UsageError(f"{out} is, or is inside, {part.path}, which stays as it is; choose another --out")
    for other in others:
        formats = [part.manifest.plan.recipe.image_format for part in (first, other)]
        if formats[0] != formats[1]:
            raise UsageError(
                f"{first.path} has {formats[0]} images, {other.path} has {formats[1]}; load_expanded([..]) takes both,"
                " or expand again with the same image_format"
            )
        if _own_columns(first, other) != _own_columns(other, first) or (first.manifest.plan.own_columns and not same):
            raise UsageError(
                f"the sources of {first.path} and {other.path} have columns of their own that cannot be put together;"
                " load_expanded([..]) takes both, without them"
            )


def _own_columns(folder: ExpandedFolder, other: ExpandedFolder) -> Any:
    """What must be equal of the source's own columns: values too, where seeds have the same numbers."""
    own = folder.manifest.plan.own_columns
    numbered = folder.manifest.plan.seeds_digest == other.manifest.plan.seeds_digest
    return own if numbered or own is None else own.get("features")


def _tasks(members: Sequence[Member]) -> list[_Task]:
    found = [task for member in members for held in (False, True) for task in _tasks_of(member, held, members[0])]
    return sorted(found, key=lambda task: task.kind)


def _tasks_of(member: Member, held: bool, first: Member) -> Iterator[_Task]:
    if (split := member.split(held)) is None:
        return
    reader = ShardReader(member.folder, split, whole=True)
    whole, start = VALIDATION if held else first.folder.manifest.split, 0
    for shard in member.folder.manifest.shards_of(split):
        entries = reader.index.part(start, start + shard.samples)
        start += shard.samples
        kept, moved = member.kept(entries), member.moved(entries)
        if kept.any():
            stays = kept.all() and split == whole and _is_unmoved(member, entries, moved)
            yield _Task(member, shard, held, moved.rows(np.flatnonzero(kept)), bool(stays))


def _is_unmoved(member: Member, before: Index, after: Index) -> bool:
    """Whether samples keep their numbers, labels and names of classes."""
    names = ("label", "seed", "copy")
    classes = tuple(member.classes[label] for label in member.labels)
    same = all(np.array_equal(getattr(before, name), getattr(after, name)) for name in names)
    return same and classes == member.folder.manifest.classes


def _names(tasks: Sequence[_Task], split: str) -> list[str]:
    splits = [VALIDATION if task.held else split for task in tasks]
    counts, numbers = Counter(splits), Counter[str]()
    names = []
    for name in splits:
        names.append(manifests.shard_name(name, numbers[name], counts[name]))
        numbers[name] += 1
    return names


def _write(task: _Task, out: Path, name: str) -> Shard:
    source = task.member.folder.local
    if not tar.intact(source, task.shard):
        raise ShardError(f"{source / task.shard.name} is missing or damaged; run: gif-datasets verify {source}")
    if task.as_it_is:
        atomic.link_or_copy(source / task.shard.name, out / name)
        shard = dataclasses.replace(task.shard, name=name)
    else:
        shard = tar.move_shard(source / task.shard.name, out / name, lambda record: _moved(task.member, record))
    if not tar.intact(out, shard):
        raise ShardError(f"{out / name} does not hold what was written; is the disk failing?")
    return shard


def _moved(member: Member, record: Provenance) -> Provenance | None:
    return member.record(record) if record.copy or member.brings[record.seed_index] else None


# --- the plan -----------------------------------------------------------------------------------------------------


def _plan(members: Sequence[Member], tasks: Sequence[_Task], same: bool) -> dict[str, Any]:
    """The plan of the whole: what all plans say, what is the sum of theirs, and each of them."""
    plans = [dict(member.folder.manifest.plan.content) for member in members]
    parts = [part for plan in plans for part in plan.get(MERGED, [plan])]
    originals = any(member.folder.manifest.plan.originals for member in members)
    gone = {one for member in members for one in member.folder.manifest.plan.withdrawn}
    images = _withdrawn_images(members)
    own = (GENERATIONS, WITHDRAWN, WITHDRAWN_IMAGES, COPIES)
    common = {
        **{name: value for name, value in _agreed(plans).items() if name not in own},
        "source": " + ".join(dict.fromkeys(member.folder.manifest.source for member in members)),
        "split": members[0].folder.manifest.split,
        "originals": originals,
        "shards": [len(task.entries) for task in tasks],
        MERGED: parts,
        **({WITHDRAWN: sorted(gone)} if gone else {}),
        **({WITHDRAWN_IMAGES: sorted(images)} if images else {}),
        **({ORIGINAL_FILES: True} if any(ORIGINAL_FILES in plan for plan in plans) else {}),
        **({"own_columns": plans[0]["own_columns"]} if "own_columns" in plans[0] else {}),
    }
    seeds: dict[str, Any] = {name: plans[0].get(name) for name in _OF_SEEDS} if same else _of_seeds(members, tasks)
    copies = _copies(members)
    uneven = any(COPIES in plan for plan in plans) or not same
    recipe = _recipe(members, max(1, round(copies / max(1, seeds["seeds"]))))
    return {**common, **seeds, **({COPIES: copies} if uneven else {}), "recipe": recipe}


def _withdrawn_images(members: Sequence[Member]) -> set[str]:
    """Digests of the images that were withdrawn from a folder, and that no other seed has in another one."""
    found = set[str]()
    for member in members:
        images = set(member.folder.manifest.plan.withdrawn_images)
        for other in (other for other in members if images and other is not member):
            for split in other.folder.manifest.splits:
                reader = ShardReader(other.folder, split, whole=True)
                shown = (tar.image_digest(reader.record(number)) for number in range(len(reader)))
                images.difference_update(map(withdrawn_digest, shown))
        found |= images
    return found


_OF_SEEDS = (
    "seeds",
    "synthetic_seeds",
    "seeds_digest",
    "validation_seeds",
    "synthetic_validation",
    "validation_digest",
)


def _of_seeds(members: Sequence[Member], tasks: Sequence[_Task]) -> dict[str, Any]:
    """What a plan says of its seeds, for those of all folders."""
    found: dict[bool, dict[int, list[Any]]] = {False: {}, True: {}}
    for member in members:
        for seed in seeds_of(member.folder):
            number = int(member.seeds[seed.number])
            origin = member.origins.get(seed.number, seed.origin)
            row = [seed.key, int(member.labels[seed.label]), number, origin]
            found[seed.held].setdefault(number, row)
    values: dict[str, Any] = {}
    for held, names in ((False, _OF_SEEDS[:3]), (True, _OF_SEEDS[3:])):
        made = sum(int((t.entries.synthetic & (t.entries.copy == 0)).sum()) for t in tasks if t.held == held)
        rows = [found[held][number] for number in sorted(found[held])]
        values |= dict(zip(names, (len(rows), made, tar.seeds_digest(rows)), strict=True))
    return values


def _copies(members: Sequence[Member]) -> int:
    """How many copies the plans of all folders ask for."""
    return sum(member.folder.manifest.plan.copies for member in members)


def _recipe(members: Sequence[Member], ratio: int) -> dict[str, Any]:
    """A recipe that says of the whole what holds for all of its copies."""
    recipes = [dict(member.folder.manifest.plan.recipe.content) for member in members]
    options = [recipe["options"] for recipe in recipes]
    agreed = _agreed(options)
    if "method" not in agreed:  # how a strength is stored depends on the method
        agreed = {name: value for name, value in agreed.items() if name not in ("strength", "near_seed")}
    fitted = next((one["classifier"] for one in options if one.get("classifier", "text") != "text"), None)
    return {
        **_agreed(recipes),
        "options": {
            **agreed,
            "ratio": ratio,
            "method": AND.join(dict.fromkeys(one["method"] for one in options))[:100],
            "decode_batch": options[0]["decode_batch"],
            **({"classifier": fitted} if fitted else {}),
            **({"selection": AGNOSTIC} if any(one.get("selection") == AGNOSTIC for one in options) else {}),
        },
        "classes": list(members[0].classes),
        "prior": _prior([recipe["prior"] for recipe in recipes]),
        "device": "+".join(dict.fromkeys(recipe["device"] for recipe in recipes)),
        "versions": _agreed([recipe["versions"] for recipe in recipes]),
    }


def _prior(priors: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = " + ".join(dict.fromkeys(prior["name"] for prior in priors))
    digests = list(dict.fromkeys(prior["digest"] for prior in priors))
    return {"name": names, "digest": digests[0] if len(digests) == 1 else digest(digests)}


def _agreed(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that all have."""
    first, *others = values
    return {name: value for name, value in first.items() if all(name in o and o[name] == value for o in others)}


# --- what completes the folder ------------------------------------------------------------------------------------


def _content(
    members: Sequence[Member], tasks: Sequence[_Task], plan: dict[str, Any], shards: Sequence[Shard]
) -> dict[str, Any]:
    """The manifest as JSON, without the files' digests."""
    main = [task.entries for task in tasks if not task.held]
    samples, synthetic = sum(map(len, main)), sum(int(entries.synthetic.sum()) for entries in main)
    gone = dict(_left_out(members, plan["split"]))
    return {
        "format": manifests.MANIFEST_FORMAT,
        **{name: plan[name] for name in ("source", "split")},
        "classes": plan["recipe"]["classes"],
        "samples": samples,
        "originals": samples - synthetic,
        "synthetic": synthetic,
        "validation": sum(len(task.entries) for task in tasks if task.held),
        "failed_checks": sum(shard.failed for shard in shards),
        "plan": plan,
        "plan_hash": digest(plan),
        "shards": [manifests.shard_json(shard) for shard in shards],
        **({LEFT_OUT: gone} if gone else {}),
    }


def _left_out(members: Sequence[Member], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Samples that were left out of the folders, as the whole numbers them."""
    for member in members:
        for key, value in member.folder.manifest.left_out.items():
            entry = LeftOut.from_json(value)
            if entry.copy or member.brings[entry.seed[2]]:
                yield _moved_key(member, key, split), dataclasses.asdict(member.left_out(entry))


def _moved_key(member: Member, key: str, split: str) -> str:
    name, seed, copy = tar.parse_key(key) or ("", 0, 0)
    whole = split if name == member.folder.manifest.split else VALIDATION
    return tar.sample_key(whole, int(member.seeds[seed]), copy + member.copies * (copy > 0))


def _reject(members: Sequence[Member], out: Path, plan: Mapping[str, Any]) -> None:
    """Keep what was rejected in a folder rejected in the whole."""
    keys = {
        _moved_key(member, key, plan["split"])
        for member in members
        for key in member.folder.rejected
        if (parts := tar.parse_key(key)) and (parts[2] or member.brings[parts[1]])
    }
    if keys:
        rejections.write(out, digest(plan), keys)


def _own_files(parts: Sequence[ExpandedFolder], same: bool) -> dict[str, bytes]:
    """Files of the first folder that hold for the whole: those about the seeds."""
    names = (SOURCE, CLASSIFIER_FILE) if same else ()
    found = ((name, next(_files(parts, name), None)) for name in names)
    return {name: content for name, content in found if content is not None}


def _files(parts: Iterable[ExpandedFolder], name: str) -> Iterator[bytes]:
    return (content for part in parts if (content := part.file(name)) is not None)


def _warn_of_equal(members: Sequence[Member], whole: ExpandedFolder) -> None:
    """Say how many copies are, byte for byte, a copy of their seed that another folder has too."""
    reader = ShardReader(whole, whole=True)
    copies = np.flatnonzero(reader.index.copy > 0).tolist()
    above = [member.copies for member in members]
    found = {
        (int(reader.index.seed[i]), tar.image_digest(reader.record(i)), bisect_left(above, int(reader.index.copy[i])))
        for i in copies
    }
    if doubled := len(found) - len({(seed, image) for seed, image, _ in found}):
        warnings.warn(
            f"{doubled} of {len(copies)} copies are the same image as a copy of their seed in another folder; another"
            " --rng-seed gives other copies",
            stacklevel=4,
        )
