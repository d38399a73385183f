"""The command line, as a user calls it: results on stdout, one clear line on stderr, exit codes as documented."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import gif_datasets
from gif_datasets.cli import shared
from gif_datasets.cli.shared import name_larger_priors, progress_after, progress_or_lines
from gif_datasets.config import ExpansionConfig
from gif_datasets.types import Reading


def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gif_datasets", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=300)


def result(*args: object) -> Any:
    done = run(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def expanded(seed_folder: Path, tmp_path: Path) -> Path:
    gif_datasets.expand(seed_folder, tmp_path / "out", prior="linear", ratio=2)
    return tmp_path / "out"


def test_expand_then_again_then_look(seed_folder: Path, tmp_path: Path) -> None:
    """Expand, expand again, verify, info: each prints what it found, as text and as JSON."""
    args = ("expand", seed_folder, "--out", tmp_path / "out", "--prior", "linear", "--ratio", 2, "--workers", 2)
    first = run(*args)
    assert first.returncode == 0, first.stderr
    assert "12 seeds + 24 imagined samples of 3 classes (24 made now)" in first.stdout
    assert first.stderr == ""
    assert Image.open(tmp_path / "out" / "preview.png").width > 300
    again = result(*args)
    assert (again["originals"], again["synthetic"], again["generated"]) == (12, 24, 0)
    assert result("verify", tmp_path / "out") == {"folder": str(tmp_path / "out"), "ok": True, "problems": []}
    info = result("info", tmp_path / "out")
    assert (info["samples"], info["options"]["ratio"], info["prior"]["name"]) == (36, 2, "linear")
    assert "36 samples" in run("info", tmp_path / "out").stdout


def test_preview_makes_only_what_it_shows(seed_folder: Path, tmp_path: Path) -> None:
    """A preview is a picture; expanding afterwards uses what it made."""
    common = ("--prior", "linear", "--ratio", 2)
    shown = result("preview", seed_folder, "--out", tmp_path / "p.png", "--rows", 3, *common)
    assert (shown["rows"], shown["generated"]) == (3, 6)
    assert Image.open(tmp_path / "p.png").format == "PNG"
    assert result("expand", seed_folder, "--out", tmp_path / "out", *common)["generated"] == 24 - 6


def test_flags_set_and_config_file(seed_folder: Path, tmp_path: Path) -> None:
    """--config, then --set, then flags; all reach the plan."""
    (tmp_path / "c.toml").write_text("ratio = 9\nepsilon = 0.3\nsteps = 2\n")
    result("expand", seed_folder, "--out", tmp_path / "out", "--prior", "linear", "--config", tmp_path / "c.toml",
           "--set", "steps=4", "--set", "held_class=label", "--ratio", 1, "--rng-seed", 5, "--limit", 6,
           "--batch-size", 3)  # fmt: skip
    info = result("info", tmp_path / "out")
    found = {
        name: info["options"][name] for name in ("ratio", "epsilon", "steps", "held_class", "rng_seed", "decode_batch")
    }
    assert found == {"ratio": 1, "epsilon": 0.3, "steps": 4, "held_class": "label", "rng_seed": 5, "decode_batch": 3}
    assert info["originals"] == 6


BAD = {
    "empty folder": (["{tmp}/empty"], "no sub-folders"),
    "no such folder": (["{tmp}/nowhere"], "nowhere"),
    "one class": (["{tmp}/one"], "at least 2"),
    "text files": (["{tmp}/texts"], "no images"),
    "texts called pictures": (["{tmp}/fakes"], "no readable image"),
    "ratio 0": (["{seeds}", "--ratio", "0"], "ratio must be at least 1, got 0"),
    "ratio -1": (["{seeds}", "--ratio", "-1"], "ratio must be at least 1, got -1"),
    "ratio x": (["{seeds}", "--ratio", "x"], "ratio must be a number, balance:COUNT, or a table"),
    "method": (["{seeds}", "--method", "gif-dalle"], "unknown method 'gif-dalle'"),
    "prior": (["{seeds}", "--prior", "dalle3"], "unknown prior 'dalle3'"),
    "option": (["{seeds}", "--set", "epsilom=1"], "did you mean 'epsilon'"),
    "setting": (["{seeds}", "--set", "epsilon"], "KEY=VALUE"),
    "epsilon": (["{seeds}", "--set", "epsilon=-1"], "epsilon must be at least 0.0, got -1.0"),
    "device": (["{seeds}", "--device", "tpu"], "device 'tpu' is not available"),
    "workers": (["{seeds}", "--workers", "0"], "--workers must be at least 1"),
    "limit": (["{seeds}", "--limit", "0"], "--limit must be at least 1"),
    "engine": (["{seeds}", "--engine", "spark"], "invalid choice: 'spark'"),
    "config": (["{seeds}", "--config", "{tmp}/no.toml"], "no.toml"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_usage(case: str, seed_folder: Path, tmp_path: Path) -> None:
    """Bad input ends with exit code 2 and one line that names it; nothing is written."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "only").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "one" / "only" / "a.png")
    for folder, suffix in (("texts", "txt"), ("fakes", "png")):
        for name in ("a", "b"):
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / f"x.{suffix}").write_text("words")
    args, words = BAD[case]
    prior = [] if "--prior" in args else ["--prior", "linear"]
    filled = [arg.format(tmp=tmp_path, seeds=seed_folder) for arg in args]
    done = run("expand", *filled, *prior, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_unwritable_output(seed_folder: Path, tmp_path: Path) -> None:
    """An output below a file is refused before any work."""
    (tmp_path / "file").write_text("x")
    for command in (("expand", "file/out"), ("preview", "file/p.png")):
        done = run(command[0], seed_folder, "--prior", "linear", "--out", tmp_path / command[1])
        assert done.returncode == 2
        assert "is a file" in done.stderr


def test_read_only_output(seed_folder: Path, tmp_path: Path) -> None:
    """An output on a read-only file system is refused with 2 and one line."""
    (tmp_path / "ro").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path / "ro"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a read-only tmpfs")
    try:
        done = run("expand", seed_folder, "--prior", "linear", "--out", tmp_path / "ro" / "out")
    finally:
        subprocess.run(["umount", tmp_path / "ro"], check=True)
    assert done.returncode == 2
    assert "cannot write to" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_corrupt_picture_among_good_ones(seed_folder: Path, tmp_path: Path) -> None:
    """It is named once on stderr and the rest is made; with on_bad_image=stop it ends the run with 2."""
    (seed_folder / "ant" / "2.png").write_bytes(b"broken")
    args = ("expand", seed_folder, "--prior", "linear", "--ratio", 1)
    done = run(*args, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr.strip() == "gif-datasets: skipped ant/2.png: not an image"
    assert "11 seeds + 11 imagined" in done.stdout
    stopped = run(*args, "--out", tmp_path / "stop", "--set", "on_bad_image=stop")
    assert stopped.returncode == 2
    assert "ant/2.png" in stopped.stderr
    assert run("verify", tmp_path / "out").returncode == 0


def test_another_plan_into_the_same_folder(seed_folder: Path, expanded: Path) -> None:
    """Exit code 2, the difference in one line, and the folder still verifies."""
    done = run("expand", seed_folder, "--out", expanded, "--prior", "linear", "--ratio", 3)
    assert done.returncode == 2
    assert "ratio: 2 there, 3 here" in done.stderr
    assert run("verify", expanded).returncode == 0


def test_verify_fails_on_damage(expanded: Path) -> None:
    """Exit code 1 and what is wrong; 2 for what is not an expanded folder."""
    victim = sorted((expanded / "data").glob("*.tar"))[-1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    done = run("verify", expanded)
    assert done.returncode == 1
    assert victim.name in done.stdout
    for command in ("verify", "info"):
        for folder in ("data", "nowhere"):
            assert run(command, expanded / folder).returncode == 2


def test_expanded_folder_is_a_source(expanded: Path, tmp_path: Path) -> None:
    """What was expanded can be expanded again: all of it, and what was synthetic stays so."""
    more = result("expand", expanded, "--out", tmp_path / "more", "--prior", "linear", "--ratio", 1)
    assert (more["originals"], more["synthetic"]) == (12, 24 + 36)


def test_listings() -> None:
    """methods and priors describe what there is; cache shows and empties the store."""
    listed = result("methods")
    assert {"gif-unclip", "unclip"} <= {entry["name"] for entry in listed["methods"]}
    assert all(option["help"] for option in listed["options"])
    assert {entry["name"] for entry in listed["presets"]} == {"paper", "official"}
    shown = run("methods").stdout
    for word in ("epsilon", "select:METHOD", 'projection="literal"'):
        assert word in shown
    assert {"embedded", "linear"} <= {entry["name"] for entry in result("priors")["priors"]}
    assert result("cache", "stats")["entries"] == 0
    assert "removed 0" in run("cache", "clear").stdout


def test_help_and_version() -> None:
    """Help teaches the sources; neither help nor version loads torch."""
    done = run("expand", "--help")
    assert "torchvision:NAME" in done.stdout
    assert run("--version").stdout.startswith("gif-datasets ")
    code = (
        "import sys, contextlib, gif_datasets.cli as cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['--help'])\n"
        "assert not {'torch', 'PIL', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_texts_do_not_need_docstrings() -> None:
    """`python -OO` drops docstrings; help and listings stay."""
    for args in (("methods",), ("expand", "--help")):
        stripped = subprocess.run([sys.executable, "-OO", "-m", "gif_datasets", *args], capture_output=True, text=True)
        assert stripped.stdout == run(*args).stdout != ""


def test_the_note_comes_after_the_input_is_read() -> None:
    """Loops that read input do not trigger it, whatever their title says; the first other loop does, once."""
    notes: list[str] = []
    show = progress_after(lambda: notes.append("note"))
    for title in Reading:
        assert list(show([1], title)) == [1]
    assert notes == []
    show([], str(Reading.SEEDS)), show([], "making shards")
    assert notes == ["note"]


def test_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line at the start of a loop that makes something, others once in a while; none where input is read quickly."""
    assert list(progress_or_lines(range(3), Reading.SEEDS)) == [0, 1, 2]
    assert list(progress_or_lines(iter("ab"), "making\x1b", 2)) == ["a", "b"]
    assert capsys.readouterr().err == "gif-datasets: making\\u001b\n"
    monkeypatch.setattr(shared, "LINE_EVERY", 0.0)
    assert list(progress_or_lines(range(3), "making")) == [0, 1, 2]
    lines = ["making", "making: 0 of 3 done", "making: 1 of 3 done", "making: 2 of 3 done"]
    assert capsys.readouterr().err.splitlines() == [f"gif-datasets: {line}" for line in lines]


def test_embedded_prior_names_the_larger_ones(seed_folder: Path, tmp_path: Path) -> None:
    """A line on stderr says that the default prior is small."""
    args = ("--method", "unclip", "--ratio", 1, "--limit", 1, "--workers", 1)
    done = run("expand", seed_folder, "--out", tmp_path / "out", *args)
    assert done.returncode == 0, done.stderr
    assert "Kandinsky 2.2" in done.stderr


@pytest.mark.parametrize(("method", "named"), [("gif-unclip", True), ("randaugment", False), ("select:cutout", False)])
def test_larger_priors_are_of_no_use_to_augmentations(
    method: str, named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are named only where a prior makes the pictures."""
    name_larger_priors(ExpansionConfig.build({"method": method}, None))
    assert ("--prior" in capsys.readouterr().err) == named
