"""`expand`: a dataset into a folder of shards, by the engine that is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError
from gif_datasets.expansion.engines.local import run_local, visible_gpus
from gif_datasets.expansion.open import open_expansion
from gif_datasets.expansion.run import PlanPart, Summary, run
from gif_datasets.expansion.tasks import Engine
from gif_datasets.expansion.update import kept_settings, to_update
from gif_datasets.expansion.update import update as update_folder
from gif_datasets.io.cache.store import open_cache
from gif_datasets.io.devices import resolve_device
from gif_datasets.io.stores import as_path
from gif_datasets.options import closest
from gif_datasets.priors.guides import apart
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import warn_of_bad
from gif_datasets.types import Progress, no_progress, silently

ENGINES = ("local", "ray")


def expand(
    source: Any,
    out: str | Path,
    *,
    validation: Any = None,
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    gpus_per_worker: float = 1.0,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    part: tuple[int, int] = (0, 1),
    update: bool = False,
    withdraw_missing: bool = False,
    config: ExpansionConfig | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = silently,
    **options: Any,
) -> Summary:
    """Expand a dataset into a folder of WebDataset shards: the command ``gif-datasets expand`` as a function.

    Args:
        source: A source's text, or a dataset object.
        out: Output folder, or a URL of one in a store that fsspec opens (``s3://bucket/set``). Run again = resume.
        validation: Another source, such as the dataset's own validation split: written as it is, as the split
            ``validation``; a seed that shows the same image as one of it is left out. Its classes are found in
            ``source`` by name.
        workers: Worker processes; None: this process alone or, with Ray, as many as the cluster has places for. Above 1
            the calling script needs the usual ``if __name__ == "__main__":``.
        engine: ``"local"`` or ``"ray"``; the bytes are the same.
        ray_address: Of a running Ray cluster; None: that of ``RAY_ADDRESS``, or one that is started here for this.
        gpus_per_worker: With Ray on GPUs: the share of one, or the number of them, that each worker holds.
        limit: Use this many seeds, spread evenly; of ``validation`` too.
        cache_dir: Where imagined samples are kept.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        part: Make part ``i`` of ``n`` only, ``(i, n)``. Parts may be made by anybody, in one folder, which the last one
            finishes, or each in its own, for :func:`gif_datasets.merge_parts`.
        update: Bring a finished folder up to date with the source: new images get shards of their own, seeds whose
            image or label has changed are made again, and all others keep their shards. Options that are left out are
            those of the folder; others are refused.
        withdraw_missing: With ``update``: remove seeds that the source has no longer, and their copies. Otherwise they
            stay, and are named in ``Summary.left``.
        config: All options as one object, instead of ``options``.
        progress: Wraps the loops over seeds and shards, for progress bars.
        say: Called with one line before the work if the classifier cannot tell the seeds' classes apart.
        options: Fields of :class:`~gif_datasets.config.ExpansionConfig`; ``guide`` may be a ``torch.nn.Module`` too.

    Images that are left out are named in a warning, and in ``Summary.bad``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = expand("demo", folder, ratio=1, prior="linear", limit=20)
        >>> summary.originals, summary.synthetic
        (20, 20)
    """
    if config is not None and options:
        raise ConfigError(f"give either config or options, got both (config and {', '.join(options)})")
    options, own_guide = apart(options)
    path, mine, show = as_path(out), PlanPart(*part), progress or no_progress
    finished = to_update(path, update, withdraw_missing, limit)
    settled = config or ExpansionConfig.build(kept_settings(path, options) if finished else options)
    run_tasks = engine_of(engine, workers, device, ray_address, gpus_per_worker)
    opened = open_expansion(
        wrap_source(source),
        settled,
        limit=limit,
        device=device,
        validation=None if validation is None else wrap_source(validation),
        own_guide=own_guide,
        cache_dir=cache_dir,
        show=show,
        say=say,
        adds=finished is not None,
    )
    warn_of_bad(opened.listed)

    shown = showing(run_tasks, show)
    cache, bad = open_cache(cache_dir), opened.listed.bad
    if finished is not None:
        return update_folder(opened, finished, cache, shown, withdraw_missing=withdraw_missing, part=mine, say=say)
    return run(opened.plan, opened.source, cache, path, shown, bad, part=mine, say=say)


def showing(engine: Engine, show: Progress) -> Engine:
    """An engine whose results pass through a progress bar."""

    def run_tasks(task: Any, ids: Sequence[int]) -> Iterator[Any]:
        return iter(show(engine(task, ids), task.title, len(ids)))

    return run_tasks


def engine_of(
    name: str = "local",
    workers: int | None = None,
    device: str = "auto",
    ray_address: str | None = None,
    gpus_per_worker: float = 1.0,
) -> Engine:
    """What runs tasks; the arguments are those of :func:`expand`."""
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}{closest(name, ENGINES)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if ray_address and name != "ray":
        raise ConfigError(f"a Ray address goes with engine 'ray', got engine {name!r}")
    if gpus_per_worker <= 0 or (gpus_per_worker > 1 and gpus_per_worker % 1):
        raise ConfigError(f"GPUs a worker must be a share of one or a whole number, got {gpus_per_worker}")
    settled = resolve_device(device)
    if name == "local":
        return lambda task, ids: run_local(task, ids, workers or 1, visible_gpus(settled))
    from gif_datasets.expansion.engines.ray import run_ray

    gpus = gpus_per_worker if settled.startswith("cuda") else 0.0
    return lambda task, ids: run_ray(task, ids, workers, address=ray_address, gpus=gpus)
