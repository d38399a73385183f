"""Guides: what scores images in place of the prior's own CLIP. One is found by its name, and loaded when it is needed.

============================================  =====================================================================
``MODEL/CHECKPOINT``                          a CLIP, by open_clip's names: ``PE-Core-B-16/meta``
``hf-hub:OWNER/NAME[@REVISION]``              a CLIP in open_clip's files, or a network in timm's
a folder                                      the same, here
``timm:NAME``                                 the features of a published network
``timm:NAME?checkpoint=FILE[&features=true]``  a network of one's own, from its safetensors: its head, or its features
``FILE.safetensors``                          the same, where timm's ``config.json`` beside it names the architecture
============================================  =====================================================================

A network whose head tells the dataset's classes apart scores images by that head. Of any other, as of a CLIP's image
tower, the features count, and a classifier is fitted to those of the seeds.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from gif_datasets.errors import ConfigError, PriorError, did_you_mean, one_line
from gif_datasets.io import hub
from gif_datasets.io.digests import digest, digest_file, digest_folder
from gif_datasets.io.parsing import read_json
from gif_datasets.priors.weights import CLIPS, Weights

if TYPE_CHECKING:
    import torch

    from gif_datasets.priors.guide_models import Guide

OWN_SIDE = 224
"""Of the images that such an object sees, unless it says otherwise."""
OWN = "own:"
"""Begins the name of a guide that is an object of the caller."""
KNOWN = (
    "PE-Core-T-16-384/meta",
    "PE-Core-S-16-384/meta",
    "PE-Core-B-16/meta",
    "PE-Core-L-14-336/meta",
    "ViT-B-16-SigLIP2-256/webli",
    "EVA02-L-14/merged2b_s4b_b131k",
    "hf-hub:imageomics/bioclip-2.5-vith14",
    "hf-hub:imageomics/bioclip-2",
    "timm:vit_small_patch14_dinov2.lvd142m",
)
"""Guides of the table in ``docs/guides.md`` that the Hub has."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_CLIP, _NETWORK = "open_clip_config.json", "config.json"
_READ = (".json", ".safetensors", ".model", ".txt")


@dataclass(frozen=True)
class GuideInfo:
    """What is known of a guide before it is loaded.

    Attributes:
        name: Its name, without the folders that it lies in.
        digest: Content digest of its weights, and of what they are loaded into.
        load: Loads it on a device.
        outputs: Classes of its own head; None where it has none that is used.
        weights: Files on the Hub, if it has any.
        features: Whether a classifier must be fitted to what it gives.
    """

    name: str
    digest: str
    load: Callable[[torch.device], Guide] = field(compare=False)
    outputs: int | None = None
    weights: Weights | None = None
    features: bool = False

    def check(self, classes: Sequence[str], classifier: str) -> None:
        """Raise ConfigError if it cannot tell the classes apart with this classifier."""
        if self.features and classifier == "text":
            raise ConfigError(
                f"guide {self.name!r} gives features, and has no class texts; give classifier=linear, seeds or both"
            )
        if self.outputs is not None and self.outputs != len(classes):
            raise ConfigError(
                f"guide {self.name!r} has a head of {self.outputs} classes, and there are {len(classes)}; train it on"
                " these, or use its features (timm:NAME?checkpoint=FILE&features=true)"
            )


# --- by name ------------------------------------------------------------------------------------------------------


def find_guide(name: str) -> GuideInfo:
    """Find a guide by its name; of the Hub's, no more than the configuration is fetched.

    Raises:
        ConfigError: If there is no such guide, or the Hub does not give it.
        PriorError: If its files cannot be read.
    """
    if name.startswith(OWN):
        raise ConfigError(f"guide {name!r} is an object in Python, which only its own process has")
    scheme, colon, rest = name.partition(":")
    path = Path(name)
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme](name, rest)
    if path.suffix == ".safetensors":
        return _checkpoint(name, path, *_timm_config(path.parent / _NETWORK))
    if path.is_dir():
        return _in_folder(name, path)
    if name in CLIPS:
        return _of_clip(name, CLIPS[name].weights.resolved())
    from gif_datasets.guidance.zeroshot import hub_repository

    return _on_hub(name, hub_repository(name))


def _in_folder(name: str, folder: Path) -> GuideInfo:
    if (folder / _CLIP).is_file():
        from gif_datasets.guidance.zeroshot import checked_text_config

        checked_text_config(folder)
        files = [path.name for path in folder.iterdir() if path.suffix in _READ]
        return GuideInfo(folder.name, digest(["guide", digest_folder(folder, files)]), partial(_load_clip, folder))
    if (folder / _NETWORK).is_file():
        return _checkpoint(name, folder / "model.safetensors", *_timm_config(folder / _NETWORK))
    raise ConfigError(f"guide {name!r} has neither {_CLIP} (a CLIP) nor timm's {_NETWORK} (a network)")


