"""Whether what is marked in a source is kept, or ignored: it is never lost in silence."""

from __future__ import annotations

from gif_datasets.errors import SourceError
from gif_datasets.sources.base import Source, marks_of, object_classes_of
from gif_datasets.sources.hugging_face import HuggingFaceSource


def keeping(source: Source, keep: str | None, beside: Source | None = None) -> Source:
    """The source, read with its objects where they are kept.

    Args:
        source: The source.
        keep: ``"boxes"`` or ``"masks"``; ``"none"`` to ignore them; None if that was not said.
        beside: The source that it is the validation set of.

    Raises:
        SourceError: If it has objects and nobody said what is to become of them, or none and they are to be kept.
    """
    found, classes = marks_of(source), object_classes_of(source)
    if keep is None and found:
        raise SourceError(
            f"{source.name} has {found}, which copies do not keep by themselves; say keep=boxes or keep=masks to keep"
            " them, or keep=none to do without"
        )
    if keep in (None, "none"):
        return source
    if not classes:
        what = f"{found}, which is not read" if found else "no boxes"
        raise SourceError(
            f"{source.name} has {what}, got keep={keep}; give coco:FOLDER?annotations=FILE, yolo:FOLDER, or a Hugging"
            " Face dataset with a column of objects (bbox and category)"
        )
    if beside is not None and (others := sorted(set(classes) - set(object_classes_of(beside)))):
        raise SourceError(
            f"the validation set {source.name} has objects of the class {others[0]!r}, which {beside.name} has not;"
            " give one of the same classes"
        )
    return source.keeping() if isinstance(source, HuggingFaceSource) else source
