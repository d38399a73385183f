"""Make `photos`, the second dataset that ships: 4 classes of 24 photographs, 128 x 128 pixels, free of copyright.

The photographs come with GCompris, as Debian packages it; its own files name their authors, sources and licences:

    apt-get download gcompris-qt-data=3.1-2 && dpkg-deb -x gcompris-qt-data_3.1-2_all.deb unpacked
    python recipes/photos.py unpacked/usr/share/gcompris-qt/rcc/categorization.rcc --out gif_datasets/assets/photos

Left out: any other licence, an author or file that is not named, and three recent buildings whose pictures the law of
their countries may restrict. Debian's `copyright` still describes older pictures of the same names, not these.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

RCC_DIGEST = "984852ac8377a224c94e26a5bc8a13d0a589612030902c6d76c14509fef3c984"
"""SHA-256 of `categorization.rcc` in gcompris-qt-data 3.1-2."""
IMAGES = "gcompris/src/activities/categorization/resource/images"
FREE = {"Public Domain": "public domain", "CC0-1.0": "CC0-1.0"}
SIZE, QUALITY = 128, 90

CHOSEN = {  # class: folder, and the files in it, as FILE or FILE:PLACE (see `squared`)
    "fish": "fishes fish1:0.3 fish2:0.3 fish3:0.9 fish4:0.7 fish5 fish6 fish9 fish10 fish11 fish12 fish13 fish14 fish15"
    " fish16:0.2 fish18 fish19:0.2 fish21:0.7 fish22:0.2 fish23 fish24 fish25:1 fish26:0.3 fish27:0.3 fish28:0.7",
    "hand tool": "tools cuttingTool:whole hammer1:1 hammer3 hammer5:whole hammer7:whole hammer8:whole hammer9:whole"
    " measuringTape1:whole measuringTape2:whole measuringTape3:whole measuringTape5 plier1:whole plier3:whole"
    " scissors1:whole scissors2 scissors3:0.2 scissors4:whole screwDriver1:1 screwDriver2:0 screwDriver3:whole"
    " sideCutter1:0.2 tweezer1:whole wrench:whole wrench1:0",
    "monument": "monuments arcDeTriomphe brandenburgGate cathedral:0.3 christTheRedeemer colosseum eiffelTower:0"
    " empireState greatPyramid greatWall IndiaGate:0.9 jucheTower kutubMinar:0.9 leaningTowerOfPisa:0.2 monument1"
    " monument2 monument3 mountRushmore operaHouse parthenon statueOfLiberty:0 tajMahal:0.7 usCapitol"
    " victoriaMemorial zimniPalace",
    "renewable energy": "renewable dam1 dam2 dam3 dam5 solar1 solar4 solar5 solar6 solar7 solar8 windmill:0.2"
    " windmill1 windmill2:0.2 windmill3 windmill4 windmill5:0.2 windmill7:0.2 windmill8 windmill9:0.2"
    " windmill11:0.2 windmill12 windmill13 windmill14:0.2 windmill15:0.2",
}

CARD = """# photos

96 photographs, 24 a class, cut or padded to squares and shrunk to 128 pixels. All are in the public domain or under
[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/). They were collected by the authors of
[GCompris](https://gcompris.net) 3.1, whose files give the author, source and licence of each. The script that chose
and cut them is `recipes/photos.py`.

| image | author | source | licence |
|---|---|---|---|
{rows}"""


def resources(packed: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file in a binary resource file of Qt, stored or packed by zlib."""
    tree, data, names = struct.unpack_from(">3I", packed, 8)
    width = 22  # of a node, since version 2

    def name(start: int) -> str:
        (length,) = struct.unpack_from(">H", packed, names + start)
        return packed[names + start + 6 :][: 2 * length].decode("utf-16-be")

    def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        called, flags, first, second = struct.unpack_from(">IHII", packed, tree + node * width)
        path = f"{path}/{name(called)}" if node else ""
        if flags & 2:  # a folder: how many entries, and the first
            for child in range(second, second + first):
                yield from walk(child, path)
            return
        (start,) = struct.unpack_from(">I", packed, tree + node * width + 10)
        (length,) = struct.unpack_from(">I", packed, data + start)
        content = packed[data + start + 4 :][:length]
        yield path[1:], zlib.decompress(content[4:]) if flags & 1 else content

    return walk(0, "")


def origins(readme: str) -> dict[str, dict[str, str]]:
    """Copyright, source and licence by file name, of a README of GCompris."""
    found = {}
    for block in readme.strip().split("\n\n"):
        head, _, files = block.partition("\nFiles:\n")
        facts = dict(line.split(": ", 1) for line in head.splitlines())
        found.update(dict.fromkeys(files.split(), facts))
    return found


def squared(image: Image.Image, place: str) -> Image.Image:
    """A square of a picture.

    ``place`` along the longer side is 0 (start) to 1 (end); middle if empty. ``whole`` cuts nothing and adds a margin,
    for objects on white that fill the picture.
    """
    if place == "whole":
        return ImageOps.pad(image, (SIZE, SIZE), Image.Resampling.LANCZOS, color=image.getpixel((1, 1)))
    where = float(place or 0.5)
    return ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.LANCZOS, centering=(where, where))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rcc", type=Path, help="categorization.rcc")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    packed = args.rcc.read_bytes()
    if hashlib.sha256(packed).hexdigest() != RCC_DIGEST:
        raise SystemExit(f"{args.rcc} is another version than that of gcompris-qt-data 3.1-2")
    files = dict(resources(packed))
    rows = []
    for label, words in CHOSEN.items():
        folder, *names = words.split()
        known = origins(files[f"{IMAGES}/{folder}/README"].decode())
        (args.out / label).mkdir(parents=True, exist_ok=True)
        for name, _, place in (word.partition(":") for word in names):
            origin = known[f"{name}.webp"]
            image = Image.open(io.BytesIO(files[f"{IMAGES}/{folder}/{name}.webp"])).convert("RGB")
            squared(image, place).save(args.out / label / f"{name}.webp", quality=QUALITY, method=6)
            licence = FREE[origin["License"]]
            rows.append(f"| {label}/{name}.webp | {origin['Copyright']} | {origin['Source']} | {licence} |\n")
    (args.out / "README.md").write_text(CARD.format(rows="".join(rows)))


if __name__ == "__main__":
    main()
