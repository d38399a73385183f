"""What goes wrong between here and the Hub: what passes is waited for, all else is told in one line without tokens."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from gif_datasets.errors import GifDatasetsError, HubError

MAIN = "main"
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds. The wait doubles with each attempt; a server that asks for more than the longest is not waited for."""
ANSWER_WITHIN = 120.0
"""Seconds until an answer, or more of it, must have come: most of huggingface_hub's requests would wait forever."""
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
_REFUSED = (401, 403, 404)
_LOGGERS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub, at one branch or pull request; a data set's but where only files of it are fetched.

    Attributes:
        name: ``owner/name``.
        revision: Branch, tag, commit, or ``refs/pr/N``.
        token: A token of its own; else the one that the user is logged in with, or ``HF_TOKEN``.
    """

    name: str
    revision: str = MAIN
    token: str | None = field(default=None, repr=False)


class Asking(Protocol):
    """Who asks the Hub: about which repository, and who is told of waits."""

    @property
    def repository(self) -> Repository:
        """What is asked about."""

    @property
    def say(self) -> Callable[[str], None]:
        """Tells the user."""


_T = TypeVar("_T")
_P = ParamSpec("_P")
_A = TypeVar("_A", bound=Asking)


def with_retries(operation: Callable[Concatenate[_A, _P], _T]) -> Callable[Concatenate[_A, _P], _T]:
    """Let an operation of a client run again, and again, while what goes wrong is likely to pass.

    Raises:
        HubError: When it does not pass, with what to do. Its text has no token in it.
    """

    @functools.wraps(operation)
    def patient(client: _A, /, *args: _P.args, **options: _P.kwargs) -> _T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _silenced(), _bounded_waits():
                    return operation(client, *args, **options)
            except (GifDatasetsError, TypeError, AttributeError):
                raise  # told already, or a mistake in this package
            except Exception as error:  # the client's kinds are those of several libraries
                if _is_ours(error):
                    raise
                wait = _wait(error, attempt)
                told = _explain(error, client.repository)
            if wait is None or wait > LONGEST_WAIT or attempt == ATTEMPTS:
                # the client's own error is not chained: it may show a token
                raise HubError(told)
            client.say(f"{told.partition(';')[0]}; waiting {wait:.0f} s")
            time.sleep(wait)
        raise AssertionError("unreachable")

    return patient


def _is_ours(error: BaseException) -> bool:
    """Whether a file here is the trouble, and not one there, which huggingface_hub tells by the same kind of error."""
    from huggingface_hub.errors import EntryNotFoundError

    return isinstance(error, (FileNotFoundError, PermissionError)) and not isinstance(error, EntryNotFoundError)


def is_refusal(error: BaseException) -> bool:
    """Whether something is not there for this user, or, without a network, not here."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(_cause(error), OfflineModeIsEnabled) or status_of(error) in _REFUSED


def explain_missing_model(error: BaseException, repository: Repository) -> str:
    """Why a model cannot be had, and the command that mends it."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

    name, cause = repository.name, _cause(error)
    if isinstance(cause, OfflineModeIsEnabled):
        return (
            f"{name} is not in the Hub's cache, and HF_HUB_OFFLINE forbids to fetch it; where there is a network, run:"
            f" hf download {name} --revision {repository.revision}"
        )
    if isinstance(cause, GatedRepoError):
        return f"{name} is gated; accept its terms at https://huggingface.co/{name}, then run: hf auth login"
    said = message_of(error, repository.token)
    return (
        f"the Hub gives no model {name} at revision {repository.revision!r} ({said}); if it is private, run:"
        " hf auth login; if it has moved, name a folder of your own (docs/priors.md)"
    )


def _wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until another attempt may help; None if none does."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    error, status = _cause(error), status_of(error)
    passes = status in _PASSING if status else _is_connection(error)
    if not passes or isinstance(error, OfflineModeIsEnabled):
        return None
    asked = _asked_wait(status, getattr(getattr(error, "response", None), "headers", {}))
    return FIRST_WAIT * 2.0 ** (attempt - 1) if asked is None else asked


def _asked_wait(status: int | None, headers: Mapping[str, str]) -> float | None:
    """Seconds that the Hub asks for; its RateLimit is on every answer, and is the reason of a 429 only."""
    limit = re.search(r";\s*t=(\d+)", headers.get("RateLimit", "")) if status == 429 else None
    asked = limit or re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After", ""))
    return float(asked[1]) if asked else None


def _is_connection(error: BaseException) -> bool:
    # httpx (1.x of the client) or httpx2 (2.x): its transport errors share a base of this name; a body that is no JSON
    # is what a gateway says when the server behind it is down
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(kinds & {"TransportError", "JSONDecodeError"})


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error is about, if any; hf_xet tells it in the text of a ConnectionError."""
    error = _cause(error)
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    told = re.search(r"HTTP status (?:client|server) error \((\d{3})\b", str(error))
    return int(told[1]) if told else None


