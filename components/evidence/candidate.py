"""What the gate holds of one variant, and whether its scores may be set beside the baseline's at all.

Two numbers that were not measured the same way are not compared: the first difference is said instead.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from components.evidence import answers as items
from components.evidence.answers import Answers
from components.run.artifacts import Scores, TaskScore, Weights

HARNESS = "lm-eval's samples"
"""Where the rows came from that another program asked; they tell less of how."""


@dataclass(frozen=True)
class Candidate:
    """One variant's weights, scores and answers; the scores hold tasks, or a failure."""

    weights: Weights
    scores: Scores
    answers: Mapping[str, Answers] = field(default_factory=dict)
    """Per task; empty where per-item results do not exist."""
    again: Mapping[str, Answers] = field(default_factory=dict)
    """Those of a second pass, where there was one."""

    @property
    def name(self) -> str:
        return self.weights.variant

    @property
    def averaged(self) -> dict[str, float]:
        """Each task's score, of those that an average is taken of."""
        return {each.task: each.score for each in self.scores.tasks if each.is_share}

    @property
    def failure(self) -> str:
        """Why this variant cannot be judged, the earliest reason first; empty when it can."""
        return self.weights.failure or self.scores.failure


def candidate(
    weights: Weights,
    scores: Scores | None,
    suite: str,
    answers: Mapping[str, Answers] | None = None,
    again: Mapping[str, Answers] | None = None,
) -> Candidate:
    """All of it as one, with a failure in place of scores that are missing or are no scores."""
    if scores is None:
        reason = weights.failure or f"No scores of {weights.variant} reached the gate."
        return Candidate(weights, Scores(variant=weights.variant, suite=suite, stage="", failure=reason))
    reason = scores.failure or _fault(scores, suite) or weights.failure or _unlike(scores, answers)
    if reason:
        return Candidate(weights, scores.model_copy(update={"tasks": (), "failure": reason}))
    return Candidate(weights, scores, answers or {}, again or {})


def first_difference(baseline: Candidate, variant: Candidate) -> str:
    """The first thing that was not the same for both, in words; empty when their scores may be compared."""
    if baseline.weights.baseline_digest != variant.weights.baseline_digest:
        return "its weights come from another model than the baseline's"
    ours, theirs = variant.scores, baseline.scores
    stopped = ours.look < ours.looks
    if ours.stage != theirs.stage and not stopped:
        return f"it was scored in stage {ours.stage}, the baseline in stage {theirs.stage}"
    if ours.rows_source != theirs.rows_source:
        return f"its items came from {ours.rows_source!r}, the baseline's from {theirs.rows_source!r}"
    for task in theirs.by_task():
        if task not in ours.by_task():
            return f"it has no score for {task}, the baseline has one"
    for task in ours.by_task():
        if task not in theirs.by_task():
            return f"it has a score for {task}, the baseline has none"
    expected = {each.task: each for each in theirs.tasks}
    for each in ours.tasks:
        found = _task_difference(expected[each.task], each, partly=stopped and bool(variant.answers))
        if not found and each.task in variant.answers and each.task in baseline.answers:
            pair = baseline.answers[each.task], variant.answers[each.task]
            found = items.first_difference(*pair, partly=stopped)
        if found:
            return found
    return ""


def _task_difference(baseline: TaskScore, variant: TaskScore, *, partly: bool) -> str:
    for what, theirs, ours in (
        ("metric", baseline.metric, variant.metric),
        ("task version", baseline.version, variant.version),
        ("number of shots", baseline.shots, variant.shots),
        ("generation setting", baseline.settings or "none", variant.settings or "none"),
        ("number of items", baseline.items, baseline.items if partly else variant.items),
    ):
        if ours != theirs:
            return f"on {variant.task} its {what} is {ours}, the baseline's is {theirs}"
    return ""


def _fault(scores: Scores, suite: str) -> str:
    """Why these are no scores that a drop can be measured on, in a sentence; empty when they are."""
    if scores.suite != suite:
        return f"{scores.variant} was scored on the suite {scores.suite}, the gate decides on the suite {suite}."
    if not scores.tasks:
        return f"{scores.variant} was evaluated on no task."
    task, times = Counter(each.task for each in scores.tasks).most_common(1)[0]
    if times > 1:
        return f"{scores.variant} has {times} scores for {task}, expected one."
    for each in scores.tasks:
        if not math.isfinite(each.score) or each.score < 0:
            return f"{scores.variant} scored {each.score} on {each.task}: that is not a valid score."
        if each.items < 1:
            return f"{scores.variant} has a score for {each.task} over {each.items} items: nothing was measured."
    return ""


def _unlike(scores: Scores, found: Mapping[str, Answers] | None) -> str:
    """Why the answers are not those that were scored, in a sentence; empty when they are, or None are to be had."""
    if found is None:
        return ""
    if unscored := [task for task in found if task not in scores.by_task()]:
        return f"{scores.variant} has answers for {', '.join(unscored)}, but no score."
    for each in scores.tasks:
        if each.task not in found:
            return f"{scores.variant} has a score for {each.task}, but no answers."
        if reason := items.fault(found[each.task]):
            return f"{scores.variant} cannot be judged: {reason}."
        answered = found[each.task]
        if answered.units is None and not math.isclose(float(answered.scores.mean()), each.score, abs_tol=1e-9):
            return (
                f"{scores.variant} scored {each.score:.6f} on {each.task}, its answers {answered.scores.mean():.6f}:"
                " the two come from different evaluations."
            )
    return ""
