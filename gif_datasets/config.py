"""`ExpansionConfig`: every choice of an expansion, checked once, before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gif_datasets.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

MAX_RATIO = 1000
CRITERIA = ("consistency", "entropy", "diversity")


@dataclass(frozen=True)
class Method:
    """One way to expand: what it is, and the defaults that make it so."""

    name: str
    family: str
    summary: str
    defaults: Mapping[str, Any]


GUIDED = {"steps": 10, "classifier": "both", "held_class": "label", "entropy_weight": 0.1}
"""Defaults of the guided methods, by the evidence in ``docs/method.md``; the paper's own are the preset ``paper``."""
SELECT = "select:"
AGNOSTIC = "sample-agnostic"
AUGMENT = "augment"
"""Family of the methods that need no prior."""
_BASE_METHODS = (
    Method(
        "gif-unclip",
        "unclip",
        "guided imagination in an unCLIP prior's image-embedding space (Algorithm 1, GIF-DALLE)",
        {**GUIDED, "epsilon": 0.3, "noise": "element"},
    ),
    Method(
        "unclip",
        "unclip",
        "the same prior without guidance (Table 1, DALL-E2): copies differ by the decoder's noise, and by a random"
        " perturbation when epsilon is above 0",
        {"epsilon": 0.0, "steps": 0, "noise": "element"},
    ),
    Method(
        "gif-mae",
        "mae",
        "guided imagination in a masked autoencoder's tokens, scored on the decoded picture (Algorithm 2, GIF-MAE)",
        {**GUIDED, "epsilon": 5.0, "step_size": 0.02, "noise": "channel"},
    ),
    Method(
        "mae",
        "mae",
        "the masked autoencoder without guidance (Table 1, MAE): random channel-level perturbation",
        {"epsilon": 5.0, "steps": 0, "noise": "channel"},
    ),
    Method(
        "gif-sd",
        "sd",
        "guided imagination on the latents that a Stable Diffusion img2img pipeline ends with (the official code)",
        {
            **GUIDED,
            "epsilon": 0.8,
            "step_size": 0.125,
            "noise": "channel",
            "guidance_scale": 5.0,
            "decode_steps": 15,
        },
    ),
    Method(
        "sd",
        "sd",
        "Stable Diffusion img2img without guidance",
        {"epsilon": 0.0, "steps": 0, "noise": "channel", "guidance_scale": 5.0, "decode_steps": 15},
    ),
    Method("randaugment", AUGMENT, "RandAugment (torchvision's) applied once per copy, no prior", {}),
    Method("cutout", AUGMENT, "one grey square per copy, no prior", {}),
    Method("gridmask", AUGMENT, "a lattice of grey squares per copy, no prior", {}),
    Method("cutmix", AUGMENT, "a box of another seed in each copy, at most half of its area, no prior", {}),
)
SELECT_SUMMARY = (
    "selective expansion by METHOD: pictures of the seed's zero-shot class and of higher entropy (section 3.2)"
)
SELECT_DEFAULTS = {"check": "selective", "redraws": 20}
_FALLBACK = {
    "epsilon": 0.0,
    "steps": 0,
    "step_size": 0.25,
    "noise": "element",
    "classifier": "text",
    "held_class": "prediction",
    "entropy_weight": 1.0,
    "decode_steps": 6,
    "guidance_scale": 2.0,
    "check": "none",
    "redraws": 4,
}
METHODS = {method.name: method for method in _BASE_METHODS} | {
    SELECT + method.name: Method(
        SELECT + method.name,
        method.family,
        SELECT_SUMMARY.replace("METHOD", method.name),
        {**method.defaults, **SELECT_DEFAULTS},
    )
    for method in _BASE_METHODS
}


PAPER_EPSILON = {"gif-unclip": 0.1, "gif-mae": 5.0, "gif-sd": 0.8}
"""Section 5 of the paper, and the released code's most frequent one."""


def paper(options: Mapping[str, Any]) -> dict[str, Any]:
    """Every open choice as the paper's text and formulas read."""
    return {
        "epsilon": PAPER_EPSILON.get(str(options.get("method", "gif-unclip")).removeprefix(SELECT)),
        "consistency_weight": 1.0,
        "entropy_weight": 1.0,
        "diversity_weight": 1.0,
        "balance": "sum",
        "held_class": "prediction",
        "classifier": "text",
        "projection": "literal",
        "diversity_order": "paper",
        "diversity_space": "latent",
        "consistency_floor": 0.0,
        "keep_class": False,
        "check": "none",
    }


