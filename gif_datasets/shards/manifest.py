"""The manifest of an expanded folder: its fields, its checks, and the files that are derived from it for readers.

The folder's layout is that of ``docs/format.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gif_datasets.config import KEPT, readable_options
from gif_datasets.errors import ShardError, UsageError
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import AnyPath
from gif_datasets.ratios import Ratio, expanded_text, is_ratio
from gif_datasets.shards import switch
from gif_datasets.shards.index import IMAGE_SUFFIXES
from gif_datasets.types import EXPORTED, OBJECTS, VALIDATION

MANIFEST = switch.MANIFEST
MANIFEST_FORMAT = 3
CARD = "README.md"
PREVIEW = switch.PREVIEW
LEFT_OUT = "left_out"
"""Manifest field of a folder written without its rejected samples: what each of these samples was."""
IMAGE_SIZES = "image_sizes"
"""Manifest field: least width and height, then largest, of real and of synthetic images."""

MERGED, COPIES = "merged", "copies"
"""Plan fields: of a folder that several were merged into, their plans; and the number of all copies, where seeds have
different numbers of them."""


@dataclass(frozen=True)
class Shard:
    """One finished shard, as its sidecar and the manifest describe it; ``failed`` samples did not pass their check."""

    name: str
    samples: int
    failed: int
    bytes: int
    sha256: str
    md5: str

    @classmethod
    def from_json(cls, value: Any) -> Shard:
        """Rebuild from JSON; raises ShardError when a field is missing, unknown or of another type."""
        try:
            shard = cls(**value)
            if not all(type(getattr(shard, name)) is kind for name, kind in _SHARD_FIELDS.items()):
                raise TypeError(value)
        except TypeError as error:
            raise ShardError(f"damaged shard entry: {value!r:.300}") from error
        if not re.fullmatch(r"data/[A-Za-z0-9_-]+\.tar", shard.name):
            raise ShardError(f"a shard entry names a path outside data/: {shard.name!r}")
        if not all(0 <= count <= _MOST for count in (shard.samples, shard.failed, shard.bytes)):
            raise ShardError(f"damaged shard entry: {value!r:.300}")
        return shard


_SHARD_FIELDS = {"name": str, "samples": int, "failed": int, "bytes": int, "sha256": str, "md5": str}


@dataclass(frozen=True)
class Generation:
    """What one expansion, update or withdrawal did to a folder; its entry in the plan.

    Attributes:
        after: ``plan_hash`` of the generation before; empty for the first.
        added: Seeds that came with it.
        withdrawn: Seeds that left with it.
        unmixed: Copies of seeds that stayed, which were removed because they showed a seed that left.
        shards: Shards that it wrote.
        samples: Samples of the folder after it.
        next_seed: Above the number of every seed that the folder has ever had.
        device: Kind of device that made its copies.
        versions: Versions of the libraries that made them, by name.
        population: Digest of the seeds that all its copies depend on; empty if there are none.
        kept: What follows from all seeds, and was kept as the first generation had it.
        more: Copies that it added to seeds that were there, by the seed's number.
    """

    after: str
    added: int
    withdrawn: int
    unmixed: int
    shards: int
    samples: int
    next_seed: int
    device: str
    versions: Mapping[str, str]
    population: str = ""
    kept: tuple[str, ...] = ()
    more: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any) -> Generation:
        """Rebuild from JSON; raises ShardError when a field is missing, unknown or of another type."""
        try:
            entry = cls(**{**value, "kept": tuple(value["kept"])})
            kinds = {name: type(getattr(entry, name)) for name in _GENERATION_FIELDS}
            if kinds != _GENERATION_FIELDS or not all(isinstance(name, str) for name in entry.kept):
                raise TypeError(value)
            if not all(_NUMBER.fullmatch(seed) and type(count) is int for seed, count in entry.more.items()):
                raise TypeError(value)
        except (TypeError, KeyError) as error:
            raise ShardError(f"damaged entry of a generation: {value!r:.300}") from error
        return entry

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON types."""
        value = {**asdict(self), "versions": dict(self.versions), "kept": list(self.kept)}
        return {name: part for name, part in value.items() if name != "more" or part}  # most generations have none


