"""Alias of :mod:`gif_datasets.expansion.imagination.augment`, for one release; use :mod:`gif_datasets.extend`."""

from gif_datasets.expansion.imagination.augment import *  # noqa: F403
