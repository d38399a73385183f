"""The report: figures that follow from the features, and a page that needs nothing but a browser."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from jinja2 import UndefinedError
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError
from gif_datasets.guidance.zeroshot import Clip
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.report import charts, clip_metrics, metrics, page
from gif_datasets.report.clip_metrics import Compared, Likeness, OwnClass
from gif_datasets.report.html import render
from gif_datasets.report.page import read_figures, write_report
from gif_datasets.types import OBJECTS, Provenance, no_progress

VOID = {"meta", "img", "br", "rect", "circle"}


class Page(HTMLParser):
    """Collects tags, addresses and text, and refuses what is not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def record(seed: int, copy: int) -> Provenance:
    values = {"int": 0, "float": 0.0, "str": "", "bool": False}
    blank = Provenance(
        **{spec.name: values[str(spec.type)] for spec in dataclasses.fields(Provenance) if spec.name != OBJECTS}
    )
    return dataclasses.replace(blank, seed_key=f"k{seed}", seed_index=seed, copy=copy, synthetic=copy > 0)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


@pytest.fixture
def real() -> torch.Tensor:
    return unit(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))


def test_copies_that_are_their_seeds(real: torch.Tensor) -> None:
    """Nothing is further away than real pictures are, nothing is covered that was not, and all is memorised."""
    compared = Compared("x", real, real.clone(), torch.empty(0, 1), None, None)
    found = clip_metrics.compare(compared, [record(i, 0) for i in range(40)], [record(i, 1) for i in range(40)])
    assert found.frechet == pytest.approx(0, abs=1e-4)
    assert (found.precision, found.recall, found.coverage, found.like_seed) == (1, 1, 1, 1)
    assert found.density >= 1
    assert found.radius_expanded == found.radius_seeds  # a seed's own copies are left out with it
    assert found.alike == 0
    assert found.shift is None


def test_every_copy_is_compared_with_every_other(real: torch.Tensor) -> None:
    """Copies that repeat each other are found, whoever's they are; what cannot be known is not zero."""
    same = real[:1].expand(40, -1)
    seeds = [dataclasses.replace(record(i, 0), label=i) for i in range(40)]
    made = [dataclasses.replace(record(i, 1), seed_key="elsewhere", label=i) for i in range(40)]
    found = clip_metrics.compare(Compared("x", real, same, torch.empty(0, 1), None, None), seeds, made)
    assert (found.alike, found.like_seed, found.consistent_real) == (1, None, None)


@pytest.mark.parametrize(("seeds", "copies"), [(3000, 5), (1500, 1), (400, 3), (20, 2), (2, 3000)])
def test_copies_are_compared_in_families(seeds: int, copies: int) -> None:
    """As many as may be, all copies of a seed together, and that seed too."""
    records = [record(seed, copy) for seed in range(seeds) for copy in range(copies + 1)]
    real, made = clip_metrics.sample(records)
    assert len(real) == min(seeds, clip_metrics.MOST)
    assert min(seeds * copies, clip_metrics.MOST) - copies < len(made) <= clip_metrics.MOST
    families = Counter(records[i].seed_key for i in made)
    assert set(families.values()) == {min(copies, clip_metrics.MOST)}
    assert families.keys() <= {records[i].seed_key for i in real}


def test_class_consistency(real: torch.Tensor) -> None:
    """Copies have their seed's class, unless they look like another's; a class of one real picture does not count."""
    axes = torch.eye(6)[[0, 0, 0, 1, 1, 1, 2]]
    seeds = unit(axes + 0.1 * real[:7])
    labels = [0, 0, 0, 1, 1, 1, 2]
    records = [dataclasses.replace(record(i, 0), label=label) for i, label in enumerate(labels)]
    for shift, share in ((0, 1.0), (3, 1 / 7)):
        made = torch.cat([seeds[:6].roll(shift, 0), seeds[6:]])
        found = clip_metrics.compare(Compared("x", seeds, made, torch.empty(0, 1), None, None), records, records)
        assert (found.consistent, found.consistent_real) == (pytest.approx(share), 1)
        right = [1.0, 1.0, 1.0] if shift == 0 else [0.0, 0.0, 1.0]
        assert found.own_class == tuple(
            OwnClass(label, copies, real) for label, copies, real in zip(range(3), right, (1.0, 1.0, None), strict=True)
        )


