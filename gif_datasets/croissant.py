"""A Croissant description of a folder of shards: what lies in which file, for readers of the MLCommons format.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, version 1.0. Addresses are relative to the
description, so that it holds for a folder on a disk and for its copy on the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gif_datasets import atomic, card, shards

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


def describe(manifest: Mapping[str, Any], name: str, licence: str) -> bytes:
    """Describe a folder of shards.

    Args:
        manifest: Its manifest.
        name: What to call it.
        licence: Its licence, or ``"unknown"``.

    Returns:
        JSON-LD: the shards with their digests, and record sets of classes, of pictures and of labels.
    """
    suffix = card.suffix(manifest)
    tars = [_file(shard) for shard in shards.all_shards(manifest)]
    within = [{"@id": tar["@id"]} for tar in tars]
    value = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": (
            f"{manifest['originals']} real and {manifest['synthetic']} synthetic pictures of"
            f" {len(manifest['classes'])} classes, made by gif_datasets"
        ),
        "license": licence,
        "url": f"https://huggingface.co/datasets/{name}",
        "version": "1.0.0",
        "citeAs": "https://arxiv.org/abs/2211.13976",
        "distribution": [
            *tars,
            _files("pictures", suffix, _MEDIA[suffix], within),
            _files("labels", "cls", "text/plain", within),
        ],
        "recordSet": [
            _classes(manifest["classes"]),
            _members("samples", "pictures", suffix, "image", "sc:ImageObject"),
            _members("sample_labels", "labels", "cls", "label", "sc:Integer"),
        ],
    }
    return atomic.json_bytes(value)


def _file(shard: shards.Shard) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": shard.name,
        "name": shard.name,
        "contentUrl": shard.name,
        "contentSize": f"{shard.bytes} B",
        "encodingFormat": "application/x-tar",
        "sha256": shard.sha256,
    }


def _files(name: str, suffix: str, media: str, within: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "containedIn": within,
        "encodingFormat": media,
        "includes": f"*.{suffix}",
    }


def _classes(names: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "field": [_field("classes/label", "sc:Integer"), _field("classes/name", "sc:Text")],
        "data": [{"classes/label": label, "classes/name": name} for label, name in enumerate(names)],
    }


def _members(name: str, files: str, suffix: str, part: str, kind: str) -> dict[str, Any]:
    """One part of each sample, by the sample's key. Parts are not joined here: mlcroissant 1.1 joins no file sets."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/key"},
        "field": [
            _field(f"{name}/key", "sc:Text", _member(files, "filename", suffix)),
            _field(f"{name}/{part}", kind, _member(files, "content")),
        ],
    }


def _member(files: str, part: str, suffix: str = "") -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": files}, "extract": {"fileProperty": part}}
    return {**source, "transform": {"regex": f"(.+)\\.{suffix}$"}} if suffix else source


def _field(name: str, kind: str, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    given = {"source": source} if source else {}
    return {"@type": "cr:Field", "@id": name, "name": name.rpartition("/")[2], "dataType": kind, **given}
