"""Does it help? Fair to all arms, honest about test pictures, and the same after any kill."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import normalize

import gif_datasets
from gif_datasets import ConfigError, HubError, PlanMismatch, SourceError
from gif_datasets.cli import main
from gif_datasets.comparison.architectures import check_network, network
from gif_datasets.comparison.intervals import Difference, Spread, paired_difference, student_t
from gif_datasets.comparison.results import Result, Row
from gif_datasets.comparison.train import Pictures, Training, train
from gif_datasets.comparison.verdict import DO_NOT, UNDECIDED, USE, decide
from gif_datasets.guidance import recognition
from gif_datasets.priors import find_prior
from gif_datasets.sources.identity import is_part_of

CLASSES = {"ant": (200, 60, 40), "bee": (60, 180, 60), "crab": (50, 70, 210)}
QUICK = {"steps": [20], "batch_size": 8, "image_size": 8, "prior": "linear", "ratios": [2]}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Seeds and a test set of three classes, 16 x 16 pixels, that differ by their tint under much noise."""
    root = tmp_path_factory.mktemp("sets")
    for part, count, start in (("seeds", 4, 0), ("test", 6, 100)):
        for label, (name, tint) in enumerate(CLASSES.items()):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng(start + 10 * label + i)
                noise = rng.integers(-90, 90, (16, 16, 3))
                pixels = np.clip(np.array(tint) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root / "seeds", root / "test"


@pytest.fixture(scope="module")
def done(
    sets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> gif_datasets.comparison.compare.Comparison:
    """A small comparison; its folder is not to be changed."""
    cache = tmp_path_factory.mktemp("cache")
    return gif_datasets.compare(
        str(sets[0]), str(sets[1]), ["randaugment", "unclip"], out=tmp_path_factory.mktemp("done"), runs=2,
        only_synthetic=True, cache_dir=cache, **QUICK,
    )  # fmt: skip


def results(folder: Path) -> dict[str, Any]:
    """What the result files of a folder say, without times."""
    values = {path.name: json.loads(path.read_text()) for path in (folder / "results").iterdir()}
    for value in values.values():
        del value["result"]["seconds"]
    return values


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 29, 100, 1001])
def test_student_t_is_scipys(freedom: int) -> None:
    """For any number of runs and confidence, as far as scipy 1.11 is exact: newer ones agree to 1e-9."""
    for confidence in (0.5, 0.9, 0.95, 0.99):
        assert student_t(confidence, freedom) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-8)


