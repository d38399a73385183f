"""Loading: samples a second of ours and of other loaders, from the same 224-pixel JPEGs, and opening a million entries.

    python recipes/benchmarks/loading.py --out loading.json

Every loader yields batches of uint8 RGB tensors and labels, each with its fastest documented settings; those that let
one choose get the same decoder as ours. Columns are the calling thread alone, and 1 and 2 threads (ours, DALI) or
worker processes. Rounds are interleaved; medians.

The rate is that of the steady state, for every loader alike: the clock begins at the first batch, so that neither the
start of workers nor the building of a pipeline counts, and ends `UNDER_WAY` batches before the last, when as many
are under way as at its beginning. The time to the first batch, from before the loader is built, is the last column, for
as many threads or workers as the loader was measured with.

Just before each run two bounds are measured: decoding alone, from memory, in as many threads, by simplejpeg, which ours
uses, and by torchvision's `decode_jpeg`. Ratios to them, in parentheses, are what to compare, because they move less
with the machine than the numbers do.

The exit code is 1, with a line for each reason, unless ours (threads) is ahead of every other loader in every cell,
reaches `TARGET` of torchvision's bound, and has its first batch of a million entries within `OPENS_WITHIN` seconds.
Loaders that are not installed (litdata, mosaicml-streaming, wids, nvidia-dali-cuda120) are named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from torchvision.io import ImageReadMode, decode_jpeg

import gif_datasets
from gif_datasets.io import atomic
from gif_datasets.shards import index, tar, ustar
from gif_datasets.shards import manifest as manifests
from gif_datasets.types import OBJECTS, Provenance, Sample

BATCH = 64
CLASSES = 10
SHARDS = 8
UNDER_WAY = 4  # batches: two for each of two threads or workers, as torch prefetches
TARGET = 0.95
OPENS_WITHIN = 2.0
OURS = "gif_datasets, threads"


# --- data ---------------------------------------------------------------------------------------------------------


def pixels(number: int, size: int = 224) -> np.ndarray:
    """``(size, size, 3)`` uint8 with the statistics of a photograph: 1/f noise and rectangles."""
    random = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        spectrum = (random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)) / frequency**1.15
        plane = np.fft.irfft2(spectrum, s=(size, size))
        planes.append(plane / plane.std())
    made = 128 + 45 * (0.8 * np.stack([planes[0]] * 3, -1) + 0.35 * np.stack(planes, -1))
    for _ in range(4):
        (top, bottom), (left, right) = np.sort(random.integers(0, size, (2, 2)), axis=1)
        made[top:bottom, left:right] += random.uniform(-60, 60, 3)
    return made.clip(0, 255).astype(np.uint8)


def picture(number: int) -> bytes:
    """A JPEG of 224 pixels, about 25 KB at quality 90."""
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "JPEG", quality=90)
    return file.getvalue()


def record(number: int, image: bytes = b"", ratio: int = 3) -> Provenance:
    """A record of an image with all its fields, for seed ``number // (ratio + 1)``."""
    kinds = {"int": 0, "float": 0.0, "str": "x", "bool": False}
    values: dict[str, Any] = {
        field.name: kinds[str(field.type)] for field in fields(Provenance) if field.name != OBJECTS
    }
    seed, copy = divmod(number, ratio + 1)
    values |= {"seed_index": seed, "copy": copy, "synthetic": copy > 0, "label": number % CLASSES}
    return Provenance(**{**values, "image_sha256": hashlib.sha256(image).hexdigest()})


