"""Captions of images: a file of them, and the contexts that are left of them without the class.

The file is CSV, or JSON Lines by its suffix ``.jsonl``, and has ``name``, ``caption`` and, if there is one, ``class``.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gif_datasets.errors import ConfigError
from gif_datasets.io.parsing import read_json

CLASS = "{}"
"""Stands for the name of a class."""
LONGEST = 500  # characters of a caption
MOST = 20_000  # contexts: what a plan can hold
_NEEDED = ("name", "caption")


def context_of(caption: str, class_name: str = "") -> str:
    """A caption with :data:`CLASS` in place of the class: as it is if it has that; else where the class is named.

    Where that is not, the class goes before the caption. The class is found as whole words, in any case, with spaces,
    hyphens or underscores between them; when it is named again, that is an "it".

    Example:
        >>> context_of("a Great Dane on grass, a great dane asleep", "great_dane"), context_of("on grass", "cat")
        ('a {} on grass, a it asleep', '{}, on grass')
    """
    text = " ".join(caption.split())
    if CLASS in text:
        return text
    words = [re.escape(word) for word in re.split(r"[\s_-]+", class_name) if word]
    found = re.compile(rf"(?<!\w){'[ _-]'.join(words)}(?!\w)", re.IGNORECASE) if words else None
    if found is None or not found.search(text):
        return f"{CLASS}, {text}"
    first, _, rest = found.sub("\0", text).partition("\0")
    return f"{first}{CLASS}{rest}".replace("\0", "it")


def read_captions(path: str | Path) -> dict[str, str]:
    """The context of each image by its name: ``seed_origin``, such as ``ant/3.png``.

    Without a column ``class``, the first folder of a name is its class.

    Raises:
        ConfigError: If the file cannot be read, or has no such rows.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        rows = list(_json_rows(text) if str(path).lower().endswith(".jsonl") else _csv_rows(text))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read the captions {path}: {reason}") from error
    if not rows:
        raise ConfigError(f"the captions {path} have no rows; each has a name and a caption")
    found = dict[str, str]()
    for line, row in rows:
        name, context = _checked(row, f"the captions {path}, line {line}")
        if found.setdefault(name, context) != context:
            raise ConfigError(f"the captions {path}, line {line}: {name!r} has another caption before")
    return found


def read_contexts(path: str) -> tuple[str, ...]:
    """The contexts of a file of captions, each once and sorted, so that its path, names and order do not matter."""
    return tuple(sorted(set(read_captions(path).values())))


def check_contexts(contexts: Sequence[str]) -> None:
    """Raise ConfigError unless each context has :data:`CLASS` once, and there are not too many or too long ones."""
    if len(contexts) > MOST:
        raise ConfigError(f"contexts must be at most {MOST:,}, got {len(contexts):,}; take fewer captions")
    for one in contexts:
        if one.count(CLASS) != 1 or len(one) > LONGEST or not one.isprintable():
            raise ConfigError(
                f"contexts must each have exactly one {{}}, at most {LONGEST} printable characters, got {one!r:.100}"
            )


def as_csv(captions: Mapping[str, str]) -> bytes:
    """A file that :func:`read_captions` reads, of contexts by name."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([_NEEDED, *captions.items()])
    return file.getvalue().encode("utf-8", "backslashreplace")


def _checked(row: Mapping[str, object], place: str) -> tuple[str, str]:
    """Name and context of a row."""
    name, caption, label = (row.get(key) for key in (*_NEEDED, "class"))
    if not isinstance(name, str) or not isinstance(caption, str) or not name or not caption.strip():
        raise ConfigError(f"{place}: each has a name and a caption, got {dict(row)!r:.100}")
    if not isinstance(label, (str, type(None))):
        raise ConfigError(f"{place}: class must be a text, got {label!r:.60}")
    context = context_of(caption, label or (name.partition("/")[0] if "/" in name else ""))
    try:
        check_contexts([context])
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    return name, context


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if missing := [name for name in _NEEDED if name not in (reader.fieldnames or ())]:
        raise ValueError(f"its first line must name the columns name and caption; it lacks {missing[0]}")
    for row in reader:
        yield reader.line_num, row


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(_filled(text.splitlines()), 1):
        row = read_json(line)
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object with name and caption")
        yield number, row


def _filled(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if line.strip())
