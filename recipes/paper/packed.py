"""Write packed datasets as folders, reduced to what two cores can do: ``OUT/NAME/train`` and ``OUT/NAME/test``.

    python recipes/paper/packed.py --data packed --out runs/sets

A packed dataset is a tar with members ``CLASS/ID.jpg``, or a parquet file with columns ``class``, ``id`` and ``image``
(the file's bytes); :data:`SETS` names the files of each. ``paper_sets.py`` writes the same layout at full size, from
where anybody gets the images. Of a set with more than 20 classes, 20 are taken that are spread evenly over the names
and have enough images; where no test file is named, a third of each class is the test set. Images are cut to a square
and made 64 x 64, or 32 x 32 if they were. What is chosen is the first by digest, so it is the same everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from gif_datasets.chunks import evenly

CLASSES, LEAST, MOST = 20, 30, 120
"""Of a set at most so many classes, each of at least so many images; of a class at most so many train, and test."""
SIDE = 64
TEST_SHARE = 1 / 3

Members = dict[str, list[bytes]]
"""Files by class."""


@dataclass(frozen=True)
class Packed:
    """A packed dataset.

    Attributes:
        train: Its files; of a set without ``test``, all of it.
        test: Files of its own test set.
        classes: At most so many.
        domain: Whose prompts name its classes.
        natural: Whether it shows things that anybody photographs.
    """

    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    classes: int = CLASSES
    domain: str = "natural"
    natural: bool = True


CIFAR100 = (("cifar100s-train.parquet",), ("cifar100-test.parquet",))
SETS = {
    "caltech101": Packed(("caltech101.parquet",)),
    "flowers": Packed(("flowers102-train.tar", "flowers102-val.tar"), ("flowers102-test20.tar",)),
    "cifar100-s": Packed(*CIFAR100, classes=100),
    "grocery": Packed(("grocery_store-train.tar",)),
    "pets": Packed(("oxford_pets_part-all.tar",)),
    "cifar100-ten": Packed(*CIFAR100),
    "textures": Packed(("dtd10-all.tar",)),
    "satellite": Packed(("eurosat3k.parquet",), natural=False),
    "tiles": Packed(("magnetic_tile-all.tar",), domain="industrial", natural=False),
    "steel": Packed(("neu_det-all.tar",), domain="industrial", natural=False),
    "ultrasound": Packed(("busi-all.tar",), domain="medical", natural=False),
}
NAMED = {
    "cifar100-ten": (
        "apple",
        "bottle",
        "castle",
        "chair",
        "clock",
        "crab",
        "keyboard",
        "lamp",
        "mushroom",
        "sunflower",
    ),
}
"""Classes that are chosen by name."""
NO_CLASS = ("BACKGROUND_Google",)


def read(paths: Sequence[Path]) -> Members:
    """Files of each class, the first by digest first."""
    found: Members = {}
    for path in paths:
        for name, content in _tar(path) if path.suffix == ".tar" else _parquet(path):
            found.setdefault(name, []).append(content)
    return {
        name: sorted(contents, key=lambda content: hashlib.sha256(content).digest())
        for name, contents in sorted(found.items())
        if name not in NO_CLASS
    }


def _tar(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        return [(member.name.split("/")[0], archive.extractfile(member).read()) for member in members]  # type: ignore[union-attr]


def _parquet(path: Path) -> list[tuple[str, bytes]]:
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["class", "image"])
    return list(zip(table["class"].to_pylist(), table["image"].to_pylist(), strict=True))


def chosen(name: str, train: Members) -> Sequence[str]:
    """The classes that are taken, in alphabetical order."""
    if name in NAMED:
        return NAMED[name]
    enough = [one for one, contents in train.items() if len(contents) >= min(LEAST, len(max(train.values(), key=len)))]
    return [enough[place] for place in evenly(len(enough), SETS[name].classes)]


def label(name: str) -> str:
    """A class's name in words: ``Fruit.Apple.Pink-Lady`` is Pink Lady Apple, ``077_passion_flower`` passion flower."""
    parts = re.sub(r"^(\d+_|MT_)", "", name).split(".")
    parts = [re.sub(r"[-_ ]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part)).strip() for part in parts]
    kind, name = (parts[1], parts[-1]) if len(parts) > 2 else ("", parts[-1])
    return name if name.endswith(kind) else f"{name} {kind}"


def square(content: bytes, side: int = SIDE) -> Image.Image:
    """The middle of an image, at most ``side`` pixels wide and high."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    size = min(side, *image.size)
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def write(name: str, data: Path, out: Path) -> Path:
    """Write one of :data:`SETS`; nothing if it is there."""
    folder, packed = out / name, SETS[name]
    if folder.is_dir():
        return folder
    train = read([data / file for file in packed.train])
    test = read([data / file for file in packed.test])
    classes, place = chosen(name, train), out / f".{name}"
    shutil.rmtree(place, ignore_errors=True)
    for one in classes:
        contents = train[one]
        held = test.get(one) or contents[: round(TEST_SHARE * len(contents))]
        rest = contents if one in test else contents[len(held) :]
        for split, some in (("train", rest[:MOST]), ("test", held[:MOST])):
            where = place / split / label(one)
            where.mkdir(parents=True)
            for number, content in enumerate(some):
                square(content).save(where / f"{number:03d}.png")
    place.rename(folder)
    return folder


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SETS), help=f"(default: all of {', '.join(SETS)})")
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed files")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(given)
    for name in args.names:
        folder = write(name, args.data, args.out)
        counts = [len(list((folder / split).glob("*/*.png"))) for split in ("train", "test")]
        classes = len(list((folder / "train").iterdir()))
        print(f"{name}: {classes} classes, {counts[0]:,} train, {counts[1]:,} test", flush=True)


if __name__ == "__main__":
    main()
