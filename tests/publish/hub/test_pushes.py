"""What a push sends, in one commit, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from hub_server import READER, WRITER, HubServer
from hub_sets import CLASSES, NAME, metadata

import gif_datasets
from gif_datasets import ConfigError, HubError, ShardError, UsageError, push_to_hub


def test_no_commit_holds_half_a_set(hub: HubServer, folder: Path) -> None:
    """Contents go up before any commit; each commit holds all shards of its card and manifest."""
    push_to_hub(folder, NAME)
    first, pushed = hub.repositories[NAME].branches["main"]
    assert list(first.files) == [".gitattributes"]
    manifest = json.loads(hub.content(NAME, "manifest.json"))
    assert {entry["name"] for entry in manifest["shards"]} <= set(pushed.files)
    order = [path for method, path in hub.log if method in ("POST", "PUT")]
    last_content = max(i for i, path in enumerate(order) if path.startswith("/lfs/"))
    assert last_content < next(i for i, path in enumerate(order) if "/commit/" in path)


def test_second_push_sends_what_changed(hub: HubServer, made: Path, seed_folder: Path, tmp_path: Path) -> None:
    """Nothing for the same set; for another one its files, and the old ones that are not of it go, in one commit."""
    push_to_hub(made, NAME)
    hub.log.clear()
    again = push_to_hub(made, NAME)
    assert (again.uploaded, again.deleted, again.uploaded_bytes) == ((), (), 0)
    assert not hub.requests("POST", "/commit/")
    assert not hub.requests("PUT", "")
    licensed = push_to_hub(made, NAME, license="CC-BY-4.0")
    assert set(licensed.uploaded) == {"README.md", "croissant.json", "manifest.json"}
    assert metadata(hub.content(NAME, "README.md").decode())["license"] == "cc-by-4.0"
    hub.write(NAME, "NOTES.txt", b"written on the Hub")
    gif_datasets.expand(str(seed_folder), tmp_path / "other", ratio=1, prior="linear")
    commits = len(hub.repositories[NAME].branches["main"])
    other = push_to_hub(tmp_path / "other", NAME)
    assert "wids-validation.json" in other.deleted
    assert len(hub.repositories[NAME].branches["main"]) == commits + 1
    files = set(hub.head(NAME).files)
    assert "NOTES.txt" in files
    assert sorted(path for path in files if path.endswith(".tar")) == sorted(
        path for path in other.uploaded if path.endswith(".tar")
    )
    changed = push_to_hub(tmp_path / "other", NAME, form="parquet")
    assert {path.rpartition(".")[2] for path in changed.deleted} >= {"tar"}
    assert datasets.load_dataset(NAME, split="train").num_rows == 24


def test_dry_run_sends_nothing(hub: HubServer, made: Path) -> None:
    """It lists all of a new set, compares with one that is there, and works without a network."""
    new = push_to_hub(made, NAME, dry_run=True)
    assert (new.dry_run, len(new.uploaded), new.commit) == (True, new.files, "")
    assert not [entry for entry in hub.log if entry[0] != "GET"]
    push_to_hub(made, NAME)
    hub.log.clear()
    assert push_to_hub(made, NAME, dry_run=True, license="mit").uploaded == (
        "croissant.json",
        "README.md",
        "manifest.json",
    )
    assert not [entry for entry in hub.log if entry[0] in ("PUT", "DELETE") or "commit" in entry[1]]


def test_branches_and_pull_requests(hub: HubServer, made: Path) -> None:
    """`revision` makes a branch; `create_pr` leaves main alone, and its revision goes on with it."""
    branch = push_to_hub(made, NAME, revision="v1")
    assert branch.url.endswith("/tree/v1")
    assert set(hub.head(NAME).files) == {".gitattributes"}
    assert len(hub.head(NAME, "v1").files) == branch.files + 1
    assert gif_datasets.load_expanded(NAME, revision="v1").classes == CLASSES
    opened = push_to_hub(made, NAME, create_pr=True)
    assert (opened.revision, opened.url) == ("refs/pr/1", f"{hub.url}/datasets/{NAME}/discussions/1")
    assert set(hub.head(NAME).files) == {".gitattributes"}
    assert push_to_hub(made, NAME, revision="refs/pr/1").uploaded == ()
    hub.fail("POST", "/commit/", status=400)
    with pytest.raises(HubError, match="a pull request is open: go on with revision refs/pr/2"):
        push_to_hub(made, NAME, create_pr=True)
    push_to_hub(made, NAME)
    assert push_to_hub(made, NAME, create_pr=True).revision == "main"
    assert len(hub.repositories[NAME].pull_requests) == 2
    with pytest.raises(ConfigError, match="use either create_pr or revision"):
        push_to_hub(made, NAME, revision="v1", create_pr=True)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_refuses_a_folder_that_is_not_whole(hub: HubServer, folder: Path) -> None:
    """A flipped byte, a foreign file, no manifest: nothing reaches the Hub."""
    victim = next((folder / "data").glob("train-00002-*.tar"))
    content = bytearray(victim.read_bytes())
    content[700] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ShardError, match="cannot be published, because it is damaged: data/train-00002"):
        push_to_hub(folder, NAME)
    (folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        push_to_hub(folder, NAME)
    assert hub.log == []


def test_refuses_what_holds_something_else(hub: HubServer, made: Path) -> None:
    """Another data set of that name is not overwritten, nor a public one by a push that asks to be private."""
    hub.create(NAME, private=True)
    hub.write(NAME, "README.md", b"---\nlicense: mit\n---\n")
    hub.write(NAME, "manifest.json", b'{"files": {"data/mine.tar": {}}}')
    before = hub.head(NAME)
    with pytest.raises(UsageError, match="contains something else"):
        push_to_hub(made, NAME)
    assert hub.head(NAME) is before
    hub.create("me/public")
    with pytest.raises(UsageError, match="exists and is public"):
        push_to_hub(made, "me/public", private=True)
    told: list[str] = []
    assert push_to_hub(made, "me/public", say=told.append).private is False
    assert told == ["me/public is public: everybody will see what is pushed"]
    assert push_to_hub(made, "me/public", private=False).uploaded == ()


@pytest.mark.parametrize("name", ["tiny", "me/../you", "me/a b", "https://x/me/tiny", "me/a--b", "", "me/tiny.git"])
def test_refuses_names(hub: HubServer, made: Path, name: str) -> None:
    """A name that the Hub would not take is refused before anything is read or sent."""
    with pytest.raises(ConfigError, match="owner/name"):
        push_to_hub(made, name)
    assert hub.log == []


@pytest.mark.parametrize(
    ("token", "said"), [("", "there is no token"), (READER, "write"), ("hf_wrong", "the token is invalid")]
)
def test_without_the_right_token(
    hub: HubServer, made: Path, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    """No token, one that may only read, one that is not known: each has its line."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=said):
        push_to_hub(made, NAME)
    assert push_to_hub(made, NAME, token=WRITER).files


def test_offline_is_told_at_once(
    hub: HubServer, made: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """With `HF_HUB_OFFLINE` a push fails at once, and a dry run lists without comparing."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils.close_session()
    with pytest.raises(HubError):
        push_to_hub(made, NAME)
    said: list[str] = []
    assert push_to_hub(made, NAME, dry_run=True, say=said.append).files > 10
    assert waits == []
    assert said[0].startswith("cannot compare with the repository")


def test_command_line(hub: HubServer, made: Path, tmp_path: Path) -> None:
    """Results on stdout, one line on stderr, exit codes 0, 1 and 2; a dry run lists."""

    def run(*args: object, token: str = WRITER) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gif_datasets", "push", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_TOKEN": token})

    dry = run(made, NAME, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "would send data/train-00000-of-00006.tar" in dry.stdout
    assert "nothing was sent" in dry.stdout
    assert NAME not in hub.repositories
    done = run(made, NAME, "--json", "--license", "cc-by-4.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["repository"] == NAME
    refused = run(made, "nobody/tiny")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert "does not let this token write to nobody/tiny" in refused.stderr
    assert run(made, "tiny").returncode == 2
    assert run(tmp_path, NAME).returncode == 2
