"""The dataset card: metadata for programs, and a text for people."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from gif_datasets.config import readable_options
from gif_datasets.methods import AND, METHODS
from gif_datasets.shards import tar
from gif_datasets.shards.card_yaml import card_yaml
from gif_datasets.shards.image_sizes import MOST, sizes_text
from gif_datasets.shards.manifest import ORIGINAL_FILES, Manifest
from gif_datasets.types import OBJECTS, Provenance

SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
MOST_ITEMS = 60
"""Of an option that is a list, as people read it; a preset has 50 prompts."""
_JSON_TYPES = {"bool": "bool", "int": "int64", "float": "float64", "str": "string"}
RECORD = tuple(
    (spec.name, _JSON_TYPES[str(spec.type)]) for spec in dataclasses.fields(Provenance) if spec.name != OBJECTS
)
"""Name and type of each provenance column that every expansion has; the types are those of Hugging Face."""


def render(manifest: Manifest, head: Mapping[str, Any] | None = None, load: str | None = None) -> str:
    """Write the card of an expanded folder from its manifest.

    Args:
        manifest: The manifest.
        head: The metadata of an export, if the card is for one.
        load: Code that loads that export.
    """
    recipe = manifest.plan.recipe
    options, prior, versions = recipe.options, recipe.prior, recipe.versions
    classes = ", ".join(plain(name) for name in manifest.classes)
    first = {
        **revision(manifest),
        **own_choices(manifest),
        **merged(manifest),
        "prior": f"{prior.name} (digest {prior.digest[:16]})",
    }
    return f"""---
{card_yaml(_metadata(manifest) if head is None else head)}---

# {plain(manifest.source)}, expanded {recipe.expanded} by `{code(recipe.method)}`

