"""Any image to 8-bit RGB, with a defined outcome for each kind.

EXIF orientation            applied, by `upright`, before anything else is done
palette, transparency       composited over white
grey, 1-bit, CMYK, YCbCr    converted
16-bit grey                 divided by 257 (65,535 becomes 255); refused if all values are below 256, but not all 0
32-bit integer grey         as 16-bit; refused if values lie outside
float grey                  [0, 1] scaled to [0, 255]; refused if values lie outside
animated                    first frame
over 89 megapixels          refused, as a decompression bomb (Pillow's own limit)
    other formats               refused: PostScript and the like would run programs
empty, truncated, no image  refused
no pixels                   refused
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
from PIL import Image, UnidentifiedImageError

from gif_datasets.errors import BadImage, GifDatasetsError, SourceError, one_line
from gif_datasets.io.forks import on_fork

MAX_PIXELS = 89_478_485
ORIENTATION = 0x0112
"""Tag of Exif."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What each orientation asks for; 1 and others ask for nothing."""
_SAY_HOW_IT_LIES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")


def read_rgb(file: Path | bytes, name: str) -> Image.Image:
    """Read an image as 8-bit RGB.

    Args:
        file: A path, or the file's bytes.
        name: Its name in error messages.

    Raises:
        BadImage: If it is empty, truncated, too large or not an image.
    """
    with opened(file, name) as image:
        return to_rgb(upright(image, name), name)


def is_grey(pixels: np.ndarray) -> bool:
    """Whether the channels of ``(H, W, 3)`` pixels are equal; a coloured image mostly shows it in its first row."""
    return all(bool((part == part[..., :1]).all()) for part in (pixels[0], pixels))


@contextmanager
def opened(file: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An image whose header was read and nothing more; errors while it is used become BadImage, too."""
    with as_bad_image(name), _without_warnings():
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_formats()) as image:
            yield image


def upright(image: Image.Image, name: str = "image") -> Image.Image:
    """An open image as a person sees it: turned as its Exif says, and then without Exif; itself if that says nothing.

    Pillow's ``exif_transpose`` would write the rest of Exif again, and fails where a camera has written it otherwise.
    """
    with as_bad_image(name):
        check_size(image, name)
        if image.getexif().get(ORIENTATION) in TURNS:
            image.load()  # by which a TIFF is turned already
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
        if turn is None:
            return image
        turned = image.transpose(turn)
        for key in _SAY_HOW_IT_LIES:
            turned.info.pop(key, None)
        return turned


def check_size(image: Image.Image, name: str) -> None:
    """Raise BadImage for an image without pixels, or with too many."""
    if 0 in image.size:
        raise BadImage(f"{name}: {image.width} x {image.height} pixels are not an image")
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{name}: {image.width} x {image.height} pixels is over the limit of {MAX_PIXELS:,}")


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Convert an open image to 8-bit RGB, as it lies; the table is in the module's docstring.

    Raises:
        BadImage: If its pixels cannot be read, or are too many.
    """
    with as_bad_image(name), _without_warnings():
        check_size(image, name)
        if getattr(image, "is_animated", False):
            image.seek(0)
        if image.mode.startswith(("I", "F")):
            return Image.fromarray(eight_bits(np.asarray(image), name)).convert("RGB")
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        return image.convert("RGB")


def at_most(image: Image.Image, side: int | None) -> Image.Image:
    """An image whose longest side has at most so many pixels, in its own proportions. A smaller one stays as it is.

    Example:
        >>> at_most(Image.new("RGB", (400, 300)), 200).size, at_most(Image.new("RGB", (40, 30)), 200).size
        ((200, 150), (40, 30))
    """
    size = size_at_most(image.size, side)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def size_at_most(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """Width and height of :func:`at_most`.

    Example:
        >>> size_at_most((400, 300), 200), size_at_most((400, 300), None)
        ((200, 150), (400, 300))
    """
    longest = max(size)
    if side is None or longest <= side:
        return size
    width, height = (max(1, round(length * side / longest)) for length in size)
    return width, height


def is_image(value: Any) -> bool:
    """Whether a value is an image, or an array or tensor that may be one."""
    return isinstance(value, Image.Image) or (hasattr(value, "dtype") and getattr(value, "ndim", 0) in (2, 3))


JPEG = "jpg"
LOSSLESS = ("png", "webp")
"""Formats in which :func:`encode` keeps every pixel."""


def encode(pixels: np.ndarray, image_format: str, jpeg_quality: int, webp_effort: int = 4) -> bytes:
    """Encode ``(H, W, 3)`` uint8 as ``png``, ``webp`` (lossless) or ``jpg``; no metadata, so bytes depend on pixels."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=6)
    elif image_format == "webp":
        image.save(buffer, "WEBP", lossless=True, quality=80, method=webp_effort)
    else:
        image.save(buffer, "JPEG", quality=jpeg_quality, subsampling=0)
    return buffer.getvalue()


def eight_bits(array: np.ndarray, name: str = "image") -> np.ndarray:
    """The 8-bit grey levels, or colours, of an array: True is white, floats are in [0, 1], other integers have 16 bits.

    Raises:
        BadImage: If the values are others, so that nothing says what is black and what is white.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    low, high, kind = array.min(), array.max(), array.dtype.name
    if np.issubdtype(array.dtype, np.floating):
        if not 0 <= low <= high <= 1:  # NaN neither
            raise BadImage(f"{name}: values of {kind} must lie in [0, 1], got {low:g} to {high:g}; scale them")
        scaled = array * 255
    else:
        if not 0 <= low <= high <= 65_535 or 0 < high < 256:  # a range this small would be black
            raise BadImage(f"{name}: values of {kind} must fill 0 to 65,535, got {low} to {high}; scale or window them")
        scaled = array / 257
    eight: np.ndarray = scaled.round().astype(np.uint8)
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
            f"{name}: the dataset raised {type(error).__name__}: {one_line(error)}; correct it, or raise"
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
