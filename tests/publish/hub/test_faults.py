"""What goes wrong on the way: what passes is waited for, what lasts is told, and no token is shown."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_server import WRITER, HubServer
from hub_sets import NAME, metadata, published, truth

import gif_datasets
from gif_datasets import HubError, UsageError, push_to_hub
from gif_datasets.cli import parser
from gif_datasets.io import hub as client
from gif_datasets.io import hub_retry
from gif_datasets.io.hub import download
from gif_datasets.shards import manifest

REPOSITORY = f"/api/datasets/{NAME}"
LOOK, TREE = ("GET", f"{REPOSITORY}(/revision/[^/]*)?$"), ("GET", f"{REPOSITORY}/tree/")
CREATE, CARD, COMMIT = ("POST", "/repos/create"), ("POST", "/validate-yaml"), ("POST", f"{REPOSITORY}/commit/")
PREUPLOAD, BATCH, MARK = ("POST", "/preupload/"), ("POST", "/objects/batch"), ("HEAD", "/resolve/.*/manifest.json")
CONTENT = {"lfs": ("PUT", "/lfs/"), "xet": ("GET", "/xet-write-token/")}
SHARD = {"lfs": ("GET", "/resolve/.*tar$"), "xet": ("GET", "/xet-read-token/")}
PLACES = {
    "first push": (LOOK, TREE, CREATE, CARD, PREUPLOAD, CONTENT, COMMIT),
    "second push": (LOOK, TREE, MARK, CARD, PREUPLOAD, CONTENT, COMMIT),
    "download": (LOOK, TREE, MARK, SHARD),
}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "401": ({"status": 401}, "log in with `hf auth login`"),
    "403": ({"status": 403}, "does not let this token write"),
    "409": ({"status": 409}, r"is busy \(409.*run the same command again"),
    "412": ({"status": 412}, "somebody else changed"),
    "429": ({"status": 429, "headers": {"Retry-After": "7"}}, r"is asked too often \(429.*run the same command again"),
    "429 for long": ({"status": 429, "headers": {"Retry-After": "4000"}}, "is asked too often"),
    "500": ({"status": 500}, r"failed \(500.*run the same command again"),
    "cut": ({"cut_after": 10}, "connection to the Hub failed.*run the same command again"),
    "slow": ({"delay": 60}, "connection to the Hub failed.*run the same command again"),
}
"""What can happen to any request, and what is said when it lasts."""
PASSING = ("409", "429", "500", "cut", "slow")


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Let the client wait for answers less long, and no longer in a second attempt."""
    patch.setattr(hub_retry, "ANSWER_WITHIN", 0.3)
    patch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    patch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    patch.setattr(huggingface_hub.file_download, "_ETAG_RETRY_TIMEOUT", 0.3)


def prepare(way: str, made: Path, other: Path) -> None:
    """Put on the Hub what is there before: nothing, another set, or what is downloaded."""
    if way != "first push":
        push_to_hub(other if way == "second push" else made, NAME)


def go(way: str, made: Path) -> None:
    """Do it, and see that it was done."""
    if way == "download":
        assert truth(download(NAME), "train") == truth(made, "train")
    else:
        assert len(push_to_hub(made, NAME).uploaded) > 5


@pytest.mark.parametrize("how", PASSING)
@pytest.mark.parametrize("way", PLACES)
def test_passing_faults_are_waited_for(
    hub: HubServer,
    made: Path,
    other: Path,
    waits: list[float],
    empty_cache: None,
    monkeypatch: pytest.MonkeyPatch,
    wire: str,
    way: str,
    how: str,
) -> None:
    """One at every place, more than any one operation takes: to do it once is enough, and it is done once."""
    prepare(way, made, other)
    commits = len(hub.repositories[NAME].branches["main"]) if hub.repositories else 1
    if how == "slow":
        hurry(monkeypatch)
    for place in PLACES[way]:
        if (place, how) != (CREATE, "409"):  # which says that it is there
            hub.fail(*(place[wire] if isinstance(place, dict) else place), **FAULTS[how][0])
    go(way, made)
    assert hub.faults == []
    assert published(hub, made)
    assert len(hub.repositories[NAME].branches["main"]) == commits + (way != "download")
    assert max(waits) >= (7 if how == "429" else 1)


