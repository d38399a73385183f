"""Ours and other loaders, each with what it needs and with its fastest documented settings.

Run as a program, this is the process in which one loader is prepared or measured, by the Python of the environment that
it needs. It reads one JSON object a line, a cell to measure, and answers with one line each.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from torchvision.io import ImageReadMode, decode_jpeg, decode_png, decode_webp

PREPARE, MEASURE = "prepare", "measure"
UNDER_WAY = 4  # batches: two for each of two threads or workers, as torch prefetches
BOUND_PIXELS = 256 * 224 * 224  # decoded to measure a bound
CHUNK = "16MB"


@dataclass(frozen=True)
class Task:
    """What a loader is to read, and how.

    Attributes:
        base: The folder of all forms of the images.
        suffix: Format of the images.
        batch: Images in a batch.
        workers: Threads or worker processes; 0 is the calling thread alone.
        shuffled: Whether in shuffled order.
    """

    base: Path
    suffix: str
    batch: int
    workers: int = 0
    shuffled: bool = False

    @property
    def context(self) -> str | None:
        """How workers start: fork is the fastest."""
        return "fork" if self.workers else None

    def files(self) -> list[tuple[Path, int]]:
        """The images' files and labels, in order."""
        paths = sorted((self.base / "folder").glob("*/*"), key=lambda path: path.name)
        return [(path, int(path.parent.name)) for path in paths]

    def shards(self) -> list[str]:
        """The tar files of the expanded folder."""
        return sorted(map(str, (self.base / "tar/data").glob("*.tar")))


Loading = Callable[[Task], Iterable[Any]]


# --- what all have in common --------------------------------------------------------------------------------------


def pixels(content: bytes) -> np.ndarray:
    """``(H, W, 3)`` uint8, by the decoder that ours uses."""
    if content.startswith(b"\xff\xd8"):
        return simplejpeg.decode_jpeg(content, "RGB")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def tensor(content: bytes) -> torch.Tensor:
    """``(3, H, W)`` uint8."""
    return torch.from_numpy(pixels(content)).permute(2, 0, 1)


def batch_of(rows: list[Any]) -> Any:
    return default_collate([(tensor(row["image"]), row["label"]) for row in rows])


def torch_loader(dataset: Any, task: Task, shuffled: bool = False, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset, task.batch, shuffle=shuffled or None, num_workers=task.workers,
        multiprocessing_context=task.context, **options,
    )  # fmt: skip


# --- loaders ------------------------------------------------------------------------------------------------------


def ours_threads(task: Task) -> Iterable[Any]:
    import gif_datasets

    data = gif_datasets.load_expanded(task.base / "tar")
    return gif_datasets.DataLoader(data, task.batch, task.shuffled, threads=task.workers)


def ours_workers(task: Task) -> Iterable[Any]:
    import gif_datasets

    data = gif_datasets.load_expanded(task.base / "tar")
    return gif_datasets.DataLoader(
        data, task.batch, task.shuffled, num_workers=task.workers, threads=0, multiprocessing_context=task.context
    )


def ours_share(task: Task) -> Iterable[Any]:
    import gif_datasets

    data = gif_datasets.load_expanded(task.base / "tar")
    return gif_datasets.DataLoader(
        data, task.batch, task.shuffled, threads=task.workers, mix="share:0.75", epoch_length=len(data)
    )


def web_dataset(task: Task) -> Iterable[Any]:
    import webdataset as wds

    urls = task.shards()
    rows = wds.WebDataset(urls, shardshuffle=len(urls) if task.shuffled else False, seed=0)
    rows = rows.shuffle(1000) if task.shuffled else rows
    rows = rows.map(lambda row: (tensor(row[task.suffix]), int(row["cls"])))
    rows = rows.batched(task.batch, collation_fn=default_collate)
    return wds.WebLoader(rows, batch_size=None, num_workers=task.workers, multiprocessing_context=task.context)


def wids_dataset(task: Task) -> Iterable[Any]:
    import wids

    def item(row: Any) -> tuple[torch.Tensor, int]:
        return tensor(row[f".{task.suffix}"].read()), int(row[".cls"].read())

    # it reads copies of the shards, which it would leave in a folder of its own
    index_file, copies = str(task.base / "tar/wids-train.json"), str(task.base / "wids")
    data = wids.ShardListDataset(index_file, keep=True, transformations=[item], cache_dir=copies)
    return torch_loader(data, task, task.shuffled)


