"""What can be sent to new worker processes, which find classes and functions by their names alone."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

from gif_datasets.errors import one_line


def unsendable(value: Any) -> str:
    """What about a value a new process could not be sent, and why; empty if it can be.

    Example:
        >>> unsendable([len, 1]), unsendable({"key": lambda: 0})
        ('', '<lambda> of gif_datasets.io.sending has no name that another process finds')
    """
    try:
        _Pickler().dump(value)
    except _Nameless as error:
        return str(error)
    except Exception as error:  # whatever its class raises
        return one_line(error)
    return ""


class _Nameless(Exception):
    """A class or function that another process does not find."""


class _Pickler(pickle.Pickler):
    """Writes nothing, and looks at what would be written as a name."""

    def __init__(self) -> None:
        super().__init__(_Nowhere(), pickle.HIGHEST_PROTOCOL)

    def reducer_override(self, value: Any) -> Any:
        """Raise _Nameless for what has no name elsewhere."""
        if isinstance(value, (type, FunctionType)):
            if "<" in value.__qualname__:
                raise _Nameless(f"{value.__qualname__} of {value.__module__} has no name that another process finds")
            if value.__module__ == "__main__" and not _is_main_found():
                raise _Nameless(f"{value.__qualname__} is defined in a notebook or on the command line alone")
        return NotImplemented


class _Nowhere:
    def write(self, content: Any) -> int:
        return len(content)


def _is_main_found() -> bool:
    """Whether a new process can run the program again, as ``multiprocessing`` does, to define what it defines."""
    main = sys.modules["__main__"]
    return getattr(main.__spec__, "name", None) is not None or Path(getattr(main, "__file__", None) or "").is_file()