@pytest.mark.parametrize(
    ("where", "how"),
    [
        (BATCH, {"status": 502}),
        (CONTENT["lfs"], {"cut_after": 1000}),
        (CONTENT["lfs"], {"delay": 0.3}),
        (CREATE, {"lost": True}),
        (COMMIT, {"cut_after": 100}),
        (COMMIT, {"lost": True}),
        (COMMIT, {"status": 503, "headers": {"RateLimit": '"api";r=99;t=250'}}),
        (SHARD["lfs"], {"answered": 1000}),
    ],
)
def test_other_passing_faults(
    hub: HubServer, made: Path, waits: list[float], empty_cache: None, where: tuple[str, str], how: dict[str, Any]
) -> None:
    """Half a body, an answer that is lost or late, or cut: the set is on the Hub once, and comes back."""
    hub.fail(*where, **how)
    push_to_hub(made, NAME)
    assert published(hub, made)
    assert len(hub.repositories[NAME].branches["main"]) == 2
    go("download", made)
    assert hub.faults == []
    assert max([0, *waits]) <= 16


@pytest.mark.parametrize(
    ("way", "where", "wire", "how"),
    [
        (way, where, wire, how)
        for way, where, wire in (
            ("first push", CREATE, "lfs"),
            ("first push", CONTENT["lfs"], "lfs"),
            ("first push", CONTENT["xet"], "xet"),
            ("second push", MARK, "lfs"),
            ("second push", COMMIT, "lfs"),
            ("download", LOOK, "lfs"),
            ("download", SHARD["lfs"], "lfs"),
            ("download", SHARD["xet"], "xet"),
        )
        for how in FAULTS
        if not (how == "409" and where == CREATE)  # which says that it is there
        if not (how == "412" and where != COMMIT)
        if not (how == "slow" and where in (MARK, SHARD["xet"]))  # which the client itself asks for many times
    ],
    indirect=["wire"],
)
def test_lasting_faults_are_told(
    hub: HubServer,
    made: Path,
    other: Path,
    waits: list[float],
    empty_cache: None,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    where: tuple[str, str],
    wire: str,
    how: str,
) -> None:
    """One clear line; nobody sees half a set; and when the fault is over, the same command completes."""
    prepare(way, made, other)
    before = hub.head(NAME) if hub.repositories else None
    fault, said = FAULTS[how]
    hub.fail(*where, times=9999, **fault)
    refused = way == "download" and how in ("401", "403")
    told = pytest.raises(UsageError if refused else HubError, match="does not give" if refused else said)
    with monkeypatch.context() as patch, told as caught:
        if how == "slow":
            hurry(patch)
            patch.setattr(hub_retry, "ATTEMPTS", 1)
        go(way, made)
    assert "\n" not in str(caught.value)
    assert max([0, *waits]) <= 16
    if wire == "lfs":  # hf_xet tells no headers, so that nobody knows how long the Hub asks for
        assert not waits or how not in ("401", "403", "412", "429 for long")
    if hub.repositories:
        assert (hub.head(NAME) is before) if before else (set(hub.head(NAME).files) == {".gitattributes"})
    hub.faults.clear()
    go(way, made)
    assert published(hub, made)


def test_other_lasting_faults(hub: HubServer, made: Path, waits: list[float]) -> None:
    """What is neither known nor likely to pass is told with the Hub's own words, and not tried again."""
    hub.fail(*COMMIT, status=400, message="bad commit")
    with pytest.raises(HubError, match=r"refuses.*bad commit"):
        push_to_hub(made, NAME)
    assert waits == []
    push_to_hub(made, NAME)


