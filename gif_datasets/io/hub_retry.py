"""Errors between here and the Hub: temporary ones are retried, all others become one line without tokens."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from gif_datasets.errors import DiskFull, GifDatasetsError, HubError
from gif_datasets.io.room import disk_full, is_full

MAIN = "main"
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds. The wait doubles with each attempt; if a server asks for more than the longest wait, it fails at once."""
ANSWER_WITHIN = 120.0
"""Seconds until the next bytes of an answer must arrive: most requests of huggingface_hub have no timeout."""
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
_REFUSED = (401, 403, 404)
_LOGGERS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub, at one branch or pull request; a dataset's, except where only files are fetched.

    Attributes:
        name: ``owner/name``.
        revision: Branch, tag, commit, or ``refs/pr/N``.
        token: The token to use; by default the one that the user is logged in with, or ``HF_TOKEN``.
    """

    name: str
    revision: str = MAIN
    token: str | None = field(default=None, repr=False)


class HasRepository(Protocol):
    """A client of the Hub: its repository, and where it reports waits."""

    @property
    def repository(self) -> Repository:
        """The repository of all operations."""

    @property
    def say(self) -> Callable[[str], None]:
        """Shows a message to the user."""


_T = TypeVar("_T")
_P = ParamSpec("_P")
_A = TypeVar("_A", bound=HasRepository)


def with_retries(operation: Callable[Concatenate[_A, _P], _T]) -> Callable[Concatenate[_A, _P], _T]:
    """Retry an operation of a client while its error is likely to be temporary.

    Raises:
        HubError: If the error stays. The message says what to do, and has no token in it.
    """

    @functools.wraps(operation)
    def retried(client: _A, /, *args: _P.args, **options: _P.kwargs) -> _T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _patched_client():
                    return operation(client, *args, **options)
            except (GifDatasetsError, TypeError, AttributeError):
                raise  # explained already, or a bug of this package
            except Exception as error:  # of the types of several libraries
                if _is_ours(error):
                    raise
                if getattr(error, "errno", None) and is_full(error):
                    raise _hub_cache_full(error) from None
                wait = _wait(error, attempt)
                message = _explain(error, client.repository)
            if wait is None or wait > LONGEST_WAIT or attempt == ATTEMPTS:
                # the client's own error is not chained: it may show a token
                raise HubError(message)
            client.say(f"{message.partition(';')[0]}; waiting {wait:.0f} s")
            time.sleep(wait)
        raise AssertionError("unreachable")

    return retried


def _hub_cache_full(error: Exception) -> DiskFull:
    """What is downloaded goes into the Hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return disk_full(Path(getattr(error, "filename", None) or HF_HUB_CACHE), error=error)


def _is_ours(error: BaseException) -> bool:
    """Whether the error is about a local file; huggingface_hub raises the same types for files on the Hub."""
    from huggingface_hub.errors import EntryNotFoundError

    return isinstance(error, (FileNotFoundError, PermissionError)) and not isinstance(error, EntryNotFoundError)


def is_refusal(error: BaseException) -> bool:
    """Whether the Hub does not give something to this user, or it is not in the cache without a network."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(_cause(error), OfflineModeIsEnabled) or status_of(error) in _REFUSED


def explain_missing_model(error: BaseException, repository: Repository) -> str:
    """Why a model is not available, and the command that fixes it."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

    name, cause = repository.name, _cause(error)
    if isinstance(cause, OfflineModeIsEnabled):
        return (
            f"{name} is not in the Hub's cache, and HF_HUB_OFFLINE is set; on a machine with a network, run:"
            f" hf download {name} --revision {repository.revision}"
        )
    if isinstance(cause, GatedRepoError):
        return f"{name} is gated; accept its terms at https://huggingface.co/{name}, then run: hf auth login"
    reason = message_of(error, repository.token)
    return (
        f"the Hub does not give model {name} at revision {repository.revision!r} ({reason}); if it is private, run:"
        " hf auth login; if it has moved, give a local folder (docs/priors.md)"
    )


def _wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until the next attempt; None if another attempt cannot help."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    error, status = _cause(error), status_of(error)
    passes = status in _PASSING if status else _is_connection(error)
    if not passes or isinstance(error, OfflineModeIsEnabled):
        return None
    requested = _requested_wait(status, getattr(getattr(error, "response", None), "headers", {}))
    return FIRST_WAIT * 2.0 ** (attempt - 1) if requested is None else requested


def _requested_wait(status: int | None, headers: Mapping[str, str]) -> float | None:
    """Seconds that the Hub asks to wait; every answer has a RateLimit, which matters for a 429 only."""
    limit = re.search(r";\s*t=(\d+)", headers.get("RateLimit", "")) if status == 429 else None
    seconds = limit or re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After", ""))
    return float(seconds[1]) if seconds else None


