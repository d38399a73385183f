"""How Sphinx builds these pages; a warning, such as a link that leads nowhere, is an error.

pip install ".[docs]" && sphinx-build -W --keep-going -b html docs build/docs
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from gif_datasets import __version__  # noqa: E402 - of this clone

project = "gif_datasets"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
add_module_names = False
default_role = "code"  # docstrings write `name` as these pages do

myst_heading_anchors = 4
nb_execution_mode = "force"  # the notebook runs in every build
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # progress bars, and what other libraries say about notebooks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
napoleon_custom_sections = ["Source"]

html_theme = "furo"
html_title = f"gif_datasets {release}"
html_copy_source = html_show_sourcelink = html_show_copyright = False
