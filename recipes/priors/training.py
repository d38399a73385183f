"""What the prior recipes share: a resumable training loop with averaged weights and a log, and a contact sheet."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gif_datasets.tune.loop import load_optimizer, optimizer_tensors


class Ema:
    """Exponential moving average of a module's parameters, warmed up so that early averages are not stuck at init.

    It is taken every fourth step: reading all parameters costs as much as a few images.
    """

    every = 4

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's present parameters."""
        if step % self.every:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) ** self.every
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.shadow[name].lerp_(value, 1 - decay)
            else:
                self.shadow[name].copy_(value)


@dataclass
class Run:
    """A resumable training run: model, average and optimiser; the steps, images and seconds behind it.

    Checkpoints are one safetensors file, and a state file that is replaced last, so a cut run resumes cleanly.
    """

    folder: Path
    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    images: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Resume from the newest checkpoint, if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state_file = self.folder / "state.json"
        if state_file.exists():
            state = json.loads(state_file.read_text())
            self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
            groups: dict[str, dict[str, Tensor]] = {}
            device = str(next(self.model.parameters()).device)
            for key, value in load_file(self.folder / state["file"], device=device).items():
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = value
            self.model.load_state_dict(groups["model"])
            self.ema.shadow = groups["ema"]
            load_optimizer(self.optimizer, groups.get("optimizer", {}))
        self._started = time.time()

    def save(self) -> None:
        """Write a checkpoint and remove older ones."""
        groups = {
            "model": self.model.state_dict(),
            "ema": self.ema.shadow,
            "optimizer": optimizer_tensors(self.optimizer),
        }
        tensors = {f"{group}/{name}": v.contiguous() for group, values in groups.items() for name, v in values.items()}
        name = f"checkpoint-{self.step:07d}.safetensors"
        save_file(tensors, self.folder / f"{name}.tmp")
        (self.folder / f"{name}.tmp").replace(self.folder / name)
        seconds = self.seconds + time.time() - self._started
        state = {"step": self.step, "images": self.images, "seconds": seconds, "file": name}
        (self.folder / "state.json.tmp").write_text(json.dumps(state, indent=1))
        (self.folder / "state.json.tmp").replace(self.folder / "state.json")
        for old in self.folder.glob("checkpoint-*.safetensors"):
            if old.name != name:
                old.unlink()


def rounded(value: Tensor, mantissa_bits: int) -> Tensor:
    """A tensor as bfloat16 of fewer mantissa bits, which a wheel compresses better."""
    dropped = 23 - mantissa_bits
    bits = value.float().contiguous().view(torch.int32)
    return ((bits + (1 << (dropped - 1))) >> dropped << dropped).view(torch.float32).bfloat16()


def shuffled_batches(count: int, batch_size: int, start: int) -> Iterator[np.ndarray]:
    """Yield index batches for ever; batch ``n`` depends on ``n`` alone, so a resumed run continues the same order."""
    per_epoch = count // batch_size
    step, order, epoch = start, np.empty(0), -1
    while True:
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng([epoch, count]).permutation(count)
        at = step % per_epoch * batch_size
        yield order[at : at + batch_size]
        step += 1


def fit(
    run: Run,
    batches: Iterator[np.ndarray],
    loss_of: Callable[[Tensor], Tensor],
    rate_of: Callable[[Run], float],
    images: int,
    checkpoint: Callable[[], None],
    every: int = 1000,
    minutes: float = math.inf,
) -> None:
    """Train until ``run`` has seen ``images`` images or ``minutes`` have passed, with a log line every 100 steps.

    Step ``n`` seeds the global generator with ``n``, so a resumed run continues as if it had not been interrupted.

    Args:
        run: What is trained.
        batches: Index batches, see :func:`shuffled_batches`.
        loss_of: Loss of one batch of indices.
        rate_of: Learning rate at the run's present step.
        images: Where to stop.
        checkpoint: Called every ``every`` steps and at the end.
        every: Steps between checkpoints.
        minutes: Time after which to stop, with a checkpoint.
    """
    losses: list[Tensor] = []
    since, seen = time.time(), run.images
    ends = time.time() + 60 * minutes
    while run.images < images and time.time() < ends:
        index = torch.from_numpy(next(batches))
        torch.manual_seed(run.step)
        for group in run.optimizer.param_groups:
            group["lr"] = rate_of(run)
        loss = loss_of(index)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step()
        run.ema.update(run.model, run.step)
        run.step, run.images = run.step + 1, run.images + len(index)
        losses.append(loss.detach())
        if len(losses) == 100:
            rate = (run.images - seen) / (time.time() - since)
            mean = torch.stack(losses).mean().item()
            line = {"step": run.step, "images": run.images, "loss": mean, "images_per_s": rate}
            print(json.dumps({k: round(v, 5) for k, v in line.items()}), flush=True)
            losses, since, seen = [], time.time(), run.images
        if run.step % every == 0:
            checkpoint()
    checkpoint()


def cosine(rate: float, images: int, warmup: int = 200) -> Callable[[Run], float]:
    """Learning rate: a linear warm-up of so many steps, then half a cosine to zero at ``images``."""
    return lambda run: rate * min(1, (run.step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * run.images / images))


def constant_then_linear(rate: float, images: int, decay_images: int, warmup: int = 500) -> Callable[[Run], float]:
    """Learning rate: warm-up, a plateau that can be prolonged at will, and over the last images a line to zero."""
    return lambda run: rate * min(1, (run.step + 1) / warmup, (images - run.images) / max(1, decay_images))


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options that every training script has."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; a run that is there goes on")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; run again = go on")
    parser.add_argument("--compile", action="store_true", help="compile the network: 84 s, then a quarter faster")


def sheet(rows: list[Tensor], path: Path, scale: int = 2) -> None:
    """Save a grid: each row is ``(N, 3, H, W)`` in [-1, 1]."""
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = ((grid * 0.5 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
