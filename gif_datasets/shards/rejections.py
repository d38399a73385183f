"""Samples that somebody rejected: a list beside the shards of an expanded folder, which do not change.

``rejected.json`` lists their keys. Readers that use :class:`~gif_datasets.shards.reader.ShardReader` leave them out.
For readers of tars, ``gif-datasets export --to shards`` writes a folder without them. Its manifest describes each
rejected sample, so that such a folder can still be checked against its plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gif_datasets.errors import ShardError
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import AnyPath
from gif_datasets.ratios import MAX_RATIO
from gif_datasets.shards import switch, tar
from gif_datasets.shards.index import Index
from gif_datasets.shards.manifest import MANIFEST, Manifest, read_manifest
from gif_datasets.types import Provenance

REJECTED = switch.REJECTED
FORMAT = 1
_COPIES = MAX_RATIO + 1


def rejected_keys(folder: AnyPath, manifest: Manifest) -> frozenset[str]:
    """``__key__`` of each rejected sample of a folder.

    Args:
        folder: An expanded folder.
        manifest: Its manifest.

    Raises:
        ShardError: If the list is damaged, or belongs to another dataset.
    """
    path = folder / REJECTED
    try:
        value = read_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except (OSError, ValueError) as error:
        raise ShardError(f"cannot read {path}: {error}") from error
    keys = value.get("rejected") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or value.get("format") != FORMAT:
        raise ShardError(f"{path} is damaged; correct it, or remove it to get every sample back")
    if value.get("plan_hash") != manifest.plan_hash:
        raise ShardError(f"{path} belongs to another dataset; remove it")
    return frozenset(keys)


def reject(folder: str | Path, keys: Iterable[str], rejected: bool = True) -> frozenset[str]:
    """Reject samples of an expanded folder, or take them back; processes that do so at the same time wait in turn.

    Args:
        folder: The expanded folder.
        keys: ``__key__`` of each.
        rejected: False to take them back.

    Returns:
        All keys that are rejected now.

    Raises:
        ShardError: If the folder's list is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    with atomic.alone(folder / MANIFEST):
        before = rejected_keys(folder, manifest)
        after = before.union(keys) if rejected else before.difference(keys)
        if not after:
            (folder / REJECTED).unlink(missing_ok=True)
        elif after != before:
            write(folder, manifest.plan_hash, after)
    return after


def write(folder: Path, plan_hash: str, keys: Iterable[str]) -> None:
    """Write the list of a folder's rejected samples."""
    atomic.write_json(folder / REJECTED, {"format": FORMAT, "plan_hash": plan_hash, "rejected": sorted(keys)})


def kept(index: Index, split: str, keys: Iterable[str]) -> NDArray[np.bool_]:
    """Which entries of a split's index are not rejected, ``(N,)``."""
    parsed = (parts for parts in map(tar.parse_key, keys) if parts and parts[0] == split)
    numbers = [seed * _COPIES + copy for _, seed, copy in parsed]
    return ~np.isin(index.seed.astype(np.int64) * _COPIES + index.copy, np.array(numbers, np.int64))


@dataclass(frozen=True)
class LeftOut:
    """The entry of a sample in :data:`~gif_datasets.shards.manifest.LEFT_OUT`.

    Attributes:
        seed: Key, label, index and origin of its seed.
        copy: 0 for the seed itself.
        synthetic: Whether it is synthetic.
        own: Digest of its values of the source's own columns; empty if there are none.
    """

    seed: tuple[str, int, int, str]
    copy: int
    synthetic: bool
    own: str

    @classmethod
    def of(cls, record: Provenance, own: str) -> LeftOut:
        """The entry of a sample with this provenance."""
        seed = (record.seed_key, record.label, record.seed_index, record.seed_origin)
        return cls(seed, record.copy, record.synthetic, own)

    @classmethod
    def from_json(cls, value: Any) -> LeftOut:
        """Rebuild from JSON; raises ShardError when a field is missing, unknown or of another type."""
        try:
            entry = cls(**{**value, "seed": tuple(value["seed"])})
            kinds = [type(part) for part in (*entry.seed, entry.copy, entry.synthetic, entry.own)]
            if kinds != [str, int, int, str, int, bool, str]:
                raise TypeError(value)
        except (TypeError, KeyError) as error:
            raise ShardError(f"damaged entry of a sample that was left out: {value!r:.300}") from error
        return entry


def fingerprint(manifest: Manifest, split: str | None = None, keys: Iterable[str] = ()) -> str:
    """What identifies a set of samples: digest of the plan, name of the split, and digest of the missing keys.

    Args:
        manifest: The folder's manifest, which lists the samples that were left out of its shards.
        split: The expanded one by default.
        keys: Samples that were rejected since.
    """
    name = split or manifest.split
    missing = sorted(key for key in {*keys, *manifest.left_out} if split_of_key(key) == name)
    return f"{manifest.plan_hash}/{name}" + (f"/{digest(missing)}" if missing else "")


def split_of_key(key: str) -> str:
    """The split of a key; empty for a text that is not a key."""
    parts = tar.parse_key(key)
    return parts[0] if parts else ""
