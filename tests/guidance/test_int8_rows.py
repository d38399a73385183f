"""Small text towers: int8 rows load as the weights that they stand for, and words that are kept keep their meaning."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import shrink_text
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from gif_datasets import PriorError
from gif_datasets.guidance import int8_rows
from gif_datasets.guidance.zeroshot import WEIGHTS, Clip
from gif_datasets.priors import embedded_folder, find_prior, load_prior

CPU = torch.device("cpu")
SPECIAL = ("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyzß-"
WORDS = ("the", "photo", "of", "##ing", "##ly", "fish", "gold", "##fish", "villain", "zebra", "##zzle")
MATRIX = "text.transformer.encoder.layer.0.output.dense.weight"
WORD_ROWS = "text.transformer.embeddings.word_embeddings.weight"


def write_tokenizer(folder: Path, padded: bool) -> None:
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    settings = json.loads((embedded_folder() / "clip" / "tokenizer.json").read_text())
    settings["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    for token in settings["added_tokens"]:
        token["id"] = pieces.index(token["content"])
    for token in settings["post_processor"]["special_tokens"].values():
        token["ids"] = [pieces.index(token["id"])]
    settings["padding"] = settings["padding"] if padded else None
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(settings))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An open_clip folder of a thousandth of the embedded one's size."""
    folder = tmp_path / "clip"
    write_tokenizer(folder, padded=True)
    shutil.copy(embedded_folder() / "clip" / "tokenizer_config.json", folder)
    bert = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "pad_token_id": 0,
    }
    bert |= {"vocab_size": len(SPECIAL) + 2 * len(LETTERS) + len(WORDS), "intermediate_size": 32}
    (folder / "config.json").write_text(json.dumps(bert))
    text = {"hf_model_name": ".", "hf_tokenizer_name": ".", "hf_pooler_type": "mean_pooler", "context_length": 16}
    text |= {"hf_proj_type": "linear", "hf_model_pretrained": False}
    vision = {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 24, "custom_text": True, "vision_cfg": vision, "text_cfg": text}})
    )
    torch.manual_seed(0)
    model = open_clip.create_model(
        f"local-dir:{folder}", load_weights=False, text_cfg={**text, "hf_model_name": str(folder)}
    )
    model.text.transformer.embeddings.word_embeddings.weight.data.normal_()  # so that words differ
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    return folder


