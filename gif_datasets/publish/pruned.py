"""A copy of an expanded folder without its rejected samples, for readers of tars, which ignore the list of rejections.

Shards are copied without the rejected samples; empty shards are left out. The manifest describes the missing samples,
so that the copy can be verified against its plan, too.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gif_datasets.errors import UsageError
from gif_datasets.io.digests import digest
from gif_datasets.shards import folder as folders
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import rejections, tar
from gif_datasets.shards.columns import SOURCE
from gif_datasets.shards.manifest import LEFT_OUT, Manifest, Shard
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import LeftOut
from gif_datasets.types import CLASSIFIER_FILE, Progress


def prune(
    readers: Mapping[str, ShardReader], out: Path, settings: dict[str, Any], show: Progress
) -> tuple[list[Shard], int]:
    """Write the copy. Run again = resume.

    Args:
        readers: A reader of each split of the expanded folder, the expanded split first; its shards are intact.
        out: The copy; already claimed for ``settings``.
        settings: Everything that decides its bytes.
        show: Wraps the loop.

    Returns:
        Its shards, and how many of them were written in this run.

    Raises:
        UsageError: If no sample of the expanded split is left.
    """
    reader = next(iter(readers.values()))
    folder, manifest = reader.folder, reader.manifest
    assert isinstance(folder, Path)  # an exported folder is on this machine
    keys = reader.opened.rejected
    wanted = _wanted(readers)
    if not any(manifests.split_of(name) == manifest.split for name, _ in wanted):
        raise UsageError(f"every sample of {folder} was rejected; nothing is left to write")
    hashed, names = digest(settings), dict(enumerate(name for name, _ in wanted))
    finished = folders.finished(out, hashed, names)
    before = len(finished)
    for number, (name, shard) in enumerate(show(wanted, "copying shards")):
        if number not in finished:
            finished[number] = tar.copy_shards([folder / shard.name], out / name, keys)
            folders.write_sidecar(out, hashed, number, finished[number])
    listed = [finished[number] for number in range(len(wanted))]
    missing = _left_out(folder, manifest, keys)
    pruned = {
        **manifest.to_json(),
        **_counts(manifest, missing),
        "shards": [manifests.shard_json(shard) for shard in listed],
    }
    pruned["failed_checks"] = sum(shard.failed for shard in listed)
    if missing:
        pruned[LEFT_OUT] = {**manifest.left_out, **{key: asdict(one) for key, one in missing.items()}}
    own = {name: (folder / name).read_bytes() for name in (SOURCE, CLASSIFIER_FILE) if name in manifest.files}
    copy = folders.complete(out, pruned, settings, own)
    if (folder / manifests.PREVIEW).is_file():
        folders.draw_preview(copy)
    return listed, len(listed) - before


def _wanted(readers: Mapping[str, ShardReader]) -> list[tuple[str, Shard]]:
    """Shards with samples that are left, each with its name in the copy."""
    names_and_shards = []
    for split, reader in readers.items():
        listed = reader.manifest.shards_of(split)
        left = [shard for shard, count in zip(listed, reader.counts, strict=True) if count]
        names = (manifests.shard_name(split, number, len(left)) for number in itertools.count())
        names_and_shards += [(next(names), shard) for shard in left]
    return names_and_shards


def _left_out(folder: Path, manifest: Manifest, keys: frozenset[str]) -> dict[str, LeftOut]:
    """What a verification of the copy needs to know about each missing sample."""
    left_out = {}
    for shard in manifest.shards if keys else ():
        for key, parts in tar.read_samples(folder / shard.name, keys.__contains__):
            own = hashlib.sha256(parts[tar.SOURCE_MEMBER]).hexdigest() if tar.SOURCE_MEMBER in parts else ""
            left_out[key] = LeftOut.of(tar.read_record(parts["json"], key), own)
    return left_out


def _counts(manifest: Manifest, missing: Mapping[str, LeftOut]) -> dict[str, int]:
    """The manifest's counts without some samples."""
    kinds = Counter(_count_of(manifest, key, one.synthetic) for key, one in missing.items())
    kinds["samples"] = kinds["originals"] + kinds["synthetic"]
    return {name: getattr(manifest, name) - kinds[name] for name in ("samples", "originals", "synthetic", "validation")}


def _count_of(manifest: Manifest, key: str, synthetic: bool) -> str:
    if rejections.split_of_key(key) != manifest.split:
        return "validation"
    return "synthetic" if synthetic else "originals"
