"""The forms in which datasets keep images: from any of them to 8-bit RGB, and from 8-bit RGB back to that of a seed.

PIL images       modes 1, L, LA, P, PA, RGB, RGBA, CMYK, YCbCr, HSV, I, I;16 and F
arrays, tensors  (H, W), or one or three channels, first or last; bool, uint8, uint16, or floats in [0, 1]

A form that has no way back is refused by name, with the image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gif_datasets.errors import BadImage
from gif_datasets.io import images

_NUMBERS = ("1", "I", "I;16", "I;16B", "F")
_COLOURS = ("L", "RGB", "CMYK", "YCbCr", "HSV")
_ALPHA = ("LA", "RGBA")
_PALETTES = ("P", "PA")
_KEYED = ("L", "RGB")
"""Modes of which one colour may be the transparent one."""
_CHANNELS = (1, 3)
_FILES = {
    **dict.fromkeys(("1", "L", "LA", "P", "RGBA", "I;16"), "PNG"),
    **dict.fromkeys(("CMYK", "YCbCr", "I", "I;16B", "F"), "TIFF"),
}
"""Formats that keep a mode losslessly; a copy in RGB is kept as it was made, and what has no format becomes RGB."""

Pixels: TypeAlias = NDArray[np.uint8]


def upright(value: Any) -> Any:
    """A PIL image turned as its Exif says; any other, and one whose Exif cannot be read, as it is."""
    return images.upright(value) if is_turned(value) else value


def is_turned(value: Any) -> bool:
    """Whether it is a PIL image whose Exif says to turn it."""
    return _orientation(value) in images.TURNS


def refuse_apart(values: Iterable[Any]) -> None:
    """Refuse images that belong together, such as one and its mask, if Exif turns some and says nothing of others.

    Raises:
        BadImage: Without a name.
    """
    found = [_orientation(value) for value in values]
    turned = next((orientation for orientation in found if orientation in images.TURNS), None)
    if turned is not None and None in found:
        raise BadImage(
            f"Exif turns the image (orientation {turned}), and nothing says how the mask or array beside it lies; turn"
            " both in the dataset (PIL.ImageOps.exif_transpose), or yield the image as an array, too"
        )


def to_rgb(value: Any, name: str = "image") -> Image.Image:
    """8-bit RGB of an image as a dataset yields it.

    Args:
        value: A PIL image, an array or a tensor.
        name: Its name in error messages.

    Raises:
        BadImage: If it cannot be read, or no copy could have its form.
    """
    if isinstance(value, Image.Image):
        if value.mode not in (*_NUMBERS, *_COLOURS, *_ALPHA, *_PALETTES):
            raise BadImage(f"{name}: no copy can be an image of mode {value.mode}; convert it to RGB")
        return images.to_rgb(value, name)
    if not isinstance(value, np.ndarray) and not _is_tensor(value):
        raise BadImage(f"{name}: {type(value).__name__} is not an image; yield a PIL image, an array or a tensor")
    if np.ma.is_masked(value):
        raise BadImage(f"{name}: no copy can have the mask of a masked array; fill it (filled())")
    array = _array(value, name)
    axis = _channel_axis(array.shape, _is_tensor(value))
    if axis is None or 0 in array.shape:
        raise BadImage(
            f"{name}: an array of shape {array.shape} is not an image, which has one or three channels, first or last;"
            " choose three, or yield a PIL image if the last one is alpha"
        )
    if array.dtype not in (np.bool_, np.uint8, np.uint16) and not np.issubdtype(array.dtype, np.floating):
        raise BadImage(f"{name}: an array of {array.dtype} has no white; make it uint8, uint16 or floats in [0, 1]")
    pixels = images.eight_bits(np.moveaxis(array, axis, -1) if array.ndim == 3 else array, name)
    return images.to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels), name)


def like(image: Image.Image, example: Any, max_side: int | None = None) -> Any:
    """An RGB image in the form of ``example``, which is an image in a form that :func:`to_rgb` takes.

    Args:
        image: The image.
        example: What has the form; an array or tensor also says how large.
        max_side: Longest side of that, pixels.

    Returns:
        A PIL image of its mode, palette and transparency; or an array or tensor of its shape, layout, type and device,
        in one piece that may be written to.
    """
    if isinstance(example, Image.Image):
        return _in_mode(image, example)
    shape, is_tensor = tuple(example.shape), _is_tensor(example)
    axis = _channel_axis(shape, is_tensor)
    height, width = [size for place, size in enumerate(shape) if len(shape) == 2 or place != axis]
    size = images.size_at_most((width, height), max_side)
    resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    if len(shape) == 2:
        array = np.array(resized.convert("L"))
    else:
        rgb = resized.convert("L" if shape[axis or 0] == 1 else "RGB")
        array = np.array(np.moveaxis(np.atleast_3d(np.asarray(rgb)), -1, axis or 0), order="C")
    return _tensor(array, example) if is_tensor else _widened(array, example.dtype).view(type(example))


def stand_in(value: Image.Image) -> Image.Image:
    """What :func:`like` needs of an image: itself where some of it is transparent, else one pixel of its mode."""
    if value.mode in (*_ALPHA, *_PALETTES) or _is_keyed(value):
        blank = value.copy() if _is_cut(value) else value.crop((0, 0, 1, 1))
    else:
        blank = Image.new(value.mode, (1, 1))  # whose pixels need not even be read
    blank.info.clear()
    blank.info.update(_transparency(value))
    return blank


def file_like(content: bytes, example: Image.Image) -> tuple[bytes, str] | None:
    """An image's file in the form of ``example``, and its suffix; None where it is in that form already: RGB."""
    if example.mode not in _FILES and not _is_keyed(example):
        return None
    return to_file(_in_mode(images.read_rgb(content, "a copy"), example))


