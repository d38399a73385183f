"""The command line: parse, call one function, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

from gif_datasets import __version__
from gif_datasets.cli import tune
from gif_datasets.errors import GifDatasetsError, MissingExtra, UsageError
from gif_datasets.io.devices import keep_freed_memory

if TYPE_CHECKING:
    from gif_datasets.io.stores import AnyPath

_Item = TypeVar("_Item")
_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"
_SOURCE = """SOURCE is one of
  FOLDER                                  one sub-folder of pictures per class
  demo                                    200 pictures of 10 classes that ship in the package
  torchvision:NAME[?split=..&root=..]     a torchvision dataset; its arguments after the ?
  hf:NAME[?config=..&split=..&image=..&label=..]   a Hugging Face dataset, or a local path of one
  FOLDER of expanded shards               what `expand` wrote
  hub:OWNER/NAME[?revision=..]            what `push` published"""

_MERGE = """On machines that share a folder nothing needs merging: give all parts the same --out, and the last one
finishes it.

Try: gif-datasets expand SOURCE --out part-0 --shard-index 0 --num-shards 2   here
     gif-datasets expand SOURCE --out part-1 --shard-index 1 --num-shards 2   there
     gif-datasets merge part-0 part-1 --out expanded"""


_CACHE = """environment:
  GIF_DATASETS_CACHE=FOLDER        where the store is; processes and hosts may share one
  GIF_DATASETS_CACHE_LIMIT=50GB    about how much it may hold; what was not used for longest goes first

Try: gif-datasets cache prune --max-size 10GB --older-than 30d"""


_COMPARE = f"""{_SOURCE}

Every arm trains, from scratch unless the architecture is pretrained:NAME, for the same number of steps, on pictures
prepared and augmented in the same way, and is tested once, after its last step. Run again = resume; methods, runs and
settings may be added later.

Try: gif-datasets compare my-pictures --test my-test-pictures --methods gif-unclip,unclip,randaugment
     gif-datasets compare demo --test ... --methods gif-unclip,randaugment --ratios 5,10,20         Figure 4
     gif-datasets compare demo --test ... --methods gif-unclip --architectures small,resnet50       Table 2
     gif-datasets compare demo --test ... --methods gif-unclip --architectures resnet50,pretrained:resnet50 Table 5
     gif-datasets compare demo --test ... --methods gif-unclip --only-synthetic                     Table 15
     gif-datasets compare demo --test ... --methods gif-unclip --augment light,randaugment --steps 3907,7813 Table 13
     gif-datasets compare demo --test ... --methods gif-unclip --distil 0,0.5        with the CLIP as a teacher"""


_BROWSE = """What is rejected there is listed in DIR/rejected.json, and can be taken back. load_expanded,
stream_expanded, report, export and push go without it; for other readers of the shards, write a copy without it:

     gif-datasets export DIR --to shards --out DIR2

The page is served to this machine alone, until Ctrl-C. Of another machine's: ssh -L 8000:127.0.0.1:8000 HOST
gif-datasets browse DIR --port 8000 --no-open"""


_PUSH = """shards (default) are the folder as it is: checked byte for byte, read by load_dataset, webdataset, timm and
load_expanded, and a second push sends only what changed. parquet has rows of picture, class, the source's own columns
and provenance, for those who search and filter tables.

environment:
  HF_TOKEN=...       a token that may write; else the one of `hf auth login`
  HF_ENDPOINT=URL    another Hub

