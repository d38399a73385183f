"""Loading: samples a second of ours and of other loaders, from the same 224-pixel JPEGs, and opening a million entries.

    python recipes/benchmarks/loading.py --out loading.json

Every loader yields batches of uint8 RGB tensors and labels, each with its fastest documented settings; those that let
one choose get the same decoder as ours. Columns are the calling thread alone, and 1 and 2 threads (ours, DALI) or
worker processes. Just before each run the bound is measured: decoding alone, from memory, in as many threads; the ratio
to it is what to compare, because it moves less with the machine than the numbers do. Rounds are interleaved; medians.
Loaders that are not installed (litdata, mosaicml-streaming, wids, nvidia-dali-cuda120) are named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

import gif_datasets
from gif_datasets import atomic, index, shards
from gif_datasets.types import Provenance, Sample

BATCH = 64
CLASSES = 10
SHARDS = 8


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


def record(number: int, ratio: int = 3) -> Provenance:
    """A record with all its fields, for seed ``number // (ratio + 1)``."""
    kinds = {"int": 0, "float": 0.0, "str": "x", "bool": False}
    values: dict[str, Any] = {field.name: kinds[str(field.type)] for field in fields(Provenance)}
    seed, copy = divmod(number, ratio + 1)
    return Provenance(**{**values, "seed_index": seed, "copy": copy, "synthetic": copy > 0, "label": number % CLASSES})


def finish(folder: Path, listed: list[shards.Shard], made: index.Index) -> None:
    """Write the index, and as much of a manifest as readers look at."""
    samples = sum(shard.samples for shard in listed)
    recipe: dict[str, Any] = {"options": {"ratio": 3}, "prior": {}, "device": "cpu", "versions": {}}
    manifest = {
        "format": shards.MANIFEST_FORMAT,
        "source": "benchmark",
        "split": "train",
        "classes": [f"class {i}" for i in range(CLASSES)],
        "samples": samples,
        "originals": samples // 4,
        "synthetic": samples - samples // 4,
        "validation": 0,
        "plan": {"recipe": recipe},
        "plan_hash": "",
        "shards": [shards.shard_json(shard) for shard in listed],
    }
    files = {**shards.index_files(manifest), index.INDEX: index.to_bytes(made)}
    shards.write_files(folder, shards.sealed(manifest, files), files)


def prepare(base: Path, count: int) -> None:
    """The same pictures in every form that is read here."""
    pool = [picture(i) for i in range(min(count, 400))]
    per = count // SHARDS
    listed = []
    for i in range(SHARDS):
        rows = [(n, record(n)) for n in range(i * per, (i + 1) * per)]
        made = [(shards.sample_key("train", r.seed_index, r.copy), Sample(pool[n % len(pool)], r)) for n, r in rows]
        listed.append(shards.write_shard(base / "tar" / shards.shard_name("train", i, SHARDS), made, "jpg"))
    finish(base / "tar", listed, shards.build_index(base / "tar", listed))
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

    data = wids.ShardListDataset(str(base / "tar/wids-train.json"), keep=True, transformations=[item])
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

    data = create_dataset(
        "wds/x", root=str(base / "tar"), split="train", is_training=False, batch_size=BATCH, transform=pil_to_tensor
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
    Case("gif_datasets, threads", ours_threads),
    Case("gif_datasets, worker processes", ours_workers, (1, 2)),
    Case("gif_datasets, threads, mix share:0.75", ours_share, orders=(True,)),
    Case("webdataset", web_dataset),
    Case("wids", wids_dataset),
    Case("datasets (Parquet)", hugging_face),
    Case("torchvision ImageFolder", image_folder),
    Case("litdata", lit_data),
    Case("mosaicml-streaming", mosaic),
    Case("timm (wds/)", timm_reader, orders=(False,)),
    Case("NVIDIA DALI on CPU, threads", dali, (1, 2)),
)


# --- measuring ----------------------------------------------------------------------------------------------------


def bound(pool: list[bytes], threads: int) -> float:
    """Pictures a second that decoding alone gives, from memory into memory that is there."""
    out = [np.empty((224, 224, 3), np.uint8) for _ in range(threads)]

    def decode(thread: int) -> None:
        for content in pool[thread::threads]:
            simplejpeg.decode_jpeg(content, "RGB", buffer=out[thread])

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as threaded:
        list(threaded.map(decode, range(threads)))
    return len(pool) / (time.perf_counter() - started)


