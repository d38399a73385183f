"""Images of an expanded folder to pixels, fast: the same pixels as :func:`gif_datasets.io.images.read_rgb` gives.

JPEG goes through simplejpeg (libjpeg-turbo, straight into the batch), lossless WebP and PNG straight to Pillow's
decoders; all let other Python threads run. Whatever is not a plain 8-bit RGB image as this package writes it (turned,
grey, CMYK, transparent, palette, too large, damaged) goes the careful way, with its outcomes and its errors.
"""

from __future__ import annotations

import contextlib
import math
import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gif_datasets.io import images

Pixels = NDArray[np.uint8]
"""``(H, W, 3)``."""
Allocate: TypeAlias = "Callable[[tuple[int, ...]], Pixels]"
"""Makes an array of a shape."""

_PNG = b"\x89PNG\r\n\x1a\n"
_APP1, _START_OF_SCAN = 0xE1, 0xDA
_EXIF = b"Exif\0\0"
_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
"""Of the bytes of Exif's numbers, by how it begins."""


def decode(content: bytes, name: str) -> Pixels:
    """Pixels of an image.

    Args:
        content: The file's bytes.
        name: What to call it in an error.

    Raises:
        BadImage: If it cannot be read.
    """
    pixels = plain(content)
    return np.asarray(images.read_rgb(content, name)) if pixels is None else pixels