def official(options: Mapping[str, Any]) -> dict[str, Any]:
    """Every open choice as the paper's released code makes it: one sign step of 0.1, projected only at the end."""
    method = options.get("method", "gif-sd")
    epsilon = options.get("epsilon") or PAPER_EPSILON.get(str(method).removeprefix(SELECT), 0.8)
    return {
        **paper(options),
        "epsilon": epsilon,
        "noise": "channel",
        "steps": 1,
        "step_size": 0.1 / epsilon,
        "optimizer": "sign",
        "projection": "end",
        "diversity_order": "official",
        "diversity_space": "embedding",
        "templates": ("This is a photo of a {}",),
        "logit_scale": 100.0,
    }


PRESETS = {"paper": paper, "official": official}


def _option(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class ExpansionConfig:
    """Every choice of an expansion. Options left at None take the method's default.

    What the paper leaves open (number of steps, step size, temperature, prompts, projection while optimising) is an
    option here; the reasons for the defaults are in ``docs/method.md``.

    Raises:
        ConfigError: If a value has the wrong type or lies outside its range, naming both.

    Example:
        >>> config = ExpansionConfig(ratio=3)
        >>> config.method, config.epsilon, config.steps
        ('gif-unclip', 0.3, 10)
    """

    method: str = _option("gif-unclip", "how to expand; see `gif-datasets methods`", choices=tuple(METHODS))
    ratio: int = _option(5, "new samples per seed sample, K", low=1, high=MAX_RATIO)
    prior: str = _option("embedded", "name of a prior, or a prior's folder; see `gif-datasets priors`")
    rng_seed: int = _option(0, "the run's number; the same number gives the same samples", low=0, high=2**63 - 1)

    epsilon: float | None = _option(None, "radius of the L-infinity ball, in units of the latent (Eq. 1)", low=0.0)
    steps: int | None = _option(None, "guidance steps; 0 leaves the random perturbation as it is", low=0, high=10_000)
    noise: str | None = _option(
        None,
        "what shares one random draw: nothing (element), all positions of a channel, or all channels of a token",
        choices=("element", "channel", "token"),
    )
    step_size: float | None = _option(None, "length of one sign step, as a share of epsilon", low=0.0)
    optimizer: str = _option("sign", "steps along the sign of the gradient, or Adam's", choices=("sign", "adam"))
    projection: str = _option(
        "post-step",
        "when the ball is enforced: after every step, straight-through (forward only), literally inside Eq. 1, or only"
        " at the end",
        choices=("post-step", "straight-through", "literal", "end"),
    )
    held_class: str | None = _option(
        None,
        "class whose probability is held up: the seed's predicted class (Eq. 3), or its label",
        choices=("prediction", "label"),
    )
    criteria: tuple[str, ...] | None = _option(
        None,
        "which of consistency, entropy and diversity guide; by default all, but no diversity of a single copy",
        items=CRITERIA,
    )
    consistency_weight: float = _option(1.0, "weight of prediction consistency", low=0.0)
    entropy_weight: float | None = _option(None, "weight of the entropy gain", low=0.0)
    diversity_weight: float = _option(1.0, "weight of diversity", low=0.0)
    balance: str = _option(
        "sum",
        "add the criteria as they are, or (unit) their gradients scaled to equal length",
        choices=("sum", "unit"),
    )
    diversity_order: str = _option(
        "paper", "KL of copy and mean, or (official) of mean and copy", choices=("paper", "official")
    )
    diversity_space: str = _option(
        "latent", "diversity of latents, or of unit-norm CLIP embeddings", choices=("latent", "embedding")
    )
    consistency_floor: float = _option(
        0.0, "constraint: probability that a copy keeps for the held class; 0 asks for nothing", low=0.0, high=1.0
    )
    keep_class: bool = _option(False, "constraint: the held class stays a copy's most probable one")
    classifier: str | None = _option(
        None,
        "what scores: class texts (zero-shot), the seeds' class means, both, or a linear head fitted to the seeds",
        choices=("text", "seeds", "both", "linear"),
    )
    templates: tuple[str, ...] = _option(
        ("{}", "a {}", "a photo of a {}", "a small {}"), "prompts around a class name; their embeddings are averaged"
    )
    logit_scale: float | None = _option(
        None, "inverse temperature of the scores; None: the CLIP's own, or calibrated on the seeds", low=0.01
    )
    check: str | None = _option(
        None,
        "look at the picture's own scores, and draw it again unless its class is its label, or is the seed's predicted"
        " class; selective asks for the latter and for higher entropy",
        choices=("none", "label", "prediction", "selective"),
    )
    redraws: int | None = _option(None, "most new draws of one picture; then the best one is taken", low=0, high=1000)
    selection: str = _option(
        "sample-wise",
        "of select: methods: every seed gets ratio copies, or (sample-agnostic) the best of all seeds' draws together"
        " are taken, so that some seeds get more and some none (appendix B)",
        choices=("sample-wise", AGNOSTIC),
    )
    measure_pictures: bool = _option(False, "score every new picture and record it, even where nothing is checked")

    decode_steps: int | None = _option(None, "sampling steps of the decoder", low=1, high=1000)
    guidance_scale: float | None = _option(
        None, "classifier-free guidance of the decoder; 1 turns it off and halves the time", low=1.0
    )
    strength: float = _option(
        0.6, "share of the img2img process that is run: how far it leaves the seed", low=0.01, high=1.0
    )
    prompts: tuple[str, ...] = _option(("a photo of a {}",), "prompts of img2img, one drawn per copy")

    randaugment_ops: int = _option(2, "RandAugment's transformations per picture", low=1, high=14)
    randaugment_magnitude: int = _option(9, "RandAugment's magnitude", low=0, high=30)
    mask_size: float = _option(0.5, "side of cutout's square and of gridmask's holes, as a share", low=0.05, high=0.95)

    image_format: str = _option(
        "png", "format of the new pictures; png and webp are lossless", choices=("png", "webp", "jpg")
    )
    jpeg_quality: int = _option(95, "quality when the format is jpg", low=1, high=100)
    originals: bool = _option(True, "put the seed samples themselves into the shards too")
    split: str = _option("train", "name of the split that is written")
    validation_share: float = _option(
        0.0,
        "share of each class's seeds to hold out: never expanded, written as the split validation",
        low=0.0,
        high=0.9,
    )
    samples_per_shard: int | None = _option(
        None,
        "None: 64 shards, but at least 50 and at most 1,000 samples each, rounded up to whole decode_batches",
        low=1,
    )
    on_bad_image: str = _option(
        "skip", "an unreadable picture is named and skipped, or stops the run", choices=("skip", "stop")
    )

    dtype: str = _option(
        "float32",
        "precision that a diffusion pipeline runs in; halves its memory, and its time where the device has it",
        choices=("float32", "bfloat16", "float16"),
    )
    encode_batch: int = _option(
        8, "seeds encoded and guided at once; always padded, so results do not depend on it", low=1
    )
    score_batch: int = _option(
        20, "copies scored at once while guiding; bounds the memory of what is kept for the gradient", low=1
    )
    decode_batch: int = _option(
        20, "pictures decoded at once, always padded; fewer where the device's memory holds fewer", low=1, high=4096
    )
    threads: int = _option(
        1, "CPU threads of one worker; fixed, since another number rounds differently", low=1, high=1024
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name)))
        for name, value in {**_FALLBACK, **METHODS[self.method].defaults}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "criteria", self._chosen_criteria())
        for name in ("templates", "prompts"):
            bad = [template for template in getattr(self, name) if template.count("{}") != 1]
            if bad or not getattr(self, name):
                raise ConfigError(f"{name} must each hold exactly one {{}}, got {bad[:1] or 'none'}")
        if self.agnostic and self.check != "selective":
            raise ConfigError(f"selection {AGNOSTIC!r} is for the select: methods, got method {self.method!r}")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", self.split):
            raise ConfigError(f"split must be a letter, then at most 39 letters, digits and _, got {self.split!r}")
        if self.validation_share and self.split == "validation":
            raise ConfigError("split must not be 'validation' when validation_share holds out a split of that name")

    def _chosen_criteria(self) -> tuple[str, ...]:
        if self.criteria is None:
            return CRITERIA if self.ratio > 1 else CRITERIA[:2]
        if "diversity" in self.criteria and self.ratio == 1:
            raise ConfigError("a single copy (ratio 1) has no diversity; raise ratio, or take it out of criteria")
        return self.criteria

    @property
    def criteria_weights(self) -> tuple[float, float, float]:
        """Weights of consistency, entropy and diversity; 0 for those that do not guide."""
        consistency, entropy, diversity = (
            getattr(self, f"{name}_weight") if name in (self.criteria or ()) else 0.0 for name in CRITERIA
        )
        return consistency, entropy, diversity

    @property
    def agnostic(self) -> bool:
        """Whether copies are chosen among those of all seeds."""
        return self.selection == AGNOSTIC

    @property
    def draws(self) -> int:
        """Copies drawn for each seed: the ratio, or all that are chosen from."""
        return self.ratio * (1 + (self.redraws or 0)) if self.agnostic else self.ratio

    @property
    def classifies(self) -> bool:
        """Whether a classifier is used: to guide, or to score seeds and pictures."""
        return METHODS[self.method].family != AUGMENT or self.check != "none" or self.measure_pictures

    @property
    def fits_classifier(self) -> bool:
        """Whether the classifier is fitted to the seeds."""
        return self.classifies and self.classifier != "text"

    @property
    def uses_all_seeds(self) -> bool:
        """Whether a sample depends on more seeds than its own."""
        return self.fits_classifier or self.mixes

    @property
    def mixes(self) -> bool:
        """Whether a sample shows a part of another seed."""
        return self.method.removeprefix(SELECT) == "cutmix"

    @property
    def constrained(self) -> bool:
        """Whether copies must keep some consistency."""
        return self.keep_class or self.consistency_floor > 0

    def to_json(self) -> dict[str, Any]:
        """Return all options as JSON types, defaults resolved."""
        return dataclasses.asdict(self)

    @classmethod
    def build(cls, values: Mapping[str, Any], config_file: Path | None = None) -> ExpansionConfig:
        """Merge a TOML file and then ``values`` (None entries are ignored) over a preset, or over the defaults.

        Raises:
            ConfigError: If the file cannot be read, or an option is unknown.
        """
        merged = dict(_read_toml(config_file)) if config_file else {}
        merged.update({name: value for name, value in values.items() if value is not None})
        if (preset := merged.pop("preset", None)) is not None:
            if preset not in PRESETS:
                raise ConfigError(f"unknown preset {preset!r}{closest(str(preset), PRESETS)}")
            merged = {**PRESETS[preset](merged), **merged}
        known = {spec.name for spec in dataclasses.fields(cls)}
        for name in merged:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}{closest(name, {*known, 'preset'})}")
        return cls(**merged)


