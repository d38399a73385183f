"""The recipes: every arm can be run, the one program runs them, the paper's datasets are what its tables say."""

from __future__ import annotations

import io
import json
import pickle
import re
import shlex
import shutil
import subprocess
import tarfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cifar10
import downstream
import numpy as np
import packed
import page
import paper_sets
import pick
import pytest
import sets
import sheet
import teacher as evidence_teacher
import torch
import train_rae
import unseen
import unseen_sheet
import vgg
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch.nn import functional as F

import gif_datasets
from gif_datasets.cli import parser
from gif_datasets.comparison import train as networks
from gif_datasets.comparison.architectures import check_network
from gif_datasets.comparison.train import AUGMENTS, Pictures, Taught, Training, train
from gif_datasets.config import CLASSIFIERS, ExpansionConfig
from gif_datasets.io.parsing import read_toml
from gif_datasets.methods import METHODS
from gif_datasets.options import parse_setting
from gif_datasets.sources import open_source

RECIPES = Path(__file__).parents[1] / "recipes"
FILES = sorted([*(RECIPES / "paper").glob("*.toml"), *(RECIPES / "evidence").glob("*.toml")])

# --- the files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_arm_can_be_run(path: Path) -> None:
    """Options are options, trainings can be trained, and the differences are those of arms that are there."""
    config = read_toml(path.read_text())
    arms = downstream.read_arms(config)
    assert config.get("source", "cifar10") in {*sets.READERS, downstream.ANY}
    assert all(arm.expansion or not arm.options for arm in arms)  # which checks the options
    for arm in arms:
        assert arm.lesson.augment in AUGMENTS
        assert arm.lesson.teacher in CLASSIFIERS
        assert arm.lesson.pictures == "all" or arm.options
        assert arm.expansion.get("prior") in (None, "tuned")
        assert arm.expansion.get("prior") is None or "tune" in config
    for name in {arm.lesson.architecture for arm in arms}:
        check_network(name, 10, 32)
    assert all(name in config["arms"] for pair in page.pairs_of(config) for name in pair)


def test_arms_of_one_name_are_the_same() -> None:
    """So that recipes of one set and number of seeds can share results; so are the priors that they tune."""
    known: dict[Any, Any] = {}
    for path in FILES:
        config = read_toml(path.read_text())
        task = tuple(config.get(name, usual) for name, usual in downstream.SET.items())
        for arm in downstream.read_arms(config):
            assert known.setdefault((task, arm.name), arm.identity) == arm.identity, (path.stem, arm.name)
        if "tune" in config:
            assert known.setdefault(task, config["tune"]) == config["tune"]


@pytest.mark.parametrize("path", sorted((RECIPES / "paper").glob("*.toml")), ids=lambda path: path.stem)
def test_pages(path: Path) -> None:
    """Each says what it asks, the paper's numbers, and both commands; hours and cost are asked of `plan`."""
    config = read_toml(path.read_text())
    shown = [page.Shown(arm.name, arm.paper) for arm in downstream.read_arms(config)]
    text = page.render(path, config, shown, {})
    for words in ("## The paper's numbers", "## The full run", f"recipes/paper/{path.name} --", "Not run yet."):
        assert words in text
    for name in re.findall(r"paper_sets\.py (\S+)", config["full"]):
        assert name in paper_sets.SETS or (name == "$set" and "read -r set" in config["full"])


VARIABLES = {
    "set": "cars",
    "ratio": "20",
    "rate": "0.01",
    "noise": "token",
    "classifier": "text",
    "criteria": "entropy",
}
"""What the loops of full runs go over."""


@pytest.mark.parametrize("path", sorted((RECIPES / "paper").glob("*.toml")), ids=lambda path: path.stem)
def test_full_runs_are_shell(path: Path) -> None:
    """And bash can read them."""
    done = subprocess.run(["bash", "-n"], input=read_toml(path.read_text())["full"], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", sorted((RECIPES / "paper").glob("*.toml")), ids=lambda path: path.stem)
def test_full_runs_are_commands(path: Path) -> None:
    """All that is asked of `gif-datasets` parses, and its options are options."""
    full = re.sub(r"\$(\w+)", lambda found: VARIABLES[found[1]], read_toml(path.read_text())["full"])
    lines = full.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("gif-datasets ")]
    assert commands or "as in" in path.read_text()
    for command in commands:
        args = parser.build_parser().parse_args(command)
        for name, value in map(parse_setting, getattr(args, "set", None) or []):
            assert name in ExpansionConfig.__dataclass_fields__ or name == "domain", (name, value)
        assert set(getattr(args, "methods", [])) <= {*METHODS}


