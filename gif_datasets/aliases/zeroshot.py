"""Alias of :mod:`gif_datasets.guidance.zeroshot`, for one release; import from :mod:`gif_datasets.extend` instead."""

from gif_datasets.guidance.zeroshot import *  # noqa: F403
