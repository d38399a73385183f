"""The card, the report and the Croissant description as they are published."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import objects as marked
import pytest
from hub_server import HubServer
from hub_sets import CLASSES, NAME, expansion, metadata, pixels, truth

import gif_datasets
from gif_datasets import ConfigError, push_to_hub
from gif_datasets.cli import parser
from gif_datasets.report.page import write_report
from gif_datasets.report.set_statistics import measure_records
from gif_datasets.shards import manifest
from gif_datasets.shards.reader import ShardReader


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
    recipe = manifest.read_manifest(made).plan.recipe.to_json()
    for words in (
        "12 real and 24 synthetic images of 3 classes",
        "24 of the 36 images of `train` are synthetic",
        "![Seeds and their imagined copies](preview.png)",
        recipe["prior"]["digest"],
        "This dataset: unknown",
        "Seed images: CC BY-NC-ND 4.0. Its conditions include: name the authors; no commercial use; nothing",
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
    hub.fail("POST", "/validate-yaml", status=503)
    assert parser.main(["push", str(other), NAME, "--license", "gpl-99"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("gif-datasets: the Hub does not take the metadata")
    assert hub.faults == []
    assert {path for method, path in hub.log if method in ("POST", "PUT")} == {"/api/validate-yaml"}


def test_a_report_goes_along(hub: HubServer, made: Path, other: Path, tmp_path: Path) -> None:
    """One is made and linked; one that was written tells its figures on the card, and must be of the same set."""
    push_to_hub(made, NAME)
    page, text = (hub.content(NAME, name).decode() for name in ("report.html", "README.md"))
    assert page.count("data:image/png;base64,") > 12
    assert "(report.html)" in text
    assert "By the CLIP" not in text
    written = write_report(made, tmp_path / "r.html").likeness
    assert written is not None
    push_to_hub(made, NAME, report=tmp_path / "r.html")
    assert hub.content(NAME, "report.html") == (tmp_path / "r.html").read_bytes()
    text = hub.content(NAME, "README.md").decode()
    assert f"class consistency {written.consistent:.1%}" in text
    assert f"near-duplicates of their own seed {written.like_seed:.1%}" in text
    with pytest.raises(ConfigError, match="belongs to another dataset"):
        push_to_hub(other, NAME, report=tmp_path / "r.html")
    (tmp_path / "r.json").write_bytes((tmp_path / "r.json").read_bytes().replace(b"consistent_real", b"x"))
    with pytest.raises(ConfigError, match="is damaged"):
        push_to_hub(made, NAME, report=tmp_path / "r.html")
    (tmp_path / "own.html").write_text("<html>mine</html>")
    told: list[str] = []
    push_to_hub(made, NAME, report=tmp_path / "own.html", say=told.append)
    assert any("no figures beside" in line for line in told)
    assert hub.content(NAME, "report.html") == b"<html>mine</html>"


def test_the_rate_of_class_consistency(hub: HubServer, seed_folder: Path, tmp_path: Path) -> None:
    """It is on the card where the pictures were classified when they were made."""
    options: dict[str, Any] = {"ratio": 2, "prior": "linear", "measure_pictures": True}
    gif_datasets.expand(str(seed_folder), tmp_path / "set", **options)
    push_to_hub(tmp_path / "set", NAME)
    records = [r for r in truth(tmp_path / "set", "train").values() if r["copy"]]
    rate = sum(r["picture_class"] == r["label"] for r in records) / len(records)
    assert f"{rate:.1%} of the 24 copies" in hub.content(NAME, "README.md").decode()


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_croissant(hub: HubServer, bees: datasets.Dataset, tmp_path: Path, form: str) -> None:
    """mlcroissant validates what is published without a warning, and reads by it what there is, by split."""
    croissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant, of the extra test")
    shutil.rmtree(Path(os.environ["CROISSANT_CACHE"]), ignore_errors=True)  # keyed by file names alone
    expansion(bees, validation_share=0.2).precompute(tmp_path / "set")
    push_to_hub(tmp_path / "set", NAME, license="cc-by-4.0", form=form)
    place = Path(huggingface_hub.snapshot_download(NAME, repo_type="dataset"))
    described = croissant.Dataset(str(place / "croissant.json"))
    assert (described.metadata.issues.errors, described.metadata.issues.warnings) == (set(), set())
    wanted = truth(tmp_path / "set", "train") | truth(tmp_path / "set", "validation")
    rows = {r["samples/key"].decode(): r for r in described.records("samples")}
    assert {key: pixels(row["samples/image"]) for key, row in rows.items()} == {
        k: r["pixels"] for k, r in wanted.items()
    }
    assert {key: row["samples/split"].decode() for key, row in rows.items()} == {k: k.split("-")[0] for k in wanted}
    assert [row["splits/name"] for row in described.records("splits")] == ["train", "validation"]
    assert [row["classes/name"] for row in described.records("classes")] == bees.features["kind"].names
    if form == "parquet":
        assert {k: r["samples/seed_key"].decode() for k, r in rows.items()} == {
            k: r["seed_key"] for k, r in wanted.items()
        }
        assert {k: r["samples/label"] for k, r in rows.items()} == {k: r["label"] for k, r in wanted.items()}
        return
    labels = {r["sample_labels/key"].decode(): r["sample_labels/label"] for r in described.records("sample_labels")}
    assert labels == {k: r["label"] for k, r in wanted.items()}
    told = {r["provenance/key"].decode(): json.loads(r["provenance/record"]) for r in described.records("provenance")}
    assert told == {k: {name: v for name, v in r.items() if name != "pixels"} for k, r in wanted.items()}
    own = {
        r["source_columns/key"].decode(): json.loads(r["source_columns/record"])
        for r in described.records("source_columns")
    }
    assert {k: r["id"] for k, r in own.items()} == {k: 100 + r["seed_index"] for k, r in wanted.items()}


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_croissant_of_objects(hub: HubServer, tmp_path: Path, form: str) -> None:
    """mlcroissant validates a set that keeps masks, and reads its boxes, classes and outlines."""
    croissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant, of the extra test")
    shutil.rmtree(Path(os.environ["CROISSANT_CACHE"]), ignore_errors=True)
    source = marked.coco(tmp_path / "seeds")
    gif_datasets.expand(source, tmp_path / "set", method="cutout", prior="linear", ratio=1, keep="masks")
    push_to_hub(tmp_path / "set", NAME, form=form)
    place = Path(huggingface_hub.snapshot_download(NAME, repo_type="dataset"))
    described = croissant.Dataset(str(place / "croissant.json"))
    assert (described.metadata.issues.errors, described.metadata.issues.warnings) == (set(), set())
    wanted = {key: row["objects"] for key, row in truth(tmp_path / "set", "train").items()}
    if form == "shards":
        found = {
            r["provenance/key"].decode(): json.loads(r["provenance/record"]) for r in described.records("provenance")
        }
        assert {key: row["objects"] for key, row in found.items()} == wanted
        assert "objects" in (place / "croissant.json").read_text()
        return
    rows = {row["samples/key"].decode(): row for row in described.records("samples")}
    assert rows.keys() == wanted.keys()
    for key, row in rows.items():
        own = {part: row[f"samples/objects/{part}"] for part in wanted[key]}
        names = [("cat", "dog")[number] for number in own.pop("category")]
        assert {**own, "category": names} == wanted[key]


def test_the_day_of_the_first_publication_stays(hub: HubServer, made: Path) -> None:
    """So that a push on another day sends nothing."""
    push_to_hub(made, NAME)
    published = json.loads(hub.content(NAME, "croissant.json"))
    assert published["datePublished"] == datetime.now(timezone.utc).date().isoformat()
    older = hub.content(NAME, "croissant.json").replace(published["datePublished"].encode(), b"2024-02-29")
    hub.write(NAME, "croissant.json", older)
    assert set(push_to_hub(made, NAME).uploaded) == {"manifest.json"}  # whose digests are those of the older one
    assert hub.content(NAME, "croissant.json") == older
    assert push_to_hub(made, NAME).uploaded == ()


def test_the_prior_is_cited(hub: HubServer, made: Path, card: str) -> None:
    """As it was given; else what is known of it, and who made it is to be asked."""
    assert "cite it as its authors ask" in card.split("## Citation")[1].split("The prior: `linear`")[1]
    push_to_hub(made, NAME, prior_citation="@misc{p,\n```\n# title\u202e</code>}")
    text = hub.content(NAME, "README.md").decode().split("## Citation")[1]
    assert "The prior: `linear`, revision `" in text
    assert "@misc{p,\n'''\n# title</code>}\n```" in text


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_the_card_splits_without_leaks(hub: HubServer, bees: datasets.Dataset, tmp_path: Path, form: str) -> None:
    """It warns of splits by rows; the lines that it shows keep a seed, its copies and what shows a part of it apart."""
    rows = bees.rename_column("method", "synthetic")  # a column of ours has another name then
    expansion(rows, ratio=4, method="cutmix").precompute(tmp_path / "set")
    push_to_hub(tmp_path / "set", NAME, form=form)
    text = hub.content(NAME, "README.md").decode().partition("## Split")[2].partition("\n## ")[0]
    assert "`train_test_split`, `random_split`" in text
    assert (f'load_expanded("{NAME}").split(0.2)' in text) == (form == "shards")
    names: dict[str, Any] = {"dataset": datasets.load_dataset(NAME, split="train")}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    train, test = ([row.get("json") or row for row in names[part]] for part in ("train", "test"))
    shown = {row["seed_key"] for row in test}
    made = "synthetic" if form == "shards" else "gif_synthetic"
    assert len(test) == len(shown) == 3
    assert not any(row[made] for row in test)
    assert sum(row[made] for row in train) >= 9
    assert not [row for row in train if {row["seed_key"], row["partner_key"]} & shown]


def test_the_card_of_copies_alone_shows_no_split(hub: HubServer, seed_folder: Path, tmp_path: Path) -> None:
    """Without the real images, none can be tested on."""
    gif_datasets.expand(str(seed_folder), tmp_path / "set", method="randaugment", originals=False)
    push_to_hub(tmp_path / "set", NAME)
    text = hub.content(NAME, "README.md").decode().partition("## Split")[2].partition("\n## ")[0]
    assert "test on other real images" in text
    assert "```" not in text
