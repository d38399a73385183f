"""Turn a CLIP of open_clip that is published as a pickle into a folder that guides.

    hf download microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 --local-dir biomedclip
    hf download microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract config.json --local-dir biomedbert
    python recipes/priors/convert_clip.py biomedclip --text biomedbert --out runs/biomedclip

``--text`` is where the configuration of a text tower of transformers is, if the folder does not have it. Tensors alone
are read of the pickle (``weights_only``). Not run on those weights here.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

KEPT = ("open_clip_config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "config.json")


def convert(folder: Path, out: Path, text: Path | None = None) -> None:
    tensors = torch.load(folder / "open_clip_pytorch_model.bin", map_location="cpu", weights_only=True)
    tensors = {name.removeprefix("module."): value for name, value in tensors.get("state_dict", tensors).items()}
    out.mkdir(parents=True)
    save_file(
        {name: value.clone().contiguous() for name, value in tensors.items()}, out / "open_clip_model.safetensors"
    )
    for pattern in KEPT:
        for path in folder.glob(pattern):
            shutil.copy(path, out)
    if text is not None:
        shutil.copy(text / "config.json", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, help="folder with the text tower's config.json")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    convert(args.folder, args.out, args.text)


if __name__ == "__main__":
    main()
