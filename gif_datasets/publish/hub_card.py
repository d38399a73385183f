"""The card of a set on the Hub: metadata that the Hub, its viewer and `datasets` read, and a text for people.

Nothing in it is guessed: what the folder does not tell and nobody gave, such as a licence, is said to be unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gif_datasets.methods import is_imagined
from gif_datasets.priors import find_prior, names
from gif_datasets.report.set_statistics import Measures, Nearness
from gif_datasets.shards import card
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.card_yaml import card_yaml
from gif_datasets.shards.columns import SEED_INDEX, SOURCE

if TYPE_CHECKING:
    from gif_datasets.report.clip_metrics import Likeness

UNKNOWN = "unknown"
CONFIGS = {
    "expanded": "real and synthetic pictures",
    "original": "real pictures only",
    "synthetic": "synthetic pictures only",
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
    """Who may do what, as the one who publishes knows it; empty where they do not.

    Attributes:
        license: Identifier of the whole set's licence, of the Hub's list, such as ``cc-by-4.0``.
        source: Licence of the seed pictures.
        prior: Licence of the prior; that of the priors in the package is known.
        source_citation: How to cite the seed dataset, as BibTeX or text.
        prior_citation: How to cite the prior, likewise; what its card says without it.
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
    """All that the card tells of.

    Attributes:
        name: ``owner/name``.
        manifest: The folder's manifest.
        configs: The parts of each configuration, the one that is loaded unless another is named first.
        columns: The features.
        image, label: Names of the picture's and the label's column.
        record: Where provenance is: ``"json."`` or empty.
        form: ``"webdataset"`` or ``"parquet"``.
        measures: What was measured.
        likeness: What a report tells of a CLIP's comparison; None without.
        rights: Licences.
        files: Names of the other files that are there.
    """

    name: str
    manifest: dict[str, Any]
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


def render(it: Published) -> str:
    """Write the card."""
    options = it.manifest["plan"]["recipe"]["options"]
    sections = (
        f"# {_source(it)}, expanded {options['ratio']}x by `{options['method']}`",
        _what(it),
        "![Seeds and their imagined copies](preview.png)" if manifests.PREVIEW in it.files else "",
        f"## Load\n\n{_load(it)}",
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
    name, total = _hub_name(it.manifest["source"]), sum(part.samples for part in next(iter(it.configs.values())))
    options = it.manifest["plan"]["recipe"]["options"]
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
            "pretty_name": f"{_source_name(it)}, expanded {options['ratio']}x",
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
    """The Hub's name of the source, if it has one; a local path has none."""
    name = re.sub("^(hf|hub):", "", source) if source.startswith(("hf:", "hub:")) else ""
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) else ""


def _source_name(it: Published) -> str:
    """What the source is called; of a path only its last part, since the rest is about a machine."""
    source = str(it.manifest["source"])
    return source if _hub_name(source) else source.replace("\\", "/").rstrip("/").rpartition("/")[2] or source


def _source(it: Published) -> str:
    return card.plain(_source_name(it))


# --- text ---------------------------------------------------------------------------------------------------------


def _what(it: Published) -> str:
    m = it.manifest
    classes = ", ".join(
        f"{card.plain(name)} ({real} + {made})" if len(m["classes"]) <= 100 else card.plain(name)
        for name, (real, made) in zip(m["classes"], it.measures.per_class, strict=True)
    )
    return f"""{m["originals"]} real and {m["synthetic"]} synthetic pictures of {len(m["classes"])} classes.
{card.about_validation(m)}
**{m["synthetic"]} of the {m["samples"]} pictures of `{m["split"]}` are synthetic{_maker(it)}.** Each was made
from one real picture by [gif_datasets](https://pypi.org/project/gif-datasets/) and carries that picture's label; nobody
has checked each. `{it.record}synthetic` tells which is which; `{it.record}seed_key` names the real picture.

Classes (real + synthetic): {classes}"""


def _imagined(it: Published) -> bool:
    return is_imagined(it.manifest["plan"]["recipe"]["options"]["method"])


def _by_prior(it: Published) -> bool:
    """Whether a prior made the pictures, or chose among them."""
    options = it.manifest["plan"]["recipe"]["options"]
    return _imagined(it) or options.get("check", "none") != "none" or bool(options.get("measure_pictures"))


def _maker(it: Published) -> str:
    return ": a model imagined them" if _imagined(it) else ", by augmentation"


