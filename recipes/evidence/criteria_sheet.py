"""What each criterion does to images: seeds, and a copy of each under other criteria.

    python recipes/evidence/criteria_sheet.py --out docs/criteria.png

All columns begin with the same random perturbation and are decoded with the same noise; what differs is where guidance
led it. Decoding begins from noise alone (strength 1): near their seeds copies look alike under all criteria. Under each
image: the probability that the classifier which guides gives to its label.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gif_datasets import ExpandedDataset

sys.path.append(str(Path(__file__).parent))
import sheet

COLUMNS = {
    "random": {"steps": 0},
    "consistency": {"criteria": ("consistency",)},
    "entropy": {"criteria": ("entropy",), "entropy_weight": 1.0},
    "diversity": {"criteria": ("diversity",)},
    "all three": {},
}
SEEDS = (0, 23, 61, 103, 120, 142, 163, 183)
COPIES = 3


def column(options: dict[str, object]) -> list[sheet.Copies]:
    """The first copies of each seed, with the probability of the label on what was decoded."""
    expanded = ExpandedDataset("demo", ratio=5, held_class="label", strength=1.0, **options)
    count = len(expanded) // 6
    indices = [count + 5 * seed + copy for seed in SEEDS for copy in range(COPIES)]
    expanded.imagine_missing(indices)  # in common blocks
    found = [(expanded[i][0], f"{expanded.provenance(i).consistency_after:.2f}") for i in indices]
    return [found[start : start + COPIES] for start in range(0, len(found), COPIES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    args = parser.parse_args()
    demo = ExpandedDataset("demo", ratio=1)
    columns = {name: column(options) for name, options in COLUMNS.items()}
    sheet.save(sheet.draw([demo[i][0] for i in SEEDS], columns), args.out)


if __name__ == "__main__":
    main()
