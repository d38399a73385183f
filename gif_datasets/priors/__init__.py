"""Generative priors: they map images to latents and back."""

from gif_datasets.priors.find import (
    DEFAULTS,
    FAMILIES,
    PRIOR_FORMAT,
    SHRINKS,
    PriorInfo,
    check_fit,
    check_published_strength,
    check_strength,
    embedded_folder,
    fetch_prior,
    find_prior,
    load_prior,
    names,
    own_prior,
    prior_parts,
)

__all__ = [
    "DEFAULTS",
    "FAMILIES",
    "PRIOR_FORMAT",
    "SHRINKS",
    "PriorInfo",
    "check_fit",
    "check_published_strength",
    "check_strength",
    "embedded_folder",
    "fetch_prior",
    "find_prior",
    "load_prior",
    "names",
    "own_prior",
    "prior_parts",
]