def _of_hub(name: str, rest: str) -> GuideInfo:
    repository, _, revision = rest.partition("@")
    return _on_hub(name, repository, revision or "main")


def guides_here() -> list[GuideInfo]:
    """Guides of :data:`KNOWN`, and CLIPs of published priors, whose files are all in the Hub's cache."""
    found = [_of_clip(name, clip.weights) for name, clip in CLIPS.items() if clip.weights.pinned]
    for name in KNOWN:
        repository = _repository_of(name)
        folder = hub.find_model(repository, "main", (_CLIP, _NETWORK))
        if folder is not None and any((folder / file).is_file() for file in (_CLIP, _NETWORK)):
            found.append(_in_snapshot(name, repository, folder))
    return [info for info in found if info.weights is not None and info.weights.here]


def _repository_of(name: str) -> str:
    """The repository of a guide by one of the names of :data:`KNOWN`."""
    scheme, _, rest = name.partition(":")
    if scheme == "timm":
        import timm

        return str(timm.get_pretrained_cfg(rest).hf_hub_id)
    from gif_datasets.guidance.zeroshot import hub_repository

    return rest or hub_repository(name)


def _on_hub(name: str, repository: str, revision: str = "main") -> GuideInfo:
    """A guide on the Hub, at the commit that the revision stands for now."""
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"guide {name!r}: a repository on the Hub is named OWNER/NAME, got {repository!r}")
    small = (_CLIP, _NETWORK)
    known = hub.find_model(repository, revision, small) if Weights(repository, revision, small).pinned else None
    return _in_snapshot(name, repository, known or hub.fetch_model(repository, revision, small))


def _in_snapshot(name: str, repository: str, folder: Path) -> GuideInfo:
    """A guide on the Hub, at the commit whose configuration is in a folder of the cache."""
    weights = Weights(repository, folder.name, ())
    if (folder / _CLIP).is_file():
        return _of_clip(name, dataclasses.replace(weights, files=_clip_files(folder / _CLIP)))
    if not (folder / _NETWORK).is_file():
        raise ConfigError(f"guide {name!r} has neither {_CLIP} (a CLIP) nor timm's {_NETWORK} (a network)")
    architecture, about = _timm_config(folder / _NETWORK)
    weights = dataclasses.replace(weights, files=(_NETWORK, "model.safetensors"))
    content = digest(["guide network", architecture, about, "features", weights.repository, weights.revision])
    load = partial(_load_features, weights, architecture, about)
    return GuideInfo(name, content, load, weights=weights, features=True)


