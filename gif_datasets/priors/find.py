"""Find priors by name or folder: shipped, published by others, in a folder, or classes of the user.

A prior folder contains ``prior.json`` and the sub-folders that it names::

    {"format": 2, "name": "embedded", "clip": "clip", "decoders": {"unclip": "unclip", "mae": "mae"}, "image_size": 32}

``decoders`` has one sub-folder per family of methods. One CLIP scores all of them but ``rae``, which needs none;
``clip`` is a sub-folder or the name of a published CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gif_datasets.config import BETWEEN, ExpansionConfig
from gif_datasets.errors import ConfigError, PriorError
from gif_datasets.io.digests import digest, digest_folder
from gif_datasets.io.parsing import read_json
from gif_datasets.methods import AUGMENT, METHODS
from gif_datasets.options import closest
from gif_datasets.priors.parts import Parts
from gif_datasets.priors.published import FROM_NOISE_ALONE, PUBLISHED, REDUX, Published, from_noise_alone
from gif_datasets.priors.weights import CLIPS, HALF

if TYPE_CHECKING:
    import torch

    from gif_datasets.priors.base import Prior

PRIOR_FORMAT = 2
SHRINKS = "shrinks_to_seed"
"""Key of a card: whether a copy is shrunk to the size of a smaller seed. A small prior adds no detail to it."""
DEFAULTS = ("strength", SHRINKS)
"""Keys of a card that change what its copies are like; a tuned prior has those of its base."""
ENTRY_POINTS = "gif_datasets.priors"
"""Group of entry points: a name, and a class that follows the :class:`~gif_datasets.priors.base.Prior` protocol."""
WITHOUT_CLIP = ("rae",)
"""Families whose decoders are scored by their own latents, without class texts."""
MOST_NAMED = 3


@dataclass(frozen=True)
class PriorInfo:
    """A prior's metadata, known before it is loaded.

    Attributes:
        name: Its name.
        families: Families of its decoders; they decide which methods it supports.
        folder: The folder of its weights; None for a prior without weights.
        digest: Content digest of the folder (or of the code's version, without weights).
        card: The rest of ``prior.json``: licence, data, measures.
        published: For a published prior: its files, at commits.
        make: For a prior of the user, registered as an entry point: creates one.
        anchored: For a prior of the user: whether its copies can begin near their seeds.
    """

    name: str
    families: tuple[str, ...]
    folder: Path | None
    digest: str
    card: dict[str, Any] = field(default_factory=dict)
    published: Published | None = None
    make: Callable[[], Prior] | None = field(default=None, compare=False)
    anchored: bool = False

    @property
    def trained(self) -> bool:
        """Whether it has weights, or is the user's code: what it says of images means something."""
        return self.folder is not None or self.published is not None or self.make is not None

    @property
    def has_clip(self) -> bool:
        """Whether it has a CLIP, for comparisons and as a teacher: in its weights, or in the user's code."""
        return self.make is not None or (self.trained and self.clip_family is not None)

    @property
    def clip_family(self) -> str | None:
        """The first of its families that a CLIP scores."""
        return next((family for family in self.families if family not in WITHOUT_CLIP), None)

    @property
    def reads_tokens(self) -> bool:
        """Whether its unCLIP decoder reads a map of tokens, not one embedding."""
        return self.unclip_pipeline == REDUX

    @property
    def adapted(self) -> bool:
        """Whether its unCLIP decoder sees a latent through an IP-Adapter."""
        has = "adapter" in self.card or (self.published is not None and self.published.adapter is not None)
        return has and not self.reads_tokens

    @cached_property
    def unclip_pipeline(self) -> str:
        """Class of its unCLIP decoder; empty where it has none."""
        if self.published is not None:
            return self.published.pipeline if self.published.family == "unclip" else ""
        if self.folder is None or "unclip" not in self.card.get("decoders", ()):
            return ""
        from gif_datasets.priors.diffusers_folder import pipeline_name

        return pipeline_name(self.folder / self.card["decoders"]["unclip"])

    @cached_property
    def training_sources(self) -> tuple[str, ...]:
        """Sources that it was trained on, listed under ``training_sources`` in the YAML header of its ``README.md``.

        As on a model card of the Hub, the header does not change the prior's digest.
        """
        if self.folder is None:
            return ()
        try:
            head = (self.folder / "README.md").read_text(encoding="utf-8-sig").split("---\n")[1]
            listed = yaml.safe_load(head)["training_sources"]
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
            yaml.YAMLError,
        ):  # a card without such a header
            return ()
        return tuple(map(str, listed)) if isinstance(listed, list) else ()


