"""Alias of :mod:`gif_datasets.shards.rejections`, for one release; import from :mod:`gif_datasets.extend` instead."""

from gif_datasets.shards.rejections import *  # noqa: F403
