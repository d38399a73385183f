"""A Hugging Face source's own columns beside its images."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from helpers import hugging_face

from gif_datasets import ExpandedDataset
from gif_datasets.shards.verify import verify


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def test_numbers_that_json_does_not_have(seed_folder: Path, tmp_path: Path) -> None:
    """NaN and infinities are null in samples, and themselves in the table."""
    ages = [31.5, float("nan"), float("inf"), None] * 3
    more: dict[str, Any] = {"age": ages, "marks": [[age] for age in ages]}
    features = {"age": datasets.Value("float32"), "marks": datasets.List(datasets.Value("float64"))}
    own = datasets.Dataset.from_dict(more, features=datasets.Features(features))
    source = datasets.concatenate_datasets([hugging_face(seed_folder), own], axis=1)
    ExpandedDataset(source, ratio=1, prior="linear").precompute(tmp_path / "set")
    assert verify(tmp_path / "set") == []
    found = set()
    for path in (tmp_path / "set" / "data").iterdir():
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".source.json"):
                    file = tar.extractfile(member)
                    assert file is not None
                    row = json.loads(file.read(), parse_constant=_refuse)
                    found.add((row["age"], row["marks"][0]))
    assert found == {(31.5, 31.5), (None, None)}
    kept = pyarrow.parquet.read_table(tmp_path / "set" / "source.parquet").column("age").to_pylist()
    assert math.isnan(kept[1])
    assert kept[2] == math.inf