def embedded_folder() -> Path:
    """The folder of the prior that ships in the package."""
    return Path(str(files("gif_datasets"))) / "assets" / "priors" / "embedded"


def names() -> tuple[str, ...]:
    """Names of the priors that ship in the package."""
    return ("embedded", "linear")


def find_prior(name_or_path: str) -> PriorInfo:
    """Find a prior by name (shipped, published, or an entry point) or by its folder's path.

    Raises:
        ConfigError: If there is no such prior, or the Hub cannot resolve the revision of a published one.
        PriorError: If the folder is not a valid prior folder.
    """
    if name_or_path == "linear":
        return PriorInfo(
            "linear", ("unclip",), None, digest(["linear", 1]), {"summary": _LINEAR, "license": "Apache-2.0"}
        )
    folder = embedded_folder() if name_or_path == "embedded" else Path(name_or_path)
    if name_or_path in names() or folder.is_dir():
        return _in_folder(folder)
    name, _, revision = name_or_path.partition("@")
    if name in PUBLISHED:
        return _of_published(PUBLISHED[name].at(revision) if revision else PUBLISHED[name])
    registered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name_or_path in registered:
        return own_prior(name_or_path, registered[name_or_path].load())
    known = (*names(), *PUBLISHED, *registered)
    raise ConfigError(f"unknown prior {name_or_path!r}, and no folder of that name{closest(name_or_path, known)}")


def own_prior(name: str, prior: Any) -> PriorInfo:
    """The metadata of a user's prior.

    Args:
        name: Its name, for messages and manifests.
        prior: An object, or a class or another callable that creates one.

    Raises:
        ConfigError: If it has no ``key``.
    """
    key = getattr(prior, "key", None)
    if not isinstance(key, str) or not key:
        raise ConfigError(
            f"a prior of your own needs a 'key', a text that changes whenever its results change; {name} has none"
        )
    make = prior if callable(prior) else None
    families, anchored = getattr(prior, "families", FAMILIES), _has_anchors(prior)
    return PriorInfo(name, families, None, digest(["own", key]), make=make, anchored=anchored)


def _has_anchors(prior: Any) -> bool:
    """Whether a prior, or a class, has anchors of its own; a function that makes one is believed."""
    from gif_datasets.priors.base import Prior

    own = getattr(prior, "anchors", None)
    return getattr(own, "__func__", own) is not Prior.anchors and (own is not None or not isinstance(prior, type))


def _in_folder(folder: Path) -> PriorInfo:
    card = _read_card(folder)
    clip, adapter = card.get("clip"), card.get("adapter")
    parts = [part for part in (clip, *card["decoders"].values(), adapter) if part and part not in CLIPS]
    content = digest_folder(folder, ("prior.json", *parts))
    if clip in CLIPS:
        content = digest([content, CLIPS[clip].weights.resolved().revision])
    return PriorInfo(card["name"], tuple(card["decoders"]), folder, content, card)


def _of_published(prior: Published) -> PriorInfo:
    pinned = prior.resolved()
    files = [[weights.repository, weights.revision, weights.folder, weights.variant] for weights in pinned.sources]
    content = digest(["published", pinned.pipeline, pinned.image_size, dict(pinned.settings), files])
    card = {"license": pinned.license, "image_size": pinned.image_size, "summary": pinned.latent}
    return PriorInfo(pinned.name, (pinned.family,), None, content, card, pinned)


def check_fit(info: PriorInfo, method: str) -> None:
    """Raise ConfigError unless ``method`` works on the prior."""
    family = METHODS[method].family
    if family != AUGMENT and family not in info.families:
        fitting = [name for name, entry in METHODS.items() if entry.family in info.families]
        raise ConfigError(
            f"method {method!r} needs a prior of family {family!r}, but {info.name!r} has"
            f" {', '.join(info.families)};"
            f" methods that fit: {', '.join(fitting) or 'none'}; {_priors_of(family)}"
        )


