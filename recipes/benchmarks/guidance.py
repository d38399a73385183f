"""Guidance: batched, against the literal loop over seeds, copies and steps, in one run on one machine.

    python recipes/benchmarks/guidance.py

The loop is Algorithm 1 as one would type it: vectors, one seed at a time, autograd for its K copies. Both use the same
threads, draw the same noise and give the same latents, which is checked. Beside the ratio stand the bound that matrix
products set (the same products, alone) and the share of time that goes into drawing noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from timing import times
from torch import Tensor
from torch.nn import functional as F

from gif_datasets.config import ExpansionConfig
from gif_datasets.guidance.guide import draw, guide
from gif_datasets.guidance.zeroshot import ZeroShotClassifier

PAPER = ExpansionConfig.build({"preset": "paper", "projection": "post-step"})


def literal(f: Tensor, key: str, weights: Tensor, scale: float, config: ExpansionConfig) -> Tensor:
    """One seed's guided copies, ``(K, D)``: sign steps, projected after each."""
    epsilon = config.epsilon or 0.0
    length = (config.step_size or 0.0) * epsilon
    z, b = (part[0] for part in draw([key], config.ratio, f.shape, config.rng_seed))

    def predict(x: Tensor) -> Tensor:
        return (scale * (weights @ F.normalize(x, dim=0))).softmax(0)

    def inside(z: Tensor, b: Tensor) -> Tensor:
        free = (1 + z) * f + b
        return b + (f + (free - f).clamp(-epsilon, epsilon) - free)

    s = predict(f)
    held = int(s.argmax())
    b = inside(z, b)
    for _ in range(config.steps or 0):
        z, b = z.detach().requires_grad_(), b.detach().requires_grad_()
        copies = [(1 + z[i]) * f + b[i] for i in range(config.ratio)]
        mean = torch.stack(copies).mean(0).log_softmax(0)
        score = torch.zeros(())
        for copy in copies:
            p = predict(copy)
            log_p = copy.log_softmax(0)
            score = score + p[held] + torch.special.entr(p).sum() + (log_p.exp() * (log_p - mean)).sum()
        gradients = torch.autograd.grad(score, (z, b))
        with torch.no_grad():
            z, b = (x + length * g.sign() for x, g in zip((z, b), gradients, strict=True))
            b = inside(z, b)
    return f + ((1 + z) * f + b - f).clamp(-epsilon, epsilon).detach()


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The fastest of several runs, after one to warm up."""
    return min(times(run, repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--block", type=int, default=64, help="seeds guided at once; encode_batch")
    parser.add_argument("--looped", type=int, default=20, help="seeds that the loop is timed on")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    width, classes = 768, 100
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(args.seeds, width, generator=generator) * 0.36  # norm about 10
    weights = F.normalize(torch.randn(classes, width, generator=generator), dim=-1)
    classifier, config = ZeroShotClassifier(weights, 30.0), PAPER
    keys, labels = [str(i) for i in range(args.seeds)], torch.zeros(args.seeds, dtype=torch.long)

    def batched() -> Tensor:
        parts = [slice(i, i + args.block) for i in range(0, args.seeds, args.block)]
        return torch.cat([guide(f[p], labels[p], keys[p], classifier, config).latents for p in parts])

    def looped() -> Tensor:
        return torch.stack([literal(f[i], keys[i], weights, 30.0, config) for i in range(args.looped)])

    def products() -> None:
        for _ in range(config.steps or 0):
            for i in range(0, args.seeds, args.block):
                x = f[i : i + args.block].repeat_interleave(config.ratio, 0)
                scores = x @ weights.T
                _ = scores @ weights

    agree = ((batched()[: args.looped] - looped()).abs() < 1e-3).float().mean()
    found = {
        "batched": seconds(batched, args.repeats) / args.seeds,
        "loop": seconds(looped, args.repeats) / args.looped,
        "matrix products": seconds(products, args.repeats) / args.seeds,
        "noise": seconds(lambda: draw(keys, config.ratio, (width,), 0), args.repeats) / args.seeds,
    }
    report = {
        "setting": f"K=5, D={width}, C={classes}, {config.steps} steps, blocks of {args.block}, {args.threads} threads",
        "microseconds a seed": {name: round(1e6 * value) for name, value in found.items()},
        "loop / batched": round(found["loop"] / found["batched"], 1),
        "share of matrix products": round(found["matrix products"] / found["batched"], 3),
        "share of drawing noise": round(found["noise"] / found["batched"], 3),
        "coordinates that agree": round(float(agree), 4),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
