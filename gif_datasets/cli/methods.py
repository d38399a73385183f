"""``gif-datasets methods``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gif_datasets.cli.arguments import Commands, add_json, new_command
from gif_datasets.cli.shared import print_result

if TYPE_CHECKING:
    from gif_datasets.methods import Method


def add(commands: Commands) -> None:
    """Declare the command and its flags."""
    command = new_command(commands, "methods", run, "list the methods, presets and options")
    add_json(command)


def run(args: argparse.Namespace) -> int:
    """List methods, presets and options."""
    from gif_datasets.cli.texts import methods_text

    print_result(args, methods_value(), methods_text)
    return 0


def methods_value() -> dict[str, Any]:
    """Methods, presets and options as JSON types; the documentation is built from them."""
    from gif_datasets.methods import METHODS, SELECT, SELECT_SUMMARY, SELECTIVE

    methods = [_method(method) for method in METHODS.values() if not method.selects]
    selective = {"name": SELECT + "METHOD", "summary": SELECT_SUMMARY, "defaults": dict(SELECTIVE)}
    return {"methods": [*methods, selective], "presets": _presets(), "options": _options()}


def _method(method: Method) -> dict[str, Any]:
    from gif_datasets.config import own_defaults

    return {
        "name": method.name,
        "family": method.family,
        "summary": method.summary,
        "defaults": own_defaults(method),
    }


def _presets() -> list[dict[str, Any]]:
    """Every preset, with the options that it sets for its example method."""
    from gif_datasets.methods import METHODS, PRESETS

    return [
        {
            "name": name,
            "summary": preset.summary,
            "method": preset.example,
            "options": preset.options(METHODS[preset.example], {}),
        }
        for name, preset in PRESETS.items()
    ]


def _options() -> list[dict[str, Any]]:
    from dataclasses import fields

    from gif_datasets.config import ExpansionConfig
    from gif_datasets.methods import NEUTRAL

    return [
        {
            "name": spec.name,
            "default": list(spec.default) if isinstance(spec.default, tuple) else spec.default,
            "choices": list(spec.metadata.get("choices", ())),
            "of": spec.metadata["of"],
            "by_method": spec.name in NEUTRAL,
            "help": spec.metadata["help"],
        }
        for spec in fields(ExpansionConfig)
    ]
