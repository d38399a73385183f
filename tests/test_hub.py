"""To the Hub and back, with the unmodified clients of Hugging Face against the server of hub_server.py."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from hub_server import READER, WRITER, HubServer
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, HubError, ShardError, UsageError, cli, push_to_hub, shards
from gif_datasets import hub as client
from gif_datasets.hub import download
from gif_datasets.measures import measure_records
from gif_datasets.reader import ShardReader

CLASSES = ("bee", "ant: `x` | <b>&amp;\n---\n# no\x07", "crab 🦀 'or\" so")
"""Not in the order of their names, and hostile to YAML, Markdown and HTML."""
COUNTS = {"train": 36, "validation": 3}
NAME = "me/tiny-gif2x"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five pictures, one of each held out, expanded."""
    return expand_noise(tmp_path_factory.mktemp("made"), rng_seed=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures, expanded otherwise."""
    return expand_noise(tmp_path_factory.mktemp("other"), rng_seed=1)


def expand_noise(place: Path, rng_seed: int) -> Path:
    generator = np.random.default_rng(0)
    rows = [(Image.fromarray(generator.integers(0, 256, (12, 9, 3), dtype=np.uint8)), i % 3) for i in range(15)]
    options: dict[str, Any] = {"validation_share": 0.2, "samples_per_shard": 6, "cache_dir": place / "c"}
    options |= {"ratio": 2, "prior": "linear", "classes": CLASSES, "rng_seed": rng_seed}
    gif_datasets.ExpandedDataset(rows, **options).precompute(place / "set")
    return place / "set"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "set"))


@pytest.fixture
def bees(seed_folder: Path) -> datasets.Dataset:
    """A Hugging Face dataset with columns of its own, one of which is named as one of ours."""
    paths = sorted(seed_folder.rglob("*.png"))
    names = sorted({path.parent.name for path in paths})
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=names),
            "method": datasets.Value("string"),
            "boxes": datasets.List(datasets.List(datasets.Value("float32"))),
            "mask": datasets.Image(),
        }
    )
    rows = {
        "id": list(range(100, 112)),
        "picture": [str(path) for path in paths],
        "kind": [names.index(path.parent.name) for path in paths],
        "method": [f"trap {i}" for i in range(12)],
        "boxes": [[[0.5, i]] for i in range(12)],
        "mask": [str(path) for path in reversed(paths)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def expansion(rows: datasets.Dataset, **options: Any) -> gif_datasets.ExpandedDataset:
    return gif_datasets.ExpandedDataset(rows, **{"ratio": 1, "prior": "linear", "image_column": "picture", **options})


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long whoever waited; nobody really waits."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


@pytest.fixture(params=["lfs", "xet"])
def wire(request: pytest.FixtureRequest) -> str:
    """How contents go: by LFS, or by Xet."""
    if request.param == "xet":
        request.getfixturevalue("xet")
    return str(request.param)


@pytest.fixture
def xet(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The client speaks Xet, and its store is a folder: what hf_xet 1.x takes a ``local://`` address for."""
    pytest.importorskip("hf_xet", reason="needs hf_xet, which comes with huggingface_hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    (tmp_path / "cas").mkdir()
    hub.xet = f"local://{tmp_path / 'cas'}"
    return hub


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has downloaded nothing yet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def pixels(image: Image.Image) -> str:
    return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()


def truth(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """What must be found, by key: picture digest and record."""
    loaded = gif_datasets.load_expanded(folder, split=split)
    records = [loaded.provenance(index).to_json() for index in range(len(loaded))]
    keys = [f"{split}-{r['seed_index']:07d}-{r['copy']:04d}" for r in records]
    return {k: {"pixels": pixels(loaded[i][0]), **r} for i, (k, r) in enumerate(zip(keys, records, strict=True))}


def metadata(text: str) -> dict[str, Any]:
    return dict(huggingface_hub.DatasetCard(text).data.to_dict())


# --- there and back -----------------------------------------------------------------------------------------------


def test_round_trip_of_shards(hub: HubServer, made: Path, tmp_path: Path) -> None:
    """Pushed shards load by name, streaming or not, whole or one kind, with class names, order and pixels as before."""
    summary = push_to_hub(made, NAME)
    assert (summary.private, summary.revision, summary.url) == (True, "main", f"{hub.url}/datasets/{NAME}")
    assert hub.repositories[NAME].private
    for split, count in COUNTS.items():
        wanted = truth(made, split)
        for streaming in (False, True):
            rows = datasets.load_dataset(NAME, split=split, streaming=streaming)
            assert rows.features["cls"].names == list(CLASSES)
            assert [row["cls"] for row in rows] == [record["label"] for record in wanted.values()]
            found = {row["__key__"]: {"pixels": pixels(row["png"]), **row["json"]} for row in rows}
            assert found == wanted
            assert list(found) == list(wanted)
            assert len(found) == count
    for config, kind in (("original", False), ("synthetic", True)):
        rows = datasets.load_dataset(NAME, config)
        assert set(rows) == set(COUNTS)
        assert {row["json"]["synthetic"] for row in rows["train"]} == {kind}
        assert rows["train"].num_rows == (24 if kind else 12)
        assert rows["validation"].num_rows == 3
    back = gif_datasets.load_expanded(NAME)
    here = gif_datasets.load_expanded(made)
    assert [(pixels(image), label) for image, label in back] == [(pixels(image), label) for image, label in here]
    assert back.classes == CLASSES


def test_what_comes_back_is_whole_and_goes_on(hub: HubServer, made: Path, tmp_path: Path) -> None:
    """The downloaded folder passes `verify`, describes itself, and is a source for another expansion."""
    push_to_hub(made, NAME)
    place = download(NAME)
    assert shards.verify(place) == []
    assert shards.read_manifest(place)["plan_hash"] == shards.read_manifest(made)["plan_hash"]
    more = gif_datasets.expand(f"hub:{NAME}", tmp_path / "more", ratio=1, prior="linear", limit=6)
    assert (more.originals, more.synthetic) == (2, 4 + 6)  # every third of the 36 is real
    again = gif_datasets.expand(gif_datasets.load_expanded(f"hub:{NAME}"), tmp_path / "b", ratio=1, prior="linear")
    assert (again.originals, again.synthetic) == (12, 24 + 36)


def test_from_the_cache_without_a_network(hub: HubServer, made: Path) -> None:
    """What was loaded once loads again offline: the same pixels and labels, and nothing is asked."""
    push_to_hub(made, NAME)
    datasets.load_dataset(NAME, split="train")
    gif_datasets.load_expanded(NAME)
    code = f"""if True:
        import datasets, gif_datasets, json
        from test_hub import pixels
        rows = datasets.load_dataset({NAME!r}, split="train")
        loaded = gif_datasets.load_expanded({NAME!r})
        print(json.dumps([[[pixels(row["png"]), row["cls"]] for row in rows], [[pixels(x), y] for x, y in loaded]]))
    """
    seen = len(hub.log)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE)}
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline, **paths})
    assert done.returncode == 0, done.stderr
    wanted = [[record["pixels"], record["label"]] for record in truth(made, "train").values()]
    assert json.loads(done.stdout) == [wanted, wanted]
    assert len(hub.log) == seen


