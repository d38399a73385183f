"""The paper's nine datasets, with the splits and sizes of its Tables 6 and 7, as folders that every command takes.

    python recipes/paper/paper_sets.py                              the table
    python recipes/paper/paper_sets.py flowers --out sets           sets/flowers/train and sets/flowers/test

Each is fetched from where it is still served, downloads are checked by their publishers' digests, and images are
counted before anything is written: another count is an error. Where the paper does not say which images its training
set holds, or only that they are some of the whole, they are chosen here in each class by the digest of their files or
pixels, so that anybody gets the same; the test set is then the rest. Files of an older download are found below
``--root``. Run again = resume.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CARS = "tanganke/stanford_cars"
MEDMNIST = "https://zenodo.org/records/6496656/files/{}.npz"  # version 2; version 3 has ten OrganS images fewer
MEDMNIST_FILES = {
    "breastmnist": ("750601b1f35ba3300ea97c75c52ff8f6", ("malignant", "normal, benign")),
    "pathmnist": (
        "a8b06965200029087d5bd730944a56c1",
        ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
         "cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "organsmnist": (
        "e5c39f1af030238290b9557d9503af9d",
        ("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
         "lung-right", "pancreas", "spleen"),
    ),
}  # fmt: skip
"""MD5 of the file, and the classes in label order."""


@dataclass(frozen=True)
class Item:
    """An image: its class, what to call it, and the file's bytes or its pixels."""

    class_name: str
    name: str
    content: Path | bytes | Image.Image | np.ndarray

    @property
    def digest(self) -> str:
        """Of what it is kept as."""
        return hashlib.sha256(self._bytes).hexdigest()

    @property
    def _bytes(self) -> bytes:
        if isinstance(self.content, Path):
            return self.content.read_bytes()
        if isinstance(self.content, bytes):
            return self.content
        pixels = np.asarray(self.content)
        return repr(pixels.shape).encode() + pixels.tobytes()

    def write(self, folder: Path) -> None:
        """Into the folder of its class."""
        path = folder / re.sub(r"[/\\:]", "-", self.class_name) / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.content, (Path, bytes)):
            path.write_bytes(self._bytes)
        else:
            image = Image.fromarray(self.content) if isinstance(self.content, np.ndarray) else self.content
            image.save(path)


Items = list[Item]


@dataclass(frozen=True)
class PaperSet:
    """A dataset of the paper.

    Attributes:
        title: What the paper calls it.
        classes: How many.
        train: Seeds, as in Table 6 or 7.
        test: Test images.
        ratio: Copies of a seed in Table 1 or 3.
        host: Who serves it.
        rule: Which images are seeds, and which are for testing.
        read: Fetches it into a root, and gives seeds and test images.
    """

    title: str
    classes: int
    train: int
    test: int
    ratio: int
    host: str
    rule: str
    read: Callable[[Path], tuple[Items, Items]]


def of_each_class(items: Sequence[Item], total: int) -> tuple[Items, Items]:
    """So many images, in equal shares of the classes, the first of each by digest; and the rest.

    Shares that are not whole numbers are rounded down, and the classes with the largest remainders get one more.
    """
    by_class: dict[str, Items] = {}
    for item in items:
        by_class.setdefault(item.class_name, []).append(item)
    shares = {name: total * len(members) / len(items) for name, members in by_class.items()}
    counts = {name: int(share) for name, share in shares.items()}
    for name in sorted(shares, key=lambda name: (counts[name] - shares[name], name))[: total - sum(counts.values())]:
        counts[name] += 1
    return _split(by_class, counts)


def so_many_of_each_class(items: Sequence[Item], count: int) -> tuple[Items, Items]:
    """The same number of each class, the first by digest; and the rest."""
    by_class: dict[str, Items] = {}
    for item in items:
        by_class.setdefault(item.class_name, []).append(item)
    return _split(by_class, dict.fromkeys(by_class, count))


def _split(by_class: dict[str, Items], counts: dict[str, int]) -> tuple[Items, Items]:
    chosen, rest = [], []
    for name, members in sorted(by_class.items()):
        ranked = sorted(members, key=lambda item: (item.digest, item.name))
        chosen += ranked[: counts[name]]
        rest += ranked[counts[name] :]
    return chosen, rest


