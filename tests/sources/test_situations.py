"""Every input situation of the one table has the outcome that it says, and nothing is lost in silence."""

from __future__ import annotations

import enum
import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import situations as table
import torch
from PIL import Image
from situations import SITUATIONS, Situation
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder

import gif_datasets
from gif_datasets import BadImage, DataLoader, ExpandedDataset

CLASSES = ("a", "b")
LABELS = [0, 1, 0, 1, 1]
ODD = 2
"""Place of the image that is left out, or whose label is."""
NO_LABEL, A_DICTIONARY = object(), object()
SIZE = (16, 24)


# --- forms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """An image's file; without content a link to nothing."""

    suffix: str
    content: bytes | None


def colour(i: int) -> Image.Image:
    small = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC)


def rgb(i: int) -> np.ndarray:
    return np.array(colour(i))


def grey(i: int) -> np.ndarray:
    return np.array(colour(i).convert("L"))


def floats(i: int) -> np.ndarray:
    return (rgb(i) / 255).astype(np.float32)


def channels_first(i: int) -> torch.Tensor:
    return torch.from_numpy(rgb(i)).permute(2, 0, 1).contiguous()


def cut(i: int) -> Image.Image:
    """Some of it is transparent."""
    image = colour(i).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(24)[:, None] < 6, 0, 255) * np.ones((1, 16))).convert("L"))
    return image


def indexed(i: int) -> Image.Image:
    return colour(i).convert("P", palette=Image.Palette.ADAPTIVE)


def transparent(i: int) -> Image.Image:
    image = indexed(i)
    image.info["transparency"] = 0
    return image


def file(suffix: str, make: Callable[[int], Image.Image], i: int, kind: str = "", **more: Any) -> File:
    buffer = io.BytesIO()
    make(i).save(buffer, kind or Image.registered_extensions()[f".{suffix}"], **more)
    return File(f".{suffix}", buffer.getvalue())


def animated(i: int) -> File:
    return file("gif", indexed, i, save_all=True, append_images=[indexed(i + 50)])


def turned(i: int, suffix: str = "jpg", make: Callable[[int], Image.Image] = colour, **more: Any) -> File:
    """Of one of the orientations by which height and width change places."""
    exif = Image.Exif()
    exif[0x0112] = 5 + i % 4
    return file(suffix, make, i, exif=exif, **more)


def damaged(i: int) -> File:
    return File(".png", (file("png", colour, i).content or b"").replace(b"IHDR", b"IHXR"))


