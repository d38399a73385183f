"""Copies that show what is there already are drawn again, whatever else is asked for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import objects as marked
import pytest
from helpers import contents
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig
from gif_datasets.cli import main
from gif_datasets.expansion.open import open_expansion
from gif_datasets.expansion.recipe import make_recipe
from gif_datasets.expansion.withdraw import withdraw
from gif_datasets.io.duplicates import NEAR, KnownImages, spectra
from gif_datasets.report.page import write_report
from gif_datasets.shards.verify import verify
from gif_datasets.sources import wrap_source

Draw = Callable[[int], Image.Image]
TURNED: dict[str, Any] = {"method": "randaugment", "ratio": 4, "check": "novel", "novel_bits": NEAR, "redraws": 6}
"""Some of its transformations change what the hash looks at, others leave it."""
PLAIN: dict[str, Any] = {"method": "randaugment", "ratio": 4}


def shown(expanded: Any, index: int) -> Any:
    return spectra(expanded[index][0])


def near(images: list[Any], image: Any) -> bool:
    return KnownImages.of(np.stack(images), NEAR).nearest(image) is not None


def digests(expanded: Any) -> list[tuple[int, int, int, bool, str]]:
    records = [expanded.provenance(i) for i in range(len(expanded))]
    return [(r.seed_index, r.copy, r.attempts, r.passed, r.image_sha256) for r in records]


def test_no_copy_shows_a_seed_or_an_earlier_copy(seed_folder: Path) -> None:
    """Unless its record says that all its draws did; without the check there are more, and first draws are the same."""
    expanded = ExpandedDataset(str(seed_folder), prior="linear", **TURNED)
    plain = ExpandedDataset(str(seed_folder), prior="linear", **PLAIN)
    records = [expanded.provenance(i) for i in range(len(expanded))]
    seeds = [shown(expanded, i) for i in range(12)]
    drawn_again = repeats = 0
    for i in range(12, len(expanded)):
        record = records[i]
        others = [*seeds, *(shown(expanded, j) for j in range(i - record.copy + 1, i))]
        assert record.passed != near(others, shown(expanded, i))
        assert record.picture_class == -1  # no classifier has looked at it
        if record.attempts == 1 and record.passed:
            assert record.image_sha256 == plain.provenance(i).image_sha256
        drawn_again += record.attempts > 1
        before = [*seeds, *(shown(plain, j) for j in range(i - record.copy + 1, i))]
        repeats += near(before, shown(plain, i))
    assert drawn_again > 3
    assert repeats > sum(not record.passed for record in records)


def test_the_best_of_draws_that_all_fail_is_the_most_different(seed_folder: Path) -> None:
    """With a bound that nothing reaches, the draw in most bits from what is there stays, and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"method": "cutout", "mask_size": 0.3, "ratio": 1, "check": "novel", "novel_bits": 127}
        one, four = (ExpandedDataset(str(seed_folder), redraws=number, **options) for number in (0, 3))
    seeds = KnownImages.of(np.stack([shown(one, i) for i in range(12)]), 127)
    first, best = ([seeds.nearest(shown(made, i)) for i in range(12, 24)] for made in (one, four))
    assert [(r.attempts, r.passed) for r in map(one.provenance, range(12, 24))] == [(1, False)] * 12
    assert [(r.attempts, r.passed) for r in map(four.provenance, range(12, 24))] == [(4, False)] * 12
    assert all(new[0] >= old[0] for new, old in zip(best, first, strict=True))
    assert best != first


