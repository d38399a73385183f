"""Check published priors with their true weights, for whoever has them; exits with 1 if a check fails.

    python tests/weights/check.py                      # those that the Hub's cache holds
    python tests/weights/check.py mae-base kandinsky22 --device cuda --dtype float16
    python tests/weights/check.py --imagenet DIR       # validation pictures, one folder a class, n01440764 and so on

What is expected:

- Zero-shot accuracy on ImageNet's validation set, with OpenAI's names and 80 templates: 63.2% (ViT-B/32) and 75.5%
  (ViT-L/14), 78.0% (ViT-H/14), as open_clip's README measures them (https://github.com/mlfoundations/open_clip), and
  80.1% (ViT-bigG/14, https://laion.ai/blog/giant-openclip/). Within one point, for what pictures one has.
- On the 200 real seeds of the demo no public figure is known: 75% is a floor of our own, far above chance (10%).
- A pipeline's image encoder gives open_clip's embeddings: cosine above 0.999. It is not fetched, since nothing else
  needs it, and told where it is not here: `hf download REPOSITORY --include "image_encoder/*" "feature_extractor/*"`.
- Of pictures that an unCLIP decoder draws, more than half lie nearest, in CLIP's space, to the latent they are of.
- A masked autoencoder that sees everything rebuilds a picture at 20 dB or better: a floor of our own as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from gif_datasets import ExpansionConfig
from gif_datasets.guidance.rng import generator_for
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.priors.weights import CLIPS
from gif_datasets.sources import open_source

IMAGENET = {"ViT-B-32/openai": 63.2, "ViT-L-14/openai": 75.5, "ViT-H-14/laion2b_s32b_b79k": 78.0}
IMAGENET |= {"ViT-bigG-14/laion2b_s39b_b160k": 80.1}
ENCODER = ("image_encoder/config.json", "image_encoder/model.safetensors", "feature_extractor/preprocessor_config.json")
BLOCK = 8
Check = tuple[str, float | None, float]
"""What, what was found (None: it could not be looked for), and the least that is expected."""


def imagenet(prior: object, clip: str, folder: Path, per_class: int = 5) -> Iterator[Check]:
    """Zero-shot accuracy of the first pictures of every class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    config = ExpansionConfig(templates=[template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES])
    classifier = prior.classifier(open_clip.IMAGENET_CLASSNAMES, config)
    right = total = 0
    for label, path in enumerate(classes):
        pictures = [Image.open(file).convert("RGB") for file in sorted(path.iterdir())[:per_class]]
        right += int((classifier.scores(prior.embed_images(pictures)).argmax(1) == label).sum())
        total += len(pictures)
    yield f"zero-shot on ImageNet ({total} pictures), %", 100 * right / total, IMAGENET[clip] - 1


def demo(prior: object, pictures: list[Image.Image], labels: torch.Tensor) -> Iterator[Check]:
    classifier = prior.classifier(open_source("demo").classes, ExpansionConfig())
    rows = [prior.embed_images(pictures[i : i + BLOCK]) for i in range(0, len(pictures), BLOCK)]
    accuracy = (classifier.scores(torch.cat(rows)).argmax(1).cpu() == labels).float().mean()
    yield "zero-shot on the demo, %", 100 * float(accuracy), 75.0


def encoder(name: str, prior: object, pictures: list[Image.Image]) -> Iterator[Check]:
    """The pipeline's own image encoder against open_clip's."""
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    what, least, folder = "cosine of the pipeline's image encoder", 0.999, PUBLISHED[name].decoder.bring()
    if missing := [file for file in ENCODER if not (folder / file).exists()]:
        yield f"{what} (no {missing[0]} in {folder})", None, least
        return
    theirs = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", use_safetensors=True).eval()
    pixels = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")(pictures, return_tensors="pt")
    with torch.no_grad():
        found = theirs(pixels.pixel_values).image_embeds
    cosine = F.cosine_similarity(found, prior.encode(pictures).cpu()).min()
    yield what, float(cosine), least


def decoded(prior: object, family: str, pictures: list[Image.Image], config: ExpansionConfig) -> Iterator[Check]:
    latents = prior.encode(pictures)
    generators = [generator_for(0, str(number), "decode", 1) for number in range(len(pictures))]
    shown = prior.decode(latents, generators, config).float().cpu()
    if family == "unclip":
        again = prior.encode([vision.to_pil_image(picture) for picture in shown])
        nearest = F.cosine_similarity(again[:, None], latents[None], dim=-1).argmax(1).cpu()
        yield (
            "pictures nearest to their own latent, %",
            100 * float((nearest == torch.arange(len(nearest))).float().mean()),
            50.0,
        )
        return
    side = shown.shape[-1]
    seeds = torch.stack(
        [vision.to_image(picture.resize((side, side), Image.Resampling.BICUBIC)) for picture in pictures]
    )
    error = (shown - seeds / 255).square().mean((1, 2, 3))
    yield "rebuilt pictures, dB", float((-10 * torch.log10(error)).mean()), 20.0


def check(name: str, device: torch.device, dtype: str, folder: Path | None) -> bool:
    entry, source = PUBLISHED[name], open_source("demo")
    method = {"unclip": "unclip", "mae": "mae", "sd": "sd"}[entry.family]
    options = {} if entry.family == "mae" else {"dtype": dtype, "decode_steps": 25}
    config = ExpansionConfig(method=method, **options)
    prior = load_prior(find_prior(name), entry.family, device, config)
    pictures = [source.sample(i)[0] for i in range(200)]
    some, labels = pictures[::25], torch.tensor([source.sample(i)[1] for i in range(200)])
    checks = [*demo(prior, pictures, labels), *decoded(prior, entry.family, some, config)]
    if entry.family == "unclip":
        checks += encoder(name, prior, some)
    if folder:
        checks += imagenet(prior, entry.clip, folder)
    for one in checks:
        sys.stdout.write(f"{name}: {told(one)}\n")
    return all(found is None or found >= least for _, found, least in checks)


def told(check: Check) -> str:
    what, found, least = check
    if found is None:
        return f"not checked: {what}"
    return f"{what}: {found:.3f}, expected at least {least}: {'ok' if found >= least else 'FAILED'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="priors; by default those that are here")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--imagenet", type=Path)
    args = parser.parse_args()
    names = args.names or [name for name, prior in PUBLISHED.items() if prior.here]
    if not names:
        sys.stdout.write(f"no published prior is in the Hub's cache; known: {', '.join(PUBLISHED)}\n")
    assert IMAGENET.keys() == CLIPS.keys()
    done = [check(name, torch.device(args.device), args.dtype, args.imagenet) for name in names]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
