"""The command line: parse, run one command, turn errors into exit codes. Nothing heavy is imported before a run."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from gif_datasets import __version__
from gif_datasets.cli import (
    browse,
    cache,
    captions,
    compare,
    expand,
    export,
    info,
    merge,
    methods,
    plan,
    preview,
    priors,
    push,
    refine,
    report,
    tune,
    verify,
    withdraw,
)
from gif_datasets.cli.arguments import Parser, fail
from gif_datasets.errors import GifDatasetsError, MissingExtra, UsageError
from gif_datasets.io.devices import keep_freed_memory
from gif_datasets.io.room import disk_full, is_full
from gif_datasets.io.terminal import escape_output

_COMMANDS = (
    expand,
    merge,
    plan,
    preview,
    info,
    verify,
    withdraw,
    compare,
    refine,
    export,
    report,
    browse,
    push,
    tune,
    captions,
    methods,
    priors,
    cache,
)
"""In the order of the help."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and flags; the documentation is built from it."""
    parser = Parser(
        prog="gif-datasets",
        description="Expand a small labelled image dataset with guided imagination.",
        epilog="Try: gif-datasets expand photos --out photos-expanded",
    )
    parser.add_argument("--version", action="version", version=f"gif-datasets {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed while running, 2 wrong usage or bad input."""
    args = build_parser().parse_args(argv)
    escape_output()  # after argparse, whose help has colours
    keep_freed_memory()
    warnings.formatwarning = _warning
    warnings.filterwarnings("default", category=UserWarning, module="gif_datasets")  # they are what the command says
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except GifDatasetsError as error:
        return fail(str(error), 2 if isinstance(error, (UsageError, MissingExtra)) else 1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "gif_datasets"):
            raise
        return fail(f"{error.name} is not installed; run: pip install gif_datasets", 2)
    except BrokenPipeError:  # the reader of stdout has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return fail("interrupted; run the same command again to go on", 1)
    except OSError as error:
        if is_full(error):
            return fail(_full_text(error), 1)
        message = f"{error.strerror or error}" + (f": {str(error.filename)[:200]}" if error.filename else "")
        return fail(message, 2 if error.errno == errno.ENAMETOOLONG else 1)


def _full_text(error: OSError) -> str:
    """What to say of a full disk where nobody nearer to the file has said it."""
    if error.filename:
        return str(disk_full(Path(str(error.filename)), error=error))
    return (
        f"{error.strerror}; make room on the disks of the output, of the cache and of {tempfile.gettempdir()},"
        " and run the same command again to go on"
    )


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format warnings for users as one line, like errors; warnings for programmers keep file and line."""
    if category is UserWarning:
        return f"gif-datasets: warning: {' '.join(str(message).split())}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