# --- the program --------------------------------------------------------------------------------------------------

TINY = """
per_class = 2
runs = 2
steps = 4
pairs = [["unclip 2x", "original"]]
[common]
prior = "linear"
[arms.original]
paper = "1.0"
[arms."unclip 2x"]
method = "unclip"
ratio = 2
[arms."unclip 2x, taught"]
method = "unclip"
ratio = 2
runs = 1
train = { soft_labels = 0.5, weigh = true, pictures = "synthetic" }
[arms.agnostic]
method = "select:cutout"
ratio = 2
selection = "sample-agnostic"
redraws = 1
[arms.picked]
runs = 1
pick = { ratio = 1, pool = 12, threshold = 0.0 }
[arms.clip]
runs = 1
train = { untrained = true, teacher = "linear" }
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe on 20 seeds and 20 test pictures of the demo."""
    demo = sorted((Path(gif_datasets.__file__).parent / "assets" / "demo").glob("*/*.png"))
    rows = [(np.asarray(Image.open(path)), cifar10.CLASSES.index(path.parent.name), path.name) for path in demo]
    everything = sets._stacked(rows)
    place = np.arange(200) % 20
    task = sets.Set(
        cifar10.CLASSES,
        *(everything.take(np.flatnonzero(part)) for part in (place < 2, (place > 1) & (place < 4), place > 5)),
    )
    monkeypatch.setitem(sets.READERS, "cifar10", lambda *_: task)
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


