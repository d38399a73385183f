"""The state of an output folder: its plan, the shards that are done, and the last files that complete it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gif_datasets.errors import ConfigError, DiskFull, PlanMismatch, ShardError
from gif_datasets.io import atomic, decode
from gif_datasets.io.parsing import read_json
from gif_datasets.io.room import naming_full_disk
from gif_datasets.io.stores import AnyPath, RemotePath, file_sizes, read_all
from gif_datasets.io.temporary import TemporaryFolder
from gif_datasets.io.threads import ordered_map
from gif_datasets.shards import card, image_grid, image_sizes, index, switch, tar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.changes import first_change
from gif_datasets.shards.columns import SOURCE
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.index import INDEX, Index
from gif_datasets.shards.manifest import COPIES, Manifest, Shard
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import CLASSIFIER_FILE, PLAN_FILE, Sample, Seed

STATE = ".state"  # sidecars of finished shards, until the manifest lists them all
OWN_FILES = "own.json"  # names and digests of the plan's other files


def claim_folder(folder: AnyPath, wanted: dict[str, Any], what: str = "expansion", seeds: Iterable[Seed] = ()) -> None:
    """Write the plan into the folder, so that no other plan can use it.

    Args:
        folder: The output folder.
        wanted: The plan as JSON.
        what: What it is a plan of, for errors.
        seeds: What is expanded and what is held out, in the source's order, to name the first one that has changed.

    Raises:
        PlanMismatch: If the folder contains another plan, or anything else; nothing in it is changed.
        ConfigError: If the folder cannot be written.
    """
    path = folder / PLAN_FILE
    atomic.check_links(folder)
    if isinstance(folder, Path):
        switch.settle(folder)
    try:
        with naming_full_disk(Path(str(folder))):
            folder.mkdir(parents=True, exist_ok=True)
        foreign = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        if foreign and not path.exists():  # in this order: another process writes the plan before anything else
            raise PlanMismatch(f"{folder} is not empty and holds no {what}; choose another --out")
        if not path.exists():
            atomic.create_json(path, wanted)
        existing = _plan_at(path)  # not every disk or store can refuse the second of two at once
        if existing != json.loads(json.dumps(wanted)):
            if isinstance(existing, dict) and manifests.GENERATIONS in existing:
                raise PlanMismatch(
                    f"{folder} has {len(existing[manifests.GENERATIONS])} generations, and is no longer what one"
                    f" {what} makes; add --update to bring it up to date, or choose another --out"
                )
            raise PlanMismatch(
                f"{folder} holds another {what} ({difference(existing, wanted, folder, seeds)});"
                " choose another --out, or remove it"
            )
        if manifests.is_newer(folder):
            raise PlanMismatch(
                f"{folder} was written by a newer version; upgrade gif_datasets, or choose another --out"
            )
    except DiskFull:
        raise
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error


def begun_plan(folder: AnyPath) -> dict[str, Any] | None:
    """The plan that a folder was claimed for; None before that, and where it cannot be read."""
    with contextlib.suppress(OSError, PlanMismatch):
        found = _plan_at(folder / PLAN_FILE)
        return found if isinstance(found, dict) else None
    return None


def _plan_at(path: AnyPath) -> Any:
    content = path.read_bytes()
    try:
        return read_json(content)
    except ValueError as error:
        raise PlanMismatch(f"{path} is damaged ({error}); choose another --out, or remove it") from error


_IMAGES = {
    "seeds_digest": "the source's images",
    "validation_digest": "the validation set's images",
    "test_digest": "the test set's images",
    "own_columns.digest": "the source's own columns",
}
"""What has changed if a digest differs and no option does."""
_DERIVED = ("seeds", "synthetic_seeds", "shards", "validation_seeds", "synthetic_validation", "test_pictures")
"""Fields that differ because another field differs, the most informative first."""
_RANK = {name: rank for rank, name in enumerate(_DERIVED)}
_DIGESTS = {*_IMAGES, "recipe.population"}


def difference(existing: Any, wanted: Any, folder: AnyPath | None = None, seeds: Iterable[Seed] = ()) -> str:
    """How two plans differ, as ``options.ratio: 5 there, 3 here``; causes before their consequences.

    Args:
        existing: The one plan.
        wanted: The other.
        folder: What the one plan has made so far, if it is known.
        seeds: The other's seeds, to name the first one that has changed.
    """
    fields = {path: (one, two) for path, one, two in _differences(existing, wanted)}
    shown = sorted(fields.keys() - _DIGESTS, key=lambda path: (_RANK.get(path, -1), path))
    texts = [
        f"{path.removeprefix('recipe.')}: {_brief(fields[path][0])} there, {_brief(fields[path][1])} here"
        for path in shown
    ]
    asked = fields.keys() - _RANK.keys() - _DIGESTS - {"recipe.classes"}
    if not asked and (changed := [what for path, what in _IMAGES.items() if path in fields]):
        first = first_change(folder, seeds, _seeds_in(existing)) if folder is not None else ""
        texts.insert(0, f"{changed[0]} changed" + (f": {first}" if first else ""))
    more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


def _seeds_in(plan: dict[str, Any]) -> int:
    """Number of seeds of a plan, as far as it says."""
    counts = (plan.get(name) for name in ("seeds", "validation_seeds"))
    return sum(count for count in counts if isinstance(count, int))


def _differences(existing: Any, wanted: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(existing, dict) and isinstance(wanted, dict):
        for name in sorted({*existing, *wanted}):
            yield from _differences(existing.get(name), wanted.get(name), f"{path}.{name}" if path else name)
    elif json.dumps(existing, sort_keys=True) != json.dumps(wanted, sort_keys=True):
        yield path, existing, wanted


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def sidecar(folder: AnyPath, name: str) -> AnyPath:
    """Path of the file that records that a shard is done."""
    return folder / STATE / (Path(name).stem + ".json")


def write_sidecar(folder: AnyPath, plan_hash: str, shard_id: int, shard: Shard) -> None:
    """Record that a shard of a plan is done."""
    state = {"plan_hash": plan_hash, "id": shard_id, "shard": manifests.shard_json(shard)}
    atomic.write_json(sidecar(folder, shard.name), state)


def put_shard(
    folder: AnyPath,
    name: str,
    samples: Iterable[tuple[str, Sample]],
    image_format: str,
    own: Mapping[int, bytes] | None,
) -> Shard:
    """Write a shard and check it. A store gets it from a temporary folder, with its part of the index beside it."""
    if isinstance(folder, RemotePath):
        with TemporaryFolder() as here:
            shard = put_shard(Path(here), name, samples, image_format, own)
            part = index.to_bytes(tar.build_index(Path(here), [shard]))
            atomic.write_bytes(folder / name, (Path(here) / name).read_bytes())
            atomic.write_bytes(_index_part(folder, shard), part)
    else:
        shard = tar.write_shard(folder / name, samples, image_format, own)
    if not tar.intact(folder, shard):
        raise ShardError(f"{folder / name} does not contain what was written; is the disk failing?")
    return shard


def _index_part(folder: AnyPath, shard: Shard) -> AnyPath:
    return folder / STATE / (Path(shard.name).stem + "." + INDEX)


def index_of(folder: AnyPath, shards: Sequence[Shard]) -> Index:
    """The index of a folder: from its shards or, in a store, from the parts that were written beside them."""
    if isinstance(folder, Path):
        return tar.build_index(folder, shards)
    by_name = {_index_part(folder, shard).name: shard for shard in shards}
    parts = dict.fromkeys(by_name, index.joined([]))
    for name, content in read_all(folder / STATE, list(by_name)):
        parts[name] = index.from_bytes(content, folder / STATE / name)
    for name, shard in by_name.items():
        if len(parts[name]) != shard.samples:
            parts[name] = tar.build_index(folder, [shard])
    return index.joined(list(parts.values()))


def read_sidecar(content: bytes, plan_hash: str) -> tuple[int, Shard] | None:
    """Number and entry of a shard that is done; None if a sidecar belongs to another plan, or is damaged."""
    try:
        state = read_json(content)
        number, shard = state["id"], Shard.from_json(state["shard"])
    except (ValueError, KeyError, TypeError, ShardError):
        return None
    return (number, shard) if state.get("plan_hash") == plan_hash and isinstance(number, int) else None


def finished(folder: AnyPath, plan_hash: str, names: Mapping[int, str]) -> dict[int, Shard]:
    """The shards of a plan, by number, that exist and are intact."""
    wanted = {sidecar(folder, name).name: (shard_id, name) for shard_id, name in names.items()}
    done, stored_sizes = {}, file_sizes(folder / "data") if isinstance(folder, RemotePath) else None
    for file, content in read_all(folder / STATE, list(wanted)):
        entry = read_sidecar(content, plan_hash)
        if entry is None or (entry[0], entry[1].name) != wanted[file]:
            continue
        number, shard = entry
        if stored_sizes is None:
            whole = tar.intact(folder, shard)
        else:  # in a store, one listing replaces a request for each shard
            whole = stored_sizes.get(Path(shard.name).name) == shard.bytes
        if whole:
            done[number] = shard
    return done


def put_own_files(folder: AnyPath, plan_hash: str, files: Mapping[str, bytes]) -> None:
    """Write a plan's files other than shards, for the process that finishes the folder, and record their digests."""
    if own_files(folder, plan_hash) == files:
        return
    for name, content in files.items():
        atomic.write_bytes(folder / name, content)
    atomic.write_json(folder / STATE / OWN_FILES, {"plan_hash": plan_hash, "files": manifests.file_entries(files)})


