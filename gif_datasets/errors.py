"""Every error the package raises on purpose.

GifDatasetsError
├── UsageError (ValueError)      wrong usage or bad input: the command line exits with 2
│   ├── ConfigError              an option's name or value
│   ├── SourceError              a seed dataset that cannot be read as one
│   │   └── BadImage             one image that cannot be read
│   └── PlanMismatch             an output folder that holds another expansion
├── PriorError                   a prior that is missing, foreign or damaged
├── CacheError                   a cache folder that cannot be used
├── ShardError                   shards that are missing, damaged or foreign
├── EngineError                  a worker that died, or a sample that cannot be made
├── DiskFull (OSError)           a disk that has no room for what is written
├── HubError                     the Hugging Face Hub cannot be reached, or refuses
└── MissingExtra (ImportError)   an optional dependency; the message is the command that installs it
"""

from __future__ import annotations

from collections.abc import Iterable


class GifDatasetsError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:
        return escaped(super().__str__(), keep="\n")  # names in it may be somebody else's


class UsageError(GifDatasetsError, ValueError):
    """Wrong usage or bad input: something the caller can fix."""


class ConfigError(UsageError):
    """An unknown option, or a value outside its range."""


class SourceError(UsageError):
    """A seed dataset that cannot be read as one."""


class BadImage(SourceError):
    """One image that cannot be read."""


class PlanMismatch(UsageError):
    """An output folder that already holds an expansion of another plan."""


class PriorError(GifDatasetsError):
    """A prior that is missing, foreign or damaged."""


class CacheError(GifDatasetsError):
    """A cache folder that cannot be used."""


class ShardError(GifDatasetsError):
    """Shards that are missing, damaged or foreign."""


class EngineError(GifDatasetsError):
    """A worker that died before its work was done, or a sample that could not be made."""


class DiskFull(GifDatasetsError, OSError):
    """A disk that has no room for what is written; ``errno``, ``strerror`` and ``filename`` as in any OSError."""

    def __str__(self) -> str:
        return f"{self.strerror}; make room there, or choose another folder, and run the same command again to go on"


class HubError(GifDatasetsError):
    """The Hugging Face Hub cannot be reached, or refuses what was asked."""


class MissingExtra(GifDatasetsError, ImportError):
    """An optional dependency is absent."""

    def __init__(self, package: str, extra: str = "") -> None:
        what = f"'gif_datasets[{extra}]'" if extra else package
        super().__init__(f"{package} is not installed; run: pip install {what}")
        self._given = package, extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        """Pickle, so that it survives the way from a worker process."""
        return type(self), self._given


def escaped(text: str, keep: str = "", printable: bool = True) -> str:
    r"""A text in which characters that act on a terminal, or cannot be seen, are written as JSON writes them.

    JSON stays JSON, with the same value.

    Args:
        text: The text.
        keep: Characters that stay.
        printable: Whether printable characters stay.

    Example:
        >>> print(escaped("caf\u00e9 \x1b[31m \u202e \n"))
        café \u001b[31m \u202e \n
    """
    if printable and text.isprintable():
        return text
    import json

    stays = (lambda c: c.isprintable() or c in keep) if printable else keep.__contains__
    return "".join(c if stays(c) else json.dumps(c)[1:-1] for c in text)


def one_line(error: BaseException, most: int = 300) -> str:
    r"""The text of an error in one line of at most ``most`` characters; the name of its type where it has none.

    Example:
        >>> one_line(ValueError("no\n  such value")), one_line(KeyboardInterrupt())
        ('no such value', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` where one of the known names is similar, for an error message; else an empty text."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
