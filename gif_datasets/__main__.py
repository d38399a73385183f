"""``python -m gif_datasets``."""

from __future__ import annotations

import sys

from gif_datasets.cli import main

if __name__ == "__main__":
    sys.exit(main())