def write_parquet(task: Task) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    files = task.files()
    per = -(-len(files) // len(task.shards()))
    (task.base / "parquet").mkdir()
    for start in range(0, len(files), per):
        part = files[start : start + per]
        rows = {
            "image": [{"bytes": path.read_bytes(), "path": None} for path, _ in part],
            "label": [y for _, y in part],
        }
        datasets.Dataset.from_dict(rows, features).to_parquet(task.base / f"parquet/train-{start:07d}.parquet")


def hugging_face(task: Task) -> Iterable[Any]:
    import datasets

    datasets.disable_progress_bars()
    files = sorted(map(str, (task.base / "parquet").glob("*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(task.base / "hf"))
    rows = rows.cast_column("image", datasets.Image(decode=False))

    def batch(some: list[Any]) -> Any:
        return batch_of([{**row, "image": row["image"]["bytes"]} for row in some])

    return torch_loader(rows, task, task.shuffled, collate_fn=batch)


def image_folder(task: Task) -> Iterable[Any]:
    from torchvision.datasets import ImageFolder

    data = ImageFolder(str(task.base / "folder"), loader=lambda path: tensor(Path(path).read_bytes()))
    return torch_loader(data, task, task.shuffled)


def write_lit(task: Task) -> None:
    import litdata

    rows = [{"image": path.read_bytes(), "label": label} for path, label in task.files()]
    litdata.optimize(fn=dict, inputs=rows, output_dir=str(task.base / "lit"), chunk_bytes=CHUNK, num_workers=1)


def lit_data(task: Task) -> Iterable[Any]:
    import litdata

    data = litdata.StreamingDataset(str(task.base / "lit"), shuffle=task.shuffled)
    return litdata.StreamingDataLoader(
        data, batch_size=task.batch, num_workers=task.workers, collate_fn=batch_of, multiprocessing_context=task.context
    )


def write_mds(task: Task) -> None:
    from streaming import MDSWriter

    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(out=str(task.base / "mds"), columns=columns, size_limit=CHUNK.lower()) as writer:
        for path, label in task.files():
            writer.write({"image": path.read_bytes(), "label": label})


def mosaic(task: Task) -> Iterable[Any]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    data = StreamingDataset(local=str(task.base / "mds"), shuffle=task.shuffled, batch_size=task.batch)
    return torch_loader(data, task, collate_fn=batch_of)


def timm_reader(task: Task) -> Iterable[Any]:
    from timm.data import create_dataset
    from torchvision.transforms.functional import pil_to_tensor

    data = create_dataset(  # it shuffles when training
        "wds/x", root=str(task.base / "tar"), split="train", is_training=task.shuffled, batch_size=task.batch,
        transform=pil_to_tensor,
    )  # fmt: skip
    return torch_loader(data, task)


def spdl_threads(task: Task) -> Iterable[Any]:
    from spdl.pipeline import PipelineBuilder

    files = task.files()
    order = np.random.default_rng(0).permutation(len(files)) if task.shuffled else np.arange(len(files))
    batches = [[files[i] for i in order[n : n + task.batch]] for n in range(0, len(files), task.batch)]

    def load(some: list[tuple[Path, int]]) -> Any:
        return batch_of([{"image": path.read_bytes(), "label": label} for path, label in some])

    steps = PipelineBuilder().add_source(batches).pipe(load, concurrency=task.workers, output_order="input")
    pipeline = steps.add_sink(2).build(num_threads=task.workers)
    with pipeline.auto_stop():
        yield from pipeline


def dali(task: Task) -> Iterator[Any]:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=task.batch, num_threads=task.workers, device_id=None, prefetch_queue_depth=2)
    def build() -> Any:
        content, label = fn.readers.webdataset(
            paths=task.shards(), ext=[task.suffix, "cls"], name="r", random_shuffle=task.shuffled, initial_fill=1000
        )
        return fn.decoders.image(content, device="cpu", output_type=types.RGB), label

    pipeline = build()
    pipeline.build()
    for _ in range(pipeline.epoch_size("r") // task.batch):
        pictures, labels = pipeline.run()
        yield torch.from_numpy(np.asarray(pictures.as_tensor())), labels


def dali_package() -> str:
    """That for torch's version of CUDA; without one, each decodes on the CPU."""
    version = int((torch.version.cuda or "12").split(".")[0])
    return "nvidia-dali-cuda130" if version >= 13 else "nvidia-dali-cuda120"


@dataclass(frozen=True)
class Case:
    """A loader, and what is measured of it.

    Attributes:
        name: What it is called.
        make: Batches of images and labels.
        requires: Packages that an environment of its own has; without any, it runs in that of this package.
        write: Writes the images in its own form, in :attr:`form`.
        form: The folder of that form.
        workers: Threads or worker processes that it is measured with.
        orders: Whether shuffled.
    """

    name: str
    make: Loading
    requires: tuple[str, ...] = ()
    write: Callable[[Task], None] | None = None
    form: str = ""
    workers: tuple[int, ...] = (0, 1, 2)
    orders: tuple[bool, ...] = (False, True)


OURS = "gif_datasets, threads"
CASES = (
    Case(OURS, ours_threads),
    Case("gif_datasets, worker processes", ours_workers, workers=(1, 2)),
    Case("gif_datasets, threads, mix share:0.75", ours_share, orders=(True,)),
    Case("webdataset", web_dataset),
    Case("wids", wids_dataset, ("wids",)),
    Case("datasets (Parquet)", hugging_face, ("datasets",), write_parquet, "parquet"),
    Case("torchvision ImageFolder", image_folder),
    Case("litdata", lit_data, ("litdata",), write_lit, "lit"),
    Case("mosaicml-streaming", mosaic, ("mosaicml-streaming",), write_mds, "mds"),
    Case("timm (wds/)", timm_reader),
    Case("SPDL, threads", spdl_threads, ("spdl",), workers=(1, 2)),
    Case("NVIDIA DALI on CPU, threads", dali, (dali_package(),), workers=(1, 2)),
)


# --- measuring ----------------------------------------------------------------------------------------------------


def with_ours(contents: list[bytes]) -> None:
    """By simplejpeg, into memory that is there; other formats than JPEG by Pillow."""
    out = np.empty_like(pixels(contents[0]))
    for content in contents:
        if content.startswith(b"\xff\xd8"):
            simplejpeg.decode_jpeg(content, "RGB", buffer=out)
        else:
            pixels(content)


TORCHVISION = {"jpg": partial(decode_jpeg, mode=ImageReadMode.RGB), "png": decode_png, "webp": decode_webp}


def with_torchvision(contents: list[bytes], suffix: str) -> None:
    for content in contents:
        TORCHVISION[suffix](torch.frombuffer(content, dtype=torch.uint8))


def rate_of(decode: Callable[[list[bytes]], None], pool: list[bytes], threads: int) -> float:
    """Images a second that decoding alone gives, from memory."""
    parts = [pool[thread::threads] for thread in range(threads)]
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as threaded:
        list(threaded.map(decode, parts))
    return len(pool) / (time.perf_counter() - started)


def samples_a_second(make: Callable[[], Iterable[Any]], workers: int) -> tuple[float, float, int]:
    """Rate in the steady state of an epoch, seconds to the first batch, and samples seen."""
    started = time.perf_counter()
    arrived, sizes = [], []
    for pictures, _ in make():
        arrived.append(time.perf_counter() - started)
        assert pictures.dtype == torch.uint8
        sizes.append(len(pictures))
    last = len(arrived) - 1 - UNDER_WAY
    last -= last % max(workers, 1)  # whole turns of all workers, which may end at once
    if last < 1:
        raise ValueError(f"{len(arrived)} batches are too few to measure; take more --samples")
    return sum(sizes[1 : last + 1]) / (arrived[last] - arrived[0]), arrived[0], sum(sizes)


def measure(case: Case, task: Task, pool: list[bytes]) -> dict[str, Any]:
    """One cell: its rate, the rates of decoding alone just before and after, and its shares of these."""
    decoders = {"decoder": with_ours, "torchvision": partial(with_torchvision, suffix=task.suffix)}

    def bounds() -> dict[str, float]:
        return {name: rate_of(decode, pool, max(task.workers, 1)) for name, decode in decoders.items()}

    before = bounds()
    rate, first, seen = samples_a_second(partial(case.make, task), task.workers)
    after = bounds()
    limits = {name: (before[name] + after[name]) / 2 for name in decoders}
    shares = {name: rate / limit for name, limit in limits.items()}
    return {"rate": rate, "first": first, "samples": seen, "bounds": limits, **shares}


def serve(case: Case, task: Task) -> None:
    """Measure the cells that the program asks for, until it asks for no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for what libraries print
    files = task.files()
    count = max(16, BOUND_PIXELS // pixels(files[0][0].read_bytes())[..., 0].size)
    pool = [path.read_bytes() for path, _ in files[:count]]
    for line in sys.stdin:
        try:
            answer = measure(case, Task(task.base, task.suffix, task.batch, **json.loads(line)), pool)
        except Exception as error:  # a loader that is broken is named, and the others go on
            answer = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    what, name, base, suffix, batch = sys.argv[1:]
    case, task = next(case for case in CASES if case.name == name), Task(Path(base), suffix, int(batch))
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)  # torchvision's, at each call
    warnings.filterwarnings("ignore", "The given", UserWarning)  # buffer, or array, is not writable
    if what == MEASURE:
        serve(case, task)
    elif case.write is not None:
        case.write(task)


if __name__ == "__main__":
    main()
