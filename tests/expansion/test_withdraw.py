"""Withdrawals: afterwards no byte of a seed, of its copies or of what shows it is in the folder or the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from helpers import OPTIONS, contents, forge_manifest, hugging_face
from PIL import Image

import gif_datasets
import gif_datasets.shards.columns
import gif_datasets.shards.manifest
import gif_datasets.shards.rejections
from gif_datasets import ConfigError, UsageError, withdraw
from gif_datasets.cli import main
from gif_datasets.io import digests, unchanged
from gif_datasets.io.cache.store import open_cache
from gif_datasets.io.digests import digest
from gif_datasets.shards import switch
from gif_datasets.shards.manifest import withdrawn_digest
from gif_datasets.shards.verify import verify
from gif_datasets.sources import known_files

Draw = Callable[[int], Image.Image]


def expanded(source: object, out: Path, **options: Any) -> Path:
    gif_datasets.expand(source, out, cache_dir=out.parent / "cache", **{**OPTIONS, **options})
    return out


def samples(folder: Path) -> list[tuple[Any, bytes]]:
    """Record and image file of every sample."""
    reader = gif_datasets.load_expanded(folder)._reader
    return [(reader.provenance(i), reader.image_bytes(i)) for i in range(len(reader))]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}


@pytest.mark.parametrize("name", ["bee/2.png", "seed_key", "train-0000006-0001"])
@pytest.mark.parametrize(
    "options",
    [{"method": "randaugment"}, {"method": "gif-unclip"}, {"method": "cutmix"}],
    ids=lambda options: options["method"],
)
def test_nothing_of_a_seed_is_left(
    options: dict[str, Any], name: str, seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither image, copy, mix, name nor key, in any file; other shards are as they were; an update leaves it out."""
    monkeypatch.setattr(known_files, "LEAST_BYTES", 0)
    monkeypatch.setattr(unchanged, "SETTLED", -10 * 10**9)
    out = expanded(str(seed_folder), tmp_path / "out", **options)
    before, files = samples(out), shards(out)
    (key,) = {record.seed_key for record, _ in before if record.seed_origin == "bee/2.png"}
    gone = [image for record, image in before if key in (record.seed_key, record.partner_key)]
    mixes = sum(record.partner_key == key != record.seed_key for record, _ in before)
    found = withdraw(out, [key if name == "seed_key" else name], cache_dir=tmp_path / "cache")
    assert (found.seeds, found.samples, found.unmixed) == (("bee/2.png",), len(gone), mixes)
    cache = open_cache(tmp_path / "cache")
    assert verify(out, cache=cache) == []
    noted = gif_datasets.shards.manifest.read_manifest(out).plan.withdrawn_images
    assert noted == {withdrawn_digest(hashlib.sha256(image).hexdigest()) for image in gone}
    for path, content in {**contents(out), **contents(tmp_path / "cache")}.items():
        assert not any(image in content for image in gone), path
        assert key.encode() not in content, path
        assert bytes.fromhex(key) not in content, path
        assert b"bee/2.png" not in content, path
    assert len(samples(out)) == len(before) - len(gone)
    touched = files.keys() - shards(out).keys()
    assert len(touched) >= found.rewritten + found.removed
    assert len(shards(out).keys() - files.keys()) == found.rewritten
    assert all(shards(out)[shard] == files[shard] for shard in files.keys() - touched)
    assert cache.verify().damaged == ()
    with pytest.warns(UserWarning, match="bee/2.png: withdrawn from"):
        again = gif_datasets.expand(str(seed_folder), out, update=True, cache_dir=tmp_path / "cache")
    assert again.bad == (f"bee/2.png: withdrawn from {out}",)
    assert (again.generation, again.added) == (2, 0)


