"""The only module that imports huggingface_hub: what is in a data set's repository, and one commit that changes it.

All of it goes through :class:`Client`. What huggingface_hub raises becomes a :class:`~gif_datasets.errors.HubError` of
one line that says what to do, without tokens and signed addresses. Faults that pass (429, 5xx, a cut connection, no
answer) are waited for.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from gif_datasets.errors import ConfigError, GifDatasetsError, HubError, UsageError
from gif_datasets.shards import EXPORTED

WANTED = ("*.json", "*.safetensors", "*.toml", "*.html", "source.parquet", "preview.png", "README.md", "data/*.tar")
MAIN = "main"
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds. The wait doubles with each attempt; a server that asks for more than the longest is not waited for."""
ANSWER_WITHIN = 120.0
"""Seconds until an answer, or more of it, must have come: most of huggingface_hub's requests would wait forever."""
BATCH_FILES, BATCH_BYTES = 50, 1_000_000_000
"""Contents that go up together: what is done of them when a run is killed stays there."""
MOST_FILES = 20_000
"""In one commit; the Hub refuses more than 25,000."""
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
_REFUSED = (401, 403, 404)
_LOGGERS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

_T = TypeVar("_T")
_P = ParamSpec("_P")
_log = logging.getLogger(__name__)


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


def check_card(text: str) -> None:
    """Raise ConfigError unless huggingface_hub can read a card's metadata."""
    from huggingface_hub import DatasetCard

    try:
        DatasetCard(text)
    except Exception as error:  # YAML errors, and TypeErrors of the card's own checks
        raise ConfigError(f"the metadata of README.md cannot be read: {_said(error)}") from error


def download(repository: str, revision: str | None = None) -> Path:
    """Bring an expanded dataset from the Hub into the Hub's cache; what is there already is not fetched again.

    Args:
        repository: ``owner/name`` of a dataset.
        revision: Branch, tag or commit.

    Raises:
        UsageError: If there is no such dataset that the user may see.
        HubError: If the Hub cannot be reached for long.
    """
    return Client(Repository(check_name(repository), revision or MAIN), _log.warning).download()


def fetch_model(name: str, revision: str, files: Sequence[str], but: Sequence[str] = ()) -> Path:
    """Bring files of a model's repository into the Hub's cache; without a network, find them there.

    Args:
        name: ``owner/name`` of a model.
        revision: Branch, tag or commit.
        files: Patterns of their paths.
        but: Patterns of paths that are left out.

    Returns:
        The folder of the snapshot, which is named by its commit.

    Raises:
        ConfigError: If the user may not have them, with the command that mends it.
        HubError: If the Hub cannot be reached for long.
    """
    return Client(Repository(name, revision), _log.warning).fetch(files, but)


