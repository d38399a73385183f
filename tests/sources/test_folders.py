"""Folders of images: what is in them is read, or named; what is no class does not become one."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import pytest
from PIL import Image

import gif_datasets
from gif_datasets import BadImage, ExpandedDataset, ExpansionConfig, SourceError
from gif_datasets.cli import main
from gif_datasets.expansion.open import open_expansion
from gif_datasets.expansion.preview import preview_expansion
from gif_datasets.io.cache.store import is_cache
from gif_datasets.publish.export import export_expanded
from gif_datasets.sources import open_source
from gif_datasets.sources.base import list_seeds
from gif_datasets.sources.folders import FolderSource

BINARY = b"\x89\0\1\2" * 50
OPTIONS = {"ratio": 1, "method": "randaugment"}


def opened(folder: Path) -> FolderSource:
    source = open_source(str(folder))
    assert isinstance(source, FolderSource)
    return source


def png(path: Path) -> None:
    """An image, whatever its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (len(path.name), 9, 9)).save(path, "PNG")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.HEIC", BINARY, ".heic images are not read; convert"),
        ("a.heif", b"", ".heif images are not read"),
        ("a.jxl", b"\xff\x0a", ".jxl images are not read"),
        ("a.dcm", b"version https://git-lfs.github.com/spec/v1", ".dcm images are not read"),
        ("a.svg", b"<svg/>", ".svg images are not read"),
        ("scan", BINARY, "no suffix of an image that is read"),
        ("a.jpg_large", BINARY, ".jpg_large suffix of an image"),
        ("a.zip", BINARY, ".zip suffix of an image"),
        ("gone.jpg.dvc", b"outs:", "its content is not here (fetch it with dvc pull)"),
    ],
)
def test_what_may_be_an_image_is_named(seed_folder: Path, name: str, content: bytes, words: str) -> None:
    """By its suffix, or by a content that is no text; and it stops a run that is to stop."""
    (seed_folder / "bee" / name).write_bytes(content)
    source = opened(seed_folder)
    listed = list_seeds(source)
    assert (len(listed.seeds), len(listed.bad)) == (12, 1)
    assert listed.bad[0].startswith(f"bee/{name}: {words}")
    with pytest.raises(BadImage, match="on_bad_image=skip"):
        open_expansion(source, ExpansionConfig(on_bad_image="stop", prior="linear"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "caf\xe9".encode("latin-1")),
        ("label.xml", b"\0"),
        ("Thumbs.db", BINARY),
        ("LICENSE", b"Permission is granted\n"),
        ("list", "a\nb".encode("utf-16")),
        ("empty", b""),
        (".DS_Store", BINARY),
        ("._0.png", BINARY),
        ("0.png.dvc", b"outs:"),
    ],
)
def test_what_is_no_image_is_not_named(seed_folder: Path, name: str, content: bytes) -> None:
    """Notes, annotations, texts and what systems leave, beside the images."""
    (seed_folder / "ant" / name).write_bytes(content)
    assert list_seeds(opened(seed_folder)).bad == ()


def test_links_to_nothing_are_named(seed_folder: Path) -> None:
    """Of images, of folders in a class, and of a class; a pipe is not waited for."""
    (seed_folder / "ant" / "9.jpg").symlink_to("../../.git/annex/objects/9")
    (seed_folder / "ant" / "more").symlink_to("/nonexistent/more")
    (seed_folder / "ant" / "note.txt").symlink_to("nowhere")
    (seed_folder / "dog").symlink_to("/nonexistent/dog")
    os.mkfifo(seed_folder / "bee" / "a.png")
    os.mkfifo(seed_folder / "bee" / "pipe")
    listed = list_seeds(opened(seed_folder))
    assert listed.bad == (
        "ant/9.jpg: no such file (a link to ../../.git/annex/objects/9)",
        "ant/more: no such file (a link to /nonexistent/more)",
        "bee/a.png: is not a file",
        "dog: no such file (a link to /nonexistent/dog)",
    )
    shutil.rmtree(seed_folder / "ant")
    assert open_source(str(seed_folder)).classes == ("bee", "crab")


def test_a_folder_of_nothing_else_says_what_is_there(tmp_path: Path) -> None:
    """Where no image can be read, the first of those that cannot is named."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.heic").write_bytes(BINARY)
    with pytest.raises(SourceError, match=r"no images in the sub-folders .*; not read: a/x\.heic: \.heic images are"):
        open_source(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_files_that_may_not_be_read_may_be_images(seed_folder: Path) -> None:
    """So they are named."""
    (seed_folder / "ant" / "secret").write_bytes(b"")
    (seed_folder / "ant" / "secret").chmod(0)
    assert len(list_seeds(opened(seed_folder)).bad) == 1


def test_stereo_images_are_read(seed_folder: Path) -> None:
    """MPO is JPEG with further images: the first is taken, as of other files with several."""
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(seed_folder / "ant" / "9.mpo", format="MPO", save_all=True, append_images=[second])
    source = opened(seed_folder)
    assert (len(source), source.unreadable) == (13, [])
    red, _, blue = source.sample(4)[0].getpixel((8, 8))  # type: ignore[misc]
    assert red > 250 > 5 > blue


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found"])
def test_folders_of_systems_are_not_classes(seed_folder: Path, name: str) -> None:
    """Neither at the top nor among a class's images, whatever they hold."""
    png(seed_folder / name / "thumb.png")
    png(seed_folder / "ant" / name / "thumb.png")
    source = opened(seed_folder)
    assert (source.classes, len(source)) == (("ant", "bee", "crab"), 12)
    assert source.seed_warnings == ()


