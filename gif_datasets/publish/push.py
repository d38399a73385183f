"""Publish an expanded folder on the Hugging Face Hub: verified first, sent in one commit, and compared afterwards.

Contents go up first, without a name; then one commit names shards, indices, card and manifest together. So a reader
sees the dataset before or after, never half of either. To continue with an interrupted push, run it again.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from gif_datasets.errors import ConfigError, HubError, ShardError, UsageError
from gif_datasets.io import hub
from gif_datasets.io.hub import Client, Remote
from gif_datasets.io.hub_retry import MAIN, Repository
from gif_datasets.io.parsing import read_json
from gif_datasets.publish.contents import (
    CROISSANT,
    FORMS,
    Contents,
    collect,
    copy_without_rejected,
    picture_files,
    read_report,
    text_of,
)
from gif_datasets.publish.hub_card import Rights
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.manifest import Manifest
from gif_datasets.shards.verify import verify
from gif_datasets.types import EXPORTED, PLAN_FILE, Progress, no_progress, silently

_MARKS = (manifests.MANIFEST, EXPORTED)
"""A file of either name marks a repository that this package published, and lists its files."""
_GIVEN = (".gitattributes", manifests.CARD)
"""Files that the Hub itself puts into a new repository."""


@dataclass(frozen=True)
class PushSummary:
    """Result of a push, or with ``dry_run`` what it would do.

    Attributes:
        repository: ``owner/name``.
        url: Address of its page.
        revision: Branch, or ``refs/pr/N``.
        commit: The commit with this content; empty in a dry run if the repository does not exist.
        private: Whether only its owner can see it.
        form: ``"shards"`` or ``"parquet"``.
        dry_run: Whether nothing was sent.
        files: Number of files of the dataset.
        uploaded: The new and changed ones.
        uploaded_bytes: Their size.
        deleted: Files of an earlier push that no longer belong to the dataset.
        seconds: Wall-clock time.
    """

    repository: str
    url: str
    revision: str
    commit: str
    private: bool
    form: str
    dry_run: bool
    files: int
    uploaded: tuple[str, ...]
    uploaded_bytes: int
    deleted: tuple[str, ...]
    seconds: float


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    form: str = "shards",
    license: str = "",
    source_license: str = "",
    prior_license: str = "",
    source_citation: str = "",
    prior_citation: str = "",
    report: str | Path | None = None,
    dry_run: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> PushSummary:
    """Publish an expanded folder on the Hugging Face Hub: the command ``gif-datasets push`` as a function.

    Afterwards ``datasets.load_dataset(repo_id)`` returns real and synthetic images, and ``load_dataset(repo_id,
    "original")`` or ``"synthetic"`` one kind. Run again = resume; files that are already there are not sent again.

    Args:
        folder: Output of ``gif-datasets expand`` or :meth:`ExpandedDataset.precompute`; verified first. Rejected
            samples are not published.
        repo_id: ``owner/name`` of the dataset; created if it does not exist.
        private: Whether only its owner can see it. None: a new repository is private, an existing one stays as it
            is. True: an existing public repository is refused.
        revision: Branch to push to, created if needed, or ``refs/pr/N`` to continue a pull request.
        create_pr: Open a pull request instead of changing the branch ``main``.
        form: ``"shards"``: the folder as it is. ``"parquet"``: rows of image, class, the source's columns and
            provenance, for readers of tables (needs the extra ``hf``).
        license: Licence of the whole dataset, by its identifier on the Hub, such as ``cc-by-4.0``; default: unknown.
        source_license: Licence of the seed images, if known.
        prior_license: Licence of the prior, if known; those of the priors in the package are known.
        source_citation: How to cite the seed dataset, as BibTeX or text.
        prior_citation: How to cite the prior; default: as its own card says.
        report: A page that ``gif-datasets report`` wrote. The card then contains its figures, which are read from the
            JSON file beside it. Default: a report without a comparison with a CLIP is created and published.
        dry_run: Report what would be sent, and send nothing.
        token: Used instead of the token of the login, or ``HF_TOKEN``.
        progress: Wraps the loops, for progress bars.
        say: Called with warnings, and with a message when the Hub must be waited for.

    Raises:
        UsageError: If the folder is not a finished expansion, the repository contains something else, or it is public
            and ``private`` was requested.
        ShardError: If the folder is damaged.
        HubError: If the Hub refuses, or cannot be reached for a long time.

    Example:
        >>> push_to_hub("expanded", "flowers")
        Traceback (most recent call last):
            ...
        gif_datasets.errors.ConfigError: a dataset on the Hub is named owner/name, got 'flowers'
    """
    started = time.monotonic()
    name = hub.check_name(repo_id)
    _check(form, revision, create_pr)
    show, note = progress or no_progress, say or silently
    opened = ExpandedFolder.open(Path(folder))
    edited = _verified(opened, show)
    client = Client(Repository(name, revision or MAIN, token), note)
    rights = _checked(Rights(license, source_license, prior_license, source_citation, prior_citation))
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(copy_without_rejected(opened, edited, show))
        given = read_report(report, opened.manifest, note)
        pictures = stack.enter_context(picture_files(opened, form, show))
        remote, published = _seen(client, dry_run)
        contents = collect(opened, name, pictures, rights, given, published, edited, show)
        hub.check_card(text_of(contents[manifests.CARD]))
        job = _Job(client, opened.manifest, contents, private, create_pr, form, dry_run, show, started)
        return _dry_run(job, remote) if dry_run else _push(job, remote)


def _check(form: str, revision: str | None, create_pr: bool) -> None:
    if form not in FORMS:
        raise ConfigError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    if create_pr and revision not in (None, MAIN):
        raise ConfigError(
            f"a new pull request is opened against {MAIN}, got revision {revision!r}; use either create_pr or revision"
        )
    if revision is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}", revision):
        raise ConfigError(f"a revision must be the name of a branch, got {revision!r}")


def _checked(rights: Rights) -> Rights:
    """Check the licence's identifier, and write it as the Hub does; the other licences are free texts."""
    if rights.license and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", rights.license.lower()):
        raise ConfigError(
            f"a licence must be an identifier of the Hub's list, such as cc-by-4.0, got {rights.license!r}"
        )
    return replace(rights, license=rights.license.lower())


