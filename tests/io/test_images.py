"""Every kind of picture has a defined outcome."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gif_datasets import BadImage
from gif_datasets.io.images import encode, read_rgb, to_rgb


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def first_pixel(content: bytes) -> tuple[int, ...]:
    image = read_rgb(content, "x")
    assert image.mode == "RGB"
    return image.getpixel((0, 0))  # type: ignore[return-value]


def test_grey_palette_cmyk_and_one_bit() -> None:
    """They become the RGB colours they show."""
    assert first_pixel(saved(Image.new("L", (3, 2), 90), "PNG")) == (90, 90, 90)
    assert first_pixel(saved(Image.new("1", (3, 2), 1), "PNG")) == (255, 255, 255)
    assert first_pixel(saved(Image.new("RGB", (3, 2), (9, 8, 7)).quantize(4), "PNG")) == (9, 8, 7)
    red, green, blue = first_pixel(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert red > 200
    assert green < 60
    assert blue < 60


def test_sixteen_bit_is_scaled_not_clipped() -> None:
    """65,535 becomes 255 and the middle stays the middle."""
    array = np.array([[0, 32_768, 65_535]], dtype=np.uint16)
    found = np.asarray(read_rgb(saved(Image.fromarray(array), "PNG"), "x"))[0, :, 0]
    assert found.tolist() == [0, 128, 255]


def test_transparency_is_composited_over_white() -> None:
    """What is transparent is white, not black."""
    assert first_pixel(saved(Image.new("RGBA", (3, 2), (0, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert first_pixel(saved(Image.new("LA", (3, 2), (0, 255)), "PNG")) == (0, 0, 0)


def test_exif_rotation_is_applied() -> None:
    """A picture that says it lies on its side is set upright."""
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    content = saved(image, "JPEG", exif=exif)
    assert read_rgb(content, "x").size == (2, 4)
    assert to_rgb(Image.open(io.BytesIO(content))).size == (4, 2)  # which turns nothing: upright() comes before


def test_first_frame_of_an_animation() -> None:
    """Only the first frame counts."""
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert first_pixel(content)[0] > 200


def test_one_pixel_is_a_picture() -> None:
    """The smallest picture is read."""
    assert read_rgb(saved(Image.new("RGB", (1, 1), "red"), "PNG"), "x").size == (1, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am a text file",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"II*\0\xff\xff\xff\xff",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_what_is_no_picture(content: bytes) -> None:
    """Empty, foreign and cut files are refused by name."""
    with pytest.raises(BadImage, match="myfile"):
        read_rgb(content, "myfile")


def test_truncated_picture(picture: Any) -> None:
    """Half a file is refused."""
    content = saved(picture(1), "PNG")
    with pytest.raises(BadImage):
        read_rgb(content[: len(content) // 2], "x")


def test_decompression_bomb() -> None:
    """A small file that would unpack to a huge picture is refused before it is unpacked."""
    content = saved(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(content) < 100_000
    with pytest.raises(BadImage, match=r"bomb|limit"):
        read_rgb(content, "x")


def test_missing_file(tmp_path: Path) -> None:
    """A path that is not there is named."""
    with pytest.raises(BadImage, match="no such file"):
        read_rgb(tmp_path / "gone.png", "gone.png")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]), st.data())
def test_fuzzed_pictures_are_read_or_refused(noise: bytes, kind: str, data: Any) -> None:
    """Damaged bytes give a picture or BadImage, never another error."""
    content = bytearray(saved(Image.new("RGB", (9, 7), (1, 200, 3)), kind))
    at = data.draw(st.integers(0, len(content)))
    content[at : at + len(noise)] = noise
    with contextlib.suppress(BadImage):
        assert read_rgb(bytes(content), "x").mode == "RGB"


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    """What is stored is what was made, and the same bytes each time."""
    pixels = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    content = encode(pixels, kind, 90)
    assert (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) == pixels).all()
    assert encode(pixels, kind, 90) == content


def test_float_grey() -> None:
    """Float images in [0, 1] are scaled."""
    array = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert np.asarray(to_rgb(Image.fromarray(array)))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 7]], np.float32),
        np.array([[-0.5, 1]], np.float32),
        np.array([[np.nan, np.nan]], np.float32),
        np.array([[0, 80_000]], np.int32),
        np.array([[-1024, 3071]], np.int32),
        np.array([[0, 200]], np.int32),
    ],
)
def test_values_without_black_and_white(values: np.ndarray) -> None:
    """Float and 32-bit TIFF that would be all white or all black are refused, with their range."""
    with pytest.raises(BadImage, match=rf"scan: .*got {values.min():g} to {values.max():g}"):
        read_rgb(saved(Image.fromarray(values), "TIFF"), "scan")
    assert read_rgb(saved(Image.fromarray(np.zeros_like(values)), "TIFF"), "scan").size == (2, 1)