def test_images_that_earlier_versions_keyed_otherwise(
    seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where large images had keys by SHA-256: the folder still verifies, and what was withdrawn does not come back."""
    for name in ("ant/0.png", "bee/2.png"):
        Image.open(seed_folder / name).resize((64, 64)).save(seed_folder / name)
    out = expanded(str(seed_folder), tmp_path / "out")
    withdraw(out, ["bee/2.png"], cache_dir=tmp_path / "cache")
    monkeypatch.setattr(digests, "LARGEST_BY_SHA", 64 * 64 - 1)
    assert verify(out) == []
    with pytest.warns(UserWarning, match="bee/2.png: withdrawn from"):
        found = gif_datasets.expand(str(seed_folder), out, update=True, cache_dir=tmp_path / "cache")
    assert (found.added, found.withdrawn, found.bad) == (1, 1, (f"bee/2.png: withdrawn from {out}",))
    assert verify(out) == []


def test_again_and_in_several_ways(
    seed_folder: Path, tmp_path: Path, picture: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again is done at once; equal images go together; rejections and the preview follow."""
    shutil.copy(seed_folder / "ant" / "1.png", seed_folder / "crab" / "same.png")
    out = expanded(str(seed_folder), tmp_path / "out", method="randaugment")
    (out / ".added").mkdir()
    gif_datasets.shards.rejections.reject(out, ["train-0000001-0001", "train-0000005-0001"])
    preview = (out / "preview.png").read_bytes()
    names = tmp_path / "names.txt"
    names.write_text("ant/1.png\n\n bee/0.png \n")
    command = ["withdraw", str(out), "--file", str(names), "--cache-dir", str(tmp_path / "cache")]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seeds"], found["generation"]) == (["ant/1.png", "bee/0.png", "crab/same.png"], 2)
    assert json.loads((out / "rejected.json").read_text())["rejected"] == ["train-0000005-0001"]
    assert (out / "preview.png").read_bytes() != preview
    assert not (out / ".added").exists()
    after = contents(out)
    assert main(command) == 0
    assert "withdrawn before" in capsys.readouterr().out
    assert contents(out) == after
    assert main(["withdraw", str(out), "bee/3.png"]) == 0
    text = capsys.readouterr().out
    assert "1 seeds withdrawn: bee/3.png" in text
    assert "generation 3" in text
    assert main(["info", str(out), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["withdrawn"], len(info["generations"])) == (4, 3)
    assert "4 more were real images of earlier generations" in (out / "README.md").read_text()
    assert verify(out) == []


def test_by_a_column(seed_folder: Path, tmp_path: Path) -> None:
    """All rows with a value go, from the samples and from the file of the source's columns."""
    rows = hugging_face(seed_folder).map(lambda row: {"patient": row["id"] % 4})
    out = expanded(rows, tmp_path / "out", method="randaugment")
    found = withdraw(out, column="patient=3", cache_dir=tmp_path / "cache")
    assert len(found.seeds) == 3
    table = gif_datasets.shards.columns.read_source(out)
    assert table is not None
    assert {row["patient"] for row in table.rows.values()} == {0, 1, 2}
    assert verify(out) == []
    for column, text in (("patient=9", "no seed of"), ("age=3", "no column 'age'; it has"), ("patient", "NAME=VALUE")):
        with pytest.raises(UsageError, match=text):
            withdraw(out, column=column)
    assert withdraw(out, column="patient=3", cache_dir=tmp_path / "cache").seeds == ()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["bee/22.png"], r"is called 'bee/22.png'; did you mean 'bee/\d.png'\?; nothing was withdrawn"),
        ([], "nothing to withdraw"),
        (["read"], "is being read"),
        (["added"], "is being changed"),
        (["all"], "no seed of .* would be left"),
        (["store"], "folders on this machine"),
        (["column"], "have no columns of their source"),
        (["unfinished"], "not finished"),
    ],
)
def test_refused(names: list[str], text: str, seed_folder: Path, tmp_path: Path) -> None:
    """One line that says why, and nothing is changed."""
    out, case = expanded(str(seed_folder), tmp_path / "out"), "".join(names)
    before = contents(out)
    if case == "unfinished":
        (out / "manifest.json").unlink()
        before = contents(out)
    reader = gif_datasets.load_expanded(out) if case == "read" else None
    wanted = [f"{name}/{i}.png" for name in ("ant", "bee", "crab") for i in range(4 if case == "all" else 1)]
    calls: dict[str, Callable[[], Any]] = {
        "column": lambda: withdraw(out, column="patient=3"),
        "store": lambda: withdraw("memory://bucket/set", ["a"]),
        "": lambda: withdraw(out),
        "bee/22.png": lambda: withdraw(out, names),
    }
    call = calls.get(case, lambda: withdraw(out, wanted, cache_dir=tmp_path / "none"))
    with switch.working(out) if case == "added" else nullcontext(), pytest.raises(UsageError, match=text):
        call()
    del reader
    assert contents(out) == before
    assert verify(out) == [] if case != "unfinished" else True