{manifest.originals} real and {manifest.synthetic} synthetic images of {len(manifest.classes)} classes.
{about_validation(manifest)}{left_out(manifest)}
**{manifest.synthetic} of the {manifest.samples} images here are synthetic.** They were made from real images by
[gif_datasets](https://pypi.org/project/gif-datasets/) and have the label of their seed; nobody has checked each.
`{_column(head)}synthetic` says which images are synthetic, `{_column(head)}seed_key` names the real image behind each.

Classes: {classes}
{about_sizes(manifest)}
{"" if head else _PREVIEW}## How it was made

{how(options["method"])}

{option_table(options, first)}
| libraries | {", ".join(f"{name} {number}" for name, number in sorted(versions.items()))} |
| plan | `{manifest.plan_hash}` |

## Load

```python
{_load(manifest) if load is None else load}```

## Licences

The program that wrote this card does not know the licence of the seed images. The synthetic images derive from them and
from the prior. Find out both licences before you share this dataset.
"""


def about_sizes(manifest: Manifest) -> str:
    """A line on the sizes of the images; empty if they are not known."""
    sizes = sizes_text(manifest.image_sizes)
    return f"\nImage sizes, width x height, of at most {MOST} of each kind: {sizes}.\n" if sizes else ""


def left_out(manifest: Manifest) -> str:
    """How many samples were rejected and left out, and how many seeds were withdrawn; empty without any."""
    own, *others = manifest.plan.generations, *manifest.plan.merged_generations
    unmixed = sum(generation.unmixed for generation in itertools.chain(own, *others))
    counts = [sum(generation.withdrawn for generation in part) for part in others]
    gone = sum(generation.withdrawn for generation in own) + max(counts, default=0)
    texts = [
        f"{count} more {'was' if count == 1 else 'were'} {what}.\n"
        for count, what in (
            (len(manifest.left_out) - unmixed, "rejected by a person and left out"),
            (gone, "real images of earlier generations, which left with their copies"),
        )
        if count > 0
    ]
    return "".join(f"\n{text}" for text in texts)


def revision(manifest: Manifest) -> dict[str, str]:
    """A row for :func:`option_table`: the commit of a source that was read from the Hub."""
    commit = manifest.plan.source_revision
    return {"revision of the seeds": commit} if commit else {}


def own_choices(manifest: Manifest) -> dict[str, str]:
    """Rows for :func:`option_table`: a guide, how a strength was chosen, and whether originals are their own files."""
    choice = manifest.plan.content.get("strength_choice")
    files = bool(manifest.plan.content.get(ORIGINAL_FILES))
    guide = manifest.plan.recipe.content.get("guide")
    return {
        **({"guide": f"{guide['name']} (digest {guide['digest'][:16]})"} if guide else {}),
        **({"strength was chosen": json.dumps(choice, sort_keys=True)} if choice else {}),
        **(
            {"originals": "upright JPEG files are as they were, without metadata; others were encoded"} if files else {}
        ),
        **refined(manifest),
    }


def refined(manifest: Manifest) -> dict[str, str]:
    """A row for :func:`option_table`: the rounds that added copies of what a network still got wrong."""
    rounds = [one.more for one in manifest.plan.generations if one.more]
    added = ", ".join(f"{sum(more.values())} copies of {len(more)} seeds" for more in rounds)
    return {"refined": f"rounds of more copies of what a network got wrong: {added}"} if rounds else {}


_ALWAYS = ("method", "ratio", "rng_seed")
"""Options that are told of each folder that was merged; others where they differ."""


def merged(manifest: Manifest) -> dict[str, str]:
    """Rows for :func:`option_table`: what each of the folders was that this one was merged from."""
    plans = manifest.plan.merged
    options = [readable_options(plan["recipe"]["options"]) for plan in plans]
    every = dict.fromkeys((*_ALWAYS, *itertools.chain(*options)))
    told = [name for name in every if name in _ALWAYS or len({json.dumps(own.get(name)) for own in options}) > 1]
    return {
        f"part {number}": json.dumps(
            {
                "source": plan["source"],
                "seeds": plan["seeds"],
                **{name: own.get(name) for name in told},
            }
        )
        for number, (plan, own) in enumerate(zip(plans, options, strict=True), 1)
    }


def how(method: str) -> str:
    """How a method makes images, or each of several."""
    return " ".join(
        METHODS[one].how if one in METHODS else f"By the method `{code(one)}`." for one in method.split(AND)
    )


def option_table(options: Mapping[str, Any], first: Mapping[str, str]) -> str:
    """Rows of a Markdown table of options, after ``first``."""
    rows = [*first.items(), *((name, option_text(value)) for name, value in sorted(options.items()))]
    return "\n".join(["| option | value |", "|---|---|", *(f"| {name} | `{code(value)}` |" for name, value in rows)])


def option_text(value: Any) -> str:
    """A value as JSON; of a long list its first items, and how many follow."""
    if isinstance(value, (list, tuple)) and len(value) > MOST_ITEMS:
        return f"{json.dumps(value[:MOST_ITEMS])[:-1]}, ... {len(value) - MOST_ITEMS} more]"
    return json.dumps(value)


_PREVIEW = "![Seeds and their imagined copies](preview.png)\n\n"


def _column(head: Mapping[str, Any] | None) -> str:
    return "json." if head is None else ""


def _load(manifest: Manifest) -> str:
    return f"""from datasets import load_dataset
dataset = load_dataset("PATH_OR_REPO", split="{manifest.split}")   # columns: {suffix(manifest)}, cls, json

import gif_datasets
dataset = gif_datasets.load_expanded("PATH_OR_REPO")        # (image, label) pairs
"""


def about_validation(manifest: Manifest) -> str:
    """A paragraph about the split that is held out; empty without one."""
    if not manifest.validation:
        return ""
    return f"""
The split `validation` has {manifest.validation} other real images, unchanged. None of them was expanded, and none of
them is in `{manifest.split}`.
"""


def shard_columns(manifest: Manifest) -> list[Any]:
    """The columns of shards, as the features of a card."""
    record: list[dict[str, Any]] = [{"name": name, "dtype": kind} for name, kind in RECORD]
    if kept := manifest.plan.objects:
        record.append({"name": OBJECTS, "struct": _object_fields(kept)})
    source = json.loads(json.dumps(manifest.plan.own_columns, sort_keys=True))  # as a plan.json gives them
    texts = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    return [
        {"name": suffix(manifest), "dtype": "image"},
        {"name": "cls", "dtype": class_label(manifest.classes)},
        {"name": "json", "struct": record},
        *([{"name": tar.SOURCE_MEMBER, "struct": source["features"]}] if source else []),
        *texts,
    ]


def _object_fields(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Fields of the objects in a record; ``kept`` is what a plan says of them."""
    listed = {"bbox": {"list": "float64", "length": 4}, "category": "string", "id": "int64", "iscrowd": "bool"}
    masks = {"polygons": {"list": {"list": "float64"}}, "counts": {"list": "int64"}} if kept["keep"] == "masks" else {}
    sides: list[dict[str, Any]] = [{"name": side, "dtype": "int64"} for side in ("width", "height")]
    return [*sides, *({"name": name, "list": kind} for name, kind in {**listed, **masks}.items())]


def class_label(classes: Sequence[str]) -> dict[str, Any]:
    """The type of a ClassLabel column."""
    return {"class_label": {"names": {str(index): name for index, name in enumerate(classes)}}}


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """A split as the card names it: a pattern of its files, its samples and their bytes."""

    split: str
    path: str
    samples: int
    bytes: int


def _metadata(manifest: Manifest) -> dict[str, Any]:
    parts = []
    for split in manifest.splits:
        listed = manifest.shards_of(split)
        samples, size = sum(shard.samples for shard in listed), sum(shard.bytes for shard in listed)
        parts.append(SplitFiles(split, f"data/{split}-*.tar", samples, size))
    return metadata(("webdataset",), parts, shard_columns(manifest))


def metadata(
    tags: Sequence[str], parts: Sequence[SplitFiles], columns: Sequence[Any], for_builder: bool = False
) -> dict[str, Any]:
    """The card's metadata.

    Args:
        tags: Tags besides the usual ones.
        parts: The splits.
        columns: The features.
        for_builder: Give the features to the builder too; the one for image folders reads no others.
    """
    config: dict[str, Any] = {"config_name": "default"}
    config["data_files"] = [{"split": part.split, "path": part.path} for part in parts]
    if for_builder:
        config["features"] = columns
    return {
        "task_categories": ["image-classification"],
        "size_categories": [size_category(sum(part.samples for part in parts))],
        "tags": ["synthetic", "gif-datasets", *tags],
        "configs": [config],
        "dataset_info": dataset_info(columns, [(part.split, part.samples, part.bytes) for part in parts]),
    }


def dataset_info(columns: Sequence[Any], splits: Sequence[tuple[str, int, int]]) -> dict[str, Any]:
    """Features and sizes, as ``datasets`` reads them.

    Args:
        columns: The features.
        splits: Name, samples and bytes of each split.
    """
    total = sum(size for _, _, size in splits)
    return {
        "features": columns,
        "splits": [{"name": name, "num_bytes": size, "num_examples": samples} for name, samples, size in splits],
        "download_size": total,
        "dataset_size": total,
    }


def size_category(samples: int) -> str:
    """The Hub's category for a dataset of this size."""
    return next((name for bound, name in SIZES if samples < bound), "1B<n<10B")


def suffix(manifest: Manifest) -> str:
    """Suffix of the image files, which is also the name of their column."""
    return manifest.plan.recipe.image_format


def visible(text: str) -> str:
    """User text in one line, without characters that are invisible or change the direction of text."""
    return "".join(c for c in " ".join(str(text).split()) if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))


def code(text: str) -> str:
    """User text for a code span in a table."""
    return visible(text).replace("`", "'").replace("|", "\\|")


def plain(text: str) -> str:
    """User text that cannot become markup: characters of Markdown and HTML are escaped, and no address is a link."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&@:]|(?<=www)\.)", r"\\\1", visible(text))


def of_latents(criterion: str) -> str:
    """Name of a criterion where people read it: guidance measures it on latents, not on the images.

    Example:
        >>> of_latents("consistency")
        "latents' consistency"
    """
    return f"latents' {criterion}"


def percent(share: float | None) -> str:
    """A share for people.

    Example:
        >>> percent(0.125), percent(None)
        ('12.5%', 'not known')
    """
    return "not known" if share is None else f"{share:.1%}"
