"""``gif-datasets export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import Commands, add_json, new_command
from gif_datasets.cli.shared import check_out, existing, print_result, progress


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "convert an expanded folder into another format; run again = resume"
    command = new_command(commands, "export", run, text)
    flag = command.add_argument
    flag("dir", type=Path, metavar="DIR", help="an expanded folder")
    to = (
        "imagefolder: a folder per split and class; parquet: Parquet with Hugging Face features; shards: shards without"
        " the rejected samples; coco, yolo: images with the boxes or masks that were kept"
    )
    flag("--to", choices=("imagefolder", "parquet", "shards", "coco", "yolo"), required=True, help=to)
    flag("--out", type=Path, required=True, metavar="DIR2", help="output folder")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Convert an expanded folder."""
    from dataclasses import asdict

    check_out(args.out)
    from gif_datasets.cli.texts import export_text
    from gif_datasets.publish.export import export_expanded

    summary = export_expanded(existing(args.dir), args.out, args.to, progress=progress)
    print_result(args, asdict(summary), export_text)
    return 0
