"""What the parsers of several commands share: the parser class, the text about sources, and common flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

from gif_datasets.errors import escaped

if TYPE_CHECKING:
    from gif_datasets.io.stores import AnyPath

_Item = TypeVar("_Item")
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""Where a command adds its parser."""
Run: TypeAlias = "Callable[[argparse.Namespace], int]"
"""Runs a command; returns its exit code."""

SOURCE = """SOURCE is one of
  FOLDER                                  a folder with one sub-folder of images per class
  demo                                    200 images of 10 classes, included in the package
  photos                                  96 photographs of 4 classes, likewise; a folder of that name goes first
  torchvision:NAME[?split=..&root=..]     a torchvision dataset; its arguments follow the ?
  hf:NAME[?config=..&split=..&image=..&label=..]   a Hugging Face dataset, or the path of a local one
  coco:FOLDER[?annotations=FILE.json]     images with COCO's boxes and masks; --set keep=boxes keeps them
  yolo:FOLDER[?split=..]                  the same in YOLO's layout
  FOLDER of expanded shards               the output of `expand`
  hub:OWNER/NAME[?revision=..]            a dataset that `push` published"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        raise SystemExit(fail(f"{message} (see `{self.prog} --help`)", 2))


def fail(message: str, code: int) -> int:
    """Print an error on one line of stderr; returns ``code``."""
    say(message)
    return code


def say(message: str) -> None:
    """Print a message on one line of stderr."""
    print(f"gif-datasets: {escaped(' '.join(message.split()))}", file=sys.stderr)


def new_command(commands: Commands, name: str, run: Run, text: str, epilog: str = "") -> Parser:
    """Add a command; ``text`` is its line in the list of commands and the first line of its own help."""
    command = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(run=run)
    return command


def add_json(command: argparse.ArgumentParser, text: str = "print the result as JSON") -> None:
    """Add ``--json``."""
    command.add_argument("--json", action="store_true", help=text)


def add_generation(command: argparse.ArgumentParser, several_guides: bool = False) -> None:
    """Add the flags of commands that make one expansion; with ``several_guides`` these may be compared."""
    add_options(command, several_guides)
    add = command.add_argument
    add("--method", help="expansion method (default: gif-unclip); see `gif-datasets methods`")
    ratio = "new samples per seed sample (default: 5), or balance:COUNT: each class grows to COUNT seeds and samples"
    add("--ratio", type=read_ratio, metavar="K", help=ratio)


def read_ratio(text: str) -> int | str:
    """A ratio on the command line."""
    from gif_datasets import ratios

    return ratios.read_ratio(text)


def add_update(command: argparse.ArgumentParser) -> None:
    """Add the flags of an update."""
    text = "bring the finished folder --out up to date with SOURCE; its options need not be repeated"
    command.add_argument("--update", action="store_true", help=text)
    missing = "with --update: remove seeds that SOURCE has no longer, and their copies (default: they stay)"
    command.add_argument("--withdraw-missing", action="store_true", help=missing)


def add_options(command: argparse.ArgumentParser, several_guides: bool = False) -> None:
    """Add the source and the options that hold for every method."""
    add = command.add_argument
    add("source", metavar="SOURCE", help="the seed dataset; see below")
    add("--prior", metavar="NAME|PATH", help="generative prior (default: embedded); see `gif-datasets priors`")
    scores = "what scores images (default: the prior's CLIP); see docs/guides.md"
    if several_guides:
        scores += "; repeat it, or say `here` for those in the Hub's cache, to see which reads the seeds best"
        add("--guide", action="append", default=[], metavar="NAME|PATH", help=scores)
    else:
        add("--guide", metavar="NAME|PATH", help=scores)
    add("--rng-seed", type=int, metavar="N", help="random seed; the same number gives the same samples (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--batch-size", type=int, metavar="N", help="images decoded at once (default: 20)")
    add("--limit", type=int, metavar="N", help="use N seeds, spread evenly over the source")
    cache = "cache of imagined samples (default: $GIF_DATASETS_CACHE, or the user's cache folder)"
    add("--cache-dir", type=Path, metavar="DIR", help=cache)
    setting = "set any option that `gif-datasets methods` lists; repeatable"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=setting)
    add("--config", type=Path, metavar="FILE.toml", help="read options from a file; the command line overrides it")


def any_path(text: str) -> AnyPath:
    """A local folder, or the URL of a folder in a store that fsspec opens."""
    from gif_datasets.io.stores import as_path

    return as_path(text)


def comma_list(kind: Callable[[str], _Item]) -> Callable[[str], list[_Item]]:
    """A reader of values that are separated by commas."""

    def read(text: str) -> list[_Item]:
        try:
            return [kind(part.strip()) for part in text.split(",") if part.strip()]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"invalid value in {text!r}") from error

    return read
