"""Expansion as a job: same bytes whoever runs it, resumable after a real kill -9, refusing another plan."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import OPTIONS, contents
from PIL import Image

import gif_datasets
from gif_datasets import BadImage, ConfigError, DiskFull, ExpandedDataset, PlanMismatch, SourceError
from gif_datasets.expansion.merge import merge_parts
from gif_datasets.io import atomic
from gif_datasets.shards import folder
from gif_datasets.shards.verify import verify
from gif_datasets.types import Provenance

SLOW_JOB = """
import sys, time
import gif_datasets
from gif_datasets.priors.linear import LinearPrior
decode = LinearPrior.decode
def slow(self, *args):
    time.sleep(0.1)
    return decode(self, *args)
LinearPrior.decode = slow
gif_datasets.expand(sys.argv[1], sys.argv[2], ratio=2, prior="linear", samples_per_shard=4, cache_dir=sys.argv[3])
"""


@pytest.fixture
def undisturbed(seed_folder: Path, tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "undisturbed"
    gif_datasets.expand(str(seed_folder), folder, cache_dir=tmp_path / "cache-undisturbed", **OPTIONS)
    return contents(folder)


@pytest.mark.parametrize("wrap", [str, gif_datasets.load_expanded])
def test_what_was_imagined_stays_synthetic(wrap: Callable[[Path], Any], seed_folder: Path, tmp_path: Path) -> None:
    """An expansion that is expanded again has as many real pictures as before; a share of it cannot be held out."""
    gif_datasets.expand(str(seed_folder), tmp_path / "first", cache_dir=tmp_path / "cache", **OPTIONS)
    source = wrap(tmp_path / "first")
    options = {**OPTIONS, "cache_dir": tmp_path / "cache"}
    with pytest.raises(ConfigError, match="copies beside their seeds"):
        gif_datasets.expand(source, tmp_path / "second", validation_share=0.2, **options)
    summary = gif_datasets.expand(source, tmp_path / "second", **options)
    loaded = gif_datasets.load_expanded(tmp_path / "second")
    records = [loaded.provenance(i) for i in range(len(loaded))]
    first = gif_datasets.load_expanded(tmp_path / "first")
    real = {first.provenance(i).image_sha256 for i in range(36) if not first.provenance(i).synthetic}
    assert [record.synthetic for record in records] == loaded.facts.synthetic.tolist()
    assert all(record.synthetic == (record.copy > 0 or record.image_sha256 not in real) for record in records)
    assert (summary.originals, summary.synthetic) == (12, 96)
    assert verify(tmp_path / "second") == []
    for path in (tmp_path / "second" / "data").iterdir():
        with tarfile.open(path) as tar:
            kinds = {json.loads(tar.extractfile(m).read())["synthetic"] for m in tar if m.name.endswith(".json")}  # type: ignore[union-attr]
        assert len(kinds) == 1
    lazy = ExpandedDataset(source, ratio=1, prior="linear", cache_dir=tmp_path / "cache")
    assert len(lazy) == 72
    assert lazy.facts.synthetic.tolist() == [*first.facts.synthetic.tolist(), *[True] * 36]


def test_a_folder_that_another_process_takes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files may appear between any two looks at the folder; the same plan is welcome, whatever was seen first."""
    listing = Path.iterdir

    def busy(self: Path) -> Iterator[Path]:
        before = list(listing(self))
        if not before:
            (self / "plan.json").write_text('{"a": 1}')
            (self / "data").mkdir()
        return iter(listing(self))

    monkeypatch.setattr(Path, "iterdir", busy)
    folder.claim_folder(tmp_path / "out", {"a": 1})
    with pytest.raises(PlanMismatch, match="a: 1 there, 2 here"):
        folder.claim_folder(tmp_path / "out", {"a": 2})


def test_a_file_system_without_hard_links(seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is made there, claimed once, and merged, too."""

    def refuse(*names: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / "cache", **OPTIONS)
    assert verify(tmp_path / "out") == []
    assert not atomic.create_json(tmp_path / "out" / "plan.json", {})
    assert (
        gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / "cache", **OPTIONS).generated == 0
    )
    assert merge_parts([tmp_path / "out"], tmp_path / "whole") == len(list((tmp_path / "out" / "data").iterdir()))


def test_a_shard_whose_temporary_file_is_swept_is_written_again(
    seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By somebody whose clock is ahead; as in the cache."""
    fsync, swept = os.fsync, set[str]()

    def sweep_once(descriptor: int) -> None:
        fsync(descriptor)
        for path in (tmp_path / "out").rglob(".tmp-*"):
            name = path.name.rpartition("-")[0]
            if name.endswith(".tar") and name not in swept:
                path.unlink()
                swept.add(name)

    monkeypatch.setattr(os, "fsync", sweep_once)
    gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / "cache", **OPTIONS)
    assert len(swept) == len(list((tmp_path / "out" / "data").iterdir()))
    assert verify(tmp_path / "out") == []


