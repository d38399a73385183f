"""A Croissant description of the published files and their contents, for readers of the MLCommons format.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, version 1.0. Addresses are relative to the
description, so that it is valid for a folder on a disk and for its copy on the Hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gif_datasets.io import atomic
from gif_datasets.shards import card
from gif_datasets.shards import tar as shards
from gif_datasets.shards.columns import Columns
from gif_datasets.shards.manifest import Manifest
from gif_datasets.types import OBJECTS

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MEDIA = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
_TYPES = {"bool": "sc:Boolean", "int64": "sc:Integer", "float64": "sc:Float", "string": "sc:Text"}
_OBJECT_TYPES = {
    "width": "sc:Integer",
    "height": "sc:Integer",
    "bbox": "sc:Float",
    "category": "sc:Integer",
    "id": "sc:Integer",
    "iscrowd": "sc:Boolean",
    "polygons": "sc:Float",
    "counts": "sc:Integer",
}
_RECORDS = "*-[0-9][0-9][0-9][0-9].json"
"""Pattern of the provenance among the members of a shard; it matches no other JSON."""


@dataclass(frozen=True)
class Description:
    """The files, and their contents.

    Attributes:
        distribution: Files and file sets.
        records: Record sets that are read from the files.
    """

    distribution: list[dict[str, Any]]
    records: list[dict[str, Any]]


def describe(manifest: Manifest, name: str, licence: str, published: str, description: Description) -> bytes:
    """Describe a dataset.

    Args:
        manifest: The expanded folder's manifest.
        name: Its name.
        licence: Its licence, or ``"unknown"``.
        published: The day of its first publication, ``YYYY-MM-DD``.
        description: The files and their contents.

    Returns:
        JSON-LD: all files with their digests, and record sets of splits, of classes, and of the contents of the files.
    """
    value = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": (
            f"{manifest.originals} real and {manifest.synthetic} synthetic images of"
            f" {len(manifest.classes)} classes, made by gif_datasets"
        ),
        "license": licence,
        "url": f"https://huggingface.co/datasets/{name}",
        "version": "1.0.0",
        "datePublished": published,
        "citeAs": "https://arxiv.org/abs/2211.13976",
        "distribution": description.distribution,
        "recordSet": [_splits(manifest.splits), _classes(manifest.classes), *description.records],
    }
    return atomic.json_bytes(value)


def of_shards(manifest: Manifest) -> Description:
    """Images, labels and provenance in shards; the key says which sample they belong to.

    They are not joined, and a record is one text: mlcroissant 1.1 cannot join file sets, and cannot read fields of JSON
    files in an archive.
    """
    suffix = manifest.plan.recipe.image_format
    tars = [_file(s.name, s.bytes, s.sha256, "application/x-tar") for s in manifest.shards]
    within = [{"@id": tar["@id"]} for tar in tars]
    sets = [
        _files("pictures", f"*.{suffix}", _MEDIA[suffix], within),
        _files("labels", "*.cls", "text/plain", within),
        _files("provenance_files", _RECORDS, "application/json", within),
    ]
    records = [
        _members("samples", "pictures", suffix, "image", "sc:ImageObject"),
        _members("sample_labels", "labels", "cls", "label", "sc:Integer"),
        _members("provenance", "provenance_files", "json", "record", "sc:Text", _record_names(manifest)),
    ]
    if own := manifest.plan.own_columns:
        names = [feature["name"] for feature in own["features"]]
        sets.append(_files("source_files", f"*.{shards.SOURCE_MEMBER}", "application/json", within))
        records.append(_members("source_columns", "source_files", shards.SOURCE_MEMBER, "record", "sc:Text", names))
    return Description([*tars, *sets], records)


def of_parquet(listed: Mapping[str, Mapping[str, Any]], columns: Columns) -> Description:
    """Images, labels and provenance in rows of Parquet files, which are given with their sizes and digests."""
    kind = "application/x-parquet"
    files = [_file(name, entry["bytes"], entry["sha256"], kind) for name, entry in listed.items()]
    rows = {**_files("parquet_files", "data/*.parquet", kind, []), "description": "all of the above"}
    provenance = {columns.record[field]: _TYPES[kind] for field, kind in card.RECORD if field != "label"}
    fields = [
        _field("samples/key", "sc:Text", _column(columns.key)),
        _split("samples", _column(columns.key)),
        _field("samples/image", "sc:ImageObject", {**_column(columns.image), "transform": _path("bytes")}),
        _field("samples/label", "sc:Integer", _column(columns.label)),
        *(_field(f"samples/{name}", kind, _column(name)) for name, kind in provenance.items()),
        *_objects(columns),
    ]
    return Description([*files, rows], [_record_set("samples", fields, "samples/key")])


def _record_names(manifest: Manifest) -> list[str]:
    """Fields of a record."""
    return [*(name for name, _ in card.RECORD), *([OBJECTS] if manifest.plan.objects else [])]


def _objects(columns: Columns) -> list[dict[str, Any]]:
    """The parts of the column of objects: lists with one entry per object, except the image's width and height.

    Boxes and outlines are lists of numbers within that: version 1.0 has no type for them.
    """
    if not columns.objects:
        return []
    named = ", ".join(f"{number} {name}" for number, name in enumerate(columns.object_classes))
    return [
        {
            **_field(f"samples/{columns.objects}/{part}", kind, {**_column(columns.objects), "transform": _path(part)}),
            **({} if part in ("width", "height") else {"repeated": True}),
            **({"description": f"the number of its class: {named}"} if part == "category" else {}),
        }
        for part, kind in _OBJECT_TYPES.items()
        if part in columns.features[columns.objects]
    ]


def _path(name: str) -> dict[str, str]:
    return {"jsonPath": name}


def _file(name: str, size: int, sha256: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def _files(name: str, pattern: str, media: str, within: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        **({"containedIn": within} if within else {}),
        "encodingFormat": media,
        "includes": pattern,
    }


def _splits(names: Sequence[str]) -> dict[str, Any]:
    rows = [{"splits/name": name} for name in names]
    return {
        **_record_set("splits", [_field("splits/name", "sc:Text")], "splits/name"),
        "dataType": "cr:Split",
        "data": rows,
    }


def _classes(names: Sequence[str]) -> dict[str, Any]:
    fields = [_field("classes/label", "sc:Integer"), _field("classes/name", "sc:Text")]
    rows = [{"classes/label": label, "classes/name": name} for label, name in enumerate(names)]
    return {**_record_set("classes", fields, "classes/label"), "dataType": "sc:Enumeration", "data": rows}


def _members(name: str, files: str, suffix: str, part: str, kind: str, columns: Sequence[str] = ()) -> dict[str, Any]:
    """One member of each sample, by the sample's key; ``columns`` are its fields, if it is JSON."""
    source = {"fileSet": {"@id": files}}
    named = {**source, "extract": {"fileProperty": "filename"}}
    content = _field(f"{name}/{part}", kind, {**source, "extract": {"fileProperty": "content"}})
    if columns:
        content["description"] = f"JSON with {', '.join(columns)}"
    fields = [
        _field(f"{name}/key", "sc:Text", {**named, "transform": {"regex": f"(.+)\\.{re.escape(suffix)}$"}}),
        _split(name, named),
        _field(f"{name}/seed_index", "sc:Integer", {**named, "transform": {"regex": r".+-(\d+)-\d+\."}}),
        _field(f"{name}/copy", "sc:Integer", {**named, "transform": {"regex": r".+-\d+-(\d+)\."}}),
        content,
    ]
    return _record_set(name, fields, f"{name}/key")


def _split(name: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """The split, which is the first part of each key."""
    return _field(f"{name}/split", "sc:Text", {**source, "transform": {"regex": "([A-Za-z0-9_]+)-.+"}})


def _column(name: str) -> dict[str, Any]:
    return {"fileSet": {"@id": "parquet_files"}, "extract": {"column": name}}


def _record_set(name: str, fields: list[dict[str, Any]], key: str) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "key": {"@id": key}, "field": fields}


def _field(name: str, kind: str, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    given = {"source": source} if source else {}
    return {"@type": "cr:Field", "@id": name, "name": name.rpartition("/")[2], "dataType": kind, **given}
