"""``gif-datasets plan``: an estimate of time, disk and cost (not the shard plan of ``expansion/plan.py``)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gif_datasets.cli.arguments import SOURCE, Commands, add_generation, add_json, add_update, any_path, new_command
from gif_datasets.cli.shared import config_of, print_result, progress, warn
from gif_datasets.errors import ConfigError

if TYPE_CHECKING:
    from gif_datasets.config import ExpansionConfig


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "estimate samples, time, disk and cost from a short probe of the real work"
    command = new_command(commands, "plan", run, text, SOURCE)
    add_generation(command)
    command.add_argument("--workers", type=int, metavar="N", help="worker processes (default: as for `expand`)")
    command.add_argument("--price", type=float, metavar="PER_HOUR", help="price per hour of one machine like this one")
    command.add_argument("--out", type=any_path, metavar="DIR", help="with --update: the folder to bring up to date")
    add_update(command)
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Measure a short probe, and print the estimate; with ``--update``, the difference too."""
    if args.update != (args.out is not None):
        raise ConfigError("--update and --out go together: the folder that is to be brought up to date")
    config = config_of(args)
    if args.update:
        return _run_update(args, config)
    from gif_datasets.cli.texts import plan_text
    from gif_datasets.expansion.estimate import estimate

    result = estimate(
        args.source,
        **_measured(args, config),
        say=warn,
    )
    print_result(args, result.to_json(), plan_text)
    return 0


def _measured(args: argparse.Namespace, config: ExpansionConfig) -> dict[str, Any]:
    """Arguments that both estimates take."""
    return {
        "workers": args.workers,
        "limit": args.limit,
        "device": args.device,
        "price": args.price,
        "config": config,
        "cache_dir": args.cache_dir,
        "progress": progress,
    }


def _run_update(args: argparse.Namespace, config: ExpansionConfig) -> int:
    from dataclasses import asdict

    from gif_datasets.cli.texts import difference_text
    from gif_datasets.expansion.update import estimate_update

    difference, result = estimate_update(
        args.source,
        args.out,
        withdraw_missing=args.withdraw_missing,
        **_measured(args, config),
    )
    print_result(args, {"difference": asdict(difference), "estimate": result and result.to_json()}, difference_text)
    return 0