def as_int8(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return shrink_text.stored(weights, torch.arange(len(weights[WORD_ROWS])))


def copy_with(clip: Path, name: str, weights: dict[str, Tensor]) -> Path:
    folder = shutil.copytree(clip, clip.parent / name)
    save_file(weights, folder / WEIGHTS)
    return folder


def texts_of(clip: Clip, *names: str) -> Tensor:
    return clip.classifier(names, ["{}", "photo of the {}"]).weights


def test_int8_rows_load_as_the_weights_that_they_stand_for(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As open_clip itself loads those, bit for bit, silently; a row of zeros stays one."""
    whole = load_file(tiny / WEIGHTS)
    whole[MATRIX][3] = 0
    small = as_int8(whole)
    assert {name for name, value in small.items() if value.dtype == torch.int8} == {
        name for name, value in whole.items() if name.startswith("text.") and value.dim() == 2
    }
    plain = copy_with(tiny, "plain", int8_rows.dequantized(small))
    config = json.loads((plain / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    expected = open_clip.create_model(f"local-dir:{plain}", text_cfg={**config, "hf_model_name": str(plain)})
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        clip = Clip(copy_with(tiny, "small", small), CPU)
    assert caplog.records == []
    state = clip.model.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert value.dtype == state[name].dtype == torch.float32
        assert torch.equal(value, state[name]), name
    assert state[MATRIX][3].abs().max() == 0
    texts, exact = texts_of(clip, "goldfish", "zebra"), texts_of(Clip(tiny, CPU), "goldfish", "zebra")
    assert F.cosine_similarity(texts, exact).min() > 0.99


@pytest.mark.parametrize("steps", [math.inf, 100.0, 6.0])
def test_quantisation_errs_by_half_a_level(steps: float) -> None:
    """A row's largest value has the last level, or its root mean square so many, for any axes and size of values."""
    torch.manual_seed(0)
    for shape, size in (((5, 400), 1e-3), ((4, 30, 2, 2), 1e4), ((6, 1), 1.0)):
        weight = (torch.randn(shape) * size).half().float()
        weight[0].flatten()[0] *= 40  # only a row's own peak makes it coarse
        rows, scale = int8_rows.quantized(weight, steps)
        assert (rows.dtype, scale.shape) == (torch.int8, (shape[0], *[1] * (len(shape) - 1)))
        peaks, levels = rows.flatten(1).abs().amax(1), rows.float().flatten(1).square().mean(1).sqrt()
        assert ((peaks == 127) | ((peaks < 127) & ((levels / steps - 1).abs() < 0.1))).all()
        assert (levels < steps * 1.1).all()
        assert ((rows * scale - weight).abs() <= scale * 0.5001).all()


def wrong_scale(make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        weights[MATRIX + "_scale"] = make(weights[MATRIX + "_scale"]).contiguous()

    return change


def fewer_rows(weights: dict[str, Tensor]) -> None:
    for name in (MATRIX, MATRIX + "_scale"):
        weights[name] = weights[name][1:].contiguous()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop(MATRIX + "_scale"), r"is int8 and has no text\.\S+_scale"),
        (wrong_scale(Tensor.int), r"must be floating-point of shape \(16, 1\)"),
        (wrong_scale(lambda scale: scale[1:]), r"of shape \(15, 1\)"),
        (wrong_scale(lambda scale: scale[:, 0]), r"of shape \(16,\)"),
        (wrong_scale(lambda scale: scale.T), r"of shape \(1, 16\)"),
        (wrong_scale(lambda scale: scale.expand(16, 32)), r"of shape \(16, 32\)"),
        (wrong_scale(lambda scale: scale[0, 0]), r"of shape \(\)"),
        (lambda weights: weights.update({"lone": torch.zeros((), dtype=torch.int8)}), "lone is int8 and has no"),
        (lambda weights: weights.update({"more_scale": torch.ones(2, 1)}), "more_scale"),
        (lambda weights: [weights.pop("text.proj.weight" + end) for end in ("", "_scale")], r"text\.proj\.weight"),
        (fewer_rows, "size mismatch"),
    ],
)
def test_int8_rows_that_do_not_fit_are_one_clear_error(
    tiny: Path, change: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    """Whatever a hostile file pairs, nothing is broadcast, and one line names the tensor."""
    weights = as_int8(load_file(tiny / WEIGHTS))
    change(weights)
    with pytest.raises(PriorError, match=f"cannot load the CLIP in .*{words}") as error:
        Clip(copy_with(tiny, "small", weights), CPU)
    assert "\n" not in str(error.value)


def test_a_small_text_tower_reads_as_the_whole_one(tiny: Path, tmp_path: Path) -> None:
    """Words that are kept mean the same, cut ones become pieces, and no text gets an unknown word."""
    write_tokenizer(tmp_path / "other", padded=False)
    shrink_text.shrink(tiny, tmp_path / "small", ["zebra", "gold_fish"], 4, [tmp_path / "other"])
    whole, small = Clip(tiny, CPU), Clip(tmp_path / "small", CPU)
    tokenizer = Tokenizer.from_file(str(tmp_path / "small" / "tokenizer.json"))
    tokenizer.no_padding()
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    assert vocabulary == [piece for piece in (*SPECIAL, *LETTERS, *(f"##{x}" for x in LETTERS), *WORDS)
                          if piece not in ("[unused0]", "##fish", "villain", "##zzle")]  # fmt: skip
    assert tokenizer.encode("villain gold-fishing").tokens == [
        "[CLS]", *("v", "##i", "##l", "##l", "##a", "##i", "##n"), "gold", "-", "fish", "##ing", "[SEP]"
    ]  # fmt: skip
    assert tokenizer.get_vocab() == Tokenizer.from_file(str(tmp_path / "other" / "tokenizer.json")).get_vocab()
    assert small.model.text.transformer.config.vocab_size == len(vocabulary)
    assert small.model.text.transformer.config.pad_token_id == tokenizer.token_to_id("[PAD]") == 0
    kept = ("zebra", "gold fish", "the photo", "a")
    assert F.cosine_similarity(texts_of(small, *kept), texts_of(whole, *kept)).min() > 0.99
    assert F.cosine_similarity(texts_of(small, "villain"), texts_of(whole, "villain")) < 0.99
    image = [Image.new("RGB", (20, 16), "teal")]
    torch.testing.assert_close(small.encode_images(image), whole.encode_images(image), rtol=0, atol=2e-3)
    stored = load_file(tmp_path / "small" / WEIGHTS)
    assert {value.dtype for name, value in stored.items() if "_scale" not in name} == {torch.int8, torch.float16}


def test_a_tokenizer_of_another_vocabulary_is_not_cut(tiny: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "other", padded=False)
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace("zebra", "okapi"))
    with pytest.raises(SystemExit, match="another vocabulary"):
        shrink_text.shrink(tiny, tmp_path / "small", [], 4, [tmp_path / "other"])


def test_letters_of_the_embedded_vocabulary_stay() -> None:
    """Every word that its tokenizer knows can still be written, however few words are kept."""
    settings = json.loads((embedded_folder() / "clip" / "tokenizer.json").read_text())
    settings["padding"] = settings["truncation"] = None
    vocabulary = list(settings["model"]["vocab"])
    special = {token["content"] for token in settings["added_tokens"]}
    kept = shrink_text.kept_pieces(vocabulary, special, set(), 0)
    assert len(kept) < 3000
    cut = Tokenizer.from_str(json.dumps(shrink_text.cut_tokenizer(settings, kept)))
    words = [piece for piece in vocabulary if piece[:2] not in ("##", "[u") and piece not in special]
    texts = cut.encode_batch([*words, "Grüße", "naïve œuvre", "ñandú-Ærø", "москва"], add_special_tokens=False)
    assert not [text.tokens for text in texts if "[UNK]" in text.tokens]


def test_a_pipeline_with_other_tokens_than_the_text_tower_is_refused(tmp_path: Path) -> None:
    """It would take one word for another; the embedded pipeline and CLIP fit."""
    folder = tmp_path / "mine"
    shutil.copytree(embedded_folder(), folder, ignore=shutil.ignore_patterns("unclip", "mae"))
    card = json.loads((folder / "prior.json").read_text())
    (folder / "prior.json").write_text(json.dumps(card | {"decoders": {"sd": "sd"}}))
    load_prior(find_prior(str(folder)), "sd", CPU)
    path = folder / "sd" / "tokenizer" / "tokenizer.json"
    settings = json.loads(path.read_text())
    kept = [piece for piece in settings["model"]["vocab"] if piece != "zebra"]
    path.write_text(json.dumps(shrink_text.cut_tokenizer(settings, kept)))
    with pytest.raises(PriorError, match="another vocabulary"):
        load_prior(find_prior(str(folder)), "sd", CPU)
