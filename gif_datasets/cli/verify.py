"""``gif-datasets verify``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import Commands, add_json, any_path, new_command
from gif_datasets.cli.shared import existing, print_result, progress


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "check every shard and record; exit code 1 if anything is wrong"
    command = new_command(commands, "verify", run, text)
    command.add_argument("dir", type=any_path, metavar="DIR", help="an expanded folder, or s3://bucket/folder")
    text = "look for withdrawn images in this cache of imagined samples, too"
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help=text)
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Check an expanded folder."""
    from gif_datasets.cli.texts import verify_text
    from gif_datasets.io.cache.store import open_cache
    from gif_datasets.shards.verify import verify

    cache = None if args.cache_dir is None else open_cache(existing(args.cache_dir))
    problems = verify(existing(args.dir), progress, cache)
    print_result(args, {"folder": str(args.dir), "ok": not problems, "problems": problems}, verify_text)
    return 1 if problems else 0
