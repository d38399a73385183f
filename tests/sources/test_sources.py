"""Sources: folders, torchvision, Hugging Face, arrays and expanded shards give the same seeds for the same pictures."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torchvision
from helpers import hugging_face
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision.transforms import v2

import gif_datasets
from gif_datasets import BadImage, ConfigError, MissingExtra, SourceError, UsageError
from gif_datasets.cli import arguments
from gif_datasets.prompts import names_of, read_synonyms
from gif_datasets.shards.verify import verify
from gif_datasets.sources import open_source, wrap_source
from gif_datasets.sources.base import list_seeds
from gif_datasets.sources.open import SHIPPED

ASSETS = Path(gif_datasets.__file__).parent / "assets"

FORMS = ("NFC", "NFD")


def labels_by_key(source: object) -> dict[str, int]:
    return {seed.key: seed.label for seed in list_seeds(source).seeds}  # type: ignore[arg-type]


def test_the_same_pictures_have_the_same_keys_everywhere(seed_folder: Path, tmp_path: Path) -> None:
    """Folder, torchvision ImageFolder with and without transforms, Subset, Hugging Face and shards agree."""
    folder = open_source(str(seed_folder))
    expected = labels_by_key(folder)
    assert len(expected) == 12
    assert folder.classes == ("ant", "bee", "crab")
    image_folder = torchvision.datasets.ImageFolder(str(seed_folder), transform=torchvision.transforms.Resize(5))
    assert labels_by_key(wrap_source(image_folder)) == expected
    assert labels_by_key(wrap_source(Subset(image_folder, list(range(12))))) == expected
    found = wrap_source(hugging_face(seed_folder))
    assert found.classes == folder.classes
    assert labels_by_key(found) == expected
    pairs = [(np.asarray(folder.sample(i)[0]), folder.sample(i)[1]) for i in range(12)]
    assert labels_by_key(wrap_source(pairs, classes=folder.classes)) == expected
    gif_datasets.expand(str(seed_folder), tmp_path / "out", ratio=1, prior="linear", split="train")
    assert expected.items() <= labels_by_key(open_source(str(tmp_path / "out"))).items()


def test_torchvision_by_name(seed_folder: Path) -> None:
    """A torchvision dataset opens by its name and arguments."""
    source = open_source(f"torchvision:ImageFolder?root={seed_folder}")
    assert len(source) == 12
    assert source.classes == ("ant", "bee", "crab")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:CIFAR11", ["CIFAR11", "did you mean"]),
        ("torchvision:ImageFolder?root=x&color=red", ["color", "transform, target_transform"]),
        ("torchvision:CIFAR10?root=/nonexistent", ["CIFAR10", "not found"]),
        ("hf:/nonexistent/place", ["hf:/nonexistent/place"]),
        ("hf:beans?colour=red", ["colour", "config, split"]),
        ("/nonexistent", ["/nonexistent", "sub-folder per class"]),
    ],
)
def test_what_cannot_be_opened_is_explained(spec: str, words: list[str]) -> None:
    """Each gives one line with the name and a way out."""
    with pytest.raises(SourceError) as caught:
        open_source(spec)
    for word in words:
        assert word in str(caught.value)


def test_class_names_can_be_given(seed_folder: Path, tmp_path: Path) -> None:
    """`?classes=` names the classes, in label order."""
    assert open_source(f"torchvision:ImageFolder?root={seed_folder}&classes=x,y,z").classes == ("x", "y", "z")
    hugging_face(seed_folder).to_parquet(str(tmp_path / "hub" / "train.parquet"))
    assert open_source(f"hf:{tmp_path / 'hub'}?classes=x,y,z").classes == ("x", "y", "z")


def test_hugging_face_from_disk(seed_folder: Path, tmp_path: Path) -> None:
    """`hf:` takes a local path that `load_dataset` takes."""
    parquet = tmp_path / "hub" / "train.parquet"
    parquet.parent.mkdir()
    hugging_face(seed_folder).to_parquet(str(parquet))
    assert labels_by_key(open_source(f"hf:{parquet.parent}")) == labels_by_key(open_source(str(seed_folder)))


def test_hugging_face_columns(seed_folder: Path) -> None:
    """Columns are found, or named; string labels become sorted classes."""
    rows = hugging_face(seed_folder)
    twice = rows.add_column("other", rows["kind"]).cast_column("other", rows.features["kind"])
    with pytest.raises(SourceError, match="several label columns"):
        wrap_source(twice)
    assert wrap_source(twice, label_column="other").classes == ("ant", "bee", "crab")
    with pytest.raises(SourceError, match="no column 'nope'"):
        wrap_source(rows, image_column="nope")
    text = rows.map(lambda row: {"label": "z" + str(row["kind"])}, remove_columns="kind")
    assert wrap_source(text).classes == ("z0", "z1", "z2")
    number = rows.map(lambda row: {"label": 10 * row["kind"]}, remove_columns="kind")
    found = wrap_source(number)
    assert (len(found.classes), found.sample(4)[1], found.sample(11)[1]) == (21, 10, 20)
    with pytest.raises(SourceError, match="choose one of train"):
        wrap_source(datasets.DatasetDict({"train": rows}))


def test_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `datasets`, the error is the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'gif_datasets\[hf\]'"):
        open_source("hf:beans")


def test_class_names_must_be_known() -> None:
    """A dataset that does not name its classes is refused with the number that is needed."""

    class Bare:
        targets = [0, 2, 1]  # noqa: RUF012

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (4, 4), (i, 0, 0)), self.targets[i]

    with pytest.raises(SourceError, match="pass classes="):
        wrap_source(Bare())
    with pytest.raises(SourceError, match="label 2"):
        list_seeds(wrap_source(Bare(), classes=["a", "b"]))
    assert len(list_seeds(wrap_source(Bare(), classes=["a", "b", "c"])).seeds) == 3


def test_bad_pictures_are_named_and_the_rest_kept(seed_folder: Path) -> None:
    """Unreadable files cost themselves only; text files beside pictures are not pictures."""
    (seed_folder / "ant" / "0.png").write_bytes(b"")
    (seed_folder / "bee" / "broken.jpg").write_text("no picture")
    (seed_folder / "bee" / "notes.txt").write_text("a note")
    listed = list_seeds(open_source(str(seed_folder)))
    assert len(listed.seeds) == 11
    assert [message.split(":")[0] for message in listed.bad] == ["ant/0.png", "bee/broken.jpg"]


def test_limit_is_spread_evenly(seed_folder: Path) -> None:
    """A limit takes from all classes, not the first."""
    listed = list_seeds(open_source(str(seed_folder)), limit=3)
    assert [seed.label for seed in listed.seeds] == [0, 1, 2]


def test_demo_is_the_reserved_seeds() -> None:
    """200 pictures, 20 a class, 32 x 32, all different."""
    source = open_source("demo")
    listed = list_seeds(source)
    assert len({seed.key for seed in listed.seeds}) == 200
    assert [sum(seed.label == label for seed in listed.seeds) for label in range(10)] == [20] * 10
    assert {source.sample(i)[0].size for i in range(200)} == {(32, 32)}


def test_photos_ship_as_they_were_made() -> None:
    """96 pictures, 24 a class, 128 x 128, all different; their bytes and what is told of them are the recipe's."""
    source = open_source("photos")
    listed = list_seeds(source)
    assert (source.name, source.classes) == ("photos", ("fish", "hand tool", "monument", "renewable energy"))
    assert len({seed.key for seed in listed.seeds}) == 96
    assert [sum(seed.label == label for seed in listed.seeds) for label in range(4)] == [24] * 4
    assert {source.sample(i)[0].size for i in range(96)} == {(128, 128)}
    folder = ASSETS / "photos"
    files = [folder / source.origin(i) for i in range(96)]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in [*files, folder / "README.md"]))
    assert digest.hexdigest() == "8e8026338545cf1cb14a770bf6055ef3902ee9af4bc148168947e8612c1803a2"