def plain(content: bytes, allocate: Allocate | None = None, max_side: int | None = None) -> Pixels | None:
    """Pixels of a plain image, which any number of threads may decode at once; None for any other.

    With ``max_side`` they are reduced as :func:`gif_datasets.io.images.at_most` reduces. A JPEG file of at least four
    times that side is decoded at a half, a quarter or an eighth of its size, and at least twice the side: decoding and
    reducing then touch fewer pixels.

    Args:
        content: The file's bytes.
        allocate: Makes the array that is decoded into, from its shape; None: a new one.
        max_side: Longest side, pixels; None: as large as the image is.

    Example:
        >>> content = images.encode(np.zeros((640, 960, 3), np.uint8), "jpg", 95)
        >>> plain(content).shape, plain(content, max_side=96).shape
        ((640, 960, 3), (64, 96, 3))
    """
    size = plain_size(content)
    if size is None:
        return None
    height, width = size
    shrink = _shrink(content, max(size), max_side)
    out = (allocate or _new)((-(-height // shrink), -(-width // shrink), 3))
    if not _decode_plain(content, out):
        return None
    wanted = images.size_at_most((width, height), max_side)
    if wanted == (width, height):
        return out
    box = (0.0, 0.0, width / shrink, height / shrink)  # the last row and column may be cut
    return np.asarray(Image.fromarray(out).resize(wanted, Image.Resampling.LANCZOS, box))


def _shrink(content: bytes, longest: int, max_side: int | None) -> int:
    """By how much an image may be decoded smaller and still have twice the side that is wanted."""
    if max_side is None or not content.startswith(b"\xff\xd8"):
        return 1
    return next((factor for factor in (8, 4, 2) if longest >= 2 * factor * max_side), 1)


class Scratch:
    """Memory for one image a thread, used again for each: new memory costs a photograph a tenth of its decoding.

    Example:
        >>> scratch = Scratch()
        >>> first, second = scratch((4, 5, 3)), scratch((2, 3, 3))
        >>> np.shares_memory(first, second), second.shape
        (True, (2, 3, 3))
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def __call__(self, shape: tuple[int, ...]) -> Pixels:
        """An array of a shape, until the thread asks for the next one."""
        size, kept = math.prod(shape), getattr(self._of_thread, "kept", None)
        if kept is None or len(kept) < size:
            kept = self._of_thread.kept = _new((size,))
        return kept[:size].reshape(shape)


def _new(shape: tuple[int, ...]) -> Pixels:
    return np.empty(shape, np.uint8)


def picture(content: bytes, name: str) -> Image.Image:
    """:func:`decode` as a Pillow image."""
    size = plain_size(content)
    if size and content.startswith(_PNG):
        with contextlib.suppress(Exception):  # damaged, in one of many ways: the careful way says how
            return _plain_png(content, size)
    return Image.fromarray(decode(content, name))


def decode_batch(
    contents: Sequence[bytes], name: Callable[[int], str], allocate: Callable[[tuple[int, ...]], Any]
) -> tuple[Any, list[Pixels]]:
    """Decode images into one buffer if all have the size of the first.

    Args:
        contents: The files' bytes.
        name: What to call the one at a place, in an error.
        allocate: Makes the buffer, a CPU tensor or an array of ``(N, H, W, 3)`` uint8, from its shape.

    Returns:
        The buffer, None when sizes differ; and the images, which are views of the buffer if there is one.

    Raises:
        BadImage: If one cannot be read.
    """
    pictures: list[Pixels] = []
    first = decode(contents[0], name(0))
    buffer = allocate((len(contents), *first.shape))
    rows: list[Pixels] = list(np.asarray(buffer))
    for place, (content, row) in enumerate(zip(contents[1:], rows[1:], strict=True), 1):
        if plain_size(content) == row.shape[:2] and _decode_plain(content, row):
            pictures.append(row)
        else:
            pictures.append(decode(content, name(place)))
    rows[0][:] = first
    for row, picture in zip(rows[1:], pictures, strict=True):
        if picture.shape != row.shape:
            return None, [first, *pictures]
        if picture is not row:
            row[:] = picture
    return buffer, rows


def plain_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a plain 8-bit RGB image in a format that has a fast decoder; None for any other."""
    size = None
    if content.startswith(b"\xff\xd8"):
        size = _jpeg_size(content)
    elif content.startswith(_PNG):
        size = _png_size(content)
    elif content.startswith(b"RIFF"):
        size = _webp_size(content)
    return size if size and 0 < size[0] * size[1] <= images.MAX_PIXELS else None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    import simplejpeg

    if _may_be_turned(content):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width) if colours == "YCbCr" else None


def _may_be_turned(content: bytes) -> bool:
    """Whether the metadata of a JPEG say so, before its pixels; or this cannot be decided."""
    place, seen = 2, 0
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker, end = content[place + 1], place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == _START_OF_SCAN:
            return False
        if marker == _APP1:
            seen += content.startswith(_EXIF, place + 4)
            if seen > 1 or not _says_upright(content[place + 4 : end]):
                return True
        place = end
    return True


def _says_upright(app1: bytes) -> bool:
    """Whether Exif, or XMP, has no orientation or that of an upright image."""
    order = _ORDERS.get(app1[6:10])
    if not app1.startswith(_EXIF) or order is None:
        return b"rientation" not in app1 and not app1.startswith(_EXIF)

    def number(place: int, size: int) -> int:
        return int.from_bytes(app1[place : place + size], order)

    first = 6 + number(10, 4)
    entries = [first + 2 + 12 * entry for entry in range(number(first, 2))]
    if not entries or entries[-1] + 12 > len(app1):
        return False
    found = [place for place in entries if number(place, 2) == images.ORIENTATION]
    return all((number(place + 2, 2), number(place + 4, 4), number(place + 8, 2)) == (3, 1, 1) for place in found)


def _png_size(content: bytes) -> tuple[int, int] | None:
    """Only with nothing but pixels between a whole header and the end: no palette, transparency, EXIF or texts."""
    plain = content[8:16] == b"\0\0\0\x0dIHDR" and content[24:29] == b"\x08\x02\0\0\0"
    if not plain or zlib.crc32(content[12:29]) != _number(content, 29) or not _png_data(content):
        return None
    return _number(content, 20), _number(content, 16)


def _png_data(content: bytes) -> list[memoryview]:
    """Compressed pixels of a PNG; none if it holds anything else but header and end."""
    place, parts = 33, []
    while content[place + 4 : place + 8] == b"IDAT":
        size = _number(content, place)
        parts.append(memoryview(content)[place + 8 : place + 8 + size])
        place += 12 + size
    return parts if content[place + 4 : place + 8] == b"IEND" else []


def _number(content: bytes, place: int) -> int:
    return int.from_bytes(content[place : place + 4], "big")


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Only plain lossless ones: no extended header, no alpha."""
    if content[8:16] != b"WEBPVP8L" or len(content) < 25 or content[20] != 0x2F:
        return None
    bits = int.from_bytes(content[21:25], "little")
    return None if bits >> 28 & 1 else ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)


def _decode_plain(content: bytes, out: Pixels) -> bool:
    """Decode into ``out``; says whether that went well."""
    try:
        if content.startswith(b"\xff\xd8"):
            import simplejpeg

            simplejpeg.decode_jpeg(content, "RGB", min_height=out.shape[0], min_width=out.shape[1], buffer=out)
        elif content.startswith(_PNG):
            out[:] = np.asarray(_plain_png(content, (out.shape[0], out.shape[1])))
        else:
            out[:] = _plain_webp(content, (out.shape[0], out.shape[1]))
    except Exception:  # damaged, in one of many ways: the careful way says how
        return False
    return True


def _plain_png(content: bytes, size: tuple[int, int]) -> Image.Image:
    """By Pillow's decoder alone: the plugin around it takes half as long again for a small image."""
    return Image.frombytes("RGB", size[::-1], b"".join(_png_data(content)), "zip", "RGB", 0)


def _plain_webp(content: bytes, size: tuple[int, int]) -> Pixels:
    """By Pillow's decoder alone: with the plugin around it, and its memory, it takes a tenth to a half longer."""
    from PIL import _webp

    rgba = Image.frombuffer("RGBA", size[::-1], _webp.WebPAnimDecoder(content).get_next()[0], "raw", "RGBA", 0, 1)
    return np.frombuffer(rgba.tobytes("raw", "RGB"), np.uint8).reshape(*size, 3)
