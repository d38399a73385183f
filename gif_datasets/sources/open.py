"""Seed datasets: a folder per class, torchvision, Hugging Face, shards, `demo`, `photos`, or any map-style dataset.

A source is opened from a text (`open_source`) or from an object (`wrap_source`), then listed once (`base.list_seeds`),
which reads every image, gives each its content key, and names those that cannot be read.
"""

from __future__ import annotations

import inspect
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from gif_datasets.errors import MissingExtra, SourceError, one_line
from gif_datasets.io.hub_retry import scrub, without_log_lines
from gif_datasets.options import closest
from gif_datasets.shards.manifest import MANIFEST
from gif_datasets.sources.base import Source
from gif_datasets.sources.coco import CocoSource
from gif_datasets.sources.folders import FolderSource, ShardSource
from gif_datasets.sources.hugging_face import HuggingFaceSource, is_hugging_face
from gif_datasets.sources.wrapped import MapSource
from gif_datasets.sources.yolo import YoloSource
from gif_datasets.types import PLAN_FILE

SHIPPED = ("demo", "photos")
"""Datasets that the package includes, each a folder of its assets."""
ENTRY_POINTS = "gif_datasets.sources"
"""Group of entry points: a scheme, and what makes a dataset of the name and the options after it."""


def open_source(spec: str) -> Source:
    """Open a source by its text form.

    Args:
        spec: A folder with one sub-folder per class; ``torchvision:NAME?split=..&root=..``;
            ``hf:NAME?config=..&split=..&image=..&label=..`` (both also take ``classes=a,b,c``, for datasets that do
            not name their classes); ``coco:FOLDER?annotations=FILE.json`` or ``yolo:FOLDER?split=..``, whose images
            have objects; a folder of expanded shards, or ``hub:OWNER/NAME?revision=..`` of one on the Hub;
            ``demo``, or ``photos`` where no folder is called that; or ``SCHEME:NAME?option=..`` of a scheme that an
            installed package registers.

    Raises:
        SourceError: If it cannot be opened, with the reason and what would work.
    """
    if not spec.strip():
        raise SourceError("the source is an empty text; name a folder, demo, photos, torchvision:NAME or hf:NAME")
    folder = Path(spec)
    if spec == "demo" or (spec in SHIPPED and not folder.is_dir()):  # many have a folder of photos
        return FolderSource(Path(str(files("gif_datasets"))) / "assets" / spec, spec)
    scheme, colon, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if colon and scheme in _SCHEMES:
        if not name:
            raise SourceError(f"{spec!r} names no dataset; say {scheme}:NAME")
        return _SCHEMES[scheme](name, options)
    if not folder.is_dir():
        if colon and (registered := entry_points(group=ENTRY_POINTS, name=scheme)):
            return _open_registered(next(iter(registered)), spec, name, options)
        raise SourceError(
            f"no such folder: {spec!r}; a source is a folder with one sub-folder per class, demo, photos,"
            " torchvision:NAME or hf:NAME"
        )
    called = folder.name or folder.resolve().name or "folder"  # of ".", what it is called
    if (folder / MANIFEST).is_file() and (folder / PLAN_FILE).is_file():
        return ShardSource(folder, called)
    return FolderSource(folder, called)


def wrap_source(
    dataset: Any,
    classes: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    name: str | None = None,
) -> Source:
    """Wrap a torchvision or Hugging Face dataset, or any map-style dataset of ``(image, label)``.

    The dataset's own transforms are set aside: seeds are read as they are stored, and upright.

    Args:
        dataset: The dataset; a text or path is opened by :func:`open_source`.
        classes: Class names, when the dataset does not say.
        image_column: Column of the images of a Hugging Face dataset, when there are several.
        label_column: Column of its labels, likewise.
        name: What to call it.

    Raises:
        SourceError: If columns or class names cannot be found.
    """
    if isinstance(classes, str):
        raise SourceError(f"classes must be a list of names, got the text {classes!r}")
    if isinstance(dataset, (str, Path)):
        if classes is not None or image_column is not None or label_column is not None:
            raise SourceError(
                f"{dataset}: classes and columns are given with dataset objects; a text contains them itself,"
                " as in hf:NAME?image=..&label=..&classes=a,b, and a folder by its sub-folders"
            )
        return open_source(str(dataset))
    if hasattr(dataset, "column_names") and isinstance(dataset, dict):
        raise SourceError(f"expected one split, got a dictionary of them; choose one of {', '.join(map(str, dataset))}")
    if is_hugging_face(dataset):
        return HuggingFaceSource(dataset, image_column, label_column, classes, name or "hugging-face")
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise SourceError(f"a seed dataset must have a length and items, got {type(dataset).__name__}")
    return MapSource(dataset, classes, name or type(dataset).__name__)


