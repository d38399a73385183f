"""`preview` with several guides: how well each names the seeds, and which one best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from pipelines import published_here
from safetensors.torch import save_file
from torch import nn

from gif_datasets.cli import main
from gif_datasets.expansion.guide_choice import balanced
from gif_datasets.priors import embedded_folder
from gif_datasets.priors.guides import find_guide

CPU = torch.device("cpu")
CLIP = str(embedded_folder() / "clip")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network of three classes in timm's files."""
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3)
    nn.init.normal_(model.fc.weight, std=0.5)
    (tmp_path / "network").mkdir()
    save_file(model.state_dict(), tmp_path / "network" / "model.safetensors")
    (tmp_path / "network" / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 3}))
    return tmp_path / "network"


def test_each_guide_reads_the_seeds_beside_the_prior_s_own(
    network: Path, seed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head is what its network says; a CLIP reads by its words and by heads; the first guide scores what is shown."""
    command = ["preview", str(seed_folder), "--out", str(tmp_path / "p.png"), "--rows", "2", "--ratio", "1"]
    command += ["--method", "randaugment", "--device", "cpu", "--guide", str(network), "--guide", CLIP]
    assert main([*command, "--json"]) == 0
    own, head, clip = json.loads(capsys.readouterr().out)["guides"]
    assert (own["guide"], head["guide"], clip["guide"]) == ("prior", "network", "clip")
    assert own["accuracy"] == clip["accuracy"]
    assert clip["accuracy"].keys() == {"text", "both", "linear"}
    files = sorted(seed_folder.rglob("*.png"))
    labels = torch.tensor([["ant", "bee", "crab"].index(path.parent.name) for path in files])
    rows = find_guide(str(network)).load(CPU).embed_images([Image.open(path).convert("RGB") for path in files])
    shares = [(rows.argmax(1) == labels)[labels == label].float().mean() for label in range(3)]
    assert head["accuracy"] == {"head": pytest.approx(float(sum(shares) / 3), abs=1e-4)}
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "balanced accuracy on 12 seeds" in told
    assert told.strip().splitlines()[-1].startswith("best: ")


def test_guides_in_the_cache_are_here(
    seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those whose files are all there, without asking the Hub; without any, one line."""
    command = ["preview", str(seed_folder), "--out", str(tmp_path / "p.png"), "--rows", "1", "--ratio", "1"]
    command += ["--method", "randaugment", "--prior", "linear", "--device", "cpu", "--guide", "here"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(command) == 2
    told = capsys.readouterr().err.strip()
    assert "no guide of the table in docs/guides.md is in the Hub's cache; name one" in told
    assert "\n" not in told
    with published_here("mae-base", tmp_path, monkeypatch):
        assert main([*command, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["guides"]
    assert found["guide"] == "ViT-B-32/openai"


def test_every_class_counts_alike() -> None:
    right = torch.tensor([True] * 8 + [False, True])
    assert balanced(right, torch.tensor([0] * 8 + [3, 3])) == 0.75
