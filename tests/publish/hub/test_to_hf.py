"""From Hugging Face to Hugging Face: columns, fingerprints and concatenation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hub_server import HubServer
from hub_sets import NAME, expansion, metadata, pixels
from PIL import Image

import gif_datasets
from gif_datasets import ShardError, push_to_hub
from gif_datasets.shards.verify import verify


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
    both = datasets.concatenate_datasets([bees.to_iterable_dataset(), stream])
    assert [row["id"] for row in both] == [*bees["id"], *(row["id"] for row in stream)]
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
    from gif_datasets.shards.columns import read_source

    expansion(bees).precompute(tmp_path / "set")
    path = tmp_path / "set" / "source.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    assert any("source.parquet" in line for line in verify(tmp_path / "set"))
    with pytest.raises(ShardError, match="damaged"):
        read_source(tmp_path / "set")
    expansion(bees).precompute(tmp_path / "set")
    assert verify(tmp_path / "set") == []


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
