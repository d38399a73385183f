"""Parts of pages that are made from the code when the pages are built: `<!-- from code: NAME -->` marks their place.

python docs/from_code.py NAME    # prints one part, such as structure
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from graphlib import CycleError, TopologicalSorter
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import grimp

import gif_datasets
from gif_datasets.cli import build_parser
from gif_datasets.cli.methods import methods_value
from gif_datasets.cli.texts import WHERE

PACKAGE = "gif_datasets"
ROOT = Path(__file__).parents[1]
OLD_PATHS = "aliases"
"""Folder of modules that only keep the old paths of others for one release; neither counted nor drawn."""
BOX, HEIGHT, GAP, RISE, MOST = 108, 26, 12, 48, 7
"""Drawing of the modules: width and height of a box, gap beside it, height of a row, most boxes in a row."""


# --- the command line ---------------------------------------------------------------------------------------------


def command_line() -> str:
    """The help of every command, as it is printed."""
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    return "\n\n".join(f"## {name}\n\n```text\n{parser.format_help()}```" for name, parser in _commands(build_parser()))


def _commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                yield f"{name}{word}", child
                yield from _commands(child, f"{name}{word} ")


# --- methods and options ------------------------------------------------------------------------------------------


def methods() -> str:
    """A row for each method."""
    rows = [
        [f"`{m['name']}`", m["summary"], ", ".join(f"`{k}={_value(v)}`" for k, v in m["defaults"].items())]
        for m in methods_value()["methods"]
    ]
    return _table(["method", "what", "its own defaults"], rows)


def options() -> str:
    """A table of options for each part that a method may have."""
    listed = methods_value()["options"]
    parts = dict.fromkeys(option["of"] for option in listed)
    return "\n\n".join(f"### {WHERE.get(part, 'every method')}\n\n{_options(listed, part)}" for part in parts)


def _options(listed: list[dict[str, Any]], part: str) -> str:
    rows = []
    for option in listed:
        if option["of"] == part:
            choices = ", ".join(f"`{choice}`" for choice in option["choices"]) if option["name"] != "method" else ""
            default = "by method" if option["by_method"] else f"`{_value(option['default'])}`"
            rows.append([f"`{option['name']}`", default, option["help"] + (f" ({choices})" if choices else "")])
    return _table(["option", "default", "what"], rows)


def presets() -> str:
    """What each preset sets."""
    return "\n".join(
        f"- `preset={p['name']}`: {p['summary']} Of `{p['method']}`: "
        + ", ".join(f"`{name}={_value(value)}`" for name, value in p["options"].items())
        for p in methods_value()["presets"]
    )


def _value(value: object) -> str:
    """A default as it is written after `--set`; a long list is cut short."""
    if isinstance(value, (list, tuple)):
        shown = [f'"{item}"' for item in value[:4]]
        return f"[{', '.join(shown)}{', ...' if len(value) > 4 else ''}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- input situations ---------------------------------------------------------------------------------------------


def situations() -> str:
    """A table for each outcome of the situations that the tests walk through."""
    listed = runpy.run_path(str(ROOT / "tests" / "situations.py"))["SITUATIONS"]
    return f"{len(listed)} situations.\n\n" + "\n\n".join(_situations(listed, *shown) for shown in _OUTCOMES)


_OUTCOMES = (
    ("kept", "Kept", "All five images are seeds. Seed and copy are alike:", "seed and copy"),
    (
        "left out",
        "Left out",
        "One of five is left out and named; the others are seeds:",
        "the warning says",
    ),
    ("refused", "Refused", "The whole dataset is refused, before anything is made:", "the error says"),
)


def _situations(listed: Sequence[Any], outcome: str, heading: str, text: str, says: str) -> str:
    rows = [[row.form, row.container, row.label, row.says] for row in listed if row.outcome == outcome]
    return f"## {heading}: {len(rows)}\n\n{text}\n\n{_table(['image', 'in', 'label', says], rows)}"


# --- Python -------------------------------------------------------------------------------------------------------


def public_names() -> str:
    """Every name of `__all__` with its docstring; errors come last."""
    names = [name for name in gif_datasets.__all__ if name != "__version__"]
    errors = [name for name in names if _is_error(getattr(gif_datasets, name))]
    rest = "\n\n".join(f"## {name}\n\n{_documented(name)}" for name in names if name not in errors)
    return f"{rest}\n\n## Errors\n\n" + "\n\n".join(map(_documented, errors))


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _documented(name: str) -> str:
    value = getattr(gif_datasets, name)
    kind = "autoclass" if isinstance(value, type) else "autofunction"
    full = f"{value.__module__}.{name}"
    if _is_error(value):
        return f"```{{eval-rst}}\n.. autoclass:: {full}()\n   :show-inheritance:\n```"
    if name == "ExpansionConfig":  # its signature is the table of options
        return f"```{{eval-rst}}\n.. autoclass:: {full}()\n   :members: build\n```"
    return f"```{{eval-rst}}\n.. {kind}:: {full}\n" + ("   :members:\n" if kind == "autoclass" else "") + "```"


# --- modules ------------------------------------------------------------------------------------------------------


def structure() -> str:
    """Counts of folders, files and imports, as a table."""
    graph = _graph()
    edges = [(name, other) for name in graph.modules for other in graph.find_modules_directly_imported_by(name)]
    files = Counter(path.parent for path in (ROOT / PACKAGE).rglob("*.py") if path.parent.name != OLD_PATHS)
    fullest = max(files, key=lambda folder: files[folder])
    layers = _layers()
    upward = [edge for edge in edges if _is_upward(*map(_folder, edge), layers)]
    rows = [
        ["modules", str(sum(files.values()))],
        ["folders with code, sub-folders included", str(len(files) - 1)],
        [f"files in the fullest folder (`{fullest.relative_to(ROOT / PACKAGE)}`)", str(files[fullest])],
        ["imports between modules", str(len(edges))],
        ["of these, upward imports", str(len(upward))],
        ["of these, circles between folders", str(_circles(_imports()))],
        ["lines in the contract of layers (`setup.cfg`)", str(len(layers))],
    ]
    return _table(["what", "count"], rows)


def _graph() -> grimp.ImportGraph:
    """Every import inside the package, without those of the old paths."""
    del gif_datasets.__path__[1:]  # where the old paths are found
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    for name in sorted(graph.modules):
        if _folder(name) == OLD_PATHS:
            graph.remove_module(name)
    return graph


def _folder(name: str) -> str:
    """The folder or module of the package's first level that a module belongs to."""
    return name.split(".")[1] if "." in name else ""


