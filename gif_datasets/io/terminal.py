"""Text for a terminal: what comes from data cannot move the cursor, change colours, hide or reorder anything.

File names, class names and texts of errors are often somebody else's. The standard streams are wrapped once, so that
nothing that is printed, by this package or a library, gets past :func:`~gif_datasets.errors.escaped`.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from typing import Any

from gif_datasets.errors import escaped

_UNENCODABLE = "gif_datasets.escaped"
_CURSOR = re.compile(r"(\r|\n|\x1b\[A)*")
"""How a progress bar goes back to its line: at the beginning of what it writes, which names from data never are."""


class EscapedStream:
    """A text stream that escapes what is written; everything else is the stream's.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: Any) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_UNENCODABLE)
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; lines stay lines."""
        moves = _CURSOR.match(text)[0] if self._stream.isatty() else ""  # type: ignore[index]
        self._stream.write(moves + escaped(text[len(moves) :], keep="\n"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def escape_output() -> None:
    """Let standard output and standard error of this process escape what is written to them, to its end."""
    codecs.register_error(_UNENCODABLE, _escape_unencodable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, EscapedStream):
            setattr(sys, name, EscapedStream(stream))


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: a character that the terminal's encoding lacks is escaped, too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return escaped(error.object[error.start : error.end], printable=False), error.end
