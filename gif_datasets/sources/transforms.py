"""A dataset's own transforms, watched: a reader of an item may look at the image that enters them, or replace it.

So a seed is read as it is stored, its image enters upright, and a copy goes through all that its seed goes through, in
the dataset's own code.
Nothing needs to know how a transform is called, or which item of an inner dataset an item is made of.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from gif_datasets.errors import SourceError
from gif_datasets.io import forms
from gif_datasets.io.images import is_image
from gif_datasets.io.sending import unsendable

_TRANSFORMS = ("transform", "transforms")


@dataclass
class Watch:
    """What happens to images that enter a transform, while an item is read.

    Attributes:
        see: Gets each image, and returns what enters instead of it.
        aside: Whether a transform that gets one image and nothing else is set aside, and yields the image itself.
        used: Whether one was.
    """

    see: Callable[[Any], Any]
    aside: bool = False
    used: bool = False


_watch: ContextVar[Watch | None] = ContextVar("_watch", default=None)


@contextmanager
def watching(see: Callable[[Any], Any], *, aside: bool = False) -> Iterator[Watch]:
    """Watch the images that enter transforms in the block, in this thread."""
    watch = Watch(see, aside)
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)


def watched(dataset: Any) -> Any:
    """A shallow copy of a dataset, and of those that it wraps, whose transforms can be watched.

    Raises:
        SourceError: If the dataset does not let go of them.
    """
    try:
        found = copy.copy(dataset)
        if not isinstance(inner := getattr(dataset, "dataset", None), (list, tuple, dict, type(None))):
            object.__setattr__(found, "dataset", watched(inner))
        if isinstance(parts := getattr(dataset, "datasets", None), (list, tuple, dict)):
            object.__setattr__(found, "datasets", _each(watched, parts))
        for name in _TRANSFORMS:
            if (transform := getattr(dataset, name, None)) is not None:
                object.__setattr__(found, name, _each(_watched_transform, transform))
    except (AttributeError, RecursionError) as error:
        raise SourceError(
            f"{type(dataset).__name__} does not let its transforms be set aside ({str(error)[:100]}); give it without"
            " them, and pass transform="
        ) from error
    return found


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """``change`` of a value, or of each that a list, tuple or dictionary holds."""
    if type(value) in (list, tuple):
        return type(value)(change(one) for one in value)
    return {name: change(one) for name, one in value.items()} if type(value) is dict else change(value)


def _watched_transform(transform: Any) -> Any:
    if hasattr(transform, "transform") and hasattr(transform, "target_transform"):
        return watched(transform)  # torchvision's, of an image and a label
    return WatchedTransform(transform) if callable(transform) else transform


class WatchedTransform:
    """A transform that shows the images that enter it to :func:`watching`, and otherwise is the one it stands for."""

    def __init__(self, transform: Any) -> None:
        self._transform = transform

    def __call__(self, *given: Any, **named: Any) -> Any:
        """What the transform makes of its arguments, or of the images that are given instead of those in it."""
        watch = _watch.get()
        if watch is None:
            return self._transform(*given, **named)
        forms.refuse_apart(images_in([given, named]))
        given, named = seen(given, watch.see), seen(named, watch.see)
        if watch.aside and len(given) + len(named) == 1 and is_image([*given, *named.values()][0]):
            watch.used = True
            return named or given[0]
        return self._transform(*given, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "_transform":  # while it is copied
            raise AttributeError(name)
        found = getattr(self._transform, name)
        return WatchedTransform(found) if callable(found) and not isinstance(found, type) else found

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # datasets ask whether it is one of albumentations', and call it accordingly
        return type(self._transform)

    def __deepcopy__(self, memo: dict[int, Any]) -> WatchedTransform:
        return WatchedTransform(copy.deepcopy(self._transform, memo))

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        """Pickle without a transform that cannot be: a worker that only reads seeds sets it aside."""
        return WatchedTransform, (_left_behind if unsendable(self._transform) else self._transform,)


def _left_behind(*given: Any, **named: Any) -> Any:
    raise SourceError("a transform of the dataset cannot be sent to workers; define it in a module, or use workers=1")


def images_in(value: Any) -> list[Any]:
    """The images among arguments, or entries of an item."""
    found: list[Any] = []
    seen(value, found.append)
    return found


def seen(value: Any, see: Callable[[Any], Any]) -> Any:
    """Arguments with each image as ``see`` returns it; of a dictionary, what is called an image comes first."""
    if type(value) is dict:
        first = sorted(value, key=lambda name: not str(name).lower().startswith(("image", "img")))
        entries = {name: seen(value[name], see) for name in first}
        return {name: entries[name] for name in value}
    if type(value) in (list, tuple):
        return type(value)(seen(one, see) for one in value)
    return see(value) if is_image(value) else value
