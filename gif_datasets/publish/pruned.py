"""An expanded folder without what was rejected in it, for readers of tars, which know of no list beside them.

Shards are copied without the rejected samples, and those that are left empty are not there; what the samples were is
told in the manifest, so that the copy can be checked against its plan, too.
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
from gif_datasets.shards.manifest import LEFT_OUT, Shard
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import LeftOut
from gif_datasets.types import CLASSIFIER_FILE, Progress


def prune(
    readers: Mapping[str, ShardReader], out: Path, settings: dict[str, Any], show: Progress
) -> tuple[list[Shard], int]:
    """Write the copy. Run again = resume.

    Args:
        readers: Of each split of the expanded folder, whose shards are whole, the expanded one first.
        out: The copy; claimed for ``settings`` already.
        settings: What decides its bytes.
        show: Wraps the loop.

    Returns:
        Its shards, and how many of them were written now.

    Raises:
        UsageError: If nothing of the expanded split is left.
    """
    reader = next(iter(readers.values()))
    folder, manifest = reader.folder, reader.manifest
    assert isinstance(folder, Path)  # what is exported is on this machine
    keys = rejections.rejected_keys(folder, manifest)
    wanted = _wanted(readers)
    if not any(manifests.split_of(name) == manifest["split"] for name, _ in wanted):
        raise UsageError(f"every sample of {folder} was rejected; nothing is left to write")
    hashed, names = digest(settings), dict(enumerate(name for name, _ in wanted))
    made = folders.finished(out, hashed, names)
    before = len(made)
    for number, (name, shard) in enumerate(show(wanted, "copying shards")):
        if number not in made:
            made[number] = tar.copy_shard(folder / shard.name, out / name, keys)
            folders.write_sidecar(out, hashed, number, made[number])
    listed = [made[number] for number in range(len(wanted))]
    missing = _left_out(folder, manifest, keys)
    told = {**manifest, **_counts(manifest, missing), "shards": [manifests.shard_json(shard) for shard in listed]}
    told["failed_checks"] = sum(shard.failed for shard in listed)
    if missing:
        told[LEFT_OUT] = {**manifest.get(LEFT_OUT, {}), **{key: asdict(one) for key, one in missing.items()}}
    own = {name: (folder / name).read_bytes() for name in (SOURCE, CLASSIFIER_FILE) if name in manifest["files"]}
    folders.complete(out, told, listed, settings, own)
    if (folder / manifests.PREVIEW).is_file():
        folders.draw_preview(out)
    return listed, len(listed) - before


def _wanted(readers: Mapping[str, ShardReader]) -> list[tuple[str, Shard]]:
    """Shards of which something is left, each with its name in the copy."""
    found = []
    for split, reader in readers.items():
        listed = manifests.manifest_shards(reader.manifest, split)
        left = [shard for shard, count in zip(listed, reader.counts, strict=True) if count]
        names = (manifests.shard_name(split, number, len(left)) for number in itertools.count())
        found += [(next(names), shard) for shard in left]
    return found


def _left_out(folder: Path, manifest: Mapping[str, Any], keys: frozenset[str]) -> dict[str, LeftOut]:
    """What a check of the copy has to know of each sample that is not there."""
    found = {}
    for shard in manifests.all_shards(manifest) if keys else ():
        for key, parts in tar.read_samples(folder / shard.name, keys.__contains__):
            own = hashlib.sha256(parts[tar.OWN]).hexdigest() if tar.OWN in parts else ""
            found[key] = LeftOut.of(tar.read_record(parts["json"], key), own)
    return found


def _counts(manifest: Mapping[str, Any], missing: Mapping[str, LeftOut]) -> dict[str, int]:
    """The manifest's counts without some samples."""
    kinds = Counter(_count_of(manifest, key, one.synthetic) for key, one in missing.items())
    kinds["samples"] = kinds["originals"] + kinds["synthetic"]
    return {name: manifest[name] - kinds[name] for name in ("samples", "originals", "synthetic", "validation")}


def _count_of(manifest: Mapping[str, Any], key: str, synthetic: bool) -> str:
    if rejections.split_of_key(key) != manifest["split"]:
        return "validation"
    return "synthetic" if synthetic else "originals"
