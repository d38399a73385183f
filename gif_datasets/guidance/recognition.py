"""Whether the guiding classifier recognises the classes of the seeds, and what to do if it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gif_datasets.config import ExpansionConfig
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import AnyPath
from gif_datasets.methods import METHODS
from gif_datasets.types import OWN_CLASS_FILE

KINDS = ("text", "both", "linear")
LEAST = 1 / 3  # of the way from chance to perfect; below, what the classifier says of a class is mostly wrong
BETTER = 0.1  # of accuracy, by which another classifier must lead to be worth naming
MOST_NAMED = 3


@dataclass(frozen=True)
class Recognition:
    """How many seeds of each class a classifier names right that was not fitted to them.

    Attributes:
        classifier: Which: the option's value.
        right: Seeds named right, by class name.
        seeds: Seeds looked at, by class name.
        others: Accuracy of other classifiers on the same seeds, where this one's is too low.
    """

    classifier: str
    right: Mapping[str, int]
    seeds: Mapping[str, int]
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of the seeds named right."""
        return sum(self.right.values()) / sum(self.seeds.values())

    @property
    def weak(self) -> bool:
        """Whether it recognises too few seeds to guide."""
        return self.accuracy < _least(len(self.seeds))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types, with the accuracies."""
        classes = {
            name: {"seeds": count, "right": self.right[name], "accuracy": _share(self.right[name], count)}
            for name, count in self.seeds.items()
        }
        total = {"accuracy": round(self.accuracy, 4), "weak": self.weak, "seeds": sum(self.seeds.values())}
        return {"classifier": self.classifier, **total, "classes": classes, "others": dict(self.others)}

    @classmethod
    def from_json(cls, content: bytes) -> Recognition:
        """Rebuild from the bytes of a file; raises ValueError, KeyError or TypeError where it is none."""
        value = read_json(content)
        counts = {kind: {name: int(one[kind]) for name, one in value["classes"].items()} for kind in ("right", "seeds")}
        return cls(value["classifier"], counts["right"], counts["seeds"], value["others"])

    def warning(self, config: ExpansionConfig, families: Sequence[str]) -> str:
        """A warning, or an empty string if the classes are recognised.

        Args:
            config: The options of the expansion.
            families: Families of decoders that its prior has.
        """
        if not self.weak:
            return ""
        shares = {name: self.right[name] / count for name, count in self.seeds.items() if count}
        worst = sorted(shares, key=lambda name: (shares[name], name))[:MOST_NAMED]
        named = ", ".join(f"{name} {shares[name]:.0%}" for name in worst)
        total, chance = sum(self.seeds.values()), 1 / len(self.seeds)
        return (
            f"the classifier ({self.classifier}) names the class of only {self.accuracy:.0%} of {total} seeds that it"
            f" was not fitted to (chance {chance:.0%}; worst: {named}), so guidance by it means little;"
            f" {'; '.join(_advice(self, config, families))}"
        )


def read_own_class(folder: AnyPath) -> OwnClass | None:
    """What an expanded folder says of its finished copies; None if it says nothing, or if that cannot be read."""
    try:
        return OwnClass.from_json(read_json((folder / OWN_CLASS_FILE).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class OwnClass:
    """How many finished copies look like their class to the classifier, and how many real images do.

    Each is scored by a classifier that does not know its seed (:func:`gif_datasets.guidance.fitted_heads.named_right`).
    It is no person's opinion, but it is of the finished image, not of a latent.

    Attributes:
        copies: Copies, and how many of them do, by class name.
        real: The same for real images.
    """

    copies: Mapping[str, tuple[int, int]]
    real: Mapping[str, tuple[int, int]]

    @property
    def looked_at(self) -> int:
        """Number of copies."""
        return sum(count for count, _ in self.copies.values())

    @property
    def share(self) -> float:
        """Share of the copies that look like their class; 0 without copies."""
        return _total_share(self.copies)

    @property
    def real_share(self) -> float:
        """Share of the real images that do; 0 without any."""
        return _total_share(self.real)

    @property
    def tells_apart(self) -> bool:
        """Whether the classifier recognises the real images well enough to say anything about copies."""
        return self.real_share >= _least(len(self.real))

    @property
    def kept(self) -> float:
        """Share of the copies relative to that of real images; 1 where no real image is recognised."""
        return self.share / self.real_share if self.real_share else 1.0

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types, with the shares."""
        names = [*dict.fromkeys([*self.copies, *self.real])]
        classes = {name: [*self.copies.get(name, (0, 0)), *self.real.get(name, (0, 0))] for name in names}
        total = {"copies": round(self.share, 4), "real": round(self.real_share, 4)}
        return {**total, "looked_at": self.looked_at, "classes": classes}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OwnClass:
        """Rebuild from JSON; raises KeyError, TypeError or ValueError if it is damaged."""
        rows = {str(name): tuple(map(int, row)) for name, row in value["classes"].items()}
        parts: list[dict[str, tuple[int, int]]] = [{}, {}]
        for name, (copies, right, real, real_right) in rows.items():
            for part, count, hits in ((parts[0], copies, right), (parts[1], real, real_right)):
                if not 0 <= hits <= count:
                    raise ValueError(f"{hits} of {count} images of class {name!r}")
                part.update({name: (count, hits)} if count else {})
        return cls(*parts)

    def text(self) -> str:
        """One sentence.

        Example:
            >>> OwnClass({"ant": (20, 18)}, {"ant": (10, 10)}).text()
            '90% of the copies look like their class to the classifier, 100% of the real images do'
        """
        real = f", {self.real_share:.0%} of the real images do" if self.real else ""
        return f"{self.share:.0%} of the copies look like their class to the classifier{real}"

    def verdict(self) -> str:
        """What pages and cards begin with: the sentence, of how many, and the worst classes."""
        return f"{self.text()} (of {self.looked_at} copies; fewest: {self.worst()})."

    def worst(self) -> str:
        """The classes that fewest copies look like, in words."""
        shares = {name: right / count for name, (count, right) in self.copies.items()}
        named = sorted(shares, key=lambda name: (shares[name], name))[:MOST_NAMED]
        return ", ".join(f"{name} {shares[name]:.0%}" for name in named)


