"""JPEG files without metadata: the same pixels, no byte more."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from gif_datasets.io.decode import plain
from gif_datasets.io.jpeg import bare

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def saved(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", **options)
    return file.getvalue()


def located() -> bytes:
    """Exif of a camera, with a place."""
    exif = Image.Exif()
    exif[0x0110], exif[0x0112] = "camera 12345", 1
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True, "quality": 90},
        {"subsampling": 2, "restart_marker_rows": 1, "optimize": True},
        {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
        {"keep_rgb": True},
    ],
)
def test_what_has_no_metadata_stays_byte_for_byte(options: dict[str, object]) -> None:
    """And what has some loses them alone, with all that follows the image, such as the film of a phone."""
    content = saved(**options)
    assert bare(content) == content
    assert bare(saved(**options, exif=located(), xmp=b"<x/>", comment="who") + b"film\xff\xd8\xff\xd9") == content


def test_nothing_else_is_touched() -> None:
    """The pixels are those of the file; a cut file, or another one, is none."""
    content = saved(exif=located(), progressive=True)
    assert b"camera" in content
    assert np.array_equal(plain(bare(content) or b""), plain(content))
    assert b"camera" not in (bare(content) or b"")
    for cut in (0, 2, 3, 30, len(content) // 2, len(content) - 2):
        assert bare(content[:cut]) is None
    assert bare(b"\x89PNG\r\n\x1a\n") is None
