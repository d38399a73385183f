"""A copy has its seed's form, exactly; or the form is refused by name."""

from __future__ import annotations

import io
import struct
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torchvision import tv_tensors

from gif_datasets import BadImage
from gif_datasets.io import forms
from gif_datasets.io.images import ORIENTATION, is_grey, read_rgb

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
MADE = Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8))
SIXTEEN = GREY.astype(np.uint16) * 257


def image(mode: str) -> Image.Image:
    if mode.startswith("I;16"):
        return Image.frombytes(mode, (7, 9), SIXTEEN.astype("<u2" if mode == "I;16" else ">u2").tobytes())
    if mode in ("I", "F"):
        return Image.fromarray(SIXTEEN.astype(np.int32) if mode == "I" else (GREY / 255).astype(np.float32))
    return Image.fromarray(COLOUR).convert(mode)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16B", "F"]
LOSSLESS = {"1", "L", "LA", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B", "F"}
"""Modes that a grey image goes through and back without a change."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("whole", [True, False])
def test_modes(mode: str, whole: bool) -> None:
    """Mode, palette and size; and a seed in the form of its own comes out as it was read."""
    seed = image(mode)
    form = seed if whole else forms.stand_in(seed)
    assert whole or form.size == (1, 1)
    found = forms.like(MADE, form)
    assert (found.mode, found.size, found.getpalette()) == (mode, (7, 9), seed.getpalette())
    assert np.asarray(found).dtype == np.asarray(seed).dtype
    read = forms.to_rgb(seed)
    again = np.asarray(forms.to_rgb(forms.like(read, form)))
    if mode == "YCbCr" or (mode == "1" and whole):
        assert abs(again.astype(int) - np.asarray(read)).max() <= 3
    elif mode != "HSV":
        assert np.array_equal(again, np.asarray(read))
    grey = forms.to_rgb(forms.like(Image.fromarray(GREY).convert("RGB"), form))
    assert is_grey(np.asarray(grey))
    if mode in LOSSLESS - {"1"}:
        assert np.array_equal(np.asarray(grey)[..., 0], GREY)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
def test_a_copy_is_transparent_where_its_seed_is(mode: str) -> None:
    """So that alpha tells no copy from a seed; its stand-in keeps what is needed for that."""
    alpha = np.zeros((9, 7), np.uint8)
    alpha[:, 3:] = 255
    seed = image(mode)
    if mode == "P":
        seed.info["transparency"] = 5
        seed.putdata(np.where(alpha == 0, 5, 200).ravel().tolist())
    else:
        seed.putalpha(Image.fromarray(alpha))
    form = forms.stand_in(seed)
    assert form.size == (7, 9)
    found = forms.like(MADE.resize((14, 18)), form)
    assert (found.mode, found.size) == (mode, (14, 18))
    shown = np.asarray(found.convert("RGBA").getchannel("A"))
    assert (shown[:, 7:] == 255).all()
    assert (shown[:, :5] == 0).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour(mode: str) -> None:
    """It is where the seed has it and nowhere else, in files too; what lies below is no white that marks copies."""
    seed = image("L").convert(mode)
    seed.info["transparency"] = 7 if mode == "L" else (7, 7, 7)
    seed.paste(seed.info["transparency"], (0, 0, 3, 9))
    made = MADE.copy()
    made.paste((7, 7, 7), (5, 0, 7, 9))
    form = forms.stand_in(seed)
    written = forms.file_like(read_bytes(made), form)
    assert written is not None
    for found in (forms.like(made, seed), forms.like(made, form), Image.open(io.BytesIO(written[0]))):
        assert (found.mode, found.info["transparency"]) == (mode, seed.info["transparency"])
        assert np.array_equal(np.asarray(found)[:, :3], np.asarray(seed)[:, :3])
        shown = np.asarray(found.convert("RGBA").getchannel("A"))
        assert (shown[:, :3] == 0).all()
        assert (shown[:, 5:] == 255).all()
        assert (np.asarray(found)[:, 5:] == 6).all()


def read_bytes(made: Image.Image) -> bytes:
    buffer = io.BytesIO()
    made.save(buffer, "PNG")
    return buffer.getvalue()


class Own(np.ndarray):
    """An array of somebody's own."""


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (1, 9, 7), (9, 7, 3), (3, 9, 7), (3, 9, 4), (9, 3, 3)])
@pytest.mark.parametrize(
    "make", [np.asarray, lambda a: a.view(Own), torch.from_numpy, lambda a: tv_tensors.Image(torch.from_numpy(a))]
)
def test_arrays_and_tensors(dtype: Any, shape: tuple[int, ...], make: Any) -> None:
    """Class, type and shape; black stays black, white white, and channels equal channels."""
    white = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    seed = make((RNG.integers(0, 2, shape) * white).astype(dtype))
    found = forms.like(forms.to_rgb(seed), seed)
    assert (type(found), found.dtype, found.shape) == (type(seed), seed.dtype, seed.shape)
    assert (np.asarray(found) == np.asarray(seed)).all()
    assert np.asarray(found).flags.c_contiguous  # as transforms need that call view(), or write
    assert np.asarray(found).flags.writeable


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16])
@pytest.mark.parametrize("grad", [True, False])
def test_a_tensor_of_few_bits(dtype: torch.dtype, grad: bool) -> None:
    """Which numpy lacks; whether it wants gradients is of its form, too."""
    seed = torch.rand(3, 9, 7).to(dtype).requires_grad_(grad)
    found = forms.like(forms.to_rgb(seed), seed)
    assert (found.dtype, found.shape, found.requires_grad) == (dtype, seed.shape, grad)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((9, 7, 4), np.uint8), r"scan: an array of shape \(9, 7, 4\) .*choose three"),
        (np.zeros((9, 7, 2), np.uint8), "one or three channels"),
        (np.zeros((2, 9, 7), np.float32), "one or three channels"),
        (torch.zeros(4, 9, 7), "one or three channels"),
        (torch.zeros(13, 9, 7), "one or three channels"),
        (np.zeros((0, 7), np.uint8), "one or three channels"),
        (Image.new("RGB", (0, 7)), "0 x 7 pixels are not an image"),
        (np.ma.masked_less(GREY, 9), "scan: no copy can have the mask of a masked array; fill it"),
        (np.zeros((1, 3, 9, 7), np.uint8), "one or three channels"),
        (np.zeros((9, 7), np.int32), "array of int32"),
        (torch.zeros(3, 9, 7, dtype=torch.int64), "array of int64"),
        (torch.zeros(9, 7).to_sparse(), "scan: no pixels can be read of a tensor of .*sparse_coo.*make it dense"),
        (torch.zeros(9, 7, device="meta"), "no pixels can be read of a tensor of .* on meta"),
        (np.full((9, 7), 80.0), r"float64 must lie in \[0, 1\], got 80 to 80"),
        (np.full((9, 7), -0.5, np.float32), r"\[0, 1\]"),
        (np.full((9, 7), np.nan, np.float32), r"\[0, 1\]"),
        (GREY.astype(np.uint16), "uint16 must fill 0 to 65,535, got "),
        (Image.fromarray(GREY.astype(np.int32) * 1_000), "must fill 0 to 65,535"),
        (Image.fromarray(GREY.astype(np.int32) - 1_000), "must fill 0 to 65,535"),
        (Image.fromarray(GREY.astype(np.int32)), "must fill 0 to 65,535"),
        (Image.fromarray(GREY.astype(np.float32)), r"float32 must lie in \[0, 1\]"),
        (Image.new("LAB", (7, 9)), "of mode LAB; convert it to RGB"),
        (Image.new("RGBX", (7, 9)), "of mode RGBX"),
        (Image.new("RGBa", (7, 9)), "of mode RGBa"),
        ([[0.0, 1.0]], "scan: list is not an image"),
        ("a/b.png", "str is not an image"),
    ],
)
def test_other_forms_are_refused(value: Any, message: str) -> None:
    """With the image's name, and what would do."""
    with pytest.raises(BadImage, match=message):
        forms.to_rgb(value, "scan")