def _least(classes: int) -> float:
    """The accuracy below which a classifier of so many classes is mostly wrong; 0 without classes."""
    return 1 / classes + LEAST * (1 - 1 / classes) if classes else 0.0


def _total_share(classes: Mapping[str, tuple[int, int]]) -> float:
    count = sum(count for count, _ in classes.values())
    return sum(right for _, right in classes.values()) / count if count else 0.0


def by_class(classes: Sequence[str], labels: Sequence[int], right: Sequence[bool]) -> dict[str, tuple[int, int]]:
    """Images and those that are right, by the name of their class.

    Example:
        >>> by_class(("ant", "bee"), [1, 1], [True, False])
        {'bee': (2, 1)}
    """
    counts: dict[int, tuple[int, int]] = {}
    for label, hit in zip(labels, right, strict=True):
        count, hits = counts.get(label, (0, 0))
        counts[label] = (count + 1, hits + hit)
    return {classes[label]: counts[label] for label in sorted(counts)}


def read(content: bytes | None) -> Recognition | None:
    """What a file contains; None if there is none, or if it cannot be read."""
    try:
        return None if content is None else Recognition.from_json(content)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _advice(found: Recognition, config: ExpansionConfig, families: Sequence[str]) -> list[str]:
    """What applies, most direct first."""
    advice = []
    best = max(found.others, key=lambda name: found.others[name], default="")
    if best and found.others[best] >= found.accuracy + BETTER:
        advice.append(f"--set classifier={best} names {found.others[best]:.0%}")
    reads_names = METHODS[config.method].family != "rae" or config.guide is not None
    if reads_names and not config.synonyms:
        advice.append("name classes better (--set synonyms=FILE.toml, --set domain=NAME)")
    if config.held_class != "label":
        advice.append("hold each seed's label (--set held_class=label)")
    if not config.method.endswith("mae") and "mae" in families:
        advice.append("take a method that leans less on it (--method gif-mae)")
    return advice or ["tune the prior, and check what is made (gif-datasets tune, --set check=label)"]


def _share(right: int, count: int) -> float:
    return round(right / count, 4) if count else 0.0


def count(classifier: str, classes: Sequence[str], labels: Sequence[int], right: Sequence[bool]) -> Recognition:
    """Count by class.

    Example:
        >>> count("text", ("ant", "bee"), [0, 0, 1], [True, False, True]).to_json()["classes"]["ant"]
        {'seeds': 2, 'right': 1, 'accuracy': 0.5}
    """
    pairs = list(zip(labels, right, strict=True))
    hits = {name: sum(ok for label, ok in pairs if label == number) for number, name in enumerate(classes)}
    return Recognition(classifier, hits, {name: list(labels).count(number) for number, name in enumerate(classes)})
