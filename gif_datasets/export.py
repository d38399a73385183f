"""Expanded folders in other forms: a folder per class (`imagefolder`), or Parquet with Hugging Face features.

A form fixes every file's name and bytes, as a plan does; run again = resume, and when all is there only check. Splits
are kept apart, pictures are the files of the shards byte for byte, and each sample's provenance goes with it.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gif_datasets import atomic, card, manifests, shards
from gif_datasets.columns import Columns, SourceColumns, expanded_columns, read_source, to_yaml
from gif_datasets.errors import ConfigError, MissingExtra, ShardError
from gif_datasets.fingerprint import digest, digest_file
from gif_datasets.folder import STATE, claim
from gif_datasets.parsing import read_json
from gif_datasets.pruned import prune
from gif_datasets.reader import ShardReader
from gif_datasets.rejections import rejected_keys
from gif_datasets.types import Progress, silent

EXPORT_FORMAT = 2
FORMS = ("imagefolder", "parquet", "shards")
SHARD_BYTES = 100_000_000
GROUP_ROWS, GROUP_BYTES = 1_000, 32_000_000
"""A row group is what a reader fetches and holds at once; whichever bound is reached first ends it."""
_COLUMNS = tuple((name, kind) for name, kind in card.RECORD if name != "label")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # file names that Windows refuses


@dataclass(frozen=True)
class ExportSummary:
    """What an export did.

    Attributes:
        folder: The folder written.
        to: Its form.
        samples: Samples of each split.
        files: Files of pictures.
        bytes: Their size.
        written: Files written in this run; 0 when all were there.
        seconds: Wall-clock time of this run.
    """

    folder: str
    to: str
    samples: dict[str, int]
    files: int
    bytes: int
    written: int
    seconds: float


@dataclass(frozen=True)
class _Job:
    """One export: where from, where to, and how to show progress."""

    readers: dict[str, ShardReader]
    out: Path
    settings: dict[str, Any]
    show: Progress

    @property
    def manifest(self) -> dict[str, Any]:
        return next(iter(self.readers.values())).manifest

    @property
    def suffix(self) -> str:
        return str(self.manifest["plan"]["recipe"]["options"]["image_format"])

    @cached_property
    def source(self) -> SourceColumns | None:
        """The source's own columns, if it had any."""
        folder = next(iter(self.readers.values())).folder
        assert isinstance(folder, Path)  # what is exported is on this machine
        return read_source(folder)

    @cached_property
    def columns(self) -> Columns:
        return expanded_columns(self.manifest["classes"], self.source)


@dataclass
class _Tally:
    """What there is, and what of it was written now."""

    files: dict[str, dict[str, Any]]  # of the files that readers look up by name
    pictures: int = 0
    bytes: int = 0
    written: int = 0


