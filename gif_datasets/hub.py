"""The only module that imports huggingface_hub: what is in a data set's repository, and one commit that changes it.

What the client raises becomes a :class:`~gif_datasets.errors.HubError` of one line that says what to do, without tokens
and signed addresses. Faults that pass (429, 5xx, a cut connection) are waited for.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gif_datasets.errors import ConfigError, GifDatasetsError, HubError, UsageError

WANTED = ("*.json", "*.safetensors", "*.toml", "*.html", "source.parquet", "preview.png", "README.md", "data/*.tar")
MAIN = "main"
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds. The wait doubles with each attempt; a server that asks for more than the longest is not waited for."""
BATCH_FILES, BATCH_BYTES = 50, 1_000_000_000
"""Contents that go up together: what is done of them when a run is killed stays there."""
MOST_FILES = 20_000
"""In one commit; the Hub refuses more than 25,000."""
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Repository:
    """A data set on the Hub, at one branch or pull request.

    Attributes:
        name: ``owner/name``.
        revision: Branch, tag, commit, or ``refs/pr/N``.
        token: A token of its own; else the one that the user is logged in with, or ``HF_TOKEN``.
    """

    name: str
    revision: str = MAIN
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it: ``sha256`` for large files, else git's digest."""

    size: int
    sha256: str
    git: str


@dataclass(frozen=True)
class Remote:
    """What a repository holds at one commit."""

    commit: str
    private: bool
    files: dict[str, RemoteFile]


def check_name(name: str) -> str:
    """Return ``owner/name`` of a data set, or raise ConfigError.

    Example:
        >>> check_name("hub:me/flowers")
        'me/flowers'
    """
    bare = name.removeprefix("hub:")
    if not _REPOSITORY.fullmatch(bare) or "--" in bare or ".." in bare or bare.endswith((".git", ".", "-")):
        raise ConfigError(f"a data set on the Hub is named owner/name, got {name!r}")
    return bare


def look(repository: Repository) -> Remote | None:
    """What a repository holds; None if there is none that the user may see."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    api = _api(repository)
    try:
        info = api.dataset_info(repository.name, revision=repository.revision)
    except RevisionNotFoundError:
        if repository.revision == MAIN or repository.revision.startswith("refs/"):
            raise
        info = api.dataset_info(repository.name)  # the branch will start from there
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401 and _has_token(repository):
            raise
        return None
    tree = api.list_repo_tree(repository.name, recursive=True, revision=info.sha, repo_type="dataset")
    files = {
        entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
        for entry in tree
        if hasattr(entry, "blob_id")
    }
    return Remote(str(info.sha), bool(info.private), files)


def read(repository: Repository, commit: str, path: str) -> bytes:
    """A small file of a repository."""
    found = _api(repository).hf_hub_download(repository.name, path, repo_type="dataset", revision=commit)
    return Path(found).read_bytes()


def create(repository: Repository, private: bool) -> None:
    """Make the repository, unless it is there; and the branch."""
    api = _api(repository)
    api.create_repo(repository.name, repo_type="dataset", private=private, exist_ok=True)
    if repository.revision != MAIN and not repository.revision.startswith("refs/"):
        api.create_branch(repository.name, branch=repository.revision, repo_type="dataset", exist_ok=True)


def open_pull_request(repository: Repository, title: str) -> str:
    """Open a draft of a pull request; returns its revision, ``refs/pr/N``."""
    made = _api(repository).create_pull_request(repository.name, title, repo_type="dataset")
    return str(made.git_reference)


def check_card(text: str) -> None:
    """Raise ConfigError unless huggingface_hub can read a card's metadata."""
    from huggingface_hub import DatasetCard

    try:
        DatasetCard(text)
    except Exception as error:  # YAML errors, and TypeErrors of the card's own checks
        raise ConfigError(f"the metadata of README.md cannot be read: {_one_line(error)}") from error


