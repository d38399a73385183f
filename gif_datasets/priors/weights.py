"""Files on the Hub that priors are loaded from: repository, revision, patterns, and whether they are cached."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from gif_datasets.errors import ConfigError
from gif_datasets.io import hub

HALF = "fp16"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHER = ("*.bin", "*.ckpt", "*.msgpack", "*.onnx*", "*.non_ema.*", "*openvino*")
"""Never fetched: other formats, and weights that diffusers does not use."""
_SMALL = ("model_index.json", "config.json", "open_clip_config.json")


@dataclass(frozen=True)
class Weights:
    """Files of one repository.

    Attributes:
        repository: ``owner/name`` on the Hub.
        revision: A commit; a branch or a pull request where no commit is known.
        files: Patterns of paths; each must match a file.
        folder: The part of the repository that is loaded.
        variant: ``"fp16"`` if the half-precision files are used.
    """

    repository: str
    revision: str
    files: tuple[str, ...]
    folder: str = ""
    variant: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def left_out(self) -> tuple[str, ...]:
        """Patterns of paths that are not fetched."""
        return _OTHER if self.variant else (*_OTHER, f"*.{HALF}.*")

    @property
    def here(self) -> bool:
        """Whether all files are in the Hub's cache."""
        return self._cached() is not None

    def resolved(self) -> Weights:
        """The same weights at a commit, resolved by the Hub or, offline, by its cache."""
        if self.pinned:
            return self
        commit = hub.fetch_model(self.repository, self.revision, _SMALL).name
        return dataclasses.replace(self, revision=commit)

    def reach(self) -> None:
        """Fetch a small file if any is missing.

        Raises:
            ConfigError: If access is denied.
        """
        if not self.here:
            hub.fetch_model(self.repository, self.revision, _SMALL)

    def bring(self) -> Path:
        """The folder or file to load; missing files are fetched.

        Raises:
            ConfigError: If access is denied, or the repository has no safetensors files.
        """
        snapshot = self._cached() or hub.fetch_model(self.repository, self.revision, self.files, self.left_out)
        if missing := self.missing(snapshot):
            raise ConfigError(
                f"{self.repository} at {self.revision} has no {missing[0]}, in the cache or on the Hub, and only"
                f" safetensors are loaded; if a pull request there has it, take it as NAME@refs/pr/N, else"
                f" fetch all files: hf download {self.repository} --revision {self.revision}"
            )
        return snapshot / self.folder

    def _cached(self) -> Path | None:
        """The snapshot in the Hub's cache, if it is complete."""
        snapshot = hub.find_model(self.repository, self.revision, self.files, self.left_out)
        return None if snapshot is None or self.missing(snapshot) else snapshot

    def missing(self, snapshot: Path) -> list[str]:
        """Patterns that no file of a snapshot matches."""
        there = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
        kept = [path for path in there if not any(fnmatch(path, pattern) for pattern in self.left_out)]
        return [pattern for pattern in self.files if not any(fnmatch(path, pattern) for path in kept)]


@dataclass(frozen=True)
class ClipWeights:
    """A CLIP, by its names in open_clip.

    Attributes:
        model: open_clip's name of the architecture.
        pretrained: open_clip's name of the checkpoint.
        width: Length of an embedding.
        weights: Its files in open_clip's format.
        gigabytes: Size of the download.
    """

    model: str
    pretrained: str
    width: int
    weights: Weights
    gigabytes: float


def _open_clip(repository: str, revision: str, *more: str) -> Weights:
    return Weights(repository, revision, ("open_clip_config.json", "open_clip_model.safetensors", *more))


CLIPS = {
    f"{clip.model}/{clip.pretrained}": clip
    for clip in (
        ClipWeights(
            "ViT-B-32",
            "openai",
            512,
            _open_clip("timm/vit_base_patch32_clip_224.openai", "a6f597a30f7b82c51704746581f9a4e41421e878"),
            0.6,
        ),
        ClipWeights(
            "ViT-L-14",
            "openai",
            768,
            _open_clip("timm/vit_large_patch14_clip_224.openai", "18d0535469bb561bf468d76c1d73aa35156c922b"),
            1.7,
        ),
        ClipWeights(
            "ViT-H-14",
            "laion2b_s32b_b79k",
            1024,
            _open_clip("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "1c2b8495b28150b8a4922ee1c8edee224c284c0c"),
            3.9,
        ),
        ClipWeights(
            "ViT-bigG-14",
            "laion2b_s39b_b160k",
            1280,
            _open_clip("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "743c27bd53dfe508a0ade0f50698f99b39d03bec"),
            10.2,
        ),
        ClipWeights(
            "ViT-SO400M-14-SigLIP-384",
            "webli",
            1152,
            _open_clip("timm/ViT-SO400M-14-SigLIP-384", "ac16108d567c4389e6cd2b11c9b8585f7474435b", "tokenizer*"),
            3.5,
        ),
        ClipWeights(
            "ViT-SO400M-16-SigLIP2-512",
            "webli",
            1152,
            _open_clip("timm/ViT-SO400M-16-SigLIP2-512", "main", "tokenizer*"),
            4.5,
        ),
    )
}
"""By open_clip's names of model and checkpoint."""
