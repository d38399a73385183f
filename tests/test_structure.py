"""The listing of the package stays a table of contents."""

from collections import Counter
from pathlib import Path

import gif_datasets

PACKAGE = Path(gif_datasets.__file__).parent
MOST_FILES = 24


def test_no_folder_has_more_modules_than_a_person_reads_at_a_glance() -> None:
    files = Counter(path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    assert {str(folder): count for folder, count in files.items() if count > MOST_FILES} == {}


def test_every_folder_says_what_it_is_for() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    silent = [folder for folder in folders if not (folder / "__init__.py").read_text().startswith('"""')]
    assert silent == []
