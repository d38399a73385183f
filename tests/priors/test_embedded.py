"""The prior that ships: loaded by the code that loads any other, deterministic, and keeping what it is shown."""

from __future__ import annotations

import json
import shutil
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig, PriorError
from gif_datasets.expansion.imagination.shared_guidance import identity
from gif_datasets.guidance import int8_rows
from gif_datasets.guidance.rng import generator_for
from gif_datasets.guidance.zeroshot import Clip, ZeroShotClassifier
from gif_datasets.priors import check_fit, embedded_folder, find_prior, load_prior
from gif_datasets.priors.unclip import UnclipPrior
from gif_datasets.shards.verify import verify
from gif_datasets.sources import open_source

CONFIG = ExpansionConfig(decode_steps=3, decode_batch=4)


@pytest.fixture(scope="module")
def prior() -> UnclipPrior:
    loaded = load_prior(find_prior("embedded"), "unclip", torch.device("cpu"))
    assert isinstance(loaded, UnclipPrior)
    return loaded


@pytest.fixture(scope="module")
def demo() -> tuple[list[Image.Image], torch.Tensor]:
    source = open_source("demo")
    return [source.sample(i)[0] for i in range(200)], torch.tensor([source.sample(i)[1] for i in range(200)])


@pytest.fixture(scope="module")
def latents(prior: UnclipPrior, demo: tuple[list[Image.Image], torch.Tensor]) -> torch.Tensor:
    return torch.cat([prior.encode(demo[0][i : i + 20]) for i in range(0, 200, 20)])


def classifier(prior: UnclipPrior) -> ZeroShotClassifier:
    return prior.classifier(open_source("demo").classes, CONFIG)


def test_weights_are_safetensors_only_and_small_enough() -> None:
    """Nothing in the folder can run code, and a wheel, of at most 95 MB, compresses the assets to less than 94."""
    folder = embedded_folder()
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} <= {".json", ".safetensors", ".md"}
    assert sum(len(zlib.compress(p.read_bytes(), 1)) for p in folder.parents[1].rglob("*") if p.is_file()) < 94e6


def test_open_clip_loads_it_by_its_own_name(prior: UnclipPrior, tmp_path: Path) -> None:
    """open_clip's own functions read the folder, where int8 rows are floats, and give the same latents."""
    folder = shutil.copytree(embedded_folder() / "clip", tmp_path / "clip")
    weights = folder / "open_clip_model.safetensors"
    save_file(int8_rows.dequantized(load_file(weights)), weights, metadata={"format": "pt"})
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    model, _, preprocess = open_clip.create_model_and_transforms(
        f"local-dir:{folder}", text_cfg={**config, "hf_model_name": str(folder), "hf_model_pretrained": False}
    )
    image = open_source("demo").sample(3)[0]
    with torch.no_grad():
        expected = model.eval().encode_image(preprocess(image)[None])
    torch.testing.assert_close(prior.encode([image]), expected, rtol=1e-4, atol=1e-4)


def test_scores_are_open_clip_s(prior: UnclipPrior, latents: torch.Tensor) -> None:
    """Zero-shot scores equal open_clip's classifier: normalised image, averaged prompts, its logit scale."""
    names = open_source("demo").classes
    tokens = [prior.clip.tokenizer([template.format(name) for template in CONFIG.templates]) for name in names]
    rows = []
    with torch.no_grad():
        for batch in tokens:
            mean = prior.clip.model.encode_text(batch, normalize=True).mean(0)
            rows.append(mean / mean.norm())
    unit = latents / latents.norm(dim=-1, keepdim=True)
    expected = (prior.clip.model.logit_scale.exp() * unit @ torch.stack(rows).T).softmax(-1)
    torch.testing.assert_close(classifier(prior).scores(latents), expected, rtol=1e-4, atol=1e-5)


def test_zero_shot_accuracy_on_the_demo(
    prior: UnclipPrior, demo: tuple[list[Image.Image], torch.Tensor], latents: torch.Tensor
) -> None:
    """Names of classes alone recognise most of the 200 reserved seeds (67.1% of the 10,000 test images)."""
    assert latents.shape == (200, 1280)
    assert abs(latents.norm(dim=1).mean() - 10) < 1
    accuracy = (classifier(prior).scores(latents).argmax(1) == demo[1]).float().mean()
    assert accuracy > 0.58


def decode(prior: UnclipPrior, latents: torch.Tensor, keys: Sequence[str]) -> torch.Tensor:
    generators = [generator_for(0, key, "decode", 1) for key in keys]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return prior.decode(latents, generators, CONFIG)
    finally:
        torch.set_num_threads(threads)


