"""Datasets and models on the Hub: what a repository holds, and one commit that changes it.

All requests go through :class:`Client`. Errors of huggingface_hub become a :class:`~gif_datasets.errors.HubError` of
one line that says what to do, without tokens and signed addresses. Temporary errors (429, 5xx, a cut connection, no
answer) are retried (:mod:`gif_datasets.io.hub_retry`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gif_datasets.errors import ConfigError, UsageError
from gif_datasets.io.hub_retry import (
    MAIN,
    Repository,
    explain_missing_model,
    has_token,
    is_refusal,
    message_of,
    scrub,
    status_of,
    with_retries,
)
from gif_datasets.types import EXPORTED

WANTED = ("*.json", "*.safetensors", "*.toml", "*.html", "source.parquet", "preview.png", "README.md", "data/*.tar")
BATCH_FILES, BATCH_BYTES = 50, 1_000_000_000
"""Files that are uploaded together; finished uploads survive when a run is killed."""
MOST_FILES = 20_000
"""Files in one commit; the Hub refuses more than 25,000."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it: ``sha256`` for large files, else git's digest."""

    size: int
    sha256: str
    git: str


@dataclass(frozen=True)
class Remote:
    """The files of a repository at one commit."""

    commit: str
    private: bool
    files: dict[str, RemoteFile]


def check_name(name: str) -> str:
    """Return ``owner/name`` of a dataset, or raise ConfigError.

    Example:
        >>> check_name("hub:me/flowers")
        'me/flowers'
    """
    bare = name.removeprefix("hub:")
    if not _REPOSITORY.fullmatch(bare) or "--" in bare or ".." in bare or bare.endswith((".git", ".", "-")):
        raise ConfigError(f"a dataset on the Hub is named owner/name, got {name!r}")
    return bare


def check_card(text: str) -> None:
    """Raise ConfigError unless huggingface_hub can read a card's metadata."""
    from huggingface_hub import DatasetCard

    try:
        DatasetCard(text)
    except Exception as error:  # YAML errors, and TypeErrors of the card's own checks
        raise ConfigError(f"the metadata of README.md cannot be read: {message_of(error)}") from error


def download(repository: str, revision: str | None = None) -> Path:
    """Download an expanded dataset into the Hub's cache; files that are there already are not fetched again.

    Args:
        repository: ``owner/name`` of a dataset.
        revision: Branch, tag or commit.

    Raises:
        UsageError: If there is no such dataset, or the user may not see it.
        HubError: If the Hub cannot be reached for a long time.
    """
    return Client(Repository(check_name(repository), revision or MAIN), _log.warning).download()


def fetch_model(name: str, revision: str, files: Sequence[str], but: Sequence[str] = ()) -> Path:
    """Download files of a model's repository into the Hub's cache; without a network, find them there.

    Args:
        name: ``owner/name`` of a model.
        revision: Branch, tag or commit.
        files: Patterns of their paths.
        but: Patterns of paths to leave out.

    Returns:
        The folder of the snapshot, which is named by its commit.

    Raises:
        ConfigError: If the user may not have them, with the command that fixes it.
        HubError: If the Hub cannot be reached for a long time.
    """
    return Client(Repository(name, revision), _log.warning).fetch(files, but)


