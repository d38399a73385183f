"""Seed datasets: a folder per class, torchvision, Hugging Face, expanded shards, `demo`, or any map-style dataset.

A source is opened from a text (`open_source`) or from an object (`wrap_source`), then listed once (`list_seeds`), which
reads every picture, gives each its content key, and names those that cannot be read.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from gif_datasets import columns, images
from gif_datasets.config import closest
from gif_datasets.errors import BadImage, MissingExtra, SourceError
from gif_datasets.fingerprint import digest_pixels, digest_rows
from gif_datasets.order import evenly, facts_of
from gif_datasets.seeds import Packed, SeedTable
from gif_datasets.types import PLAN_FILE, Seed

ENTRY_POINTS = "gif_datasets.sources"
"""Group of entry points: a scheme, and what makes a dataset of the name and the options after it."""


class Source(Protocol):
    """A labelled image dataset as this package reads it."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        ...

    def __len__(self) -> int: ...

    def origin(self, index: int) -> str:
        """Where the sample is, for messages and provenance."""
        ...

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One picture as 8-bit RGB, and its class index; raises BadImage."""
        ...


def revision_of(source: Source) -> str:
    """The commit of a source that was read from the Hub; empty for any other."""
    return str(getattr(source, "revision", ""))


@dataclass(frozen=True)
class SeedList:
    """The readable samples of a source, and a message for each of the others."""

    seeds: Sequence[Seed]
    bad: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Digest of every seed's key and label, in order."""
        return digest_rows([seed.key, seed.label] for seed in self.seeds)


def refuse_bad(listed: SeedList, on_bad_image: str) -> None:
    """Raise BadImage for the first unreadable sample when ``on_bad_image`` is ``"stop"``."""
    if listed.bad and on_bad_image == "stop":
        raise BadImage(f"{listed.bad[0]} (to go on without it: --set on_bad_image=skip)")


def list_seeds(
    source: Source, limit: int | None = None, progress: Callable[[Iterable[int]], Iterable[int]] = iter
) -> SeedList:
    """Read every picture of ``source`` once; key it by its pixels.

    Args:
        source: The seed dataset.
        limit: Take this many, spread evenly over the source.
        progress: Wraps the loop, for a progress bar.

    Raises:
        SourceError: If nothing can be read, or labels and class names disagree.
    """
    count = len(source)
    indices = range(count) if limit is None else evenly(count, limit)
    bad: list[str] = []
    seeds = SeedTable.of(_readable(source, progress(indices), bad))
    if not seeds:
        raise SourceError(f"no readable picture in {source.name}" + (f"; the first: {bad[0]}" if bad else ""))
    if digest_pixels(np.asarray(source.sample(seeds[0].index)[0])) != seeds[0].key:
        raise SourceError(f"{source.name} gives other pixels each time; take its random transforms away")
    return SeedList(seeds, tuple(bad))


def _readable(source: Source, indices: Iterable[int], bad: list[str]) -> Iterator[Seed]:
    """Seeds of the pictures that can be read; a message for each other one goes into ``bad``."""
    is_synthetic = getattr(source, "is_synthetic", _real)
    for index in indices:
        origin = source.origin(index)
        try:
            image, label = source.sample(index)
        except BadImage as error:
            bad.append(str(error))
            continue
        if label < 0:
            bad.append(f"{origin}: no label")
            continue
        if label >= len(source.classes):
            raise SourceError(f"{origin} has label {label}, but {source.name} names {len(source.classes)} classes")
        yield Seed(index, digest_pixels(np.asarray(image)), label, origin, is_synthetic(index))


def _real(index: int) -> bool:
    """Of a source that does not say: its pictures count as real."""
    return False


# --- from a text --------------------------------------------------------------------------------------------------


