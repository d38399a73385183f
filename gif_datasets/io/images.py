"""Any image to 8-bit RGB, with a defined outcome for each kind.

EXIF orientation            applied
palette, transparency       composited over white
grey, 1-bit, CMYK, YCbCr    converted
16-bit grey                 divided by 257 (65,535 becomes 255)
32-bit integer grey         as 16-bit
float grey                  [0, 1] scaled to [0, 255]; larger values clipped
animated                    first frame
over 89 megapixels          refused, as a decompression bomb (Pillow's own limit)
    other formats               refused: PostScript and the like would run programs
empty, truncated, no image  refused
"""

from __future__ import annotations

import errno
import io
import re
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gif_datasets.errors import BadImage, GifDatasetsError, SourceError, one_line
from gif_datasets.io.forks import on_fork

MAX_PIXELS = 89_478_485
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")


def read_rgb(file: Path | bytes, name: str) -> Image.Image:
    """Read an image as 8-bit RGB.

    Args:
        file: A path, or the file's bytes.
        name: Its name in error messages.

    Raises:
        BadImage: If it is empty, truncated, too large or not an image.
    """
    with _opened(file, name) as image:
        return to_rgb(image, name)


def is_grey(pixels: np.ndarray) -> bool:
    """Whether the channels of ``(H, W, 3)`` pixels are equal; a coloured image mostly shows it in its first row."""
    return all(bool((part == part[..., :1]).all()) for part in (pixels[0], pixels))


def is_stored_grey(file: Path | bytes, name: str) -> bool:
    """Whether an image is stored as 8-bit grey; its pixels are not read. Arguments as of :func:`read_rgb`."""
    with _opened(file, name) as image:
        return bool(image.mode == "L")


@contextmanager
def _opened(file: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An image whose header was read and nothing more; errors while it is used become BadImage, too."""
    with as_bad_image(name), _without_warnings():
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_formats()) as image:
            yield image


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Convert an open image to 8-bit RGB; the table is in the module's docstring.

    Raises:
        BadImage: If its pixels cannot be read, or are too many.
    """
    with as_bad_image(name), _without_warnings():
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"{name}: {image.width} x {image.height} pixels is over the limit of {MAX_PIXELS:,}")
        if getattr(image, "is_animated", False):
            image.seek(0)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        return image.convert("RGB")


def from_array(value: Any, name: str = "image") -> Image.Image:
    """RGB image of an array or tensor: ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``, uint8 or float in [0, 1]."""
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise BadImage(f"{name}: cannot use an array of shape {array.shape} as an image")
    if array.dtype != np.uint8:
        if (
            not np.issubdtype(array.dtype, np.floating)
            or not np.isfinite(array).all()
            or array.min() < 0
            or array.max() > 1
        ):
            raise BadImage(f"{name}: an array of {array.dtype} must hold floats in [0, 1] or be uint8")
        array = (array * 255).round().astype(np.uint8)
    with as_bad_image(name):
        return to_rgb(Image.fromarray(array), name)


def is_image(value: Any) -> bool:
    """Whether a value is an image, or an array or tensor that may be one."""
    return isinstance(value, Image.Image) or (hasattr(value, "dtype") and getattr(value, "ndim", 0) in (2, 3))


def like(image: Image.Image, example: Any) -> Any:
    """An RGB image in the form of ``example``: a grey image, or an array or tensor of its size, layout and type."""
    if isinstance(example, Image.Image):
        return image.convert("L") if example.mode == "L" else image
    shape = tuple(example.shape)
    first = len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)  # channels first
    height, width = (shape[1], shape[2]) if first else (shape[0], shape[1])
    grey = len(shape) == 2 or shape[0 if first else 2] == 1
    array = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC).convert("L" if grey else "RGB"))
    if len(shape) == 3:
        array = array[..., None] if grey else array
        array = array.transpose(2, 0, 1) if first else array
    if isinstance(example, np.ndarray):
        return array if example.dtype == np.uint8 else (array / 255).astype(example.dtype)
    import torch

    tensor = torch.from_numpy(np.array(array))
    return tensor if example.dtype == torch.uint8 else (tensor / 255).to(example.dtype)


