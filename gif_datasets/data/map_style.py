"""`load_expanded`: an expanded folder as a map-style dataset that is read at random, many samples at once."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import get_worker_info

from gif_datasets.data.buffers import Buffers
from gif_datasets.data.splits import Divisible
from gif_datasets.errors import ConfigError, UsageError
from gif_datasets.io import decode, images
from gif_datasets.io.stores import AnyPath, as_path
from gif_datasets.shards import tar
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.joined import JoinedReader, join
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import ItemTable, Provenance

_REPOSITORY = re.compile(r"(hub:)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load_expanded(
    folder: str | Path | Sequence[str | Path],
    transform: Callable[[Any], Any] | None = None,
    split: str | None = None,
    *,
    revision: str | None = None,
    check: bool = False,
    match_classes: bool = False,
    objects: bool = False,
) -> LoadedDataset:
    """Open an expanded folder as a map-style dataset of ``(image, label)``.

    Args:
        folder: What ``gif-datasets expand`` or :meth:`ExpandedDataset.precompute` wrote; or ``user/name`` of a dataset
            on the Hugging Face Hub, when there is no such folder, or ``hub:user/name``: it is downloaded once, into the
            Hub's cache, and opened from there when there is no network; or a URL that fsspec opens, such as
            ``s3://bucket/set``: every image is then a separate request, so that
            :func:`gif_datasets.stream_expanded` is far quicker for going through all of them. Of several, of one source
            by other methods or ratios, each seed is there once, followed by the copies of all.
        transform: Applied to every image, an RGB ``PIL.Image``.
        split: ``"validation"`` for the held-out seeds; the expanded split by default.
        revision: Branch, tag or commit of a dataset on the Hub.
        check: Compare each image with its digest when it is first read. Without, a flipped bit in an image file gives
            another image without an error in most JPEG and WebP files, and in a few PNG files.
        match_classes: Of several folders, also take other seeds: classes are matched by name, those that the first has
            not follow, and an image that several have under one class is one seed.
        objects: Items are ``(image, label, objects)``, the last a :class:`~gif_datasets.objects.Objects`, of a folder
            that keeps them.

    Raises:
        UsageError: If the folder is not a finished expansion, has no such split or no objects; or if several differ in
            classes or seeds.
        ShardError: If it is damaged; with ``check``, also while reading.
        HubError: If the Hub cannot be reached for long.

    Example:
        >>> import tempfile
        >>> from gif_datasets import expand
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = expand("demo", folder, ratio=1, prior="linear", limit=20)
        ...     loaded = load_expanded(folder)
        ...     image, label = loaded[0]
        >>> len(loaded), image.size, loaded.classes[label] == loaded.classes[loaded.targets[0]]
        (40, (32, 32), True)
    """
    if isinstance(folder, (str, Path)):
        return LoadedDataset(_place_of(folder, revision), transform, split, check, objects)
    if revision is not None or not folder:
        raise ConfigError(f"give at least one folder, and no revision with a list of them; got {list(folder)!r:.200}")
    joined = join([ExpandedFolder.open(_place_of(name, None)) for name in folder], match_classes)
    return LoadedDataset(JoinedReader(joined, split, check=check), transform, objects=objects)


def _place_of(folder: str | Path, revision: str | None) -> AnyPath:
    """Where a folder is, after it was downloaded if it is on the Hub."""
    path = as_path(folder)
    if isinstance(path, Path) and _is_published(str(folder), path):
        from gif_datasets.io.hub import download

        return download(str(folder), revision)
    if revision is not None:
        raise ConfigError(f"{folder} is a folder, and has no revision {revision!r}")
    return path


def _is_published(name: str, path: Path) -> bool:
    return _REPOSITORY.fullmatch(name) is not None and (name.startswith("hub:") or not path.exists())


class LoadedDataset(Divisible):
    """The samples of an expanded folder; see :func:`load_expanded`. Pickles to workers without its contents."""

    def __init__(
        self,
        folder: AnyPath | JoinedReader,
        transform: Callable[[Any], Any] | None = None,
        split: str | None = None,
        check: bool = False,
        objects: bool = False,
    ) -> None:
        self._reader: ShardReader | JoinedReader = (
            folder if isinstance(folder, JoinedReader) else ShardReader(folder, split, check=check)
        )
        self.transform, self.objects = transform, objects
        if objects and not self.object_classes:
            raise UsageError(
                "the folder keeps no objects; expand with keep=boxes or keep=masks, or load without objects"
            )

    @property
    def object_classes(self) -> tuple[str, ...]:
        """Names of the classes of objects; empty where none are kept."""
        return self._reader.object_classes

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self._reader.classes

    @property
    def fingerprint(self) -> str:
        """Digest of the plan, name of the split, and digest of what was rejected: another one has other samples."""
        return self._reader.fingerprint

    @property
    def targets(self) -> NDArray[np.int32]:
        """The label of every sample, ``(N,)``; no shard is read."""
        return self._reader.index.label

    @property
    def recipe(self) -> dict[str, Any]:
        """How the samples were generated: options, prior and versions, as the plan has them; a list of several."""
        recipes = [recipe.to_json() for recipe in self._reader.recipes]
        return recipes[0] if len(recipes) == 1 else {"joined": recipes}

    @property
    def facts(self) -> ItemTable:
        """Label, kind and seed of every sample, for samplers; no shard is read."""
        index = self._reader.index
        return ItemTable(index.label, index.synthetic, index.seed)

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> LoadedRows:
        """Many samples at once, read and decoded together when first looked at. DataLoader calls this."""
        return LoadedRows(self, [self._place(index) for index in indices])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return (self[index] for index in range(len(self)))

    def provenance(self, index: int) -> Provenance:
        """Where a sample comes from."""
        return self._reader.provenance(self._place(index))

    def _place(self, index: int) -> int:
        return place_of(index, len(self))

    def _real_images(self, places: Sequence[int]) -> Iterator[Image.Image]:
        return (images.read_rgb(self._reader.image_bytes(place), self._reader.key(place)) for place in places)

    def _keys(self, places: Sequence[int]) -> list[str]:
        return [self._reader.provenance(place).seed_key for place in places]

    def _partner_keys(self, places: Sequence[int]) -> list[str]:
        return [tar.partner_of(self._reader.record(place)) for place in places]

    @property
    def _fitted(self) -> str:
        kinds = {str(recipe.options.get("classifier", "text")) for recipe in self._reader.recipes}
        return ", ".join(sorted(kinds - {"text"}))

    @property
    def _expands_copies(self) -> bool:
        index = self._reader.index
        return bool((index.synthetic & (index.copy == 0)).any())


class LoadedRows(Sequence[tuple[Any, ...]]):
    """Some samples of a :class:`LoadedDataset`: a sequence of ``(image, label)``, or one batch of tensors."""

    def __init__(self, dataset: LoadedDataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, indices
        self._batch: torch.Tensor | None = None
        self._pictures: list[decode.Pixels] | None = None
        self._made: list[tuple[Any, ...]] | None = None

    def load(self) -> LoadedRows:
        """Read and decode now; several threads may load different rows at once."""
        self._decoded()
        return self

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> tuple[Any, ...]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[Any, ...]]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if self._made is None:  # once: a transform may draw at random
            self._made = [self._item(i) for i in range(len(self))]
        return self._made[place]

    def _item(self, place: int) -> tuple[Any, ...]:
        # a copy, because an image keeps its array, and this one is part of a batch
        image, index = Image.fromarray(self._decoded()[place].copy()), self._indices[place]
        transform, reader = self._dataset.transform, self._dataset._reader
        objects = (reader.provenance(index).objects,) if self._dataset.objects else ()
        return (image if transform is None else transform(image)), reader.label(index), *objects

    @property
    def plain(self) -> bool:
        """Whether images are wanted as they are stored."""
        return self._dataset.transform is None and not self._dataset.objects

    def tensors(self) -> list[Any]:
        """``[images, labels]``: ``(N, 3, H, W)`` uint8, channels last in memory, and ``(N,)`` int64.

        Raises:
            ConfigError: If the images have different sizes.
        """
        pictures = self._decoded()
        if self._batch is None:
            raise ConfigError(different_sizes(picture.shape[1::-1] for picture in pictures))
        labels = self._dataset._reader.index.label[np.asarray(self._indices)]
        return [self._batch.permute(0, 3, 1, 2), torch.from_numpy(labels.astype(np.int64))]

    def _decoded(self) -> list[decode.Pixels]:
        if self._pictures is None:
            reader = self._dataset._reader
            contents = [reader.image_bytes(i) for i in self._indices]
            self._batch, self._pictures = decode.decode_batch(contents, self._name, _buffer)
        return self._pictures

    def _name(self, place: int) -> str:
        return self._dataset._reader.key(self._indices[place])


def place_of(index: Any, size: int) -> int:
    """The place of an item, counted from 0, that an index means; a negative one counts from the end.

    Raises:
        UsageError: If it is not an integer.
        IndexError: If there is no such item.

    Example:
        >>> place_of(-1, 5)
        4
    """
    try:
        number = operator.index(index)
    except TypeError as error:
        raise UsageError(
            f"an item has an integer as its index, got {repr(index)[:80]}; take several by"
            " [items[i] for i in range(2, 5)] or torch.utils.data.Subset, a column by [item[name] for item in items]"
        ) from error
    if not -size <= number < size:
        raise IndexError(f"index {number} of {size} items")
    return number % size


def different_sizes(sizes: Any) -> str:
    """The message for images that do not fit in one batch; ``sizes`` are (width, height)."""
    shown = " and ".join(f"{width} x {height}" for width, height in sorted(set(sizes))[:2])
    return f"a batch needs images of one size, got {shown}; pass a transform that resizes them, or a collate_fn"


_buffers = Buffers()


def _buffer(shape: tuple[int, ...]) -> torch.Tensor:
    """Memory for a batch: in a worker process, memory that the training process sees too, so that nothing is copied."""
    if get_worker_info() is None:
        return _buffers.take(shape)
    # as torch's default_collate allocates its batches
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
