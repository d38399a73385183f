"""The tests with the lowest versions that pyproject.toml allows, in a new environment.

    python recipes/lowest.py FOLDER [pytest's arguments]     # FOLDER: the environment, made where it is not there

Every requirement with a lower bound is installed at that bound, our own and those of the test extra alike; what they
need in turn is what pip finds. The newest versions are what ``.ci/run`` installs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

from gif_datasets.parsing import read_toml

ROOT = Path(__file__).parents[1]
REQUIREMENT = re.compile(r"(?P<name>[\w-]+)(?:\[[^]]*\])?>=(?P<lowest>[\w.]+)")


def lowest(project: dict[str, object]) -> list[str]:
    """Each requirement pinned at its lower bound, ``name==version``."""
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    groups = [project["dependencies"], *(extras[name] for name in ("browse", "hf", "ray", "s3", "tune", "test"))]
    found = [REQUIREMENT.match(text) for group in groups for text in group]  # type: ignore[attr-defined]
    return [f"{one['name']}=={one['lowest']}" for one in found if one]


def main(given: list[str]) -> int:
    if not given:
        sys.exit(str(__doc__))
    folder, arguments = Path(given[0]), given[1:]
    pins = folder / "lowest.txt"
    python = folder / "bin" / "python"
    if not pins.exists():
        venv.create(folder, with_pip=True)
        text = "\n".join(lowest(read_toml((ROOT / "pyproject.toml").read_text())["project"])) + "\n"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
        (folder / "wanted.txt").write_text(text)
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", folder / "wanted.txt"]
        subprocess.run([*install, f"{ROOT}[test]"], check=True)
        (folder / "wanted.txt").rename(pins)
    return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
