"""Alias of :mod:`gif_datasets.expansion.augment`, for one release; import from :mod:`gif_datasets.extend` instead."""

from gif_datasets.expansion.augment import *  # noqa: F403
