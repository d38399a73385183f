"""Damaged and forged expanded folders, by the thousand: each command reads or refuses them in one line.

    python recipes/faults/mutate.py                 # 1,000 mutations; a JSON report on stdout
    python recipes/faults/mutate.py --count 50      # a first look

Each case is made from a number alone. A small expansion of `demo`, as PNG, JPEG or lossless WebP, is copied, and one
thing in it is changed: a bit of any file, or of an image in a shard; the length or kind of a file; or, with every
digest made to fit, as somebody with intent would, a value of a record, a label, or a value of the manifest: NaN,
infinities, integers beyond 64 bits, other types, escape sequences, markup. Then `verify`, `info`, `report`, `export`
and `load_expanded` read it.

Exit code 1 when a command ended in anything but exit code 0, or 1 or 2 and one line on stderr (`verify` lists its
problems on stdout); when it printed something that acts on a terminal, or JSON that is none; or when an image that was
not forged differs from the one that was made, after `verify` found nothing wrong, or in what `export` or
`load_expanded(.., check=True)` gave.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_parsers import places, with_value
from PIL import Image

import gif_datasets
from gif_datasets import GifDatasetsError
from gif_datasets.cli import main as command
from gif_datasets.shards import index, tar, ustar
from gif_datasets.shards import manifest as manifests

FORMATS = ("png", "jpg", "webp")
ACTS = "a\x1b[2J\r\x9b31m\u202e`|</td><script>\n# b\nprior = 'evil'"
VALUES: tuple[Any, ...] = (
    float("nan"), float("inf"), float("-inf"), 1e308, 2**63, -(2**63) - 1, 2**64, 10**400, -1, 0, 1, 0.5, True, None,
    "", ACTS, "../../x", "\ud800", "x" * 3_000, [], {}, [[]], {ACTS: ACTS}, {"a": None},
)  # fmt: skip
Images = dict[str, bytes]


def written(place: Path, suffix: str) -> Path:
    """An expansion with images of a format, two shards of each kind, and a validation split."""
    options = {"ratio": 1, "prior": "linear", "image_format": suffix, "samples_per_shard": 8, "validation_share": 0.3}
    gif_datasets.expand("demo", place / suffix, limit=20, cache_dir=place / "cache", **options)
    return place / suffix


def images(folder: Path, check: bool) -> Images:
    """Pixels of every sample, by its key."""
    found = {}
    for split in manifests.read_manifest(folder).splits:
        data = gif_datasets.load_expanded(folder, split=split, check=check)
        found |= {data._reader.key(i): data[i][0].tobytes() for i in range(len(data))}
    return found


# --- mutations: each changes a folder, and says what it did --------------------------------------------------------


def flip(chance: random.Random, path: Path, start: int = 0, stop: int | None = None) -> str:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    place = chance.randrange(start, stop or max(len(content), 1))
    content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return f"a bit of byte {place} of {path.name}"


def any_file(chance: random.Random, folder: Path) -> Path:
    return chance.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))


def any_shard(chance: random.Random, folder: Path) -> Path:
    return chance.choice(sorted((folder / "data").iterdir()))


def any_bit(chance: random.Random, folder: Path) -> str:
    return flip(chance, any_file(chance, folder))


def image_bit(chance: random.Random, folder: Path) -> str:
    path = any_shard(chance, folder)
    parts = chance.choice(list(tar.entries(path))).members
    start, size = next(parts[suffix] for suffix in FORMATS if suffix in parts)
    return "image: " + flip(chance, path, start, start + size)


def length(chance: random.Random, folder: Path) -> str:
    path = any_file(chance, folder)
    content = path.read_bytes()
    changed = chance.choice(
        (content[: chance.randrange(len(content))], content + chance.randbytes(20), b"", content * 2)
    )
    path.write_bytes(changed)
    return f"{path.name} with {len(changed)} bytes instead of {len(content)}"


def kind_of_file(chance: random.Random, folder: Path) -> str:
    path = any_file(chance, folder)
    path.unlink()
    how = chance.choice(("gone", "folder", "link to nothing", "another's content"))
    if how == "folder":
        path.mkdir()
    elif how == "link to nothing":
        path.symlink_to(folder / "gone")
    elif how == "another's content":
        path.write_bytes(any_file(chance, folder).read_bytes())
    return f"{path.name}: {how}"


def small_json(chance: random.Random, folder: Path) -> str:
    """A value of a JSON file beside the shards, or a list of rejections."""
    path = folder / chance.choice(("plan.json", "_info.json", "wids-train.json", "rejected.json"))
    hashed = manifests.read_manifest(folder).plan_hash
    value = json.loads(path.read_text()) if path.exists() else {"format": 1, "plan_hash": hashed, "rejected": ["x"]}
    where, new = chance.choice(places(value)), chance.choice(VALUES)
    path.write_text(json.dumps(with_value(value, where, new)))
    return f"{path.name}{where} = {new!r:.40}"


def record(chance: random.Random, folder: Path) -> str:
    """A value of a record, every digest made to fit."""

    def change(parts: dict[str, bytes]) -> str:
        value = json.loads(parts["json"])
        field, new = chance.choice(sorted(value)), chance.choice(VALUES)
        parts["json"] = json.dumps({**value, field: new}, sort_keys=True).encode("ascii")
        return f"record: {field} = {new!r:.40}"

    return forge(chance, folder, change)


def label(chance: random.Random, folder: Path) -> str:
    def change(parts: dict[str, bytes]) -> str:
        parts["cls"] = chance.choice((b"-1", b"99", b"", b"x", b"9" * 19, b"1_0", b"\xd9\xa1"))
        return f"label {parts['cls']!r}"

    return forge(chance, folder, change)


def forge(chance: random.Random, folder: Path, change: Callable[[dict[str, bytes]], str]) -> str:
    """Change a sample of a shard, and make every digest and the index fit."""
    path = any_shard(chance, folder)
    samples = list(tar.read_samples(path, lambda key: True))
    what = change(chance.choice(samples)[1])
    members = [(f"{key}.{suffix}", text) for key, parts in samples for suffix, text in parts.items()]
    body = b"".join(ustar.header(name, len(text)) + text + b"\0" * (-len(text) % 512) for name, text in members)
    body += b"\0" * 1024
    body += b"\0" * (-len(body) % 10_240)
    path.write_bytes(body)
    value = json.loads((folder / "manifest.json").read_text())
    entry = next(entry for entry in value["shards"] if entry["name"] == f"data/{path.name}")
    sums = {"sha256": hashlib.sha256(body).hexdigest(), "md5": hashlib.md5(body).hexdigest()}
    entry.update(bytes=len(body), **sums)
    listed = manifests.Manifest.from_json(value)
    files = {name: (folder / name).read_bytes() for name in value["files"]} | manifests.index_files(listed)
    with contextlib.suppress(GifDatasetsError, OverflowError):
        files[index.INDEX] = index.to_bytes(tar.build_index(folder, listed.shards))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    seal(folder, manifests.sealed(value, files))
    return what


def manifest(chance: random.Random, folder: Path) -> str:
    """A value or a name of the manifest, its own digest and that of its plan made to fit."""
    value = json.loads((folder / "manifest.json").read_text())
    value.pop("digest")
    where, new = chance.choice(places(value)[1:]), chance.choice(VALUES)
    changed = with_value(value, where, new)
    if where[0] == "plan":
        with contextlib.suppress(ValueError, TypeError):
            changed["plan_hash"] = manifests.digest(changed["plan"])
    with contextlib.suppress(ValueError, TypeError):
        changed = {**changed, "digest": manifests.digest(changed)}
    seal(folder, changed)
    return f"manifest{where} = {new!r:.40}"


def seal(folder: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))


MUTATIONS = (any_bit, image_bit, image_bit, length, kind_of_file, small_json, record, record, label, manifest, manifest)
FORGED = (record, label, manifest)


# --- what commands make of it ---------------------------------------------------------------------------------------


def run(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command(list(words))
        except SystemExit as error:
            code = int(error.code or 0)
    return code, out.getvalue(), err.getvalue()


def wrong_end(code: int, out: str, err: str) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    if code not in (0, 1, 2) or (code and not err and not out):
        return f"exit code {code} without a word"
    if len(err.splitlines()) > 1 or "Traceback" in err:
        return f"{len(err.splitlines())} lines on stderr: {err[:300]}"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") and c != "\n" for c in out + err):
        return f"something that acts on a terminal: {out + err!r:.300}"
    return ""


def faults(folder: Path, truth: Images, forged: bool) -> dict[str, str]:
    """What each command did wrong with a folder."""
    place = folder.parent / "given"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    found: dict[str, str] = {}

    def attempt(name: str, read: Callable[[], str]) -> None:
        try:
            if what := read():
                found[name] = what
        except GifDatasetsError as error:
            if "\n" in str(error) or len(str(error)) > 2_000:
                found[name] = f"an error of several lines: {error!r:.300}"
        except Exception:
            found[name] = "CRASH: " + traceback.format_exc(limit=-3).replace("\n", " | ")[-800:]

    def differs(given: Images) -> str:
        odd = [] if forged else [key for key, pixels in given.items() if truth.get(key) != pixels]
        return f"another image of {odd[0]} without a word" if odd else ""

    def verify() -> str:
        ended = run("verify", str(folder))
        return wrong_end(*ended) or ("" if ended[0] else differs(images(folder, check=False)))

    def info() -> str:
        code, out, err = run("info", str(folder), "--json")
        if code == 0:
            json.loads(out, parse_constant=lambda name: 1 / 0)
        return wrong_end(code, out, err) or wrong_end(*run("info", str(folder)))

    def export(to: str) -> str:
        out = place / to
        code, *texts = run("export", str(folder), "--to", to, "--out", str(out))
        if code == 0 and to == "imagefolder":
            given = {path.stem: path for path in out.rglob("*") if path.suffix[1:] in FORMATS}
            return wrong_end(code, *texts) or differs({key: Image.open(p).tobytes() for key, p in given.items()})
        return wrong_end(code, *texts)

    attempt("verify", verify)
    attempt("info", info)
    attempt(
        "report", lambda: wrong_end(*run("report", str(folder), "--out", str(place / "x.html"), "--prior", "linear"))
    )
    attempt("export imagefolder", lambda: export("imagefolder"))
    attempt("export parquet", lambda: export("parquet"))
    attempt("export shards", lambda: export("shards"))
    attempt("load_expanded", lambda: str(images(folder, check=False) and ""))
    attempt("load_expanded, check", lambda: differs(images(folder, check=True)))
    return found


def mutate(count: int, first: int = 0) -> dict[str, Any]:
    """Run so many mutations; returns how many of each kind there were, and every fault."""
    started, wrong = time.monotonic(), []
    os.sync = os.fsync = lambda *_: None  # nothing here must survive a power failure
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        made = [written(Path(place), suffix) for suffix in FORMATS]
        truths = [images(folder, check=True) for folder in made]
        for folder, truth in zip(made, truths, strict=True):
            assert faults(folder, truth, forged=False) == {}  # or the rest would say nothing
        for number in range(first, first + count):
            chance = random.Random(number)
            kind, chosen = chance.choice(MUTATIONS), chance.randrange(len(made))
            folder = Path(place) / "mutated"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(made[chosen], folder)
            what = kind(chance, folder)
            counts[kind.__name__] += 1
            if found := faults(folder, truths[chosen], kind in FORGED):
                wrong.append({"number": number, "format": FORMATS[chosen], "mutation": what, **found})
    return {
        "mutations": count,
        "kinds": dict(counts),
        "faults": len(wrong),
        "wrong": wrong[:50],
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0, help="another number gives other mutations")
    args = parser.parse_args()
    report = mutate(args.count, args.first)
    print(json.dumps(report, indent=1))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