def commit(
    repository: Repository,
    parent: str,
    additions: Mapping[str, Path | bytes],
    deletions: Sequence[str],
    title: str,
    progress: Callable[..., Any],
) -> None:
    """Bring contents to the Hub, and then, in one commit on top of ``parent``, their names.

    Readers see all of it or nothing. Contents that are there already are not sent again.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if len(additions) > MOST_FILES:
        raise ConfigError(f"{len(additions)} files are too many for one commit; set samples_per_shard higher")
    api = _api(repository)
    added = [
        CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
        for path, content in additions.items()
    ]
    where = {"repo_type": "dataset", "revision": repository.revision}
    for batch in progress(_batches(added), "uploading"):
        api.preupload_lfs_files(repository.name, batch, free_memory=False, **where)
    operations = [*added, *(CommitOperationDelete(path) for path in deletions)]
    api.create_commit(repository.name, operations, commit_message=title, parent_commit=parent, **where)


def _batches(added: Sequence[Any]) -> list[list[Any]]:
    batches: list[list[Any]] = []
    size = 0
    for operation in added:
        if not batches or len(batches[-1]) == BATCH_FILES or size + operation.upload_info.size > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(operation)
        size += operation.upload_info.size
    return batches


def download(repository: str, revision: str | None = None) -> Path:
    """Bring an expanded dataset from the Hub into the Hub's cache; what is there already is not fetched again.

    Args:
        repository: ``owner/name`` of a dataset.
        revision: Branch, tag or commit.

    Raises:
        UsageError: If there is no such dataset, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    name = check_name(repository)
    try:
        with quiet():
            return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(WANTED)))
    except (OSError, ValueError) as error:  # all of its errors are one or the other
        reason = scrub(_one_line(error))
        raise UsageError(
            f"no folder {repository!r} here, and the Hub does not give a dataset of that name: {reason}"
        ) from None


def address(repository: Repository) -> str:
    """Where a person finds it."""
    tree = "" if repository.revision == MAIN else f"/tree/{repository.revision}"
    if repository.revision.startswith("refs/pr/"):
        tree = f"/discussions/{repository.revision.removeprefix('refs/pr/')}"
    return f"{_api(repository).endpoint}/datasets/{repository.name}{tree}"


# --- what goes wrong ----------------------------------------------------------------------------------------------


def patiently(act: Callable[[], _T], repository: Repository, say: Callable[[str], None]) -> _T:
    """Run ``act``, again and again while what goes wrong is likely to pass.

    Args:
        act: What to do; it may be run several times.
        repository: What it is about, for messages.
        say: Told of each wait.

    Raises:
        HubError: When it does not pass, with what to do. Its text has no token in it.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with quiet():
                return act()
        except (GifDatasetsError, FileNotFoundError, PermissionError, TypeError, AttributeError):
            raise  # files of ours, or a mistake in this package
        except Exception as error:  # the client's kinds are those of several libraries
            wait = _wait(error, attempt)
            told = explain(error, repository)
        if wait is None or wait > LONGEST_WAIT or attempt == ATTEMPTS:
            # the client's own error is not chained: it may show a token
            raise HubError(told)
        say(f"{told.partition(';')[0]}; waiting {wait:.0f} s")
        time.sleep(wait)
    raise AssertionError("unreachable")


def _wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until another attempt may help; None if none does."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    error = _cause(error)
    response = getattr(error, "response", None)
    if isinstance(error, OfflineModeIsEnabled):
        return None
    if response is not None:
        if response.status_code not in _PASSING:
            return None
        asked = re.search(r";\s*t=(\d+)", response.headers.get("RateLimit", "")) or re.fullmatch(
            r"\s*(\d+)\s*", response.headers.get("Retry-After", "")
        )
        if asked:
            return float(asked[1])
    elif not _is_connection(error):
        return None
    return FIRST_WAIT * 2.0 ** (attempt - 1)


def _is_connection(error: BaseException) -> bool:
    # httpx (1.x of the client) or httpx2 (2.x): its transport errors share a base of this name; a body that is no JSON
    # is what a gateway says when the server behind it is down
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(kinds & {"TransportError", "JSONDecodeError"})


def _cause(error: BaseException) -> BaseException:
    """The error below those that only say that something failed."""
    found: BaseException | None = error
    while found is not None and not hasattr(found, "response") and not _is_connection(found):
        found = found.__cause__
    return found or error


def explain(error: BaseException, repository: Repository) -> str:
    """One line that says what went wrong and what to do, without tokens."""
    error = _cause(error)
    response = getattr(error, "response", None)
    name, detail = repository.name, scrub(_one_line(error), repository.token)
    if response is None:
        if _is_connection(error):
            return f"the connection to the Hub failed ({detail}); run the same command again to go on"
        return f"the Hub's client failed: {detail}"
    status = response.status_code
    said = scrub(" ".join(str(getattr(error, "server_message", None) or detail).split())[:300], repository.token)
    if status == 401:
        how = "its token is not known" if _has_token(repository) else "there is no token"
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the client's own bars and warnings: the latter show addresses with their signatures."""
    from huggingface_hub import utils

    logger, shown = logging.getLogger("huggingface_hub"), not utils.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    if shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            utils.enable_progress_bars()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _api(repository: Repository) -> Any:
    from huggingface_hub import HfApi

    return HfApi(token=repository.token, library_name="gif_datasets")


def _has_token(repository: Repository) -> bool:
    from huggingface_hub import get_token

    return bool(repository.token or get_token())