def test_each_batch_has_its_own_attempts(
    hub: HubServer, made: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults at every batch are more than one budget takes; and every shard is read for its digest once."""
    hashed: list[str] = []
    digest = huggingface_hub.lfs.sha_fileobj
    monkeypatch.setattr(huggingface_hub.lfs, "sha_fileobj", lambda file: hashed.append(file.name) or digest(file))
    monkeypatch.setattr(client, "BATCH_FILES", 1)
    entries = manifest.read_manifest(made).shards
    assert len(entries) > hub_retry.ATTEMPTS
    for entry in entries:
        hub.fail("PUT", f"/lfs/{entry.sha256}", cut_after=100, times=12)  # twice what huggingface_hub tries itself
    hub.fail(*COMMIT, status=500, times=hub_retry.ATTEMPTS - 1)
    push_to_hub(made, NAME)
    assert hub.faults == []
    assert published(hub, made)
    assert set(hashed) >= {str(made / entry.name) for entry in entries}
    assert len(hashed) == len(set(hashed))


def test_a_dry_run_and_a_broken_connection(hub: HubServer, made: Path, waits: list[float]) -> None:
    """It compares when the fault passes, and says that it did not when it lasts."""
    push_to_hub(made, NAME)
    hub.fail(*MARK, cut_after=0)
    assert push_to_hub(made, NAME, dry_run=True).uploaded == ()
    hub.write(NAME, "NOTES.txt", b"another commit, so that nothing is known of its files")
    hub.fail(*MARK, status=500, times=9999)
    said: list[str] = []
    assert len(push_to_hub(made, NAME, dry_run=True, say=said.append).uploaded) > 10
    assert said[-1].startswith("cannot compare with the repository: the Hub failed (500")


@pytest.mark.parametrize(
    ("where", "how"),
    [
        (("POST", "/discussions$"), {"lost": True}),
        (("POST", "/discussions$"), {"lost": True, "times": 3}),
        (("GET", r"/discussions/\d+$"), {"status": 500}),
        (("GET", "/discussions$"), {"status": 500}),
        (("POST", "/discussions$"), {"status": 503}),
    ],
)
def test_one_pull_request(
    hub: HubServer, made: Path, waits: list[float], where: tuple[str, str], how: dict[str, Any]
) -> None:
    """Whatever is lost on the way, one is opened: not an older one, nor one of somebody else's of the same title."""
    hub.create(NAME, private=True)
    title = "Update the expanded dataset"
    hub.open_pull_request(NAME, title, "me")
    hub.fail(*where, then=lambda: hub.open_pull_request(NAME, title, "you"), **how)
    summary = push_to_hub(made, NAME, create_pr=True)
    authors = [request.author for request in hub.repositories[NAME].pull_requests]
    assert authors.count("me") == 2
    number = len(authors) - authors[::-1].index("me")
    assert summary.revision == f"refs/pr/{number}"
    assert len(hub.head(NAME, summary.revision).files) == summary.files + 1
    assert waits


def test_what_the_hub_does_not_give(
    hub: HubServer, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float], empty_cache: None
) -> None:
    """No such data set, no such revision, not for this user, or not here without a network: told at once."""
    push_to_hub(made, NAME)
    for name, revision in (("me/none", None), (NAME, "v9")):
        with pytest.raises(UsageError, match=f"no folder '{name}' here, and the Hub does not give") as caught:
            gif_datasets.load_expanded(f"hub:{name}", revision=revision)
        assert "\n" not in str(caught.value)
    for name, value in (("HF_TOKEN", ""), ("HF_TOKEN", "hf_wrong")):
        monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match="does not give"):
            gif_datasets.load_expanded(NAME)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="offline mode"):
        gif_datasets.load_expanded(NAME)
    assert waits == []