_GENERATION_FIELDS = {
    "after": str,
    "added": int,
    "withdrawn": int,
    "unmixed": int,
    "shards": int,
    "samples": int,
    "next_seed": int,
    "device": str,
    "versions": dict,
    "population": str,
    "kept": tuple,
    "more": dict,
}
_NUMBER = re.compile(r"[0-9]{1,10}")
GENERATIONS, WITHDRAWN, WITHDRAWN_IMAGES = "generations", "withdrawn", "withdrawn_images"
"""Plan fields of a folder that has changed since it was made: its generations; digests of the keys of seeds that must
not come back; and digests of the images that left with these."""


_MANIFEST_FIELDS = {
    "source": str,
    "split": str,
    "classes": list,
    "samples": int,
    "originals": int,
    "synthetic": int,
    "validation": int,
    "failed_checks": int,
    "plan": dict,
    "plan_hash": str,
    "shards": list,
    "files": dict,
    "digest": str,
}
_PRIOR_FIELDS = {"name": str, "digest": str}
_PLAN_FIELDS = {
    "source": str,
    "split": str,
    "seeds": int,
    "synthetic_seeds": int,
    "validation_seeds": int,
    "originals": bool,
    "shards": list,
    "recipe": dict,
}
OBJECTS_DIGEST = "objects_digest"
"""Of a plan: digest of what is marked in the seeds; absent where nothing is kept of it."""
ORIGINAL_FILES = "original_files"
"""Of a plan: whether originals that are upright JPEG files are stored as they are; absent where none is."""
SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
"""Split names: they become parts of file names."""
_RECIPE_FIELDS = {"options": dict, "prior": dict, "device": str, "versions": dict}
_MERGED_FIELDS = {"source": str, "seeds": int, "recipe": dict}
_COUNTS = ("samples", "originals", "synthetic", "validation", "failed_checks")
_MOST = 2**53 - 1
"""The largest count: every reader of JSON keeps it."""
_WORD = re.compile(r"[A-Za-z0-9_.+!:-]{1,100}")
"""Names of options, libraries and devices, and versions: cards and configurations contain them as they are."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r".{1,100}")


@dataclass(frozen=True)
class PriorRecord:
    """The prior of an expansion.

    Attributes:
        name: Name or path.
        digest: Digest of its weights.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class RecipeRecord:
    """How the images of a folder were made.

    Attributes:
        options: Fields of :class:`~gif_datasets.config.ExpansionConfig`, as people read them.
        prior: The prior.
        device: Kind of device.
        versions: Versions of the libraries, by name.
        content: The whole JSON object.
    """

    options: Mapping[str, Any]
    prior: PriorRecord
    device: str
    versions: Mapping[str, str]
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecipeRecord:
        """Rebuild from JSON that :func:`_damage` has checked."""
        prior = PriorRecord(value["prior"]["name"], value["prior"]["digest"])
        return cls(readable_options(value["options"]), prior, value["device"], value["versions"], value)

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON types."""
        return dict(self.content)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.options["method"])

    @property
    def ratio(self) -> Ratio:
        """Copies of each seed, as :class:`~gif_datasets.config.ExpansionConfig` has it."""
        ratio: Ratio = self.options["ratio"]
        return ratio

    @property
    def expanded(self) -> str:
        """How much it expands, for titles."""
        return expanded_text(self.ratio)

    @property
    def image_format(self) -> str:
        """Suffix of the images; also the name of their column."""
        return str(self.options["image_format"])


@dataclass(frozen=True)
class PlanRecord:
    """The plan of a folder.

    Attributes:
        recipe: How its images were made.
        seeds: Number of expanded seeds.
        originals: Whether the seeds themselves are in the shards.
        synthetic_seeds, synthetic_validation: Numbers of seeds, in each split, that are synthetic themselves.
        seeds_digest, validation_digest: Digests of the seeds of each split.
        own_columns: Features and digest of the source's own columns; None if it has none.
        objects: What is kept in every record, ``keep`` and the ``classes`` of objects; None without.
        source_revision: Commit of a source on the Hub.
        generations: The generations of a folder that has changed since it was made; empty for others.
        withdrawn: Digests of the keys of seeds that must not come back; see :func:`withdrawn_digest`.
        withdrawn_images: The same of the image files that left with them, of seeds, copies and mixes.
        merged: The plans of the folders that it was merged from; empty for others.
        content: The whole JSON object; :attr:`Manifest.plan_hash` is its digest.
    """

    recipe: RecipeRecord
    seeds: int
    originals: bool
    synthetic_seeds: int
    synthetic_validation: int
    seeds_digest: str | None
    validation_digest: str | None
    own_columns: Mapping[str, Any] | None
    objects: Mapping[str, Any] | None
    source_revision: str | None
    generations: tuple[Generation, ...]
    withdrawn: frozenset[str]
    withdrawn_images: frozenset[str]
    merged: tuple[Mapping[str, Any], ...]
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PlanRecord:
        """Rebuild from JSON that :func:`_damage` has checked."""
        return cls(
            recipe=RecipeRecord.from_json(value["recipe"]),
            seeds=value["seeds"],
            originals=bool(value.get("originals")),
            synthetic_seeds=value.get("synthetic_seeds", 0),
            synthetic_validation=value.get("synthetic_validation", 0),
            seeds_digest=value.get("seeds_digest"),
            validation_digest=value.get("validation_digest"),
            own_columns=value.get("own_columns"),
            objects=value.get(OBJECTS),
            source_revision=value.get("source_revision"),
            generations=tuple(map(Generation.from_json, value.get(GENERATIONS, ()))),
            withdrawn=frozenset(value.get(WITHDRAWN, ())),
            withdrawn_images=frozenset(value.get(WITHDRAWN_IMAGES, ())),
            merged=tuple(value.get(MERGED, ())),
            content=value,
        )

    @property
    def copies(self) -> int:
        """All copies that it asks for."""
        if COPIES in self.content or not isinstance(self.recipe.ratio, int):
            return int(self.content[COPIES])
        return self.seeds * self.recipe.ratio

    @property
    def more(self) -> Counter[int]:
        """Copies that later generations added to seeds that were there, by the seed's number."""
        found = Counter[int]()
        for generation in self.generations:
            found.update({int(seed): count for seed, count in generation.more.items()})
        return found

    @property
    def merged_generations(self) -> tuple[tuple[Generation, ...], ...]:
        """The generations of each of the folders that it was merged from."""
        return tuple(tuple(map(Generation.from_json, plan.get(GENERATIONS, ()))) for plan in self.merged)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that made the folder, as :class:`~gif_datasets.config.ExpansionConfig` takes them."""
        here = ("split", "originals", "validation_share")
        own = {name: self.content[name] for name in here if name in self.content}
        guide = {"guide": self.recipe.content["guide"]["name"]} if "guide" in self.recipe.content else {}
        return {**self.recipe.options, "prior": self.recipe.prior.name, **guide, **own}


@dataclass(frozen=True)
class Manifest:
    """What an expanded folder contains.

    Attributes:
        source: Name of the source.
        split: Name of the expanded split.
        classes: Class names, in label order.
        samples, originals, synthetic: Samples of the expanded split; how many are real, and how many are not.
        validation: Samples of the validation split; 0 if there is none.
        failed_checks: Samples that did not pass their check.
        plan: The plan.
        plan_hash: Its digest.
        shards: The shards of all splits, in order.
        files: Size and digest of each other file, by name.
        digest: Digest of all other fields.
        left_out: What each sample was that was rejected before the shards were written, by key.
        content: The whole JSON object, with fields that this version does not know.
    """

    source: str
    split: str
    classes: tuple[str, ...]
    samples: int
    originals: int
    synthetic: int
    validation: int
    failed_checks: int
    plan: PlanRecord
    plan_hash: str
    shards: tuple[Shard, ...]
    files: Mapping[str, Any]
    digest: str
    left_out: Mapping[str, Any]
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, value: Any, path: AnyPath | str = MANIFEST) -> Manifest:
        """Rebuild from JSON; raises ShardError, which names ``path``, when a field is missing or of another type."""
        if problem := _damage(value):
            raise ShardError(f"{path} is damaged: {problem}")
        kept = ("source", "split", "samples", "originals", "synthetic", "validation", "failed_checks", "plan_hash")
        return cls(
            **{name: value[name] for name in (*kept, "files", "digest")},
            classes=tuple(value["classes"]),
            plan=PlanRecord.from_json(value["plan"]),
            shards=tuple(map(Shard.from_json, value["shards"])),
            left_out=value.get(LEFT_OUT, {}),
            content=value,
        )

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON types."""
        return dict(self.content)

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the expansion."""
        return self.plan.recipe.options

    @property
    def image_sizes(self) -> Mapping[str, Sequence[int]]:
        """Least width and height, then largest, of real and of synthetic images; empty if they were not measured."""
        sizes: Mapping[str, Sequence[int]] = self.content.get(IMAGE_SIZES, {})
        return sizes

    @property
    def title(self) -> str:
        """Title of pages about the dataset, as plain text."""
        return f"{self.source}, expanded {self.plan.recipe.expanded} by {self.plan.recipe.method}"

    @property
    def splits(self) -> tuple[str, ...]:
        """The expanded split, and the validation split if there is one."""
        return (self.split, VALIDATION) if self.validation else (self.split,)

    def check_split(self, split: str | None) -> None:
        """Raise UsageError for an unknown split."""
        if split is not None and split not in self.splits:
            raise UsageError(f"no split {split!r} here; there is {' and '.join(self.splits)}")

    def shards_of(self, split: str | None = None) -> list[Shard]:
        """The shards of one split; the expanded one by default."""
        return [shard for shard in self.shards if split_of(shard.name) == (split or self.split)]


def shard_name(split: str, index: int, count: int) -> str:
    """``data/train-00000-of-00064.tar``: the pattern that Hugging Face datasets finds without configuration."""
    return f"data/{split}-{index:05d}-of-{count:05d}.tar"


def shard_number(name: str) -> int:
    """The number of a shard in its split, from its name.

    Example:
        >>> shard_number(shard_name("train", 7, 64))
        7
    """
    return int(name.removesuffix(".tar").rsplit("-", 3)[1])


def next_numbers(shards: Iterable[Shard]) -> Counter[str]:
    """Above the number of every shard, by split."""
    numbers = Counter[str]()
    for shard in shards:
        numbers[split_of(shard.name)] = max(numbers[split_of(shard.name)], shard_number(shard.name) + 1)
    return numbers


def withdrawn_digest(content: str) -> str:
    """What a plan remembers of an image that was withdrawn: enough to know it again, and not to find it.

    The digests are not salted: a check of the folder needs the salt, which would lie beside them and hide nothing.

    Args:
        content: Key of the seed, or SHA-256 of the image file.
    """
    return digest(["withdrawn", content])


def split_of(name: str) -> str:
    """The split of a shard, from its name."""
    return name.removeprefix("data/").partition("-")[0]


def index_files(manifest: Manifest) -> dict[str, bytes]:
    """Index files of other readers, by name: timm's ``_info.json``, and a wids index of each split."""
    files, infos = {}, {}
    for split in manifest.splits:
        listed = manifest.shards_of(split)
        counts = [shard.samples for shard in listed]
        infos[split] = {
            "name": split,
            "num_samples": sum(counts),
            "filenames": [shard.name for shard in listed],
            "shard_lengths": counts,
            "alt_label": "",
        }
        wids = {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": manifest.source,
            "shardlist": [
                {
                    "url": shard.name,
                    "nsamples": shard.samples,
                    "filesize": shard.bytes,
                    "md5sum": shard.md5,
                    "sha256": shard.sha256,
                }
                for shard in listed
            ],
        }
        files[f"wids-{split}.json"] = atomic.json_bytes(wids)
    return {"_info.json": atomic.json_bytes({"splits": infos}), **files}


