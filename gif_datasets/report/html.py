"""HTML pages from the templates in ``gif_datasets/assets``.

Every value is escaped. Only what is already HTML, such as a chart, is passed as :class:`markupsafe.Markup`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


def render(template_name: str, **values: Any) -> str:
    """Render a template; a page extends ``page.html``, which needs a ``title``.

    Args:
        template_name: File in ``gif_datasets/assets``.
        values: What the template uses; a value that it uses and that is missing is an error.
    """
    return _environment().get_template(template_name).render(values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["style"] = Markup(_asset("report.css"))  # noqa: S704 - a file of this package
    return environment


def _asset(name: str) -> str:
    return (files("gif_datasets") / "assets" / name).read_text(encoding="utf-8")