def test_classes_without_images_are_warned_of(seed_folder: Path, tmp_path: Path) -> None:
    """They stay, since labels count them; so do those of an export."""
    (seed_folder / "notes").mkdir()
    (seed_folder / "notes" / "a.txt").write_text("x")
    png(seed_folder / "logo.png")
    with pytest.warns(UserWarning, match="seeds: no image is read of the class notes; a class without"):
        listed = list_seeds(opened(seed_folder))
    assert len(listed.seeds) == 12
    assert opened(seed_folder).classes == ("ant", "bee", "crab", "notes")
    assert opened(seed_folder).warnings[0].startswith("1 images beside the classes' folders are of no class")
    (seed_folder / "others").mkdir()
    assert "of the classes notes, others;" in opened(seed_folder).seed_warnings[0]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["train/a/0", "valid/a/0", "test/a/0"], r"test, train, valid, .* a; give \S*/train .*--validation \S*/valid"),
        (["Train/a/0", "Test/0"], r"Test, Train, which .* such as a; give \S*/Train as the source$"),
        (["train2017/a/0", "val2017/a/0", "extra/0"], r"train2017, val2017, .* give \S*/train2017 .*--validation"),
        (["training_set/a/0", "training_set/b/0"], r"give \S*/training_set as the source$"),
        (["dev/a/0", "test/a/0"], r"give \S*/dev as the source, and --validation \S*/dev$"),
    ],
)  # fmt: skip
def test_parts_of_a_dataset_are_not_classes(tmp_path: Path, paths: list[str], words: str) -> None:
    """Refused, with the one to give."""
    for path in paths:
        png(tmp_path / f"{path}.png")
    with pytest.raises(SourceError, match=words):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "paths",
    [
        ["train/0", "car/0", "bus/0"],
        ["train/steam/0", "train/electric/0", "car/red/0"],
        ["train/0", "test/0"],
        ["train/steam/0", "test/tube/0", "car/0"],
    ],
)
def test_classes_may_be_called_train_and_test(tmp_path: Path, paths: list[str]) -> None:
    """Unless they have classes themselves."""
    for path in paths:
        png(tmp_path / f"{path}.png")
    assert open_source(str(tmp_path)).classes == tuple(sorted({path.partition("/")[0] for path in paths}))


def test_what_this_package_wrote_is_not_a_class(seed_folder: Path, tmp_path: Path) -> None:
    """Expansions, exports and caches inside the source, at any depth: the next run has the same plan."""
    for _ in range(2):
        out, cache = seed_folder / "runs" / "today" / "out", seed_folder / "cache"
        gif_datasets.expand(str(seed_folder), out, cache_dir=cache, **OPTIONS)
        expanded = ExpandedDataset(str(seed_folder), cache_dir=seed_folder / "made" / "cache", **OPTIONS)
        expanded.provenance(13)
        export_expanded(out, seed_folder / "pictures")
        assert is_cache(cache)
    source = opened(seed_folder)
    assert (source.classes, source.seed_warnings, source.unreadable) == (("ant", "bee", "crab"), (), [])
    assert not is_cache(seed_folder / "ant")
    (cache / "photo.png").touch()
    assert not is_cache(cache)


@pytest.mark.parametrize("given", ["out", "cache_dir"])
def test_outputs_in_what_counts_as_a_class_are_refused(seed_folder: Path, tmp_path: Path, given: str) -> None:
    """A folder that was made beforehand and is empty would be a class in this run, and none in the next."""
    (seed_folder / "made").mkdir()
    places = {"out": tmp_path / "out", "cache_dir": tmp_path / "cache"} | {given: seed_folder / "made" / "x"}
    validation = tmp_path / "validation"
    for name in ("ant", "bee"):
        png(validation / name / f"a{name}.png")
    with (
        pytest.warns(UserWarning, match="no image is read of the class made"),
        pytest.raises(SourceError, match="is inside the folder seeds, where the next run"),
    ):
        gif_datasets.expand(str(seed_folder), validation=str(validation), **places, **OPTIONS)  # type: ignore[arg-type]


def test_previews_inside_a_class_are_refused(seed_folder: Path, tmp_path: Path) -> None:
    """They would be images of it; beside the classes they are none."""
    found = open_expansion(opened(seed_folder), ExpansionConfig(ratio=1, method="randaugment"))
    for place in (seed_folder / "ant", seed_folder / "new"):
        with pytest.raises(SourceError, match="is inside the folder seeds"):
            preview_expansion(found, place / "look.png", 2, tmp_path / "cache")
    preview_expansion(found, seed_folder / "look.png", 2, tmp_path / "cache")
    assert opened(seed_folder).classes == ("ant", "bee", "crab")


def test_the_command_warns_whatever_python_is_told(
    seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning of a command is what it says, not a matter of Python's filters."""
    (seed_folder / "notes").mkdir()
    monkeypatch.setenv("GIF_DATASETS_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        options = ["--method", "randaugment", "--ratio", "1", "--workers", "1"]
        assert main(["expand", str(seed_folder), "--out", str(tmp_path / "out"), *options]) == 0
    assert [str(one.message).partition(";")[0] for one in said] == ["seeds: no image is read of the class notes"]
