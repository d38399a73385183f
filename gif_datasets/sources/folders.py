"""Folders as sources: of images, a sub-folder per class, and of expanded shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gif_datasets.errors import SourceError
from gif_datasets.io import images
from gif_datasets.shards.reader import ShardReader
from gif_datasets.sources.seed_table import Packed
from gif_datasets.types import PLAN_FILE


class FolderSource:
    """A folder with one sub-folder per class, like torchvision's ``ImageFolder``; classes sorted by name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder
        self.unreadable: list[str] = []  # folders that could not be listed
        try:
            groups = sorted(path for path in folder.iterdir() if _is_class(path))
            counts: list[int] = []
            self._names = Packed.of(self._list(groups, counts))
        except OSError as error:
            raise SourceError(f"cannot list {folder}: {error.strerror}") from error
        self.classes = tuple(_printable(group.name) for group in groups)
        self._labels = np.repeat(np.arange(len(counts)), counts)
        if not groups:
            raise SourceError(f"{folder} has no sub-folders; a source has one sub-folder of images per class")
        if not self._names:
            raise SourceError(f"no images in the sub-folders of {folder} (looked for .png, .jpg, .webp and others)")

    def _list(self, groups: Iterable[Path], counts: list[int]) -> Iterator[bytes]:
        """Names of the images below the folder, class by class; only one class is held as paths at a time."""
        for group in groups:
            paths = sorted(_pictures(group, self._note))
            counts.append(len(paths))
            yield from (os.fsencode(path.relative_to(self.folder).as_posix()) for path in paths)

    def _note(self, error: OSError) -> None:
        place = Path(error.filename).relative_to(self.folder).as_posix()
        self.unreadable.append(f"{_printable(place)}: cannot be listed ({error.strerror})")

    def __len__(self) -> int:
        return len(self._names)

    def origin(self, index: int) -> str:
        """Path below the folder."""
        return _printable(os.fsdecode(self._names[index]))

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        path = self.folder / os.fsdecode(self._names[index])
        return images.read_rgb(path, self.origin(index)), int(self._labels[index])


def _is_class(path: Path) -> bool:
    """A folder of images: not hidden, and not an expansion that was written among the classes."""
    return path.is_dir() and not path.name.startswith(".") and not (path / PLAN_FILE).exists()


def _printable(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 are shown as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _pictures(folder: Path, note: Callable[[OSError], None]) -> Iterator[Path]:
    """Images at any depth, links to folders followed; not in hidden ones, nor in an expansion that lies there."""
    been = set[str]()
    for place, folders, files in os.walk(folder, onerror=note, followlinks=True):
        if (real := os.path.realpath(place)) in been:  # a link that leads back
            folders.clear()
            continue
        been.add(real)
        folders[:] = [name for name in folders if _is_class(Path(place, name))]
        paths = (Path(place, name) for name in files if not name.startswith(".") and images.is_picture_name(name))
        yield from (path for path in paths if path.is_file())


class ShardSource:
    """The samples of an expanded folder, seeds and copies alike."""

    revision = ""

    def __init__(self, folder: Path, name: str = "") -> None:
        self.name = name or folder.name
        self._reader = ShardReader(folder)
        self.classes = self._reader.classes

    def __len__(self) -> int:
        return len(self._reader)

    def origin(self, index: int) -> str:
        """The sample's key."""
        return self._reader.key(index)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        return images.read_rgb(self._reader.image_bytes(index), self.origin(index)), self._reader.label(index)

    def is_synthetic(self, index: int) -> bool:
        """Whether it was imagined."""
        return self._reader.is_synthetic(index)