def test_paired_interval_is_scipys() -> None:
    """The interval of scipy's paired t-test; none of a single run."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(50, 3, 6).tolist(), rng.normal(45, 3, 6).tolist()
    found = paired_difference(first, second)
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((interval.low, interval.high))
    assert Spread.of(first).deviation == pytest.approx(np.std(first, ddof=1))
    assert paired_difference([3.0], [1.0]).half is None


def test_rows_sum_up_the_result_files(done: gif_datasets.comparison.compare.Comparison) -> None:
    """Mean, macro, per class, and the difference in pairs of runs, from what was written of every run."""
    files = list(results(Path(done.out)).values())
    assert len(files) == 2 * 5

    def runs(method: str | None, only: bool) -> list[dict[str, Any]]:
        mine = [
            f for f in files
            if (f["key"]["expansion"] or {"options": {"method": None}})["options"]["method"] == method
            and f["key"]["only_synthetic"] == only
        ]  # fmt: skip
        return [f["result"] for f in sorted(mine, key=lambda f: f["key"]["number"])]

    base = [r["accuracy"] for r in runs(None, False)]
    for row in done.rows:
        own = runs(None if row.method == "original" else row.method, row.only_synthetic)
        assert list(row.accuracies) == [r["accuracy"] for r in own]
        assert row.accuracy.mean == pytest.approx(np.mean(row.accuracies))
        assert row.macro.mean == pytest.approx(np.mean([np.mean(r["per_class"]) for r in own]))
        assert row.training_accuracy == Spread.of([r["training_accuracy"] for r in own])
        assert row.per_class == pytest.approx(np.mean([r["per_class"] for r in own], axis=0))
        if row.difference is not None:
            assert row.difference.mean == pytest.approx(np.mean(np.subtract(row.accuracies, base)))
    assert [row.difference is None for row in done.rows] == [True, False, False, False, False]


def test_what_the_numbers_are_worth(done: gif_datasets.comparison.compare.Comparison) -> None:
    """Beside them stand chance, the largest class, and a sentence for each difference that is not sure."""
    assert (done.chance, done.majority) == (pytest.approx(100 / 3), pytest.approx(100 * 6 / 18))
    page, value = Path(done.page).read_text(), json.loads((Path(done.out) / "compare.json").read_text())
    assert value["doubts"] == done.doubts()
    assert value["verdict"] == dataclasses.asdict(done.verdict)
    assert done.text().endswith(f"\n{done.verdict.text}")
    sure = (*done.doubts(), done.verdict.text)
    for words in ("training, %", "a guess is right in 33.3%", "largest class in 33.3%", *sure):
        assert words in done.text()
        assert words in html.unescape(page)


@pytest.mark.parametrize(
    ("mean", "half", "words"),
    [
        (4.0, 1.0, ""),
        (4.0, 2.5, ""),
        (
            4.0,
            2.6,
            "the interval +1.4 to +6.6 is wide, 5.2 points: 3 runs show a difference, but hardly how large it is",
        ),
        (-1.0, 1.5, "the interval -2.5 to +0.5 contains 0: 3 runs do not show a difference"),
        (3.9, 4.2, "the interval -0.3 to +8.1 is wide, 8.4 points, and contains 0: 3 runs do not show a difference"),
        (3.9, None, "one run cannot tell a difference from chance"),
    ],
)
def test_wide_intervals_say_so(
    mean: float, half: float | None, words: str, done: gif_datasets.comparison.compare.Comparison
) -> None:
    """In words: that there are two ends is not enough."""
    row = dataclasses.replace(done.rows[1], difference=Difference(mean, half))
    told = dataclasses.replace(done, rows=(done.rows[0], row), runs=3).doubts()
    assert told == ([f"{row.arm}: {words}; add some with --runs"] if words else [])


@pytest.mark.parametrize(
    ("differences", "decision", "words"),
    [
        ([[2.0, 3.0, 2.5]], USE, ["Use arm 0: it adds 2.5 points", "+1.3 to +3.7 (95% interval of 3 runs)"]),
        ([[-2.0, -3.0, -2.5]], DO_NOT, ["Do not use arm 0: it takes 2.5 points", "-3.7 to -1.3"]),
        ([[0.1, 0.2, 0.3, 0.2]], DO_NOT, ["it adds 0.3 points at most", "fewer than 1 are not worth the copies"]),
        ([[0.0, 0.0]], DO_NOT, ["it adds 0.0 points at most"]),
        ([[0.0, 3.0, 1.5]], UNDECIDED, ["arm 0 is +1.5 points", "-2.2 to +5.2 contains 0", "about 7 runs", "--runs 7"]),
        ([[90.0, -90.0]], UNDECIDED, ["more than 1000 runs"]),
        ([[3.0]], UNDECIDED, ["one run of arm 0", "--runs 3"]),
        ([[0.0, 3.0, 1.5], [2.0, 3.0, 2.5]], USE, ["Use arm 1", "for 2 arms together"]),
        ([[-2.0, -3.0, -2.5], [-9.0, -9.0, -9.0]], DO_NOT, ["any of 2 arms, of which arm 0"]),
        ([[2.0, 4.2, 3.1]] * 20, UNDECIDED, ["for 20 arms together", "contains 0"]),
    ],
)
def test_the_verdict(differences: list[list[float]], decision: str, words: list[str]) -> None:
    """One sentence with its reason; the best of many arms must be surer than one alone."""
    found = decide({f"arm {number}": values for number, values in enumerate(differences)})
    assert found.decision == decision
    assert all(word in found.text for word in words), found.text
    assert found.text.endswith(".")
    assert "\n" not in found.text


def test_one_of_twenty_arms_would_be_sure_alone() -> None:
    """The same differences, of which twenty decided nothing above."""
    assert decide({"arm": [2.0, 4.2, 3.1]}).decision == USE


@given(st.floats(-5, 5), st.floats(0.1, 5), st.integers(2, 8))
def test_as_many_runs_would_decide_it(mean: float, spread: float, runs: int) -> None:
    """Runs of the same mean and deviation, so many of them, decide; one fewer does not."""

    def like(count: int) -> list[float]:
        shape = np.resize([1.0, -1.0], count) if count % 2 == 0 else np.append(np.resize([1.0, -1.0], count - 1), 0)
        return (mean + spread * shape / np.std(shape, ddof=1)).tolist()

    needed = decide({"arm": like(runs)}).runs_to_decide
    if needed is not None:
        assert decide({"arm": like(needed)}).decision != UNDECIDED
        assert decide({"arm": like(needed - 1)}).decision == UNDECIDED


def test_ratios_by_class_are_arms(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """Each has its own name and images; an epoch passes over the largest; run again, nothing is made."""
    (sets[0] / "ant" / "0.png").rename(tmp_path / "0.png")
    try:
        how = {**QUICK, "ratios": ["balance:5", {"ant": 2, "*": 0}, 1], "runs": 1, "epochs": [10], "steps": None}
        found = gif_datasets.compare(str(sets[0]), str(sets[1]), "cutout", out=tmp_path / "out", **how)
    finally:
        (tmp_path / "0.png").rename(sets[0] / "ant" / "0.png")
    names = ["original", "cutout balance:5", "cutout ant 2x, * 0x", "cutout 1x"]
    assert [row.arm for row in found.rows] == names
    assert [row.pictures for row in found.rows] == [11, 15, 11 + 6, 22]
    assert [row.training.steps for row in found.rows] == [28] * 4  # 10 * 22 / 8
    assert [row["ratio"] for row in found.to_json()["rows"]] == [0, "balance:5", {"ant": 2, "*": 0}, 1]


def test_results_of_older_versions_are_kept(done: gif_datasets.comparison.compare.Comparison) -> None:
    """They lack the accuracy on the training images, and say so."""
    old = dict(next(iter(results(Path(done.out)).values()))["result"])
    del old["training_accuracy"]
    named = {name: getattr(done.rows[0], name) for name in ("arm", "method", "ratio", "only_synthetic", "training")}
    row = Row.of([Result(**old, seconds=1.0)], None, **named)
    assert row.training_accuracy is None
    assert dataclasses.replace(done, rows=(row,)).table()[1][2] == "-"


def test_arms(done: gif_datasets.comparison.compare.Comparison) -> None:
    """The seeds, seeds and copies, copies alone; each run with an expansion of its own; the same steps for all."""
    assert {row.arm: row.pictures for row in done.rows} == {
        "original": 12,
        "randaugment 2x": 36,
        "randaugment 2x, only synthetic": 24,
        "unclip 2x": 36,
        "unclip 2x, only synthetic": 24,
    }
    assert len(list((Path(done.out) / "expansions").iterdir())) == 4
    assert {row.training.steps for row in done.rows} == {20}


# --- training -----------------------------------------------------------------------------------------------------


def tinted(made: list[int]) -> Pictures:
    """Pictures of one colour, in two classes: 40 dark ones, 40 light ones."""
    images = torch.cat([torch.full((40, 3, 8, 8), 40), torch.full((40, 3, 8, 8), 210)]).to(torch.uint8)
    kinds = torch.zeros(80, dtype=torch.bool)
    kinds[made] = True
    return Pictures(images, torch.arange(80) // 40, kinds)


def test_the_share_is_kept() -> None:
    """Of a batch so many pictures are imagined, however many there are."""
    from gif_datasets.comparison.train import _Draws

    data = tinted(list(range(4)))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([_Draws(data.synthetic, 0.7, 100, generator)() for _ in range(50)])
    assert float(data.synthetic[drawn].float().mean()) == pytest.approx(0.7, abs=0.03)
    assert len(drawn.unique()) == 80
    alike = torch.cat([_Draws(data.synthetic, None, 100, generator)() for _ in range(50)])
    assert float(data.synthetic[alike].float().mean()) == pytest.approx(4 / 80, abs=0.02)


@pytest.mark.parametrize("augment", ["none", "light", "randaugment"])
def test_training_is_a_function_of_its_number(augment: str) -> None:
    """Same number, same weights; another one, others; and nobody else's draws are disturbed."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (train(tinted([]), Training(20, augment=augment, batch_size=16), 2, n) for n in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


