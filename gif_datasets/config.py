"""`ExpansionConfig`: every choice of an expansion, checked once, before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gif_datasets.errors import ConfigError
from gif_datasets.methods import (
    AUGMENT,
    CLASSIFIER,
    DEFAULT_METHOD,
    DIFFUSION,
    GUIDANCE,
    IMG2IMG,
    METHODS,
    NEUTRAL,
    PERTURBATION,
    PRESETS,
    REDRAWS,
    SELECTION,
    Method,
)
from gif_datasets.options import checked, closest, read_options
from gif_datasets.prompts import (
    DOMAINS,
    check_prompts,
    check_synonyms,
    names_of,
    prompts_of,
    read_synonyms,
    templates_of,
)

MAX_RATIO = 1000
CRITERIA = ("consistency", "entropy", "diversity")
CLASSIFIERS = ("text", "seeds", "both", "linear")
AGNOSTIC = "sample-agnostic"
OWN = "own"
"""The scheduler that a pipeline's folder names."""


def _option(default: Any, help: str, of: str = "", **limits: Any) -> Any:
    """A field; ``of`` is the part that a method must have for it to matter. None: by method, or as the help says."""
    read = {"read": _listed} if "items" in limits else {}
    return field(default=default, metadata={"help": help, "of": of, **read, **limits})