def _verified(folder: ExpandedFolder, show: Progress) -> bool:
    """Refuse a damaged folder; returns whether its card was edited."""
    problems = verify(folder, show)
    of_card = any(line.startswith(f"{manifests.CARD} ") for line in problems)
    edited = of_card and (folder.path / manifests.CARD).is_file()
    if edited:
        problems = [line for line in problems if not line.startswith(f"{manifests.CARD} ")]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ShardError(f"{folder} cannot be published, because it is damaged: {problems[0]}{more}")
    return edited


# --- sending it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One push: its contents, its target, and its progress."""

    client: Client
    manifest: Manifest
    contents: Contents
    private: bool | None
    create_pr: bool
    form: str
    dry_run: bool
    show: Progress
    started: float


@dataclass(frozen=True)
class _Difference:
    """Files that a repository lacks, and files that it should no longer have."""

    changed: tuple[str, ...]
    stale: tuple[str, ...]
    withdrawn: int = 0
    """Seeds that are in the repository and have left the folder."""

    def __bool__(self) -> bool:
        return bool(self.changed or self.stale)


def _seen(client: Client, dry_run: bool) -> tuple[Remote | None, str]:
    """The repository, and the day of its first publication; a dry run continues without them if the Hub fails."""
    today = datetime.now(timezone.utc).date().isoformat()
    try:
        remote = client.look()
        description = client.read(remote.commit, CROISSANT) if remote and CROISSANT in remote.files else b""
        day = re.search(rb'"datePublished": "(\d{4}-\d\d-\d\d)"', description)  # otherwise each day's push would differ
        return remote, day[1].decode("ascii") if day else today
    except HubError as error:
        if not dry_run:
            raise
        client.say(f"cannot compare with the repository: {error}")
        return None, today


def _push(job: _Job, remote: Remote | None) -> PushSummary:
    client = job.client
    difference = _compared(job, remote)
    if remote is not None and job.create_pr and not difference:
        return _summary(job, remote, difference)
    if manifests.CARD in difference.changed:
        client.validate(text_of(job.contents[manifests.CARD]))
    client.create(job.private is not False)
    title = "Publish an expanded dataset" if remote is None else "Update the expanded dataset"
    if not job.create_pr:
        return _bring(job, title)
    revision = client.open_pull_request(title)
    opened = replace(client, repository=replace(client.repository, revision=revision))
    try:
        return _bring(replace(job, client=opened), title)
    except HubError as error:
        raise HubError(f"{error} (a pull request is open: go on with revision {revision})") from None


def _bring(job: _Job, title: str) -> PushSummary:
    """Send the contents, and check afterwards that the repository has them."""
    client = job.client
    remote = _present(client)
    difference = _difference(job, remote)
    if difference:
        content = {path: job.contents[path].content for path in difference.changed}
        client.commit(
            remote.commit,
            content,
            difference.stale,
            title,
            lambda now: not _wrong(job.contents, difference, now),
            job.show,
        )
        remote = _present(client)
        _tell_of_history(client, difference)
    if wrong := _wrong(job.contents, difference, remote):
        raise HubError(
            f"after the upload the Hub lists {wrong[0]} of {client.repository.name} with other content than was sent"
            f" ({len(wrong)} files); push again"
        )
    return _summary(job, remote, difference)


def _present(client: Client) -> Remote:
    remote = client.look()
    if remote is None:
        name = client.repository.name
        raise HubError(f"the Hub does not show {name} to this token; use a token that can read and write it")
    return remote


