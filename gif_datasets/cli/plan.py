"""``gif-datasets plan``: an estimate of time, disk and cost (not the shard plan of ``expansion/plan.py``)."""

from __future__ import annotations

import argparse

from gif_datasets.cli.arguments import SOURCE, Commands, add_generation, add_json, new_command
from gif_datasets.cli.shared import config_of, print_result, progress, warn


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "estimate samples, time, disk and cost from a short probe of the real work"
    command = new_command(commands, "plan", run, text, SOURCE)
    add_generation(command)
    command.add_argument("--workers", type=int, metavar="N", help="worker processes (default: as for `expand`)")
    command.add_argument("--price", type=float, metavar="PER_HOUR", help="price per hour of one machine like this one")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Measure a short probe, and print the estimate."""
    config = config_of(args)
    from gif_datasets.cli.texts import plan_text
    from gif_datasets.expansion.estimate import estimate

    result = estimate(
        args.source,
        workers=args.workers,
        limit=args.limit,
        device=args.device,
        price=args.price,
        config=config,
        cache_dir=args.cache_dir,
        progress=progress,
        say=warn,
    )
    print_result(args, result.to_json(), plan_text)
    return 0
