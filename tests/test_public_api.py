"""What the package exports, to the last argument and flag, and that importing it is light.

``public_api.txt`` is what users may rely on. After a change that is meant: ``python tests/test_public_api.py``, and
look at the difference; what is taken away or renamed breaks somebody's program.
"""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gif_datasets
from gif_datasets.cli import build_parser

PINNED = Path(__file__).with_name("public_api.txt")


def surface() -> str:
    """Names and signatures of all that is exported, then commands and their flags."""
    names = (line for name in gif_datasets.__all__ for line in _lines(name, getattr(gif_datasets, name)))
    text = "\n".join([*names, *_commands(build_parser())]) + "\n"
    return re.sub(r" at 0x[0-9a-f]+", "", text)  # of defaults that are functions


def _lines(name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        yield name + (str(inspect.signature(value)) if callable(value) else "")
    elif issubclass(value, Exception):
        yield f"{name} < {', '.join(base.__name__ for base in value.__bases__)}"
    else:
        yield name + str(inspect.signature(value))
        for member in sorted(dir(value)):
            if not member.startswith("_"):
                yield from _member(f"{name}.{member}", inspect.getattr_static(value, member))


def _member(name: str, found: Any) -> Iterator[str]:
    """Ours alone: other libraries' may come and go with their versions."""
    code = getattr(found, "fget", None) or getattr(found, "func", None) or getattr(found, "__func__", found)
    if not getattr(code, "__module__", "").startswith("gif_datasets"):
        return
    yield name + (str(inspect.signature(code)) if inspect.isfunction(found) or hasattr(found, "__func__") else "")


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    subs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command, own in subs.choices.items():
        for action in own._actions:
            if not isinstance(action, argparse._HelpAction):
                named = " ".join(action.option_strings) or action.dest
                chosen = f" {{{','.join(map(str, action.choices))}}}" if action.choices else ""
                yield f"gif-datasets {command}: {named}{chosen}{' (required)' if action.required else ''}"


def test_the_public_surface_is_pinned() -> None:
    """Names, arguments, defaults and flags; see the top of this file."""
    assert surface() == PINNED.read_text()


def test_all_names_are_there_and_nothing_else() -> None:
    """`__all__` is sorted, complete and importable; unknown names raise."""
    assert gif_datasets.__all__ == sorted(gif_datasets.__all__)
    for name in gif_datasets.__all__:
        assert getattr(gif_datasets, name) is not None
    assert {"ExpandedDataset", "ExpansionConfig", "expand", "load_expanded"} <= set(dir(gif_datasets))
    assert not hasattr(gif_datasets, "nonsense")


def test_import_is_light() -> None:
    """`import gif_datasets` loads none of the heavy libraries."""
    heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "open_clip", "timm", "datasets", "webdataset"}
    code = f"import sys, gif_datasets; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_is_a_gif_datasets_error() -> None:
    """One `except` catches all; usage errors are ValueErrors, a missing extra is an ImportError."""
    errors = [
        value
        for value in vars(gif_datasets.errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(errors) >= 11
    assert all(issubclass(error, gif_datasets.GifDatasetsError) for error in errors)
    assert issubclass(gif_datasets.ConfigError, ValueError)
    assert issubclass(gif_datasets.MissingExtra, ImportError)


if __name__ == "__main__":
    PINNED.write_text(surface())
