"""Hostile and odd images, by the thousand: each is read or refused by name, and nothing else happens.

    python recipes/faults/fuzz_images.py                  # 10,000 pictures; a JSON report on stdout
    python recipes/faults/fuzz_images.py --count 300      # a first look

Each case is made from a number alone. An image of random size, mode and format is drawn, with options such as EXIF
rotation, 16 bits, CMYK, palettes, transparency, several frames or a colour profile; then it may be cut, flipped in
bits, overwritten, given another header's size, another format's name, or doubled. Every case is read twice: through
`read_rgb`, and as a file of a class folder that is listed as a source. Exit code 1 when a case had any outcome but
an image or BadImage.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gif_datasets import BadImage
from gif_datasets.io import images
from gif_datasets.sources.base import list_seeds
from gif_datasets.sources.folders import FolderSource

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "TGA": ("L", "P", "RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
}
FOREIGN = {
    "empty": b"",
    "text": b"not an image at all\n" * 20,
    "html": b"<!doctype html><img src=x>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n",
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "zeros": b"\0" * 4096,
    "icon": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x18\0\x68\3\0\0\x16\0\0\0",
    "psd": b"8BPS\0\1" + b"\0" * 40,
}


def drawn(rng: random.Random, mode: str) -> Image.Image:
    """A random image of a mode, mostly small, sometimes one pixel high or wide."""
    width, height = (rng.choice((1, 2, 7, 16, 33, 64)) for _ in range(2))
    noise = np.random.default_rng(rng.getrandbits(32))
    if mode == "I;16":
        return Image.fromarray(noise.integers(0, 65_536, (height, width), dtype=np.uint16))
    if mode == "I":
        return Image.fromarray(noise.integers(-9, 2**31 - 1, (height, width), dtype=np.int32))
    if mode == "F":
        values = noise.standard_normal((height, width)).astype(np.float32)
        values[0, 0] = rng.choice((np.nan, np.inf, -np.inf, 3e38, 0.5))
        return Image.fromarray(values)
    if mode in ("LAB", "YCbCr", "CMYK"):
        channels = len(mode) if mode == "CMYK" else 3
        return Image.frombytes(mode, (width, height), noise.bytes(width * height * channels))
    image = Image.fromarray(noise.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    return image.convert("RGB").quantize(rng.choice((2, 16, 256))) if mode == "P" else image.convert(mode)


def saved(rng: random.Random, kind: str) -> bytes:
    """A file of a format, with options that such files have."""
    mode = rng.choice(MODES[kind])
    image = drawn(rng, mode)
    options: dict[str, Any] = {}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and rng.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65_535))
        options["exif"] = exif if rng.random() < 0.7 else b"Exif\0\0" + rng.randbytes(40)
    if kind in ("GIF", "PNG", "WEBP", "TIFF") and rng.random() < 0.3:
        options |= {"save_all": True, "append_images": [drawn(rng, mode) for _ in range(rng.randint(1, 3))]}
    if kind == "JPEG":
        options |= {"quality": rng.randint(1, 100), "progressive": rng.random() < 0.3}
    if kind == "TIFF":
        options["compression"] = rng.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits"))
    if kind in ("PNG", "JPEG", "WEBP", "TIFF") and rng.random() < 0.2:
        options["icc_profile"] = rng.randbytes(rng.randint(0, 300))
    if mode in ("P", "L", "RGB") and kind in ("PNG", "GIF") and rng.random() < 0.3:
        options["transparency"] = rng.randint(0, 255) if mode != "RGB" else (1, 2, 3)
    for attempt in (options, {}):
        buffer = io.BytesIO()
        try:
            image.save(buffer, kind, **attempt)
            return buffer.getvalue()
        except Exception:  # an encoder that refuses its options says nothing of our reader
            continue
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def png_of_size(rng: random.Random) -> bytes:
    """A small PNG that says it is large: from just too many pixels to more than there is memory."""
    sides = (
        (9_459, 9_459),
        (9_460, 9_460),
        (20_000, 20_000),
        (65_500, 65_500),
        (2**31 - 1, 1),
        (2**31 - 1, 2**31 - 1),
        (0, 9),
    )
    width, height = rng.choice(sides)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, rng.choice((1, 8)), 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 4_000)) + chunk(b"IEND", b"")
    )


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Cut, flip, overwrite, repeat or move bytes."""
    data = bytearray(content)
    how = rng.randrange(7)
    at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 64))
    if how == 0:
        return bytes(data[:at])
    if how == 1:
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == 2:
        noise = rng.randbytes(rng.randint(1, 64))
        data[at : at + len(noise)] = noise
    elif how == 3:
        data[at:at] = data[at : at + rng.randint(1, 200)]
    elif how == 4:
        del data[at : at + rng.randint(1, 200)]
    elif how == 5:
        data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\x80"))
    else:
        data += content
    return bytes(data)


