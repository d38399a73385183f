"""A source whose images are at most so large: who trains at 224 pixels stores, draws from and augments no more."""

from __future__ import annotations

from typing import Any

from PIL import Image

from gif_datasets.io.images import at_most
from gif_datasets.objects import Objects
from gif_datasets.sources.base import Source, annotated, label_at, plain_pixels, revision_of


class ReducedSource:
    """Another source with its images reduced, before anything else looks at them; smaller ones stay as they are.

    Args:
        source: The other source, whose every other attribute it has.
        max_side: Longest side of an image, pixels.
    """

    def __init__(self, source: Source, max_side: int) -> None:
        self.source, self.max_side = source, max_side
        self.name, self.classes, self.revision = source.name, source.classes, revision_of(source)

    def __len__(self) -> int:
        return len(self.source)

    def origin(self, index: int) -> str:
        """What the source says."""
        return self.source.origin(index)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        pixels = plain_pixels(self, index)
        if pixels is not None:
            return Image.fromarray(pixels), label_at(self.source, index)
        image, label = self.source.sample(index)
        return at_most(image, self.max_side), label

    def annotated(self, index: int, masks: bool) -> tuple[Image.Image, int, Objects]:
        """The same with its objects, which are reduced as the image is."""
        image, label, objects = annotated(self.source, index, masks)
        pixels = plain_pixels(self, index)
        small = at_most(image, self.max_side) if pixels is None else Image.fromarray(pixels)
        return small, label, objects.scaled(small.size)

    def __getattr__(self, name: str) -> Any:
        if name == "source":  # while it is copied
            raise AttributeError(name)
        return getattr(self.source, name)


def reduced(source: Source, max_side: int | None) -> Source:
    """The source with images of at most ``max_side`` pixels; itself if that is None."""
    return source if max_side is None else ReducedSource(source, max_side)


def unreduced(source: Source) -> Source:
    """The source as it is."""
    return source.source if isinstance(source, ReducedSource) else source
