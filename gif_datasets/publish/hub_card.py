"""The card of a dataset on the Hub: metadata for the Hub, its viewer and `datasets`, and a text for people.

It contains no guesses: what neither the folder nor the user says, such as a licence, is called unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gif_datasets.config import NOVEL
from gif_datasets.methods import is_imagined
from gif_datasets.priors import find_prior, names
from gif_datasets.report.set_statistics import Measures, Nearness
from gif_datasets.shards import card
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.card_yaml import card_yaml
from gif_datasets.shards.columns import SEED_INDEX, SOURCE
from gif_datasets.shards.manifest import Manifest

if TYPE_CHECKING:
    from gif_datasets.report.clip_metrics import Likeness

UNKNOWN = "unknown"
CONFIGS = {
    "expanded": "real and synthetic images",
    "original": "real images only",
    "synthetic": "synthetic images only",
}
_PAPER = """@inproceedings{zhang2023expanding,
  title     = {Expanding Small-Scale Datasets with Guided Imagination},
  author    = {Zhang, Yifan and Zhou, Daquan and Hooi, Bryan and Wang, Kai and Feng, Jiashi},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  url       = {https://arxiv.org/abs/2211.13976}
}"""


@dataclass(frozen=True)
class Rights:
    """Licences and citations that the publisher knows; empty where unknown.

    Attributes:
        license: Licence of the whole dataset, an identifier of the Hub's list, such as ``cc-by-4.0``.
        source: Licence of the seed images.
        prior: Licence of the prior; those of the priors in the package are known.
        source_citation: How to cite the seed dataset, as BibTeX or text.
        prior_citation: How to cite the prior, likewise; default: as its card says.
    """

    license: str = ""
    source: str = ""
    prior: str = ""
    source_citation: str = ""
    prior_citation: str = ""


@dataclass(frozen=True)
class ConfigFiles:
    """The files of one split in one configuration."""

    split: str
    paths: tuple[str, ...]
    samples: int
    bytes: int


@dataclass(frozen=True)
class Published:
    """Everything that the card describes.

    Attributes:
        name: ``owner/name``.
        manifest: The folder's manifest.
        configs: The files of each configuration; the first one is the default.
        columns: The features.
        image, label: Names of the columns of images and labels.
        record: Prefix of the provenance columns: ``"json."`` or empty.
        form: ``"webdataset"`` or ``"parquet"``.
        measures: Statistics of the records.
        likeness: Comparison with a CLIP from a report; None without.
        rights: Licences.
        files: Names of the other files that are published.
        verdict: How many copies look like their class, in words; empty where that was not looked at.
    """

    name: str
    manifest: Manifest
    configs: dict[str, tuple[ConfigFiles, ...]]
    columns: list[Any]
    image: str
    label: str
    record: str
    form: str
    measures: Measures
    likeness: Likeness | None
    rights: Rights
    files: tuple[str, ...]
    verdict: str = ""


def render(it: Published) -> str:
    """Write the card."""
    recipe = it.manifest.plan.recipe
    sections = (
        f"# {_source(it)}, expanded {recipe.expanded} by `{card.code(recipe.method)}`",
        card.plain(it.verdict),
        _what(it),
        "![Seeds and their imagined copies](preview.png)" if manifests.PREVIEW in it.files else "",
        f"## Load\n\n{_load(it)}",
        f"## Split\n\n{_split(it)}",
        f"## How it was made\n\n{_how(it)}",
        f"## Measures\n\n{_measures(it)}",
        f"## Columns\n\n{_columns(it)}",
        f"## Intended use and limits\n\n{_USE if _imagined(it) else _USE_OF_CHANGED}",
        f"## Bias and privacy\n\n{_BIAS if _imagined(it) else _BIAS_OF_CHANGED}",
        f"## Licences\n\n{_licences(it)}",
        f"## Citation\n\n{_citation(it)}",
    )
    return f"---\n{metadata(it)}---\n\n" + "\n\n".join(text for text in sections if text) + "\n"


# --- metadata -----------------------------------------------------------------------------------------------------


def metadata(it: Published) -> str:
    """The card's YAML, without its fences."""
    name, total = _hub_name(it.manifest.source), sum(part.samples for part in next(iter(it.configs.values())))
    infos = [
        {
            "config_name": config,
            **card.dataset_info(it.columns, [(part.split, part.samples, part.bytes) for part in parts]),
        }
        for config, parts in it.configs.items()
    ]
    return card_yaml(
        {
            "license": it.rights.license or UNKNOWN,
            "pretty_name": f"{_source_name(it)}, expanded {it.manifest.plan.recipe.expanded}",
            "task_categories": ["image-classification"],
            "size_categories": [card.size_category(total)],
            "source_datasets": [name or "extended"],
            "tags": ["synthetic", "data-augmentation", "guided-imagination", "gif-datasets", it.form],
            "configs": _configs(it),
            "dataset_info": infos,
        }
    )


def _configs(it: Published) -> list[dict[str, Any]]:
    first = next(iter(it.configs))
    return [
        {
            "config_name": config,
            **({"default": True} if config == first else {}),
            "data_files": [{"split": part.split, "path": list(part.paths)} for part in parts],
        }
        for config, parts in it.configs.items()
    ]


def _hub_name(source: str) -> str:
    """Name of the source on the Hub; empty for a local path."""
    name = re.sub("^(hf|hub):", "", source) if source.startswith(("hf:", "hub:")) else ""
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) else ""


