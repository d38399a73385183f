"""Expansion by classical augmentation: the baselines that the paper compares with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from gif_datasets.config import ExpansionConfig
from gif_datasets.methods import Method

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Augmented:
    """An augmented image.

    Attributes:
        image: The image, of the seed's size.
        partner_share: Share of its area that is another seed's, in [0, 0.5]; 0 except CutMix.
    """

    image: Image
    partner_share: float = 0.0


def randaugment(image: Image, partner: Image, config: ExpansionConfig, generator: torch.Generator) -> Augmented:
    """RandAugment (Cubuk et al. 2020), torchvision's, with its defaults unless configured."""
    from torchvision.transforms import v2

    transform = v2.RandAugment(config.randaugment_ops, config.randaugment_magnitude)
    return Augmented(_with_global_draws(transform, image, generator))


def cutout(image: Image, partner: Image, config: ExpansionConfig, generator: torch.Generator) -> Augmented:
    """Cutout (DeVries and Taylor 2017): one grey square at a random place, cut off at the border."""
    pixels = np.array(image)
    side = round(config.mask_size * min(image.size))
    top, left = (int(torch.randint(size, (), generator=generator)) - side // 2 for size in pixels.shape[:2])
    pixels[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 128
    return Augmented(_image(pixels))


def gridmask(image: Image, partner: Image, config: ExpansionConfig, generator: torch.Generator) -> Augmented:
    """GridMask (Chen et al. 2020): a lattice of grey squares, of random pitch and place; half of each pitch is kept."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    smallest, largest = (max(2, round(share * min(height, width))) for share in (0.25, 0.75))
    pitch = int(torch.randint(smallest, largest + 1, (), generator=generator))
    top, left = (int(torch.randint(pitch, (), generator=generator)) for _ in range(2))
    hidden = round(config.mask_size * pitch)
    rows, columns = (np.arange(size) + offset for size, offset in ((height, top), (width, left)))
    pixels[np.ix_(rows % pitch < hidden, columns % pitch < hidden)] = 128
    return Augmented(_image(pixels))


def cutmix(image: Image, partner: Image, config: ExpansionConfig, generator: torch.Generator) -> Augmented:
    """CutMix (Yun et al. 2019): a box of another seed. At most half the area, so the label stays the majority's."""
    pixels = np.array(image)
    other = np.asarray(partner.resize(image.size))
    height, width = pixels.shape[:2]
    side = float(torch.rand((), generator=generator) * 0.5) ** 0.5
    rows, columns = (_span(size, side, generator) for size in (height, width))
    pixels[rows, columns] = other[rows, columns]
    share = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return Augmented(_image(pixels), share)


Augmentation: TypeAlias = "Callable[[Image, Image, ExpansionConfig, torch.Generator], Augmented]"
AUGMENTATIONS: dict[str, Augmentation] = {
    "randaugment": randaugment,
    "cutout": cutout,
    "gridmask": gridmask,
    "cutmix": cutmix,
}


def augmentation_of(method: Method) -> Augmentation:
    """What makes a method's images: one of these, or what another package registers."""
    if method.registered is None:
        return AUGMENTATIONS[method.base]
    found: Augmentation = method.registered.load()
    return found


def _span(size: int, share: float, generator: torch.Generator) -> slice:
    """A random interval of at most ``share`` of the axis, cut off at its ends (CutMix's own rule)."""
    length = int(share * size)
    start = int(torch.randint(size, (), generator=generator)) - length // 2
    return slice(max(0, start), max(0, min(size, start + length)))


def _with_global_draws(transform: Callable[[Any], Any], image: Image, generator: torch.Generator) -> Image:
    """Run a torchvision transform, which draws from the global generator, as if it drew from ``generator``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.initial_seed())  # a GPU's generators are nobody's business here
        result: Image = transform(image)
    return result


def _image(pixels: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(pixels)
