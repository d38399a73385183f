"""Publish an expanded folder on the Hugging Face Hub: checked before, in one commit, and compared after.

Contents go up first, without a name; then one commit names shards, indices, card and manifest together. So a reader
sees the set before or the set after, never half of either, and a push that is cut off is simply run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gif_datasets import atomic, card, croissant, hub, hub_card, shards
from gif_datasets.columns import SOURCE, expanded_columns, read_source, to_yaml
from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError, HubError, ShardError, UsageError
from gif_datasets.export import export_expanded
from gif_datasets.fingerprint import digest_file
from gif_datasets.hub import Remote, RemoteFile, Repository
from gif_datasets.hub_card import Part, Published, Rights
from gif_datasets.measures import measure
from gif_datasets.plan import shard_size
from gif_datasets.reader import ShardReader
from gif_datasets.splits import VALIDATION
from gif_datasets.types import PLAN_FILE

FORMS = ("shards", "parquet")
CONFIGURATION, REPORT, CROISSANT = "config.toml", "report.html", "croissant.json"
_MARKS = (shards.MANIFEST, shards.EXPORTED)
"""Either says that a repository holds what this package published, and which files that is."""
_GIVEN = (".gitattributes", shards.CARD)
"""What the Hub itself puts into a new repository."""

Progress = Callable[..., Any]


@dataclass(frozen=True)
class PushSummary:
    """What a push did, or with ``dry_run`` would do.

    Attributes:
        repository: ``owner/name``.
        url: Where a person finds it.
        revision: Branch, or ``refs/pr/N``.
        commit: The commit that holds it; empty in a dry run of what is not there.
        private: Whether only its owner sees it.
        form: ``"shards"`` or ``"parquet"``.
        dry_run: Whether nothing was sent.
        files: Files that make up the set.
        uploaded: Those of them that were new or changed.
        uploaded_bytes: Their size.
        deleted: Files of an earlier push that no longer belong to the set.
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


@dataclass(frozen=True)
class _File:
    """A file to publish: where it is, or its bytes."""

    content: Path | bytes
    size: int
    sha256: str

    def is_at(self, remote: RemoteFile | None) -> bool:
        """Whether the Hub lists it with these bytes."""
        if remote is None or remote.size != self.size:
            return False
        if remote.sha256:
            return remote.sha256 == self.sha256
        content = self.content.read_bytes() if isinstance(self.content, Path) else self.content
        return remote.git == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


_Parcel = dict[str, _File]


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    form: str = "shards",
    license: str = "",
    source_license: str = "",
    prior_license: str = "",
    source_citation: str = "",
    report: str | Path | None = None,
    dry_run: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> PushSummary:
    """Publish an expanded folder on the Hugging Face Hub: the command ``gif-datasets push`` as a function.

    Afterwards ``datasets.load_dataset(repo_id)`` gives real and synthetic pictures, and ``load_dataset(repo_id,
    "original")`` or ``"synthetic"`` one kind. Run again = resume; what is there already is not sent again.

    Args:
        folder: What ``gif-datasets expand`` or :meth:`ExpandedDataset.precompute` wrote; checked first.
        repo_id: ``owner/name`` of the data set; made if it is not there.
        private: False to let everybody see it.
        revision: Branch to push to, made if need be, or ``refs/pr/N`` to go on with a pull request.
        create_pr: Open a pull request instead of changing the branch ``main``.
        form: ``"shards"``: the folder as it is. ``"parquet"``: rows of picture, class, the source's own columns and
            provenance, for those who read tables (needs the extra ``hf``).
        license: The whole set's licence, by its identifier on the Hub, such as ``cc-by-4.0``; unknown without.
        source_license: Licence of the seed pictures, if known.
        prior_license: Licence of the prior, if known; that of the priors in the package is.
        source_citation: How to cite the seed dataset, as BibTeX or text.
        report: A report to publish with it, HTML.
        dry_run: Say what would be sent, and send nothing.
        token: Instead of the one that the user is logged in with, or ``HF_TOKEN``.
        progress: Wraps the loops, for progress bars.
        say: Told when the Hub is waited for.

    Raises:
        UsageError: If the folder is no finished expansion, the repository holds something else, or it is public and
            ``private`` is not given as False.
        ShardError: If the folder is damaged.
        HubError: If the Hub refuses, or cannot be reached for long.
    """
    started = time.monotonic()
    name = hub.check_name(repo_id)
    _check(form, revision, create_pr)
    show, tell = progress or _silent, say or _unsaid
    folder = Path(folder)
    manifest, edited = _verified(folder, show)
    repository = Repository(name, revision or hub.MAIN, token)
    rights = _checked(Rights(license, source_license, prior_license, source_citation))
    with _files(folder, manifest, form, show) as files:
        extra = _read_report(report)
        parcel = _parcel(folder, manifest, name, form, files, rights, extra, edited, show)
        hub.check_card(_text(parcel[shards.CARD]))
        if dry_run:
            return _dry_run(repository, parcel, private, form, tell, started)
        return _push(repository, parcel, private, create_pr, form, show, tell, started)