def test_the_program(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Makes what is missing, shares expansions, tells what there is, and refuses results of other options."""
    out = tiny.parent / "out"
    command = [str(tiny), "--cifar10", ".", "--out", str(out), "--workers", "1", "--page", str(tiny.parent / "page.md")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the linear prior's classifier, which is weak
        downstream.main([*command, "--run", "0"])
        downstream.main([*command, "--arm", "original"])
    results = {path.stem: json.loads(path.read_text()) for path in (out / "results").iterdir()}
    assert set(results) == {
        "original-0", "original-1", "unclip-2x-0", "unclip-2x-taught-0", "agnostic-0", "picked-0", "clip-0",
    }  # fmt: skip
    assert not (out / "unclip-2x-taught-0").exists()  # it took the expansion of the arm before it
    assert sum(results["agnostic-0"]["copies"]) == 40
    text = (tiny.parent / "page.md").read_text()
    assert text == (out / "tiny.md").read_text()
    assert "| unclip 2x - original |" in text
    assert "(one run)" in text
    assert "| 1.0 |" in text
    assert f"| clip | {results['clip-0']['accuracy']:.1f} | 1 |" in text
    tiny.write_text(TINY.replace("soft_labels = 0.5", "soft_labels = 0.25"))
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"unclip-2x-taught-0\.json is of other options than 'unclip 2x, taught'"):
        downstream.main(command)


def steel(place: Path) -> None:
    """A set in folders, by the name of one that is known: three images of a class, and four of its test set."""
    demo = Path(gif_datasets.__file__).parent / "assets" / "demo"
    for name in ("cat", "dog"):
        images = [Image.open(path) for path in sorted((demo / name).glob("*.png"))]
        for part, shown in (("train", images[:3]), ("test", [*images[3:6], ImageOps.mirror(images[0])])):
            folder = place / "steel" / part / name
            folder.mkdir(parents=True)
            for number, image in enumerate(shown):
                image.save(folder / f"{number}.png")


def test_a_set_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its seeds are the first of each class, and a test image that shows one of them, mirrored, is left out."""
    steel(tmp_path)
    task = sets.READERS["steel"](tmp_path, 2, None)
    assert (task.classes, len(task.seeds.labels), len(task.test.labels)) == (("cat", "dog"), 4, 6)
    assert len(task.pool.labels) == 6  # what a judge learns from
    recipe = tmp_path / "any.toml"
    recipe.write_text(
        'source = "any"\nper_class = 2\nruns = 1\nsteps = 2\n[arms.original]\n[arms.r]\nmethod = "cutout"\n'
    )
    command = [str(recipe), "--sets", str(tmp_path), "--out", str(tmp_path / "out")]
    downstream.main([*command, "--set", "steel"])
    assert "--set steel --sets runs/sets" in (tmp_path / "out" / "any.md").read_text()
    stored = json.loads((tmp_path / "out" / "results" / "r-0.json").read_text())
    assert (stored["of"]["source"], stored["of"]["options"]["method"]) == ("steel", "cutout")
    with pytest.raises(SystemExit):
        downstream.main(command)
    assert "needs --set NAME" in capsys.readouterr().err


def test_a_sheet_of_unseen_sets(tmp_path: Path) -> None:
    """Copies beside each other, a row for each class, and no seed."""
    steel(tmp_path)
    out = tmp_path / "sheet.png"
    unseen_sheet.main(["steel", "--sets", str(tmp_path), "--rows", "2", "--copies", "3", "--out", str(out)])
    found, cell = np.asarray(Image.open(out).convert("RGB")), unseen_sheet.CELL
    assert found.shape == (sheet.HEAD + 2 * (cell + unseen_sheet.NAME), 3 * (cell + sheet.GAP) + unseen_sheet.MARGIN, 3)
    top = sheet.HEAD + unseen_sheet.NAME
    assert all(found[top : top + cell - 2, x * (cell + sheet.GAP) :][:, :cell].std() > 5 for x in range(3))


def test_tokens_of_the_embedded_tower_are_a_prior(tmp_path: Path) -> None:
    """Their embedding is the CLIP's image latent; by an untrained decoder they are guided and drawn."""
    model = train_rae.TokenDecoder()
    model.mean += 0.1
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "decoder.safetensors"
    )
    prior = train_rae.TowerRae(tmp_path)
    images = [open_source("demo").sample(i)[0].resize((64, 64)) for i in (0, 90)]
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255
    torch.testing.assert_close(prior.embed_images(images), prior.clip.embed_pixels(pixels), rtol=1e-3, atol=1e-3)
    options = {"method": "gif-rae", "ratio": 1, "steps": 2, "cache_dir": tmp_path / "c", "encode_batch": 50}
    expanded = gif_datasets.ExpandedDataset("demo", prior=prior, **options)
    record = expanded.provenance(200)
    assert expanded[200][0].size == (64, 64)
    assert record.consistency_after > record.consistency_before > 0


# --- teachers and weights -----------------------------------------------------------------------------------------


def noisy(count: int = 24) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Pictures(images, torch.arange(count) % 3, torch.arange(count) % 2 == 0)


def test_taught_loss_is_hintons() -> None:
    """(1 - w) CE(labels) + w T^2 CE(teacher, student / T), weighed by picture; value and gradient as plain formulas."""
    data, index = noisy(), torch.tensor([3, 5, 5, 20])
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, generator=generator, requires_grad=True)
    wanted, weights = torch.rand(24, 3, generator=generator).softmax(1), torch.rand(24, generator=generator)
    for taught, kept in ((Taught(wanted, 0.3, 4.0), weights), (Taught(wanted, 1.0), None), (None, weights)):
        found = networks._loss(logits, Pictures(data.images, data.labels, data.synthetic, taught, kept), index)
        hard = -F.log_softmax(logits, 1)[torch.arange(4), data.labels[index]]
        temperature, weight = (taught.temperature, taught.weight) if taught else (1.0, 0.0)
        soft = -(wanted[index] * (logits / temperature).log_softmax(1)).sum(1) * temperature**2
        each = (1 - weight) * hard + weight * soft
        given = torch.ones(4) if kept is None else kept[index]
        expected = (given * each).sum() / given.sum()
        assert found.detach().item() == pytest.approx(expected.detach().item(), rel=1e-5)
        one, other = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, expected))
        assert torch.allclose(one, other, atol=1e-6)


