"""The seeds of an expanded folder, from its own shards: what further copies are made of, without the source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gif_datasets.sources.folders import ShardSource
from gif_datasets.sources.numbered import NumberedSource


class StoredSeeds(NumberedSource):
    """The seeds of an expanded folder by their numbers, as its shards hold them.

    Attributes:
        own: What the source had of its own, as JSON, by number of the seed; only of seeds whose copies are made.
    """

    def __init__(self, folder: Path, name: str) -> None:
        stored = ShardSource(folder, name)
        super().__init__(stored, stored.originals)
        self.own: Mapping[int, bytes] = {}

    def release(self) -> None:
        """Let go of the shards, so that others may change the folder; nothing can be read afterwards."""
        del self.source

    def __len__(self) -> int:
        return 1 + max(self.places, default=-1)
