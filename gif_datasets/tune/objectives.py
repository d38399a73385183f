"""Which weights of a prior are fine-tuned, and the loss: that of its original training, as its scheduler says."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from gif_datasets.errors import ConfigError, MissingExtra, PriorError
from gif_datasets.guidance.rng import generator_for
from gif_datasets.guidance.zeroshot import readable
from gif_datasets.priors import mae
from gif_datasets.priors.base import Prior, pixels_of
from gif_datasets.priors.diffusers_folder import denoiser
from gif_datasets.priors.img2img import SdPrior
from gif_datasets.priors.mae import MaePrior
from gif_datasets.priors.parts import Parts
from gif_datasets.priors.published import NOT_TUNABLE
from gif_datasets.priors.unclip import UnclipPrior
from gif_datasets.tune import conditions

if TYPE_CHECKING:
    from PIL.Image import Image

DROP_CONDITION = 0.1  # share of rows trained without their condition, for classifier-free guidance
CONDITION_NOISE = 0.1  # largest deviation added to an image latent: the radius of the paper's ball
MIN_SNR = 5.0  # Hang et al. 2023
HIDDEN_SHARE = 0.75  # of a masked autoencoder's patches; He et al. 2022
LORA_ABOVE = 100_000_000  # parameters; a smaller U-Net is trained whole
LORA_RANK = 16
LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
"""Names of attention's linear layers; the last two read an image latent's tokens in Kandinsky's and Karlo's blocks."""

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")
Rows = dict[str, Tensor]
"""What losses need of images, one row an image, on the CPU."""


class Objective(Protocol):
    """A prior's decoder as something to train.

    Attributes:
        module: Holds the weights; those that are trained require gradients.
        rank: Rank of the LoRA; 0 where all weights are trained.
    """

    module: nn.Module
    rank: int

    @property
    def architecture(self) -> str:
        """What it is, for a card."""
        ...

    def rows(self, pictures: Sequence[Image], labels: Sequence[int]) -> Rows:
        """What :meth:`losses` needs of images and their class indices."""
        ...

    def losses(self, rows: Rows, when: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of each row, ``(N,)``.

        Args:
            rows: Of N images.
            when: Where in the process each is, ``(N,)`` in [0, 1).
            generator: Draws what else is random, on the CPU.
        """
        ...

    def save(self, base: Parts, folder: Path) -> None:
        """Write a decoder's folder: what that of ``base`` holds, with the weights of :attr:`module`."""
        ...


def objective_of(
    prior: Prior,
    classes: Sequence[str],
    prompts: Sequence[str],
    rank: int | None,
    seed: int,
    captions: Sequence[str] = (),
) -> Objective:
    """The objective of a loaded prior.

    Args:
        prior: The prior.
        classes: Class names, in label order.
        prompts: Captions around a class name, where the prior reads any; one is drawn for an image without its own.
        rank: Of the LoRA; 0: train all weights; None: all of a small decoder, a LoRA of rank 16 for a large one.
        seed: The run's number.
        captions: Captions that belong to single images, whose rows have :data:`CAPTION`: the place among ``prompts``
            and these.

    Raises:
        ConfigError: If the prior is of a kind that cannot be tuned.
        PriorError: If the prediction type of its scheduler is unknown.
        MissingExtra: If a LoRA is requested and peft is not installed.
    """
    if isinstance(prior, MaePrior):
        if rank:
            raise ConfigError(f"rank must be 0 for a masked autoencoder (all weights are tuned), got {rank}")
        return MaeObjective(prior)
    if not isinstance(prior, (SdPrior, UnclipPrior)):
        raise ConfigError(f"cannot tune a {type(prior).__name__}, only an unCLIP, an img2img or a MAE prior's decoder")
    pipeline: Any = prior.pipeline
    if isinstance(prior, SdPrior) and not prior.hands_latents:
        raise ConfigError(f"cannot tune a {type(pipeline).__name__}, only Stable Diffusion 1, 2 and XL among img2img")
    if distilled := _distilled(pipeline):
        raise ConfigError(NOT_TUNABLE.format(f"this {type(pipeline).__name__}", distilled))
    dtype = denoiser(pipeline).dtype
    rank = _trained(denoiser(pipeline), rank, seed)
    if isinstance(prior, SdPrior):
        return SdObjective(prior, rank, dtype, classes, prompts, captions)
    return UnclipObjective(prior, rank, dtype)


def _distilled(pipeline: Any) -> str:
    """What a pipeline was distilled to, as its scheduler says; empty where that says nothing."""
    scheduler = _scheduler(pipeline)
    if type(scheduler).__name__ == "LCMScheduler":
        return "LCM"
    spacing, kind = (scheduler.config.get(name) for name in ("timestep_spacing", "prediction_type"))
    few = spacing == "trailing" and kind == "epsilon"  # as Turbo's folders have it, and those that it was made from not
    return "Turbo, by its scheduler's timestep_spacing 'trailing'" if few else ""


def _scheduler(pipeline: Any) -> Any:
    return pipeline.components.get("decoder_scheduler") or pipeline.scheduler