def _silent(rows: Any, title: str, total: int | None = None) -> Any:
    return rows


def _unsaid(text: str) -> None:
    pass


def _check(form: str, revision: str | None, create_pr: bool) -> None:
    if form not in FORMS:
        raise ConfigError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    if create_pr and revision not in (None, hub.MAIN):
        raise ConfigError(
            f"a new pull request is opened against {hub.MAIN}, got revision {revision!r}; leave one of them out"
        )
    if revision is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}", revision):
        raise ConfigError(f"a revision is the name of a branch, got {revision!r}")


def _checked(rights: Rights) -> Rights:
    """The licence's identifier as the Hub writes it; others are texts."""
    if rights.license and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", rights.license.lower()):
        raise ConfigError(f"a licence is an identifier of the Hub's list, such as cc-by-4.0, got {rights.license!r}")
    return replace(rights, license=rights.license.lower())


def _read_report(report: str | Path | None) -> dict[str, bytes]:
    if report is None:
        return {}
    try:
        return {REPORT: Path(report).read_bytes()}
    except OSError as error:
        raise ConfigError(f"cannot read the report {report}: {error.strerror or error}") from error


def _verified(folder: Path, show: Progress) -> tuple[dict[str, Any], bool]:
    """The manifest of a folder that is whole, and whether somebody edited its card."""
    problems = shards.verify(folder, show)
    manifest = shards.read_manifest(folder)
    edited = (folder / shards.CARD).is_file() and any(line.startswith(f"{shards.CARD} ") for line in problems)
    if edited:
        problems = [line for line in problems if not line.startswith(f"{shards.CARD} ")]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ShardError(f"{folder} is not published, because it is not whole: {problems[0]}{more}")
    return manifest, edited


# --- what is published --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Files:
    """The files of pictures in one form, with what the card says of them."""

    folder: Path
    listed: dict[str, dict[str, Any]]  # name: bytes, sha256
    configs: dict[str, tuple[Part, ...]]
    columns: str
    image: str
    label: str
    record: str
    kind: str  # the builder of Hugging Face datasets that reads it


@contextlib.contextmanager
def _files(folder: Path, manifest: dict[str, Any], form: str, show: Progress) -> Iterator[_Files]:
    if form == "shards":
        yield _of_shards(folder, manifest)
        return
    # what is written here is the same bytes each time, so a push that was cut off goes on
    with tempfile.TemporaryDirectory(prefix="gif-datasets-") as place:
        export_expanded(folder, Path(place) / "parquet", "parquet", progress=show)
        yield _of_parquet(folder, Path(place) / "parquet", manifest)


def _of_shards(folder: Path, manifest: dict[str, Any]) -> _Files:
    kinds: dict[str, list[shards.Shard]] = {"original": [], "synthetic": [], "held": []}
    for split in shards.splits(manifest):
        reader, start = ShardReader(folder, split), 0
        for shard in shards.manifest_shards(manifest, split):
            keys = {reader.key(index).endswith("-0000") for index in range(start, start + shard.samples)}
            if len(keys) != 1:
                raise ShardError(f"{shard.name} mixes real and synthetic pictures; expand again into another folder")
            kinds["held" if split != manifest["split"] else "original" if keys.pop() else "synthetic"].append(shard)
            start += shard.samples

    def part(split: str, found: list[shards.Shard]) -> Part:
        names = tuple(shard.name for shard in found)
        return Part(split, names, sum(s.samples for s in found), sum(s.bytes for s in found))

    split = manifest["split"]
    parts = {name: [part(split, kinds[name])] for name in ("original", "synthetic")}
    parts["expanded"] = [part(split, [*kinds["original"], *kinds["synthetic"]])] if kinds["original"] else []
    held = part(VALIDATION, kinds["held"]) if kinds["held"] else None
    listed = {s.name: {"bytes": s.bytes, "sha256": s.sha256} for s in shards.all_shards(manifest)}
    suffix = card.suffix(manifest)
    configs = hub_card.configs(parts, held)
    return _Files(folder, listed, configs, card.shard_columns(manifest), suffix, "cls", "json.", "webdataset")


