"""``gif-datasets merge``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import Commands, add_json, new_command
from gif_datasets.cli.shared import check_out, print_result, progress
from gif_datasets.errors import ShardError

_EPILOG = """Finished expansions of one source, by several methods, ratios or --rng-seed, become one: seeds once, with
the copies of all. Machines that share a folder need no merge: give all parts the same --out, and the last part finishes
it.

Try: gif-datasets expand SOURCE --out part-0 --shard-index 0 --num-shards 2   on one machine
     gif-datasets expand SOURCE --out part-1 --shard-index 1 --num-shards 2   on another machine
     gif-datasets merge part-0 part-1 --out expanded
     gif-datasets merge guided augmented --out both   two finished expansions of one source"""


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "join parts of an expansion, or several expansions; run again = resume"
    command = new_command(commands, "merge", run, text, _EPILOG)
    command.add_argument(
        "parts", type=Path, nargs="+", metavar="PART", help="a folder that holds one part, or a whole expansion"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder, for all parts")
    command.add_argument(
        "--match-classes",
        action="store_true",
        help="also join expansions of other sources, whose classes are matched by name",
    )
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Join the parts, then verify the result."""
    from dataclasses import asdict

    check_out(args.out)
    from gif_datasets.cli.texts import merge_text
    from gif_datasets.expansion.merge import merge_parts
    from gif_datasets.expansion.run import summarise
    from gif_datasets.shards.expanded_folder import ExpandedFolder
    from gif_datasets.shards.verify import verify

    merge_parts(args.parts, args.out, progress, args.match_classes)
    folder = ExpandedFolder.open(args.out)
    if problems := verify(folder, progress):
        raise ShardError("; ".join(problems[:3]))
    print_result(args, asdict(summarise(folder)), merge_text)
    return 0
