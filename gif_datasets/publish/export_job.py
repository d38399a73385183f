"""One export, and what of it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gif_datasets.io import atomic
from gif_datasets.io.digests import digest_file
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.columns import Columns, SourceColumns, expanded_columns, own_features, read_source
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import Progress


@dataclass(frozen=True)
class Job:
    """One export: where from, where to, and how to show progress."""

    readers: dict[str, ShardReader]
    out: Path
    settings: dict[str, Any]
    show: Progress

    @property
    def manifest(self) -> dict[str, Any]:
        """That of the expanded folder."""
        return next(iter(self.readers.values())).manifest

    @property
    def suffix(self) -> str:
        """Of the pictures' files."""
        return str(self.manifest["plan"]["recipe"]["options"]["image_format"])

    @cached_property
    def source(self) -> SourceColumns | None:
        """The source's own columns, if it had any."""
        folder = next(iter(self.readers.values())).folder
        assert isinstance(folder, Path)  # what is exported is on this machine
        return read_source(folder)

    @cached_property
    def columns(self) -> Columns:
        """Columns of the set as Hugging Face features."""
        return expanded_columns(self.manifest["classes"], self.source)

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Features of those of the source's own columns that JSON holds as they are."""
        found = self.source
        return dict(own_features(found.features, found.image, found.label)) if found else {}

    def shard_bytes(self, split: str) -> int:
        """Size of a split's shards."""
        return sum(shard.bytes for shard in manifests.manifest_shards(self.manifest, split))


@dataclass
class Tally:
    """What there is, and what of it was written now."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the files that readers look up by name
    pictures: int = 0
    bytes: int = 0
    written: int = 0


def keep(out: Path, name: str, content: bytes, tally: Tally) -> None:
    """Write a file that is listed by its digest, unless it is there."""
    path = out / name
    if not path.is_file() or path.read_bytes() != content:
        atomic.write_bytes(path, content)
        tally.written += 1
    tally.files[name] = {"bytes": len(content), "sha256": digest_file(path)}