def find_model(name: str, revision: str, files: Sequence[str], but: Sequence[str] = ()) -> Path | None:
    """The snapshot of a model's repository in the Hub's cache, None where files are known to be missing.

    Never asks the Hub. Older clients do not know what is missing: look.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name, revision=revision, local_files_only=True, allow_patterns=list(files), ignore_patterns=list(but)
        )
        return Path(found)
    except LocalEntryNotFoundError:
        return None


def _guarded(operation: Callable[Concatenate[Client, _P], _T]) -> Callable[Concatenate[Client, _P], _T]:
    """Let an operation of a client run again, and again, while what goes wrong is likely to pass.

    Raises:
        HubError: When it does not pass, with what to do. Its text has no token in it.
    """

    @functools.wraps(operation)
    def patient(client: Client, /, *args: _P.args, **options: _P.kwargs) -> _T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _quiet(), _impatient():
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


@dataclass(frozen=True)
class Client:
    """What this package asks of the Hub about one repository; each operation has attempts of its own.

    Attributes:
        repository: Which one.
        say: Told of each wait.
    """

    repository: Repository
    say: Callable[[str], None]

    @_guarded
    def look(self) -> Remote | None:
        """What the repository holds; None if there is none that the user may see."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        api, name, revision = self._api, self.repository.name, self.repository.revision
        try:
            info = api.dataset_info(name, revision=revision)
        except RevisionNotFoundError:
            if revision == MAIN or revision.startswith("refs/"):
                raise
            info = api.dataset_info(name)  # the branch will start from there
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401 and _has_token(self.repository):
                raise
            return None
        tree = api.list_repo_tree(name, recursive=True, revision=info.sha, repo_type="dataset")
        files = {
            entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
            for entry in tree
            if hasattr(entry, "blob_id")
        }
        return Remote(str(info.sha), bool(info.private), files)

    @_guarded
    def read(self, commit: str, path: str) -> bytes:
        """A small file of the repository."""
        found = self._api.hf_hub_download(self.repository.name, path, repo_type="dataset", revision=commit)
        return Path(found).read_bytes()

    @_guarded
    def download(self) -> Path:
        """Bring the data set into the Hub's cache; without a network, what is there."""
        name, revision = self.repository.name, self.repository.revision
        wanted, refused = list(WANTED), ""
        try:
            found = self._api.snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted)
        except Exception as error:  # of several kinds and causes
            if not _is_refusal(error):
                raise
            refused = _said(error, self.repository.token)
        if refused:  # out here the client's own error is no context of ours: it may show a token
            raise UsageError(f"no folder {name!r} here, and the Hub does not give a dataset of that name: {refused}")
        if (Path(found) / EXPORTED).is_file():
            raise UsageError(
                f"{name} holds Parquet, for datasets.load_dataset({name!r}); to expand it again name the source"
                f" hf:{name}, and for load_expanded push it as shards"
            )
        return Path(found)

    @_guarded
    def fetch(self, files: Sequence[str], but: Sequence[str]) -> Path:
        """Bring files of a model into the Hub's cache; without a network, what is there."""
        name, revision, patterns = self.repository.name, self.repository.revision, list(files)
        try:
            found = self._api.snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=list(but)
            )
        except Exception as error:  # of several kinds and causes
            if not _is_refusal(error):
                raise
            raise ConfigError(_no_model(error, self.repository)) from None
        return Path(found)

    @_guarded
    def validate(self, card: str) -> None:
        """Raise ConfigError unless the Hub takes a card's metadata: it knows licences and tasks, and refuses others."""
        from huggingface_hub.errors import BadRequestError
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        # what DatasetCard.validate and create_commit ask, of the text as it is
        asked = {"repoType": "dataset", "content": card}
        headers = build_hf_headers(token=self.repository.token, library_name="gif_datasets")
        answer = get_session().post(f"{self._api.endpoint}/api/validate-yaml", json=asked, headers=headers)
        refused = ""
        try:
            hf_raise_for_status(answer)
        except BadRequestError as error:
            refused = _said(error, self.repository.token)
        if refused:
            raise ConfigError(f"the Hub does not take the metadata of README.md: {refused}")

    @_guarded
    def create(self, private: bool) -> None:
        """Make the repository, unless it is there; and the branch."""
        name, revision = self.repository.name, self.repository.revision
        self._api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        if revision != MAIN and not revision.startswith("refs/"):
            self._api.create_branch(name, branch=revision, repo_type="dataset", exist_ok=True)

    def open_pull_request(self, title: str) -> str:
        """Open a draft of a pull request; returns its revision, ``refs/pr/N``."""
        known = {request.num for request in self._pull_requests(title)}
        return f"refs/pr/{self._open_pull_request(title, known)}"

    @_guarded
    def _pull_requests(self, title: str) -> list[Any]:
        found = self._api.get_repo_discussions(
            self.repository.name, repo_type="dataset", discussion_type="pull_request"
        )
        return [request for request in found if request.title == title]

    @_guarded
    def _open_pull_request(self, title: str, known: set[int]) -> int:
        # an earlier attempt whose answer was lost may have opened it
        new = [request for request in self._pull_requests(title) if request.num not in known]
        if new:
            me = self._api.whoami()["name"]
            new = [request for request in new if request.author == me]
        made = new[0] if new else self._api.create_pull_request(self.repository.name, title, repo_type="dataset")
        return int(made.num)

    def commit(
        self,
        parent: str,
        additions: Mapping[str, Path | bytes],
        deletions: Sequence[str],
        title: str,
        is_done: Callable[[Remote], bool],
        progress: Callable[..., Any],
    ) -> None:
        """Bring contents to the Hub, and then, in one commit on top of ``parent``, their names.

        Readers see all of it or nothing. Contents that are there already are not sent again.

        Args:
            parent: The commit that was looked at.
            additions: Contents by their paths.
            deletions: Paths that go.
            title: Of the commit.
            is_done: Whether what the repository holds is what the commit would bring.
            progress: Wraps the loop over batches of contents, each of which has its own attempts.
        """
        if len(additions) > MOST_FILES:
            raise ConfigError(f"{len(additions)} files are too many for one commit; set samples_per_shard higher")
        added = self._operations(additions)
        for batch in progress(_batches(added), "uploading"):
            self._upload(batch)
        self._commit(parent, added, deletions, title, is_done)

    @_guarded
    def _operations(self, additions: Mapping[str, Path | bytes]) -> list[Any]:
        # made once: they remember their digests, and what was uploaded
        from huggingface_hub import CommitOperationAdd

        return [
            CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
            for path, content in additions.items()
        ]

    @_guarded
    def _upload(self, batch: list[Any]) -> None:
        self._api.preupload_lfs_files(self.repository.name, batch, free_memory=False, **self._branch)

    @_guarded
    def _commit(
        self,
        parent: str,
        added: list[Any],
        deletions: Sequence[str],
        title: str,
        is_done: Callable[[Remote], bool],
    ) -> None:
        from huggingface_hub import CommitOperationDelete

        operations = [*added, *(CommitOperationDelete(path) for path in deletions)]
        try:
            self._api.create_commit(
                self.repository.name, operations, commit_message=title, parent_commit=parent, **self._branch
            )
        except Exception as error:
            if _status(error) != 412:
                raise
            there = self.look()  # the other commit may be ours: an attempt whose answer was lost
            if there is None or not is_done(there):
                raise

    def address(self) -> str:
        """Where a person finds it."""
        name, revision = self.repository.name, self.repository.revision
        tree = "" if revision == MAIN else f"/tree/{revision}"
        if revision.startswith("refs/pr/"):
            tree = f"/discussions/{revision.removeprefix('refs/pr/')}"
        return f"{self._api.endpoint}/datasets/{name}{tree}"

    @property
    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(token=self.repository.token, library_name="gif_datasets")

    @property
    def _branch(self) -> dict[str, str]:
        return {"repo_type": "dataset", "revision": self.repository.revision}


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