def test_two_of_one_name(seed_folder: Path, tmp_path: Path, picture: Draw) -> None:
    """A name of two images is refused with their keys; chosen copies can be withdrawn, too."""
    held = tmp_path / "held"
    (held / "ant").mkdir(parents=True)
    picture(77).save(held / "ant" / "0.png")
    picture(78).save(held / "ant" / "h.png")
    out = expanded(str(seed_folder), tmp_path / "out", validation=str(held), method="randaugment")
    with pytest.raises(UsageError, match=r"2 seeds are called 'ant/0.png'; give their keys: [0-9a-f]{64}, "):
        withdraw(out, ["ant/0.png"])
    found = withdraw(out, ["ant/h.png"], cache_dir=tmp_path / "cache")
    assert (found.samples, verify(out)) == (1, [])
    options = {"method": "select:randaugment", "selection": "sample-agnostic"}
    chosen = expanded(str(seed_folder), tmp_path / "chosen", **options)
    withdraw(chosen, ["crab/0.png"], cache_dir=tmp_path / "cache")
    assert verify(chosen) == []
    with pytest.raises(ConfigError, match="folders on this machine"):
        withdraw("s3://bucket/set", ["crab/0.png"])


def test_verify_looks_for_withdrawn_images(seed_folder: Path, tmp_path: Path) -> None:
    """An image that a manifest calls withdrawn, and that is still there, is a problem."""
    out = expanded(str(seed_folder), tmp_path / "out", method="cutmix")
    record = next(record for record, _ in samples(out) if record.partner_key)
    plan = json.loads((out / "manifest.json").read_text())["plan"]
    plan["withdrawn"] = [withdrawn_digest(record.partner_key)]
    forge_manifest(out, plan=plan, plan_hash=digest(plan))
    problems = verify(out)
    shown = [one for one, _ in samples(out) if record.partner_key in (one.seed_key, one.partner_key)]
    assert len(problems) == len(shown)
    assert all(text.endswith("was withdrawn, or shows an image that was, and is still there") for text in problems)
    for name in ("withdrawn", "withdrawn_images"):
        forge_manifest(out, plan={**plan, name: 3}, plan_hash=digest({**plan, name: 3}))
        with pytest.raises(gif_datasets.ShardError, match=f"'{name}' is of another type"):
            verify(out)
    whole = {**dict.fromkeys(("added", "withdrawn", "unmixed", "shards", "samples", "next_seed"), 1), "versions": {}}
    whole |= {"after": "", "device": "cpu", "population": "", "kept": []}
    for entry in ({"added": 1}, {**whole, "kept": [3]}, {**whole, "added": "1"}):
        damaged = {**plan, "generations": [entry]}
        forge_manifest(out, plan=damaged, plan_hash=digest(damaged))
        with pytest.raises(gif_datasets.ShardError, match="damaged entry of a generation"):
            verify(out)


