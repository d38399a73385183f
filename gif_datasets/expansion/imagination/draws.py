"""Judge draws by what their own images show, and keep the best one of each sample until a draw passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from gif_datasets.config import ExpansionConfig
from gif_datasets.expansion.imagination.candidates import Candidate
from gif_datasets.expansion.imagination.models import Models
from gif_datasets.expansion.imagination.samples import Verdict
from gif_datasets.io.duplicates import Spectra
from gif_datasets.types import Row, Sample, Seed

if TYPE_CHECKING:
    import torch


@dataclass
class Judge:
    """Says of each candidate whether it passes the check.

    Attributes:
        config: All options.
        seeds: Seeds that candidates may be of; their own images are scored once, at the first check.
        load: Returns the models.
        earlier: With ``check="novel"``: spectra of the finished copies of lower numbers, by seed.
    """

    config: ExpansionConfig
    seeds: Sequence[Seed]
    load: Callable[[], Models]
    earlier: Mapping[str, Sequence[Spectra]] = field(default_factory=dict)

    def __call__(self, rows: Sequence[Row], candidates: Sequence[Candidate]) -> list[Verdict]:
        """One verdict for each candidate."""
        pictures = [candidate.picture for candidate in candidates]
        models = self.load()
        scores = models.scorer(pictures) if models.scorer else None
        if models.novelty is not None:
            near = models.novelty(rows, pictures, self.earlier)
            of_each = [None] * len(rows) if scores is None else scores
            return [Verdict(*row) for row in zip(of_each, *_compared(near), strict=True)]
        if scores is None:
            return [Verdict()] * len(rows)
        if self.config.check == "none":
            return [Verdict(row) for row in scores]
        import torch

        from gif_datasets.guidance.accept import accept, hardest
        from gif_datasets.guidance.criteria import entropy

        labels = torch.tensor([seed.label for seed, _ in rows])
        if self.config.hardest:
            confirming = models.confirm(pictures) if models.confirm else scores
            ranked = hardest(entropy(scores), confirming, labels)
            rows_of = zip(scores, *(part.tolist() for part in ranked), strict=True)
            return [dataclasses.replace(Verdict(*row), settles=False) for row in rows_of]
        seed_scores = torch.stack([self._seed_scores[seed.key] for seed, _ in rows])
        verdicts = accept(self.config.check, scores, seed_scores, labels)
        return [Verdict(*row) for row in zip(scores, *(part.tolist() for part in verdicts), strict=True)]

    @cached_property
    def _seed_scores(self) -> dict[str, torch.Tensor]:
        """Scores of the seeds' own images, by content key."""
        score = self.load().seed_scores
        assert score is not None
        unique = {seed.key: seed for seed in self.seeds}
        return dict(zip(unique, score(list(unique.values())), strict=True))


def _compared(near: Sequence[int | None]) -> tuple[list[bool], list[float]]:
    """Whether each draw is new; where none is, that in more bits from what is there is the better one."""
    return [bits is None for bits in near], [float(bits or 0) for bits in near]


@dataclass
class BestDraws:
    """The best draw of each sample that none has settled so far.

    Attributes:
        failed: Samples to draw again, by cache key.
    """

    failed: dict[str, Row] = field(default_factory=dict)
    _best: dict[str, tuple[float, Future[Sample]]] = field(default_factory=dict)

    def settles(self, key: str, row: Row, verdict: Verdict) -> bool:
        """Whether a draw passes, and so is the sample."""
        settled = verdict.passed and verdict.settles
        if settled:
            self._best.pop(key, None)
        else:
            self.failed[key] = row
        return settled

    def improves(self, key: str, verdict: Verdict) -> bool:
        """Whether a draw that settles nothing is the best so far."""
        return key not in self._best or verdict.rank > self._best[key][0]

    def take(self, key: str, verdict: Verdict, sample: Future[Sample]) -> None:
        """Keep the best draw so far, which is being encoded."""
        self._best[key] = verdict.rank, sample

    def take_failed(self) -> dict[str, Row]:
        """The samples to draw again."""
        failed, self.failed = self.failed, {}
        return failed

    def samples(self, attempts: int) -> Iterator[tuple[str, Sample]]:
        """The best draw of each sample that none of its ``attempts`` draws has settled."""
        for key, (_, encoding) in self._best.items():
            sample = encoding.result()
            yield key, Sample(sample.image, dataclasses.replace(sample.provenance, attempts=attempts))