def huge(i: int) -> File:
    """Its header promises 32,768 by 32,768 pixels."""
    content = file("png", colour, i).content or b""
    header = b"IHDR" + struct.pack(">2I", 32_768, 32_768) + content[24:29]
    return File(".png", content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


def keyed_palette(i: int) -> Image.Image:
    image = transparent(i)
    image.paste(0, (0, 0, 16, 16))
    return image


def keyed(i: int, mode: str) -> Image.Image:
    """The colour of a whole part is the transparent one, as in what Pillow makes of a palette."""
    image = colour(i).convert(mode)
    image.info["transparency"] = 9 if mode == "L" else (9, 200, 30)
    image.paste(image.info["transparency"], (0, 0, 16, 16))
    return image


def float_image(i: int, factor: float = 1.0) -> Image.Image:
    return Image.fromarray((grey(i) / 255 * factor).astype(np.float32))


def deep(i: int) -> Image.Image:
    return Image.fromarray(grey(i).astype(np.uint16) * 257)


def not_a_number(i: int) -> np.ndarray:
    array = floats(i)
    array[3, 3] = np.nan
    return array


FORMS: dict[str, Callable[[int], Any]] = {
    **{f"PIL {mode}": lambda i, mode=mode: colour(i).convert(mode) for mode in ("RGB", "L", "LA", "1")},
    **{f"PIL {mode}": lambda i, mode=mode: colour(i).convert(mode) for mode in ("CMYK", "YCbCr", "HSV")},
    "PIL RGBX": lambda i: colour(i).convert("RGBX"),
    "PIL RGB, one pixel": lambda i: Image.new("RGB", (1, 1), (250, 40 * i, 0)),
    "PIL RGBA": cut,
    "PIL P": indexed,
    "PIL P, one colour transparent": transparent,
    "PIL L, one colour transparent": partial(keyed, mode="L"),
    "PIL RGB, one colour transparent": partial(keyed, mode="RGB"),
    "PIL RGB without pixels": lambda i: Image.new("RGB", (0, 24)),
    "PIL PA": lambda i: indexed(i).convert("PA"),
    "PIL I;16": deep,
    "PIL I": lambda i: Image.fromarray(grey(i).astype(np.int32) * 257),
    "PIL I, all below 256": lambda i: Image.fromarray(grey(i).astype(np.int32)),
    "PIL F, in [0, 1]": float_image,
    "PIL F, beyond [0, 1]": partial(float_image, factor=255),
    "PIL LAB": lambda i: Image.frombytes("LAB", SIZE, rgb(i).tobytes()),
    "array (H, W), uint8": grey,
    "array (H, W, 1), uint8": lambda i: grey(i)[..., None],
    "array (H, W, 3), uint8": rgb,
    "array (H, W, 4), uint8": lambda i: np.array(colour(i).convert("RGBA")),
    "array (H, W, 2), uint8": lambda i: np.array(colour(i).convert("LA")),
    "array (H, W), uint16": lambda i: grey(i).astype(np.uint16) * 257,
    "array (H, W), int32": lambda i: grey(i).astype(np.int32),
    "array (H, W), uint16 below 256": lambda i: grey(i).astype(np.uint16),
    "array (H, W), int8": lambda i: (grey(i) >> 1).astype(np.int8),
    "array (H, W), complex64": lambda i: floats(i)[..., 0].astype(np.complex64),
    "array (H, W), of objects": lambda i: grey(i).astype(object),
    "array (H, W), float16 in [0, 1]": lambda i: floats(i)[..., 0].astype(np.float16),
    "array (3, H, W), uint8": lambda i: np.ascontiguousarray(rgb(i).transpose(2, 0, 1)),
    "array (2, H, W, 3), uint8": lambda i: np.stack([rgb(i), rgb(i)]),
    "array (N,), uint8": lambda i: grey(i)[0],
    "array (H, W), bool": lambda i: grey(i) > 128,
    "array (H, W, 3), float32 in [0, 1]": floats,
    "array (H, W, 3), float32 beyond [0, 1]": lambda i: floats(i) * 255,
    "array (H, W, 3), float32 with a NaN": not_a_number,
    "array (3, H, W), float64 in [0, 1]": lambda i: (rgb(i) / 255).transpose(2, 0, 1),
    "array with a mask": lambda i: np.ma.masked_greater(rgb(i), 100),
    "`np.memmap` (H, W, 3), uint8": lambda i: rgb(i).view(np.memmap),
    "array without pixels": lambda i: np.zeros((0, 16, 3), np.uint8),
    "tensor (3, H, W), uint8": channels_first,
    "tensor (H, W, 3), uint8": lambda i: torch.from_numpy(rgb(i)),
    "tensor (H, W), float64 in [0, 1]": lambda i: torch.from_numpy(grey(i) / 255),
    "tensor (1, H, W), float32 in [0, 1]": lambda i: torch.from_numpy(floats(i)[None, ..., 0]),
    "tensor (3, H, W), bfloat16 in [0, 1]": lambda i: (channels_first(i) / 255).bfloat16(),
    "tensor (4, H, W), uint8": lambda i: channels_first(i)[[0, 1, 2, 0]],
    "sparse tensor": lambda i: channels_first(i).to_sparse(),
    "`tv_tensors.Image`": lambda i: tv_tensors.Image(channels_first(i)),
    "`None`": lambda i: None,
    "item that raises `BadImage`": lambda i: BadImage("lost"),
    "item that raises `KeyError`": lambda i: KeyError(i),
    "item without a label": lambda i: NO_LABEL,
    "item that is a dictionary": lambda i: A_DICTIONARY,
    "text instead of an image": lambda i: f"{i}.png",
    **{suffix: partial(file, suffix, colour) for suffix in ("png", "jpg", "tiff", "bmp", "gif")},
    "webp": partial(file, "webp", colour, lossless=True),
    "animated gif": animated,
    "png of 16 bits": partial(file, "png", deep),
    "png with alpha": partial(file, "png", cut),
    "png of a palette, one colour transparent": partial(file, "png", keyed_palette),
    "png called .jpg": partial(file, "jpg", colour, kind="PNG"),
    "png called .PNG, deep below its class": lambda i: File("/of/1.PNG", file("png", colour, i).content),
    "png with bytes behind its end": lambda i: File(".png", (file("png", colour, i).content or b"") + bytes(99)),
    "png with a damaged header": damaged,
    "web page called .jpg": lambda i: File(".jpg", b"<html>403 Forbidden</html>"),
    "jpg of grey": partial(file, "jpg", lambda i: colour(i).convert("L")),
    "jpg in CMYK": partial(file, "jpg", lambda i: colour(i).convert("CMYK")),
    "jpg turned by its Exif": turned,
    "jpg turned by its Exif, as an array": lambda i: np.array(Image.open(io.BytesIO(turned(i).content or b""))),
    "png of a palette turned by its Exif": partial(turned, suffix="png", make=indexed),
    "webp with alpha turned by its Exif": partial(turned, suffix="webp", make=cut, lossless=True),
    "tiff turned by its Exif": partial(turned, suffix="tiff"),
    "tiff of floats in [0, 1]": partial(file, "tiff", float_image),
    "tiff of floats beyond [0, 1]": partial(file, "tiff", partial(float_image, factor=255)),
    "empty file": lambda i: File(".png", b""),
    "jpg cut short": lambda i: File(".jpg", (file("jpg", colour, i).content or b"")[:-200]),
    "png of a billion pixels": huge,
    "HEIC": lambda i: File(".heic", b"\0\0\0\x18ftypheic" + bytes(100)),
    "image without a suffix": lambda i: File("", file("png", colour, i).content),
    "link to nothing": lambda i: File(".png", None),
    "text files": lambda i: File(".txt", b"a note"),
}


# --- labels -------------------------------------------------------------------------------------------------------


class Kind(enum.IntEnum):
    A = 0
    B = 1


def text(label: int) -> str:
    return CLASSES[label]


LABEL_TYPES: dict[str, Callable[[int], Any]] = {
    **dict.fromkeys((table.CLASS_FOLDER, table.INT, table.CLASS_LABEL, table.VALUE_INT), int),
    **dict.fromkeys((table.BOOL, table.VALUE_BOOL), bool),
    table.ENUM: Kind,
    table.INT64: np.int64,
    table.UINT8: np.uint8,
    table.TENSOR: torch.tensor,
    table.ARRAY: lambda label: np.array([label]),
    table.VALUE_TEXT: text,
    table.TEXT: lambda label: CLASSES[label - 1],
    table.FRACTION: lambda label: 0.5,
    table.NEGATIVE_CLASS: lambda label: label or -1,
    table.TOO_LARGE: lambda label: label + 1,
}
STRAY: dict[str, tuple[Callable[[int], Any], Any]] = {
    table.NEGATIVE: (int, -1),
    table.MISSING: (int, None),
    table.UNKNOWN: (text, "wasp"),
}
"""Types of labels of which one image has no class, and what it has instead."""
COLUMNS = {
    **dict.fromkeys((table.CLASS_LABEL, table.MISSING, table.NEGATIVE), datasets.ClassLabel(names=list(CLASSES))),
    **dict.fromkeys((table.VALUE_TEXT, table.UNKNOWN), datasets.Value("string")),
    table.VALUE_BOOL: datasets.Value("bool"),
    table.FRACTION: datasets.Value("float64"),
}


# --- containers ---------------------------------------------------------------------------------------------------


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


class Pairs(Dataset[Any]):
    """Items as they are given; files are opened."""

    classes = CLASSES

    def __init__(self, values: Sequence[Any], labels: Sequence[Any]) -> None:
        self.values, self.labels = values, labels

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        value = self.values[index]
        if isinstance(value, Exception):
            raise value
        if value is NO_LABEL:
            return (colour(index),)
        if value is A_DICTIONARY:
            return {"image": colour(index), "label": self.labels[index]}
        return (opened(value) if isinstance(value, Path) else value), self.labels[index]


class Part(Pairs):
    """Images or labels alone."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0]


def subset(values: Sequence[Any], labels: Sequence[Any]) -> Any:
    """Every second item, from the last on."""
    places = range(2 * len(values) - 1, 0, -2)
    spread = {place: number for number, place in enumerate(places)}
    whole = [spread.get(place, 0) for place in range(2 * len(values))]
    return Subset(Pairs([values[i] for i in whole], [labels[i] for i in whole]), list(places))


def concatenated(values: Sequence[Any], labels: Sequence[Any]) -> Any:
    return ConcatDataset([Pairs(values[:3], labels[:3]), Pairs(values[3:], labels[3:])])


def stacked(values: Sequence[Any], labels: Sequence[Any]) -> Any:
    return StackDataset(Part(values, labels), Part(labels, labels))


def tensors(values: Sequence[Any], labels: Sequence[Any]) -> Any:
    return TensorDataset(torch.stack(list(values)), torch.stack(list(labels)))


def pairs(values: Sequence[Any], labels: Sequence[Any]) -> Any:
    return list(zip(values, labels, strict=True))


OBJECTS: dict[str, Callable[[Sequence[Any], Sequence[Any]], Any]] = {
    table.MAP: Pairs,
    table.SUBSET: subset,
    table.CONCAT: concatenated,
    table.STACK: stacked,
    table.LIST: pairs,
    table.TENSORS: tensors,
    table.EXPANDED: Pairs,
}
IMAGE_COLUMNS = {
    table.HF: {},
    table.HF_GREY: {"mode": "L"},
    table.HF_CMYK: {"mode": "CMYK"},
    table.HF_BYTES: {"decode": False},
    table.HF_PATHS: {},
    table.HF_TEXT: {},
    table.HF_SUBSET: {},
}
TEXTS = {
    table.FOLDER: str,
    table.IMAGE_FOLDER: ImageFolder,
    table.IMAGE_FOLDER_TEXT: lambda root: f"torchvision:ImageFolder?root={root}",
}


def written(value: Any, folder: Path, place: int) -> Any:
    """A file in the folder of its class; anything else as it is."""
    if not isinstance(value, File):
        return value
    path = folder / CLASSES[LABELS[place]] / f"{place}{value.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if value.content is None:
        path.symlink_to("nowhere")
    else:
        path.write_bytes(value.content)
    return path


def cell(value: Any, container: str, folder: Path, place: int) -> Any:
    """A cell of an image column."""
    if container == table.HF_PATHS:
        return str(written(value, folder, place))
    return {"bytes": value.content, "path": None} if isinstance(value, File) else value


def rows(row: Situation, values: Sequence[Any], labels: Sequence[Any], folder: Path) -> Any:
    features = datasets.Features(
        {
            "image": datasets.Image(**IMAGE_COLUMNS[row.container]),
            "label": COLUMNS.get(row.label, datasets.Value("int64")),
        }
    )
    cells = [cell(value, row.container, folder, place) for place, value in enumerate(values)]
    made = datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)
    if row.container == table.HF_SUBSET:
        return Subset(made, range(len(labels)))
    if row.container != table.HF_TEXT:
        return made
    made.to_parquet(str(folder / "train.parquet"))
    return f"hf:{folder}"


def values_and_labels(row: Situation) -> tuple[list[Any], list[Any]]:
    """Five of the row's form and label; if one is left out for its form, the others are ordinary."""
    is_stray = row.label in STRAY
    kind, stray = STRAY.get(row.label) or (LABEL_TYPES[row.label], None)
    labels = [kind(label) for label in LABELS]
    if is_stray:
        labels[ODD] = stray
    is_file = row.container in (*TEXTS, *IMAGE_COLUMNS)
    makes = [FORMS[row.form]] * len(LABELS)
    if row.outcome == table.LEFT_OUT and not is_stray:
        makes = [FORMS["png" if is_file else "PIL RGB"]] * len(LABELS)
        makes[ODD] = FORMS[row.form]
    return [make(i) for i, make in enumerate(makes)], labels


def build(row: Situation, folder: Path) -> Any:
    """The row's dataset."""
    folder.mkdir()
    values, labels = values_and_labels(row)
    if row.container in IMAGE_COLUMNS:
        return rows(row, values, labels, folder)
    paths = [written(value, folder, place) for place, value in enumerate(values)]
    return TEXTS[row.container](folder) if row.container in TEXTS else OBJECTS[row.container](paths, labels)


# --- what comes of them -------------------------------------------------------------------------------------------


def expand(dataset: Any) -> ExpandedDataset:
    """Most pixels of such a copy are its seed's."""
    classes = None if isinstance(dataset, str) else CLASSES
    return ExpandedDataset(dataset, ratio=1, method="cutout", classes=classes)


def expanded_as(row: Situation, folder: Path) -> tuple[ExpandedDataset, Sequence[str]]:
    """The row's dataset and its copies, and what was left out."""
    expanded = expand(build(row, folder / "data"))
    if row.container != table.EXPANDED:
        return expanded, expanded.bad
    expanded.precompute(folder / "out")
    again = expand(str(folder / "out"))
    return again, [*expanded.bad, *again.bad]


def parts(item: Any) -> tuple[Any, Any]:
    return (item["image"], item["label"]) if isinstance(item, dict) else item


def described(image: Any) -> str:
    """The form of an image, in the words of the table."""
    if isinstance(image, dict):
        assert set(image) == {"bytes", "path"}
        return f"file of {described(Image.open(io.BytesIO(image['bytes'])))}"
    if isinstance(image, Image.Image):
        orientation = image.getexif().get(0x0112, 1)
        return f"{image.mode}, {image.width} x {image.height}" + (f", Exif {orientation}" * (orientation != 1))
    kind = "array" if type(image) is np.ndarray else type(image).__name__
    return f"{kind} {tuple(image.shape)}, {str(image.dtype).removeprefix('torch.')}"


def numbers(image: Any) -> np.ndarray:
    """Pixels between 0 and 1, colours for those of palettes."""
    if isinstance(image, dict):
        image = Image.open(io.BytesIO(image["bytes"]))
    if isinstance(image, Image.Image):
        array = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)
    else:
        array = image.float().numpy() if isinstance(image, torch.Tensor) and image.is_floating_point() else image
        array = np.asarray(array)
    top = 1 if array.dtype == bool or array.dtype.kind == "f" else 65_535 if array.dtype.itemsize > 1 else 255
    return array.astype(np.float64) / top