def _cause(error: BaseException) -> BaseException:
    """The error below those that only say that something failed."""
    found: BaseException | None = error
    while found is not None and not hasattr(found, "response") and not _is_connection(found):
        found = found.__cause__
    return found or error


def _explain(error: BaseException, repository: Repository) -> str:
    """One line that says what went wrong and what to do, without tokens."""
    status, name, said = status_of(error), repository.name, message_of(error, repository.token)
    if status is None:
        if _is_connection(_cause(error)):
            return f"the connection to the Hub failed ({said}); run the same command again to go on"
        return f"the Hub's client failed: {said}"
    if status == 401:
        how = "its token is not known" if has_token(repository) else "there is no token"
        return f"the Hub asks who you are: {how}; log in with `hf auth login`, or set HF_TOKEN to one that may write"
    if status in (402, 403):
        return (
            f"the Hub does not let this token write to {name} ({said}); use one that may write there, or another name"
        )
    if status == 404:
        return f"the Hub has no {name} at revision {repository.revision!r} that this token may see ({said})"
    if status == 412:
        return f"somebody else changed {name} meanwhile, and nothing of this was committed; look at it, and push again"
    if status in _PASSING:
        what = "is asked too often" if status == 429 else "is busy" if status == 409 else "failed"
        return f"the Hub {what} ({status}: {said}); run the same command again to go on"
    return f"the Hub refuses ({status}): {said}"


def scrub(text: str, token: str | None = None) -> str:
    """Take tokens, and the signatures of addresses, out of a text.

    Example:
        >>> scrub("PUT http://x/y?X-Signature=abc failed with Bearer hf_abcdefghijkl")
        'PUT http://x/y?... failed with Bearer ***'
    """
    from huggingface_hub import get_token

    for known in {token, get_token()} - {None, ""}:
        text = text.replace(str(known), "***")
    text = re.sub(r"(?i)\b(bearer\s+)[^\s'\",;)]+", r"\1***", text)
    text = re.sub(r"\b(hf|api)_[A-Za-z0-9]{8,}", "***", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?...", text)


def message_of(error: BaseException, token: str | None = None) -> str:
    """What the Hub says, else its client, in one line without tokens."""
    cause = _cause(error)
    said = " ".join(str(getattr(cause, "server_message", None) or cause).split())
    return scrub(said, token)[:300] or type(cause).__name__


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without the client's own bars, and the lines of it and its transport: these show addresses with signatures."""
    from huggingface_hub import utils

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    shown = not utils.are_progress_bars_disabled()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    if shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if shown:
            utils.enable_progress_bars()


@contextlib.contextmanager
def _bounded_waits() -> Iterator[None]:
    """With an end to the client's own waits, be it for answers; its session is shared, and left as it was."""
    from huggingface_hub.utils import get_session

    hooks = get_session().event_hooks
    hooks["request"].append(_bound)
    hooks["response"].append(_raise_if_asked_to_wait)
    try:
        yield
    finally:
        hooks["request"].remove(_bound)
        hooks["response"].remove(_raise_if_asked_to_wait)


def _bound(request: Any) -> None:
    asked = request.extensions.get("timeout", {})
    bounds = {kind: asked.get(kind) or ANSWER_WITHIN for kind in ("connect", "read", "write")}
    request.extensions["timeout"] = {**asked, **bounds}


def _raise_if_asked_to_wait(response: Any) -> None:
    """Raise where the Hub asks for a wait, so that it is told and has an end: the client would sleep, for hours too."""
    from huggingface_hub.utils import hf_raise_for_status

    if response.status_code in (429, 503) and _asked_wait(response.status_code, response.headers) is not None:
        response.read()
        hf_raise_for_status(response)


def has_token(repository: Repository) -> bool:
    """Whether requests about a repository carry a token."""
    from huggingface_hub import get_token

    return bool(repository.token or get_token())
