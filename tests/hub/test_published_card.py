"""The card, the report and the Croissant description as they are published."""

from __future__ import annotations

from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from hub_server import HubServer
from hub_sets import CLASSES, NAME, metadata, pixels, truth

from gif_datasets import ConfigError, cli, push_to_hub, shards
from gif_datasets.hub import download
from gif_datasets.measures import measure_records
from gif_datasets.reader import ShardReader


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