def _listed(text: str) -> list[str]:
    """Items of a text that separates them by commas."""
    return [item for item in map(str.strip, text.split(",")) if item]


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

    method: str = _option(DEFAULT_METHOD, "how to expand; see `gif-datasets methods`", choices=METHODS)
    ratio: int = _option(5, "new samples per seed sample, K", low=1, high=MAX_RATIO)
    prior: str = _option("embedded", "name of a prior, or a prior's folder; see `gif-datasets priors`")
    rng_seed: int = _option(0, "the run's number; the same number gives the same samples", low=0, high=2**63 - 1)

    epsilon: float = _option(
        None, "radius of the L-infinity ball, in units of the latent (Eq. 1)", low=0.0, high=1e6, of=PERTURBATION
    )
    steps: int = _option(
        None, "guidance steps; 0 leaves the random perturbation as it is", low=0, high=10_000, of=GUIDANCE
    )
    noise: str = _option(
        None,
        "what shares one random draw: nothing (element), all positions of a channel, or all channels of a token",
        choices=("element", "channel", "token"),
        of=PERTURBATION,
    )
    step_size: float = _option(None, "length of one sign step, as a share of epsilon", low=0.0, of=GUIDANCE)
    optimizer: str = _option(
        "sign", "steps along the sign of the gradient, or Adam's", choices=("sign", "adam"), of=GUIDANCE
    )
    projection: str = _option(
        "post-step",
        "when the ball is enforced: after every step, straight-through (forward only), literally inside Eq. 1, or only"
        " at the end",
        choices=("post-step", "straight-through", "literal", "end"),
        of=GUIDANCE,
    )
    held_class: str = _option(
        None,
        "class whose probability is held up: the seed's predicted class (Eq. 3), or its label",
        choices=("prediction", "label"),
        of=PERTURBATION,
    )
    criteria: tuple[str, ...] = _option(
        None,
        "which of consistency, entropy and diversity guide; by default all, but no diversity of a single copy",
        items=CRITERIA,
        of=GUIDANCE,
    )
    consistency_weight: float = _option(1.0, "weight of prediction consistency", low=0.0, of=GUIDANCE)
    entropy_weight: float = _option(None, "weight of the entropy gain", low=0.0, of=GUIDANCE)
    diversity_weight: float = _option(1.0, "weight of diversity", low=0.0, of=GUIDANCE)
    balance: str = _option(
        "sum",
        "add the criteria as they are, or (unit) their gradients scaled to equal length",
        choices=("sum", "unit"),
        of=GUIDANCE,
    )
    diversity_order: str = _option(
        "paper",
        "KL of copy and mean, or (official) of mean and copy",
        choices=("paper", "official"),
        of=PERTURBATION,
    )
    diversity_space: str = _option(
        "latent",
        "diversity of latents, or of unit-norm CLIP embeddings",
        choices=("latent", "embedding"),
        of=PERTURBATION,
    )
    consistency_floor: float = _option(
        0.0,
        "constraint: probability that a copy keeps for the held class; 0 asks for nothing",
        low=0.0,
        high=1.0,
        of=GUIDANCE,
    )
    keep_class: bool = _option(False, "constraint: the held class stays a copy's most probable one", of=GUIDANCE)
    classifier: str = _option(
        None,
        "what scores: class texts (zero-shot), the seeds' class means, both, or a linear head fitted to the seeds",
        choices=CLASSIFIERS,
        of=CLASSIFIER,
    )
    templates: tuple[str, ...] = _option(
        DOMAINS["natural"].templates,
        f"prompts around a class name; their embeddings are averaged; or a domain: {', '.join(DOMAINS)}",
        of=CLASSIFIER,
        read=templates_of,
    )
    synonyms: tuple[str, ...] = _option(
        (),
        "what classes are called instead: a TOML or JSON file, class = [names]; the first is what img2img asks for, and"
        " the classifier averages all",
        of=CLASSIFIER,
        read=read_synonyms,
    )
    logit_scale: float | None = _option(
        None,
        "inverse temperature of the scores; None: the CLIP's own, or calibrated on the seeds",
        low=0.01,
        high=1e6,
        of=CLASSIFIER,
    )
    check: str = _option(
        None,
        "look at the picture's own scores, and draw it again unless its class is its label, or is the seed's predicted"
        " class; selective asks for the latter and for higher entropy",
        choices=("none", "label", "prediction", "selective"),
    )
    redraws: int = _option(
        None, "most new draws of one picture; then the best one is taken", low=0, high=1000, of=REDRAWS
    )
    selection: str = _option(
        "sample-wise",
        "of select: methods: every seed gets ratio copies, or (sample-agnostic) the best of all seeds' draws together"
        " are taken, so that some seeds get more and some none (appendix B)",
        choices=("sample-wise", AGNOSTIC),
        of=SELECTION,
    )
    measure_pictures: bool = _option(False, "score every new picture and record it, even where nothing is checked")

    decode_steps: int = _option(None, "sampling steps of the decoder", low=1, high=1000, of=DIFFUSION)
    guidance_scale: float = _option(
        None,
        "classifier-free guidance of the decoder; 1 turns it off and halves the time",
        low=1.0,
        of=DIFFUSION,
    )
    strength: float = _option(
        0.6,
        "share of the img2img process that is run: how far it leaves the seed",
        low=0.01,
        high=1.0,
        of=IMG2IMG,
    )
    prompts: tuple[str, ...] = _option(
        DOMAINS["natural"].prompts,
        "prompts of img2img, one drawn per copy; or a domain, as for templates",
        of=IMG2IMG,
        read=prompts_of,
    )

    randaugment_ops: int = _option(2, "RandAugment's transformations per picture", low=1, high=14, of="randaugment")
    randaugment_magnitude: int = _option(9, "RandAugment's magnitude", low=0, high=30, of="randaugment")
    mask_size: float = _option(
        0.5, "side of cutout's square and of gridmask's holes, as a share", low=0.05, high=0.95, of="mask"
    )

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
        of=DIFFUSION,
    )
    scheduler: str = _option(
        OWN,
        "how a diffusion pipeline samples: as its folder says, or by a scheduler of this name",
        choices=(OWN, "ddim", "ddpm", "dpm++", "euler", "euler-a", "lcm"),
        of=DIFFUSION,
    )
    noise_level: int = _option(
        0, "of Stable unCLIP decoders: noise put on the embedding before it is decoded", low=0, high=999, of=DIFFUSION
    )
    save_memory: tuple[str, ...] = _option(
        (),
        "how a diffusion pipeline saves memory, at the cost of time: its autoencoder works on one picture (vae-slicing)"
        " or tile (vae-tiling, which may show seams) at a time, its attention in slices, its parts wait in main memory"
        " (offload, needs accelerate)",
        items=("vae-slicing", "vae-tiling", "attention-slicing", "offload"),
        of=DIFFUSION,
    )
    attention: str = _option(
        "sdpa",
        "attention of a diffusion pipeline: torch's, which takes the device's best, or xformers'",
        choices=("sdpa", "xformers"),
        of=DIFFUSION,
    )
    compile: bool = _option(
        False, "compile a diffusion pipeline's network: slow at first, then faster on a GPU", of=DIFFUSION
    )
    encode_batch: int = _option(
        8, "seeds encoded and guided at once; always padded, so results do not depend on it", low=1
    )
    score_batch: int = _option(
        20,
        "copies scored at once while guiding; bounds the memory of what is kept for the gradient",
        low=1,
        of=PERTURBATION,
    )
    decode_batch: int = _option(
        20, "pictures decoded at once, always padded; fewer where the device's memory holds fewer", low=1, high=4096
    )
    threads: int = _option(
        1, "CPU threads of one worker; fixed, since another number rounds differently", low=1, high=1024
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, checked(spec, getattr(self, spec.name)))
        if self.agnostic and not METHODS[self.method].selects:
            raise ConfigError(f"selection {AGNOSTIC!r} is for the select: methods, got method {self.method!r}")
        self._settle()
        for name in ("templates", "prompts"):
            check_prompts(name, getattr(self, name))
        check_synonyms(self.synonyms)
        if "diversity" in self.criteria and self.ratio == 1:
            raise ConfigError("a single copy (ratio 1) has no diversity; raise ratio, or take it out of criteria")
        if METHODS[self.method].selects and self.check != "selective":
            raise ConfigError(
                f"method {self.method!r} has its own check, got check={self.check!r}; take that away, or use method"
                f" {METHODS[self.method].base!r}"
            )
        if IMG2IMG in METHODS[self.method].parts and int(self.strength * self.decode_steps) < 1:
            raise ConfigError(
                f"strength {self.strength} of {self.decode_steps} decode_steps is not one step; raise either"
            )
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", self.split):
            raise ConfigError(f"split must be a letter, then at most 39 letters, digits and _, got {self.split!r}")
        if self.validation_share and self.split == "validation":
            raise ConfigError("split must not be 'validation' when validation_share holds out a split of that name")

    def _settle(self) -> None:
        """Give every option its value: the method's own where none was given, a neutral one where it does nothing."""
        method = METHODS[self.method]
        usual = {**method.defaults, "criteria": CRITERIA if self.ratio > 1 else CRITERIA[:2]}
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        parts = _parts(method, classifies=self.classifies, checks=self.check != "none")
        neutrals = {**usual, **NEUTRAL}
        for spec in dataclasses.fields(self):
            if spec.metadata["of"] in parts:
                continue
            where = " without a check" if spec.metadata["of"] == REDRAWS else ""
            neutral = neutrals.get(spec.name, spec.default)
            self._neutralise(spec.name, neutral, usual.get(spec.name), f"for method {self.method!r}{where}")
        if GUIDANCE in parts:
            for criterion in sorted({*CRITERIA} - {*self.criteria}):
                name = f"{criterion}_weight"
                own = usual.get(name, type(self).__dataclass_fields__[name].default)
                self._neutralise(name, own, own, f"where {criterion!r} is not among the criteria")

    def _neutralise(self, name: str, neutral: Any, usual: Any, where: str) -> None:
        """Give an option that does nothing its neutral value, so that what is the same is called the same; tell it."""
        if getattr(self, name) not in (neutral, usual):
            warnings.warn(f"{name} does nothing {where}", stacklevel=5)
        object.__setattr__(self, name, neutral)

    @property
    def criteria_weights(self) -> tuple[float, float, float]:
        """Weights of consistency, entropy and diversity; 0 for those that do not guide."""
        consistency, entropy, diversity = (
            getattr(self, f"{name}_weight") if name in self.criteria else 0.0 for name in CRITERIA
        )
        return consistency, entropy, diversity

    @property
    def agnostic(self) -> bool:
        """Whether copies are chosen among those of all seeds."""
        return self.selection == AGNOSTIC

    @property
    def draws(self) -> int:
        """Copies drawn for each seed: the ratio, or all that are chosen from."""
        return self.ratio * (1 + self.redraws) if self.agnostic else self.ratio

    @property
    def classifies(self) -> bool:
        """Whether a classifier is used: to guide, or to score seeds and pictures."""
        return _classifies(METHODS[self.method], self.check, self.measure_pictures)

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
        return METHODS[self.method].base == "cutmix"

    @property
    def constrained(self) -> bool:
        """Whether copies must keep some consistency."""
        return self.keep_class or self.consistency_floor > 0

    def to_json(self) -> dict[str, Any]:
        """Return all options as JSON types, defaults resolved; synonyms only where there are some."""
        value = dataclasses.asdict(self)
        return value if self.synonyms else {name: option for name, option in value.items() if name != "synonyms"}

    def names_of(self, class_name: str) -> tuple[str, ...]:
        """What a class is called, the first name being what it is asked for by."""
        return names_of(class_name, self.synonyms)

    @classmethod
    def build(cls, values: Mapping[str, Any], config_file: Path | None = None) -> ExpansionConfig:
        """Merge a TOML file and then ``values`` (None entries are ignored) over a preset, or over the defaults.

        Raises:
            ConfigError: If the file cannot be read, or an option is unknown.
        """
        merged = dict(read_options(config_file)) if config_file else {}
        merged.update({name: value for name, value in values.items() if value is not None})
        if (preset := merged.pop("preset", None)) is not None:
            merged = {**_preset(preset, merged), **merged}
        if (domain := merged.pop("domain", None)) is not None:
            merged = {**_worded(domain, merged), **merged}
        known = {spec.name for spec in dataclasses.fields(cls)}
        for name in merged:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}{closest(name, {*known, 'preset', 'domain'})}")
        return cls(**merged)


