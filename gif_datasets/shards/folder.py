"""The state of an output folder: whose it is, which shards are done, and the last files that make it whole."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gif_datasets.errors import ConfigError, PlanMismatch, ShardError
from gif_datasets.io import atomic, images
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import AnyPath, RemotePath, file_sizes, read_all
from gif_datasets.shards import card, image_grid, index, tar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.columns import SOURCE
from gif_datasets.shards.index import INDEX, Index
from gif_datasets.shards.manifest import Shard
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import CLASSIFIER_FILE, PLAN_FILE, Sample, Seed

STATE = ".state"  # sidecars of finished shards, until the manifest lists them all
OWN = "own.json"  # which other files belong to the plan


def claim(folder: AnyPath, wanted: dict[str, Any], what: str = "expansion") -> None:
    """Make the folder this plan's by writing it there, or refuse it.

    Raises:
        PlanMismatch: If the folder holds another plan, or anything else; nothing in it is touched.
        ConfigError: If the folder cannot be written.
    """
    path = folder / PLAN_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        if foreign and not path.exists():  # in this order: another process writes the plan before anything else
            raise PlanMismatch(f"{folder} is not empty and holds no {what}; choose another --out")
        created = not path.exists() and atomic.create_json(path, wanted)
        if not created or isinstance(path, RemotePath):  # not every store can refuse the second of two at once
            found = _plan_at(path)
            if found != json.loads(json.dumps(wanted)):
                raise PlanMismatch(
                    f"{folder} holds another {what} ({difference(found, wanted)}); choose another --out, or remove it"
                )
        if manifests.is_newer(folder):
            raise PlanMismatch(f"{folder} is of a newer version; upgrade gif_datasets, or choose another --out")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error


def _plan_at(path: AnyPath) -> Any:
    content = path.read_bytes()
    try:
        return read_json(content)
    except ValueError as error:
        raise PlanMismatch(f"{path} is damaged ({error}); choose another --out, or remove it") from error


_DERIVED = ("seeds", "seeds_digest", "shards", "validation_seeds", "validation_digest", "population")
"""What differs because something else does, what says most first."""
_RANK = {name: rank for rank, name in enumerate(_DERIVED)}


def difference(found: Any, wanted: Any) -> str:
    """How two plans differ, as ``options.ratio: 5 there, 3 here``; causes before what follows from them."""
    told = sorted(_differences(found, wanted), key=lambda item: _RANK.get(item[0].rpartition(".")[2], -1))
    texts = [f"{path.removeprefix('recipe.')}: {_brief(one)} there, {_brief(other)} here" for path, one, other in told]
    more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


def _differences(found: Any, wanted: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted({*found, *wanted}):
            yield from _differences(found.get(name), wanted.get(name), f"{path}.{name}" if path else name)
    elif json.dumps(found) != json.dumps(wanted):
        yield path, found, wanted


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def sidecar(folder: AnyPath, name: str) -> AnyPath:
    """Where it is written down that a shard is done."""
    return folder / STATE / (Path(name).stem + ".json")


def write_sidecar(folder: AnyPath, plan_hash: str, shard_id: int, shard: Shard) -> None:
    """Write down that a shard of a plan is done."""
    state = {"plan_hash": plan_hash, "id": shard_id, "shard": manifests.shard_json(shard)}
    atomic.write_json(sidecar(folder, shard.name), state)


def put_shard(
    folder: AnyPath,
    name: str,
    samples: Iterable[tuple[str, Sample]],
    image_format: str,
    own: Mapping[int, bytes] | None,
) -> Shard:
    """Write a shard and check it; into a store it goes from a temporary folder, its part of the index beside it."""
    if isinstance(folder, RemotePath):
        with tempfile.TemporaryDirectory(prefix="gif_datasets-") as here:
            shard = put_shard(Path(here), name, samples, image_format, own)
            part = index.to_bytes(tar.build_index(Path(here), [shard]))
            atomic.write_bytes(folder / name, (Path(here) / name).read_bytes())
            atomic.write_bytes(_index_part(folder, shard), part)
    else:
        shard = tar.write_shard(folder / name, samples, image_format, own)
    if not tar.intact(folder, shard):
        raise ShardError(f"{folder / name} does not hold what was written; is the disk failing?")
    return shard


def _index_part(folder: AnyPath, shard: Shard) -> AnyPath:
    return folder / STATE / (Path(shard.name).stem + "." + INDEX)


def index_of(folder: AnyPath, made: Sequence[Shard]) -> Index:
    """The index of a folder: from its shards or, of a store, from the parts that were put beside them."""
    if isinstance(folder, Path):
        return tar.build_index(folder, made)
    by_name = {_index_part(folder, shard).name: shard for shard in made}
    parts = dict.fromkeys(by_name, index.joined([]))
    for name, content in read_all(folder / STATE, list(by_name)):
        parts[name] = index.from_bytes(content, folder / STATE / name)
    for name, shard in by_name.items():
        if len(parts[name]) != shard.samples:
            parts[name] = tar.build_index(folder, [shard])
    return index.joined(list(parts.values()))


def read_sidecar(content: bytes, plan_hash: str) -> tuple[int, Shard] | None:
    """Number and entry of a shard that is done; None where a sidecar is of another plan, or damaged."""
    try:
        state = read_json(content)
        number, shard = state["id"], Shard.from_json(state["shard"])
    except (ValueError, KeyError, TypeError, ShardError):
        return None
    return (number, shard) if state.get("plan_hash") == plan_hash and isinstance(number, int) else None


def finished(folder: AnyPath, plan_hash: str, names: Mapping[int, str]) -> dict[int, Shard]:
    """Those shards of a plan, named by number, that are there and intact."""
    wanted = {sidecar(folder, name).name: (shard_id, name) for shard_id, name in names.items()}
    done, there = {}, file_sizes(folder / "data") if isinstance(folder, RemotePath) else None
    for file, content in read_all(folder / STATE, list(wanted)):
        found = read_sidecar(content, plan_hash)
        if found is None or (found[0], found[1].name) != wanted[file]:
            continue
        number, shard = found
        # of a store, one listing tells what asking for each of its objects would
        if there.get(Path(shard.name).name) == shard.bytes if there is not None else tar.intact(folder, shard):
            done[number] = shard
    return done


def put_own_files(folder: AnyPath, plan_hash: str, files: Mapping[str, bytes]) -> None:
    """Write what belongs to a plan beside its shards, for whoever finishes the folder, and note down which it is."""
    if own_files(folder, plan_hash) == files:
        return
    for name, content in files.items():
        atomic.write_bytes(folder / name, content)
    atomic.write_json(folder / STATE / OWN, {"plan_hash": plan_hash, "files": manifests.file_entries(files)})


def own_files(folder: AnyPath, plan_hash: str) -> dict[str, bytes] | None:
    """What :func:`put_own_files` wrote: the source's own columns, how well its classes are told apart.

    None where nobody has, or where one of them is missing, or another.
    """
    try:
        noted = read_json((folder / STATE / OWN).read_bytes())
        entries = noted["files"] if noted["plan_hash"] == plan_hash else None
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError):
        return None
    found = dict(read_all(folder, (SOURCE, CLASSIFIER_FILE)))
    return found if manifests.file_entries(found) == entries else None


def finish(
    folder: AnyPath, plan: dict[str, Any], plan_hash: str, made: Sequence[Shard], own: Mapping[str, bytes]
) -> None:
    """Write card and indices; the manifest last, so that a folder with a manifest is whole.

    Args:
        folder: The output folder, with all shards in it.
        plan: The plan as JSON.
        plan_hash: Its digest.
        made: All shards, in the plan's order.
        own: What :func:`own_files` gives.
    """
    recipe = plan["recipe"]
    manifest = {
        "format": manifests.MANIFEST_FORMAT,
        "source": plan["source"],
        "split": plan["split"],
        "classes": recipe["classes"],
        "samples": sum(shard.samples for shard in made) - plan["validation_seeds"],
        "originals": plan["seeds"] - plan["synthetic_seeds"] if plan["originals"] else 0,
        "synthetic": plan["seeds"] * recipe["options"]["ratio"] + plan["synthetic_seeds"] * plan["originals"],
        "validation": plan["validation_seeds"],
        "failed_checks": sum(shard.failed for shard in made),
        "plan": plan,
        "plan_hash": plan_hash,
        "shards": [manifests.shard_json(shard) for shard in made],
    }
    complete(folder, manifest, made, plan, own)


def complete(
    folder: AnyPath, manifest: dict[str, Any], made: Sequence[Shard], claimed: dict[str, Any], own: Mapping[str, bytes]
) -> None:
    """Write card and indices that a manifest goes with, and the manifest last.

    Args:
        folder: The output folder, with all shards in it.
        manifest: The manifest, without the files' digests.
        made: Its shards.
        claimed: What the folder was claimed for; its :data:`~gif_datasets.types.PLAN_FILE`.
        own: More files of the set, by name.
    """
    files = {
        **manifests.index_files(manifest),
        INDEX: index.to_bytes(index_of(folder, made)),
        manifests.CARD: card.render(manifest).encode("utf-8"),
        PLAN_FILE: atomic.json_bytes(claimed),
        **own,
    }
    manifests.write_files(folder, manifests.sealed(manifest, files), files)
    for place in (folder, folder / "data", folder / STATE):
        atomic.sweep(place)


def draw_preview(folder: AnyPath, picture_of: Callable[[int], Image.Image] | None = None) -> None:
    """Draw the preview of a finished folder.

    Args:
        folder: The folder.
        picture_of: Gives a seed's picture by its index; None: the folder's own, and no preview where it has none.
    """
    reader = ShardReader(folder)
    numbers, first = np.unique(reader.index.seed, return_index=True)
    labels = reader.index.label[first]
    seeds = (Seed(seed, "", label, "") for seed, label in zip(numbers.tolist(), labels.tolist(), strict=True))

    def stored(numbers: Sequence[int]) -> tuple[Image.Image, ...]:
        return tuple(images.read_rgb(reader.image_bytes(number), reader.key(number)) for number in numbers)

    rows = []
    for seed in image_grid.choose_seeds(seeds, image_grid.ROWS):
        own = [] if picture_of else stored(reader.original_of(seed.index))
        if not picture_of and not own:
            return
        shown = picture_of(seed.index) if picture_of else own[0]
        copies = stored(reader.copies_of(seed.index)[: image_grid.MOST_COPIES])
        rows.append(image_grid.Row(reader.classes[seed.label], shown, copies))
    method = reader.manifest["plan"]["recipe"]["options"]["method"]
    image_grid.save_preview(rows, f"imagined copies ({method})", folder / manifests.PREVIEW)
