"""``gif-datasets tune``: its flags, and what it prints."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

SUMMARY = "fine-tune a prior on a small dataset; run again = resume"
EPILOG = """While it runs, DIR/tuning holds the curve of the losses (loss.svg, log.jsonl) and a sheet of held-out seeds
beside what the prior makes of them (sheet-*.png).

Try: gif-datasets tune my-pictures --out tuned --steps 1000
     gif-datasets expand my-pictures --prior tuned --out expanded"""
_FLAGS: tuple[tuple[str, type, str, str], ...] = (
    ("family", str, "NAME", "which of its decoders, of unclip, sd and mae (default: its first)"),
    ("steps", int, "N", "most steps (default: 2000)"),
    ("learning-rate", float, "RATE", "its peak (default: 1e-4)"),
    ("batch-size", int, "N", "pictures a step (default: 16)"),
    ("held-out", float, "SHARE", "share of each class's seeds that is never trained on (default: 0.1)"),
    ("every", int, "N", "look at those every N steps: log, sheet, checkpoint (default: 100)"),
    ("patience", int, "N", "stop after N looks without a lower loss of theirs (default: 5)"),
    ("rank", int, "R", "train a LoRA of rank R; 0: all weights (default: 0 below 100M parameters, else 16)"),
    ("rng-seed", int, "N", "the run's number (default: 0)"),
    ("dtype", str, "NAME", "precision of what is not trained: float32 or bfloat16 (default: float32)"),
    ("threads", int, "N", "CPU threads; another number rounds differently (default: 1)"),
)


def add_flags(command: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add = command.add_argument
    add("source", metavar="SOURCE", help="the small dataset; see below")
    add("--prior", metavar="NAME|PATH", help="the prior to tune (default: embedded)")
    add("--out", type=Path, required=True, metavar="DIR", help="the tuned prior's folder; run again = resume")
    for name, kind, metavar, text in _FLAGS:
        add(f"--{name}", type=kind, metavar=metavar, help=text)
    add("--mirror", action="store_true", help="train on mirror images too, where left and right mean nothing")
    add(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="caption around a class name {}, or a domain such as medical; sd alone; repeatable",
    )
    add("--limit", type=int, metavar="N", help="use N seeds, spread evenly over the source")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--source-license", default="", metavar="TEXT", help="licence of the pictures, if known, for the card")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """``gif-datasets tune``."""
    from gif_datasets.cli.shared import check_count, check_out, name_bad, print_result, progress
    from gif_datasets.tune.fine_tune import TuneConfig, tune

    check_count("limit", args.limit)
    names = ["prior", *(name.replace("-", "_") for name, *_ in _FLAGS)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.prompt:
        given["prompts"] = tuple(args.prompt) if len(args.prompt) > 1 or "{}" in args.prompt[0] else args.prompt[0]
    config = TuneConfig(**given, mirror=args.mirror)
    check_out(args.out)
    summary = tune(
        args.source,
        args.out,
        limit=args.limit,
        device=args.device,
        source_license=args.source_license,
        config=config,
        progress=progress,
    )
    name_bad(summary.bad)
    print_result(args, dataclasses.asdict(summary), _text)
    return 0


def _text(value: dict[str, Any]) -> str:
    how = f"a LoRA of rank {value['rank']}" if value["rank"] else "all weights"
    fell = f"loss of {value['held_out']} held-out pictures {value['loss_before']:.4f} -> {value['loss_after']:.4f}"
    kept = f"step {value['best_step']} of {value['steps']}"
    lines = [
        f"{value['base']}/{value['family']}, {how}, on {value['seeds']} pictures: {fell} ({kept})",
        f"prior:  {value['folder']} (--prior {value['folder']})",
        f"curve:  {value['folder']}/tuning/loss.svg, sheets beside it",
    ]
    if value["best_step"] == 0:
        lines.append("no step was better than the untuned prior, whose weights were kept; lower --learning-rate")
    return "\n".join(lines)
