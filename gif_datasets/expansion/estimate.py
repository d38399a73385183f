"""`gif-datasets plan`: samples, time, disk, memory and cost of an expansion, from a short probe of the real work.

The probe makes a few blocks of the very samples that the run will make, with the real prior, in as many processes at
once as the run will use, so that what they take from each other is measured too. What it makes is thrown away.
"""

from __future__ import annotations

import dataclasses
import heapq
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.chunks import blocks, evenly
from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError
from gif_datasets.expansion import trial
from gif_datasets.expansion.engines.local import default_workers, pool, refuse_unsendable, visible_gpus
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.open import Opened, open_expansion
from gif_datasets.expansion.plan import Plan
from gif_datasets.expansion.recipe import MOST_FITTED
from gif_datasets.expansion.sizes import mean_size, shard_bytes
from gif_datasets.io.cache.store import Cache, open_cache
from gif_datasets.io.temporary import TemporaryFolder
from gif_datasets.methods import METHODS
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import Source
from gif_datasets.sources.seed_table import SeedTable
from gif_datasets.types import Progress, Row, Sample, Seed, no_progress, silently

PROBE_SECONDS = 10.0
"""Of samples, after a first block that warms up; at least one block more, however long it takes."""
MOST_MACHINES = 16


@dataclass(frozen=True)
class Probe:
    """What one worker measured.

    Attributes:
        start: Seconds until a new process has loaded the prior.
        fit: Seconds a seed to prepare what all samples depend on; 0 where there is nothing.
        original: Seconds a seed sample.
        copy: Seconds a copy, guidance and checks included.
        original_bytes: In a shard.
        copy_bytes: In a shard.
        memory: Most that the process used, bytes.
        device_memory: Most that it used on the accelerator, bytes; 0 on a CPU.
        probed: Copies that were made.
    """

    start: float
    fit: float
    original: float
    copy: float
    original_bytes: float
    copy_bytes: float
    memory: int
    device_memory: int
    probed: int


@dataclass(frozen=True)
class Machines:
    """So many machines like this one, with so many workers (GPUs, or processes on CPUs) in all: hours, and price."""

    machines: int
    workers: int
    hours: float
    price: float | None


@dataclass(frozen=True)
class Estimate:
    """What an expansion will take.

    Attributes:
        source: Name of the seed dataset.
        originals: Seed samples that will be stored.
        synthetic: Copies.
        validation: Seeds that are held out.
        shards: Files.
        bytes: Of the shards; the cache takes about as much again for the copies.
        device: Kind of device.
        workers: Processes on one machine.
        seconds: Of one machine, empty cache.
        stages: Seconds of each part of it: reading, preparing, starting, originals, copies, and what workers that are
            done wait for the others.
        bottleneck: The longest of them.
        memory: Of all workers together, bytes.
        device_memory: Of one worker on an accelerator, bytes.
        machines: The same for 1, 2, 4, ... machines like this one.
        probe: What was measured.
    """

    source: str
    originals: int
    synthetic: int
    validation: int
    shards: int
    bytes: int
    device: str
    workers: int
    seconds: float
    stages: dict[str, float]
    bottleneck: str
    memory: int
    device_memory: int
    machines: tuple[Machines, ...]
    probe: Probe

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What an estimate is asked for.

    Attributes:
        workers: Processes; None: as many as ``gif-datasets expand`` starts. The calling script needs the usual
            ``if __name__ == "__main__":``.
        limit: Use this many seeds, spread evenly.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        price: Of one such machine, an hour.
        config: All options; None: the defaults or, of an update, those of the folder.
        cache_dir: Where imagined samples are kept: a few copies are looked at.
        progress: Wraps the loop over seeds.

    Raises:
        ConfigError: If a number is out of range.
    """

    workers: int | None = None
    limit: int | None = None
    device: str = "auto"
    price: float | None = None
    config: ExpansionConfig | None = None
    cache_dir: str | Path | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise ConfigError(f"a price must be a number from 0, got {self.price}")

    def open(self, source: Any, say: Callable[[str], None] = silently, adds: bool = False) -> tuple[Opened, float]:
        """Open a source's text or a dataset object; returns it with the seconds that this took."""
        seed_dataset, started = wrap_source(source), time.monotonic()
        opened = open_expansion(
            seed_dataset,
            self.config or ExpansionConfig(),
            limit=self.limit,
            device=self.device,
            cache_dir=self.cache_dir,
            show=self.progress or no_progress,
            say=say,
            adds=adds,
        )
        return opened, time.monotonic() - started

    def measure(self, plan: Plan, source: Source, reading: float) -> Estimate:
        """Measure what a plan will take, whose seeds took some seconds to read."""
        count = min(self.workers or default_workers(plan.recipe.device), len(plan.shard_names))
        return _predict(plan, _probes(plan, source, count), reading, count, self.price)


