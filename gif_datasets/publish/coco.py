"""Images in a folder per split, with a file of COCO's annotations of their objects beside them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from gif_datasets.io import atomic
from gif_datasets.objects import ImageObject, Objects
from gif_datasets.publish.export_job import Job, Tally, keep, write_image

ANNOTATIONS = "_annotations.coco.json"
_OF_IMAGE = ("synthetic", "copy", "seed_key", "seed_origin", "label", "class_name")
"""Fields of a record that an entry of an image also has; readers of COCO pass over them."""


def write_coco(job: Job, tally: Tally) -> None:
    """Write ``SPLIT/KEY.png`` and ``SPLIT/_annotations.coco.json``; ids count from 1, in the order of the samples."""
    assert job.manifest.plan.objects is not None
    classes = list(job.manifest.plan.objects["classes"])
    for split, reader in job.readers.items():
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for index in job.show(range(len(reader)), f"exporting {split}"):
            record, content = reader.provenance(index), reader.image_bytes(index)
            assert record.objects is not None
            name = f"{reader.key(index)}.{job.suffix}"
            (width, height), fields = record.objects.size, {field: getattr(record, field) for field in _OF_IMAGE}
            images.append({"id": index + 1, "file_name": name, "width": width, "height": height, **fields})
            for one in record.objects.items:
                ids = {"id": len(annotations) + 1, "image_id": index + 1, "object": one.id}
                annotations.append({**ids, **_annotation(one, record.objects, classes)})
            tally.written += write_image(job.out / split / name, content)
            tally.images += 1
            tally.bytes += len(content)
        categories = [{"id": place, "name": name, "supercategory": ""} for place, name in enumerate(classes, 1)]
        value = {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}
        keep(job.out, f"{split}/{ANNOTATIONS}", atomic.json_bytes(value), tally)


def _annotation(one: ImageObject, objects: Objects, classes: list[str]) -> dict[str, Any]:
    width, height = objects.size
    shape: Any = {"size": [height, width], "counts": list(one.counts)} if one.counts else list(map(list, one.polygons))
    return {
        "category_id": classes.index(one.category) + 1,
        "bbox": list(one.box),
        "area": _area(one),
        "iscrowd": int(one.crowd),
        "segmentation": shape,
    }


def _area(one: ImageObject) -> float:
    """Area of the mask, or of the box where there is none, square pixels."""
    if one.counts:
        return float(sum(one.counts[1::2]))
    return round(sum(map(_area_within, one.polygons)) if one.polygons else one.area, 3)


def _area_within(polygon: tuple[float, ...]) -> float:
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*points, points[0]]))) / 2