def find_model(name: str, revision: str, files: Sequence[str], but: Sequence[str] = ()) -> Path | None:
    """The snapshot of a model's repository in the Hub's cache; None if files are known to be missing.

    Never connects to the Hub. Older clients do not know what is missing, so look into the snapshot.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name, revision=revision, local_files_only=True, allow_patterns=list(files), ignore_patterns=list(but)
        )
        return Path(folder)
    except LocalEntryNotFoundError:
        return None


@dataclass(frozen=True)
class Client:
    """Operations on one repository of the Hub; each is retried on its own.

    Attributes:
        repository: The repository.
        say: Called with a message before each wait.
    """

    repository: Repository
    say: Callable[[str], None]

    @with_retries
    def look(self) -> Remote | None:
        """The files of the repository; None if it does not exist, or the user may not see it."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        api, name, revision = self._api, self.repository.name, self.repository.revision
        try:
            info = api.dataset_info(name, revision=revision)
        except RevisionNotFoundError:
            if revision == MAIN or revision.startswith("refs/"):
                raise
            info = api.dataset_info(name)  # the branch will start from there
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401 and has_token(self.repository):
                raise
            return None
        tree = api.list_repo_tree(name, recursive=True, revision=info.sha, repo_type="dataset")
        files = {
            entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
            for entry in tree
            if hasattr(entry, "blob_id")
        }
        return Remote(str(info.sha), bool(info.private), files)

    @with_retries
    def read(self, commit: str, path: str) -> bytes:
        """A small file of the repository."""
        path = self._api.hf_hub_download(self.repository.name, path, repo_type="dataset", revision=commit)
        return Path(path).read_bytes()

    @with_retries
    def download(self) -> Path:
        """Download the dataset into the Hub's cache; without a network, use what is there."""
        name, revision = self.repository.name, self.repository.revision
        wanted, refused = list(WANTED), ""
        try:
            folder = self._api.snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted)
        except Exception as error:  # of several types and causes
            if not is_refusal(error):
                raise
            refused = message_of(error, self.repository.token)
        if refused:  # raised out here so that the error of the client is not its context: it may show a token
            raise UsageError(f"no folder {name!r} here, and the Hub does not give a dataset of that name: {refused}")
        if (Path(folder) / EXPORTED).is_file():
            raise UsageError(
                f"{name} holds Parquet, for datasets.load_dataset({name!r}); to expand it again name the source"
                f" hf:{name}, and for load_expanded push it as shards"
            )
        return Path(folder)

    @with_retries
    def fetch(self, files: Sequence[str], but: Sequence[str]) -> Path:
        """Download files of a model into the Hub's cache; without a network, use what is there."""
        name, revision, patterns = self.repository.name, self.repository.revision, list(files)
        try:
            folder = self._api.snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=list(but)
            )
        except Exception as error:  # of several types and causes
            if not is_refusal(error):
                raise
            raise ConfigError(explain_missing_model(error, self.repository)) from None
        return Path(folder)

    @with_retries
    def validate(self, card: str) -> None:
        """Raise ConfigError unless the Hub accepts a card's metadata; it refuses unknown licences and tasks."""
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
            refused = message_of(error, self.repository.token)
        if refused:
            raise ConfigError(f"the Hub does not take the metadata of README.md: {refused}")

    @with_retries
    def create(self, private: bool) -> None:
        """Create the repository and the branch, unless they exist."""
        name, revision = self.repository.name, self.repository.revision
        self._api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        if revision != MAIN and not revision.startswith("refs/"):
            self._api.create_branch(name, branch=revision, repo_type="dataset", exist_ok=True)

    def open_pull_request(self, title: str) -> str:
        """Open a draft of a pull request; returns its revision, ``refs/pr/N``."""
        known = {request.num for request in self._pull_requests(title)}
        return f"refs/pr/{self._open_pull_request(title, known)}"

    @with_retries
    def _pull_requests(self, title: str) -> list[Any]:
        requests = self._api.get_repo_discussions(
            self.repository.name, repo_type="dataset", discussion_type="pull_request"
        )
        return [request for request in requests if request.title == title]

    @with_retries
    def _open_pull_request(self, title: str, known: set[int]) -> int:
        # an earlier attempt whose answer was lost may have opened it
        new = [request for request in self._pull_requests(title) if request.num not in known]
        if new:
            me = self._api.whoami()["name"]
            new = [request for request in new if request.author == me]
        request = new[0] if new else self._api.create_pull_request(self.repository.name, title, repo_type="dataset")
        return int(request.num)

    def commit(
        self,
        parent: str,
        additions: Mapping[str, Path | bytes],
        deletions: Sequence[str],
        title: str,
        is_done: Callable[[Remote], bool],
        progress: Callable[..., Any],
    ) -> None:
        """Upload files, and then add them in one commit on top of ``parent``.

        Readers see all changes or none. Contents that the Hub already has are not sent again.

        Args:
            parent: The commit that the changes were planned from.
            additions: Contents by path.
            deletions: Paths to remove.
            title: Title of the commit.
            is_done: Whether the repository already holds what the commit would bring.
            progress: Wraps the loop over batches of files, each of which is retried on its own.
        """
        if len(additions) > MOST_FILES:
            raise ConfigError(f"{len(additions)} files are too many for one commit; set samples_per_shard higher")
        added = self._operations(additions)
        for batch in progress(_batches(added), "uploading"):
            self._upload(batch)
        self._commit(parent, added, deletions, title, is_done)

    @with_retries
    def _operations(self, additions: Mapping[str, Path | bytes]) -> list[Any]:
        # created once: operations remember their digests, and what was uploaded
        from huggingface_hub import CommitOperationAdd

        return [
            CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
            for path, content in additions.items()
        ]

    @with_retries
    def _upload(self, batch: list[Any]) -> None:
        self._api.preupload_lfs_files(self.repository.name, batch, free_memory=False, **self._branch)

    @with_retries
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
            if status_of(error) != 412:
                raise
            there = self.look()  # the other commit may be ours: an attempt whose answer was lost
            if there is None or not is_done(there):
                raise

    def address(self) -> str:
        """The address for a browser."""
        name, revision = self.repository.name, self.repository.revision
        tree = "" if revision == MAIN else f"/tree/{revision}"
        if revision.startswith("refs/pr/"):
            tree = f"/discussions/{revision.removeprefix('refs/pr/')}"
        return scrub(f"{self._api.endpoint}/datasets/{name}{tree}")

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
