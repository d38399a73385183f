"""The columns of an expanded set as Hugging Face features: the source's own, the class, and provenance.

A source's columns keep their names and types, so that its rows and the expanded ones can be put together; a column of
ours whose name is taken gets ``gif_`` before it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gif_datasets.errors import MissingExtra, ShardError, one_line
from gif_datasets.io.parsing import read_json
from gif_datasets.shards import card
from gif_datasets.types import OBJECTS

SOURCE = "source.parquet"
"""The source's own columns in an expanded folder, a row for each of its images that is there."""
SEED_INDEX = "gif_seed_index"
_ABOUT = b"gif_datasets"


@dataclass(frozen=True)
class Columns:
    """What a row of an expanded set is made of.

    Attributes:
        features: ``datasets.Features`` of all columns.
        image, label, key: Names of the image's, the class's and the sample's key's column.
        record: Column of each field of the provenance.
        own: The source's columns besides the image.
        objects: The column of what is kept of objects; empty without.
        object_classes: Names of their classes.
    """

    features: Any
    image: str
    label: str
    key: str
    record: Mapping[str, str]
    own: tuple[str, ...]
    objects: str = ""
    object_classes: tuple[str, ...] = ()

    def objects_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What a row has of the objects of a sample, whose categories are numbers there."""
        kept = record[OBJECTS]
        return {**kept, "category": list(map(self.object_classes.index, kept["category"]))}

    def row(self, picture: Any, key: str, record: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """One row.

        Args:
            picture: The image's cell.
            key: Key of the sample.
            record: Its provenance.
            own: The source's columns of its seed; what is missing is None.
        """
        columns = {name: own.get(name) for name in self.own}
        values = {column: record[field] for field, column in self.record.items()}
        values |= {self.objects: self.objects_of(record)} if self.objects else {}
        return {**columns, self.image: picture, self.label: record["label"], self.key: key, **values}


@dataclass(frozen=True)
class SourceColumns:
    """Columns of a Hugging Face source, as they lie in an expanded folder.

    Attributes:
        features: ``datasets.Features`` of the source, the image's included.
        image, label: Its columns of images and labels.
        rows: The columns besides the image, by index of the seed.
    """

    features: Any
    image: str
    label: str
    rows: Mapping[int, Mapping[str, Any]]


def expanded_columns(
    classes: Sequence[str], source: SourceColumns | None = None, kept: Mapping[str, Any] | None = None
) -> Columns:
    """The columns of an expanded set.

    Args:
        classes: Class names, in label order.
        source: What a Hugging Face source has of its own; ``image`` and ``label`` otherwise.
        kept: What a plan says of objects, where they are kept.
    """
    datasets = _datasets()
    named = datasets.ClassLabel(names=list(classes))
    features: dict[str, Any] = {"image": datasets.Image(), "label": named}
    image, label = "image", "label"
    if source is not None:
        features, image, label = dict(source.features), source.image, source.label
        # texts, or numbers without names; or none, where the objects say the class
        if getattr(features.get(label), "names", None) != list(classes):
            label = _free("label", features)
            features[label] = named
    own = tuple(name for name in source.features if name != image) if source else ()
    key = _free("key", features)
    features[key] = datasets.Value("string")
    record = {}
    for field, kind in card.RECORD:
        if field != "label":
            record[field] = _free(field, features)
            features[record[field]] = datasets.Value(kind)
    objects = _free(OBJECTS, features) if kept else ""
    if kept:
        features[objects] = object_features(kept)
    names = tuple(kept["classes"]) if kept else ()
    return Columns(datasets.Features(features), image, label, key, record, own, objects, names)


def object_features(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Features of the column of objects; ``kept`` is what a plan says of them."""
    datasets = _datasets()
    whole = datasets.Value("int64")
    masks = {
        "polygons": datasets.List(datasets.List(datasets.List(datasets.Value("float64")))),
        "counts": datasets.List(datasets.List(whole)),
    }
    return {
        "width": whole,
        "height": whole,
        "bbox": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
        "category": datasets.List(datasets.ClassLabel(names=list(kept["classes"]))),
        "id": datasets.List(whole),
        "iscrowd": datasets.List(datasets.Value("bool")),
        **(masks if kept["keep"] == "masks" else {}),
    }


