"""The dataset card: YAML that readers parse, and a text for people."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from gif_datasets.methods import METHODS
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import tar
from gif_datasets.types import Provenance

SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
_JSON_TYPES = {"bool": "bool", "int": "int64", "float": "float64", "str": "string"}
RECORD = tuple((spec.name, _JSON_TYPES[str(spec.type)]) for spec in dataclasses.fields(Provenance))
"""Name and type of every provenance column, as Hugging Face names types."""


def render(manifest: dict[str, Any], head: str | None = None, load: str | None = None) -> str:
    """Write the card of an expanded folder from its manifest.

    Args:
        manifest: The manifest.
        head: YAML to put first, and
        load: how to load it, when it is the card of an export instead.
    """
    options = manifest["plan"]["recipe"]["options"]
    prior = manifest["plan"]["recipe"]["prior"]
    versions = manifest["plan"]["recipe"]["versions"]
    classes = ", ".join(plain(name) for name in manifest["classes"])
    return f"""---
{_front_matter(manifest) if head is None else head}---

# {plain(manifest["source"])}, expanded {options["ratio"]}x by `{options["method"]}`

{manifest["originals"]} real and {manifest["synthetic"]} synthetic pictures of {len(manifest["classes"])} classes.
{_held_out(manifest)}{left_out(manifest)}
**{manifest["synthetic"]} of the {manifest["samples"]} pictures here are synthetic.** They were made from real ones by
[gif_datasets](https://pypi.org/project/gif-datasets/) and carry their seed's label; nobody has checked each.
`{_column(head)}synthetic` tells which is which, and `{_column(head)}seed_key` names the real picture behind each.

Classes: {classes}

{"" if head else _PREVIEW}## How it was made

{how(options["method"])}

{option_table(options, {**revision(manifest), "prior": f"{prior['name']} (digest {prior['digest'][:16]})"})}
| libraries | {", ".join(f"{name} {number}" for name, number in sorted(versions.items()))} |
| plan | `{manifest["plan_hash"]}` |

## Load

```python
{_load(manifest) if load is None else load}```

## Licences

The licence of the seed pictures is not known to the program that wrote this card; the synthetic ones derive from them
and from the prior. Find out both before you share this set.
"""


def left_out(manifest: Mapping[str, Any]) -> str:
    """How many samples were rejected, and are not there; nothing, where none was."""
    count = len(manifest.get(manifests.LEFT_OUT, ()))
    were = "more was" if count == 1 else "more were"
    return f"\n{count} {were} looked at, rejected, and left out.\n" if count else ""


def title(manifest: Mapping[str, Any]) -> str:
    """What pages about a set are called, as plain text."""
    options = manifest["plan"]["recipe"]["options"]
    return f"{manifest['source']}, expanded {options['ratio']}x by {options['method']}"


def revision(manifest: Mapping[str, Any]) -> dict[str, str]:
    """A row for :func:`option_table`: the commit of a source that was read from the Hub."""
    found = manifest["plan"].get("source_revision")
    return {"revision of the seeds": str(found)} if found else {}


def how(method: str) -> str:
    """How a method's pictures were made."""
    return METHODS[method].how if method in METHODS else f"By the method `{code(method)}`."


def option_table(options: Mapping[str, Any], first: Mapping[str, str]) -> str:
    """Rows of a Markdown table of options, after ``first``."""
    rows = [*first.items(), *((name, json.dumps(value)) for name, value in sorted(options.items()))]
    return "\n".join(["| option | value |", "|---|---|", *(f"| {name} | `{code(value)}` |" for name, value in rows)])


_PREVIEW = "![Seeds and their imagined copies](preview.png)\n\n"


def _column(head: str | None) -> str:
    return "json." if head is None else ""


def _load(manifest: dict[str, Any]) -> str:
    return f"""from datasets import load_dataset
dataset = load_dataset("PATH_OR_REPO", split="{manifest["split"]}")   # columns: {suffix(manifest)}, cls, json

import gif_datasets
dataset = gif_datasets.load_expanded("PATH_OR_REPO")        # (image, label) pairs
"""


def _held_out(manifest: dict[str, Any]) -> str:
    if not manifest["validation"]:
        return ""
    return f"""
The split `validation` holds {manifest["validation"]} other real pictures, as they were; none of them was expanded, and
no picture of it is in `{manifest["split"]}`.
"""


def shard_columns(manifest: Mapping[str, Any]) -> str:
    """YAML of the features of shards; the only free texts in it are class names, which are quoted."""
    record = "".join(f"    - name: {name}\n      dtype: {kind}\n" for name, kind in RECORD)
    return f"""  - name: {suffix(manifest)}
    dtype: image
  - name: cls
{class_label(manifest["classes"])}  - name: json
    struct:
{record}{_own(manifest)}  - name: __key__
    dtype: string
  - name: __url__
    dtype: string
"""


def _own(manifest: Mapping[str, Any]) -> str:
    own = manifest["plan"].get("own_columns")
    if not own:
        return ""
    features = json.loads(json.dumps(own["features"], sort_keys=True))  # as they come back from a plan.json
    return f"  - name: {tar.OWN}\n    struct:\n{yaml_lines(features, '    ')}"


def _front_matter(manifest: dict[str, Any]) -> str:
    parts = []
    for split in manifests.splits(manifest):
        listed = manifests.manifest_shards(manifest, split)
        samples, size = sum(shard.samples for shard in listed), sum(shard.bytes for shard in listed)
        parts.append(Part(split, f"data/{split}-*.tar", samples, size))
    return front_matter(("webdataset",), parts, shard_columns(manifest))


@dataclasses.dataclass(frozen=True)
class Part:
    """A split as the card names it: its files, samples and bytes."""

    split: str
    path: str
    samples: int
    bytes: int


def class_label(classes: Sequence[str]) -> str:
    """YAML of a ClassLabel's type."""
    names = "".join(f"          '{index}': {quoted(name)}\n" for index, name in enumerate(classes))
    return f"""    dtype:
      class_label:
        names:
{names}"""


def front_matter(tags: Sequence[str], parts: Sequence[Part], columns: str, for_builder: bool = False) -> str:
    """The card's YAML, without its fences.

    Args:
        tags: What to tag it with, besides the usual.
        parts: The splits.
        columns: YAML of the features.
        for_builder: Give them to the builder too; the one for picture folders takes no notice of others.
    """
    total_bytes = sum(part.bytes for part in parts)
    tagged = "".join(f"- {tag}\n" for tag in tags)
    files = "".join(f'  - split: "{part.split}"\n    path: {part.path}\n' for part in parts)
    told = f"  features:\n{columns}" if for_builder else ""
    counts = "".join(split_lines(part.split, part.samples, part.bytes) for part in parts)
    return f"""task_categories:
- image-classification
size_categories:
- {size_category(sum(part.samples for part in parts))}
tags:
- synthetic
- gif-datasets
{tagged}configs:
- config_name: default
  data_files:
{files}{told}dataset_info:
  features:
{columns}  splits:
{counts}  download_size: {total_bytes}
  dataset_size: {total_bytes}
"""


def size_category(samples: int) -> str:
    """What the Hub calls a set of so many samples."""
    return next((name for bound, name in SIZES if samples < bound), "1B<n<10B")


def split_lines(split: str, samples: int, size: int) -> str:
    """YAML of a split's counts below ``splits:``."""
    return f'  - name: "{split}"\n    num_bytes: {size}\n    num_examples: {samples}\n'


def suffix(manifest: Mapping[str, Any]) -> str:
    """Suffix of the pictures, which is their column's name too."""
    return str(manifest["plan"]["recipe"]["options"]["image_format"])


def quoted(text: str) -> str:
    """A double-quoted YAML scalar; all but printable ASCII is escaped, astral characters as one."""
    escaped = (
        c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
        for c in text
    )
    return '"' + "".join(escaped) + '"'


def yaml_lines(value: Any, indent: str) -> str:
    """Dicts and lists of plain values as block YAML; every text in it is quoted."""
    if isinstance(value, dict):
        return "".join(f"{indent}{quoted(str(name))}:{_yaml_inner(item, indent)}" for name, item in value.items())
    texts = (
        yaml_lines(item, f"{indent}  ") if isinstance(item, dict) else f"{indent}  {_scalar(item)}\n" for item in value
    )
    return "".join(f"{indent}- {text[len(indent) + 2 :]}" for text in texts)


def _yaml_inner(value: Any, indent: str) -> str:
    if isinstance(value, (dict, list)) and value:
        return "\n" + yaml_lines(value, f"{indent}  " if isinstance(value, dict) else indent)
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def visible(text: str) -> str:
    """User text in one line, without what does not show or changes the direction of what follows."""
    return "".join(c for c in " ".join(str(text).split()) if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))


def code(text: str) -> str:
    """User text for a code span in a table."""
    return visible(text).replace("`", "'").replace("|", "\\|")


def plain(text: str) -> str:
    """User text that cannot become markup: Markdown's and HTML's own characters are escaped; no address is a link."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&@:]|(?<=www)\.)", r"\\\1", visible(text))


def percent(share: float | None) -> str:
    """A share for people.

    Example:
        >>> percent(0.125), percent(None)
        ('12.5%', 'not known')
    """
    return "not known" if share is None else f"{share:.1%}"