Try: gif-datasets push DIR me/name --dry-run"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed while running, 2 wrong usage or bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # class names in whatever the terminal cannot write
    args = build_parser().parse_args(argv)
    keep_freed_memory()
    warnings.formatwarning = _warning
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except GifDatasetsError as error:
        return _fail(str(error), 2 if isinstance(error, (UsageError, MissingExtra)) else 1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "gif_datasets"):
            raise
        return _fail(f"{error.name} is not installed; run: pip install gif_datasets", 2)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on", 1)
    except OSError as error:
        told = f"{error.strerror or error}" + (f": {str(error.filename)[:200]}" if error.filename else "")
        return _fail(told, 2 if error.errno == errno.ENAMETOOLONG else 1)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(_fail(f"{message} (see `{self.prog} --help`)", 2))


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Ours and other warnings to users in one line, as errors are; those to programmers with their place."""
    if category is UserWarning:
        return f"gif-datasets: warning: {' '.join(str(message).split())}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _fail(message: str, code: int) -> int:
    print(f"gif-datasets: {' '.join(message.split())}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """All commands and their flags; the documentation is made of it."""
    parser = _Parser(
        prog="gif-datasets",
        description="Expand a small labelled image dataset with guided imagination.",
        epilog="Try: gif-datasets expand demo --out demo-expanded",
    )
    parser.add_argument("--version", action="version", version=f"gif-datasets {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_expand(commands)
    _add_merge(commands)
    _add_plan(commands)
    _add_preview(commands)
    _add_folder_commands(commands)
    _add_compare(commands)
    _add_export(commands)
    _add_report(commands)
    _add_browse(commands)
    _add_push(commands)
    _add_tune(commands)
    _add_lists(commands)
    _add_cache(commands)
    return parser


def _add_expand(commands: _Commands) -> None:
    expand = _command(commands, "expand", "make an expanded dataset as WebDataset shards; run again = resume", _SOURCE)
    _add_generation(expand)
    expand.add_argument("--out", type=_place, required=True, metavar="DIR", help="output folder, or s3://bucket/set")
    expand.add_argument(
        "--validation",
        metavar="SOURCE",
        help="a validation set of its own, written as it is (or hold out a share: --set validation_share=0.2)",
    )
    expand.add_argument("--engine", choices=("local", "ray"), default="local", help="where the work runs")
    many = "worker processes (default: one per CPU, at most 8, or per GPU; with Ray, as many as the cluster can hold)"
    share = "with Ray on GPUs: share of one, or number of them, that each worker holds (default: 1)"
    address = "of a running Ray cluster (default: $RAY_ADDRESS, or a local one)"
    expand.add_argument("--ray-address", metavar="ADDRESS", help=address)
    expand.add_argument("--workers", type=int, metavar="N", help=many)
    expand.add_argument("--gpus-per-worker", type=float, default=1.0, metavar="G", help=share)
    expand.add_argument("--shard-index", type=int, metavar="I", help="make only part I, counted from 0, of the shards")
    expand.add_argument("--num-shards", type=int, metavar="N", help="of so many parts, one a task of an array job")
    expand.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_merge(commands: _Commands) -> None:
    merge = _command(commands, "merge", "join parts that were made in folders of their own; run again = resume", _MERGE)
    merge.add_argument("parts", type=Path, nargs="+", metavar="PART", help="a folder that one part was made in")
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="the whole folder")
    merge.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_plan(commands: _Commands) -> None:
    plan = _command(commands, "plan", "samples, time, disk and cost, from a short probe of the real work", _SOURCE)
    _add_generation(plan)
    plan.add_argument("--workers", type=int, metavar="N", help="worker processes (default: as `expand`)")
    plan.add_argument("--price", type=float, metavar="PER_HOUR", help="of one machine like this one")
    plan.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_preview(commands: _Commands) -> None:
    preview = _command(commands, "preview", "a picture of seeds and their copies, before the long run", _SOURCE)
    _add_generation(preview)
    preview.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture")
    preview.add_argument("--rows", type=int, default=10, metavar="N", help="seeds to show (default: 10)")
    preview.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_folder_commands(commands: _Commands) -> None:
    for name, text in (
        ("info", "what an expanded folder is, and how it was made"),
        ("verify", "check every shard and record; exit code 1 when anything is wrong"),
    ):
        command = _command(commands, name, text)
        command.add_argument("dir", type=_place, metavar="DIR", help="an expanded folder, or s3://bucket/set")
        command.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_export(commands: _Commands) -> None:
    export = _command(commands, "export", "an expanded folder in another form; run again = resume")
    export.add_argument("dir", type=Path, metavar="DIR", help="an expanded folder")
    export.add_argument(
        "--to",
        choices=("imagefolder", "parquet", "shards"),
        required=True,
        help="a folder per split and class, Parquet with Hugging Face features, or shards without what was rejected",
    )
    export.add_argument("--out", type=Path, required=True, metavar="DIR2", help="output folder")
    export.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_report(commands: _Commands) -> None:
    report = _command(commands, "report", "a page about an expanded folder: pictures, criteria, classes, likeness")
    report.add_argument("dir", type=Path, metavar="DIR", help="an expanded folder")
    report.add_argument(
        "--out", type=Path, required=True, metavar="FILE.html", help="the page; its figures go into FILE.json"
    )
    by = "prior whose CLIP compares copies and real pictures (default: embedded)"
    report.add_argument("--prior", default="embedded", metavar="NAME|PATH", help=by)
    report.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_browse(commands: _Commands) -> None:
    look = _command(commands, "browse", "a local page to look through an expanded folder, and reject samples", _BROWSE)
    look.add_argument("dir", type=Path, metavar="DIR", help="an expanded folder")
    look.add_argument("--port", type=int, default=0, metavar="N", help="of 127.0.0.1 (default: one that is free)")
    look.add_argument("--no-open", action="store_true", help="only print the address; open no browser")


def _add_tune(commands: _Commands) -> None:
    fine = _command(commands, "tune", tune.SUMMARY, f"{_SOURCE}\n\n{tune.EPILOG}")
    tune.add_flags(fine)
    fine.set_defaults(run=tune.run)


def _add_lists(commands: _Commands) -> None:
    for name, text in (("methods", "the methods and every option"), ("priors", "the priors that are known here")):
        command = _command(commands, name, text)
        command.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_compare(commands: _Commands) -> None:
    text = "train on the seeds and on each expansion of them, and test: does it help?"
    compare = _command(commands, "compare", text, _COMPARE, home="compare")
    add = compare.add_argument
    _add_options(compare)
    add("--test", required=True, metavar="SOURCE", help="pictures to test on; none of them may be among the seeds")
    add("--methods", required=True, type=_list(str), metavar="A,B", help="to expand by; see `gif-datasets methods`")
    add("--runs", type=int, default=3, metavar="N", help="runs of every arm, each with its own number (default: 3)")
    add("--ratios", type=_list(int), metavar="K,K", help="new samples per seed sample, an arm each (default: 5)")
    many = "small, names of timm's, torchvision:NAME, or pretrained:NAME of either (default: small, of four blocks)"
    add("--architectures", type=_list(str), default=["small"], metavar="A,B", help=many)
    length = compare.add_mutually_exclusive_group()
    passes = "length of training, in passes over the largest expansion (default: 40; the paper's is 100)"
    length.add_argument("--epochs", type=_list(int), metavar="N,N", help=passes)
    length.add_argument("--steps", type=_list(int), metavar="N,N", help="length of training, in update steps")
    online = "online augmentation of all arms: none, light (mirroring and shifts) or randaugment (default: light)"
    add("--augment", type=_list(str), default=["light"], metavar="A,B", help=online)
    soft = "weights of the probabilities of a teacher, the prior's CLIP, beside the labels; each is tried (default: 0)"
    add("--distil", type=_list(float), default=[0.0], metavar="W,W", help=soft)
    knows = "text (zero-shot), seeds (class means), both or linear: what the teacher goes by (default: both)"
    add("--teacher", default="both", metavar="KIND", help=knows)
    add("--temperature", type=float, default=4.0, metavar="T", help="softens teacher and student (default: 4)")
    add("--synthetic-share", type=float, metavar="S", help="share of a batch that is imagined (default: as it comes)")
    add("--only-synthetic", action="store_true", help="train on each expansion's imagined pictures alone, too")
    once = "expand once for all runs: quicker, but the deviation leaves out how expansions differ"
    add("--same-expansion", action="store_true", help=once)
    side = "side that pictures are resized to (default: the median of the seeds' shorter sides, at most 224)"
    add("--image-size", type=int, metavar="N", help=side)
    add("--train-batch", type=int, default=64, metavar="N", help="pictures an update step (default: 64)")
    add("--learning-rate", type=float, default=0.1, metavar="R", help="the highest (default: 0.1)")
    both = "test pictures that the seeds show too: refuse the test set (default), drop them from it, or allow them"
    add("--shared", choices=("refuse", "drop", "allow"), default="refuse", help=both)
    add("--allow-seen", action="store_true", help="take a test set that the prior's card names as training data")
    where = "results, expansions, compare.html and compare.json (default: comparison)"
    add("--out", type=Path, default=Path("comparison"), metavar="DIR", help=where)
    add("--workers", type=int, metavar="N", help="worker processes that expand (default: as `expand`)")
    add("--json", action="store_true", help="print the result as JSON")


def _place(text: str) -> AnyPath:
    """A folder here, or the URL of one in a store that fsspec opens."""
    from gif_datasets.io.stores import as_path

    return as_path(text)


def _list(kind: Callable[[str], _Item]) -> Callable[[str], list[_Item]]:
    """A reader of values with commas between them."""

    def read(text: str) -> list[_Item]:
        try:
            return [kind(part.strip()) for part in text.split(",") if part.strip()]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"invalid value in {text!r}") from error

    return read


def _add_push(commands: _Commands) -> None:
    push = _command(commands, "push", "publish an expanded folder on the Hugging Face Hub; run again = resume", _PUSH)
    add = push.add_argument
    add("dir", type=Path, metavar="DIR", help="an expanded folder; checked first")
    add("repo_id", metavar="REPO_ID", help="owner/name on the Hub; made if it is not there")
    seen = push.add_mutually_exclusive_group()
    seen.add_argument("--private", action="store_true", help="let only its owner see it (a new one: the default)")
    seen.add_argument("--public", action="store_true", help="let everybody see it")
    add("--as", dest="form", choices=("shards", "parquet"), default="shards", help="see below (default: shards)")
    target = push.add_mutually_exclusive_group()
    target.add_argument("--revision", metavar="BRANCH", help="branch to push to, or refs/pr/N to go on with it")
    target.add_argument("--create-pr", action="store_true", help="open a pull request instead of changing main")
    add(
        "--license", default="", metavar="ID", help="the set's licence, such as cc-by-4.0 (default: said to be unknown)"
    )
    add("--source-license", default="", metavar="TEXT", help="licence of the seed pictures, if known")
    add("--prior-license", default="", metavar="TEXT", help="licence of the prior, if known")
    add("--source-citation", type=Path, metavar="FILE.bib", help="how to cite the seed dataset")
    add("--prior-citation", type=Path, metavar="FILE.bib", help="how to cite the prior (default: as its card says)")
    by = "what `report` wrote, whose figures go onto the card (default: one without those that take a CLIP)"
    add("--report", type=Path, metavar="FILE.html", help=by)
    add("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    add("--json", action="store_true", help="print the result as JSON")


def _add_cache(commands: _Commands) -> None:
    cache = commands.add_parser(
        "cache",
        help="the store of imagined samples: its size, its health, making it smaller",
        description="The store of imagined samples. All of this is safe while other processes use it.",
        epilog=_CACHE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = cache.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        command = actions.add_parser(name, help=text, description=text)
        command.set_defaults(run=lambda args: _run("cache_" + name, args))
        where = "the cache (default: $GIF_DATASETS_CACHE, or gif_datasets in the user's cache folder)"
        command.add_argument("--cache-dir", type=Path, metavar="DIR", help=where)
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        return command

    action("stats", "samples, bytes, the bound, and when entries were last used")
    prune = action("prune", "remove what was not used for longest; what is wanted again is made again")
    bound = "how much may stay, such as 10GB (default: $GIF_DATASETS_CACHE_LIMIT)"
    prune.add_argument("--max-size", metavar="SIZE", help=bound)
    prune.add_argument("--older-than", metavar="AGE", help="remove what was not used for so long, such as 12h or 30d")
    verify = action("verify", "check every entry against its digest; exit code 1 when one is damaged and stays")
    remove = "drop damaged and outdated entries and forgotten temporary files; foreign files stay"
    verify.add_argument("--remove", action="store_true", help=remove)
    action("clear", "remove all entries")


def _command(
    commands: _Commands, name: str, text: str, epilog: str = "", home: str = "commands"
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(run=lambda args: _run(name, args, home))
    return command


def _run(name: str, args: argparse.Namespace, home: str = "commands") -> int:
    from importlib import import_module

    code: int = getattr(import_module(f"gif_datasets.cli.{home}"), name)(args)
    return code


def _add_generation(command: argparse.ArgumentParser) -> None:
    _add_options(command)
    add = command.add_argument
    add("--method", help="how to expand (default: gif-unclip); see `gif-datasets methods`")
    add("--ratio", type=int, metavar="K", help="new samples per seed sample (default: 5)")


def _add_options(command: argparse.ArgumentParser) -> None:
    """The seeds, and options that hold for any method."""
    add = command.add_argument
    add("source", metavar="SOURCE", help="the seed dataset; see below")
    add("--prior", metavar="NAME|PATH", help="generative prior (default: embedded); see `gif-datasets priors`")
    add("--rng-seed", type=int, metavar="N", help="the same number gives the same samples (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--batch-size", type=int, metavar="N", help="pictures decoded at once (default: 20)")
    add("--limit", type=int, metavar="N", help="use N seeds, spread evenly over the source")
    store = "store of imagined samples (default: $GIF_DATASETS_CACHE, or the user's cache folder)"
    add("--cache-dir", type=Path, metavar="DIR", help=store)
    setting = "any option that `gif-datasets methods` lists; repeatable"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=setting)
    add("--config", type=Path, metavar="FILE.toml", help="options from a file; the command line overrides it")