def _of_parquet(folder: Path, exported: Path, manifest: dict[str, Any]) -> _Files:
    entries = json.loads((exported / shards.EXPORTED).read_text(encoding="utf-8"))["files"]
    listed = {name: entry for name, entry in entries.items() if name.endswith(".parquet")}

    def part(split: str, *kinds: bool) -> Part:
        names = [n for n, e in listed.items() if shards.split_of(n) == split and e["synthetic"] in kinds]
        return Part(split, tuple(names), sum(listed[n]["rows"] for n in names), sum(listed[n]["bytes"] for n in names))

    split = manifest["split"]
    parts = {"original": [part(split, False)], "synthetic": [part(split, True)]}
    parts["expanded"] = [part(split, False, True)] if manifest["originals"] else []
    held = part(VALIDATION, False) if manifest["validation"] else None
    columns = expanded_columns(manifest["classes"], read_source(folder))
    configs = hub_card.configs(parts, held)
    return _Files(exported, listed, configs, to_yaml(columns.features), columns.image, columns.label, "", "parquet")


def _parcel(
    folder: Path,
    manifest: dict[str, Any],
    name: str,
    form: str,
    files: _Files,
    rights: Rights,
    extra: dict[str, bytes],
    edited: bool,
    show: Progress,
) -> _Parcel:
    """Everything that is published, by its path."""
    kept = [SOURCE] if form == "shards" and (folder / SOURCE).is_file() else []
    indices = [n for n in manifest["files"] if n not in (shards.CARD, SOURCE)] if form == "shards" else [PLAN_FILE]
    small = {n: (folder / n).read_bytes() for n in (*indices, *kept)} | extra
    small[CONFIGURATION] = configuration(manifest).encode("utf-8")
    if form == "shards":
        small[CROISSANT] = croissant.describe(manifest, name, rights.license or hub_card.UNKNOWN)
    pictures = [shards.PREVIEW] if (folder / shards.PREVIEW).is_file() else []
    if edited:
        small[shards.CARD] = (folder / shards.CARD).read_bytes()
    else:
        told = Published(
            name=name,
            manifest=manifest,
            configs=files.configs,
            columns=files.columns,
            image=files.image,
            label=files.label,
            record=files.record,
            form=files.kind,
            measures=measure(folder, show),
            rights=rights,
            files=(*small, *pictures),
        )
        small[shards.CARD] = hub_card.render(told).encode("utf-8")
    if form == "shards":
        mark, content = shards.MANIFEST, atomic.json_bytes(shards.sealed(manifest, small))
    else:
        about = {"to": "parquet", "source": manifest["source"], "plan_hash": manifest["plan_hash"]}
        entries = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in small.items()}
        mark = shards.EXPORTED
        content = atomic.json_bytes({**about, "files": {**files.listed, **entries}})
    parcel = {n: _File(files.folder / n, entry["bytes"], entry["sha256"]) for n, entry in files.listed.items()}
    for n in pictures:
        parcel[n] = _File(folder / n, (folder / n).stat().st_size, digest_file(folder / n))
    for n, c in {**small, mark: content}.items():
        parcel[n] = _File(c, len(c), hashlib.sha256(c).hexdigest())
    return parcel


def configuration(manifest: Mapping[str, Any]) -> str:
    """The options that make a set again, as the TOML that ``gif-datasets expand --config`` reads."""
    plan = manifest["plan"]
    recipe = plan["recipe"]
    values = {**recipe["options"], "prior": recipe["prior"]["name"]}
    values |= {name: plan[name] for name in ("split", "originals", "validation_share") if name in plan}
    values["samples_per_shard"] = _samples_per_shard(manifest)
    known = {name: value for name, value in sorted(values.items()) if name in ExpansionConfig.__dataclass_fields__}
    lines = [f"{name} = {json.dumps(value)}" for name, value in known.items() if value is not None]
    about = [f"# {manifest['originals'] or plan.get('seeds')} seed pictures; plan {manifest['plan_hash']}"]
    if recipe["prior"]["name"] not in ("embedded", "linear"):
        about.append("# prior: give the path of the folder whose digest is " + str(recipe["prior"]["digest"]))
    return "\n".join([*about, *lines]) + "\n"


def _samples_per_shard(manifest: Mapping[str, Any]) -> int | None:
    """What was asked for; None where the shards are as they are without asking."""
    plan = manifest["plan"]
    block, found = plan["recipe"]["options"]["decode_batch"], plan.get("shards") or [0]
    usual = shard_size(manifest["samples"], block)
    return None if max(found) in (usual, manifest["originals"], manifest["synthetic"]) else max(found)


def _text(file: _File) -> str:
    content = file.content.read_bytes() if isinstance(file.content, Path) else file.content
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shards.CARD} is no UTF-8 text: {error}") from error


# --- sending it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Difference:
    """What a repository lacks, and what it has too much."""

    changed: tuple[str, ...]
    stale: tuple[str, ...]


