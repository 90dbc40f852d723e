"""The questions whose answer changed from the baseline to the variant, for people to read."""

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from quantgate.components.run.artifacts import FLOWS, is_flow_task
from quantgate.components.run.records import Record
from quantgate.components.run.verdicts import Flip

BROKEN_FLOWS = 10
"""How many lost cases of flows it shows."""
EXAMPLES = 3
"""How many flips of each variant the report shows; MLflow gets the whole list."""


def flips(baseline: Sequence[Record], variant: Sequence[Record]) -> list[Flip]:
    """Every item whose score changed: lost items first, then by the size of the change.

    The change is the difference in the right choice's probability (softmax over the choices' natural
    log-likelihoods). Items without choices keep their order.
    """
    before = {answer_key(record): record for record in baseline}
    flipped = [
        flip(before[key], record)
        for record in variant
        if (key := answer_key(record)) in before
        and record.score is not None
        and record.units is None
        and record.score != before[key].score
    ]
    return sorted(
        flipped,
        key=lambda flipped_item: (
            not flipped_item.lost,
            -abs(flipped_item.moved),
            flipped_item.task,
            flipped_item.cluster,
            flipped_item.item_id,
            flipped_item.sample,
        ),
    )


def answer_key(record: Record) -> tuple[str, str, int, int]:
    """What the answers of two models to the same item, and the same sample of it, have in common."""
    return record.task, record.cluster, record.item_id, record.sample


def flip(before: Record, after: Record) -> Flip:
    """The Flip of one item."""
    return Flip(
        variant=after.variant,
        task=after.task,
        cluster=after.cluster,
        item_id=after.item_id,
        sample=after.sample,
        lost=(after.score or 0.0) < (before.score or 0.0),
        question=after.question or before.question,
        right=after.choices[after.target] if 0 <= after.target < len(after.choices) else "",
        before=before.answer,
        after=after.answer,
        moved=share_of_right(after) - share_of_right(before),
        reason=after.outcome if is_flow_task(after.task) else "",
    )


def share_of_right(record: Record) -> float:
    """The probability of the right choice among the choices; 0 where there is none."""
    if not 0 <= record.target < len(record.logliks):
        return 0.0
    largest = max(record.logliks)
    weights = [math.exp(loglik - largest) for loglik in record.logliks]
    return weights[record.target] / sum(weights)


def columns(flips: Iterable[Flip]) -> dict[str, list[object]]:
    """The flips as a table, a column a field."""
    rows = [flip.model_dump(mode="json") for flip in flips]
    return {name: [row[name] for row in rows] for name in Flip.model_fields}


def examples(flips: Sequence[Flip]) -> tuple[Flip, ...]:
    """The lost items with the largest change: right before, wrong now; then the lost cases of flows."""
    lost = [flip for flip in flips if flip.lost]
    of_flows = (flip for flip in lost if flip.task == FLOWS)
    return (
        *[flip for flip in lost if not is_flow_task(flip.task)][:EXAMPLES],
        *islice(of_flows, BROKEN_FLOWS),
    )
