"""What the gate holds of one variant, and whether its scores may be set beside the baseline's at all.

Two numbers that were not measured the same way are not compared: the first difference is said instead.
"""

import math
from collections import Counter
from dataclasses import dataclass

from components.artifacts import Scores, TaskScore, Weights


@dataclass(frozen=True)
class Candidate:
    """One variant's weights and scores; the scores hold tasks, or a failure."""

    weights: Weights
    scores: Scores

    @property
    def name(self) -> str:
        return self.weights.variant

    @property
    def failure(self) -> str:
        """Why this variant cannot be judged, the earliest reason first; empty when it can."""
        return self.weights.failure or self.scores.failure


def candidate(weights: Weights, scores: Scores | None, suite: str) -> Candidate:
    """The two as one, with a failure in place of scores that are missing or are no scores."""
    if scores is None:
        reason = weights.failure or f"No scores of {weights.variant} reached the gate."
        return Candidate(weights, Scores(variant=weights.variant, suite=suite, stage="", failure=reason))
    reason = scores.failure or _fault(scores, suite) or weights.failure
    return Candidate(weights, scores.model_copy(update={"tasks": (), "failure": reason}) if reason else scores)


def first_difference(baseline: Candidate, variant: Candidate) -> str:
    """The first thing that was not the same for both, in words; empty when their scores may be compared."""
    if baseline.weights.baseline_digest != variant.weights.baseline_digest:
        return "its weights were made from another model than the baseline's"
    ours, theirs = variant.scores, baseline.scores
    if ours.stage != theirs.stage:
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
    return next((found for each in ours.tasks if (found := _task_difference(expected[each.task], each))), "")


def _task_difference(baseline: TaskScore, variant: TaskScore) -> str:
    for what, theirs, ours in (
        ("metric", baseline.metric, variant.metric),
        ("task version", baseline.version, variant.version),
        ("number of shots", baseline.shots, variant.shots),
        ("number of items", baseline.items, variant.items),
    ):
        if ours != theirs:
            return f"on {variant.task} its {what} is {ours}, the baseline's is {theirs}"
    return ""


def _fault(scores: Scores, suite: str) -> str:
    """Why these are no scores that a drop can be measured on, in a sentence; empty when they are."""
    if scores.suite != suite:
        return f"{scores.variant} was scored on the suite {scores.suite}, the gate was asked about {suite}."
    if not scores.tasks:
        return f"{scores.variant} was evaluated on no task."
    task, times = Counter(each.task for each in scores.tasks).most_common(1)[0]
    if times > 1:
        return f"{scores.variant} has {times} scores for {task}: one was expected."
    for each in scores.tasks:
        if not math.isfinite(each.score) or each.score < 0:
            return f"{scores.variant} scored {each.score} on {each.task}: that is no score."
        if each.items < 1:
            return f"{scores.variant} has a score for {each.task} over {each.items} items: nothing was measured."
    return ""
