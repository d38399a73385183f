"""Captions without a captioner: the view and the place, of two short lists, that a CLIP finds most in an image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gif_datasets.captions import CLASS, as_csv
from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError
from gif_datasets.expansion.guide_choice import own_scorer
from gif_datasets.expansion.imagination.scoring import SeedEmbeddings
from gif_datasets.io import atomic
from gif_datasets.io.devices import resolve_device
from gif_datasets.priors import find_prior
from gif_datasets.priors.guides import find_guide
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import list_seeds, seed_image
from gif_datasets.types import Progress, no_progress

if TYPE_CHECKING:
    from gif_datasets.priors.base import Prior
    from gif_datasets.priors.guide_models import Guide

VIEWS = (
    "a photo of a {}",
    "a close-up of a {}",
    "a {} from the side",
    "a {} from the front",
    "a {} from behind",
    "a {} from above",
    "a {} from afar",
    "a dark photo of a {}",
    "a bright photo of a {}",
    "a blurry photo of a {}",
)
PLACES = (
    "on grass",
    "in a forest",
    "on a road",
    "in the snow",
    "in the water",
    "at the sea",
    "in the sky",
    "on sand",
    "on rocks",
    "in a room",
    "on a table",
    "on a wooden floor",
    "in a street",
    "in a field",
    "among flowers",
    "in front of a wall",
    "in front of a house",
    "in the mountains",
    "on a white background",
    "on a black background",
)


@dataclass(frozen=True)
class WordCaptions:
    """What :func:`caption_by_words` wrote.

    Attributes:
        file: The file.
        images: Images with a caption.
        contexts: Different captions.
        most: The most frequent ones, with their numbers of images.
        bad: Messages of images that cannot be read.
    """

    file: str
    images: int
    contexts: int
    most: dict[str, int]
    bad: tuple[str, ...]


def caption_by_words(
    source: Any,
    out: str | Path,
    *,
    prior: str = "embedded",
    guide: str | None = None,
    limit: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> WordCaptions:
    """Write captions of a dataset's images, by words alone: ``gif-datasets captions`` as a function.

    Each image gets the view of :data:`VIEWS` and the place of :data:`PLACES` that are most more alike to it than to the
    mean of all images, so that a word that a CLIP finds everywhere is not that of all. The class stays ``{}``.

    Args:
        source: A source's text, or a dataset object.
        out: The CSV file to write, which must not be there.
        prior: The prior whose CLIP scores.
        guide: A CLIP that scores instead of it.
        limit: Use this many images, spread evenly.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        progress: Wraps the loops.

    Raises:
        ConfigError: If what is to score reads no text, or the file is there.

    Example:
        >>> import tempfile
        >>> from gif_datasets.captions import read_contexts
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = caption_by_words("demo", f"{folder}/captions.csv", limit=20)
        ...     contexts = read_contexts(found.file)
        >>> found.images, len(contexts) == found.contexts, all("{}" in one for one in contexts)
        (20, True, True)
    """
    path, show, settled = Path(out), progress or no_progress, resolve_device(device)
    if path.exists():
        raise ConfigError(f"{path} is there already; remove it, or choose another --out")
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"captions are written as CSV; --out must end in .csv, got {path.name}")
    scorer = _scorer(prior, guide, torch.device(settled))
    opened = wrap_source(source)
    listed = list_seeds(opened, limit, show)
    rows = SeedEmbeddings(scorer, lambda seed: seed_image(opened, seed), ExpansionConfig().encode_batch)(listed.seeds)
    views, places = (_best(scorer, rows, words) for words in (VIEWS, PLACES))
    captions = {
        seed.origin: f"{VIEWS[view]}, {PLACES[place]}"
        for seed, view, place in zip(listed.seeds, views, places, strict=True)
    }
    atomic.write_bytes(path, as_csv(captions))
    counts = Counter(captions.values())
    return WordCaptions(str(path), len(captions), len(counts), dict(counts.most_common(5)), listed.bad)


def _scorer(prior: str, guide: str | None, device: torch.device) -> Prior | Guide:
    """A CLIP that reads texts."""
    if guide is not None:
        info = find_guide(guide)
        if info.features or info.outputs is not None:
            raise ConfigError(f"guide {guide!r} reads no text; give a CLIP, such as PE-Core-B-16/meta")
        return info.load(device)
    found = find_prior(prior)
    if not found.has_clip:
        raise ConfigError(f"prior {prior!r} has no CLIP, which would read the words; give a guide that is one")
    return own_scorer(found, device)


@torch.no_grad()
def _best(scorer: Prior | Guide, rows: Tensor, words: tuple[str, ...]) -> list[int]:
    """The word of each image, ``(N,)``, that is most more alike to it than to the mean of all."""
    texts = [word.replace(CLASS, "thing") for word in words]
    known = scorer.classifier(texts, ExpansionConfig(templates=("{}",)))
    likeness = torch.nn.functional.normalize(rows.float(), dim=-1) @ known.weights.float().T
    found: list[int] = (likeness - likeness.mean(0)).argmax(1).tolist()
    return found
