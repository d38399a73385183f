"""What the embedded prior's CLIP says of images: soft labels, weights, and which of a larger set to pick.

It is the CLIP that guidance asks, by the same classifiers: ``text``, the class texts alone (zero-shot), or ``seeds``,
``both`` and ``linear``, which are fitted to the seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice

import numpy as np
import timm
import torch
from PIL.Image import Image
from safetensors.torch import load_file
from sets import Labelled, Set
from torch import Tensor, nn
from torch.nn import functional as F

from gif_datasets.comparison import teacher
from gif_datasets.comparison.teacher import as_images
from gif_datasets.comparison.train import Pictures, Taught
from gif_datasets.config import ExpansionConfig
from gif_datasets.io.parsing import read_json
from gif_datasets.priors import embedded_folder, find_prior


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
        pictures, labels = as_images(seeds.images), torch.from_numpy(seeds.labels)
        return teacher.load_teacher(teaching, self._task.classes, pictures, labels)

    @cached_property
    def test(self) -> Tensor:
        """Embeddings of the test images."""
        return self.embeddings(self._task.test.images)

    def embeddings(self, images: Tensor) -> Tensor:
        """CLIP embeddings of images ``(N, 3, H, W)`` uint8."""
        return self._known.embeddings(as_images(images))

    def probabilities(self, kind: str, embeddings: Tensor, temperature: float = 1.0) -> Tensor:
        """Class probabilities, ``(N, C)``, softened by a temperature."""
        return self._known.probabilities(embeddings, kind, temperature)

    def accuracy(self, kind: str) -> float:
        """Percent of the test images that it names right itself."""
        named = self.probabilities(kind, self.test).argmax(1)
        return 100 * float((named == torch.from_numpy(self._task.test.labels)).float().mean())


def tower(classes: int, side: int) -> nn.Module:
    """The embedded CLIP's image tower, an ImageNet network, with a new last layer; sees images at ``side`` pixels."""
    folder = embedded_folder() / "clip"
    name = read_json((folder / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]["timm_model_name"]
    kept, prefix = load_file(folder / "open_clip_model.safetensors"), "visual.trunk."
    trunk = {key.removeprefix(prefix): value for key, value in kept.items() if key.startswith(prefix)}
    model = timm.create_model(name, num_classes=classes)
    missing, unknown = model.load_state_dict(trunk, strict=False)
    assert not unknown
    assert {key.partition(".")[0] for key in missing} == {"classifier"}
    grown = nn.Sequential(nn.Upsample(size=(side, side), mode="bicubic"), model)
    return grown.to(memory_format=torch.channels_last)


def teach(
    data: Pictures, teacher: Teacher, kind: str, weight: float, temperature: float, all_pictures: bool
) -> Pictures:
    """Images with a teacher's probabilities: of all (distillation), or of the imagined ones alone (soft labels)."""
    given = teacher.probabilities(kind, teacher.embeddings(data.images), temperature)
    own = F.one_hot(data.labels, given.shape[1]).to(given)
    wanted = given if all_pictures else torch.where(data.synthetic[:, None], given, own)
    return replace(data, taught=Taught(wanted, weight, temperature))


def weigh(data: Pictures, teacher: Teacher, kind: str) -> Pictures:
    """Imagined images count by their consistency, the probability of their label; real ones count one."""
    given = teacher.probabilities(kind, teacher.embeddings(data.images)).gather(1, data.labels[:, None])[:, 0]
    return replace(data, weights=torch.where(data.synthetic, given, torch.ones_like(given)))


def pick(pool: Labelled, teacher: Teacher, kind: str, threshold: float, per_class: int) -> tuple[Tensor, Tensor]:
    """Of each predicted class the first images of higher probability than the threshold: images and labels."""

    def ask(pictures: Sequence[Image]) -> Tensor:
        pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in pictures])
        return teacher.probabilities(kind, teacher.embeddings(pixels))

    found = sorted(picks(as_images(pool.images), ask, threshold, per_class), key=lambda one: one[1])
    places, labels = (torch.tensor(column, dtype=torch.int64) for column in zip(*found, strict=True))
    return pool.images[places], labels


def picks(
    pictures: Iterable[Image], ask: Callable[[Sequence[Image]], Tensor], threshold: float, per_class: int
) -> Iterator[tuple[int, int]]:
    """Which of a larger set's images to take, and the class that a CLIP gives them; stops when all classes are full.

    Args:
        pictures: The larger set.
        ask: Class probabilities ``(N, C)`` of images.
        threshold: Probability that the predicted class must exceed.
        per_class: Most images of a class.

    Source:
        Appendix E.9: images of a larger set whose top prediction has a probability above 0.1, as many a class as the
        expansion has.
    """
    waiting, taken = enumerate(pictures), Counter[int]()
    while block := list(islice(waiting, teacher.BLOCK)):
        probabilities = ask([picture for _, picture in block])
        for (place, _), sure, label in zip(block, *(column.tolist() for column in probabilities.max(1)), strict=True):
            if sure > threshold and taken[label] < per_class:
                taken[label] += 1
                yield place, label
        if sum(taken.values()) == per_class * probabilities.shape[1]:
            return