def finish(folder: Path, listed: list[manifests.Shard], made: index.Index, suffix: str = "jpg") -> None:
    """Write the index, and as much of a manifest as readers look at."""
    samples = sum(shard.samples for shard in listed)
    recipe: dict[str, Any] = {
        "options": {"method": "cutout", "ratio": 3, "image_format": suffix, "decode_batch": 20},
        "prior": {"name": "", "digest": "0" * 64},
        "device": "cpu",
        "versions": {},
    }
    manifest = {
        "format": manifests.MANIFEST_FORMAT,
        "source": "benchmark",
        "split": "train",
        "classes": [f"class {i}" for i in range(CLASSES)],
        "samples": samples,
        "originals": samples // 4,
        "synthetic": samples - samples // 4,
        "validation": 0,
        "failed_checks": 0,
        "plan": {"recipe": recipe, "seeds": samples // 4},
        "plan_hash": "0" * 64,
        "shards": [manifests.shard_json(shard) for shard in listed],
    }
    draft = manifests.Manifest.from_json(manifests.sealed(manifest, {}))
    files = {**manifests.index_files(draft), index.INDEX: index.to_bytes(made)}
    manifests.write_files(folder, files)
    manifests.write_manifest(folder, manifests.Manifest.from_json(manifests.sealed(manifest, files)))


def expanded(folder: Path, pool: list[bytes], per: int, suffix: str = "jpg") -> None:
    """An expanded folder of ``SHARDS * per`` samples, images of ``pool`` in turn."""
    listed = []
    for i in range(SHARDS):
        images = [(n, pool[n % len(pool)]) for n in range(i * per, (i + 1) * per)]
        rows = [(image, record(n, image)) for n, image in images]
        made = [(tar.sample_key("train", r.seed_index, r.copy), Sample(image, r)) for image, r in rows]
        listed.append(tar.write_shard(folder / manifests.shard_name("train", i, SHARDS), made, suffix))
    finish(folder, listed, tar.build_index(folder, listed), suffix)


def prepare(base: Path, count: int) -> None:
    """The same images in every form that is read here."""
    pool = [picture(i) for i in range(min(count, 400))]
    per = count // SHARDS
    expanded(base / "tar", pool, per)
    items = [(pool[n % len(pool)], n % CLASSES) for n in range(per * SHARDS)]
    for n, (content, label) in enumerate(items):
        atomic.write_bytes(base / "folder" / f"{label:02d}" / f"{n:07d}.jpg", content)
    _parquet(base / "parquet", items, per)
    for others in (_litdata, _mds):
        with contextlib.suppress(ImportError):  # named when it is measured
            others(base, items)


def _parquet(folder: Path, items: list[tuple[bytes, int]], per: int) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    folder.mkdir()
    for start in range(0, len(items), per):
        part = items[start : start + per]
        rows = {"image": [{"bytes": content, "path": None} for content, _ in part], "label": [y for _, y in part]}
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"train-{start:07d}.parquet")


def _litdata(base: Path, items: list[tuple[bytes, int]]) -> None:
    import litdata

    litdata.optimize(
        fn=dict, inputs=[{"image": content, "label": label} for content, label in items], output_dir=str(base / "lit"),
        chunk_bytes="16MB", num_workers=1,
    )  # fmt: skip


def _mds(base: Path, items: list[tuple[bytes, int]]) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(base / "mds"), columns={"image": "bytes", "label": "int"}, size_limit="16mb") as writer:
        for content, label in items:
            writer.write({"image": content, "label": label})


# --- loaders ------------------------------------------------------------------------------------------------------


def tensor(content: bytes) -> torch.Tensor:
    """``(3, H, W)`` uint8, by the decoder that ours uses."""
    return torch.from_numpy(simplejpeg.decode_jpeg(content, "RGB")).permute(2, 0, 1)


def torch_loader(dataset: Any, workers: int, shuffled: bool = False, **options: Any) -> DataLoader[Any]:
    """Torch's DataLoader with this benchmark's batch size; fork, its fastest start."""
    context = "fork" if workers else None
    return DataLoader(
        dataset, BATCH, shuffle=shuffled or None, num_workers=workers, multiprocessing_context=context, **options
    )


