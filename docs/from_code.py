"""Parts of pages that are made of the code when the pages are built: `<!-- from code: NAME -->` marks their place."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from html import escape
from importlib import import_module
from typing import Any

import grimp

import gif_datasets
from gif_datasets.cli import build_parser
from gif_datasets.cli.commands import methods_value
from gif_datasets.cli.texts import WHERE

PACKAGE = "gif_datasets"
BOX, HEIGHT, GAP, RISE, MOST = 108, 26, 12, 48, 7
"""Of the drawing of modules: width and height of a box, gap beside it, height of a row, and boxes in one."""


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
    return _table(["method", "what", "defaults of its own"], rows)


def options() -> str:
    """A table of options for each part that a method may have."""
    found = methods_value()["options"]
    parts = dict.fromkeys(option["of"] for option in found)
    return "\n\n".join(f"### {WHERE.get(part, 'every method')}\n\n{_options(found, part)}" for part in parts)


def _options(found: list[dict[str, Any]], part: str) -> str:
    rows = []
    for option in found:
        if option["of"] == part:
            choices = ", ".join(f"`{choice}`" for choice in option["choices"]) if option["name"] != "method" else ""
            default = "by method" if option["by_method"] else f"`{_value(option['default'])}`"
            rows.append([f"`{option['name']}`", default, option["help"] + (f" ({choices})" if choices else "")])
    return _table(["option", "default", "what"], rows)


def presets() -> str:
    """What each preset sets, of one method."""
    return "\n".join(
        f"- `preset={p['name']}`: {p['summary']} Of `{p['method']}`: "
        + ", ".join(f"`{name}={_value(value)}`" for name, value in p["options"].items())
        for p in methods_value()["presets"]
    )


def _value(value: object) -> str:
    """A default as one writes it behind `--set`, a long list cut short."""
    if isinstance(value, (list, tuple)):
        shown = [f'"{item}"' for item in value[:4]]
        return f"[{', '.join(shown)}{', ...' if len(value) > 4 else ''}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- Python -------------------------------------------------------------------------------------------------------


def public_names() -> str:
    """Every name of `__all__`, by its docstring; errors after the rest."""
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


def modules() -> str:
    """The real imports between modules, drawn; then a row for each module."""
    imports = _imports()
    levels = _levels(imports)
    rows = [
        [f"`{name}`", _first_line(name), ", ".join(f"`{other}`" for other in sorted(imports[name])) or "none of ours"]
        for name in sorted(imports, key=lambda name: (-levels[name], name))
    ]
    return f"{_drawing(imports, levels)}\n\n{_table(['module', 'what', 'imports'], rows)}"


def _imports() -> dict[str, set[str]]:
    """What each module, or folder of modules, imports of ours; what only type checkers see is left out."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    children = graph.find_children(PACKAGE)
    for child in children:
        if graph.find_children(child):
            graph.squash_module(child)
    below = {child: graph.find_modules_directly_imported_by(child) & children - {child} for child in children}
    short = {child: child.removeprefix(f"{PACKAGE}.") for child in children}
    return {short[child]: {short[other] for other in others} for child, others in below.items()}


def _levels(imports: dict[str, set[str]]) -> dict[str, int]:
    """Length of the longest chain of imports below each; a cycle is an error."""
    levels: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        levels[name] = max((1 + levels[other] for other in imports[name]), default=0)
    return levels


def _first_line(name: str) -> str:
    doc = " ".join((import_module(f"{PACKAGE}.{name}").__doc__ or "").split("\n\n")[0].split())
    return doc.replace("``", "`")


def _drawing(imports: dict[str, set[str]], levels: dict[str, int]) -> str:
    """Boxes in rows, a module above all that it imports, with a line to each of these."""
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
    """A module, and lines from it to what it imports, which stand out under the pointer."""
    x, y = places[name]
    lines = [
        f'<line x1="{x + BOX // 2}" y1="{y + HEIGHT}" x2="{places[end][0] + BOX // 2}" y2="{places[end][1]}"/>'
        for end in below
    ]
    told = escape(f"{name} imports {', '.join(below) or 'none of ours'}")
    shape = f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="4"/>'
    text = f'<text x="{x + BOX // 2}" y="{y + 17}">{escape(name)}</text>'
    return f'<g class="module"><title>{told}</title>{"".join(lines)}{shape}{text}</g>'


# --- into the pages -----------------------------------------------------------------------------------------------

PARTS = {
    "command-line": command_line,
    "methods": methods,
    "options": options,
    "presets": presets,
    "public-names": public_names,
    "modules": modules,
}


def fill(app: object, page: str, source: list[str]) -> None:
    """Put the parts in their places, an unknown one being an error; links out of this folder become downloads."""
    text = re.sub(r"<!-- from code: (\S+) -->", lambda mark: PARTS[mark[1]](), source[0])
    source[0] = text.replace("](../", "](path:../")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
