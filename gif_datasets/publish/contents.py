"""What a push sends: image files in one form, the card that describes them, and their companion files."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import ConfigError, ShardError
from gif_datasets.guidance.recognition import read_own_class
from gif_datasets.io import atomic
from gif_datasets.io.digests import digest_file
from gif_datasets.io.hub import RemoteFile
from gif_datasets.io.parsing import read_json
from gif_datasets.io.temporary import TemporaryFolder
from gif_datasets.publish import croissant, hub_card
from gif_datasets.publish.export import export_expanded
from gif_datasets.publish.hub_card import ConfigFiles, Published, Rights
from gif_datasets.shards import card, rejections
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.columns import expanded_columns, read_source, yaml_list
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.manifest import Manifest, shard_size
from gif_datasets.shards.reader import ShardReader
from gif_datasets.types import EXPORTED, PLAN_FILE, VALIDATION, Progress

if TYPE_CHECKING:
    from gif_datasets.report.clip_metrics import Likeness

FORMS = ("shards", "parquet")
CONFIGURATION, REPORT, CROISSANT = "config.toml", "report.html", "croissant.json"


@dataclass(frozen=True)
class File:
    """A file to publish: its path, or its bytes."""

    content: Path | bytes
    size: int
    sha256: str

    def is_at(self, remote: RemoteFile | None) -> bool:
        """Whether the Hub lists the file with these bytes."""
        if remote is None or remote.size != self.size:
            return False
        if remote.sha256:
            return remote.sha256 == self.sha256
        content = self.content.read_bytes() if isinstance(self.content, Path) else self.content
        return remote.git == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


Contents = dict[str, File]


@dataclass(frozen=True)
class GivenReport:
    """A report that was written before: its page, and the comparison with a CLIP from the JSON file beside it."""

    page: bytes
    likeness: Likeness | None


def read_report(path: str | Path | None, manifest: Manifest, say: Callable[[str], None]) -> GivenReport | None:
    """Read a report of the dataset that a manifest describes.

    Args:
        path: The page; None without a report.
        manifest: The manifest.
        say: Called with a warning if there are no figures beside the page.

    Raises:
        ConfigError: If it cannot be read, or belongs to another dataset.
    """
    from gif_datasets.report import page as report

    if path is None:
        return None
    try:
        page = Path(path).read_bytes()
        figures = report.read_figures(Path(path))
    except OSError as error:
        raise ConfigError(f"cannot read the report {path}: {error.strerror or error}") from error
    except ValueError as error:
        beside = report.figures_path(Path(path))
        raise ConfigError(f"{beside} is damaged: {error}; create it again with `gif-datasets report`") from error
    if figures is None:
        say(f"no figures beside {path}: the card does not contain any of a CLIP; create it with `gif-datasets report`")
        return GivenReport(page, None)
    if figures[0] != rejections.fingerprint(manifest):
        raise ConfigError(
            f"the report {path} belongs to another dataset; create one for this dataset with `gif-datasets report`"
        )
    return GivenReport(page, figures[1])


@dataclass(frozen=True)
class PictureFiles:
    """The image files in one form, and what the card says about them."""

    folder: Path
    listed: dict[str, dict[str, Any]]  # name: bytes, sha256
    configs: dict[str, tuple[ConfigFiles, ...]]
    columns: list[Any]  # as the features of a card
    image: str
    label: str
    record: str
    kind: str  # the builder of Hugging Face datasets that reads it
    described: croissant.Description


@contextlib.contextmanager
def copy_without_rejected(folder: ExpandedFolder, edited: bool, show: Progress) -> Iterator[ExpandedFolder]:
    """Yield a folder or, if it has rejected samples, a temporary copy without them.

    Args:
        folder: The expanded folder.
        edited: Whether its card was edited; such a card is copied as it is.
        show: Wraps the loops.
    """
    if not folder.rejected:
        yield folder
        return
    with TemporaryFolder() as place:
        copy = Path(place) / "shards"
        export_expanded(folder.local, copy, "shards", progress=show)
        if edited:
            atomic.write_bytes(copy / manifests.CARD, (folder.path / manifests.CARD).read_bytes())
        yield ExpandedFolder.open(copy)


@contextlib.contextmanager
def picture_files(folder: ExpandedFolder, form: str, show: Progress) -> Iterator[PictureFiles]:
    """Yield the image files of an expanded folder: its shards, or temporary Parquet files."""
    if form == "shards":
        yield _of_shards(folder)
        return
    # the files have the same bytes each time, so an interrupted push can be continued
    with TemporaryFolder() as place:
        export_expanded(folder.local, Path(place) / "parquet", "parquet", progress=show)
        yield _of_parquet(folder, Path(place) / "parquet")


def _of_shards(folder: ExpandedFolder) -> PictureFiles:
    manifest = folder.manifest
    kinds: dict[str, list[manifests.Shard]] = {"original": [], "synthetic": [], VALIDATION: []}
    for split in manifest.splits:
        reader, start = ShardReader(folder, split), 0
        for shard in manifest.shards_of(split):
            synthetic = {reader.is_synthetic(index) for index in range(start, start + shard.samples)}
            if len(synthetic) != 1:
                raise ShardError(f"{shard.name} mixes real and synthetic images; expand again into another folder")
            kinds[VALIDATION if split != manifest.split else "synthetic" if synthetic.pop() else "original"].append(
                shard
            )
            start += shard.samples

    def part(split: str, shards: list[manifests.Shard]) -> ConfigFiles:
        names = tuple(shard.name for shard in shards)
        return ConfigFiles(split, names, sum(s.samples for s in shards), sum(s.bytes for s in shards))

    split = manifest.split
    parts = {name: [part(split, kinds[name])] for name in ("original", "synthetic")}
    parts["expanded"] = [part(split, [*kinds["original"], *kinds["synthetic"]])] if kinds["original"] else []
    validation = part(VALIDATION, kinds[VALIDATION]) if kinds[VALIDATION] else None
    listed = {s.name: {"bytes": s.bytes, "sha256": s.sha256} for s in manifest.shards}
    return PictureFiles(
        folder=folder.local,
        listed=listed,
        configs=hub_card.configs(parts, validation),
        columns=card.shard_columns(manifest),
        image=manifest.plan.recipe.image_format,
        label="cls",
        record="json.",
        kind="webdataset",
        described=croissant.of_shards(manifest),
    )


def _of_parquet(folder: ExpandedFolder, exported: Path) -> PictureFiles:
    manifest = folder.manifest
    entries = read_json((exported / EXPORTED).read_text(encoding="utf-8"))["files"]
    listed = {name: entry for name, entry in entries.items() if name.endswith(".parquet")}

    def part(split: str, *kinds: bool) -> ConfigFiles:
        names = [n for n, e in listed.items() if manifests.split_of(n) == split and e["synthetic"] in kinds]
        return ConfigFiles(
            split, tuple(names), sum(listed[n]["rows"] for n in names), sum(listed[n]["bytes"] for n in names)
        )

    split = manifest.split
    parts = {"original": [part(split, False)], "synthetic": [part(split, True)]}
    parts["expanded"] = [part(split, False, True)] if manifest.originals else []
    validation = part(VALIDATION, False) if manifest.validation else None
    columns = expanded_columns(manifest.classes, read_source(folder.local), manifest.plan.objects)
    return PictureFiles(
        folder=exported,
        listed=listed,
        configs=hub_card.configs(parts, validation),
        columns=yaml_list(columns.features),
        image=columns.image,
        label=columns.label,
        record="",
        kind="parquet",
        described=croissant.of_parquet(listed, columns),
    )


def collect(
    folder: ExpandedFolder,
    name: str,
    pictures: PictureFiles,
    rights: Rights,
    given: GivenReport | None,
    published: str,
    edited: bool,
    show: Progress,
) -> Contents:
    """Collect everything to publish, by its path.

    Args:
        folder: The expanded folder.
        name: ``owner/name``.
        pictures: The image files.
        rights: Licences, for the card.
        given: The report; None: one is drawn, without a comparison with a CLIP.
        published: The day of the first publication.
        edited: Whether the folder's own card is published.
        show: Wraps the loops.
    """
    from gif_datasets.report import page as report  # which loads torch

    path, manifest = folder.local, folder.manifest
    small = _companions(folder, pictures)
    drawn = report.draw(folder, None, show)
    small[REPORT] = given.page if given else drawn.page.encode("utf-8")
    if not manifest.plan.merged:  # no one run makes it again
        small[CONFIGURATION] = configuration(manifest).encode("utf-8")
    licence = rights.license or hub_card.UNKNOWN
    small[CROISSANT] = croissant.describe(manifest, name, licence, published, pictures.described)
    preview = [manifests.PREVIEW] if (path / manifests.PREVIEW).is_file() else []
    values = Published(
        name=name,
        manifest=manifest,
        configs=pictures.configs,
        columns=pictures.columns,
        image=pictures.image,
        label=pictures.label,
        record=pictures.record,
        form=pictures.kind,
        measures=drawn.measures,
        likeness=given.likeness if given else None,
        rights=rights,
        files=(*small, *preview),
        verdict=seen.verdict() if (seen := read_own_class(path)) else "",
    )
    small[manifests.CARD] = _edited(path, values) if edited else hub_card.render(values).encode("utf-8")
    contents = {n: File(pictures.folder / n, e["bytes"], e["sha256"]) for n, e in pictures.listed.items()}
    for n in preview:
        contents[n] = File(path / n, (path / n).stat().st_size, digest_file(path / n))
    for n, content in {**small, **_mark(manifest, pictures, small)}.items():
        contents[n] = File(content, len(content), hashlib.sha256(content).hexdigest())
    return contents


def _edited(folder: Path, values: Published) -> bytes:
    """An edited card: with shards as it is; with Parquet, its text under new metadata, which describes those files."""
    if values.rights != Rights():
        raise ConfigError(
            f"{manifests.CARD} was edited, and is published as it is: write licences and citations there,"
            " or delete it and expand again to get a new one"
        )
    content = (folder / manifests.CARD).read_bytes()
    if values.form == "webdataset":
        return content
    text = content.decode("utf-8")
    front, fence, body = text.removeprefix("---\n").partition("\n---\n")
    if not fence or not text.startswith("---\n"):
        front, body = "", text
    licence = re.search(r"^license: *([\w.-]+) *$", front, re.M)
    licensed = dataclasses.replace(values, rights=Rights(license=licence[1] if licence else ""))
    return f"---\n{hub_card.metadata(licensed)}---\n{body}".encode()


def _companions(folder: ExpandedFolder, pictures: PictureFiles) -> dict[str, bytes]:
    """Small files of the folder to publish: with shards its indices and plan, with Parquet its plan."""
    listed = [n for n in folder.manifest.files if n != manifests.CARD] if pictures.kind == "webdataset" else [PLAN_FILE]
    return {n: (folder.path / n).read_bytes() for n in listed}


def _mark(manifest: Manifest, pictures: PictureFiles, small: dict[str, bytes]) -> dict[str, bytes]:
    """The file that lists all other files with their digests."""
    if pictures.kind == "webdataset":
        return {manifests.MANIFEST: atomic.json_bytes(manifests.sealed(manifest.to_json(), small))}
    about = {"to": "parquet", "source": manifest.source, "plan_hash": manifest.plan_hash}
    files = {**pictures.listed, **manifests.file_entries(small)}
    return {EXPORTED: atomic.json_bytes({**about, "files": files})}


def configuration(manifest: Manifest) -> str:
    """The options that reproduce a dataset, as TOML for ``gif-datasets expand --config``."""
    recipe, plan = manifest.plan.recipe, manifest.plan.content
    values = {**manifest.plan.settings, "samples_per_shard": _samples_per_shard(manifest)}
    known = {name: value for name, value in sorted(values.items()) if name in ExpansionConfig.__dataclass_fields__}
    lines = [f"{name} = {_toml(value)}" for name, value in known.items() if value is not None]
    words = ["gif-datasets expand SOURCE --out DIR --config config.toml", "--device", recipe.device]
    words += ["--limit", str(plan["limit"])] if plan.get("limit") else []
    words += ["--validation", "SOURCE2"] if plan.get("validation") else []
    about = [f"# {manifest.plan.seeds} seed images; plan {manifest.plan_hash}", f"# {' '.join(words)}"]
    if recipe.prior.name not in ("embedded", "linear"):
        about.append("# prior: use the path of the folder whose digest is " + recipe.prior.digest)
    return "\n".join([*about, *lines]) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML: JSON, except for strings, because half of a surrogate pair is not a character."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A double-quoted TOML string; all but printable ASCII is escaped, astral characters as one."""
    escaped = (
        c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
        for c in text
    )
    return '"' + "".join(escaped) + '"'


def _samples_per_shard(manifest: Manifest) -> int | None:
    """The option ``samples_per_shard``; None if the shards have their default sizes."""
    plan, validation = manifest.plan, manifest.validation
    block = manifest.options["decode_batch"]
    size, validation_size = (shard_size(samples, block) for samples in (manifest.samples, validation))
    synthetic_seeds = plan.synthetic_seeds if plan.originals else 0
    synthetic_validation = plan.synthetic_validation
    counts = (manifest.originals, synthetic_seeds, manifest.synthetic - synthetic_seeds)
    parts = (
        *((count, size) for count in counts),
        *((count, validation_size) for count in (validation - synthetic_validation, synthetic_validation)),
    )
    usual = [min(n, count - start) for count, n in parts for start in range(0, count, n)]
    sizes = plan.content.get("shards", usual)
    return None if sizes == usual else max(sizes)


def text_of(file: File) -> str:
    """The text of a file; raises ConfigError if it is not UTF-8."""
    content = file.content.read_bytes() if isinstance(file.content, Path) else file.content
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{manifests.CARD} is not UTF-8 text: {error}") from error