def own_files(folder: AnyPath, plan_hash: str) -> dict[str, bytes] | None:
    """The files that :func:`put_own_files` wrote: the source's own columns, and how well its classes are recognised.

    None if they were not written yet, or if one of them is missing or differs.
    """
    try:
        record = read_json((folder / STATE / OWN_FILES).read_bytes())
        entries = record["files"] if record["plan_hash"] == plan_hash else None
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError):
        return None
    files = dict(read_all(folder, (SOURCE, CLASSIFIER_FILE)))
    return files if manifests.file_entries(files) == entries else None


def finish(
    folder: AnyPath,
    plan: dict[str, Any],
    plan_hash: str,
    shards: Sequence[Shard],
    own: Mapping[str, bytes],
    beside: Callable[[ExpandedFolder], None] | None = None,
) -> ExpandedFolder:
    """Write card and indices, and the manifest last, so that a folder with a manifest is complete.

    Args:
        folder: The output folder, with all shards in it.
        plan: The plan as JSON.
        plan_hash: Its digest.
        shards: All shards, in the plan's order.
        own: The result of :func:`own_files`.
        beside: As :func:`complete`.

    Returns:
        The finished folder.
    """
    recipe = plan["recipe"]
    content = {
        "format": manifests.MANIFEST_FORMAT,
        "source": plan["source"],
        "split": plan["split"],
        "classes": recipe["classes"],
        "samples": sum(shard.samples for shard in shards) - plan["validation_seeds"],
        "originals": plan["seeds"] - plan["synthetic_seeds"] if plan["originals"] else 0,
        "synthetic": _copies(plan) + plan["synthetic_seeds"] * plan["originals"],
        "validation": plan["validation_seeds"],
        "failed_checks": sum(shard.failed for shard in shards),
        "plan": plan,
        "plan_hash": plan_hash,
        "shards": [manifests.shard_json(shard) for shard in shards],
    }
    return complete(folder, content, plan, own, beside=beside)


