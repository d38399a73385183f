"""Plain USTAR, exactly as shards are written; whatever deviates by a byte is refused.

Tar has extensions (PAX, GNU) that readers understand differently, so that one file can hold different members for
different readers. A shard has one form of header, zeros for padding, and nothing after its end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gif_datasets.errors import ShardError

BLOCK = tarfile.BLOCKSIZE
MODE = 0o644
_NAME, _SIZE, _CHECKSUM, _KIND = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157)
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"7": "a contiguous file",
    b"x": "a PAX header",
    b"g": "a PAX header",
    b"L": "a GNU header",
    b"K": "a GNU header",
    b"S": "a sparse file",
}


@dataclass(frozen=True)
class Member:
    """One file of a tar: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


def header(name: str, size: int) -> bytes:
    """The header block of a member: mode 644, no owner, time 0.

    Example:
        >>> header("a.txt", 5)[:5], len(header("a.txt", 5))
        (b'a.txt', 512)
    """
    block = bytearray(_TEMPLATE)
    encoded, octal = name.encode("ascii"), b"%011o\0" % size
    block[_NAME], block[_SIZE] = encoded.ljust(100, b"\0"), octal
    block[_CHECKSUM] = b"%06o\0 " % (_REST + sum(encoded) + sum(octal))
    return bytes(block)


def _template() -> bytes:
    info = tarfile.TarInfo("x")
    info.mode = MODE
    return info.tobuf(tarfile.USTAR_FORMAT)


_TEMPLATE = _template()
_REST = sum(_TEMPLATE) - sum(sum(_TEMPLATE[part]) for part in (_NAME, _SIZE, _CHECKSUM)) + 8 * ord(" ")
"""Of a header's checksum: all but name and size, and the checksum itself as spaces."""


def members(path: Path) -> Iterator[Member]:
    """List a tar's members in order, checking every byte that is not content.

    Raises:
        ShardError: If the file is missing, cut, or holds anything but plain files in the one form.
    """
    try:
        with path.open("rb") as file:
            total = path.stat().st_size
            offset, block = 0, file.read(BLOCK)
            while any(block):
                member = _parse(block, offset, path.name)
                end = member.offset + member.size
                padding = -member.size % BLOCK
                if end + padding > total:
                    raise ShardError(f"{path.name} is cut within the member {member.name!r}")
                yield member
                file.seek(end)
                rest = file.read(padding + BLOCK)
                if any(rest[:padding]):
                    raise ShardError(f"{path.name} has bytes after the member {member.name!r}")
                offset, block = end + padding, rest[padding:]
            whole = offset + 2 * BLOCK
            whole += -whole % tarfile.RECORDSIZE
            if total != whole:
                raise ShardError(f"{path.name} is {total} bytes long, but should end at byte {whole}")
            if any(file.read()):
                raise ShardError(f"{path.name} has bytes after its end")
    except FileNotFoundError as error:
        raise ShardError(f"missing shard {path.name}") from error
    except OSError as error:
        raise ShardError(f"cannot read shard {path.name}: {error.strerror or error}") from error


def _parse(block: bytes, offset: int, shard: str) -> Member:
    if len(block) < BLOCK:
        raise ShardError(f"{shard} is cut at byte {offset + len(block)}")
    raw = block[_NAME].rstrip(b"\0")
    name = raw.decode("ascii", "backslashreplace")
    if block[_KIND] in _KINDS:
        raise ShardError(f"foreign member {name!r} in {shard}: {_KINDS[block[_KIND]]}")
    try:
        size = int(block[_SIZE].rstrip(b"\0"), 8)
        expected = header(name, size) if size >= 0 else b""
    except ValueError:
        expected = b""
    if block != expected:
        raise ShardError(f"foreign member {name!r} in {shard}, or its header is damaged, at byte {offset}")
    return Member(name, offset + BLOCK, size)