def _push(
    repository: Repository,
    parcel: _Parcel,
    private: bool,
    create_pr: bool,
    form: str,
    show: Progress,
    tell: Callable[[str], None],
    started: float,
) -> PushSummary:
    remote = hub.patiently(lambda: hub.look(repository), repository, tell)
    if remote is not None:
        _check_visibility(repository, remote, private)
        found = _difference(repository, remote, parcel)  # refuses a foreign one before anything is made
        if create_pr and found == _Difference((), ()):
            return _summary(repository, remote, parcel, found, form, False, started)
    hub.patiently(lambda: hub.create(repository, private), repository, tell)
    title = "Publish an expanded dataset" if remote is None else "Update the expanded dataset"
    if create_pr:
        number = hub.patiently(lambda: hub.open_pull_request(repository, title), repository, tell)
        repository = replace(repository, revision=number)
    first: list[_Difference] = []

    def bring() -> Remote:
        there = _present(repository)
        found = _difference(repository, there, parcel)
        first.append(found)
        if not found.changed and not found.stale:
            return there
        content = {path: parcel[path].content for path in found.changed}
        hub.commit(repository, there.commit, content, found.stale, title, show)
        return _present(repository)

    try:
        there = hub.patiently(bring, repository, tell)
    except HubError as error:
        if create_pr:
            raise HubError(f"{error} (a pull request is open: go on with revision {repository.revision})") from None
        raise
    _compare(repository, there, parcel, first[0])
    return _summary(repository, there, parcel, first[0], form, False, started)


def _present(repository: Repository) -> Remote:
    found = hub.look(repository)
    if found is None:
        raise HubError(f"the Hub does not show {repository.name} to this token; use one that may read and write it")
    return found


def _dry_run(
    repository: Repository, parcel: _Parcel, private: bool, form: str, tell: Callable[[str], None], started: float
) -> PushSummary:
    try:
        remote = hub.patiently(lambda: hub.look(repository), repository, tell)
    except HubError as error:
        tell(f"not compared with what is there: {error}")
        remote = None
    if remote is None:
        nothing = Remote("", private, {})
        return _summary(repository, nothing, parcel, _Difference(tuple(parcel), ()), form, True, started)
    _check_visibility(repository, remote, private)
    found = _difference(repository, remote, parcel)
    return _summary(repository, remote, parcel, found, form, True, started)


def _summary(
    repository: Repository,
    remote: Remote,
    parcel: _Parcel,
    found: _Difference,
    form: str,
    dry_run: bool,
    started: float,
) -> PushSummary:
    return PushSummary(
        repository=repository.name,
        url=hub.address(repository),
        revision=repository.revision,
        commit=remote.commit,
        private=remote.private,
        form=form,
        dry_run=dry_run,
        files=len(parcel),
        uploaded=found.changed,
        uploaded_bytes=sum(parcel[path].size for path in found.changed),
        deleted=found.stale,
        seconds=round(time.monotonic() - started, 1),
    )


def _check_visibility(repository: Repository, remote: Remote, private: bool) -> None:
    if private and not remote.private:
        raise UsageError(
            f"{repository.name} is there, and public; push with --public (private=False) if everybody may see it, or"
            " make it private in its settings"
        )


def _difference(repository: Repository, remote: Remote, parcel: _Parcel) -> _Difference:
    """Compare; refuse a repository that holds something else than this package published.

    Raises:
        UsageError: If it does.
    """
    changed = tuple(path for path, file in parcel.items() if not file.is_at(remote.files.get(path)))
    marks = [mark for mark in _MARKS if mark in remote.files]
    ours = {name for mark in marks for name in _published(hub.read(repository, remote.commit, mark), mark)}
    if not ours:
        foreign = [p for p in remote.files if p not in _GIVEN and (p not in parcel or p in changed)]
        if foreign:
            raise UsageError(
                f"{repository.name} holds something else ({foreign[0]} and other files, no {shards.MANIFEST}), which"
                " is not overwritten; choose another name"
            )
    stale = tuple(sorted(path for path in remote.files if path in ours and path not in parcel))
    return _Difference(changed, stale)


def _published(content: bytes, mark: str) -> set[str]:
    """The files that a manifest, or an export's list, of this package names; none if it is something else."""
    try:
        value = json.loads(content)
        if not isinstance(value["plan_hash"], str):
            return set()
        named = [*value.get("files", {}), *(entry["name"] for entry in value.get("shards", []))]
    except (ValueError, TypeError, KeyError, AttributeError):
        return set()
    return {name for name in named if isinstance(name, str)} | {shards.PREVIEW, mark}


def _compare(repository: Repository, remote: Remote, parcel: _Parcel, sent: _Difference) -> None:
    """Raise HubError unless the Hub lists all files with their digests, and none that were to go."""
    wrong = [path for path, file in parcel.items() if not file.is_at(remote.files.get(path))]
    wrong += [path for path in sent.stale if path in remote.files]
    if wrong:
        raise HubError(
            f"after the upload the Hub lists {wrong[0]} of {repository.name} otherwise than it was sent"
            f" ({len(wrong)} files); push again"
        )