LOSSLESS = ("png", "webp")
"""Formats in which :func:`encode` keeps every pixel."""


def encode(pixels: np.ndarray, image_format: str, jpeg_quality: int) -> bytes:
    """Encode ``(H, W, 3)`` uint8 as ``png``, ``webp`` (lossless) or ``jpg``; no metadata, so bytes depend on pixels."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=6)
    elif image_format == "webp":
        image.save(buffer, "WEBP", lossless=True, quality=80)
    else:
        image.save(buffer, "JPEG", quality=jpeg_quality, subsampling=0)
    return buffer.getvalue()


def _eight_bits(array: np.ndarray, mode: str) -> np.ndarray:
    if mode.startswith("F"):
        finite = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0)
        scaled = np.clip(finite, 0, 1) * 255
    else:
        scaled = np.clip(array.astype(np.int64), 0, 65_535) / 257
    eight: np.ndarray = np.round(scaled).astype(np.uint8)
    return eight


@contextmanager
def as_bad_image(name: str) -> Iterator[None]:
    """Turn all errors that a decoder raises on hostile bytes into BadImage, with the name of the image."""
    try:
        yield
    except GifDatasetsError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"{name}: too many pixels (a decompression bomb?)") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"{name}: not an image") from error
    except FileNotFoundError as error:
        raise BadImage(f"{name}: no such file") from error
    # Hostile bytes make decoders raise nearly everything: ValueError, IndexError, struct.error, and RuntimeError
    # (AVIF) among them.
    except Exception as error:
        raise BadImage(f"{name}: unreadable ({error or type(error).__name__})") from error


@contextmanager
def as_broken_rows(name: str) -> Iterator[None]:
    """Around code of others that reads an image: what a decoder raises becomes BadImage, any other error SourceError.

    Args:
        name: The row, for messages.
    """
    try:
        yield
    except GifDatasetsError as error:
        if type(error) is not BadImage or str(error).startswith(name):
            raise
        raise BadImage(f"{name}: {error}") from error
    except Exception as error:
        if _is_of_an_image(error):
            with as_bad_image(name):
                raise
        raise SourceError(
            f"{name}: the dataset raised {type(error).__name__}: {one_line(error)}; mend it, or raise"
            " gif_datasets.BadImage there for an image that is to be left out"
        ) from error


_OF_A_FILE = {None, *map(errno.__dict__.get, ("ENOENT", "ENOTDIR", "EISDIR", "EACCES", "EPERM", "ELOOP"))}
"""Errors of one file, unlike a machine's: no memory, no descriptor, no network. Pillow's own have no number."""
_DECODERS = re.compile(
    r"[/\\](PIL[/\\](\w+ImagePlugin|ImageFile)|torchvision[/\\]io|torchcodec|imageio|tifffile|pillow_heif)\b"
)


def _is_of_an_image(error: Exception) -> bool:
    """Whether an error is about an image file: it cannot be opened, or a decoder raised it while reading its bytes."""
    if isinstance(error, OSError):
        return not isinstance(error, (ConnectionError, TimeoutError)) and error.errno in _OF_A_FILE
    frames = traceback.walk_tb(error.__traceback__)
    bomb = isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning))
    return bomb or any(_DECODERS.search(frame.f_code.co_filename) for frame, _ in frames)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without warnings of a decoder; one thread at a time, since the filters belong to the process."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken EXIF and the like: only the pixels matter
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _new_lock() -> None:
    global _warnings_lock
    _warnings_lock = threading.RLock()


_warnings_lock = threading.RLock()
on_fork(_new_lock)


def is_picture_name(name: str) -> bool:
    """Whether the name has the suffix of an image that Pillow reads."""
    return Path(name).suffix.lower() in _extensions()


@cache
def _extensions() -> frozenset[str]:
    kinds = (*_formats(), "MPO")  # which is JPEG with further images, and read as such
    return frozenset(ext for ext, kind in Image.registered_extensions().items() if kind in kinds)


@cache
def _formats() -> tuple[str, ...]:
    """The FORMATS that this build of Pillow reads."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)
