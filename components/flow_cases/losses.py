"""What a variant loses on flows: before and after by task, and the cases that broke."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow
import pyarrow.compute as pc

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence import flips
from quantgate.components.evidence.answers import Answers, first_difference
from quantgate.components.evidence.no_loss import no_loss_test


@dataclass(frozen=True)
class FlowLoss:
    """One task of flows, paired."""

    task: str
    items: int
    before: float
    after: float
    lost: int
    gained: int
    at_most: float | None
    """The upper bound of the share of the cases, which the baseline passes, that the variant loses."""
    unscored: int = 0
    """Items that count for neither model: a judge gave no verdict on one of the answers."""


def losses(
    baseline: Mapping[str, Answers],
    variant: Mapping[str, Answers],
    alpha: float,
    unscored: Mapping[str, Sequence[str]] | None = None,
) -> list[FlowLoss]:
    """Each task's row; raises PrerequisiteError for answers that cannot be paired.

    `unscored` are the ids of items, by task, without a score of either model: they count for neither.
    """
    rows = []
    for task, answered in variant.items():
        missing = (unscored or {}).get(task, ())
        if task not in baseline:
            if missing:
                continue
            raise PrerequisiteError(f"The baseline has no answers for {task}: it was asked other flows.")
        after, before = without(answered, missing), without(baseline[task], missing)
        if not after.items:
            continue
        if difference := first_difference(before, after):
            raise PrerequisiteError(f"The two results are not comparable: {difference}.")
        flipped = flips.flips(before.scores, after.scores)
        rows.append(
            FlowLoss(
                task=task,
                items=after.items,
                before=float(before.scores.mean()),
                after=float(after.scores.mean()),
                lost=flipped.lost,
                gained=flipped.gained,
                at_most=no_loss_test(before, after).upper(alpha),
                unscored=len(missing),
            )
        )
    return rows


def without(answered: Answers, missing: Sequence[str]) -> Answers:
    """The answers without the items of these ids."""
    if not missing:
        return answered
    ids = answered.table["id"]
    return replace(answered, table=answered.table.filter(pc.invert(pc.is_in(ids, pyarrow.array(missing, ids.type)))))
