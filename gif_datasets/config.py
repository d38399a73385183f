"""`ExpansionConfig`: every choice of an expansion, checked once, before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from gif_datasets.captions import check_contexts, read_contexts
from gif_datasets.errors import ConfigError
from gif_datasets.methods import (
    CLASSIFIER,
    CONFIRMATION,
    DEFAULT_METHOD,
    DIFFUSION,
    GUIDANCE,
    IMG2IMG,
    INTERPOLATION,
    METHODS,
    NEUTRAL,
    NOVELTY,
    PERTURBATION,
    PRESETS,
    REDRAWS,
    SELECTION,
    STRENGTH,
    Method,
)
from gif_datasets.options import checked_fields, closest, read_options
from gif_datasets.prompts import (
    DOMAINS,
    check_prompts,
    check_synonyms,
    names_of,
    prompts_of,
    read_synonyms,
    strength_of,
    templates_of,
)
from gif_datasets.ratios import MAX_RATIO, stands_for_copies

CRITERIA = ("consistency", "entropy", "diversity")
CLASSIFIERS = ("text", "seeds", "both", "linear")
WISE, AGNOSTIC, HARDEST = "sample-wise", "sample-agnostic", "hardest"
"""How ``select:`` methods select."""
KEPT = ("none", "boxes", "masks")
OWN_SCHEDULER = "own"
"""The scheduler that a pipeline's folder names."""
OWN_STRENGTH = "own"
"""The strength that a prior's card names for the family of the method; without one, the method's own, or 1."""
AUTO = "auto"
"""The strength that is chosen from a few copies before the work; ``auto:SHARE`` says how many must keep their class."""
BETWEEN = "between"
"""The start of copies on the arc from their seed's embedding to another one's."""
NOVEL = "novel"
"""The check that compares images with others; the classifier has no say in it."""
_LATER = {
    "guide": None,
    "synonyms": (),
    "webp_effort": 4,
    "max_side": None,
    "keep": None,
    "novel_bits": None,
    "start": "seed",
    "prototype_weight": 0.0,
    "confirmed_by": "prior",
    "contexts": (),
}
"""Options that older versions did not have, with the value for what these did: digests are as they were."""
_NEAR_SEED = "near_seed"
"""Marks, among the options of a manifest, an unCLIP method that begins near its seeds. Without the mark its strength
is 1, whatever ``strength`` says: versions that had no other wrote a neutral value there."""


def _option(default: Any, help: str, of: str = "", hashed: bool = True, **limits: Any) -> Any:
    """A field of :class:`ExpansionConfig`.

    Args:
        default: Its default; None: the method's default, or what the help says. The declared type of a field is that of
            the final value, so only those that may end as None have ``| None``; the constructor takes None for all.
        help: What it does.
        of: The part that a method must have for it to have an effect; empty: always.
        hashed: Whether configurations are hashed by it; not by a table.
        limits: ``low`` and ``high``, ``choices``, ``word``, ``items`` or ``read``: see
            :func:`gif_datasets.options.checked`.
    """
    read = {"read": _listed} if "items" in limits else {}
    return field(default=default, hash=None if hashed else False, metadata={"help": help, "of": of, **read, **limits})


def _listed(text: str) -> list[str]:
    """Items of a text, separated by commas."""
    return [item for item in map(str.strip, text.split(",")) if item]


def _names_strength(text: str) -> bool:
    """Whether a text stands for a strength; raises ConfigError if its share is none."""
    name, colon, share = text.partition(":")
    if name == AUTO and colon and not re.fullmatch(r"0?\.\d*[1-9]\d*|1(\.0*)?", share):
        raise ConfigError(
            f"unknown target {share!r} of strength=auto; give a share above 0 and at most 1, such as auto:0.9"
        )
    return name == AUTO or text == OWN_STRENGTH