def test_labels_alone_train_as_ever() -> None:
    """Without a teacher or weights the loss is torch's own, bit for bit; certain teachers and equal weights change
    rounding alone; others change the network."""
    data, index = noisy(), torch.arange(24)
    logits = torch.randn(24, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(networks._loss(logits, data, index), F.cross_entropy(logits, data.labels))
    certain = Taught(F.one_hot(data.labels, 3).float(), 0.5)
    same = Pictures(data.images, data.labels, data.synthetic, certain, torch.full((24,), 0.7))
    assert torch.allclose(networks._loss(logits, same, index), F.cross_entropy(logits, data.labels))
    training = Training(4, batch_size=8)
    flat = Pictures(data.images, data.labels, data.synthetic, Taught(torch.full((24, 3), 1 / 3), 1.0))
    plain, taught = (train(part, training, 3, 0).state_dict()["fc.weight"] for part in (data, flat))
    assert not torch.equal(plain, taught)


def test_picks_are_sure_and_not_too_many() -> None:
    """The first of each predicted class above the threshold; none are looked at after all classes are full."""
    said = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.95, 0.05], [0.7, 0.3], [0.1, 0.9]])
    asked: list[int] = []

    def ask(pictures: Sequence[Any]) -> torch.Tensor:
        asked.extend(picture.size[0] - 1 for picture in pictures)
        return said[[asked[-len(pictures) + i] % 6 for i in range(len(pictures))]]

    shown = (Image.new("L", (1 + i, 1)) for i in range(600))
    assert list(evidence_teacher.picks(shown, ask, 0.65, 2)) == [(0, 0), (2, 1), (3, 0), (5, 1)]
    assert len(asked) == 20


def test_picking_from_a_larger_set(tmp_path: Path) -> None:
    """Seeds and what the CLIP names, under the classes of the seeds, most of them rightly."""
    demo = RECIPES.parent / "gif_datasets" / "assets" / "demo"
    for name in ("frog", "ship"):
        (tmp_path / "seeds" / name).mkdir(parents=True)
        shutil.copy(sorted((demo / name).iterdir())[0], tmp_path / "seeds" / name)
        shutil.copytree(demo / name, tmp_path / "pool" / f"not {name}")
    words = [str(tmp_path / "seeds"), "--pool", str(tmp_path / "pool"), "--out", str(tmp_path / "out")]
    pick.main([*words, "--threshold", "0.9", "--ratio", "4"])
    own = open_source(str(tmp_path / "pool"))
    for label, name in enumerate(("frog", "ship")):
        picked = list((tmp_path / "out" / name).glob("picked-*.png"))
        assert len(picked) == 4
        assert len(list((tmp_path / "out" / name).iterdir())) == 5
        right = sum(own.sample(int(path.stem.split("-")[1]))[1] == label for path in picked)
        assert right >= 3
    with pytest.raises(SystemExit):
        pick.main(words)


# --- the paper's datasets -----------------------------------------------------------------------------------------


def test_the_papers_sizes() -> None:
    """Tables 6 and 7; what the nine make together at the ratios of Tables 1 and 3."""
    nine = {name: one for name, one in paper_sets.SETS.items() if name != "cifar100"}
    assert len(nine) == 9
    assert {name: (one.classes, one.train, one.ratio) for name, one in nine.items()} == {
        "caltech101": (102, 3060, 20), "cifar100-s": (100, 10_000, 5), "cars": (196, 8144, 20),
        "flowers": (102, 6552, 20), "pets": (37, 3842, 30), "dtd": (47, 3760, 20), "breastmnist": (2, 78, 5),
        "pathmnist": (9, 10_004, 5), "organsmnist": (11, 13_940, 5),
    }  # fmt: skip
    assert sum(one.train * one.ratio for one in nine.values()) == 595_580 + 120_110


def test_the_page_has_the_datasets() -> None:
    """As the program tells them."""
    assert paper_sets.table() in (RECIPES / "paper" / "README.md").read_text()


