"""``gif-datasets info``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gif_datasets.cli.arguments import Commands, add_json, any_path, new_command
from gif_datasets.cli.shared import existing, print_result

if TYPE_CHECKING:
    from gif_datasets.shards.reader import ShardReader


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    command = new_command(commands, "info", run, "show what an expanded folder holds, and how it was made")
    command.add_argument("dir", type=any_path, metavar="DIR", help="an expanded folder, or s3://bucket/folder")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Describe an expanded folder."""
    from gif_datasets.cli.texts import info_text
    from gif_datasets.shards.reader import ShardReader

    print_result(args, describe(ShardReader(existing(args.dir))), info_text)
    return 0


def describe(reader: ShardReader) -> dict[str, Any]:
    """All that is shown of an expanded folder, as JSON types."""
    from gif_datasets.guidance.recognition import read_own_class
    from gif_datasets.shards import card

    manifest = reader.manifest
    recipe = manifest.plan.recipe.to_json()
    own_class = read_own_class(reader.folder)
    synthetic = int(reader.index.synthetic.sum())
    return {
        "folder": str(reader.folder),
        **{name: getattr(manifest, name) for name in ("source", "split", "validation", "failed_checks")},
        "samples": len(reader),
        "originals": len(reader) - synthetic,
        "synthetic": synthetic,
        "rejected": reader.missing,
        "classes": manifest.classes,
        "image_sizes": manifest.image_sizes,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        **{name: recipe[name] for name in ("prior", "device", "versions")},
        "guide": recipe.get("guide"),
        "options": dict(manifest.options),
        "merged": card.merged(manifest),
        "strength_choice": manifest.plan.content.get("strength_choice"),
        "own_class": own_class and round(own_class.share, 4),
        "own_class_real": own_class and round(own_class.real_share, 4),
        "own_class_worst": own_class and own_class.worst(),
        "per_class": _per_class(reader),
        "expanded": manifest.plan.recipe.expanded,
        "expansion_counts": {str(copies): seeds for copies, seeds in reader.expansion_counts().items()},
        "generations": [generation.to_json() for generation in manifest.plan.generations],
        "withdrawn": sum(generation.withdrawn for generation in manifest.plan.generations),
        "plan_hash": manifest.plan_hash,
    }


def _per_class(reader: ShardReader) -> dict[str, list[int]]:
    """Real and synthetic samples of each class."""
    import numpy as np

    labels, synthetic, count = reader.index.label, reader.index.synthetic, len(reader.classes)
    real, made = (np.bincount(labels[synthetic == kind], minlength=count) for kind in (False, True))
    return {name: [int(real[label]), int(made[label])] for label, name in enumerate(reader.classes)}
