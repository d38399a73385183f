"""A folder in YOLO's layout: images, and beside them a text file of objects for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from gif_datasets.errors import BadImage, SourceError, one_line
from gif_datasets.io import images
from gif_datasets.objects import Objects, around
from gif_datasets.sources import marks
from gif_datasets.sources.marks import Mark

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")


class YoloSource:
    """Images and their objects; an image is of the class of its largest object.

    The labels of ``images/../NAME.jpg`` are in ``labels/../NAME.txt``: a line an object, its class and then its box
    (centre and size), or its outline, as fractions of the image.

    Args:
        folder: The dataset's folder, with its ``data.yaml``.
        split: Which part: one that ``data.yaml`` names, or ``images/SPLIT``, or ``SPLIT/images``.
        classes: Class names; None: those of ``data.yaml``.
        name: What to call it.

    Raises:
        SourceError: If images or class names are not found, or lie outside the folder.
    """

    def __init__(self, folder: Path, split: str, classes: Sequence[str] | None, name: str) -> None:
        self.name = name
        about = _description(folder)
        self.classes = tuple(classes) if classes else _names(about.get("names"), folder)
        self.object_classes = self.classes
        self.marks = "boxes in the text files beside its images"
        self.folder = _images_of(folder, split, about)
        self._paths = sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file() and images.is_picture_name(path.name) and not path.name.startswith(".")
        )
        if not self._paths:
            raise SourceError(f"no images in {self.folder}")
        parts = list(self.folder.parts)
        self._labels = self.folder
        if "images" in parts[len(folder.parts) :]:
            place = len(parts) - 1 - parts[::-1].index("images")
            self._labels = Path(*parts[:place], "labels", *parts[place + 1 :])
        if not self._labels.is_dir():
            raise SourceError(f"no folder {self._labels} with the objects of the images in {self.folder}")

    def __len__(self) -> int:
        return len(self._paths)

    def origin(self, index: int) -> str:
        """The image's path below the folder of images."""
        return self._paths[index]

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        return self._image(index), self.label_at(index)

    def file(self, index: int) -> bytes:
        """The image's file."""
        return (self.folder / self._paths[index]).read_bytes()

    def label_at(self, index: int) -> int:
        """Its class index; raises BadImage if it has no object, or its text file is broken."""
        return marks.class_of(self._marks(index, (1, 1)), self.origin(index))

    def annotated(self, index: int, masks: bool) -> tuple[Image.Image, int, Objects]:
        """One image, its class index, and its objects."""
        image = self._image(index)
        found = self._marks(index, image.size)
        label, name = marks.class_of(found, self.origin(index)), self.origin(index)
        return image, label, marks.objects_of(found, self.classes, image.size, masks, name)

    def _image(self, index: int) -> Image.Image:
        return images.read_rgb(self.folder / self._paths[index], self.origin(index))

    def _marks(self, index: int, size: tuple[int, int]) -> list[Mark]:
        path = (self._labels / self._paths[index]).with_suffix(".txt")
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise BadImage(f"{self.origin(index)}: cannot read {path.name} ({type(error).__name__})") from error
        found = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    found.append(_mark(line.split(), len(self.classes), size))
                except ValueError as error:
                    raise BadImage(f"{self.origin(index)}: line {number} of {path.name}: {error}") from error
        return found


def _mark(words: Sequence[str], classes: int, size: tuple[int, int]) -> Mark:
    if not words[0].isdecimal() or int(words[0]) >= classes:
        raise ValueError(f"class {words[0]!r:.60}, and there are {classes}, counted from 0")
    try:
        values = marks.numbers([float(word) for word in words[1:]])
    except ValueError as error:
        raise ValueError(f"expected numbers, got {' '.join(words[1:])!r:.60}") from error
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"{len(values)} numbers after the class; a box has 4, an outline x and y of at least 3 points")
    width, height = size
    if len(values) == 4:
        x, y, w, h = values
        box = marks.box_of([(x - w / 2) * width, (y - h / 2) * height, w * width, h * height])
        return Mark(int(words[0]), box)
    outline = tuple(value * size[place % 2] for place, value in enumerate(values))
    return Mark(int(words[0]), around([outline]), polygons=(outline,))


def _description(folder: Path) -> dict[str, Any]:
    """What ``data.yaml`` says; nothing if there is none."""
    file = next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)
    if file is None:
        return {}
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise SourceError(f"{file} is not YAML: {one_line(error, 200)}") from error
    if not isinstance(value, dict):
        raise SourceError(f"{file} does not describe a dataset: it has no names")
    return value


def _names(value: Any, folder: Path) -> tuple[str, ...]:
    """Class names of a list, or of a mapping from 0 on."""
    if isinstance(value, dict) and sorted(value, key=str) == sorted(range(len(value)), key=str):
        value = [value[number] for number in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(name, (str, int)) for name in value):
        raise SourceError(
            f"no class names for {folder}: a data.yaml lists them as names: [..], or say yolo:{folder}?classes=a,b,c"
        )
    return tuple(map(str, value))


def _images_of(folder: Path, split: str, about: dict[str, Any]) -> Path:
    """The folder of a split's images."""
    said = about.get(split)
    if isinstance(said, str):
        said = said.removeprefix("./").removeprefix("../")  # as some tools write, and as YOLO's own loader reads them
        if marks.escapes(said):
            raise SourceError(f"the images of {split} are at {said!r:.100}, which is not below {folder}")
    named = [said] if isinstance(said, str) else []
    tried = [folder / one for one in (*named, f"images/{split}", f"{split}/images", split)]
    if "/" in split or split in ("", ".", "..") or marks.escapes(split):
        raise SourceError(f"split {split!r:.60} of {folder} is not a name")
    if (found := next((path for path in tried if path.is_dir()), None)) is None:
        raise SourceError(f"no images of {split!r} in {folder}; looked for {', '.join(map(str, tried))}")
    return found