def export_expanded(
    folder: str | Path,
    out: str | Path,
    to: str = "imagefolder",
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write an expanded folder in another form: the command ``gif-datasets export`` as a function.

    Args:
        folder: What ``gif-datasets expand`` or :meth:`ExpandedDataset.precompute` wrote.
        out: Output folder. Run again = resume.
        to: ``"imagefolder"``, a folder per split and class; ``"parquet"`` (needs the extra ``hf``); or ``"shards"``, an
            expanded folder without what was rejected, for readers of tars.
        shard_bytes: Parquet only: a file holds about as many samples as fit into this many bytes of shards.
        progress: Wraps the loops, for progress bars.

    Raises:
        UsageError: If ``folder`` is no finished expansion, or ``out`` holds something else.
        ShardError: If a shard is damaged.
        MissingExtra: If Parquet is asked for and ``datasets`` is not installed.

    Example:
        >>> import tempfile
        >>> from gif_datasets import expand
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = expand("demo", f"{place}/shards", ratio=1, prior="linear", limit=20)
        ...     summary = export_expanded(f"{place}/shards", f"{place}/folders")
        >>> summary.samples, summary.files
        ({'train': 40}, 40)
    """
    started = time.monotonic()
    folder, out = Path(folder), Path(out)
    if to not in FORMS:
        raise ConfigError(f"unknown form {to!r}; known: {', '.join(FORMS)}")
    if shard_bytes < 1:
        raise ConfigError(f"shard_bytes must be at least 1, got {shard_bytes}")
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise ConfigError(f"{out} is inside {folder}, whose shards it would disturb; choose another --out")
    manifest = manifests.read_manifest(folder)
    settings = {"format": EXPORT_FORMAT, "to": to, "source": manifest["source"], "manifest": manifest["digest"]}
    settings |= {"rejected": digest(sorted(found))} if (found := rejected_keys(folder, manifest)) else {}
    if to == "parquet":
        settings |= {"shard_bytes": shard_bytes, "versions": _parquet_versions()}
    show = progress or silent
    _check_shards(folder, manifest, show)
    claim(out, settings, "export")
    job = _Job({split: ShardReader(folder, split) for split in manifests.splits(manifest)}, out, settings, show)
    tally = _Tally({})
    _WRITERS[to](job, tally)
    if to != "shards":
        _finish(job, tally)
    samples = {split: len(reader) for split, reader in job.readers.items()}
    seconds = round(time.monotonic() - started, 1)
    return ExportSummary(str(out), to, samples, tally.pictures, tally.bytes, tally.written, seconds)


def _check_shards(folder: Path, manifest: dict[str, Any], show: Progress) -> None:
    """Refuse to copy what is damaged."""
    for shard in show(manifests.all_shards(manifest), "checking shards"):
        if not shards.intact(folder, shard):
            raise ShardError(
                f"{shard.name} of {folder} is missing or damaged; see gif-datasets verify {folder},"
                " and expand again to have it made anew"
            )


def _finish(job: _Job, tally: _Tally) -> None:
    """Write the card; and last, when all is on the disk, the file that says so."""
    _keep(job.out, manifests.CARD, _card(job, tally).encode("utf-8"), tally)
    if hasattr(os, "sync"):
        os.sync()
    done = atomic.json_bytes({**job.settings, "files": tally.files})
    if not (job.out / manifests.EXPORTED).is_file() or (job.out / manifests.EXPORTED).read_bytes() != done:
        atomic.write_bytes(job.out / manifests.EXPORTED, done)
    for place in {job.out, *(path.parent for path in job.out.rglob(f"{atomic.TEMPORARY}*"))}:
        atomic.sweep(place)


def _keep(out: Path, name: str, content: bytes, tally: _Tally) -> None:
    """Write a file that is listed by its digest, unless it is there."""
    path = out / name
    if not path.is_file() or path.read_bytes() != content:
        atomic.write_bytes(path, content)
        tally.written += 1
    tally.files[name] = {"bytes": len(content), "sha256": digest_file(path)}


def _row(reader: ShardReader, index: int) -> dict[str, Any]:
    """The columns of a sample but its picture."""
    record = reader.provenance(index).to_json()
    return {"label": record["label"], "key": reader.key(index), **{name: record[name] for name, _ in _COLUMNS}}


# --- a folder per class -------------------------------------------------------------------------------------------


def class_folders(classes: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each class, whose order is the order of the labels wherever folders are sorted.

    Class names are cleaned of all that a path or a file system could take amiss. Where that makes two alike, or the
    order by name is not that of the labels, each is given its label as a prefix.

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
    kept = "".join(
        c if unicodedata.category(c)[0] in "LMN" or c in " _-+.,()" else "_" for c in unicodedata.normalize("NFC", name)
    )
    short = kept.encode("utf-8")[:100].decode("utf-8", "ignore").strip(" ._") or "class"
    return f"{short}_" if _RESERVED.fullmatch(short) else short


def _natural(name: str) -> list[tuple[int, int, str]]:
    """The order of people, and of timm: numbers by their value."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _write_folders(job: _Job, tally: _Tally) -> None:
    for split, reader in job.readers.items():
        names = class_folders(reader.classes)
        for name in names:  # of a class without pictures too, so that counting folders counts labels
            (job.out / split / name).mkdir(parents=True, exist_ok=True)
        lines = []
        for index in job.show(range(len(reader)), f"exporting {split}"):
            row, content = _row(reader, index), reader.image_bytes(index)
            name = f"{names[row['label']]}/{row['key']}.{job.suffix}"
            lines.append(json.dumps({"file_name": name, **row}, ensure_ascii=True) + "\n")
            tally.written += _write_picture(job.out / split / name, content)
            tally.pictures += 1
            tally.bytes += len(content)
        _keep(job.out, f"{split}/metadata.jsonl", "".join(lines).encode("ascii"), tally)


def _write_picture(path: Path, content: bytes) -> bool:
    """Write a picture unless it is there. It is renamed into place, but flushed with all others at the end."""
    if path.is_file() and path.read_bytes() == content:
        return False
    temporary = path.with_name(f"{atomic.TEMPORARY}{path.name}-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return True


# --- Parquet ------------------------------------------------------------------------------------------------------


def _parquet_versions() -> dict[str, str]:
    try:
        import datasets
        import pyarrow
    except ImportError as error:
        raise MissingExtra("datasets", "hf") from error
    return {"datasets": datasets.__version__, "pyarrow": pyarrow.__version__}


def _write_parquet(job: _Job, tally: _Tally) -> None:
    for split, reader in job.readers.items():
        size = sum(shard.bytes for shard in manifests.manifest_shards(job.manifest, split))
        count = min(-(-size // int(job.settings["shard_bytes"])), len(reader))
        step = -(-len(reader) // count)
        group = max(1, min(GROUP_ROWS, GROUP_BYTES * len(reader) // size))
        parts = [part for run in _runs(reader) for part in _groups(run, step)]
        rows = iter(job.show(range(len(reader)), f"exporting {split}"))
        for number, part in enumerate(parts):
            name = f"data/{split}-{number:05d}-of-{len(parts):05d}.parquet"
            state = job.out / STATE / f"{Path(name).stem}.json"
            found = _finished(job, name, state)
            if found is None:
                with atomic.atomic_write(job.out / name) as file:
                    _write_part(file, job, reader, part, group)
                path = job.out / name
                found = {"rows": len(part), "bytes": path.stat().st_size, "sha256": digest_file(path)}
                found["synthetic"] = reader.is_synthetic(part[0])
                atomic.write_json(state, {"export": digest(job.settings), "file": found})
                tally.written += 1
            for _ in part:
                next(rows)
            tally.files[name] = found
            tally.pictures += 1
            tally.bytes += found["bytes"]


def _runs(reader: ShardReader) -> list[list[int]]:
    """Samples in order, real and synthetic ones apart, so that a file holds one kind and a reader can leave it out."""
    grouped = itertools.groupby(range(len(reader)), reader.is_synthetic)
    return [list(indices) for _, indices in grouped]


def _finished(job: _Job, name: str, state: Path) -> dict[str, Any] | None:
    """What is known of a file of this export that is there, byte for byte."""
    try:
        value = read_json(state.read_text(encoding="utf-8"))
        found: dict[str, Any] = value["file"]
        whole = value["export"] == digest(job.settings) and digest_file(job.out / name) == found["sha256"]
        return found if whole and {"rows", "bytes"} <= set(found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_part(file: Any, job: _Job, reader: ShardReader, part: Iterable[int], group: int) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = job.columns
    schema = kinds.features.arrow_schema
    ours = [kinds.key, *kinds.record.values()]
    with pyarrow.parquet.ParquetWriter(
        file,
        schema,
        compression={path: "none" if path.startswith(f"{kinds.image}.") else "zstd" for path in _leaves(schema)},
        use_dictionary=[name for name in ours if schema.field(name).type == pyarrow.string()],  # pictures all differ
        write_statistics=[kinds.label, *ours],
        write_page_index=True,
    ) as writer:
        for indices in _groups(part, group):
            rows = [_full_row(job, reader, index) for index in indices]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema), row_group_size=group)


def _leaves(schema: Any) -> list[str]:
    """Paths of a schema's columns as Parquet names them, nested ones with dots."""
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(schema.empty_table(), buffer)
    found = pyarrow.parquet.ParquetFile(buffer).schema
    return [found.column(i).path for i in range(len(found))]


def _full_row(job: _Job, reader: ShardReader, index: int) -> dict[str, Any]:
    """A sample with its picture, and the source's own columns of its seed."""
    key, record = reader.key(index), reader.provenance(index).to_json()
    own = job.source.rows.get(record["seed_index"], {}) if job.source else {}
    return job.columns.row({"bytes": reader.image_bytes(index), "path": f"{key}.{job.suffix}"}, key, record, own)


def _groups(part: Iterable[int], size: int) -> Iterator[list[int]]:
    indices = list(part)
    return (indices[start : start + size] for start in range(0, len(indices), size))


# --- shards -------------------------------------------------------------------------------------------------------


def _write_shards(job: _Job, tally: _Tally) -> None:
    made, tally.written = prune(job.readers, job.out, job.settings, job.show)
    tally.pictures, tally.bytes = len(made), sum(shard.bytes for shard in made)


_WRITERS = {"imagefolder": _write_folders, "parquet": _write_parquet, "shards": _write_shards}

# --- card ---------------------------------------------------------------------------------------------------------


def _card(job: _Job, tally: _Tally) -> str:
    folders = job.settings["to"] == "imagefolder"
    parts = []
    for split, reader in job.readers.items():
        path = f"{split}/**" if folders else f"data/{split}-*.parquet"
        size = sum(shard.bytes for shard in manifests.manifest_shards(job.manifest, split))
        parts.append(card.Part(split, path, len(reader), size))
    kinds = "".join(f"  - name: {name}\n    dtype: {kind}\n" for name, kind in (("key", "string"), *_COLUMNS))
    label = card.class_label(job.manifest["classes"])
    columns = f"  - name: image\n    dtype: image\n  - name: label\n{label}{kinds}"
    if not folders and job.source:
        columns = to_yaml(job.columns.features)
    load = _LOAD[job.settings["to"]].replace("SPLIT", job.manifest["split"])
    return card.render(job.manifest, card.front_matter((), parts, columns, for_builder=folders), load)


_LOAD = {
    "imagefolder": """from datasets import load_dataset
dataset = load_dataset("PATH_OR_REPO", split="SPLIT")        # columns: image, label, key, provenance

from torchvision.datasets import ImageFolder
dataset = ImageFolder("PATH/SPLIT", allow_empty=True)        # (image, label); a class may be empty
""",
    "parquet": """from datasets import load_dataset
dataset = load_dataset("PATH_OR_REPO", split="SPLIT")        # columns: image, label, key, provenance

from timm.data import create_dataset
dataset = create_dataset("hfds/PATH_OR_REPO", split="SPLIT")
""",
}
