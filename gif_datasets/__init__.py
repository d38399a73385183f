"""Expands small labelled image datasets by guided imagination.

Importing this package loads nothing heavy; names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gif_datasets.errors import (
    BadImage,
    CacheError,
    ConfigError,
    DiskFull,
    EngineError,
    GifDatasetsError,
    HubError,
    MissingExtra,
    PlanMismatch,
    PriorError,
    ShardError,
    SourceError,
    UsageError,
)

if TYPE_CHECKING:
    from gif_datasets.comparison.compare import compare
    from gif_datasets.comparison.refine import refine
    from gif_datasets.comparison.teacher import soft_labels
    from gif_datasets.config import ExpansionConfig
    from gif_datasets.data.loader import DataLoader
    from gif_datasets.data.map_style import load_expanded
    from gif_datasets.data.streaming import stream_expanded
    from gif_datasets.expansion.dataset import ExpandedDataset
    from gif_datasets.expansion.expand import expand
    from gif_datasets.expansion.merge import merge_parts
    from gif_datasets.expansion.withdraw import withdraw
    from gif_datasets.publish.export import export_expanded
    from gif_datasets.publish.push import push_to_hub

__version__ = "0.1.0"

__path__.append(f"{__path__[0]}/aliases")  # old paths, such as gif_datasets.rng, for one release

_LAZY = {
    "DataLoader": "gif_datasets.data.loader",
    "ExpandedDataset": "gif_datasets.expansion.dataset",
    "ExpansionConfig": "gif_datasets.config",
    "compare": "gif_datasets.comparison.compare",
    "expand": "gif_datasets.expansion.expand",
    "export_expanded": "gif_datasets.publish.export",
    "load_expanded": "gif_datasets.data.map_style",
    "merge_parts": "gif_datasets.expansion.merge",
    "push_to_hub": "gif_datasets.publish.push",
    "refine": "gif_datasets.comparison.refine",
    "soft_labels": "gif_datasets.comparison.teacher",
    "stream_expanded": "gif_datasets.data.streaming",
    "withdraw": "gif_datasets.expansion.withdraw",
}

__all__ = [
    "BadImage",
    "CacheError",
    "ConfigError",
    "DataLoader",
    "DiskFull",
    "EngineError",
    "ExpandedDataset",
    "ExpansionConfig",
    "GifDatasetsError",
    "HubError",
    "MissingExtra",
    "PlanMismatch",
    "PriorError",
    "ShardError",
    "SourceError",
    "UsageError",
    "__version__",
    "compare",
    "expand",
    "export_expanded",
    "load_expanded",
    "merge_parts",
    "push_to_hub",
    "refine",
    "soft_labels",
    "stream_expanded",
    "withdraw",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