def _load(it: Published) -> str:
    split = it.manifest["split"]
    first, *others = it.configs
    lines = [f'dataset = load_dataset("{it.name}", split="{split}")  # {CONFIGS[first]}']
    lines += [f'dataset = load_dataset("{it.name}", "{name}", split="{split}")  # {CONFIGS[name]}' for name in others]
    streaming = f'dataset = load_dataset("{it.name}", split="{split}", streaming=True)'
    ours = ""
    if it.form == "webdataset":
        ours = f'\n\nimport gif_datasets\n\npairs = gif_datasets.load_expanded("{it.name}")  # (image, label)'
    return "```python\nfrom datasets import load_dataset\n\n" + "\n".join([*lines, streaming]) + ours + "\n```"


def _how(it: Published) -> str:
    recipe = it.manifest["plan"]["recipe"]
    versions = ", ".join(f"{card.plain(n)} {card.plain(v)}" for n, v in sorted(recipe["versions"].items()))
    again = ""
    if "config.toml" in it.files:
        again = "\n\nTo make it again: `gif-datasets expand SOURCE --config config.toml --out DIR`."
    report = " [The report](report.html) shows it in pictures." if "report.html" in it.files else ""
    first = {
        "seeds": f"{_source_name(it)}: {it.manifest['plan'].get('seeds', it.manifest['originals'])} pictures",
        **card.revision(it.manifest),
    }
    if _by_prior(it):
        first["prior"] = f"{recipe['prior']['name']}, revision {recipe['prior']['digest']}"
        first["licence of the prior"] = _prior_licence(it) or UNKNOWN
    return f"""{card.how(recipe["options"]["method"])}

{card.option_table(recipe["options"], first)}
| device | {card.plain(recipe["device"])} |
| libraries | {versions} |
| plan | `{card.code(it.manifest["plan_hash"])}` |{again}{report}"""


def _measures(it: Published) -> str:
    m = it.measures
    lines = []
    if _imagined(it):
        lines += ["| criterion, mean over the copies | before guidance | after |", "|---|---|---|"]
        lines += [f"| {name} | {before:.4f} | {after:.4f} |" for name, (before, after) in m.criteria.items()]
    made = it.manifest["synthetic"]
    told = (
        f"{m.consistent:.1%} of the {m.scored} copies whose picture was classified were given their label."
        if m.scored
        else "not measured: the pictures themselves were not classified when they were made"
        f"{'; but see below' if it.likeness else ''}."
    )
    lines += ["", f"- Class consistency: {told}"]
    lines.append(f"- Repeats: {m.repeated} of {made} copies are, byte for byte, the picture of another sample.")
    if missing := card.left_out(it.manifest).strip():
        lines.append(f"- By eye: {missing}")
    return "\n".join([*lines, _nearness(m.nearness), *([_likeness(it.likeness)] if it.likeness else [])])


def _nearness(near: Nearness | None) -> str:
    if near is None:
        return "- Nearness to real pictures: not measured."
    return (
        f"- Nearest real neighbours, of {near.copies} copies and {near.real} real pictures brought to 16 x 16 pixels:"
        f" the median distance from a copy to the nearest real picture is {near.to_copy:.1f} of 255, that from a real"
        f" picture to the nearest other one {near.between_real:.1f}. For {near.own_seed:.1%} of the copies the nearest"
        " is their own seed.\n"
        f"- Coverage: {near.covered:.1%} of the real pictures have a copy nearer than the nearest other real picture."
    )


def _likeness(it: Likeness) -> str:
    return (
        f"- By the CLIP of `{card.code(it.clip)}`, of {it.made} copies and {it.real} real pictures: class consistency"
        f" {it.consistent:.1%} (copies nearest to the mean of their own class's real pictures; of the real pictures,"
        f" each left out, {card.percent(it.consistent_real)}); coverage {it.coverage:.1%};"
        f" precision {it.precision:.1%}; recall {it.recall:.1%}; Fréchet distance {it.frechet:.4f} (of the halves of"
        f" the real pictures {it.frechet_of_halves:.4f}); near-duplicates of their own seed"
        f" {card.percent(it.like_seed)}, of another copy {it.alike:.1%}."
    )


