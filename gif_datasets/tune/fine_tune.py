"""Fine-tune a prior on a small dataset, so that it makes images of the dataset's own domain (section E.3, Table 9).

The result is a prior's folder. Run again = resume; a share of the seeds is never trained on and says when to stop.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gif_datasets.captions import read_captions
from gif_datasets.chunks import blocks
from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError, PriorError, SourceError
from gif_datasets.expansion.recipe import ordered, version_of
from gif_datasets.guidance.rng import generator_for
from gif_datasets.io import atomic
from gif_datasets.io.devices import resolve_device
from gif_datasets.io.digests import digest
from gif_datasets.io.room import naming_full_disk
from gif_datasets.options import checked_fields, closest
from gif_datasets.priors import (
    DEFAULTS,
    FAMILIES,
    PRIOR_FORMAT,
    WITHOUT_CLIP,
    PriorInfo,
    find_prior,
    load_prior,
    prior_parts,
)
from gif_datasets.priors.published import NOT_TUNABLE, TUNABLE_PIPELINES
from gif_datasets.priors.weights import CLIPS
from gif_datasets.prompts import DOMAINS, check_prompts, prompts_of
from gif_datasets.report import charts
from gif_datasets.shards import image_grid
from gif_datasets.shards.card import code, plain
from gif_datasets.shards.folder import STATE, claim_folder
from gif_datasets.sources import wrap_source
from gif_datasets.sources.base import SeedList, Source, list_seeds, seed_image
from gif_datasets.sources.identity import as_listed
from gif_datasets.sources.splits import hold_out
from gif_datasets.types import Progress, Seed, no_progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from gif_datasets.priors.base import Prior
    from gif_datasets.tune.loop import State
    from gif_datasets.tune.objectives import Objective, Rows

TUNING_FORMAT = 1
TUNABLE = tuple(family for family in FAMILIES if family not in WITHOUT_CLIP)
LOG, CHART, SHEETS = "tuning/log.jsonl", "tuning/loss.svg", "tuning/sheet-{:06d}.png"
SHEET_SEEDS, SHEET_COPIES = 8, 4
ENCODED_AT_ONCE = 8
_APART = ("prior", "family", "captions")
"""Options that a task has in a form of its own."""


def _option(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class TuneConfig:
    """Every choice of a fine-tuning.

    Raises:
        ConfigError: If a value has the wrong type or lies outside its range, naming both.

    Example:
        >>> TuneConfig(steps=200).learning_rate
        0.0001
    """

    prior: str = _option("embedded", "name of a prior, or a prior's folder")
    family: str | None = _option(None, "which of its decoders; None: the first", choices=TUNABLE)
    steps: int = _option(2000, "most steps", low=1)
    learning_rate: float = _option(1e-4, "its peak", low=1e-9, high=1.0)
    batch_size: int = _option(16, "images a step", low=1)
    held_out: float = _option(0.1, "share of each class's seeds never trained on", low=0.01, high=0.9)
    every: int = _option(100, "steps between looks at them", low=1)
    patience: int = _option(5, "looks without a lower loss after which to stop", low=1)
    rank: int | None = _option(
        None, "of the LoRA; 0 trains all weights; None: all of a decoder below 100M, else 16", low=0, high=4096
    )
    mirror: bool = _option(False, "train on mirror images too")
    prompts: tuple[str, ...] = _option(
        DOMAINS["natural"].prompts, "captions around a class name, or a domain; sd", read=prompts_of
    )
    captions: str | None = _option(None, "a file of captions of single images; sd")
    rng_seed: int = _option(0, "the run's number", low=0, high=2**63 - 1)
    dtype: str = _option("float32", "precision of what is not trained", choices=("float32", "bfloat16"))
    threads: int = _option(1, "CPU threads; another number rounds differently", low=1, high=1024)

    def __post_init__(self) -> None:
        for name, value in checked_fields(TuneConfig, vars(self)).items():
            object.__setattr__(self, name, value)
        check_prompts("prompts", self.prompts)


@dataclass(frozen=True)
class TuneSummary:
    """What a fine-tuning did.

    Attributes:
        folder: The tuned prior's folder.
        base: Name of the prior that was tuned.
        family: Which of its decoders.
        rank: Rank of the LoRA; 0 where all weights were trained.
        seeds: Images trained on.
        held_out: Images held out.
        steps: Steps done.
        best_step: The step whose weights were kept; 0: those of the base prior.
        loss_before: Loss of the images held out, by the base prior.
        loss_after: By the tuned one.
        bad: Messages of images that were left out.
        seconds: Wall-clock time of this run.
    """

    folder: str
    base: str
    family: str
    rank: int
    seeds: int
    held_out: int
    steps: int
    best_step: int
    loss_before: float
    loss_after: float
    bad: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _Task:
    """A fine-tuning, fixed, before anything heavy is loaded; ``listed`` is how its card lists the source."""

    config: TuneConfig
    source: Source
    train: tuple[Seed, ...]
    validation: tuple[Seed, ...]
    base: PriorInfo
    family: str
    device: str
    source_license: str
    listed: tuple[str, ...] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    """Contexts of images, by ``seed_origin``."""

    def to_json(self) -> dict[str, Any]:
        """All that decides the result."""
        return {
            "format": TUNING_FORMAT,
            "source": self.source.name,
            "source_license": self.source_license,
            "classes": list(self.source.classes),
            "seeds": len(self.train),
            "seeds_digest": SeedList(self.train, ()).digest,
            "validation_seeds": len(self.validation),
            "validation_digest": SeedList(self.validation, ()).digest,
            "prior": {"name": self.base.name, "digest": self.base.digest},
            "family": self.family,
            "options": {name: value for name, value in dataclasses.asdict(self.config).items() if name not in _APART},
            "device": self.device,
            "versions": {name: version_of(name) for name in ("torch", "diffusers")},
            **({"captions": digest(self.captions), "captioned": len(self.captions)} if self.captions else {}),
        }

    @cached_property
    def contexts(self) -> dict[str, int]:
        """Each context once, with its place after the prompts."""
        return {one: place for place, one in enumerate(sorted(set(self.captions.values())), len(self.config.prompts))}

    def caption_of(self, seed: Seed) -> int:
        """The place of an image's own caption among prompts and contexts; -1 without one."""
        return self.contexts.get(self.captions.get(seed.origin, ""), -1)


