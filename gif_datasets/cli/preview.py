"""``gif-datasets preview``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import SOURCE, Commands, add_generation, add_json, new_command, say
from gif_datasets.cli.shared import (
    check_count,
    check_out_file,
    config_of,
    name_bad,
    name_larger_priors,
    print_result,
    progress,
    warn,
)

HERE = "here"
"""Stands for the guides that are in the Hub's cache."""


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    command = new_command(
        commands, "preview", run, "draw seeds beside their copies in one image, before the long run", SOURCE
    )
    add_generation(command, several_guides=True)
    command.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the image to write")
    command.add_argument("--rows", type=int, default=10, metavar="N", help="number of seeds to show (default: 10)")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Draw some seeds and their first copies."""
    guides, args.guide = args.guide, _guiding(args.guide)
    config = config_of(args)
    check_count("rows", args.rows)
    check_out_file(args.out)
    from gif_datasets.cli.texts import preview_text
    from gif_datasets.expansion.guide_choice import check_guides
    from gif_datasets.expansion.open import open_expansion
    from gif_datasets.expansion.preview import preview_expansion
    from gif_datasets.sources import open_source

    opened = open_expansion(
        open_source(args.source),
        config,
        limit=args.limit,
        device=args.device,
        cache_dir=args.cache_dir,
        show=progress,
        say=say,
    )
    name_bad(opened.listed.bad)
    name_larger_priors(config)
    compared = check_guides(guides, opened.plan.recipe) if len(guides) > 1 or HERE in guides else []
    summary = preview_expansion(opened, args.out, args.rows, args.cache_dir, warn, compared)
    print_result(args, summary.to_json(), preview_text)
    return 0


def _guiding(guides: list[str]) -> str | None:
    """The guide that scores the images that are shown: the first that has a name."""
    return next((name for name in guides if name != HERE), None)
