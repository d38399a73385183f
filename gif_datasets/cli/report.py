"""``gif-datasets report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import Commands, add_json, new_command
from gif_datasets.cli.shared import check_out_file, existing, print_result, progress


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "write a page about an expanded folder: images, criteria, class balance, similarity to real images"
    command = new_command(commands, "report", run, text)
    flag = command.add_argument
    flag("dir", type=Path, metavar="DIR", help="an expanded folder")
    page = "the page to write; its figures go into FILE.json"
    flag("--out", type=Path, required=True, metavar="FILE.html", help=page)
    prior = "prior whose CLIP compares copies with real images (default: embedded)"
    flag("--prior", default="embedded", metavar="NAME|PATH", help=prior)
    add_json(command, "print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    check_out_file(args.out)
    from gif_datasets.report.page import write_report

    report = write_report(existing(args.dir), args.out, args.prior, progress)
    print_result(args, report.to_json(), lambda value: value["page"])
    return 0
