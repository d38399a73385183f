"""One function a command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gif_datasets.cli.shared import check_out, config_of, name_bad, name_larger_priors, print_result, progress, warn
from gif_datasets.config import ExpansionConfig, own_defaults
from gif_datasets.errors import ConfigError, ShardError
from gif_datasets.methods import (
    CLASSIFIER,
    DIFFUSION,
    GUIDANCE,
    IMG2IMG,
    METHODS,
    NEUTRAL,
    PERTURBATION,
    PRESETS,
    REDRAWS,
    SELECT,
    SELECT_SUMMARY,
    SELECTION,
    SELECTIVE,
)

if TYPE_CHECKING:
    from gif_datasets.cache import Cache


MOST_LISTED = 2  # values of a list, where methods are listed


def expand(args: argparse.Namespace) -> int:
    """``gif-datasets expand``."""
    config = config_of(args)
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {args.workers}")
    check_out(args.out)
    name_larger_priors(config)
    from gif_datasets import dataset
    from gif_datasets.engines.local import default_workers
    from gif_datasets.recipe import resolve_device

    device = resolve_device(args.device)
    summary = dataset.expand(
        args.source,
        args.out,
        validation=args.validation,
        workers=args.workers or (default_workers(device) if args.engine == "local" else None),
        engine=args.engine,
        ray_address=args.ray_address,
        limit=args.limit,
        cache_dir=args.cache_dir,
        device=device,
        part=_part(args.shard_index, args.num_shards),
        config=config,
        progress=progress,
        say=warn,
    )
    name_bad(summary.bad)
    print_result(args, {**dataclasses.asdict(summary), "preview": str(args.out / "preview.png")}, _expand_text)
    return 0


def plan(args: argparse.Namespace) -> int:
    """``gif-datasets plan``."""
    config = config_of(args)
    from gif_datasets.estimate import estimate

    found = estimate(
        args.source,
        workers=args.workers,
        limit=args.limit,
        device=args.device,
        price=args.price,
        config=config,
        progress=progress,
    )
    print_result(args, found.to_json(), _plan_text)
    return 0


def merge(args: argparse.Namespace) -> int:
    """``gif-datasets merge``."""
    check_out(args.out)
    from gif_datasets import checking
    from gif_datasets.merge import merge_parts
    from gif_datasets.plan import summarise

    merge_parts(args.parts, args.out, progress)
    if problems := checking.verify(args.out, progress):
        raise ShardError("; ".join(problems[:3]))
    value = dataclasses.asdict(summarise(args.out))
    print_result(args, value, _merge_text)
    return 0


def preview(args: argparse.Namespace) -> int:
    """``gif-datasets preview``."""
    config = config_of(args)
    if args.rows < 1:
        raise ConfigError(f"--rows must be at least 1, got {args.rows}")
    if args.out.is_dir():
        raise ConfigError(f"--out must be a file, but {args.out} is a folder")
    check_out(args.out.parent)
    name_larger_priors(config)
    from gif_datasets import decode
    from gif_datasets.cache import open_cache
    from gif_datasets.imagine import Imaginer
    from gif_datasets.plan import make_plan
    from gif_datasets.preview import MOST_COPIES, Row, choose_seeds, save_preview
    from gif_datasets.recipe import make_recipe
    from gif_datasets.sources import list_seeds, open_source, refuse_bad

    source = open_source(args.source)
    recipe = make_recipe(config, source.classes, args.device)
    listed = list_seeds(source, args.limit, lambda rows: progress(rows, "reading seeds"))
    refuse_bad(listed, config.on_bad_image)
    name_bad(listed.bad)
    plan = make_plan(source, listed, recipe)
    recipe = plan.recipe
    imaginer = Imaginer(recipe, source, open_cache(args.cache_dir), plan.seeds)
    found = imaginer.recognition()
    if found and (warning := found.warning(recipe.config, recipe.prior.families)):
        warn(warning)
    seeds = choose_seeds(plan.seeds, args.rows)
    copies = range(1, min(config.ratio, MOST_COPIES) + 1)
    wanted = [(seed, copy) for seed in seeds for copy in copies]
    made = (decode.picture(content, "a copy") for content in imaginer.pictures(wanted))
    rows = [
        Row(
            recipe.classes[seed.label],
            source.sample(seed.index)[0],
            tuple(next(made) for _ in copies),
        )
        for seed in seeds
    ]
    save_preview(rows, f"imagined copies ({config.method})", args.out)
    value = {
        "picture": str(args.out),
        "rows": len(seeds),
        "copies": len(copies),
        "generated": imaginer.generated,
        "recognised": round(found.accuracy, 4) if found else None,
    }
    print_result(args, value, lambda v: f"{v['rows']} seeds and {v['rows'] * v['copies']} copies: {v['picture']}")
    return 0


def info(args: argparse.Namespace) -> int:
    """``gif-datasets info``."""
    from gif_datasets.reader import ShardReader

    reader = ShardReader(_existing(args.dir))
    manifest = reader.manifest
    recipe = manifest["plan"]["recipe"]
    value = {
        "folder": str(args.dir),
        **{
            name: manifest[name]
            for name in ("source", "split", "samples", "originals", "synthetic", "validation", "failed_checks")
        },
        "classes": manifest["classes"],
        "shards": len(manifest["shards"]),
        "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
        **{name: recipe[name] for name in ("prior", "device", "options", "versions")},
        "expansion_counts": {str(copies): seeds for copies, seeds in reader.expansion_counts().items()},
        "plan_hash": manifest["plan_hash"],
    }
    print_result(args, value, _info_text)
    return 0


def verify(args: argparse.Namespace) -> int:
    """``gif-datasets verify``."""
    from gif_datasets import checking

    problems = checking.verify(_existing(args.dir), progress)
    value = {"folder": str(args.dir), "ok": not problems, "problems": problems}
    print_result(
        args, value, lambda v: f"{v['folder']}: every shard and record is whole" if v["ok"] else "\n".join(problems)
    )
    return 1 if problems else 0


def export(args: argparse.Namespace) -> int:
    """``gif-datasets export``."""
    check_out(args.out)
    from gif_datasets.export import export_expanded

    summary = export_expanded(_existing(args.dir), args.out, args.to, progress=progress)
    print_result(args, dataclasses.asdict(summary), _export_text)
    return 0


def report(args: argparse.Namespace) -> int:
    """``gif-datasets report``."""
    if args.out.is_dir():
        raise ConfigError(f"--out must be a file, but {args.out} is a folder")
    from gif_datasets.report import write_report

    found = write_report(_existing(args.dir), args.out, args.prior, progress)
    print_result(args, found.to_json(), lambda v: v["page"])
    return 0


def push(args: argparse.Namespace) -> int:
    """``gif-datasets push``."""
    from gif_datasets.push import push_to_hub

    summary = push_to_hub(
        _existing(args.dir),
        args.repo_id,
        private=not args.public,
        revision=args.revision,
        create_pr=args.create_pr,
        form=args.form,
        license=args.license,
        source_license=args.source_license,
        prior_license=args.prior_license,
        source_citation=_text_of(args.source_citation),
        prior_citation=_text_of(args.prior_citation),
        report=args.report,
        dry_run=args.dry_run,
        progress=progress,
        say=lambda text: print(f"gif-datasets: {text}", file=sys.stderr),
    )
    print_result(args, dataclasses.asdict(summary), _push_text)
    return 0


def methods(args: argparse.Namespace) -> int:
    """``gif-datasets methods``."""
    entries = [
        {"name": method.name, "family": method.family, "summary": method.summary, "defaults": own_defaults(method)}
        for method in METHODS.values()
        if not method.selects
    ]
    options = [
        {
            "name": spec.name,
            "default": list(spec.default) if isinstance(spec.default, tuple) else spec.default,
            "choices": list(spec.metadata.get("choices", ())),
            "of": spec.metadata["of"],
            "by_method": spec.name in NEUTRAL,
            "help": spec.metadata["help"],
        }
        for spec in dataclasses.fields(ExpansionConfig)
    ]
    presets = [
        {
            "name": name,
            "summary": " ".join((preset.__doc__ or "").split()),
            "method": _SHOWN_IN[name],
            "options": preset(METHODS[_SHOWN_IN[name]], {}),
        }
        for name, preset in PRESETS.items()
    ]
    selective = {"name": SELECT + "METHOD", "summary": SELECT_SUMMARY, "defaults": dict(SELECTIVE)}
    value = {"methods": [*entries, selective], "presets": presets, "options": options}
    print_result(args, value, _methods_text)
    return 0


def priors(args: argparse.Namespace) -> int:
    """``gif-datasets priors``."""
    from gif_datasets.priors import find_prior, names
    from gif_datasets.priors.published import PUBLISHED

    found = [find_prior(name) for name in names()]
    value = [{"name": i.name, "families": list(i.families), "digest": i.digest, "card": i.card} for i in found]
    published = [prior.to_json() for prior in PUBLISHED.values()]
    print_result(args, {"priors": value, "published": published}, _priors_text)
    return 0


def cache_stats(args: argparse.Namespace) -> int:
    """``gif-datasets cache stats``."""
    store = _cache(args)
    print_result(args, {"folder": str(store.folder), **store.stats()}, _cache_text)
    return 0


def cache_clear(args: argparse.Namespace) -> int:
    """``gif-datasets cache clear``."""
    store = _cache(args)
    value = {"folder": str(store.folder), "removed": store.clear()}
    print_result(args, value, lambda v: f"{v['folder']}: removed {v['removed']} samples")
    return 0


def cache_prune(args: argparse.Namespace) -> int:
    """``gif-datasets cache prune``."""
    from gif_datasets.cache import LIMIT_ENVIRONMENT, parse_duration, parse_size

    store = _cache(args)
    most = parse_size(args.max_size, "--max-size") if args.max_size else None
    age = parse_duration(args.older_than, "--older-than") if args.older_than else None
    if most is None and age is None and (most := store.limit) is None:
        raise ConfigError(f"nothing says what to remove; give --max-size or --older-than, or set {LIMIT_ENVIRONMENT}")
    removed = store.prune(most, age)
    value = {
        "folder": str(store.folder),
        "removed": len(removed),
        "removed_bytes": sum(entry.bytes for entry in removed),
        **store.stats(),
    }
    print_result(args, value, _prune_text)
    return 0


def cache_verify(args: argparse.Namespace) -> int:
    """``gif-datasets cache verify``."""
    store = _cache(args)
    audit = store.verify(args.remove)
    ok = args.remove or not audit.damaged
    value = {"folder": str(store.folder), "ok": ok, "removed": args.remove, **dataclasses.asdict(audit)}
    print_result(args, value, _audit_text)
    return 0 if ok else 1


# --- shared -------------------------------------------------------------------------------------------------------


def _cache(args: argparse.Namespace) -> Cache:
    from gif_datasets.cache import open_cache

    return open_cache(args.cache_dir)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder}")
    return folder


def _text_of(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _part(index: int | None, count: int | None) -> tuple[int, int]:
    """What --shard-index and --num-shards say."""
    if (index is None) != (count is None):
        raise ConfigError("--shard-index and --num-shards go together")
    return (0, 1) if index is None or count is None else (index, count)


def _merge_text(value: dict[str, Any]) -> str:
    return (
        f"{value['originals']} seeds + {value['synthetic']} imagined samples of {value['classes']} classes, every shard"
        f" and record whole\nshards:  {value['folder']}/data ({value['shards']} files, {_size(value['bytes'])})"
    )


def _plan_text(value: dict[str, Any]) -> str:
    share = value["stages"][value["bottleneck"]] / value["seconds"]
    stages = "\n".join(f"  {name:<26} {_duration(seconds)}" for name, seconds in value["stages"].items())
    held = f", {value['validation']} held out" if value["validation"] else ""
    device = f", {_size(value['device_memory'])} on the accelerator" if value["device_memory"] else ""
    samples = f"{value['originals']} seeds + {value['synthetic']} imagined samples{held}"
    disk = f"{value['shards']} shards, {_size(value['bytes'])}, and about as much again in the cache"
    where = f"with {value['workers']} workers on {value['device']}; {_size(value['memory'])} of memory{device}"
    lines = [
        f"{samples}: {disk}",
        f"{_duration(value['seconds'])} {where}",
        stages,
        f"most of it, {share:.0%}: {value['bottleneck']}",
    ]
    for row in value["machines"]:
        price = "" if row["price"] is None else f", {row['price']:.3g}"
        lines.append(f"{row['machines']:>3} machines like this: {_duration(3600 * row['hours'])}{price}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _expand_text(value: dict[str, Any]) -> str:
    if value["missing"]:
        return (
            f"{value['shards']} shards of this part in {value['folder']}/data ({_size(value['bytes'])}) in"
            f" {value['seconds']} s; {value['missing']} are for other parts: run those with the same --out,"
            " or in folders of their own and then `gif-datasets merge`"
        )
    fresh = f"{value['generated']} made now" if value["generated"] else "nothing to do, all were there"
    held = f", {value['validation']} seeds held out" if value["validation"] else ""
    failed = (
        f"check:   {value['failed']} samples failed it in every draw; the best was kept\n" if value["failed"] else ""
    )
    return (
        f"{value['originals']} seeds + {value['synthetic']} imagined samples of {value['classes']} classes"
        f"{held} ({fresh}) in {value['seconds']} s\n"
        f"{failed}shards:  {value['folder']}/data ({value['shards']} files, {_size(value['bytes'])})\n"
        f"preview: {value['preview']}"
    )


def _export_text(value: dict[str, Any]) -> str:
    fresh = f"{value['written']} written now" if value["written"] else "nothing to do, all were there"
    samples = ", ".join(f"{count} samples of split {split}" for split, count in value["samples"].items())
    return f"{samples} in {value['files']} files, {_size(value['bytes'])} ({fresh}): {value['folder']}"


def _push_text(value: dict[str, Any]) -> str:
    count, size = len(value["uploaded"]), _size(value["uploaded_bytes"])
    if value["dry_run"]:
        lines = [f"would send {path}" for path in value["uploaded"]] + [f"would remove {p}" for p in value["deleted"]]
        return "\n".join([*lines, f"{count} of {value['files']} files, {size}, to {value['url']}; nothing was sent"])
    fresh = f"{count} sent now, {size}" if count or value["deleted"] else "nothing to do, all were there"
    gone = f", {len(value['deleted'])} of an earlier push removed" if value["deleted"] else ""
    seen = "private" if value["private"] else "public"
    load = f"datasets.load_dataset({json.dumps(value['repository'])})"
    return f"{value['files']} files ({fresh}{gone}), {seen}, compared with what the Hub lists: {value['url']}\n{load}"


def _cache_text(value: dict[str, Any]) -> str:
    bound = f" of at most {_size(value['limit'])}" if value["limit"] is not None else ""
    used = f"; last used {value['oldest_use']} to {value['newest_use']}" if value["oldest_use"] else ""
    return f"{value['folder']}: {value['entries']} samples, {_size(value['bytes'])}{bound}{used}"


def _prune_text(value: dict[str, Any]) -> str:
    return f"removed {value['removed']} entries, {_size(value['removed_bytes'])}\n{_cache_text(value)}"


def _audit_text(value: dict[str, Any]) -> str:
    lines = [f"{value['folder']}: {value['entries']} whole entries, {_size(value['bytes'])}"]
    lines += [f"  {count} samples by {maker}" for maker, count in value["made_by"].items()]
    gone = ", removed" if value["removed"] else ""
    for kind, fate in (("damaged", gone), ("outdated", gone), ("temporary", gone), ("foreign", "")):
        lines += [f"{kind}{fate}: {name}" for name in value[kind]]
    if not value["ok"]:
        lines.append("damaged entries are made again when asked for; `gif-datasets cache verify --remove` drops them")
    return "\n".join(lines)


def _info_text(value: dict[str, Any]) -> str:
    options = "\n".join(f"  {name:<19} {json.dumps(option)}" for name, option in sorted(value["options"].items()))
    names = ", ".join(value["classes"][:12]) + (", ..." if len(value["classes"]) > 12 else "")
    return (
        f"{value['source']}, split {value['split']}: {value['originals']} originals + {value['synthetic']} synthetic"
        f" = {value['samples']} samples\n"
        + (f"split validation: {value['validation']} originals, held out\n" if value["validation"] else "")
        + f"classes ({len(value['classes'])}): {names}\n"
        f"copies a seed: {_counts_text(value['expansion_counts'])}\n"
        + (f"failed their check: {value['failed_checks']}\n" if value["failed_checks"] else "")
        + f"shards: {value['shards']}, {_size(value['bytes'])}\n"
        f"prior: {value['prior']['name']} ({value['prior']['digest'][:16]}), made on {value['device']}\n"
        f"plan: {value['plan_hash']}\n"
        f"options:\n{options}"
    )


def _counts_text(counts: dict[str, int]) -> str:
    told = ", ".join(f"{copies} ({seeds} seeds)" for copies, seeds in list(counts.items())[:12])
    return told + (", ..." if len(counts) > 12 else "")


_SHOWN_IN = {"paper": "gif-unclip", "official": "gif-sd"}
"""A method for which a preset's options are listed."""
_ONLY = {
    PERTURBATION: "methods with a prior",
    GUIDANCE: "gif- methods",
    CLASSIFIER: "where something is scored",
    REDRAWS: "where pictures are checked",
    SELECTION: "select: methods",
    DIFFUSION: "unclip and sd",
    IMG2IMG: "sd",
    "randaugment": "randaugment",
    "mask": "cutout and gridmask",
}
"""Where an option matters, by its part."""


