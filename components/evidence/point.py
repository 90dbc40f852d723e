"""The point form of the gate: compare the measured drops with the bands and the limits.

It has no confidence bounds. Every metric is read as "higher is better".
"""

from collections.abc import Collection
from dataclasses import dataclass

from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.change import Change
from quantgate.components.evidence.next_steps import next_step
from quantgate.components.policies.policy import UseCase, side
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.verdicts import Verdict


def judge(use_case: UseCase, baseline: Candidate, variant: Candidate) -> Verdict:
    """The verdict on a variant whose scores may be compared with the baseline's.

    `reject` when a limit of the use case is exceeded or the average lies in that band; otherwise `not_comparable` when
    a drop that the policy limits does not exist because the baseline scores 0; otherwise the average's band.
    """
    before, after = baseline.averaged, variant.averaged
    tasks = {
        task: Change(task, before[task], after[task], use_case.relative)
        for task in before
        if before[task] > 0 or not use_case.relative
    }
    average = None
    if tasks:
        kind = use_case.average
        average = Change(kind.subject, kind.of(before), kind.of(after), use_case.relative)
    ruling = _ruling(use_case, before, tasks, average)
    measured = ruling.verdict != "not_comparable"
    return Verdict(
        variant=variant.name,
        verdict=ruling.verdict,
        sentence="; ".join([ruling.reason, *_reservations(baseline.scores)]) + ".",
        next_step=ruling.next_step or next_step(ruling.verdict, variant.name),
        size_bytes=variant.weights.size_bytes,
        scores=variant.scores.by_task(),
        drops={task: change.drop for task, change in tasks.items()} if measured else {},
        average_drop=average.drop if average and measured else None,
    )


@dataclass(frozen=True)
class _Ruling:
    verdict: str
    reason: str
    next_step: str = ""
    """Empty for the verdict's usual next step."""


def _ruling(use_case: UseCase, before: Collection[str], tasks: dict[str, Change], average: Change | None) -> _Ruling:
    """The verdict that follows from the drops. A relative drop is absent where the baseline scores 0."""
    if average is None:
        return _unmeasurable(f"Not comparable for {use_case.name}: the baseline scores 0 on every task")
    limits = [(tasks[task], limit) for task, limit in use_case.max_drop.items() if task in tasks]
    if use_case.max_average_drop is not None:
        limits.append((average, use_case.max_average_drop))
    over = [(change, limit) for change, limit in limits if side(change.drop, limit) > 0]
    if over:
        return _Ruling("reject", _over_its_limits(use_case, average, over))
    band = use_case.band_of(average.drop)
    unmeasured = [task for task in use_case.max_drop if task in before and task not in tasks]
    if unmeasured and band.verdict != "reject":
        limited = f"{', '.join(unmeasured)}, which {use_case.name} limits"
        return _unmeasurable(f"Not comparable for {use_case.name}: the baseline scores 0 on {limited}")
    by_band = (
        f"{band.opening} for {use_case.name}: {average.describe(*use_case.edges)}, in the band {band.range_description}"
    )
    within = [
        f"{'the limit on the average' if change == average else f'{change.describe(limit)}, the limit'}"
        f" is {use_case.describe_limit(limit)}"
        for change, limit in limits
    ]
    return _Ruling(band.verdict, "; ".join([by_band, *within]))


def _unmeasurable(reason: str) -> _Ruling:
    step = "Choose a suite on which the baseline scores above 0, or another use case, and run again."
    return _Ruling("not_comparable", f"{reason}, so no relative drop exists there", step)


def _over_its_limits(use_case: UseCase, average: Change, over: list[tuple[Change, float]]) -> str:
    band = use_case.band_of(average.drop)
    exceeded = ", and ".join(
        f"{change.describe(limit)}, the limit is {use_case.describe_limit(limit)}" for change, limit in over
    )
    average_is_over = average in [change for change, _ in over]
    band_subject = "the average's band" if average_is_over else f"the average {average.describe_drop(*use_case.edges)}"
    outcome = "would mean reject too" if band.verdict == "reject" else f"alone would mean {band.verdict_label}"
    return f"Rejected for {use_case.name}: {exceeded}; {band_subject} {outcome}"


def _reservations(baseline: Scores) -> list[str]:
    """The caveats of a verdict: tasks on which the baseline does no better than guessing."""
    near_chance = ", ".join(
        f"{task_score.task} ({task_score.score:.3f}, chance {task_score.chance:.3f})"
        for task_score in baseline.tasks
        if task_score.score <= task_score.chance
    )
    return [f"the baseline is not above chance on {near_chance}, where no drop can be detected"] if near_chance else []
