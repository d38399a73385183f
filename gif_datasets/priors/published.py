"""Published priors: where their weights are, on what terms, and which CLIP scores them.

Revisions are commits, as public code and the Hub's own pages record them. Where none could be established the revision
is a branch or a pull request: the plan names what it points to, and ``NAME@REVISION`` fixes it.

Sizes follow from the architectures: bytes of the weights that are fetched, and what these take on a device with the
activations of one picture (tests/priors/test_full_size.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gif_datasets.priors.parts import Parts
from gif_datasets.priors.weights import CLIPS, HALF, MAIN, Weights

A_PIXEL, A_PIXEL_KEPT = 3_000, 12_500
"""Bytes in half precision while an autoencoder decodes, and that it keeps where a gradient is taken (recipe.py)."""

UNDONE = (
    "cannot tune {}: it is distilled to a few steps ({}), and a loss on predicted noise would undo that; tune what it"
    " was distilled from"
)
"""Why a distillate is not tuned: which, and to what it is distilled."""


@dataclass(frozen=True)
class Published:
    """A prior that others have published.

    Attributes:
        name: Its name here.
        family: Of the methods that it serves.
        pipeline: Class of diffusers or transformers that its files are of.
        decoder: Its files.
        clip: Name of what scores it, in :data:`CLIPS`.
        latent: What its latent is.
        image_size: Side of its pictures, pixels.
        license: Of the weights, and whether the Hub asks for consent first.
        gigabytes: To fetch, without the CLIP.
        adapter: An IP-Adapter's files, where there is one.
        settings: What else ``prior.json`` would say.
        advice: Options that differ from the usual.
        note: What else to know.
        distilled: To what, where it draws in a few steps: ``"LCM"`` or ``"Turbo"``.
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

    @property
    def sources(self) -> tuple[Weights, ...]:
        """All that is fetched: the decoder's files first."""
        extra = (self.adapter,) if self.adapter else ()
        return (self.decoder, CLIPS[self.clip].weights, *extra)

    @property
    def download(self) -> float:
        """Gigabytes to fetch, CLIP and all."""
        return self.gigabytes + CLIPS[self.clip].gigabytes

    @property
    def memory(self) -> float:
        """Gigabytes on the device: a diffusion pipeline in half precision, the CLIP in single, and one picture."""
        halved = self.family != "mae" and self.decoder.variant is None
        picture = self.image_size**2 * (A_PIXEL if self.family == "unclip" else A_PIXEL_KEPT)
        return self.gigabytes / (2 if halved else 1) + CLIPS[self.clip].gigabytes + picture / 1e9

    @property
    def here(self) -> bool:
        """Whether the Hub's cache holds all of it."""
        return all(weights.here for weights in self.sources)

    def at(self, revision: str) -> Published:
        """The same with another revision of the decoder."""
        return dataclasses.replace(self, decoder=dataclasses.replace(self.decoder, revision=revision))

    def resolved(self) -> Published:
        """The same at commits."""
        return dataclasses.replace(self, decoder=self.decoder.resolved())

    def parts(self) -> Parts:
        """Where its files are, fetched where they are not here."""
        decoder, clip = self.decoder.bring(), CLIPS[self.clip].weights.bring()
        return Parts(
            clip,
            decoder,
            self.image_size,
            self.adapter.bring() if self.adapter else None,
            self.decoder.variant,
            **self.settings,
        )

    def row(self) -> str:
        """Its row of the table in ``docs/priors.md``."""
        revision = f"`{self.decoder.revision[:8]}`" if self.decoder.pinned else f"{self.decoder.revision}, not pinned"
        link = f"[{self.decoder.repository}](https://huggingface.co/{self.decoder.repository})"
        cells = (f"`{self.name}`", self.family, f"{link}, {revision}", self.license, self.latent, self.clip)
        sizes = (str(self.image_size), f"{self.download:.1f}", f"{self.memory:.0f}", self.advice)
        return f"| {' | '.join((*cells, *sizes))} |"

    def to_json(self) -> dict[str, Any]:
        """What ``gif-datasets priors --json`` tells."""
        clip = CLIPS[self.clip]
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
            "clip": {"open_clip": self.clip, "width": clip.width, "repository": clip.weights.repository}
            | {"revision": clip.weights.revision},
            "image_size": self.image_size,
            "download_gb": round(self.download, 1),
            "memory_gb": round(self.memory, 1),
            "here": self.here,
            "advice": self.advice,
            "note": self.note,
        }