def _parts(method: Method, *, classifies: bool, checks: bool) -> set[str]:
    """Parts whose options matter; the one without a name always does."""
    return {"", *method.parts, *[CLASSIFIER] * classifies, *[REDRAWS] * checks}


def own_defaults(method: Method) -> dict[str, Any]:
    """The method's values of those options that matter to it and have no default of their own."""
    check = method.defaults["check"]
    return _mattering(
        method.defaults, _parts(method, classifies=_classifies(method, check, False), checks=check != "none")
    )


def _classifies(method: Method, check: object, measures: object) -> bool:
    return method.family != AUGMENT or check != "none" or bool(measures)


def _mattering(options: Mapping[str, Any], parts: set[str]) -> dict[str, Any]:
    """Those options that are of one of the parts."""
    of = {spec.name: spec.metadata["of"] for spec in dataclasses.fields(ExpansionConfig)}
    return {name: value for name, value in options.items() if of[name] in parts}


def _preset(name: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a preset for the method that is given."""
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{closest(str(name), PRESETS)}")
    method = METHODS.get(str(given.get("method", DEFAULT_METHOD)))
    if method is None:
        return {}  # which is told when the method is checked
    check = given.get("check", method.defaults["check"])
    classifies = _classifies(method, check, given.get("measure_pictures", False))
    left_out = {f"{criterion}_weight" for criterion in CRITERIA if criterion not in given.get("criteria", CRITERIA)}
    options = {
        option: value for option, value in PRESETS[name].options(method, given).items() if option not in left_out
    }
    return _mattering(options, _parts(method, classifies=classifies, checks=check != "none"))


def _worded(domain: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Prompts of a domain for the method that is given, where they matter to it."""
    method = METHODS.get(str(given.get("method", DEFAULT_METHOD)))
    if method is None:
        return {}  # which is told when the method is checked
    classifies = _classifies(method, given.get("check", method.defaults["check"]), given.get("measure_pictures", False))
    options = {"templates": templates_of(str(domain)), "prompts": prompts_of(str(domain))}
    return _mattering(options, _parts(method, classifies=classifies, checks=False))
