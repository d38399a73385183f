"""To the Hub and back, with the unmodified clients of Hugging Face against the server of hub_server.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from helpers import OPTIONS, contents, stored
from hub_server import HubServer
from hub_sets import CLASSES, COUNTS, NAME, expansion, metadata, pixels, truth

import gif_datasets
from gif_datasets import UsageError, push_to_hub
from gif_datasets.io.hub import download
from gif_datasets.io.stores import RemotePath
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.verify import verify


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
        streamed = datasets.load_dataset(NAME, config, split="train", streaming=True)
        assert [row["__key__"] for row in streamed] == rows["train"]["__key__"]
    back = gif_datasets.load_expanded(NAME)
    here = gif_datasets.load_expanded(made)
    assert [(pixels(image), label) for image, label in back] == [(pixels(image), label) for image, label in here]
    assert back.classes == CLASSES


def test_what_comes_back_is_whole_and_goes_on(hub: HubServer, made: Path, tmp_path: Path) -> None:
    """The downloaded folder passes `verify`, describes itself, and is a source for another expansion."""
    push_to_hub(made, NAME)
    place = download(NAME)
    assert verify(place) == []
    assert manifests.read_manifest(place).plan_hash == manifests.read_manifest(made).plan_hash
    more = gif_datasets.expand(f"hub:{NAME}", tmp_path / "more", ratio=1, prior="linear", limit=6)
    assert (more.originals, more.synthetic) == (2, 4 + 6)  # every third of the 36 is real
    again = gif_datasets.expand(gif_datasets.load_expanded(f"hub:{NAME}"), tmp_path / "b", ratio=1, prior="linear")
    assert (again.originals, again.synthetic) == (12, 24 + 36)


def test_a_ratio_by_class_goes_there_and_back(hub: HubServer, seed_folder: Path, tmp_path: Path) -> None:
    """The card says how each class grew; what is loaded by name has these images, and describes itself."""
    options: dict[str, Any] = {**OPTIONS, "ratio": {"ant": 3, "bee": 0, "crab": 1}}
    gif_datasets.expand(str(seed_folder), tmp_path / "out", **options)
    push_to_hub(tmp_path / "out", NAME)
    card = hub.content(NAME, "README.md").decode()
    assert "# seeds, expanded 0x to 3x by class by `gif-unclip`" in card
    assert "ant (4 + 12), bee (4 + 0), crab (4 + 4)" in card
    assert metadata(card)["pretty_name"] == "seeds, expanded 0x to 3x by class"
    for streaming in (False, True):
        rows = datasets.load_dataset(NAME, split="train", streaming=streaming)
        assert sorted(row["cls"] for row in rows) == [0] * 16 + [1] * 4 + [2] * 8
    place = download(NAME)
    assert verify(place) == []
    assert manifests.read_manifest(place).plan.recipe.ratio == options["ratio"]
    assert len(gif_datasets.load_expanded(NAME)) == 28


def test_novel_copies_go_there_and_back(hub: HubServer, seed_folder: Path, tmp_path: Path) -> None:
    """The card has the bits and the rates; whoever loads the set by name has the verdict in each record."""
    options: dict[str, Any] = {"method": "randaugment", "check": "novel", "novel_bits": 50, "redraws": 1}
    gif_datasets.expand(str(seed_folder), tmp_path / "out", **{**OPTIONS, **options})
    push_to_hub(tmp_path / "out", NAME)
    records = [truth["json"] for truth in datasets.load_dataset(NAME, split="train") if truth["json"]["copy"]]
    first = sum(record["attempts"] > 1 for record in records) / 24
    last = sum(not record["passed"] for record in records) / 24
    assert first > last
    card = hub.content(NAME, "README.md").decode()
    assert f"By check=novel {first:.1%} of the first draws showed" in card
    assert f"and {last:.1%} of those that were taken" in card
    assert "fewer than 50 of the 255 bits" in card
    assert "| novel_bits | `50` |" in card
    assert verify(download(NAME)) == []
    assert len(gif_datasets.load_expanded(NAME)) == 36


def test_from_the_cache_without_a_network(hub: HubServer, made: Path) -> None:
    """What was loaded once loads again offline: the same pixels and labels, and nothing is asked."""
    push_to_hub(made, NAME)
    datasets.load_dataset(NAME, split="train")
    gif_datasets.load_expanded(NAME)
    code = f"""if True:
        import datasets, gif_datasets, json
        from hub_sets import pixels
        rows = datasets.load_dataset({NAME!r}, split="train")
        loaded = gif_datasets.load_expanded({NAME!r})
        print(json.dumps([[[pixels(row["png"]), row["cls"]] for row in rows], [[pixels(x), y] for x, y in loaded]]))
    """
    seen = len(hub.log)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE)}
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
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
    assert verify(tmp_path / "set") == []
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


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_carry_own_columns(hub: HubServer, bees: datasets.Dataset, tmp_path: Path, streaming: bool) -> None:
    """With shards they are one typed column of every sample, copies included; pictures are in a file beside."""
    expansion(bees, validation_share=0.2).precompute(tmp_path / "set")
    assert verify(tmp_path / "set") == []
    push_to_hub(tmp_path / "set", NAME)
    seeds = {row["id"]: row for row in bees}
    plain = {name: bees.features[name] for name in ("id", "kind", "method", "boxes")}
    for split in ("train", "validation"):
        rows = datasets.load_dataset(NAME, split=split, streaming=streaming)
        assert dict(rows.features["source.json"]) == plain
        for row in rows:
            own, seed = row["source.json"], seeds[100 + row["json"]["seed_index"]]
            assert own == {name: seed[name] for name in plain}
            assert own["kind"] == row["cls"]
    beside = datasets.load_dataset("parquet", data_files=f"hf://datasets/{NAME}/source.parquet", split="train")
    assert {row["gif_seed_index"]: row["id"] for row in beside} == dict(enumerate(range(100, 112)))
    assert pixels(beside[0]["mask"]) == pixels(bees[beside[0]["gif_seed_index"]]["mask"])
    assert "`source.parquet`" in (text := hub.content(NAME, "README.md").decode())
    assert "`gif_seed_index`" in text


def test_the_commit_that_was_read_is_told(hub: HubServer, bees: datasets.Dataset, tmp_path: Path) -> None:
    """Of a data set on the Hub, be it rows or an expansion, in plan, manifest and both cards; another is refused."""
    bees.push_to_hub("me/bees", private=True)
    source = "hf:me/bees?image=picture"
    gif_datasets.expand(source, tmp_path / "set", ratio=1, prior="linear")
    first = hub.head("me/bees").oid
    assert manifests.read_manifest(tmp_path / "set").plan.source_revision == first
    push_to_hub(tmp_path / "set", NAME)
    for text in (hub.content(NAME, "README.md").decode(), (tmp_path / "set" / "README.md").read_text()):
        assert f"| revision of the seeds | `{first}` |" in text
    hub.write("me/bees", "NOTES", b"another commit")
    with pytest.raises(gif_datasets.PlanMismatch, match=f"source_revision.*{first[:8]}"):
        gif_datasets.expand(source, tmp_path / "set", ratio=1, prior="linear")
    assert gif_datasets.expand(f"{source}&revision={first}", tmp_path / "set", ratio=1, prior="linear").generated == 0
    gif_datasets.expand(f"hub:{NAME}", tmp_path / "more", ratio=1, prior="linear")
    assert manifests.read_manifest(tmp_path / "more").plan.source_revision == hub.head(NAME).oid


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_rows_of_an_expansion_go_on(hub: HubServer, made: Path, tmp_path: Path, form: str) -> None:
    """Read as rows, too, imagined pictures stay synthetic, and nothing tells where they lay on this machine."""
    push_to_hub(made, NAME, form=form)
    done = gif_datasets.expand(f"hf:{NAME}", tmp_path / "more", ratio=1, prior="linear")
    assert (done.originals, done.synthetic) == (12, 24 + 36)
    manifest = manifests.read_manifest(tmp_path / "more")
    assert manifest.classes == CLASSES
    assert "__url__" not in [feature["name"] for feature in manifest.plan.own_columns["features"]]
    assert verify(tmp_path / "more") == []


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
    plans = [manifests.read_manifest(tmp_path / name).plan_hash for name in "ab"]
    assert plans[0] == plans[1]
    assert [config["config_name"] for config in metadata(hub.content(NAME, "README.md").decode())["configs"]] == [
        "synthetic"
    ]


def test_push_by_xet(xet: HubServer, made: Path) -> None:
    """There and back by Xet: no LFS, all files listed with their digests, and the second push sends nothing."""
    summary = push_to_hub(made, NAME)
    assert xet.requests("GET", "xet-write-token")
    assert not xet.requests("PUT", "/lfs/")
    listed = xet.head(NAME).files
    for entry in manifests.read_manifest(made).shards:
        assert listed[entry.name].oid == entry.sha256
    assert len(listed) == summary.files + 1
    assert push_to_hub(made, NAME).uploaded == ()
    back = gif_datasets.load_expanded(NAME)
    assert truth(back._reader.folder, "train") == truth(made, "train")
    assert datasets.load_dataset(NAME, split="train").num_rows == 36


def test_expanded_straight_into_a_repository(hub: HubServer, seed_folder: Path, tmp_path: Path) -> None:
    """The Hub as a store, which commits every object and has no exclusive PUT: the same bytes, whole."""
    gif_datasets.expand(str(seed_folder), tmp_path / "local", **OPTIONS)
    huggingface_hub.HfApi().create_repo(NAME, repo_type="dataset")
    url = f"hf://datasets/{NAME}"
    gif_datasets.expand(str(seed_folder), url, **OPTIONS)
    assert {name: found for name, found in stored(url).items() if name != ".gitattributes"} == contents(
        tmp_path / "local"
    )
    assert verify(RemotePath(url)) == []
    assert gif_datasets.expand(str(seed_folder), url, **OPTIONS).generated == 0