def _source_name(it: Published) -> str:
    """Name of the source; of a path only the last part, because the rest describes a machine."""
    source = str(it.manifest.source)
    return source if _hub_name(source) else source.replace("\\", "/").rstrip("/").rpartition("/")[2] or source


def _source(it: Published) -> str:
    return card.plain(_source_name(it))


# --- text ---------------------------------------------------------------------------------------------------------


def _what(it: Published) -> str:
    m = it.manifest
    classes = ", ".join(
        f"{card.plain(name)} ({real} + {synthetic})" if len(m.classes) <= 100 else card.plain(name)
        for name, (real, synthetic) in zip(m.classes, it.measures.per_class, strict=True)
    )
    return f"""{m.originals} real and {m.synthetic} synthetic images of {len(m.classes)} classes.
{card.about_validation(m)}
**{m.synthetic} of the {m.samples} images of `{m.split}` are synthetic{_maker(it)}.** Each was made from
one real image by [gif_datasets](https://pypi.org/project/gif-datasets/) and has the label of that image; nobody has
checked each of them. `{it.record}synthetic` says which images are synthetic, `{it.record}seed_key` which real image
each was made from.

Classes (real + synthetic): {classes}
{card.about_sizes(m)}"""


def _imagined(it: Published) -> bool:
    return is_imagined(it.manifest.plan.recipe.method)


def _by_prior(it: Published) -> bool:
    """Whether a prior made the images, or chose among them."""
    options = it.manifest.options
    return _imagined(it) or options.get("check", "none") not in ("none", NOVEL) or bool(options.get("measure_pictures"))


def _maker(it: Published) -> str:
    return ": a model imagined them" if _imagined(it) else ", by augmentation"


def _load(it: Published) -> str:
    split = it.manifest.split
    first, *others = it.configs
    lines = [f'dataset = load_dataset("{it.name}", split="{split}")  # {CONFIGS[first]}']
    lines += [f'dataset = load_dataset("{it.name}", "{name}", split="{split}")  # {CONFIGS[name]}' for name in others]
    streaming = f'dataset = load_dataset("{it.name}", split="{split}", streaming=True)'
    ours = ""
    if it.form == "webdataset":
        ours = f'\n\nimport gif_datasets\n\npairs = gif_datasets.load_expanded("{it.name}")  # (image, label)'
    return "```python\nfrom datasets import load_dataset\n\n" + "\n".join([*lines, streaming]) + ours + "\n```"


_LEAKS = """`train_test_split`, `random_split` and every other split by rows put copies of test images into the training
set: a result is then better than on new images."""


def _split(it: Published) -> str:
    """A warning of splits that leak, and the lines of one that does not."""
    if it.manifest.plan.synthetic_seeds or not it.manifest.originals:
        return f"{_LEAKS} This dataset has not the real image of every copy: test on other real images."
    row, keys = ('row["json"]', '{record["seed_key"] for record in dataset["json"]}')
    seed, partner, made = (f'{row}["{name}"]' for name in _SPLITS_BY)
    if not it.record:
        names = [_column_of(it, name) for name in _SPLITS_BY]
        seed, partner, made = (f'row["{name}"]' for name in names)
        keys = f'set(dataset["{names[0]}"])'
    ours = ""
    if it.form == "webdataset":
        ours = f"""

`train, test = gif_datasets.load_expanded("{it.name}").split(0.2)` is stratified by class, too, and has images that look
alike on one side."""
    return f"""{_LEAKS} Keep a real image and its copies together, and test on real images alone. Of `dataset` as
above:

```python
held = set(sorted({keys})[::5])  # a fifth of the real images
train = dataset.filter(lambda row: held.isdisjoint(({seed}, {partner})))
test = dataset.filter(lambda row: {seed} in held and not {made})
```

For `StratifiedGroupKFold` and its like, `{it.record}{_column_of(it, "seed_index")}` is the group.{ours}"""