def file(mode: str, orientation: int | None, kind: str = "", **more: Any) -> bytes:
    """A file whose Exif says how to turn it."""
    exif, buffer = Image.Exif(), io.BytesIO()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    image(mode).save(buffer, kind or ("JPEG" if mode == "CMYK" else "PNG"), **{"exif": exif, **more})
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


KINDS = [
    *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    *(("TIFF", mode) for mode in ("RGB", "CMYK", "F")),
]


@pytest.mark.parametrize("orientation", [*range(1, 9), None, 0, 9, 65_535])
@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_images_are_upright(kind: str, mode: str, orientation: int | None) -> None:
    """As Pillow turns them, and once: files that are open, loaded or converted; a copy has no Exif, in files either."""
    content = file(mode, orientation, kind)
    wanted, is_turned = ImageOps.exif_transpose(opened(content)), orientation in range(2, 9) and kind != "TIFF"
    loaded = opened(content)
    loaded.load()
    for seed in (opened(content), loaded, opened(content).convert(wanted.mode)):
        found = forms.upright(seed)
        assert forms.is_turned(seed) == is_turned
        assert (found is seed) != is_turned
        assert (found.mode, found.size) == (wanted.mode, wanted.size)
        assert np.array_equal(np.asarray(found), np.asarray(wanted))
        assert forms.upright(found) is found
        assert not is_turned or ORIENTATION not in found.getexif()
    for form in (found, forms.stand_in(found)):
        copy = forms.like(Image.fromarray(np.asarray(forms.to_rgb(found))), form)
        assert (copy.mode, copy.size, dict(copy.getexif())) == (wanted.mode, wanted.size, {})
    made = read_bytes(forms.to_rgb(found))
    written = opened((forms.file_like(made, form) or (made,))[0])
    assert (written.size, written.getexif().get(ORIENTATION)) == (wanted.size, None)
    assert np.array_equal(np.asarray(read_rgb(content, "x")), np.asarray(forms.to_rgb(found)))
    assert np.array_equal(np.asarray(opened(forms.to_file(found)[0])), np.asarray(wanted))


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation{}/></x:xmpmeta>'