def items(counts: dict[str, int]) -> list[paper_sets.Item]:
    return [
        paper_sets.Item(name, f"{i}.png", f"{name} {i}".encode())
        for name, count in counts.items()
        for i in range(count)
    ]


def test_shares_of_classes_are_exact() -> None:
    """So many in all, each class as nearly its share as can be, by content and not by order."""
    everything = items({"a": 10, "b": 7, "c": 4})
    chosen, rest = paper_sets.of_each_class(everything, 11)
    assert [sum(item.class_name == name for item in chosen) for name in "abc"] == [5, 4, 2]
    assert sorted(item.name + item.class_name for item in chosen + rest) == sorted(
        i.name + i.class_name for i in everything
    )
    assert paper_sets.of_each_class(everything[::-1], 11)[0] == chosen
    chosen, rest = paper_sets.so_many_of_each_class(everything, 3)
    assert (len(chosen), len(rest)) == (9, 12)


def test_medmnist_and_cifar_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From files as their publishers lay them out to a folder per class; another count is refused, nothing written."""
    rng = np.random.default_rng(0)
    sizes = {"train": 5, "val": 78, "test": 156}
    arrays = {f"{split}_images": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for split, n in sizes.items()}
    arrays |= {f"{split}_labels": (np.arange(n) % 2)[:, None].astype(np.uint8) for split, n in sizes.items()}
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    paper_sets.make("breastmnist", tmp_path / "sets", tmp_path)
    found = sorted((tmp_path / "sets" / "breastmnist" / "train").glob("*/*.png"))
    assert len(found) == 78
    assert {path.parent.name for path in found} == {"malignant", "normal, benign"}
    assert np.array_equal(np.asarray(Image.open(found[0])), arrays["val_images"][int(found[0].stem)])

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for split in ("train", "test"):
        rows = rng.integers(0, 256, (200, 3072), dtype=np.uint8)
        (folder / split).write_bytes(pickle.dumps({"data": rows, "fine_labels": [i % 100 for i in range(200)]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]}))
    monkeypatch.setattr("torchvision.datasets.CIFAR100._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    with pytest.raises(SystemExit, match="CIFAR100-Subset has 200 seeds, not 10,000, 200 test pictures, not 10,000"):
        paper_sets.make("cifar100-s", tmp_path / "sets", tmp_path)
    assert not (tmp_path / "sets" / "cifar100-s").exists()


def test_folders_of_torchvision(tmp_path: Path) -> None:
    """Caltech's backgrounds are a class, and Pets without annotations count: as they lie below the root."""
    for name in ("BACKGROUND_Google", "crab"):
        folder = tmp_path / "caltech101" / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for i in range(33):
            (folder / f"image_{i:04d}.jpg").write_bytes(f"{name}{i}".encode())
    train_items, test_items = paper_sets.caltech101(tmp_path)
    assert (len(train_items), len(test_items)) == (60, 6)
    assert {item.class_name for item in test_items} == {"BACKGROUND_Google", "crab"}
    pets = tmp_path / "oxford-iiit-pet" / "images"
    pets.mkdir(parents=True)
    for i in range(7):
        (pets / f"great_pyrenees_{i}.jpg").write_bytes(bytes([i]))
    assert {item.class_name for item in paper_sets.of_each_class(items({"x": 2}), 1)[0]} == {"x"}


