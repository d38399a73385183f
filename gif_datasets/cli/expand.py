"""``gif-datasets expand``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from functools import partial

from gif_datasets.cli.arguments import SOURCE, Commands, add_generation, add_json, add_update, any_path, new_command
from gif_datasets.cli.shared import (
    check_count,
    check_out,
    config_of,
    name_bad,
    name_larger_priors,
    name_left,
    print_result,
    progress_after,
    warn,
)
from gif_datasets.errors import ConfigError


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "write an expanded dataset as WebDataset shards; run again = resume"
    command = new_command(commands, "expand", run, text, SOURCE)
    add_generation(command)
    flag = command.add_argument
    flag("--out", type=any_path, required=True, metavar="DIR", help="output folder, or s3://bucket/folder")
    validation = (
        "a separate validation set, written without copies (to hold out a share instead: --set validation_share=0.2)"
    )
    flag("--validation", metavar="SOURCE", help=validation)
    flag("--engine", choices=("local", "ray"), default="local", help="where the work runs (default: local)")
    address = "address of a running Ray cluster (default: $RAY_ADDRESS, or a new local cluster)"
    flag("--ray-address", metavar="ADDRESS", help=address)
    workers = "worker processes (default: one per CPU, at most 8, or one per GPU; with Ray, as many as fit the cluster)"
    flag("--workers", type=int, metavar="N", help=workers)
    share = "with Ray: GPUs per worker, a share of one or a whole number (default: 1)"
    flag("--gpus-per-worker", type=float, default=1.0, metavar="G", help=share)
    flag("--shard-index", type=int, metavar="I", help="make only part I of the shards, counted from 0")
    flag("--num-shards", type=int, metavar="N", help="number of parts, one for each task of an array job")
    add_update(command)
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Expand a dataset into a folder of shards."""
    from dataclasses import asdict

    config = config_of(args)
    check_count("workers", args.workers)
    check_out(args.out)
    from gif_datasets.cli.texts import expand_text
    from gif_datasets.expansion import expand
    from gif_datasets.expansion.engines.local import default_workers
    from gif_datasets.io.devices import resolve_device

    device = resolve_device(args.device)
    # Ray prints messages about lost nodes to stdout; name_bad names what a warning names
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out ")
        summary = expand.expand(
            args.source,
            args.out,
            validation=args.validation,
            workers=args.workers or (default_workers(device) if args.engine == "local" else None),
            engine=args.engine,
            ray_address=args.ray_address,
            gpus_per_worker=args.gpus_per_worker,
            limit=args.limit,
            cache_dir=args.cache_dir,
            device=device,
            part=_part(args.shard_index, args.num_shards),
            update=args.update,
            withdraw_missing=args.withdraw_missing,
            config=config,
            progress=progress_after(partial(name_larger_priors, config)),
            say=warn,
        )
    name_bad(summary.bad)
    name_left(summary.left)
    print_result(args, {**asdict(summary), "preview": str(args.out / "preview.png")}, expand_text)
    return 0


def _part(index: int | None, count: int | None) -> tuple[int, int]:
    """Which part of how many ``--shard-index`` and ``--num-shards`` ask for."""
    if (index is None) != (count is None):
        raise ConfigError("--shard-index and --num-shards go together; give both or neither")
    return (0, 1) if index is None or count is None else (index, count)
