"""Plan an expansion, run its shard tasks, finish the folder.

A plan fixes every sample, its shard and its bytes; a task makes one shard of it and is idempotent; who runs the tasks
(:mod:`gif_datasets.engines`) decides nothing. Run again = resume: finished shards are checked and kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from gif_datasets import atomic, card, images, preview, shards
from gif_datasets.cache import Cache
from gif_datasets.errors import ConfigError, PlanMismatch, ShardError
from gif_datasets.fingerprint import digest
from gif_datasets.imagine import Imaginer
from gif_datasets.reader import ShardReader
from gif_datasets.recipe import Recipe, with_population
from gif_datasets.shards import Shard
from gif_datasets.sources import SeedList, Source
from gif_datasets.types import PLAN_FILE, Seed

PLAN_FORMAT = 1
PREVIEW = "preview.png"
STATE = ".state"  # sidecars of finished shards, until the manifest lists them all
SWEEP_AFTER = 3600.0  # seconds; another process may still be writing a younger temporary file


@dataclass(frozen=True)
class Plan:
    """An expansion, fixed: which samples, in which shards, made how.

    Attributes:
        source_name: Name of the seed dataset.
        recipe: How samples are made.
        seeds: The seed samples, in source order.
    """

    source_name: str
    recipe: Recipe
    seeds: tuple[Seed, ...]

    @cached_property
    def shard_rows(self) -> tuple[tuple[tuple[Seed, int], ...], ...]:
        """(seed, copy) rows of every shard: originals (copy 0) first, then copies; classes mixed by key order."""
        config = self.recipe.config
        mixed = sorted(self.seeds, key=lambda seed: (seed.key, seed.index))
        real = [(seed, 0) for seed in mixed] if config.originals else []
        made = [(seed, copy) for seed in mixed for copy in range(1, config.ratio + 1)]
        size = config.samples_per_shard or min(max(-(-(len(real) + len(made)) // 64), 50), 1_000)
        return tuple(tuple(rows[i : i + size]) for rows in (real, made) for i in range(0, len(rows), size))

    @cached_property
    def json(self) -> dict[str, Any]:
        """All that decides the bytes of the folder."""
        config = self.recipe.config
        return {
            "format": PLAN_FORMAT,
            "source": self.source_name,
            "seeds": len(self.seeds),
            "seeds_digest": digest([[seed.key, seed.label, seed.index, seed.origin] for seed in self.seeds]),
            "split": config.split,
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
        return shards.shard_name(self.recipe.config.split, shard_id, len(self.shard_rows))


@dataclass(frozen=True)
class Summary:
    """What an expansion did.

    Attributes:
        folder: The expanded folder.
        originals: Seed samples in it.
        synthetic: Imagined samples in it.
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
        keys = [shards.sample_key(config.split, seed.index, copy) for seed, copy in rows]
        samples = list(zip(keys, made, strict=True))
        path = self.folder / self.plan.shard_name(shard_id)
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
    _claim(folder, plan)
    done = _finished(folder, plan)
    todo = [shard_id for shard_id in range(len(plan.shard_rows)) if shard_id not in done]
    generated = 0
    imaginer = imaginer or Imaginer(plan.recipe, source, cache, plan.seeds)
    if todo:
        imaginer.prepare()
    task = ShardTask(plan, imaginer, folder)
    for shard, count in engine(task, todo):
        done[_shard_id(shard)] = shard
        generated += count
    _finish(folder, plan, [done[shard_id] for shard_id in range(len(plan.shard_rows))])
    if generated or not (folder / PREVIEW).exists():
        _draw_preview(folder, plan, source)
    return summarise(folder, generated, tuple(bad), time.monotonic() - started)


def summarise(folder: Path, generated: int = 0, bad: tuple[str, ...] = (), seconds: float = 0.0) -> Summary:
    """Summarise a finished folder from its manifest."""
    manifest = shards.read_manifest(folder)
    sizes = [shard.bytes for shard in shards.manifest_shards(manifest)]
    return Summary(
        folder=str(folder),
        originals=manifest["originals"],
        synthetic=manifest["synthetic"],
        classes=len(manifest["classes"]),
        shards=len(sizes),
        bytes=sum(sizes),
        generated=generated,
        bad=bad,
        seconds=round(seconds, 1),
    )


def make_plan(source_name: str, listed: SeedList, recipe: Recipe) -> Plan:
    """Fix the plan of an expansion."""
    return Plan(source_name, with_population(recipe, listed.seeds), listed.seeds)


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
    preview.save_preview(rows, f"imagined copies ({config.method})", folder / PREVIEW)


def _claim(folder: Path, plan: Plan) -> None:
    """Make the folder this plan's, or refuse it."""
    path = folder / PLAN_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and any(entry for entry in folder.iterdir() if not entry.name.startswith(".")):
            raise PlanMismatch(f"{folder} is not empty and holds no expansion; choose another --out")
        if path.exists() or not atomic.create_json(path, plan.json):
            found = json.loads(path.read_text(encoding="utf-8"))
            if found != json.loads(json.dumps(plan.json)):
                difference = _difference(found, plan.json)
                raise PlanMismatch(
                    f"{folder} holds another expansion ({difference}); choose another --out, or remove it"
                )
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PlanMismatch(f"{path} is damaged ({error}); choose another --out, or remove it") from error


def _difference(found: Any, wanted: Any, path: str = "") -> str:
    """The first difference of two plans, as ``options.ratio: 5 there, 3 here``."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted({*found, *wanted}):
            inner = _difference(found.get(name), wanted.get(name), f"{path}.{name}" if path else name)
            if inner:
                return inner
        return ""
    if json.dumps(found) == json.dumps(wanted):
        return ""
    return f"{path.removeprefix('recipe.')}: {_brief(found)} there, {_brief(wanted)} here"


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


def _shard_id(shard: Shard) -> int:
    return int(Path(shard.name).stem.rsplit("-", 3)[1])


def _finish(folder: Path, plan: Plan, made: Sequence[Shard]) -> None:
    """Write card and indices; the manifest last, so that a folder with a manifest is whole."""
    originals = len(plan.seeds) if plan.recipe.config.originals else 0
    manifest = {
        "format": shards.MANIFEST_FORMAT,
        "source": plan.source_name,
        "split": plan.recipe.config.split,
        "classes": list(plan.recipe.classes),
        "samples": sum(shard.samples for shard in made),
        "originals": originals,
        "synthetic": len(plan.seeds) * plan.recipe.config.ratio,
        "plan": plan.json,
        "plan_hash": plan.hash,
        "shards": [shards.shard_json(shard) for shard in made],
    }
    if not shards.is_current(folder, manifest):
        shards.write_indices(folder, manifest, card.render(manifest))
    for place in (folder, folder / "data", folder / STATE):
        atomic.sweep(place, older_than=time.time() - SWEEP_AFTER)