def test_held_out_pictures_are_covered_better_by_copies(real: torch.Tensor) -> None:
    """The covering radius is that of held-out pictures where there are some: copies near them make it smaller."""
    held = unit(torch.randn(10, 6, generator=torch.Generator().manual_seed(1)))
    made = unit(torch.cat([held, held]) + 0.01)
    records = [record(i % 10, 1 + i // 10) for i in range(20)]
    found = clip_metrics.compare(
        Compared("x", real, made, held, None, None), [record(i, 0) for i in range(40)], records
    )
    distances = np.linalg.norm(held.numpy()[:, None] - real.numpy()[None], axis=2).min(1)
    assert found.radius_seeds == pytest.approx((np.sort(distances)[4], distances.max()), abs=1e-5)
    assert found.radius_expanded[1] < 0.05 < found.radius_seeds[1]
    assert found.alike == 1
    assert found.radius_of == "validation images"


def test_shift_is_split_into_content_and_style(real: torch.Tensor) -> None:
    """Twice the feature map of one's seed is a shift of one's own length, wherever it is."""
    maps = (torch.rand(40, 9) + 1, torch.rand(40, 5) + 1)
    compared = Compared("x", real, real, torch.empty(0, 1), maps, (2 * maps[0], maps[1]))
    found = clip_metrics.compare(compared, [record(i, 0) for i in range(40)], [record(i, 1) for i in range(40)])
    assert found.shift == clip_metrics.Shift(pytest.approx(1), pytest.approx(0))


def test_feature_maps(tmp_path: Path) -> None:
    """A transformer's are its patches' tokens, as transformers has them; a convolutional network's, its last map."""
    pipelines.write_clip("ViT-B-32/openai")(tmp_path)
    clip, pictures = Clip(tmp_path, torch.device("cpu")), [Image.effect_noise((40, 40), 90).convert("RGB")] * 2
    pixels = torch.stack([clip.preprocess(one) for one in pictures])
    theirs = pipelines.image_encoder("ViT-B-32/openai", clip.model).vision_model
    with torch.no_grad():
        tokens = theirs.post_layernorm(theirs(pixels).last_hidden_state)[:, 1:]
    found = clip.feature_map(pictures)
    assert found is not None
    torch.testing.assert_close(found, tokens, rtol=1e-4, atol=1e-4)
    assert clip.encode_images(pictures).shape == (2, pipelines.WIDTH)  # which goes on as before
    own = load_prior(find_prior("embedded"), "unclip", torch.device("cpu")).clip  # type: ignore[attr-defined]
    with torch.no_grad():
        plain = own.model.visual.trunk.forward_features(torch.stack([own.preprocess(one) for one in pictures]))
    assert torch.equal(own.feature_map(pictures)[:, 3], plain[:, :, 0, 3])


def test_density_and_coverage_by_hand() -> None:
    """As the definitions say, one ball at a time."""
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(30, 3, generator=generator), torch.randn(25, 3, generator=generator) * 1.5
    density, coverage = metrics.density_coverage(first, second, neighbours=4)
    a, b = first.numpy(), second.numpy()
    radius = [np.sort(np.linalg.norm(a - row, axis=1))[4] for row in a]
    inside = np.array([[np.linalg.norm(made - a[i]) <= radius[i] for i in range(30)] for made in b])
    assert density == pytest.approx(inside.sum() / (4 * 25))
    assert coverage == pytest.approx(inside.any(0).mean())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expansion whose class name and source name would be markup."""
    place = tmp_path_factory.mktemp("report")
    for name in ("<b>ant", 'bee & "co"\'s'):
        (place / "a<i>b" / name).mkdir(parents=True)
        for number in range(5):
            colour = tuple(np.random.default_rng([number, len(name)]).integers(0, 255, 3).tolist())
            Image.new("RGB", (20, 16), colour).save(place / "a<i>b" / name / f"{number}.png")
    options = {"ratio": 2, "prior": "linear", "cache_dir": place / "cache"}
    gif_datasets.expand(str(place / "a<i>b"), place / "out", measure_pictures=True, **options)
    return place / "out"


def test_the_page_stands_alone(hostile: Path, tmp_path: Path) -> None:
    """Well-formed, every picture within it, no address but data, no user text as markup; the same again."""
    found = write_report(hostile, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "http" not in text.replace("http-equiv", "")
    assert not {"b", "i", "script"} & {part.split()[0].strip("<>/") for part in text.split("<")[1:] if part.split()}
    for words in (
        "10 real and 20 synthetic",
        "<b>ant",
        "a<i>b, expanded 2x by gif-unclip",
        "Fréchet",
        "lowest latents' entropy",
        "Criteria of the guided latents",
        "Image sizes, width x height: real 20 x 16 pixels, synthetic ",
        "Nearest to the mean of their own class, by class",
    ):
        assert words in page.text
    assert found.likeness is not None
    assert (found.likeness.real, found.likeness.made) == (10, 20)
    write_report(hostile, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == text.encode()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expansion of nine classes: one of them has most of the seeds."""
    place = tmp_path_factory.mktemp("many")
    for label, count in enumerate([30, *[2] * 8]):
        (place / "seeds" / f"class{label}").mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([label, number]).integers(0, 255, (8, 9 + label, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "seeds" / f"class{label}" / f"{number}.png")
    gif_datasets.expand(str(place / "seeds"), place / "out", method="cutout", ratio=3, cache_dir=place / "cache")
    return place / "out"


@pytest.mark.parametrize(("most", "copies", "side"), [(600, 3, 17), (20, 1, 4)])
def test_the_rows_cover_every_class(
    most: int, copies: int, side: int, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the small ones; a page of many classes has fewer copies, and smaller ones."""
    monkeypatch.setattr(page, "SHEET_IMAGES", most)
    if side == 4:
        monkeypatch.setattr(page, "SIDE", 8)
    text = page.draw(many, None, no_progress).page
    captions = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert captions == [
        caption for label in range(9) for caption in (f"class{label}", *(f"copy {k}" for k in range(1, copies + 1)))
    ]
    first = re.findall(r"base64,([^\"]+)", text)[-1]
    assert Image.open(io.BytesIO(base64.b64decode(first))).width == side
    assert "Image sizes, width x height: real 9 to 17 x 8 pixels, synthetic 9 to 17 x 8 pixels." in text


def test_the_figures_stand_beside_the_page(hostile: Path, tmp_path: Path) -> None:
    """As JSON, from which the comparison is read back; another file of that name is never overwritten."""
    found = write_report(hostile, tmp_path / "r.html")
    figures = json.loads((tmp_path / "r.json").read_text())
    assert figures == json.loads(json.dumps({**found.to_json(), "page": "r.html"}))
    assert read_figures(tmp_path / "r.html") == (found.fingerprint, found.likeness)
    assert write_report(hostile, tmp_path / "r.html") == found
    assert read_figures(tmp_path / "none.html") is None
    for content in ("{}", "[1]", "{"):
        (tmp_path / "mine.json").write_text(content)
        with pytest.raises(ConfigError, match=r"would overwrite .*mine\.json"):
            write_report(hostile, tmp_path / "mine.html")
        assert (tmp_path / "mine.json").read_text() == content
    with pytest.raises(ConfigError, match="another name"):
        write_report(hostile, tmp_path / "page.json")


def test_shifts_are_read_back(real: torch.Tensor) -> None:
    """And what is not known stays so."""
    maps = (torch.rand(40, 9) + 1, torch.rand(40, 5) + 1)
    compared = Compared("x", real, real, torch.empty(0, 1), maps, maps)
    found = clip_metrics.compare(compared, [record(i, 0) for i in range(40)], [record(i, 1) for i in range(40)])
    assert found.shift is not None
    assert Likeness.from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_a_template_needs_its_values() -> None:
    """One that is missing is an error, and each is escaped."""
    with pytest.raises(UndefinedError):
        render("page.html", title="x")
    assert "<h1>&lt;b&gt;</h1>" in render("page.html", title="<b>", body="")


def test_the_command(hostile: Path, tmp_path: Path) -> None:
    """It prints where the page is, or all figures; and says what it cannot do."""
    words = [sys.executable, "-m", "gif_datasets", "report", str(hostile), "--out", str(tmp_path / "r.html")]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["likeness"]["made"] == 20
    refused = subprocess.run([*words, "--prior", "linear"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no CLIP" in refused.stderr
    with pytest.raises(ConfigError, match="unknown prior"):
        write_report(hostile, tmp_path / "x.html", "nobody")


def test_few_pictures_are_not_compared(seed_folder: Path, tmp_path: Path) -> None:
    """Augmented ones have no criteria either; the page is there all the same."""
    options = {"ratio": 1, "method": "cutout", "limit": 4, "cache_dir": tmp_path / "cache"}
    gif_datasets.expand(str(seed_folder), tmp_path / "out", **options)
    found = write_report(tmp_path / "out", tmp_path / "r.html", "linear")
    assert found.likeness is None
    text = Page((tmp_path / "r.html").read_text()).text
    assert "Not compared with a CLIP: 4 real images and 4 copies are too few" in text
    assert "Criteria" not in text
    assert "under `cutout`" in text


def test_charts_take_what_there_is() -> None:
    """Constant values, no values, and more classes than are shown."""
    for values in (np.zeros(3), np.empty(0), np.array([-1.0, 5.0])):
        Page(charts.histograms("<t>", {"a": values, "b": values}))
    Page(charts.bars([(f"class <{i}>", i, 2) for i in range(100)]))
    points = charts.Points(np.zeros((2, 2)), [0, 1], filled=True)
    assert Page(charts.scatter([points], ["<a>", "b"])).text.strip().endswith("b")