def _copies(plan: Mapping[str, Any]) -> int:
    """All copies that a plan asks for."""
    return int(plan[COPIES] if COPIES in plan else plan["seeds"] * plan["recipe"]["options"]["ratio"])


def complete(
    folder: AnyPath,
    content: Mapping[str, Any],
    claimed: dict[str, Any],
    own: Mapping[str, bytes],
    entries: Index | None = None,
    beside: Callable[[ExpandedFolder], None] | None = None,
) -> ExpandedFolder:
    """Write the card and indices of a manifest, and the manifest last.

    Args:
        folder: The output folder, with all shards in it.
        content: The manifest as JSON, without the files' digests.
        claimed: The plan that the folder was claimed for; its :data:`~gif_datasets.types.PLAN_FILE`.
        own: More files of the dataset, by name.
        entries: The index of the shards, if it is known.
        beside: Writes what the manifest does not list; it gets the folder as it will be, before the manifest is there.

    Returns:
        The finished folder.
    """
    shards = [Shard.from_json(entry) for entry in content["shards"]]
    entries = index_of(folder, shards) if entries is None else entries
    content = {**content, manifests.IMAGE_SIZES: image_sizes.measure(folder, shards, entries)}
    draft = Manifest.from_json(manifests.sealed(content, {}))
    files = {
        **manifests.index_files(draft),
        INDEX: index.to_bytes(entries),
        manifests.CARD: card.render(draft).encode("utf-8"),
        PLAN_FILE: atomic.json_bytes(claimed),
        **own,
    }
    manifest = Manifest.from_json(manifests.sealed(content, files))
    manifests.write_files(folder, files)
    if beside is not None:
        beside(ExpandedFolder(folder, manifest))
    manifests.write_manifest(folder, manifest)
    for directory in (folder, folder / "data", folder / STATE):
        atomic.sweep(directory)
    return ExpandedFolder(folder, manifest)


def draw_preview(folder: AnyPath | ExpandedFolder, image_of: Callable[[int], Image.Image] | None = None) -> None:
    """Draw the preview of a finished folder.

    Args:
        folder: The folder.
        image_of: Returns a seed's image by its index. None reads it from the folder; without seeds in the folder, no
            preview is drawn.
    """
    reader = ShardReader(folder)
    numbers, first = np.unique(reader.index.seed, return_index=True)
    labels = reader.index.label[first]
    seeds = (Seed(seed, "", label, "") for seed, label in zip(numbers.tolist(), labels.tolist(), strict=True))

    def stored(numbers: Sequence[int]) -> tuple[Image.Image, ...]:
        files = ((reader.image_bytes(number), reader.key(number)) for number in numbers)
        return tuple(ordered_map(lambda file: decode.picture(*file), files))

    rows = []
    for seed in image_grid.choose_seeds(seeds, image_grid.ROWS):
        originals = () if image_of else stored(reader.original_of(seed.index))
        if not image_of and not originals:
            return
        shown = image_of(seed.index) if image_of else originals[0]
        copies = stored(reader.copies_of(seed.index)[: image_grid.MOST_COPIES])
        rows.append(image_grid.Row(reader.classes[seed.label], shown, copies))
    title = f"imagined copies ({reader.manifest.plan.recipe.method})"
    image_grid.save_preview(rows, title, reader.folder / manifests.PREVIEW)
