"""Plan an expansion, run its shard tasks, finish the folder.

A plan fixes every sample, its shard and its bytes; a task makes one shard of it and is idempotent; who runs the tasks
(:mod:`gif_datasets.engines`) decides nothing. Run again = resume: finished shards are checked and kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from gif_datasets import atomic, card, images, index, preview, shards
from gif_datasets.cache import Cache
from gif_datasets.errors import ConfigError, PlanMismatch, ShardError
from gif_datasets.fingerprint import digest
from gif_datasets.imagine import Imaginer
from gif_datasets.index import INDEX
from gif_datasets.reader import ShardReader
from gif_datasets.recipe import Recipe, with_population
from gif_datasets.shards import Shard
from gif_datasets.sources import SeedList, Source, source_columns
from gif_datasets.splits import VALIDATION, hold_out
from gif_datasets.types import PLAN_FILE, Seed

PLAN_FORMAT = 2
STATE = ".state"  # sidecars of finished shards, until the manifest lists them all
SWEEP_AFTER = 3600.0  # seconds; another process may still be writing a younger temporary file


@dataclass(frozen=True)
class Plan:
    """An expansion, fixed: which samples, in which shards, made how.

    Attributes:
        source_name: Name of the seed dataset.
        recipe: How samples are made.
        seeds: The seed samples that are expanded, in source order.
        validation: Those that are held out, in source order; none of their pictures is among the others'.
        validation_name: Name of the dataset that they are from, when it is another one.
    """

    source_name: str
    recipe: Recipe
    seeds: tuple[Seed, ...]
    validation: tuple[Seed, ...] = ()
    validation_name: str = ""

    @cached_property
    def shard_rows(self) -> tuple[tuple[tuple[Seed, int], ...], ...]:
        """(seed, copy) rows of every shard: originals (copy 0), then copies, then what is held out (copy 0).

        Within each, classes are mixed by key order.
        """
        config = self.recipe.config
        mixed = sorted(self.seeds, key=lambda seed: (seed.key, seed.index))
        real = [(seed, 0) for seed in mixed] if config.originals else []
        made = [(seed, copy) for seed in mixed for copy in range(1, config.ratio + 1)]
        held = [(seed, 0) for seed in sorted(self.validation, key=lambda seed: (seed.key, seed.index))]
        size, held_size = (
            config.samples_per_shard or shard_size(samples, config.decode_batch)
            for samples in (len(real) + len(made), len(held))
        )
        sized = ((real, size), (made, size), (held, held_size))
        return tuple(tuple(rows[i : i + n]) for rows, n in sized for i in range(0, len(rows), n))

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """Path of every shard below the output folder."""
        held = set(self.validation)
        kinds = [VALIDATION if rows[0][0] in held else self.recipe.config.split for rows in self.shard_rows]
        return tuple(shards.shard_name(kind, kinds[:i].count(kind), kinds.count(kind)) for i, kind in enumerate(kinds))

    @cached_property
    def json(self) -> dict[str, Any]:
        """All that decides the bytes of the folder."""
        config = self.recipe.config
        return {
            "format": PLAN_FORMAT,
            "source": self.source_name,
            "seeds": len(self.seeds),
            "seeds_digest": _seeds_digest(self.seeds),
            "split": config.split,
            "validation_share": config.validation_share,
            "validation": self.validation_name,
            "validation_seeds": len(self.validation),
            "validation_digest": _seeds_digest(self.validation),
            "originals": config.originals,
            "shards": [len(rows) for rows in self.shard_rows],
            "recipe": self.recipe.to_json(),
        }

    @property
    def hash(self) -> str:
        """Digest of :attr:`json`: two folders of the same hash have the same bytes, on one kind of device."""
        return digest(self.json)

    def shard_name(self, shard_id: int) -> str:
        """Path of a shard below the output folder."""
        return self.shard_names[shard_id]


def shard_size(samples: int, block: int) -> int:
    """Samples a shard, unless told otherwise: about 64 shards, within limits, in whole decoding blocks so that none is padded in each."""
    size = min(max(-(-samples // 64), 50), 1_000)
    return -(-size // block) * block


@dataclass(frozen=True)
class Summary:
    """What an expansion did.

    Attributes:
        folder: The expanded folder.
        originals: Seed samples in it.
        synthetic: Imagined samples in it.
        validation: Seed samples that were held out.
        classes: Number of classes.
        shards: Number of shards.
        bytes: Size of the shards.
        generated: Pictures decoded in this run; 0 when all were there.
        bad: Messages of unreadable pictures that were skipped.
        seconds: Wall-clock time of this run.
    """

    folder: str
    originals: int
    synthetic: int
    validation: int
    classes: int
    shards: int
    bytes: int
    generated: int
    bad: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class ShardTask:
    """Makes shards of one plan; picklable, holds no model until the first shard."""

    plan: Plan
    imaginer: Imaginer
    folder: Path

    def __call__(self, shard_id: int) -> tuple[Shard, int]:
        """Make one shard and its sidecar; returns it with the number of pictures decoded for it."""
        before = self.imaginer.generated
        rows, config = self.plan.shard_rows[shard_id], self.plan.recipe.config
        copies = [(seed, copy) for seed, copy in rows if copy]
        made = self.imaginer.imagine(copies) if copies else self.imaginer.originals([seed for seed, _ in rows])
        name = self.plan.shard_name(shard_id)
        keys = [shards.sample_key(shards.split_of(name), seed.index, copy) for seed, copy in rows]
        samples = list(zip(keys, made, strict=True))
        path = self.folder / name
        shard = shards.write_shard(path, samples, config.image_format)
        if not shards.intact(self.folder, shard):
            raise ShardError(f"{path} does not hold what was written; is the disk failing?")
        _write_sidecar(self.folder, self.plan, shard)
        return shard, self.imaginer.generated - before


Engine = Callable[[ShardTask, Sequence[int]], Any]
"""Runs ``task(shard_id)`` for each id, in any order, and yields the results as they come."""


def run(
    plan: Plan,
    source: Source,
    cache: Cache,
    folder: Path,
    engine: Engine,
    bad: Sequence[str] = (),
    imaginer: Imaginer | None = None,
) -> Summary:
    """Make what is missing of ``plan`` in ``folder``.

    Raises:
        PlanMismatch: If the folder holds another plan; nothing in it is touched.
        ConfigError: If the folder cannot be written.
    """
    started = time.monotonic()
    claim(folder, plan.json)
    done = _finished(folder, plan)
    todo = [shard_id for shard_id in range(len(plan.shard_rows)) if shard_id not in done]
    generated = 0
    imaginer = imaginer or Imaginer(plan.recipe, source, cache, plan.seeds)
    if todo:
        imaginer.prepare()
    task = ShardTask(plan, imaginer, folder)
    for shard, count in engine(task, todo):
        done[plan.shard_names.index(shard.name)] = shard
        generated += count
    own = source_columns(source, [seed.index for seed in (*plan.seeds, *plan.validation)])
    _finish(folder, plan, [done[shard_id] for shard_id in range(len(plan.shard_rows))], own)
    if generated or not (folder / shards.PREVIEW).exists():
        _draw_preview(folder, plan, source)
    return summarise(folder, generated, tuple(bad), time.monotonic() - started)


def summarise(folder: Path, generated: int = 0, bad: tuple[str, ...] = (), seconds: float = 0.0) -> Summary:
    """Summarise a finished folder from its manifest."""
    manifest = shards.read_manifest(folder)
    sizes = [shard.bytes for shard in shards.all_shards(manifest)]
    return Summary(
        folder=str(folder),
        originals=manifest["originals"],
        synthetic=manifest["synthetic"],
        validation=manifest["validation"],
        classes=len(manifest["classes"]),
        shards=len(sizes),
        bytes=sum(sizes),
        generated=generated,
        bad=bad,
        seconds=round(seconds, 1),
    )


def make_plan(
    source_name: str, listed: SeedList, recipe: Recipe, validation: Sequence[Seed] = (), validation_name: str = ""
) -> Plan:
    """Fix the plan of an expansion.

    Args:
        source_name: Name of the seed dataset.
        listed: Its seeds.
        recipe: How samples are made.
        validation: Seeds to hold out that are not among ``listed``; without them, ``validation_share`` of ``listed``.
        validation_name: Name of the dataset that ``validation`` is from.

    Raises:
        ConfigError: If both say what to hold out.
    """
    config = recipe.config
    if validation_name and (config.validation_share or config.split == VALIDATION):
        raise ConfigError(
            f"a validation set of its own ({validation_name}) leaves nothing for validation_share, got"
            f" {config.validation_share}, or for split={VALIDATION!r}; take them away"
        )
    seeds, held = hold_out(listed.seeds, config.validation_share, config.rng_seed)
    return Plan(source_name, with_population(recipe, seeds), seeds, tuple(validation) or held, validation_name)


def _seeds_digest(seeds: Sequence[Seed]) -> str:
    return shards.seeds_digest([seed.key, seed.label, seed.index, seed.origin] for seed in seeds)


def _draw_preview(folder: Path, plan: Plan, source: Source) -> None:
    config, reader = plan.recipe.config, ShardReader(folder)

    def copy_of(seed: Seed, copy: int) -> Image.Image:
        key = shards.sample_key(config.split, seed.index, copy)
        return images.read_rgb(reader.image_bytes(reader.index_of(key)), key)

    rows = [
        preview.Row(
            plan.recipe.classes[seed.label],
            source.sample(seed.index)[0],
            tuple(copy_of(seed, copy) for copy in range(1, min(config.ratio, preview.MOST_COPIES) + 1)),
        )
        for seed in preview.choose_seeds(plan.seeds, preview.ROWS)
    ]
    preview.save_preview(rows, f"imagined copies ({config.method})", folder / shards.PREVIEW)


def claim(folder: Path, wanted: dict[str, Any], what: str = "expansion") -> None:
    """Make the folder this plan's by writing it there, or refuse it.

    Raises:
        PlanMismatch: If the folder holds another plan, or anything else; nothing in it is touched.
        ConfigError: If the folder cannot be written.
    """
    path = folder / PLAN_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and any(entry for entry in folder.iterdir() if not entry.name.startswith(".")):
            raise PlanMismatch(f"{folder} is not empty and holds no {what}; choose another --out")
        if path.exists() or not atomic.create_json(path, wanted):
            found = json.loads(path.read_text(encoding="utf-8"))
            if found != json.loads(json.dumps(wanted)):
                difference = _difference(found, wanted)
                raise PlanMismatch(f"{folder} holds another {what} ({difference}); choose another --out, or remove it")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PlanMismatch(f"{path} is damaged ({error}); choose another --out, or remove it") from error


_DERIVED = ("seeds", "seeds_digest", "shards", "validation_seeds", "validation_digest", "population")
"""What differs because something else does."""


def _difference(found: Any, wanted: Any) -> str:
    """How two plans differ, as ``options.ratio: 5 there, 3 here``; causes before what follows from them."""
    told = sorted(_differences(found, wanted), key=lambda item: item[0].rpartition(".")[2] in _DERIVED)
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


def _sidecar(folder: Path, name: str) -> Path:
    return folder / STATE / (Path(name).stem + ".json")


def _write_sidecar(folder: Path, plan: Plan, shard: Shard) -> None:
    atomic.write_json(_sidecar(folder, shard.name), {"plan_hash": plan.hash, "shard": shards.shard_json(shard)})


def _finished(folder: Path, plan: Plan) -> dict[int, Shard]:
    """Shards of this plan that are there and intact, by id."""
    done = {}
    for shard_id in range(len(plan.shard_rows)):
        try:
            state = json.loads(_sidecar(folder, plan.shard_name(shard_id)).read_text(encoding="utf-8"))
            shard = Shard.from_json(state["shard"])
        except (OSError, ValueError, KeyError, TypeError, ShardError):
            continue
        if state.get("plan_hash") == plan.hash and shards.intact(folder, shard):
            done[shard_id] = shard
    return done


def _finish(folder: Path, plan: Plan, made: Sequence[Shard], own: dict[str, bytes]) -> None:
    """Write card and indices; the manifest last, so that a folder with a manifest is whole."""
    originals = len(plan.seeds) if plan.recipe.config.originals else 0
    manifest = {
        "format": shards.MANIFEST_FORMAT,
        "source": plan.source_name,
        "split": plan.recipe.config.split,
        "classes": list(plan.recipe.classes),
        "samples": sum(shard.samples for shard in made) - len(plan.validation),
        "originals": originals,
        "synthetic": len(plan.seeds) * plan.recipe.config.ratio,
        "validation": len(plan.validation),
        "plan": plan.json,
        "plan_hash": plan.hash,
        "shards": [shards.shard_json(shard) for shard in made],
    }
    files = {
        **shards.index_files(manifest),
        INDEX: index.to_bytes(shards.build_index(folder, made)),
        shards.CARD: card.render(manifest).encode("utf-8"),
        PLAN_FILE: atomic.json_bytes(plan.json),
        **own,
    }
    shards.write_files(folder, shards.sealed(manifest, files), files)
    for place in (folder, folder / "data", folder / STATE):
        atomic.sweep(place, older_than=time.time() - SWEEP_AFTER)
