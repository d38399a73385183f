"""Fast decoding gives the pixels and the errors of the careful way."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gif_datasets import BadImage
from gif_datasets.io import images
from gif_datasets.io.decode import decode, decode_batch, picture, plain, plain_size


def encoded(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(height: int, width: int, number: int = 0) -> np.ndarray:
    small = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70), width=st.integers(1, 70), kind=st.sampled_from(["png", "webp", "jpg"]),
    quality=st.integers(50, 100), number=st.integers(0, 1000),
)  # fmt: skip
def test_what_this_package_writes_is_plain_and_equal(
    height: int, width: int, kind: str, quality: int, number: int
) -> None:
    """Every format, size and quality takes the fast way and gives Pillow's pixels."""
    content = images.encode(pixels(height, width, number), kind, quality)
    assert plain_size(content) == (height, width)
    assert plain(content) is not None  # of Pillow's own parts, which another version may not have
    wanted = np.asarray(images.read_rgb(content, "x"))
    assert np.array_equal(decode(content, "x"), wanted)
    assert np.array_equal(np.asarray(picture(content, "x")), wanted)


def test_large_pngs_are_plain_too() -> None:
    """Pillow writes their pixels in several chunks."""
    noise = np.random.default_rng(0).integers(0, 256, (220, 230, 3), dtype=np.uint8)
    content = images.encode(noise, "png", 0)
    assert content.count(b"IDAT") > 1
    assert plain_size(content) == (220, 230)
    assert np.array_equal(decode(content, "x"), noise)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"subsampling": 2, "progressive": True}),
        ("JPEG", "RGB", {"subsampling": 1}),
        ("JPEG", "RGB", {"subsampling": "4:1:1", "restart_marker_rows": 1}),
        ("JPEG", "RGB", {"keep_rgb": True}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "L", {}),
        ("PNG", "I;16", {}),
        ("PNG", "1", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"quality": 70}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
    ],
)
def test_other_pictures_are_equal_too(kind: str, mode: str, options: dict[str, object]) -> None:
    """Grey, CMYK, palette, transparent, 16-bit and foreign formats come out as images.read_rgb gives them."""
    content = encoded(pixels(20, 30), kind, mode, **options)
    assert np.array_equal(decode(content, "x"), np.asarray(images.read_rgb(content, "x")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_turned_pictures_are_turned(kind: str) -> None:
    """EXIF orientation is applied, whatever the format."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(pixels(20, 30), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert decode(content, "x").shape == (30, 20, 3)


def segment(content: bytes) -> bytes:
    """A JPEG's APP1 segment."""
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content


def exif(orientation: int | None, order: str = "<", times: int = 1) -> bytes:
    """Exif with a model, and an orientation."""
    found = Image.Exif()
    found.endian = order
    found[0x0110] = "camera"
    if orientation is not None:
        found[0x0112] = orientation
    return segment(b"Exif\0\0" + found.tobytes().removeprefix(b"Exif\0\0")) * times


@pytest.mark.parametrize(
    ("metadata", "plain"),
    [
        (exif(1), True),
        (exif(1, ">"), True),
        (exif(None), True),
        (exif(1) + segment(b"http://ns.adobe.com/xap/1.0/\0<x/>"), True),
        (segment(b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=\"6\"/>"), False),
        (exif(6), False),
        (exif(3, ">"), False),
        (exif(1, times=2), False),
        (exif(1)[:40] + bytes(20), False),
        (segment(b"Exif\0\0"), False),
    ],
)  # fmt: skip
def test_jpegs_of_cameras_are_plain_if_they_are_upright(metadata: bytes, plain: bool) -> None:
    """Whatever else their metadata say; what is not certain goes the careful way, and gives the same."""
    upright = encoded(pixels(20, 30))
    content = upright[:2] + metadata + upright[2:]
    assert (plain_size(content) == (20, 30)) is plain
    assert np.array_equal(decode(content, "x"), np.asarray(images.read_rgb(content, "x")))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["png", "webp", "jpg"]))
def test_damage_has_the_careful_outcome(data: st.DataObject, kind: str) -> None:
    """Cut or changed files give BadImage, or a picture: of PNG and JPEG that of the careful way."""
    content = bytearray(images.encode(pixels(16, 24), kind, 90))
    cut = data.draw(st.integers(0, len(content)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))

    def outcome(read: Callable[[bytes, str], Any]) -> bytes | None:
        try:
            found = np.asarray(read(bytes(content[:cut]), "the-name"))
        except BadImage:
            return None
        assert found.shape[2] == 3
        return found.tobytes()

    assert outcome(decode) == outcome(picture)
    if kind != "webp":
        assert outcome(decode) == outcome(images.read_rgb)


def test_errors_name_the_picture() -> None:
    """A cut file is refused under its name."""
    for kind in ("png", "webp", "jpg"):
        with pytest.raises(BadImage, match="the-name"):
            decode(images.encode(pixels(16, 24), kind, 90)[:100], "the-name")


def test_changed_headers_are_refused() -> None:
    """A PNG that says it is less high than it is does not come out cut."""
    content = bytearray(images.encode(pixels(16, 24), "png", 90))
    content[23] = 8
    for read in (decode, picture):
        with pytest.raises(BadImage, match="the-name"):
            read(bytes(content), "the-name")


def test_bombs_are_refused() -> None:
    """A header that claims too many pixels allocates nothing."""
    content = bytearray(images.encode(pixels(8, 8), "png", 90))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    assert plain_size(bytes(content)) is None
    with pytest.raises(BadImage):
        decode(bytes(content), "bomb")


def test_batches() -> None:
    """Equal sizes fill one buffer, careful pictures among them; different sizes come as a list."""
    grey = encoded(pixels(16, 24, 2), "PNG", "L")
    contents = [images.encode(pixels(16, 24, i), kind, 90) for i, kind in enumerate(("jpg", "png", "webp"))] + [grey]
    wanted = [np.asarray(images.read_rgb(content, "x")) for content in contents]

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.uint8)

    buffer, found = decode_batch(contents, str, allocate)
    assert np.array_equal(buffer, np.stack(wanted))
    assert all(np.shares_memory(part, buffer) for part in found)
    contents.append(images.encode(pixels(16, 25), "jpg", 90))
    buffer, found = decode_batch(contents, str, allocate)
    assert buffer is None
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=False))
    assert found[4].shape == (16, 25, 3)
