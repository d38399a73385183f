"""The store of generated samples."""

from gif_datasets.io.cache.store import Cache, open_cache

__all__ = ["Cache", "open_cache"]
