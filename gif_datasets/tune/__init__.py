"""Fine-tune a prior on a small dataset."""

from gif_datasets.tune.fine_tune import TuneConfig, tune

__all__ = ["TuneConfig", "tune"]
