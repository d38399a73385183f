"""Annotations of objects: what is read, and one clear line for what cannot be."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import objects as marked
import pytest
from PIL import Image

from gif_datasets import SourceError
from gif_datasets.objects import ImageObject, Objects, decode_counts, encode_counts, read_counts
from gif_datasets.sources import open_source, wrap_source
from gif_datasets.sources.base import list_seeds
from gif_datasets.sources.hugging_face import HuggingFaceSource

Change = Callable[[dict[str, Any]], None]


def _set(place: str, number: int, **values: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        content[place][number].update(values)

    return change


BROKEN: dict[str, tuple[Change, str]] = {
    "no list": (lambda c: c.pop("annotations"), "it has no list 'annotations'"),
    "unknown category": (_set("annotations", 0, category_id=99), "annotation 0 is of category 99, which is none of"),
    "unknown image": (_set("annotations", 0, image_id=99), "annotation 0 is of the image 99, which it lacks"),
    "NaN": (_set("annotations", 1, bbox=[1, 2, float("nan"), 4]), "annotation 1: expected numbers, got nan"),
    "negative": (_set("annotations", 1, bbox=[1, 2, -3, 4]), r"annotation 1: its box is \[1, 2, -3, 4\], which is not"),
    "three": (_set("annotations", 1, bbox=[1, 2, 3]), "which is not left, top, width and height"),
    "text": (_set("annotations", 1, bbox="1 2 3 4"), "annotation 1: expected numbers, got '1 2 3 4'"),
    "bool": (_set("annotations", 1, category_id=True), "category_id True, which is not an integer or a text"),
    "outline": (_set("annotations", 1, segmentation=[[1, 2, 3, 4]]), "its outline has 4 numbers"),
    "runs": (_set("annotations", 1, segmentation={"counts": [-1, 2], "size": [1, 1]}), "its counts are neither"),
    "above": (_set("images", 0, file_name="../0.png"), "'../0.png', which is not below the folder"),
    "root": (_set("images", 0, file_name="/etc/passwd"), "'/etc/passwd', which is not below the folder"),
    "drive": (_set("images", 0, file_name="C:\\0.png"), "which is not below the folder"),
    "twice": (_set("images", 0, file_name="1.png"), "lists 1.png twice"),
    "one id": (_set("images", 0, id=11), "6 entries with 5 different ids"),
    "one name": (_set("categories", 0, name="dog"), "two categories of one name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_of_annotations_is_one_line(case: str, tmp_path: Path) -> None:
    """Each names the entry and its value."""
    change, wanted = BROKEN[case]
    content = copy.deepcopy(marked.annotations())
    change(content)
    with pytest.raises(SourceError, match=wanted) as caught:
        open_source(marked.coco(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "[1]", "{}", "[" * 500 + "]" * 500, '{"images": 1}', "\x00\xff"])
def test_what_is_not_annotations_is_one_line(text: str, tmp_path: Path) -> None:
    """Cut off, of another shape, or nested to break the parser."""
    marked.coco(tmp_path)
    (tmp_path / "_annotations.coco.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"_annotations.coco.json is not (JSON|a file of COCO's annotations)"):
        open_source(f"coco:{tmp_path}")
    (tmp_path / "_annotations.coco.json").unlink()
    with pytest.raises(SourceError, match=r"no _annotations.coco.json or .*; name it: coco:"):
        open_source(f"coco:{tmp_path}")


def test_a_broken_image_costs_itself(tmp_path: Path) -> None:
    """A box outside, other sizes, no object, no mask, a mask of another size, no file: the others are read."""
    content = marked.annotations()
    content["annotations"][0]["bbox"] = [100, 10, 200, 15]
    content["images"][1]["width"] = 81
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 12]
    content["annotations"][4]["segmentation"] = {"counts": [5, 3], "size": [2, 4]}
    content["annotations"][6]["segmentation"] = []
    marked.coco(tmp_path, content)
    (tmp_path / "5.png").unlink()
    source = open_source(f"coco:{tmp_path}")
    found = list_seeds(source, keep="boxes")
    assert [seed.origin for seed in found.seeds] == ["3.png", "4.png"]
    assert (
        "0.png: the box of object 0 (100, 10, 200, 15: left, top, width, height) leaves the image of 120 x 80"
        in (found.bad[0])
    )
    assert "1.png: its annotations are of 81 x 120 pixels, and it has 80 x 120" in found.bad[1]
    assert "2.png: no object" in found.bad[2]
    assert "5.png" in found.bad[3]
    with pytest.raises(SourceError, match=r"no readable image .*0.png: the box"):
        list_seeds(source, keep="masks")
    assert any("3.png: a mask does not fit: its runs have 8" in text for text in _bad(source))
    assert any("4.png: object 0 has no mask; use keep=boxes" in text for text in _bad(source))


def _bad(source: Any) -> list[str]:
    from gif_datasets import BadImage

    found = []
    for index in range(len(source)):
        try:
            source.annotated(index, True)
        except BadImage as error:  # noqa: PERF203
            found.append(str(error))
    return found


def test_a_turned_image(tmp_path: Path) -> None:
    """Annotations are of the upright image; those of the file as it lies are named."""
    content = marked.annotations()
    marked.coco(tmp_path, content)
    image = Image.open(tmp_path / "0.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees clockwise: it is 120 x 80 again
    image.save(tmp_path / "0.png", exif=exif)
    assert Image.open(tmp_path / "0.png").size == (80, 120)
    found = list_seeds(open_source(f"coco:{tmp_path}"), keep="boxes")
    assert not found.bad
    assert found.seeds[0].objects is not None
    assert found.seeds[0].objects.size == (120, 80)


LINES = {
    "5 0.5 0.5 0.1 0.1": "line 1 of 0.txt: class '5', and there are 2",
    "-1 0.5 0.5 0.1 0.1": "class '-1'",
    "x 0.5 0.5 0.1 0.1": "class 'x'",
    "0 0.5 0.5 0.1": "3 numbers after the class; a box has 4",
    "0 0.5 0.5 nan 0.1": "expected numbers, got '0.5 0.5 nan 0.1'",
    "0 0.5 0.5 -0.1 0.1": "which is not left, top, width and height",
    "0 0.9 0.5 0.9 0.1": "the box of object 0 .* leaves the image of 120 x 80",
    "0 a b c d": "expected numbers, got 'a b c d'",
    "": "no object, so it is of no class",
}


@pytest.mark.parametrize("line", LINES)
def test_a_broken_line_costs_its_image(line: str, tmp_path: Path) -> None:
    """With the file and the number of the line."""
    source = marked.yolo(tmp_path)
    (tmp_path / "labels/train/0.txt").write_text(line)
    found = list_seeds(open_source(source), keep="boxes")
    assert len(found.seeds) == 5
    assert re.search(LINES[line], found.bad[0])


def test_a_broken_description_is_one_line(tmp_path: Path) -> None:
    """Of a dataset in YOLO's layout."""
    marked.yolo(tmp_path)
    for text, wanted in (
        ("train: [", "data.yaml is not YAML"),
        ("3", "does not describe a dataset"),
        ("train: images/train", "no class names for"),
        ("names: {0: cat, 2: dog}", "no class names for"),
        ("names: [a, b]\ntrain: ../../../etc", "'../../etc', which is not below"),
        ("names: [a, b]\ntrain: /etc", "'/etc', which is not below"),
    ):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(SourceError, match=wanted):
            open_source(f"yolo:{tmp_path}")
    with pytest.raises(SourceError, match="no images of 'test'"):
        open_source(f"yolo:{tmp_path}?split=test&classes=a,b")
    with pytest.raises(SourceError, match=r"split '\.\./x' of .* is not a name"):
        open_source(f"yolo:{tmp_path}?split=../x&classes=a,b")