@dataclass(frozen=True)
class ExpansionConfig:
    """Every choice of an expansion. Options left at None take the method's default.

    What the paper leaves open (number of steps, step size, temperature, prompts, projection during optimisation) is an
    option here; ``docs/method.md`` gives the reasons for the defaults.

    Raises:
        ConfigError: If a value has the wrong type or lies outside its range, naming both.

    Example:
        >>> config = ExpansionConfig(ratio=3)
        >>> config.method, config.epsilon, config.steps
        ('gif-unclip', 0.3, 10)
    """

    method: str = _option(DEFAULT_METHOD, "how to expand; see `gif-datasets methods`", choices=METHODS)
    ratio: int | str | Mapping[str, int] = _option(
        5,
        "new samples per seed sample, K; or balance:COUNT: each class grows to so many seeds and copies, and one that"
        ' has as many seeds gets no copies; or a table of classes, such as {cat = 20, "*" = 5}, where * is all others',
        hashed=False,
        low=1,
        high=MAX_RATIO,
        word=stands_for_copies,
        table=True,
    )
    prior: str = _option("embedded", "name of a prior, or a prior's folder; see `gif-datasets priors`")
    rng_seed: int = _option(0, "random seed; the same number gives the same samples", low=0, high=2**63 - 1)

    epsilon: float = _option(
        None, "radius of the L-infinity ball, in units of the latent (Eq. 1)", low=0.0, high=1e6, of=PERTURBATION
    )
    start: str = _option(
        "seed",
        "where copies start in the embedding space: at their seed's embedding (seed), or on the short arc to that of"
        " another seed of the class, at most half of the way (between)",
        choices=("seed", BETWEEN),
        of=INTERPOLATION,
    )
    steps: int = _option(None, "guidance steps; 0 keeps the random perturbation", low=0, high=10_000, of=GUIDANCE)
    noise: str = _option(
        None,
        "values that share one random draw: none (element), all positions of a channel, or all channels of a token",
        choices=("element", "channel", "token"),
        of=PERTURBATION,
    )
    step_size: float = _option(None, "length of one sign step, as a fraction of epsilon", low=0.0, of=GUIDANCE)
    optimizer: str = _option(
        "sign", "steps along the sign of the gradient, or Adam's", choices=("sign", "adam"), of=GUIDANCE
    )
    projection: str = _option(
        "post-step",
        "when the ball is enforced: after every step, straight-through (forward pass only), literally inside Eq. 1, or"
        " only at the end",
        choices=("post-step", "straight-through", "literal", "end"),
        of=GUIDANCE,
    )
    held_class: str = _option(
        None,
        "class whose probability is kept up: the seed's predicted class (Eq. 3), or its label",
        choices=("prediction", "label"),
        of=PERTURBATION,
    )
    criteria: tuple[str, ...] = _option(
        None,
        "criteria that guide; default: all, but without diversity if there is a single copy",
        items=CRITERIA,
        of=GUIDANCE,
    )
    consistency_weight: float = _option(1.0, "weight of prediction consistency", low=0.0, of=GUIDANCE)
    entropy_weight: float = _option(None, "weight of the entropy gain", low=0.0, of=GUIDANCE)
    diversity_weight: float = _option(1.0, "weight of diversity", low=0.0, of=GUIDANCE)
    prototype_weight: float = _option(
        0.0,
        "weight of nearness to prototypes, beside the criteria: to the mean of the class's seeds, and to the nearest of"
        " their three clusters, in the space that guides; 0: none",
        low=0.0,
        of=GUIDANCE,
    )
    balance: str = _option(
        "sum",
        "sum: add the criteria unchanged; unit: scale their gradients to equal length",
        choices=("sum", "unit"),
        of=GUIDANCE,
    )
    diversity_order: str = _option(
        "paper",
        "paper: KL from copy to mean; official: KL from mean to copy",
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
        "constraint: least probability of the held class for a copy; 0: no constraint",
        low=0.0,
        high=1.0,
        of=GUIDANCE,
    )
    keep_class: bool = _option(False, "constraint: the held class stays the most probable class of a copy", of=GUIDANCE)
    classifier: str = _option(
        None,
        "classifier: class texts (zero-shot), class means of the seeds, both, or a linear head fitted to the seeds",
        choices=CLASSIFIERS,
        of=CLASSIFIER,
    )
    guide: str | None = _option(
        None,
        "what scores images instead of the prior's CLIP: open_clip's MODEL/CHECKPOINT, hf-hub:OWNER/NAME, a folder,"
        " timm:NAME?checkpoint=FILE.safetensors, ..; it guides mae, sd, rae, and checks and measures the images of all",
        of=CLASSIFIER,
    )
    templates: tuple[str, ...] = _option(
        DOMAINS["natural"].templates,
        f"prompts around a class name, whose embeddings are averaged; or a domain: {', '.join(DOMAINS)}",
        of=CLASSIFIER,
        read=templates_of,
    )
    synonyms: tuple[str, ...] = _option(
        (),
        "other names of classes: a TOML or JSON file, class = [names]; img2img uses the first name, the classifier"
        " averages all",
        of=CLASSIFIER,
        read=read_synonyms,
    )
    logit_scale: float | None = _option(
        None,
        "inverse temperature of the scores; None: that of the CLIP, or calibrated on the seeds",
        low=0.01,
        high=1e6,
        of=CLASSIFIER,
    )
    check: str = _option(
        None,
        "score the new image, and draw it again unless its class is the label (label) or the seed's predicted class"
        " (prediction); selective: the predicted class and a higher entropy; novel: it shows something else than every"
        " seed and the copies of its own seed with lower numbers",
        choices=("none", "label", "prediction", "selective", NOVEL),
    )
    redraws: int = _option(
        None, "most new draws of one image; then the best draw is taken", low=0, high=1000, of=REDRAWS
    )
    novel_bits: int | None = _option(
        None,
        "with check=novel: bits, of the 255 of a perceptual hash, from which two images count as different, if they are"
        " not alike otherwise; None: 50, or fewer, at least 21, where the seeds themselves look alike",
        low=1,
        high=127,
        of=NOVELTY,
    )
    selection: str = _option(
        WISE,
        "for select: methods: every seed gets ratio copies, each the first draw that passes; or sample-agnostic: the"
        " best draws of all seeds together are taken, so that some seeds get more and some none (appendix B); or"
        " hardest: each is, of all its draws whose label is confirmed, the one of the highest entropy to the guide",
        choices=(WISE, AGNOSTIC, HARDEST),
        of=SELECTION,
    )
    confirmed_by: str = _option(
        "prior",
        "with selection=hardest and a guide: what confirms the label, the classifier of the prior's CLIP (prior) or the"
        " guide itself (guide), which then never takes what it gets wrong",
        choices=("prior", "guide"),
        of=CONFIRMATION,
    )
    measure_pictures: bool = _option(False, "score every new image and record the scores, even without a check")

    decode_steps: int = _option(None, "sampling steps of the decoder", low=1, high=1000, of=DIFFUSION)
    guidance_scale: float = _option(
        None,
        "classifier-free guidance of the decoder; 1 turns it off and halves the time",
        low=1.0,
        of=DIFFUSION,
    )
    strength: float | str = _option(
        None,
        "how far a copy moves from its seed: the share of the noising process that the decoder begins after; 1, for"
        " unCLIP: from noise alone; own: what the prior's card names, or 1; auto: the highest at which enough copies"
        " keep their class, 75% of what real images do, or auto:SHARE",
        low=0.01,
        high=1.0,
        word=_names_strength,
        of=STRENGTH,
    )
    prompts: tuple[str, ...] = _option(
        DOMAINS["natural"].prompts,
        "prompts of img2img, one drawn per copy; or a domain, as for templates",
        of=IMG2IMG,
        read=prompts_of,
    )

    contexts: tuple[str, ...] = _option(
        (),
        "what surrounds the class in prompts of img2img, instead of prompts: a CSV or JSON Lines file of captions; each"
        " copy gets that of an image of any class, with its own class's name",
        of=IMG2IMG,
        read=read_contexts,
    )

    randaugment_ops: int = _option(2, "RandAugment's transformations per image", low=1, high=14, of="randaugment")
    randaugment_magnitude: int = _option(9, "RandAugment's magnitude", low=0, high=30, of="randaugment")
    mask_size: float = _option(
        0.5, "side of cutout's square and of gridmask's holes, as a fraction", low=0.05, high=0.95, of="mask"
    )

    image_format: str = _option(
        "png",
        "format of the images; png and webp are lossless; jpg stores seeds that are JPEG files as they are; auto: jpg"
        " where the seeds are such files, elsewhere webp of effort 0",
        choices=("png", "webp", "jpg", AUTO),
    )
    jpeg_quality: int = _option(95, "quality when the format is jpg", low=1, high=100)
    webp_effort: int = _option(
        4, "when the format is webp: 0 is 7 to 21 times as fast as 4, and at most an eighth larger", low=0, high=6
    )
    max_side: int | None = _option(
        None,
        "longest side of the images, in pixels: larger seeds are reduced before anything is made of them",
        low=8,
        high=100_000,
    )
    keep: str | None = _option(
        None,
        "what is marked in the seeds and is in their copies as it is there: boxes, or masks; a source that has some"
        " needs it, or none, which ignores them",
        choices=KEPT,
    )
    originals: bool = _option(True, "also write the seed samples into the shards")
    split: str = _option("train", "name of the split to write")
    validation_share: float = _option(
        0.0,
        "share of each class's seeds to hold out: never expanded, written as the split validation",
        low=0.0,
        high=0.9,
    )
    samples_per_shard: int | None = _option(
        None,
        "None: 64 shards, with at least 50 and at most 1,000 samples each, rounded up to whole decode batches",
        low=1,
    )
    on_bad_image: str = _option(
        "skip", "skip an unreadable image with a message, or stop the run", choices=("skip", "stop")
    )

    dtype: str = _option(
        "float32",
        "precision of a diffusion pipeline; 16 bits halve its memory, and its time if the device supports them",
        choices=("float32", "bfloat16", "float16"),
        of=DIFFUSION,
    )
    scheduler: str = _option(
        OWN_SCHEDULER,
        "scheduler of a diffusion pipeline: that of its folder (own), or the one of this name",
        choices=(OWN_SCHEDULER, "ddim", "ddpm", "dpm++", "euler", "euler-a", "lcm"),
        of=DIFFUSION,
    )
    noise_level: int = _option(
        0, "for Stable unCLIP decoders: noise added to the embedding before decoding", low=0, high=999, of=DIFFUSION
    )
    save_memory: tuple[str, ...] = _option(
        (),
        "how a diffusion pipeline saves memory, at the cost of time: its autoencoder works on one image (vae-slicing)"
        " or one tile (vae-tiling, which may show seams) at a time, its attention in slices, its parts wait in main"
        " memory (offload, needs accelerate)",
        items=("vae-slicing", "vae-tiling", "attention-slicing", "offload"),
        of=DIFFUSION,
    )
    attention: str = _option(
        "sdpa",
        "attention of a diffusion pipeline: that of torch, which chooses the best for the device, or of xformers",
        choices=("sdpa", "xformers"),
        of=DIFFUSION,
    )
    compile: bool = _option(
        False, "compile a diffusion pipeline's network: slow at first, then faster on a GPU", of=DIFFUSION
    )
    encode_batch: int = _option(
        8, "seeds encoded and guided at once; always padded, so that results do not depend on it", low=1
    )
    score_batch: int = _option(
        20,
        "copies scored at once during guidance; limits the memory that the gradient needs",
        low=1,
        of=PERTURBATION,
    )
    decode_batch: int = _option(
        20, "images decoded at once, always padded; fewer if the memory of the device is too small", low=1, high=4096
    )
    threads: int = _option(
        1, "CPU threads per worker; fixed, because another number rounds differently", low=1, high=1024
    )

    def __post_init__(self) -> None:
        values, warned = _resolve(vars(self))
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for text in warned:
            warnings.warn(text, stacklevel=3)  # where the configuration is made
        _check(self)

    @property
    def criteria_weights(self) -> tuple[float, float, float]:
        """Weights of consistency, entropy and diversity; 0 for criteria that do not guide."""
        consistency, entropy, diversity = (
            getattr(self, f"{name}_weight") if name in self.criteria else 0.0 for name in CRITERIA
        )
        return consistency, entropy, diversity

    @property
    def agnostic(self) -> bool:
        """Whether copies are chosen from the draws of all seeds together."""
        return self.selection == AGNOSTIC

    @property
    def hardest(self) -> bool:
        """Whether all draws of a copy are made, and the hardest is taken."""
        return self.selection == HARDEST

    @property
    def asks_prior_too(self) -> bool:
        """Whether images are scored by the prior's CLIP beside a guide."""
        return self.hardest and self.guide is not None and self.confirmed_by == "prior"

    @property
    def copies(self) -> int:
        """Copies of each seed.

        Raises:
            ConfigError: If seeds have different numbers of them: see :meth:`with_copies`.
        """
        if not isinstance(self.ratio, int):
            raise ConfigError(f"ratio {self.ratio!r} gives seeds different numbers of copies")
        return self.ratio

    @property
    def uneven(self) -> bool:
        """Whether the ratio differs between classes."""
        return not isinstance(self.ratio, int)

    def with_copies(self, copies: int) -> ExpansionConfig:
        """The options that make ``copies`` copies of each seed as these make those of a seed that gets so many."""
        return ExpansionConfig(**uniform_options(vars(self), copies))

    @property
    def draws(self) -> int:
        """Copies drawn for each seed: the ratio, or more if copies are chosen from them."""
        return self.copies * self.draws_a_copy

    @property
    def draws_a_copy(self) -> int:
        """Copies drawn for each one that is taken."""
        return 1 + self.redraws if self.agnostic else 1

    @property
    def attempts(self) -> int:
        """Draws that are made of one image at most."""
        return 1 if self.check == "none" or self.agnostic else 1 + self.redraws

    @property
    def classifies(self) -> bool:
        """Whether a classifier is used: to guide, or to score seeds and images."""
        return CLASSIFIER in _parts(METHODS[self.method], vars(self))

    @property
    def fits_classifier(self) -> bool:
        """Whether the classifier is fitted to the seeds."""
        return self.classifies and self.classifier != "text"

    @property
    def uses_all_seeds(self) -> bool:
        """Whether a sample depends on other seeds too."""
        return self.fits_classifier or self.pairs or self.compares or self.prototype_weight > 0

    @property
    def embeds_all_seeds(self) -> bool:
        """Whether the embeddings of all seeds are needed before the first copy."""
        return self.fits_classifier or self.prototype_weight > 0

    @property
    def captions(self) -> tuple[str, ...]:
        """Captions of img2img around a class name; each copy draws one of them."""
        return self.contexts or self.prompts

    @property
    def pairs(self) -> bool:
        """Whether a copy comes of its seed and of another one, which its record names."""
        return self.mixes or self.start == BETWEEN

    @property
    def compares(self) -> bool:
        """Whether images are compared with seeds and with each other."""
        return self.check == NOVEL

    @property
    def judges_class(self) -> bool:
        """Whether images are drawn again by what a classifier says of them."""
        return self.check not in ("none", NOVEL)

    @property
    def mixes(self) -> bool:
        """Whether a sample shows a part of another seed."""
        return METHODS[self.method].base == "cutmix"

    @property
    def keeps(self) -> bool:
        """Whether copies show what is marked in their seeds as these show it."""
        return self.keep in ("boxes", "masks")

    @property
    def constrained(self) -> bool:
        """Whether guidance has a constraint on consistency."""
        return self.keep_class or self.consistency_floor > 0

    @property
    def auto_strength(self) -> bool:
        """Whether the strength is still to be chosen."""
        return isinstance(self.strength, str) and self.strength != OWN_STRENGTH

    @property
    def near_seed(self) -> bool:
        """Whether the decoder of an unCLIP method begins near the seed, not from noise alone."""
        return _begins_from_noise(self.method) and self.strength not in (1, OWN_STRENGTH)

    def to_json(self) -> dict[str, Any]:
        """Return all options as JSON types, defaults resolved; those of ``_LATER`` only where they have an effect."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in _LATER or value != _LATER[name]}

    def names_of(self, class_name: str) -> tuple[str, ...]:
        """Names of a class; prompts use the first."""
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
            merged = {**_preset_options(preset, merged), **merged}
        if (domain := merged.pop("domain", None)) is not None:
            merged = {**_domain_options(domain, merged), **merged}
        known = {spec.name for spec in dataclasses.fields(cls)}
        for name in merged:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}{closest(name, {*known, 'preset', 'domain'})}")
        return cls(**merged)


def uniform_options(options: Mapping[str, Any], copies: int) -> dict[str, Any]:
    """Options that give every seed ``copies`` copies, of those whose ratio differs between classes.

    A single copy has no diversity to guide by; that criterion is left out, as it is by default where ``ratio`` is 1.
    """
    values = {**options, "ratio": copies}
    if copies == 1 and "diversity" in values["criteria"]:
        values["criteria"] = tuple(name for name in values["criteria"] if name != "diversity")
        values["diversity_weight"] = 1.0
    return values


def stored_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as recipes and manifests hold them: a strength of 1 has the digest of versions that had no other."""
    if not _begins_from_noise(options["method"]):
        return dict(options)
    if options["strength"] in (1, OWN_STRENGTH):
        return {**options, "strength": NEUTRAL["strength"]}
    return {**options, _NEAR_SEED: True}