def to_file(image: Image.Image) -> tuple[bytes, str]:
    """A lossless file of an image in its own mode, without Exif; and the file's suffix."""
    buffer, kind = io.BytesIO(), _FILES.get(image.mode, "PNG")
    image.save(buffer, kind)
    return buffer.getvalue(), kind.lower()


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "new_zeros")


def _array(value: Any, name: str) -> NDArray[Any]:
    """An array or tensor as an array, wherever it is; numpy has no floats of 8 bits and no bfloat16."""
    if not _is_tensor(value):
        return np.asarray(value)
    try:
        here = value.detach().cpu()
        return np.asarray(here.float() if str(here.dtype).startswith(("torch.bfloat", "torch.float8")) else here)
    except Exception as error:  # torch's own, of sparse, quantized and other tensors that have no plain pixels
        raise BadImage(
            f"{name}: no pixels can be read of a tensor of {value.dtype}, {value.layout}, on {value.device}; make it"
            " dense, of uint8 or floats in [0, 1]"
        ) from error


def _channel_axis(shape: Sequence[int], is_tensor: bool) -> int | None:
    """Axis of the channels; for ``(H, W)`` 2, which it would have; None for what is not an image."""
    if len(shape) == 2:
        return 2
    if len(shape) != 3:
        return None
    order = (0, 2) if is_tensor else (2, 0)
    return next((axis for axis in order if shape[axis] in _CHANNELS), None)


def _widened(pixels: Pixels, dtype: Any) -> NDArray[Any]:
    """The inverse of :func:`images.eight_bits`."""
    if dtype == np.uint8:
        return pixels
    if dtype == np.bool_:
        return pixels >= 128
    if np.issubdtype(dtype, np.floating):
        return (pixels / 255).astype(dtype)
    return (pixels.astype(np.uint32) * 257).astype(dtype)


def _tensor(array: Pixels, example: Any) -> Any:
    """A tensor of the example's type, device and class (``tv_tensors.Image`` is one)."""
    import torch

    if example.dtype.is_floating_point:
        tensor = torch.from_numpy(array) / 255
    else:
        dtype = np.dtype(str(example.dtype).removeprefix("torch."))
        tensor = torch.from_numpy(_widened(array, dtype))
    tensor = tensor.to(example.device, example.dtype).as_subclass(type(example))
    return tensor.requires_grad_(example.requires_grad)


