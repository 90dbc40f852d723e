"""What a variant loses on flows: before and after by task, and the cases that broke."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.errors import PrerequisiteError
from components.evidence import flips
from components.evidence.answers import Answers, first_difference
from components.evidence.no_loss import no_loss_test


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


def losses(baseline: Mapping[str, Answers], variant: Mapping[str, Answers], alpha: float) -> list[FlowLoss]:
    """Each task's row; raises PrerequisiteError for answers that cannot be paired."""
    rows = []
    for task, after in variant.items():
        if task not in baseline:
            raise PrerequisiteError(f"The baseline has no answers for {task}: it was asked other flows.")
        if difference := first_difference(baseline[task], after):
            raise PrerequisiteError(f"The two results are not comparable: {difference}.")
        before = baseline[task]
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
            )
        )
    return rows
