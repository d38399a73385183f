"""JPEG files as they are: the coded pixels of a file, without what says nothing of them."""

from __future__ import annotations

import re

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN, _COMMENT = 0xDA, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_PIXELS_DEPEND_ON = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
"""Application segments that say what the numbers mean; others are Exif, thumbnails, edits, places, names."""
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither a stuffed byte nor a restart within the scan


def bare(content: bytes) -> bytes | None:
    """A JPEG file without metadata, comments and whatever follows its image; None if it is none, or is cut.

    What is coded is not touched, so the pixels are the same. The metadata of a photograph, such as its place and its
    camera's number, do not go where its pixels go.
    """
    if not content.startswith(_START):
        return None
    kept, place = [_START], len(_START)
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker, end = content[place + 1], place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if not _says_nothing(marker, content[place + 4 : place + 16]):
            kept.append(content[place:end])
        if marker == _SCAN:
            following = _AFTER_SCAN.search(content, end)
            if following is None:
                return None
            kept.append(content[end : following.start()])
            end = following.start()
            if following[0] == _END:
                return b"".join([*kept, _END])
        place = end
    return None


def _says_nothing(marker: int, begin: bytes) -> bool:
    """Whether a segment has no part in the pixels."""
    if marker in _APPLICATION:
        return marker not in _PIXELS_DEPEND_ON or not begin.startswith(_PIXELS_DEPEND_ON[marker])
    return marker == _COMMENT
