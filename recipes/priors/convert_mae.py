"""Turn an original masked autoencoder's checkpoint into a prior's folder.

    python recipes/priors/convert_mae.py mae_visualize_vit_large.pth --out runs/mae-large

The files named ``mae_visualize_*`` have a decoder and rebuild pixels; those named ``mae_pretrain_*`` have none, and
``*_full`` rebuild normalised pixels, which no prior can use (https://github.com/facebookresearch/mae, issues 3, 8, 12).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from gif_datasets.priors.mae import MaeConfig, MaskedAutoencoder, save
from gif_datasets.priors.mae_checkpoints import original_config


def convert(checkpoint: Path, out: Path, clip: str) -> None:
    tensors = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]  # runs no code of the file
    model = MaskedAutoencoder(MaeConfig(**original_config(tensors, normalised_pixels="_full" in checkpoint.name)))
    model.load_state_dict(tensors)
    save(model, out / "mae")
    card = {"format": 2, "name": checkpoint.stem, "clip": clip, "decoders": {"mae": "mae"}}
    card |= {"image_size": model.config.image_size, "license": "CC-BY-NC-4.0 (facebookresearch/mae)"}
    (out / "prior.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clip", default="ViT-B-32/openai", help="what scores it: an open_clip folder or a known name")
    args = parser.parse_args()
    convert(args.checkpoint, args.out, args.clip)


if __name__ == "__main__":
    main()