def _priors_of(family: str) -> str:
    """Where a prior of a family comes from."""
    known = [name for name, prior in PUBLISHED.items() if prior.family == family]
    return f"published priors that fit: {', '.join(known[:MOST_NAMED])}{', ..' if len(known) > MOST_NAMED else ''}"


def check_classifier(info: PriorInfo, config: ExpansionConfig) -> None:
    """Raise ConfigError if class texts alone are to score images, and neither the prior nor a guide has any.

    Also where they are to confirm what a guide ranks, and the prior has none.
    """
    family = METHODS[config.method].family
    texts = info.has_clip or not info.trained if family == AUGMENT else family not in WITHOUT_CLIP or bool(info.make)
    if config.classifies and config.classifier == "text" and not texts and config.asks_prior_too:
        raise ConfigError(
            f"prior {info.name!r} has no class texts to confirm labels by; give confirmed_by=guide, or"
            " classifier=seeds or linear"
        )
    if config.classifies and config.classifier == "text" and config.guide is None and not texts:
        raise ConfigError(
            f"classifier 'text' does not fit: the tokens of prior {info.name!r} have no class texts; give"
            " classifier=seeds or linear, or a guide that has them (guide=MODEL/CHECKPOINT)"
        )


def check_published_strength(config: ExpansionConfig) -> None:
    """:func:`check_strength` of a published prior, before its revision is looked up on the Hub."""
    name = config.prior.partition("@")[0]
    if name in PUBLISHED and not Path(config.prior).is_dir():
        _check_pipeline(PUBLISHED[name].pipeline, name, config)


def check_strength(info: PriorInfo, config: ExpansionConfig) -> None:
    """Raise ConfigError if copies are to begin near their seeds and the prior cannot do that."""
    if not config.near_seed or info.published:
        return
    if info.folder is not None:
        _check_pipeline(info.unclip_pipeline, info.name, config)
    elif not info.anchored:
        raise ConfigError(f"prior {info.name!r} has no autoencoder to begin near a seed with; give strength=1")


def check_start(info: PriorInfo, config: ExpansionConfig) -> None:
    """Raise ConfigError if copies are to start between two seeds of a prior whose latent is not one embedding."""
    if config.start == BETWEEN and info.reads_tokens:
        raise ConfigError(
            f"start={BETWEEN!r} does not fit prior {info.name!r}: its latent is a map of tokens, not one embedding;"
            " give start=seed, or another prior"
        )


def _check_pipeline(pipeline: str, name: str, config: ExpansionConfig) -> None:
    if config.near_seed and pipeline in FROM_NOISE_ALONE:
        raise ConfigError(f"strength {config.strength} does not fit prior {name!r}: {from_noise_alone(pipeline)}")


def load_prior(
    info: PriorInfo, family: str | None, device: torch.device, config: ExpansionConfig | None = None
) -> Prior:
    """Load a prior's weights; missing files of a published prior are fetched.

    Args:
        info: The prior, from :func:`find_prior`.
        family: The decoder's family; None: any decoder, when only the CLIP is needed.
        device: Where it runs.
        config: Options of a diffusion pipeline; the CLIP always runs in single precision.
    """
    if info.make is not None:
        return info.make()
    if not info.trained:
        from gif_datasets.priors.linear import LinearPrior

        return LinearPrior()
    family, config = family or info.clip_family or info.families[0], config or ExpansionConfig()
    _check_published(info, device, config)
    return _LOADERS[family](prior_parts(info, family), device, config)


def fetch_prior(info: PriorInfo, device: str, config: ExpansionConfig) -> None:
    """Fetch the missing files of a prior, so that several workers do not do it at the same time.

    Raises:
        ConfigError: If an option does not fit the pipeline or the device; then nothing is fetched.
    """
    import torch

    _check_published(info, torch.device(device), config)
    if info.published:
        info.published.parts()
    elif info.card.get("clip") in CLIPS:
        CLIPS[info.card["clip"]].weights.bring()


def _check_published(info: PriorInfo, device: torch.device, config: ExpansionConfig) -> None:
    """Check the options against the pipeline in the table; a folder's are checked when its model_index.json is read."""
    if info.published and info.published.samples:
        from gif_datasets.priors.diffusers_folder import check_options

        check_options(info.published.pipeline, info.adapted, device, config)