def _clip_files(config: Path) -> tuple[str, ...]:
    """What a CLIP is loaded from: the tokenizer and the text tower too, where they are not open_clip's own."""
    try:
        text = dict(read_json(config.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PriorError(f"no usable model_cfg in {config}: {error!r}") from error
    towers = {"hf_tokenizer_name": "tokenizer*", "hf_model_name": _NETWORK}
    return (_CLIP, "open_clip_model.safetensors", *(file for key, file in towers.items() if text.get(key)))


def _of_clip(name: str, weights: Weights) -> GuideInfo:
    content = digest(["guide", weights.repository, weights.revision])
    return GuideInfo(name, content, partial(_fetch_clip, weights), weights=weights)


def _of_timm(name: str, rest: str) -> GuideInfo:
    import timm

    architecture, _, query = rest.partition("?")
    settings = {key: value for key, _, value in (part.partition("=") for part in query.split("&") if part)}
    if not timm.is_model(architecture):
        raise ConfigError(f"timm has no architecture {architecture!r}{did_you_mean(architecture, timm.list_models())}")
    if unknown := sorted(settings.keys() - {"checkpoint", "features"}):
        raise ConfigError(f"guide {name!r}: unknown {unknown[0]!r}; known: checkpoint=FILE, features=true")
    if settings.get("features", "true") != "true":
        raise ConfigError(f"guide {name!r}: features can only be true; without it the head is used")
    if "checkpoint" in settings:
        return _checkpoint(name, Path(settings["checkpoint"]), architecture, {}, "features" in settings)
    repository = getattr(timm.get_pretrained_cfg(architecture), "hf_hub_id", None)
    if not repository:
        raise ConfigError(f"timm has no weights of {architecture!r}; give your own: {name}?checkpoint=FILE.safetensors")
    return _on_hub(name, repository)


_SCHEMES: dict[str, Callable[[str, str], GuideInfo]] = {"timm": _of_timm, "hf-hub": _of_hub}


def _checkpoint(
    name: str, path: Path, architecture: str, about: Mapping[str, Any], features: bool = False
) -> GuideInfo:
    """A network of the user's own."""
    import timm

    head = getattr(timm.get_pretrained_cfg(architecture), "classifier", None) or about.get("classifier") or "fc"
    key = f"{head if isinstance(head, str) else head[0]}.weight"
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"guide {name!r}: only safetensors are loaded, got {path.name}; save it with safetensors.torch.save_file"
        )
    try:
        with safe_open(path, "pt") as tensors:
            outputs = tensors.get_slice(key).get_shape()[0] if key in tensors.keys() else None  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read the checkpoint {path} of guide {name!r}: {one_line(error)}") from error
    if outputs is None and not features:
        raise ConfigError(f"the checkpoint of guide {name!r} has no head ({key}); use its features (&features=true)")
    used = None if features or outputs is None else int(outputs)
    content = digest(
        ["guide network", architecture, dict(about), "features" if features else "head", digest_file(path)]
    )
    load = partial(_load_network, path, architecture, dict(about), used)
    return GuideInfo(_without_folder(name, path), content, load, used, features=features)


def _without_folder(name: str, path: Path) -> str:
    """The name of a guide as others may see it."""
    return Path(name).name if "?" not in name else name.replace(str(path), path.name)


def _timm_config(path: Path) -> tuple[str, dict[str, Any]]:
    """The architecture that timm's ``config.json`` names, and what images it was trained on."""
    import timm

    try:
        config = read_json(path.read_text(encoding="utf-8"))
        architecture, about = config["architecture"], dict(config.get("pretrained_cfg") or {})
        sizes = dict(config.get("model_args") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not name a network of timm ({one_line(error)}); give timm:NAME?checkpoint=FILE.safetensors"
        ) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ConfigError(f"{path}: timm has no architecture {architecture!r}")
    kept = ("mean", "std", "input_size", "interpolation", "crop_pct", "classifier")
    return architecture, {name: about[name] for name in kept if name in about} | (
        {"img_size": sizes["img_size"]} if "img_size" in sizes else {}
    )


def _load_clip(folder: Path, device: torch.device) -> Guide:
    from gif_datasets.guidance.zeroshot import Clip
    from gif_datasets.priors.guide_models import ClipGuide

    return ClipGuide(Clip(folder, device))


def _fetch_clip(weights: Weights, device: torch.device) -> Guide:
    return _load_clip(weights.bring(), device)


def _load_features(weights: Weights, architecture: str, about: Mapping[str, Any], device: torch.device) -> Guide:
    return _load_network(weights.bring() / "model.safetensors", architecture, about, None, device)


def _load_network(
    path: Path, architecture: str, about: Mapping[str, Any], outputs: int | None, device: torch.device
) -> Guide:
    from gif_datasets.priors.guide_models import load_network

    return load_network(path, architecture, about, outputs, device)


# --- an object ----------------------------------------------------------------------------------------------------


def own_guide(module: object) -> GuideInfo:
    """What is known of a network of the caller's own.

    It is called with images ``(B, 3, S, S)`` in [0, 1] and returns the logits of the classes, ``(B, C)``. ``S`` is its
    attribute ``image_size``, or 224. Its key is its attribute ``key``, or follows from its weights and its text.

    Raises:
        ConfigError: If it is no module, or has neither weights nor a key.
    """
    import torch
    from torch import nn

    kind = type(module).__qualname__
    if not isinstance(module, nn.Module):
        raise ConfigError(f"a guide is a name or a torch.nn.Module, got {kind}")
    from gif_datasets.priors.guide_models import digest_tensors, of_module

    key, tensors = getattr(module, "key", None), module.state_dict()
    if not isinstance(key, str) and not tensors:
        raise ConfigError(
            f"guide {kind} has no weights, so it needs a 'key', a text that changes whenever its results do"
        )
    still = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    side = int(getattr(module, "image_size", OWN_SIDE))
    width = of_module(still, side, torch.device("cpu")).width
    content = key if isinstance(key, str) else digest_tensors(tensors)
    return GuideInfo(
        OWN + kind, digest(["own guide", kind, str(module), side, content]), partial(of_module, still, side), width
    )


def apart(options: Mapping[str, Any]) -> tuple[dict[str, Any], GuideInfo | None]:
    """Options in which a guide that is an object has become its name, and what is known of it."""
    guide = options.get("guide")
    if guide is None or isinstance(guide, (str, Path)):
        return {**options, **({"guide": str(guide)} if guide is not None else {})}, None
    known = own_guide(guide)
    return {**options, "guide": known.name}, known
