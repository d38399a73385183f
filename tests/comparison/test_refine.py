"""Imagine more of what is still wrong: rounds by held-out seeds, and a test set that decides nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import contents
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, PlanMismatch, SourceError
from gif_datasets.cli import main
from gif_datasets.comparison.refine import Refinement
from gif_datasets.shards.manifest import read_manifest
from gif_datasets.shards.verify import verify

CLASSES = {"ant": (140, 110, 110), "bee": (110, 140, 110), "crab": (110, 110, 140)}
QUICK: dict[str, Any] = {"steps": 20, "batch_size": 8, "image_size": 8, "folds": 3, "runs": 2, "device": "cpu"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds, two test sets and an expansion of three classes that a small network often confuses."""
    root = tmp_path_factory.mktemp("sets")
    for part, count, start in (("seeds", 6, 0), ("test", 6, 100), ("other", 6, 200)):
        for label, (name, tint) in enumerate(CLASSES.items()):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng(start + 10 * label + i).integers(-110, 110, (16, 16, 3))
                pixels = np.clip(np.array(tint) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    gif_datasets.expand(str(root / "seeds"), root / "out", prior="linear", method="unclip", ratio=2)
    return root


def refined(sets: Path, folder: Path, test: str = "test", **choices: Any) -> Refinement:
    """A copy of the expansion, refined; resumed where the copy is there."""
    if not folder.exists():
        shutil.copytree(sets / "out", folder)
    return gif_datasets.refine(folder, str(sets / test), **{**QUICK, **choices})


@pytest.fixture(scope="module")
def done(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Refinement:
    """Two rounds at most; its folder is not to be changed."""
    return refined(sets, tmp_path_factory.mktemp("done") / "out", rounds=2)


def test_each_round_adds_copies_of_the_seeds_that_were_wrong(sets: Path, done: Refinement) -> None:
    """As many as the ratio, in shards of their own, named in the generation; older shards stay as they are."""
    folder = Path(done.folder)
    assert 1 < len(done.rounds) <= 3
    generations = read_manifest(folder).plan.generations
    assert [one.more for one in generations[1:]] == [
        {str(seed): 2 for seed in one.wrong} for one in done.rounds[: len(generations) - 1]
    ]
    copies = [36]
    for one in done.rounds[:-1]:
        copies.append(copies[-1] + 2 * len(one.wrong))
    assert [one.copies for one in done.rounds] == copies
    first = contents(sets / "out" / "data")
    assert {name: content for name, content in contents(folder / "data").items() if name in first} == first
    assert verify(folder) == []
    assert len(done.wrong) == len(done.rounds[-1].wrong)


def test_the_report_has_every_round_and_the_test(done: Refinement) -> None:
    """Text, JSON and page; the test has the seeds alone, the folder before, and now."""
    out = Path(done.comparison.out)
    value = json.loads((out / "refine.json").read_text())
    assert [one["number"] for one in value["rounds"]] == list(range(len(done.rounds)))
    assert value == json.loads(json.dumps(done.to_json()))
    assert [row.arm for row in done.comparison.rows][:2] == ["original", "expanded"]
    assert done.comparison.rows[2].arm.startswith(f"refined, {len(done.rounds) - 1} round")
    page = (out / "compare.html").read_text()
    assert "<h2>Rounds</h2>" in page
    assert page.count("of 18</td>") == len(done.rounds)
    for text in (done.text(), page):
        assert "decided nothing" in text
        assert done.stopped in text


def test_the_test_set_decides_nothing(sets: Path, done: Refinement, tmp_path: Path) -> None:
    """With another test set the folder is the same, byte for byte."""
    other = refined(sets, tmp_path / "out", "other", rounds=2)
    assert contents(tmp_path / "out" / "data") == contents(Path(done.folder) / "data")
    assert other.rounds == done.rounds


def test_a_refinement_resumes(sets: Path, done: Refinement, tmp_path: Path) -> None:
    """Round by round, with results lost between, and again when it is finished: the same as at once."""
    folder = tmp_path / "out"
    assert len(refined(sets, folder, rounds=0).rounds) == 1
    assert len(refined(sets, folder, rounds=1).rounds) == 2
    for path in sorted((tmp_path / "out-refine" / "folds").iterdir())[::2]:
        path.write_text("{}")
    for path in (tmp_path / "out-refine" / "tests").iterdir():
        if path.name.startswith("original"):
            path.write_text("{")
    found = refined(sets, folder, rounds=2)
    assert contents(folder / "data") == contents(Path(done.folder) / "data")
    assert found.rounds[-1] == done.rounds[-1]
    assert [row.accuracies for row in found.comparison.rows] == [row.accuracies for row in done.comparison.rows]
    kept = contents(folder)
    again = refined(sets, folder, rounds=2)
    assert contents(folder) == kept
    assert again.rounds[-1] == found.rounds[-1]


def test_classes_that_are_wrong_most_get_copies(sets: Path, tmp_path: Path) -> None:
    """All seeds of these classes, as many copies as are asked for."""
    found = refined(sets, tmp_path / "out", rounds=1, by="classes", copies=1)
    more = read_manifest(tmp_path / "out").plan.generations[1].more
    wrong = [sum(seed // 6 == label for seed in found.rounds[0].wrong) for label in range(3)]
    worst = [label for label in range(3) if wrong[label] / 6 > sum(wrong) / 18]
    assert more == {str(seed): 1 for seed in range(18) if seed // 6 in worst}


def test_the_command_teaches_and_refuses(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` says what decides; wrong choices end in one line, and change nothing."""
    with pytest.raises(SystemExit):
        main(["refine", "--help"])
    text = capsys.readouterr().out
    assert "The folds decide everything" in text
    folder = tmp_path / "out"
    shutil.copytree(sets / "out", folder)
    kept, test = contents(folder), str(sets / "test")
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"by": "images"}, ConfigError, "unknown by 'images'"),
        ({"folds": 1}, ConfigError, "folds must be from 2 to 1000, got 1"),
        ({"rounds": -1}, ConfigError, "rounds must be from 0 to 100, got -1"),
        ({"test": str(sets / "seeds")}, SourceError, "are among the seeds"),
        ({"architecture": "resnet0"}, ConfigError, "no architecture"),
        ({"out": sets / "out"}, PlanMismatch, "holds another refinement"),
        ({"ratio": 3}, PlanMismatch, "made with other options"),
    ]
    for choices, error, message in refused:
        with pytest.raises(error, match=message):
            gif_datasets.refine(folder, **{"test": test, **QUICK, **choices})
    assert main(["refine", str(tmp_path / "none"), "--test", test]) == 2
    assert main(["refine", str(folder), "--test", test, "--copies", "0"]) == 2
    assert "copies must be from 1 to 1000, got 0" in capsys.readouterr().err
    assert contents(folder) == kept
