"""`ExpandedDataset`: a seed dataset and its imagined copies as one map-style dataset; `expand` for a whole folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL.Image import Image
from torch.utils.data import Dataset, get_worker_info

from gif_datasets import decode, images
from gif_datasets.cache import open_cache
from gif_datasets.config import ExpansionConfig, closest
from gif_datasets.engines.local import run_local, visible_gpus
from gif_datasets.errors import CacheError, ConfigError, EngineError, HubError, MissingExtra, PriorError, SourceError
from gif_datasets.imagine import Imaginer
from gif_datasets.order import Facts
from gif_datasets.plan import Plan, make_plan
from gif_datasets.priors import own_prior
from gif_datasets.push import PushSummary, push_to_hub
from gif_datasets.recipe import make_recipe, resolve_device
from gif_datasets.remote import place
from gif_datasets.run import Part, Summary, run, silently
from gif_datasets.sources import (
    HuggingFaceSource,
    JoinedSource,
    MapSource,
    SeedList,
    Source,
    below,
    is_hugging_face,
    list_seeds,
    refuse_bad,
    wrap_source,
)
from gif_datasets.splits import without
from gif_datasets.tasks import Engine, select
from gif_datasets.to_hf import to_hf
from gif_datasets.types import Progress, Provenance, Row, Seed, silent

if TYPE_CHECKING:
    from gif_datasets.priors.base import Prior


class ExpandedDataset(Dataset[Any]):
    """A seed dataset followed by its imagined copies: ``len == n * (1 + ratio)``.

    Items ``0 .. n-1`` are the seeds, untouched; item ``n + i * ratio + (k - 1)`` is copy ``k`` of seed ``i``. With
    ``validation_share``, n counts the seeds that are not held out; those are in :attr:`validation`. A
    torchvision dataset yields ``(image, label)`` through its own transforms; a Hugging Face dataset yields dicts with
    its own columns, the picture replaced. Copies are imagined when first asked for and kept in the cache.

    Args:
        dataset: A torchvision or Hugging Face dataset, any map-style dataset of ``(image, label)``, or a source's text
            such as ``"demo"`` or a folder.
        ratio: Copies per seed, K.
        method: See ``gif-datasets methods``.
        prior: Name of a prior, a prior's folder, or an object with the four methods of
            :class:`gif_datasets.priors.base.Prior` (and a ``key``, a text that changes whenever its results do).
        rng_seed: The run's number.
        classes: Class names, when the dataset does not say.
        image_column: Column of the pictures of a Hugging Face dataset, when there are several.
        label_column: Column of its labels, likewise.
        transform: Applied to every picture, seeds and copies, instead of the dataset's own transforms (to the whole
            dict, for a Hugging Face dataset).
        cache_dir: Where imagined samples are kept; ``$GIF_DATASETS_CACHE`` or the user's cache folder by default.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        options: Any other field of :class:`~gif_datasets.config.ExpansionConfig`.

    Raises:
        UsageError: If the dataset, an option or the prior does not fit, before any model is loaded.

    Example:
        >>> expanded = ExpandedDataset("demo", ratio=2, prior="linear")
        >>> len(expanded), expanded.classes[:2]
        (600, ('airplane', 'automobile'))
        >>> image, label = expanded[200]
        >>> image.size, label, expanded.provenance(200).copy
        ((32, 32), 0, 1)
    """

    def __init__(
        self,
        dataset: Any,
        ratio: int = 5,
        method: str = "gif-unclip",
        prior: str | Path | Prior = "embedded",
        *,
        rng_seed: int = 0,
        classes: Sequence[str] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        cache_dir: str | Path | None = None,
        device: str = "auto",
        **options: Any,
    ) -> None:
        prior = str(prior) if isinstance(prior, Path) else prior
        named = prior if isinstance(prior, str) else "linear"
        config = ExpansionConfig.build(
            {"ratio": ratio, "method": method, "prior": named, "rng_seed": rng_seed, **options}
        )
        self.source: Source = wrap_source(dataset, classes, image_column, label_column)
        given = None if isinstance(prior, str) else prior
        own = own_prior(type(given).__name__, given) if given is not None else None
        recipe = make_recipe(config, self.source.classes, device, own)
        listed = list_seeds(self.source)
        refuse_bad(listed, config.on_bad_image)
        self.bad = listed.bad
        self.plan: Plan = make_plan(self.source, listed, recipe)
        self.imaginer = Imaginer(self.plan.recipe, self.source, open_cache(cache_dir), self.plan.seeds, given)
        self._known = np.arange(len(self)) < len(self.plan.seeds)  # items that need no imagining, as far as was seen
        self._dataset = dataset if not isinstance(dataset, (str, Path)) else None
        self.transform = transform
        self._format_transform = None if transform is not None else _format_transform(self._dataset)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.source.classes

    @property
    def config(self) -> ExpansionConfig:
        """All options, defaults resolved."""
        return self.plan.recipe.config

    @property
    def fingerprint(self) -> str:
        """Digest of the plan: another one has other items."""
        return self.plan.hash

    @property
    def targets(self) -> list[int]:
        """The label of every item, without making any (unless copies are chosen among those of all seeds)."""
        found: list[int] = self.facts.labels.tolist()
        return found

    @property
    def facts(self) -> Facts:
        """Label, kind and seed of every item, for samplers; none is made, as with :attr:`targets`."""
        count = len(self.plan.seeds)
        if self.config.agnostic:
            place = {seed: number for number, seed in enumerate(self.plan.seeds)}
            parents = np.array([place[seed] for seed, _ in self._chosen], dtype=np.int64)
        else:
            parents = np.repeat(np.arange(count), self.config.ratio)
        seeds = np.concatenate([np.arange(count), parents])
        labels, made = self.plan.seeds.labels, self.plan.seeds.synthetic
        return Facts(labels[seeds], made[seeds] | (np.arange(len(self)) >= count), seeds)

    @cached_property
    def _chosen(self) -> tuple[Row, ...]:
        """The copies, where they are chosen among those of all seeds: the first look at one draws them all."""
        return select(self.plan, self.imaginer, map)[0].chosen

    @cached_property
    def validation(self) -> HeldOut:
        """The seeds that ``validation_share`` holds out: items as the wrapped dataset yields them; empty without."""
        return HeldOut(self)

    def __len__(self) -> int:
        return len(self.plan.seeds) * (1 + self.config.ratio)

    def __getitem__(self, index: int) -> Any:
        return self._items([self._row(index)], lambda: self._rest_of_block(index))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Many items at once; what is missing is made in common blocks. DataLoader calls this."""
        return self._items([self._row(index) for index in indices])

    def _items(self, rows: Sequence[Row], beside: Callable[[], Sequence[Row]] = tuple) -> list[Any]:
        copies = [row for row in rows if row[1]]
        if get_worker_info() is not None and self.plan.recipe.device != "cpu":
            self._refuse_missing(copies)
        made = iter(self._pictures(copies, beside))
        return [self._item(seed, next(made) if copy else None) for seed, copy in rows]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def provenance(self, index: int) -> Provenance:
        """Where an item comes from; imagines it if need be."""
        seed, copy = self._row(index)
        if not copy:
            return self.imaginer.originals([seed])[0].provenance
        self._pictures([(seed, copy)], lambda: self._rest_of_block(index))
        return self.imaginer.imagine([(seed, copy)])[0].provenance

    def imagine_missing(self, indices: Sequence[int], following: Sequence[int] = ()) -> None:
        """Make and keep those of some items that are not in the cache yet; DataLoader calls this ahead of its workers.

        The last block is filled with further copies of the same seeds, which cost no guidance of their own, and with
        what is wanted next.

        Args:
            indices: Items that are wanted now.
            following: Items that are wanted soon.

        Raises:
            EngineError: If one cannot be made; its seed is named.
        """
        wanted = self._missing(indices)
        if wanted:
            siblings = (item for index in wanted for item in self._siblings(index))
            others = (item for item in self._missing([*siblings, *following]) if item not in wanted)
            extra = list(islice(others, -len(wanted) % self.config.decode_batch))
            self._pictures([self._row(index) for index in wanted], lambda: [self._row(index) for index in extra])
            self._known[wanted] = True

    def _missing(self, indices: Iterable[int]) -> list[int]:
        return [index for index in dict.fromkeys(i % len(self) for i in indices) if not self._is_there(index)]

    def _is_there(self, index: int) -> bool:
        seed, copy = self._row(index)
        may_vanish = self.imaginer.cache.limit is not None
        if copy and (may_vanish or not self._known[index]):
            self._known[index] = self.imaginer.has(seed, copy)
        return bool(self._known[index])

    def _siblings(self, index: int) -> range:
        count, ratio = len(self.plan.seeds), self.config.ratio
        start = index - (index - count) % ratio
        return range(start, start + ratio)

    def _pictures(self, rows: Sequence[Row], beside: Callable[[], Sequence[Row]]) -> list[bytes]:
        """Imagine rows in common blocks; when that fails, one by one, to name the seed that it fails on."""
        try:
            return self.imaginer.pictures(rows, beside)
        except (CacheError, ConfigError, HubError, MissingExtra, PriorError):  # of no seed in particular
            raise
        except Exception:
            return [self._picture(row) for row in rows]

    def _picture(self, row: Row) -> bytes:
        try:
            return self.imaginer.pictures([row])[0]
        except Exception as error:
            seed, copy = row
            name = f"seed {seed.index} ({seed.origin})"
            raise EngineError(f"cannot imagine copy {copy} of {name}: {type(error).__name__}: {error}") from error

    def _refuse_missing(self, copies: Sequence[Row]) -> None:
        for seed, copy in copies:
            if not self.imaginer.has(seed, copy):
                raise EngineError(
                    f"copy {copy} of seed {seed.index} ({seed.origin}) is not in the cache, and a worker process does"
                    f" not imagine on {self.plan.recipe.device}; use gif_datasets.DataLoader, which does so beside them"
                )

    def precompute(self, folder: str | Path, workers: int = 1) -> Summary:
        """Make everything now, as WebDataset shards in ``folder``. Run again = resume.

        Args:
            folder: Output folder, or a URL that fsspec opens; refused if it holds another expansion.
            workers: Processes. Above 1 the calling script needs the usual ``if __name__ == "__main__":``.
        """

        def engine(task: Any, ids: Sequence[int]) -> Iterator[Any]:
            return run_local(task, ids, workers, visible_gpus(self.plan.recipe.device))

        return run(self.plan, self.source, self.imaginer.cache, place(folder), engine, self.bad, self.imaginer)

    def to_hf(self, streaming: bool = False) -> Any:
        """The expansion as a Hugging Face dataset, seeds first, in the order of the items.

        A Hugging Face source keeps its columns, their names and types, so that ``datasets.concatenate_datasets`` puts
        it together with its source; any other has ``image`` and ``label``. Beside them are ``key`` and the fields of
        :class:`~gif_datasets.types.Provenance`, with ``gif_`` before a name that is taken.

        Args:
            streaming: An ``IterableDataset``, which imagines as it goes, instead of a ``Dataset``, which imagines all
                now. The latter's fingerprint follows from what decides the pictures and from the source's own, so that
                ``datasets`` finds again what it has.

        Raises:
            MissingExtra: If ``datasets`` is not installed.

        Example:
            >>> expanded = ExpandedDataset("demo", ratio=1, prior="linear")
            >>> row = next(iter(expanded.to_hf(streaming=True)))
            >>> row["label"], row["synthetic"], row["image"].size
            (0, False, (32, 32))
        """
        return to_hf(self.plan, self.source, self.imaginer, [self._row(i) for i in range(len(self))], streaming)

    def push_to_hub(
        self, repo_id: str, *, folder: str | Path | None = None, workers: int = 1, **options: Any
    ) -> PushSummary:
        """Make everything, and publish it on the Hugging Face Hub; see :func:`gif_datasets.push_to_hub`.

        Args:
            repo_id: ``owner/name`` of the data set; made, private, if it is not there.
            folder: Where to keep the shards; a temporary folder by default. What is imagined is in the cache either
                way, so that a push that was cut off goes on.
            workers: Processes that imagine.
            options: Of :func:`gif_datasets.push_to_hub`, such as ``private``, ``revision`` and ``license``.
        """
        if folder is not None:
            self.precompute(folder, workers)
            return push_to_hub(folder, repo_id, **options)
        with tempfile.TemporaryDirectory(prefix="gif-datasets-") as place:
            self.precompute(place, workers)
            return push_to_hub(place, repo_id, **options)

    def _rest_of_block(self, index: int) -> list[Row]:
        """The other copies of a missing copy's block: decoding runs on full blocks, and padding one costs the same."""
        index, size, first = index % len(self), self.config.decode_batch, len(self.plan.seeds)
        start = index - (index - first) % size
        return [self._row(i) for i in range(start, min(start + size, len(self))) if i != index]

    def _row(self, index: int) -> tuple[Seed, int]:
        size, count, ratio = len(self), len(self.plan.seeds), self.config.ratio
        if not -size <= index < size:
            raise IndexError(f"index {index} of {size} items")
        index %= size
        if index < count:
            return self.plan.seeds[index], 0
        if self.config.agnostic:
            return self._chosen[index - count]
        seed, copy = divmod(index - count, ratio)
        return self.plan.seeds[seed], copy + 1

    def _item(self, seed: Seed, made: bytes | None) -> Any:
        if isinstance(self.source, HuggingFaceSource):
            return self._row_item(self.source, seed, made)
        if made is None and self._dataset is not None and self.transform is None:
            return self._dataset[seed.index]
        image = self.source.sample(seed.index)[0] if made is None else decode.picture(made, seed.origin)
        return self._own_transform(image), seed.label

    def _own_transform(self, image: Image) -> Any:
        """Apply the given transform, or give a copy the form of the wrapped dataset's pictures and its transform."""
        if self.transform is not None:
            return self.transform(image)
        alike = images.like(image, self._example) if self._example is not None else image
        transform = below(self._dataset, "transform", callable)
        return transform(alike) if transform is not None else alike

    @cached_property
    def _example(self) -> Any:
        """A stored picture of the wrapped dataset, whose form copies take."""
        if self._dataset is None or not isinstance(self.source, MapSource):
            return None
        return self.source.stored(self.plan.seeds[0].index)[0]

    def _row_item(self, source: HuggingFaceSource, seed: Seed, made: bytes | None) -> Any:
        if made is None and self._dataset is not None and self.transform is None:
            return self._dataset[seed.index]
        row = dict(source.rows[seed.index])
        row[source.image_column] = source.sample(seed.index)[0] if made is None else decode.picture(made, seed.origin)
        if self.transform is not None:
            return self.transform(row)
        if self._format_transform is None:
            return row
        return {name: values[0] for name, values in self._format_transform({k: [v] for k, v in row.items()}).items()}