def _trained(unet: Any, rank: int | None, seed: int) -> int:
    """Choose what of a U-Net is trained; returns the rank, 0 for all weights except those of an IP-Adapter."""
    if rank is None:
        rank = LORA_RANK if sum(p.numel() for p in unet.parameters()) > LORA_ABOVE else 0
    unet.requires_grad_(rank == 0)
    if unet.config.encoder_hid_dim_type == "ip_image_proj":
        for part in (unet.encoder_hid_proj, *unet.attn_processors.values()):
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
    if rank:
        _add_lora(unet, rank, seed)
    for weights in unet.parameters():
        if weights.requires_grad:  # steps of a half-precision weight would round to nothing
            weights.data = weights.data.float()
    return rank


def import_peft() -> Any:
    """The package of LoRAs.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("peft", "tune") from error
    return peft


def _add_lora(unet: Any, rank: int, seed: int) -> None:
    peft = import_peft()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator_for(seed, "", "tune/lora", 0).initial_seed())
        unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_LAYERS)))
    unet.enable_gradient_checkpointing()


@dataclass(frozen=True)
class Noising:
    """How a scheduler mixes clean latents with noise, and what its model predicts of the mixture.

    Attributes:
        kind: The scheduler's ``prediction_type``.
        alphas: Its cumulative products, ``(T,)``.
    """

    kind: str
    alphas: Tensor

    @classmethod
    def of(cls, scheduler: Any) -> Noising:
        """Read a diffusers scheduler; raises PriorError for an unknown prediction type."""
        kind = scheduler.config.get("prediction_type")
        if kind not in PREDICTIONS or not hasattr(scheduler, "alphas_cumprod"):
            raise PriorError(
                f"cannot tune a decoder whose {type(scheduler).__name__} has prediction_type {kind!r};"
                f" known: {', '.join(PREDICTIONS)}"
            )
        return cls(kind, scheduler.alphas_cumprod.cpu().float())

    def mix(self, clean: Tensor, noise: Tensor, when: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The mixture, the model's time, its target and each row's weight."""
        times = (when * len(self.alphas)).long()
        if self.kind == "flow_prediction":  # a straight line; no weights
            sigma = ((times + 1) / len(self.alphas)).to(clean)[:, None, None, None]
            return (1 - sigma) * clean + sigma * noise, times + 1, noise - clean, torch.ones(len(when)).to(clean)
        alphas = self.alphas[times]
        a, s = (part.sqrt().to(clean)[:, None, None, None] for part in (alphas, 1 - alphas))
        snr = alphas / (1 - alphas)
        target, scale = {  # the scale makes all kinds weigh an error of the clean latent alike
            "epsilon": (noise, snr.clamp(min=1e-12)),
            "v_prediction": (a * noise - s * clean, snr + 1),
            "sample": (clean, torch.ones_like(snr)),
        }[self.kind]
        return a * clean + s * noise, times, target, (snr.clamp(max=MIN_SNR) / scale).to(clean)


class _Diffusion:
    """What the diffusion decoders share: a network that denoises an autoencoder's latents, or small images."""

    def __init__(self, prior: UnclipPrior | SdPrior, rank: int, dtype: torch.dtype) -> None:
        self.prior = prior
        self.module: nn.Module = denoiser(prior.pipeline)
        self.rank = rank
        self.dtype = dtype
        self.scheduler = _scheduler(prior.pipeline)
        self.noising = Noising.of(self.scheduler)

    @property
    def architecture(self) -> str:
        """Names of the classes, and the network's size."""
        return (
            f"{type(self.prior.pipeline).__name__}: {type(self.module).__name__} of {_millions(self.module)}"
            f" parameters, {type(self.scheduler).__name__}, {self.noising.kind}"
        )

    def _losses(
        self, clean: Tensor, when: Tensor, generator: torch.Generator, arguments: conditions.Condition
    ) -> Tensor:
        noise = torch.randn(clean.shape, generator=generator)
        clean, noise = (value.to(self.prior.device) for value in (clean, noise))
        mixed, times, target, weights = self.noising.mix(clean, noise, when)
        with torch.autocast(self.prior.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            predicted = self.module(mixed, times.to(self.prior.device), **arguments, return_dict=False)[0]
        predicted = predicted[:, : clean.shape[1]]  # Kandinsky's and Karlo's networks also predict a variance
        return weights * F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3))

    def save(self, base: Parts, folder: Path) -> None:
        """Copy the pipeline, and write the network's trained weights, with a LoRA merged into them.

        Merged, the folder loads as any other and needs no peft. An IP-Adapter stays in its own file.
        """
        pipeline, unet = self.prior.pipeline, denoiser(self.prior.pipeline)
        part = next(name for name, value in pipeline.components.items() if value is unet)

        def weights(place: str, names: list[str]) -> list[str]:
            return [name for name in names if name != "config.json"] if Path(place) == base.decoder / part else []

        shutil.copytree(base.decoder, folder, ignore=weights, dirs_exist_ok=True)
        if self.rank:
            unet.float()  # a LoRA's small steps would be lost in a half-precision weight
            unet.fuse_lora()
            unet.unload_lora()
        if base.adapter:
            pipeline.unload_ip_adapter()
        state = {name: value.to("cpu", self.dtype).contiguous() for name, value in unet.state_dict().items()}
        name = f"diffusion_pytorch_model{f'.{base.variant}' if base.variant else ''}.safetensors"
        save_file(state, folder / part / name, metadata={"format": "pt"})