@pytest.mark.parametrize("method", ["cutout", "unclip"])
def test_novelty_is_that_of_the_copy_with_its_objects(method: str, tmp_path: Path) -> None:
    """What is kept of a seed is in the image that is compared, stays where it was, and is in the record."""
    source = marked.coco(tmp_path / "seeds")
    options: dict[str, Any] = {"method": method, "ratio": 2, "check": "novel", "novel_bits": NEAR, "redraws": 2}
    options |= {"decode_steps": 2} if method == "unclip" else {"mask_size": 0.4}
    out, side = tmp_path / "out", 0
    gif_datasets.expand(source, out, keep="boxes", cache_dir=tmp_path / "c", **options)
    assert verify(out) == []
    loaded = gif_datasets.load_expanded(out, objects=True)
    items = {(r.seed_index, r.copy): (loaded[i], r) for i, r in enumerate(map(loaded.provenance, range(len(loaded))))}
    known = []
    for (_, copy), ((image, _, _), _) in items.items():
        if copy == 0:
            left, top, side = (
                (image.width - min(image.size)) // 2,
                (image.height - min(image.size)) // 2,
                min(image.size),
            )
            known.append(spectra(image.crop((left, top, left + side, top + side)) if method == "unclip" else image))
    assert len(known) == marked.COUNT
    for (seed, copy), ((image, _, kept), record) in items.items():
        if copy:
            earlier = [spectra(items[seed, number][0][0]) for number in range(1, copy)]
            assert record.passed != near([*known, *earlier], spectra(image))
            assert kept.items
            assert record.objects == kept
    assert method == "unclip" or any(record.attempts > 1 for _, record in items.values())


def test_cut_seeds_are_compared_apart_from_whole_ones() -> None:
    """With objects a prior's copies show the middle square, and so does what is known of the seeds in the cache."""
    recipes = [
        make_recipe(ExpansionConfig(method="unclip", check="novel", novel_bits=NEAR, keep=keep), ["a", "b"], "cpu")
        for keep in (None, "none", "boxes")
    ]
    keys = [recipe.spectra_key for recipe in recipes]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("how", ["backwards", "copy by copy", "another block", "two workers", "parts", "a cold cache"])
def test_a_copy_is_the_same_however_it_is_asked_for(how: str, seed_folder: Path, tmp_path: Path) -> None:
    """Order, engines, parts and what the cache has of lower copies change nothing."""
    options: dict[str, Any] = {**TURNED, "prior": "linear", "samples_per_shard": 5}
    gif_datasets.expand(str(seed_folder), tmp_path / "whole", cache_dir=tmp_path / "c1", **options)
    whole = contents(tmp_path / "whole")
    if how in ("two workers", "parts"):
        for part in range(2 if how == "parts" else 1):
            more: dict[str, Any] = {"part": (part, 2)} if how == "parts" else {"workers": 2}
            gif_datasets.expand(str(seed_folder), tmp_path / "out", cache_dir=tmp_path / f"w{part}", **more, **options)
        assert contents(tmp_path / "out") == whole
        return
    wanted = digests(gif_datasets.load_expanded(tmp_path / "whole"))
    if how == "another block":
        options["decode_batch"] = 3
    expanded = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c2", **options)
    order = list(range(len(expanded)))
    if how == "backwards":
        order.reverse()
    for i in order:
        _ = expanded.provenance(i) if how != "a cold cache" else None
        if how == "copy by copy":  # others take what is there away
            for path in sorted((tmp_path / "c2").rglob("*"))[::3]:
                path.unlink() if path.is_file() else None
    assert sorted(digests(expanded)) == sorted(wanted)