def test_the_author_source_and_licence_of_each_photo_are_told() -> None:
    """One row of its README for each file, and free licences alone."""
    lines = (ASSETS / "photos" / "README.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if ".webp |" in line]
    source = open_source("photos")
    assert sorted(row[0] for row in rows) == sorted(source.origin(i) for i in range(96))
    assert all(author and address.startswith("https://") for _, author, address, _ in rows)
    assert {licence for *_, licence in rows} == {"public domain", "CC0-1.0"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_dataset_that_ships_is_known_everywhere(name: str) -> None:
    """To `ExpandedDataset`, to help, and to the error about a source that is not there."""
    expanded = gif_datasets.ExpandedDataset(name, ratio=1, method="cutout")
    assert expanded[0][1] == 0
    assert f"\n  {name} " in arguments.SOURCE
    with pytest.raises(SourceError, match=name):
        open_source("nowhere")


def test_an_own_folder_of_photos_goes_first(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`photos` was the name of many folders before it was a dataset; `demo` always names the dataset."""
    monkeypatch.chdir(tmp_path)
    for name in SHIPPED:
        shutil.copytree(seed_folder, tmp_path / name)
    assert open_source("photos").classes == open_source("./demo").classes == ("ant", "bee", "crab")
    assert len(open_source("demo").classes) == 10


def test_empty_and_flat_folders(tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """No sub-folders, or none with pictures, is explained."""
    with pytest.raises(SourceError, match="no sub-folders"):
        open_source(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    with pytest.raises(SourceError, match="no images"):
        open_source(str(tmp_path))


def test_labels_that_are_missing_or_odd(seed_folder: Path) -> None:
    """A row without a label costs itself; lists, floats and sparse numbers are refused; booleans are 0 and 1."""
    rows = hugging_face(seed_folder).remove_columns("kind")
    some = wrap_source(rows.add_column("label", ["a", None, "b"] * 4))
    assert some.classes == ("a", "b")
    listed = list_seeds(some)
    assert (len(listed.seeds), listed.bad[0]) == (8, "row 1: no label")
    truth = wrap_source(rows.add_column("label", [True, False] * 6))
    assert [type(truth.sample(i)[1]) for i in (0, 1)] == [int, int]
    assert list_seeds(truth).seeds[0].label == 1
    for values, words in (([[0]] * 12, "integers or texts"), ([0.5] * 12, "0.5"), ([7, 3_000_000] * 6, "3000000")):
        with pytest.raises(SourceError, match=words):
            wrap_source(rows.add_column("label", values))
    with pytest.raises(SourceError, match="contains no images"):
        wrap_source(rows.add_column("label", [0, 1] * 6), image_column="id")


@pytest.mark.parametrize("as_rows", [False, True])
@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        ([-1, 1], ["a", "b"], "the labels -1, 1, and labels count classes from 0; number the classes 0 to 1"),
        ([-1, 0], ["a", "b"], "the labels -1, 0"),
        ([-1, 0, 1], ["a", "b", "c"], "number the classes 0 to 2"),
        ([-1, 0], None, "the labels -1, 0"),
        ([-1], ["a", "b"], "the labels -1, and"),
        ([-1, 0, 1], ["a", "b"], ""),
        ([0, 1, 2, -1], ["a", "b", "c"], ""),
    ],
)
def test_labels_below_nothing(
    seed_folder: Path, labels: list[int], classes: list[str] | None, words: str, as_rows: bool
) -> None:
    """They are refused where they may be a class; beside all classes they say that there is no label, by name."""
    values = (labels * 12)[:12]
    dataset: object = [(Image.new("RGB", (8, 8), (i, 0, 0)), label) for i, label in enumerate(values)]
    if as_rows:
        dataset = hugging_face(seed_folder).remove_columns("kind").add_column("label", values)
    source = wrap_source(dataset, classes=classes if as_rows else classes or ["a"])
    if words:
        with pytest.raises(SourceError, match=words):
            list_seeds(source)
    else:
        listed = list_seeds(source)
        assert len(listed.seeds) == 12 - values.count(-1)
        assert listed.bad[0] == f"row {values.index(-1)}: no label (-1)"


def test_a_few_of_many_classes_beside_no_label() -> None:
    """A limit takes some classes only, which says nothing of the labels."""
    labels = [0, 2, 1, -1, 3, 2]
    source = wrap_source([(Image.new("RGB", (8, 8), (i, 0, 0)), v) for i, v in enumerate(labels)], classes=list("abcd"))
    assert [seed.label for seed in list_seeds(source, limit=2).seeds] == [0]


def test_random_transforms_inside_a_dataset_are_refused(seed_folder: Path) -> None:
    """A dataset that gives other pixels each time cannot be keyed, so it is refused, not expanded for ever."""
    bare = torchvision.datasets.ImageFolder(str(seed_folder))

    class Noisy:
        classes = bare.classes

        def __len__(self) -> int:
            return len(bare)

        def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
            return np.random.default_rng().integers(0, 256, (8, 8, 3), dtype=np.uint8), bare[i][1]

    with pytest.raises(SourceError, match="other pixels each time"):
        list_seeds(wrap_source(Noisy()))
    both = ConcatDataset([torchvision.datasets.ImageFolder(str(seed_folder), transform=v2.RandomCrop(5))] * 2)
    assert len({seed.key for seed in list_seeds(wrap_source(both)).seeds}) == 12


def test_one_bad_item_of_a_dataset_costs_itself(seed_folder: Path) -> None:
    """Whatever a dataset's own loader raises on a broken picture, the rest is read."""
    dataset = torchvision.datasets.ImageFolder(str(seed_folder))
    (seed_folder / "ant" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    listed = list_seeds(wrap_source(dataset))
    assert (len(listed.seeds), len(listed.bad)) == (11, 1)
    assert listed.bad[0].startswith("row 1: ")


def test_label_transforms_say_what_labels_are(seed_folder: Path) -> None:
    """`target_transform` stays: the label of an item is the label of its seed."""
    dataset = torchvision.datasets.ImageFolder(str(seed_folder), target_transform=lambda label: 2 - label)
    assert list_seeds(wrap_source(dataset)).seeds[0].label == 2


def test_odd_names(tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """Quotes, newlines, emoji and bytes that are no UTF-8 survive to the reader, or are shown as escapes."""
    import os

    names = ['say "hi"', "two\nlines", "\U0001f980 crab", "a: b #c", os.fsdecode(b"caf\xe9")]
    for number, name in enumerate(names):
        (tmp_path / "s" / name).mkdir(parents=True)
        picture(number).save(tmp_path / "s" / name / os.fsdecode(b"x\xe9.png"))
    gif_datasets.expand(str(tmp_path / "s"), tmp_path / "out", ratio=1, prior="linear")
    assert verify(tmp_path / "out") == []
    wanted = sorted([*names[:4], "caf\\xe9"])
    assert sorted(gif_datasets.load_expanded(tmp_path / "out").classes) == wanted
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert sorted(rows.features["cls"].names) == wanted
    assert sorted({row["json"]["class_name"] for row in rows}) == wanted


def test_output_inside_the_source(seed_folder: Path) -> None:
    """An expansion written among the classes is not a class the next time."""
    for _ in range(2):
        gif_datasets.expand(str(seed_folder), seed_folder / "out", ratio=1, prior="linear")
    assert open_source(str(seed_folder)).classes == ("ant", "bee", "crab")


def test_arguments_that_torchvision_passes_on() -> None:
    """Parameters hidden behind **kwargs are known; `root` is not forced on datasets without one."""
    with pytest.raises(SourceError, match="EMNIST"):
        open_source("torchvision:EMNIST?split=letters&train=false&root=/nonexistent")
    assert len(open_source("torchvision:FakeData?size=3&num_classes=2&classes=a,b")) == 3


def test_names_of_classes_meet_in_either_form_of_unicode(tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """Composed or decomposed, as Macs write them: in validation sets, synonyms, joined datasets and texts."""
    for number, form in enumerate(("NFC", "NFD")):
        for place, name in enumerate(("café", "thé")):
            folder = tmp_path / form / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            picture(2 * number + place).save(folder / "0.png")
    synonyms = tmp_path / "names.toml"
    synonyms.write_text('"café" = ["coffee house"]', encoding="utf-8")
    assert names_of(unicodedata.normalize("NFD", "café"), read_synonyms(str(synonyms))) == ("coffee house",)
    summary = gif_datasets.expand(
        str(tmp_path / "NFD"), tmp_path / "out", validation=str(tmp_path / "NFC"), ratio=1, prior="linear",
        synonyms=str(synonyms),
    )  # fmt: skip
    assert (summary.originals, summary.validation) == (2, 2)
    parts = [torchvision.datasets.ImageFolder(str(tmp_path / form)) for form in ("NFC", "NFD")]
    assert [seed.label for seed in list_seeds(wrap_source(ConcatDataset(parts))).seeds] == [0, 1, 0, 1]
    rows = hugging_face(tmp_path / "NFC").remove_columns("kind")
    rows = datasets.concatenate_datasets([rows, rows])
    texts = wrap_source(rows.add_column("label", ["thé", *(unicodedata.normalize(f, "thé") for f in FORMS), "café"]))
    assert (len(texts.classes), [texts.sample(i)[1] for i in range(4)]) == (2, [1, 1, 1, 0])


def test_two_classes_that_look_alike_are_refused(tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """The same letters in both forms, side by side."""
    for form in FORMS:
        (tmp_path / unicodedata.normalize(form, "thé")).mkdir()
        picture(1).save(tmp_path / unicodedata.normalize(form, "thé") / "0.png")
    with pytest.raises(SourceError, match="class names must be different"):
        gif_datasets.ExpandedDataset(str(tmp_path), prior="linear")


class Rows:
    """Row 1 raises an error, or has whatever ``read`` gives."""

    classes = ("a", "b")

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return (self.read() if index == 1 else pixels), index % 2


def raising(error: Exception) -> Callable[[], Any]:
    def read() -> Any:
        raise error

    return read


@pytest.mark.parametrize(
    "error",
    [
        KeyError(1),
        TypeError("'NoneType' object is not subscriptable"),
        AttributeError("no such column"),
        IndexError("list index out of range"),
        ValueError("could not convert string to float"),
        RuntimeError("device-side assert"),
        StopIteration(),
        MemoryError(),
        AssertionError(),
        ConnectionResetError("by peer"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
)
def test_an_error_of_the_dataset_s_own_code_is_raised_with_its_row(error: Exception) -> None:
    """It is no unreadable image: the seeds would be fewer, and in other places."""
    with pytest.raises(SourceError, match=f"row 1: the dataset raised {type(error).__name__}") as caught:
        list_seeds(wrap_source(Rows(raising(error))))
    assert not isinstance(caught.value, BadImage)
    assert caught.value.__cause__ is error


BROKEN = b"\x89PNG\r\n\x1a\n" + bytes(40)


def truncated() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "PNG")
    return buffer.getvalue()[:900]


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda: Image.open(io.BytesIO(b"nothing")), "not an image"),
        (lambda: Image.open(io.BytesIO(truncated())).load(), "unreadable"),
        (lambda: torchvision.io.decode_image(torch.frombuffer(bytearray(BROKEN), dtype=torch.uint8)), "unreadable"),
        (lambda: Image.open("nowhere.png"), "no such file"),
        (raising(OSError("image file is truncated")), "truncated"),
        (raising(Image.DecompressionBombError("179 million pixels")), "too many pixels"),
        (raising(BadImage("the scanner's own mark")), "the scanner's own mark"),
    ],
)
def test_what_a_decoder_raises_costs_one_image(read: Callable[[], Any], reason: str) -> None:
    """So does what the dataset itself calls a bad image; the warning has number and names."""
    with pytest.warns(UserWarning, match=f"left out 1 of 8 images: row 1: .*{reason}"):
        expanded = gif_datasets.ExpandedDataset(Rows(read), ratio=1, method="cutout")
    assert (len(expanded), len(expanded.bad)) == (14, 1)
    assert [expanded.provenance(i).seed_index for i in range(7)] == [0, 2, 3, 4, 5, 6, 7]
    assert expanded.bad[0].startswith("row 1: ")


def test_a_warning_names_the_first_of_many(seed_folder: Path, tmp_path: Path) -> None:
    """Once; ``.bad`` has them all; the command names them itself."""
    for path in [*seed_folder.glob("ant/*"), *seed_folder.glob("bee/[123].png")]:
        path.write_bytes(b"")
    wanted = r"left out 7 of 12 images: ant/0.png: .*; bee/1.png: not an image; and 2 more$"
    with pytest.warns(UserWarning, match=wanted) as seen:
        summary = gif_datasets.expand(str(seed_folder), tmp_path / "out", ratio=1, method="cutout")
    assert (len(seen), len(summary.bad), seen[0].filename) == (1, 7, __file__)


def addressed(addresses: list[str]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    labels = [place % 2 for place in range(len(addresses))]
    return datasets.Dataset.from_dict({"image": addresses, "label": labels}, features=features)


def test_images_by_address(tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """As ``datasets`` opens them; a file that is not there is left out, by name."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number in range(3):
            buffer = io.BytesIO()
            picture(number).save(buffer, "PNG")
            archive.writestr(f"{number}.png", buffer.getvalue())
    source = wrap_source(addressed([f"zip://{number}.png::{tmp_path}/all.zip" for number in range(4)]))
    listed = list_seeds(source)
    assert (len(listed.seeds), listed.bad) == (3, ("row 3: no such file",))
    assert source.sample(2)[0].tobytes() == picture(2).tobytes()


@pytest.mark.parametrize("address", ["https://127.0.0.1:1/1.png?sig=secret", "nosuch://secret@there/1.png"])
def test_addresses_that_cannot_be_reached(address: str) -> None:
    """No image is missing because a server is; and an address may hold what is nobody's business."""
    with pytest.raises(SourceError, match=r"row 0: its image at a \w+:// address cannot be read") as caught:
        list_seeds(wrap_source(addressed([address] * 2)))
    assert "secret" not in str(caught.value)


def test_advice_about_columns_can_be_followed(picture: Callable[[int], Image.Image]) -> None:
    """In Python, in a text, and where a function takes neither."""
    rows = datasets.Dataset.from_dict({"picture": [picture(0), picture(1)], "kind": [0, 1]})
    with pytest.raises(SourceError, match=r"no label columns .*label_column=COLUMN of ExpandedDataset") as caught:
        gif_datasets.ExpandedDataset(rows, method="cutout")
    assert "rename the column to 'label'" in str(caught.value)
    with pytest.raises(ConfigError, match="unknown option 'label'; name a column by label_column='kind'"):
        gif_datasets.ExpandedDataset(rows, method="cutout", label="kind")
    assert len(gif_datasets.ExpandedDataset(rows, ratio=1, method="cutout", label_column="kind")) == 4
    assert len(wrap_source(rows.rename_column("kind", "label"))) == 2


@pytest.mark.parametrize("index", [slice(2, 5), "image", [1, 2], 1.0, None])
def test_items_have_integers_as_indices(index: Any, tmp_path: Path) -> None:
    """Of every dataset of this package; numpy's and torch's integers are such."""
    expanded = gif_datasets.ExpandedDataset("demo", ratio=1, method="cutout", validation_share=0.1)
    gif_datasets.expand("demo", tmp_path / "out", ratio=1, method="cutout", limit=4)
    for items in (expanded, expanded.validation, gif_datasets.load_expanded(tmp_path / "out")):
        with pytest.raises(UsageError, match="an item has an integer as its index, got"):
            items[index]
        with pytest.raises(IndexError):
            items[len(items)]
        assert items[np.int64(1)][1] == items[torch.tensor(1)][1] == items[1 - len(items)][1]
