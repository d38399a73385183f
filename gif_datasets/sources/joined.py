"""A source followed by its validation source."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from gif_datasets.errors import SourceError
from gif_datasets.sources.base import SeedList, Source, revision_of
from gif_datasets.types import Seed


class JoinedSource:
    """A source followed by its validation source; the latter's classes are found in the former's by name.

    Args:
        source: The one.
        validation: The other.
        role: What to call the other in an error.
    """

    def __init__(self, source: Source, validation: Source, role: str = "validation set") -> None:
        unknown = [name for name in validation.classes if name not in source.classes]
        if unknown:
            raise SourceError(
                f"the {role} {validation.name} has a class {unknown[0]!r} that {source.name} has not;"
                f" its classes: {', '.join(source.classes[:20])}"
            )
        self.name = source.name
        self.revision = revision_of(source)
        self.classes = source.classes
        self.parts = (source, validation)
        self._labels = [source.classes.index(name) for name in validation.classes]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def origin(self, index: int) -> str:
        """What the source that it is from says."""
        part, own = self._place(index)
        return self.parts[part].origin(own)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """One picture as 8-bit RGB, and its class index."""
        part, own = self._place(index)
        image, label = self.parts[part].sample(own)
        return image, self._labels[label] if part else label

    def _place(self, index: int) -> tuple[int, int]:
        """Which source a sample is from, and its index there."""
        first = len(self.parts[0])
        return (0, index) if index < first else (1, index - first)

    def validation_seeds(self, listed: SeedList) -> tuple[Seed, ...]:
        """Seeds of the validation source, as this source counts and labels them."""
        first = len(self.parts[0])
        return tuple(replace(s, index=s.index + first, label=self._labels[s.label]) for s in listed.seeds)


def parts_of(source: Source) -> tuple[Source, ...]:
    """The sources that are joined, or the one that is none of these."""
    return source.parts if isinstance(source, JoinedSource) else (source,)
