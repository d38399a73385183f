"""An expanded folder, opened once: its path, its manifest, and the keys of its rejected samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gif_datasets.io.stores import AnyPath
from gif_datasets.shards.manifest import Manifest, file_entries, finished_manifest, read_manifest
from gif_datasets.shards.rejections import rejected_keys


@dataclass(frozen=True)
class ExpandedFolder:
    """A finished expanded folder.

    Attributes:
        path: The folder, here or in a store.
        manifest: Its manifest, as it was when the folder was opened.
    """

    path: AnyPath
    manifest: Manifest

    @classmethod
    def open(cls, folder: AnyPath | ExpandedFolder) -> ExpandedFolder:
        """Read and check the manifest; an open folder is returned as it is.

        Raises:
            UsageError: If there is no manifest.
            ShardError: If it is damaged, or of another format.
        """
        return folder if isinstance(folder, ExpandedFolder) else cls(folder, read_manifest(folder))

    @classmethod
    def find(cls, folder: AnyPath) -> ExpandedFolder | None:
        """As :meth:`open`; None if the folder is not finished, or its manifest is damaged."""
        manifest = finished_manifest(folder)
        return None if manifest is None else cls(folder, manifest)

    @property
    def local(self) -> Path:
        """The path of a folder that is on this machine."""
        assert isinstance(self.path, Path)
        return self.path

    @cached_property
    def rejected(self) -> frozenset[str]:
        """Keys of the rejected samples, read when first needed; raises ShardError if the list is damaged."""
        return rejected_keys(self.path, self.manifest)

    def file(self, name: str) -> bytes | None:
        """A file of the folder as the manifest lists it; None if it is missing, or differs."""
        entry = self.manifest.files.get(name)
        try:
            content = (self.path / name).read_bytes()
        except OSError:
            return None
        return content if entry and file_entries({name: content}) == {name: entry} else None
