"""Make the text tower of a CLIP small: a vocabulary of what class names need, and weights as int8 with a scale a row.

    python recipes/priors/shrink_text.py --clip A/clip --out runs/clip-small --names FILE ...

The CLIP is an open_clip folder whose text tower is a BERT with a WordPiece vocabulary, such as build_clip.py writes.
The vocabulary keeps

- special tokens, and every piece of one character, so that no text has an unknown word that had none before;
- continuing pieces of at most two letters;
- the first ``--words`` longer pieces, which are in the order of their frequency;
- all pieces of the names of ImageNet's 21,841 synsets, of the prompts of every domain, and of the names that are given:
  text files with a name a line.

A word that is cut becomes several pieces, and may lose its meaning: cosines of such words with themselves go down to 0.
Coarse integers cost little, so both kinds of matrices have fewer levels than int8 allows, which a wheel's compression
turns into fewer bytes, and the vocabulary is as large as they let it be.

Embedding rows follow the vocabulary. All matrices of the text tower become int8 (gif_datasets/guidance/int8_rows.py),
what is left is stored in half precision, and the image tower stays as it is. ``--tokenizer`` names tokenizers of the
same vocabulary in other folders, of a pipeline that reads the CLIP's text tower: they are cut in place.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from tokenizers import Tokenizer
from torch import Tensor

from gif_datasets.guidance import int8_rows
from gif_datasets.guidance.zeroshot import WEIGHTS, readable
from gif_datasets.prompts import DOMAINS

WORDS = 17_000
STEPS, EMBEDDING_STEPS = 16, 8  # of a row's root mean square: 6.2 and 5.4 bits a value in a wheel; all of int8 are 7.2
SHORT = 2  # letters of a continuing piece that is always kept
CONTINUES = "##"
EMBEDDING = "text.transformer.embeddings.word_embeddings.weight"


def general_names() -> list[str]:
    """What anybody may call a class: ImageNet's names, and the words of the prompts around them."""
    info = ImageNetInfo("imagenet22k")
    prompts = [text for domain in DOMAINS.values() for text in (*domain.templates, *domain.prompts)]
    return [info.index_to_description(index) for index in range(info.num_classes())] + prompts


def pieces_of(tokenizer: Tokenizer, names: Sequence[str]) -> set[str]:
    """The pieces that a tokenizer cuts names into."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return {piece for text in tokenizer.encode_batch(names, add_special_tokens=False) for piece in text.tokens}


def kept_pieces(vocabulary: Iterable[str], special: set[str], used: set[str], words: int) -> list[str]:
    """The pieces to keep, in their old order.

    Args:
        vocabulary: All pieces in their order, which is that of frequency.
        special: Tokens that are no text.
        used: Pieces to keep for their use.
        words: How many of the first pieces of several letters to keep.
    """
    kept, frequent = [], 0
    for piece in vocabulary:
        letters = piece.removeprefix(CONTINUES)
        plain = letters.isascii() and not (piece.startswith("[") and len(piece) > 1)
        short = len(letters) == 1 or (plain and letters != piece and len(letters) <= SHORT)
        first = plain and len(letters) > 1 and frequent < words
        frequent += first
        if short or first or piece in special or piece in used:
            kept.append(piece)
    return kept


def cut_tokenizer(settings: dict[str, Any], kept: Sequence[str]) -> dict[str, Any]:
    """The contents of a ``tokenizer.json`` with a smaller vocabulary, numbered anew."""
    numbers = {piece: number for number, piece in enumerate(kept)}
    settings = json.loads(json.dumps(settings))
    settings["model"]["vocab"] = numbers
    for token in settings["added_tokens"]:
        token["id"] = numbers[token["content"]]
    for token in settings["post_processor"]["special_tokens"].values():
        token["ids"] = [numbers[piece] for piece in token["tokens"]]
    if settings.get("padding"):
        settings["padding"]["pad_id"] = numbers[settings["padding"]["pad_token"]]
    return settings


def stored(weights: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The weights with some rows of the embedding, the text tower's matrices as int8, and no single precision."""
    out = {}
    for name, value in weights.items():
        tensor = value[rows] if name == EMBEDDING else value
        if name.startswith("text.") and tensor.dim() == 2:
            steps = EMBEDDING_STEPS if name == EMBEDDING else STEPS
            out[name], out[name + int8_rows.SCALE] = int8_rows.quantized(tensor, steps)
        else:
            out[name] = tensor.half() if tensor.dtype == torch.float32 else tensor
    return out


def shrink(clip: Path, out: Path, names: Sequence[str], words: int, tokenizers: Sequence[Path] = ()) -> None:
    """Write the small CLIP, and cut ``tokenizers`` (folders) as its own."""
    settings = json.loads((clip / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = settings["model"]["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {token["content"] for token in settings["added_tokens"]}
    used = pieces_of(Tokenizer.from_file(str(clip / "tokenizer.json")), [readable(name) for name in names])
    kept = kept_pieces(pieces, special, used, words)

    shutil.copytree(clip, out)
    (out / "vocab.txt").unlink(missing_ok=True)  # the same again, in older folders
    config = json.loads((clip / "config.json").read_text())
    config |= {"vocab_size": len(kept), "pad_token_id": kept.index(pieces[config["pad_token_id"]])}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    rows = torch.tensor([vocabulary[piece] for piece in kept])
    save_file(stored(load_file(clip / WEIGHTS), rows), out / WEIGHTS, metadata={"format": "pt"})
    for folder in (out, *tokenizers):
        path = folder / "tokenizer.json"
        its = json.loads(path.read_text())
        if its["model"]["vocab"] != vocabulary:
            raise SystemExit(f"{path} has another vocabulary than {clip}")
        path.write_text(json.dumps(cut_tokenizer(its, kept), ensure_ascii=False, separators=(",", ":")) + "\n")
    print(json.dumps({"pieces": len(kept), "of": len(pieces), "MB": round((out / WEIGHTS).stat().st_size / 1e6, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="open_clip folder, such as build_clip.py writes")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--names", type=Path, nargs="*", default=[], help="text files with a class name a line")
    parser.add_argument("--words", type=int, default=WORDS, help="how many frequent pieces to keep besides")
    parser.add_argument("--tokenizer", type=Path, nargs="*", default=[], help="other tokenizers to cut, in place")
    args = parser.parse_args()
    names = [name for path in args.names for name in path.read_text(encoding="utf-8").splitlines()]
    shrink(args.clip, args.out, [*general_names(), *names], args.words, args.tokenizer)


if __name__ == "__main__":
    main()