def test_architectures() -> None:
    """timm's, fixed sizes included, and torchvision's by name; the small one keeps small pictures as they are."""
    with torch.no_grad():
        for name in ("small", "resnet10t", "vit_tiny_patch16_224", "torchvision:shufflenet_v2_x0_5"):
            assert network(name, 5, 48).eval()(torch.zeros(2, 3, 48, 48)).shape == (2, 5)
    assert network("small", 5, 48).conv1.stride == (1, 1)
    assert network("small", 5, 128).conv1.stride == (2, 2)
    for name, words in (
        ("resnet5O", "timm has no architecture 'resnet5O'; did you mean 'resnet"),
        ("torchvision:resnet19", "did you mean 'resnet1"),
        ("torchvision:alexnet", "does not take images of 16 x 16"),
        ("twins_svt_small", "does not take images of 18 x 18"),  # which it says when it is built
    ):
        with pytest.raises(ConfigError, match=words):
            check_network(name, 3, 18 if "18" in words else 16)


def test_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last layer is as published, and sees what it was trained to see."""
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    theirs = timm.create_model("resnet10t", pretrained=False).eval()
    place = tmp_path / "models--timm--resnet10t.c3_in1k"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    (place / "snapshots" / ("a" * 40)).mkdir(parents=True)
    save_file(theirs.state_dict(), place / "snapshots" / ("a" * 40) / "model.safetensors")
    ours = network("pretrained:resnet10t", 3, 64).eval()
    about = theirs.pretrained_cfg
    with torch.no_grad():
        seen = ours[1].forward_features(ours[0](2 * x - 1))
        expected = theirs.forward_features(normalize(x, about["mean"], about["std"]))
        assert ours(x).shape == (2, 3)
    torch.testing.assert_close(seen, expected, rtol=1e-3, atol=1e-4)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    other = models.shufflenet_v2_x0_5().eval()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(other.state_dict(), tmp_path / "hub" / "checkpoints" / published.url.rsplit("/", 1)[1])
    ours = network("pretrained:torchvision:shufflenet_v2_x0_5", 3, 64).eval()
    with torch.no_grad():
        shown = published.transforms()
        torch.testing.assert_close(ours[0](2 * x - 1), normalize(x, shown.mean, shown.std), rtol=1e-4, atol=1e-5)
    own, known = ours[1].state_dict(), other.state_dict()
    assert {name for name in known if own[name].shape != known[name].shape} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[name], known[name]) for name in known if not name.startswith("fc."))
    for name, error, words in (
        ("pretrained:resnet18d", HubError, "cannot fetch the weights of resnet18d"),
        ("pretrained:botnet50ts_256", ConfigError, "timm has no weights of 'botnet50ts_256'"),
        ("pretrained:small", ConfigError, "timm has no architecture 'small'"),
    ):
        with pytest.raises(error, match=words):
            check_network(name, 3, 64)


def test_architectures_with_helpers_train() -> None:
    """What returns more than class scores while it trains is asked for these alone."""
    check_network("torchvision:googlenet", 3, 32)
    assert network("torchvision:googlenet", 3, 32).train()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


# --- the test set -------------------------------------------------------------------------------------------------


CHANGES: dict[str, Callable[[Path, Path], None]] = {
    "has the pixels of ant/1.png": lambda seed, out: Image.open(seed).save(out.with_suffix(".webp"), lossless=True),
    r"looks like ant/1.png \(\d+ of 255 bits": lambda seed, out: Image.open(seed).save(
        out.with_suffix(".jpg"), quality=80
    ),
    r"looks like ant/1.png \(": lambda seed, out: Image.open(seed).resize((40, 40)).save(out),
    "looks like ant/1.png": lambda seed, out: Image.open(seed).transpose(Image.Transpose.ROTATE_90).save(out),
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_test_set_with_a_seed_in_it_is_refused(words: str, sets: tuple[Path, Path], tmp_path: Path) -> None:
    """Whatever it was saved as, under whatever class; nothing is made."""
    test = tmp_path / "test"
    shutil.copytree(sets[1], test)
    CHANGES[words](sets[0] / "ant" / "1.png", test / "bee" / "x.png")
    words = "1 of 19 images of the test set test are among the seeds of seeds; the first: bee/x[.a-z]+ " + words
    with pytest.raises(SourceError, match=words):
        gif_datasets.compare(str(sets[0]), str(test), ["cutout"], out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_shared_pictures_are_dropped_or_allowed_on_request(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """Left out and named, or kept; a test set of nothing else is refused all the same."""
    test = tmp_path / "test"
    shutil.copytree(sets[1], test)
    shutil.copy(sets[0] / "ant" / "1.png", test / "bee" / "x.png")
    for shared, left in (("drop", ("bee/x.png has the pixels of ant/1.png",)), ("allow", ())):
        found = gif_datasets.compare(
            str(sets[0]), str(test), "cutout", out=tmp_path / shared, shared=shared, runs=1, **QUICK
        )
        assert (found.test_pictures, found.left_out) == (19 - len(left), left)
    with pytest.raises(SourceError, match="12 of 12 images"):
        gif_datasets.compare(str(sets[0]), str(sets[0]), "cutout", shared="drop", **QUICK)


def test_what_a_prior_was_trained_on(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """The card of the embedded prior names it, and so may any prior's; also of a dataset object of torchvision's."""
    listed = find_prior("embedded").training_sources
    assert "torchvision:Imagenette?split=train" in listed
    with pytest.raises(
        SourceError, match=r"prior 'embedded' was trained on torchvision:Imagenette\?split=train.*allow-seen"
    ):
        gif_datasets.compare(str(sets[0]), "torchvision:Imagenette?root=x", ["gif-unclip"])
    with pytest.raises(SourceError, match="torchvision:Imagenette: "):  # past that check: it is not there
        gif_datasets.compare(str(sets[0]), "torchvision:Imagenette?root=x", ["gif-unclip"], allow_seen=True)
    with pytest.raises(SourceError, match="torchvision:Imagenette: "):  # no prior, nothing seen
        gif_datasets.compare(str(sets[0]), "torchvision:Imagenette?root=x", ["randaugment"])
    cifar = ("torchvision:CIFAR10?train=true", "hf:uoft-cs/cifar10?split=train")
    for spec, part in (
        ("torchvision:CIFAR10?train=false", False),
        ("torchvision:CIFAR100", False),
        ("hf:uoft-cs/cifar10", True),
        ("hf:uoft-cs/cifar10?split=train[:10%25]&image=img", True),
        ("hf:uoft-cs/cifar10?split=test%2Btrain", True),
        ("hf:uoft-cs/cifar10?split=test", False),
        ("hf:uoft-cs/cifar10?split=all", True),
        ("torchvision:CIFAR10?train=1", True),
        ("torchvision:CIFAR10?train=0", False),
        ("demo", False),
        ("CIFAR10", False),
    ):
        assert any(is_part_of(spec, one) for one in cifar) is part, spec
    with pytest.raises(SourceError, match="was trained on"):  # its CLIP would teach
        gif_datasets.compare(str(sets[0]), "torchvision:Imagenette?root=x", ["randaugment"], distil=[0.5])
    with pytest.raises(SourceError, match="was trained on"):  # its CLIP would choose
        gif_datasets.compare(str(sets[0]), "torchvision:Imagenette?root=x", ["select:randaugment"])
    folder = ImageFolder(str(sets[1]))
    assert is_part_of(folder, "torchvision:ImageFolder")
    assert is_part_of(torch.utils.data.Subset(folder, [0]), "torchvision:ImageFolder")
    assert not is_part_of(folder, "torchvision:ImageFolder?train=true")


def test_doubts_about_the_classifier_are_told(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where guidance cannot tell the classes apart, a comparison says so, when it finds its results there too."""
    monkeypatch.setattr(recognition, "LEAST", 1.1)  # beyond perfect
    options = QUICK | {"prior": "embedded", "ratios": [1], "limit": 6, "decode_steps": 1, "decode_batch": 2}
    for _ in range(2):
        found = gif_datasets.compare(
            str(sets[0]), str(sets[1]), ["gif-unclip", "randaugment"], out=tmp_path, runs=1, **options
        )
        assert len(found.notes) == 1
        assert found.notes[0].startswith("gif-unclip 1x: the classifier (both) names the class of only ")