def _open_torchvision(name: str, options: dict[str, str]) -> Source:
    import torchvision.datasets as tvd

    known = [entry for entry in tvd.__all__ if inspect.isclass(getattr(tvd, entry))]
    if name not in known:
        raise SourceError(f"unknown torchvision dataset {name!r}{closest(name, known)}")
    factory, classes = getattr(tvd, name), _class_names(options)
    accepted = _parameters(factory)
    _check_options(f"torchvision:{name}", options, (*accepted, "classes"))
    values = {key: _scalar(value) for key, value in options.items() if key != "classes"}
    if "root" in accepted:
        values.setdefault("root", "data")
    try:
        dataset = factory(**values)
    except Exception as error:  # each dataset raises its own kinds
        raise SourceError(f"torchvision:{name}: {one_line(error)}") from error
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
    known = ("config", "split", "image", "label", "revision", "classes", "objects", "boxes")
    _check_options(f"hf:{name}", options, known)
    try:
        # what load_dataset does; the builder knows which commit it reads, from the Hub or from the cache
        with without_log_lines():
            builder = datasets.load_dataset_builder(name, options.get("config"), revision=options.get("revision"))
            builder.download_and_prepare()
        dataset = builder.as_dataset(split=options.get("split", "train"))
    except Exception as error:  # network, parsing and schema errors of many kinds
        raise SourceError(f"hf:{name}: {_told(error)}") from None  # its own text may show a password
    called = Path(name).name if Path(name).exists() else f"hf:{name}"  # a local path is nobody's name on the Hub
    source = HuggingFaceSource(
        dataset,
        options.get("image"),
        options.get("label"),
        _class_names(options),
        called,
        options.get("objects"),
        options.get("boxes", "xywh"),
    )
    source.revision = str(builder.hash or "") if builder.repo_id and not Path(name).exists() else ""
    return source


def _told(error: Exception) -> str:
    """The text of an error of the Hub's libraries, without secrets."""
    return scrub(one_line(error, 10_000))[:300]


def _open_coco(name: str, options: dict[str, str]) -> Source:
    _check_options(f"coco:{name}", options, ("annotations",))
    folder, file = Path(name), options.get("annotations")
    if not folder.is_dir():
        raise SourceError(f"no such folder: {name!r}; say coco:FOLDER?annotations=FILE.json")
    within = None if file is None else folder / file
    path = Path(file) if file is not None and within is not None and not within.is_file() else within
    return CocoSource(folder, path, folder.name or folder.resolve().name)


def _open_yolo(name: str, options: dict[str, str]) -> Source:
    _check_options(f"yolo:{name}", options, ("split", "classes"))
    folder = Path(name)
    if not folder.is_dir():
        raise SourceError(f"no such folder: {name!r}; say yolo:FOLDER?split=train")
    called = folder.name or folder.resolve().name
    return YoloSource(folder, options.get("split", "train"), _class_names(options), called)


def _open_hub(name: str, options: dict[str, str]) -> Source:
    _check_options(f"hub:{name}", options, ("revision",))
    from gif_datasets.io.hub import download

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
        raise SourceError(f"{spec.partition('?')[0]}: {one_line(error)}") from error
    return wrap_source(dataset, name=spec.partition("?")[0])  # options may hold what is nobody's business


_SCHEMES: dict[str, Callable[[str, dict[str, str]], Source]] = {
    "torchvision": _open_torchvision,
    "hf": _open_hugging_face,
    "hub": _open_hub,
    "coco": _open_coco,
    "yolo": _open_yolo,
}


def _check_options(spec: str, options: Iterable[str], accepted: Sequence[str]) -> None:
    for option in options:
        if option not in accepted:
            raise SourceError(f"{spec} takes no {option!r}; it takes {', '.join(accepted)}")


def _class_names(options: dict[str, str]) -> tuple[str, ...] | None:
    return tuple(options["classes"].split(",")) if "classes" in options else None


def _scalar(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text