def estimate(source: Any, *, say: Callable[[str], None] = silently, **asked: Any) -> Estimate:
    """Measure what ``expand`` would take, without making it: the command ``gif-datasets plan`` as a function.

    Args:
        source: A source's text, or a dataset object.
        say: Called with one line if a few copies do not look like their class.
        asked: Fields of :class:`Asked`.

    Raises:
        ConfigError: If a number is out of range.
        SourceError: If the source cannot be read.
    """
    wanted = Asked(**asked)
    opened, reading = wanted.open(source, say)
    plan = opened.plan
    if say is not silently:
        imaginer = Imaginer(plan.recipe, opened.source, open_cache(wanted.cache_dir), plan.seeds)
        if warning := trial.warning(trial.look(imaginer, plan.expanded), plan.recipe):
            say(warning)
    return wanted.measure(plan, opened.source, reading)


def _predict(plan: Plan, probes: Sequence[Probe], reading: float, workers: int, price: float | None) -> Estimate:
    probe = Probe(**{f.name: statistics.median(getattr(p, f.name) for p in probes) for f in dataclasses.fields(Probe)})
    config, seeds = plan.recipe.config, len(plan.seeds)
    originals = seeds if config.originals else 0
    fitted = min(seeds, MOST_FITTED) if config.fits_classifier else 0
    alone_in_process = workers == 1
    told_apart = METHODS[config.method].guided or config.judges_class  # by a prior that the first process loads too
    stages = {
        "reading seeds": reading,
        "preparing the classifier": probe.fit * fitted
        + (probe.start if (fitted or told_apart) and not alone_in_process else 0.0),
        "starting workers": probe.start,
    }
    alone = sum(stages.values())
    spent = _shard_seconds(plan, probe)
    stages["seed samples"] = probe.original * (originals + len(plan.validation)) / workers
    stages["copies"] = sum(spent) / workers - stages["seed samples"]
    stages["waiting for the last shards"] = max(0.0, _makespan(spent, workers) - sum(spent) / workers)
    return Estimate(
        source=plan.source_name,
        originals=originals,
        synthetic=int(plan.copies.sum()),
        validation=len(plan.validation),
        shards=len(plan.shard_names),
        bytes=shard_bytes(plan, probe.original_bytes, probe.copy_bytes),
        device=plan.recipe.device,
        workers=workers,
        seconds=sum(stages.values()),
        stages=stages,
        bottleneck=max(stages, key=lambda name: stages[name]),
        memory=round(probe.memory * workers),
        device_memory=round(probe.device_memory),
        machines=_machines(alone, spent, workers, price),
        probe=probe,
    )


def _machines(alone: float, spent: Sequence[float], workers: int, price: float | None) -> tuple[Machines, ...]:
    """What more machines take: each as long as one before the shards are made, which they share."""
    found, number = list[Machines](), 1
    while number <= MOST_MACHINES:
        hours = (alone + _makespan(spent, workers * number)) / 3600
        found.append(Machines(number, workers * number, hours, None if price is None else hours * price * number))
        number *= 2
    return tuple(found)