def _layers() -> list[list[str]]:
    """Layers of the package from top to bottom, as the import contract has them."""
    contracts = ConfigParser()
    contracts.read(ROOT / "setup.cfg")
    lines = contracts["importlinter:contract:layers"]["layers"].split("\n")
    return [[name.strip() for name in line.split("|")] for line in lines if line]


def _is_upward(name: str, other: str, layers: list[list[str]]) -> bool:
    """Whether an import leads up, or across between neighbours of one layer."""
    level = {folder: number for number, layer in enumerate(layers) for folder in layer}
    return name != other and name in level and other in level and level[other] <= level[name]


def _circles(imports: dict[str, set[str]]) -> int:
    """Circles of imports: each is counted, then one of its imports removed to find the next."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        other, name = error.args[1][:2]
        return 1 + _circles({**imports, name: imports[name] - {other}})
    return 0


def modules() -> str:
    """The real imports between modules, drawn; then a row for each module."""
    imports = _imports()
    levels = _levels(imports)
    rows = [
        [f"`{name}`", _first_line(name), ", ".join(f"`{other}`" for other in sorted(imports[name])) or "nothing"]
        for name in sorted(imports, key=lambda name: (-levels[name], name))
    ]
    return f"{_drawing(imports, levels)}\n\n{_table(['module', 'what', 'imports from the package'], rows)}"


def _imports() -> dict[str, set[str]]:
    """What each module or folder of the first level imports from the others."""
    graph = _graph()
    children = graph.find_children(PACKAGE)
    for child in children:
        if graph.find_children(child):
            graph.squash_module(child)
    below = {child: graph.find_modules_directly_imported_by(child) & children - {child} for child in children}
    return {_folder(child): set(map(_folder, others)) for child, others in below.items()}


def _levels(imports: dict[str, set[str]]) -> dict[str, int]:
    """Length of the longest chain of imports below each module; a circle is an error."""
    levels: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        levels[name] = max((1 + levels[other] for other in imports[name]), default=0)
    return levels


def _first_line(name: str) -> str:
    doc = " ".join((import_module(f"{PACKAGE}.{name}").__doc__ or "").split("\n\n")[0].split())
    return doc.replace("``", "`")


def _drawing(imports: dict[str, set[str]], levels: dict[str, int]) -> str:
    """Boxes in rows: a module stands above everything that it imports, with a line to each."""
    rows: list[list[str]] = []
    for level in range(max(levels.values()), -1, -1):
        names = sorted(name for name in imports if levels[name] == level)
        rows += [names[start : start + MOST] for start in range(0, len(names), MOST)]
    width, height = MOST * (BOX + GAP), len(rows) * RISE
    places = {
        name: ((width - len(row) * (BOX + GAP)) // 2 + GAP // 2 + x * (BOX + GAP), y * RISE + GAP)
        for y, row in enumerate(rows)
        for x, name in enumerate(row)
    }
    boxes = [_box(name, sorted(imports[name]), places) for name in sorted(places)]
    size = f'viewBox="0 0 {width} {height}" style="min-width:{width * 3 // 4}px; width:100%"'
    return (
        f'<div style="overflow-x:auto"><svg {size} role="img" aria-label="Modules, each above those it imports">'
        f"<style>{_STYLE}</style>{''.join(boxes)}</svg></div>"
    )


_STYLE = (
    ".module line{stroke:currentColor;stroke-opacity:.08}"
    ".module:hover line{stroke:var(--color-brand-content);stroke-opacity:1}"
    ".module rect{fill:var(--color-background-secondary);stroke:currentColor}"
    ".module text{fill:currentColor;font-size:12px;text-anchor:middle}"
)


def _box(name: str, below: list[str], places: dict[str, tuple[int, int]]) -> str:
    """One module with lines to what it imports; the lines stand out under the pointer."""
    x, y = places[name]
    lines = [
        f'<line x1="{x + BOX // 2}" y1="{y + HEIGHT}" x2="{places[end][0] + BOX // 2}" y2="{places[end][1]}"/>'
        for end in below
    ]
    title = escape(f"{name} imports {', '.join(below) or 'nothing from the package'}")
    shape = f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="4"/>'
    text = f'<text x="{x + BOX // 2}" y="{y + 17}">{escape(name)}</text>'
    return f'<g class="module"><title>{title}</title>{"".join(lines)}{shape}{text}</g>'


# --- into the pages -----------------------------------------------------------------------------------------------

PARTS = {
    "command-line": command_line,
    "methods": methods,
    "options": options,
    "presets": presets,
    "situations": situations,
    "public-names": public_names,
    "structure": structure,
    "modules": modules,
}


def fill(app: object, page: str, source: list[str]) -> None:
    """Put the parts in their places (an unknown name is an error); links out of this folder become downloads."""
    text = re.sub(r"<!-- from code: (\S+) -->", lambda mark: PARTS[mark[1]](), source[0])
    source[0] = text.replace("](../", "](path:../")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    print(PARTS[sys.argv[1]]())
