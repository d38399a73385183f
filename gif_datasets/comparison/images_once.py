"""Seeds' images that several steps look at, read once while there is room for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gif_datasets.sources.base import Source, seed_image
from gif_datasets.types import Seed

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 256 << 20  # bytes


@dataclass
class ImagesOnce:
    """Images of a source, kept until they are taken, as far as there is room; the others are read each time.

    Attributes:
        source: The source.
    """

    source: Source
    _kept: dict[int, Image] = field(default_factory=dict)
    _bytes: int = 0

    def look(self, seed: Seed) -> Image:
        """A seed's image, which will be asked for again."""
        image = self._kept.get(seed.index)
        if image is None:
            image = seed_image(self.source, seed)
            size = _bytes(image)
            if self._bytes + size <= MOST:
                self._kept[seed.index] = image
                self._bytes += size
        return image

    def take(self, seed: Seed) -> Image:
        """A seed's image, for the last time."""
        image = self._kept.pop(seed.index, None)
        if image is None:
            return seed_image(self.source, seed)
        self._bytes -= _bytes(image)
        return image


def _bytes(image: Image) -> int:
    return image.width * image.height * 4
