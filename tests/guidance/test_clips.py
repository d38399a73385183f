"""Every configuration that open_clip ships loads from a folder, with files of that folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from pipelines import tokenizer
from safetensors.torch import save_file

from gif_datasets import PriorError
from gif_datasets.guidance.zeroshot import Clip, checked_text_config

CPU = torch.device("cpu")
NAMES = ("ant", "bee", "crab")


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_configuration_is_plain_data(name: str, tmp_path: Path) -> None:
    """Nothing of it is refused, if the files of tokenizer and text tower that it names lie beside."""
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip.get_model_config(name)}))
    for file in ("open_clip_model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / file).write_text("{}")
    assert checked_text_config(tmp_path) == open_clip.get_model_config(name)["text_cfg"]


def siglip() -> dict[str, Any]:
    config = open_clip.get_model_config("ViT-B-16-SigLIP2-256")
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none", "image_size": 224}
    text = config["text_cfg"] | {"width": 192, "heads": 2, "layers": 1, "vocab_size": 80, "context_length": 16}
    return config | {"embed_dim": 192, "vision_cfg": vision, "text_cfg": text}


def plain(name: str) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        config = open_clip.get_model_config(name)
        vision = config["vision_cfg"] | {"layers": 1, "width": 16, "head_width": 8, "image_size": 32, "patch_size": 16}
        text = config["text_cfg"] | {"layers": 1, "width": 16, "heads": 2, "vocab_size": 80, "context_length": 16}
        if "hf_model_name" in text:
            text = config["text_cfg"] | {"context_length": 16}
        return config | {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}

    return make


SHAPES = {
    "SigLIP 2": siglip,
    "CLIPA": plain("ViT-L-14-CLIPA"),
    "MetaCLIP 2": plain("ViT-H-14-worldwide"),
    "RoBERTa": plain("roberta-ViT-B-32"),
}


def written(folder: Path, config: dict[str, Any]) -> Path:
    """A folder as the Hub has it: configuration, weights, tokenizer, and the config of a text tower of transformers."""
    tokens = tokenizer(folder)
    tokens.add_special_tokens({"pad_token": "<|endoftext|>", "sep_token": "<|endoftext|>"})
    tokens.save_pretrained(folder)
    made = json.loads(json.dumps(config))
    if "hf_model_name" in made["text_cfg"]:
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        transformers.RobertaConfig(**small, vocab_size=80, pad_token_id=1).save_pretrained(folder)
        made["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    custom = made.pop("custom_text", False) or "hf_model_name" in made["text_cfg"]
    torch.manual_seed(0)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**made)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_those_of_open_clip(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents and texts as open_clip's own functions give them; its tokenizer's arguments have an effect."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = SHAPES[shape]()
    folder = written(tmp_path / "clip", config)
    ours = Clip(folder, CPU)
    text = config["text_cfg"]
    here = {"hf_model_name": str(folder), "hf_model_pretrained": False}
    given = {"text_cfg": text | here} if "hf_model_name" in text else {}
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", **given)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
    image = Image.linear_gradient("L").convert("RGB").resize((48, 32))
    with torch.no_grad():
        expected = model.eval().encode_image(preprocess(image)[None])
        weights = open_clip.build_zero_shot_classifier(model, tokens, NAMES, [lambda name: f"A photo, of {name}."])
    torch.testing.assert_close(ours.encode_images([image]), expected, rtol=1e-4, atol=1e-4)
    found = ours.classifier(NAMES, ["A photo, of {}."])
    torch.testing.assert_close(found.weights, weights.T, rtol=1e-4, atol=1e-4)
    assert (ours.tokenizer("A. b")[0] == ours.tokenizer("a b")[0]).all() == (shape == "SigLIP 2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer_kwargs": {"clean": "whatever"}}, r"tokenizer_kwargs clean='whatever' is refused"),
        ({"tokenizer_kwargs": {"subfolder": "x"}}, r"tokenizer_kwargs subfolder='x' is refused"),
        ({"hf_model_name": "roberta-base"}, r"text tower \(hf_model_name 'roberta-base'\) must lie in the folder"),
    ],
)
def test_what_lies_elsewhere_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "clip", siglip())
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= change
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(PriorError, match=words):
        Clip(folder, CPU)


def test_a_tokenizer_is_never_fetched(tmp_path: Path) -> None:
    folder = written(tmp_path / "clip", siglip())
    for file in ("tokenizer.json", "vocab.json"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(PriorError, match=r"tokenizer \(hf_tokenizer_name 'timm/ViT-B-16-SigLIP2-256'\) must lie"):
        Clip(folder, CPU)
