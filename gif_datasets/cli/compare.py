"""``gif-datasets compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import (
    SOURCE,
    Commands,
    add_json,
    add_options,
    comma_list,
    new_command,
    read_ratio,
    say,
)
from gif_datasets.cli.shared import (
    check_count,
    check_out,
    name_bad,
    name_larger_priors,
    print_result,
    progress_after,
    values_of,
)

_EPILOG = f"""{SOURCE}

Every arm trains for the same number of steps, on images that are prepared and augmented in the same way. It trains from
scratch unless the architecture is pretrained:NAME. It is tested once, after the last step. Run again = resume; methods,
runs and settings may be added later.

Try: gif-datasets compare my-images --test my-test-images --methods gif-unclip,unclip,randaugment
     gif-datasets compare demo --test ... --methods gif-unclip,randaugment --ratios 5,10,20         Figure 4
     gif-datasets compare demo --test ... --methods gif-unclip --architectures small,resnet50       Table 2
     gif-datasets compare demo --test ... --methods gif-unclip --architectures resnet50,pretrained:resnet50 Table 5
     gif-datasets compare demo --test ... --methods gif-unclip --only-synthetic                     Table 15
     gif-datasets compare demo --test ... --methods gif-unclip --augment light,randaugment --steps 3907,7813 Table 13
     gif-datasets compare demo --test ... --methods gif-unclip --distil 0,0.5        with the CLIP as a teacher"""


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "train on the seeds and on each expansion of them, and test: does it help?"
    command = new_command(commands, "compare", run, text, _EPILOG)
    add_options(command)
    flag = command.add_argument
    flag("--test", required=True, metavar="SOURCE", help="images to test on; none of them may be among the seeds")
    methods = "expansion methods; see `gif-datasets methods`"
    flag("--methods", required=True, type=comma_list(str), metavar="A,B", help=methods)
    runs = "runs of every arm, each with its own random seed (default: 3)"
    flag("--runs", type=int, default=3, metavar="N", help=runs)
    ratios = "new samples per seed sample, or balance:COUNT, an arm each (default: 5)"
    flag("--ratios", type=comma_list(read_ratio), metavar="K,K", help=ratios)
    _add_training(command)
    both = "what to do with test images that are also seeds: refuse the test set (default), drop them, or allow them"
    flag("--shared", choices=("refuse", "drop", "allow"), default="refuse", help=both)
    flag("--allow-seen", action="store_true", help="accept a test set that the prior's card names as training data")
    out = "folder of results, expansions, compare.html and compare.json (default: comparison)"
    flag("--out", type=Path, default=Path("comparison"), metavar="DIR", help=out)
    flag("--workers", type=int, metavar="N", help="worker processes for the expansions (default: as for `expand`)")
    add_json(command)


def _add_training(command: argparse.ArgumentParser) -> None:
    """Add the flags about training."""
    flag = command.add_argument
    networks = "small, a timm name, torchvision:NAME, or pretrained:NAME of either (default: small, of four blocks)"
    flag("--architectures", type=comma_list(str), default=["small"], metavar="A,B", help=networks)
    length = command.add_mutually_exclusive_group()
    epochs = "length of training, in epochs over the largest expansion (default: 40; the paper uses 100)"
    length.add_argument("--epochs", type=comma_list(int), metavar="N,N", help=epochs)
    length.add_argument("--steps", type=comma_list(int), metavar="N,N", help="length of training, in update steps")
    online = "online augmentation of all arms: none, light (mirroring and shifts) or randaugment (default: light)"
    flag("--augment", type=comma_list(str), default=["light"], metavar="A,B", help=online)
    distil = "weights of a teacher's probabilities (the prior's CLIP) beside the labels; each is tried (default: 0)"
    flag("--distil", type=comma_list(float), default=[0.0], metavar="W,W", help=distil)
    teacher = "classifier of the teacher: text (zero-shot), seeds (class means), both or linear (default: both)"
    flag("--teacher", default="both", metavar="KIND", help=teacher)
    flag("--temperature", type=float, default=4.0, metavar="T", help="softens teacher and student (default: 4)")
    share = "share of imagined samples in a batch (default: their share in the dataset)"
    flag("--synthetic-share", type=float, metavar="S", help=share)
    flag("--only-synthetic", action="store_true", help="also train on the imagined samples of each expansion alone")
    once = "expand once for all runs: faster, but the deviation leaves out how expansions differ"
    flag("--same-expansion", action="store_true", help=once)
    side = "side that images are resized to (default: the median of the seeds' shorter sides, at most 224)"
    flag("--image-size", type=int, metavar="N", help=side)
    flag("--train-batch", type=int, default=64, metavar="N", help="images per update step (default: 64)")
    flag("--learning-rate", type=float, default=0.1, metavar="R", help="highest learning rate (default: 0.1)")


def run(args: argparse.Namespace) -> int:
    """Compare methods by training on their expansions."""
    values = values_of(args)
    check_count("workers", args.workers)
    check_out(args.out)
    from gif_datasets.comparison import compare
    from gif_datasets.config import ExpansionConfig
    from gif_datasets.expansion.engines.local import default_workers
    from gif_datasets.io.devices import resolve_device
    from gif_datasets.methods import METHODS

    imagining = [name for name in args.methods if name in METHODS and METHODS[name].imagines]

    def note() -> None:
        if imagining:
            name_larger_priors(ExpansionConfig.build({**values, "method": imagining[0]}, args.config))

    device = resolve_device(args.device)
    comparison = compare.compare(
        args.source,
        args.test,
        args.methods,
        out=args.out,
        runs=args.runs,
        ratios=args.ratios,
        architectures=args.architectures,
        epochs=args.epochs,
        steps=args.steps,
        augments=args.augment,
        distil=args.distil,
        teacher=args.teacher,
        temperature=args.temperature,
        synthetic_share=args.synthetic_share,
        only_synthetic=args.only_synthetic,
        same_expansion=args.same_expansion,
        image_size=args.image_size,
        batch_size=args.train_batch,
        learning_rate=args.learning_rate,
        shared=args.shared,
        allow_seen=args.allow_seen,
        limit=args.limit,
        workers=args.workers or default_workers(device),
        cache_dir=args.cache_dir,
        device=device,
        config_file=args.config,
        progress=progress_after(note),
        **values,
    )
    name_bad(comparison.bad)
    for text in comparison.notes:
        say(text)
    print_result(args, comparison.to_json(), lambda _: comparison.text())
    return 0