def readable_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a recipe or a manifest, as the constructor takes them and people read them.

    Example:
        >>> readable_options({"method": "unclip", "strength": 0.6})["strength"]
        1.0
        >>> readable_options(stored_options(ExpansionConfig(strength=0.5).to_json()))["strength"]
        0.5
    """
    from_noise = _begins_from_noise(stored.get("method")) and not stored.get(_NEAR_SEED)
    options = {name: value for name, value in stored.items() if name != _NEAR_SEED}
    return {**options, "strength": 1.0} if from_noise and "strength" in options else options


def _begins_from_noise(method: object) -> bool:
    """Whether a method's decoder can begin from noise alone."""
    parts = METHODS[method].parts if isinstance(method, str) and method in METHODS else frozenset()
    return STRENGTH in parts and IMG2IMG not in parts


# --- defaults -----------------------------------------------------------------------------------------------------


def _resolve(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Check every option and give it its final value; what is given stays as it is.

    An option at None gets the method's default. An option that does nothing gets a neutral value, so that equal
    configurations have equal digests.

    Args:
        given: One value per field of :class:`ExpansionConfig`, as its caller gave it.

    Returns:
        The final values, and a warning for each option that the caller set and that does nothing.

    Raises:
        ConfigError: If a value has the wrong type or lies outside its range.
    """
    values = checked_fields(ExpansionConfig, given)
    if isinstance(values["ratio"], Mapping):
        values["ratio"] = dict(values["ratio"])  # the caller's own may change
    method = METHODS[values["method"]]
    if values["selection"] != WISE and not method.selects:
        raise ConfigError(f"selection {values['selection']!r} is for the select: methods, got method {method.name!r}")
    if values["contexts"] and IMG2IMG not in method.parts:
        readers = ", ".join(name for name, one in METHODS.items() if IMG2IMG in one.parts and not one.selects)
        raise ConfigError(
            f"contexts are for priors that read text, and method {method.name!r} has none; methods whose priors do:"
            f" {readers}"
        )
    if values["selection"] == AGNOSTIC and not isinstance(values["ratio"], int):
        raise ConfigError(
            f"selection {AGNOSTIC!r} chooses among the copies of all seeds, and takes one number as ratio, got"
            f" {values['ratio']!r}"
        )
    defaults = {**method.defaults, "criteria": CRITERIA[:2] if values["ratio"] == 1 else CRITERIA}
    values |= {name: default for name, default in defaults.items() if values[name] is None}
    warned = []
    for name, neutral, where in _without_effect(method, values, defaults):
        if values[name] not in (neutral, defaults.get(name)):
            warned.append(f"{name} does nothing {where}")
        values[name] = neutral
    return values, warned


_LACKS = {
    REDRAWS: " without a check",
    NOVELTY: " without check='novel'",
    CONFIRMATION: f" without selection={HARDEST!r} and a guide",
}


def _without_effect(
    method: Method, values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[tuple[str, Any, str]]:
    """Each option that does nothing: its name, its neutral value, and why."""
    specs = {spec.name: spec for spec in dataclasses.fields(ExpansionConfig)}
    parts, criteria = _parts(method, values), set(values["criteria"])
    neutral = {**{name: spec.default for name, spec in specs.items()}, **defaults, **NEUTRAL}
    for name, spec in specs.items():
        if spec.metadata["of"] not in parts:
            without = _LACKS.get(spec.metadata["of"], "")
            yield name, neutral[name], f"for method {method.name!r}{without}"
    if GUIDANCE in parts:
        for criterion in sorted(set(CRITERIA) - criteria):
            name = f"{criterion}_weight"
            default = defaults.get(name, specs[name].default)
            yield name, default, f"where {criterion!r} is not among the criteria"


def _check(config: ExpansionConfig) -> None:
    """Raise ConfigError if options do not fit each other."""
    method = METHODS[config.method]
    for name in ("templates", "prompts"):
        check_prompts(name, getattr(config, name))
    check_synonyms(config.synonyms)
    check_contexts(config.contexts)
    if "diversity" in config.criteria and config.ratio == 1:
        raise ConfigError("a single copy (ratio 1) has no diversity; raise ratio, or remove it from criteria")
    if method.selects and config.check != "selective":
        raise ConfigError(
            f"method {method.name!r} has its own check, got check={config.check!r}; remove that option, or use method"
            f" {method.base!r}"
        )
    if (
        IMG2IMG in method.parts
        and isinstance(config.strength, float)
        and int(config.strength * config.decode_steps) < 1
    ):
        raise ConfigError(
            f"strength {config.strength} of {config.decode_steps} decode_steps is less than one step; raise either"
        )
    if config.keeps and method.moves:
        still = ", ".join(name for name, one in METHODS.items() if not one.moves and not one.selects)
        raise ConfigError(
            f"method {method.name!r} moves or mixes what images show, so keep={config.keep} cannot hold; methods that"
            f" do not: {still}"
        )
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", config.split):
        raise ConfigError(f"split must be a letter, then at most 39 letters, digits and _, got {config.split!r}")
    if config.validation_share and config.split == "validation":
        raise ConfigError(
            "split must not be 'validation' together with validation_share, which writes a split of that name"
        )


def _parts(method: Method, values: Mapping[str, Any]) -> set[str]:
    """Parts whose options have an effect; the part without a name always has."""
    check = values.get("check", method.defaults["check"])
    checks, compares = check != "none", check == NOVEL
    classifies = method.imagines or (checks and not compares) or bool(values.get("measure_pictures", False))
    confirms = values.get("selection") == HARDEST and values.get("guide") is not None
    own = [CLASSIFIER] * classifies, [REDRAWS] * checks, [NOVELTY] * compares, [CONFIRMATION] * confirms
    return {"", *method.parts, *chain.from_iterable(own)}


def own_defaults(method: Method) -> dict[str, Any]:
    """The method's values of the options whose default depends on the method, if they have an effect."""
    return _with_effect(method.defaults, method, {})


def _with_effect(options: Mapping[str, Any], method: Method, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that have an effect for a method with the given values."""
    parts = _parts(method, values)
    of = {spec.name: spec.metadata["of"] for spec in dataclasses.fields(ExpansionConfig)}
    return {name: value for name, value in options.items() if of[name] in parts}


def _preset_options(name: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a preset for the given method."""
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{closest(str(name), PRESETS)}")
    method = METHODS.get(str(given.get("method", DEFAULT_METHOD)))
    if method is None:
        return {}  # the error comes when the method is checked
    left_out = {f"{criterion}_weight" for criterion in CRITERIA if criterion not in given.get("criteria", CRITERIA)}
    options = {name: value for name, value in PRESETS[name].options(method, given).items() if name not in left_out}
    return _with_effect(options, method, given)


def _domain_options(domain: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Prompts of a domain for the given method and the strength of img2img, if they have an effect."""
    method = METHODS.get(str(given.get("method", DEFAULT_METHOD)))
    if method is None:
        return {}  # the error comes when the method is checked
    options: dict[str, Any] = {"templates": templates_of(str(domain)), "prompts": prompts_of(str(domain))}
    if IMG2IMG in method.parts and (strength := strength_of(str(domain))) is not None:
        options["strength"] = strength
    return _with_effect(options, method, given)