def test_forms_of_columns(tmp_path: Path) -> None:
    """Corners, lists of objects, texts as categories: all the same boxes."""
    plain = marked.hugging_face(tmp_path)
    corners = marked.hugging_face(tmp_path, "xyxy")
    wanted = [seed.objects for seed in list_seeds(wrap_source(plain), keep="boxes").seeds]
    found = list_seeds(HuggingFaceSource(corners, boxes="xyxy"), keep="boxes").seeds
    assert [seed.objects for seed in found] == wanted
    listed = datasets.Dataset.from_list(
        [
            {
                "image": row["image"],
                "things": [
                    {"bbox": box, "label": "dog" if category else "cat"}
                    for box, category in zip(row["objects"]["bbox"], row["objects"]["category"], strict=True)
                ],
            }
            for row in plain
        ],
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "things": datasets.List(
                    {"bbox": datasets.List(datasets.Value("float32")), "label": datasets.Value("string")}
                ),
            }
        ),
    )
    seeds = list_seeds(wrap_source(listed), keep="boxes").seeds
    assert [seed.objects for seed in seeds] == wanted
    assert [seed.label for seed in seeds] == [number % 2 for number in range(6)]
    with pytest.raises(SourceError, match=r"column 'id' of .* has no boxes and categories"):
        HuggingFaceSource(plain, objects="id")
    with pytest.raises(SourceError, match="xywh or xyxy, got 'cxcywh'"):
        HuggingFaceSource(plain, boxes="cxcywh")
    bad = list_seeds(wrap_source(corners), keep="boxes").bad  # corners that are read as sizes
    assert "row 4: the box of object 1" in " ".join(bad)