def test_verify_looks_for_the_content_of_withdrawn_images(
    seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A withdrawn image under the name of another seed is found: in a shard, in a hidden folder, and in a cache."""
    out = expanded(str(seed_folder), tmp_path / "out", method="randaugment")
    shutil.copytree(out / "data", tmp_path / "before")
    shutil.copytree(tmp_path / "cache", tmp_path / "old")
    withdraw(out, ["bee/2.png"], cache_dir=tmp_path / "cache")
    plan = json.loads((out / "manifest.json").read_text())["plan"]
    kept = {**plan, "withdrawn": ["0" * 64]}  # as if none of their keys were known
    forge_manifest(out, plan=kept, plan_hash=digest(kept))
    assert verify(out) == []
    (out / ".added").mkdir()
    shutil.copytree(tmp_path / "before", out / ".added" / "data")
    (out / ".added" / "data" / "damaged.tar").write_bytes(b"no tar")
    hidden = verify(out)
    assert len([text for text in hidden if "is still there" in text]) == 3  # the seed, and its copies
    assert len([text for text in hidden if "damaged.tar" in text]) == 1
    shutil.rmtree(out / ".added")
    command = ["verify", str(out), "--cache-dir"]
    assert main([*command, str(tmp_path / "cache")]) == 0
    assert main([*command, str(tmp_path / "old")]) == 1
    assert capsys.readouterr().out.count("in the cache was withdrawn") == 2
    assert main([*command, str(tmp_path / "none")]) == 2
    record, image = samples(out)[0]
    shown = [withdrawn_digest(hashlib.sha256(image).hexdigest())]
    forged = {**kept, "withdrawn_images": shown}
    forge_manifest(out, plan=forged, plan_hash=digest(forged))
    (problem,) = verify(out)
    assert f"-{record.seed_index:07d}-0000: was withdrawn" in problem


def test_images_that_others_have_too(tmp_path: Path) -> None:
    """Two seeds may be one JPEG file: where one is withdrawn, the other one stays, or comes later."""
    source = tmp_path / "source"
    for number in range(8):
        (source / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (30 * number, 90, 200)).save(source / "ab"[number % 2] / f"{number}.png")
    twin = Image.open(source / "a" / "0.png")
    twin.putpixel((3, 3), (1, 90, 200))
    twin.save(source / "a" / "twin.png")
    options = {"method": "cutout", "ratio": 1, "image_format": "jpg", "jpeg_quality": 10}
    out = expanded(str(source), tmp_path / "out", **options)
    files = {record.seed_origin: image for record, image in samples(out) if record.copy == 0}
    assert files["a/0.png"] == files["a/twin.png"]
    withdraw(out, ["a/twin.png"], cache_dir=tmp_path / "cache")
    assert verify(out) == []
    (source / "a" / "0.png").rename(tmp_path / "0.png")
    later = expanded(str(source), tmp_path / "later", **options)
    withdraw(later, ["a/twin.png"], cache_dir=tmp_path / "cache")
    (source / "a" / "twin.png").unlink()
    (tmp_path / "0.png").rename(source / "a" / "0.png")
    assert gif_datasets.expand(str(source), later, update=True, cache_dir=tmp_path / "cache").added == 1
    assert verify(later) == []


def test_no_more_shards_than_seeds_are_written(tmp_path: Path, picture: Draw) -> None:
    """Seeds and copies are in shards of their own, and what is left of several becomes one, within a size."""
    source = tmp_path / "source"
    for number in range(60):
        (source / "abc"[number % 3]).mkdir(parents=True, exist_ok=True)
        picture(number).save(source / "abc"[number % 3] / f"{number}.png")
    out = expanded(str(source), tmp_path / "out", method="randaugment", ratio=2, samples_per_shard=10)
    before, usual = shards(out), gif_datasets.shards.manifest.shard_size(180, 4)
    names = [f"{'abc'[number % 3]}/{number}.png" for number in range(0, 60, 8)]
    found = withdraw(out, names, cache_dir=tmp_path / "cache")
    assert len(before.keys() - shards(out).keys()) > found.rewritten == len(names)
    assert verify(out) == []
    manifest = gif_datasets.shards.manifest.read_manifest(out)
    assert max(shard.samples for shard in manifest.shards) <= 2 * usual
    samples_of_seed = Counter(gif_datasets.load_expanded(out).groups.tolist())
    assert (len(samples_of_seed), set(samples_of_seed.values())) == (60 - len(names), {3})
