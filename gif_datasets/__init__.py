"""Small labelled image datasets, made larger and more informative by guided imagination.

Importing this package loads nothing heavy; names are found when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gif_datasets.errors import (
    BadImage,
    CacheError,
    ConfigError,
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
    from gif_datasets.comparison import compare
    from gif_datasets.config import ExpansionConfig
    from gif_datasets.dataset import ExpandedDataset
    from gif_datasets.expansion import expand
    from gif_datasets.export import export_expanded
    from gif_datasets.loaded import load_expanded
    from gif_datasets.loader import DataLoader
    from gif_datasets.merge import merge_parts
    from gif_datasets.push import push_to_hub
    from gif_datasets.streamed import stream_expanded
    from gif_datasets.teacher import soft_labels

__version__ = "0.1.0"

_LAZY = {
    "DataLoader": "gif_datasets.loader",
    "ExpandedDataset": "gif_datasets.dataset",
    "ExpansionConfig": "gif_datasets.config",
    "compare": "gif_datasets.comparison",
    "expand": "gif_datasets.expansion",
    "export_expanded": "gif_datasets.export",
    "load_expanded": "gif_datasets.loaded",
    "merge_parts": "gif_datasets.merge",
    "push_to_hub": "gif_datasets.push",
    "soft_labels": "gif_datasets.teacher",
    "stream_expanded": "gif_datasets.streamed",
}

__all__ = [
    "BadImage",
    "CacheError",
    "ConfigError",
    "DataLoader",
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
    "soft_labels",
    "stream_expanded",
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
