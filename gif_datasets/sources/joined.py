"""A source followed by its validation source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from gif_datasets.errors import SourceError
from gif_datasets.io.stores import AnyPath
from gif_datasets.prompts import canonical
from gif_datasets.sources.base import SeedList, Source, file_of, label_at, max_side_of, revision_of
from gif_datasets.sources.folders import FolderSource
from gif_datasets.sources.numbered import NumberedSource
from gif_datasets.sources.reduced import unreduced
from gif_datasets.types import Seed


class JoinedSource:
    """A source followed by its validation source; this's classes are found in the former's by name.

    Args:
        source: The one.
        validation: The other.
        role: What to call the other in an error.
    """

    def __init__(self, source: Source, validation: Source, role: str = "validation set") -> None:
        self.name = source.name
        self.revision = revision_of(source)
        self.max_side = max_side_of(source)
        self.classes = source.classes
        self.parts = (source, validation)
        self._role = role
        places = {canonical(name): label for label, name in enumerate(source.classes)}
        self._labels = [places.get(canonical(name), -1) for name in validation.classes]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def origin(self, index: int) -> str:
        """What the source that it is from says."""
        part, own = self._place(index)
        return self.parts[part].origin(own)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One image as 8-bit RGB, and its class index."""
        part, own = self._place(index)
        image, label = self.parts[part].sample(own)
        return image, self._labels[label] if part else label

    def file(self, index: int) -> bytes | None:
        """The image's file, if the source that it is from has one."""
        part, own = self._place(index)
        return file_of(self.parts[part], own)

    def label_at(self, index: int) -> int:
        """The class index of a sample that has a file."""
        part, own = self._place(index)
        label = label_at(self.parts[part], own)
        return self._labels[label] if part else label

    def _place(self, index: int) -> tuple[int, int]:
        """Which source a sample is from, and its index there."""
        first = len(self.parts[0])
        return (0, index) if index < first else (1, index - first)

    def validation_seeds(self, listed: SeedList) -> tuple[Seed, ...]:
        """Seeds of the validation source, as this source counts and labels them.

        Raises:
            SourceError: If one is of a class that this source has not.
        """
        foreign = next((seed for seed in listed.seeds if self._labels[seed.label] < 0), None)
        if foreign is not None:
            source, other = self.parts
            raise SourceError(
                f"the {self._role} {other.name} has a class {other.classes[foreign.label]!r} that {source.name} has not"
                f" ({foreign.origin}); its classes: {', '.join(source.classes[:20])}; give a {self._role} of these"
                " alone, by these names"
            )
        first = len(self.parts[0])
        return tuple(replace(s, index=s.index + first, label=self._labels[s.label]) for s in listed.seeds)


def refuse_output(source: Source, path: AnyPath, is_image: bool = False) -> None:
    """See :meth:`FolderSource.refuse_output`; of the folders among joined sources."""
    for part in parts_of(source):
        if isinstance(part, FolderSource) and isinstance(path, Path):
            part.refuse_output(path, is_image)


def parts_of(source: Source) -> tuple[Source, ...]:
    """The sources that are joined, or the one that is none of these; whatever their samples' numbers and sizes."""
    source = source.source if isinstance(source, NumberedSource) else source
    return tuple(map(unreduced, source.parts if isinstance(source, JoinedSource) else (source,)))