def tune(
    source: Any,
    out: str | Path,
    *,
    limit: int | None = None,
    device: str = "auto",
    source_license: str = "",
    config: TuneConfig | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> TuneSummary:
    """Fine-tune a prior on a dataset: the command ``gif-datasets tune`` as a function.

    While it runs, ``tuning/`` in the output folder holds a log, the curve of the losses, and a sheet of held-out seeds
    beside what the prior makes of them.

    Args:
        source: A source's text, or a dataset object. Imagined images in it are left out.
        out: Output folder: a prior's folder when it is done. Run again = resume.
        limit: Use this many seeds, spread evenly.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        source_license: Licence of the images, if known, for the card.
        config: All options as one object, instead of ``options``.
        progress: Wraps the loops over seeds and steps, for progress bars.
        options: Fields of :class:`TuneConfig`.

    Raises:
        UsageError: If an option or the source does not fit, or the folder holds something else.
        PriorError: If the prior cannot be loaded or trained.
        MissingExtra: If a LoRA is wanted and peft is absent.
    """
    started = time.monotonic()
    if config is not None and options:
        raise ConfigError(f"give either config or options, got both (config and {', '.join(options)})")
    task, bad = _task(source, limit, device, source_license, config or _config(options), progress or no_progress)
    folder = Path(out)
    claim_folder(folder, task.to_json(), "tuning")
    if not (folder / "prior.json").exists():
        _run(task, folder, progress or no_progress)
        shutil.rmtree(folder / STATE, ignore_errors=True)
        atomic.sweep((folder / LOG).parent)
    card = find_prior(str(folder)).card
    return TuneSummary(
        str(folder),
        task.base.name,
        task.family,
        **card["tuning"],
        bad=bad,
        seconds=round(time.monotonic() - started, 1),
    )


def _config(options: dict[str, Any]) -> TuneConfig:
    known = [spec.name for spec in dataclasses.fields(TuneConfig)]
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option {name!r}{closest(name, known)}")
    return TuneConfig(**options)


def _task(
    source: Any, limit: int | None, device: str, source_license: str, config: TuneConfig, show: Progress
) -> tuple[_Task, tuple[str, ...]]:
    """Check and resolve everything that needs no model."""
    base = find_prior(config.prior)
    family = config.family or base.families[0]
    if base.folder is None and base.published is None:
        raise ConfigError(
            f"prior {base.name!r} has no weights to tune; give --prior embedded, a published one, or a prior's folder"
        )
    if base.published and base.published.distilled:
        raise ConfigError(NOT_TUNABLE.format(base.name, base.published.distilled))
    if base.published and base.published.samples and base.published.pipeline not in TUNABLE_PIPELINES:
        raise ConfigError(
            f"cannot tune prior {base.name!r}: its {base.published.pipeline} is of another architecture than those that"
            " can be tuned (Stable Diffusion 1, 2 and XL, IP-Adapters, Stable unCLIP, Kandinsky 2.2, Karlo)"
        )
    if base.published and base.published.samples and config.rank != 0:  # all are large enough for a LoRA by default
        from gif_datasets.tune.objectives import import_peft

        import_peft()
    if family in WITHOUT_CLIP:
        raise ConfigError(
            f"cannot tune prior {base.name!r}: its decoder draws the tokens of a frozen encoder and knows nothing of a"
            " domain; take a prior of family unclip, sd or mae"
        )
    if family not in base.families:
        raise ConfigError(f"prior {base.name!r} has no decoder {family!r}; it has {', '.join(base.families)}")
    settled, opened = resolve_device(device), wrap_source(source)
    captions = _captions(config, base, family)
    listed = list_seeds(opened, limit, show)
    real = [seed for seed in listed.seeds if not seed.synthetic]
    train, validation = hold_out(real, config.held_out, config.rng_seed)
    if not validation:
        raise SourceError(f"{opened.name} needs at least one class with two different real images for validation")
    imagined = len(listed.seeds) - len(real)
    bad = (*listed.bad, *([f"{imagined} imagined images were skipped: tuning uses real ones"] if imagined else []))
    known = {seed.origin for seed in real}
    if captions and not known & captions.keys():
        raise ConfigError(
            f"captions {config.captions} names no image of {opened.name}; it names {next(iter(captions))!r}, and they"
            f" are called as {real[0].origin!r} is"
        )
    task = _Task(
        config=config,
        source=opened,
        train=tuple(ordered(train)),
        validation=tuple(ordered(validation)),
        base=base,
        family=family,
        device=settled,
        source_license=source_license,
        listed=as_listed(source),
        captions={name: context for name, context in sorted(captions.items()) if name in known},
    )
    return task, bad


def _captions(config: TuneConfig, base: PriorInfo, family: str) -> dict[str, str]:
    """The contexts of images, by name; empty without a file of captions."""
    if config.captions is None:
        return {}
    if family != "sd":
        other = "; give --family sd" if "sd" in base.families else ""
        raise ConfigError(f"captions are for decoders that read text, and {base.name!r} tunes its {family} one{other}")
    return read_captions(config.captions)


def _run(task: _Task, folder: Path, show: Progress) -> None:
    """Train, and write the prior's folder; its ``prior.json`` last, so that a folder that has one is whole."""
    import torch

    from gif_datasets.tune.loop import Run, Schedule, reproducibly
    from gif_datasets.tune.objectives import objective_of

    config = task.config
    names = ("steps", "batch_size", "learning_rate", "every", "patience", "rng_seed")
    schedule = Schedule(**{name: getattr(config, name) for name in names})
    with reproducibly(config.threads):
        options = ExpansionConfig(method=task.family, dtype=config.dtype)
        prior = load_prior(task.base, task.family, torch.device(task.device), options)
        words = (task.source.classes, config.prompts)
        objective = objective_of(prior, *words, config.rank, config.rng_seed, list(task.contexts))
        train = _rows(objective, task, task.train, config.mirror, show)
        validation = _rows(objective, task, task.validation, False, show)
        try:
            run = Run(objective, train, validation, schedule, folder / STATE)
            _write_log(run.state, folder)
            run.fit(lambda state: _looked(task, prior, state, folder), show)
        except torch.OutOfMemoryError as error:
            raise PriorError(
                f"out of memory at batch_size {config.batch_size}; take a smaller one, a LoRA (rank 8), or bfloat16"
            ) from error
        with naming_full_disk(folder):
            _write_prior(task, objective, run.state, folder)


def _rows(objective: Objective, task: _Task, seeds: Sequence[Seed], mirror: bool, show: Progress) -> Rows:
    """What the losses need of the seeds, then of their mirror images."""
    import torch
    from PIL import ImageOps

    from gif_datasets.tune.objectives import CAPTION

    parts = []
    for flip in (False, True) if mirror else (False,):
        for block in show(blocks(seeds, ENCODED_AT_ONCE), "encoding images"):
            pictures = [seed_image(task.source, seed) for seed in block]
            shown = [ImageOps.mirror(picture) for picture in pictures] if flip else pictures
            own = {CAPTION: torch.tensor([task.caption_of(seed) for seed in block])} if task.captions else {}
            parts.append({**objective.rows(shown, [seed.label for seed in block]), **own})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _looked(task: _Task, prior: Prior, state: State, folder: Path) -> None:
    """After an evaluation: draw its sheet, and write log and chart."""
    _draw_sheet(task, prior, folder / SHEETS.format(state.step))
    _write_log(state, folder)


def _write_log(state: State, folder: Path) -> None:
    """Write log and chart from the whole history, so that a resumed run neither repeats nor loses a record."""
    if not state.history:
        return
    lines = "".join(json.dumps(record) + "\n" for record in state.history)
    atomic.write_bytes(folder / LOG, lines.encode("utf-8"))
    curves = {
        name: [(record["step"], record[key]) for record in state.history if record[key] is not None]
        for name, key in (("seeds trained on", "loss"), ("seeds held out", "held_out_loss"))
    }
    text = charts.curves("loss", "steps", curves)
    atomic.write_bytes(folder / CHART, text.encode("utf-8"))


def _draw_sheet(task: _Task, prior: Prior, path: Path) -> None:
    """Held-out seeds beside what the prior makes of them, drawn alike at every look."""
    import torch

    varied = prior.decodes_noise or task.family == "sd"
    config = ExpansionConfig(
        method=task.family,
        ratio=SHEET_COPIES if varied else 1,
        rng_seed=task.config.rng_seed,
        decode_batch=SHEET_COPIES,
        prompts=task.config.prompts if task.family == "sd" else TuneConfig.prompts,
    )
    rows = []
    with torch.no_grad(), torch.autocast(task.device, torch.bfloat16, enabled=task.config.dtype == "bfloat16"):
        for seed in image_grid.choose_seeds(task.validation, SHEET_SEEDS):
            picture, name = seed_image(task.source, seed), task.source.classes[seed.label]
            rows.append(image_grid.Row(name, picture, _copies(prior, picture, name, seed.key, config)))
    image_grid.save_preview(rows, f"held-out seeds ({task.family})", path)


def _copies(prior: Prior, picture: Image, name: str, key: str, config: ExpansionConfig) -> tuple[Image, ...]:
    from torchvision.transforms.v2.functional import to_pil_image

    start = prior.start([picture], prior.encode([picture]), [name], [key], config)[0]
    latents = start.expand(config.copies, *start.shape[1:])
    generators = [generator_for(config.rng_seed, key, "decode", copy + 1) for copy in range(config.copies)]
    pixels = prior.decode(latents, generators, config).float().cpu()
    return tuple(to_pil_image((row * 255).round().byte()) for row in pixels)


def _write_prior(task: _Task, objective: Objective, state: State, folder: Path) -> None:
    base, source = task.base, task.source.name
    architecture, parts = objective.architecture, prior_parts(base, task.family)
    clip = base.published.clip if base.published else base.card["clip"]
    if clip not in CLIPS:
        shutil.copytree(parts.scored_by, folder / "clip", dirs_exist_ok=True)
    objective.save(parts, folder / task.family)
    if parts.adapter:
        shutil.copyfile(parts.adapter, folder / parts.adapter.name)
    tuning = {
        "rank": objective.rank,
        "seeds": len(task.train),
        "held_out": len(task.validation),
        "steps": state.step,
        "best_step": state.best_step,
        "loss_before": state.history[0]["held_out_loss"],
        "loss_after": state.best_loss,
    }
    card = {
        "format": PRIOR_FORMAT,
        "name": f"{base.name}-tuned",
        "clip": clip if clip in CLIPS else "clip",
        "variant": parts.variant,
        "null_latent": parts.null_latent,
        **({"adapter": parts.adapter.name} if parts.adapter else {}),
        "decoders": {task.family: task.family},
        "image_size": base.card["image_size"],
        **{name: base.card[name] for name in DEFAULTS if name in base.card},
        "summary": f"{base.name}, its {task.family} decoder tuned on {source}",
        "license": f"{base.card.get('license', 'unknown')}; of {source}: {task.source_license or 'unknown'}",
        "training_data": f"{base.card.get('training_data', 'unknown')}; then {source}",
        "base": {"name": base.name, "digest": base.digest},
        "tuning": tuning,
    }
    atomic.write_bytes(folder / "README.md", _readme(card, task, architecture).encode("utf-8"))
    atomic.write_json(folder / "prior.json", card)


def _readme(card: dict[str, Any], task: _Task, architecture: str) -> str:
    tuning = card["tuning"]
    how = f"a LoRA of rank {tuning['rank']}, merged into them" if tuning["rank"] else "all of the decoder's"
    rows = {
        "architecture": architecture,
        "base prior": f"{card['base']['name']}, digest `{card['base']['digest']}`",
        "tuned on": f"{tuning['seeds']} images of {len(task.source.classes)} classes of `{code(task.source.name)}`",
        **({"captions": f"of {len(task.captions)} of these and of the held-out images"} if task.captions else {}),
        "held out": f"{tuning['held_out']} images, chosen by their content, never trained on",
        "licence": plain(card["license"]),
        "weights trained": how,
        "steps": f"{tuning['steps']}; kept are the weights after {tuning['best_step']}",
        "loss of the held-out images": f"{tuning['loss_before']:.5f} before, {tuning['loss_after']:.5f} after",
        "options": f"`{code(json.dumps(task.to_json()['options']))}`",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    seen = [*task.base.training_sources, *task.listed]
    lines = "".join(f"- {json.dumps(name)}\n" for name in dict.fromkeys(seen))
    head = f"---\ntraining_sources:\n{lines}---\n" if seen else ""
    return (
        f"{head}# {plain(card['name'])}: {plain(card['summary'])}\n\n| what | |\n|---|---|\n{table}\n\n"
        f"It resembles the images that it was tuned on, and may repeat them; share it as you would share those.\n\n"
        f"![Losses]({CHART})\n\nUse it: `gif-datasets expand SOURCE --prior THIS_FOLDER --method gif-{task.family}"
        f" --out DIR`. Sheets of what it made of held-out seeds on the way, and the log, are in `tuning/`.\n"
    )
