"""What the embedded prior's CLIP says of pictures: soft labels, weights, and which of a larger set to pick.

It is the CLIP that guidance asks, by the same classifiers: ``text``, the class texts alone (zero-shot), or ``seeds``,
``both`` and ``linear``, which are fitted to the seeds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from sets import Labelled, Set
from torch import Tensor
from torch.nn import functional as F

from gif_datasets import teacher
from gif_datasets.config import ExpansionConfig
from gif_datasets.networks import Pictures, Taught
from gif_datasets.priors import find_prior


class Teacher:
    """The CLIP of the embedded prior, and the classes and seeds of a set.

    Args:
        task: The set.
        domain: Whose prompts are put around class names.
    """

    def __init__(self, task: Set, domain: str = "natural") -> None:
        self._task, self._config = task, ExpansionConfig.build({"domain": domain})

    @cached_property
    def _known(self) -> teacher.Teacher:
        seeds, teaching = self._task.seeds, teacher.Teaching(find_prior("embedded"), self._config)
        pictures, labels = teacher.as_images(seeds.images), torch.from_numpy(seeds.labels)
        return teacher.load_teacher(teaching, self._task.classes, pictures, labels)

    @cached_property
    def test(self) -> Tensor:
        """Embeddings of the test pictures."""
        return self.embeddings(self._task.test.images)

    def embeddings(self, images: Tensor) -> Tensor:
        """CLIP embeddings of pictures ``(N, 3, H, W)`` uint8."""
        return self._known.embeddings(teacher.as_images(images))

    def probabilities(self, kind: str, embeddings: Tensor, temperature: float = 1.0) -> Tensor:
        """Class probabilities, ``(N, C)``, softened by a temperature."""
        return self._known.probabilities(embeddings, kind, temperature)

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
