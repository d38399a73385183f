"""What lies in a folder of images and is not read: files that may be images are named, and the rest is passed over."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from gif_datasets.io.cache.store import is_cache
from gif_datasets.types import PLAN_FILE

_NOT_DATA = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"))
"""Folders of operating systems and archivers."""
_IMAGES = re.compile(
    r"\.(heic|heif|hif|jxl|dcm|dicom|nii|mha|nrrd|svg|eps|psd|xcf|exr|hdr|fits?|ico|icns|cr2|cr3|nef|arw|dng|orf|rw2|raf"
    r"|raw|npy|xpm|xbm|pcx|dds)"
)
"""Suffixes of images that are not read, whatever the file holds."""
_OTHERS = re.compile(
    r"\.(txt|csv|tsv|jsonl?|xml|ya?ml|toml|md|rst|html?|log|ini|cfg|db|lnk|url|pyc?|ipynb|sh|bat|docx?|odt|xlsx?|ods|md5"
    r"|sha1|sha256)"
)
"""Suffixes of notes, tables, annotations, programs and the files of operating systems."""
_COCO = re.compile(r"(.*[._])?coco\.json|instances(_.*)?\.json")
_POINTER = ".dvc"
_HEAD = 4096
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # in no text, except one of 16 bits a character
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_SPLIT = re.compile(
    r"(train(ing)?|val(id(ation)?)?|dev|test(ing)?|eval)([ _-]?(set|data|images|[0-9]+))?", re.IGNORECASE
)


def is_folder_of_images(path: Path) -> bool:
    """Whether a folder may have images: not a hidden one, nor one of a system, of an expansion, or of the cache."""
    return path.is_dir() and not path.name.startswith(".") and path.name not in _NOT_DATA and not is_own(path)


def is_own(path: Path) -> bool:
    """Whether a folder was written by this package: an expansion, an export, a comparison, a prior, or a cache."""
    return (path / PLAN_FILE).exists() or is_cache(path)


def is_split(name: str) -> bool:
    """Whether a folder is called as a part of a dataset is.

    Example:
        >>> [name for name in ("train", "Valid", "test_set", "val2017", "trains", "testudo") if is_split(name)]
        ['train', 'Valid', 'test_set', 'val2017']
    """
    return _SPLIT.fullmatch(name) is not None


def marks_in(folder: Path) -> str:
    """What a folder, or one right below it, has of boxes, as far as names tell; empty if nothing.

    Files of COCO's annotations by their usual names, and folders of YOLO's labels.
    """
    for place in (folder, *sorted(path for path in folder.iterdir() if is_folder_of_images(path))):
        with contextlib.suppress(PermissionError):  # it is named where images are looked for
            if found := _marks_at(place, few=place in (folder, folder / "annotations")):
                return found.format(folder=folder)
    return ""


def _marks_at(place: Path, few: bool) -> str:
    """The same of one folder, with a gap for the dataset's; it is listed where it has ``few`` files."""
    names = sorted(path.name for path in place.iterdir()) if few else ["_annotations.coco.json"]
    file = next((place / name for name in names if _COCO.fullmatch(name) and (place / name).is_file()), None)
    if file is not None:
        return f"boxes in {_plain(file)}, which coco:{{folder}}?annotations={_plain(file)} reads"
    labels = place / "labels"
    if labels.is_dir() and (place / "images").is_dir() and any(labels.rglob("*.txt")):
        return f"boxes in {_plain(labels)}, which yolo:{_plain(place)} reads"
    return ""


def _plain(path: Path) -> str:
    """A path as a part of a text with gaps."""
    return str(path).replace("{", "{{").replace("}", "}}")


def why_not_there(path: Path) -> str:
    """Why there is nothing under a name; empty if there is something."""
    if path.is_symlink() and not path.exists():
        return f"no such file (a link to {path.readlink()})"
    if path.suffix.lower() == _POINTER and not path.with_suffix("").exists():
        return "its content is not here (fetch it with dvc pull)"
    return ""


def why_not_read(path: Path) -> str:
    """Why a file without the suffix of an image is not read; empty if it is not an image, as far as its start tells."""
    suffix = path.suffix.lower()
    if missing := why_not_there(path):
        return "" if _OTHERS.fullmatch(suffix) else missing
    if _OTHERS.fullmatch(suffix) or not (_IMAGES.fullmatch(suffix) or _may_be_image(path)):
        return ""
    if _IMAGES.fullmatch(suffix):
        return f"{suffix} images are not read; convert it to PNG or JPEG"
    return f"{suffix or 'no'} suffix of an image that is read; if it is one, give it its own, such as .png"


def _may_be_image(path: Path) -> bool:
    """Whether a file has content that is not text; one that cannot be read may have."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return True
    return not head.startswith(_WIDE) and _CONTROL.search(head) is not None
