"""Parquet with Hugging Face features."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gif_datasets.chunks import blocks
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest, digest_file
from gif_datasets.io.parsing import read_json
from gif_datasets.publish.export_job import Job, Tally
from gif_datasets.shards.folder import STATE
from gif_datasets.shards.reader import ShardReader

GROUP_ROWS, GROUP_BYTES = 1_000, 32_000_000
"""A reader fetches and keeps a row group at once; the bound that is reached first ends it."""


def write_parquet(job: Job, tally: Tally) -> None:
    """Write each split as files of whole rows, real and synthetic samples apart."""
    for split, reader in job.readers.items():
        size = job.shard_bytes(split)
        count = min(-(-size // int(job.settings["shard_bytes"])), len(reader))
        step = -(-len(reader) // count)
        group = max(1, min(GROUP_ROWS, GROUP_BYTES * len(reader) // size))
        parts = [part for run in _runs(reader) for part in blocks(run, step)]
        rows = iter(job.show(range(len(reader)), f"exporting {split}"))
        for number, part in enumerate(parts):
            name = f"data/{split}-{number:05d}-of-{len(parts):05d}.parquet"
            state = job.out / STATE / f"{Path(name).stem}.json"
            entry = _finished(job, name, state)
            if entry is None:
                with atomic.atomic_write(job.out / name) as file:
                    _write_part(file, job, reader, part, group)
                path = job.out / name
                entry = {"rows": len(part), "bytes": path.stat().st_size, "sha256": digest_file(path)}
                entry["synthetic"] = reader.is_synthetic(part[0])
                atomic.write_json(state, {"export": digest(job.settings), "file": entry})
                tally.written += 1
            for _ in part:
                next(rows)
            tally.files[name] = entry
            tally.images += 1
            tally.bytes += entry["bytes"]


def _runs(reader: ShardReader) -> list[list[int]]:
    """Samples in order, real and synthetic ones apart, so that each file has one kind and a reader can skip it."""
    grouped = itertools.groupby(range(len(reader)), reader.is_synthetic)
    return [list(indices) for _, indices in grouped]


def _finished(job: Job, name: str, state: Path) -> dict[str, Any] | None:
    """The entry of a file of this export that exists, byte for byte; None otherwise."""
    try:
        value = read_json(state.read_text(encoding="utf-8"))
        entry: dict[str, Any] = value["file"]
        whole = value["export"] == digest(job.settings) and digest_file(job.out / name) == entry["sha256"]
        return entry if whole and {"rows", "bytes"} <= set(entry) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_part(file: Any, job: Job, reader: ShardReader, part: Sequence[int], group: int) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = job.columns
    schema = kinds.features.arrow_schema
    ours = [kinds.key, *kinds.record.values()]
    with pyarrow.parquet.ParquetWriter(
        file,
        schema,
        compression={path: "none" if path.startswith(f"{kinds.image}.") else "zstd" for path in _leaves(schema)},
        use_dictionary=[name for name in ours if schema.field(name).type == pyarrow.string()],  # images all differ
        write_statistics=[kinds.label, *ours],
        write_page_index=True,
    ) as writer:
        for indices in blocks(part, group):
            rows = [_full_row(job, reader, index) for index in indices]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema), row_group_size=group)


def _leaves(schema: Any) -> list[str]:
    """Paths of the columns of a schema as Parquet names them, nested ones with dots."""
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(schema.empty_table(), buffer)
    schema_of_file = pyarrow.parquet.ParquetFile(buffer).schema
    return [schema_of_file.column(i).path for i in range(len(schema_of_file))]


def _full_row(job: Job, reader: ShardReader, index: int) -> dict[str, Any]:
    """A sample with its image, and the source's columns of its seed."""
    key, record = reader.key(index), reader.provenance(index).to_json()
    own = job.source.rows.get(record["seed_index"], {}) if job.source else {}
    return job.columns.row({"bytes": reader.image_bytes(index), "path": f"{key}.{job.suffix}"}, key, record, own)
