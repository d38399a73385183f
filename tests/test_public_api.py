"""What the package exports, and that importing it is light."""

from __future__ import annotations

import subprocess
import sys

import gif_datasets


def test_all_names_are_there_and_nothing_else() -> None:
    """`__all__` is sorted, complete and importable; unknown names raise."""
    assert gif_datasets.__all__ == sorted(gif_datasets.__all__)
    for name in gif_datasets.__all__:
        assert getattr(gif_datasets, name) is not None
    assert {"ExpandedDataset", "ExpansionConfig", "expand", "load_expanded"} <= set(dir(gif_datasets))
    assert not hasattr(gif_datasets, "nonsense")


def test_import_is_light() -> None:
    """`import gif_datasets` loads none of the heavy libraries."""
    heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "open_clip", "timm", "datasets", "webdataset"}
    code = f"import sys, gif_datasets; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_is_a_gif_datasets_error() -> None:
    """One `except` catches all; usage errors are ValueErrors, a missing extra is an ImportError."""
    errors = [
        value
        for value in vars(gif_datasets.errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(errors) >= 11
    assert all(issubclass(error, gif_datasets.GifDatasetsError) for error in errors)
    assert issubclass(gif_datasets.ConfigError, ValueError)
    assert issubclass(gif_datasets.MissingExtra, ImportError)
