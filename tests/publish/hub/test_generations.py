"""Pushing a folder again after it has changed: the difference alone, in one commit, and never an older generation."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import OPTIONS
from hub_server import HubServer
from hub_sets import NAME, published
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, UsageError, push_to_hub, withdraw
from gif_datasets.cli import main
from gif_datasets.shards.verify import verify

Draw = Callable[[int], Image.Image]
Change = Callable[[], None]


@pytest.fixture
def out(seed_folder: Path, tmp_path: Path) -> Path:
    """A finished folder."""
    gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / "cache", **OPTIONS)
    return tmp_path / "out"


def commits(hub: HubServer) -> int:
    return len(hub.repositories[NAME].branches["main"])


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_the_difference_in_one_commit(
    form: str, hub: HubServer, seed_folder: Path, out: Path, picture: Draw, tmp_path: Path, empty_cache: None
) -> None:
    """New and rewritten shards alone are sent; a pinned reader keeps the old generation; history is spoken of."""
    first = push_to_hub(out, NAME, form=form)
    old = shutil.copytree(out, tmp_path / "old")
    before = {path.name for path in (out / "data").iterdir()}
    picture(1).save(seed_folder / "ant" / "new.png")
    gif_datasets.expand(str(seed_folder), out, update=True, cache_dir=tmp_path / "cache")
    count, told = commits(hub), list[str]()
    grown = push_to_hub(out, NAME, form=form, say=told.append)
    assert commits(hub) == count + 1
    assert not any("earlier commits" in line for line in told)
    if form == "shards":
        tars = {Path(name).name for name in grown.uploaded if name.endswith(".tar")}
        assert tars == {path.name for path in (out / "data").iterdir()} - before
        assert published(hub, out)
        assert len(gif_datasets.load_expanded(f"hub:{NAME}", revision=first.commit)) == 36
        assert len(gif_datasets.load_expanded(f"hub:{NAME}")) == 39
    withdraw(out, ["bee/1.png"], cache_dir=tmp_path / "cache")
    count = commits(hub)
    dry = push_to_hub(out, NAME, form=form, dry_run=True, say=told.append)
    assert (commits(hub), any("earlier commits" in line for line in told)) == (count, True)
    told.clear()
    less = push_to_hub(out, NAME, form=form, say=told.append)
    assert (less.uploaded, less.deleted, commits(hub)) == (dry.uploaded, dry.deleted, count + 1)
    (line,) = [line for line in told if "earlier commits" in line]
    assert line.startswith(f"1 seeds that have left the folder are still in earlier commits of {NAME}")
    assert "super_squash_history('me/tiny-gif2x', repo_type='dataset')" in line
    if form == "shards":
        assert published(hub, out)
    head = commits(hub)
    with pytest.raises(UsageError, match="has generation 3 of this dataset, and the folder is generation 1"):
        push_to_hub(old, NAME, form=form)
    assert commits(hub) == head
    assert push_to_hub(out, NAME, form=form, say=told.append).uploaded == ()
    assert len([line for line in told if "earlier commits" in line]) == 1


def test_a_state_of_another_generation(
    hub: HubServer, seed_folder: Path, out: Path, picture: Draw, tmp_path: Path, empty_cache: None
) -> None:
    """A loader of the new revision refuses a state of the old one, and names both; the old revision goes on."""
    first = push_to_hub(out, NAME)
    loader = gif_datasets.DataLoader(gif_datasets.load_expanded(f"hub:{NAME}"), batch_size=4, shuffle=True)
    next(iter(loader))
    state = loader.state_dict()
    picture(2).save(seed_folder / "ant" / "new.png")
    gif_datasets.expand(str(seed_folder), out, update=True, cache_dir=tmp_path / "cache")
    push_to_hub(out, NAME)
    newer = gif_datasets.load_expanded(f"hub:{NAME}")
    with pytest.raises(ConfigError, match=f"dataset was '{state['order']['dataset']}', now '{newer.fingerprint}'"):
        gif_datasets.DataLoader(newer, batch_size=4, shuffle=True).load_state_dict(state)
    pinned = gif_datasets.load_expanded(f"hub:{NAME}", revision=first.commit)
    again = gif_datasets.DataLoader(pinned, batch_size=4, shuffle=True)
    again.load_state_dict(state)
    assert len(list(again)) == len(loader) - 1


def test_what_was_downloaded_is_whole(
    hub: HubServer, seed_folder: Path, out: Path, picture: Draw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A grown folder passes `verify` where it was downloaded."""
    picture(3).save(seed_folder / "crab" / "new.png")
    gif_datasets.expand(str(seed_folder), out, update=True, cache_dir=tmp_path / "cache")
    assert main(["push", str(out), NAME, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["uploaded"]) > 5
    copy = tmp_path / "copy"
    for path in hub.head(NAME).files:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(hub.content(NAME, path))
    hidden = ("report.html", "config.toml", "croissant.json")
    assert [line for line in verify(copy) if not line.endswith(hidden)] == []


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("faults/kill_changes.py", {"kills": 1}), ("benchmarks/living.py", {"seeds": 50, "rounds": 1})],
)
def test_recipes(recipe: str, options: dict[str, int], hub: HubServer) -> None:
    """Both run at their smallest: killed changes leave the old state or the new one; costs are measured."""
    found = runpy.run_path(str(Path(__file__).parents[3] / "recipes" / recipe))["main"](**options, hub=hub)
    assert found["ok"] if "kills" in options else (found["withdrawn"], found["generations"]) == (10, 10)
