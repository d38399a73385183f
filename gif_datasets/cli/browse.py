"""``gif-datasets browse``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import Commands, new_command, say
from gif_datasets.cli.shared import existing, progress

_EPILOG = """Rejected samples are listed in DIR/rejected.json; a rejection can be undone. load_expanded,
stream_expanded, report, export and push leave them out. For other readers of the shards, write a copy without them:

     gif-datasets export DIR --to shards --out DIR2

The page is served to this machine only, until Ctrl-C. To see it from another machine:
     ssh -L 8000:127.0.0.1:8000 HOST gif-datasets browse DIR --port 8000 --no-open"""


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "open a local page to look through an expanded folder and reject samples"
    command = new_command(commands, "browse", run, text, _EPILOG)
    flag = command.add_argument
    flag("dir", type=Path, metavar="DIR", help="an expanded folder")
    flag("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: any free port)")
    flag("--no-open", action="store_true", help="print the address only; do not open a browser")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    import webbrowser

    from gif_datasets.report.server import browse

    def ready(address: str) -> None:
        print(address, flush=True)
        say("serving that page; stop with Ctrl-C")
        if not args.no_open:
            webbrowser.open(address)

    browse(existing(args.dir), args.port, ready=ready, progress=progress)
    return 0
