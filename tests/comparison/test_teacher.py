"""A teacher: its probabilities are the classifier's own, in the order of the folder, and reach the loss."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, load_expanded, soft_labels
from gif_datasets.comparison.compare_config import CompareConfig
from gif_datasets.comparison.experiment import Experiment
from gif_datasets.comparison.teacher import Teaching, as_images, load_teacher
from gif_datasets.comparison.test_set import read_test_set
from gif_datasets.comparison.train import Pictures, Taught, Training, train
from gif_datasets.config import ExpansionConfig
from gif_datasets.priors import find_prior
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import reject
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import list_seeds
from gif_datasets.types import no_progress

NAMES = "airplane = ['aircraft']\nbird = ['small bird', 'song bird']\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 seeds of the demo and a masked copy of each, classified by their texts."""
    root = tmp_path_factory.mktemp("taught")
    (root / "names.toml").write_text(NAMES)
    words = {"synonyms": str(root / "names.toml"), "domain": "sketch", "classifier": "text", "measure_pictures": True}
    gif_datasets.expand("demo", root / "set", method="cutout", ratio=1, limit=20, image_format="png", **words)
    return root / "set"


def test_texts_say_what_they_said_of_the_copies(folder: Path) -> None:
    """In the folder's own words, and in its order: what was measured when the pictures were made."""
    loaded, soft = load_expanded(folder), soft_labels(folder, classifier="text")
    assert soft.shape == (40, 10)
    assert soft.dtype == np.float32
    assert soft.sum(1) == pytest.approx(1, abs=1e-5)
    made = np.flatnonzero(loaded.facts.synthetic)
    records = [loaded.provenance(int(i)) for i in made]
    assert soft[made].argmax(1).tolist() == [record.picture_class for record in records]
    own = soft[made, [record.label for record in records]]
    assert own == pytest.approx([record.picture_consistency for record in records], abs=1e-4)
    entropy = -(soft * np.log(soft.clip(1e-30))).sum(1)
    assert entropy[made] == pytest.approx([record.picture_entropy for record in records], abs=1e-3)


def test_softer(folder: Path) -> None:
    """A temperature takes the root of the odds."""
    once, soft = soft_labels(folder), soft_labels(folder, temperature=4)
    root = once.astype(np.float64) ** 0.25
    assert soft == pytest.approx(root / root.sum(1, keepdims=True), abs=1e-5)


def test_what_is_known_of_the_seeds(folder: Path, tmp_path: Path) -> None:
    """A head that is fitted to the folder's real pictures names them all; rejected ones are neither known nor asked."""
    loaded, soft = load_expanded(folder), soft_labels(folder, classifier="linear")
    real = np.flatnonzero(~loaded.facts.synthetic)
    assert soft[real].argmax(1).tolist() == loaded.targets[real].tolist()
    shutil.copytree(folder, tmp_path / "looked-at")
    reader = ShardReader(folder)
    out = [int(place) for place in real if loaded.targets[place] == 0]
    reject(tmp_path / "looked-at", [reader.key(place) for place in out])
    fewer = soft_labels(tmp_path / "looked-at", classifier="linear")
    assert fewer.shape == (40 - len(out), 10)
    assert not np.allclose(fewer, np.delete(soft, out, 0), atol=1e-3)


def test_refused(folder: Path, tmp_path: Path) -> None:
    """Before anything is loaded."""
    with pytest.raises(ConfigError, match="unknown teacher 'texts'; did you mean 'text'"):
        soft_labels(folder, classifier="texts")
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
        soft_labels(folder, temperature=0)
    with pytest.raises(ConfigError, match="prior 'linear' has no CLIP, so it cannot be the teacher"):
        soft_labels(folder, prior="linear")
    gif_datasets.expand("demo", tmp_path / "alone", method="cutout", ratio=1, limit=20, originals=False)
    with pytest.raises(ConfigError, match="has no real image to fit 'both' to; take classifier='text'"):
        soft_labels(tmp_path / "alone")
    assert soft_labels(tmp_path / "alone", classifier="text").shape == (20, 10)


