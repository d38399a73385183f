"""What is hostile or odd ends in one line that says what to do, and nothing else is touched."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import OPTIONS, forge_manifest, install
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, MissingExtra, PriorError, ShardError, SourceError, UsageError
from gif_datasets.cli import parser
from gif_datasets.expansion.engines.local import run_local
from gif_datasets.io.cache.store import open_cache
from gif_datasets.io.stores import RemotePath
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.shards.rejections import reject
from gif_datasets.sources import open_source
from gif_datasets.sources.base import list_seeds


@pytest.fixture
def made(seed_folder: Path, tmp_path: Path) -> Path:
    gif_datasets.expand(str(seed_folder), tmp_path / "made", **OPTIONS)
    return tmp_path / "made"


# --- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["imagefolder", "parquet"])
def test_a_manifest_cannot_lead_elsewhere(to: str, made: Path, tmp_path: Path) -> None:
    """Splits and formats become parts of files' names."""
    (tmp_path / "victim").mkdir()
    before = (made / "manifest.json").read_bytes()
    plan = json.loads(before)["plan"]
    options = {**plan["recipe"]["options"], "image_format": "png/../../../victim/x"}
    for change in (
        {"split": str(tmp_path / "victim")},
        {"split": "train/../../victim"},
        {"plan": {**plan, "recipe": {**plan["recipe"], "options": options}}},
    ):
        forge_manifest(made, **change)
        with pytest.raises(ShardError, match=r"is damaged: its (split|image_format) is"):
            gif_datasets.export_expanded(made, tmp_path / "out", to)
    (made / "manifest.json").write_bytes(before)
    assert not list((tmp_path / "victim").iterdir())
    assert gif_datasets.export_expanded(made, tmp_path / "out", to).files > 0


def test_sub_folders_are_followed(seed_folder: Path, tmp_path: Path) -> None:
    """Links too, once; an expansion among the pictures is none of them; what cannot be listed is named."""
    name = sorted(path.name for path in seed_folder.iterdir())[0]
    count = len(open_source(str(seed_folder)))
    (tmp_path / "more").mkdir()
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "more" / "x.png")
    (seed_folder / name / "linked").symlink_to(tmp_path / "more")
    (seed_folder / name / "back").symlink_to(seed_folder / name)
    gif_datasets.expand(str(seed_folder), seed_folder / name / "deep" / "out", **OPTIONS)
    assert len(open_source(str(seed_folder))) == count + 1
    if os.getuid():  # the superuser lists everything
        (seed_folder / name / "shut").mkdir(mode=0)
        bad = list_seeds(open_source(str(seed_folder))).bad
        assert bad == (f"{name}/shut: cannot be listed (Permission denied)",)