def fetch(host: str, get: Callable[[], Any]) -> Any:
    """What a host serves; ends with a clear word where it does not."""
    try:
        return get()
    except Exception as error:  # of many kinds: no network, moved files, other bytes, a library that is not there
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SystemExit(
            f"{host} did not give it ({type(error).__name__}: {reason}); if you have its files, put them below --root"
            " as torchvision's dataset class expects them (MedMNIST: NAME.npz)"
        ) from None


def _torchvision(name: str, root: Path, **options: Any) -> Any:
    from torchvision import datasets

    return fetch(f"torchvision's {name}", lambda: getattr(datasets, name)(str(root), download=True, **options))


def _files(pairs: Sequence[tuple[Path, str]]) -> Items:
    return [Item(name, path.name, path) for path, name in pairs]


def caltech101(root: Path) -> tuple[Items, Items]:
    """Backgrounds, which torchvision leaves out, are one of the paper's 102 classes."""
    folder = root / "caltech101" / "101_ObjectCategories"
    if not folder.is_dir():
        _torchvision("Caltech101", root)
    pairs = [(path, path.parent.name) for path in sorted(folder.glob("*/*.jpg"))]
    return so_many_of_each_class(_files(pairs), 30)


def cars(root: Path) -> tuple[Items, Items]:
    """From Hugging Face, since its own host is gone; or from files of an older download."""
    if (root / "stanford_cars" / "devkit").is_dir():
        from torchvision.datasets import StanfordCars

        parts = [
            fetch("the folder stanford_cars", lambda s=split: StanfordCars(str(root), split=s)) for split in SPLITS
        ]
        return _pair([_files([(Path(path), part.classes[label]) for path, label in part._samples]) for part in parts])
    return _pair([_cars_rows(root, split) for split in SPLITS])


def _cars_rows(root: Path, split: str) -> Items:
    def get() -> Any:
        import datasets

        rows = datasets.load_dataset(CARS, split=split, cache_dir=str(root / "hf"))
        return rows.cast_column("image", datasets.Image(decode=False))

    rows = fetch(f"Hugging Face's {CARS}", get)
    names = rows.features["label"].names
    return [Item(names[row["label"]], f"{i:05d}.jpg", row["image"]["bytes"]) for i, row in enumerate(rows)]


def flowers(root: Path) -> tuple[Items, Items]:
    """The 8,189 images of all three splits; of the paper's 6,552 it is not known which they are."""
    pairs = []
    for split in ("train", "val", "test"):
        part = _torchvision("Flowers102", root, split=split)
        pairs += [
            (Path(path), part.classes[label]) for path, label in zip(part._image_files, part._labels, strict=True)
        ]
    return of_each_class(_files(pairs), 6552)


def pets(root: Path) -> tuple[Items, Items]:
    """All images of the folder, those without annotations included; 52% of each class, as the released code."""
    folder = root / "oxford-iiit-pet" / "images"
    if not folder.is_dir():
        _torchvision("OxfordIIITPet", root)
    pairs = [(path, path.stem.rpartition("_")[0]) for path in sorted(folder.glob("*.jpg"))]
    return of_each_class(_files(pairs), 3842)


def dtd(root: Path) -> tuple[Items, Items]:
    """Training and validation split of its first partition."""
    parts = [_torchvision("DTD", root, split=split, partition=1) for split in ("train", "val", "test")]
    lists = [
        _files([(Path(path), part.classes[label]) for path, label in zip(part._image_files, part._labels, strict=True)])
        for part in parts
    ]
    return [*lists[0], *lists[1]], lists[2]


def cifar100(root: Path) -> tuple[Items, Items]:
    """All of it."""
    parts = [_torchvision("CIFAR100", root, train=train) for train in (True, False)]
    return _pair(
        [
            [
                Item(part.classes[y], f"{i:05d}.png", x)
                for i, (x, y) in enumerate(zip(part.data, part.targets, strict=True))
            ]
            for part in parts
        ]
    )


def cifar100_subset(root: Path) -> tuple[Items, Items]:
    """A hundred training images of each class."""
    train, test = cifar100(root)
    return so_many_of_each_class(train, 100)[0], test


def medmnist(name: str, split: str) -> Callable[[Path], tuple[Items, Items]]:
    """A reader of one of MedMNIST's files."""

    def read(root: Path) -> tuple[Items, Items]:
        md5, classes = MEDMNIST_FILES[name]
        path = root / f"{name}.npz"
        if not path.exists():
            from torchvision.datasets.utils import download_url

            fetch("zenodo.org", lambda: download_url(MEDMNIST.format(name), str(root), path.name, md5))
        with np.load(path, allow_pickle=False) as arrays:
            parts = [(arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel()) for part in (split, "test")]
        return _pair(
            [
                [Item(classes[int(y)], f"{i:05d}.png", x) for i, (x, y) in enumerate(zip(*part, strict=True))]
                for part in parts
            ]
        )

    return read