def open_source(spec: str) -> Source:
    """Open a source by its text form.

    Args:
        spec: A folder with one sub-folder per class; ``torchvision:NAME?split=..&root=..``;
            ``hf:NAME?config=..&split=..&image=..&label=..`` (both also take ``classes=a,b,c``, for datasets that do
            not name their classes); a folder of expanded shards, or ``hub:OWNER/NAME?revision=..`` of one on the Hub;
            ``demo``; or ``SCHEME:NAME?option=..`` of a scheme that an installed package registers.

    Raises:
        SourceError: If it cannot be opened, with the reason and what would work.
    """
    if spec == "demo":
        return FolderSource(Path(str(files("gif_datasets"))) / "assets" / "demo", "demo")
    scheme, colon, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme](name, options)
    folder = Path(spec)
    if not folder.is_dir():
        if colon and (registered := entry_points(group=ENTRY_POINTS, name=scheme)):
            return _open_registered(next(iter(registered)), spec, name, options)
        raise SourceError(
            f"no such folder: {spec!r}; a source is a folder with one sub-folder per class, demo, torchvision:NAME or"
            " hf:NAME"
        )
    if (folder / "manifest.json").is_file() and (folder / PLAN_FILE).is_file():
        return ShardSource(folder)
    return FolderSource(folder, folder.name)


class FolderSource:
    """A folder with one sub-folder per class, like torchvision's ``ImageFolder``; classes sorted by name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder
        try:
            groups = sorted(path for path in folder.iterdir() if _is_class(path))
            counts: list[int] = []
            self._names = Packed.of(self._list(groups, counts))
        except OSError as error:
            raise SourceError(f"cannot list {folder}: {error.strerror}") from error
        self.classes = tuple(_printable(group.name) for group in groups)
        self._labels = np.repeat(np.arange(len(counts)), counts)
        if not groups:
            raise SourceError(f"{folder} has no sub-folders; a source has one sub-folder of pictures per class")
        if not self._names:
            raise SourceError(f"no pictures in the sub-folders of {folder} (looked for .png, .jpg, .webp and others)")

    def _list(self, groups: Iterable[Path], counts: list[int]) -> Iterator[bytes]:
        """Names of the pictures below the folder, class by class, of which only one is there as paths at a time."""
        for group in groups:
            paths = sorted(_pictures(group))
            counts.append(len(paths))
            yield from (os.fsencode(path.relative_to(self.folder).as_posix()) for path in paths)

    def __len__(self) -> int:
        return len(self._names)

    def origin(self, index: int) -> str:
        """Path below the folder."""
        return _printable(os.fsdecode(self._names[index]))

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One picture as 8-bit RGB, and its class index."""
        path = self.folder / os.fsdecode(self._names[index])
        return images.read_rgb(path, self.origin(index)), int(self._labels[index])


def _is_class(path: Path) -> bool:
    """A folder of pictures: not hidden, and not an expansion that was written among the classes."""
    return path.is_dir() and not path.name.startswith(".") and not (path / PLAN_FILE).exists()


