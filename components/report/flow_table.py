"""The report's section about flows: each task before and after, what is left out, and the cases that broke."""

from collections.abc import Iterator
from dataclasses import dataclass

from quantgate.components.flow_cases.flow_checks import KINDS_OF_CHECKS
from quantgate.components.run.artifacts import FLOWS, is_flow_task
from quantgate.components.run.verdicts import Decision, Flip

NO_LOSS = (
    "A limit of 0 on flows is about these cases themselves: one lost case is over it. What none of n lost shows about"
    " other such cases, with 95 % confidence: at most 19 % are lost for n = 14, 5 % for n = 59, 1 % for n = 299."
)


@dataclass(frozen=True)
class FlowRow:
    """One variant on one task of flows; None for what was not measured or cannot be computed."""

    variant: str
    what: str
    """`all cases`, `use case tutoring`, `check json_syntax`."""
    items: int
    before: float | None
    after: float
    lost: int | None
    gained: int | None
    drop_upper: float | None
    """The upper bound of the drop."""


def flow_rows(decision: Decision) -> tuple[FlowRow, ...]:
    """A row for each variant except the baseline and each task of flows."""
    return tuple(_rows(decision))


def _rows(decision: Decision) -> Iterator[FlowRow]:
    baseline = decision.verdicts[0].variant if decision.verdicts else ""
    by_variant = {scores.variant: scores for scores in decision.scores}
    before = by_variant[baseline].by_task() if baseline in by_variant else {}
    for verdict in decision.verdicts[1:]:
        evidence = {task.task: task for task in verdict.tasks}
        scored = by_variant.get(verdict.variant)
        for task in (task for task in (scored.tasks if scored else ()) if is_flow_task(task.task)):
            paired = evidence.get(task.task)
            yield FlowRow(
                variant=verdict.variant,
                what=subject_of(task.task),
                items=task.items,
                before=before.get(task.task),
                after=task.score,
                lost=paired.lost if paired else None,
                gained=paired.gained if paired else None,
                drop_upper=paired.drop_upper if paired else None,
            )


def subject_of(task: str) -> str:
    """What a task of flows is about."""
    part = task.removeprefix(f"{FLOWS}:")
    if part == task:
        return "all cases"
    return f"check {part}" if part in KINDS_OF_CHECKS else f"use case {part}"


def flow_notes(decision: Decision) -> tuple[str, ...]:
    """What of the flows is left out and why, and what a limit of 0 shows."""
    plan = decision.plan
    if plan is None or not plan.flows_kept:
        return ()
    left_out = [
        f"{left_out_text(len(ids))}, because {reason}: {', '.join(ids)}."
        for reason in dict.fromkeys(plan.flows_left_out.values())
        if (ids := [name for name, of_flow in plan.flows_left_out.items() if of_flow == reason])
    ]
    limited = any(is_flow_task(task) and limit == 0 for task, limit in decision.limits.max_drop.items())
    return (*left_out, *(f"Left out of {note}." for note in plan.flows_notes), *([NO_LOSS] if limited else []))


def left_out_text(count: int) -> str:
    """`1 flow is left out`, `12 flows are left out`."""
    return "1 flow is left out" if count == 1 else f"{count} flows are left out"


def broken_flows(decision: Decision) -> tuple[Flip, ...]:
    """The cases that passed before and fail now."""
    return tuple(flip for flip in decision.examples if is_flow_task(flip.task))


def other_examples(decision: Decision) -> tuple[Flip, ...]:
    """The questions of benchmarks that changed."""
    return tuple(flip for flip in decision.examples if not is_flow_task(flip.task))