def test_here_has_a_name(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.` is the folder's own name, so that a run goes on from wherever it is said."""
    gif_datasets.expand(str(seed_folder), tmp_path / "out", **OPTIONS)
    monkeypatch.chdir(seed_folder)
    assert open_source(".").name == seed_folder.name
    assert gif_datasets.expand(".", tmp_path / "out", **OPTIONS).generated == 0


def test_a_cache_sweeps_its_own_folders(tmp_path: Path) -> None:
    """Whatever else is there."""
    for name in ("go", "ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".tmp-old").write_text("x")
        os.utime(tmp_path / name / ".tmp-old", (0, 0))
    open_cache(tmp_path).clear()
    assert (tmp_path / "go" / ".tmp-old").exists()


# --- what a prior draws -------------------------------------------------------------------------------------------


class Broken(LinearPrior):
    """Decodes to what is no number."""

    key = "broken 1"

    def decode(self, latents: torch.Tensor, generators: Any, config: Any) -> torch.Tensor:
        return super().decode(latents, generators, config) * float("nan")


@pytest.mark.parametrize("method", ["unclip", "gif-unclip"])
def test_no_numbers_are_no_pictures(method: str, seed_folder: Path, tmp_path: Path) -> None:
    """A half-precision decoder that overflows is told, not kept as black pictures; nor do criteria go wrong unseen."""
    expanded = gif_datasets.ExpandedDataset(
        str(seed_folder), prior=Broken(), ratio=1 if method == "unclip" else 2, method=method, cache_dir=tmp_path
    )
    with pytest.raises(PriorError, match=r"returned NaN for seed ant/"):
        expanded[13]
    with pytest.raises(ConfigError, match="epsilon"):
        gif_datasets.ExpandedDataset(str(seed_folder), prior="linear", epsilon=3e38)


def test_an_error_ends_the_other_workers() -> None:
    """They may have an hour of a shard left; what they do is safe to end in the middle."""
    started = time.monotonic()
    with pytest.raises(ValueError, match="non-negative"):
        list(run_local(time.sleep, [300, -1], workers=2))
    assert time.monotonic() - started < 60


# --- names and lines ----------------------------------------------------------------------------------------------


def test_secrets_of_addresses_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the options of a registered source nor a URL's password are told on."""
    install(tmp_path / "site", "odd", "[gif_datasets.sources]\nodd = odd_source:make\n")
    (tmp_path / "site" / "odd_source.py").write_text(
        "from torchvision.datasets import FakeData\n"
        "def make(name, token):\n"
        "    if name == 'bad':\n        raise ValueError('no')\n"
        "    data = FakeData(4, (3, 8, 8), 2)\n    data.classes = ['a', 'b']\n    return data\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert open_source("odd:set?token=SECRET").name == "odd:set"
    with pytest.raises(SourceError, match=r"^odd:bad: no$"):
        open_source("odd:bad?token=SECRET")
    assert str(RemotePath("s3://me:SECRET@host/set")) == "s3://host/set"
    with pytest.raises(ConfigError, match=r"got nosuch://host/set$"):
        RemotePath("nosuch://me:SECRET@host/set").exists()


def test_missing_extras_cross_processes() -> None:
    """Word for word."""
    error = pickle.loads(pickle.dumps(MissingExtra("xformers", "gpu")))
    assert str(error) == str(MissingExtra("xformers", "gpu"))


LINES: dict[str, tuple[list[str], str]] = {
    "no such source": (["expand", "nofolder", "--out", "{}/o"], "no such folder"),
    "no source": (["expand", "", "--out", "{}/o"], "empty text"),
    "no name": (["expand", "hf:", "--out", "{}/o"], "names no dataset"),
    "device": (["expand", "demo", "--out", "{}/o", "--device", "tpu"], "tpu"),
    "preview": (["preview", "nofolder", "--out", "{}/x.png"], "no such folder"),
    "compare": (["compare", "nofolder", "--test", "x", "--methods", "gif-unclip", "--out", "{}/o"], "no such folder"),
    "batch": (["expand", "demo", "--out", "{}/o", "--batch-size", "0"], "--batch-size must be at least 1"),
    "long": (["verify", "x" * 300], "too long"),
    "cache": (["cache", "stats", "--cache-dir", "{}/file"], "is a file"),
    "report": (["report", "{}/made", "--out", "{}/file/x.html"], "cannot write to"),
}


@pytest.mark.parametrize("case", LINES)
def test_bad_input_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with exit code 2."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "made").mkdir()
    words, told = LINES[case]
    assert parser.main([word.replace("{}", str(tmp_path)) for word in words]) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert told in printed.err


def test_a_store_by_the_command_line(
    seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--out URL`, again, and `verify`."""
    monkeypatch.setenv("GIF_DATASETS_CACHE", str(tmp_path))
    words = f"expand {seed_folder} --out memory://hostile/set --method cutout --ratio 1 --workers 1 --json".split()
    for generated in (12, 0):
        assert parser.main(words) == 0
        assert json.loads(capsys.readouterr().out)["generated"] == generated
    assert parser.main(["verify", "memory://hostile/set"]) == 0


def test_names_that_a_terminal_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are escaped, not a crash."""
    for name in ("\u65e5\u672c", "\u00e9"):
        (tmp_path / "seeds" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (len(name), 2, 3)).save(tmp_path / "seeds" / name / "1.png")
    gif_datasets.expand(str(tmp_path / "seeds"), tmp_path / "out", method="cutout", ratio=1, cache_dir=tmp_path / "c")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert parser.main(["info", str(tmp_path / "out")]) == 0
    assert b"\\u65e5\\u672c" in written.getvalue()


# --- rejected ones ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["imagefolder", "parquet"])
def test_splits_without_samples_are_not_exported(to: str, seed_folder: Path, tmp_path: Path) -> None:
    """One that was rejected whole is left out; where nothing is left, that is said."""
    options = OPTIONS | {"validation_share": 0.3, "cache_dir": tmp_path / "cache"}
    gif_datasets.expand(str(seed_folder), tmp_path / "made", **options)
    for split, left in (("validation", {"train"}), ("train", set())):
        loaded = gif_datasets.load_expanded(tmp_path / "made", split=None if split == "train" else split)
        keys = [loaded._reader.key(i) for i in range(len(loaded))]
        reject(tmp_path / "made", keys)
        if left:
            found = gif_datasets.export_expanded(tmp_path / "made", tmp_path / "out", to)
            assert set(found.samples) == left
        else:
            with pytest.raises(UsageError, match=r"every sample of .* was rejected"):
                gif_datasets.export_expanded(tmp_path / "made", tmp_path / "none", to)
