"""Guides apart from priors: found by name, checked before any download, and what scores where they are given."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers import forge_manifest
from hub_server import HubServer
from mean_guide import Mean
from PIL import Image
from pipelines import write_clip
from safetensors.torch import load_file, save_file
from torch import nn

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig, PriorError, ShardError
from gif_datasets.cli import main
from gif_datasets.expansion.recipe import make_recipe
from gif_datasets.guidance.zeroshot import OwnHead
from gif_datasets.priors import embedded_folder
from gif_datasets.priors.guides import find_guide, own_guide
from gif_datasets.priors.linear import LinearPrior
from gif_datasets.priors.weights import CLIPS
from gif_datasets.shards.manifest import read_manifest

CPU = torch.device("cpu")
NAMES = ("ant", "bee", "crab")
QUICK = {"ratio": 2, "encode_batch": 2, "decode_batch": 4, "score_batch": 4, "steps": 2}
ARCHITECTURE = "resnet10t"
CLIP = str(embedded_folder() / "clip")


@pytest.fixture
def images() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
    return [Image.fromarray(small).resize((60, 48), Image.Resampling.BICUBIC) for small in noise]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network of three classes in timm's files."""
    torch.manual_seed(0)
    model = timm.create_model(ARCHITECTURE, num_classes=3)
    nn.init.normal_(model.fc.weight, std=0.5)
    folder = tmp_path / "network"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    seen = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3], "input_size": [3, 64, 64], "crop_pct": 0.8}
    config = {"architecture": ARCHITECTURE, "num_classes": 3, "pretrained_cfg": {**seen, "interpolation": "bilinear"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def theirs(folder: Path, images: list[Image.Image]) -> torch.Tensor:
    """What timm's own functions give for a network's folder."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        found: torch.Tensor = model(torch.stack([transform(image) for image in images]))
    return found


def test_a_network_scores_as_timm_does(network: Path, images: list[Image.Image]) -> None:
    """Its folder or its file: the softmax of its head, on images as on pixels; another weight is another digest."""
    expected = theirs(network, images)
    for name in (str(network), str(network / "model.safetensors")):
        info = find_guide(name)
        guide = info.load(CPU)
        head = guide.classifier(NAMES, ExpansionConfig())
        assert isinstance(head, OwnHead)
        torch.testing.assert_close(head.scores(guide.embed_images(images)), expected.softmax(-1), rtol=1e-4, atol=1e-5)
        pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in images]).float() / 255
        shown = head.scores(guide.embed_pixels(pixels))
        torch.testing.assert_close(shown, expected.softmax(-1), rtol=0, atol=0.02)
    plain = find_guide(f"timm:{ARCHITECTURE}?checkpoint={network / 'model.safetensors'}")
    assert plain.outputs == 3
    assert plain.digest != info.digest  # other means and sizes
    tensors = {name: value + 1 for name, value in timm.create_model(ARCHITECTURE, num_classes=3).state_dict().items()}
    save_file(tensors, network / "model.safetensors")
    assert find_guide(str(network)).digest != info.digest


def test_features_need_a_fitted_classifier(network: Path, images: list[Image.Image]) -> None:
    info = find_guide(f"timm:{ARCHITECTURE}?checkpoint={network / 'model.safetensors'}&features=true")
    guide = info.load(CPU)
    assert info.outputs is None
    assert guide.embed_images(images).shape == (3, 512)
    assert guide.classifier(NAMES, ExpansionConfig(classifier="linear")).weights.shape == (3, 512)


def test_the_gradient_of_a_head_is_that_of_its_logits() -> None:
    torch.manual_seed(0)
    head, rows = OwnHead(torch.eye(3), 2.0), torch.randn(4, 3, requires_grad=True)
    torch.testing.assert_close(head.scores(rows), (2 * rows).softmax(-1))
    of_logits = torch.randn(4, 3)
    (expected,) = torch.autograd.grad((head.logits(rows) * of_logits).sum(), rows)
    torch.testing.assert_close(head.embedding_gradient(rows, head.logits(rows), of_logits), expected)


@pytest.mark.parametrize("method", ["gif-mae", "gif-unclip", "randaugment", "select:mae"])
def test_a_guide_scores_what_is_recorded(method: str, seed_folder: Path, tmp_path: Path) -> None:
    """It guides where latents are not embeddings, and there raises its own probability; it scores all images."""
    options: dict[str, Any] = {"method": method, "measure_pictures": True, "check": "label", "redraws": 1, **QUICK}
    if method == "gif-mae":
        options |= {"criteria": ["consistency"], "step_size": 0.1}
    if method == "gif-unclip":
        options |= {"decode_steps": 1, "guidance_scale": 1.0}
    else:
        options.pop("steps") if method in ("randaugment", "select:mae") else None
    if method.startswith("select"):
        del options["check"]
    if method == "randaugment":
        del options["score_batch"]
    given = ExpandedDataset(str(seed_folder), guide=Mean(), cache_dir=tmp_path / "c", **options)
    image, label = given[13]
    record = given.provenance(13)
    expected = Mean()(
        torch.from_numpy(np.array(image.resize((8, 8), Image.Resampling.BICUBIC))).float()[None].permute(0, 3, 1, 2)
        / 255
    )
    assert record.picture_consistency == pytest.approx(float(expected.softmax(-1)[0, label]), abs=0.02)
    if method == "gif-mae":
        records = [given.provenance(12 + index) for index in range(8)]
        assert np.mean([one.consistency_after - one.consistency_before for one in records]) > 0
    without = ExpandedDataset(str(seed_folder), cache_dir=tmp_path / "c", **options)
    assert "guide" not in without.plan.recipe.to_json()
    assert given.fingerprint != without.fingerprint
    found = given.imaginer.recognition()
    assert found is not None or method == "randaugment"


def test_a_clip_guides_in_place_of_the_prior_s_own(seed_folder: Path, tmp_path: Path) -> None:
    """The same CLIP as the prior's is the same guide: equal images, under another key."""
    options = {"method": "gif-mae", "cache_dir": tmp_path / "c", **QUICK}
    own, apart = (ExpandedDataset(str(seed_folder), **more, **options) for more in ({}, {"guide": CLIP}))
    for index in (12, 15):
        assert own[index][0].tobytes() == apart[index][0].tobytes()
        assert own.provenance(index).consistency_after == apart.provenance(index).consistency_after
    keys = {one.plan.recipe.cache_key(one.plan.seeds[0], 1) for one in (own, apart)}
    assert len(keys) == 2
    assert apart.plan.recipe.to_json()["guide"]["name"] == "clip"


def test_an_unclip_prior_is_guided_by_its_own_clip(seed_folder: Path, tmp_path: Path) -> None:
    """A guide apart only scores its images, which are those without it."""
    options = {"decode_steps": 1, "guidance_scale": 1.0, "cache_dir": tmp_path / "c", **QUICK}
    own, apart = (ExpandedDataset(str(seed_folder), **more, **options) for more in ({}, {"guide": Mean()}))
    assert own[12][0].tobytes() == apart[12][0].tobytes()


def test_a_set_of_a_guide_is_made_checked_and_told(
    seed_folder: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line, as an option; the manifest has its name and digest, and no path of it in the options."""
    out, cache = str(tmp_path / "out"), str(tmp_path / "c")
    flags = ["--method", "mae", "--ratio", "1", "--workers", "1", "--cache-dir", cache, "--batch-size", "4"]
    settings = ["--guide", str(network), "--set", "measure_pictures=true"]
    assert main(["expand", str(seed_folder), "--out", out, *flags, *settings]) == 0
    recipe = json.loads((tmp_path / "out" / "manifest.json").read_text())["plan"]["recipe"]
    assert recipe["guide"] == {"name": "network", "digest": find_guide(str(network)).digest}
    assert str(tmp_path) not in json.dumps(recipe)
    assert (
        f"| guide | `network (digest {recipe['guide']['digest'][:16]})` |" in (tmp_path / "out/README.md").read_text()
    )
    assert "guide" not in recipe["options"]
    assert main(["verify", out]) == 0
    capsys.readouterr()
    assert main(["info", out]) == 0
    assert f"\nguide: network ({recipe['guide']['digest'][:16]})\n" in capsys.readouterr().out
    Image.open(seed_folder / "ant" / "0.png").rotate(90).save(seed_folder / "ant" / "new.png")
    again = ["expand", str(seed_folder), "--out", out, "--update", "--workers", "1", "--cache-dir", cache]
    assert main(again) == 2  # the manifest has no paths
    assert main([*again, "--guide", str(network)]) == 0
    made = read_manifest(tmp_path / "out")
    assert made.plan.settings["guide"] == "network"
    assert made.synthetic == 13
    forge_manifest(tmp_path / "out", plan={**made.plan.content, "recipe": {**recipe, "guide": ["x"]}})
    with pytest.raises(ShardError, match="'name' is missing"):
        read_manifest(tmp_path / "out")


def test_an_object_is_a_guide_in_a_run(seed_folder: Path, tmp_path: Path) -> None:
    summary = gif_datasets.expand(
        str(seed_folder), tmp_path / "out", method="cutout", ratio=1, guide=Mean(), check="label", redraws=1,
        cache_dir=tmp_path / "c", workers=2,
    )  # fmt: skip
    assert summary.synthetic == 12


REFUSED = [
    ("PE-Core-B-17/meta", "unknown guide 'PE-Core-B-17/meta'.*did you mean 'PE-Core-B-16/meta'"),
    ("nowhere", "unknown guide 'nowhere', and no folder of that name"),
    ("timm:resnet10", "timm has no architecture 'resnet10'; did you mean"),
    ("timm:resnet10t?weights=x", "unknown 'weights'; known: checkpoint"),
    ("timm:resnet10t?checkpoint=x.pth", "only safetensors are loaded, got x.pth"),
    ("timm:resnet10t?checkpoint=/no/x.safetensors", "cannot read the checkpoint /no/x.safetensors"),
    ("/no/model.safetensors", "does not name a network of timm"),
    ("own:Mean", "is an object in Python"),
    ("hf-hub:nobody", "is named OWNER/NAME, got 'nobody'"),
    ("ViTamin-L/datacomp1b", "a pickle alone"),
]


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_bad_names_are_one_line(
    name: str, words: str, seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], hub: HubServer
) -> None:
    """Before anything is fetched or written."""
    out = str(tmp_path / "out")
    assert main(["expand", str(seed_folder), "--out", out, "--prior", "kandinsky22", "--set", f"guide={name}"]) == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    with pytest.raises((ConfigError, PriorError), match=words):
        find_guide(name)
    assert not hub.requests("GET", r"resolve")
    assert not Path(out).exists()


def test_a_head_of_other_classes_is_refused(network: Path) -> None:
    with pytest.raises(ConfigError, match=r"has a head of 3 classes, and there are 2; train it on these"):
        make_recipe(ExpansionConfig(method="mae", guide=str(network)), ["a", "b"])
    with pytest.raises(ConfigError, match=r"own:Mean' has a head of 3 classes, and there are 2"):
        make_recipe(ExpansionConfig(method="mae", guide="own:Mean"), ["a", "b"], own_guide=own_guide(Mean()))
    features = f"timm:{ARCHITECTURE}?checkpoint={network / 'model.safetensors'}&features=true"
    with pytest.raises(
        ConfigError, match=r"timm:resnet10t\?checkpoint=model.safetensors&features=true' gives features"
    ):
        make_recipe(ExpansionConfig(method="mae", guide=features, classifier="text"), ["a", "b"])


def test_a_damaged_folder_is_named_before_a_prior_is_fetched(tmp_path: Path) -> None:
    shutil.copytree(CLIP, tmp_path / "clip", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(PriorError, match="no CLIP weights"):
        find_guide(str(tmp_path / "clip"))


def test_an_object_has_a_key() -> None:
    """Of its weights, or one that it says; without either it is refused, and so is what is no module."""
    assert own_guide(Mean(1.0)).digest != own_guide(Mean(2.0)).digest
    assert own_guide(Mean(1.0)).digest == own_guide(Mean(1.0)).digest
    bare = nn.Flatten()
    with pytest.raises(ConfigError, match="no weights, so it needs a 'key'"):
        own_guide(bare)
    bare.key = "1"  # type: ignore[assignment]
    assert own_guide(bare).digest
    with pytest.raises(ConfigError, match=r"a name or a torch\.nn\.Module, got LinearPrior"):
        own_guide(LinearPrior())


def test_a_guide_does_nothing_where_nothing_is_scored() -> None:
    with pytest.warns(UserWarning, match="guide does nothing"):
        assert ExpansionConfig(method="cutout", guide="x").guide is None
    assert "guide" not in ExpansionConfig().to_json()


def test_the_page_s_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of docs/guides.md, one after another, and what the command of the page names is found."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "guides.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/guides.md", "exec"), names)
    assert names["expanded"].plan.recipe.guide.name == "own:Normalised"
    assert find_guide(re.findall(r'"guide=(.*?)"', page)[0]).outputs == 10


def test_a_clip_of_a_pickle_is_converted(tmp_path: Path, images: list[Image.Image]) -> None:
    """recipes/priors/convert_clip.py makes a folder that guides, with the same latents."""
    recipe = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "priors" / "convert_clip.py"))
    tensors = load_file(Path(CLIP) / "open_clip_model.safetensors")
    shutil.copytree(CLIP, tmp_path / "theirs", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in tensors.items()}},
        tmp_path / "theirs" / "open_clip_pytorch_model.bin",
    )
    recipe["convert"](tmp_path / "theirs", tmp_path / "mine", Path(CLIP))
    ours, same = (find_guide(str(name)).load(CPU) for name in (tmp_path / "mine", CLIP))
    torch.testing.assert_close(ours.embed_images(images), same.embed_images(images))


# --- from the Hub -------------------------------------------------------------------------------------------------


@pytest.fixture
def published(hub: HubServer, tmp_path: Path, network: Path) -> HubServer:
    """A CLIP and a network on the Hub, beside files that nobody needs."""
    (tmp_path / "clip").mkdir()
    write_clip("ViT-B-32/openai")(tmp_path / "clip")
    for name, folder in (("me/clip", tmp_path / "clip"), ("me/network", network)):
        hub.create(name)
        for file in folder.iterdir():
            hub.write(name, file.name, file.read_bytes())
        hub.write(name, "pytorch_model.bin", b"a pickle")
    return hub


@pytest.mark.parametrize("name", ["me/clip", "me/network"])
def test_a_guide_of_the_hub_is_pinned_and_fetched_when_it_is_needed(
    name: str, published: HubServer, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan asks for its configuration alone, and names the commit; no pickle is fetched."""
    info = find_guide(f"hf-hub:{name}")
    assert info.weights is not None
    assert info.weights.pinned
    assert not published.requests("GET", r"resolve/.*safetensors")
    guide = info.load(CPU)
    assert guide.embed_images(images).shape[0] == 3
    assert not published.requests("GET", r"pytorch_model\.bin")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_guide(f"hf-hub:{name}@{info.weights.revision}").digest == info.digest
    published.write(name, "config.json", b'{"architecture": "resnet10t"}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert find_guide(f"hf-hub:{name}").digest != info.digest


def test_names_of_open_clip_and_timm_are_repositories(hub: HubServer) -> None:
    """Those of the table of CLIPs at their pinned commits; others where the libraries say."""
    pinned = {name: clip for name, clip in CLIPS.items() if clip.weights.pinned}
    for name, clip in pinned.items():
        found = find_guide(name).weights
        assert found is not None
        assert (found.repository, found.revision) == (clip.weights.repository, clip.weights.revision)
    assert not hub.log
    for name, repository in (
        *((name, clip.weights.repository) for name, clip in CLIPS.items() if name not in pinned),
        ("ViT-B-32-SigLIP2-256/webli", "timm/ViT-B-32-SigLIP2-256"),
        ("timm:vit_small_patch14_dinov2", "timm/vit_small_patch14_dinov2.lvd142m"),
    ):
        with pytest.raises(ConfigError, match=f"does not give model {repository}"):
            find_guide(name)
