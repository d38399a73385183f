"""The metadata of a card as YAML, for the folder's card and for the one on the Hub.

Readers are of two kinds: Python's are of YAML 1.1, the Hub's own is of YAML 1.2. A text that is not a plain word is
quoted, so that both read it as a text: ``no`` is a boolean to the first, ``02691156`` a number to the second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./*-]*")


def card_yaml(metadata: Mapping[str, Any]) -> str:
    """Write metadata as block YAML, in its order, without the fences ``---``.

    Args:
        metadata: Dicts, lists and plain values.

    Example:
        >>> print(card_yaml({"license": "mit", "names": {"0": "no", "1": "ant bear"}, "sizes": [1]}), end="")
        license: mit
        names:
          "0": 'no'
          "1": "ant bear"
        sizes:
        - 1
    """
    import yaml

    text: str = yaml.dump(metadata, Dumper=_dumper(), sort_keys=False, width=float("inf"))
    return text


@lru_cache(maxsize=1)
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Writes a value again where it is repeated, and quotes texts."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if _PLAIN.fullmatch(text) else '"')

    Dumper.add_representer(str, represent)
    return Dumper