def _shard_seconds(plan: Plan, probe: Probe) -> list[float]:
    """What each shard takes one worker; blocks that are not full take as long."""
    config, spent = plan.recipe.config, list[float]()
    drawn = probe.copy * config.draws_a_copy
    for section in plan.sections:
        for count in section.sizes:
            blocks = -(-count // config.decode_batch)
            spent.append(drawn * blocks * config.decode_batch if section.imagined else probe.original * count)
    return spent


def _makespan(spent: Sequence[float], workers: int) -> float:
    """Seconds until all shards are done; each worker takes the next one when it is free."""
    free = [0.0] * workers
    for seconds in spent:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


# --- the probe ----------------------------------------------------------------------------------------------------


def _probes(plan: Plan, source: Source, workers: int) -> list[Probe]:
    """One probe a worker, all at once."""
    refuse_unsendable((plan, source), workers)
    advice = f"plan for fewer than --workers {workers}, or for a smaller prior"
    with (
        TemporaryFolder() as folder,
        pool(workers, visible_gpus(plan.recipe.device), advice) as executor,
    ):
        begun = time.time()
        jobs = [
            executor.submit(_probe, plan, source, Path(folder) / str(number), number, workers, begun)
            for number in range(workers)
        ]
        return [job.result() for job in jobs]


def _probe(plan: Plan, source: Source, cache: Path, number: int, workers: int, begun: float) -> Probe:
    """Measure in this process, on its own part of the plan's copies, spread over all of them."""
    recipe = plan.recipe
    expanded = plan.expanded
    seeds = expanded[number::workers] or expanded
    block = recipe.config.encode_batch
    order = _spread(seeds, 2 * block)
    few, more = order[:block], order[block:] or order
    imaginer = Imaginer(recipe, source, Cache(cache), few, original_files=plan.original_files)
    imaginer.prepare()
    imaginer.originals(few)  # loads the prior where nothing was prepared
    start = time.time() - begun
    (real, known), (_, new) = (_timed_originals(imaginer, part) for part in (few, more))
    fit = max(0.0, new - known) if recipe.config.fits_classifier else 0.0
    made, spent = _timed_copies(plan, imaginer, seeds)
    return Probe(
        start=start - fit * len(few),
        fit=fit,
        original=known if recipe.config.fits_classifier else new,
        copy=spent / len(made),
        original_bytes=mean_size(real),
        copy_bytes=mean_size(made),
        memory=_memory_used(),
        device_memory=_device_memory_used(recipe.device),
        probed=len(made),
    )


def _timed_originals(imaginer: Imaginer, seeds: Sequence[Seed]) -> tuple[list[Sample], float]:
    """Seed samples, and seconds each; of seeds that were not seen before these include their embedding."""
    started = time.perf_counter()
    made = imaginer.originals(seeds)
    return made, (time.perf_counter() - started) / len(seeds)


def _timed_copies(plan: Plan, imaginer: Imaginer, seeds: SeedTable) -> tuple[list[Sample], float]:
    """Copies of whole blocks of seeds, and the seconds that they took; the first block only warms up."""
    config = plan.recipe.config
    copies = {seed.index: plan.recipe.of(seed).config.copies for seed in seeds} if config.uneven else {}
    least = min(copies.values(), default=0) or config.copies
    block = max(config.encode_batch, -(-config.decode_batch // least))
    order = _spread(seeds, len(seeds))
    parts = blocks(order, block)
    full = [part for part in parts if len(part) == block] or parts
    made: list[Sample] = []
    spent = 0.0
    for turn, part in enumerate(full if len(full) > 1 else full * 2):
        again = turn if len(full) == 1 else 0  # of a single block further copies are made
        rows: list[Row] = []
        for seed in part:
            each = copies.get(seed.index) or config.copies
            rows += [(seed, again * each + copy) for copy in range(1, each + 1)]
        started = time.perf_counter()
        found = imaginer.imagine(rows)
        if turn:
            made += found
            spent += time.perf_counter() - started
        if turn and spent > PROBE_SECONDS:
            break
    return made, spent


def _spread(seeds: SeedTable, count: int) -> SeedTable:
    """So many seeds from all over the source; each once."""
    places = np.asarray(evenly(len(seeds), count), np.int64)
    return seeds.take(np.concatenate([places[::2], places[1::2]]))


def _memory_used() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _device_memory_used(device: str) -> int:
    if not device.startswith("cuda"):
        return 0
    import torch

    return int(torch.cuda.max_memory_reserved())
