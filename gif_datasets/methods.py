"""The methods with their options and defaults, and the presets, which set many options at once.

Every option belongs to a *part* (see ``ExpansionConfig``), and a method has some parts. An option whose part a method
does not have triggers a warning and is reset to its neutral value, so that it does not change the digest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gif_datasets.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "gif_datasets.methods"
"""Group of entry points: a name, and an augmentation with a ``key`` (:mod:`gif_datasets.extend` has examples)."""
SELECT = "select:"
AND = " + "
"""Between the methods of a folder that was merged from several."""
AUGMENT = "augment"
"""Family of the methods that need no prior."""
PERTURBATION = "perturbation"
GUIDANCE = "guidance"
DIFFUSION = "diffusion"
IMG2IMG = "img2img"
STRENGTH = "strength"
"""Part of every method whose copies can begin near their seed."""
INTERPOLATION = "interpolation"
"""Part of every method whose latent is an image embedding, so that two have a middle."""
SELECTION = "selection"
CLASSIFIER = "classifier"
"""Part of every method that scores: methods with a prior, and methods that check or measure their images."""
REDRAWS = "redraws"
"""Part of every method that checks its images."""
NOVELTY = "novelty"
"""Part of every method that compares its images with others."""
CONFIRMATION = "confirmation"
"""Part of every method that takes the draw of the highest entropy, of those whose label is confirmed."""


@dataclass(frozen=True)
class Method:
    """One way to expand.

    Attributes:
        name: Its name.
        family: The family of priors that it uses, or :data:`AUGMENT`.
        summary: One line about it.
        parts: The parts whose options it has.
        defaults: Values of all options whose default depends on the method; neutral values for parts that it lacks.
        registered: For a method that another package registers: the entry point of its augmentation.
    """

    name: str
    family: str
    summary: str
    parts: frozenset[str]
    defaults: Mapping[str, Any]
    registered: EntryPoint | None = field(default=None, compare=False)

    @property
    def base(self) -> str:
        """Its name without ``select:``."""
        return self.name.removeprefix(SELECT)

    @property
    def guided(self) -> bool:
        """Whether it optimises the perturbation."""
        return GUIDANCE in self.parts

    @property
    def imagines(self) -> bool:
        """Whether a prior makes its images."""
        return self.family != AUGMENT

    @property
    def colours(self) -> bool:
        """Whether it may make a coloured image of a grey one."""
        return self.base not in ("randaugment", "cutout", "gridmask")

    @property
    def moves(self) -> bool:
        """Whether what its images show may lie elsewhere than in the seed, or be another seed's."""
        return self.base in ("randaugment", "cutmix") or self.registered is not None

    @property
    def selects(self) -> bool:
        """Whether it is selective expansion by another method."""
        return SELECTION in self.parts

    @property
    def key(self) -> str:
        """For a registered method, a text that changes whenever its results do; empty for all other methods."""
        if self.registered is None:
            return ""
        key = getattr(self.registered.load(), "key", None)
        if not isinstance(key, str) or not key:
            raise ConfigError(
                f"method {self.name!r} needs a 'key', a text that changes whenever its results do;"
                f" {self.registered.value} has none"
            )
        return key

    @property
    def how(self) -> str:
        """How its images were made, for a card."""
        if not self.imagines:
            text = f"Each copy is its real image under `{self.base}`: {METHODS[self.base].summary}."
        elif self.guided:
            text = _GUIDED_HOW
        else:
            text = _UNGUIDED_HOW
        return f"{text} {_SELECTED_HOW}" if self.selects else text


_GUIDED_HOW = (
    "Guided Imagination Framework: the latent feature of every seed image in a pre-trained generative prior is"
    " perturbed; the perturbation is optimised for class consistency, higher prediction entropy and diversity; the"
    " result is decoded."
)
_UNGUIDED_HOW = (
    "The latent feature of every seed image in a pre-trained generative prior is decoded again, after a random"
    " perturbation if `epsilon` is above 0; nothing was optimised."
)
_SELECTED_HOW = (
    "Each copy was drawn several times; the first draw was taken to which a zero-shot classifier gave the seed's class"
    " with a higher entropy."
)