def _pipeline(
    repository: str, revision: str, parts: str, variant: str | None = None, others: str = "scheduler tokenizer"
) -> Weights:
    """A diffusers pipeline: ``parts`` have weights, ``others`` only configuration."""
    kind = f".{variant}" if variant else ""
    weights = (pattern for part in parts.split() for pattern in (f"{part}/config.json", f"{part}/*{kind}.safetensors"))
    return Weights(
        repository, revision, ("model_index.json", *weights, *(f"{part}/*" for part in others.split())), "", variant
    )


_B32, _L14, _H14, _BIGG = CLIPS
_IP_ADAPTER = "018e402774aeeddd60609b4ecdb7e298259dc729"
_SD15 = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14")
_SDXL = ("stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b")
_SD_PARTS, _SDXL_PARTS = "unet vae text_encoder", "unet vae text_encoder text_encoder_2"
_SDXL_OTHERS = "scheduler tokenizer tokenizer_2"
_OPENRAIL = "CreativeML Open RAIL-M; not gated"
_OPENRAIL_PP = "CreativeML Open RAIL++-M; not gated"
_TURBO = "Stability AI Community (non-commercial without registration); not gated"
_WITHDRAWN = "Stability AI withdrew its Stable Diffusion 2 repositories in November 2025; this is the community's copy"


_FEW_STEPS = "few steps: img2img in 2 instead of 15"
_CONVERTED = "the main branch has pickles only; {}, the pull request of the Hub's converter, has safetensors"


def _ip_adapter(file: str) -> Weights:
    folder, name = file.split("/")
    return Weights("h94/IP-Adapter", _IP_ADAPTER, (file,), f"{folder}/{name}")


def _mae(size: str, revision: str, width: int, gigabytes: float, note: str = "") -> Published:
    return Published(
        f"mae-{size}",
        "mae",
        "ViTMAEForPreTraining",
        Weights(f"facebook/vit-mae-{size}", revision, ("config.json", "model.safetensors")),
        _B32,
        f"197 tokens of {width}",
        224,
        "Apache-2.0; not gated",
        gigabytes,
        note=note,
    )


