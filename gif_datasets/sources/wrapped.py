"""Map-style datasets as sources, torchvision's among them, whatever wraps them."""

from __future__ import annotations

import bisect
import copy
import operator
from collections.abc import Sequence
from typing import Any

from PIL import Image

from gif_datasets.errors import SourceError
from gif_datasets.io import images
from gif_datasets.prompts import canonical
from gif_datasets.types import item_table


def without_transforms(dataset: Any) -> Any:
    """A shallow copy of a torchvision-like dataset (or ``Subset``, ``ConcatDataset``) that yields stored images.

    Transforms of the label stay: they say what the labels are. One of image and label together cannot.

    Raises:
        SourceError: If the dataset does not let go of them.
    """
    try:
        bare = copy.copy(dataset)
        if getattr(bare, "transform", None) is not None:
            bare.transform = _same
        if (joint := getattr(bare, "transforms", None)) is not None:
            bare.transforms = _of_labels(joint)
        if hasattr(bare, "dataset"):
            bare.dataset = without_transforms(bare.dataset)
        if isinstance(getattr(bare, "datasets", None), (list, tuple)):
            bare.datasets = [without_transforms(part) for part in bare.datasets]
    except (AttributeError, RecursionError) as error:
        raise SourceError(
            f"{type(dataset).__name__} does not let its transforms be set aside ({str(error)[:100]}); give it without"
            " them, and pass transform="
        ) from error
    return bare


def transformed(dataset: Any, index: int, image: Any, label: int) -> Any:
    """An image through the transforms that its place in a dataset, and in what that wraps, would give it."""
    sizes, parts = getattr(dataset, "cumulative_sizes", None), getattr(dataset, "datasets", None)
    if sizes is not None and isinstance(parts, (list, tuple)):
        part = bisect.bisect_right(sizes, index)
        image = transformed(parts[part], index - (sizes[part - 1] if part else 0), image, label)
    elif (inner := getattr(dataset, "dataset", None)) is not None:
        indices = getattr(dataset, "indices", None)
        image = transformed(inner, index if indices is None else int(indices[index]), image, label)
    joint, own = getattr(dataset, "transforms", None), getattr(dataset, "transform", None)
    if callable(joint) and not _is_standard(joint):
        return joint(image, label)[0]
    return own(image) if callable(own) else image


def _of_labels(joint: Any) -> Any:
    """What torchvision makes of ``transform`` and ``target_transform``, without the former."""
    if not _is_standard(joint):
        return _both
    found = copy.copy(joint)
    found.transform = None
    return found


def _is_standard(joint: Any) -> bool:
    return hasattr(joint, "transform") and hasattr(joint, "target_transform")


def _same(image: Any) -> Any:
    return image


def _both(image: Any, label: Any) -> tuple[Any, Any]:
    return image, label


class MapSource:
    """A map-style dataset of ``(image, label)``; images as PIL, arrays or tensors."""

    def __init__(self, dataset: Any, classes: Sequence[str] | None, name: str) -> None:
        self.name = name
        self.dataset = without_transforms(dataset)
        found = classes if classes is not None else _class_names(dataset, name)
        if found is None:
            raise SourceError(f"{name} does not name its classes; pass classes=[...], in the order of the labels")
        self.classes = tuple(found)
        self._facts = item_table(dataset)

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
        name = self.origin(index)
        stored, label = self.stored(index)
        image = images.to_rgb(stored, name) if isinstance(stored, Image.Image) else images.from_array(stored, name)
        return image, label

    def stored(self, index: int) -> tuple[Any, int]:
        """One image as the dataset keeps it, and its class index."""
        item = self.item(index)
        try:
            return item[0], operator.index(item[1].item() if hasattr(item[1], "item") else item[1])
        except (TypeError, ValueError, RuntimeError) as error:  # several numbers, a fraction, a text
            raise SourceError(f"{self.name}[{index}] has the label {item[1]!r}; labels must be integers") from error

    def item(self, index: int) -> Sequence[Any]:
        """Image, label, and whatever the dataset has beside them, as it keeps them."""
        with images.as_bad_image(self.origin(index)):
            item = self.dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise SourceError(f"{self.name}[{index}] must be an (image, label) pair, got {type(item).__name__}")
        return item


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
    first, *others = [_class_names(part, name) for part in parts]
    for number, other in enumerate(others, 1):
        if _canonical(other) != _canonical(first):
            raise SourceError(
                f"{name}: its parts name other classes, the first {first}, part {number} {other}, so one label has two"
                " meanings; join datasets of the same classes, or pass classes=[...]"
            )
    return first