SPLITS = ("train", "test")


def _pair(parts: Sequence[Items]) -> tuple[Items, Items]:
    train, test = parts
    return train, test


SETS = {
    "caltech101": PaperSet(
        "Caltech101", 102, 3060, 6084, 20, "torchvision", "30 of each class by digest; the rest", caltech101
    ),
    "cifar100-s": PaperSet(
        "CIFAR100-Subset",
        100,
        10_000,
        10_000,
        5,
        "torchvision",
        "100 of each class by digest; its test set",
        cifar100_subset,
    ),
    "cars": PaperSet("Stanford Cars", 196, 8144, 8041, 20, "Hugging Face", "its own split", cars),
    "flowers": PaperSet(
        "Oxford 102 Flowers", 102, 6552, 1637, 20, "torchvision", "80% of each class of all 8,189; the rest", flowers
    ),
    "pets": PaperSet(
        "Oxford-IIIT Pets", 37, 3842, 3548, 30, "torchvision", "52% of each class of all 7,390; the rest", pets
    ),
    "dtd": PaperSet(
        "DTD", 47, 3760, 1880, 20, "torchvision", "training and validation set; test set of partition 1", dtd
    ),
    "breastmnist": PaperSet(
        "BreastMNIST", 2, 78, 156, 5, "Zenodo", "its validation set; its test set", medmnist("breastmnist", "val")
    ),
    "pathmnist": PaperSet(
        "PathMNIST", 9, 10_004, 7180, 5, "Zenodo", "its validation set; its test set", medmnist("pathmnist", "val")
    ),
    "organsmnist": PaperSet(
        "OrganSMNIST", 11, 13_940, 8829, 5, "Zenodo", "its own split", medmnist("organsmnist", "train")
    ),
    "cifar100": PaperSet("CIFAR100 (Table 12)", 100, 50_000, 10_000, 5, "torchvision", "its own split", cifar100),
}


def table() -> str:
    """All of them, in Markdown."""
    rows = [
        "| name | dataset | classes | seeds | test | copies of a seed | from | seeds; test images |",
        "|---" * 8 + "|",
    ]
    for name, one in SETS.items():
        counts = f"{one.classes} | {one.train:,} | {one.test:,} | {one.ratio}"
        rows.append(f"| `{name}` | {one.title} | {counts} | {one.host} | {one.rule} |")
    return "\n".join(rows)


def make(name: str, out: Path, root: Path) -> None:
    """Fetch, count and write a dataset as two folders of a folder per class."""
    wanted, folder = SETS[name], out / name
    if (folder / "test").is_dir():
        print(f"{folder} is there")
        return
    train, test = wanted.read(root)
    found = {"classes": len({item.class_name for item in train}), "seeds": len(train), "test pictures": len(test)}
    expected = {"classes": wanted.classes, "seeds": wanted.train, "test pictures": wanted.test}
    if wrong := [f"{found[what]:,} {what}, not {count:,}" for what, count in expected.items() if found[what] != count]:
        raise SystemExit(
            f"{wanted.title} has {', '.join(wrong)}: not the pictures of the paper's tables; nothing is written"
        )
    for split, items in (("train", train), ("test", test)):
        _write(items, folder / split)
    print(f"{folder}: {len(train):,} seeds and {len(test):,} test pictures of {wanted.classes} classes")


def _write(items: Items, folder: Path) -> None:
    """All or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    for item in items:
        item.write(place)
    place.rename(folder)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(SETS)}")
    parser.add_argument("--out", type=Path, default=Path("sets"))
    parser.add_argument("--root", type=Path, default=Path("data"), help="where downloads are kept")
    args = parser.parse_args(given)
    if unknown := [name for name in args.names if name not in SETS]:
        parser.error(f"no dataset {unknown[0]!r} in the paper; its own: {', '.join(SETS)}")
    if not args.names:
        print(table())
    for name in args.names:
        args.root.mkdir(parents=True, exist_ok=True)
        make(name, args.out, args.root)


if __name__ == "__main__":
    main()
