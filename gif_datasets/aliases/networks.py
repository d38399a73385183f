"""Alias of :mod:`gif_datasets.comparison.train`, for one release; import from :mod:`gif_datasets.extend` instead."""

from gif_datasets.comparison.train import *  # noqa: F403
