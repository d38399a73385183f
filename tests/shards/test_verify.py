"""`verify` finds whatever is not as it was written: any bit, any file, any sample, any trick of a tar."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import forge_manifest, hugging_face
from PIL import Image

import gif_datasets
from gif_datasets import GifDatasetsError, ShardError, UsageError
from gif_datasets.expansion.run import summarise
from gif_datasets.io import atomic, images
from gif_datasets.io.digests import digest
from gif_datasets.report.gallery import galleries
from gif_datasets.report.page import write_report
from gif_datasets.shards import index, ustar
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import tar as shards
from gif_datasets.shards import verify as checking
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.index import INDEX
from gif_datasets.shards.manifest import Manifest
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.verify import verify
from gif_datasets.types import Provenance, no_progress

Parts = dict[str, bytes]
INDICES = ("README.md", "_info.json", INDEX, "plan.json", "wids-train.json", "wids-validation.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    generator = np.random.default_rng(1)
    rows = [(Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)), i % 2) for i in range(8)]
    gif_datasets.ExpandedDataset(
        rows, ratio=2, prior="linear", classes=["a", "b"], validation_share=0.25, samples_per_shard=3,
        cache_dir=place / "c",
    ).precompute(place / "out")  # fmt: skip
    return place / "out"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def problems(folder: Path) -> str:
    """What verify says, also where it stops at once."""
    try:
        return "\n".join(verify(folder))
    except GifDatasetsError as error:
        return str(error)


def tars(folder: Path, split: str = "train") -> list[Path]:
    return sorted((folder / "data").glob(f"{split}-*.tar"))


def test_a_whole_folder_has_no_problems(folder: Path) -> None:
    """As written, as a copy, and with hidden files of others."""
    (folder / ".gitattributes").write_text("*.tar filter=lfs")
    (folder / "data" / ".tmp-x").write_text("")
    assert verify(folder) == []


def _flips(path: Path, bits: int = 8) -> Iterator[int]:
    """Flip so many bits of each byte of a file in turn, others in the next byte; it is as before after each."""
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(content):
            for bit in ((at + turn) % 8 for turn in range(bits)):
                file.seek(at)
                file.write(bytes([byte ^ (1 << bit)]))
                yield at
            file.seek(at)
            file.write(bytes([byte]))


def test_every_byte_of_the_manifest(folder: Path) -> None:
    """A flipped bit of each byte makes the manifest refuse itself, white space and its own digest included.

    Which bit does not matter: the digest is of all, and reading the whole for each of eight takes a minute.
    """
    for at in _flips(folder / "manifest.json", bits=1):
        with pytest.raises(ShardError):
            pytest.fail(f"bit in byte {at}: {manifests.read_manifest(folder).digest}")
    assert verify(folder) == []


def test_every_bit_of_the_indices_and_the_card(folder: Path) -> None:
    """Each single flipped bit of every index, the plan and the card is found, and the file named."""
    files = manifests.read_manifest(folder).files
    assert sorted(files) == sorted(INDICES)
    for name in INDICES:
        for at in _flips(folder / name):
            assert name in "".join(checking._verify_files(folder, {name: files[name]})), at
    assert verify(folder) == []


def test_every_structural_bit_of_a_tar(folder: Path) -> None:
    """Each flipped bit of headers, padding and end is found without any digest: a forged digest hides none."""
    path = tars(folder)[0]
    members = list(ustar.members(path))
    inside = {at for member in members for at in range(member.offset, member.offset + member.size)}
    names = [member.name for member in members]
    for at in _flips_outside(path, inside):
        with pytest.raises(ShardError):
            pytest.fail(f"byte {at}: {[m.name for m in ustar.members(path)] == names}")
    assert list(ustar.members(path)) == members


def _flips_outside(path: Path, inside: set[int]) -> Iterator[int]:
    """One bit of every byte that is not in ``inside``, each in turn another; all bits of the first header."""
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at in (at for at in range(len(content)) if at not in inside):
            for bit in range(8) if at < 512 else (at % 8,):
                file.seek(at)
                file.write(bytes([content[at] ^ (1 << bit)]))
                yield at
            file.seek(at)
            file.write(content[at : at + 1])


def test_bits_anywhere_in_the_shards(folder: Path) -> None:
    """Of 300 bits drawn over all shards, each is found by the whole check, and its shard named."""
    draw = random.Random(0)
    for _ in range(300):
        path = draw.choice([*tars(folder), *tars(folder, "validation")])
        content = bytearray(path.read_bytes())
        at = draw.randrange(len(content))
        content[at] ^= 1 << draw.randrange(8)
        before = path.read_bytes()
        path.write_bytes(bytes(content))
        assert path.name in problems(folder), at
        path.write_bytes(before)
    assert verify(folder) == []


@pytest.mark.parametrize("count", [0, 1, 511, 512, 1024, 3000, -512, -1])
def test_truncated_shards(folder: Path, count: int) -> None:
    """A shard cut at any place is found, at a member's boundary too."""
    for path in (tars(folder)[1], tars(folder, "validation")[0]):
        before = path.read_bytes()
        path.write_bytes(before[:count])
        assert path.name in problems(folder)
        path.write_bytes(before)


