"""Examples of docs/frameworks.md, for tests and for processes that tests start."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torchvision.transforms import v2

PAGE = Path(__file__).parents[1] / "docs" / "frameworks.md"


def block(heading: str = "", number: int = 0) -> CodeType:
    """A block of Python below a heading of the page, or before the first."""
    text = PAGE.read_text()
    part = text.partition(f"\n## {heading}\n")[2] if heading else text
    found = re.findall(r"```python\n(.*?)```", part.partition("\n## ")[0], re.DOTALL)
    return compile(found[number], PAGE.name, "exec")


class Seen:
    """A transform to tensors that counts the images that pass through it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def __call__(self, image: Any) -> torch.Tensor:
        tensor: torch.Tensor = self._to_tensor(image)
        self.counts[hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]] += 1
        return tensor


def run(heading: str, train: Any) -> tuple[dict[str, Any], Counter[str]]:
    """Run the example of a heading on a set: the names that it leaves, and the images that it saw."""
    seen = train.transform = Seen()
    names: dict[str, Any] = {"train": train, "torch": torch, "v2": v2}
    exec("from gif_datasets import DataLoader", names)
    exec(block(number=1), names)
    torch.manual_seed(0)
    exec(block(heading), names)
    return names, seen.counts
