"""One export, and what was written for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gif_datasets.errors import MissingExtra
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest_file
from gif_datasets.shards.columns import Columns, SourceColumns, expanded_columns, own_features, read_source
from gif_datasets.shards.manifest import Manifest
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import Progress


def parquet_versions() -> dict[str, str]:
    """Versions of the libraries that decide the bytes of a Parquet file; raises MissingExtra if they are missing."""
    try:
        import datasets
        import pyarrow
    except ImportError as error:
        raise MissingExtra("datasets", "hf") from error
    return {"datasets": datasets.__version__, "pyarrow": pyarrow.__version__}


@dataclass(frozen=True)
class Job:
    """One export: its readers, its target, and its progress."""

    readers: dict[str, ShardReader]
    out: Path
    settings: dict[str, Any]
    show: Progress

    @property
    def manifest(self) -> Manifest:
        """The manifest of the expanded folder."""
        return next(iter(self.readers.values())).manifest

    @property
    def suffix(self) -> str:
        """Suffix of the image files."""
        return self.manifest.plan.recipe.image_format

    @cached_property
    def source(self) -> SourceColumns | None:
        """The columns of the source, if it had any."""
        folder = next(iter(self.readers.values())).folder
        assert isinstance(folder, Path)  # an exported folder is on this machine
        return read_source(folder)

    @cached_property
    def columns(self) -> Columns:
        """Columns of the dataset as Hugging Face features."""
        return expanded_columns(self.manifest.classes, self.source, self.manifest.plan.objects)

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Features of the source's columns that JSON can represent."""
        source = self.source
        return dict(own_features(source.features, source.image, source.label)) if source else {}

    def shard_bytes(self, split: str) -> int:
        """Size of a split's shards."""
        return sum(shard.bytes for shard in self.manifest.shards_of(split))


@dataclass
class Tally:
    """Counts of an export: files, images, bytes, and files written in this run."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # files that readers look up by name
    images: int = 0
    bytes: int = 0
    written: int = 0


def write_image(path: Path, content: bytes) -> bool:
    """Write an image unless it is there; all images are flushed to the disk at the end."""
    if path.is_file() and path.read_bytes() == content:
        return False
    atomic.write_bytes(path, content, synced=False)
    return True


def keep(out: Path, name: str, content: bytes, tally: Tally) -> None:
    """Write a file that is listed with its digest, unless it exists."""
    path = out / name
    if not path.is_file() or path.read_bytes() != content:
        atomic.write_bytes(path, content)
        tally.written += 1
    tally.files[name] = {"bytes": len(content), "sha256": digest_file(path)}
