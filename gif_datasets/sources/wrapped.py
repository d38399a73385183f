"""Map-style datasets as sources, torchvision's among them, whatever wraps them."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from gif_datasets.errors import BadImage, SourceError
from gif_datasets.io import forms, images
from gif_datasets.io.digests import digest_pixels
from gif_datasets.prompts import canonical
from gif_datasets.sources.base import changed
from gif_datasets.sources.transforms import images_in, seen, watched, watching
from gif_datasets.types import Seed, item_table

BOXES = "boxes are kept of coco: and yolo: sources, and of Hugging Face columns of objects (keep=boxes)"


class MapSource:
    """A map-style dataset of ``(image, label)``; images as PIL, arrays or tensors."""

    def __init__(self, dataset: Any, classes: Sequence[str] | None, name: str) -> None:
        self.name = name
        self.dataset = watched(dataset)
        found = classes if classes is not None else _class_names(dataset, name)
        if found is None:
            how = "pass classes=[...], in the order of the labels"
            boxes = f"; {BOXES}" if "Detection" in type(dataset).__name__ else ""
            raise SourceError(f"{name} does not name its classes; {how}{boxes}")
        self.classes = tuple(found)
        self._facts = item_table(dataset)
        self._label_types = set[type]()  # of the items that were read

    def is_synthetic(self, index: int) -> bool:
        """Whether it was imagined, if the dataset is one of ours, or a ``Subset`` of one."""
        return self._facts is not None and bool(self._facts.synthetic[index])

    def __len__(self) -> int:
        return len(self.dataset)

    def origin(self, index: int) -> str:
        """``row N``."""
        return f"row {index}"

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        stored, label = self.stored(index)
        return forms.to_rgb(stored, self.origin(index)), label

    def stored(self, index: int) -> tuple[Any, int]:
        """One image as the dataset keeps it, upright, and its class index."""
        entered: list[tuple[Any, Any]] = []

        def note(image: Any) -> Any:
            entered.append((image, forms.upright(image)))
            return entered[-1][1]

        item = self._item_before_transforms(index, note)
        self._label_types.add(type(item[1]))
        if not entered:
            note(item[0])
        kept, image = next((pair for pair in entered if pair[1] is item[0]), entered[0])
        with images.as_broken_rows(self.origin(index)):
            forms.refuse_apart([kept, *images_in(list(item[2:]))])
        try:
            return image, operator.index(item[1].item() if hasattr(item[1], "item") else item[1])
        except (TypeError, ValueError, RuntimeError) as error:  # several numbers, a fraction, a text
            boxes = f"; {BOXES}" if isinstance(item[1], (dict, list)) else ""
            what = f"{self.name}[{index}] has the label {item[1]!r:.60}"
            raise SourceError(f"{what}; labels must be integers{boxes}") from error

    def label(self, label: int) -> Any:
        """A class index as the dataset gives its labels, where these are all of one type of numbers of its own."""
        kind = next(iter(self._label_types)) if len(self._label_types) == 1 else int
        return kind(label) if issubclass(kind, (bool, enum.IntEnum, np.generic)) else label

    def _item_before_transforms(self, index: int, see: Callable[[Any], Any]) -> Sequence[Any]:
        """An item, its transforms set aside if the dataset's own code takes that."""
        with watching(see, aside=True) as watch:
            try:
                return self._item(index)
            except BadImage:
                raise
            except Exception:  # an image where the code expects what a transform makes
                if not watch.used:
                    raise
        with watching(see):
            return self._item(index)

    def item(self, index: int) -> Sequence[Any]:
        """An item as the dataset yields it, of upright images."""
        with watching(forms.upright):
            return _upright(self._item(index))

    def item_with(self, seed: Seed, image: Image.Image | None, max_side: int | None = None) -> Sequence[Any]:
        """A seed's item, with another image where its own enters the transforms, or in its place if there are none.

        Args:
            seed: The seed.
            image: The other image; None: its own, reduced.
            max_side: Longest side of seeds, pixels; None: they are as large as they are.

        Raises:
            SourceError: If the seed's image is no longer the one that was listed.
        """
        done = False

        def swap(value: Any) -> Any:
            nonlocal done
            value = forms.upright(value)
            shown = _shown(value, max_side)
            if shown is None or digest_pixels(np.asarray(shown)) != seed.key:
                return value
            done = True
            return forms.like(image or shown, value, max_side)

        with watching(swap):
            item = self._item(seed.index)
        found = item if done else _with(item, [swap(item[0]), *item[1:]])
        if not done:
            raise changed(self, seed)
        return _upright(found)

    def _item(self, index: int) -> Sequence[Any]:
        """Image, label, and whatever the dataset has beside them."""
        with images.as_broken_rows(self.origin(index)):
            item = self.dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise SourceError(f"{self.name}[{index}] must be an (image, label) pair, got {type(item).__name__}")
        return item


def _shown(value: Any, max_side: int | None) -> Image.Image | None:
    """An image as a seed is keyed; None for an array that is none, such as boxes."""
    try:
        return images.at_most(forms.to_rgb(value), max_side)
    except BadImage:
        return None


def _upright(item: Sequence[Any]) -> Sequence[Any]:
    """An item of upright images; itself if Exif turns none."""
    if not any(map(forms.is_turned, images_in(list(item)))):
        return item
    return _with(item, [seen(entry, forms.upright) for entry in item])


def _with(item: Sequence[Any], entries: list[Any]) -> Sequence[Any]:
    """A tuple or list of the same type with other entries."""
    make: Callable[[list[Any]], Sequence[Any]] = getattr(item, "_make", type(item))  # of a named tuple
    return make(entries)


def _canonical(names: list[str] | None) -> list[str] | None:
    return None if names is None else list(map(canonical, names))


def _class_names(dataset: Any, name: str) -> list[str] | None:
    """What a dataset, or what it wraps, calls its classes; None where it does not.

    Raises:
        SourceError: If parts that are joined call them otherwise.
    """
    for attribute in ("classes", "categories"):  # this is Caltech's
        found = getattr(dataset, attribute, None)
        if found is not None and not callable(found) and not isinstance(found, (str, dict)):
            return [str(entry[0] if isinstance(entry, (tuple, list)) else entry) for entry in found]
    parts = getattr(dataset, "datasets", None)
    if not isinstance(parts, (list, tuple)) or not parts:
        inner = getattr(dataset, "dataset", None)
        return None if inner is None else _class_names(inner, name)
    named = [_class_names(part, name) for part in parts]
    if not hasattr(dataset, "cumulative_sizes"):  # parts side by side, of which one may have the labels alone
        named = [names for names in named if names is not None] or [None]
    first, *others = named
    for number, other in enumerate(others, 1):
        if _canonical(other) != _canonical(first):
            raise SourceError(
                f"{name}: its parts name other classes, the first {first}, part {number} {other}, so one label has two"
                " meanings; join datasets of the same classes, or pass classes=[...]"
            )
    return first
