"""A source whose samples have other numbers than their places: those that an expanded folder gave to its seeds."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from gif_datasets.sources.base import Source, file_of, max_side_of, revision_of


class NumberedSource:
    """A source by the numbers of a folder's seeds, which stay as they are while the source grows and shrinks.

    Args:
        source: The source.
        places: Place in the source, by number.
    """

    def __init__(self, source: Source, places: Mapping[int, int]) -> None:
        self.name, self.classes, self.revision = source.name, source.classes, revision_of(source)
        self.source, self.places, self.max_side = source, places, max_side_of(source)

    def __len__(self) -> int:
        return len(self.source)

    def origin(self, index: int) -> str:
        """What the source says."""
        return self.source.origin(self.places[index])

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        return self.source.sample(self.places[index])

    def file(self, index: int) -> bytes | None:
        """The file of a sample; None if the source has none."""
        return file_of(self.source, self.places[index])


def place_in(source: Source, number: int) -> int:
    """The place of a sample in the source that is read."""
    return source.places[number] if isinstance(source, NumberedSource) else number
