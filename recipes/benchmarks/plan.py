"""Does `gif-datasets plan` foresee what `gif-datasets expand` takes? Both on `demo`, one after the other.

    python recipes/benchmarks/plan.py [--limit 200] [--method gif-unclip]

Prints both figures and their ratio as JSON; exit code 1 when they are more than a fifth apart. The cache is empty and
the folders are temporary. Only a machine with nothing else to do gives a fair answer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

MOST_APART = 0.2


def main() -> None:
    """Estimate, expand, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", default="200")
    parser.add_argument("--method", default="gif-unclip")
    args = parser.parse_args()
    words = ["demo", "--method", args.method, "--limit", args.limit, "--json"]
    with tempfile.TemporaryDirectory() as place:
        foreseen = _run("plan", *words)
        started = time.monotonic()
        summary = _run("expand", *words, "--out", f"{place}/out", "--cache-dir", f"{place}/cache")
        whole = time.monotonic() - started
    ratio = foreseen["seconds"] / summary["seconds"]
    found = {
        "foreseen_seconds": round(foreseen["seconds"], 1),
        "seconds": summary["seconds"],
        "seconds_with_the_command_itself": round(whole, 1),
        "ratio": round(ratio, 3),
        "foreseen_bytes": foreseen["bytes"],
        "bytes": summary["bytes"],
        "stages": {name: round(seconds, 1) for name, seconds in foreseen["stages"].items()},
    }
    print(json.dumps(found, indent=1))
    sys.exit(abs(ratio - 1) > MOST_APART)


def _run(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "gif_datasets", *words], stdout=subprocess.PIPE, check=True)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


if __name__ == "__main__":
    main()
