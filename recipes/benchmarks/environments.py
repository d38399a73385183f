"""Virtual environments for libraries whose requirements do not go together, each on top of the running environment."""

from __future__ import annotations

import json
import site
import subprocess
import sys
from pathlib import Path

from gif_datasets.io import atomic

MADE = "made.json"


def environment(folder: Path, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment that has ``requirements``, made in ``folder`` unless it is there.

    It also has everything that is installed where this runs, such as torch, except what the requirements replace. Pip
    replaces nothing outside of the environment that it runs in.

    Raises:
        RuntimeError: If it cannot be made; the message is pip's last line.
    """
    below = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    wanted = {"requirements": list(requirements), "python": sys.version, "below": below}
    python, made = folder / "bin" / "python", folder / MADE
    if made.exists() and json.loads(made.read_text()) == wanted:
        return python
    print(f"making {folder} for {', '.join(requirements)}", file=sys.stderr)
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    own = _run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # what follows in sys.path is what the environment's own packages hide
    lines = [f"import site; site.addsitedir({path!r})\n" for path in below]
    (Path(own) / "below.pth").write_text("".join(lines))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
    atomic.write_json(made, wanted)
    return python


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(((done.stderr or done.stdout).strip().splitlines() or ["no message"])[-1])
    return done.stdout
