"""Guidance: equal to a literal Algorithm 1, inside the ball, independent of the batch, and not frozen by the clamp."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gif_datasets.config import ExpansionConfig
from gif_datasets.guidance import criteria
from gif_datasets.guidance.guide import Guided, _Objective, draw, guide
from gif_datasets.guidance.perturb import perturb, project
from gif_datasets.guidance.zeroshot import ZeroShotClassifier

D, C, K = 12, 4, 3


def equal_weights(**options: Any) -> ExpansionConfig:
    """The paper's objective: three criteria of weight 1 on the predicted class."""
    return ExpansionConfig(**{"entropy_weight": 1.0, "held_class": "prediction", **options})


@pytest.fixture
def classifier() -> ZeroShotClassifier:
    rows = torch.randn(C, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ZeroShotClassifier(F.normalize(rows, dim=-1), 8.0)


def latents(count: int) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("projection", ["post-step", "straight-through", "literal", "end"])
@pytest.mark.parametrize("held", ["prediction", "label"])
@pytest.mark.parametrize("epsilon", [0.1, 1.5])
def test_agrees_with_the_literal_algorithm(
    projection: str, held: str, epsilon: float, classifier: ZeroShotClassifier
) -> None:
    """Batched guidance of several seeds gives what the slow, literal Algorithm 1 gives one seed at a time."""
    config = equal_weights(ratio=K, epsilon=epsilon, steps=6, projection=projection, held_class=held)
    f, keys, labels = latents(5), [f"k{i}" for i in range(5)], torch.arange(5) % C
    zero_shot = partial(reference.zero_shot, weights=classifier.weights, scale=classifier.logit_scale)
    guided = guide(f, labels, keys, classifier, config)
    for i, key in enumerate(keys):
        expected = reference.guided_imagination(
            f[i],
            zero_shot(f[i]),
            key,
            zero_shot,
            shape=(D,),
            copies=K,
            epsilon=epsilon,
            steps=6,
            length=config.step_size * epsilon,
            projection=projection,
            held=int(labels[i]) if held == "label" else None,
        )
        torch.testing.assert_close(guided.latents[i], torch.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("projection", ["post-step", "straight-through", "literal", "end"])
@pytest.mark.parametrize("epsilon", [0.8, 5.0])
def test_channel_level_guidance_agrees_with_the_literal_algorithm_2(projection: str, epsilon: float) -> None:
    """One draw a channel, scored on a decoded picture, the seed's own picture scored by itself: as Algorithm 2 says."""
    tokens, channels, pixels = 5, 6, 20
    generator = torch.Generator().manual_seed(7)
    f = torch.randn(3, tokens, channels, generator=generator, dtype=torch.float64)
    decoder = torch.randn(tokens * channels, pixels, generator=generator, dtype=torch.float64)
    texts = F.normalize(torch.randn(C, pixels, generator=generator, dtype=torch.float64), dim=-1)
    seed_scores = torch.randn(3, C, generator=generator, dtype=torch.float64).softmax(-1)
    clip = ZeroShotClassifier(texts, 4.0)
    config = equal_weights(
        method="gif-mae", ratio=K, epsilon=epsilon, steps=5, projection=projection, score_batch=2, step_size=0.1
    )
    keys, labels = list("abc"), torch.zeros(3, dtype=torch.long)
    guided = guide(
        f,
        labels,
        keys,
        clip,
        config,
        embed=lambda x: torch.tanh(x.flatten(1) @ decoder),
        seed_scores=seed_scores,
        channel_axis=1,
    )
    for i, key in enumerate(keys):
        expected = reference.guided_imagination(
            f[i],
            seed_scores[i],
            key,
            lambda x: reference.zero_shot(torch.tanh(x.flatten() @ decoder), texts, 4.0),
            shape=(1, channels),
            copies=K,
            epsilon=epsilon,
            steps=5,
            length=0.1 * epsilon,
            projection=projection,
        )
        torch.testing.assert_close(guided.latents[i], torch.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("seeds", "ratio", "most"), [(8, 3, 20), (8, 7, 20), (1, 23, 20), (5, 2, 3)])
def test_a_seed_is_guided_alike_wherever_it_stands(seeds: int, ratio: int, most: int) -> None:
    """Parts that are embedded are of one size, since another size rounds otherwise, and sign steps make much of it."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(seeds, 6, generator=generator)
    clip = ZeroShotClassifier(F.normalize(torch.randn(C, 6, generator=generator), dim=-1), 4.0)
    config = equal_weights(ratio=ratio, epsilon=0.3, steps=2, score_batch=most)
    sizes = set[int]()

    def embed(rows: torch.Tensor) -> torch.Tensor:
        sizes.add(len(rows))
        return rows * (1 + len(rows) * 1e-2)  # as if it rounded by the size of its batch

    names, labels = [str(i) for i in range(seeds)], torch.zeros(seeds, dtype=torch.long)
    there = guide(latents, labels, names, clip, config, embed=embed).latents
    back = guide(latents.flip(0), labels, names[::-1], clip, config, embed=embed).latents.flip(0)
    assert len(sizes - {seeds}) <= 1  # that of the seeds' own latents beside it
    assert max(sizes - {seeds}, default=0) <= most
    torch.testing.assert_close(there, back, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "constant"), [("channel", 1), ("token", 2)])
def test_shared_noise_stays_shared(kind: str, constant: int) -> None:
    """Within the ball, channel noise moves all tokens of a channel by one affine map, token noise all channels."""
    f = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    config = equal_weights(method="gif-mae", noise=kind, epsilon=0.5, steps=3, ratio=K)
    clip = ZeroShotClassifier(F.normalize(torch.randn(C, 42, dtype=torch.float64), dim=-1), 4.0)
    labels = torch.zeros(2, dtype=torch.long)
    found = guide(f, labels, ["a", "b"], clip, config, embed=lambda x: x.flatten(1), channel_axis=1)
    axis = constant + 1  # of (seed, copy, token, channel)
    moved, origin = found.latents.transpose(axis, -1), f[:, None].transpose(axis, -1)
    design = torch.stack([origin.expand_as(moved), torch.ones_like(moved)], dim=-1)
    residual = moved[..., None] - design @ torch.linalg.lstsq(design, moved[..., None]).solution
    assert residual.abs().max() < 1e-9
    assert (found.latents - f[:, None]).abs().max() > 0.3


def test_gradient_agrees_with_the_literal_score(classifier: ZeroShotClassifier) -> None:
    """The gradient of the batched objective in z and b is that of the literal one."""
    f = latents(1)[0]
    z, b = (part[0].double().requires_grad_() for part in draw(["k"], K, (D,), 0))
    zero_shot = partial(reference.zero_shot, weights=classifier.weights, scale=8.0)
    literal = reference.score(zero_shot(f), [(1 + z[i]) * f + b[i] for i in range(K)], zero_shot, None)
    expected = torch.autograd.grad(literal, (z, b))

    copies = perturb(f[None, None], z[None], b[None])
    scores, seed = classifier.scores(copies), classifier.scores(f[None])
    total = (
        criteria.prediction_consistency(scores, seed.argmax(-1))
        + criteria.entropy_gain(scores, seed)
        + criteria.diversity(copies)
    ).sum()
    for found, wanted in zip(torch.autograd.grad(total, (z, b)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("space", ["latent", "embedding"])
@pytest.mark.parametrize("order", ["paper", "official"])
@pytest.mark.parametrize("balance", ["sum", "unit"])
def test_closed_gradient_is_autograd_s(
    balance: str, order: str, space: str, embedded: bool, classifier: ZeroShotClassifier
) -> None:
    """What guidance ascends is the gradient of the weighted criteria, of each scaled to length 1 where balanced."""
    weights = {"consistency_weight": 0.7, "entropy_weight": 0.2, "diversity_weight": 1.3}
    config = equal_weights(
        ratio=K, score_batch=4, balance=balance, diversity_order=order, diversity_space=space, **weights
    )
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    embed = (lambda x: torch.tanh(x @ mix)) if embedded else None
    held = torch.tensor([1, 3])
    copies = perturb(latents(2)[:, None], *(part.double() for part in draw(["a", "b"], K, (D,), 0))).requires_grad_()
    found, slack = _Objective(classifier, embed, held, config).gradient(copies.detach())

    embeddings = embed(copies) if embed else copies
    scores = classifier.scores(embeddings)
    of_diversity = F.normalize(embeddings, dim=-1) if space == "embedding" else copies
    terms = (
        criteria.prediction_consistency(scores, held),
        criteria.entropy(scores),
        criteria.diversity(of_diversity, order),
    )
    own = [torch.autograd.grad(term.sum(), copies, retain_graph=True)[0] for term in terms]
    if balance == "unit":
        own = [F.normalize(gradient, dim=-1) for gradient in own]
    expected = sum(weight * gradient for weight, gradient in zip(weights.values(), own, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (slack == 0).all()


@pytest.mark.parametrize("noise", ["element", "channel", "token"])
@pytest.mark.parametrize("projection", ["post-step", "straight-through", "literal", "end"])
def test_before_is_where_guidance_starts(noise: str, projection: str) -> None:
    """Steps of length 0 change nothing: neither a latent nor a criterion."""
    f = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    clip = ZeroShotClassifier(F.normalize(torch.randn(C, 42, dtype=torch.float64), dim=-1), 4.0)
    config = equal_weights(
        method="gif-mae", noise=noise, epsilon=0.5, steps=2, step_size=0, projection=projection, ratio=K
    )
    labels = torch.zeros(2, dtype=torch.long)
    found = guide(f, labels, ["a", "b"], clip, config, embed=lambda x: x.flatten(1), channel_axis=1)
    for name in ("consistency", "entropy", "diversity"):
        torch.testing.assert_close(getattr(found.before, name), getattr(found.after, name))


def test_result_does_not_depend_on_the_batch(classifier: ZeroShotClassifier) -> None:
    """A seed's copies are the same alone, among others, and in another order."""
    config = equal_weights(ratio=K, epsilon=0.5, steps=5)
    f, keys, labels = latents(6), [f"k{i}" for i in range(6)], torch.zeros(6, dtype=torch.long)
    together = guide(f, labels, keys, classifier, config).latents
    order = [4, 2, 0, 5, 1, 3]
    shuffled = guide(f[order], labels, [keys[i] for i in order], classifier, config).latents
    torch.testing.assert_close(shuffled, together[order], rtol=1e-9, atol=1e-9)
    alone = guide(f[2:3], labels[:1], keys[2:3], classifier, config).latents
    torch.testing.assert_close(alone[0], together[2], rtol=1e-9, atol=1e-9)


def test_projection_does_not_kill_the_gradient() -> None:
    """With the paper's epsilon the literal clamp leaves most coordinates where they started; the default does not."""
    wide = torch.randn(4, 400, generator=torch.Generator().manual_seed(3)) * 0.25
    rows = F.normalize(torch.randn(C, 400, generator=torch.Generator().manual_seed(4)), dim=-1)
    classifier, keys, labels = ZeroShotClassifier(rows, 30.0), list("abcd"), torch.zeros(4, dtype=torch.long)
    moved = {}
    for projection in ("literal", "post-step"):
        config = equal_weights(ratio=K, epsilon=0.1, steps=10, projection=projection)
        start = guide(wide, labels, keys, classifier, dataclasses.replace(config, steps=0))
        end = guide(wide, labels, keys, classifier, config)
        moved[projection] = ((end.latents - start.latents).abs() > 1e-6).float().mean().item()
    assert moved["literal"] < 0.15
    assert moved["post-step"] > 0.3


@pytest.mark.parametrize("projection", ["post-step", "straight-through"])
def test_guidance_raises_the_score_it_ascends(projection: str, classifier: ZeroShotClassifier) -> None:
    """The weighted sum of the criteria is higher after guidance than before."""
    config = equal_weights(ratio=K, epsilon=1.0, steps=10, step_size=0.1, projection=projection)
    found = guide(latents(8), torch.zeros(8, dtype=torch.long), [str(i) for i in range(8)], classifier, config)
    total = [(c.consistency + c.entropy + c.diversity).mean().item() for c in (found.before, found.after)]
    assert total[1] > total[0] + 0.05


@pytest.mark.parametrize("balance", ["sum", "unit"])
@pytest.mark.parametrize("space", ["latent", "embedding"])
@pytest.mark.parametrize("name", ["consistency", "entropy", "diversity"])
def test_one_criterion_alone_rises(name: str, space: str, balance: str, classifier: ZeroShotClassifier) -> None:
    """Guided by one criterion only, that criterion rises."""
    weights = {f"{other}_weight": float(other == name) for other in ("consistency", "entropy", "diversity")}
    options = {"diversity_space": space, "balance": balance, "score_batch": 5}
    config = equal_weights(ratio=K, epsilon=1.0, steps=10, step_size=0.1, **weights, **options)
    found = guide(latents(8), torch.zeros(8, dtype=torch.long), [str(i) for i in range(8)], classifier, config)
    before, after = getattr(found.before, name).mean(), getattr(found.after, name).mean()
    assert after > before + 0.01 * min(1, before)


@pytest.mark.parametrize("projection", ["post-step", "straight-through", "literal", "end"])
@pytest.mark.parametrize("constraint", [{"consistency_floor": 0.6}, {"keep_class": True}])
def test_a_constraint_holds_where_it_can(
    constraint: dict[str, float], projection: str, classifier: ZeroShotClassifier
) -> None:
    """Under a constraint the entropy still rises, and no copy that could keep its class has lost it."""
    f, labels, keys = latents(20), torch.zeros(20, dtype=torch.long), [str(i) for i in range(20)]
    options = {"epsilon": 0.5, "steps": 20, "step_size": 0.1, "projection": projection}
    free = equal_weights(ratio=K, consistency_weight=0, **options)
    held = dataclasses.replace(free, **constraint)
    loose, tight = guide(f, labels, keys, classifier, free), guide(f, labels, keys, classifier, held)

    def satisfied(found: Guided) -> torch.Tensor:
        scores = classifier.scores(found.latents)
        own = scores.gather(-1, found.held_class[:, None, None].expand(-1, K, 1)).squeeze(-1)
        floor = constraint.get("consistency_floor", 0.0)
        return (own >= floor) & ((scores.argmax(-1) == found.held_class[:, None]) | (floor > 0))

    could = satisfied(guide(f, labels, keys, classifier, dataclasses.replace(held, steps=0)))
    kept = satisfied(tight)
    assert kept.float().mean() > satisfied(loose).float().mean()
    assert kept[could].all()
    if projection == "post-step":
        assert satisfied(loose).float().mean() < 0.7
        assert kept.float().mean() > 0.95
        assert tight.after.entropy.mean() > tight.before.entropy.mean() * 0.5


def test_adam_ascends_too(classifier: ZeroShotClassifier) -> None:
    """With Adam the sum of the criteria rises as well, by another path."""
    config = equal_weights(ratio=K, epsilon=1.0, steps=10, step_size=0.1, optimizer="adam")
    f, labels, keys = latents(8), torch.zeros(8, dtype=torch.long), [str(i) for i in range(8)]
    found = guide(f, labels, keys, classifier, config)
    signed = guide(f, labels, keys, classifier, dataclasses.replace(config, optimizer="sign"))
    total = [(c.consistency + c.entropy + c.diversity).mean().item() for c in (found.before, found.after)]
    assert total[1] > total[0] + 0.05
    assert not torch.allclose(found.latents, signed.latents)


OPTIONS = st.fixed_dictionaries(
    {
        "epsilon": st.floats(0, 3),
        "steps": st.integers(0, 4),
        "ratio": st.integers(1, 4),
        "step_size": st.floats(0, 1),
        "projection": st.sampled_from(["post-step", "straight-through", "literal", "end"]),
        "noise": st.sampled_from(["element", "channel", "token"]),
        "optimizer": st.sampled_from(["sign", "adam"]),
        "balance": st.sampled_from(["sum", "unit"]),
        "diversity_space": st.sampled_from(["latent", "embedding"]),
        "diversity_order": st.sampled_from(["paper", "official"]),
        "keep_class": st.booleans(),
        "consistency_floor": st.sampled_from([0.0, 0.5]),
    }
)


def guided_tokens(count: int, rows: list[int], options: dict[str, Any]) -> tuple[torch.Tensor, Guided]:
    """Guidance of some of ``count`` latents of 5 tokens and 4 channels, scored through a decoder."""
    generator = torch.Generator().manual_seed(5)
    decoder = torch.randn(20, D, generator=generator, dtype=torch.float64)
    weights = F.normalize(torch.randn(C, D, generator=generator, dtype=torch.float64), dim=-1)
    f = torch.randn(count, 5, 4, generator=generator, dtype=torch.float64)[rows]
    config = equal_weights(method="gif-mae", score_batch=3, **options)
    clip, labels = ZeroShotClassifier(weights, 10.0), torch.zeros(len(rows), dtype=torch.long)
    keys = [f"k{row}" for row in rows]
    return f, guide(f, labels, keys, clip, config, embed=lambda x: torch.tanh(x.flatten(1) @ decoder), channel_axis=1)


@settings(max_examples=60, deadline=None)
@given(options=OPTIONS)
def test_copies_stay_in_the_ball(options: dict[str, Any]) -> None:
    """Whatever the options, every coordinate lies within epsilon of the seed's, and the criteria keep their bounds."""
    f, found = guided_tokens(2, [0, 1], options)
    assert (found.latents - f[:, None]).abs().max() <= options["epsilon"] + 1e-5
    for values in (found.before, found.after):
        assert (values.consistency >= 0).all()
        assert (values.consistency <= 1).all()
        assert (values.entropy >= 0).all()
        assert (values.entropy <= torch.tensor(float(C)).log() + 1e-5).all()
        assert (values.diversity >= -1e-6).all()


@settings(max_examples=30, deadline=None)
@given(options=OPTIONS, rows=st.permutations(range(4)), size=st.integers(1, 4))
def test_neighbours_change_nothing(options: dict[str, Any], rows: list[int], size: int) -> None:
    """A seed's copies do not depend on how many others are guided with it, on which, or in what order."""
    chosen = rows[:size]
    _, whole = guided_tokens(4, [0, 1, 2, 3], options)
    _, part = guided_tokens(4, chosen, options)
    same = (part.latents - whole.latents[chosen]).abs() < 1e-6
    assert same.double().mean() > 0.99  # a sum in another order may turn the sign of a slope that is nearly 0


@settings(max_examples=30, deadline=None)
@given(copies=st.integers(1, 6), scale=st.floats(0.01, 100), order=st.sampled_from(["paper", "official"]))
def test_equal_copies_have_no_diversity(copies: int, scale: float, order: str) -> None:
    """Diversity is 0 for equal copies, so also for a single one."""
    one = scale * torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    assert criteria.diversity(one.expand(2, copies, 9), order).abs().max() < 1e-9


def test_noise_has_the_paper_s_distributions() -> None:
    """z ~ U(0, 1) and b ~ N(0, 1), independent between copies, and the same again."""
    z, b = draw(["a"], 40, (500,), 7)
    assert z.min() >= 0
    assert z.max() <= 1
    assert abs(z.mean() - 0.5) < 0.01
    assert abs(b.mean()) < 0.02
    assert abs(b.std() - 1) < 0.02
    assert abs(torch.corrcoef(b[0])[0, 1:]).max() < 0.2
    again_z, again_b = draw(["x", "a"], 40, (500,), 7)
    assert torch.equal(again_z[1], z[0])
    assert torch.equal(again_b[1], b[0])


def test_criteria_agree_with_torch_distributions() -> None:
    """Entropy and KL are torch.distributions' own."""
    scores = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(6)).softmax(-1)
    expected = torch.distributions.Categorical(probs=scores).entropy()
    torch.testing.assert_close(criteria.entropy(scores), expected)
    torch.testing.assert_close(criteria.entropy_gain(scores, scores[:, 1]), expected - expected[:, 1:2])
    copies = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(7))
    p = torch.distributions.Categorical(logits=copies)
    q = torch.distributions.Categorical(logits=copies.mean(1, keepdim=True).expand_as(copies))
    torch.testing.assert_close(criteria.diversity(copies), torch.distributions.kl_divergence(p, q))
    torch.testing.assert_close(criteria.diversity(copies, "official"), torch.distributions.kl_divergence(q, p))


@pytest.mark.parametrize("order", ["paper", "official"])
@pytest.mark.parametrize("copies", [1, 2, 5])
def test_gradient_of_diversity_is_autograd_s(order: str, copies: int) -> None:
    """The closed form is what automatic differentiation gives."""
    f = torch.randn(3, copies, 4, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64).requires_grad_()
    expected = torch.autograd.grad(criteria.diversity(f, order).sum(), f)[0]
    torch.testing.assert_close(criteria.diversity_gradient(f.detach(), order), expected, rtol=1e-9, atol=1e-12)


def test_projection_is_a_projection() -> None:
    """Points inside stay, and projecting twice changes nothing."""
    f, new = torch.zeros(4), torch.tensor([0.05, -0.05, 3.0, -3.0])
    inside = project(new, f, 0.1)
    torch.testing.assert_close(inside, torch.tensor([0.05, -0.05, 0.1, -0.1]))
    assert torch.equal(project(inside, f, 0.1), inside)
