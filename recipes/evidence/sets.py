"""The labelled sets that the evidence is taken on: seeds and test images, as tensors and as a folder per class.

``cifar10`` is CIFAR10-S, from the npm package that ``recipes/priors/cifar10.py`` reads: the first 100 seeds of a class
no prior in this package has seen; further ones are next in the same order, and the priors were trained on them.
``elpv`` is 2,624 solar cells in electroluminescence (Buerhop-Lutz et al. 2018, Deitsch et al. 2019), of which those
that experts called surely sound or surely defective are used; CC BY-NC-SA 4.0, fetched and never shipped: ``pip
download --no-deps -d A elpv-dataset==1.0.0.post1``, and unzip the wheel. Its images are made 32 x 32, the size of the
embedded prior. Wherever some are chosen, they are chosen by their digests.

Every other name is a set that ``recipes/paper/packed.py`` (or ``paper_sets.py``) wrote: ``PLACE/NAME/train`` and
``PLACE/NAME/test``. Seeds are the first of each class by file name, which is by digest. Test images that look like a
seed in any of eight orientations are left out.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gif_datasets.io.digests import digest_file
from gif_datasets.io.duplicates import near_duplicates, spectra

sys.path += [str(Path(__file__).parents[1] / "priors"), str(Path(__file__).parents[1] / "paper")]
import cifar10
import packed

SIDE = 32
CELLS = {"defective solar cell": 1.0, "sound solar cell": 0.0}
"""ELPV's classes in the order of a folder's, and the probability of a defect that experts gave."""


@dataclass(frozen=True)
class Labelled:
    """Images ``(N, H, W, 3)`` uint8, all of one size, their labels ``(N,)`` int64, and what each is called."""

    pictures: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def images(self) -> Tensor:
        """As networks take them, ``(N, 3, H, W)``."""
        return torch.from_numpy(self.pictures).permute(0, 3, 1, 2)

    def take(self, places: np.ndarray) -> Labelled:
        """Some of them."""
        return Labelled(self.pictures[places], self.labels[places], tuple(self.names[i] for i in places))


@dataclass(frozen=True)
class Set:
    """A task: its classes by label, seeds, test images; and a larger related set to pick from, if there is one."""

    classes: tuple[str, ...]
    seeds: Labelled
    test: Labelled
    pool: Labelled = field(default_factory=lambda: Labelled(np.empty((0, SIDE, SIDE, 3), np.uint8), np.empty(0, int)))
    """Of a set in folders: all its training images, which the judge learns from."""

    def write_seeds(self, folder: Path) -> None:
        """The seeds as a folder per class."""
        for picture, label, name in zip(self.seeds.pictures, self.seeds.labels, self.seeds.names, strict=True):
            path = folder / self.classes[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                Image.fromarray(picture).save(path)


def read_cifar10(place: Path, per_class: int, test_per_class: int | None) -> Set:
    """The pool is what priors may see: real images of the same classes, their labels set aside."""
    data = cifar10.load(place)
    train = Labelled(data.train_images, data.train_labels, tuple(f"{i:05d}.png" for i in range(len(data.train_labels))))
    test = Labelled(data.test_images, data.test_labels)
    seeds = data.ranked[:, :per_class].ravel()
    pool = train.take(np.setdiff1d(data.prior_indices, seeds))
    return Set(
        cifar10.CLASSES, train.take(seeds), test if test_per_class is None else _head(test, test_per_class), pool
    )


def read_elpv(place: Path, per_class: int, test_per_class: int | None) -> Set:
    """Seeds are the first of each class, test images the next."""
    rows = [line.split() for line in (place / "data" / "labels.csv").read_text().splitlines()]
    seeds, test = [], []
    for label, wanted in enumerate(CELLS.values()):
        paths = [place / "data" / path for path, probability, _ in rows if float(probability) == wanted]
        cells = [(_small(Image.open(path)), label, path.name) for path in sorted(paths, key=digest_file)]
        seeds += cells[:per_class]
        test += cells[per_class:][:test_per_class]
    return Set(tuple(CELLS), _stacked(seeds), _stacked(test))


def read_folders(name: str) -> Reader:
    """A reader of a set in folders."""

    def read(place: Path, per_class: int, test_per_class: int | None) -> Set:
        classes = sorted(folder.name for folder in (place / name / "train").iterdir())
        train = _folder(place / name / "train", classes, None)
        test = _folder(place / name / "test", classes, test_per_class)
        of_class = [np.flatnonzero(train.labels == label) for label in range(len(classes))]
        seeds = train.take(np.concatenate([places[:per_class] for places in of_class]))
        return Set(tuple(classes), seeds, _unlike(test, seeds), train)

    return read


Reader = Callable[[Path, int, int | None], Set]
"""Reads the set at a place: so many seeds a class, and so many test images a class or all."""
READERS: dict[str, Reader] = {
    "cifar10": read_cifar10,
    "elpv": read_elpv,
    **{name: read_folders(name) for name in packed.SETS},
}
"""By name."""


def _folder(folder: Path, classes: Sequence[str], per_class: int | None) -> Labelled:
    """The first images of each class."""
    return _stacked([
        (np.asarray(Image.open(path).convert("RGB")), label, path.name)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())[:per_class]
    ])  # fmt: skip


def _unlike(test: Labelled, seeds: Labelled) -> Labelled:
    """The test images that look like no seed."""
    known = np.stack([spectra(Image.fromarray(picture)) for picture in seeds.pictures])
    alike = near_duplicates(known, [spectra(Image.fromarray(picture)) for picture in test.pictures])
    return test.take(np.setdiff1d(np.arange(len(test.labels)), list(alike)))


def _digest(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def _head(found: Labelled, per_class: int) -> Labelled:
    """The first of each class by digest, class by class."""
    places: list[int] = []
    for label in np.unique(found.labels):
        members = np.flatnonzero(found.labels == label)
        places += sorted(members, key=lambda place: _digest(found.pictures[place]))[:per_class]
    return Labelled(found.pictures[places], found.labels[places])


def _small(image: Image.Image) -> np.ndarray:
    """An image at the prior's size."""
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _stacked(rows: list[tuple[np.ndarray, int, str]]) -> Labelled:
    pictures, labels, names = zip(*rows, strict=True)
    return Labelled(np.stack(pictures), np.array(labels, dtype=np.int64), names)
