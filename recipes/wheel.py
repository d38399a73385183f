"""The wheel: built, looked into, checked by twine, installed alone into an empty environment, and timed there.

    python recipes/wheel.py          # JSON on stdout; exit code 1 where a bound is broken

Needs pip and a network for setuptools and twine. Times are the least of several starts, beside the interpreter's own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_BYTES, IMPORT_SECONDS, HELP_SECONDS = 90_000_000, 0.5, 0.3
FOREIGN = (".pyc", ".ckpt", ".pt", ".bin", ".pkl")
"""Suffixes that do not belong: what Python compiles, and weights that may be pickles."""


def seconds(*command: str | Path, starts: int = 7) -> float:
    """The least time that a command takes."""
    times = []
    for _ in range(starts):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return round(min(times), 3)


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", place, str(ROOT)], check=True, stdout=sys.stderr)
        (wheel,) = Path(place).glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        venv.create(Path(place) / "empty", with_pip=True)
        scripts = Path(place) / "empty" / "bin"
        install = [scripts / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*install, "--no-deps", str(wheel)], check=True, stdout=sys.stderr)
        report = {
            "wheel": wheel.name,
            "bytes": wheel.stat().st_size,
            "files": len(names),
            "typed": "gif_datasets/py.typed" in names,
            "licences": sum("/licenses/" in name for name in names),
            "foreign": [n for n in names if not n.startswith("gif_datasets") or n.endswith(FOREIGN)],
            "python_seconds": seconds(scripts / "python", "-c", "pass"),
            "import_seconds": seconds(scripts / "python", "-c", "import gif_datasets"),
            "help_seconds": seconds(scripts / "gif-datasets", "--help"),
        }
        subprocess.run([*install, "twine"], check=True, stdout=sys.stderr)
        subprocess.run([scripts / "twine", "check", "--strict", str(wheel)], check=True, stdout=sys.stderr)
    print(json.dumps(report, indent=1))
    whole = report["typed"] and report["licences"] == 2 and not report["foreign"] and report["bytes"] <= MOST_BYTES
    return 0 if whole and report["import_seconds"] < IMPORT_SECONDS and report["help_seconds"] < HELP_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