def ours_threads(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    return gif_datasets.DataLoader(gif_datasets.load_expanded(base / "tar"), BATCH, shuffled, threads=workers)


def ours_workers(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    data = gif_datasets.load_expanded(base / "tar")
    context = "fork" if workers else None
    return gif_datasets.DataLoader(
        data, BATCH, shuffled, num_workers=workers, threads=0, multiprocessing_context=context
    )


def ours_share(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    data = gif_datasets.load_expanded(base / "tar")
    return gif_datasets.DataLoader(data, BATCH, shuffled, threads=workers, mix="share:0.75", epoch_length=len(data))


def web_dataset(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    import webdataset as wds

    urls = sorted(map(str, (base / "tar/data").glob("*.tar")))
    rows = wds.WebDataset(urls, shardshuffle=len(urls) if shuffled else False, seed=0)
    rows = rows.shuffle(1000) if shuffled else rows
    rows = rows.map(lambda row: (tensor(row["jpg"]), int(row["cls"]))).batched(BATCH, collation_fn=default_collate)
    context = "fork" if workers else None
    return wds.WebLoader(rows, batch_size=None, num_workers=workers, multiprocessing_context=context)


def wids_dataset(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    import wids

    def item(row: Any) -> tuple[torch.Tensor, int]:
        return tensor(row[".jpg"].read()), int(row[".cls"].read())

    # it reads copies of the shards, which it would leave in a folder of its own
    index_file, copies = str(base / "tar/wids-train.json"), str(base / "wids")
    data = wids.ShardListDataset(index_file, keep=True, transformations=[item], cache_dir=copies)
    return torch_loader(data, workers, shuffled)


def hugging_face(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    import datasets

    datasets.disable_progress_bars()
    files = sorted(map(str, (base / "parquet").glob("*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(base / "hf"))
    rows = rows.cast_column("image", datasets.Image(decode=False))

    def batch(some: list[Any]) -> Any:
        return default_collate([(tensor(row["image"]["bytes"]), row["label"]) for row in some])

    return torch_loader(rows, workers, shuffled, collate_fn=batch)


def image_folder(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    from torchvision.datasets import ImageFolder

    data = ImageFolder(str(base / "folder"), loader=lambda path: tensor(Path(path).read_bytes()))
    return torch_loader(data, workers, shuffled)


def lit_data(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    import litdata

    def batch(some: list[Any]) -> Any:
        return default_collate([(tensor(row["image"]), row["label"]) for row in some])

    context = "fork" if workers else None
    data = litdata.StreamingDataset(str(base / "lit"), shuffle=shuffled)
    return litdata.StreamingDataLoader(
        data, batch_size=BATCH, num_workers=workers, collate_fn=batch, multiprocessing_context=context
    )


def mosaic(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    def batch(some: list[Any]) -> Any:
        return default_collate([(tensor(row["image"]), row["label"]) for row in some])

    clean_stale_shared_memory()
    data = StreamingDataset(local=str(base / "mds"), shuffle=shuffled, batch_size=BATCH)
    return torch_loader(data, workers, collate_fn=batch)


def timm_reader(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    from timm.data import create_dataset
    from torchvision.transforms.functional import pil_to_tensor

    data = create_dataset(  # it shuffles when training
        "wds/x", root=str(base / "tar"), split="train", is_training=shuffled, batch_size=BATCH, transform=pil_to_tensor
    )
    return torch_loader(data, workers)


def dali(base: Path, workers: int, shuffled: bool) -> Iterable[Any]:
    from nvidia.dali import fn, pipeline_def, types

    paths = sorted(map(str, (base / "tar/data").glob("*.tar")))

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=None, prefetch_queue_depth=2)
    def build() -> Any:
        content, label = fn.readers.webdataset(
            paths=paths, ext=["jpg", "cls"], name="r", random_shuffle=shuffled, initial_fill=1000
        )
        return fn.decoders.image(content, device="cpu", output_type=types.RGB), label

    pipeline = build()
    pipeline.build()

    def batches() -> Iterator[Any]:
        for _ in range(pipeline.epoch_size("r") // BATCH):
            pictures, labels = pipeline.run()
            yield torch.from_numpy(np.asarray(pictures.as_tensor())), labels

    return batches()


@dataclass(frozen=True)
class Case:
    """A loader, and what is measured of it."""

    name: str
    make: Callable[[Path, int, bool], Iterable[Any]]
    workers: tuple[int, ...] = (0, 1, 2)
    orders: tuple[bool, ...] = (False, True)


CASES = (
    Case(OURS, ours_threads),
    Case("gif_datasets, worker processes", ours_workers, (1, 2)),
    Case("gif_datasets, threads, mix share:0.75", ours_share, orders=(True,)),
    Case("webdataset", web_dataset),
    Case("wids", wids_dataset),
    Case("datasets (Parquet)", hugging_face),
    Case("torchvision ImageFolder", image_folder),
    Case("litdata", lit_data),
    Case("mosaicml-streaming", mosaic),
    Case("timm (wds/)", timm_reader),
    Case("NVIDIA DALI on CPU, threads", dali, (1, 2)),
)


# --- measuring ----------------------------------------------------------------------------------------------------


def with_simplejpeg(contents: list[bytes]) -> None:
    """Decode into memory that is there."""
    out = np.empty((224, 224, 3), np.uint8)
    for content in contents:
        simplejpeg.decode_jpeg(content, "RGB", buffer=out)


def with_torchvision(contents: list[bytes]) -> None:
    for content in contents:
        decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), ImageReadMode.RGB)


BOUNDS = {"simplejpeg": with_simplejpeg, "torchvision": with_torchvision}


def bound(decode: Callable[[list[bytes]], None], pool: list[bytes], threads: int) -> float:
    """Images a second that decoding alone gives, from memory."""
    parts = [pool[thread::threads] for thread in range(threads)]
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as threaded:
        list(threaded.map(decode, parts))
    return len(pool) / (time.perf_counter() - started)


def samples_a_second(make: Callable[[], Iterable[Any]]) -> tuple[float, float, int]:
    """Rate in the steady state of an epoch, seconds to the first batch, and samples seen."""
    started = time.perf_counter()
    arrived, sizes = [], []
    for pictures, _ in make():
        arrived.append(time.perf_counter() - started)
        assert pictures.dtype == torch.uint8
        sizes.append(len(pictures))
    last = len(arrived) - 1 - UNDER_WAY
    if last < 1:
        raise ValueError(f"{len(arrived)} batches are too few to measure; take more --samples")
    return sum(sizes[1 : last + 1]) / (arrived[last] - arrived[0]), arrived[0], sum(sizes)


def measure(base: Path, chosen: list[Case], rounds: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """All runs of all rounds, and why those that are missing are."""
    pool = [picture(i) for i in range(256)]
    runs: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for number in range(rounds):
        for case in chosen:
            for workers in case.workers:
                for shuffled in case.orders:
                    if case.name in missing:
                        continue
                    limits = {name: bound(decode, pool, max(workers, 1)) for name, decode in BOUNDS.items()}
                    try:
                        rate, first, seen = samples_a_second(partial(case.make, base, workers, shuffled))
                    except Exception as error:  # a peer that is absent or broken is named, and the others go on
                        missing[case.name] = f"{type(error).__name__}: {str(error)[:200]}"
                        continue
                    runs.append(
                        {
                            "loader": case.name, "workers": workers, "shuffled": shuffled, "round": number,
                            "rate": rate, "first": first, "samples": seen, "bounds": limits,
                            **{name: rate / limit for name, limit in limits.items()},
                        }
                    )  # fmt: skip
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return runs, missing


def table(runs: list[dict[str, Any]]) -> str:
    """Medians as Markdown: samples a second, and the ratios to the bounds of simplejpeg and torchvision."""
    lines = ["| loader | order | alone | 1 | 2 | first batch, s |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(run["loader"] for run in runs):
        for shuffled in (False, True):
            own = [run for run in runs if run["loader"] == name and run["shuffled"] == shuffled]
            cells = []
            for workers in (0, 1, 2):
                some = [run for run in own if run["workers"] == workers]
                ratios = ", ".join(f"{_median(some, name):.2f}" for name in BOUNDS) if some else ""
                cells.append(f"{_median(some, 'rate'):,.0f} ({ratios})" if some else "-")
            if own:
                last = [run for run in own if run["workers"] == max(run["workers"] for run in own)]
                order = _order(shuffled)
                lines.append(f"| {name} | {order} | {' | '.join(cells)} | {_median(last, 'first'):.2f} |")
    return "\n".join(lines)


def failures(runs: list[dict[str, Any]], opened: dict[str, float]) -> list[str]:
    """What the claim fails on: cells where ours is behind another loader or the target, and a late first batch."""
    cells: dict[tuple[int, bool], dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        cells.setdefault((run["workers"], run["shuffled"]), {}).setdefault(run["loader"], []).append(run)
    lines = [] if runs else ["nothing was measured"]
    for (workers, shuffled), found in sorted(cells.items()):
        where = f"{_order(shuffled)}, {workers or 'alone'}"
        if OURS not in found:
            lines.append(f"{where}: ours was not measured")
            continue
        others = {name: _median(some, "simplejpeg") for name, some in found.items() if "gif_datasets" not in name}
        mine, reached = _median(found[OURS], "simplejpeg"), _median(found[OURS], "torchvision")
        lines += [
            f"{where}: ours is not ahead of {name}, at {mine:.2f} and {theirs:.2f} of simplejpeg's bound"
            for name, theirs in others.items()
            if theirs >= mine
        ]
        if reached < TARGET:
            lines.append(f"{where}: ours is at {reached:.2f} of torchvision's bound, below {TARGET}")
    late = opened.get("seconds_to_first_batch", 0.0)
    if late > OPENS_WITHIN:
        lines.append(f"the first batch of {opened['entries']:,.0f} entries took {late:.1f} s, over {OPENS_WITHIN}")
    return lines


def _order(shuffled: bool) -> str:
    return "shuffled" if shuffled else "in order"


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


# --- opening ------------------------------------------------------------------------------------------------------

OPENING = """
import json, sys, time, numpy, torch.utils.data
from gif_datasets import DataLoader, load_expanded
def memory():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return kilobytes["Rss"] / 1024, (kilobytes["Private_Dirty"]) / 1024
import gif_datasets.data.loader
before, started = memory(), time.perf_counter()
data = load_expanded(sys.argv[1])
opened = time.perf_counter() - started
after = memory()
loader = DataLoader(data, 64, shuffle=True)
next(loader._batches.from_(loader._start()))
ready, with_loader = time.perf_counter() - started, memory()
pictures, labels = next(iter(loader))
first = time.perf_counter() - started
assert pictures.shape == (64, 3, 224, 224)
print(json.dumps({"entries": len(data), "seconds": opened, "seconds_to_first_shuffled_indices": ready,
    "seconds_to_first_batch": first, "resident_mb": after[0] - before[0], "of_it_own_mb": after[1] - before[1],
    "own_mb_with_loader": with_loader[1] - before[1], "own_mb_after_first_batch": memory()[1] - before[1]}))
"""

APART, PLACE, ROOM = 32_768, 1536, 29_000  # bytes from sample to sample; where its image is, and how long
RECORD_PLACE, RECORD_ROOM = PLACE + ROOM + -ROOM % ustar.BLOCK + ustar.BLOCK, 1200  # the same for its record
WRITTEN = 16  # batches whose images are there: more than threads read ahead of the first


def opening(base: Path, entries: int, rounds: int) -> dict[str, float]:
    """Time and memory of opening ``entries`` index entries, and of a first batch, in fresh processes; medians.

    The shards are sparse files, which hold the images of the first batches only.
    """
    per = 1000
    spaced = np.tile(np.arange(per, dtype=np.int64) * APART, entries // per)
    numbers = np.arange(entries)
    made = index.Index(
        spaced + PLACE, np.full(entries, ROOM, np.int32), spaced + RECORD_PLACE,
        np.full(entries, RECORD_ROOM, np.int32),
        (numbers % CLASSES).astype(np.int32), (numbers // 4).astype(np.int32), (numbers % 4).astype(np.int32),
        numbers % 4 > 0, np.ones(entries, np.uint8),
    )  # fmt: skip
    listed = []
    (base / "data").mkdir(parents=True)
    for i in range(entries // per):
        name, size = manifests.shard_name("train", i, entries // per), per * APART + 10_240
        with (base / name).open("wb") as file:
            file.truncate(size)
        listed.append(manifests.Shard(name, per, 0, size, "", ""))
    finish(base, listed, made)
    pool = [content.ljust(ROOM, b"\0") for content in map(picture, range(BATCH)) if len(content) <= ROOM]
    loader = gif_datasets.DataLoader(gif_datasets.load_expanded(base), BATCH, shuffle=True)
    for number in islice(loader.sampler, WRITTEN * BATCH):
        key, image = tar.sample_key("train", number // 4, number % 4), pool[number % len(pool)]
        text = tar.record_bytes(record(number, image)).ljust(RECORD_ROOM)
        with (base / listed[number // per].name).open("r+b") as file:
            for suffix, place, content in (("jpg", PLACE, image), ("json", RECORD_PLACE, text)):
                file.seek(int(spaced[number]) + place - ustar.BLOCK)
                file.write(ustar.header(f"{key}.{suffix}", len(content)) + content)
    size = (base / index.INDEX).stat().st_size
    runs = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", OPENING, str(base)], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {"index_mb": size / 2**20}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="part of the names of the loaders to measure beside ours")
    parser.add_argument("--folder", type=Path, help="where to keep the data; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=Path("loading.json"))
    parser.add_argument("--prepare", action="store_true", help="only make the data in --folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)  # torchvision's, at each call
    warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
    with tempfile.TemporaryDirectory() as temporary:
        base = args.folder or Path(temporary)
        if args.prepare:
            prepare(base, args.samples)
            return 0
        if not (base / "tar" / manifests.MANIFEST).exists():
            # in a process of its own, because litdata.optimize sets the start method of all later processes
            own = [sys.executable, __file__, "--prepare", "--folder", str(base), "--samples", str(args.samples)]
            subprocess.run(own, check=True, stdout=subprocess.DEVNULL)
        for path in base.rglob("*"):
            if path.is_file():
                path.read_bytes()  # into the page cache
        chosen = [case for case in CASES if args.only in case.name or case.name == OURS]
        runs, missing = measure(base, chosen, args.rounds)
        opened = opening(Path(temporary) / "million", args.entries, args.rounds) if args.entries else {}
    failed = failures(runs, opened)
    result = {"cpus": os.cpu_count(), "opening": opened, "missing": missing, "failures": failed, "runs": runs}
    atomic.write_json(args.out, result)
    print(table(runs))
    for name, why in missing.items():
        print(f"left out: {name} ({why})")
    print(json.dumps(opened, indent=1))
    for line in failed:
        print(f"FAILED: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
