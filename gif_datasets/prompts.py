"""Names of classes and prompts around them: prompts by domain, and files of synonyms."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gif_datasets.errors import ConfigError, did_you_mean
from gif_datasets.io.parsing import read_json, read_toml

IS = " = "
"""Between a class and one of its names, in an entry of the option ``synonyms``."""


@dataclass(frozen=True)
class Domain:
    """Prompts for images of one kind, and how far img2img moves them.

    Attributes:
        templates: The classifier's prompts around a class name; their embeddings are averaged.
        prompts: Captions of img2img around a class name; one is drawn for each copy.
        strength: That of img2img; None: the method's default.
    """

    templates: tuple[str, ...]
    prompts: tuple[str, ...]
    strength: float | None = None


def _shown(*captions: str, strength: float | None = None) -> Domain:
    return Domain(("{}", *captions), captions, strength)


_FAR, _LITTLE, _BARELY = 0.9, 0.3, 0.1
"""Strengths in the configurations of an independent benchmark of such methods, DiffDA-Eval (arXiv 2603.08364): natural
images; blood cells and skin; birds and aircraft by a prior that was not tuned."""
DOMAINS: Mapping[str, Domain] = {
    "natural": Domain(("{}", "a {}", "a photo of a {}", "a small {}"), ("a photo of a {}",), _FAR),
    "fine-grained": _shown("a photo of a {}", "a photo of the {}", "a close-up photo of a {}", strength=_BARELY),
    "species": _shown(
        "a photo of a {}, a species",
        "a close-up photo of a {} in the wild",
        "a photo of the {}",
        strength=_BARELY,
    ),
    "texture": _shown("a photo of a {} texture", "a photo of a {} pattern", "a photo of a {} surface"),
    "medical": _shown(
        "a medical image of {}", "a medical scan showing {}", "a radiology image of {}", strength=_LITTLE
    ),
    "microscopy": _shown(
        "a microscopy image of {}", "a histology slide of {}", "stained tissue showing {}", strength=_LITTLE
    ),
    "industrial": _shown(
        "a grayscale inspection photo of {}",
        "an inspection image of a part: {}",
        "a close-up of {} on a product",
        strength=_LITTLE,
    ),
    "satellite": _shown("a satellite photo of {}", "an aerial view of {}", "a centered satellite photo of {}"),
    "sketch": _shown("a sketch of a {}", "a line drawing of a {}", "a black and white drawing of a {}"),
}
"""By name. The default is natural; texture and satellite follow CLIP's released prompts."""


def templates_of(domain: str) -> tuple[str, ...]:
    """The classifier's prompts of a domain."""
    return _domain("templates", domain).templates


def prompts_of(domain: str) -> tuple[str, ...]:
    """The captions of a domain."""
    return _domain("prompts", domain).prompts


def strength_of(domain: str) -> float | None:
    """The strength of img2img in a domain; None: the method's default."""
    return _domain("domain", domain).strength


def _domain(option: str, name: str) -> Domain:
    if name not in DOMAINS:
        hint = did_you_mean(name, DOMAINS) or f"; known: {', '.join(DOMAINS)}"
        raise ConfigError(f"{option} must be a list of texts, or the name of a domain, got {name!r}{hint}")
    return DOMAINS[name]


def canonical(name: str) -> str:
    """A class name for comparing: accents composed (Unicode's NFC), which file systems of Macs decompose."""
    return unicodedata.normalize("NFC", name)


def read_synonyms(path: str) -> tuple[str, ...]:
    """Read a file of class names: TOML, or JSON by its suffix; ``class = ["name", ...]``.

    Returns:
        One ``class = name`` per entry, sorted by class, so that the file's path and order do not matter.

    Raises:
        ConfigError: If the file cannot be read, or does not have that form.
    """
    try:
        content = Path(path).read_bytes()
        value: Any = read_json(content) if path.lower().endswith(".json") else read_toml(content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read the synonyms {path}: {reason}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"the synonyms {path} must map class names to lists of names, got {type(value).__name__}")
    for known, names in value.items():
        whole = isinstance(names, list) and names and all(isinstance(name, str) and name.strip() for name in names)
        if not whole or IS in known:
            raise ConfigError(
                f'the synonyms {path} must have lines like class = ["name", ...], got {known} = {names!r}'
            )
    return tuple(f"{known}{IS}{name}" for known in sorted(value) for name in dict.fromkeys(value[known]))


def check_synonyms(entries: Sequence[str]) -> None:
    """Raise ConfigError unless each entry is ``class = name``."""
    for entry in entries:
        known, _, name = entry.partition(IS)
        if not known.strip() or not name.strip():
            raise ConfigError(f"synonyms must each be 'class{IS}name', or the path of a file, got {entry!r}")


def names_of(class_name: str, synonyms: Sequence[str]) -> tuple[str, ...]:
    """Names of a class: its synonyms, or its own name if it has none.

    Example:
        >>> names_of("n01440764", ["n01440764 = tench", "n01440764 = Tinca tinca"]), names_of("cat", [])
        (('tench', 'Tinca tinca'), ('cat',))
    """
    pairs, asked = [entry.partition(IS) for entry in synonyms], canonical(class_name)
    return tuple(name for known, _, name in pairs if canonical(known) == asked) or (class_name,)


def check_prompts(name: str, prompts: Sequence[str]) -> None:
    """Raise ConfigError unless there are prompts and each has exactly one ``{}`` for the class name."""
    bad = [prompt for prompt in prompts if prompt.count("{}") != 1]
    if bad or not prompts:
        raise ConfigError(f"{name} must each have exactly one {{}}, got {bad[:1] or 'none'}")
