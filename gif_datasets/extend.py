"""Names for code that extends the package with methods, priors and sources.

The names keep this path from release to release; the modules behind them may move. Names are imported when first used,
so `import gif_datasets.extend` loads nothing heavy. `docs/extend.md` shows how to use each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gif_datasets.comparison.train import Training
    from gif_datasets.config import ExpansionConfig
    from gif_datasets.expansion.imagination.augment import Augmented
    from gif_datasets.guidance.rng import generator_for
    from gif_datasets.guidance.zeroshot import Clip, ZeroShotClassifier
    from gif_datasets.priors import PriorInfo, find_prior, load_prior
    from gif_datasets.priors.base import Prior
    from gif_datasets.shards.rejections import reject
    from gif_datasets.sources import open_source
    from gif_datasets.types import Provenance

_HOMES = {
    "Augmented": "gif_datasets.expansion.imagination.augment",
    "Clip": "gif_datasets.guidance.zeroshot",
    "ExpansionConfig": "gif_datasets.config",
    "Prior": "gif_datasets.priors.base",
    "PriorInfo": "gif_datasets.priors",
    "Provenance": "gif_datasets.types",
    "Training": "gif_datasets.comparison.train",
    "ZeroShotClassifier": "gif_datasets.guidance.zeroshot",
    "find_prior": "gif_datasets.priors",
    "generator_for": "gif_datasets.guidance.rng",
    "load_prior": "gif_datasets.priors",
    "open_source": "gif_datasets.sources",
    "reject": "gif_datasets.shards.rejections",
}

__all__ = [
    "Augmented",
    "Clip",
    "ExpansionConfig",
    "Prior",
    "PriorInfo",
    "Provenance",
    "Training",
    "ZeroShotClassifier",
    "find_prior",
    "generator_for",
    "load_prior",
    "open_source",
    "reject",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
