"""Folders as sources: of images, a sub-folder per class, and of expanded shards."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gif_datasets.errors import BadImage, SourceError
from gif_datasets.io import images
from gif_datasets.objects import Objects
from gif_datasets.shards.reader import ShardReader
from gif_datasets.sources import left_out
from gif_datasets.sources.seed_table import Packed


class FolderSource:
    """A folder with one sub-folder per class, like torchvision's ``ImageFolder``; classes sorted by name.

    Attributes:
        name: What it is called.
        folder: Where it is.
        unreadable: What may be an image, or a folder of them, and cannot be read: a message for each.
        warnings: What may not be meant so.
        seed_warnings: What may not be meant so where these are seeds, whose classes count.
        classes: Names of the sub-folders.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder
        self.unreadable: list[str] = []
        try:
            top = sorted(folder.iterdir())
            groups = [path for path in top if left_out.is_folder_of_images(path)]
            counts: list[int] = []
            self._names = Packed.of(self._list(groups, counts))
        except OSError as error:
            raise SourceError(f"cannot list {folder}: {error.strerror}") from error
        if not groups:
            also = f"; it has {marks}" if (marks := left_out.marks_in(folder)) else ""
            raise SourceError(f"{folder} has no sub-folders; a source has one sub-folder of images per class{also}")
        loose = [path for path in top if path not in groups and not path.name.startswith(".")]
        self._note_missing(loose)
        if not self._names:
            first = f"; not read: {self.unreadable[0]}" if self.unreadable else ""
            raise SourceError(
                f"no images in the sub-folders of {folder} (looked for .png, .jpg, .webp and others){first}"
            )
        _refuse_splits(folder, [group for group, count in zip(groups, counts, strict=True) if count])
        kept = [(g, count) for g, count in zip(groups, counts, strict=True) if count or not _holds_own(g)]
        self.classes = tuple(_printable(group.name) for group, _ in kept)
        self.unreadable.sort()
        self._labels = np.repeat(np.arange(len(kept)), [count for _, count in kept])
        self.marks = left_out.marks_in(folder)
        self._empty = [name for name, (_, count) in zip(self.classes, kept, strict=True) if not count]
        self.warnings = tuple(_warn_of_loose(loose))
        self.seed_warnings = tuple(_warn_of_empty(self._empty))

    def _list(self, groups: Iterable[Path], counts: list[int]) -> Iterator[bytes]:
        """Names of the images below the folder, class by class; only one class is held as paths at a time."""
        for group in groups:
            paths = sorted(self._images(group))
            counts.append(len(paths))
            yield from (os.fsencode(path.relative_to(self.folder).as_posix()) for path in paths)

    def _images(self, folder: Path) -> Iterator[Path]:
        """Images at any depth, links to folders followed; what may be one and cannot be read is noted."""
        been = set[str]()
        for place, folders, files in os.walk(folder, onerror=self._note_unlisted, followlinks=True):
            if (real := os.path.realpath(place)) in been:  # a link that leads back
                folders.clear()
                continue
            been.add(real)
            folders[:] = [name for name in folders if left_out.is_folder_of_images(Path(place, name))]
            for path in (Path(place, name) for name in files if not name.startswith(".")):
                if not images.is_picture_name(path.name):
                    self._note(path, left_out.why_not_read(path))
                elif path.is_file():
                    yield path
                else:
                    self._note(path, left_out.why_not_there(path) or "is not a file")

    def _note_missing(self, paths: Iterable[Path]) -> None:
        """Note what lies beside the classes and would be one, were it there."""
        for path in paths:
            self._note(path, left_out.why_not_there(path))

    def _note_unlisted(self, error: OSError) -> None:
        self._note(Path(error.filename), f"cannot be listed ({error.strerror})")

    def _note(self, path: Path, reason: str) -> None:
        if reason:
            place = path.relative_to(self.folder).as_posix()
            self.unreadable.append(f"{_printable(place)}: {_printable(reason)}")

    def refuse_output(self, path: Path, is_image: bool = False) -> None:
        """Refuse to write where the next run would find another class, or another image of one.

        Args:
            path: A folder that will be known as one of this package, or an image.
            is_image: Which of these.

        Raises:
            SourceError: If a folder lies in a class without images, or an image in any folder of the source.
        """
        place, above = self.folder.absolute(), (path.absolute(), *path.absolute().parents)
        in_class = any(place / name in above for name in self._empty)
        if in_class or (is_image and place in above[2:]):
            raise SourceError(
                f"{path} is inside the folder {self.name}, where the next run would take it for an image or a class;"
                " choose a place outside it"
            )

    def __len__(self) -> int:
        return len(self._names)

    def origin(self, index: int) -> str:
        """Path below the folder."""
        return _printable(os.fsdecode(self._names[index]))

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        return images.read_rgb(self._path(index), self.origin(index)), self.label_at(index)

    def file(self, index: int) -> bytes:
        """The image's file."""
        return self._path(index).read_bytes()

    def entry(self, index: int) -> tuple[bytes, os.stat_result]:
        """The file's path below the folder, and its status."""
        return self._names[index], self._path(index).stat()

    def label_at(self, index: int) -> int:
        """Its class index."""
        return int(self._labels[index])

    def _path(self, index: int) -> Path:
        return self.folder / os.fsdecode(self._names[index])