def test_round_trip_of_parquet(hub: HubServer, made: Path) -> None:
    """Rows have the folder's pictures, labels and provenance in the folder's order; a second push is none."""
    push_to_hub(made, NAME, form="parquet")
    for split, count in COUNTS.items():
        wanted = truth(made, split)
        for streaming in (False, True):
            rows = list(datasets.load_dataset(NAME, split=split, streaming=streaming))
            assert [row["key"] for row in rows] == list(wanted)
            assert [pixels(row["image"]) for row in rows] == [record["pixels"] for record in wanted.values()]
            for name in ("label", "seed_key", "seed_index", "copy", "method", "synthetic"):
                assert [row[name] for row in rows] == [record[name] for record in wanted.values()]
            assert len(rows) == count
    hub.log.clear()
    again = push_to_hub(made, NAME, form="parquet")
    assert (again.uploaded, again.deleted) == ((), ())
    assert not hub.requests("POST", "/commit/")
    assert not hub.requests("PUT", "")


def test_a_revision_comes_back(hub: HubServer, made: Path, other: Path, tmp_path: Path) -> None:
    """Branch, tag or commit: `load_expanded` takes it as an argument, a source as `?revision=`."""
    push_to_hub(made, NAME, revision="v1")
    push_to_hub(other, NAME)
    pictures = {folder: [record["pixels"] for record in truth(folder, "train").values()] for folder in (made, other)}
    assert pictures[made] != pictures[other]
    for revision, folder in (("v1", made), (hub.head(NAME, "v1").oid, made), ("main", other), (None, other)):
        loaded = gif_datasets.load_expanded(f"hub:{NAME}", revision=revision)
        assert [pixels(image) for image, _ in loaded] == pictures[folder]
    more = gif_datasets.expand(f"hub:{NAME}?revision=v1", tmp_path / "more", ratio=1, prior="linear")
    assert (more.originals, more.synthetic) == (12, 24 + COUNTS["train"])
    found = [record for record in truth(tmp_path / "more", "train").values() if not record["copy"]]
    assert {r["seed_index"]: r["pixels"] for r in found} == dict(enumerate(pictures[made]))


