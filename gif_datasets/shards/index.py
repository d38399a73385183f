"""The index of an expanded folder: where every sample's bytes are, its label, seed and copy, as mapped columns.

One safetensors file beside the manifest, ``index.safetensors``; one entry a sample, in the order of the manifest's
shards. Its digest is in the manifest. Samplers read labels and flags here and never touch a tar.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gif_datasets.errors import ShardError
from gif_datasets.io.parsing import read_json
from gif_datasets.io.stores import AnyPath
from gif_datasets.shards.ustar import BLOCK

INDEX = "index.safetensors"
IMAGE_SUFFIXES = ("png", "jpg", "webp")
LONGEST_HEADER = 65_536
LONGEST_LABEL, LONGEST_RECORD = 20, 1 << 20
"""Bytes of a sample's ``cls`` and ``json`` in a shard; a longer one is nobody's, and is not read into memory."""

_DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "image_offset": ("I64", np.dtype("<i8")),
    "image_size": ("I32", np.dtype("<i4")),
    "record_offset": ("I64", np.dtype("<i8")),
    "record_size": ("I32", np.dtype("<i4")),
    "label": ("I32", np.dtype("<i4")),
    "seed": ("I32", np.dtype("<i4")),
    "copy": ("I32", np.dtype("<i4")),
    "synthetic": ("BOOL", np.dtype("?")),
    "suffix": ("U8", np.dtype("u1")),
}


@dataclass(frozen=True, eq=False)
class Index:
    """Columns of ``(N,)``.

    Attributes:
        image_offset: First byte of the image in its shard.
        image_size: Its bytes.
        record_offset: First byte of the record (``KEY.json``) in its shard.
        record_size: Its bytes.
        label: Class index.
        seed: ``seed_index`` of the provenance.
        copy: 0 for a seed itself.
        synthetic: Whether it was imagined: every copy, and a seed that was a copy in another expansion.
        suffix: Place of the image's suffix in ``IMAGE_SUFFIXES``.
    """

    image_offset: NDArray[np.int64]
    image_size: NDArray[np.int32]
    record_offset: NDArray[np.int64]
    record_size: NDArray[np.int32]
    label: NDArray[np.int32]
    seed: NDArray[np.int32]
    copy: NDArray[np.int32]
    synthetic: NDArray[np.bool_]
    suffix: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.label)

    def part(self, start: int, stop: int) -> Index:
        """Entries ``start .. stop - 1``, without copying."""
        return Index(**{name: getattr(self, name)[start:stop] for name in _DTYPES})

    def rows(self, numbers: NDArray[np.integer]) -> Index:
        """Some entries, copied."""
        return Index(**{name: getattr(self, name)[numbers] for name in _DTYPES})


def from_entries(entries: Iterable[tuple[int, ...]]) -> Index:
    """An index of rows that have the columns' values, in their order."""
    names = [field.name for field in fields(Index)]
    table = np.fromiter(entries, np.dtype((np.int64, len(names))))  # no list: its numbers would be objects
    columns: dict[str, Any] = {name: table[:, i].astype(_DTYPES[name][1]) for i, name in enumerate(names)}
    return Index(**columns)


def joined(parts: Sequence[Index]) -> Index:
    """The index of several shards, in their order."""
    empty = from_entries(())
    return Index(**{name: np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in _DTYPES})


def to_bytes(index: Index) -> bytes:
    """The file's content; the same entries give the same bytes."""
    from safetensors.numpy import save

    content: bytes = save({name: np.ascontiguousarray(getattr(index, name)) for name in _DTYPES})
    return content


def map_file(path: Path) -> Index:
    """Map an index file; its pages are read when used, and shared between processes.

    Raises:
        ShardError: If it is missing, or anything but such a file.
    """
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ShardError(f"cannot read {path}: {error}") from error
    return from_bytes(content, path)


def from_bytes(content: bytes | mmap.mmap, path: AnyPath) -> Index:
    """The index that is an index file's content, without copying it.

    Raises:
        ShardError: If it is anything but such a file's; names ``path``.
    """
    try:
        first = 8 + int.from_bytes(content[:8], "little")
        if not 8 < first <= min(len(content), LONGEST_HEADER):
            raise ValueError("no header")
        header = read_json(content[8:first])
        columns = {name: _column(content, first, header[name], *kind) for name, kind in _DTYPES.items()}
        if set(header) - {"__metadata__"} != set(columns) or len({len(column) for column in columns.values()}) != 1:
            raise ValueError("other columns than expected")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ShardError(f"{path} is not a valid index ({error}); delete it and it will be rebuilt") from error
    return Index(**columns)


def _column(content: bytes | mmap.mmap, first: int, entry: Any, kind: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    (count,), (start, stop) = entry["shape"], entry["data_offsets"]
    if (
        entry["dtype"] != kind
        or stop - start != count * dtype.itemsize
        or not 0 <= start <= stop <= len(content) - first
    ):
        raise ValueError(f"a column of {entry['dtype']} at {start} .. {stop}")
    return np.frombuffer(content, dtype, count, first + start) if count else np.empty(0, dtype)


def check(index: Index, samples: Sequence[int], sizes: Sequence[int], classes: int) -> None:
    """Check an index against the manifest's shards.

    Args:
        index: The index, of all splits.
        samples: Samples of each shard.
        sizes: Bytes of each shard.
        classes: Number of classes.

    Raises:
        ShardError: If it has another number of entries, or one points outside its shard or names no class.
    """
    if len(index) != sum(samples) or min(samples, default=0) < 0:
        raise ShardError(f"the index has {len(index)} entries, but the manifest {sum(samples)} samples")
    limit = np.repeat(np.asarray(sizes, dtype=np.int64), samples)
    inside = np.ones(len(index), dtype=bool)
    for offset, size in ((index.image_offset, index.image_size), (index.record_offset, index.record_size)):
        inside &= (offset >= BLOCK) & (size >= 0) & (offset <= limit - size)
    inside &= index.record_size <= LONGEST_RECORD
    inside &= (index.label >= 0) & (index.label < classes) & (index.suffix < len(IMAGE_SUFFIXES))
    inside &= (index.seed >= 0) & (index.copy >= 0) & (index.synthetic | (index.copy == 0))
    if not inside.all():
        raise ShardError(f"entry {int(np.argmin(inside))} of the index points outside its shard, or names no class")
