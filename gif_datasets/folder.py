"""The state of an output folder: whose it is, which shards are done, and the last files that make it whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gif_datasets import atomic, card, images, index, preview, shards
from gif_datasets.columns import SOURCE
from gif_datasets.errors import ConfigError, PlanMismatch, ShardError
from gif_datasets.index import INDEX
from gif_datasets.reader import ShardReader
from gif_datasets.recognition import FILE
from gif_datasets.shards import Shard
from gif_datasets.types import PLAN_FILE, Seed

STATE = ".state"  # sidecars of finished shards, until the manifest lists them all


def claim(folder: Path, wanted: dict[str, Any], what: str = "expansion") -> None:
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
        if path.exists() or not atomic.create_json(path, wanted):
            found = json.loads(path.read_text(encoding="utf-8"))
            if found != json.loads(json.dumps(wanted)):
                raise PlanMismatch(
                    f"{folder} holds another {what} ({difference(found, wanted)}); choose another --out, or remove it"
                )
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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


def sidecar(folder: Path, name: str) -> Path:
    """Where it is written down that a shard is done."""
    return folder / STATE / (Path(name).stem + ".json")


def write_sidecar(folder: Path, plan_hash: str, shard_id: int, shard: Shard) -> None:
    """Write down that a shard of a plan is done."""
    state = {"plan_hash": plan_hash, "id": shard_id, "shard": shards.shard_json(shard)}
    atomic.write_json(sidecar(folder, shard.name), state)


def read_sidecar(path: Path, plan_hash: str) -> tuple[int, Shard] | None:
    """Number and entry of a shard that is done; None where there is none of this plan."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        number, shard = state["id"], Shard.from_json(state["shard"])
    except (OSError, ValueError, KeyError, TypeError, ShardError):
        return None
    return (number, shard) if state.get("plan_hash") == plan_hash and isinstance(number, int) else None


def finished(folder: Path, plan_hash: str, names: Mapping[int, str]) -> dict[int, Shard]:
    """Those shards of a plan, named by number, that are there and intact."""
    done = {}
    for shard_id, name in names.items():
        found = read_sidecar(sidecar(folder, name), plan_hash)
        if found is not None and found[0] == shard_id and found[1].name == name and shards.intact(folder, found[1]):
            done[shard_id] = found[1]
    return done


def own_files(folder: Path) -> dict[str, bytes]:
    """What the part that has the first shard wrote: the source's own columns, how well its classes are told apart."""
    return {name: (folder / name).read_bytes() for name in (SOURCE, FILE) if (folder / name).exists()}


def finish(folder: Path, plan: dict[str, Any], plan_hash: str, made: Sequence[Shard], own: Mapping[str, bytes]) -> None:
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
        "format": shards.MANIFEST_FORMAT,
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
        "shards": [shards.shard_json(shard) for shard in made],
    }
    files = {
        **shards.index_files(manifest),
        INDEX: index.to_bytes(shards.build_index(folder, made)),
        shards.CARD: card.render(manifest).encode("utf-8"),
        PLAN_FILE: atomic.json_bytes(plan),
        **own,
    }
    shards.write_files(folder, shards.sealed(manifest, files), files)
    for place in (folder, folder / "data", folder / STATE):
        atomic.sweep(place)


def draw_preview(folder: Path, picture_of: Callable[[int], Image.Image] | None = None) -> None:
    """Draw the preview of a finished folder.

    Args:
        folder: The folder.
        picture_of: Gives a seed's picture by its index; None: the folder's own, and no preview where it has none.
    """
    reader = ShardReader(folder)
    numbers, first = np.unique(reader.index.seed, return_index=True)
    labels = reader.index.label[first]
    seeds = [Seed(seed, "", label, "") for seed, label in zip(numbers.tolist(), labels.tolist(), strict=True)]

    def stored(numbers: Sequence[int]) -> tuple[Image.Image, ...]:
        return tuple(images.read_rgb(reader.image_bytes(number), reader.key(number)) for number in numbers)

    rows = []
    for seed in preview.choose_seeds(seeds, preview.ROWS):
        own = [] if picture_of else stored(reader.original_of(seed.index))
        if not picture_of and not own:
            return
        shown = picture_of(seed.index) if picture_of else own[0]
        copies = stored(reader.copies_of(seed.index)[: preview.MOST_COPIES])
        rows.append(preview.Row(reader.classes[seed.label], shown, copies))
    method = reader.manifest["plan"]["recipe"]["options"]["method"]
    preview.save_preview(rows, f"imagined copies ({method})", folder / shards.PREVIEW)