def _in_mode(image: Image.Image, example: Image.Image) -> Image.Image:
    if example.mode in _NUMBERS:
        dtype = np.asarray(example.crop((0, 0, 1, 1))).dtype
        array = _widened(np.asarray(image.convert("L")), dtype)
        if example.mode == "1":
            return Image.fromarray(array)
        return Image.frombytes(example.mode, image.size, array.tobytes())
    if example.mode in _PALETTES:
        return _in_palette(image, example)
    if example.mode not in _ALPHA:
        copy = image if example.mode == image.mode else image.convert(example.mode)
        return _with_key(copy, example) if _is_keyed(example) else copy
    copy = image.convert(example.mode)
    copy.putalpha(example.getchannel("A").resize(image.size))
    return copy


def _is_keyed(image: Image.Image) -> bool:
    """Whether one colour of an image is transparent, as in PNG, and in what Pillow converts from a palette."""
    return image.mode in _KEYED and "transparency" in image.info


def _with_key(copy: Image.Image, example: Image.Image) -> Image.Image:
    """An image with the transparent colour of an example, where that has it; elsewhere it is one level off."""
    clear = np.asarray(example.resize(copy.size, Image.Resampling.NEAREST).convert("RGBA").getchannel("A")) == 0
    pixels, key = np.array(copy), np.asarray(example.info["transparency"]).astype(np.uint8)
    pixels[np.atleast_3d(pixels == key).all(axis=2)] ^= 1
    pixels[clear] = key
    keyed = Image.fromarray(pixels)
    keyed.info.update(_transparency(example))
    return keyed


def _in_palette(image: Image.Image, example: Image.Image) -> Image.Image:
    """The nearest colours of a palette; its greys alone for a grey image; the example where that is transparent."""
    table, alpha = _table(example)
    usable = alpha == 255
    if images.is_grey(np.asarray(image)):
        usable &= np.ptp(table, axis=1) == 0
    (entries,) = np.nonzero(usable if usable.any() else alpha >= 0)
    repeated = np.resize(entries, 256)
    palette = Image.new("P", (1, 1))
    palette.putpalette(table[repeated].tobytes())
    numbers = repeated[np.asarray(image.quantize(palette=palette, dither=Image.Dither.NONE))].astype(np.uint8)
    shown = example.resize(image.size, Image.Resampling.NEAREST)
    clear = np.asarray(shown.convert("RGBA").getchannel("A")) < 255
    example_numbers = np.asarray(shown if example.mode == "P" else shown.getchannel("P"))
    copy = _with_palette(np.where(clear, example_numbers, numbers), example)
    if example.mode == "PA":
        copy = copy.convert("PA")
        copy.putalpha(shown.getchannel("A"))
    return copy


def _table(example: Image.Image) -> tuple[Pixels, Pixels]:
    """Colours of a palette, ``(N, 3)``, and their alpha, ``(N,)``."""
    rows = len(example.getpalette() or ()) // 3 or 256
    rgba = np.asarray(_with_palette(np.arange(rows, dtype=np.uint8)[None], example).convert("RGBA"))[0]
    return np.ascontiguousarray(rgba[:, :3]), rgba[:, 3]


def _with_palette(numbers: Pixels, example: Image.Image) -> Image.Image:
    """An image of colours by their number, ``(H, W)``, with the palette and transparency of another."""
    copy, kind = Image.fromarray(numbers).convert("P"), example.palette.mode if example.palette else "RGB"
    copy.putpalette(example.getpalette(kind) or b"", kind)
    copy.info.update(_transparency(example))
    return copy


def _transparency(image: Image.Image) -> dict[str, Any]:
    return {"transparency": image.info["transparency"]} if "transparency" in image.info else {}


def _is_cut(image: Image.Image) -> bool:
    """Whether some of an image is transparent."""
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)


def _orientation(value: Any) -> Any:
    """What the Exif of a PIL image says of how to turn it; None if it says nothing, as arrays do."""
    if isinstance(value, Image.Image):
        with contextlib.suppress(Exception):  # broken Exif, in one of many ways
            if value.format == "TIFF":
                value.load()  # which turns it
            return value.getexif().get(images.ORIENTATION)
    return None