@pytest.mark.parametrize("name", [*INDICES, "manifest.json", "data/train-00001-of-{n:05d}.tar"])
def test_missing_files(folder: Path, name: str) -> None:
    """Each missing file is found and named."""
    name = name.format(n=len(tars(folder)))
    (folder / name).unlink()
    assert Path(name).name in problems(folder)


@pytest.mark.parametrize(
    "name", ["data/train-00099-of-00100.tar", "data/x.png", "metadata.csv", "wids-test.json", "d/"]
)
def test_foreign_files(folder: Path, name: str) -> None:
    """A file that a reader might take for data is found and named."""
    if name.endswith("/"):
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(b"x")
    assert verify(folder) == [f"foreign file {name.rstrip('/')}"]


# --- forged: every digest is made to fit ---------------------------------------------------------------------------


def forge(folder: Path, path: Path, content: bytes, samples: int | None = None) -> None:
    """Put other bytes in a shard's place and make every digest agree."""
    path.write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(entry for entry in manifest["shards"] if entry["name"] == f"data/{path.name}")
    sums = {"sha256": hashlib.sha256(content).hexdigest(), "md5": hashlib.md5(content).hexdigest()}
    entry.update(bytes=len(content), samples=entry["samples"] if samples is None else samples, **sums)
    files = {name: (folder / name).read_bytes() for name in manifest["files"]} | manifests.index_files(
        Manifest.from_json(manifest)
    )
    with contextlib.suppress(ShardError):  # where the shard gives none, the index stays as it was
        files[INDEX] = index.to_bytes(shards.build_index(folder, Manifest.from_json(manifest).shards))
    for name, text in files.items():
        (folder / name).write_bytes(text)
    forge_manifest(folder, **manifests.sealed(manifest, files))


def samples_of(path: Path) -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    content = path.read_bytes()
    for member in ustar.members(path):
        key, _, suffix = member.name.partition(".")
        found.setdefault(key, {})[suffix] = content[member.offset : member.offset + member.size]
    return found


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(ustar.header(n, len(c)) + c + b"\0" * (-len(c) % 512) for n, c in members) + b"\0" * 1024
    return body + b"\0" * (-len(body) % 10_240)


def packed(found: dict[str, Parts]) -> bytes:
    return tar_of([(f"{key}.{suffix}", text) for key, parts in found.items() for suffix, text in parts.items()])


def changed(parts: Parts, **fields: object) -> Parts:
    record = {**json.loads(parts["json"]), **fields}
    return {**parts, "json": json.dumps(record, sort_keys=True).encode()}