def _free(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name = f"gif_{name}"
    return name


def own_features(features: Any, image: str, label: str) -> Any:
    """The columns of a source that go into :data:`~gif_datasets.shards.tar.SOURCE_MEMBER` of every sample.

    Those that JSON holds as they are: images, sounds, dates and arrays are in :data:`SOURCE` only.
    """
    if set(features) <= {image, label}:
        return {}
    return {name: feature for name, feature in features.items() if name != image and _is_plain(feature)}


def _is_plain(feature: Any) -> bool:
    datasets = _datasets()
    if isinstance(feature, dict):
        return all(map(_is_plain, feature.values()))
    if isinstance(feature, (list, datasets.List, datasets.LargeList)):
        return _is_plain(feature[0] if isinstance(feature, list) else feature.feature)
    return isinstance(feature, datasets.ClassLabel) or (
        isinstance(feature, datasets.Value)
        and re.fullmatch(r"bool|u?int\d+|float\d+|(large_)?string", feature.dtype) is not None
    )


def yaml_list(features: Any) -> list[Any]:
    """Features as what a card's ``features:`` holds."""
    return list(_datasets().Features(features)._to_yaml_list())  # what datasets itself writes into cards


# --- the source's own, in a folder --------------------------------------------------------------------------------


def source_bytes(tables: Sequence[tuple[Any, Sequence[int]]], features: Any, image: str, label: str) -> bytes:
    """What :data:`SOURCE` holds: columns of the source besides the image, images in them with their content.

    Args:
        tables: Datasets, without the image, and the index of the seed that each row is of.
        features: All features of the source.
        image: Its column of images.
        label: Its column of labels.
    """
    datasets = _datasets()
    import pyarrow
    import pyarrow.parquet

    kinds = datasets.Features({SEED_INDEX: datasets.Value("int64"), **{k: features[k] for k in features if k != image}})
    parts = []
    for rows, indices in tables:
        table = datasets.table.embed_table_storage(rows.with_format("arrow")[:])
        numbers = pyarrow.array(indices, type=pyarrow.int64())
        parts.append(pyarrow.table([numbers, *table.columns], schema=kinds.arrow_schema))
    about = {"image": image, "label": label, "features": features.to_dict()}
    table = pyarrow.concat_tables(parts)
    return _table_bytes(
        table.replace_schema_metadata({**table.schema.metadata, _ABOUT: json.dumps(about).encode("ascii")})
    )


def merged_source(contents: Sequence[bytes], without: Collection[int]) -> bytes:
    """What :data:`SOURCE` holds for the rows of several files of one source, but for those of some seeds."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    parts = [pyarrow.parquet.read_table(io.BytesIO(content)) for content in contents]
    table = pyarrow.concat_tables([part.replace_schema_metadata(parts[0].schema.metadata) for part in parts])
    gone = pyarrow.compute.is_in(table.column(SEED_INDEX), pyarrow.array(sorted(without), type=pyarrow.int64()))
    return _table_bytes(table.filter(pyarrow.compute.invert(gone)))


def _table_bytes(table: Any) -> bytes:
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_source(folder: Path) -> SourceColumns | None:
    """The source's own columns in an expanded folder; None if it keeps none.

    Raises:
        ShardError: If they are damaged.
    """
    path = folder / SOURCE
    if not path.is_file():
        return None
    datasets = _datasets()
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        about = read_json(table.schema.metadata[_ABOUT])
        features = datasets.Features.from_dict(about["features"])
        image, label = about["image"], about["label"]
        wanted = [SEED_INDEX, *(name for name in features if name != image)]
        if table.column_names != wanted or not isinstance(label, str) or image not in features:
            raise ValueError("its columns are not those that it names")
        indices = table.column(SEED_INDEX).to_pylist()
        own = table.drop_columns([SEED_INDEX])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as error:
        raise ShardError(f"{path} is damaged: {one_line(error, 200)}") from error
    rows = {index: place for place, index in enumerate(indices)}
    return SourceColumns(features, image, label, _Rows(own, rows))


class _Rows(Mapping[int, Mapping[str, Any]]):
    """Rows of a table by index of the seed, made into Python's types when asked for."""

    def __init__(self, table: Any, places: dict[int, int]) -> None:
        self._table, self._places = table, places

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row: dict[str, Any] = self._table.slice(self._places[index], 1).to_pylist()[0]
        return row

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hf") from error
    return datasets
