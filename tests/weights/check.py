"""Check published priors with their true weights, for whoever has them; exits with 1 if a check fails.

    python tests/weights/check.py                      # those that the Hub's cache holds
    python tests/weights/check.py mae-base kandinsky22 --device cuda --dtype float16
    python tests/weights/check.py --imagenet DIR       # validation pictures, one folder a class, n01440764 and so on
    python tests/weights/check.py --prior kandinsky22 --device cuda --dtype float16    # fetches, checks and times one

``--prior`` also writes NAME.png, seeds above their copies, and prints a block to paste into an issue. On a GPU it is
meant to take less than ten minutes after the download; nobody has run it there yet.

What is expected:

- Zero-shot accuracy on ImageNet's validation set, with OpenAI's names and 80 templates: 63.2% (ViT-B/32) and 75.5%
  (ViT-L/14), 78.0% (ViT-H/14), as open_clip's README measures them (https://github.com/mlfoundations/open_clip), and
  80.1% (ViT-bigG/14, https://laion.ai/blog/giant-openclip/). Within one point, for what pictures one has.
  Of the SigLIPs that Redux reads, 80% is a floor of our own.
- On the 200 real seeds of the demo no public figure is known: 75% is a floor of our own, far above chance (10%).
- A pipeline's image encoder gives open_clip's embeddings: cosine above 0.999. It is not fetched, since nothing else
  needs it, and told where it is not here: `hf download REPOSITORY --include "image_encoder/*" "feature_extractor/*"`.
- Of pictures that an unCLIP decoder draws, more than half lie nearest, in CLIP's space, to the latent they are of.
- Pictures drawn in a block are those drawn alone, at 45 dB in single precision and 30 dB in half.
- A masked autoencoder that sees everything rebuilds a picture at 20 dB or better: a floor of our own as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from gif_datasets import ExpandedDataset, ExpansionConfig
from gif_datasets.expansion.recipe import version_of
from gif_datasets.guidance import fitted_heads
from gif_datasets.guidance.rng import generator_for
from gif_datasets.options import parse_setting
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.priors.published import PUBLISHED
from gif_datasets.priors.weights import CLIPS
from gif_datasets.sources import open_source

IMAGENET = {"ViT-B-32/openai": 63.2, "ViT-L-14/openai": 75.5, "ViT-H-14/laion2b_s32b_b79k": 78.0}
IMAGENET |= {"ViT-bigG-14/laion2b_s39b_b160k": 80.1, "ViT-SO400M-14-SigLIP-384/webli": 81.0}
IMAGENET |= {"ViT-SO400M-16-SigLIP2-512/webli": 81.0}
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
    rows = torch.cat([prior.embed_images(pictures[i : i + BLOCK]) for i in range(0, len(pictures), BLOCK)]).cpu()
    text = dataclasses.replace(classifier, weights=classifier.weights.cpu())
    kind, how = ("text", "zero-shot") if text.weights.any() else ("seeds", "by the other images' class means")
    accuracy = fitted_heads.recognised(kind, text, rows, labels).float().mean()
    yield f"{how} on the demo, %", 100 * float(accuracy), 75.0


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
        again = prior.embed_images([vision.to_pil_image(picture) for picture in shown])
        nearest = F.cosine_similarity(again[:, None], prior.embed(latents)[None], dim=-1).argmax(1).cpu()
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


def draw(prior: object, family: str, pictures: list[Image.Image], config: ExpansionConfig) -> torch.Tensor:
    """Copies of pictures, by the pipeline in one block; what a copy is does not depend on the others."""
    keys = [str(number) for number in range(len(pictures))]
    latents = prior.encode(pictures)
    if family == "sd":
        latents = prior.start(pictures, latents, ["thing"] * len(keys), keys, config)[:, 0]
    generators = [generator_for(0, key, "decode", 1) for key in keys]
    return prior.decode(latents, generators, config).float().cpu()


def alone(prior: object, family: str, pictures: list[Image.Image], config: ExpansionConfig) -> Iterator[Check]:
    """The first pictures in a block against the first of them by itself."""
    together, single = (draw(prior, family, part, config) for part in (pictures[:3], pictures[:1]))
    error = (together[0] - single[0]).square().mean().clamp(min=1e-10)
    yield (
        "a block against a picture alone, dB",
        float(-10 * torch.log10(error)),
        45.0 if config.dtype == "float32" else 30.0,
    )


def settings(name: str, dtype: str, guided: bool = False) -> dict[str, object]:
    """Options of a run: what the table advises, one copy a seed."""
    entry = PUBLISHED[name]
    advised = dict(parse_setting(text) for text in entry.advice.split(", ")) if entry.advice else {}
    method = f"gif-{entry.family}" if guided else entry.family
    return {
        "method": method,
        "ratio": 1,
        "decode_batch": 4,
        **advised,
        **({"dtype": dtype} if entry.samples else {}),
    }


def timed(name: str, device: torch.device, dtype: str, out: Path) -> str:
    """Time a prior, bare and in an expansion, draw its copies into ``out``; a block to paste into an issue."""
    entry, source = PUBLISHED[name], open_source("demo")
    pictures = [source.sample(i)[0] for i in range(0, 200, 25)]
    config = ExpansionConfig(**settings(name, dtype))
    started = time.perf_counter()
    info = find_prior(name)
    prior = load_prior(info, entry.family, device, config)
    loading = time.perf_counter() - started
    checks = list(alone(prior, entry.family, pictures, config))
    started = time.perf_counter()
    copies = torch.cat([draw(prior, entry.family, pictures[i : i + 4], config) for i in (0, 4)])
    bare = len(copies) / (time.perf_counter() - started)
    sheet(pictures, copies).save(out)
    del prior
    with tempfile.TemporaryDirectory() as cache:
        options = {"prior": name, "device": str(device), "cache_dir": cache, **settings(name, dtype, guided=True)}
        expanded = ExpandedDataset("demo", **options)
        expanded.__getitems__(range(200, 204))  # loads it
        started = time.perf_counter()
        expanded.__getitems__(range(204, 212))
        guided = 8 / (time.perf_counter() - started)
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    where = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    versions = ", ".join(f"{library} {version_of(library)}" for library in ("torch", "diffusers", "open_clip_torch"))
    rows = [
        f"prior: {name}, {info.published.decoder.repository}@{info.published.decoder.revision}",
        f"where: {where}, {dtype}; {versions}",
        f"fetch and load: {loading:.0f} s",
        *(told(one) for one in checks),
        f"images a second, the pipeline alone: {bare:.3g}; guided, in an expansion: {guided:.3g} ({guided / bare:.0%})",
        f"peak memory: {peak / 1e9:.1f} GB {'on the device' if on_gpu else 'resident'}",
    ]
    return "\n".join(rows)


def sheet(pictures: list[Image.Image], copies: torch.Tensor) -> Image.Image:
    """Seeds above their copies."""
    side = copies.shape[-1]
    page = Image.new("RGB", (side * len(pictures), 2 * side))
    for place, (picture, copy) in enumerate(zip(pictures, copies, strict=True)):
        page.paste(picture.resize((side, side)), (place * side, 0))
        page.paste(vision.to_pil_image(copy), (place * side, side))
    return page


def check(name: str, device: torch.device, dtype: str, folder: Path | None) -> bool:
    entry, source = PUBLISHED[name], open_source("demo")
    options = {"dtype": dtype, "decode_steps": 25} if entry.samples else {}
    config = ExpansionConfig(method=entry.family, **options)
    prior = load_prior(find_prior(name), entry.family, device, config)
    pictures = [source.sample(i)[0] for i in range(200)]
    some, labels = pictures[::25], torch.tensor([source.sample(i)[1] for i in range(200)])
    checks = [*demo(prior, pictures, labels), *decoded(prior, entry.family, some, config)]
    if entry.family == "unclip":
        checks += encoder(name, prior, some)
    if folder and entry.clip:
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
    parser.add_argument("--prior", metavar="NAME", help="fetch, check and time this one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--imagenet", type=Path)
    args = parser.parse_args()
    names = args.names or [args.prior] * bool(args.prior) or [name for name, prior in PUBLISHED.items() if prior.here]
    if not names:
        sys.stdout.write(f"no published prior is in the Hub's cache; known: {', '.join(PUBLISHED)}\n")
    assert IMAGENET.keys() == CLIPS.keys()
    done = [check(name, torch.device(args.device), args.dtype, args.imagenet) for name in names]
    if args.prior:
        page = timed(args.prior, torch.device(args.device), args.dtype, Path(f"{args.prior}.png"))
        sys.stdout.write(f"\nPaste this into an issue, with {args.prior}.png:\n\n```text\n{page}\n```\n")
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
