"""How many copies show the same as a real image or as another copy, by the perceptual hash of ``check="novel"``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gif_datasets.chunks import evenly
from gif_datasets.config import NOVEL
from gif_datasets.io import images
from gif_datasets.io.duplicates import BITS, KnownImages, Spectra, different_from, spectra
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import Provenance

MOST = 500
"""Images of each kind that are compared, evenly spaced."""


@dataclass(frozen=True)
class NearCopies:
    """Near-duplicates among the copies.

    Attributes:
        bits: Bits, of the 255 of the hash, below which two images count as the same.
        real: Real images compared.
        copies: Copies compared.
        of_seed: Share of the copies that show the same as their own seed; None if no seed of one was compared.
        of_other: As another real image.
        of_copy: As another copy, of any seed.
        first_draws: With ``check="novel"``: share of all copies whose first draw showed the same as a seed, or as an
            earlier copy of its seed; None without.
        last_draws: The same of the draws that were taken.
    """

    bits: int
    real: int
    copies: int
    of_seed: float | None
    of_other: float
    of_copy: float
    first_draws: float | None = None
    last_draws: float | None = None

    def text(self) -> str:
        """Two sentences at most."""
        seed = "" if self.of_seed is None else f"{self.of_seed:.1%} show the same as their own seed, "
        compared = f"Of {self.copies} copies, compared with {self.real} real images and each other, "
        shares = f"{seed}{self.of_other:.1%} as another real image, {self.of_copy:.1%} as another copy"
        how = f" (fewer than {self.bits} of the {BITS} bits of a perceptual hash apart)."
        return compared + shares + how + self._draws()

    def _draws(self) -> str:
        if self.first_draws is None or self.last_draws is None:
            return ""
        return (
            f" By check=novel {self.first_draws:.1%} of the first draws showed what a seed or an earlier copy of theirs"
            f" shows, and {self.last_draws:.1%} of those that were taken after new draws."
        )


def measure(reader: ShardReader, records: Sequence[Provenance]) -> NearCopies | None:
    """Compare at most ``MOST`` copies and real images of a folder, given its records; None without copies."""
    real, copies = (
        [index for index, record in enumerate(records) if (record.copy > 0) == kind and record.synthetic == kind]
        for kind in (False, True)
    )
    drawn = [records[index] for index in copies]
    real, copies = ([indices[i] for i in evenly(len(indices), MOST)] for indices in (real, copies))
    if not copies:
        return None
    seeds, made = _spectra(reader, real), _spectra(reader, copies)
    option = reader.manifest.options.get("novel_bits")
    bits = option if type(option) is int else different_from(seeds if len(real) else made)
    known, others = (KnownImages.of(part, bits) for part in (seeds, made))
    near_real = [known.all_near(image) for image in made]
    own = {records[index].seed_key: place for place, index in enumerate(real)}
    own_seed = [own.get(records[index].seed_key) for index in copies]
    with_seed = [(seed, near) for seed, near in zip(own_seed, near_real, strict=True) if seed is not None]
    checked = reader.manifest.options.get("check") == NOVEL
    return NearCopies(
        bits=bits,
        real=len(real),
        copies=len(copies),
        of_seed=_share([seed in near for seed, near in with_seed]) if with_seed else None,
        of_other=_share([bool(near - {seed}) for seed, near in zip(own_seed, near_real, strict=True)]),
        of_copy=_share([bool(others.all_near(image) - {place}) for place, image in enumerate(made)]),
        first_draws=_share([record.attempts > 1 or not record.passed for record in drawn]) if checked else None,
        last_draws=_share([not record.passed for record in drawn]) if checked else None,
    )


def _share(is_so: Sequence[bool]) -> float:
    return sum(is_so) / len(is_so)


def _spectra(reader: ShardReader, indices: Sequence[int]) -> Spectra:
    shown = (images.read_rgb(reader.image_bytes(index), reader.key(index)) for index in indices)
    return np.stack([spectra(image) for image in shown]) if len(indices) else np.empty((0, 2, BITS), np.float32)