def test_a_comparison_distils(seed_folder: Path, tmp_path: Path) -> None:
    """All arms with and without; the seeds alone learn what the literal loop teaches; results without are kept."""
    test = tmp_path / "test"
    shutil.copytree(seed_folder, test)
    for path in test.glob("*/*.png"):  # other pictures of the same classes
        Image.open(path).rotate(90).point(lambda value: 255 - value).save(path)
    more = {"steps": [20], "batch_size": 8, "image_size": 16, "runs": 1, "ratios": [1], "limit": 8, "shared": "allow"}
    before = gif_datasets.compare(str(seed_folder), str(test), "cutout", out=tmp_path / "out", **more)
    assert before.teacher == ""
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").iterdir()}
    found = gif_datasets.compare(str(seed_folder), str(test), "cutout", out=tmp_path / "out", distil=[0, 0.5], **more)
    assert [(row.arm, row.training.distil) for row in found.rows] == [
        ("original", 0), ("cutout 1x", 0), ("original", 0.5), ("cutout 1x", 0.5),
    ]  # fmt: skip
    assert found.rows[:2] == before.rows
    assert found.teacher == "embedded's CLIP (classifier both, temperature 4)"
    assert "taught by embedded's CLIP" in found.text()
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").iterdir()}
    assert len(now) == 4
    assert {name: now[name] for name in kept} == kept
    again = gif_datasets.compare(
        str(seed_folder), str(test), "cutout", out=tmp_path / "out", distil=[0.5], teacher="text", **more
    )
    assert len([*(tmp_path / "out" / "results").iterdir()]) == 6  # another teacher has results of its own
    assert again.rows[0].training == found.rows[2].training


def test_a_training_is_taught(seed_folder: Path, tmp_path: Path) -> None:
    """The network of a comparison is the one that the same pictures, taught by hand, make."""
    opened = wrap_source(str(seed_folder))
    listed = list_seeds(opened, 8)
    held = read_test_set(opened, listed, wrap_source(str(seed_folder)), "allow", no_progress)
    teaching = Teaching(find_prior("embedded"), ExpansionConfig(), "text", 2.0)
    training = Training(20, batch_size=8, distil=1.0)
    experiment = Experiment(tmp_path, str(seed_folder), listed, held, 16, CompareConfig(), 0, teaching, no_progress)
    pictures = experiment._seeds
    teacher = load_teacher(teaching, opened.classes, as_images(pictures.images), pictures.labels)
    logits = teacher.text.logits(teacher.seeds)
    by_hand = replace(pictures, taught=Taught((logits / 2).softmax(-1), 1.0, 2.0))
    for one, other in zip(
        train(by_hand, training, len(opened.classes), 0).parameters(),
        train(
            replace(pictures, taught=Taught(experiment._teacher_probabilities(pictures), 1.0, 2.0)),
            training,
            len(opened.classes),
            0,
        ).parameters(),
        strict=True,
    ):
        assert torch.equal(one, other)
    for own, copies in ((pictures.images, 3), (pictures.images[:0], 5)):  # the seeds are not asked of again
        images = torch.cat([own, 255 - pictures.images[:copies]])
        mixed = Pictures(images, pictures.labels[:1].expand(len(images)), torch.arange(len(images)) >= len(own))
        anew = teacher.probabilities(teacher.embeddings(as_images(images)), "text", 2.0)
        torch.testing.assert_close(experiment._teacher_probabilities(mixed), anew, rtol=1e-4, atol=1e-5)


def test_an_image_is_embedded_once(seed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for, and whatever is asked for with it; and no more is kept than there is room for."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 16, 16), dtype=np.uint8))
    teaching = Teaching(find_prior("embedded"), ExpansionConfig(), "text")
    teacher = load_teacher(teaching, ("a", "b"), as_images(pixels[:2]), torch.tensor([0, 1]))
    embed, asked = teacher.prior.embed_images, list[int]()

    def watched(images: Sequence[Image.Image]) -> torch.Tensor:
        asked.append(len({image.tobytes() for image in images}))
        return embed(images)

    monkeypatch.setattr(teacher.prior, "embed_images", watched)
    first = teacher.embeddings(as_images(pixels[:30]))
    assert asked == [20, 10]
    again = teacher.embeddings(as_images(torch.cat([pixels[10:50], pixels[40:42]])))
    assert asked == [20, 10, 20]
    assert torch.equal(again[:20], first[10:])
    assert torch.equal(again[30:32], again[40:])
    monkeypatch.setattr("gif_datasets.comparison.teacher.MOST_KNOWN", 5)
    teacher.embeddings(as_images(pixels[:30]))
    assert asked == [20, 10, 20]
    assert torch.equal(teacher.embeddings(as_images(pixels[:30])), first)
    assert asked == [20, 10, 20, 20, 5]
    assert len(teacher.embeddings([])) == 0