def test_the_bits_follow_from_the_seeds_and_are_written_down(
    seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer where all seeds look alike; a number that is given stays, and one without the check is told."""
    recipe = open_expansion(wrap_source("demo"), ExpansionConfig(prior="linear", check="novel")).plan.recipe
    assert NEAR - 6 < recipe.config.novel_bits <= NEAR
    template = np.asarray(Image.radial_gradient("L").resize((32, 32)), np.int64)
    for label, name in enumerate("ab"):
        (tmp_path / "alike" / name).mkdir(parents=True)
        for i in range(8):
            noise = np.random.default_rng(10 * label + i).integers(-60, 60, (32, 32))
            pixels = np.clip(template + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "alike" / name / f"{i}.png")
    said: list[str] = []
    config = ExpansionConfig(prior="linear", check="novel")
    alike = open_expansion(wrap_source(str(tmp_path / "alike")), config, say=said.append).plan.recipe.config.novel_bits
    assert alike is not None
    assert alike < NEAR
    assert f"novel_bits: images count as different from {alike} of 255 bits" in said
    with pytest.warns(UserWarning, match="novel_bits does nothing for method 'gif-unclip' without check='novel'"):
        config = ExpansionConfig(novel_bits=30)
    assert config == ExpansionConfig()
    assert "novel_bits" not in ExpansionConfig().to_json()
    with pytest.raises(ConfigError, match="novel_bits must be at most 127, got 128"):
        ExpansionConfig(check="novel", novel_bits=128)
    out = str(tmp_path / "out")
    assert main(["expand", str(seed_folder), "--out", out, "--method", "cutout", "--set", "check=novel"]) == 0
    capsys.readouterr()
    assert main(["info", out]) == 0
    assert "  novel_bits          28" in capsys.readouterr().out


def test_only_a_guiding_classifier_is_asked(seed_folder: Path) -> None:
    """An augmentation that compares images needs no prior, and its copies depend on all seeds."""
    config = ExpansionConfig(**TURNED)
    assert not config.classifies
    assert config.uses_all_seeds
    opened = open_expansion(wrap_source(str(seed_folder)), config)
    assert opened.plan.recipe.population
    assert make_recipe(ExpansionConfig(method="cutout"), ["a", "b"]).population == ""


def test_every_kind_of_prior(seed_folder: Path, tmp_path: Path) -> None:
    """A prior that draws the same from the same latent is perturbed again; scores go beside the comparison."""
    options: dict[str, Any] = {"prior": "linear", "ratio": 2, "check": "novel", "novel_bits": 127, "redraws": 2}
    for more in ({"method": "gif-unclip"}, {"method": "unclip", "epsilon": 0.3, "measure_pictures": True}):
        expanded = ExpandedDataset(str(seed_folder), **options, **more)
        records = [expanded.provenance(i) for i in range(12, len(expanded))]
        assert {record.attempts for record in records} - {1}
        assert all((record.picture_class >= 0) == ("measure_pictures" in more) for record in records)


def test_report_and_card_have_the_rate_before_and_after(seed_folder: Path, tmp_path: Path) -> None:
    """From the records; and near-duplicates among what is there, with or without the check."""
    out = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), out, prior="linear", **TURNED)
    gif_datasets.expand(str(seed_folder), tmp_path / "plain", prior="linear", **PLAIN)
    found, plain = (
        write_report(folder, tmp_path / f"{folder.name}.html").measures.near_copies
        for folder in (out, tmp_path / "plain")
    )
    assert found is not None
    assert plain is not None
    loaded = gif_datasets.load_expanded(out)
    records = [record for i in range(len(loaded)) if (record := loaded.provenance(i)).copy]
    assert found.first_draws == sum(record.attempts > 1 for record in records) / 48
    assert found.last_draws == sum(not record.passed for record in records) / 48
    assert (found.real, found.copies, found.bits) == (12, 48, NEAR)
    assert plain.first_draws is None
    assert found.first_draws > found.last_draws
    page = (tmp_path / "out.html").read_text()
    assert f"By check=novel {found.first_draws:.1%} of the first draws" in page
    assert "fewer than 50 of the 255 bits of a perceptual hash apart" in page
    assert (
        json.loads((tmp_path / "out.json").read_text())["measures"]["near_copies"]["first_draws"] == found.first_draws
    )


def test_updates_compare_with_the_first_seeds(seed_folder: Path, tmp_path: Path, picture: Draw) -> None:
    """So that old shards keep their bytes; a withdrawn seed leaves the cache with all that was compared of it."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    gif_datasets.expand(str(seed_folder), out, prior="linear", cache_dir=cache, **TURNED)
    before = {path.name: path.read_bytes() for path in (out / "data").iterdir()}
    picture(77).save(seed_folder / "ant" / "new.png")
    assert gif_datasets.expand(str(seed_folder), out, update=True, cache_dir=cache).added == 1
    assert {path.name: path.read_bytes() for path in (out / "data").iterdir() if path.name in before} == before
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["plan"]["generations"][1]["kept"] == ["images compared with those of 12 seeds of generation 1"]
    withdraw(out, ["ant/0.png"], cache_dir=cache)
    assert verify(out) == []
