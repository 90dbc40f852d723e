"""Whether the baseline scores what others have published for it.

A drop is relative to the baseline. A baseline that is itself measured wrongly, for example without its BOS token, makes
every comparison with it worthless, however well the two models agree. So a policy may name published scores, and a
baseline that is further away than their tolerance ends the run before a variant is asked.

The published score is that of N questions, of which the run asks n. The confidence interval is Wilson's (1927), in
which a share's variance p (1 - p) also bounds that of scores between 0 and 1. The n questions are drawn from the N
without replacement: n (N - 1) / (N - n) independent ones would tell as much, and n = N leaves no sampling error. Where
N is unknown it counts as infinite. A baseline is too far away only if its whole interval is.
"""

import math
from collections.abc import Iterator

from quantgate.components.policies.policy import UseCase, side
from quantgate.components.policies.published_scores import TOLERANCE, PublishedScore, known_baseline
from quantgate.components.run.artifacts import Scores, TaskScore
from quantgate.components.run.verdicts import PublishedComparison

Z = 1.959963984540054
"""The two-sided 95 % quantile of the normal distribution."""
AGREES, APART, UNCLEAR = "agrees", "apart", "unclear"
NEXT_STEP = (
    "Compare chat template, BOS token, shots, metric and filter with the published evaluation. Correct the run, or the"
    " policy's published score, and run again: the baseline's answers are kept in the ledger."
)


def interval(share: float, items: int, population: int | None) -> tuple[float, float]:
    """The confidence interval of a mean of `items` scores, drawn from a population of that size or an infinite one."""
    if population is not None and items >= population:
        return share, share
    count = items if population is None else items * (population - 1) / (population - items)
    shrink = 1 + Z * Z / count
    center = (share + Z * Z / (2 * count)) / shrink
    half = Z / shrink * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return max(center - half, 0.0), min(center + half, 1.0)


def comparison(task: TaskScore, entry: PublishedScore, *, required: bool) -> PublishedComparison:
    """The baseline's score on the task beside the published one."""
    lower, upper = interval(task.score, task.items, entry.items)
    tolerance = entry.tolerance / 100
    nearest = max(entry.share - upper, lower - entry.share)
    outcome = AGREES
    if side(abs(task.score - entry.share), tolerance) > 0:
        outcome = APART if side(nearest, tolerance) > 0 else UNCLEAR
    return PublishedComparison(
        task=task.task,
        metric=task.metric,
        shots=task.shots,
        items=task.items,
        published=entry.share,
        measured=task.score,
        lower=lower,
        upper=upper,
        tolerance=tolerance,
        source=entry.source,
        required=required,
        outcome=outcome,
    )


def comparisons(use_case: UseCase, baseline: Scores, source: str = "") -> tuple[PublishedComparison, ...]:
    """The baseline beside the policy's published scores, and beside the shipped row of the model at `source`.

    A perplexity is not compared, nor are scores of other prompts, shots or metrics with a shipped row.
    """
    tasks = [task for task in baseline.tasks if task.is_share and not task.chosen]
    required = [(task, use_case.published[task.task], True) for task in tasks if task.task in use_case.published]
    known = [(task, entry, False) for task, entry in _shipped(tasks, source) if task.task not in use_case.published]
    return tuple(comparison(task, entry, required=by_policy) for task, entry, by_policy in (*required, *known))


def _shipped(tasks: list[TaskScore], source: str) -> Iterator[tuple[TaskScore, PublishedScore]]:
    row = known_baseline(source)
    if row is None:
        return
    for task in tasks:
        known, settings = row.scores.get(task.task), task.settings
        plain = not settings.chat_template and not settings.chat
        if known and plain and (known.metric, known.shots, known.filter) == (task.metric, task.shots, settings.filter):
            yield task, PublishedScore(score=known.score, tolerance=TOLERANCE, source=row.source, items=known.items)


def not_as_published(use_case: UseCase | None, baseline: Scores) -> str:
    """Why no variant is asked: the first task on which the baseline is too far from the policy's published score.

    Empty if there is none.
    """
    if use_case is None or baseline.failure:
        return ""
    found = next((row for row in comparisons(use_case, baseline) if row.required and row.outcome == APART), None)
    return f"Not judged: {describe(found)}. {causes(found)}" if found else ""


def describe(row: PublishedComparison) -> str:
    """How far the baseline is from the published score, in a sentence without its full stop."""
    where = f" ({row.source})" if row.source else ""
    exact = row.lower == row.upper
    sampled = "" if exact else f" (95 % interval {_percent(row.lower)} to {_percent(row.upper)})"
    text = (
        f"the baseline scores {_percent(row.measured)} on {row.task}{sampled}, {_points(abs(row.distance))}"
        f" {'below' if row.distance < 0 else 'above'} the published {_percent(row.published)}{where}"
    )
    if row.outcome == AGREES:
        return text
    few = f", and {row.items:,} questions are too few to tell" if row.outcome == UNCLEAR else ""
    return f"{text}; {_points(row.tolerance)} are allowed{few}"


def causes(row: PublishedComparison) -> str:
    """What usually makes a baseline differ from a published score."""
    return (
        "Usual causes: the chat template is applied or missing, the BOS token is missing or doubled, another number of"
        f" shots (here {row.shots}), another metric or filter (here {row.metric})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.3g} points"
