"""`ExpandedDataset`: a seed dataset and its imagined copies as one map-style dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from gif_datasets.chunks import blocks
from gif_datasets.config import BETWEEN, ExpansionConfig
from gif_datasets.data.map_style import place_of
from gif_datasets.data.splits import Divisible, Grouped
from gif_datasets.errors import BadImage, ConfigError, EngineError
from gif_datasets.expansion.engines.local import run_local, visible_gpus
from gif_datasets.expansion.imagination.between import companion
from gif_datasets.expansion.imagination.candidates import partner_of
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.item_format import ItemForm, format_transform
from gif_datasets.expansion.open import Opened, open_expansion
from gif_datasets.expansion.plan import Plan
from gif_datasets.expansion.recipe import ordered
from gif_datasets.expansion.run import Summary, run
from gif_datasets.expansion.tasks import select
from gif_datasets.expansion.to_hf import to_hf
from gif_datasets.expansion.update import to_update
from gif_datasets.expansion.update import update as update_folder
from gif_datasets.io.cache.store import open_cache
from gif_datasets.io.stores import as_path
from gif_datasets.io.temporary import TemporaryFolder
from gif_datasets.priors import own_prior
from gif_datasets.priors.guides import apart
from gif_datasets.publish.push import PushSummary, push_to_hub
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import SeedList, Source, seed_image, warn_of_bad
from gif_datasets.types import ItemTable, Provenance, Row, Seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from gif_datasets.priors.base import Prior


class ExpandedDataset(Divisible):
    """A seed dataset followed by its imagined copies: ``len == n * (1 + ratio)``, where n is the number of seeds.

    Items ``0 .. n-1`` are the seeds, upright where Exif turns an image, and otherwise untouched; item
    ``n + i * ratio + (k - 1)`` is copy ``k`` of seed ``i``. Where the ratio differs between classes, copies follow in
    the same order, as many of each seed as :attr:`copies` says. Every image that can be read and has a label is a
    seed. The others are left out, named in a warning and in :attr:`bad`: later seeds then have earlier places, and
    ``provenance(i).seed_index`` is the place in the dataset. With ``validation_share``, n counts the seeds that are not
    held out; those are in :attr:`validation`. A torchvision dataset yields ``(image, label)`` through its own
    transforms; a Hugging Face dataset yields dicts with its own columns, the image replaced. Copies are imagined when
    first asked for and kept in the cache.

    Args:
        dataset: A torchvision or Hugging Face dataset, any map-style dataset of ``(image, label)``, or a source's text
            such as ``"demo"`` or a folder.
        ratio: Copies per seed, K; or ``"balance:200"``: so many that each class has 200 seeds and copies, and none of
            a class that has as many seeds; or a mapping from class names to copies per seed, ``"*"`` for all others.
        method: See ``gif-datasets methods``.
        prior: Name of a prior, a prior's folder, or an object that follows :class:`gif_datasets.priors.base.Prior` and
            has a ``key``, a text that changes whenever its results do.
        rng_seed: The run's number.
        classes: Class names, when the dataset does not say.
        image_column: Column of the images of a Hugging Face dataset, when there are several.
        label_column: Column of its labels, likewise.
        transform: Applied to every image, seeds and copies, instead of the dataset's own transforms (to the whole
            dict, for a Hugging Face dataset).
        cache_dir: Where imagined samples are kept; ``$GIF_DATASETS_CACHE`` or the user's cache folder by default.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        options: Any other field of :class:`~gif_datasets.config.ExpansionConfig`; ``guide`` may be a
            ``torch.nn.Module`` too (:func:`gif_datasets.priors.guides.own_guide`).

    Attributes:
        bad: A message for each image that is left out, with its row or file, and the reason.

    Raises:
        UsageError: If the dataset, an option or the prior does not fit, before any model is loaded.
        SourceError: If the dataset's own code fails; the message has the row and the error.

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
        ratio: int | str | Mapping[str, int] = 5,
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
        for role in {"image", "label"} & options.keys():
            raise ConfigError(f"unknown option {role!r}; name a column by {role}_column={options[role]!r}")
        prior = str(prior) if isinstance(prior, Path) else prior
        named = prior if isinstance(prior, str) else "linear"
        options, own_guide = apart(options)
        config = ExpansionConfig.build(
            {"ratio": ratio, "method": method, "prior": named, "rng_seed": rng_seed, **options}
        )
        self.source: Source = wrap_source(dataset, classes, image_column, label_column)
        given = None if isinstance(prior, str) else prior
        own = own_prior(type(given).__name__, given) if given is not None else None
        opened = open_expansion(
            self.source, config, device=device, own_prior=own, given=given, own_guide=own_guide, cache_dir=cache_dir
        )
        self.source, self.bad = opened.source, opened.listed.bad
        warn_of_bad(opened.listed)
        self.plan: Plan = opened.plan
        self.imaginer = Imaginer(
            self.plan.recipe, self.source, open_cache(cache_dir), self.plan.seeds, given, self.plan.original_files
        )
        self._known = np.arange(len(self)) < len(self.plan.seeds)  # items that need no imagining, as far as was seen
        self.transform = transform
        wrapped = dataset if not isinstance(dataset, (str, Path)) else None
        columns = format_transform(wrapped) if transform is None else None
        self._form = ItemForm(self.source, wrapped, columns, self.plan.recipe.objects_of)

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
    def copies(self) -> NDArray[np.int64]:
        """Copies of each seed, ``(n,)``; their mean, where they are chosen among those of all seeds."""
        return self.plan.copies

    @property
    def facts(self) -> ItemTable:
        """Label, kind and seed of every item, for samplers; none is made, as with :attr:`targets`."""
        count = len(self.plan.seeds)
        if self.config.agnostic:
            place = {seed: number for number, seed in enumerate(self.plan.seeds)}
            parents = np.array([place[seed] for seed, _ in self._chosen], dtype=np.int64)
        else:
            parents = np.repeat(np.arange(count), self.plan.copies)
        seeds = np.concatenate([np.arange(count), parents])
        own = self.plan.seeds
        return ItemTable(own.labels[seeds], own.synthetic[seeds] | (np.arange(len(self)) >= count), own.indices[seeds])

    @cached_property
    def _chosen(self) -> tuple[Row, ...]:
        """The copies, where they are chosen among those of all seeds: the first look at one draws them all."""
        return select(self.plan, self.imaginer, map)[0].chosen

    @cached_property
    def validation(self) -> ValidationSplit:
        """The seeds that ``validation_share`` holds out: items as the wrapped dataset yields them; empty without."""
        return ValidationSplit(self)

    def __len__(self) -> int:
        return len(self.plan.seeds) + (int(self._ends[-1]) if len(self._ends) else 0)

    def __getitem__(self, index: int) -> Any:
        index = place_of(index, len(self))
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
        count = len(self.plan.seeds)
        seed, copy = self._place(index - count)
        start = index - copy + 1
        return range(start, start + int(self.plan.copies[seed]))

    def _pictures(self, rows: Sequence[Row], beside: Callable[[], Sequence[Row]]) -> list[bytes]:
        """Image files of rows, imagined in common blocks where they are missing."""
        try:
            return self.imaginer.pictures(rows, beside)
        except BadImage as error:
            raise EngineError(f"cannot imagine copies of a seed that can no longer be read: {error}") from error

    def _refuse_missing(self, copies: Sequence[Row]) -> None:
        for seed, copy in copies:
            if not self.imaginer.has(seed, copy):
                raise EngineError(
                    f"copy {copy} of seed {seed.index} ({seed.origin}) is not in the cache, and a worker process does"
                    f" not imagine on {self.plan.recipe.device}; use gif_datasets.DataLoader, which does so beside them"
                )

    def precompute(
        self, folder: str | Path, workers: int = 1, *, update: bool = False, withdraw_missing: bool = False
    ) -> Summary:
        """Make everything now, as WebDataset shards in ``folder``. Run again = resume.

        Args:
            folder: Output folder, or a URL that fsspec opens; refused if it holds another expansion.
            workers: Processes. Above 1 the calling script needs the usual ``if __name__ == "__main__":``.
            update: Bring a finished folder up to date with the dataset, as :func:`gif_datasets.expand` does.
            withdraw_missing: With ``update``: remove seeds that the dataset has no longer.
        """

        def engine(task: Any, ids: Sequence[int]) -> Iterator[Any]:
            return run_local(task, ids, workers, visible_gpus(self.plan.recipe.device))

        path, cache = as_path(folder), self.imaginer.cache
        if (finished := to_update(path, update, withdraw_missing)) is not None:
            opened, given = Opened(self.source, SeedList((), self.bad), self.plan), self.imaginer.given_prior
            return update_folder(opened, finished, cache, engine, withdraw_missing=withdraw_missing, given=given)
        return run(self.plan, self.source, cache, path, engine, self.bad, self.imaginer)

    def to_hf(self, streaming: bool = False) -> Any:
        """The expansion as a Hugging Face dataset, seeds first, in the order of the items.

        A Hugging Face source keeps its columns, their names and types, so that ``datasets.concatenate_datasets`` puts
        it together with its source; any other has ``image`` and ``label``. Beside them are ``key`` and the fields of
        :class:`~gif_datasets.types.Provenance`, with ``gif_`` before a name that is taken.

        Args:
            streaming: An ``IterableDataset``, which imagines as it goes, instead of a ``Dataset``, which imagines all
                now. The latter's fingerprint follows from what decides the images and from the source's own, so that
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
            repo_id: ``owner/name`` of the dataset; made, private, if it is not there.
            folder: Where to keep the shards; a temporary folder by default. What is imagined is in the cache either
                way, so that a push that was cut off continues.
            workers: Processes that imagine.
            options: Of :func:`gif_datasets.push_to_hub`, such as ``private``, ``revision`` and ``license``.
        """
        if folder is not None:
            self.precompute(folder, workers)
            return push_to_hub(folder, repo_id, **options)
        with TemporaryFolder() as temporary:
            self.precompute(temporary, workers)
            return push_to_hub(temporary, repo_id, **options)

    def _rest_of_block(self, index: int) -> list[Row]:
        """The other copies of a missing copy's block: decoding runs on full blocks, and padding one costs the same."""
        index, size, first = index % len(self), self.config.decode_batch, len(self.plan.seeds)
        start = index - (index - first) % size
        return [self._row(i) for i in range(start, min(start + size, len(self))) if i != index]

    def _row(self, index: int) -> Row:
        count = len(self.plan.seeds)
        index = place_of(index, len(self))
        if index < count:
            return self.plan.seeds[index], 0
        if self.config.agnostic:
            return self._chosen[index - count]
        seed, copy = self._place(index - count)
        return self.plan.seeds[seed], copy

    def _place(self, number: int) -> tuple[int, int]:
        """Place of the seed, and number of the copy, of the copy of that number among all."""
        seed = int(np.searchsorted(self._ends, number, side="right"))
        return seed, 1 + number - (int(self._ends[seed - 1]) if seed else 0)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Number of the copies up to each seed's last one."""
        return np.cumsum(self.plan.copies)

    def _real_images(self, places: Sequence[int]) -> Iterator[Image]:
        return (seed_image(self.source, self.plan.seeds[place]) for place in places)

    def _keys(self, places: Sequence[int]) -> list[str]:
        return [self.plan.seeds[place].key for place in places]

    def _partner_keys(self, places: Sequence[int]) -> list[str]:
        if not self.config.pairs:
            return [""] * len(places)
        rows = [self._row(place) for place in places]
        if self.config.start == BETWEEN:
            every = ordered(self.plan.seeds)
            companions = [companion(self.config.rng_seed, every, *row)[0].key for row in rows]
            return [key if key != seed.key else "" for key, (seed, _) in zip(companions, rows, strict=True)]
        if self.config.check == "none":
            seeds = ordered(self.plan.seeds)
            return [partner_of(self.config, seeds, *row).key for row in rows]
        parts = blocks(rows, self.config.decode_batch)  # how often one is drawn is known when it is made
        return [sample.provenance.partner_key for part in parts for sample in self.imaginer.imagine(part)]

    @property
    def _fitted(self) -> str:
        return self.config.classifier if self.config.fits_classifier else ""

    @property
    def _expands_copies(self) -> bool:
        return bool(self.plan.seeds.synthetic.any())

    def _item(self, seed: Seed, made: bytes | None) -> Any:
        return self._form.item(seed, made, self.transform)


class ValidationSplit(Grouped, Dataset[Any]):
    """The seeds of an :class:`ExpandedDataset` that are held out, in the form of its other items."""

    def __init__(self, expanded: ExpandedDataset) -> None:
        self._expanded = expanded
        self.classes = expanded.classes
        self.targets = [seed.label for seed in expanded.plan.validation]

    @property
    def facts(self) -> ItemTable:
        """Label, kind and seed of every item, for samplers."""
        held = self._expanded.plan.validation
        return ItemTable(held.labels, held.synthetic, held.indices)

    def __len__(self) -> int:
        return len(self._expanded.plan.validation)

    def __getitem__(self, index: int) -> Any:
        return self._expanded._item(self._expanded.plan.validation[place_of(index, len(self))], None)
