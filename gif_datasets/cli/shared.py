"""What several commands do alike: options, checks of paths, messages, progress."""

from __future__ import annotations

import argparse
import operator
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gif_datasets.cli.arguments import say
from gif_datasets.errors import ConfigError, escaped

if TYPE_CHECKING:
    from gif_datasets.config import ExpansionConfig
    from gif_datasets.io.stores import AnyPath, RemotePath

LINE_EVERY = 30.0
"""Seconds between lines that tell of progress where there is no terminal."""
_Folder = TypeVar("_Folder", "Path", "RemotePath")


def config_of(args: argparse.Namespace) -> ExpansionConfig:
    """The options of a command that makes one expansion; with ``--update``, over those of the folder."""
    from gif_datasets.config import ExpansionConfig

    values = {**values_of(args), **_set_flags(method=args.method, ratio=args.ratio)}
    if not getattr(args, "update", False):
        return ExpansionConfig.build(values, args.config)
    from gif_datasets.expansion.update import kept_settings
    from gif_datasets.options import read_options

    given = {**read_options(args.config), **values} if args.config else values
    return ExpansionConfig.build(kept_settings(args.out, given))


def values_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that the command line gives to all methods."""
    from gif_datasets.options import parse_setting

    check_count("limit", args.limit)
    check_count("batch-size", args.batch_size)
    values = dict(parse_setting(text) for text in args.set)
    return {
        **values,
        **_set_flags(prior=args.prior, guide=args.guide, rng_seed=args.rng_seed, decode_batch=args.batch_size),
    }


def _set_flags(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def check_count(flag: str, value: int | None) -> None:
    """Raise ConfigError if a number is given and below 1."""
    if value is not None and value < 1:
        raise ConfigError(f"--{flag} must be at least 1, got {value}")


def check_out(folder: AnyPath) -> None:
    """Raise ConfigError now, not after the work, if a local output cannot be written; a store fails at its plan."""
    import os

    from gif_datasets.io.atomic import check_links

    if not isinstance(folder, Path):
        return
    check_links(folder)
    probe = folder
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    if not probe.is_dir():
        raise ConfigError(f"cannot write to {folder}: {probe} is a file")
    if not os.access(probe, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {folder}: no permission in {probe}")


def check_out_file(path: Path) -> None:
    """Raise ConfigError if an output file cannot be written."""
    if path.is_dir():
        raise ConfigError(f"--out must be a file, but {path} is a folder")
    check_out(path.parent)


def existing(folder: _Folder) -> _Folder:
    """Return a folder; raises ConfigError if it does not exist."""
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder}")
    return folder


def name_larger_priors(config: ExpansionConfig) -> None:
    """Say that the embedded prior is small, if it makes the images."""
    from gif_datasets.methods import METHODS

    if config.prior == "embedded" and METHODS[config.method].imagines:
        say(
            "using the embedded prior, which is small (64 x 64 pixels, photographs of everyday things);"
            " with a GPU take a larger one, such as Kandinsky 2.2 by --prior kandinsky22 (docs/priors.md)"
        )


def warn(text: str) -> None:
    """Print a warning on stderr."""
    say(f"warning: {text}")


def name_bad(bad: tuple[str, ...]) -> None:
    """Name images that were skipped, the first 20."""
    for message in bad[:20]:
        say(f"skipped {message}")
    if len(bad) > 20:
        say(f"skipped {len(bad) - 20} more unreadable images")


def name_left(left: tuple[str, ...]) -> None:
    """Name seeds that a source has no longer, the first 20, and what becomes of them."""
    if not left:
        return
    more = f" and {len(left) - 20} more" if len(left) > 20 else ""
    say(
        f"no longer in the source, and still in the folder: {', '.join(left[:20])}{more}"
        " (to remove them: --update --withdraw-missing)"
    )


def progress(rows: Any, title: str, total: int | None = None) -> Any:
    """A progress bar on stderr; none if stderr is not a terminal."""
    if not sys.stderr.isatty():
        return rows
    from tqdm import tqdm

    return tqdm(rows, desc=escaped(str(title)), total=total, file=sys.stderr, leave=False)


def progress_or_lines(rows: Any, title: str, total: int | None = None) -> Any:
    """A :func:`progress` bar; without a terminal a line when a loop that makes something starts, and every half minute.

    Loops that read input and check it say nothing at their start: an error there is a line by itself.
    """
    if sys.stderr.isatty():
        return progress(rows, title, total)
    return _told(rows, title, operator.length_hint(rows) if total is None else total)


def _told(rows: Iterable[Any], title: str, total: int) -> Iterator[Any]:
    from gif_datasets.types import Reading

    if not isinstance(title, Reading):
        say(title)
    said = time.monotonic()
    for number, row in enumerate(rows):
        if time.monotonic() - said >= LINE_EVERY:
            say(f"{title}: {number} of {total} done")
            said = time.monotonic()
        yield row


def progress_after(note: Callable[[], None]) -> Callable[..., Any]:
    """A :func:`progress` that calls ``note`` once, at the first stage after the input was read and checked."""
    from gif_datasets.types import Reading

    noted = False

    def show(rows: Any, title: str, total: int | None = None) -> Any:
        nonlocal noted
        if not noted and not isinstance(title, Reading):
            noted = True
            note()
        return progress(rows, title, total)

    return show


def print_result(args: argparse.Namespace, value: Any, text: Callable[[Any], str]) -> None:
    """Print a result as JSON, or as its text."""
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False) if args.json else text(_escaped(value)))


def _escaped(value: Any) -> Any:
    """A result whose texts are of one line each, and can be printed."""
    if isinstance(value, dict):
        return {_escaped(name): _escaped(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_escaped, value))
    return escaped(value) if isinstance(value, str) else value