def _dry_run(job: _Job, remote: Remote | None) -> PushSummary:
    try:
        difference = _compared(job, remote)
    except HubError as error:
        job.client.say(f"cannot compare with the repository: {error}")
        remote, difference = None, _compared(job, None)
    _tell_of_history(job.client, difference)
    return _summary(job, remote or Remote("", job.private is not False, {}), difference)


def _summary(job: _Job, remote: Remote, difference: _Difference) -> PushSummary:
    return PushSummary(
        repository=job.client.repository.name,
        url=job.client.address(),
        revision=job.client.repository.revision,
        commit=remote.commit,
        private=remote.private,
        form=job.form,
        dry_run=job.dry_run,
        files=len(job.contents),
        uploaded=difference.changed,
        uploaded_bytes=sum(job.contents[path].size for path in difference.changed),
        deleted=difference.stale,
        seconds=round(time.monotonic() - job.started, 1),
    )


def _compared(job: _Job, remote: Remote | None) -> _Difference:
    """Compare the contents with the repository; refuses a public one if it must be private, or one of somebody else.

    Raises:
        UsageError: If it must be refused.
    """
    if remote is None:
        return _Difference(tuple(job.contents), ())
    if job.private and not remote.private:
        raise UsageError(
            f"{job.client.repository.name} exists and is public; push without --private (private=None) if everybody may"
            " see it, or make it private in its settings"
        )
    if job.private is None and not remote.private:
        job.client.say(f"{job.client.repository.name} is public: everybody will see what is pushed")
    return _difference(job, remote)


def _tell_of_history(client: Client, difference: _Difference) -> None:
    """Say that earlier commits still have what was withdrawn, and what ends that."""
    if difference.withdrawn:
        name = client.repository.name
        client.say(
            f"{difference.withdrawn} seeds that have left the folder are still in earlier commits of {name}, whose"
            " shards can be downloaded; to end that, remove its history, with the revisions that readers may have"
            f' pinned: python -c "import huggingface_hub as h; h.HfApi().super_squash_history({name!r},'
            " repo_type='dataset')\""
        )


def _withdrawn_since(job: _Job, remote: Remote) -> int:
    """How many seeds left the folder since the generation in the repository.

    Raises:
        UsageError: If the repository has a later generation, which may lack what was withdrawn since.
    """
    path = next((name for name in (manifests.MANIFEST, PLAN_FILE) if name in remote.files), None)
    try:
        value = read_json(job.client.read(remote.commit, path)) if path else {}
        generations = value.get("plan", value).get(manifests.GENERATIONS, [])
        later = [number for number, one in enumerate(generations) if one["after"] == job.manifest.plan_hash]
        there = sum(int(one["withdrawn"]) for one in generations)
    except (ValueError, TypeError, KeyError, AttributeError):
        return 0
    if later:
        raise UsageError(
            f"{job.client.repository.name} has generation {len(generations)} of this dataset, and the folder is"
            f" generation {later[0]}; update the folder, or push it as another --revision"
        )
    return max(0, sum(one.withdrawn for one in job.manifest.plan.generations) - there)


def _difference(job: _Job, remote: Remote) -> _Difference:
    """Compare; refuse a repository with files that this package did not publish, or with a later generation.

    Raises:
        UsageError: If it has.
    """
    client, contents = job.client, job.contents
    changed = tuple(path for path, file in contents.items() if not file.is_at(remote.files.get(path)))
    marks = [mark for mark in _MARKS if mark in remote.files]
    published = {name for mark in marks for name in _published(client.read(remote.commit, mark), mark)}
    if not published:
        foreign = [p for p in remote.files if p not in _GIVEN and (p not in contents or p in changed)]
        if foreign:
            raise UsageError(
                f"{client.repository.name} contains something else ({foreign[0]} and other files, no"
                f" {manifests.MANIFEST}), which is never overwritten; choose another name"
            )
    stale = tuple(sorted(path for path in remote.files if path in published and path not in contents))
    return _Difference(changed, stale, _withdrawn_since(job, remote) if published else 0)


def _published(content: bytes, mark: str) -> set[str]:
    """The files that a manifest or an export's list of this package names; empty if it is something else."""
    try:
        value = read_json(content)
        if not isinstance(value["plan_hash"], str):
            return set()
        named = [*value.get("files", {}), *(entry["name"] for entry in value.get("shards", []))]
    except (ValueError, TypeError, KeyError, AttributeError):
        return set()
    return {name for name in named if isinstance(name, str)} | {manifests.PREVIEW, mark}


def _wrong(contents: Contents, sent: _Difference, remote: Remote) -> list[str]:
    """Files that the Hub lists with another digest, or still lists although they should be deleted."""
    wrong = [path for path, file in contents.items() if not file.is_at(remote.files.get(path))]
    return wrong + [path for path in sent.stale if path in remote.files]