# --- running again ------------------------------------------------------------------------------------------------


def command(sets: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return [
        "compare", str(sets[0]), "--test", str(sets[1]), "--methods", "randaugment,unclip", "--out", str(out),
        "--runs", "2", "--prior", "linear", "--ratios", "2", "--steps", "20", "--train-batch", "8", "--workers", "1",
        "--image-size", "8", "--only-synthetic", *more,
    ]  # fmt: skip


def test_killed_and_resumed(
    sets: tuple[Path, Path], done: gif_datasets.comparison.compare.Comparison, tmp_path: Path
) -> None:
    """After a kill -9 between two runs the same command makes what is missing, and all is as if never killed."""
    line = [sys.executable, "-m", "gif_datasets", *command(sets, tmp_path / "out", "--json")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GIF_DATASETS_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL)
    written: list[Path] = []
    while len(written) < 3 and process.poll() is None:
        time.sleep(0.02)
        written = list((tmp_path / "out" / "results").glob("[!.]*.json"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = list((tmp_path / "out" / "results").glob("[!.]*.json"))
    assert 3 <= len(written) < 10
    kept = {path: path.stat().st_mtime_ns for path in written}
    finished = subprocess.run(line, env=env, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert results(tmp_path / "out") == results(Path(done.out))
    value = json.loads(finished.stdout)
    assert value == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["accuracies"] for row in value["rows"]] == [list(row.accuracies) for row in done.rows]


def test_again_with_more_and_with_others(
    sets: tuple[Path, Path], done: gif_datasets.comparison.compare.Comparison, tmp_path: Path
) -> None:
    """Known results are kept, a damaged one is made again, other settings have files of their own, other sets none."""
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    before = results(out)
    times = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    victim = sorted(times)[0]
    victim.write_text(victim.read_text()[:100])
    again = gif_datasets.compare(str(sets[0]), str(sets[1]), "randaugment,unclip", out=out, runs=2, only_synthetic=True,
                                 **QUICK)  # fmt: skip
    assert again.rows == done.rows
    assert results(out) == before
    assert {path for path in times if path.stat().st_mtime_ns != times[path]} == {victim}
    more = gif_datasets.compare(str(sets[0]), str(sets[1]), "unclip", out=out, runs=1, **{**QUICK, "steps": [21]})
    assert {row.training.steps for row in more.rows} == {21}
    assert {name: value for name, value in results(out).items() if name in before} == before
    assert len(results(out)) == len(before) + 2
    for source, test, words in (
        (sets[1], sets[0], 'source: "seeds" there, "test" here'),
        (sets[0], tmp_path / "fewer", 'test: "test" there, "fewer" here'),
    ):
        if not test.exists():
            shutil.copytree(sets[1], test)
            (test / "ant" / "0.png").unlink()
        with pytest.raises(PlanMismatch, match="holds another comparison.*" + words):
            gif_datasets.compare(str(source), str(test), "unclip", out=out, **QUICK)
    assert gif_datasets.compare(str(sets[0]), str(sets[1]), "cutout", out=out, runs=1, **QUICK).rows[0] is not None


def test_another_expansion_has_another_result(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """Options of the expansion, its number and what runs share are parts of a result's name."""

    def names(**more: Any) -> set[str]:
        gif_datasets.compare(str(sets[0]), str(sets[1]), "unclip", out=tmp_path / "out", **{"runs": 1, **QUICK, **more})
        return {path.name for path in (tmp_path / "out" / "results").iterdir()}

    first = names()
    assert len(names(epsilon=0.2) - first) == 1  # the seeds alone do not depend on it
    assert len(names(synthetic_share=0.9)) == 4
    assert len(names(rng_seed=7)) == 6
    assert len(names(runs=2, same_expansion=True)) == 8  # run 0 is the one that was there
    shared = {path.name.split("-")[2] for path in (tmp_path / "out" / "expansions").iterdir()}
    assert shared == {"0", "7"}


# --- the command line ---------------------------------------------------------------------------------------------


def test_text_and_page(sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table on stdout, nothing on stderr, and a page that needs no network; several settings side by side."""
    more = ("--methods", "unclip", "--runs", "1", "--augment", "none,light")
    assert main(command(sets, tmp_path / "out", *more)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "12 seeds of seeds, tested on 18 images of test.\n1 run; 20 steps of 8 images at 8 x 8" in out
    heads = [text for text in out.splitlines() if text.startswith("augment")]
    names = "augment arm images training, % accuracy, % macro, % against original, 95% interval"
    assert [head.split() for head in heads] == [names.split()]
    assert sum("(one run)" in text for text in out.splitlines()) == 4
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<circle") == 2 * 6
    assert "http" not in page
    assert "unclip 2x, only synthetic, light" in page


BAD = {
    "no methods": (["--methods", ","], "methods contains no method"),
    "method": (["--methods", "gif-dalle"], "unknown method 'gif-dalle'"),
    "test": (["--test", "{tmp}/nowhere"], "no such folder"),
    "other classes": (["--test", "demo"], "the test set demo has a class 'airplane' that seeds has not"),
    "architecture": (["--architectures", "resnet5"], "timm has no architecture 'resnet5'"),
    "augment": (["--augment", "heavy"], "unknown augmentation 'heavy'"),
    "runs": (["--runs", "0"], "runs must be at least 1, got 0"),
    "steps": (["--steps", "3"], "steps must be at least 20, got 3"),
    "ratios": (["--ratios", "0"], "ratio must be at least 1, got 0"),
    "ratios x": (["--ratios", "5,x"], "ratio must be a number, balance:COUNT"),
    "share": (["--synthetic-share", "1"], "synthetic_share must be above 0 and below 1, got 1.0"),
    "distil": (["--distil", "0,2"], "distil must be from 0 to 1, got 2.0"),
    "no teacher": (["--distil", "0.5"], "prior 'linear' has no CLIP, so it cannot be the teacher"),
    "teacher": (["--distil", "1", "--teacher", "txt"], "unknown teacher 'txt'; did you mean 'text'?"),
    "temperature": (["--distil", "1", "--temperature", "0"], "temperature must be above 0"),
    "size": (["--image-size", "4"], "image_size must be at least 8, got 4"),
    "rate": (["--learning-rate", "-1"], "learning_rate must be above 0, got -1.0"),
    "both": (["--epochs", "3"], "not allowed with argument"),
    "option": (["--set", "epsilom=1"], "did you mean 'epsilon'"),
    "held out": (["--set", "validation_share=0.2"], "validation_share must be 0 in a comparison, got 0.2"),
    "workers": (["--workers", "0"], "--workers must be at least 1"),
    "prior": (["--prior", "dalle3"], "unknown prior 'dalle3'"),
    "seeds": (["--test", "{seeds}"], "12 of 12 images of the test set seeds are among the seeds of seeds"),
    "out": (["--out", "{seeds}"], "is not empty and holds no comparison"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_usage(case: str, sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line that names what is wrong; nothing is written."""
    args, words = BAD[case]
    line = [*command(sets, tmp_path / "out"), *(arg.format(tmp=tmp_path, seeds=sets[0]) for arg in args)]
    try:
        code = main(line)
    except SystemExit as stop:
        code = int(str(stop.code))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_imagined_pictures_are_no_seeds_and_no_test(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """Expanded folders are refused on either side: they hold copies beside real pictures."""
    gif_datasets.expand(str(sets[0]), tmp_path / "expanded", ratio=1, prior="linear")
    for source, test in ((tmp_path / "expanded", sets[1]), (sets[1], tmp_path / "expanded")):
        with pytest.raises(SourceError, match="expanded holds imagined images"):
            gif_datasets.compare(str(source), str(test), "cutout", out=tmp_path / "out", **QUICK)


def test_broken_pictures_and_large_sets(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is named; what does not fit into memory lies in a file, with the same results."""
    seeds, test = tmp_path / "seeds", tmp_path / "test"
    for source, target in zip(sets, (seeds, test), strict=True):
        shutil.copytree(source, target)
        (target / "bee" / "broken.png").write_bytes(b"broken")
    how = {"runs": 1, **QUICK}
    one = gif_datasets.compare(ImageFolder(str(sets[0])), str(test), "cutout", out=tmp_path / "a", **how)
    assert one.bad == ("bee/broken.png: not an image",)
    monkeypatch.setattr("gif_datasets.comparison.experiment.IN_MEMORY", 0)
    other = gif_datasets.compare(str(seeds), str(test), "cutout", out=tmp_path / "b", **how)
    assert len(other.bad) == 2
    assert [row.accuracies for row in other.rows] == [row.accuracies for row in one.rows]
    assert not [path for path in (tmp_path / "b").rglob(".tmp-*") if path.is_file()]
    with pytest.raises(SourceError, match="broken"):
        gif_datasets.compare(str(seeds), str(test), "cutout", out=tmp_path / "c", on_bad_image="stop", **how)


def test_steps_follow_from_epochs_and_size_from_the_seeds(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """Passes over the largest expansion, for all arms; and the size, unless told, from the seeds."""
    how = {"out": tmp_path, "runs": 1, "batch_size": 16, "prior": "linear", "ratios": [1, 2]}
    found = gif_datasets.compare(str(sets[0]), str(sets[1]), "cutout", epochs=[10], **how)
    assert {row.training.steps for row in found.rows} == {math.ceil(10 * 12 * 3 / 16)}
    assert found.image_size == 16
    assert [row.ratio for row in found.rows] == [0, 1, 2]