NEUTRAL: Mapping[str, Any] = {
    "epsilon": 0.0,
    "noise": "element",
    "steps": 0,
    "step_size": 0.25,
    "held_class": "prediction",
    "entropy_weight": 1.0,
    "classifier": "text",
    "decode_steps": 1,
    "guidance_scale": 1.0,
    "strength": 0.6,
    "check": "none",
    "redraws": 4,
}
_GUIDED = {"steps": 10, "step_size": 0.25, "classifier": "both", "held_class": "label", "entropy_weight": 0.1}
"""Chosen by the evidence in ``docs/method.md``; the preset ``paper`` has the paper's values."""
_UNCLIP = {"noise": "element", "decode_steps": 6, "guidance_scale": 2.0, "strength": "own"}
_SD = {"noise": "channel", "decode_steps": 15, "guidance_scale": 5.0, "strength": 0.6}
_RAE = {"epsilon": 0.8, "noise": "channel", "classifier": "seeds"}
"""The released decoders saw noise of up to 0.8 in training (``n08`` in their names); tokens have no class texts."""
SELECTIVE = {"check": "selective", "redraws": 20}
SELECT_SUMMARY = (
    "selective expansion by METHOD: images of the seed's zero-shot class and with a higher entropy (section 3.2)"
)


def _method(name: str, family: str, summary: str, defaults: Mapping[str, Any], *parts: str) -> Method:
    return Method(name, family, summary, frozenset(parts), {**NEUTRAL, **defaults})


def _selective(method: Method) -> Method:
    """Selective expansion by ``method``."""
    summary = SELECT_SUMMARY.replace("METHOD", method.name)
    defaults = {**method.defaults, **SELECTIVE}
    parts = method.parts | {SELECTION}
    return Method(SELECT + method.name, method.family, summary, parts, defaults, method.registered)


_BASE = (
    _method(
        "gif-unclip",
        "unclip",
        "guided imagination in an unCLIP prior's image-embedding space (Algorithm 1, GIF-DALLE)",
        {**_GUIDED, **_UNCLIP, "epsilon": 0.3},
        PERTURBATION,
        GUIDANCE,
        DIFFUSION,
        STRENGTH,
        INTERPOLATION,
    ),
    _method(
        "unclip",
        "unclip",
        "the same prior without guidance (Table 1, DALL-E2): copies differ by the decoder's noise, and by a random"
        " perturbation when epsilon is above 0",
        _UNCLIP,
        PERTURBATION,
        DIFFUSION,
        STRENGTH,
        INTERPOLATION,
    ),
    _method(
        "gif-mae",
        "mae",
        "guided imagination in a masked autoencoder's tokens, scored on the decoded image (Algorithm 2, GIF-MAE)",
        {**_GUIDED, "epsilon": 5.0, "step_size": 0.02, "noise": "channel"},
        PERTURBATION,
        GUIDANCE,
    ),
    _method(
        "mae",
        "mae",
        "the masked autoencoder without guidance (Table 1, MAE): random channel-level perturbation",
        {"epsilon": 5.0, "noise": "channel"},
        PERTURBATION,
    ),
    _method(
        "gif-sd",
        "sd",
        "guided imagination on the latents that an img2img pipeline ends with (the official code)",
        {**_GUIDED, **_SD, "epsilon": 0.8, "step_size": 0.125},
        PERTURBATION,
        GUIDANCE,
        DIFFUSION,
        STRENGTH,
        IMG2IMG,
    ),
    _method(
        "sd", "sd", "img2img, as in Stable Diffusion, without guidance", _SD, PERTURBATION, DIFFUSION, STRENGTH, IMG2IMG
    ),
    _method(
        "gif-rae",
        "rae",
        "guided imagination in the tokens of DINOv2 or MAE, by a classifier fitted to those of the seeds: no class"
        " text, one pass of the decoder",
        {**_GUIDED, **_RAE, "step_size": 0.05},
        PERTURBATION,
        GUIDANCE,
    ),
    _method(
        "rae",
        "rae",
        "the representation autoencoder without guidance: random channel-level perturbation",
        _RAE,
        PERTURBATION,
    ),
    _method("randaugment", AUGMENT, "RandAugment (torchvision's) applied once per copy, no prior", {}, "randaugment"),
    _method("cutout", AUGMENT, "one grey square per copy, no prior", {}, "mask"),
    _method("gridmask", AUGMENT, "a lattice of grey squares per copy, no prior", {}, "mask"),
    _method("cutmix", AUGMENT, "a box of another seed in each copy, at most half of its area, no prior", {}),
)