def _columns(it: Published) -> str:
    record = f"the fields of `{it.record[:-1]}`" if it.record else "the other columns"
    text = f"""`{card.code(it.image)}` is the picture, `{card.code(it.label)}` its class. Provenance is in {record}:
`synthetic`, `seed_key`, `copy` (0 for a seed itself), `method`, `prior`, `recipe`, the criteria before and after
guidance, and digests; what each means is in the documentation of `gif_datasets`."""
    if SOURCE in it.files:
        text += f"""

`{SOURCE}` has the source's own columns, a row for each seed picture; its `{SEED_INDEX}` is what
`{it.record}seed_index` names."""
    return text


_USE = """To train or study image classifiers where real pictures are few. Not for evaluation: measure on real pictures
that were not expanded. Copies look as real as the prior lets them; details may be wrong in ways that matter, as in
medicine or inspection, and a copy may show another class than its label says. Say that you trained on synthetic
pictures when you publish results."""

_BIAS = """Copies repeat what the seeds show and add what the prior has learned: biases of either, such as which people,
places and backgrounds go with a class, are repeated and can grow. Each copy derives from one real picture and can
resemble it closely: if the real pictures are private, so are the copies. The real pictures themselves are in this set
wherever `synthetic` is false."""


_USE_OF_CHANGED = """To train or study image classifiers where real pictures are few. Not for evaluation: measure on
real pictures that were not expanded. A copy is a real picture that was changed, and may hide what its label says."""

_BIAS_OF_CHANGED = """Copies repeat what the seeds show, biases included. Each is one real picture, changed: if the real
pictures are private, so are the copies. The real pictures themselves are in this set wherever `synthetic` is false."""


_DERIVED = """Synthetic pictures derive from the seed pictures and are made by the prior: the conditions of both may
apply to them. Where a licence is unknown, find it out before you use or share the set."""


_CHANGED = """Synthetic pictures are seed pictures that were changed: the conditions of these may apply to them. Where a
licence is unknown, find it out before you use or share the set."""


def _prior_licence(it: Published) -> str:
    return it.rights.prior or _prior_card(it).get("license", "")


def _prior_card(it: Published) -> dict[str, str]:
    """What a prior that ships in the package says of itself."""
    prior = it.manifest["plan"]["recipe"]["prior"]
    if prior["name"] not in names():
        return {}
    found = find_prior(prior["name"])
    return {name: str(value) for name, value in found.card.items()} if found.digest == prior["digest"] else {}


def _licences(it: Published) -> str:
    known = [("This set", it.rights.license), ("Seed pictures", it.rights.source)]
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
"""By a part of a licence's name."""


def _implied(licence: str) -> str:
    """What a licence's name says plainly."""
    parts = re.split(r"[^a-z0-9]+", licence.lower())
    told = {
        "by": "name the authors",
        "nc": "no commercial use",
        "sa": "share what derives from it under the same licence",
        "nd": "nothing that derives from it may be shared, which imagined copies do",
    }
    found = [text for part, text in told.items() if part in parts and "cc" in parts]
    found += [text for part, text in _ASKED if part in licence.lower()]
    return f" That asks, among other things: {'; '.join(found)}." if found else ""


def _citation(it: Published) -> str:
    texts = [f"The method:\n\n```bibtex\n{_PAPER}\n```"]
    texts.append(_cited("The seed dataset", it.rights.source_citation) or _asked(f"The seed dataset: {_source(it)}"))
    if _imagined(it):
        prior, told = it.manifest["plan"]["recipe"]["prior"], _prior_card(it)
        name = f"The prior: `{card.code(prior['name'])}`, revision `{card.code(str(prior['digest']))[:16]}`"
        parts = [card.plain(told[part]) for part in ("summary", "training_data") if part in told]
        texts.append(
            _cited(name, it.rights.prior_citation or told.get("citation", "")) or _asked("; ".join([name, *parts]))
        )
    return "\n\n".join(texts)


def _cited(what: str, citation: str) -> str:
    """What is cited, and a block of code that nothing in the citation can end; empty without a citation."""
    lines = "\n".join(card.visible(line) for line in citation.strip().splitlines()).replace("```", "'''")
    return f"{what}:\n\n```bibtex\n{lines}\n```" if lines else ""


def _asked(what: str) -> str:
    return f"{what}; cite it as its authors ask."


def configs(parts: Mapping[str, Sequence[ConfigFiles]], held: ConfigFiles | None) -> dict[str, tuple[ConfigFiles, ...]]:
    """The configurations, each with what is held out; those that would be empty are left out."""
    more = (held,) if held else ()
    return {name: (*found, *more) for name in CONFIGS if (found := tuple(p for p in parts[name] if p.samples))}