def case(number: int) -> tuple[str, str, bytes]:
    """One case: what it is, its file name, its bytes."""
    rng = random.Random(number)
    draw = rng.random()
    if draw < 0.05:
        name = rng.choice(tuple(FOREIGN))
        return f"foreign {name}", f"{number}.{rng.choice(('png', 'jpg', 'gif'))}", FOREIGN[name]
    if draw < 0.08:
        return "bomb", f"{number}.png", png_of_size(rng)
    kinds = [kind for kind in MODES if kind in images._formats()]
    kind = rng.choice(kinds)
    content = saved(rng, kind)
    suffix = kind.lower().replace("jpeg2000", "jp2") if rng.random() < 0.8 else rng.choice(("png", "jpg", "tif"))
    if draw < 0.30:
        return f"whole {kind}", f"{number}.{suffix}", content
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = damaged(rng, content) or b"\0"
    return f"damaged {kind}", f"{number}.{suffix}", content


def outcome(read: Callable[[], Image.Image], name: str) -> str:
    """``read``, ``refused: why``, or ``CRASH``."""
    try:
        image = read()
    except BadImage as error:
        text = str(error)
        if not text.startswith(name):
            return f"CRASH: refused without its name: {text[:80]}"
        return f"refused: {text.removeprefix(name).lstrip(': ').partition(' (')[0][:40]}"
    except BaseException:
        return "CRASH: " + traceback.format_exc(limit=-2).replace("\n", " | ")
    if image.mode != "RGB" or 0 in image.size or len(image.tobytes()) != 3 * image.width * image.height:
        return f"CRASH: {image.mode} {image.size}"
    return "read"


def run(count: int, first: int = 0) -> dict[str, Any]:
    """Read ``count`` cases; returns how many had which outcome."""
    started = time.monotonic()
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    crashes, slowest, read = [], (0.0, ""), 0
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "cases"
        for label in ("a", "b"):
            (folder / label).mkdir(parents=True)
        good = io.BytesIO()
        Image.new("RGB", (2, 2), "red").save(good, "PNG")
        (folder / "a" / "good.png").write_bytes(good.getvalue())
        for number in range(first, first + count):
            what, name, content = case(number)
            digest.update(content)
            begun = time.monotonic()
            found = outcome(lambda c=content, n=name: images.read_rgb(c, n), name)
            slowest = max(slowest, (round(time.monotonic() - begun, 3), f"{number} {what}"))
            again = outcome(lambda c=content, n=name: images.read_rgb(c, n), name)
            if found != again:
                found = f"CRASH: {found}, then {again}"
            outcomes[what][found[:60]] += 1
            read += found == "read"
            if found.startswith("CRASH"):
                crashes.append({"case": number, "what": what, "outcome": found})
            (folder / "ab"[number % 2] / name).write_bytes(content)
        source = FolderSource(folder, "cases")
        listed = list_seeds(source)
    lost = count + 1 - len(listed.seeds) - len(listed.bad)
    if lost or len(listed.seeds) != read + 1:
        crashes.append({"case": -1, "what": "source", "outcome": f"{len(listed.seeds)} read, {lost} lost"})
    total: collections.Counter[str] = collections.Counter()
    for counter in outcomes.values():
        total.update(counter)
    return {
        "cases": count,
        "first": first,
        "sha256": digest.hexdigest(),
        "read": read,
        "refused": count - read - sum(crash["case"] >= 0 for crash in crashes),
        "crashes": crashes,
        "outcomes": dict(total.most_common()),
        "by_kind": {what: dict(counter.most_common()) for what, counter in sorted(outcomes.items())},
        "as_source": {"seeds": len(listed.seeds) - 1, "named_as_bad": len(listed.bad)},
        "slowest": {"seconds": slowest[0], "case": slowest[1]},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    args = parser.parse_args()
    report = run(args.count, args.first)
    print(json.dumps(report, indent=1))
    return 1 if report["crashes"] else 0


if __name__ == "__main__":
    sys.exit(main())
