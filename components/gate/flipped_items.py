"""The questions that a variant answers otherwise than the baseline, for people to read."""

import math
from collections.abc import Iterable, Sequence

from components.run.artifacts import Flip
from components.run.records import Record

EXAMPLES = 3
"""Shown of each variant in the report; the whole list goes to MLflow."""


def flips(baseline: Sequence[Record], variant: Sequence[Record]) -> list[Flip]:
    """Every item whose score changed, those lost first and the most telling of them on top.

    An answer tells the more, the more probability its right choice lost (natural log-likelihoods, softmax over the
    choices); where there are no choices the items' order stays.
    """
    before = {(each.task, each.cluster, each.item_id): each for each in baseline}
    found = [
        flip(before[key], each)
        for each in variant
        if (key := (each.task, each.cluster, each.item_id)) in before
        and each.score is not None
        and each.units is None
        and each.score != before[key].score
    ]
    return sorted(found, key=lambda each: (not each.lost, -abs(each.moved), each.task, each.cluster, each.item_id))


def flip(before: Record, after: Record) -> Flip:
    """One of them."""
    return Flip(
        variant=after.variant,
        task=after.task,
        cluster=after.cluster,
        item_id=after.item_id,
        lost=(after.score or 0.0) < (before.score or 0.0),
        question=after.question or before.question,
        right=after.choices[after.target] if 0 <= after.target < len(after.choices) else "",
        before=before.answer,
        after=after.answer,
        moved=share_of_right(after) - share_of_right(before),
    )


def share_of_right(record: Record) -> float:
    """The probability of the right choice among the choices; 0 where there is none."""
    if not 0 <= record.target < len(record.logliks):
        return 0.0
    most = max(record.logliks)
    weights = [math.exp(each - most) for each in record.logliks]
    return weights[record.target] / sum(weights)


def columns(found: Iterable[Flip]) -> dict[str, list[object]]:
    """The flips as a table, a column a field."""
    rows = [each.model_dump(mode="json") for each in found]
    return {name: [row[name] for row in rows] for name in Flip.model_fields}


def examples(found: Sequence[Flip]) -> tuple[Flip, ...]:
    """The most telling of a variant: right before, wrong now."""
    return tuple(each for each in found if each.lost)[:EXAMPLES]