def test_masks_as_runs_are_cut_and_scaled() -> None:
    """Every pixel of a mask is where it was, as far as it is in the window."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(8, 40, 2).tolist()
        mask = np.zeros((height, width), np.uint8)
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        mask[top : top + 6, left : left + 5] = 255
        counts = encode_counts(mask)
        assert np.array_equal(decode_counts(counts, (width, height)), mask)
        assert read_counts({"counts": list(counts)}) == counts
        one = ImageObject((float(left), float(top), 5.0, 6.0), "cat", 0, counts=counts)
        objects = Objects((width, height), (one,), masks=True).clipped()
        window = (2, 1, width - 4, height - 3)
        seen = objects.seen_through(window, (window[2] * 3, window[3] * 3))
        wanted = np.kron(mask[1 : height - 2, 2 : width - 2], np.ones((3, 3), np.uint8))
        if seen.items:
            assert np.array_equal(decode_counts(seen.items[0].counts, seen.size), wanted)
            x, y, w, h = map(math.floor, seen.items[0].box)
            assert not wanted.any() or (wanted[y : y + h, x : x + w].sum() == wanted.sum())
        else:
            assert not wanted.any()


def test_damaged_objects_of_a_record() -> None:
    """Each is an error of ours, and no other."""
    value = Objects(
        (8, 8), (ImageObject((1.0, 1.0, 2.0, 2.0), "a", 0, polygons=((1.0, 1.0, 2.0, 1.0, 2.0, 2.0),)),), True
    )
    good = value.to_json()
    assert Objects.from_json(json.loads(value.text())) == value
    for name, odd in (
        ("bbox", [[1, 2, 3]]),
        ("bbox", [[1, 2, 3, float("nan")]]),
        ("bbox", []),
        ("bbox", 1),
        ("width", 0),
        ("width", "8"),
        ("category", [3]),
        ("iscrowd", [0]),
        ("id", [-1]),
        ("polygons", [[[1, 2, 3]]]),
        ("counts", [[1.5]]),
        ("counts", None),
    ):
        with pytest.raises((TypeError, ValueError)):
            Objects.from_json({**good, name: odd})
    with pytest.raises(TypeError):
        Objects.from_json({**good, "more": 1})
    with pytest.raises(TypeError):
        Objects.from_json([])


def test_a_folder_without_classes_names_what_reads_its_boxes(tmp_path: Path) -> None:
    """Instead of asking for sub-folders alone."""
    (tmp_path / "_annotations.coco.json").write_text("{}")
    with pytest.raises(SourceError, match=r"no sub-folders.*boxes in .*coco\.json, which coco:.* reads"):
        open_source(str(tmp_path))


class TinyDetection:
    """As torchvision's CocoDetection gives its items."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Image.Image, list[dict[str, Any]]]:
        return Image.new("RGB", (8, 8)), [{"bbox": [0, 0, 4, 4], "category_id": 1, "segmentation": [[0.0] * 200]}]


def test_wrapped_detection_sets_name_what_reads_boxes() -> None:
    """With class names and without; a long target is cut."""
    with pytest.raises(SourceError, match=r"does not name its classes.*boxes are kept of coco: and yolo: sources"):
        wrap_source(TinyDetection())
    with pytest.raises(SourceError, match=r"must be integers; boxes are kept of coco: and yolo: sources") as error:
        wrap_source(TinyDetection(), ["cat", "dog"]).sample(0)
    assert len(str(error.value)) < 300