def test_round_trip_of_parquet_with_own_columns(hub: HubServer, bees: datasets.Dataset, tmp_path: Path) -> None:
    """A Hugging Face source's columns go along with every row, and its rows and the loaded ones can be put together."""
    expansion(bees, ratio=2).precompute(tmp_path / "set")
    assert shards.verify(tmp_path / "set") == []
    wanted = truth(tmp_path / "set", "train")
    summary = push_to_hub(tmp_path / "set", NAME, form="parquet")
    assert summary.form == "parquet"
    assert "export.json" in summary.uploaded
    for streaming in (False, True):
        rows = datasets.load_dataset(NAME, split="train", streaming=streaming)
        assert {name: rows.features[name] for name in bees.features} == dict(bees.features)
        found = list(rows)
        assert [row["key"] for row in found] == list(wanted)
        assert [pixels(row["picture"]) for row in found] == [record["pixels"] for record in wanted.values()]
        seeds = {row["id"]: row for row in bees}
        for row in found:
            seed = seeds[row["id"]]
            assert all(row[name] == seed[name] for name in ("kind", "method", "boxes"))
            assert row["gif_method"] == ("gif-unclip" if row["synthetic"] else "none")
            assert pixels(row["mask"]) == pixels(seed["mask"])
            assert (pixels(row["picture"]) == pixels(seed["picture"])) == (not row["synthetic"])
    both = datasets.concatenate_datasets([bees, datasets.load_dataset(NAME, "synthetic", split="train")])
    assert both.num_rows == 12 + 24
    with pytest.raises(UsageError, match=r"holds Parquet, for datasets\.load_dataset"):
        gif_datasets.load_expanded(NAME)


def test_shards_carry_own_columns_beside_them(hub: HubServer, bees: datasets.Dataset, tmp_path: Path) -> None:
    """With shards the source's columns are one more file, which `datasets` reads by its features."""
    expansion(bees, validation_share=0.2).precompute(tmp_path / "set")
    push_to_hub(tmp_path / "set", NAME)
    rows = datasets.load_dataset("parquet", data_files=f"hf://datasets/{NAME}/source.parquet", split="train")
    assert rows.features["kind"] == bees.features["kind"]
    assert {row["gif_seed_index"]: row["id"] for row in rows} == dict(enumerate(range(100, 112)))
    assert "source.parquet" in hub.content(NAME, "README.md").decode()


def test_push_from_a_dataset(hub: HubServer, seed_folder: Path, tmp_path: Path) -> None:
    """`ExpandedDataset.push_to_hub` makes what is missing and publishes it."""
    expanded = gif_datasets.ExpandedDataset(str(seed_folder), ratio=1, prior="linear")
    assert expanded.push_to_hub(NAME, private=False).private is False
    assert datasets.load_dataset(NAME, split="train").num_rows == 24
    assert expanded.push_to_hub(NAME, private=False, folder=tmp_path / "kept").uploaded == ()


