"""``gif-datasets withdraw``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from gif_datasets.cli.arguments import Commands, add_json, any_path, new_command
from gif_datasets.cli.shared import existing, print_result
from gif_datasets.errors import ConfigError

_EPILOG = """Try: gif-datasets withdraw expanded bee/3.png
     gif-datasets withdraw expanded --file names.txt
     gif-datasets withdraw expanded --column patient=17"""


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "remove seeds, their copies and all that shows them from an expanded folder; run again = resume"
    command = new_command(commands, "withdraw", run, text, _EPILOG)
    flag = command.add_argument
    flag("dir", type=any_path, metavar="DIR", help="an expanded folder")
    flag("seeds", nargs="*", metavar="NAME_OR_KEY", help="seed_origin (bee/3.png) or seed_key of a seed's records")
    flag("--file", type=Path, metavar="FILE", help="a file with one name or key a line")
    flag("--column", metavar="NAME=VALUE", help="all seeds with this value in a column of the source, as patient=17")
    flag("--cache-dir", type=Path, metavar="DIR", help="cache of imagined samples, whose entries are removed, too")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Withdraw seeds."""
    from dataclasses import asdict

    from gif_datasets.cli.texts import withdraw_text
    from gif_datasets.expansion.withdraw import withdraw

    names = [*args.seeds, *(_lines(args.file) if args.file else ())]
    found = withdraw(existing(args.dir), names, column=args.column, cache_dir=args.cache_dir)
    print_result(args, asdict(found), withdraw_text)
    return 0


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return (line.strip() for line in lines if line.strip())
