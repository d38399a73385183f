"""``gif-datasets push``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gif_datasets.cli.arguments import Commands, add_json, new_command, say
from gif_datasets.cli.shared import existing, print_result, progress
from gif_datasets.errors import ConfigError

_EPILOG = """shards (default) publishes the folder as it is. Every byte is checked first; load_dataset, webdataset,
timm and load_expanded can read it; a second push sends only what changed. parquet publishes rows of image, class, the
source's own columns and provenance, for users who search and filter tables.

environment:
  HF_TOKEN=...       a token with write access (default: the token of `hf auth login`)
  HF_ENDPOINT=URL    another Hub

Try: gif-datasets push DIR me/name --dry-run"""


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    text = "publish an expanded folder on the Hugging Face Hub; run again = resume"
    command = new_command(commands, "push", run, text, _EPILOG)
    flag = command.add_argument
    flag("dir", type=Path, metavar="DIR", help="an expanded folder; it is verified first")
    flag("repo_id", metavar="REPO_ID", help="owner/name on the Hub; created if it does not exist")
    access = command.add_mutually_exclusive_group()
    access.add_argument("--private", action="store_true", help="only its owner can see it (default for a new one)")
    access.add_argument("--public", action="store_true", help="everybody can see it")
    flag("--as", dest="form", choices=("shards", "parquet"), default="shards", help="see below (default: shards)")
    target = command.add_mutually_exclusive_group()
    target.add_argument("--revision", metavar="BRANCH", help="branch to push to, or refs/pr/N to update a pull request")
    target.add_argument("--create-pr", action="store_true", help="open a pull request instead of changing main")
    licence = "licence of the dataset, such as cc-by-4.0 (default: the card says unknown)"
    flag("--license", default="", metavar="ID", help=licence)
    flag("--source-license", default="", metavar="TEXT", help="licence of the seed images, if known")
    flag("--prior-license", default="", metavar="TEXT", help="licence of the prior, if known")
    flag("--source-citation", type=Path, metavar="FILE.bib", help="how to cite the seed dataset")
    flag("--prior-citation", type=Path, metavar="FILE.bib", help="how to cite the prior (default: from its card)")
    report = "page of `report`, whose figures go onto the card (default: a new report, without CLIP figures)"
    flag("--report", type=Path, metavar="FILE.html", help=report)
    flag("--dry-run", action="store_true", help="list what would be sent, but send nothing")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """Publish an expanded folder."""
    from dataclasses import asdict

    from gif_datasets.cli.texts import push_text
    from gif_datasets.publish.push import push_to_hub

    summary = push_to_hub(
        existing(args.dir),
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
        say=say,
    )
    print_result(args, asdict(summary), push_text)
    return 0


def _text_of(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