def parse_setting(text: str) -> tuple[str, Any]:
    """Read one ``KEY=VALUE`` of the command line; the value is TOML, or a bare word.

    Example:
        >>> parse_setting("epsilon=0.2"), parse_setting("held_class=label")
        (('epsilon', 0.2), ('held_class', 'label'))
    """
    name, equals, raw = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
    try:
        return name, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return name, raw


def closest(name: str, known: Any) -> str:
    """Return ``"; did you mean 'x'?"`` or the whole choice, for an error message."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return loaded
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "bool": (bool,),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (float, int),
    "float | None": (float, int, type(None)),
    "tuple[str, ...]": (tuple, list),
    "tuple[str, ...] | None": (tuple, list, type(None)),
}


def _checked(spec: dataclasses.Field[Any], value: Any) -> Any:
    kinds = _TYPES[str(spec.type)]
    wrong_bool = isinstance(value, bool) and bool not in kinds
    if wrong_bool or not isinstance(value, kinds):
        raise ConfigError(f"{spec.name} must be {spec.type}, got {value!r}")
    if isinstance(value, (tuple, list)):
        if not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{spec.name} must be {spec.type}, got {value!r}")
        known = spec.metadata.get("items", value)
        for item in value:
            if item not in known:
                raise ConfigError(f"unknown {spec.name} {item!r}{closest(item, known)}")
        return tuple(value)
    if value is None:
        return None
    if "choices" in spec.metadata and value not in spec.metadata["choices"]:
        choices = spec.metadata["choices"]
        raise ConfigError(f"unknown {spec.name} {value!r}{closest(str(value), choices)}")
    if float in kinds:
        value = float(value)  # type: ignore[arg-type]
        if not math.isfinite(value):
            raise ConfigError(f"{spec.name} must be finite, got {value}")
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    if low is not None and value < low:
        raise ConfigError(f"{spec.name} must be at least {low}, got {value}")
    if high is not None and value > high:
        raise ConfigError(f"{spec.name} must be at most {high}, got {value}")
    return value
