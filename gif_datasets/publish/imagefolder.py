"""A folder per class, with provenance as Hugging Face's `imagefolder` reads it."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from gif_datasets.io.parsing import finite
from gif_datasets.publish.export_job import Job, Tally, keep, write_image
from gif_datasets.shards import card
from gif_datasets.shards.columns import object_features
from gif_datasets.shards.reader import ShardReader

COLUMNS = tuple((name, kind) for name, kind in card.RECORD if name != "label")
"""Name and type of each column besides image, label and key."""
SOURCE = "source"
"""Column that contains the columns of the source."""
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?= *(\.|$))")  # what Windows takes for a device


def class_folders(classes: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each class; sorting the folders gives the order of the labels.

    Characters that a path or a file system may not take are replaced. If two names are then equal, or their order is
    not that of the labels, each name gets its label as a prefix.

    Example:
        >>> class_folders(["cat", "dog"])
        ('cat', 'dog')
        >>> class_folders(["dog", "../cat"])
        ('0_dog', '1_cat')
    """
    plain = tuple(_cleaned(name) for name in classes)
    distinct = len({name.casefold() for name in plain}) == len(plain)
    if distinct and list(plain) == sorted(plain) == sorted(plain, key=_natural):
        return plain
    width = len(str(len(plain) - 1))
    return tuple(f"{label:0{width}d}_{name}" for label, name in enumerate(plain))


def _cleaned(name: str) -> str:
    allowed = "".join(
        c if unicodedata.category(c)[0] in "LMN" or c in " _-+.,()" else "_" for c in unicodedata.normalize("NFC", name)
    )
    short = allowed.encode("utf-8")[:100].decode("utf-8", "ignore").strip(" ._") or "class"
    return _RESERVED.sub(r"\1_", short, count=1) if _RESERVED.match(short) else short


def _natural(name: str) -> list[tuple[int, int, str]]:
    """The natural order, which timm uses: numbers by their value."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def write_folders(job: Job, tally: Tally) -> None:
    """Write a folder per split and class, and each split's records in a file."""
    for split, reader in job.readers.items():
        names = class_folders(reader.classes)
        for name in names:  # for classes without images too, so that the number of folders is that of labels
            (job.out / split / name).mkdir(parents=True, exist_ok=True)
        rows = []
        for index in job.show(range(len(reader)), f"exporting {split}"):
            row, content = _row(job, reader, index), reader.image_bytes(index)
            name = f"{names[row['label']]}/{row['key']}.{job.suffix}"
            rows.append({"file_name": name, **row})
            tally.written += write_image(job.out / split / name, content)
            tally.images += 1
            tally.bytes += len(content)
        kind, content = ("parquet", _parquet(job, rows)) if "metadata" in job.settings else ("jsonl", _lines(rows))
        keep(job.out, f"{split}/metadata.{kind}", content, tally)


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as JSON, a line each."""
    return "".join(json.dumps(finite(row), ensure_ascii=True) + "\n" for row in rows).encode("ascii")


def _parquet(job: Job, rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as Parquet with Hugging Face features: the only metadata from which their builder learns class names."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    kinds: dict[str, Any] = {
        "file_name": datasets.Value("string"),
        "label": datasets.ClassLabel(names=list(job.manifest.classes)),
    }
    kinds |= {name: datasets.Value(kind) for name, kind in (("key", "string"), *COLUMNS)}
    kinds |= {job.columns.objects: object_features(kept)} if (kept := job.manifest.plan.objects) else {}
    schema = datasets.Features({**kinds, **({SOURCE: job.plain} if job.plain else {})}).arrow_schema
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _row(job: Job, reader: ShardReader, index: int) -> dict[str, Any]:
    """The columns of a sample except its image; the source's columns of its seed are one column."""
    record = reader.provenance(index).to_json()
    row = {"label": record["label"], "key": reader.key(index), **{name: record[name] for name, _ in COLUMNS}}
    if job.manifest.plan.objects:
        row[job.columns.objects] = job.columns.objects_of(record)
    if not job.plain:
        return row
    own = job.source.rows.get(record["seed_index"], {}) if job.source else {}
    return {**row, SOURCE: {name: own.get(name) for name in job.plain}}