def _printable(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 are shown as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _holds_own(folder: Path) -> bool:
    """Whether something that this package wrote lies below a folder."""
    return any(left_out.is_own(path) for path in folder.rglob("*") if path.is_dir())


def _refuse_splits(folder: Path, groups: Sequence[Path]) -> None:
    """Refuse the parts of a dataset, each with its own classes, as classes."""
    splits = [group for group in groups if left_out.is_split(group.name)]
    inner = Counter(path.name for group in splits for path in group.iterdir() if left_out.is_folder_of_images(path))
    if inner and (len(splits) == len(groups) or max(inner.values()) > 1):
        names = [group.name for group in splits]
        seeds = next((name for name in names if name.lower().startswith("train")), names[0])
        held = next((name for name in names if name.lower().startswith(("val", "dev"))), "")
        more = f", and --validation {folder / held}" if held else ""
        raise SourceError(
            f"{folder} has the parts of a dataset, not its classes: {', '.join(names)}, which have folders such as"
            f" {min(inner)}; give {folder / seeds} as the source{more}"
        )


def _warn_of_empty(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield (
            f"no image is read of the class{'es' if len(names) > 1 else ''} {', '.join(names[:20])}; a class without"
            " images is still one for the classifier and in the labels; remove a folder that is not a class"
        )


def _warn_of_loose(paths: Iterable[Path]) -> Iterator[str]:
    names = [_printable(path.name) for path in paths if images.is_picture_name(path.name) and path.is_file()]
    if names:
        yield f"{len(names)} images beside the classes' folders are of no class and left out, the first {names[0]}"


class ShardSource:
    """The samples of an expanded folder, seeds and copies alike."""

    revision = ""

    def __init__(self, folder: Path, name: str = "") -> None:
        self.name = name or folder.name
        self._reader = ShardReader(folder)
        self.classes = self._reader.classes
        kept = self._reader.manifest.plan.objects
        self.object_classes = self._reader.object_classes
        self.marks = f"{kept['keep']} of its seeds and copies" if kept else ""

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def originals(self) -> dict[int, int]:
        """The place of each seed that is a sample itself, by its number in the folder."""
        entries = self._reader.index
        places = np.flatnonzero(entries.copy == 0)
        return dict(zip(entries.seed[places].tolist(), places.tolist(), strict=True))

    def origin(self, index: int) -> str:
        """The sample's key."""
        return self._reader.key(index)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        return images.read_rgb(self.file(index), self.origin(index)), self.label_at(index)

    def annotated(self, index: int, masks: bool) -> tuple[Image.Image, int, Objects]:
        """One image, its class index, and its objects."""
        image, label = self.sample(index)
        found = self._reader.provenance(index).objects
        if found is None or found.size != image.size or (masks and not found.masks):
            raise BadImage(f"{self.origin(index)}: no {'masks' if masks and found else 'boxes'} of this image")
        return image, label, found if masks else found.without_masks()

    def file(self, index: int) -> bytes:
        """The image's file."""
        return self._reader.image_bytes(index)

    def label_at(self, index: int) -> int:
        """Its class index."""
        return self._reader.label(index)

    def is_synthetic(self, index: int) -> bool:
        """Whether it was imagined."""
        return self._reader.is_synthetic(index)
