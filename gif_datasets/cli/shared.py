"""What several commands do alike: options, outputs, progress."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError
from gif_datasets.io.stores import AnyPath
from gif_datasets.methods import METHODS
from gif_datasets.options import parse_setting


def config_of(args: argparse.Namespace) -> ExpansionConfig:
    """The options of a command that makes one expansion."""
    values = {**values_of(args), **_given(method=args.method, ratio=args.ratio)}
    return ExpansionConfig.build(values, args.config)


def values_of(args: argparse.Namespace) -> dict[str, Any]:
    """Options that the command line gives to all methods."""
    check_count("limit", args.limit)
    check_count("batch-size", args.batch_size)
    values = dict(parse_setting(text) for text in args.set)
    return {**values, **_given(prior=args.prior, rng_seed=args.rng_seed, decode_batch=args.batch_size)}


def check_count(flag: str, value: int | None) -> None:
    """Raise ConfigError if a number is given that is below 1."""
    if value is not None and value < 1:
        raise ConfigError(f"--{flag} must be at least 1, got {value}")


def _given(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def check_out(folder: AnyPath) -> None:
    """Find out now, not after the work, that the output cannot be written; a store says so when the plan is put."""
    import os

    if not isinstance(folder, Path):
        return
    probe = folder
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    if not probe.is_dir():
        raise ConfigError(f"cannot write to {folder}: {probe} is a file")
    if not os.access(probe, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {folder}: no permission in {probe}")


def name_larger_priors(config: ExpansionConfig) -> None:
    """Say that the embedded prior is small, where it makes the pictures."""
    if config.prior == "embedded" and METHODS[config.method].imagines:
        print(
            "gif-datasets: using the embedded prior (32 x 32 pixels, trained on CIFAR-10), fit for trying things out;"
            " for real work give a larger one, such as Kandinsky 2.2 by --prior kandinsky22 (docs/priors.md)",
            file=sys.stderr,
        )


def warn(text: str) -> None:
    """Say on stderr what may be wrong."""
    print(f"gif-datasets: warning: {text}", file=sys.stderr)


def name_bad(bad: tuple[str, ...]) -> None:
    """Name pictures that were skipped, the first of many."""
    for message in bad[:20]:
        print(f"gif-datasets: skipped {message}", file=sys.stderr)
    if len(bad) > 20:
        print(f"gif-datasets: skipped {len(bad) - 20} more unreadable pictures", file=sys.stderr)


def progress(rows: Any, title: str, total: int | None = None) -> Any:
    """A progress bar on stderr; none when it is no terminal."""
    if not sys.stderr.isatty():
        return rows
    from tqdm import tqdm

    return tqdm(rows, desc=title, total=total, file=sys.stderr, leave=False)


def progress_after(note: Callable[[], None]) -> Callable[..., Any]:
    """A :func:`progress` that says something once, before the first work: after it, input is known to be good."""
    said: list[bool] = []

    def show(rows: Any, title: str, total: int | None = None) -> Any:
        if not said and title not in _LOOKING:
            said.append(True)
            note()
        return progress(rows, title, total)

    return show


_LOOKING = ("reading seeds", "reading validation set", "reading test set", "looking for duplicates")


def print_result(args: argparse.Namespace, value: Any, text: Callable[[Any], str]) -> None:
    """Print a result as JSON, or as its text."""
    print(json.dumps(value, indent=1, ensure_ascii=False) if args.json else text(value))
