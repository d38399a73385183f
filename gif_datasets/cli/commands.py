"""One function a command."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gif_datasets.cli import texts
from gif_datasets.cli.shared import (
    check_count,
    check_out,
    config_of,
    name_bad,
    name_larger_priors,
    print_result,
    progress,
    progress_after,
    warn,
)
from gif_datasets.config import ExpansionConfig, own_defaults
from gif_datasets.errors import ConfigError, ShardError
from gif_datasets.methods import (
    METHODS,
    NEUTRAL,
    PRESETS,
    SELECT,
    SELECT_SUMMARY,
    SELECTIVE,
)

if TYPE_CHECKING:
    from gif_datasets.io.cache.store import Cache
    from gif_datasets.io.stores import RemotePath

_Folder = TypeVar("_Folder", "Path", "RemotePath")

_SHOWN_IN = {"paper": "gif-unclip", "official": "gif-sd"}
"""A method for which a preset's options are listed."""


def expand(args: argparse.Namespace) -> int:
    """``gif-datasets expand``."""
    config = config_of(args)
    check_count("workers", args.workers)
    check_out(args.out)
    from gif_datasets.expansion import expand as expansion
    from gif_datasets.expansion.engines.local import default_workers
    from gif_datasets.io.devices import resolve_device

    device = resolve_device(args.device)
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells of lost nodes there, in the midst of the result
        summary = expansion.expand(
            args.source,
            args.out,
            validation=args.validation,
            workers=args.workers or (default_workers(device) if args.engine == "local" else None),
            engine=args.engine,
            ray_address=args.ray_address,
            gpus_per_worker=args.gpus_per_worker,
            limit=args.limit,
            cache_dir=args.cache_dir,
            device=device,
            part=_part(args.shard_index, args.num_shards),
            config=config,
            progress=progress_after(partial(name_larger_priors, config)),
            say=warn,
        )
    name_bad(summary.bad)
    print_result(args, {**dataclasses.asdict(summary), "preview": str(args.out / "preview.png")}, texts.expand_text)
    return 0


def plan(args: argparse.Namespace) -> int:
    """``gif-datasets plan``."""
    config = config_of(args)
    from gif_datasets.expansion.estimate import estimate

    found = estimate(
        args.source,
        workers=args.workers,
        limit=args.limit,
        device=args.device,
        price=args.price,
        config=config,
        progress=progress,
    )
    print_result(args, found.to_json(), texts.plan_text)
    return 0


def merge(args: argparse.Namespace) -> int:
    """``gif-datasets merge``."""
    check_out(args.out)
    from gif_datasets.expansion.merge import merge_parts
    from gif_datasets.expansion.run import summarise
    from gif_datasets.shards import verify as checking

    merge_parts(args.parts, args.out, progress)
    if problems := checking.verify(args.out, progress):
        raise ShardError("; ".join(problems[:3]))
    value = dataclasses.asdict(summarise(args.out))
    print_result(args, value, texts.merge_text)
    return 0


def preview(args: argparse.Namespace) -> int:
    """``gif-datasets preview``."""
    config = config_of(args)
    if args.rows < 1:
        raise ConfigError(f"--rows must be at least 1, got {args.rows}")
    if args.out.is_dir():
        raise ConfigError(f"--out must be a file, but {args.out} is a folder")
    check_out(args.out.parent)
    from gif_datasets.expansion.open import open_expansion
    from gif_datasets.expansion.preview import preview_expansion
    from gif_datasets.sources import open_source

    opened = open_expansion(open_source(args.source), config, limit=args.limit, device=args.device, show=progress)
    name_bad(opened.listed.bad)
    name_larger_priors(config)
    summary = preview_expansion(opened, args.out, args.rows, args.cache_dir, warn)
    print_result(
        args, summary.to_json(), lambda v: f"{v['rows']} seeds and {v['rows'] * v['copies']} copies: {v['picture']}"
    )
    return 0


def info(args: argparse.Namespace) -> int:
    """``gif-datasets info``."""
    from gif_datasets.shards.reader import ShardReader

    reader = ShardReader(_existing(args.dir))
    manifest = reader.manifest
    recipe = manifest["plan"]["recipe"]
    value = {
        "folder": str(args.dir),
        **{name: manifest[name] for name in ("source", "split", "validation", "failed_checks")},
        "samples": len(reader),
        "originals": len(reader) - int(reader.index.synthetic.sum()),
        "synthetic": int(reader.index.synthetic.sum()),
        "rejected": reader.missing,
        "classes": manifest["classes"],
        "shards": len(manifest["shards"]),
        "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
        **{name: recipe[name] for name in ("prior", "device", "options", "versions")},
        "expansion_counts": {str(copies): seeds for copies, seeds in reader.expansion_counts().items()},
        "plan_hash": manifest["plan_hash"],
    }
    print_result(args, value, texts.info_text)
    return 0


