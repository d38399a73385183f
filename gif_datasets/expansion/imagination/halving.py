"""Go on in halves where memory runs out."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from gif_datasets.config import ExpansionConfig
from gif_datasets.errors import PriorError
from gif_datasets.guidance.guide import Guided

Result = TypeVar("Result")


@dataclass
class Memory:
    """Runs blocks in the memory that there is; a size that once did not fit is not tried again.

    Each has one function for an option. A smaller block draws the same and rounds differently, so the first time gives
    a warning.
    """

    _too_many: dict[str, int] = field(default_factory=dict)  # the fewest that did not fit, by option

    def rows(self, run: Callable[[Sequence[Any]], Iterable[Result]], rows: Sequence[Any], option: str) -> list[Result]:
        """Rows of ``run(rows)``, in halves where that needs more memory than there is.

        Args:
            run: Makes one thing of each row.
            rows: What to make.
            option: Name of the option that bounds the number of rows.

        Raises:
            PriorError: If one row alone does not fit.
        """
        if len(rows) < self._too_many.get(option, len(rows) + 1):
            try:
                return list(run(rows))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _lacks_memory(error):
                    raise
                if len(rows) == 1:
                    raise PriorError(
                        "out of memory even for one image at a time; use a smaller prior, or --device cpu"
                    ) from error
            self._go_on_in_halves(len(rows), option)
        half = len(rows) // 2
        return [*self.rows(run, rows[:half], option), *self.rows(run, rows[half:], option)]

    def scored(self, run: Callable[..., Guided], config: ExpansionConfig) -> Guided:
        """``run(config=config)``, with half its ``score_batch`` where that needs more memory than there is.

        Guidance through a decoder keeps what the gradient needs of so many copies, of however few seeds they are.
        """
        option = "score_batch"
        if config.score_batch < self._too_many.get(option, config.score_batch + 1):
            try:
                return run(config=config)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if config.score_batch == 1 or not _lacks_memory(error):
                    raise
            self._go_on_in_halves(config.score_batch, option)
        return self.scored(run, dataclasses.replace(config, score_batch=config.score_batch // 2))

    def _go_on_in_halves(self, size: int, option: str) -> None:
        """Note it, tell it, and give back what the attempt held."""
        self._too_many[option] = size
        _tell_halving(size, option)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _lacks_memory(error: Exception) -> bool:
    """Whether memory ran out; torch's CPU allocator says so in words alone."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


@functools.cache
def _tell_halving(size: int, option: str) -> None:
    warnings.warn(
        f"{size} images at once need more memory than there is; continuing in halves, which changes rounding."
        f" Set {option} below {size} for the same bytes everywhere",
        stacklevel=5,
    )
