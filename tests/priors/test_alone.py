"""For every prior of every family, an image does not depend on the block that it is drawn in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from PIL import Image
from pipelines import ADAPTED, folder_of, published_here

from gif_datasets import ExpansionConfig
from gif_datasets.expansion.recipe import make_recipe
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.priors.redux import ReduxPrior

CPU = torch.device("cpu")
OTHERS = {"sd3": pipelines.sd3, "flux": pipelines.flux, "chroma": pipelines.chroma}
EVERY = (
    *PUBLISHED,
    "linear",
    *(f"embedded {family}" for family in ("unclip", "mae", "sd")),
    *OTHERS,
)
"""Priors: those of the table, tiny; those that ship; and folders of other architectures."""
NAMES = ("ant", "bee", "crab")


@pytest.fixture(scope="module", params=EVERY)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A prior and its family."""
    name, _, family = request.param.partition(" ")
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        if name in PUBLISHED:
            with published_here(name, scratch, patch):
                family = PUBLISHED[name].family
                yield load_prior(find_prior(name), family, CPU, options(family)), family
            return
        if name in OTHERS:
            torch.manual_seed(0)
            family, name = "sd", folder_of(scratch / "prior", "sd", OTHERS[name](scratch / "tokens").save_pretrained)
        family = family or "unclip"
        yield load_prior(find_prior(name), family, CPU, options(family)), family


def options(family: str, **more: Any) -> ExpansionConfig:
    drawn = {"decode_steps": 3, "guidance_scale": 4.0} if family in ("unclip", "sd") else {}
    return ExpansionConfig(**{"method": family, "decode_batch": 4, **drawn, **more})


@pytest.fixture(scope="module")
def seeds() -> list[Image.Image]:
    torch.manual_seed(0)
    noise = (torch.rand(4, 6, 6, 3) * 255).byte().numpy()
    return [Image.fromarray(small).resize((40, 32), Image.Resampling.BICUBIC) for small in noise]


def draws(keys: str) -> list[torch.Generator]:
    return [generator_for(0, key, "decode", 1) for key in keys]


def agree(ours: Callable[[Any, str], torch.Tensor], rows: Any, other: Any) -> None:
    """Of three rows each gives alone what it gives among the others, and what it gives beside another row."""
    together = ours(rows, "abc")
    close = {"rtol": 0.0, "atol": 1e-3 * float(together.abs().max())}
    for row, key in enumerate("abc"):
        torch.testing.assert_close(together[row : row + 1], ours(rows[row : row + 1], key), **close)
    changed = [*rows[:2], other]
    beside = ours(torch.stack(changed) if isinstance(rows, torch.Tensor) else changed, "abz")
    torch.testing.assert_close(beside[:2], together[:2], **close)
    assert (beside[2] - together[2]).abs().max() > 1e-3 * together.abs().max()


def test_images_do_not_depend_on_their_block(loaded: tuple[Any, str], seeds: list[Image.Image]) -> None:
    """From noise, guided by the decoder and not; and near the seeds, where a row is a latent and its anchor."""
    prior, family = loaded
    with torch.no_grad():
        latents = prior.encode(seeds)
    for scale in (4.0, 1.0) if family == "unclip" else (4.0,):
        config = options(family, **({"guidance_scale": scale} if family in ("unclip", "sd") else {}))
        agree(lambda rows, keys: prior.decode(rows, draws(keys), config), latents[:3], latents[3])  # noqa: B023
    if family != "unclip" or not anchored(prior):
        return
    anchors, config = prior.anchors(seeds), options(family, strength=0.6)
    agree(lambda images, _: prior.anchors(images), seeds[:3], seeds[3])
    near = torch.arange(4)
    agree(lambda rows, keys: prior.decode_near(latents[rows], anchors[rows], draws(keys), config), near[:3], near[3])


def anchored(prior: Any) -> bool:
    """Whether copies can begin near their seeds."""
    kind = getattr(prior, "kind", None)
    return isinstance(prior, ReduxPrior) or (kind is not None and kind.img2img is not None)


def test_what_images_give_does_not_depend_on_their_block(loaded: tuple[Any, str], seeds: list[Image.Image]) -> None:
    """Latents, embeddings of images and of latents, and what copies start from."""
    prior, family = loaded
    config = options(family, ratio=2, **({"strength": 0.7} if family == "sd" else {}))

    def start(images: list[Image.Image], keys: str) -> torch.Tensor:
        names = [NAMES["abcz".index(key) % 3] for key in keys]
        found: torch.Tensor = prior.start(images, prior.encode(images), names, list(keys), config)
        return found

    agree(lambda images, _: prior.encode(images), seeds[:3], seeds[3])
    agree(lambda images, _: prior.embed_images(images), seeds[:3], seeds[3])
    agree(start, seeds[:3], seeds[3])
    with torch.no_grad():
        latents = prior.encode(seeds)
        agree(lambda rows, _: prior.embed(rows), latents[:3], latents[3])


def test_copies_that_were_mixed_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their key changes: that of an IP-Adapter's blocks; alone, and by other priors, copies were right."""

    def marked(**options: Any) -> bool:
        return "rows" in make_recipe(ExpansionConfig(**options), ["ant", "bee"]).to_json()

    for name in ADAPTED:
        with published_here(name, tmp_path / name, monkeypatch):
            assert marked(prior=name)
            assert not marked(prior=name, decode_batch=1)
            assert not marked(prior=name, method="randaugment")
    with published_here("kandinsky22", tmp_path / "k", monkeypatch):
        assert not marked(prior="kandinsky22")
    assert not marked()
    folder = Path(folder_of(tmp_path / "own", "sd", pipelines.sd15(tmp_path / "tokens").save_pretrained))
    card = json.loads((folder / "prior.json").read_text())
    (folder / "adapter.safetensors").write_bytes(b"")
    both = {"decoders": dict.fromkeys(("unclip", "sd"), "decoder"), "adapter": "adapter.safetensors"}
    (folder / "prior.json").write_text(json.dumps(card | both))
    assert marked(prior=str(folder))
    assert not marked(prior=str(folder), method="gif-sd")