def check_pair(seed: Any, copy: Any, says: str) -> None:
    """A copy has its seed's form, pixels but for the hole, and label."""
    (image, label), (other, copied) = parts(seed), parts(copy)
    assert described(image) == described(other) == says
    assert "1 x 1" in says or np.ptp(numbers(image)) > 0.2  # neither white nor black
    assert np.median(np.abs(numbers(image) - numbers(other))) < 0.02
    assert not isinstance(other, np.ndarray) or other.flags.writeable
    assert type(label) is type(copied)
    assert getattr(label, "dtype", None) == getattr(copied, "dtype", None)
    assert np.array_equal(np.asarray(label), np.asarray(copied))


def kept_labels(row: Situation) -> list[int]:
    """Class of each seed: those of the row's images that are kept, and of their copies if these are seeds, too."""
    kept = [label for place, label in enumerate(LABELS) if row.outcome == table.KEPT or place != ODD]
    if row.container == table.EXPANDED:  # in the order of its shards, which is another one
        return sorted(kept * 2)
    return sorted(kept) if row.container in TEXTS else kept


@pytest.mark.parametrize("row", SITUATIONS, ids=lambda row: f"{row.form} - {row.container} - {row.label}")
def test_nothing_is_lost_in_silence(row: Situation, tmp_path: Path) -> None:
    """All seeds and copies are there in their form, and make a batch; or what is not there is named."""
    if row.outcome == table.REFUSED:
        kind, _, words = row.says.partition(": ")
        with pytest.raises(getattr(gif_datasets, kind)) as caught:
            expanded_as(row, tmp_path)
        assert words in str(caught.value)
        return
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        expanded, bad = expanded_as(row, tmp_path)
    said = [str(one.message) for one in warned if "left out" in str(one.message)]
    if row.outcome == table.KEPT:
        assert (said, list(bad)) == ([], [])
    else:
        assert (len(said), len(bad)) == (1, 1)
        assert said[0].startswith("left out 1 of 5 images: ")
        assert row.says in said[0]
        assert row.says in bad[0]
    labels = kept_labels(row)
    seeds = expanded.targets[: len(labels)]
    assert len(expanded) == 2 * len(labels)
    assert (sorted(seeds) if row.container == table.EXPANDED else seeds) == labels
    assert expanded.targets == seeds * 2
    if row.outcome == table.KEPT:
        for seed in range(len(labels)):
            check_pair(expanded[seed], expanded[len(labels) + seed], row.says)
    collate = list if row.container == table.HF_BYTES else None  # no loader makes batches of files
    (batch,) = DataLoader(expanded, batch_size=len(expanded), collate_fn=collate)
    assert len(batch if collate else parts(batch)[1]) == len(expanded)


def test_the_table_is_wide() -> None:
    """Each container and type of label is in at least two rows, and each form; no row is there twice."""
    assert len(SITUATIONS) >= 60
    assert len({(row.form, row.container, row.label, row.outcome) for row in SITUATIONS}) == len(SITUATIONS)
    for column in ("form", "container", "label"):
        counts = Counter(getattr(row, column) for row in SITUATIONS)
        assert [name for name, count in counts.items() if count < 2] == []
    assert {row.form for row in SITUATIONS} == set(FORMS)