def test_exit_codes_of_a_source_on_the_hub(
    hub: HubServer,
    made: Path,
    tmp_path: Path,
    waits: list[float],
    empty_cache: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """2 for a name that is none, 1 for a Hub that fails, and 0 when the fault passes."""
    push_to_hub(made, NAME)

    def run(name: str) -> tuple[int, list[str]]:
        options = ["--out", str(tmp_path / "more"), "--ratio", "1", "--prior", "linear", "--limit", "3", "--json"]
        return parser.main(["expand", f"hub:{name}", "--workers", "1", *options]), capsys.readouterr().err.splitlines()

    code, said = run("me/none")
    assert (code, len(said)) == (2, 1)
    hub.fail(*SHARD["lfs"], status=503, times=9999)
    code, said = run(NAME)
    assert code == 1
    assert said[-1].startswith("gif-datasets: the Hub failed (503")
    hub.faults.clear()
    hub.fail(*LOOK, status=503)
    assert run(NAME)[0] == 0
    assert hub.faults == []


def test_somebody_else_commits_meanwhile(hub: HubServer, made: Path) -> None:
    """Their commit stays, ours is refused as a whole and says so; pushed again it comes on top of theirs."""
    push_to_hub(made, NAME)
    hub.fail(*COMMIT, first=lambda: hub.write(NAME, "README.md", b"theirs"))
    with pytest.raises(HubError, match="somebody else changed"):
        push_to_hub(made, NAME, license="mit")
    assert hub.content(NAME, "README.md") == b"theirs"
    push_to_hub(made, NAME, license="mit")
    assert metadata(hub.content(NAME, "README.md").decode())["license"] == "mit"


def test_the_hub_lists_something_else_after_the_upload(hub: HubServer, made: Path) -> None:
    """What the Hub lists is compared with what was sent."""
    hub.fail(*COMMIT, then=lambda: hub.write(NAME, "_info.json", b"{}"))
    with pytest.raises(HubError, match=r"lists _info\.json of me/tiny-gif2x with other content than was sent"):
        push_to_hub(made, NAME)


def test_kill_9_in_mid_upload_and_again(hub: HubServer, made: Path) -> None:
    """A killed push leaves nothing that readers see; run again, what had arrived is not sent again."""
    hub.fail(*CONTENT["lfs"], delay=0.4, times=99)
    command = [sys.executable, "-m", "gif_datasets", "push", str(made), NAME]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not hub.bodies and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    told = job.communicate()[1]
    assert job.returncode == -signal.SIGKILL, told
    assert set(hub.head(NAME).files) == {".gitattributes"}
    hub.faults.clear()
    time.sleep(0.6)  # what the server was about to store
    before = [oid for oid, _ in hub.bodies]
    assert before
    summary = push_to_hub(made, NAME)
    sent = [oid for oid, _ in hub.bodies]
    assert len(sent) == len(set(sent))
    assert summary.files == len(hub.head(NAME).files) - 1


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 500])
def test_tokens_are_not_told(
    hub: HubServer,
    made: Path,
    waits: list[float],
    empty_cache: None,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    wire: str,
    status: int,
) -> None:
    """Whatever the Hub says back, no token and no signed address is told, logged, raised, printed or published."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(hub_retry, "ATTEMPTS", 2)
    told: list[str] = []
    push = ["push", str(made), NAME]
    expand = ["expand", f"hub:{NAME}", "--out", str(made.parent / "never"), "--prior", "linear"]
    for where, command in (
        (CREATE, push),
        (CARD, push),
        (CONTENT[wire], push),
        (COMMIT, push),
        (None, push),
        (LOOK, expand),
        (SHARD[wire], expand),
    ):
        if where:
            hub.fail(*where, status=status, times=9999, message="you sent TOKEN and hf_abcdefghijklmnop")
        assert (parser.main(command) != 0) == bool(where)
        try:
            push_to_hub(made, NAME, say=told.append) if command is push else gif_datasets.load_expanded(f"hub:{NAME}")
        except gif_datasets.GifDatasetsError as error:
            told += [*traceback.format_exception(error), repr(error), repr(error.__context__)]
        hub.faults.clear()
    assert len(told) >= 12
    everything = [*told, caplog.text, *capfd.readouterr()]
    assert not [text for text in everything for secret in (WRITER, "hf_abc", "s3cr3t") if secret in text]
    assert all(WRITER.encode() not in content for content in hub.blobs.values())


SECRET_ENDPOINT = """
import os, sys
os.environ["HF_ENDPOINT"] = "http://me:p@SSw0rd@127.0.0.1:9"
os.environ["HF_HUB_OFFLINE"] = "0"
from gif_datasets.cli import main
from gif_datasets.io import hub_retry
from gif_datasets.io.hub import Client
hub_retry.FIRST_WAIT = 0.01
print(Client(hub_retry.Repository("me/set"), print).address())
for words in (["expand", "hub:me/set", "--out", "o"], ["expand", "hf:me/set", "--out", "o"]):
    print(main(words), flush=True)
"""


def test_a_password_in_the_hub_s_address_is_not_shown(tmp_path: Path) -> None:
    """Neither in an address that is printed, nor in an error or a note about waiting."""
    done = subprocess.run(
        [sys.executable, "-c", SECRET_ENDPOINT], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.splitlines()[0] == "http://127.0.0.1:9/datasets/me/set"
    assert done.stdout.splitlines()[-1] in "12"
    assert "SSw0rd" not in done.stdout + done.stderr
    assert hub_retry.scrub("at https://me:a@b@host/x of me@host") == "at https://host/x of me@host"