def prior_parts(info: PriorInfo, family: str) -> Parts:
    """Local files of a prior: as ``prior.json`` says, or those of a published prior, fetched if missing."""
    if info.published:
        return info.published.parts()
    assert info.folder is not None
    card, folder = info.card, info.folder
    return Parts(
        _clip_of(card, folder, family),
        folder / card["decoders"][family],
        card["image_size"],
        folder / card["adapter"] if family == "unclip" and "adapter" in card else None,
        card.get("variant"),
        card.get("null_latent", "zeros"),
    )


def _clip_of(card: Mapping[str, Any], folder: Path, family: str) -> Path | None:
    """The CLIP's folder; None for a family that needs none."""
    if family in WITHOUT_CLIP:
        return None
    clip = card["clip"]
    return CLIPS[clip].weights.bring() if clip in CLIPS else folder / clip


def _load_unclip(parts: Parts, device: torch.device, config: ExpansionConfig) -> Prior:
    from gif_datasets.priors.diffusers_folder import pipeline_name

    if pipeline_name(parts.decoder) == REDUX:
        from gif_datasets.priors.redux import ReduxPrior

        return ReduxPrior(parts, device, config)
    from gif_datasets.priors.unclip import UnclipPrior

    return UnclipPrior(parts, device, config)


def _load_mae(parts: Parts, device: torch.device, config: ExpansionConfig) -> Prior:
    from gif_datasets.priors.mae import MaePrior

    return MaePrior(parts, device, config)


def _load_sd(parts: Parts, device: torch.device, config: ExpansionConfig) -> Prior:
    from gif_datasets.priors.img2img import SdPrior

    return SdPrior(parts, device, config)


def _load_rae(parts: Parts, device: torch.device, config: ExpansionConfig) -> Prior:
    from gif_datasets.priors.rae import RaePrior

    return RaePrior(parts, device, config)


_LOADERS: dict[str, Callable[[Parts, torch.device, ExpansionConfig], Prior]] = {
    "unclip": _load_unclip,
    "mae": _load_mae,
    "sd": _load_sd,
    "rae": _load_rae,
}
FAMILIES = tuple(_LOADERS)
"""Families of decoders; a user's prior supports the methods of all of them by default."""
_LINEAR = "no weights: an 8 x 8 thumbnail as latent; for first steps and for tests"
_FIELDS = {"name": str, "decoders": dict, "clip": str, "image_size": int}
_CHOICES = {"variant": (None, HALF), "null_latent": ("zeros", "mean image")}


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / "prior.json"
    try:
        card = read_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is not a prior folder: it contains no prior.json") from error
    except (OSError, ValueError) as error:
        raise PriorError(f"cannot read {path}: {error}") from error
    if not isinstance(card, dict) or card.get("format") != PRIOR_FORMAT:
        raise PriorError(f"{path} is not of format {PRIOR_FORMAT}; this version cannot read it")
    _check_fields(card, path)
    for family in card["decoders"]:
        if family not in _LOADERS:
            raise PriorError(f"{path}: unknown family {family!r}; known: {', '.join(_LOADERS)}")
    for name, choices in _CHOICES.items():
        if card.get(name, choices[0]) not in choices:
            raise PriorError(f"{path}: {name!r} must be one of {', '.join(map(str, choices))}, got {card[name]!r}")
    for part in (card.get("clip", ""), *card["decoders"].values(), card.get("adapter", "")):
        if not isinstance(part, str) or not _is_within(folder, part):
            raise PriorError(f"{path}: {part!r} is outside the folder")
    return card


def _check_fields(card: dict[str, Any], path: Path) -> None:
    """Raise PriorError if a field is missing or of another type; families without a CLIP name none."""
    for name, kind in _FIELDS.items():
        if name == "clip" and name not in card and not card["decoders"].keys() - set(WITHOUT_CLIP):
            continue
        if not isinstance(card.get(name), kind):
            raise PriorError(f"{path}: {name!r} must be {kind.__name__}, got {card.get(name)!r}")


def _is_within(folder: Path, part: str) -> bool:
    try:
        return (folder / part).resolve().is_relative_to(folder.resolve())
    except ValueError:  # a NUL byte or an unpaired surrogate: not a valid path
        return False
