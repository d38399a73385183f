"""Datasets of marked images that tests build: in COCO's form, in YOLO's, and as a column of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

SIZES = ((120, 80), (80, 120), (90, 90))
CATEGORIES = {3: "cat", 7: "dog"}
COUNT = 6


def sizes() -> list[tuple[int, int]]:
    """Width and height of each image."""
    return [SIZES[number % 3] for number in range(COUNT)]


def boxes_of(number: int) -> list[tuple[int, list[int]]]:
    """Category and box of each object of an image; the larger one is a cat in even ones, and a dog in the others."""
    return [(3, [5 + number, 10, 25 - 5 * (number % 2), 15]), (7, [35 + number, 20, 20 + 5 * (number % 2), 15])]


def outline(box: list[int]) -> list[float]:
    """A triangle in a box."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width / 2, y + height]


def images(folder: Path) -> Path:
    """The images ``0.png``, .. in a folder: noise, wide, high and square."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes()):
        pixels = rng.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{number}.png")
    return folder


def annotations() -> dict[str, Any]:
    """What COCO's file says of them."""
    marks = [(number, *mark) for number in range(COUNT) for mark in boxes_of(number)]
    return {
        "images": [
            {"id": 10 + number, "file_name": f"{number}.png", "width": width, "height": height}
            for number, (width, height) in enumerate(sizes())
        ],
        "annotations": [
            {"id": place, "image_id": 10 + number, "category_id": category, "bbox": box, "iscrowd": 0}
            | {"area": box[2] * box[3], "segmentation": [outline(box)]}
            for place, (number, category, box) in enumerate(marks)
        ],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    }


def coco(folder: Path, content: Any = None) -> str:
    """A folder with COCO's annotations, and its source."""
    images(folder)
    (folder / "_annotations.coco.json").write_text(json.dumps(annotations() if content is None else content))
    return f"coco:{folder}"


def yolo(folder: Path, masks: bool = False) -> str:
    """The same in YOLO's layout."""
    images(folder / "images" / "train")
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True)
    for number, (width, height) in enumerate(sizes()):
        lines = []
        for category, (x, y, w, h) in boxes_of(number):
            values = outline([x, y, w, h]) if masks else [x + w / 2, y + h / 2, w, h]
            shares = [value / (height if place % 2 else width) for place, value in enumerate(values)]
            lines.append(" ".join([str(int(category == 7)), *map(str, shares)]))
        (labels / f"{number}.txt").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text("train: ../train/images\nnames: [cat, dog]\n")
    return f"yolo:{folder}"


def hugging_face(folder: Path, form: str = "xywh", label: bool = False) -> datasets.Dataset:
    """The same as a Hugging Face dataset of columns id, image and objects."""
    images(folder)
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = {
        "id": datasets.Value("int64"),
        "image": datasets.Image(),
        "objects": {
            "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
            "category": datasets.List(names),
            "area": datasets.List(datasets.Value("float32")),
            "note": datasets.List(datasets.Value("string")),
        },
        **({"label": datasets.ClassLabel(names=["indoor", "outdoor"])} if label else {}),
    }

    def cell(number: int) -> dict[str, Any]:
        marks = boxes_of(number)
        corners = [[x, y, x + w, y + h] if form == "xyxy" else [x, y, w, h] for _, (x, y, w, h) in marks]
        return {
            "bbox": corners,
            "category": [int(category == 7) for category, _ in marks],
            "area": [w * h for _, (_, _, w, h) in marks],
            "note": [f"{number}-{place}" for place in range(len(marks))],
        }

    rows = {
        "id": list(range(COUNT)),
        "image": [str(folder / f"{number}.png") for number in range(COUNT)],
        "objects": [cell(number) for number in range(COUNT)],
        **({"label": [number % 2 for number in range(COUNT)]} if label else {}),
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))