class HeldOut(Dataset[Any]):
    """The seeds of an :class:`ExpandedDataset` that are held out, in the form of its other items."""

    def __init__(self, expanded: ExpandedDataset) -> None:
        self._expanded = expanded
        self.classes = expanded.classes
        self.targets = [seed.label for seed in expanded.plan.validation]

    @property
    def facts(self) -> Facts:
        """Label, kind and seed of every item, for samplers."""
        count = len(self)
        return Facts(np.asarray(self.targets, dtype=np.int64), np.zeros(count, dtype=bool), np.arange(count))

    def __len__(self) -> int:
        return len(self._expanded.plan.validation)

    def __getitem__(self, index: int) -> Any:
        return self._expanded._item(self._expanded.plan.validation[index], None)


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
            ``validation``; a seed that shows the same picture as one of it is left out. Its classes are found in
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
        config: All options as one object, instead of ``options``.
        progress: Wraps the loops over seeds and shards, for progress bars.
        say: Is told, in a line before the work, when the classifier cannot tell the seeds' classes apart.
        options: Fields of :class:`~gif_datasets.config.ExpansionConfig`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = expand("demo", folder, ratio=1, prior="linear", limit=20)
        >>> summary.originals, summary.synthetic
        (20, 20)
    """
    if config is not None and options:
        raise ConfigError(f"give either config or options, got both (config and {', '.join(options)})")
    settled, mine = config or ExpansionConfig.build(options), Part(*part)
    run_tasks = _engine(engine, workers, device, ray_address, gpus_per_worker)
    opened = wrap_source(source)
    recipe = make_recipe(settled, opened.classes, device)
    show = progress or silent
    listed = list_seeds(opened, limit, lambda rows: show(rows, "reading seeds"))
    held: tuple[Seed, ...] = ()
    named = ""
    if validation is not None:
        other = wrap_source(validation)
        joined = JoinedSource(opened, other)
        found = list_seeds(other, limit, lambda rows: show(rows, "reading validation set"))
        opened, held, named = joined, joined.validation_seeds(found), other.name
        kept, same = without(listed.seeds, held)
        if not kept:
            raise SourceError(f"every picture of {opened.name} is in the validation set {named} too")
        listed = SeedList(kept, (*listed.bad, *found.bad, *same))
    refuse_bad(listed, settled.on_bad_image)

    def shown(task: Any, ids: Sequence[int]) -> Iterator[Any]:
        return iter(show(run_tasks(task, ids), task.title, len(ids)))

    plan = make_plan(opened, listed, recipe, held, named, _real_limit(limit, opened))
    return run(plan, opened, open_cache(cache_dir), place(out), shown, listed.bad, part=mine, say=say)


def _real_limit(limit: int | None, source: Source) -> int | None:
    """A limit, if it leaves anything out."""
    return limit if limit is not None and limit < len(source) else None


ENGINES = ("local", "ray")


def _engine(name: str, workers: int | None, device: str, ray_address: str | None, gpus_per_worker: float) -> Engine:
    """What runs tasks."""
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
    from gif_datasets.engines.ray import run_ray

    gpus = gpus_per_worker if settled.startswith("cuda") else 0.0
    return lambda task, ids: run_ray(task, ids, workers, address=ray_address, gpus=gpus)


FormatTransform: TypeAlias = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]


def _format_transform(dataset: Any) -> FormatTransform | None:
    """The function of ``Dataset.set_transform``, if one is set; other formats are refused."""
    if dataset is None or not is_hugging_face(dataset):
        return None
    kind, columns = dataset.format.get("type"), dataset.format.get("columns")
    if kind == "custom":
        found: FormatTransform = dataset.format["format_kwargs"]["transform"]
        return found
    if kind is not None or set(columns or dataset.column_names) != set(dataset.column_names):
        raise SourceError(
            f"copies cannot follow the dataset's format {kind or 'of some columns'!r};"
            " take it away (with_format(None)) and use set_transform, or pass transform="
        )
    return None
