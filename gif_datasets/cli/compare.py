"""``gif-datasets compare``."""

from __future__ import annotations

import argparse
import sys

from gif_datasets.cli.shared import (
    check_count,
    check_out,
    name_bad,
    name_larger_priors,
    print_result,
    progress_after,
    values_of,
)
from gif_datasets.config import ExpansionConfig
from gif_datasets.methods import METHODS


def compare(args: argparse.Namespace) -> int:
    """``gif-datasets compare``."""
    values = values_of(args)
    check_count("workers", args.workers)
    check_out(args.out)
    imagining = [name for name in args.methods if name in METHODS and METHODS[name].imagines]

    def note() -> None:
        if imagining:
            name_larger_priors(ExpansionConfig.build({**values, "method": imagining[0]}, args.config))

    from gif_datasets.comparison import compare as comparison
    from gif_datasets.expansion.engines.local import default_workers
    from gif_datasets.io.devices import resolve_device

    device = resolve_device(args.device)
    found = comparison.compare(
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
    name_bad(found.bad)
    for told in found.notes:
        print(f"gif-datasets: {told}", file=sys.stderr)
    print_result(args, found.to_json(), lambda _: found.text())
    return 0
