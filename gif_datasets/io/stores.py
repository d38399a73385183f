"""Folders in object stores, by URL: the part of `pathlib.Path` that folders of shards need, over fsspec.

An object appears, complete, when its upload ends: writing needs no temporary name.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from gif_datasets.chunks import blocks
from gif_datasets.errors import ConfigError, MissingExtra

_PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs",), "gcs": ("gcsfs",)}
TOGETHER = 500  # small objects that are read at once
_USER = re.compile(r"(?<=://)[^/@]*@")


@dataclass(frozen=True)
class RemotePath:
    """A folder or an object in a store. Picklable; connects when used, configured by the environment.

    Example:
        >>> path = RemotePath("memory://bucket/set") / "data" / "a.txt"
        >>> path.write_bytes(b"abc")
        >>> path.name, path.stem, path.size(), path.read_range(1, 3)
        ('a.txt', 'a', 3, b'bc')
    """

    url: str

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    def __str__(self) -> str:
        """The URL, without user name and password."""
        return _USER.sub("", self.url)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part of the path, without a suffix."""
        return Path(self.name).stem

    def exists(self) -> bool:
        """Whether this object, or one below it, exists."""
        with _filesystem(self, fresh=True) as (store, path):
            return bool(store.exists(path))

    def is_file(self) -> bool:
        """Whether this object exists."""
        with _filesystem(self, fresh=True) as (store, path):
            return bool(store.isfile(path))

    def is_dir(self) -> bool:
        """Whether there are objects below it."""
        with _filesystem(self, fresh=True) as (store, path):
            return bool(store.isdir(path))

    def size(self) -> int:
        """Size in bytes."""
        with _filesystem(self, fresh=True) as (store, path):
            return int(store.info(path)["size"])

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the object for reading from start to end."""
        with _filesystem(self, fresh=True) as (store, path):
            file: IO[bytes] = store.open(path, mode)
            return file

    def read_bytes(self) -> bytes:
        """The content."""
        with _filesystem(self) as (store, path):
            content: bytes = store.cat_file(path)
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding)

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes ``start .. stop - 1``."""
        with _filesystem(self) as (store, path):
            content: bytes = store.cat_file(path, start=start, end=stop)
            return content

    def write_bytes(self, content: bytes) -> None:
        """Write the object."""
        with _filesystem(self) as (store, path):
            store.pipe_file(path, content)

    def create(self, content: bytes) -> bool:
        """Write the object unless it exists; returns whether it was written, by one writer only if the store can."""
        with _filesystem(self) as (store, path):
            try:
                store.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            return True

    def glob(self, pattern: str) -> list[RemotePath]:
        """The objects directly below, whose names match; empty if there are none."""
        with _filesystem(self, fresh=True) as (store, path):
            try:
                names = [str(name).rstrip("/").rpartition("/")[2] for name in store.ls(path, detail=False)]
            except FileNotFoundError:
                names = []
        return [self / name for name in sorted(set(names)) if fnmatch.fnmatchcase(name, pattern)]

    def iterdir(self) -> list[RemotePath]:
        """The objects directly below."""
        return self.glob("*")

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Stores have no folders."""


AnyPath: TypeAlias = Path | RemotePath
"""A folder or file, here or in a store."""


def as_path(text: str | AnyPath) -> AnyPath:
    """A path of a text: of this machine, or of a store for a URL.

    Example:
        >>> as_path("s3://bucket/set/"), as_path("here/set").name, as_path("file:///tmp/set").name
        (RemotePath(url='s3://bucket/set'), 'set', 'set')
    """
    if isinstance(text, RemotePath):
        return text
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    local = text.removeprefix("file://")
    return Path(local) if local != text else RemotePath(text.rstrip("/"))


def size_of(path: AnyPath) -> int:
    """Bytes of a file.

    Raises:
        OSError: If there is no such file.
    """
    return path.size() if isinstance(path, RemotePath) else path.stat().st_size


def file_sizes(folder: AnyPath) -> dict[str, int]:
    """Sizes in bytes of the files directly in a folder, by name, with one listing."""
    if isinstance(folder, Path):
        files = [path for path in folder.glob("*") if path.is_file()]
        return {path.name: path.stat().st_size for path in files}
    with _filesystem(folder, fresh=True) as (store, path):
        try:
            listed = store.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {str(entry["name"]).rpartition("/")[2]: int(entry["size"] or 0) for entry in listed}


def read_all(folder: AnyPath, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of those files of a folder that exist; from a store, many at once."""
    if isinstance(folder, Path):
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield name, (folder / name).read_bytes()
        return
    for block in blocks(names, TOGETHER):
        with _filesystem(folder) as (store, root):
            paths = {f"{root}/{name}": name for name in block}
            contents = store.cat(list(paths), on_error="return") if len(paths) > 1 else _one(store, *paths)
            for problem in contents.values():
                if isinstance(problem, Exception) and not isinstance(problem, FileNotFoundError):
                    raise problem
        yield from ((name, contents[path]) for path, name in paths.items() if isinstance(contents[path], bytes))


def _one(store: Any, path: str) -> dict[str, Any]:
    try:
        return {path: store.cat_file(path)}
    except FileNotFoundError as error:
        return {path: error}


@contextlib.contextmanager
def _filesystem(path: RemotePath, fresh: bool = False) -> Iterator[tuple[Any, str]]:
    """The store of a path, and the path in it; all errors of the store become OSError.

    Args:
        path: The path.
        fresh: Forget earlier listings: somebody else may have written since then.
    """
    store, inner = _connected(path.url)
    try:
        if fresh:
            store.invalidate_cache()
        yield store, inner.rstrip("/")
    except OSError:
        raise
    except Exception as error:  # each store has its own types, and their texts may hold credentials
        raise OSError(f"{path}: {type(error).__name__}") from error


def _connected(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    scheme = url.partition(":")[0]
    try:
        store: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        raise MissingExtra(*_PACKAGES.get(scheme, (f"what opens {scheme}:// URLs",))) from error
    except ValueError as error:
        raise ConfigError(f"nothing is known that opens {scheme}:// URLs, got {RemotePath(url)}") from error
    return store
