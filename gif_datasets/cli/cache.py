"""``gif-datasets cache``: stats, prune, verify, clear."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gif_datasets.cli.arguments import Commands, Run, add_json
from gif_datasets.cli.shared import print_result
from gif_datasets.errors import ConfigError

if TYPE_CHECKING:
    from gif_datasets.io.cache.store import Cache

_EPILOG = """environment:
  GIF_DATASETS_CACHE=FOLDER        where the cache is; processes and hosts may share it
  GIF_DATASETS_CACHE_LIMIT=50GB    about how much it may hold; what was unused for longest is removed first

Try: gif-datasets cache prune --max-size 10GB --older-than 30d"""


def add(commands: Commands) -> None:
    """Declare the command, its actions and their flags."""
    command = commands.add_parser(
        "cache",
        help="show, check or shrink the cache of imagined samples",
        description="The cache of imagined samples. All actions are safe while other processes use it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = command.add_subparsers(required=True, metavar="ACTION")
    _action(actions, "stats", stats, "show samples, bytes, the limit, and when entries were last used")
    pruning = _action(
        actions, "prune", prune, "remove what was unused for longest; it is made again when it is needed again"
    )
    bound = "how much may stay, such as 10GB (default: $GIF_DATASETS_CACHE_LIMIT)"
    pruning.add_argument("--max-size", metavar="SIZE", help=bound)
    pruning.add_argument("--older-than", metavar="AGE", help="remove what was unused for this long, such as 12h or 30d")
    verifying = _action(
        actions, "verify", verify, "check every entry against its digest; exit code 1 if a damaged one remains"
    )
    remove = "remove damaged and outdated entries and abandoned temporary files; foreign files stay"
    verifying.add_argument("--remove", action="store_true", help=remove)
    _action(actions, "clear", clear, "remove all entries")


def _action(actions: Commands, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=text)
    action.set_defaults(run=run)
    folder = "the cache (default: $GIF_DATASETS_CACHE, or gif_datasets in the user's cache folder)"
    action.add_argument("--cache-dir", type=Path, metavar="DIR", help=folder)
    add_json(action)
    return action


def stats(args: argparse.Namespace) -> int:
    """Show how full the cache is."""
    from gif_datasets.cli.texts import cache_text

    cache = _open(args)
    print_result(args, {"folder": str(cache.folder), **cache.stats()}, cache_text)
    return 0


def clear(args: argparse.Namespace) -> int:
    """Remove all entries."""
    cache = _open(args)
    value = {"folder": str(cache.folder), "removed": cache.clear()}
    print_result(args, value, lambda v: f"{v['folder']}: removed {v['removed']} samples")
    return 0


def prune(args: argparse.Namespace) -> int:
    """Remove old entries."""
    from gif_datasets.cli.texts import prune_text
    from gif_datasets.io.cache.store import LIMIT_ENVIRONMENT
    from gif_datasets.io.units import parse_duration, parse_size

    cache = _open(args)
    limit = parse_size(args.max_size, "--max-size") if args.max_size else None
    age = parse_duration(args.older_than, "--older-than") if args.older_than else None
    if limit is None and age is None and (limit := cache.limit) is None:
        raise ConfigError(f"nothing says what to remove; give --max-size or --older-than, or set {LIMIT_ENVIRONMENT}")
    removed = cache.prune(limit, age)
    value = {
        "folder": str(cache.folder),
        "removed": len(removed),
        "removed_bytes": sum(entry.bytes for entry in removed),
        **cache.stats(),
    }
    print_result(args, value, prune_text)
    return 0


def verify(args: argparse.Namespace) -> int:
    """Check every entry."""
    from dataclasses import asdict

    from gif_datasets.cli.texts import audit_text

    cache = _open(args)
    audit = cache.verify(args.remove)
    ok = args.remove or not audit.damaged
    print_result(args, {"folder": str(cache.folder), "ok": ok, "removed": args.remove, **asdict(audit)}, audit_text)
    return 0 if ok else 1


def _open(args: argparse.Namespace) -> Cache:
    from gif_datasets.io.cache.store import open_cache

    cache = open_cache(args.cache_dir)
    if cache.folder.exists() and not cache.folder.is_dir():
        raise ConfigError(f"--cache-dir must be a folder, but {cache.folder} is a file")
    return cache