def _methods_text(value: dict[str, Any]) -> str:
    lines = ["methods:"]
    for method in value["methods"]:
        lines += _entry(method["name"], method["summary"], method["defaults"])
    lines += ["", "presets (--set preset=NAME); single options given besides win:"]
    for preset in value["presets"]:
        lines += _entry(preset["name"], f"{preset['summary']} Of {preset['method']}:", preset["options"])
    lines += ["", "options (--set NAME=VALUE, or a line of --config FILE.toml):"]
    for option in value["options"]:
        choices = f" [{'|'.join(option['choices'])}]" if option["choices"] and option["name"] != "method" else ""
        default = "by method" if option["by_method"] else json.dumps(option["default"])
        only = f"; {_ONLY[option['of']]}" if option["of"] in _ONLY else ""
        lines += [f"  {option['name']}{choices}, default {default}{only}", *_wrapped(option["help"], 6)]
    return "\n".join(lines)


def _entry(name: str, summary: str, settings: dict[str, Any]) -> list[str]:
    """A name, what it is, and what it sets, in two columns."""
    first, *rest = _wrapped(summary, 17)
    values = ", ".join(f"{option}={_brief(value)}" for option, value in settings.items())
    return [f"  {name:<14} {first.strip()}", *rest, *(_wrapped(f"sets {values}", 17) if values else [])]


