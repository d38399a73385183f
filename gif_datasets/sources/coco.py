"""A folder of images with COCO's annotations of their objects, a JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from gif_datasets.errors import BadImage, SourceError, one_line
from gif_datasets.io import images
from gif_datasets.io.parsing import read_json
from gif_datasets.objects import Objects, around, read_counts
from gif_datasets.sources import marks
from gif_datasets.sources.marks import Mark

USUAL = ("_annotations.coco.json", "annotations.json", "instances.json", "result.json")
"""Names of an annotation file that need not be given."""


class CocoSource:
    """Images and their objects; an image is of the class of its largest object.

    Args:
        folder: What file names in the annotations begin at.
        annotations: The JSON file; None: one of :data:`USUAL` in the folder.
        name: What to call it.

    Raises:
        SourceError: If the annotations are damaged, or name files outside the folder.
    """

    def __init__(self, folder: Path, annotations: Path | None, name: str) -> None:
        self.name, self.folder = name, folder
        file = annotations or next((folder / one for one in USUAL if (folder / one).is_file()), None)
        if file is None:
            raise SourceError(f"no {' or '.join(USUAL)} in {folder}; name it: coco:{folder}?annotations=FILE")
        content = _content(file)
        self.classes, places = _categories(content["categories"], file)
        self.object_classes = self.classes
        self.marks = f"boxes in {file.name}"
        entries = _by_id(content["images"], file)
        self._images = sorted((_file_name(entry, file), number) for number, entry in entries.items())
        for (first, _), (second, _) in zip(self._images, self._images[1:], strict=False):
            if first == second:
                raise SourceError(f"{file} lists {first} twice; give each image one entry")
        self._sizes = {number: (entry.get("width"), entry.get("height")) for number, entry in entries.items()}
        self._marks: dict[Any, list[Mark]] = {number: [] for number in entries}
        for entry in content["annotations"]:
            number = _value(entry, "image_id", file)
            if number not in self._marks:
                raise SourceError(
                    f"{file}: annotation {entry.get('id')} is of the image {number!r:.60}, which it lacks"
                )
            self._marks[number].append(_mark(entry, places, file))

    def __len__(self) -> int:
        return len(self._images)

    def origin(self, index: int) -> str:
        """The file's name."""
        return self._images[index][0]

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        return images.read_rgb(self.folder / self.origin(index), self.origin(index)), self.label_at(index)

    def file(self, index: int) -> bytes:
        """The image's file."""
        return (self.folder / self.origin(index)).read_bytes()

    def label_at(self, index: int) -> int:
        """Its class index; raises BadImage if it has no object."""
        return marks.class_of(self._marks[self._images[index][1]], self.origin(index))

    def annotated(self, index: int, masks: bool) -> tuple[Image.Image, int, Objects]:
        """One image, its class index, and its objects."""
        image, label = self.sample(index)
        name, number = self._images[index]
        said = self._sizes[number]
        if None not in said and said != image.size:
            raise BadImage(
                f"{name}: its annotations are of {said[0]} x {said[1]} pixels, and it has {image.width} x"
                f" {image.height} when it is upright"
            )
        return image, label, marks.objects_of(self._marks[number], self.classes, image.size, masks, name)


def _content(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = read_json(file.read_bytes())
    except OSError as error:
        raise SourceError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{file} is not JSON: {one_line(error, 200)}") from error
    for name in ("images", "annotations", "categories"):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SourceError(f"{file} is not a file of COCO's annotations: it has no list {name!r} of objects")
    found: dict[str, list[dict[str, Any]]] = content
    return found


def _value(entry: Mapping[str, Any], name: str, file: Path) -> Any:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise SourceError(f"{file}: an entry has the {name} {value!r:.60}, which is not an integer or a text")
    return value


def _by_id(entries: list[dict[str, Any]], file: Path) -> dict[Any, dict[str, Any]]:
    found = {_value(entry, "id", file): entry for entry in entries}
    if len(found) < len(entries):
        raise SourceError(f"{file} has {len(entries)} entries with {len(found)} different ids; give each its own")
    return found


def _categories(entries: list[dict[str, Any]], file: Path) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Class names in the order of their ids, and the place of each id."""
    found = sorted(_by_id(entries, file).items(), key=lambda pair: (isinstance(pair[0], str), pair[0]))
    names = tuple(str(_value(entry, "name", file)) for _, entry in found)
    if len(set(names)) < len(names):
        raise SourceError(f"{file} has two categories of one name; give each its own")
    return names, {number: place for place, (number, _) in enumerate(found)}


def _file_name(entry: Mapping[str, Any], file: Path) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or marks.escapes(name):
        raise SourceError(f"{file} has the file name {name!r:.100}, which is not below the folder of the images")
    return name


def _mark(entry: Mapping[str, Any], places: Mapping[Any, int], file: Path) -> Mark:
    category = _value(entry, "category_id", file)
    if category not in places:
        raise SourceError(
            f"{file}: annotation {entry.get('id')} is of category {category!r:.60}, which is none of its categories"
        )
    try:
        shape = entry.get("segmentation") or []
        counts = read_counts(shape) if isinstance(shape, dict) else ()
        polygons = () if counts else tuple(map(marks.polygon_of, _listed(shape)))
        box = around(polygons) if entry.get("bbox") is None and polygons else marks.box_of(entry.get("bbox"))
    except ValueError as error:
        raise SourceError(f"{file}: annotation {entry.get('id')}: {error}") from error
    return Mark(places[category], box, bool(entry.get("iscrowd")), polygons, counts)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"its segmentation is {value!r:.60}")
    return value