@pytest.mark.parametrize("text", ['="6"', ">6<"])
def test_xmp_turns_too(text: str) -> None:
    """And is gone thereafter, so that nobody turns the image twice."""
    note = PngImagePlugin.PngInfo()
    note.add_itxt("XML:com.adobe.xmp", XMP.format(text))
    found = forms.upright(opened(file("RGB", None, pnginfo=note)))
    assert found.size == (9, 7)
    assert ORIENTATION not in found.convert("L").getexif()


@pytest.mark.parametrize("entry", [(0x0103, 12, 1, 8), (0x0100, 8, 1, 0xFFFF_0000)])
def test_exif_that_pillow_cannot_write_again(entry: tuple[int, ...]) -> None:
    """A camera's number of another type than the standard's: ``exif_transpose`` fails, and the image is upright."""
    directory = struct.pack(">HHHLHHHHLL", 2, ORIENTATION, 3, 1, 6, 0, *entry)
    content = file("RGB", None, exif=b"Exif\0\0MM\0*" + struct.pack(">L", 8) + directory + bytes(4))
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(opened(content))
    assert forms.upright(opened(content)).size == read_rgb(content, "x").size == (9, 7)


def test_broken_exif_turns_nothing() -> None:
    """An image that the dataset reads is read."""
    seed = image("RGB")
    seed.info["exif"] = b"Exif\0\0broken"
    assert forms.upright(seed) is seed


LYING, STANDING, SILENT = (lambda: opened(file("L", 6)), lambda: opened(file("L", 1)), lambda: image("L"))


@pytest.mark.parametrize(
    ("beside", "is_refused"),
    [
        (list, False),
        (lambda: [STANDING()], False),
        (lambda: [LYING(), opened(file("L", 3))], False),
        (lambda: [SILENT()], True),
        (lambda: [np.zeros((9, 7))], True),
        (lambda: [LYING(), torch.zeros(4, 4)], True),
    ],
)
def test_what_belongs_together_is_turned_together(beside: Any, is_refused: bool) -> None:
    """Whatever says itself how it lies is turned by that; an image and what says nothing are refused, in any order."""
    for make in (lambda: [LYING(), *beside()], lambda: [*beside(), LYING()]):
        with pytest.raises(BadImage, match=r"\(orientation 6\).*turn both") if is_refused else nullcontext():
            forms.refuse_apart(make())
    forms.refuse_apart([SILENT(), STANDING(), np.zeros((9, 7))])  # of which none is turned
