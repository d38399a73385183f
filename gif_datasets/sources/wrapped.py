"""Map-style datasets as sources, torchvision's among them, whatever wraps them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from gif_datasets import images
from gif_datasets.errors import SourceError
from gif_datasets.order import facts_of


def without_transforms(dataset: Any) -> Any:
    """A shallow copy of a torchvision-like dataset (or ``Subset``, ``ConcatDataset``) that yields stored pictures.

    Transforms of the label stay: they say what the labels are.
    """
    bare = copy.copy(dataset)
    for attribute in ("transform", "transforms"):
        if hasattr(bare, attribute):
            setattr(bare, attribute, None)
    if hasattr(bare, "dataset"):
        bare.dataset = without_transforms(bare.dataset)
    if isinstance(getattr(bare, "datasets", None), (list, tuple)):
        bare.datasets = [without_transforms(part) for part in bare.datasets]
    return bare


class MapSource:
    """A map-style dataset of ``(image, label)``; images as PIL, arrays or tensors."""

    def __init__(self, dataset: Any, classes: Sequence[str] | None, name: str) -> None:
        self.name = name
        self.dataset = without_transforms(dataset)
        found = classes if classes is not None else below(dataset, "classes", lambda value: not callable(value))
        if found is None or isinstance(found, (str, dict)):
            raise SourceError(f"{name} does not name its classes; pass classes=[...], in the order of the labels")
        self.classes = tuple(str(entry[0] if isinstance(entry, (tuple, list)) else entry) for entry in found)
        self._facts = facts_of(dataset)

    def is_synthetic(self, index: int) -> bool:
        """Whether it was imagined, if the dataset is one of ours, or a ``Subset`` of one."""
        return self._facts is not None and bool(self._facts.synthetic[index])

    def __len__(self) -> int:
        return len(self.dataset)

    def origin(self, index: int) -> str:
        """``row N``."""
        return f"row {index}"

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One picture as 8-bit RGB, and its class index."""
        name = self.origin(index)
        stored, label = self.stored(index)
        image = images.to_rgb(stored, name) if isinstance(stored, Image.Image) else images.from_array(stored, name)
        return image, label

    def stored(self, index: int) -> tuple[Any, int]:
        """One picture as the dataset keeps it, and its class index."""
        with images.as_bad_image(self.origin(index)):
            item = self.dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise SourceError(f"{self.name}[{index}] is no (image, label) pair but {type(item).__name__}")
        try:
            return item[0], int(item[1])
        except (TypeError, ValueError) as error:
            raise SourceError(f"{self.name}[{index}] has the label {item[1]!r}; labels must be integers") from error


def below(dataset: Any, attribute: str, fits: Callable[[Any], bool]) -> Any:
    """The first fitting attribute of a dataset, or of one that a ``Subset``, ``ConcatDataset`` or the like wraps."""
    while dataset is not None:
        value = getattr(dataset, attribute, None)
        if value is not None and fits(value):
            return value
        parts = getattr(dataset, "datasets", None)
        dataset = parts[0] if isinstance(parts, (list, tuple)) and parts else getattr(dataset, "dataset", None)
    return None
