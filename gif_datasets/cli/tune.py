"""``gif-datasets tune``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import SOURCE, Commands, add_json, new_command
from gif_datasets.cli.shared import check_count, check_out, name_bad, print_result, progress_or_lines

_EPILOG = f"""{SOURCE}

While it runs, DIR/tuning holds the loss curve (loss.svg, log.jsonl) and sheets of held-out seeds beside what the prior
makes of them (sheet-*.png). Progress is on stderr: a bar, or lines without a terminal.

Try: gif-datasets tune my-images --out tuned --steps 1000
     gif-datasets expand my-images --prior tuned --out expanded"""
_FLAGS: tuple[tuple[str, type, str, str], ...] = (
    ("family", str, "NAME", "decoder to train: unclip, sd or mae (default: the prior's first)"),
    ("steps", int, "N", "most steps (default: 2000)"),
    ("learning-rate", float, "RATE", "highest learning rate (default: 1e-4)"),
    ("batch-size", int, "N", "images per step (default: 16)"),
    ("held-out", float, "SHARE", "share of each class's seeds that is never trained on (default: 0.1)"),
    ("every", int, "N", "evaluate the held-out seeds every N steps: log, sheet, checkpoint (default: 100)"),
    ("patience", int, "N", "stop after N evaluations without a lower held-out loss (default: 5)"),
    ("rank", int, "R", "train a LoRA of rank R; 0: all weights (default: 0 below 100M parameters, else 16)"),
    ("rng-seed", int, "N", "random seed (default: 0)"),
    ("dtype", str, "NAME", "precision of the frozen parts: float32 or bfloat16 (default: float32)"),
    ("threads", int, "N", "CPU threads; another number rounds differently (default: 1)"),
)


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "fine-tune a prior on a small dataset; run again = resume"
    command = new_command(commands, "tune", run, text, _EPILOG)
    flag = command.add_argument
    flag("source", metavar="SOURCE", help="the small dataset; see below")
    flag("--prior", metavar="NAME|PATH", help="the prior to tune (default: embedded)")
    flag("--out", type=Path, required=True, metavar="DIR", help="folder of the tuned prior; run again = resume")
    for name, kind, metavar, words in _FLAGS:
        flag(f"--{name}", type=kind, metavar=metavar, help=words)
    flag(
        "--mirror", action="store_true", help="also train on mirrored images; use it where left and right do not matter"
    )
    prompt = "for sd: caption around a class name {}, or a domain such as medical; repeatable"
    flag("--prompt", action="append", metavar="TEXT", help=prompt)
    captions = "for sd: captions of single images, a CSV (name,caption) or JSON Lines file; see docs/tune.md"
    flag("--captions", metavar="FILE", help=captions)
    flag("--limit", type=int, metavar="N", help="use N seeds, spread evenly over the source")
    flag("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    licence = "licence of the images, if known, for the card"
    flag("--source-license", default="", metavar="TEXT", help=licence)
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Fine-tune a prior."""
    from dataclasses import asdict

    from gif_datasets.cli.texts import tune_text
    from gif_datasets.tune.fine_tune import TuneConfig, tune

    check_count("limit", args.limit)
    names = ["prior", "captions", *(name.replace("-", "_") for name, *_ in _FLAGS)]
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.prompt:
        options["prompts"] = tuple(args.prompt) if len(args.prompt) > 1 or "{}" in args.prompt[0] else args.prompt[0]
    config = TuneConfig(**options, mirror=args.mirror)
    check_out(args.out)
    summary = tune(
        args.source,
        args.out,
        limit=args.limit,
        device=args.device,
        source_license=args.source_license,
        config=config,
        progress=progress_or_lines,
    )
    name_bad(summary.bad)
    print_result(args, asdict(summary), tune_text)
    return 0
