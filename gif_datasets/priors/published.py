"""Published priors: their files, licences and CLIPs. The table is in ``published.toml``.

Revisions are commits, as recorded in public code and on the Hub's pages. Where no commit is known the revision is a
branch or a pull request: the plan names the commit that it points to, and ``NAME@REVISION`` pins it.

Sizes follow from the architectures: bytes of the weights to fetch, and device memory with the activations of one image
 (tests/priors/test_full_size.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from gif_datasets.io.parsing import read_toml
from gif_datasets.priors.parts import Parts
from gif_datasets.priors.weights import CLIPS, Weights

A_PIXEL, A_PIXEL_KEPT = 3_000, 12_500
"""Bytes in half precision while an autoencoder decodes, and while it keeps activations for a gradient (recipe.py)."""

NOT_TUNABLE = (
    "cannot tune {}: it is distilled to a few steps ({}), and training on predicted noise would undo that; tune the"
    " base model instead"
)
"""Why a distilled model cannot be tuned; fields: its name, and the kind of distillation."""
TUNABLE_PIPELINES = (
    "UnCLIPImageVariationPipeline",
    "StableUnCLIPImg2ImgPipeline",
    "KandinskyV22Pipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline",
)
"""Diffusion pipelines that can be tuned."""

FROM_NOISE_ALONE = {
    "UnCLIPImageVariationPipeline": "it draws small images and enlarges them, without an autoencoder",
    "StableUnCLIPImg2ImgPipeline": "diffusers has no pipeline that noises an image for it",
}
"""Pipelines of unCLIP priors that cannot begin near a seed, and why."""


REDUX = "FluxPipeline"
"""The pipeline that draws, as an unCLIP prior, what Redux makes of a SigLIP's tokens."""


def from_noise_alone(pipeline: str) -> str:
    """Why a strength below 1 does not fit a pipeline."""
    return f"a {pipeline} begins from noise alone ({FROM_NOISE_ALONE[pipeline]}); give strength=1, or another prior"


