"""``gif-datasets priors``."""

from __future__ import annotations

import argparse

from gif_datasets.cli.arguments import Commands, add_json, new_command
from gif_datasets.cli.shared import print_result


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    command = new_command(commands, "priors", run, "list the priors that are known here")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """List installed and published priors."""
    from gif_datasets.cli.texts import priors_text
    from gif_datasets.priors import find_prior, names
    from gif_datasets.priors.published import PUBLISHED

    infos = [find_prior(name) for name in names()]
    installed = [{"name": i.name, "families": list(i.families), "digest": i.digest, "card": i.card} for i in infos]
    published = [prior.to_json() for prior in PUBLISHED.values()]
    print_result(args, {"priors": installed, "published": published}, priors_text)
    return 0
