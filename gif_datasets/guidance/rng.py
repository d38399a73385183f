"""Randomness as a pure function of what it is for, never of global state."""

from __future__ import annotations

import hashlib

import torch

from gif_datasets.io.digests import canonical_json


def generator_for(rng_seed: int, seed_key: str, stream: str, copy: int) -> torch.Generator:
    """Return a CPU generator that depends on its four arguments alone.

    Args:
        rng_seed: The run's number, any integer.
        seed_key: Content key of the seed sample.
        stream: What is drawn: ``"noise"``, ``"bias"``, ``"decode"``, ...
        copy: Which copy of the seed sample, from 1.

    Torch's CPU generator keeps 32 of the number's 63 bits: among some hundred thousand streams a few pairs are the
    same, of seeds that have nothing to do with each other.

    Example:
        >>> a = torch.rand(2, generator=generator_for(0, "cat", "noise", 1))
        >>> b = torch.rand(2, generator=generator_for(0, "cat", "noise", 1))
        >>> bool((a == b).all())
        True
    """
    text = canonical_json([rng_seed, seed_key, stream, copy])
    number = int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest(), "big", signed=False)
    return torch.Generator().manual_seed(number & 0x7FFF_FFFF_FFFF_FFFF)
