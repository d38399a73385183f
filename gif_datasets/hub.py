"""The only module that imports huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from gif_datasets.errors import UsageError

WANTED = ("*.json", "*.safetensors", "README.md", "data/*.tar")


def download(repository: str, revision: str | None = None) -> Path:
    """Bring an expanded dataset from the Hub into the Hub's cache; what is there already is not fetched again.

    Args:
        repository: ``user/name`` of a dataset.
        revision: Branch, tag or commit.

    Raises:
        UsageError: If there is no such dataset, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=list(WANTED)))
    except (OSError, ValueError) as error:  # all of its errors are one or the other
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"no folder {repository!r} here, and the Hub does not give a dataset of that name: {reason}"
        ) from error
