"""`gif-datasets preview`: a grid of some seeds, each beside its first copies, before the long run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gif_datasets.expansion import trial
from gif_datasets.expansion.guide_choice import Reading, read_seeds
from gif_datasets.expansion.imagination.imagine import Imaginer
from gif_datasets.expansion.open import Opened
from gif_datasets.io import decode
from gif_datasets.io.cache.store import open_cache
from gif_datasets.shards.image_grid import MOST_COPIES, Row, choose_seeds, save_preview
from gif_datasets.sources.base import seed_image
from gif_datasets.sources.joined import refuse_output
from gif_datasets.types import Seed, silently

if TYPE_CHECKING:
    from gif_datasets.priors.guides import GuideInfo


@dataclass(frozen=True)
class PreviewSummary:
    """What a preview shows.

    Attributes:
        picture: The image file that was written.
        rows: Seeds in it.
        copies: Copies of each; the most, where they differ.
        generated: Copies that were imagined for it; 0 when all were in the cache.
        recognised: Share of the seeds whose class the classifier names; None where nothing is made by what it says.
        own_class: Share of the copies that look like their class to the classifier; None where no prior made them.
        own_class_real: The same for real images.
        guides: How well each guide that was to be compared names the seeds; the prior's own first.
    """

    picture: str
    rows: int
    copies: int
    generated: int
    recognised: float | None
    own_class: float | None
    own_class_real: float | None
    guides: tuple[Reading, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return {**asdict(self), "guides": [reading.to_json() for reading in self.guides]}


def preview_expansion(
    opened: Opened,
    out: Path,
    rows: int,
    cache_dir: str | Path | None = None,
    say: Callable[[str], None] = silently,
    guides: Sequence[GuideInfo] = (),
) -> PreviewSummary:
    """Imagine the first copies of some seeds, and draw them as a grid. A later expansion finds them in the cache.

    Args:
        opened: The expansion.
        out: Image file to write.
        rows: Seeds to show, spread over the classes.
        cache_dir: Where imagined samples are kept.
        say: Gets one line if the classifier does not recognise the seeds' classes, and one if copies do not look like
            theirs.
        guides: Guides to compare by how well they read the seeds.
    """
    refuse_output(opened.source, out, is_image=True)
    recipe, seeds = opened.plan.recipe, opened.plan.seeds
    imaginer = Imaginer(recipe, opened.source, open_cache(cache_dir), seeds)
    recognition = imaginer.recognition()
    if recognition and (warning := recognition.warning(recipe.config, recipe.prior.families)):
        say(warning)
    expanded = opened.plan.expanded
    shown = choose_seeds(expanded, rows)
    found = trial.look(imaginer, expanded)
    if warning := trial.warning(found, recipe):
        say(warning)
    drawn = _rows(imaginer, shown)
    save_preview(drawn, f"imagined copies ({recipe.config.method})", out)
    copies = max(len(row.copies) for row in drawn)
    accuracy = round(recognition.accuracy, 4) if recognition else None
    return PreviewSummary(
        picture=str(out),
        rows=len(shown),
        copies=copies,
        generated=imaginer.generated,
        recognised=accuracy,
        own_class=round(found.share, 4) if found else None,
        own_class_real=round(found.real_share, 4) if found else None,
        guides=read_seeds(guides, recipe, opened.source, seeds) if guides else (),
    )


def _rows(imaginer: Imaginer, seeds: Sequence[Seed]) -> list[Row]:
    """Each seed beside its first copies."""
    recipe, source = imaginer.recipe, imaginer.source
    copies = [range(1, min(recipe.of(seed).config.copies, MOST_COPIES) + 1) for seed in seeds]
    wanted = [(seed, copy) for seed, own in zip(seeds, copies, strict=True) for copy in own]
    images = (decode.picture(content, "a copy") for content in imaginer.pictures(wanted))
    return [
        Row(recipe.classes[seed.label], seed_image(source, seed), tuple(next(images) for _ in own))
        for seed, own in zip(seeds, copies, strict=True)
    ]