_SPLITS_BY = ("seed_key", "partner_key", "synthetic")


def _column_of(it: Published, name: str) -> str:
    """The column of a field of the provenance: with ``gif_`` before it where the source has one of that name."""
    own = (column["name"] for column in reversed(it.columns))
    return next((found for found in own if re.fullmatch(f"(gif_)*{name}", found)), name)


def _how(it: Published) -> str:
    recipe = it.manifest.plan.recipe
    versions = ", ".join(f"{card.plain(n)} {card.plain(v)}" for n, v in sorted(recipe.versions.items()))
    again = ""
    if "config.toml" in it.files:
        again = "\n\nTo reproduce it: `gif-datasets expand SOURCE --config config.toml --out DIR`."
    report = " [The report](report.html) shows images and figures." if "report.html" in it.files else ""
    first = {
        "seeds": f"{_source_name(it)}: {it.manifest.plan.seeds} images",
        **card.revision(it.manifest),
        **card.own_choices(it.manifest),
        **card.merged(it.manifest),
    }
    if _by_prior(it):
        first["prior"] = f"{recipe.prior.name}, revision {recipe.prior.digest}"
        first["licence of the prior"] = _prior_licence(it) or UNKNOWN
    return f"""{card.how(recipe.method)}

{card.option_table(recipe.options, first)}
| device | {card.plain(recipe.device)} |
| libraries | {versions} |
| plan | `{card.code(it.manifest.plan_hash)}` |{again}{report}"""


def _measures(it: Published) -> str:
    m = it.measures
    lines = []
    if _imagined(it):
        lines += [
            "| criterion, mean over the copies' latents | before guidance | after |",
            "|---|---|---|",
        ]
        lines += [
            f"| {card.of_latents(name)} | {before:.4f} | {after:.4f} |" for name, (before, after) in m.criteria.items()
        ]
    copies = it.manifest.synthetic
    consistency = (
        f"{m.consistent:.1%} of the {m.scored} copies whose image was classified have the class of their label."
        if m.scored
        else "not measured: the images were not classified when they were made"
        f"{'; but see below' if it.likeness else ''}."
    )
    lines += ["", f"- Class consistency: {consistency}"]
    lines.append(f"- Repeats: {m.repeated} of {copies} copies are, byte for byte, the image of another sample.")
    if m.near_copies:
        lines.append(f"- Near-duplicates: {m.near_copies.text()}")
    if missing := card.left_out(it.manifest).strip():
        lines.append(f"- By eye: {missing}")
    return "\n".join([*lines, _nearness(m.nearness), *([_likeness(it.likeness)] if it.likeness else [])])


def _nearness(near: Nearness | None) -> str:
    if near is None:
        return "- Nearness to real images: not measured."
    return (
        f"- Nearest real neighbours, of {near.copies} copies and {near.real} real images scaled to 16 x 16 pixels:"
        f" the median distance from a copy to the nearest real image is {near.to_copy:.1f} of 255, that from a real"
        f" image to the nearest other one {near.between_real:.1f}. For {near.own_seed:.1%} of the copies the nearest"
        " is their own seed.\n"
        f"- Coverage: {near.covered:.1%} of the real images have a copy nearer than the nearest other real image."
    )


def _likeness(it: Likeness) -> str:
    return (
        f"- By the CLIP of `{card.code(it.clip)}`, of {it.made} copies and {it.real} real images: class consistency"
        f" {it.consistent:.1%} (copies nearest to the mean of the real images of their class; of the real images,"
        f" each left out, {card.percent(it.consistent_real)}); coverage {it.coverage:.1%};"
        f" precision {it.precision:.1%}; recall {it.recall:.1%}; Fréchet distance {it.frechet:.4f} (between the halves"
        f" of the real images {it.frechet_of_halves:.4f}); near-duplicates of their own seed"
        f" {card.percent(it.like_seed)}, of another copy {it.alike:.1%}."
    )


def _columns(it: Published) -> str:
    record = f"the fields of `{it.record[:-1]}`" if it.record else "the other columns"
    text = f"""`{card.code(it.image)}` is the image, `{card.code(it.label)}` its class. Provenance is in {record}:
`synthetic`, `seed_key`, `copy` (0 for a seed itself), `method`, `prior`, `recipe`, the criteria before and after
guidance, and digests. The documentation of `gif_datasets` explains each."""
    if SOURCE in it.files:
        text += f"""

`{SOURCE}` has the columns of the source, one row for each seed image; `{it.record}seed_index` refers to its
`{SEED_INDEX}`."""
    return text


