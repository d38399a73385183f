"""Runs of an order, shared by ranks and workers: each sample once, and exactly the rest after any interruption."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from gif_datasets.data.spans import Readers, Spans, cut, length

readers = st.builds(Readers, st.integers(1, 4), st.integers(0, 3), st.integers(1, 7), st.booleans())


def positions(spans: Spans) -> list[int]:
    return [position for first, last in spans for position in range(first, last)]


def batches(of: Readers, spans: Spans, rank: int) -> list[list[int]]:
    """What a loader yields: its workers' batches, one of each in turn."""
    rows = [positions(cut(spans, *part)) for part in of.parts(length(spans), rank)]
    turns = [[row[i : i + of.batch] for i in range(0, len(row), of.batch)] for row in rows]
    found = [batch for number in range(max(map(len, turns))) for own in turns for batch in own[number : number + 1]]
    assert [len(batch) for own in turns for batch in own[:-1]] == [of.batch] * sum(len(own[:-1]) for own in turns)
    assert all(len(first) >= len(then) for first, then in itertools.pairwise(turns))  # so turns are in order
    return found


@settings(max_examples=150, deadline=None)
@given(count=st.integers(0, 60), legs=st.lists(st.tuples(readers, st.integers(0, 8)), max_size=4), last=readers)
def test_each_position_once_over_any_interruptions(count: int, legs: list[tuple[Readers, int]], last: Readers) -> None:
    """Others go on with what is left; a leg with several ranks repeats less than one sample a rank, and loses none."""
    left: Spans = ((0, count),) if count else ()
    seen: list[int] = []
    allowed = 0
    for of, steps in [*legs, (Readers(last.ranks, last.workers, last.batch), count + 1)]:
        taken = [batches(of, left, rank)[:steps] for rank in range(of.ranks)]
        assert len({tuple(map(len, own)) for own in taken}) == 1  # ranks stay in step
        seen += [position for own in taken for batch in own for position in batch]
        rest = of.left(left, steps)
        assert positions(rest) == sorted(set(positions(rest))) == sorted(set(positions(left)) & set(positions(rest)))
        assert set(positions(left)) - set(positions(rest)) <= set(seen)
        left, allowed = rest, allowed + of.ranks - 1
    assert set(seen) == set(range(count))
    assert len(seen) - count <= allowed
    assert left == ()


@given(count=st.integers(0, 60), of=readers)
def test_what_a_last_batch_leaves_out(count: int, of: Readers) -> None:
    """With drop_last each rank leaves out less than a batch, and that is what is left."""
    whole: Spans = ((0, count),) if count else ()
    rest = of.left(whole, count + 1)
    assert length(rest) <= of.ranks * (of.batch - 1) * of.drop_last
