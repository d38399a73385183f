"""Priors by name or folder.

A prior folder holds ``prior.json`` and what it names::

    {"format": 2, "name": "embedded", "clip": "clip", "decoders": {"unclip": "unclip", "mae": "mae"}, "image_size": 32}

``decoders`` has one sub-folder a family of methods; all of them are scored by the one CLIP.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gif_datasets.config import closest
from gif_datasets.errors import ConfigError, PriorError
from gif_datasets.fingerprint import digest, digest_folder
from gif_datasets.methods import AUGMENT, METHODS

if TYPE_CHECKING:
    import torch

    from gif_datasets.priors.base import Prior

PRIOR_FORMAT = 2


@dataclass(frozen=True)
class PriorInfo:
    """What is known of a prior before it is loaded.

    Attributes:
        name: Its name.
        families: Families of decoders it has; they say which methods fit.
        folder: Where its weights are; None for a prior without weights.
        digest: Content digest of the folder (or of the code's version, without weights).
        card: The rest of ``prior.json``: licence, data, measures.
    """

    name: str
    families: tuple[str, ...]
    folder: Path | None
    digest: str
    card: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def training_sources(self) -> tuple[str, ...]:
        """Sources that it was trained on, as its ``README.md`` lists them under ``training_sources`` in its head.

        They are there, as on a model's card on the Hub, because what a card says changes no digest.
        """
        if self.folder is None:
            return ()
        try:
            head = (self.folder / "README.md").read_text(encoding="utf-8").split("---\n")[1]
            listed = yaml.safe_load(head)["training_sources"]
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):  # a card without such a head
            return ()
        return tuple(map(str, listed)) if isinstance(listed, list) else ()


def embedded_folder() -> Path:
    """The folder of the prior that ships in the package."""
    return Path(str(files("gif_datasets"))) / "assets" / "priors" / "embedded"


def names() -> tuple[str, ...]:
    """Names of the priors that ship in the package."""
    return ("embedded", "linear")


def find_prior(name_or_path: str) -> PriorInfo:
    """Find a prior by name, or by the path of its folder.

    Raises:
        ConfigError: If there is neither.
        PriorError: If the folder is not a prior's.
    """
    if name_or_path == "linear":
        return PriorInfo(
            "linear", ("unclip",), None, digest(["linear", 1]), {"summary": _LINEAR, "license": "Apache-2.0"}
        )
    folder = embedded_folder() if name_or_path == "embedded" else Path(name_or_path)
    if name_or_path not in names() and not folder.is_dir():
        raise ConfigError(f"unknown prior {name_or_path!r}, and no such folder{closest(name_or_path, names())}")
    card = _read_card(folder)
    return PriorInfo(card["name"], tuple(card["decoders"]), folder, digest_folder(folder), card)


def check_fit(info: PriorInfo, method: str) -> None:
    """Raise ConfigError unless ``method`` works on the prior."""
    family = METHODS[method].family
    if family != AUGMENT and family not in info.families:
        fitting = [name for name, entry in METHODS.items() if entry.family in info.families]
        raise ConfigError(
            f"method {method!r} needs a prior of family {family!r}, but {info.name!r} is of {', '.join(info.families)};"
            f" methods that fit: {', '.join(fitting) or 'none'}"
        )


def load_prior(info: PriorInfo, family: str | None, device: torch.device, dtype: str = "float32") -> Prior:
    """Load a prior's weights.

    Args:
        info: What :func:`find_prior` found.
        family: Which of its decoders; None for any, when only its CLIP is wanted.
        device: Where it runs.
        dtype: Name of the precision that a diffusion pipeline runs in; the CLIP scores in single precision.
    """
    if info.folder is None:
        from gif_datasets.priors.linear import LinearPrior

        return LinearPrior()
    family = family or info.families[0]
    decoder = info.folder / info.card["decoders"][family]
    return _LOADERS[family](info.folder / info.card["clip"], decoder, info.card, device, dtype)


def _load_unclip(clip: Path, decoder: Path, card: dict[str, Any], device: torch.device, dtype: str) -> Prior:
    from gif_datasets.priors.unclip import UnclipPrior

    return UnclipPrior(clip, decoder, card["image_size"], device, dtype)


def _load_mae(clip: Path, decoder: Path, card: dict[str, Any], device: torch.device, dtype: str) -> Prior:
    from gif_datasets.priors.mae import MaePrior

    return MaePrior(clip, decoder, device)


def _load_sd(clip: Path, decoder: Path, card: dict[str, Any], device: torch.device, dtype: str) -> Prior:
    from gif_datasets.priors.sd import SdPrior

    return SdPrior(clip, decoder, card["image_size"], device, dtype)


_LOADERS: dict[str, Callable[[Path, Path, dict[str, Any], torch.device, str], Prior]] = {
    "unclip": _load_unclip,
    "mae": _load_mae,
    "sd": _load_sd,
}
FAMILIES = tuple(_LOADERS)
"""Families of decoders; a prior of the user's own takes the methods of all."""
_LINEAR = "no weights: an 8 x 8 thumbnail as latent; for trying things out and for tests"
_FIELDS = {"name": str, "clip": str, "decoders": dict, "image_size": int}


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / "prior.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is not a prior's folder: it holds no prior.json") from error
    except (OSError, ValueError) as error:
        raise PriorError(f"cannot read {path}: {error}") from error
    if not isinstance(card, dict) or card.get("format") != PRIOR_FORMAT:
        raise PriorError(f"{path} is not of format {PRIOR_FORMAT}; this version cannot read it")
    for name, kind in _FIELDS.items():
        if not isinstance(card.get(name), kind):
            raise PriorError(f"{path}: {name!r} must be {kind.__name__}, got {card.get(name)!r}")
    for family in card["decoders"]:
        if family not in _LOADERS:
            raise PriorError(f"{path}: unknown family {family!r}; known: {', '.join(_LOADERS)}")
    for part in (card["clip"], *card["decoders"].values()):
        if not isinstance(part, str) or not (folder / part).resolve().is_relative_to(folder.resolve()):
            raise PriorError(f"{path}: {part!r} leaves the folder")
    return card
