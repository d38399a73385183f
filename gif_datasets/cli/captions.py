"""``gif-datasets captions``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import SOURCE, Commands, add_json, new_command
from gif_datasets.cli.shared import check_count, check_out_file, name_bad, print_result, progress

_EPILOG = f"""{SOURCE}

The file has a line for each image, name,caption. A caption has {{}} where its class is named. Correct it, or write one
with any other tool; docs/tune.md has the format.

Try: gif-datasets captions my-images --out captions.csv
     gif-datasets tune     my-images --family sd --captions captions.csv --out tuned
     gif-datasets expand   my-images --method gif-sd --prior tuned --set contexts=captions.csv --out expanded"""


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "write captions by two short lists of words, where you have none, for tune and for contexts"
    command = new_command(commands, "captions", run, text, _EPILOG)
    flag = command.add_argument
    flag("source", metavar="SOURCE", help="the images; see below")
    flag("--out", type=Path, required=True, metavar="FILE.csv", help="the file to write, which must not be there")
    flag("--prior", default="embedded", metavar="NAME|PATH", help="prior whose CLIP scores words (default: embedded)")
    flag("--guide", metavar="NAME|PATH", help="a CLIP that scores instead of it; see docs/guides.md")
    flag("--limit", type=int, metavar="N", help="use N images, spread evenly over the source")
    flag("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Write captions by words."""
    from dataclasses import asdict

    check_count("limit", args.limit)
    check_out_file(args.out)
    from gif_datasets.cli.texts import captions_text
    from gif_datasets.tune.word_captions import caption_by_words

    found = caption_by_words(
        args.source,
        args.out,
        prior=args.prior,
        guide=args.guide,
        limit=args.limit,
        device=args.device,
        progress=progress,
    )
    name_bad(found.bad)
    print_result(args, asdict(found), captions_text)
    return 0