def test_forging_itself_is_sound(folder: Path) -> None:
    """The helper writes shards as the package does, so that what follows tests what it says."""
    for path in tars(folder):
        before = path.read_bytes()
        assert packed(samples_of(path)) == before
        forge(folder, path, before)
    assert verify(folder) == []


def _first(found: dict[str, Parts]) -> str:
    return next(iter(found))


def _without_last(found: dict[str, Parts]) -> dict[str, Parts]:
    return dict(list(found.items())[:-1])


def _edit(**fields: object) -> Callable[[dict[str, Parts]], dict[str, Parts]]:
    return lambda found: {**found, _first(found): changed(found[_first(found)], **fields)}


def _parts(**parts: bytes) -> Callable[[dict[str, Parts]], dict[str, Parts]]:
    return lambda found: {**found, _first(found): {**found[_first(found)], **parts}}


FORGED: dict[str, tuple[Callable[[dict[str, Parts]], dict[str, Parts]], str]] = {
    "sample missing": (_without_last, "is missing"),
    "member missing": (
        lambda f: {**f, _first(f): {k: v for k, v in f[_first(f)].items() if k != "cls"}},
        "has members json, png",
    ),
    "second picture": (_parts(webp=b"x"), "has members cls, json, png, webp"),
    "unknown suffix": (_parts(txt=b"x"), "foreign member"),
    "other order": (lambda f: {k: dict(reversed(p.items())) for k, p in f.items()}, "has members png, json, cls"),
    "sample twice": (lambda f: {**f, "train-0000099-0001": f[_first(f)]}, "is there twice"),
    "foreign sample": (
        lambda f: {**f, "train-0000099-0001": changed(f[_first(f)], seed_index=99, copy=1)},
        "seed 99",
    ),
    "copy too many": (lambda f: {**f, "x": changed(f[_first(f)], copy=7)}, "its record is that of train-"),
    "other label": (_edit(label=1 << 40), "is wrong"),
    "labels disagree": (_parts(cls=b"01"), "label b'01' is wrong"),
    "class name": (_edit(class_name="c"), "class name 'c' is wrong"),
    "no longer synthetic": (_edit(synthetic=False), "says synthetic false"),
    "other origin": (_edit(seed_origin="elsewhere"), "seed"),
    "other seed": (_edit(seed_key="0" * 64), "seed"),
    "picture": (_parts(png=b"no picture"), "image differs from its digest"),
    "type": (_edit(copy=True), "copy must be int"),
    "list for a number": (_edit(seed_index=[1]), "seed_index must be int"),
    "no number": (_edit(entropy_after=float("nan")), "entropy_after is nan"),
    "infinite": (_edit(diversity_before=float("-inf")), "diversity_before is -inf"),
    "too large to be written": (_parts(json=b"1e999"), "damaged record"),
    "too large to be summed": (_edit(picture_entropy=1e308), "picture_entropy is 1e+308"),
    "over 64 bits": (_edit(rng_seed=2**63), "rng_seed is 9223372036854775808"),
    "half of a character": (_edit(seed_origin="\ud800"), "surrogates not allowed"),
    "below 64 bits": (_edit(held_class=-(2**70)), "held_class is -1180591620717411303424"),
    "field missing": (lambda f: {**f, _first(f): {**f[_first(f)], "json": b"{}"}}, "damaged record"),
    "no object": (_parts(json=b"[]"), "damaged record"),
    "deep": (_parts(json=b"[" * 100_000), "damaged record"),
    "no text": (_parts(json=b"\xff\xfe"), "damaged record"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_samples(folder: Path, case: str) -> None:
    """Samples that are missing, doubled, foreign or changed are found though every digest fits."""
    change, words = FORGED[case]
    path = tars(folder)[3]  # of copies
    found = change(samples_of(path))
    forge(folder, path, packed(found), samples=len(found))
    assert words in problems(folder)


@pytest.mark.parametrize(
    ("image_format", "readable", "words"),
    [
        ("png", True, "train-0000003-0000: shows other pixels than ant/3.png had when it was listed"),
        ("webp", True, "train-0000003-0000: shows other pixels than ant/3.png had when it was listed"),
        ("webp", False, "train-0000003-0000: image cannot be read"),
        ("jpg", True, ""),  # which has lost some of every image
    ],
)
def test_originals_have_the_pixels_of_their_keys(
    seed_folder: Path, tmp_path: Path, image_format: str, readable: bool, words: str
) -> None:
    """An image that was edited after it was listed, as older versions took it: digests agree, its key does not."""
    gif_datasets.expand(str(seed_folder), tmp_path / "out", ratio=1, prior="linear", image_format=image_format)
    assert verify(tmp_path / "out") == []
    image = images.encode(np.zeros((32, 32, 3), np.uint8), image_format, 90) if readable else b"no picture"
    for path in tars(tmp_path / "out"):
        found = samples_of(path)
        if (key := "train-0000003-0000") in found:
            found[key] = changed({**found[key], image_format: image}, image_sha256=hashlib.sha256(image).hexdigest())
        forge(tmp_path / "out", path, packed(found))
    assert words in problems(tmp_path / "out")
    assert bool(words) == bool(problems(tmp_path / "out"))


def test_a_key_given_twice_in_a_record(folder: Path) -> None:
    """A record that readers could understand in two ways is found."""
    path = tars(folder)[3]
    found = samples_of(path)
    parts = found[_first(found)]
    parts["json"] = b'{"label": 0, ' + parts["json"][1:]
    forge(folder, path, packed(found))
    assert "record is not written as records are" in problems(folder)


def test_a_held_out_picture_among_the_expanded(folder: Path) -> None:
    """A validation sample smuggled into the other split is found."""
    held = samples_of(tars(folder, "validation")[0])
    record = json.loads(held[_first(held)]["json"])
    path = tars(folder)[0]
    found = {**samples_of(path), f"train-{record['seed_index']:07d}-0000": held[_first(held)]}
    forge(folder, path, packed(found), samples=len(found))
    assert "is in both splits" in problems(folder)


def test_forged_counts_and_plans(folder: Path) -> None:
    """Counts, the plan and its hash must agree with each other and with what is there."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for changes in (
        {"samples": 1},
        {"originals": 7},
        {"synthetic": 13},
        {"validation": 1},
        {"failed_checks": 1},
        {"plan_hash": "0"},
    ):
        forge_manifest(folder, **{**manifest, **changes})
        assert problems(folder), changes
    forge_manifest(folder, **{**manifest, "split": "other"})
    assert problems(folder)
    forge_manifest(folder, **{**manifest, "files": {"../x": {}, "README.md": None}})
    assert "damaged file entry '../x'" in problems(folder)
    forge_manifest(folder, **manifest)
    assert problems(folder) == ""


def _with_tarfile(found: dict[str, Parts], format: int, **info: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for key, parts in found.items():
            for suffix, text in parts.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(text)
                for name, value in info.items():
                    setattr(member, name, value)
                tar.addfile(member, io.BytesIO(text))
    return buffer.getvalue()


def _renamed(found: dict[str, Parts], name: str) -> dict[str, Parts]:
    return {name: found[_first(found)]}


TRICKS: dict[str, tuple[Callable[[dict[str, Parts]], bytes], str]] = {
    "PAX times": (lambda f: _with_tarfile(f, tarfile.PAX_FORMAT, mtime=0.5), "PAX header"),
    "GNU long name": (lambda f: _with_tarfile(_renamed(f, "k" * 120), tarfile.GNU_FORMAT), "GNU header"),
    "PAX name": (
        lambda f: _with_tarfile(f, tarfile.PAX_FORMAT, pax_headers={"path": "train-9999999-0001.cls"}),
        "PAX header",
    ),
    "owner": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, uname="root"), "header is damaged"),
    "time": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, mtime=1), "header is damaged"),
    "mode": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, mode=0o777), "header is damaged"),
    "symbolic link": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, type=tarfile.SYMTYPE), "a symbolic link"),
    "hard link": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, type=tarfile.LNKTYPE), "a hard link"),
    "device": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, type=tarfile.CHRTYPE), "a device"),
    "pipe": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, type=tarfile.FIFOTYPE), "a pipe"),
    "folder": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, type=tarfile.DIRTYPE), "a folder"),
    "sparse": (lambda f: _with_tarfile(f, tarfile.USTAR_FORMAT, type=tarfile.GNUTYPE_SPARSE), "a sparse file"),
    "two archives": (lambda f: packed(f) + packed(f), "should end at byte"),
    "bytes after the end": (lambda f: packed(f)[:-10] + b"0123456789", "bytes after its end"),
    "no end": (lambda f: packed(f)[:-10_240], ""),
    "climbing name": (lambda f: packed(_renamed(f, "../x")), "foreign member '../x.cls'"),
    "absolute name": (lambda f: packed(_renamed(f, "/etc/x")), "foreign member '/etc/x.cls'"),
    "empty": (lambda f: tar_of([]), "0 samples, should be 3"),
    "compressed": (lambda f: gzip.compress(packed(f)), "foreign member"),
}


@pytest.mark.parametrize("case", TRICKS)
def test_tricks_of_tars(folder: Path, case: str) -> None:
    """Extensions, links, devices and what else tars can hold are refused by name, by readers without an index too."""
    make, words = TRICKS[case]
    path = tars(folder)[0]
    before = samples_of(path)
    forge(folder, path, make(before))
    assert words in problems(folder)
    assert problems(folder)
    with contextlib.suppress(ShardError):  # what an index still finds is what was written
        reader = ShardReader(folder)
        for i in range(len(before)):
            assert reader.image_bytes(i) == before[reader.key(i)]["png"]
    forge_manifest(folder, files={})
    (folder / INDEX).unlink()
    with pytest.raises(ShardError):
        gif_datasets.load_expanded(folder)


@pytest.mark.parametrize("size", [-1, -512, -1024])
def test_sizes_below_nothing(tmp_path: Path, size: int) -> None:
    """A header of a negative size, otherwise well-formed, is refused; it leads nobody back or round in circles."""
    path = tmp_path / "x.tar"
    path.write_bytes(ustar.header("a.cls", size).ljust(10_240, b"\0"))
    with pytest.raises(ShardError, match="header is damaged"):
        list(itertools.islice(ustar.members(path), 100))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda parts, copy: parts if copy else {**parts, "source.json": b"{}"}, "other values in source.json than"),
        (lambda parts, copy: {**parts, "source.json": b"{}"}, "own columns in the shards are not those of the plan"),
        (lambda parts, copy: {k: v for k, v in parts.items() if k != "source.json"}, "has members cls, json, png"),
    ],
)
def test_own_columns_are_those_of_the_plan(seed_folder: Path, tmp_path: Path, change: Any, words: str) -> None:
    """The source's own columns are the same in every copy, those that were read, and missing in none."""
    out = tmp_path / "out"
    expanded = gif_datasets.ExpandedDataset(hugging_face(seed_folder), ratio=2, prior="linear", validation_share=0.2)
    expanded.precompute(out)
    assert problems(out) == ""
    for path in (*tars(out), *tars(out, "validation")):
        found = {key: change(parts, int(key[-4:])) for key, parts in samples_of(path).items()}
        forge(out, path, packed(found))
    assert words in problems(out)


def test_own_columns_of_another_type_are_refused(folder: Path) -> None:
    """A plan whose own columns are not a table is refused when the manifest is read, not when they are used."""
    plan = manifests.read_manifest(folder).to_json()["plan"]
    forge_manifest(folder, plan={**plan, "own_columns": ["grade"]})
    with pytest.raises(ShardError, match="'own_columns' is of another type"):
        manifests.read_manifest(folder)


@pytest.mark.parametrize(
    "objects",
    ["boxes", {"keep": "boxes"}, {"keep": "boxes", "classes": [1]}, {"keep": "x", "classes": ["a"]},
     {"keep": "boxes", "classes": ["a", "a"]}],
)  # fmt: skip
def test_objects_of_another_form_are_refused(folder: Path, objects: Any) -> None:
    """What is kept, and the classes of objects, are what a reader relies on."""
    plan = manifests.read_manifest(folder).to_json()["plan"]
    forge_manifest(folder, plan={**plan, "objects": objects})
    with pytest.raises(ShardError, match="'objects' is of another type"):
        manifests.read_manifest(folder)


def test_members_are_those_that_other_readers_see(folder: Path) -> None:
    """Python's own tar reader lists the same members at the same places."""
    for path in tars(folder):
        with tarfile.open(path) as tar:
            seen = [(m.name, m.offset_data, m.size) for m in tar]
        assert seen == [(m.name, m.offset, m.size) for m in ustar.members(path)]


# --- mending --------------------------------------------------------------------------------------------------------


def test_running_again_mends_indices_and_keeps_an_edited_card(seed_folder: Path, tmp_path: Path) -> None:
    """Missing and damaged indices are written anew; a card that somebody edited is theirs."""
    folder = tmp_path / "out"

    def run() -> None:
        gif_datasets.expand(str(seed_folder), folder, ratio=1, prior="linear")

    run()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (folder / "_info.json").write_text("{}")
    (folder / "wids-train.json").unlink()
    (folder / INDEX).unlink()
    (folder / "README.md").unlink()
    run()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    (folder / "README.md").write_text("my own words")
    (folder / "_info.json").write_text("{}")
    run()
    assert (folder / "README.md").read_text() == "my own words"
    assert verify(folder) == [
        "README.md differs from what was written (edited, or damaged; remove it and expand again to restore it)"
    ]
    (folder / "manifest.json").write_bytes(before["manifest.json"].replace(b"linear", b"lineal", 1))
    (folder / "README.md").unlink()
    run()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_older_and_newer_manifests(folder: Path) -> None:
    """Each is refused with what to do."""
    for number, words in (
        (1, f"older than {manifests.MANIFEST_FORMAT}; expand again"),
        (99, f"newer than {manifests.MANIFEST_FORMAT}; upgrade"),
    ):
        forge_manifest(folder, format=number)
        assert words in problems(folder)


def test_a_folder_of_a_newer_version_is_not_written_to(seed_folder: Path, tmp_path: Path) -> None:
    """The same plan again would put an older manifest there."""
    options = {"ratio": 1, "prior": "linear", "cache_dir": tmp_path / "c"}
    gif_datasets.expand(str(seed_folder), tmp_path / "out", **options)
    forge_manifest(tmp_path / "out", format=99)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="newer version; upgrade"):
        gif_datasets.expand(str(seed_folder), tmp_path / "out", **options)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value; of equal entries of a list, the first."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from _places(inner, (*path, name))


@pytest.mark.parametrize("value", [None, [], "../x", -1, 10**30, True, {"x": {}}], ids=repr)
def test_manifests_of_any_types(folder: Path, value: object) -> None:
    """A forged manifest with anything anywhere is a problem told or an error of ours, for whoever reads it."""
    whole = json.loads((folder / "manifest.json").read_text())
    for path in _places(whole):
        manifest = json.loads(json.dumps(whole))
        inner = manifest
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        atomic.write_json(folder / "manifest.json", {**manifest, "digest": ""})
        if path != ("digest",):
            forge_manifest(folder, **manifest)
        for read in (verify, gif_datasets.load_expanded, lambda path: summarise(ExpandedFolder.open(path))):
            with contextlib.suppress(GifDatasetsError):
                read(folder)


@pytest.mark.parametrize("text", [b"", b"[", b"[" * 100_000, b"null", b'{"format": NaN}', b'{"format": true}', b"\xff"])
def test_manifests_that_are_none(folder: Path, text: bytes) -> None:
    """Whatever the bytes, one clear error."""
    atomic.write_bytes(folder / "manifest.json", text)
    with pytest.raises(ShardError):
        verify(folder)


def test_record_types_are_checked() -> None:
    """A record rebuilds only from the types that it was written with."""
    with pytest.raises(TypeError):
        Provenance.from_json({})


NOT_WRITTEN = {
    "option": ("plan.recipe.options", {"a |\n# b": 1}),
    "method": ("plan.recipe.options", {"method": ["gif-unclip"]}),
    "library": ("plan.recipe.versions", {"torch<script>": "1"}),
    "version": ("plan.recipe.versions", {"torch": "1 | `x`"}),
    "version of another type": ("plan.recipe.versions", {"torch": 1}),
    "device": ("plan.recipe", {"device": "cpu\nprior = 'evil'"}),
    "digest": ("plan.recipe.prior", {"digest": "0" * 63 + "\n"}),
    "digest of the plan": ("", {"plan_hash": "\nprior = 'evil'"}),
    "limit": ("plan", {"limit": "5\nprior = 'evil'"}),
    "decode_batch": ("plan.recipe.options", {"decode_batch": 0}),
    "seeds": ("plan", {"seeds": -1}),
    "samples": ("", {"samples": 2**60}),
}


@pytest.mark.parametrize("case", NOT_WRITTEN)
def test_what_no_run_writes_is_refused(folder: Path, case: str) -> None:
    """Names, versions and digests stand in cards and configurations as they are; a manifest with others is refused."""
    path, changes = NOT_WRITTEN[case]
    manifest = json.loads((folder / "manifest.json").read_text())
    part = manifest
    for name in filter(None, path.split(".")):
        part = part[name]
    part.update(changes)
    forge_manifest(folder, **{**manifest, "plan_hash": changes.get("plan_hash", digest(manifest["plan"]))})
    assert f"is damaged: its {case.partition(' of ')[0]} is " in problems(folder)


def test_no_record_with_such_numbers_is_used(folder: Path, tmp_path: Path) -> None:
    """Report, browse and every export refuse it by its key."""
    path = tars(folder)[3]
    found = samples_of(path)
    key = _first(found)
    forge(folder, path, packed({**found, key: changed(found[key], entropy_after=float("nan"))}))
    for read in (
        lambda: gif_datasets.load_expanded(folder)._reader.provenance(ShardReader(folder).index_of(key)),
        lambda: write_report(folder, tmp_path / "x.html", "linear"),
        lambda: galleries(folder, no_progress),
        lambda: gif_datasets.export_expanded(folder, tmp_path / "folders", "imagefolder"),
        lambda: gif_datasets.export_expanded(folder, tmp_path / "tables", "parquet"),
    ):
        with pytest.raises(ShardError, match=f"damaged record of {key}: entropy_after is nan"):
            read()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {"classes": "a", "options": {"ratio": 1}}}, "its recipe is not a recipe"),
        ({"recipe": {"classes": ["a"], "options": []}}, "its recipe is not a recipe"),
        ({"recipe": {"classes": ["a"], "options": {"ratio": True}}}, "its ratio is True"),
        ({"recipe": {"classes": ["a"], "options": {"ratio": 1}}}, ""),
        ({"recipe": []}, "'recipe' is missing or of another type"),
    ],
)
def test_a_damaged_plan_is_named(made: Path, change: dict[str, Any], words: str) -> None:
    plan = json.loads((made / "plan.json").read_text())
    assert manifests.plan_damage(plan) == ""
    assert manifests.plan_damage({**plan, **change}) == words
