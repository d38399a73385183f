"""A machine that reads expanded sets needs no library that imagines; nothing is written outside the given folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gif_datasets

ABSENT = """
import sys
class Absent:
    names = {"diffusers", "transformers", "open_clip", "timm", "torchvision", "webdataset", "datasets", "pyarrow",
             "accelerate", "peft", "ray", "scipy"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
READ = """
from pathlib import Path
from gif_datasets import DataLoader, load_expanded, stream_expanded
from gif_datasets.cli import main
folder = sys.argv[1]
loaded = load_expanded(folder)
assert loaded.provenance(0).label == loaded[0][1]
assert sum(len(labels) for _, labels in DataLoader(loaded, 5, shuffle=True, mix="share:0.5")) == 24
assert len(list(stream_expanded(Path(folder).as_uri()))) == 24
(Path(folder) / "index.safetensors").unlink()
assert len(load_expanded(folder)) == 24
assert main(["verify", folder]) == main(["info", folder]) == 0
assert main(["export", folder, "--to", "imagefolder", "--out", folder + "-pictures"]) == 0
sys.exit(main(["export", folder, "--to", "parquet", "--out", folder + "-tables"]))
"""


@pytest.fixture
def folder(seed_folder: Path, tmp_path: Path) -> Path:
    gif_datasets.expand(str(seed_folder), tmp_path / "set", ratio=1, prior="linear")
    return tmp_path / "set"


def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, sys.path))
    variables = {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=240)


def test_reading_needs_nothing_that_imagines(folder: Path) -> None:
    """Load, stream, mix, mend the index, verify, export: without them; what does need one says so in a line."""
    done = run(ABSENT + READ, folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "gif-datasets: datasets is not installed; run: pip install 'gif_datasets[hf]'\n"


def test_what_is_absent_is_named_in_a_line(tmp_path: Path) -> None:
    """A library that a command needs and that is in no extra."""
    code = (
        ABSENT + "Absent.names.add('numpy')\nfrom gif_datasets.cli import main\nsys.exit(main(['info', sys.argv[1]]))"
    )
    done = run(code, tmp_path)
    assert done.stderr == "gif-datasets: numpy is not installed; run: pip install gif_datasets\n"
    assert done.returncode == 2


def test_help_is_light() -> None:
    """`--help` loads no heavy library, and neither does a wrong option."""
    heavy = ["torch", "numpy", "PIL", "diffusers", "transformers", "open_clip", "timm", "datasets", "webdataset",
             "huggingface_hub", "safetensors", "tqdm", "fsspec", "yaml", "gif_datasets.config"]  # fmt: skip
    code = f"""
import sys
from gif_datasets.cli import main
for arguments in (["--help"], ["expand", "--help"], ["expand"]):
    try:
        main(arguments)
    except SystemExit:
        pass
print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    assert run(code).stderr.splitlines()[-1] == "[]"


WRITES = """
import os, sys
seen = set()
changes = {"os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2,
           "os.truncate": 1, "os.chmod": 1, "os.utime": 1}
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen.add(os.path.abspath(os.fsdecode(args[0])))
    elif event in changes:
        within = args[-1] if event in ("os.mkdir", "os.remove", "os.rmdir") else -1  # an open folder
        base = os.readlink(f"/proc/self/fd/{within}") if within >= 0 else os.getcwd()
        seen.update(os.path.abspath(os.path.join(base, os.fsdecode(p))) for p in args[:changes[event]])
sys.addaudithook(hook)
import gif_datasets
from gif_datasets.cli import main
seeds, out = sys.argv[1:]
common = ["--prior", "linear", "--ratio", "1"]
assert main(["expand", seeds, "--out", out + "/set", *common]) == 0
assert main(["preview", seeds, "--out", out + "/look.png", *common]) == 0
assert main(["verify", out + "/set"]) == main(["info", out + "/set"]) == 0
assert main(["export", out + "/set", "--to", "imagefolder", "--out", out + "/pictures"]) == 0
for batch in gif_datasets.DataLoader(gif_datasets.load_expanded(out + "/set"), 8):
    pass
for item in gif_datasets.stream_expanded("file://" + out + "/set"):
    pass
print("\\n".join(["writes:", *sorted(seen)]))
"""


def test_nothing_is_written_elsewhere(seed_folder: Path, tmp_path: Path) -> None:
    """Every file that Python opens for writing, makes, renames or removes lies in --out, the cache, or $TMPDIR."""
    places = {name: tmp_path / name for name in ("out", "cache", "temporary", "home")}
    for place in places.values():
        place.mkdir()
    variables = {"GIF_DATASETS_CACHE": str(places["cache"]), "TMPDIR": str(places["temporary"])}
    done = run(WRITES, seed_folder, places["out"], HOME=str(places["home"]), HF_HOME=str(tmp_path / "hf"), **variables)
    assert done.returncode == 0, done.stderr
    written = [Path(line) for line in done.stdout.partition("writes:\n")[2].splitlines()]
    assert any(places["out"] in path.parents for path in written)
    assert any(places["cache"] in path.parents for path in written)
    given = [places["out"], places["cache"], places["temporary"]]
    foreign = [path for path in written if not any(place == path or place in path.parents for place in given)]
    assert [path for path in foreign if path != Path(os.devnull)] == []
    assert list(places["home"].iterdir()) == []
    assert list(places["temporary"].iterdir()) == []