def _brief(value: Any) -> str:
    """A value as JSON; of a long list only its beginning."""
    if isinstance(value, (list, tuple)) and len(value) > MOST_LISTED:
        return f"{json.dumps(value[:MOST_LISTED])[:-1]}, ... {len(value)} in all]"
    return json.dumps(value)


def _wrapped(text: str, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(text, 110, initial_indent=margin, subsequent_indent=margin)


_PUBLISHED = ("name", "families", "latent", "clip", "pixels", "GB", "memory", "here", "repository", "licence")
"""Columns of the table of published priors."""


def _cell(prior: dict[str, Any], column: str) -> str:
    pin = prior["revision"][:8] if prior["pinned"] else f"{prior['revision']}, not pinned"
    told = {
        "families": ", ".join(prior["families"]),
        "clip": prior["clip"]["open_clip"],
        "pixels": str(prior["image_size"]),
        "GB": str(prior["download_gb"]),
        "memory": f"{prior['memory_gb']} GB",
        "here": "yes" if prior["here"] else "no",
        "repository": f"{prior['repository']} ({pin})",
        "licence": prior["license"],
    }
    return told[column] if column in told else str(prior[column])


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _priors_text(value: dict[str, Any]) -> str:
    lines = []
    for prior in value["priors"]:
        card = prior["card"]
        lines.append(f"{prior['name']:<10} {', '.join(prior['families'])}; {card.get('license', 'licence unknown')}")
        lines.append(f"{'':<10} {card.get('summary', '')}")
    lines += ["", "published, fetched from the Hub when first used; NAME@REVISION takes another revision:", ""]
    lines += _columns([_PUBLISHED, *([_cell(prior, name) for name in _PUBLISHED] for prior in value["published"])])
    lines += ["", *(f"{prior['name']}: {prior['note']}" for prior in value["published"] if prior["note"])]
    lines += ["", "or the path of a prior's folder, or an entry point of your own (docs/priors.md)"]
    return "\n".join(lines)