def samples_a_second(loader: Iterable[Any]) -> tuple[float, float, int]:
    """Rate over an epoch from ``iter`` on, seconds to the first batch, and samples seen."""
    started = time.perf_counter()
    first, seen = 0.0, 0
    for pictures, _ in loader:
        first = first or time.perf_counter() - started
        assert pictures.dtype == torch.uint8
        seen += len(pictures)
    return seen / (time.perf_counter() - started), first, seen


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
                    limit = bound(pool, max(workers, 1))
                    try:
                        rate, first, seen = samples_a_second(case.make(base, workers, shuffled))
                    except Exception as error:  # a peer that is absent or broken is named, and the others go on
                        missing[case.name] = f"{type(error).__name__}: {str(error)[:200]}"
                        continue
                    runs.append(
                        {
                            "loader": case.name, "workers": workers, "shuffled": shuffled, "round": number,
                            "rate": rate, "ratio": rate / limit, "bound": limit, "first": first, "samples": seen,
                        }
                    )  # fmt: skip
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return runs, missing


def table(runs: list[dict[str, Any]]) -> str:
    """Medians as Markdown: samples a second, and the ratio to the bound."""
    lines = ["| loader | order | alone | 1 | 2 | first batch, s |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(run["loader"] for run in runs):
        for shuffled in (False, True):
            own = [run for run in runs if run["loader"] == name and run["shuffled"] == shuffled]
            cells = []
            for workers in (0, 1, 2):
                some = [run for run in own if run["workers"] == workers]
                cells.append(f"{_median(some, 'rate'):,.0f} ({_median(some, 'ratio'):.2f})" if some else "-")
            if own:
                last = [run for run in own if run["workers"] == max(run["workers"] for run in own)]
                order = "shuffled" if shuffled else "in order"
                lines.append(f"| {name} | {order} | {' | '.join(cells)} | {_median(last, 'first'):.2f} |")
    return "\n".join(lines)


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
import gif_datasets.loader
before, started = memory(), time.perf_counter()
data = load_expanded(sys.argv[1])
opened = time.perf_counter() - started
after = memory()
loader = DataLoader(data, 64, shuffle=True)
next(iter(loader._batches))
ready = time.perf_counter() - started
print(json.dumps({"entries": len(data), "seconds": opened, "seconds_to_first_shuffled_indices": ready,
    "resident_mb": after[0] - before[0], "of_it_own_mb": after[1] - before[1],
    "own_mb_with_loader": memory()[1] - before[1]}))
"""


def opening(base: Path, entries: int, rounds: int) -> dict[str, float]:
    """Time and memory of opening ``entries`` index entries, made and not decoded, in fresh processes; medians."""
    per = 1000
    spaced = np.tile(np.arange(per, dtype=np.int64) * 32_768, entries // per)
    numbers = np.arange(entries)
    made = index.Index(
        spaced + 1536, np.full(entries, 26_000, np.int32), spaced + 30_720, np.full(entries, 900, np.int32),
        (numbers % CLASSES).astype(np.int32), (numbers // 4).astype(np.int32), (numbers % 4).astype(np.int32),
        numbers % 4 > 0, np.ones(entries, np.uint8),
    )  # fmt: skip
    listed = []
    (base / "data").mkdir(parents=True)
    for i in range(entries // per):
        name, size = shards.shard_name("train", i, entries // per), per * 32_768 + 10_240
        with (base / name).open("wb") as file:
            file.truncate(size)  # a sparse file: only its size is looked at
        listed.append(shards.Shard(name, per, size, "", ""))
    finish(base, listed, made)
    size = (base / index.INDEX).stat().st_size
    runs = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", OPENING, str(base)], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {"index_mb": size / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="part of the names of the loaders to measure")
    parser.add_argument("--folder", type=Path, help="where to keep the data; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=Path("loading.json"))
    parser.add_argument("--prepare", action="store_true", help="only make the data in --folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        base = args.folder or Path(temporary)
        if args.prepare:
            prepare(base, args.samples)
            return
        if not (base / "tar" / shards.MANIFEST).exists():
            # in a process of its own, because litdata.optimize sets the start method of all later processes
            own = [sys.executable, __file__, "--prepare", "--folder", str(base), "--samples", str(args.samples)]
            subprocess.run(own, check=True, stdout=subprocess.DEVNULL)
        for path in base.rglob("*"):
            if path.is_file():
                path.read_bytes()  # into the page cache
        runs, missing = measure(base, [case for case in CASES if args.only in case.name], args.rounds)
        opened = opening(Path(temporary) / "million", args.entries, args.rounds) if args.entries else {}
    result = {"cpus": os.cpu_count(), "opening": opened, "missing": missing, "runs": runs}
    atomic.write_json(args.out, result)
    print(table(runs))
    for name, why in missing.items():
        print(f"left out: {name} ({why})")
    print(json.dumps(opened, indent=1))


if __name__ == "__main__":
    main()