def test_decoding_is_deterministic_and_independent_of_companions(prior: UnclipPrior, latents: torch.Tensor) -> None:
    """In a block of one size a picture has the same bits, whatever its companions and place."""
    first = decode(prior, latents[:4], "abcd")
    assert first.shape == (4, 3, 64, 64)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, decode(prior, latents[:4], "abcd"))
    moved = decode(prior, latents[[9, 2, 0, 7]], "xcay")
    assert torch.equal(moved[1], first[2])
    assert torch.equal(moved[2], first[0])


def test_guidance_is_independent_of_companions(tmp_path: Path) -> None:
    """A seed's guided latents have the same bits in any block: sign steps would magnify the smallest difference."""
    expanded = ExpandedDataset("demo", cache_dir=tmp_path)
    seeds, threads = expanded.plan.seeds, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = []
        for block in ([0, 1, 2, 3, 4, 5, 6, 7], [30, 5], [44, 45, 46, 5, 48, 49, 50, 51]):
            maker = expanded.imaginer._load().maker
            maker.guide._kept.clear()
            expanded.imaginer.cache.clear()
            guided = maker.guide([seeds[i] for i in block], 0)
            found.append(guided[identity(seeds[5])].latents)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("method", ["gif-unclip", "gif-mae"])
def test_a_caller_s_settings_change_nothing(method: str, seed_folder: Path, tmp_path: Path) -> None:
    """Copies that a training loop asks for, in half precision or without gradients, are anybody's."""
    options = {"ratio": 2, "method": method, "steps": 1, "decode_steps": 2, "encode_batch": 1, "decode_batch": 2}
    options |= {"classifier": "linear"}

    def copy(name: str) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gif-mae has no decode_steps
            return np.asarray(ExpandedDataset(str(seed_folder), cache_dir=tmp_path / name, **options)[13][0])

    plain, threads = copy("plain"), torch.get_num_threads()
    for name, settings in {
        "half": torch.autocast("cpu", torch.bfloat16), "doubles": doubles(), "inference": torch.inference_mode()
    }.items():  # fmt: skip
        with settings:
            assert np.array_equal(copy(name), plain), name
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float32, threads)


def test_another_block_size_differs_by_rounding_only(prior: UnclipPrior, latents: torch.Tensor) -> None:
    """Alone or among others, a picture is the same at more than 45 dB."""
    many = decode(prior, latents[:6], "abcdef")
    alone = decode(prior, latents[2:3], "c")
    error = ((many[2] - alone[0]) ** 2).mean()
    assert error == 0 or -10 * torch.log10(error) > 45


def test_pictures_follow_their_latents(
    prior: UnclipPrior, demo: tuple[list[Image.Image], torch.Tensor], latents: torch.Tensor
) -> None:
    """A decoded picture lies nearer to its own seed's latent than to another's, far more often than by chance."""
    chosen = list(range(0, 200, 10))
    pictures = torch.cat([decode(prior, latents[chosen[i : i + 4]], "abcd") for i in range(0, 20, 4)])
    arrays = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    again = prior.encode([Image.fromarray(array) for array in arrays])
    similarity = torch.nn.functional.cosine_similarity(again[:, None], latents[chosen][None], dim=-1)
    assert (similarity.argmax(1) == torch.arange(20)).float().mean() > 0.4


def test_guided_expansion_raises_its_criteria(seed_folder: Path) -> None:
    """On the real classifier, guidance raises the weighted criteria over its random start; labels stay likely."""
    expanded = ExpandedDataset("demo", ratio=2, decode_steps=1, cache_dir=seed_folder / "cache")
    records = [r for r in (expanded.provenance(200 + i) for i in range(24)) if r.synthetic]
    consistency, entropy, diversity = expanded.plan.recipe.config.criteria_weights
    before, after = (
        [
            consistency * getattr(r, f"consistency_{when}")
            + entropy * getattr(r, f"entropy_{when}")
            + diversity * getattr(r, f"diversity_{when}")
            for r in records
        ]
        for when in ("before", "after")
    )
    assert np.mean(after) > np.mean(before) + 0.05
    assert all(r.held_class == r.label and r.consistency_after > 0.9 for r in records)


def test_the_masked_autoencoder_redraws_what_it_sees(demo: tuple[list[Image.Image], torch.Tensor]) -> None:
    """With nothing hidden, seeds that it never saw come back at 28 dB or better."""
    prior = load_prior(find_prior("embedded"), "mae", torch.device("cpu"))
    images = [image.resize((64, 64), Image.Resampling.BICUBIC) for image in demo[0]]
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]) / 255
    error = (prior.decode(prior.encode(demo[0]), [], CONFIG) - pixels).square().mean((1, 2, 3))
    assert -10 * torch.log10(error).mean() > 28


