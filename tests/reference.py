"""Algorithms 1 and 2, literally: one seed, one copy, one class, one channel at a time. Slow on purpose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gif_datasets.guidance.rng import generator_for


def entropy(scores: Tensor) -> Tensor:
    total = torch.zeros(())
    for s in scores:
        total = total - s * torch.log(s)
    return total


def kl(f: Tensor, mean: Tensor) -> Tensor:
    p, q = torch.softmax(f.flatten(), 0), torch.softmax(mean.flatten(), 0)
    total = torch.zeros(())
    for i in range(len(p)):
        total = total + p[i] * (torch.log(p[i]) - torch.log(q[i]))
    return total


def project(f_new: Tensor, f: Tensor, epsilon: float) -> Tensor:
    return torch.maximum(torch.minimum(f_new, f + epsilon), f - epsilon)


def zero_shot(x: Tensor, weights: Tensor, scale: float) -> Tensor:
    """w(x): softmax of the scaled cosines to the class texts."""
    cosines = [torch.dot(x, row) / (x.norm() * row.norm()) for row in weights]
    return torch.softmax(scale * torch.stack(cosines), 0)


def score(s: Tensor, copies: list[Tensor], w: Callable[[Tensor], Tensor], held: int | None) -> Tensor:
    """S_con + S_ent + S_div of one seed's copies (Eq. 3 to 5); ``s`` is the seed's own prediction."""
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


def inside(f: Tensor, z: Tensor, b: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Noise and bias of one copy, moved so that (1 + z) f + b lies in the ball."""
    if b.shape == f.shape:
        return z, b + (project((1 + z) * f + b, f, epsilon) - ((1 + z) * f + b))
    z, b = z.clone(), b.clone()
    for channel in range(f.shape[1]):  # tokens x channels, one draw a channel
        reach = max(abs(z[0, channel] * f[token, channel] + b[0, channel]) for token in range(f.shape[0]))
        if reach > epsilon:
            z[0, channel] *= epsilon / reach
            b[0, channel] *= epsilon / reach
    return z, b


def guided_imagination(
    f: Tensor,
    s: Tensor,
    key: str,
    w: Callable[[Tensor], Tensor],
    *,
    shape: tuple[int, ...],
    copies: int,
    epsilon: float,
    steps: int,
    length: float,
    projection: str,
    rng_seed: int = 0,
    held: int | None = None,
) -> list[Tensor]:
    """The K perturbed latents of one seed after ``steps`` sign steps; ``w`` predicts from a latent."""
    z = [torch.rand(shape, generator=generator_for(rng_seed, key, "noise", i)).to(f) for i in range(1, copies + 1)]
    b = [torch.randn(shape, generator=generator_for(rng_seed, key, "bias", i)).to(f) for i in range(1, copies + 1)]

    def all_inside() -> None:
        for i in range(copies):
            z[i], b[i] = inside(f, z[i].detach(), b[i].detach(), epsilon)

    for _ in range(steps):
        if projection == "post-step":
            all_inside()
        z = [x.detach().requires_grad_() for x in z]
        b = [x.detach().requires_grad_() for x in b]
        latents = []
        for i in range(copies):
            free = (1 + z[i]) * f + b[i]
            if projection == "end":
                pass
            elif projection == "literal":
                free = project(free, f, epsilon)
            elif projection == "straight-through":
                free = free + (project(free, f, epsilon) - free).detach()
            latents.append(free)
        gradients = torch.autograd.grad(score(s, latents, w, held), [*z, *b])
        z = [(x + length * g.sign()).detach() for x, g in zip(z, gradients[:copies], strict=True)]
        b = [(x + length * g.sign()).detach() for x, g in zip(b, gradients[copies:], strict=True)]
        if projection == "post-step":
            all_inside()
    return [project((1 + z[i]) * f + b[i], f, epsilon) for i in range(copies)]