def test_every_sample_is_there_once(seed_folder: Path, tmp_path: Path) -> None:
    """Each seed is there with copies 0 to K, with its own label, and nothing else."""
    summary = gif_datasets.expand(str(seed_folder), tmp_path / "out", **OPTIONS)
    assert (summary.originals, summary.synthetic, summary.generated) == (12, 24, 24)
    loaded = gif_datasets.load_expanded(tmp_path / "out")
    found = [loaded.provenance(i) for i in range(len(loaded))]
    assert sorted((p.seed_index, p.copy) for p in found) == [(i, k) for i in range(12) for k in range(3)]
    for record in found:
        assert record.label == record.seed_index // 4
        assert record.class_name == loaded.classes[record.label]
        assert record.synthetic == (record.copy > 0)


def test_again_recomputes_nothing(seed_folder: Path, tmp_path: Path) -> None:
    """The second run decodes nothing and touches no file, even when the cache is gone."""
    gif_datasets.expand(str(seed_folder), tmp_path / "out", **OPTIONS)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    summary = gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / "empty", **OPTIONS)
    assert summary.generated == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    assert not (tmp_path / "empty").exists()


def test_workers_and_order_change_nothing(seed_folder: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Two worker processes write the same bytes as one."""
    folder = tmp_path / "two"
    gif_datasets.expand(str(seed_folder), folder, workers=2, cache_dir=tmp_path / "c2", **OPTIONS)
    assert contents(folder) == undisturbed


def test_damaged_and_missing_shards_are_made_again(
    seed_folder: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """A flipped bit and a removed shard are mended by running again; whole shards are kept."""
    folder = tmp_path / "undisturbed"
    tars = sorted((folder / "data").glob("*.tar"))
    kept = tars[0].stat().st_mtime_ns
    damaged = bytearray(tars[3].read_bytes())
    damaged[600] ^= 1
    tars[3].write_bytes(bytes(damaged))
    tars[4].unlink()
    gif_datasets.expand(str(seed_folder), folder, **OPTIONS)
    assert contents(folder) == undisturbed
    assert tars[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize("finished", [0, 2, 5])
def test_kill_9_and_resume(finished: int, seed_folder: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Killed before the first shard or after some, the same command completes the folder to the same bytes."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", SLOW_JOB, str(seed_folder), str(folder), str(tmp_path / "c")]
    job = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "plan.json").exists() or len(list((folder / "data").glob("*.tar"))) < finished:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert not (folder / "manifest.json").exists()
    subprocess.run(command, check=True)
    assert verify(folder) == []
    left = {name: content for name, content in contents(folder).items() if ".tmp-" not in name}
    assert left == undisturbed


def test_workers_end_with_their_parent(seed_folder: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """After a kill -9 of the command no worker process is left, and the same command completes the folder."""
    args = ["expand", str(seed_folder), "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "c")]
    args += ["--workers", "2", "--prior", "linear", "--ratio", "2", "--set", "samples_per_shard=4"]
    command = [sys.executable, "-m", "gif_datasets", *args]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(workers := _children(job.pid)) < 3 and time.monotonic() < deadline:  # two, and the resource tracker
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = {n: c for n, c in contents(tmp_path / "out").items() if ".tmp-" not in n}
    assert found == undisturbed


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def test_two_processes_on_one_output(seed_folder: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Two jobs at once on the same folder and cache both succeed and leave one whole set."""
    folder = tmp_path / "shared"
    command = [sys.executable, "-c", SLOW_JOB, str(seed_folder), str(folder), str(tmp_path / "c")]
    jobs = [subprocess.Popen(command) for _ in range(2)]
    assert [job.wait(timeout=240) for job in jobs] == [0, 0]
    assert contents(folder) == undisturbed


def test_dead_worker_is_explained(seed_folder: Path, tmp_path: Path) -> None:
    """A worker process that dies ends the run with one clear error."""
    from gif_datasets.expansion.engines.local import run_local

    with pytest.raises(gif_datasets.EngineError, match="same command again"):
        list(run_local(signal.raise_signal, [signal.SIGKILL] * 3, workers=2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ratio": 3}, "ratio"),
        ({"rng_seed": 1}, "rng_seed: 0 there, 1 here"),
        ({"epsilon": 0.2}, "epsilon: 0.3 there, 0.2 here"),
        ({"method": "unclip"}, "options"),
    ],
)
def test_another_plan_is_refused(
    change: dict[str, object], words: str, seed_folder: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """Another configuration into the same folder is refused with the difference, and nothing is touched."""
    folder = tmp_path / "undisturbed"
    with pytest.raises(PlanMismatch, match=words):
        gif_datasets.expand(str(seed_folder), folder, **{**OPTIONS, **change})
    assert contents(folder) == undisturbed


def test_two_plans_at_once_on_a_fresh_folder(seed_folder: Path, tmp_path: Path) -> None:
    """Of two processes with different plans one gets the folder and the other is refused."""
    jobs = []
    for number in (1, 2):
        args = [
            "expand",
            str(seed_folder),
            "--out",
            str(tmp_path / "out"),
            "--prior",
            "linear",
            "--rng-seed",
            str(number),
        ]
        jobs.append(subprocess.Popen([sys.executable, "-m", "gif_datasets", *args], stderr=subprocess.DEVNULL))
    assert sorted(job.wait(timeout=240) for job in jobs) == [0, 2]
    assert verify(tmp_path / "out") == []


def test_foreign_folder_is_refused(seed_folder: Path, tmp_path: Path) -> None:
    """A folder with something else in it is left alone."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(PlanMismatch, match="not empty"):
        gif_datasets.expand(str(seed_folder), tmp_path / "mine", **OPTIONS)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_bad_pictures_skip_or_stop(seed_folder: Path, tmp_path: Path) -> None:
    """By default a bad picture costs only itself and is reported; on request it stops the run before any work."""
    (seed_folder / "bee" / "1.png").write_bytes(b"\x89PNG broken")
    summary = gif_datasets.expand(str(seed_folder), tmp_path / "skip", **OPTIONS)
    assert (summary.originals, summary.synthetic) == (11, 22)
    assert summary.bad[0].startswith("bee/1.png")
    assert verify(tmp_path / "skip") == []
    with pytest.raises(BadImage, match=r"bee/1\.png"):
        gif_datasets.expand(str(seed_folder), tmp_path / "stop", on_bad_image="stop", **OPTIONS)
    assert not (tmp_path / "stop").exists()


def test_full_disk(seed_folder: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A full disk is warned of beforehand and named when it is full; with room again the same bytes are made."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        full = r"No space left.*: \S*/out/\S+ \(.* does not fit on .* at \S*/small, .* free of .*; make room"
        lacks = r"about [1-9]\S+ kB more will be written to \S*/out \(.* the file system at \S*/small has .* free"
        with pytest.warns(UserWarning, match=lacks), pytest.raises(DiskFull, match=full):
            gif_datasets.expand(str(seed_folder), small / "out", cache_dir=tmp_path / "c", **OPTIONS)
        assert not (small / "out" / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        gif_datasets.expand(str(seed_folder), small / "out", cache_dir=tmp_path / "c", **OPTIONS)
        assert contents(small / "out") == undisturbed
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_one_class_cannot_be_guided(tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """A single class is refused before any work."""
    (tmp_path / "s" / "only").mkdir(parents=True)
    picture(1).save(tmp_path / "s" / "only" / "a.png")
    with pytest.raises(SourceError, match="at least 2"):
        gif_datasets.expand(str(tmp_path / "s"), tmp_path / "out", **OPTIONS)


def test_synthetic_only(seed_folder: Path, tmp_path: Path) -> None:
    """Without originals only copies are written; the manifest says so."""
    summary = gif_datasets.expand(str(seed_folder), tmp_path / "out", originals=False, **OPTIONS)
    assert (summary.originals, summary.synthetic) == (0, 24)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["samples"] == 24


def test_equal_pictures_are_both_expanded(tmp_path: Path, picture: Callable[[int], Image.Image]) -> None:
    """Two seeds with the same pixels, even of different classes, each keep their label and copies."""
    for name in ("a", "b"):
        (tmp_path / "s" / name).mkdir(parents=True)
        picture(1).save(tmp_path / "s" / name / "x.png")
    gif_datasets.expand(str(tmp_path / "s"), tmp_path / "out", **OPTIONS)
    assert verify(tmp_path / "out") == []
    loaded = gif_datasets.load_expanded(tmp_path / "out")
    assert sorted(loaded[i][1] for i in range(len(loaded))) == [0, 0, 0, 1, 1, 1]


def test_unguided_copies_start_where_guidance_starts(seed_folder: Path, tmp_path: Path) -> None:
    """With steps=0 the criteria after equal those before; with guidance they differ."""

    def records(**options: object) -> Iterator[Provenance]:
        expanded = gif_datasets.ExpandedDataset(str(seed_folder), ratio=2, prior="linear", **options)
        return (expanded.provenance(12 + i) for i in range(6))

    assert all(r.entropy_after == r.entropy_before for r in records(method="unclip", epsilon=0.1))
    assert all(r.consistency_after > r.consistency_before for r in records())
