"""Whether the guiding classifier recognises the classes of the seeds, and what to do if it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gif_datasets.config import ExpansionConfig
from gif_datasets.io.parsing import read_json

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
        chance = 1 / len(self.seeds)
        return self.accuracy < chance + LEAST * (1 - chance)

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
    if not config.synonyms:
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
