"""Images and text files of their objects in YOLO's layout, with its `data.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from gif_datasets.errors import UsageError
from gif_datasets.objects import ImageObject, Objects
from gif_datasets.publish.export_job import Job, Tally, keep, write_image
from gif_datasets.types import VALIDATION

DESCRIPTION = "data.yaml"
_NAMES = {VALIDATION: "val"}
"""What YOLO calls a split."""


def write_yolo(job: Job, tally: Tally) -> None:
    """Write ``images/SPLIT/KEY.png``, ``labels/SPLIT/KEY.txt`` and ``data.yaml``.

    Crowds are left out, and an object in several parts has a line for each, because a line holds one outline.

    Raises:
        UsageError: If a mask is one of run lengths, which no outline is.
    """
    assert job.manifest.plan.objects is not None
    classes = list(job.manifest.plan.objects["classes"])
    about: dict[str, Any] = {_NAMES.get(split, split): f"images/{split}" for split in job.readers}
    for split, reader in job.readers.items():
        for index in job.show(range(len(reader)), f"exporting {split}"):
            key, content = reader.key(index), reader.image_bytes(index)
            objects = reader.provenance(index).objects
            assert objects is not None
            lines = [line for one in objects.items if not one.crowd for line in _lines(one, objects, classes, key)]
            tally.written += write_image(job.out / f"images/{split}/{key}.{job.suffix}", content)
            tally.written += write_image(job.out / f"labels/{split}/{key}.txt", "".join(lines).encode("ascii"))
            tally.images += 1
            tally.bytes += len(content)
    about["names"] = dict(enumerate(classes))
    keep(job.out, DESCRIPTION, yaml.safe_dump(about, sort_keys=False, allow_unicode=True).encode("utf-8"), tally)


def _lines(one: ImageObject, objects: Objects, classes: Sequence[str], key: str) -> list[str]:
    """The lines of an object: its class, and fractions of the image."""
    if one.counts:
        raise UsageError(
            f"object {one.id} of {key} has a mask of run lengths, which YOLO's outlines cannot hold; export to coco, or"
            " expand with keep=boxes"
        )
    left, top, width, height = one.box
    outlines = one.polygons or ((left + width / 2, top + height / 2, width, height),)
    place = classes.index(one.category)
    return [f"{place} {' '.join(_fractions(outline, objects.size))}\n" for outline in outlines]


def _fractions(values: Sequence[float], size: tuple[int, int]) -> list[str]:
    return [f"{value / size[place % 2]:.6f}" for place, value in enumerate(values)]
