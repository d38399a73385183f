"""The cache: what is wrong is found and made again, what is old goes first, and nobody is stopped by it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gif_datasets import CacheError, ConfigError, ExpandedDataset
from gif_datasets.cli import main
from gif_datasets.io.cache.store import Cache, open_cache
from gif_datasets.io.digests import digest
from gif_datasets.io.units import parse_duration, parse_size
from gif_datasets.types import Provenance, Sample

LONG_AGO, FAR_AHEAD = 0, 4_000_000_000


def sample(number: int) -> Sample:
    image = f"picture {number}".encode()
    criteria = {f"{c}_{w}": 0.5 for c in ("consistency", "entropy", "diversity") for w in ("before", "after")}
    texts = dict.fromkeys(
        (
            "seed_key",
            "seed_origin",
            "class_name",
            "method",
            "prior",
            "prior_digest",
            "recipe",
            "image_sha256",
            "partner_key",
        ),
        "x",
    )
    record = Provenance(
        synthetic=True,
        seed_index=number,
        copy=1,
        label=0,
        rng_seed=0,
        held_class=0,
        attempts=1,
        passed=True,
        partner_label=-1,
        partner_share=0.0,
        picture_class=-1,
        picture_consistency=0.0,
        picture_entropy=0.0,
        **texts,
        **criteria,
    )
    return Sample(image, record)


def fill(cache: Cache, count: int) -> list[str]:
    """Store samples that were last used a day apart, the first longest ago."""
    keys = [digest(number) for number in range(count)]
    for number, key in enumerate(keys):
        cache.put(key, sample(number))
        set_use(cache, key, time.time() - 86400 * (count - number))
    return keys


def path_of(cache: Cache, key: str) -> Path:
    return cache.folder / key[:2] / f"{key}.sample"


def set_use(cache: Cache, key: str, seconds: float) -> None:
    os.utime(path_of(cache, key), (seconds, seconds))


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(bytes(content))


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; the test is skipped where none can be mounted."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def test_cache_round_trip(tmp_path: Path) -> None:
    """An entry comes back as it went in; an unknown key is None."""
    cache = Cache(tmp_path / "c")
    assert cache.get("ab12") is cache.picture("ab12") is None
    cache.put("ab12", sample(1))
    assert cache.get("ab12") == sample(1)
    assert cache.picture("ab12") == sample(1).image
    assert cache.stats()["entries"] == 1
    assert cache.clear() == 1
    assert cache.get("ab12") is None


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the folder should be is one clear error."""
    (tmp_path / "c").write_text("x")
    with pytest.raises(CacheError, match="--cache-dir"):
        Cache(tmp_path / "c").put("ab12", sample(1))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_no_damage_is_ever_served(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cut, flipped or overwritten anywhere, an entry is absent or as it was; never something else, never an error."""
    cache = Cache(tmp_path_factory.getbasetemp() / "damage")
    cache.put("ab12", sample(1))
    path = path_of(cache, "ab12")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    new = data.draw(
        st.one_of(
            st.just(bytes(content[:at])),
            st.integers(0, 7).map(lambda bit: bytes([*content[:at], content[at] ^ 1 << bit, *content[at + 1 :]])),
            st.binary(max_size=200),
            st.sampled_from([b"[" * 100_000, b'{"format": 4}\n', b"null\n", b'{"format": 4, "sha256": ""}\nNaN\n']),
        )
    )
    path.write_bytes(new)
    damaged = cache.verify().damaged
    read, whole = data.draw(st.sampled_from([(cache.get, sample(1)), (cache.picture, sample(1).image)]))
    assert read("ab12") in (None, whole)
    assert path.exists() == (cache.get("ab12") is not None)
    assert damaged == () or not path.exists()


def test_entry_under_another_name_is_damaged(tmp_path: Path) -> None:
    """A whole entry that somebody copied or renamed is not served under its new name."""
    cache = Cache(tmp_path)
    cache.put("ab12", sample(1))
    path_of(cache, "ab12").rename(path_of(cache, "ab34"))
    assert cache.verify().damaged == ("ab/ab34.sample",)
    assert cache.get("ab34") is None
    assert not path_of(cache, "ab34").exists()


def test_records_of_another_version(tmp_path: Path) -> None:
    """A picture whose record has other fields than ours is served; asked for with its record, it is made again."""
    cache = Cache(tmp_path)
    cache.put("ab12", Sample(b"picture", SimpleNamespace(to_json=lambda: {"other": 1})))  # type: ignore[arg-type]
    assert cache.picture("ab12") == b"picture"
    assert cache.verify().outdated == ("ab/ab12.sample",)
    assert cache.get("ab12") is None
    assert cache.verify().outdated == ()


def test_damaged_pictures_are_made_again(seed_folder: Path) -> None:
    """However an item is asked for, its damaged entry is found and replaced, and nothing else is made."""
    expanded = ExpandedDataset(str(seed_folder), ratio=2, prior="linear")
    pictures = [item[0].tobytes() for item in expanded]
    seed, copy = expanded._row(20)
    path = path_of(expanded.imaginer.cache, expanded.plan.recipe.cache_key(seed, copy))
    content = path.read_bytes()
    for count, read in enumerate((lambda: expanded[20], lambda: expanded.__getitems__([19, 20, 21])[1]), 1):
        flip(path, -1)
        assert read()[0].tobytes() == pictures[20]
        assert path.read_bytes() == content
        assert expanded.imaginer.generated == 24 + count


def test_tensors_are_made_once_and_checked(tmp_path: Path) -> None:
    """Tensors come from the store; a flipped bit in them is found and they are made again."""
    cache, calls = Cache(tmp_path), []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.arange(6.0).reshape(2, 3).T}

    for wanted in (1, 1, 2, 2):
        found = cache.tensors("ab12", make)
        assert torch.equal(found["x"], torch.arange(6.0).reshape(2, 3).T)
        assert len(calls) == wanted
        if wanted == len(calls) == 1 and found["x"].is_contiguous():
            flip(tmp_path / "ab" / "ab12.tensors", -2)
    assert cache.stats()["entries"] == 0
    assert cache.verify().entries == 1


def test_temporary_file_taken_for_a_forgotten_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swept in the midst of writing, by somebody whose clock is wrong, an entry is written again."""
    cache, replace, swept = Cache(tmp_path), Path.replace, list[Path]()

    def swept_once(temporary: Path, target: Path) -> Path:
        if not swept:
            swept.append(temporary)
            temporary.unlink()
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", swept_once)
    cache.put("ab12", sample(1))
    assert len(swept) == 1
    assert cache.get("ab12") == sample(1)


def test_verify_tells_what_lies_there(tmp_path: Path) -> None:
    """Whole, damaged, outdated, forgotten and foreign files are told apart; only what is ours is ever removed."""
    cache = Cache(tmp_path)
    keys = fill(cache, 4)
    flip(path_of(cache, keys[0]), -1)
    old = json.loads(path_of(cache, keys[1]).read_bytes().partition(b"\n")[0])
    path_of(cache, keys[1]).write_bytes(json.dumps({**old, "format": 2}).encode() + b"\n")
    folder = path_of(cache, keys[2]).parent
    for name in ("old", "new"):
        (folder / f".tmp-{name}").write_bytes(b"x")
    os.utime(folder / ".tmp-old", (LONG_AGO, LONG_AGO))
    (folder / "ffff.sample").write_bytes(b"in the wrong folder")
    (tmp_path / "thesis.txt").write_text("precious")
    (tmp_path / "photos").mkdir()
    with cache.claims():
        found = cache.verify()
    assert (found.entries, found.made_by) == (2, {"x, x": 2})
    assert found.damaged == (f"{keys[0][:2]}/{keys[0]}.sample",)
    assert found.outdated == (f"{keys[1][:2]}/{keys[1]}.sample",)
    assert found.temporary == (f"{folder.name}/.tmp-old",)
    assert set(found.foreign) == {f"{folder.name}/ffff.sample", "thesis.txt", "photos"}
    assert cache.verify(remove=True) == found
    left = cache.verify()
    assert (left.entries, left.damaged, left.outdated, left.temporary) == (2, (), (), ())
    assert left.foreign == found.foreign
    assert cache.clear() == 2
    assert (tmp_path / "thesis.txt").exists()
    assert (folder / ".tmp-new").exists()


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 3000), max_size=12), most=st.integers(0, 20_000), read=st.sets(st.integers(0, 11)))
def test_prune_keeps_what_was_used_last(
    sizes: list[int], most: int, read: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As much as fits stays, in order of last use; what was read meanwhile counts as new."""
    cache = Cache(tmp_path_factory.mktemp("prune"))
    keys = [digest(number) for number in range(len(sizes))]
    for number, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        cache.put(key, Sample(bytes(size), sample(number).provenance))
        set_use(cache, key, time.time() - 86400 * (len(sizes) - number))
    used = {key for number, key in enumerate(keys) if number in read}
    for key in used:
        assert cache.get(key) is not None
    order = sorted(keys, key=lambda key: (path_of(cache, key).stat().st_mtime_ns, path_of(cache, key)))
    assert set(order[len(order) - len(used) :]) == used
    weights = {key: path_of(cache, key).stat().st_size for key in keys}
    removed = cache.prune(most)
    left = [key for key in order if key in cache]
    assert left == order[len(order) - len(left) :]
    assert sum(weights[key] for key in left) <= most
    if removed:
        last = removed[-1].path.stem
        assert sum(weights[key] for key in left) + weights[last] > most
    assert cache.stats()["entries"] == len(left)


def test_prune_by_age(tmp_path: Path) -> None:
    """What was not used for so long goes, however small the cache is."""
    cache = Cache(tmp_path)
    keys = fill(cache, 5)
    assert len(cache.prune(unused_for=parse_duration("2.5d"))) == 3
    assert [key in cache for key in keys] == [False, False, False, True, True]


def test_reads_mark_use_but_rarely_write(tmp_path: Path) -> None:
    """An old mark is renewed by a read, a fresh one stays; one from the future, left by a wrong clock, is mended."""
    cache = Cache(tmp_path)
    (key,) = fill(cache, 1)
    for then, renewed in ((LONG_AGO, True), (FAR_AHEAD, True), (time.time() - 60, False)):
        set_use(cache, key, then)
        assert cache.get(key) is not None
        now = path_of(cache, key).stat().st_mtime
        assert (abs(now - time.time()) < 50) == renewed


def test_limit_holds_on_the_whole(tmp_path: Path) -> None:
    """However much is put, the cache stays about within its bound, without looking at it on each put."""
    entry = len(sample(0).image) + 900
    cache = Cache(tmp_path, limit=40 * entry)
    looks = 0

    class Counting(Cache):
        def prune(self, *args: int) -> list:  # type: ignore[type-arg]
            nonlocal looks
            looks += 1
            return super().prune(*args)

    counting = Counting(cache.folder, cache.limit)
    for number in range(200):
        counting.put(digest(number), sample(number))
    assert cache.stats()["bytes"] < 1.2 * cache.limit
    assert cache.stats()["entries"] > 20
    assert looks < 60
    assert digest(199) in cache


def test_limit_smaller_than_the_set(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that not even one block fits costs work, and changes nothing else."""
    wide = ExpandedDataset(str(seed_folder), ratio=2, prior="linear", cache_dir=tmp_path / "wide")
    monkeypatch.setenv("GIF_DATASETS_CACHE_LIMIT", "3kB")
    tight = ExpandedDataset(str(seed_folder), ratio=2, prior="linear", cache_dir=tmp_path / "tight")
    assert tight.imaginer.cache.limit == 3000
    for index in range(12, 36):
        assert tight[index][0].tobytes() == wide[index][0].tobytes()
    assert tight.imaginer.cache.stats()["bytes"] <= 3000


def test_pruned_beside_a_running_precompute(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything removed at every put: a run keeps in memory what it fetched, and its folder is whole."""
    put = Cache.put

    def put_and_clear(self: Cache, key: str, made: Sample) -> None:
        put(self, key, made)
        self.clear()

    options = {"ratio": 2, "prior": "linear", "samples_per_shard": 6}
    whole = ExpandedDataset(str(seed_folder), **options).precompute(tmp_path / "whole")
    monkeypatch.setattr(Cache, "put", put_and_clear)
    run = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c", **options).precompute(tmp_path / "out")
    assert run.generated == whole.generated == 24
    for path in (tmp_path / "whole" / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "data" / path.name).read_bytes()


def test_read_only_cache(seed_folder: Path, tmp_path: Path) -> None:
    """What is there is served, damaged entries are left alone, and a miss is one clear error before any work."""
    with small_disk(tmp_path / "disk", "2m") as disk:
        expanded = ExpandedDataset(str(seed_folder), ratio=2, prior="linear", decode_batch=4, cache_dir=disk / "c")
        made = expanded[12][0].tobytes()
        cache = expanded.imaginer.cache
        remount(disk, "ro")
        again = ExpandedDataset(str(seed_folder), ratio=2, prior="linear", decode_batch=4, cache_dir=disk / "c")
        assert again[12][0].tobytes() == made
        with pytest.raises(CacheError, match=r"Read-only file system.*--cache-dir"):
            again[35]
        assert again.imaginer.generated == 0
        assert cache.verify().damaged == ()
        with pytest.raises(OSError, match="Read-only"):
            cache.clear()


def test_full_cache_disk(seed_folder: Path, tmp_path: Path) -> None:
    """On a full disk the run ends with an error that says so, leaving whole entries only; with room it goes on."""
    with small_disk(tmp_path / "disk", "60k") as disk:

        def expanded() -> ExpandedDataset:
            return ExpandedDataset(str(seed_folder), ratio=4, prior="linear", decode_batch=4, cache_dir=disk / "c")

        first, lacks = expanded(), pytest.warns(UserWarning, match=r"written to \S*/c \(.* \S*/disk has .* free")
        with lacks, pytest.raises(CacheError, match=r"No space left.*does not fit on .*/disk, .*free room"):
            first.precompute(tmp_path / "out")
        found = first.imaginer.cache.verify()
        assert 0 < found.entries < 48
        assert (found.damaged, found.foreign) == ((), ())
        assert not list(disk.rglob(".tmp-*"))
        remount(disk, "size=2m")
        assert expanded().precompute(tmp_path / "out").generated == 48 - sum(found.made_by.values())


def test_failed_write_keeps_no_claim(seed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error nothing half-written is left, and what was claimed is free for whoever tries next."""

    def full(temporary: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    expanded = ExpandedDataset(str(seed_folder), ratio=2, prior="linear")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(CacheError, match="No space left"):
            expanded[12]
    cache = expanded.imaginer.cache
    assert (cache.stats()["entries"], list(cache.folder.rglob(".tmp-*"))) == (0, [])
    keys = [expanded.plan.recipe.cache_key(seed, copy) for seed in expanded.plan.seeds for copy in (1, 2)]
    with cache.claims() as claims:
        assert all(claims.take(key) for key in keys)
    assert expanded[12][0].size == (32, 32)


@pytest.mark.parametrize("text", ["", "x", "5 bananas", "-1GB", "1e9", "5i", "GB", "nan"])
def test_sizes_and_durations_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nonsense is refused, by the name that the user gave it under."""
    with pytest.raises(ConfigError, match="--max-size"):
        parse_size(text, "--max-size")
    with pytest.raises(ConfigError, match="--older-than"):
        parse_duration(text, "--older-than")
    if text:
        monkeypatch.setenv("GIF_DATASETS_CACHE_LIMIT", text)
        with pytest.raises(ConfigError, match="GIF_DATASETS_CACHE_LIMIT"):
            open_cache()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**15), st.sampled_from(["", "B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB", "k", "g"]))
def test_sizes(number: int, unit: str) -> None:
    """Decimal units are powers of 1000, binary ones of 1024, in any case."""
    power = "bkmgt".index((unit.lower() or "b")[0])
    assert parse_size(f"{number} {unit}") == number * (1024 if "i" in unit else 1000) ** power


def run_cli(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, object]]:
    code = main(["cache", *map(str, args), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """stats, prune, verify and clear say what they found and did, and the exit code tells damage."""
    cache = Cache(tmp_path / "cache")  # the default one of the tests
    keys = fill(cache, 6)
    size = path_of(cache, keys[0]).stat().st_size
    code, stats = run_cli(capsys, "stats")
    assert (code, stats["entries"], stats["bytes"], stats["limit"]) == (0, 6, 6 * size, None)
    assert str(stats["oldest_use"]) < str(stats["newest_use"])
    assert main(["cache", "prune"]) == 2
    assert "GIF_DATASETS_CACHE_LIMIT" in capsys.readouterr().err
    code, pruned = run_cli(capsys, "prune", "--max-size", 4 * size, "--older-than", "60d")
    assert (code, pruned["removed"], pruned["removed_bytes"], pruned["entries"]) == (0, 2, 2 * size, 4)
    monkeypatch.setenv("GIF_DATASETS_CACHE_LIMIT", str(3 * size))
    assert run_cli(capsys, "prune")[1]["entries"] == 3
    assert run_cli(capsys, "verify")[0] == 0
    flip(path_of(cache, keys[5]), -1)
    code, found = run_cli(capsys, "verify")
    assert (code, found["ok"], found["entries"], found["damaged"]) == (1, False, 2, [f"{keys[5][:2]}/{keys[5]}.sample"])
    assert main(["cache", "verify"]) == 1
    assert "--remove" in capsys.readouterr().out
    assert run_cli(capsys, "verify", "--remove")[0] == 0
    assert run_cli(capsys, "verify")[0] == 0
    assert main(["cache", "stats"]) == 0
    assert "2 samples" in capsys.readouterr().out
    assert run_cli(capsys, "clear")[1]["removed"] == 2
    assert run_cli(capsys, "stats")[1]["oldest_use"] is None


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the variable says, else in the user's cache folder."""
    monkeypatch.setenv("GIF_DATASETS_CACHE", str(tmp_path / "own"))
    assert open_cache().folder == tmp_path / "own"
    monkeypatch.delenv("GIF_DATASETS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert open_cache().folder == tmp_path / "xdg" / "gif_datasets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_cache().folder == tmp_path / ".cache" / "gif_datasets"


def test_renewed_entries_are_pruned_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewing says whether there is an entry, also where its time cannot be set."""
    cache = Cache(tmp_path)
    for number in range(3):
        cache.put(f"{number}a", sample(number))
        os.utime(tmp_path / f"{number}a" / f"{number}a.sample", (number, number))
    assert cache.renew("0a")
    assert not cache.renew("9a")
    size = (tmp_path / "0a" / "0a.sample").stat().st_size
    assert [entry.path.stem for entry in cache.prune(size)] == ["1a", "2a"]

    def refused(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refused)
    assert cache.renew("0a")
    assert not cache.renew("1a")


def _slow_tensors(folder: Path, begun: Any) -> None:
    def make() -> dict[str, torch.Tensor]:
        begun.set()
        time.sleep(1)
        return {"x": torch.tensor([1.0])}

    Cache(folder).tensors("ab12", make)


def test_tensors_that_another_process_makes_are_waited_for(tmp_path: Path) -> None:
    """Who comes while they are made makes none, and has them."""
    begun = multiprocessing.Event()
    other = multiprocessing.Process(target=_slow_tensors, args=(tmp_path, begun))
    other.start()
    assert begun.wait(60)
    assert Cache(tmp_path).tensors("ab12", lambda: {"x": torch.tensor([2.0])})["x"].item() == 1.0
    other.join()


def test_an_entry_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder where the entry should be is an error of the cache's, not of whoever asks."""
    (tmp_path / "ab" / "ab12.sample").mkdir(parents=True)
    with pytest.raises(CacheError, match="cannot read the cache"):
        Cache(tmp_path).get("ab12")


def test_what_vanishes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that somebody prunes during `verify`, or uses during `prune`, is neither damage nor removed."""
    cache = Cache(tmp_path)
    cache.put("ab12", sample(1))
    path, read, stat = tmp_path / "ab" / "ab12.sample", Path.read_bytes, Path.lstat

    def used_first(path: Path) -> os.stat_result:
        os.utime(path, (9, 9))
        return stat(path)

    monkeypatch.setattr(Path, "lstat", used_first)
    assert cache.prune(0) == []
    assert path.exists()

    def pruned_first(path: Path) -> bytes:
        path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", pruned_first)
    audit = cache.verify()
    assert (audit.entries, audit.damaged, audit.outdated, audit.foreign) == (0, (), (), ())


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    """A folder of two letters that the cache did not write is not swept, whatever it holds."""
    cache = Cache(tmp_path)
    other = tmp_path / "zz" / ".tmp-x"
    other.parent.mkdir()
    other.write_bytes(b"x")
    os.utime(other, (LONG_AGO, LONG_AGO))
    cache.clear()
    assert other.read_bytes() == b"x"


def test_samples_of_a_seed_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of it, those that show it or have its image, and what cannot be read; no others, and no tensors."""
    cache = Cache(tmp_path)
    for number, (seed, partner) in enumerate([("a", ""), ("b", "a"), ("b", ""), ("c", "b")]):
        one = sample(number)
        record = dataclasses.replace(one.provenance, seed_key=seed, partner_key=partner, recipe=f"r{number}")
        record = dataclasses.replace(record, image_sha256=digest(number))
        cache.put(digest(number), dataclasses.replace(one, provenance=record))
    cache.tensors(digest("t"), lambda: {"x": torch.zeros(1)})
    for number, content in ((10, b"head\n[1]\n"), (11, b"head\n{\n")):
        path = tmp_path / digest(number)[:2] / f"{digest(number)}.sample"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert cache.drop_seeds({"a"}) == ({"r0", "r1"}, 2)
    assert [digest(number) in cache for number in (0, 1, 2, 3, 10, 11)] == [False, False, True, True, False, False]
    assert sorted(record["seed_key"] for _, record, _ in cache.samples()) == ["b", "c"]
    assert {image for _, _, image in cache.samples()} == {sample(2).image, sample(3).image}
    assert cache.drop_seeds(set(), {digest(3)}) == ({"r3"}, 1)
    assert [digest(number) in cache for number in (2, 3)] == [True, False]
    assert cache.stored_tensors(digest("t")) is not None

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CacheError, match="not yours"):
        cache.drop_seeds({"b"})
