"""Which images count as the same to the eye."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from gif_datasets.io.duplicates import ENCODED, NEAR, Spectra, near_duplicates, orientations, spectra, threshold
from gif_datasets.sources import open_source

ORIENTATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "upright": lambda image: image,
    **{way.name: lambda image, way=way: image.transpose(way) for way in Image.Transpose},
}


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Encode and decode."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def gamma(image: Image.Image, power: float) -> Image.Image:
    """Change the middle tones."""
    return image.point([round(255 * (value / 255) ** power) for value in range(256)] * 3)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded again": lambda image: jpeg(image, 60),
    "larger": lambda image: image.resize((77, 90), Image.Resampling.BICUBIC),
    "smaller": lambda image: image.resize((20, 20), Image.Resampling.LANCZOS),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "harder": lambda image: ImageEnhance.Contrast(image).enhance(1.7),
    "lighter": lambda image: gamma(image, 0.6),
    "deeper": lambda image: gamma(image, 1.6),
    "equalised": ImageOps.equalize,
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "negative": ImageOps.invert,
}


def blotches(count: int, number: int) -> list[Image.Image]:
    """Smooth random images."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (count, 8, 8), np.uint8)
    return [Image.fromarray(one).resize((96, 96), Image.Resampling.BICUBIC).convert("RGB") for one in small]


def of(images: list[Image.Image]) -> Spectra:
    """Spectra of several images."""
    return np.stack([spectra(image) for image in images])


DEMO = open_source("demo")
PHOTOS = [DEMO.sample(i)[0] for i in range(0, 200, 4)]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("known", [PHOTOS, blotches(20, 0)], ids=["photos", "blotches"])
def test_the_same_is_found_in_any_orientation_and_light(known: list[Image.Image], change: str) -> None:
    """Each of eight orientations of what was changed is the image that it was made from."""
    chosen = range(0, len(known), 5)
    for turned in ORIENTATIONS.values():
        near = near_duplicates(of(known), [spectra(turned(CHANGES[change](known[number]))) for number in chosen])
        assert [near[place][0] for place in range(len(chosen))] == list(chosen)


def test_other_images_are_not_the_same() -> None:
    """Whichever way they are turned."""
    others = [DEMO.sample(i)[0] for i in range(1, 200, 4)]
    assert near_duplicates(of(PHOTOS), [spectra(one) for one in others]) == {}
    assert near_duplicates(of(blotches(100, 0)), [spectra(one) for one in blotches(100, 1)]) == {}
    assert threshold(of(PHOTOS)[:, 0]) > NEAR - 6


@pytest.mark.parametrize("turned", ORIENTATIONS)
def test_orientations_of_a_spectrum_are_those_of_the_image(turned: str) -> None:
    """Signs and an exchange of axes do what turning the pixels does; each way is there once."""
    image = blotches(1, 2)[0]
    cosines = orientations(spectra(image)[0]) @ spectra(ORIENTATIONS[turned](image))[0]
    assert cosines.max() > 0.999
    assert (cosines > 0.9).sum() == 1


def test_aligned_images() -> None:
    """Where all look alike, as solar cells do, others of the kind are others; encoded again is the same."""
    rng = np.random.default_rng(0)
    frame = rng.normal(128, 30, (32, 32))

    def cell() -> Image.Image:
        return Image.fromarray((frame + rng.normal(0, 15, (32, 32))).clip(0, 255).astype(np.uint8)).convert("RGB")

    seeds, others = [cell() for _ in range(40)], [cell() for _ in range(40)]
    known = of(seeds)
    assert all(ENCODED <= threshold(part) < 30 for part in np.moveaxis(known, 1, 0))
    assert near_duplicates(known, [spectra(one) for one in others]) == {}
    assert near_duplicates(known, [spectra(jpeg(seeds[3], 90).rotate(180))])[0][0] == 3


def test_images_that_show_next_to_nothing_are_not_the_same() -> None:
    """One colour shows nothing; one bright spot shares its bits with any other, but not its spectrum."""
    flat = [Image.new("RGB", (16, 16), colour) for colour in ("white", "red", "black")]
    assert not of(flat).any()
    assert near_duplicates(of(flat), [spectra(one) for one in flat]) == {}
    spots = []
    for place, size in (((0, 0), 2), ((1, 1), 5)):
        spots.append(Image.new("L", (32, 32), 40))
        spots[-1].paste(200, (*place, place[0] + size, place[1] + size))
    assert near_duplicates(of(spots[:1]), [spectra(spots[1])]) == {}