@pytest.mark.parametrize("more", [{}, {"samples_per_shard": 5}])
def test_configuration_makes_the_set_again(
    hub: HubServer, seed_folder: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    """`config.toml` on the Hub, with the source, gives a folder of the same plan."""
    options: dict[str, Any] = {"ratio": 2, "epsilon": 0.3, "validation_share": 0.25, "originals": False, **more}
    gif_datasets.expand(str(seed_folder), tmp_path / "a", prior="linear", **options)
    push_to_hub(tmp_path / "a", NAME)
    (tmp_path / "config.toml").write_bytes(hub.content(NAME, "config.toml"))
    config = gif_datasets.ExpansionConfig.build({}, tmp_path / "config.toml")
    gif_datasets.expand(str(seed_folder), tmp_path / "b", config=config)
    plans = [shards.read_manifest(tmp_path / name)["plan_hash"] for name in "ab"]
    assert plans[0] == plans[1]
    assert [config["config_name"] for config in metadata(hub.content(NAME, "README.md").decode())["configs"]] == [
        "synthetic"
    ]


# --- one commit ---------------------------------------------------------------------------------------------------


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
    with pytest.raises(ConfigError, match="leave one of them out"):
        push_to_hub(made, NAME, revision="v1", create_pr=True)


def test_from_hub_to_hub(hub: HubServer, bees: datasets.Dataset, tmp_path: Path) -> None:
    """A data set that `datasets` pushed is a source; its expansion names it, and both go together."""
    bees.push_to_hub("me/bees", private=True)
    gif_datasets.expand("hf:me/bees?image=picture", tmp_path / "set", ratio=1, prior="linear")
    push_to_hub(tmp_path / "set", NAME, form="parquet")
    assert metadata(hub.content(NAME, "README.md").decode())["source_datasets"] == ["me/bees"]
    source, made = (datasets.load_dataset(name, split="train") for name in ("me/bees", NAME))
    assert datasets.concatenate_datasets([source, made])["id"] == [*range(100, 112), *made["id"]]
    assert sorted(made["id"]) == sorted([*range(100, 112)] * 2)
    rows = gif_datasets.ExpandedDataset(source, ratio=1, prior="linear", image_column="picture").to_hf()
    assert set(rows["seed_key"]) == set(made["seed_key"])


# --- what is refused ----------------------------------------------------------------------------------------------


def test_refuses_a_folder_that_is_not_whole(hub: HubServer, folder: Path) -> None:
    """A flipped byte, a foreign file, no manifest: nothing reaches the Hub."""
    victim = next((folder / "data").glob("train-00002-*.tar"))
    content = bytearray(victim.read_bytes())
    content[700] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ShardError, match="is not published, because it is not whole: data/train-00002"):
        push_to_hub(folder, NAME)
    (folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        push_to_hub(folder, NAME)
    assert hub.log == []


def test_refuses_what_holds_something_else(hub: HubServer, made: Path) -> None:
    """Another data set of that name is not overwritten, nor a public one by a push that wants to be private."""
    hub.create(NAME, private=True)
    hub.write(NAME, "README.md", b"---\nlicense: mit\n---\n")
    hub.write(NAME, "manifest.json", b'{"files": {"data/mine.tar": {}}}')
    before = hub.head(NAME)
    with pytest.raises(UsageError, match="holds something else"):
        push_to_hub(made, NAME)
    assert hub.head(NAME) is before
    hub.create("me/public")
    with pytest.raises(UsageError, match="is there, and public"):
        push_to_hub(made, "me/public")
    assert push_to_hub(made, "me/public", private=False).private is False


@pytest.mark.parametrize("name", ["tiny", "me/../you", "me/a b", "https://x/me/tiny", "me/a--b", "", "me/tiny.git"])
def test_refuses_names(hub: HubServer, made: Path, name: str) -> None:
    """A name that the Hub would not take is refused before anything is read or sent."""
    with pytest.raises(ConfigError, match="owner/name"):
        push_to_hub(made, name)
    assert hub.log == []


# --- what goes wrong on the way -----------------------------------------------------------------------------------

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
PASSING: dict[str, dict[str, Any]] = {
    "409": {"status": 409},
    "429": {"status": 429, "headers": {"Retry-After": "7"}},
    "500": {"status": 500},
    "cut": {"cut_after": 0},
    "slow": {"delay": 60},
}


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Let the client wait for answers less long, and no longer in a second attempt."""
    patch.setattr(client, "ANSWER_WITHIN", 0.3)
    patch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    patch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    patch.setattr(huggingface_hub.file_download, "_ETAG_RETRY_TIMEOUT", 0.3)


def go(way: str, made: Path) -> None:
    """Do it, and see that it was done."""
    if way == "download":
        assert truth(download(NAME), "train") == truth(made, "train")
    else:
        assert len(push_to_hub(made, NAME).uploaded) > 5


def published(hub: HubServer, folder: Path) -> bool:
    """Whether `main` holds the shards of a folder and no others."""
    listed = {path: file.oid for path, file in hub.head(NAME).files.items() if path.endswith(".tar")}
    return listed == {entry["name"]: entry["sha256"] for entry in shards.read_manifest(folder)["shards"]}


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
    if way != "first push":
        push_to_hub(other if way == "second push" else made, NAME)
    commits = len(hub.repositories[NAME].branches["main"]) if hub.repositories else 1
    if how == "slow":
        hurry(monkeypatch)
    for place in PLACES[way]:
        if (place, how) != (CREATE, "409"):  # which says that it is there
            hub.fail(*(place[wire] if isinstance(place, dict) else place), **PASSING[how])
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


LASTING: dict[str, tuple[dict[str, Any], str]] = {
    "401": ({"status": 401}, "log in with `hf auth login`"),
    "403": ({"status": 403}, "does not let this token write"),
    "409": ({"status": 409}, r"is busy \(409.*run the same command again"),
    "412": ({"status": 412}, "somebody else changed"),
    "429": ({"status": 429, "headers": {"Retry-After": "4000"}}, "is asked too often"),
    "500": ({"status": 500}, r"failed \(500.*run the same command again"),
    "cut": ({"cut_after": 10}, "connection to the Hub failed.*run the same command again"),
    "slow": ({"delay": 60}, "connection to the Hub failed.*run the same command again"),
}


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
        for how in LASTING
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
    if way != "first push":
        push_to_hub(other if way == "second push" else made, NAME)
    if how == "slow":
        hurry(monkeypatch)
        monkeypatch.setattr(client, "ATTEMPTS", 1)
    before = hub.head(NAME) if hub.repositories else None
    fault, said = LASTING[how]
    hub.fail(*where, times=9999, **fault)
    refused = way == "download" and how in ("401", "403")
    with pytest.raises(UsageError if refused else HubError, match="does not give" if refused else said) as caught:
        go(way, made)
    assert "\n" not in str(caught.value)
    assert max([0, *waits]) <= 16
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
    entries = shards.read_manifest(made)["shards"]
    assert len(entries) > client.ATTEMPTS
    for entry in entries:
        hub.fail("PUT", f"/lfs/{entry['sha256']}", cut_after=100, times=12)  # twice what huggingface_hub tries itself
    hub.fail(*COMMIT, status=500, times=client.ATTEMPTS - 1)
    push_to_hub(made, NAME)
    assert hub.faults == []
    assert published(hub, made)
    assert set(hashed) >= {str(made / entry["name"]) for entry in entries}
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
    assert said[-1].startswith("not compared with what is there: the Hub failed (500")


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
        return cli.main(["expand", f"hub:{name}", "--workers", "1", *options]), capsys.readouterr().err.splitlines()

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
    with pytest.raises(HubError, match=r"lists _info\.json of me/tiny-gif2x otherwise than it was sent"):
        push_to_hub(made, NAME)


def test_kill_9_in_mid_upload_and_again(hub: HubServer, made: Path) -> None:
    """A killed push leaves nothing that readers see; run again, what had arrived is not sent again."""
    hub.fail(*CONTENT, delay=0.4, times=99)
    command = [sys.executable, "-m", "gif_datasets", "push", str(made), NAME]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not hub.bodies and time.monotonic() < deadline:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
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
    monkeypatch.setattr(client, "ATTEMPTS", 2)
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
        assert (cli.main(command) != 0) == bool(where)
        try:
            push_to_hub(made, NAME, say=told.append) if command is push else gif_datasets.load_expanded(f"hub:{NAME}")
        except gif_datasets.GifDatasetsError as error:
            told += [str(error), repr(error.__cause__)]
        hub.faults.clear()
    assert len(told) >= 12
    everything = [*told, caplog.text, *capfd.readouterr()]
    assert not [text for text in everything for secret in (WRITER, "hf_abc", "s3cr3t") if secret in text]
    assert all(WRITER.encode() not in content for content in hub.blobs.values())


@pytest.mark.parametrize(("token", "said"), [("", "there is no token"), (READER, "write"), ("hf_wrong", "its token")])
def test_without_the_right_token(
    hub: HubServer, made: Path, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    """No token, one that may only read, one that is not known: each has its line."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=said):
        push_to_hub(made, NAME)
    assert push_to_hub(made, NAME, token=WRITER).files


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


# --- the card -----------------------------------------------------------------------------------------------------


@pytest.fixture
def card(hub: HubServer, made: Path) -> str:
    push_to_hub(made, NAME, source_license="CC BY-NC-ND 4.0", source_citation="@misc{a,\n```\n<script>x</script>}")
    return hub.content(NAME, "README.md").decode()


def test_metadata(card: str) -> None:
    """huggingface_hub and datasets read licence, task, size, source, tags, configs and features with class names."""
    found = metadata(card)
    assert found["license"] == "unknown"
    assert found["task_categories"] == ["image-classification"]
    assert found["size_categories"] == ["n<1K"]
    assert found["source_datasets"] == ["extended"]
    assert "synthetic" in found["tags"]
    configs = {config["config_name"]: config for config in found["configs"]}
    assert list(configs) == ["expanded", "original", "synthetic"]
    assert configs["expanded"]["default"] is True
    infos = datasets.info.DatasetInfosDict.from_dataset_card_data(huggingface_hub.DatasetCard(card).data)
    assert infos["expanded"].features["cls"].names == list(CLASSES)
    assert {name: infos[name].splits["train"].num_examples for name in configs} == {
        "expanded": 36,
        "original": 12,
        "synthetic": 24,
    }


def test_text(card: str, made: Path) -> None:
    """It says what is synthetic, how it was made, what was measured, what is unknown; and no name breaks out of it."""
    body = card.partition("\n---\n")[2]
    recipe = shards.read_manifest(made)["plan"]["recipe"]
    for words in (
        "12 real and 24 synthetic pictures of 3 classes",
        "24 of the 36 pictures of `train` are synthetic",
        "![Seeds and their imagined copies](preview.png)",
        recipe["prior"]["digest"],
        "This set: unknown",
        "Seed pictures: CC BY-NC-ND 4.0. That asks, among other things: name the authors; no commercial use; nothing",
        "Prior: Apache-2.0",
        "Class consistency:",
        "Coverage:",
        "Repeats: 0 of 24",
        "zhang2023expanding",
        f'load_dataset("{NAME}", "synthetic", split="train")',
        "Not for evaluation",
        "config.toml",
        *(f"| {name} | `" for name in recipe["options"]),
    ):
        assert words in body
    assert "<b>" not in body
    assert "\n# no" not in body
    assert body.count("```") % 2 == 0
    assert "More Information Needed" not in body
    assert str(made) not in card


def test_a_path_is_not_told() -> None:
    """Of a source that is a local path the card tells the last part only; a name on the Hub it links."""
    from gif_datasets.hub_card import _hub_name

    assert [_hub_name(s) for s in ("hf:me/bees", "hf:beans", "hf:/home/me/x", "hf:../x", "folder", "hf:a/b/c")] == [
        "me/bees",
        "beans",
        "",
        "",
        "",
        "",
    ]


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
    assert said[0].startswith("not compared with what is there")


def test_measures(made: Path) -> None:
    """They agree with the records."""
    reader = ShardReader(made)
    found = measure_records(reader, [reader.provenance(number) for number in range(len(reader))])
    records = [r for r in truth(made, "train").values() if r["synthetic"]]
    assert found.per_class == ((4, 8), (4, 8), (4, 8))
    assert found.criteria["entropy"][1] == pytest.approx(np.mean([r["entropy_after"] for r in records]))
    scored = [r for r in records if r["picture_class"] >= 0]
    assert found.scored == len(scored)
    assert found.nearness is not None
    assert (found.nearness.real, found.nearness.copies) == (12, 24)
    assert 0 <= found.nearness.covered <= 1
    assert found.nearness.to_copy < found.nearness.between_real


def test_an_edited_card_is_kept(hub: HubServer, folder: Path) -> None:
    """Who wrote into the card publishes their own; metadata that cannot be read is refused."""
    path = folder / "README.md"
    path.write_text(path.read_text().replace("---\n", "---\nlicense: mit\n", 1) + "\nMine.\n")
    push_to_hub(folder, NAME)
    assert hub.content(NAME, "README.md") == path.read_bytes()
    assert datasets.load_dataset(NAME, split="train").num_rows == 36
    path.write_text("---\nlicense: [mit\n---\n")
    with pytest.raises(ConfigError, match=r"metadata of README\.md cannot be read"):
        push_to_hub(folder, NAME)


def test_a_licence_that_the_hub_does_not_know(
    hub: HubServer, made: Path, other: Path, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused, here or there, before anything is made or sent."""
    with pytest.raises(ConfigError, match="identifier of the Hub's list"):
        push_to_hub(made, NAME, license="do what you want")
    with pytest.raises(ConfigError, match=r"does not take the metadata of README\.md.*\"license\" must be one of"):
        push_to_hub(made, NAME, license="gpl-99")
    assert hub.repositories == {}
    push_to_hub(made, NAME)
    hub.log.clear()
    hub.fail(*CARD, status=503)
    assert cli.main(["push", str(other), NAME, "--license", "gpl-99"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("gif-datasets: the Hub does not take the metadata")
    assert hub.faults == []
    assert {path for method, path in hub.log if method in ("POST", "PUT")} == {"/api/validate-yaml"}


def test_report_goes_along(hub: HubServer, made: Path, tmp_path: Path) -> None:
    """A report is published and linked."""
    (tmp_path / "r.html").write_text("<html>report</html>")
    push_to_hub(made, NAME, report=tmp_path / "r.html")
    assert hub.content(NAME, "report.html") == b"<html>report</html>"
    assert "(report.html)" in hub.content(NAME, "README.md").decode()


def test_croissant(hub: HubServer, made: Path) -> None:
    """mlcroissant validates the description that is published, and reads every picture and label by it."""
    croissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant, of the extra test")
    push_to_hub(made, NAME, license="cc-by-4.0")
    described = croissant.Dataset(str(download(NAME) / "croissant.json"))
    assert described.metadata.issues.errors == set()
    classes = [row["classes/name"] for row in described.records("classes")]
    assert [name.decode() if isinstance(name, bytes) else name for name in classes] == list(CLASSES)
    pictures = {row["samples/key"]: pixels(row["samples/image"]) for row in described.records("samples")}
    labels = {row["sample_labels/key"]: row["sample_labels/label"] for row in described.records("sample_labels")}
    wanted = truth(made, "train") | truth(made, "validation")
    assert {key.decode(): value for key, value in pictures.items()} == {k: r["pixels"] for k, r in wanted.items()}
    assert {key.decode(): value for key, value in labels.items()} == {k: r["label"] for k, r in wanted.items()}


# --- Xet ----------------------------------------------------------------------------------------------------------


def test_push_by_xet(xet: HubServer, made: Path) -> None:
    """There and back by Xet: no LFS, all files listed with their digests, and the second push sends nothing."""
    summary = push_to_hub(made, NAME)
    assert xet.requests("GET", "xet-write-token")
    assert not xet.requests("PUT", "/lfs/")
    listed = xet.head(NAME).files
    for entry in shards.read_manifest(made)["shards"]:
        assert listed[entry["name"]].oid == entry["sha256"]
    assert len(listed) == summary.files + 1
    assert push_to_hub(made, NAME).uploaded == ()
    back = gif_datasets.load_expanded(NAME)
    assert truth(back._reader.folder, "train") == truth(made, "train")
    assert datasets.load_dataset(NAME, split="train").num_rows == 36


# --- Hugging Face to Hugging Face ---------------------------------------------------------------------------------


def test_to_hf_keeps_columns_and_joins_its_source(bees: datasets.Dataset) -> None:
    """Every column of the source is there with its type, for copies too, and both can be concatenated."""
    expanded = expansion(bees, ratio=2)
    rows = expanded.to_hf()
    assert isinstance(rows, datasets.Dataset)
    assert rows.num_rows == 36
    assert {name: rows.features[name] for name in bees.features} == dict(bees.features)
    assert rows["id"] == [*range(100, 112), *(number for number in range(100, 112) for _ in range(2))]
    for index in (0, 11, 12, 35):
        assert pixels(rows[index]["picture"]) == pixels(expanded[index]["picture"])
        record = expanded.provenance(index)
        assert rows[index]["seed_key"] == record.seed_key
        assert (rows[index]["copy"], rows[index]["gif_method"]) == (record.copy, record.method)
    both = datasets.concatenate_datasets([bees, rows])
    assert both.num_rows == 48
    assert both[0]["seed_key"] is None
    assert pixels(both[12]["picture"]) == pixels(bees[0]["picture"])


def test_to_hf_fingerprints(bees: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same expansion has the same fingerprint, which `map` finds its results by; another one another."""

    def make(**options: Any) -> datasets.Dataset:
        return expansion(bees, **options).to_hf()

    first, again = make(), make()
    assert first._fingerprint == again._fingerprint
    assert first._fingerprint not in (make(ratio=2)._fingerprint, make(rng_seed=1)._fingerprint)
    mapped = first.map(_width)
    assert again.map(_width).cache_files == mapped.cache_files
    renamed = expansion(bees.rename_column("id", "number")).to_hf()
    assert renamed._fingerprint != first._fingerprint
    assert "number" in renamed.features


def _width(row: dict[str, Any]) -> dict[str, Any]:
    return {"width": row["picture"].width}


def test_to_hf_streaming(bees: datasets.Dataset) -> None:
    """An `IterableDataset` gives the same rows, from workers too, and imagines no more than it is asked for."""
    expanded = expansion(bees, ratio=2, decode_batch=4)
    stream = expanded.to_hf(streaming=True)
    assert isinstance(stream, datasets.IterableDataset)
    iterator = iter(stream)
    assert [next(iterator)["id"] for _ in range(12)] == list(range(100, 112))
    assert expanded.imaginer.generated == 0
    assert [row["key"] for row in stream] == expanded.to_hf()["key"]
    assert stream.num_shards == 9
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(row["key"] for row in loader) == sorted(row["key"] for row in stream)


def test_to_hf_of_other_sources(seed_folder: Path) -> None:
    """A folder has picture, label and provenance."""
    rows = gif_datasets.ExpandedDataset(str(seed_folder), ratio=1, prior="linear").to_hf()
    assert rows.features["label"].names == ["ant", "bee", "crab"]
    assert rows["label"] == [label for label in range(3) for _ in range(4)] * 2
    assert rows[0]["image"].size == (32, 32)


def test_texts_as_labels(hub: HubServer, bees: datasets.Dataset, tmp_path: Path) -> None:
    """A source whose labels are texts keeps them, and gets class numbers with names beside them."""
    texts = bees.cast_column("kind", datasets.Value("string")).map(lambda row: {"kind": f"k{row['kind']}"})
    expanded = expansion(texts, label_column="kind")
    rows = expanded.to_hf()
    assert rows["kind"][0] == "k0"
    assert rows.features["label"].names == ["k0", "k1", "k2"]
    expanded.push_to_hub(NAME, form="parquet")
    loaded = datasets.load_dataset(NAME, split="train")
    assert loaded.features["label"] == rows.features["label"]
    assert loaded.features["kind"] == datasets.Value("string")


def test_features_survive_the_card(hub: HubServer, seed_folder: Path, tmp_path: Path) -> None:
    """Nested features, and column names that YAML or Markdown would take for something else, load as they were."""
    picture = Image.open(next(seed_folder.rglob("*.png")))
    features = datasets.Features(
        {
            "a: `b` # [c]": datasets.Image(mode="RGB"),
            "null": datasets.ClassLabel(names=["yes", "0x1F", "- x", "~", '"']),
            "nested": {"inner": datasets.List({"x y": datasets.Value("float64")}), "when": datasets.Value("date32")},
            "empty": datasets.Value("string"),
        }
    )
    row = {"a: `b` # [c]": picture, "null": 0, "nested": {"inner": [{"x y": 1.5}], "when": None}, "empty": None}
    rows = datasets.Dataset.from_list([{**row, "null": label} for label in (0, 1, 4)], features=features)
    gif_datasets.ExpandedDataset(rows, ratio=1, prior="linear").push_to_hub(NAME, form="parquet")
    loaded = datasets.load_dataset(NAME, split="train")
    assert {name: loaded.features[name] for name in features} == dict(features)
    assert {name: loaded[0][name] for name in ("null", "nested", "empty")} == {
        name: rows[loaded[0]["seed_index"]][name] for name in ("null", "nested", "empty")
    }


def test_damaged_own_columns(bees: datasets.Dataset, tmp_path: Path) -> None:
    """A damaged `source.parquet` is named by `verify`, and refused by the reader."""
    from gif_datasets.columns import read_source

    expansion(bees).precompute(tmp_path / "set")
    path = tmp_path / "set" / "source.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    assert any("source.parquet" in line for line in shards.verify(tmp_path / "set"))
    with pytest.raises(ShardError, match="damaged"):
        read_source(tmp_path / "set")
    expansion(bees).precompute(tmp_path / "set")
    assert shards.verify(tmp_path / "set") == []