def _printable(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 are shown as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _pictures(folder: Path) -> Iterable[Path]:
    return (
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and images.is_picture_name(path.name)
    )


class ShardSource:
    """The samples of an expanded folder, seeds and copies alike."""

    revision = ""

    def __init__(self, folder: Path, name: str = "") -> None:
        from gif_datasets.reader import ShardReader

        self.name = name or folder.name
        self._reader = ShardReader(folder)
        self.classes = self._reader.classes

    def __len__(self) -> int:
        return len(self._reader)

    def origin(self, index: int) -> str:
        """The sample's key."""
        return self._reader.key(index)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One picture as 8-bit RGB, and its class index."""
        return images.read_rgb(self._reader.image_bytes(index), self.origin(index)), self._reader.label(index)

    def is_synthetic(self, index: int) -> bool:
        """Whether it was imagined."""
        return self._reader.is_synthetic(index)


class JoinedSource:
    """A source followed by its validation source; the latter's classes are found in the former's by name.

    Args:
        source: The one.
        validation: The other.
        role: What to call the other in an error.
    """

    def __init__(self, source: Source, validation: Source, role: str = "validation set") -> None:
        unknown = [name for name in validation.classes if name not in source.classes]
        if unknown:
            raise SourceError(
                f"the {role} {validation.name} has a class {unknown[0]!r} that {source.name} has not;"
                f" its classes: {', '.join(source.classes[:20])}"
            )
        self.name = source.name
        self.revision = revision_of(source)
        self.classes = source.classes
        self._source = source
        self._validation = validation
        self._labels = [source.classes.index(name) for name in validation.classes]

    def __len__(self) -> int:
        return len(self._source) + len(self._validation)

    def origin(self, index: int) -> str:
        """What the source that it is from says."""
        first = len(self._source)
        return self._source.origin(index) if index < first else self._validation.origin(index - first)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One picture as 8-bit RGB, and its class index."""
        first = len(self._source)
        if index < first:
            return self._source.sample(index)
        image, label = self._validation.sample(index - first)
        return image, self._labels[label]

    def validation_seeds(self, listed: SeedList) -> tuple[Seed, ...]:
        """Seeds of the validation source, as this source counts and labels them."""
        first = len(self._source)
        return tuple(replace(s, index=s.index + first, label=self._labels[s.label]) for s in listed.seeds)


def _open_torchvision(name: str, options: dict[str, str]) -> Source:
    import torchvision.datasets as tvd

    known = [entry for entry in tvd.__all__ if inspect.isclass(getattr(tvd, entry))]
    if name not in known:
        raise SourceError(f"unknown torchvision dataset {name!r}{closest(name, known)}")
    factory, classes = getattr(tvd, name), _class_names(options)
    accepted = _parameters(factory)
    values = {key: _scalar(value) for key, value in options.items() if key != "classes"}
    unknown = [key for key in values if key not in accepted]
    if unknown:
        raise SourceError(f"torchvision:{name} takes no {unknown[0]!r}; it takes {', '.join(accepted)}, classes")
    if "root" in accepted:
        values.setdefault("root", "data")
    try:
        dataset = factory(**values)
    except Exception as error:  # each dataset raises its own kinds
        raise SourceError(f"torchvision:{name}: {_one_line(error)}") from error
    return wrap_source(dataset, classes, name=f"torchvision:{name}")


def _parameters(factory: type) -> list[str]:
    """Names a dataset class takes, those that it passes on to its parents by ``**kwargs`` included."""
    found: dict[str, None] = {}
    for owner in factory.__mro__:
        if "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        found.update(dict.fromkeys(p.name for p in parameters if p.kind in named))
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return list(found)


def _open_hugging_face(name: str, options: dict[str, str]) -> Source:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hf") from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    unknown = sorted(set(options) - {"config", "split", "image", "label", "revision", "classes"})
    if unknown:
        raise SourceError(f"hf:{name} takes no {unknown[0]!r}; it takes config, split, image, label, revision, classes")
    try:
        # what load_dataset does; the builder knows which commit it reads, from the Hub or from the cache
        builder = datasets.load_dataset_builder(name, options.get("config"), revision=options.get("revision"))
        builder.download_and_prepare()
        dataset = builder.as_dataset(split=options.get("split", "train"))
    except Exception as error:  # network, parsing and schema errors of many kinds
        raise SourceError(f"hf:{name}: {_one_line(error)}") from error
    called = Path(name).name if Path(name).exists() else f"hf:{name}"  # a local path is nobody's name on the Hub
    source = HuggingFaceSource(dataset, options.get("image"), options.get("label"), _class_names(options), called)
    source.revision = str(builder.hash or "") if builder.repo_id and not Path(name).exists() else ""
    return source


def _open_hub(name: str, options: dict[str, str]) -> Source:
    unknown = sorted(set(options) - {"revision"})
    if unknown:
        raise SourceError(f"hub:{name} takes no {unknown[0]!r}; it takes revision")
    from gif_datasets.hub import download

    folder = download(name, options.get("revision"))
    source = ShardSource(folder, f"hub:{name}")
    source.revision = folder.name  # in the Hub's cache a snapshot is named by its commit
    return source


def _open_registered(point: EntryPoint, spec: str, name: str, options: dict[str, str]) -> Source:
    try:
        dataset = point.load()(name, **options)
    except SourceError:
        raise
    except Exception as error:  # another package's, of any kind
        raise SourceError(f"{spec}: {_one_line(error)}") from error
    return wrap_source(dataset, name=spec)


_SCHEMES: dict[str, Callable[[str, dict[str, str]], Source]] = {
    "torchvision": _open_torchvision,
    "hf": _open_hugging_face,
    "hub": _open_hub,
}


def _class_names(options: dict[str, str]) -> tuple[str, ...] | None:
    return tuple(options["classes"].split(",")) if "classes" in options else None


def _scalar(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# --- from an object -----------------------------------------------------------------------------------------------


def wrap_source(
    dataset: Any,
    classes: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    name: str | None = None,
) -> Source:
    """Wrap a torchvision or Hugging Face dataset, or any map-style dataset of ``(image, label)``.

    The dataset's own transforms are set aside: seeds are read as they are stored.

    Args:
        dataset: The dataset; a text or path is opened by :func:`open_source`.
        classes: Class names, when the dataset does not say.
        image_column: Column of the pictures of a Hugging Face dataset, when there are several.
        label_column: Column of its labels, likewise.
        name: What to call it.

    Raises:
        SourceError: If columns or class names cannot be found.
    """
    if isinstance(dataset, (str, Path)):
        return open_source(str(dataset))
    if hasattr(dataset, "column_names") and isinstance(dataset, dict):
        raise SourceError(f"expected one split, got a dictionary of them; choose one of {', '.join(map(str, dataset))}")
    if is_hugging_face(dataset):
        return HuggingFaceSource(dataset, image_column, label_column, classes, name or "hugging-face")
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise SourceError(f"a seed dataset must have a length and items, got {type(dataset).__name__}")
    return MapSource(dataset, classes, name or type(dataset).__name__)


def is_hugging_face(dataset: Any) -> bool:
    """Whether this is a ``datasets.Dataset``, asked without importing ``datasets``."""
    return hasattr(dataset, "features") and hasattr(dataset, "with_format") and hasattr(dataset, "column_names")


def without_transforms(dataset: Any) -> Any:
    """A shallow copy of a torchvision-like dataset (or ``Subset``, ``ConcatDataset``) that yields stored pictures.

    Transforms of the label stay: they say what the labels are.
    """
    bare = copy.copy(dataset)
    for attribute in ("transform", "transforms"):
        if hasattr(bare, attribute):
            setattr(bare, attribute, None)
    if hasattr(bare, "dataset"):
        bare.dataset = without_transforms(bare.dataset)
    if isinstance(getattr(bare, "datasets", None), (list, tuple)):
        bare.datasets = [without_transforms(part) for part in bare.datasets]
    return bare


class MapSource:
    """A map-style dataset of ``(image, label)``; images as PIL, arrays or tensors."""

    def __init__(self, dataset: Any, classes: Sequence[str] | None, name: str) -> None:
        self.name = name
        self.dataset = without_transforms(dataset)
        found = classes if classes is not None else below(dataset, "classes", lambda value: not callable(value))
        if found is None or isinstance(found, (str, dict)):
            raise SourceError(f"{name} does not name its classes; pass classes=[...], in the order of the labels")
        self.classes = tuple(str(entry[0] if isinstance(entry, (tuple, list)) else entry) for entry in found)
        self._facts = facts_of(dataset)

    def is_synthetic(self, index: int) -> bool:
        """Whether it was imagined, if the dataset is one of ours, or a ``Subset`` of one."""
        return self._facts is not None and bool(self._facts.synthetic[index])

    def __len__(self) -> int:
        return len(self.dataset)

    def origin(self, index: int) -> str:
        """``row N``."""
        return f"row {index}"

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One picture as 8-bit RGB, and its class index."""
        name = self.origin(index)
        stored, label = self.stored(index)
        image = images.to_rgb(stored, name) if isinstance(stored, Image.Image) else images.from_array(stored, name)
        return image, label

    def stored(self, index: int) -> tuple[Any, int]:
        """One picture as the dataset keeps it, and its class index."""
        with images.as_bad_image(self.origin(index)):
            item = self.dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise SourceError(f"{self.name}[{index}] is no (image, label) pair but {type(item).__name__}")
        try:
            return item[0], int(item[1])
        except (TypeError, ValueError) as error:
            raise SourceError(f"{self.name}[{index}] has the label {item[1]!r}; labels must be integers") from error


def below(dataset: Any, attribute: str, fits: Callable[[Any], bool]) -> Any:
    """The first fitting attribute of a dataset, or of one that a ``Subset``, ``ConcatDataset`` or the like wraps."""
    while dataset is not None:
        value = getattr(dataset, attribute, None)
        if value is not None and fits(value):
            return value
        parts = getattr(dataset, "datasets", None)
        dataset = parts[0] if isinstance(parts, (list, tuple)) and parts else getattr(dataset, "dataset", None)
    return None


class HuggingFaceSource:
    """A ``datasets.Dataset`` with an image column and a label column."""

    revision = ""

    def __init__(
        self,
        dataset: Any,
        image_column: str | None = None,
        label_column: str | None = None,
        classes: Sequence[str] | None = None,
        name: str = "hugging-face",
    ) -> None:
        import datasets

        if not isinstance(dataset, datasets.Dataset):
            raise SourceError(
                f"{name}: expected one split (a datasets.Dataset), got {type(dataset).__name__}; choose one"
            )
        self.name = name
        if {"__key__", "__url__"} <= set(dataset.features):  # of webdataset: the latter is a place on this machine
            dataset = dataset.remove_columns("__url__")
        features = dataset.features
        pictures = [key for key, value in features.items() if isinstance(value, datasets.Image)]
        self.image_column = _column(name, "image", image_column, pictures, features)
        if not isinstance(features[self.image_column], datasets.Image):
            raise SourceError(
                f"column {self.image_column!r} of {name} holds no pictures but {features[self.image_column]}"
            )
        named = [key for key, value in features.items() if isinstance(value, datasets.ClassLabel)]
        likely = named or [
            key for key in ("label", "labels", "fine_label", "class", "cls", "target") if key in features
        ]
        self.label_column = _column(name, "label", label_column, named or likely[:1], features)
        self.rows = dataset.with_format(None).cast_column(self.image_column, datasets.Image(decode=False))
        self._features = features
        values = list(self.rows[self.label_column])
        names = classes or getattr(features[self.label_column], "names", None)
        self.classes, self._labels = _classes_and_labels(values, names)
        self._synthetic = _synthetic(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def is_synthetic(self, index: int) -> bool:
        """Whether it was imagined, if the rows are those of an expansion."""
        return bool(self._synthetic[index]) if self._synthetic else False

    def origin(self, index: int) -> str:
        """``row N``."""
        return f"row {index}"

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One picture as 8-bit RGB, and its class index."""
        cell = self.rows[index][self.image_column]
        if not cell or (cell.get("bytes") is None and cell.get("path") is None):
            raise BadImage(f"{self.origin(index)}: no picture")
        content = cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"])
        return images.read_rgb(content, self.origin(index)), self._labels[index]

    @property
    def features(self) -> Any:
        """``datasets.Features`` of the dataset as it was given."""
        return self._features

    def own(self, indices: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
        """Some of its columns, of some rows."""
        found: list[dict[str, Any]] = self.rows.select(indices).select_columns(list(names)).to_list()
        return found

    def others(self, indices: Sequence[int]) -> Any:
        """Its columns besides the picture, of some rows."""
        return self.rows.select(indices).remove_columns([self.image_column])


def source_columns(source: Source, indices: Sequence[int]) -> dict[str, bytes]:
    """A file with a Hugging Face source's own columns of some samples; none where there are only picture and label.

    A validation source adds its rows if its columns are the same.
    """
    first = source._source if isinstance(source, JoinedSource) else source
    if not isinstance(first, HuggingFaceSource) or set(first.features) == {first.image_column, first.label_column}:
        return {}
    size = len(first)
    own = [index for index in indices if index < size]
    tables = [(first.others(own), own)]
    held = [index for index in indices if index >= size]
    if held and isinstance(source, JoinedSource):
        other = source._validation
        if isinstance(other, HuggingFaceSource) and other.features == first.features:
            tables.append((other.others([index - size for index in held]), held))
    return {columns.SOURCE: columns.source_bytes(tables, first.features, first.image_column, first.label_column)}


def _synthetic(rows: Any) -> list[bool]:
    """Which rows were imagined, where they have the provenance of this package: as columns, or in one."""
    marks = ("synthetic", "seed_key", "copy", "recipe")
    record = rows.features.get("json")
    if isinstance(record, dict) and all(name in record for name in marks):
        return [bool(row["synthetic"]) for row in rows["json"]]
    named = [next((n for n in (f"gif_{name}", name) if n in rows.features), "") for name in marks]
    return [bool(value) for value in rows[named[0]]] if all(named) else []


def own_columns(source: Source) -> dict[str, Any]:
    """Features of a Hugging Face source's own columns that go into every sample; none where it has no others."""
    first = source._source if isinstance(source, JoinedSource) else source
    if not isinstance(first, HuggingFaceSource):
        return {}
    return dict(columns.own_features(first.features, first.image_column, first.label_column))


def own_members(source: Source, indices: Sequence[int]) -> dict[int, bytes] | None:
    """The source's own columns of some samples as JSON, by index; None where it has none.

    A validation source whose columns are others has null for each.
    """
    names = list(own_columns(source))
    if not names:
        return None
    parts = (source._source, source._validation) if isinstance(source, JoinedSource) else (source,)
    rows: dict[int, Any] = {index: dict.fromkeys(names) for index in indices}
    start = 0
    for part in parts:
        if isinstance(part, HuggingFaceSource) and part.features == getattr(parts[0], "features", None):
            wanted = [index for index in rows if start <= index < start + len(part)]
            rows |= zip(wanted, part.own([index - start for index in wanted], names), strict=True)
        start += len(part)
    return {index: json.dumps(row, ensure_ascii=True).encode("ascii") for index, row in rows.items()}


def _classes_and_labels(values: list[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], list[int]]:
    """Class names and indices of a label column: integers are indices already, texts are looked up, None is -1."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int) for value in known):
        top = max(known, default=-1) + 1
        if names is None and top > 10_000 and top > 10 * len(set(known)):
            raise SourceError(f"labels go up to {top - 1} with {len(set(known))} different ones; name the classes")
        return tuple(names or map(str, range(top))), [-1 if value is None else int(value) for value in values]
    if not all(isinstance(value, str) for value in known):
        raise SourceError(f"labels must be integers or texts, got {next(v for v in known if not isinstance(v, str))!r}")
    found = tuple(names or sorted(set(known)))
    order = {text: index for index, text in enumerate(found)}
    return found, [order.get(text, -1) for text in values]


def _column(name: str, role: str, asked: str | None, found: Sequence[str], features: Any) -> str:
    if asked is not None:
        if asked not in features:
            raise SourceError(f"{name} has no column {asked!r}; its columns: {', '.join(features)}")
        return asked
    if len(found) == 1:
        return found[0]
    what = "several" if found else "no"
    raise SourceError(f"{name} has {what} {role} columns ({', '.join(found or features)}); name one: {role}=COLUMN")