class UnclipObjective(_Diffusion):
    """An image's autoencoder latent, or the image reduced, denoised under the image's own CLIP latent."""

    prior: UnclipPrior

    @torch.no_grad()
    def rows(self, pictures: Sequence[Image], labels: Sequence[int]) -> Rows:
        """What is denoised, and CLIP latents."""
        parts = self.prior.pipeline.components  # Karlo draws a small image, and enlarges it afterwards
        side = parts["decoder"].config.sample_size if "decoder" in parts else self.prior.image_size
        latents = self.prior.compress(pixels_of(pictures, side).to(self.prior.device))
        return {"latents": latents.cpu(), "conditions": self.prior.encode(pictures).cpu()}

    def losses(self, rows: Rows, when: Tensor, generator: torch.Generator) -> Tensor:
        """Of the predicted noise, or what the scheduler predicts."""
        condition, n = rows["conditions"], len(when)
        noise = torch.randn(condition.shape, generator=generator)
        condition = condition + CONDITION_NOISE * torch.rand(n, 1, generator=generator) * noise
        kept = torch.rand(n, generator=generator) >= DROP_CONDITION
        conditioned = conditions.OF_LATENTS[type(self.prior.pipeline).__name__]
        device = self.prior.device
        with torch.no_grad():
            arguments = conditioned(self.prior, condition.to(device, self.dtype), kept.to(device), generator)
        return self._losses(rows["latents"], when, generator, arguments)


CAPTION = "caption"
"""Of rows: the place of an image's own caption; -1 without one."""


class SdObjective(_Diffusion):
    """An image's autoencoder latent, denoised under its caption, or one of its class."""

    prior: SdPrior

    def __init__(
        self,
        prior: SdPrior,
        rank: int,
        dtype: torch.dtype,
        classes: Sequence[str],
        prompts: Sequence[str],
        captions: Sequence[str],
    ) -> None:
        super().__init__(prior, rank, dtype)
        self.classes = [readable(name) for name in classes]
        self.prompts, self.own = (*prompts, *captions), len(captions)

    @torch.no_grad()
    def rows(self, pictures: Sequence[Image], labels: Sequence[int]) -> Rows:
        """Autoencoder latents and class indices."""
        return {"latents": self.prior.encode(pictures).cpu(), "labels": torch.tensor(labels)}

    def losses(self, rows: Rows, when: Tensor, generator: torch.Generator) -> Tensor:
        """Of the predicted noise, or what the scheduler predicts."""
        n = len(when)
        chosen = torch.randint(len(self.prompts) - self.own, (n,), generator=generator)
        if CAPTION in rows:
            chosen = chosen.where(rows[CAPTION] < 0, rows[CAPTION])
        kept = torch.rand(n, generator=generator) >= DROP_CONDITION
        texts = [
            self.prompts[prompt].replace("{}", self.classes[label]) if keep else ""
            for prompt, label, keep in zip(chosen.tolist(), rows["labels"].tolist(), kept.tolist(), strict=True)
        ]
        with torch.no_grad():
            arguments = conditions.of_texts(
                self.prior.pipeline, texts, kept.to(self.prior.device), self.prior.image_size
            )
        return self._losses(rows["latents"], when, generator, arguments)


class MaeObjective:
    """A masked autoencoder's images, of half the batches with most patches hidden."""

    rank = 0

    def __init__(self, prior: MaePrior) -> None:
        self.prior = prior
        self.module: nn.Module = prior.model
        for name, weights in self.module.named_parameters():
            weights.requires_grad_("pos_embed" not in name)  # positions are fixed

    @property
    def architecture(self) -> str:
        """Its kind and size."""
        return f"masked autoencoder of {_millions(self.module)} parameters"

    def rows(self, pictures: Sequence[Image], labels: Sequence[int]) -> Rows:
        """Pixels, 8 bits each."""
        return {"pixels": (pixels_of(pictures, self.prior.model.config.image_size) * 255).round().byte()}

    def losses(self, rows: Rows, when: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of all patches, in units of each channel's deviation."""
        x = rows["pixels"].to(self.prior.device).float() / 255
        model = self.prior.model
        patches = model.patch_embed.num_patches
        order = torch.rand(len(x), patches, generator=generator).argsort(1)
        keep = order[:, : round(patches * (1 - HIDDEN_SHARE))].to(x.device) if when[0] < 0.5 else None
        y = model.decode(model.encode(x, keep), keep)
        return ((y - x) / model.std).square().mean((1, 2, 3))

    def save(self, base: Parts, folder: Path) -> None:
        """Write configuration and weights."""
        mae.save(self.prior.model, folder)


def _millions(module: nn.Module) -> str:
    return f"{sum(weights.numel() for weights in module.parameters()) / 1e6:.1f}M"
