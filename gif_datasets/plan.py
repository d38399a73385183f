"""Plan an expansion, run its shard tasks, finish the folder.

A plan fixes every sample, its shard and its bytes; a task makes one shard of it and is idempotent; who runs the tasks
(:mod:`gif_datasets.engines`) decides nothing. Run again = resume: finished shards are checked and kept.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from gif_datasets.types import PLAN_FILE, Row, Seed

PLAN_FORMAT = 2
STATE = ".state"  # sidecars of finished shards, until the manifest lists them all
SELECTION_SEEDS = 8  # whose copies are drawn in one task, where copies are chosen among those of all seeds
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
        chosen: The copies, where they are chosen among those of all seeds and have been; see :func:`select`.
    """

    source_name: str
    recipe: Recipe
    seeds: tuple[Seed, ...]
    validation: tuple[Seed, ...] = ()
    validation_name: str = ""
    chosen: tuple[Row, ...] = ()

    @cached_property
    def copies(self) -> Sequence[Row]:
        """All (seed, copy) rows that are imagined, in source order."""
        copies = range(1, self.recipe.config.ratio + 1)
        return self.chosen or tuple((seed, copy) for seed in self.seeds for copy in copies)

    @cached_property
    def shard_rows(self) -> tuple[tuple[tuple[Seed, int], ...], ...]:
        """(seed, copy) rows of every shard: originals (copy 0), then copies, then what is held out (copy 0).

        Within each, classes are mixed by key order.
        """
        config = self.recipe.config
        real = _mixed((seed, 0) for seed in self.seeds) if config.originals else []
        made, held = _mixed(self.copies), _mixed((seed, 0) for seed in self.validation)
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


def _mixed(rows: Iterable[Row]) -> list[Row]:
    """Rows in key order, which mixes the classes."""
    return sorted(rows, key=lambda row: (row[0].key, row[0].index, row[1]))


def shard_size(samples: int, block: int) -> int:
    """Samples a shard, unless told otherwise: about 64 shards, within limits, in blocks so that none is padded."""
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
    title: str = "making shards"

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


@dataclass(frozen=True)
class DrawTask:
    """Draws copies to choose from, of one block of seeds; picklable."""

    plan: Plan
    imaginer: Imaginer
    title: str = "drawing copies to choose from"

    def rows(self, block: int) -> list[Row]:
        """(seed, copy) rows of a block."""
        config = self.plan.recipe.config
        part = self.plan.seeds[block * SELECTION_SEEDS : (block + 1) * SELECTION_SEEDS]
        return [(seed, copy) for seed in part for copy in range(1, config.draws + 1)]

    def __call__(self, block: int) -> tuple[int, list[float], int]:
        """The block, the gain of each of its rows, and the number of pictures made."""
        before = self.imaginer.generated
        gains = self.imaginer.gains(self.rows(block))
        return block, gains, self.imaginer.generated - before


Engine = Callable[[Any, Sequence[int]], Any]
"""Runs ``task(id)`` for each id, in any order, and yields the results as they come."""


def select(plan: Plan, imaginer: Imaginer, engine: Engine) -> tuple[Plan, int]:
    """Choose the copies among those of all seeds: the highest gains of entropy first, of those that keep their class.

    Returns:
        The plan with ``ratio`` copies a seed on average, and the number of pictures made for it.

    Source:
        Appendix B, "sample-agnostic expansion".
    """
    task, generated, gained = DrawTask(plan, imaginer), 0, list[tuple[float, Row]]()
    for block, gains, made in engine(task, range(-(-len(plan.seeds) // SELECTION_SEEDS))):
        gained += zip(gains, task.rows(block), strict=True)
        generated += made
    best = sorted(gained, key=lambda one: (-one[0], one[1][0].key, one[1][0].index, one[1][1]))
    rows = [row for _, row in best[: len(plan.seeds) * plan.recipe.config.ratio]]
    return dataclasses.replace(plan, chosen=tuple(sorted(rows, key=lambda row: (row[0].index, row[1])))), generated


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
        if plan.recipe.config.agnostic:
            plan, generated = select(plan, imaginer, engine)
    task = ShardTask(plan, imaginer, folder)
    for shard, count in engine(task, todo):
        done[plan.shard_names.index(shard.name)] = shard
        generated += count
    own = source_columns(source, [seed.index for seed in (*plan.seeds, *plan.validation)])
    _finish(folder, plan, [done[shard_id] for shard_id in range(len(plan.shard_rows))], own)
    if todo or not (folder / shards.PREVIEW).exists():
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
    reader = ShardReader(folder)

    def copies_of(seed: Seed) -> tuple[Image.Image, ...]:
        numbers = reader.copies_of(seed.index)[: preview.MOST_COPIES]
        return tuple(images.read_rgb(reader.image_bytes(number), reader.key(number)) for number in numbers)

    rows = [
        preview.Row(plan.recipe.classes[seed.label], source.sample(seed.index)[0], copies_of(seed))
        for seed in preview.choose_seeds(plan.seeds, preview.ROWS)
    ]
    preview.save_preview(rows, f"imagined copies ({plan.recipe.config.method})", folder / shards.PREVIEW)


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