_USE = """To train or study image classifiers with few real images. Not for evaluation: measure on real images that
were not expanded. The prior limits how real copies look; details may be wrong in ways that matter, as in medicine or
inspection, and a copy may show another class than its label. When you publish results, say that you trained on
synthetic images."""

_BIAS = """Copies repeat what the seeds show and add what the prior has learned. Biases of both, such as which people,
places and backgrounds go with a class, are repeated and can grow. Each copy derives from one real image and can
resemble it closely: if the real images are private, so are the copies. The real images themselves are in this dataset
wherever `synthetic` is false."""


_USE_OF_CHANGED = """To train or study image classifiers with few real images. Not for evaluation: measure on real
images that were not expanded. A copy is a changed real image, and may hide what its label names."""

_BIAS_OF_CHANGED = """Copies repeat what the seeds show, biases included. Each is one changed real image: if the real
images are private, so are the copies. The real images themselves are in this dataset wherever `synthetic` is false."""


_DERIVED = """Synthetic images derive from the seed images, and the prior made them: the conditions of both may apply to
them. Where a licence is unknown, find it out before you use or share the dataset."""


_CHANGED = """Synthetic images are changed seed images: the conditions of the seed images may apply to them. Where a
licence is unknown, find it out before you use or share the dataset."""


def _prior_licence(it: Published) -> str:
    return it.rights.prior or _prior_card(it).get("license", "")


def _prior_card(it: Published) -> dict[str, str]:
    """The card of a prior in the package; empty for others."""
    prior = it.manifest.plan.recipe.prior
    if prior.name not in names():
        return {}
    info = find_prior(prior.name)
    return {name: str(value) for name, value in info.card.items()} if info.digest == prior.digest else {}


def _licences(it: Published) -> str:
    known = [("This dataset", it.rights.license), ("Seed images", it.rights.source)]
    if _imagined(it):
        known.append(("Prior", _prior_licence(it)))
    lines = [f"- {what}: {card.plain(name) if name else UNKNOWN}.{_implied(name)}" for what, name in known]
    return "\n".join([*lines, "", _DERIVED if _imagined(it) else _CHANGED])


_ASKED = (
    ("apache", "keep its notices, and say what was changed"),
    ("mit", "keep its notice"),
    ("bsd", "keep its notice"),
    ("gpl", "share what derives from it under the same licence"),
    ("rail", "keep to its list of uses that are not allowed, and pass that list on"),
)
"""By part of the name of a licence."""


def _implied(licence: str) -> str:
    """The conditions that follow from the name of a licence."""
    parts = re.split(r"[^a-z0-9]+", licence.lower())
    creative_commons = {
        "by": "name the authors",
        "nc": "no commercial use",
        "sa": "share what derives from it under the same licence",
        "nd": "nothing that derives from it may be shared, which imagined copies do",
    }
    conditions = [text for part, text in creative_commons.items() if part in parts and "cc" in parts]
    conditions += [text for part, text in _ASKED if part in licence.lower()]
    return f" Its conditions include: {'; '.join(conditions)}." if conditions else ""


def _citation(it: Published) -> str:
    texts = [f"The method:\n\n```bibtex\n{_PAPER}\n```"]
    texts.append(_cited("The seed dataset", it.rights.source_citation) or _asked(f"The seed dataset: {_source(it)}"))
    if _imagined(it):
        prior, known = it.manifest.plan.recipe.prior, _prior_card(it)
        name = f"The prior: `{card.code(prior.name)}`, revision `{card.code(str(prior.digest))[:16]}`"
        parts = [card.plain(known[part]) for part in ("summary", "training_data") if part in known]
        texts.append(
            _cited(name, it.rights.prior_citation or known.get("citation", "")) or _asked("; ".join([name, *parts]))
        )
    return "\n\n".join(texts)


def _cited(what: str, citation: str) -> str:
    """A citation as a block of code that nothing in the citation can end; empty without one."""
    lines = "\n".join(card.visible(line) for line in citation.strip().splitlines()).replace("```", "'''")
    return f"{what}:\n\n```bibtex\n{lines}\n```" if lines else ""


def _asked(what: str) -> str:
    return f"{what}; cite it as its authors ask."


def configs(
    parts: Mapping[str, Sequence[ConfigFiles]], validation: ConfigFiles | None
) -> dict[str, tuple[ConfigFiles, ...]]:
    """The configurations, each with the validation split; empty ones are left out."""
    more = (validation,) if validation else ()
    return {name: (*files, *more) for name in CONFIGS if (files := tuple(p for p in parts[name] if p.samples))}