# --- what goes wrong ----------------------------------------------------------------------------------------------


def _is_ours(error: BaseException) -> bool:
    """Whether a file here is the trouble, and not one there, which huggingface_hub tells by the same kind of error."""
    from huggingface_hub.errors import EntryNotFoundError

    return isinstance(error, (FileNotFoundError, PermissionError)) and not isinstance(error, EntryNotFoundError)


def _is_refusal(error: BaseException) -> bool:
    """Whether something is not there for this user, or, without a network, not here."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(_cause(error), OfflineModeIsEnabled) or _status(error) in _REFUSED


def _no_model(error: BaseException, repository: Repository) -> str:
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
    said = _said(error, repository.token)
    return (
        f"the Hub gives no model {name} at revision {repository.revision!r} ({said}); if it is private, run:"
        " hf auth login; if it has moved, name a folder of your own (docs/priors.md)"
    )


def _wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until another attempt may help; None if none does."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    error, status = _cause(error), _status(error)
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


def _status(error: BaseException) -> int | None:
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
    status, name, said = _status(error), repository.name, _said(error, repository.token)
    if status is None:
        if _is_connection(_cause(error)):
            return f"the connection to the Hub failed ({said}); run the same command again to go on"
        return f"the Hub's client failed: {said}"
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


def _said(error: BaseException, token: str | None = None) -> str:
    """What the Hub says, else its client, in one line without tokens."""
    cause = _cause(error)
    said = " ".join(str(getattr(cause, "server_message", None) or cause).split())
    return scrub(said, token)[:300] or type(cause).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
def _impatient() -> Iterator[None]:
    """With an end to the client's own waits, be it for answers; its session is shared, and left as it was."""
    from huggingface_hub.utils import get_session

    hooks = get_session().event_hooks
    hooks["request"].append(_bound)
    hooks["response"].append(_hand_over)
    try:
        yield
    finally:
        hooks["request"].remove(_bound)
        hooks["response"].remove(_hand_over)


def _bound(request: Any) -> None:
    asked = request.extensions.get("timeout", {})
    bounds = {kind: asked.get(kind) or ANSWER_WITHIN for kind in ("connect", "read", "write")}
    request.extensions["timeout"] = {**asked, **bounds}


def _hand_over(response: Any) -> None:
    """Raise where the Hub asks for a wait, so that it is told and has an end: the client would sleep, for hours too."""
    from huggingface_hub.utils import hf_raise_for_status

    if response.status_code in (429, 503) and _asked_wait(response.status_code, response.headers) is not None:
        response.read()
        hf_raise_for_status(response)


def _has_token(repository: Repository) -> bool:
    from huggingface_hub import get_token

    return bool(repository.token or get_token())
