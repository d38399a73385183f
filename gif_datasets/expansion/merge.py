"""Join the parts of one expansion that were made in folders of their own, or several finished expansions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gif_datasets.errors import PlanMismatch, ShardError, UsageError
from gif_datasets.expansion.combine import combine
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.io.parsing import read_json
from gif_datasets.shards import tar
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.folder import (
    STATE,
    claim_folder,
    difference,
    draw_preview,
    finish,
    own_files,
    put_own_files,
    read_sidecar,
    sidecar,
    write_sidecar,
)
from gif_datasets.shards.manifest import Shard, plan_damage
from gif_datasets.types import PLAN_FILE, Progress, no_progress

NAMED = 3  # missing shards in an error


def merge_parts(
    parts: Sequence[str | Path], out: str | Path, progress: Progress | None = None, match_classes: bool = False
) -> int:
    """Join parts of one expansion, or several expansions of one source, into a whole folder; run again = resume.

    Every shard is checked against its digest as it arrives. It is linked where the file system can, else copied. Of
    several expansions each seed is there once, with the copies of all, whose numbers count on; records say how each
    was made, as before.

    Args:
        parts: Folders that ``expand`` wrote with ``--shard-index`` and ``--num-shards``, on any machines; or finished
            folders of one source, by several methods, ratios or numbers of a run.
        out: The whole folder; may be one of the parts of one expansion.
        progress: Wraps the loop over shards.
        match_classes: Of several expansions, also of other sources: classes are matched by name, those that the first
            has not follow, and an image that several have under one class is one seed.

    Returns:
        Number of shards in ``out``.

    Raises:
        UsageError: If a folder is not a part of an expansion, or expansions are of other seeds or classes.
        PlanMismatch: If the parts are of different expansions, not all finished, or ``out`` holds another one.
        ShardError: If shards are missing or damaged; those that are there are kept.
    """
    folders, target = [Path(part) for part in parts], Path(out)
    whole = [opened for folder in folders if (opened := ExpandedFolder.find(folder))]
    if len(whole) == len(folders) and len({folder.manifest.plan_hash for folder in whole}) > 1:
        return combine(whole, target, match_classes, progress)
    plan = _common_plan(folders)
    plan_hash = digest(plan)
    claim_folder(target, plan)
    found = _sidecars([target, *folders], plan_hash)
    shown = (progress or no_progress)(sorted(found.items()), "joining shards", len(found))
    done = {number: shard for number, (shard, places) in shown if _bring(shard, number, places, target, plan_hash)}
    missing = [number for number in range(len(plan["shards"])) if number not in done]
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise ShardError(
            f"{len(missing)} of {len(plan['shards'])} shards are in no part, or damaged: number"
            f" {', '.join(map(str, missing[:NAMED]))}{more}; make the parts that have them"
            " (part = number modulo the number of parts), and merge again"
        )
    own = next((files for folder in (target, *folders) if (files := own_files(folder, plan_hash)) is not None), None)
    if own is None:
        raise ShardError(
            "what the part with the first shard writes beside it is in no part, or damaged: run that part again"
            " (part 0), and merge again"
        )
    put_own_files(target, plan_hash, own)
    finish(target, plan, plan_hash, [done[number] for number in range(len(plan["shards"]))], own, draw_preview)
    return len(done)


def _common_plan(folders: Sequence[Path]) -> dict[str, Any]:
    """The plan that all folders have."""
    plans = [_plan(folder) for folder in folders]
    if not plans:
        raise UsageError("nothing to merge: name at least one part")
    for folder, plan in zip(folders, plans, strict=True):
        if plan != plans[0]:
            raise PlanMismatch(
                f"{folder} is a part of another expansion than {folders[0]} ({difference(plan, plans[0])});"
                " to merge several expansions, finish each before"
            )
    return plans[0]


def _plan(folder: Path) -> dict[str, Any]:
    try:
        plan: Any = read_json((folder / PLAN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not a part of an expansion: cannot read its {PLAN_FILE} ({error})") from error
    if problem := plan_damage(plan):
        raise UsageError(f"{folder} is not a part of an expansion: its {PLAN_FILE} is invalid ({problem})")
    found: dict[str, Any] = plan
    return found


def _sidecars(folders: Sequence[Path], plan_hash: str) -> dict[int, tuple[Shard, list[Path]]]:
    """Every shard that is said to be done, and where."""
    found: dict[int, tuple[Shard, list[Path]]] = {}
    for folder in folders:
        for path in sorted((folder / STATE).glob("*.json")):
            read = read_sidecar(path.read_bytes(), plan_hash)
            if read is not None and sidecar(folder, read[1].name) == path:
                found.setdefault(read[0], (read[1], []))[1].append(folder)
    return found


def _bring(shard: Shard, number: int, places: Sequence[Path], target: Path, plan_hash: str) -> bool:
    """Put a shard into the folder, from the first place where it is intact."""
    for place in places:
        if not tar.intact(place, shard):
            continue
        if place.resolve() != target.resolve():
            atomic.link_or_copy(place / shard.name, target / shard.name)
            if not tar.intact(target, shard):
                raise ShardError(f"{target / shard.name} does not hold what was copied; is the disk failing?")
            write_sidecar(target, plan_hash, number, shard)
        return True
    return False