@pytest.mark.parametrize("name", ["flowers", "organsmnist", "cars"])
def test_a_host_that_gives_nothing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line: who did not give it, why, and where own files go; nothing is written."""
    refused = OSError("Network is unreachable")

    def unreachable(*_: Any, **__: Any) -> None:
        raise refused

    for place in ("urllib.request.urlopen", "datasets.load_dataset"):
        monkeypatch.setattr(place, unreachable)
    hosts = {"flowers": "torchvision's Flowers102", "organsmnist": "zenodo.org", "cars": "Hugging Face's tanganke"}
    with pytest.raises(SystemExit, match=f"{hosts[name]}.*did not give it .*unreachable.*below --root"):
        paper_sets.make(name, tmp_path / "sets", tmp_path)
    assert not (tmp_path / "sets").exists()


def test_a_sheet_of_folders(seed_folder: Path, tmp_path: Path) -> None:
    """Each seed beside its own copies, of each folder in a block of its own."""
    for method in ("cutout", "randaugment"):
        gif_datasets.expand(seed_folder, tmp_path / method, method=method, ratio=2)
    folders = [f"{method}={tmp_path / method}" for method in ("cutout", "randaugment")]
    sheet.main([*folders, "--rows", "3", "--copies", "2", "--out", str(tmp_path / "sheet.png")])
    found = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    blocks = [found[sheet.HEAD :, left : left + sheet.CELL] for left in (0, 48, 90, 140, 182)]
    assert found.shape == (sheet.HEAD + 3 * (sheet.CELL + sheet.GAP), 48 + 2 * 92, 3)
    cells = [np.split(block, 3) for block in blocks]
    for row in range(3):
        near = [np.abs(cells[1][row] - cells[0][other]).mean() for other in range(3)]
        assert near.index(min(near)) == row  # what a mask leaves is its own seed
    assert not np.array_equal(blocks[1], blocks[2])
    assert not np.array_equal(blocks[1], blocks[3])


# --- sets that no prior saw -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Fruit.Apple.Pink-Lady", "Pink Lady Apple"),
        ("Vegetables.Onion.Yellow-Onion", "Yellow Onion"),
        ("Fruit.Avocado", "Avocado"),
        ("077_passion_flower", "passion flower"),
        ("MT_Blowhole", "Blowhole"),
        ("HerbaceousVegetation", "Herbaceous Vegetation"),
        ("rolled-in_scale", "rolled in scale"),
    ],
)
def test_classes_of_packed_sets_are_named_in_words(name: str, label: str) -> None:
    assert packed.label(name) == label


def test_packed_sets_are_written_as_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of each class is for testing where there is no test file; no image is in both parts."""
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, count in (("a_cat", 9), ("b_dog", 6)):
            for number in range(count):
                file = io.BytesIO()
                Image.new("RGB", (100, 70), (number, 9 * len(name), count)).save(file, "PNG")
                member = tarfile.TarInfo(f"{name}/{number}.png")
                member.size = file.tell()
                archive.addfile(member, io.BytesIO(file.getvalue()))
    monkeypatch.setitem(packed.SETS, "set", packed.Packed(("set.tar",)))
    folder = packed.write("set", tmp_path, tmp_path / "out")
    counts = {
        split: [len(list(one.iterdir())) for one in sorted((folder / split).iterdir())] for split in ("train", "test")
    }
    assert counts == {"train": [6], "test": [3]}  # the dog's class has fewer images than the largest class
    shown = [Image.open(path) for path in folder.rglob("*.png")]
    assert {image.size for image in shown} == {(64, 64)}
    assert len({image.getpixel((0, 0)) for image in shown}) == 9


class _Colours(vgg.Trunk):
    """The mean colour instead of a network."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((2, 3))


def test_a_judge_names_what_it_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = torch.randint(0, 100, (40, 3, 8, 8), generator=generator) + 150 * labels[:, None, None, None]
    judge = vgg.Judge(_Colours(), images, labels)
    assert judge.right(judge.trunk.features(images), labels) == 100
    assert judge.right(judge.trunk.features(images), 1 - labels) == 0


def test_the_table_of_unseen_sets_has_means_over_the_natural_ones() -> None:
    def row(right: float) -> unseen.Row:
        return unseen.Row(right, 0.1, 20.0, 0.5, 0.25, 1.0, 3.0)

    rows = {"flowers": [row(20), row(40)], "pets": [row(10), row(30)], "steel": [row(1), row(2)]}
    found = {(name, "unguided"): own for name, own in rows.items()}
    lines = unseen.table(found, {"flowers": 80.0, "pets": 40.0, "steel": 50.0}, ["old", "new"]).splitlines()
    assert lines[2].startswith("| flowers | unguided | 20.0 | 40.0 | 25.0 | 50.0 | 0.100 |")
    assert lines[-1].startswith("| **mean of the natural sets** | unguided | 15.0 | 35.0 | 25.0 | 62.5 |")
