"""Alias of :mod:`gif_datasets.guidance.rng`, for one release; import from :mod:`gif_datasets.extend` instead."""

from gif_datasets.guidance.rng import *  # noqa: F403
