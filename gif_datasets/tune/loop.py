"""A training loop that resumes exactly after a kill, stops early, and keeps the best weights.

Random draws depend only on the run's number and the step, so a checkpoint stores no generator state. It is one
safetensors file with the state in its header, renamed into place.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gif_datasets.errors import PriorError
from gif_datasets.guidance.rng import generator_for
from gif_datasets.io import atomic
from gif_datasets.io.parsing import read_json
from gif_datasets.types import Progress, no_progress

CHECKPOINT = "checkpoint.safetensors"
WARM_UP = 50  # steps, at most a tenth of all
HELD_DRAWS = 4  # times and noises that the loss of one held-out row is a mean of
BETAS = (0.9, 0.99)
LARGEST_GRADIENT = 1.0

Rows = dict[str, Tensor]


class Trainable(Protocol):
    """What is trained: weights that require gradients, and the loss of each of some rows."""

    module: nn.Module

    def losses(self, rows: Rows, when: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of each row, ``(N,)``, at places ``when`` of its process, in [0, 1)."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how.

    Attributes:
        steps: Most steps.
        batch_size: Rows a step.
        learning_rate: Its peak: it rises over the first steps and falls along half a cosine to zero.
        every: Steps between looks at the held-out rows.
        patience: Looks without a better loss after which to stop.
        rng_seed: The run's number.
    """

    steps: int
    batch_size: int
    learning_rate: float
    every: int
    patience: int
    rng_seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, min(WARM_UP, self.steps // 10)))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def batch(self, step: int, rows: int) -> list[int]:
        """Row numbers of a step: every row once, in a new order, before any comes again."""
        first = step * self.batch_size
        return [
            _order(self.rng_seed, place // rows, rows)[place % rows] for place in range(first, first + self.batch_size)
        ]


@lru_cache(maxsize=4)
def _order(rng_seed: int, epoch: int, rows: int) -> list[int]:
    order: list[int] = torch.randperm(rows, generator=generator_for(rng_seed, "", "tune/order", epoch)).tolist()
    return order


@dataclass
class State:
    """Where a run is.

    Attributes:
        step: Steps behind it.
        best_step: After which of them the held-out loss was least.
        best_loss: That loss.
        history: One record a look: step, mean loss of the steps before it, held-out loss, learning rate.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)

    def ended(self, schedule: Schedule) -> bool:
        """Whether all steps are done, or the held-out loss has not fallen for too long."""
        return self.step >= schedule.steps or self.step - self.best_step >= schedule.patience * schedule.every


class Run:
    """A training run in a folder.

    Args:
        target: What is trained.
        train: Rows to train on.
        validation: Rows to look at, never trained on.
        schedule: How long, and how.
        folder: Where the checkpoint is; one that is there is gone on from.

    Raises:
        PriorError: If the checkpoint is damaged.
    """

    def __init__(self, target: Trainable, train: Rows, validation: Rows, schedule: Schedule, folder: Path) -> None:
        self.target, self.train, self.validation, self.schedule = target, train, validation, schedule
        self.path = folder / CHECKPOINT
        self.weights = {name: p for name, p in target.module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.weights.values(), betas=BETAS, weight_decay=0.01, fused=True)
        self.state = State()
        self.best = self._copy()
        if self.path.exists():
            self._resume()

    def fit(self, looked: Callable[[State], None], show: Progress = no_progress) -> None:
        """Train to the end, and leave the best weights in the module.

        Args:
            looked: Called after every look at the held-out rows, before its checkpoint is written.
            show: Wraps the loop over the steps from one look to the next.
        """
        if not self.state.history:
            self._look(None, looked)
        while not self.state.ended(self.schedule):
            last = min(self.state.step + self.schedule.every, self.schedule.steps)
            steps = show(range(self.state.step, last), self._title())
            losses = [self._step(step) for step in steps]
            self.state.step = last
            self._look(math.fsum(losses) / len(losses), looked)
        with torch.no_grad():
            for name, value in self.best.items():
                self.weights[name].copy_(value)

    def _title(self) -> str:
        """Where the run is."""
        validation = self.state.history[-1]["held_out_loss"]
        return f"tuning, step {self.state.step} of {self.schedule.steps}, held-out loss {validation:.4f}"

    def _step(self, step: int) -> float:
        schedule = self.schedule
        generator = generator_for(schedule.rng_seed, "", "tune/step", step)
        index = torch.tensor(schedule.batch(step, _count(self.train)))
        when = torch.rand(len(index), generator=generator)
        loss = self.target.losses({name: rows[index] for name, rows in self.train.items()}, when, generator).mean()
        if not math.isfinite(value := loss.item()):
            raise PriorError(f"the loss became {value} at step {step + 1}; lower the learning rate")
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.weights.values(), LARGEST_GRADIENT)
        self.optimizer.step()
        return value

    def _look(self, loss: float | None, looked: Callable[[State], None]) -> None:
        state, validation = self.state, self.validation_loss()
        if validation < state.best_loss:
            state.best_step, state.best_loss, self.best = state.step, validation, self._copy()
        rate = self.schedule.rate(state.step)
        state.history.append({"step": state.step, "loss": loss, "held_out_loss": validation, "learning_rate": rate})
        looked(state)
        self._save()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss of the held-out rows, at the same times and noises each time."""
        size, total = self.schedule.batch_size, 0.0
        for draw in range(HELD_DRAWS):
            generator = generator_for(self.schedule.rng_seed, "", "tune/held", draw)
            for first in range(0, _count(self.validation), size):
                part = {name: rows[first : first + size] for name, rows in self.validation.items()}
                when = (draw + torch.rand(_count(part), generator=generator)) / HELD_DRAWS
                total += float(self.target.losses(part, when, generator).sum())
        return total / (HELD_DRAWS * _count(self.validation))

    def _copy(self) -> dict[str, Tensor]:
        return {name: weights.detach().clone() for name, weights in self.weights.items()}

    def _save(self) -> None:
        groups: dict[str, Mapping[str, Tensor]]
        groups = {"weights": self.weights, "best": self.best, "optimizer": optimizer_tensors(self.optimizer)}
        tensors = {
            f"{group}/{name}": v.detach().cpu().contiguous()
            for group, part in groups.items()
            for name, v in part.items()
        }
        atomic.write_bytes(self.path, save(tensors, {"state": json.dumps(asdict(self.state))}))

    def _resume(self) -> None:
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimizer": {}}
        try:
            with safe_open(self.path, "pt") as file:
                self.state = State(**read_json(file.metadata()["state"]))
                for key in file.keys():  # noqa: SIM118 - it is not a mapping
                    group, _, name = key.partition("/")
                    groups[group][name] = file.get_tensor(key)
            with torch.no_grad():
                for name, weights in self.weights.items():
                    weights.copy_(groups["weights"][name])
                    self.best[name].copy_(groups["best"][name])
            load_optimizer(self.optimizer, groups["optimizer"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise PriorError(f"cannot go on from {self.path}: {error}; remove it to start again") from error


def _count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state as tensors, keyed ``index.name``."""
    slots = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, slot in slots.items() for name, value in slot.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put Adam's state back, laid out in memory as the weights are: its fused step walks both side by side."""
    weights, slots = optimizer.param_groups[0]["params"], dict[int, dict[str, Tensor]]()
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        like = weights[int(index)]
        slot = torch.empty_like(like, dtype=value.dtype, device="cpu").copy_(value) if value.dim() else value
        slots.setdefault(int(index), {})[name] = slot
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


@contextlib.contextmanager
def reproducibly(threads: int) -> Iterator[None]:
    """Arithmetic of one order: a fixed number of threads, and convolutions that do not race."""
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.deterministic = before[1]
