"""Algorithm 1 of the paper, literally: one seed, one copy, one class at a time, in plain torch. Slow on purpose."""

from __future__ import annotations

import torch
from torch import Tensor

from gif_datasets.rng import generator_for


def entropy(scores: Tensor) -> Tensor:
    total = torch.zeros(())
    for s in scores:
        total = total - s * torch.log(s)
    return total


def kl(f: Tensor, mean: Tensor) -> Tensor:
    p, q = torch.softmax(f, 0), torch.softmax(mean, 0)
    total = torch.zeros(())
    for i in range(len(p)):
        total = total + p[i] * (torch.log(p[i]) - torch.log(q[i]))
    return total


def project(f_new: Tensor, f: Tensor, epsilon: float) -> Tensor:
    return torch.maximum(torch.minimum(f_new, f + epsilon), f - epsilon)


def score(f: Tensor, copies: list[Tensor], weights: Tensor, scale: float, held: int | None) -> Tensor:
    """S_con + S_ent + S_div of one seed's copies (Eq. 3 to 5, Algorithm 1)."""

    def w(x: Tensor) -> Tensor:
        cosines = [torch.dot(x, row) / (x.norm() * row.norm()) for row in weights]
        return torch.softmax(scale * torch.stack(cosines), 0)

    s = w(f)
    j = int(s.argmax()) if held is None else held
    s_con = s_ent = torch.zeros(())
    for f_i in copies:
        s_i = w(f_i)
        s_con = s_con + s_i[j]
        s_ent = s_ent + entropy(s_i) - entropy(s)
    mean = sum(copies[1:], copies[0]) / len(copies)
    s_div = torch.zeros(())
    for f_i in copies:
        s_div = s_div + kl(f_i, mean)
    return s_con + s_ent + s_div


def gif_unclip(
    f: Tensor,
    key: str,
    weights: Tensor,
    *,
    scale: float,
    copies: int,
    epsilon: float,
    steps: int,
    length: float,
    projection: str,
    rng_seed: int = 0,
    held: int | None = None,
) -> list[Tensor]:
    """The K perturbed latents of one seed after ``steps`` sign steps."""
    z = [torch.rand(len(f), generator=generator_for(rng_seed, key, "noise", i)) for i in range(1, copies + 1)]
    b = [torch.randn(len(f), generator=generator_for(rng_seed, key, "bias", i)) for i in range(1, copies + 1)]

    def inside() -> None:
        for i in range(copies):
            b[i] = b[i] + (project((1 + z[i]) * f + b[i], f, epsilon) - ((1 + z[i]) * f + b[i]))

    for _ in range(steps):
        if projection == "post-step":
            inside()
        z = [x.detach().requires_grad_() for x in z]
        b = [x.detach().requires_grad_() for x in b]
        latents = []
        for i in range(copies):
            free = (1 + z[i]) * f + b[i]
            if projection == "literal":
                free = project(free, f, epsilon)
            elif projection == "straight-through":
                free = free + (project(free, f, epsilon) - free).detach()
            latents.append(free)
        gradients = torch.autograd.grad(score(f, latents, weights, scale, held), [*z, *b])
        z = [(x + length * g.sign()).detach() for x, g in zip(z, gradients[:copies], strict=True)]
        b = [(x + length * g.sign()).detach() for x, g in zip(b, gradients[copies:], strict=True)]
        if projection == "post-step":
            inside()
    return [project((1 + z[i]) * f + b[i], f, epsilon) for i in range(copies)]