@dataclass(frozen=True)
class Published:
    """A prior published by others.

    Attributes:
        name: Its name in this package.
        family: Family of the methods that it supports.
        pipeline: Its class in diffusers or transformers.
        decoder: The decoder's files.
        clip: Name of the CLIP that scores its images, in :data:`CLIPS`; empty where its own latents do.
        latent: Kind and size of its latent.
        image_size: Side of its images, pixels.
        license: Licence of the weights, and whether access on the Hub is gated.
        gigabytes: Size of the download without the CLIP.
        adapter: Files of an IP-Adapter or of Redux, if any.
        settings: Further settings, as in ``prior.json``.
        advice: Recommended options.
        note: A remark for the user.
        distilled: Kind of distillation of a few-step model, such as ``"LCM"`` or ``"Turbo"``.
        clip_weights: The CLIP's files; None where it has none.
        half_gigabytes: Size in half precision, where it is not half of :attr:`gigabytes`: files that are in half
            precision already, under names that do not say so. 0: it is half.
    """

    name: str
    family: str
    pipeline: str
    decoder: Weights
    clip: str
    latent: str
    image_size: int
    license: str
    gigabytes: float
    adapter: Weights | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""
    note: str = ""
    distilled: str = ""
    half_gigabytes: float = 0.0
    clip_weights: Weights | None = None

    @property
    def sources(self) -> tuple[Weights, ...]:
        """All files to fetch, the decoder's first."""
        return tuple(weights for weights in (self.decoder, self.clip_weights, self.adapter) if weights)

    @property
    def samples(self) -> bool:
        """Whether it is a diffusion pipeline, which takes many steps and can run in half precision."""
        return self.family not in ("mae", "rae")

    @property
    def download(self) -> float:
        """Gigabytes to fetch, including the CLIP."""
        return self.gigabytes + self._clip_gigabytes

    @property
    def _clip_gigabytes(self) -> float:
        return CLIPS[self.clip].gigabytes if self.clip else 0.0

    @property
    def memory(self) -> float:
        """Gigabytes on the device: a diffusion pipeline in half precision, the CLIP in single, and one image."""
        halved = self.samples and self.decoder.variant is None
        picture = self.image_size**2 * (A_PIXEL if self.family in ("unclip", "rae") else A_PIXEL_KEPT)
        weights = self.half_gigabytes or self.gigabytes / (2 if halved else 1)
        return weights + self._clip_gigabytes + picture / 1e9

    @property
    def here(self) -> bool:
        """Whether all files are in the Hub's cache."""
        return all(weights.here for weights in self.sources)

    def at(self, revision: str) -> Published:
        """The same prior with another revision of the decoder."""
        return dataclasses.replace(self, decoder=dataclasses.replace(self.decoder, revision=revision))

    def resolved(self) -> Published:
        """The same prior with its revisions resolved to commits."""
        return dataclasses.replace(
            self,
            decoder=self.decoder.resolved(),
            clip_weights=self.clip_weights and self.clip_weights.resolved(),
            adapter=self.adapter and self.adapter.resolved(),
        )

    def parts(self) -> Parts:
        """Its local files; missing files are fetched, the largest last: access to any of them may be denied."""
        self.decoder.reach()
        adapter = self.adapter.bring() if self.adapter else None
        decoder = self.decoder.bring()
        return Parts(
            self.clip_weights.bring() if self.clip_weights else None,
            decoder,
            self.image_size,
            adapter,
            self.decoder.variant,
            **self.settings,
        )

    def row(self) -> str:
        """Its row of the table in ``docs/priors.md``."""
        revision = f"`{self.decoder.revision[:8]}`" if self.decoder.pinned else f"{self.decoder.revision}, not pinned"
        link = f"[{self.decoder.repository}](https://huggingface.co/{self.decoder.repository})"
        scores = self.clip or "its own tokens"
        cells = (f"`{self.name}`", self.family, f"{link}, {revision}", self.license, self.latent, scores)
        sizes = (str(self.image_size), f"{self.download:.1f}", f"{self.memory:.0f}", self.advice)
        return f"| {' | '.join((*cells, *sizes))} |"

    def to_json(self) -> dict[str, Any]:
        """The output of ``gif-datasets priors --json``."""
        return {
            "name": self.name,
            "families": [self.family],
            "pipeline": self.pipeline,
            "repository": self.decoder.repository,
            "revision": self.decoder.revision,
            "pinned": self.decoder.pinned,
            "adapter": self.adapter and f"{self.adapter.repository}@{self.adapter.revision}:{self.adapter.folder}",
            "license": self.license,
            "latent": self.latent,
            "clip": _clip_json(self.clip) if self.clip else None,
            "image_size": self.image_size,
            "download_gb": round(self.download, 1),
            "memory_gb": round(self.memory, 1),
            "here": self.here,
            "advice": self.advice,
            "note": self.note,
        }


def _clip_json(name: str) -> dict[str, Any]:
    clip = CLIPS[name]
    weights = {"repository": clip.weights.repository, "revision": clip.weights.revision}
    return {"open_clip": name, "width": clip.width, **weights}


def _read_table() -> dict[str, Published]:
    """The priors of ``published.toml``, by name."""
    table = read_toml(files("gif_datasets.priors").joinpath("published.toml").read_text(encoding="utf-8"))
    weights = {
        name: Weights(**{**fields, "files": tuple(fields["files"])}) for name, fields in table["weights"].items()
    }
    return {name: _published(name, fields, weights) for name, fields in table["priors"].items()}


def _published(name: str, fields: Mapping[str, Any], weights: Mapping[str, Weights]) -> Published:
    files = {"decoder": weights[fields["decoder"]], "adapter": weights.get(fields.get("adapter", ""))}
    clip = CLIPS[fields["clip"]].weights if fields["clip"] else None
    return Published(name=name, **{**fields, **files, "clip_weights": clip})


PUBLISHED = _read_table()
"""By name."""