_VAE_LATENT = "autoencoder latent, 4 x {0} x {0}"
_ALL = (
    Published(
        "karlo",
        "unclip",
        "UnCLIPImageVariationPipeline",
        _pipeline(
            "kakaobrain/karlo-v1-alpha-image-variations",
            "refs/pr/2",
            "decoder text_encoder text_proj super_res_first super_res_last",
            others="decoder_scheduler super_res_scheduler tokenizer",
        ),
        _L14,
        "CLIP image embedding, 768",
        256,
        _OPENRAIL,
        9.6,
        advice="decode_steps=25, guidance_scale=8",
        note=_CONVERTED.format("refs/pr/2"),
    ),
    Published(
        "sd21-unclip-small",
        "unclip",
        "StableUnCLIPImg2ImgPipeline",
        _pipeline(
            "sd2-community/stable-diffusion-2-1-unclip-small",
            MAIN,
            f"{_SD_PARTS} image_normalizer",
            others="scheduler tokenizer image_noising_scheduler",
        ),
        _L14,
        "CLIP image embedding, 768",
        768,
        _OPENRAIL_PP,
        5.2,
        advice="decode_steps=20, guidance_scale=10",
        note=_WITHDRAWN,
    ),
    Published(
        "sd21-unclip",
        "unclip",
        "StableUnCLIPImg2ImgPipeline",
        _pipeline(
            "sd2-community/stable-diffusion-2-1-unclip",
            MAIN,
            f"{_SD_PARTS} image_normalizer",
            others="scheduler tokenizer image_noising_scheduler",
        ),
        _H14,
        "CLIP image embedding, 1024",
        768,
        _OPENRAIL_PP,
        5.2,
        advice="decode_steps=20, guidance_scale=10",
        note=_WITHDRAWN,
    ),
    Published(
        "kandinsky22",
        "unclip",
        "KandinskyV22Pipeline",
        _pipeline(
            "kandinsky-community/kandinsky-2-2-decoder",
            "9ae140d347fed8ce6e8bb3005dcc1f48543bb8e3",
            "unet movq",
            others="scheduler",
        ),
        _BIGG,
        "CLIP image embedding, 1280",
        512,
        "Apache-2.0; not gated",
        5.3,
        settings={"null_latent": "mean image"},
        advice="decode_steps=25, guidance_scale=4",
    ),
    Published(
        "ip-adapter-sd15",
        "unclip",
        "StableDiffusionPipeline",
        _pipeline(*_SD15, _SD_PARTS),
        _H14,
        "CLIP image embedding, 1024",
        512,
        f"{_OPENRAIL} (adapter: Apache-2.0)",
        4.3,
        _ip_adapter("models/ip-adapter_sd15.safetensors"),
        advice="decode_steps=25, guidance_scale=7.5",
    ),
    Published(
        "ip-adapter-sdxl",
        "unclip",
        "StableDiffusionXLPipeline",
        _pipeline(*_SDXL, _SDXL_PARTS, HALF, _SDXL_OTHERS),
        _BIGG,
        "CLIP image embedding, 1280",
        1024,
        f"{_OPENRAIL_PP} (adapter: Apache-2.0)",
        7.6,
        _ip_adapter("sdxl_models/ip-adapter_sdxl.safetensors"),
        advice="decode_steps=25, guidance_scale=5",
    ),
    Published(
        "ip-adapter-sdxl-vit-h",
        "unclip",
        "StableDiffusionXLPipeline",
        _pipeline(*_SDXL, _SDXL_PARTS, HALF, _SDXL_OTHERS),
        _H14,
        "CLIP image embedding, 1024",
        1024,
        f"{_OPENRAIL_PP} (adapter: Apache-2.0)",
        7.6,
        _ip_adapter("sdxl_models/ip-adapter_sdxl_vit-h.safetensors"),
        advice="decode_steps=25, guidance_scale=5",
    ),
    Published(
        "sd15",
        "sd",
        "StableDiffusionImg2ImgPipeline",
        _pipeline(*_SD15, _SD_PARTS),
        _B32,
        _VAE_LATENT.format(64),
        512,
        _OPENRAIL,
        4.3,
        advice="decode_steps=25, guidance_scale=7.5, strength=0.6",
    ),
    Published(
        "sdxl",
        "sd",
        "StableDiffusionXLImg2ImgPipeline",
        _pipeline(*_SDXL, _SDXL_PARTS, HALF, _SDXL_OTHERS),
        _B32,
        _VAE_LATENT.format(128),
        1024,
        _OPENRAIL_PP,
        6.9,
        advice="decode_steps=25, guidance_scale=5, strength=0.6",
    ),
    Published(
        "lcm-dreamshaper",
        "sd",
        "LatentConsistencyModelImg2ImgPipeline",
        _pipeline("SimianLuo/LCM_Dreamshaper_v7", "a85df6a8bd976cdd08b4fd8f3b73f229c9e54df5", _SD_PARTS),
        _B32,
        _VAE_LATENT.format(64),
        512,
        "MIT; not gated",
        4.3,
        advice="decode_steps=4, guidance_scale=8, strength=0.6",
        note=_FEW_STEPS,
        distilled="LCM",
    ),
    Published(
        "sd-turbo",
        "sd",
        "StableDiffusionImg2ImgPipeline",
        _pipeline("stabilityai/sd-turbo", "b261bac6fd2cf515557d5d0707481eafa0485ec2", _SD_PARTS, HALF),
        _B32,
        _VAE_LATENT.format(64),
        512,
        _TURBO,
        2.6,
        advice="decode_steps=4, guidance_scale=1, strength=0.5",
        note=_FEW_STEPS,
        distilled="Turbo",
    ),
    Published(
        "sdxl-turbo",
        "sd",
        "StableDiffusionXLImg2ImgPipeline",
        _pipeline(
            "stabilityai/sdxl-turbo", "71153311d3dbb46851df1931d3ca6e939de83304", _SDXL_PARTS, HALF, _SDXL_OTHERS
        ),
        _B32,
        _VAE_LATENT.format(64),
        512,
        _TURBO,
        6.9,
        advice="decode_steps=4, guidance_scale=1, strength=0.5",
        note=_FEW_STEPS,
        distilled="Turbo",
    ),
    _mae("base", "25b184bea5538bf5c4c852c79d221195fdd2778d", 768, 0.4),
    _mae("large", "refs/pr/1", 1024, 1.3, _CONVERTED.format("refs/pr/1")),
)
PUBLISHED = {prior.name: prior for prior in _ALL}
"""By name."""