@pytest.mark.parametrize("family", ["mae", "sd"])
def test_every_family_is_guided(family: str, tmp_path: Path) -> None:
    """The decoders in the package, by their methods' own names: guidance raises the label's probability."""
    options = {"ratio": 2, "steps": 2, "encode_batch": 2, "decode_batch": 4, "score_batch": 4}
    options |= {"decode_steps": 5} if family == "sd" else {}
    expanded = ExpandedDataset("demo", method=f"gif-{family}", cache_dir=tmp_path, **options)
    records = [expanded.provenance(200 + i) for i in range(4)]
    assert {r.method for r in records} == {f"gif-{family}"}
    assert np.mean([r.consistency_after - r.consistency_before for r in records]) > 0.05
    assert expanded[200][0].size == (32, 32)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "unclip", "decode_steps": 2},
        {"method": "mae"},
        {"method": "sd", "decode_steps": 4},
        {"method": "select:gif-mae", "steps": 1, "redraws": 1},
        {"method": "gif-unclip", "classifier": "linear", "steps": 1, "decode_steps": 2},
    ],
    ids=lambda options: f"{options['method']}-{options.get('classifier', 'default')}",
)
def test_methods_give_whole_folders(options: dict[str, Any], tmp_path: Path) -> None:
    """Those that no other test runs on this prior: two seeds, two copies each, none like its seed or the other copy."""
    blocks = {"encode_batch": 2, "decode_batch": 4, "score_batch": 4}
    summary = gif_datasets.expand("demo", tmp_path / "out", ratio=2, limit=2, **blocks, **options)
    assert (summary.originals, summary.synthetic, summary.missing) == (2, 4, 0)
    assert verify(tmp_path / "out") == []
    loaded = gif_datasets.load_expanded(tmp_path / "out", transform=np.asarray)
    records = [loaded.provenance(i) for i in range(6)]
    assert {r.method for r in records if r.synthetic} == {options["method"]}
    for seed in {r.seed_index for r in records}:
        own = [loaded[i][0] for i, r in enumerate(records) if r.seed_index == seed]
        assert len({picture.tobytes() for picture in own}) == len(own) == 3


def test_a_prior_folder_of_one_s_own(tmp_path: Path, seed_folder: Path) -> None:
    """A copy of the folder works by its path; what is wrong in it is named."""
    folder = tmp_path / "mine"
    shutil.copytree(embedded_folder(), folder)
    assert find_prior(str(folder)).digest == find_prior("embedded").digest
    card = json.loads((folder / "prior.json").read_text())
    for change, words in (
        ({"format": 1}, "format 2"),
        ({"decoders": {"gan": "gan"}}, "gan"),
        ({"decoders": {"unclip": "../elsewhere"}}, "is outside the folder"),
        ({"decoders": {"unclip": 3}}, "is outside the folder"),
        ({"image_size": "32"}, "image_size"),
    ):
        (folder / "prior.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(PriorError, match=words):
            find_prior(str(folder))
    (folder / "prior.json").write_text(json.dumps(card))
    next((folder / "unclip" / "unet").glob("*.safetensors")).unlink()
    assert find_prior(str(folder)).digest != find_prior("embedded").digest
    with pytest.raises(PriorError, match="decoder"):
        load_prior(find_prior(str(folder)), "unclip", torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"prior\.json"):
        gif_datasets.expand(str(seed_folder), tmp_path / "out", prior=str(seed_folder))


def test_methods_and_priors_must_fit() -> None:
    """A method on a prior of another family is refused before anything is loaded."""
    import dataclasses

    with pytest.raises(ConfigError, match="family"):
        check_fit(dataclasses.replace(find_prior("linear"), families=("mae",)), "gif-unclip")


@pytest.mark.parametrize(
    ("file", "part", "change"),
    [
        ("open_clip_config.json", "text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}),
        ("open_clip_config.json", "vision_cfg", {"timm_model_name": "hf-hub:someone/else"}),
        ("tokenizer_config.json", "", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("config.json", "", {"auto_map": {"AutoConfig": "evil.Config"}}),
    ],
)
def test_a_prior_folder_cannot_run_code(tmp_path: Path, file: str, part: str, change: dict[str, object]) -> None:
    """Settings that would load code, or weights of another place, are refused before anything is loaded."""
    folder = tmp_path / "clip"
    shutil.copytree(embedded_folder() / "clip", folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    config = json.loads((folder / file).read_text())
    (config["model_cfg"][part] if part else config).update(change)
    (folder / file).write_text(json.dumps(config))
    with pytest.raises(PriorError, match=r"refused|never run"):
        Clip(folder, torch.device("cpu"))
    assert not (tmp_path / "pwned").exists()


def test_damaged_weights_are_one_clear_error(tmp_path: Path) -> None:
    """A cut or foreign safetensors file names the folder."""
    folder = tmp_path / "clip"
    shutil.copytree(embedded_folder() / "clip", folder)
    (folder / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(PriorError, match="cannot load the CLIP"):
        Clip(folder, torch.device("cpu"))