def _is_connection(error: BaseException) -> bool:
    # httpx (1.x of the client) or httpx2 (2.x): both have a base of this name; a gateway whose server
    # is down answers with a body that is not JSON
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(kinds & {"TransportError", "JSONDecodeError"})


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error is about, if any; hf_xet gives it in the text of a ConnectionError."""
    error = _cause(error)
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    status = re.search(r"HTTP status (?:client|server) error \((\d{3})\b", str(error))
    return int(status[1]) if status else None


def _cause(error: BaseException) -> BaseException:
    """The innermost error that has an answer of the Hub or is about the connection, else the error itself."""
    cause: BaseException | None = error
    while cause is not None and not hasattr(cause, "response") and not _is_connection(cause):
        cause = cause.__cause__
    return cause or error


def _explain(error: BaseException, repository: Repository) -> str:
    """One line with the reason and what to do, without tokens."""
    status, name, reason = status_of(error), repository.name, message_of(error, repository.token)
    if status is None:
        if _is_connection(_cause(error)):
            return f"the connection to the Hub failed ({reason}); run the same command again to go on"
        return f"the Hub's client failed: {reason}"
    if status == 401:
        how = "the token is invalid" if has_token(repository) else "there is no token"
        return f"the Hub asks who you are: {how}; log in with `hf auth login`, or set HF_TOKEN to one that may write"
    if status in (402, 403):
        return (
            f"the Hub does not let this token write to {name} ({reason}); use one that may write there, or another name"
        )
    if status == 404:
        return f"the Hub has no {name} at revision {repository.revision!r} that this token may see ({reason})"
    if status == 412:
        return f"somebody else changed {name} in the meantime, and nothing was committed; look at it and push again"
    if status in _PASSING:
        what = "is asked too often" if status == 429 else "is busy" if status == 409 else "failed"
        return f"the Hub {what} ({status}: {reason}); run the same command again to go on"
    return f"the Hub refuses ({status}): {reason}"


def scrub(text: str, token: str | None = None) -> str:
    """Remove tokens, and the passwords and signatures of addresses, from a text.

    Example:
        >>> scrub("PUT http://me:word@x/y?X-Signature=abc failed with Bearer hf_abcdefghijkl")
        'PUT http://x/y?... failed with Bearer ***'
    """
    from huggingface_hub import get_token

    for known in {token, get_token()} - {None, ""}:
        text = text.replace(str(known), "***")
    text = re.sub(r"(?i)\b(bearer\s+)[^\s'\",;)]+", r"\1***", text)
    text = re.sub(r"\b(hf|api)_[A-Za-z0-9]{8,}", "***", text)
    text = re.sub(r"(?<=://)[^\s/'\"]*@", "", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?...", text)


def message_of(error: BaseException, token: str | None = None) -> str:
    """The message of the Hub, else of its client, in one line without tokens."""
    cause = _cause(error)
    text = " ".join(str(getattr(cause, "server_message", None) or cause).split())
    return scrub(text, token)[:300] or type(cause).__name__  # cut last: half of a token would not be recognised


@contextlib.contextmanager
def _patched_client() -> Iterator[None]:
    """Silence huggingface_hub and bound its waits for the time of one operation, then restore both.

    The client has no such settings for one call. Its httpx session, its progress bars and the levels of its loggers
    belong to the process: requests that other threads send in the meantime get all of this, too.
    """
    with _silenced(), _bounded_waits():
        yield


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without progress bars and log lines of the client and its transport."""
    from huggingface_hub import utils

    shown = not utils.are_progress_bars_disabled()
    if shown:
        utils.disable_progress_bars()
    try:
        with without_log_lines():
            yield
    finally:
        if shown:
            utils.enable_progress_bars()


@contextlib.contextmanager
def without_log_lines() -> Iterator[None]:
    """Without log lines of the client and its transport, which show addresses with passwords and signatures."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _bounded_waits() -> Iterator[None]:
    """With a limit on the time that the client waits, for answers and between its own attempts."""
    from huggingface_hub.utils import get_session

    hooks = get_session().event_hooks
    hooks["request"].append(_set_timeouts)
    hooks["response"].append(_raise_if_asked_to_wait)
    try:
        yield
    finally:
        hooks["request"].remove(_set_timeouts)
        hooks["response"].remove(_raise_if_asked_to_wait)


def _set_timeouts(request: Any) -> None:
    given = request.extensions.get("timeout", {})
    limits = {kind: given.get(kind) or ANSWER_WITHIN for kind in ("connect", "read", "write")}
    request.extensions["timeout"] = {**given, **limits}


def _raise_if_asked_to_wait(response: Any) -> None:
    """Raise if the Hub asks to wait, so that the wait is reported and limited: the client may sleep for hours."""
    from huggingface_hub.utils import hf_raise_for_status

    if response.status_code in (429, 503) and _requested_wait(response.status_code, response.headers) is not None:
        response.read()
        hf_raise_for_status(response)


def has_token(repository: Repository) -> bool:
    """Whether requests about a repository carry a token."""
    from huggingface_hub import get_token

    return bool(repository.token or get_token())