def verify(args: argparse.Namespace) -> int:
    """``gif-datasets verify``."""
    from gif_datasets.shards import verify as checking

    problems = checking.verify(_existing(args.dir), progress)
    value = {"folder": str(args.dir), "ok": not problems, "problems": problems}
    print_result(
        args, value, lambda v: f"{v['folder']}: every shard and record is whole" if v["ok"] else "\n".join(problems)
    )
    return 1 if problems else 0


def export(args: argparse.Namespace) -> int:
    """``gif-datasets export``."""
    check_out(args.out)
    from gif_datasets.publish.export import export_expanded

    summary = export_expanded(_existing(args.dir), args.out, args.to, progress=progress)
    print_result(args, dataclasses.asdict(summary), texts.export_text)
    return 0


def report(args: argparse.Namespace) -> int:
    """``gif-datasets report``."""
    if args.out.is_dir():
        raise ConfigError(f"--out must be a file, but {args.out} is a folder")
    check_out(args.out.parent)
    from gif_datasets.report.page import write_report

    found = write_report(_existing(args.dir), args.out, args.prior, progress)
    print_result(args, found.to_json(), lambda v: v["page"])
    return 0


def browse(args: argparse.Namespace) -> int:
    """``gif-datasets browse``."""
    import webbrowser

    from gif_datasets.report.server import browse as serve

    def ready(address: str) -> None:
        print(address, flush=True)
        print("gif-datasets: serving that page; stop with Ctrl-C", file=sys.stderr)
        if not args.no_open:
            webbrowser.open(address)

    serve(_existing(args.dir), args.port, ready=ready, progress=progress)
    return 0


def push(args: argparse.Namespace) -> int:
    """``gif-datasets push``."""
    from gif_datasets.publish.push import push_to_hub

    summary = push_to_hub(
        _existing(args.dir),
        args.repo_id,
        private=True if args.private else False if args.public else None,
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
    print_result(args, dataclasses.asdict(summary), texts.push_text)
    return 0


def methods(args: argparse.Namespace) -> int:
    """``gif-datasets methods``."""
    print_result(args, methods_value(), texts.methods_text)
    return 0


def methods_value() -> dict[str, Any]:
    """Methods, presets and options as JSON types; the documentation is made of it."""
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
    return {"methods": [*entries, selective], "presets": presets, "options": options}


def priors(args: argparse.Namespace) -> int:
    """``gif-datasets priors``."""
    from gif_datasets.priors import find_prior, names
    from gif_datasets.priors.published import PUBLISHED

    found = [find_prior(name) for name in names()]
    value = [{"name": i.name, "families": list(i.families), "digest": i.digest, "card": i.card} for i in found]
    published = [prior.to_json() for prior in PUBLISHED.values()]
    print_result(args, {"priors": value, "published": published}, texts.priors_text)
    return 0


def cache_stats(args: argparse.Namespace) -> int:
    """``gif-datasets cache stats``."""
    store = _cache(args)
    print_result(args, {"folder": str(store.folder), **store.stats()}, texts.cache_text)
    return 0


def cache_clear(args: argparse.Namespace) -> int:
    """``gif-datasets cache clear``."""
    store = _cache(args)
    value = {"folder": str(store.folder), "removed": store.clear()}
    print_result(args, value, lambda v: f"{v['folder']}: removed {v['removed']} samples")
    return 0


def cache_prune(args: argparse.Namespace) -> int:
    """``gif-datasets cache prune``."""
    from gif_datasets.io.cache.store import LIMIT_ENVIRONMENT
    from gif_datasets.io.units import parse_duration, parse_size

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
    print_result(args, value, texts.prune_text)
    return 0


def cache_verify(args: argparse.Namespace) -> int:
    """``gif-datasets cache verify``."""
    store = _cache(args)
    audit = store.verify(args.remove)
    ok = args.remove or not audit.damaged
    value = {"folder": str(store.folder), "ok": ok, "removed": args.remove, **dataclasses.asdict(audit)}
    print_result(args, value, texts.audit_text)
    return 0 if ok else 1


# --- shared -------------------------------------------------------------------------------------------------------


def _cache(args: argparse.Namespace) -> Cache:
    from gif_datasets.io.cache.store import open_cache

    found = open_cache(args.cache_dir)
    if found.folder.exists() and not found.folder.is_dir():
        raise ConfigError(f"--cache-dir must be a folder, but {found.folder} is a file")
    return found


def _existing(folder: _Folder) -> _Folder:
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


def _part(index: int | None, count: int | None) -> tuple[int, int]:
    """What --shard-index and --num-shards say."""
    if (index is None) != (count is None):
        raise ConfigError("--shard-index and --num-shards go together")
    return (0, 1) if index is None or count is None else (index, count)
