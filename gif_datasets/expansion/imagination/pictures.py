"""Seeds' images, read by threads before they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gif_datasets.io.threads import submit, threads
from gif_datasets.types import Seed

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_AHEAD = 128 << 20  # bytes of images that were read and not asked for yet
MOST_KEPT = 128 << 20  # bytes of images that were asked for: all copies of a seed may ask for it


@dataclass
class PicturesAhead:
    """Reads the images of seeds that will be asked for, as far as there is room for them; one thread at a time asks.

    Attributes:
        read: Reads one.
        read_plain: The same for any thread, or None where that cannot be done ahead.
    """

    read: Callable[[Seed], Image]
    read_plain: Callable[[Seed], Image | None]
    _coming: OrderedDict[int, Seed] = field(default_factory=OrderedDict)
    _ahead: OrderedDict[int, Future[Image | None]] = field(default_factory=OrderedDict)
    _kept: OrderedDict[int, Image] = field(default_factory=OrderedDict)
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def expect(self, seeds: Iterable[Seed]) -> None:
        """Begin to read those that will be asked for next, in their order; what was expected before is forgotten."""
        wanted = {seed.index: seed for seed in seeds if seed.index not in self._kept}
        for index in [index for index in self._ahead if index not in wanted]:
            self._ahead.pop(index).cancel()
        self._coming = OrderedDict((index, seed) for index, seed in wanted.items() if index not in self._ahead)
        self._go_on()

    def __call__(self, seed: Seed) -> Image:
        """A seed's image, the caller's own; an error of its reading is raised here."""
        image = self._kept.get(seed.index)
        if image is None:
            self._coming.pop(seed.index, None)
            future = self._ahead.pop(seed.index, None)
            image = self._kept[seed.index] = (future and future.result()) or self.read(seed)
            self._sizes[seed.index] = image.size
        self._kept.move_to_end(seed.index)
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > MOST_KEPT:
            self._kept.popitem(last=False)
        self._go_on()
        return image.copy()

    def size(self, seed: Seed) -> tuple[int, int]:
        """Width and height of a seed's image, known of those that were asked for."""
        return self._sizes.get(seed.index) or self(seed).size

    def forget(self) -> None:
        """Free all images."""
        self.expect(())
        self._kept.clear()
        self._sizes.clear()

    def _go_on(self) -> None:
        while self._coming and self._has_room():
            index, seed = self._coming.popitem(last=False)
            self._ahead[index] = submit(self.read_plain, seed)

    def _has_room(self) -> bool:
        read = [future.result() for future in self._ahead.values() if future.done()]
        return len(self._ahead) - len(read) < threads() and sum(map(_bytes, read)) < MOST_AHEAD


def _bytes(image: Image | None) -> int:
    return image.width * image.height * 4 if image else 0
