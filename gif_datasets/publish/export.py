"""Expanded folders in other forms: a folder per class (`imagefolder`), or Parquet with Hugging Face features.

A form fixes the name and bytes of each file, as a plan does; run again = resume, or only check a complete export.
Splits are kept apart, images are the files of the shards byte for byte, and each sample keeps its provenance.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gif_datasets.errors import ConfigError, MissingExtra, ShardError, UsageError
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.publish.coco import write_coco
from gif_datasets.publish.export_job import Job, Tally, keep, parquet_versions
from gif_datasets.publish.imagefolder import COLUMNS, SOURCE, write_folders
from gif_datasets.publish.parquet import write_parquet
from gif_datasets.publish.pruned import prune
from gif_datasets.publish.yolo import write_yolo
from gif_datasets.shards import card, tar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.columns import object_features, yaml_list
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.folder import claim_folder
from gif_datasets.shards.manifest import Manifest
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import EXPORTED, Progress, no_progress

EXPORT_FORMAT = 2
FORMS = ("imagefolder", "parquet", "shards", "coco", "yolo")
OF_OBJECTS = ("coco", "yolo")
"""Forms of what is kept of objects."""
SHARD_BYTES = 100_000_000


@dataclass(frozen=True)
class ExportSummary:
    """Result of an export.

    Attributes:
        folder: The folder written.
        to: Its form.
        samples: Samples of each split.
        files: Image files.
        bytes: Their size.
        written: Files written in this run; 0 if all existed.
        seconds: Wall-clock time of this run.
    """

    folder: str
    to: str
    samples: dict[str, int]
    files: int
    bytes: int
    written: int
    seconds: float


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
        folder: Output of ``gif-datasets expand`` or :meth:`ExpandedDataset.precompute`.
        out: Output folder. Run again = resume.
        to: ``"imagefolder"``, a folder per split and class; ``"parquet"`` (needs the extra ``hf``); or ``"shards"``, an
            expanded folder without rejected samples, for readers of tars; where boxes or masks are kept, also
            ``"coco"`` or ``"yolo"``.
        shard_bytes: Parquet only: a file has about as many samples as fit into this many bytes of shards.
        progress: Wraps the loops, for progress bars.

    Raises:
        UsageError: If ``folder`` is not a finished expansion, or ``out`` contains something else.
        ShardError: If a shard is damaged.
        MissingExtra: If Parquet is requested and ``datasets`` is not installed.

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
    _check_arguments(folder, out, to, shard_bytes)
    opened, show = ExpandedFolder.open(folder), progress or no_progress
    manifest = opened.manifest
    settings = _settings(opened, to, shard_bytes)
    if to in OF_OBJECTS and manifest.plan.objects is None:
        raise UsageError(
            f"{folder} keeps no boxes, which {to} is for; expand with keep=boxes, or export to imagefolder"
        )
    _check_shards(folder, manifest, show)
    claim_folder(out, settings, "export")
    readers = {split: ShardReader(opened, split) for split in manifest.splits}
    if not len(readers[manifest.split]):
        raise UsageError(f"every sample of {folder} was rejected; nothing is left to export")
    kept = {split: reader for split, reader in readers.items() if len(reader) or to == "shards"}
    job = Job(kept, out, settings, show)
    tally = Tally()
    _WRITERS[to](job, tally)
    if to != "shards":
        _finish(job, tally)
    samples = {split: len(reader) for split, reader in job.readers.items()}
    seconds = round(time.monotonic() - started, 1)
    return ExportSummary(str(out), to, samples, tally.images, tally.bytes, tally.written, seconds)


def _check_arguments(folder: Path, out: Path, to: str, shard_bytes: int) -> None:
    if to not in FORMS:
        raise ConfigError(f"unknown form {to!r}; known: {', '.join(FORMS)}")
    if shard_bytes < 1:
        raise ConfigError(f"shard_bytes must be at least 1, got {shard_bytes}")
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise ConfigError(f"{out} is inside {folder}, whose shards it would disturb; choose another --out")


def _settings(folder: ExpandedFolder, to: str, shard_bytes: int) -> dict[str, Any]:
    """Everything that decides the bytes of an export."""
    settings = {"format": EXPORT_FORMAT, "to": to, "source": folder.manifest.source, "manifest": folder.manifest.digest}
    settings |= {"rejected": digest(sorted(found))} if (found := folder.rejected) else {}
    if to == "imagefolder":
        with contextlib.suppress(MissingExtra):  # without it, the metadata is in a format that has no class names
            settings |= {"metadata": "parquet", "versions": parquet_versions()}
    if to == "parquet":
        settings |= {"shard_bytes": shard_bytes, "versions": parquet_versions()}
    return settings


def _check_shards(folder: Path, manifest: Manifest, show: Progress) -> None:
    """Refuse to copy damaged shards."""
    for shard in show(manifest.shards, "checking shards"):
        if not tar.intact(folder, shard):
            raise ShardError(
                f"{shard.name} of {folder} is missing or damaged; see gif-datasets verify {folder},"
                " and expand again to create it again"
            )


def _finish(job: Job, tally: Tally) -> None:
    """Write the card and, when everything is on the disk, the file that marks the export as complete."""
    keep(job.out, manifests.CARD, _card(job).encode("utf-8"), tally)
    if hasattr(os, "sync"):
        os.sync()
    done = atomic.json_bytes({**job.settings, "files": tally.files})
    if not (job.out / EXPORTED).is_file() or (job.out / EXPORTED).read_bytes() != done:
        atomic.write_bytes(job.out / EXPORTED, done)
    for place in {job.out, *(path.parent for path in job.out.rglob(f"{atomic.TEMPORARY}*"))}:
        atomic.sweep(place)


def _write_shards(job: Job, tally: Tally) -> None:
    made, tally.written = prune(job.readers, job.out, job.settings, job.show)
    tally.images, tally.bytes = len(made), sum(shard.bytes for shard in made)


_WRITERS = {
    "imagefolder": write_folders,
    "parquet": write_parquet,
    "shards": _write_shards,
    "coco": write_coco,
    "yolo": write_yolo,
}


def _card(job: Job) -> str:
    folders = job.settings["to"] != "parquet"
    parts = []
    for split, reader in job.readers.items():
        path = _FILES[job.settings["to"]].format(split)
        parts.append(card.SplitFiles(split, path, len(reader), job.shard_bytes(split)))
    kinds = (("image", "image"), ("label", card.class_label(job.manifest.classes)), ("key", "string"), *COLUMNS)
    columns: list[Any] = [{"name": name, "dtype": kind} for name, kind in kinds]
    if folders and (kept := job.manifest.plan.objects):
        columns += yaml_list({job.columns.objects: object_features(kept)})
    if folders and job.plain:
        columns += yaml_list({SOURCE: job.plain})
    if not folders and (job.source or job.columns.objects):
        columns = yaml_list(job.columns.features)
    load = _LOAD[job.settings["to"]].replace("SPLIT", job.manifest.split)
    head = card.metadata((), parts, columns, for_builder=folders)
    if job.settings["to"] in OF_OBJECTS:  # which no builder of Hugging Face reads
        head = {name: value for name, value in head.items() if name not in ("configs", "dataset_info")}
    return card.render(job.manifest, head, load)


_FILES = {"imagefolder": "{}/**", "parquet": "data/{}-*.parquet", "coco": "{}/**", "yolo": "images/{}/**"}


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
    "coco": """from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
dataset = CocoDetection("PATH/SPLIT", "PATH/SPLIT/_annotations.coco.json")   # needs pycocotools
dataset = wrap_dataset_for_transforms_v2(dataset, target_keys=["boxes", "labels"])
""",
    "yolo": """# PATH/data.yaml names the images of each split and the classes
# gif-datasets reads it as yolo:PATH?split=SPLIT
""",
}
