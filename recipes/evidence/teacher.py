"""What the embedded prior's CLIP says of pictures: soft labels, weights, and which of a larger set to pick.

It is the CLIP that guidance asks, by the same classifiers: ``text``, the class texts alone (zero-shot), or ``seeds``,
``both`` and ``linear``, which are fitted to the seeds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from PIL import Image
from sets import Labelled, Set
from torch import Tensor
from torch.nn import functional as F

from gif_datasets import heads
from gif_datasets.networks import Pictures, Taught
from gif_datasets.priors import embedded_folder
from gif_datasets.wording import DOMAINS
from gif_datasets.zeroshot import Clip

BLOCK = 20


class Teacher:
    """The CLIP of the embedded prior, and the classes and seeds of a set.

    Args:
        task: The set.
        domain: Whose prompts are put around class names.
    """

    def __init__(self, task: Set, domain: str = "natural") -> None:
        self._task, self._templates = task, DOMAINS[domain].templates

    @cached_property
    def _clip(self) -> Clip:
        return Clip(embedded_folder() / "clip", torch.device("cpu"))

    @cached_property
    def _seeds(self) -> Tensor:
        return self.embeddings(self._task.seeds.images)

    @cached_property
    def test(self) -> Tensor:
        """Embeddings of the test pictures."""
        return self.embeddings(self._task.test.images)

    def embeddings(self, images: Tensor) -> Tensor:
        """CLIP embeddings of pictures ``(N, 3, H, W)`` uint8."""
        pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        blocks = [self._clip.encode_images(pictures[i : i + BLOCK]) for i in range(0, len(pictures), BLOCK)]
        return torch.cat(blocks)

    def probabilities(self, kind: str, embeddings: Tensor, temperature: float = 1.0) -> Tensor:
        """Class probabilities, ``(N, C)``, softened by a temperature."""
        text = self._clip.classifier(self._task.classes, self._templates)
        classifier = heads.fit(kind, text, self._seeds, torch.from_numpy(self._task.seeds.labels))
        return (classifier.logits(embeddings) / temperature).softmax(-1)

    def accuracy(self, kind: str) -> float:
        """Percent of the test pictures that it names right itself."""
        named = self.probabilities(kind, self.test).argmax(1)
        return 100 * float((named == torch.from_numpy(self._task.test.labels)).float().mean())


def teach(
    data: Pictures, teacher: Teacher, kind: str, weight: float, temperature: float, all_pictures: bool
) -> Pictures:
    """Pictures with a teacher's probabilities: of all (distillation), or of the imagined ones alone (soft labels)."""
    given = teacher.probabilities(kind, teacher.embeddings(data.images), temperature)
    own = F.one_hot(data.labels, given.shape[1]).to(given)
    wanted = given if all_pictures else torch.where(data.made[:, None], given, own)
    return replace(data, taught=Taught(wanted, weight, temperature))


def weigh(data: Pictures, teacher: Teacher, kind: str) -> Pictures:
    """Imagined pictures count by their consistency, the probability of their label; real ones count one."""
    given = teacher.probabilities(kind, teacher.embeddings(data.images)).gather(1, data.labels[:, None])[:, 0]
    return replace(data, weights=torch.where(data.made, given, torch.ones_like(given)))


def pick(pool: Labelled, teacher: Teacher, kind: str, threshold: float, per_class: int) -> tuple[Tensor, Tensor]:
    """Of each predicted class the first pictures of higher probability than the threshold: images and labels.

    Source:
        Appendix E.9: pictures of a larger set whose top prediction has a probability above 0.1, as many a class as the
        expansion has.
    """
    sure, named = teacher.probabilities(kind, teacher.embeddings(pool.images)).max(1)
    places = [
        torch.nonzero((named == label) & (sure > threshold)).flatten()[:per_class]
        for label in range(int(named.max()) + 1)
    ]
    chosen = torch.cat(places)
    return pool.images[chosen], named[chosen]
