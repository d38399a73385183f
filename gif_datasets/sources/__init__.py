"""Seed datasets: folders, torchvision, Hugging Face, expanded shards."""

from gif_datasets.sources.open import open_source, wrap_source

__all__ = ["open_source", "wrap_source"]