class _Methods(Mapping[str, Method]):
    """Methods by name; other packages are searched only for a name that is not known, because that takes time."""

    def __init__(self, shipped: Mapping[str, Method]) -> None:
        self._shipped = shipped

    def __getitem__(self, name: str) -> Method:
        return self._shipped[name] if name in self._shipped else registered_methods()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._shipped, *registered_methods()]))

    def __len__(self) -> int:
        return len(list(iter(self)))


@functools.cache
def registered_methods() -> dict[str, Method]:
    """Augmentations that installed packages register, by name; they are not loaded yet."""
    from importlib.metadata import entry_points

    methods = [
        Method(point.name, AUGMENT, f"{point.value}, of another package, no prior", frozenset(), NEUTRAL, point)
        for point in entry_points(group=ENTRY_POINTS)
    ]
    return {method.name: method for method in (*methods, *map(_selective, methods))}


METHODS = _Methods({method.name: method for method in (*_BASE, *map(_selective, _BASE))})


def is_imagined(name: str) -> bool:
    """Whether a prior makes a method's images; true for a method that this version does not know.

    Of several, as a merged folder names them, whether one is.
    """
    return any(one not in METHODS or METHODS[one].imagines for one in name.split(AND))


DEFAULT_METHOD = "gif-unclip"

_PUBLISHED_EPSILON = {"unclip": 0.1, "mae": 5.0, "sd": 0.8}
"""By family: section 5 of the paper, and the most frequent value in the commands of the released code."""
_OFFICIAL_STEP = 0.1
_DOMAINS = ("an image of", "a real-world photo of", "a cartoon image of", "an oil painting of", "a sketch of")
_ADJECTIVES = (
    "",
    "colorful ",
    "stylized ",
    "high-contrast ",
    "low-contrast ",
    "posterized ",
    "solarized ",
    "sheared ",
    "bright ",
    "dark ",
)
_OFFICIAL_IMG2IMG = {
    "strength": 0.9,
    "guidance_scale": 50.0,
    "decode_steps": 50,
    "prompts": tuple(f"{domain} {adjective}{{}}" for domain in _DOMAINS for adjective in _ADJECTIVES),
}
"""Values of the official CIFAR-100 command, and of most others."""


def _paper(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    epsilon = _PUBLISHED_EPSILON.get(method.family) if method.guided else None
    return {
        "epsilon": epsilon,
        "consistency_weight": 1.0,
        "entropy_weight": 1.0,
        "diversity_weight": 1.0,
        "balance": "sum",
        "projection": "literal",
        "consistency_floor": 0.0,
        "keep_class": False,
        "held_class": "prediction",
        **({} if method.family == "rae" else {"classifier": "text"}),
        "templates": ("{}",),
        "diversity_order": "paper",
        "diversity_space": "latent",
        **({} if IMG2IMG in method.parts else {"strength": 1.0}),
    }


def _official(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    epsilon = options.get("epsilon", _PUBLISHED_EPSILON.get(method.family, method.defaults["epsilon"]))
    step_size = _OFFICIAL_STEP / epsilon if isinstance(epsilon, (int, float)) and epsilon > 0 else None
    return {
        **_paper(method, options),
        "noise": "channel",
        "steps": 1,
        "step_size": step_size,
        "optimizer": "sign",
        "projection": "end",
        "diversity_order": "official",
        "diversity_space": "embedding",
        "templates": ("This is a photo of a {}",),
        "logit_scale": 100.0,
        **(_OFFICIAL_IMG2IMG if IMG2IMG in method.parts else {}),
    }


@dataclass(frozen=True)
class Preset:
    """Many options under one name.

    Attributes:
        summary: One sentence about it.
        example: A method whose options under this preset are listed.
        options: Its options for a method, given the options that the user set; it may include some that do nothing for
            the method, which the caller leaves out.
    """

    summary: str
    example: str
    options: Callable[[Method, Mapping[str, Any]], dict[str, Any]]


PRESETS: Mapping[str, Preset] = {
    "paper": Preset("Every open choice as the paper's text and formulas read.", "gif-unclip", _paper),
    "official": Preset(
        "Every open choice as the paper's released code makes it: one sign step of 0.1, projected only at the end.",
        "gif-sd",
        _official,
    ),
}
