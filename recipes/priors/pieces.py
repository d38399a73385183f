"""Cut a file into pieces that travel, and join them again; both check every byte.

    python recipes/priors/pieces.py cut  runs/unclip/checkpoint-0010000.safetensors --out pieces --megabytes 15
    python recipes/priors/pieces.py join pieces/checkpoint-0010000.safetensors.json --out runs/unclip

For a machine that returns small files only: train there, cut the checkpoint, bring the pieces back, join, resume.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path


def cut(path: Path, out: Path, megabytes: float) -> Path:
    """Write ``NAME.000``, ``NAME.001``, .. and ``NAME.json`` with their digests; returns the last."""
    out.mkdir(parents=True, exist_ok=True)
    size, digests, whole = int(megabytes * 1e6), [], hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(size):
            (out / f"{path.name}.{len(digests):03d}").write_bytes(piece)
            digests.append(hashlib.sha256(piece).hexdigest())
            whole.update(piece)
    index = out / f"{path.name}.json"
    index.write_text(json.dumps({"name": path.name, "sha256": whole.hexdigest(), "pieces": digests}, indent=1))
    return index


def join(index: Path, out: Path) -> Path:
    """Put the pieces beside ``index`` together; returns the file.

    Raises:
        SystemExit: If a piece is missing or damaged; the message names it.
    """
    facts = json.loads(index.read_text())
    target, whole = out / facts["name"], hashlib.sha256()
    out.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.tmp")
    with partial.open("wb") as file:
        for number, digest in enumerate(facts["pieces"]):
            path = index.with_name(f"{facts['name']}.{number:03d}")
            piece = path.read_bytes() if path.exists() else b""
            if hashlib.sha256(piece).hexdigest() != digest:
                raise SystemExit(f"{path} is missing or damaged; bring it back again")
            file.write(piece)
            whole.update(piece)
    if whole.hexdigest() != facts["sha256"]:
        raise SystemExit(f"{index}: the pieces do not make the file that was cut; cut it again")
    return partial.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut", help="cut a file into pieces")
    cutting.add_argument("path", type=Path)
    cutting.add_argument("--megabytes", type=float, default=15, help="of each piece (default: 15)")
    joining = commands.add_parser("join", help="join the pieces that an index names")
    joining.add_argument("path", type=Path, help="NAME.json, written by cut")
    for command in (cutting, joining):
        command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print(cut(args.path, args.out, args.megabytes) if args.command == "cut" else join(args.path, args.out))


if __name__ == "__main__":
    main()