def file_entries(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Size and digest of each file, as manifests list them."""
    return {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }


def sealed(content: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """A manifest's fields with the digests of the other files of the folder, and its own."""
    value: dict[str, Any] = json.loads(json.dumps({**content, "files": file_entries(files)}))
    value.pop("digest", None)
    return {**value, "digest": digest(value)}


def write_files(folder: AnyPath, files: Mapping[str, bytes]) -> None:
    """Write each of ``files`` that is missing or differs. An edited card is kept."""
    before = finished_manifest(folder)
    for name, content in files.items():
        path = folder / name
        present = path.read_bytes() if path.is_file() else None
        entry = before.files.get(name) if before else None
        written = entry.get("sha256") if isinstance(entry, dict) else None
        edited = name == CARD and present is not None and written not in (None, hashlib.sha256(present).hexdigest())
        if present != content and not edited:
            atomic.write_bytes(path, content)


def write_manifest(folder: AnyPath, manifest: Manifest) -> None:
    """Write the manifest, which makes the folder a finished one, unless it is there."""
    before = finished_manifest(folder)
    if before is None or before.content != manifest.content:
        atomic.write_json(folder / MANIFEST, manifest.to_json())


def read_manifest(folder: AnyPath) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        UsageError: If there is none.
        ShardError: If it is damaged, or of another format.
    """
    path = folder / MANIFEST
    content = _manifest_bytes(folder)
    try:
        value = read_json(content)
    except ValueError as error:
        raise ShardError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise ShardError(f"{path} is damaged")
    if value["format"] != MANIFEST_FORMAT:
        newer = value["format"] > MANIFEST_FORMAT
        raise ShardError(
            f"{path} is of format {value['format']}, {'newer' if newer else 'older'} than {MANIFEST_FORMAT}; "
            + ("upgrade gif_datasets" if newer else "expand again into another folder")
        )
    manifest = Manifest.from_json(value, path)
    if not _is_sealed(value, content):
        raise ShardError(f"{path} is damaged: it differs from its own digest; expand again into {folder} to fix it")
    return manifest


def finished_manifest(folder: AnyPath) -> Manifest | None:
    """The manifest of a folder; None if the folder is not finished, or its manifest is damaged."""
    try:
        return read_manifest(folder)
    except (UsageError, ShardError):
        return None


def _damage(manifest: Mapping[str, Any]) -> str:
    """The first field that this package does not write so; empty if there is none."""
    recipe = manifest["plan"].get("recipe") if isinstance(manifest.get("plan"), dict) else None
    prior, guide = (recipe.get("prior"), recipe.get("guide", {})) if isinstance(recipe, dict) else (None, {})
    parts = (
        (manifest, _MANIFEST_FIELDS),
        (manifest.get("plan"), {"seeds": int}),
        (recipe, _RECIPE_FIELDS),
        (prior, _PRIOR_FIELDS),
        (guide, _PRIOR_FIELDS if guide != {} else {}),
    )
    for part, fields in parts:
        if problem := _unlike(part, fields):
            return problem
    if (kind := manifest["plan"]["recipe"]["options"].get("image_format")) not in IMAGE_SUFFIXES:
        return f"its image_format is {str(kind)[:60]!r}"
    if not isinstance(manifest.get(LEFT_OUT, {}), dict):
        return f"{LEFT_OUT!r} is of another type"
    if not _are_sizes(manifest.get(IMAGE_SIZES, {})):
        return f"{IMAGE_SIZES!r} is of another type"
    if not isinstance(manifest["plan"].get("own_columns", {}), dict):
        return "'own_columns' is of another type"
    if OBJECTS in manifest["plan"] and not _are_objects(manifest["plan"][OBJECTS]):
        return f"{OBJECTS!r} is of another type"
    if problem := _damage_of_lists(manifest["plan"]):
        return problem
    if problem := _damage_of_merged(manifest["plan"].get(MERGED, [])):
        return problem
    if not all(isinstance(name, str) for name in manifest["classes"]):
        return "class names must be strings"
    return _odd_number(manifest) or _odd_text(manifest)


def _damage_of_merged(plans: Any) -> str:
    """The first field of the plans of merged folders that is damaged; empty if there is none."""
    if not isinstance(plans, list):
        return f"{MERGED!r} is of another type"
    problems = (
        _unlike(plan, _MERGED_FIELDS) or _unlike(plan["recipe"], _RECIPE_FIELDS) or _damage_of_lists(plan)
        for plan in plans
    )
    return next(filter(None, problems), "")


def _damage_of_lists(plan: Mapping[str, Any]) -> str:
    """The first of a plan's lists that is damaged; empty if there is none."""
    for name, kind in ((GENERATIONS, dict), (WITHDRAWN, str), (WITHDRAWN_IMAGES, str)):
        listed = plan.get(name, [])
        if not isinstance(listed, list) or not all(isinstance(entry, kind) for entry in listed):
            return f"{name!r} is of another type"
    return ""


def _are_objects(value: Any) -> bool:
    """Whether this says what records keep of objects, and names their classes."""
    classes = value.get("classes") if isinstance(value, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return False
    return value.get("keep") in KEPT and len(set(classes)) == len(classes)


def _are_sizes(value: Any) -> bool:
    """Whether these are four sides of images for each kind."""
    sides = [value[kind] for kind in value] if isinstance(value, dict) else [None]
    return all(isinstance(four, list) and len(four) == 4 and all(map(_is_side, four)) for four in sides)


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST


def _odd_number(manifest: Mapping[str, Any]) -> str:
    """The first number that no run writes; empty if there is none."""
    plan = manifest["plan"]
    options, limit = plan["recipe"]["options"], plan.get("limit")
    for name, value, low, high in (
        ("decode_batch", options.get("decode_batch"), 1, _MOST),
        ("limit", 1 if limit is None else limit, 1, _MOST),
        ("seeds", plan["seeds"], 0, _MOST),
        ("copies", plan.get(COPIES, 0), 0, _MOST),
        *((name, manifest[name], 0, _MOST) for name in _COUNTS),
    ):
        if type(value) is not int or not low <= value <= high:
            return f"its {name} is {value!r:.60}"
    return _odd_ratio(options.get("ratio"), plan)


def _odd_ratio(ratio: Any, plan: Mapping[str, Any]) -> str:
    """What is wrong with a ratio, which needs the number of all copies beside it unless it is one number."""
    if not is_ratio(ratio):
        return f"its ratio is {ratio!r:.60}"
    return "" if type(ratio) is int or COPIES in plan else f"{COPIES!r} is missing beside the ratio {ratio!r:.60}"


def _odd_text(manifest: Mapping[str, Any]) -> str:
    """The first text that is not of the form that it has in every manifest; empty if there is none."""
    recipe = manifest["plan"]["recipe"]
    versions = recipe["versions"]
    for what, form, texts in (
        ("option", _WORD, recipe["options"]),
        ("method", _NAME, [recipe["options"].get("method")]),
        ("library", _WORD, versions),
        ("version", _WORD, versions.values()),
        ("device", _WORD, [recipe["device"]]),
        ("digest", _DIGEST, [manifest["plan_hash"], recipe["prior"]["digest"]]),
    ):
        for text in texts:
            if not isinstance(text, str) or not form.fullmatch(text):
                return f"its {what} is {text!r:.60}"
    return ""


def plan_damage(plan: Any) -> str:
    """The first field, of those needed to finish a folder, that is damaged; empty if there is none."""
    if problem := _unlike(plan, _PLAN_FIELDS):
        return problem
    recipe = plan["recipe"]
    if not isinstance(recipe.get("classes"), list) or not isinstance(recipe.get("options"), dict):
        return "its recipe is not a recipe"
    return _odd_ratio(recipe["options"].get("ratio"), plan)


def _unlike(part: Any, fields: Mapping[str, type]) -> str:
    """The first field that is missing, of another type, or not the name of a split; empty if there is none."""
    for name, kind in fields.items():
        if not isinstance(part, dict) or type(part.get(name)) is not kind:
            return f"{name!r} is missing or of another type"
    if "split" in fields and not SPLIT.fullmatch(part["split"]):
        return f"its split is {part['split'][:60]!r}"
    return ""


def is_newer(folder: AnyPath) -> bool:
    """Whether a folder has a manifest of a newer format than this version knows."""
    try:
        value = read_json(_manifest_bytes(folder))
    except (UsageError, ShardError, ValueError):
        return False
    return isinstance(value, dict) and type(value.get("format")) is int and value["format"] > MANIFEST_FORMAT


def _manifest_bytes(folder: AnyPath) -> bytes:
    path = folder / MANIFEST
    if isinstance(folder, Path):
        switch.settle(folder)
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if (folder / EXPORTED).is_file():
            raise UsageError(f"{folder} is an export; to check it, run the same `gif-datasets export` again") from error
        raise UsageError(f"no {MANIFEST} in {folder}: not an expanded folder, or not finished") from error
    except OSError as error:
        raise ShardError(f"cannot read {path}: {error}") from error


def _is_sealed(manifest: Mapping[str, Any], content: bytes) -> bool:
    """Whether a manifest has the bytes that this package writes, and its own digest."""
    bare = {name: value for name, value in manifest.items() if name != "digest"}
    try:
        return atomic.json_bytes(manifest) == content and digest(bare) == manifest["digest"]
    except ValueError:  # a NaN, or half of a surrogate pair
        return False


def shard_json(shard: Shard) -> dict[str, Any]:
    """A shard's entry as JSON types."""
    return asdict(shard)


def shard_size(samples: int, block: int) -> int:
    """Default number of samples in a shard: about 64 shards, within limits, in whole blocks, so that none is padded."""
    size = min(max(-(-samples // 64), 50), 1_000)
    return -(-size // block) * block
