"""Hostile files for every parser, by hypothesis and counted: each is read or refused, and nothing else happens.

    python recipes/faults/fuzz_parsers.py                  # 2,000 files a parser; a JSON report on stdout
    python recipes/faults/fuzz_parsers.py --count 100      # a first look

Each file begins as a whole one. Then bytes of it are changed, cut or repeated; or, where it is JSON, some of its values
become others: of another type, nested a thousand levels deep, too large, no number, half of a character, a path
upwards. A changed manifest is sealed again, as somebody with intent would. Exit code 1 when a case ended in anything
but a value or an error of this package.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import gif_datasets
from gif_datasets import GifDatasetsError
from gif_datasets.cli import info, texts
from gif_datasets.config import ExpansionConfig
from gif_datasets.expansion.merge import _plan
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest
from gif_datasets.options import parse_setting
from gif_datasets.priors.find import _read_card
from gif_datasets.prompts import read_synonyms
from gif_datasets.publish.push import _published
from gif_datasets.shards import card, index, ustar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import tar as shards
from gif_datasets.shards.folder import read_sidecar
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import FORMAT, REJECTED, LeftOut
from gif_datasets.shards.verify import verify

DEEP = 1_500


def deep(value: Any, levels: int) -> Any:
    """A value below so many lists."""
    for _ in range(levels):
        value = [value]
    return value


ODD = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 2**31, 2**63, -(2**70), 10**400, 1e308, float("nan"), float("inf"), "", "../../x",
         "/etc/passwd", "data/../../x.tar", "\ud800", "\0", "x" * 70_000, [], {}, [[]], {"": {}}, {"a": None}]
    ),
    st.sampled_from(["RAW DEEP", "RAW LONG"]), st.integers(), st.floats(), st.text(max_size=8),
    st.integers(2, 400).map(lambda levels: deep(1, levels)),
)  # fmt: skip
RAW = {'"RAW DEEP"': "[" * DEEP + "]" * DEEP, '"RAW LONG"': "9" * 5_000}  # what Python's own writer cannot write


@dataclass(frozen=True)
class Parser:
    """How a file is read: its whole content, its reader, and what a changed JSON value is written as."""

    whole: bytes
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes] | None = None


def written(value: Any) -> bytes:
    """JSON, with texts in it that only a parser can meet."""
    text = json.dumps(value, sort_keys=True)
    for name, raw in RAW.items():
        text = text.replace(name, raw)
    return text.encode("ascii")


def resealed(value: Any) -> bytes:
    """A manifest that holds its own digest, where one can be made."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        value = {**value, "digest": digest({name: item for name, item in value.items() if name != "digest"})}
        content = atomic.json_bytes(value)
        if not any(name.encode() in content for name in RAW):
            return content
    return written(value)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in places(item, (*path, key)))]


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy in which the value at a path is another."""
    if not path:
        return new
    if isinstance(value, dict):
        return {**value, path[0]: with_value(value[path[0]], path[1:], new)}
    return [with_value(item, path[1:], new) if number == path[0] else item for number, item in enumerate(value)]


@st.composite
def cases(draw: st.DrawFn, parser: Parser) -> bytes:
    """One file: the whole one, changed."""
    if parser.write is not None and draw(st.integers(0, 3)):
        value = json.loads(parser.whole)
        for _ in range(draw(st.integers(1, 3))):
            value = with_value(value, draw(st.sampled_from(places(value))), draw(ODD))
        return parser.write(value)
    content = bytearray(parser.whole)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        other = draw(st.one_of(st.binary(max_size=16), st.just(bytes(content[at : at + 600]))))
        content[at : at + draw(st.sampled_from([0, len(other), 1, 512]))] = other
    return bytes(content[: draw(st.sampled_from([len(content)] * 3 + [len(content) // 2, 512, 0]))])


def parsers(place: Path) -> dict[str, Parser]:
    """Every parser, with a file that it reads, all in one folder."""
    folder = place / "set"
    options = {"ratio": 1, "prior": "linear", "limit": 10, "cache_dir": place / "cache"}
    gif_datasets.expand("demo", folder, samples_per_shard=20, **options)
    reader, listed = ShardReader(folder), manifests.read_manifest(folder).shards
    record = shards.record_bytes(reader.provenance(0))
    tar, indexed, manifest = folder / listed[0].name, folder / index.INDEX, folder / manifests.MANIFEST
    plan = (folder / "plan.json").read_bytes()
    sidecar = written({"plan_hash": "x", "id": 0, "shard": manifests.shard_json(listed[0])})
    prior = (Path(gif_datasets.__file__).parent / "assets" / "priors" / "embedded" / "prior.json").read_bytes()
    toml = b'method = "gif-unclip"\nratio = 5\nepsilon = 0.1\ntemplates = ["a photo of a {}"]\n'

    def within(path: Path, content: bytes, read: Callable[[], Any]) -> Any:
        before = path.read_bytes() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        try:
            return read()
        finally:
            path.write_bytes(before) if before is not None else path.unlink()

    def whole_folder() -> Any:
        opened = ShardReader(folder)
        texts.info_text(info.describe(opened))
        return verify(folder), card.render(opened.manifest)

    def tar_of() -> Any:
        return list(ustar.members(tar)), shards.build_index(folder, listed), verify(folder)

    def read_index() -> Any:
        found = index.map_file(indexed)
        index.check(found, [shard.samples for shard in listed], [shard.bytes for shard in listed], 10)
        return len(found)

    def read_record(content: bytes) -> Any:
        opened = ShardReader(folder)
        opened._read = lambda *_: content  # type: ignore[method-assign]
        return opened.provenance(0)

    def read_setting(content: bytes) -> Any:
        name, value = parse_setting(content.decode("utf-8", "replace"))
        return ExpansionConfig.build({name: value})

    hashed, keys = reader.manifest.plan_hash, [reader.key(0), reader.key(3)]
    rejected = atomic.json_bytes({"format": FORMAT, "plan_hash": hashed, "rejected": keys})
    left_out = {key: dataclasses.asdict(LeftOut.of(reader.provenance(reader.index_of(key)), "")) for key in keys}
    named, card_of = place / "names.json", place / "prior"
    return {
        "manifest": Parser(manifest.read_bytes(), lambda c: within(manifest, c, whole_folder), resealed),
        "index": Parser(indexed.read_bytes(), lambda c: within(indexed, c, read_index)),
        "shard": Parser(tar.read_bytes(), lambda c: within(tar, c, tar_of)),
        "record": Parser(record, read_record, written),
        "sidecar": Parser(sidecar, lambda c: read_sidecar(c, "x"), written),
        "plan": Parser(plan, lambda c: within(folder / "plan.json", c, lambda: _plan(folder)), written),
        "config": Parser(toml, lambda c: within(named, c, lambda: ExpansionConfig.build({}, named))),
        "setting": Parser(b"epsilon=0.2", read_setting),
        "synonyms": Parser(
            b'{"bee": ["a bee"]}', lambda c: within(named, c, lambda: read_synonyms(str(named))), written
        ),
        "prior": Parser(prior, lambda c: within(card_of / "prior.json", c, lambda: _read_card(card_of)), written),
        "rejected": Parser(rejected, lambda c: within(folder / REJECTED, c, whole_folder), written),
        "left out": Parser(
            resealed({**reader.manifest.to_json(), manifests.LEFT_OUT: left_out}),
            lambda c: within(manifest, c, whole_folder),
            resealed,
        ),
        "published": Parser(manifest.read_bytes(), lambda c: _published(c, "x"), written),
    }


def outcome(read: Callable[[bytes], Any], content: bytes) -> str:
    """``read``, ``refused``, or ``CRASH``."""
    try:
        read(content)
    except GifDatasetsError:
        return "refused"
    except Exception:
        return "CRASH: " + traceback.format_exc(limit=-2).replace("\n", " | ")[-600:]
    return "read"


def run(count: int, first: int = 0, only: str = "") -> dict[str, Any]:
    """Read ``count`` files with every parser; returns how many had which outcome."""
    started, crashes = time.monotonic(), []
    counts: dict[str, collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, parser in parsers(Path(place)).items():
            if only in ("", name):
                counts[name] = collections.Counter()
                for found, content in _fuzzed(parser, count, first):
                    counts[name][found.partition(":")[0]] += 1
                    if found.startswith("CRASH"):
                        crashes.append({"parser": name, "outcome": found, "content": content[:300].decode("latin-1")})
    return {
        "cases": sum(counter.total() for counter in counts.values()),
        "crashes": crashes[:20],
        "outcomes": {name: dict(counter) for name, counter in counts.items()},
        "seconds": round(time.monotonic() - started, 1),
    }


def _fuzzed(parser: Parser, count: int, first: int) -> list[tuple[str, bytes]]:
    assert parser.read(parser.whole) is not None  # or what is fuzzed would be something else
    made: list[bytes] = []

    @seed(first)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(content=cases(parser))
    def one(content: bytes) -> None:
        made.append(content)

    one()
    # out here, because hypothesis lets functions that it calls nest deeper than Python does
    return [(outcome(parser.read, content), content) for content in made]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2_000, help="files for each parser")
    parser.add_argument("--first", type=int, default=0, help="another number gives other files")
    parser.add_argument("--only", default="", help="one parser")
    args = parser.parse_args()
    report = run(args.count, args.first, args.only)
    print(json.dumps(report, indent=1))
    return 1 if report["crashes"] else 0


if __name__ == "__main__":
    sys.exit(main())
