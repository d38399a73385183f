"""``gif-datasets refine``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import SOURCE, Commands, add_json, any_path, new_command, say
from gif_datasets.cli.shared import check_count, check_out, existing, print_result, progress

_EPILOG = f"""{SOURCE}

Each round holds out every seed once, in folds; trains a network on the other seeds and their copies; and imagines more
copies of what it gets wrong. These are new shards of the folder; shards that are there stay as they are. It ends after
--rounds, or when the gain over the seeds alone, which the folds show, no longer rises. Run again = resume.

The folds decide everything. The --test set only reports: it is looked at before the first round and after the last.

Try: gif-datasets refine my-expanded --test my-test-images
     gif-datasets refine my-expanded --test my-test-images --by classes --copies 10 --rounds 2
     gif-datasets info my-expanded                                  lists the rounds as generations"""
_FLAGS: tuple[tuple[str, type, object, str, str], ...] = (
    ("rounds", int, 4, "N", "most rounds (default: 4)"),
    ("copies", int, None, "K", "more copies of each seed that is chosen, in a round (default: the folder's ratio)"),
    ("folds", int, 5, "N", "folds of the seeds, each held out once (default: 5)"),
    ("runs", int, 3, "N", "runs of every arm of the test (default: 3)"),
    ("architecture", str, "small", "NAME", "network that learns, as in `compare` (default: small)"),
    ("augment", str, "light", "NAME", "online augmentation: none, light or randaugment (default: light)"),
    ("image-size", int, None, "N", "side that images are resized to (default: as in `compare`)"),
    ("train-batch", int, 64, "N", "images per update step (default: 64)"),
    ("learning-rate", float, 0.1, "R", "highest learning rate (default: 0.1)"),
)


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "imagine more of what a network trained on an expanded folder still gets wrong; run again = resume"
    command = new_command(commands, "refine", run, text, _EPILOG)
    flag = command.add_argument
    flag("folder", type=any_path, metavar="EXPANDED", help="an expanded folder, which gets more copies")
    flag("--test", required=True, metavar="SOURCE", help="images to test on, which decide nothing; none may be a seed")
    by = "what gets copies: seeds that are wrong, or all seeds of the classes that are wrong most (default: seeds)"
    flag("--by", choices=("seeds", "classes"), default="seeds", help=by)
    for name, kind, default, metavar, words in _FLAGS:
        flag(f"--{name}", type=kind, default=default, metavar=metavar, help=words)
    length = command.add_mutually_exclusive_group()
    epochs = "length of training, in epochs over the folder before the first round (default: 40)"
    length.add_argument("--epochs", type=int, metavar="N", help=epochs)
    length.add_argument("--steps", type=int, metavar="N", help="length of training, in update steps")
    flag("--prior", metavar="NAME|PATH", help="the folder's prior, if that is a path")
    flag("--guide", metavar="NAME|PATH", help="the folder's guide, if it has one")
    shared = "what to do with test images that are also seeds: refuse the test set (default), drop them, or allow them"
    flag("--shared", choices=("refuse", "drop", "allow"), default="refuse", help=shared)
    flag("--allow-seen", action="store_true", help="accept a test set that the prior's card names as training data")
    out = "folder of results, refine.json and compare.html (default: EXPANDED-refine)"
    flag("--out", type=Path, metavar="DIR", help=out)
    flag("--workers", type=int, metavar="N", help="worker processes that imagine (default: as for `expand`)")
    flag("--cache-dir", type=Path, metavar="DIR", help="cache of imagined samples")
    flag("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Refine an expanded folder."""
    check_count("workers", args.workers)
    folder = existing(args.folder)
    if args.out is not None:
        check_out(args.out)
    from gif_datasets.comparison.refine import refine
    from gif_datasets.expansion.engines.local import default_workers
    from gif_datasets.io.devices import resolve_device

    device = resolve_device(args.device)
    names = ["test", "out", "rounds", "by", "copies", "folds", "runs", "architecture", "epochs", "steps", "augment"]
    names += ["image_size", "learning_rate", "shared", "allow_seen", "cache_dir"]
    found = refine(
        folder,
        **{name: getattr(args, name) for name in names},
        batch_size=args.train_batch,
        workers=args.workers or default_workers(device),
        device=device,
        progress=progress,
        say=say,
        **{name: value for name in ("prior", "guide") if (value := getattr(args, name)) is not None},
    )
    print_result(args, found.to_json(), lambda _: found.text())
    return 0
