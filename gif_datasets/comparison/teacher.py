"""A teacher: the CLIP of a prior, which says of images what class they show; targets to distil a network from.

What a CLIP knows of the classes reaches the images that it guides, and, as probabilities beside the labels, the
network that is trained on them. The two add up (``recipes/paper/combined.md``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gif_datasets.chunks import padded
from gif_datasets.config import CLASSIFIERS, ExpansionConfig
from gif_datasets.data.map_style import load_expanded
from gif_datasets.errors import ConfigError
from gif_datasets.expansion.imagination.scoring import keep_last
from gif_datasets.guidance import fitted_heads
from gif_datasets.io.devices import resolve_device
from gif_datasets.io.digests import digest_pixels
from gif_datasets.options import closest
from gif_datasets.priors import PriorInfo, find_prior, load_prior
from gif_datasets.types import Progress, no_progress

if TYPE_CHECKING:
    from gif_datasets.guidance.zeroshot import ZeroShotClassifier
    from gif_datasets.priors.base import Prior

TEMPERATURE = 4.0
BLOCK = 20
MOST_KNOWN = 20_000  # images whose embeddings stay in memory: 100 MB at a width of 1,280
_WORDS = ("templates", "synonyms", "logit_scale")  # options that the class texts follow from


@dataclass(frozen=True)
class Teaching:
    """The choice of a teacher and its temperature.

    Attributes:
        prior: The prior whose CLIP it is, found but not loaded.
        config: Options that say how classes are worded.
        classifier: ``"text"``: the class texts alone (zero-shot); ``"seeds"``: the seeds' class means; ``"both"``; or
            ``"linear"``: a head fitted to the seeds.
        temperature: Divides the logits of teacher and student.
    """

    prior: PriorInfo
    config: ExpansionConfig
    classifier: str = "both"
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        if self.classifier not in CLASSIFIERS:
            raise ConfigError(f"unknown teacher {self.classifier!r}{closest(self.classifier, CLASSIFIERS)}")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        if not self.prior.has_clip:
            raise ConfigError(f"prior {self.prior.name!r} has no CLIP, so it cannot be the teacher; take another")

    def to_json(self) -> dict[str, Any]:
        """All that its probabilities follow from, beside the seeds."""
        words = self.config.to_json()
        return {
            "prior": {"name": self.prior.name, "digest": self.prior.digest},
            "classifier": self.classifier,
            "temperature": self.temperature,
            **{name: words[name] for name in _WORDS if name in words},
        }

    def __str__(self) -> str:
        return f"{self.prior.name}'s CLIP (classifier {self.classifier}, temperature {self.temperature:g})"


@dataclass(frozen=True)
class Teacher:
    """A CLIP, the texts of the classes, and the embedded seeds.

    Attributes:
        prior: Embeds images.
        text: The zero-shot classifier.
        seeds: Embeddings of the seeds, ``(N, D)``.
        labels: Their labels, ``(N,)``.
    """

    prior: Prior
    text: ZeroShotClassifier
    seeds: Tensor
    labels: Tensor
    _known: OrderedDict[str, Tensor] = field(default_factory=OrderedDict, repr=False)

    def embeddings(
        self, pictures: Iterable[Image.Image], show: Progress = no_progress, total: int | None = None
    ) -> Tensor:
        """CLIP embeddings of RGB images, ``(N, D)``; an image that was seen before is not embedded again.

        Five copies of a seed are the first five of twenty, so arms of several ratios show the same images.
        """
        keys, new = list[str](), dict[str, None]()

        def unknown() -> Iterator[Image.Image]:
            for picture in show(pictures, "asking the teacher", total):
                keys.append(key := digest_pixels(np.asarray(picture)))
                if key not in self._known and key not in new:
                    new[key] = None
                    yield picture

        rows = _embeddings(self.prior, unknown())
        if not keys:
            return rows
        found = {**self._known, **dict(zip(new, rows, strict=True))}
        every = torch.stack([found[key] for key in keys])
        keep_last(self._known, {key: found[key] for key in keys}, MOST_KNOWN)
        return every

    def probabilities(self, embeddings: Tensor, classifier: str, temperature: float = 1.0) -> Tensor:
        """Class probabilities ``(N, C)`` of embeddings ``(N, D)``, softened by a temperature."""
        fitted = fitted_heads.fit(classifier, self.text, self.seeds, self.labels)
        return (fitted.logits(embeddings) / temperature).softmax(-1)


def load_teacher(
    teaching: Teaching, classes: Sequence[str], pictures: Iterable[Image.Image], labels: Tensor, device: str = "cpu"
) -> Teacher:
    """Load the CLIP and embed the seeds.

    Args:
        teaching: The choice of the teacher.
        classes: Class names, in label order.
        pictures: The seeds' images.
        labels: Their labels, ``(N,)``.
        device: Where the CLIP runs.
    """
    prior = load_prior(teaching.prior, None, torch.device(device))
    seeds = _embeddings(prior, pictures)
    return Teacher(prior, prior.classifier(classes, teaching.config), seeds, labels.to(seeds.device))


def soft_labels(
    folder: str | Path,
    prior: str | None = None,
    classifier: str = "both",
    temperature: float = 1.0,
    device: str = "auto",
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """What the CLIP of a prior says of the images of an expanded folder: targets to distil a network from.

    Half of the loss against these at a temperature of 4, half against the labels, is what helped most here
    (``recipes/paper/combined.md``): ``F.cross_entropy(logits / 4, soft) * 4**2``.

    Args:
        folder: As of :func:`gif_datasets.load_expanded`.
        prior: Name or folder of a prior; by default the one that the folder was expanded by.
        classifier: ``"text"``: the class texts alone, in the words that the folder was expanded by (zero-shot);
            ``"seeds"``: the means of each class's real images; ``"both"``; or ``"linear"``: a head fitted to those.
        temperature: Divides the logits.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        progress: Wraps the loop over images.

    Returns:
        Class probabilities, ``(N, C)``, in the order of ``load_expanded(folder)``.

    Raises:
        ConfigError: If the prior is unknown or has no CLIP, or if another option is not one.
        UsageError: If the folder is not a finished expansion, or has no real image.

    Example:
        >>> import tempfile
        >>> from gif_datasets import expand, soft_labels
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = expand("demo", folder, ratio=1, method="cutout", limit=20)
        ...     soft = soft_labels(folder, temperature=4)
        >>> soft.shape, bool(abs(soft.sum(1) - 1).max() < 1e-5)
        ((40, 10), True)
    """
    loaded = load_expanded(folder)
    named, worded = prior or loaded.recipe["prior"]["name"], _worded(loaded.recipe["options"])
    teaching = Teaching(find_prior(named), worded, classifier, temperature)
    real = np.flatnonzero(~loaded.facts.synthetic)
    labels = torch.from_numpy(loaded.targets[real].astype(np.int64))
    if classifier != "text" and not len(real):
        raise ConfigError(f"{folder} has no real image to fit {classifier!r} to; take classifier='text'")
    clip = load_prior(teaching.prior, None, torch.device(resolve_device(device)))
    pictures = (progress or no_progress)(loaded, "asking the teacher", len(loaded))
    every = _embeddings(clip, (image for image, _ in pictures))
    text, seeds = clip.classifier(loaded.classes, worded), every[torch.from_numpy(real)]
    teacher = Teacher(clip, text, seeds, labels.to(seeds.device))
    return teacher.probabilities(every, classifier, temperature).cpu().numpy()


def as_images(pixels: Tensor) -> Iterator[Image.Image]:
    """Images ``(N, 3, H, W)`` uint8 one by one, as a CLIP takes them."""
    return (Image.fromarray(row.permute(1, 2, 0).numpy()) for row in pixels)


def _worded(options: Mapping[str, Any]) -> ExpansionConfig:
    """Options that say how classes are worded, as a plan has them: a text would be a file's name, and is none there."""
    return ExpansionConfig.build(
        {name: options[name] for name in _WORDS if isinstance(options.get(name), list | float)}
    )


@torch.no_grad()
def _embeddings(prior: Prior, pictures: Iterable[Image.Image]) -> Tensor:
    """CLIP embeddings, in padded blocks, so that one does not depend on the others; ``(0, 1)`` of none."""
    waiting, rows = iter(pictures), []
    while block := list(islice(waiting, BLOCK)):
        rows.append(prior.embed_images(padded(block, BLOCK))[: len(block)])
    return torch.cat(rows) if rows else torch.empty(0, 1)
