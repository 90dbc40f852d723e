"""One variant's weights, scores and answers, and whether they are comparable with the baseline's.

Scores measured in different ways are not compared: the message names the first difference.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from components.evidence import answers as items
from components.evidence.answers import Answers
from components.run.artifacts import RowsOrigin, Scores, TaskScore, Weights, is_flow_task


@dataclass(frozen=True)
class Candidate:
    """One variant's weights, scores and answers; the scores hold tasks, or a failure."""

    weights: Weights
    scores: Scores
    answers: Mapping[str, Answers] = field(default_factory=dict)
    """Per task; empty where per-item results do not exist."""
    again: Mapping[str, Answers] = field(default_factory=dict)
    """Per task, the answers of a second pass; empty if there was none."""

    @property
    def name(self) -> str:
        return self.weights.variant

    @property
    def averaged(self) -> dict[str, float]:
        """Each task's score, for the tasks that enter the average."""
        return {task_score.task: task_score.score for task_score in self.scores.tasks if task_score.is_averaged}

    @property
    def chosen(self) -> frozenset[str]:
        """The tasks whose items tinyBenchmarks chose: a variant that was answered on them can only be rejected."""
        return frozenset(task_score.task for task_score in self.scores.tasks if task_score.chosen)

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
    """The Candidate; its scores carry a failure if they are missing or invalid."""
    if scores is None:
        reason = weights.failure or f"No scores of {weights.variant} reached the gate."
        return Candidate(weights, Scores(variant=weights.variant, suite=suite, stage="", failure=reason))
    reason = scores.failure or _scores_fault(scores, suite) or weights.failure or _answers_fault(scores, answers)
    if reason:
        return Candidate(weights, scores.model_copy(update={"tasks": (), "failure": reason}))
    return Candidate(weights, scores, answers or {}, again or {})


def without_flows(row: Candidate) -> Candidate:
    """The candidate without the tasks of flows."""
    tasks = tuple(score for score in row.scores.tasks if not is_flow_task(score.task))
    answers, again = (
        {name: answered for name, answered in by_task.items() if not is_flow_task(name)}
        for by_task in (row.answers, row.again)
    )
    return replace(row, scores=row.scores.model_copy(update={"tasks": tasks}), answers=answers, again=again)


def first_difference(baseline: Candidate, variant: Candidate) -> str:
    """The first difference between the two evaluations; empty if their scores are comparable."""
    if baseline.weights.baseline_digest != variant.weights.baseline_digest:
        return "its weights come from another model than the baseline's"
    variant_scores, baseline_scores = variant.scores, baseline.scores
    stopped = variant_scores.look < variant_scores.looks
    if variant_scores.stage != baseline_scores.stage and not stopped:
        return f"it was scored in stage {variant_scores.stage}, the baseline in stage {baseline_scores.stage}"
    for task in baseline_scores.by_task():
        if task not in variant_scores.by_task():
            return f"it has no score for {task}, the baseline has one"
    for task in variant_scores.by_task():
        if task not in baseline_scores.by_task():
            return f"it has a score for {task}, the baseline has none"
    origins = {origin.task: origin for origin in variant_scores.row_origins}
    expected_origins = {origin.task: origin for origin in baseline_scores.row_origins}
    for task in variant_scores.by_task():
        if (origin := origins.get(task)) != (expected_origin := expected_origins.get(task)):
            return f"its items of {task} came from {_rows(origin)}, the baseline's from {_rows(expected_origin)}"
    expected = {task_score.task: task_score for task_score in baseline_scores.tasks}
    for task_score in variant_scores.tasks:
        difference = _task_difference(expected[task_score.task], task_score, partly=stopped and bool(variant.answers))
        if not difference and task_score.task in variant.answers and task_score.task in baseline.answers:
            pair = baseline.answers[task_score.task], variant.answers[task_score.task]
            difference = items.first_difference(*pair, partly=stopped)
        if difference:
            return difference
    return ""


def _rows(origin: RowsOrigin | None) -> str:
    return origin.rows if origin else "an unknown source"


def _task_difference(baseline: TaskScore, variant: TaskScore, *, partly: bool) -> str:
    for quantity, baseline_value, variant_value in (
        ("metric", baseline.metric, variant.metric),
        ("task version", baseline.version, variant.version),
        ("number of shots", baseline.shots, variant.shots),
        ("number of items", baseline.items, baseline.items if partly else variant.items),
    ):
        if variant_value != baseline_value:
            return f"on {variant.task} its {quantity} is {variant_value}, the baseline's is {baseline_value}"
    if variant.settings != baseline.settings:
        ours, theirs = variant.settings.describe(), baseline.settings.describe()
        return f"on {variant.task} its prompt settings are {ours}, the baseline's are {theirs}"
    return ""


def _scores_fault(scores: Scores, suite: str) -> str:
    """Why these scores are invalid, in a sentence; empty if they are valid."""
    if scores.suite != suite:
        return f"{scores.variant} was scored on the suite {scores.suite}, the gate decides on the suite {suite}."
    if not scores.tasks:
        return f"{scores.variant} was evaluated on no task."
    task, count = Counter(score.task for score in scores.tasks).most_common(1)[0]
    if count > 1:
        return f"{scores.variant} has {count} scores for {task}, expected one."
    for score in scores.tasks:
        if not math.isfinite(score.score) or score.score < 0 or (score.is_share and score.score > 1):
            return f"{scores.variant} scored {score.score} on {score.task}: that is not a valid score."
        if not math.isfinite(score.stderr) or score.stderr < 0 or not 0 <= score.chance <= 1:
            return (
                f"{scores.variant} has a standard error of {score.stderr} and a chance level of {score.chance} on"
                f" {score.task}: they are not valid numbers."
            )
        if score.items < 1:
            return f"{scores.variant} has a score for {score.task} over {score.items} items: nothing was measured."
    return ""


def _answers_fault(scores: Scores, answers: Mapping[str, Answers] | None) -> str:
    """Why the answers do not belong to the scores, in a sentence; empty if they do, or if there are no answers."""
    if answers is None:
        return ""
    if unscored := [task for task in answers if task not in scores.by_task()]:
        return f"{scores.variant} has answers for {', '.join(unscored)}, but no score."
    for score in scores.tasks:
        if score.task not in answers:
            return f"{scores.variant} has a score for {score.task}, but no answers."
        if reason := items.fault(answers[score.task]):
            return f"{scores.variant} cannot be judged: {reason}."
        answered = answers[score.task]
        if answered.units is None and not math.isclose(float(answered.scores.mean()), score.score, abs_tol=1e-9):
            return (
                f"{scores.variant} scored {score.score:.6f} on {score.task}, its answers {answered.scores.mean():.6f}:"
                " the two come from different evaluations."
            )
    return ""
