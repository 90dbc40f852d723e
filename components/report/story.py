"""What stands beside the matrix: what each verdict rests on, how each variant was made, how to run it again."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from components.report.formats import duration_text
from components.report.matrix import Row, matrix
from components.run.artifacts import Decision, TaskScore, Weights
from components.run.plan import EvaluationPlan


@dataclass(frozen=True)
class Measured:
    """One task as it was put to the variants named."""

    stage: str
    task: TaskScore
    """As the first of the variants scored it; what the variants share, their scores aside."""
    variants: tuple[str, ...]
    largest_stderr: float | None
    """None of a perplexity, as are the next two."""
    stderr_as_drop: float | None
    """The largest standard error as a share of the baseline's score: the scale of a drop that may be noise."""
    above_chance: bool | None
    """Whether the baseline does better than guessing; None where it was not put to the baseline."""


@dataclass(frozen=True)
class Story:
    """One variant beside its numbers."""

    row: Row
    build: tuple[tuple[str, str], ...]
    """How it was made: a name and words each."""
    digest: str
    failure: str
    """The reason in full; empty when it did not fail."""


def measured(decision: Decision) -> tuple[Measured, ...]:
    """Each task, once for every way it was asked: a variant asked in another way gets a line of its own."""
    by_settings: dict[tuple[object, ...], list[tuple[str, TaskScore]]] = {}
    for scores in decision.scores:
        for task_score in scores.tasks:
            settings = (
                scores.stage,
                task_score.task,
                task_score.metric,
                task_score.items,
                task_score.shots,
                task_score.chance,
                task_score.version,
            )
            by_settings.setdefault(settings, []).append((scores.variant, task_score))
    baseline = decision.verdicts[0].variant if decision.verdicts else ""
    return tuple(_measured(str(settings[0]), task_scores, baseline) for settings, task_scores in by_settings.items())


def stories(decision: Decision) -> tuple[Story, ...]:
    """Each variant in the order of the matrix."""
    weights = {each.variant: each for each in decision.weights}
    scores = {each.variant: each for each in decision.scores}
    result = []
    for row in matrix(decision):
        weight, score = weights.get(row.variant), scores.get(row.variant)
        reasons = dict.fromkeys(each.failure for each in (weight, score) if each and each.failure)
        failure = "\n\n".join(reasons) or (row.sentence if row.mark.verdict == "failed" else "")
        result.append(Story(row, _build_facts(weight) if weight else (), weight.digest if weight else "", failure))
    return tuple(result)


@dataclass(frozen=True)
class Certainty:
    """How sure the verdicts are, in words for the page."""

    by_evidence: bool
    """False where measured drops were taken at their word."""
    promise: str
    saved: tuple[str, ...]
    """What was not asked, a sentence a variant."""
    notes: tuple[str, ...]
    """What else a reader of the scores should know."""
    twice: bool
    """Whether the baseline was asked twice, so that the noise floor is known."""


def certainty(decision: Decision) -> Certainty:
    """What the bounds of the run promise, and what they cost."""
    judged = [verdict for verdict in decision.verdicts if verdict.form == "evidence"]
    point = [verdict for verdict in decision.verdicts if verdict.form == "point" and verdict.average_drop is not None]
    highest = max((verdict.confidence or 0.0 for verdict in judged), default=0.0)
    lowest = min((verdict.confidence or 0.0 for verdict in judged), default=0.0)
    spread = f"{100 * lowest:.4g} %" + (f" to {100 * highest:.4g} %" if highest > lowest else "")
    promise = (
        f"Each upper bound holds with {spread} confidence: the variants of a run share the error that the policy allows"
        " (Holm's method), and so do the interim looks at a variant that may be stopped early."
    )
    return Certainty(
        by_evidence=not point,
        promise=promise,
        saved=scores_of_earlier_runs(decision)
        + tuple(
            f"{verdict.variant} stopped early after {verdict.items:,} of {verdict.planned_items:,} questions: more"
            " answers could not have changed its verdict."
            for verdict in judged
            if verdict.items < verdict.planned_items
        ),
        notes=tuple(
            note for scores in decision.scores for task in scores.tasks for note in notes(scores.variant, task)
        ),
        twice=any(task.noise_floor is not None for verdict in judged for task in verdict.tasks),
    )


def scores_of_earlier_runs(decision: Decision) -> tuple[str, ...]:
    """What an earlier run had done already."""
    return tuple(
        f"{scores.variant} was not evaluated again: its scores come from {scores.scored_in}."
        for scores in decision.scores
        if scores.scored_in
    )


def notes(variant: str, score: TaskScore) -> Iterator[str]:
    """What a reader of one score should know beside it."""
    if score.cut:
        yield f"The token limit cut off {score.cut:,} of {variant}'s {score.items:,} answers on {score.task}."
    if score.estimates:
        estimates = ", ".join(f"{name} {value:.4f}" for name, value in score.estimates.items())
        yield f"The IRT models of tinyBenchmarks estimate {variant}'s score on all items of {score.task}: {estimates}."


def sources(decision: Decision) -> tuple[str, ...]:
    """Where the benchmark rows came from, each place once."""
    names: list[str] = []
    for scores in decision.scores:
        names += [origin.describe() for origin in scores.row_origins] or [scores.rows_source]
    return tuple(dict.fromkeys(filter(None, names)))


def command(decision: Decision) -> str:
    """The command line that asks the same question again; a policy's own text stands beside it."""
    names, plan = [verdict.variant for verdict in decision.verdicts], decision.plan
    words = ["quantgate", "run", "--model", decision.model.source, "--suite", plan.suite if plan else decision.suite]
    words += ["--policy", "policy.yaml"] if decision.policy_text else ["--use-case", decision.use_case]
    words += ["--variants", ",".join(names[1:] or names)]
    return shlex.join([*words, *(options(plan) if plan else ())])


def options(plan: EvaluationPlan) -> Iterator[str]:
    """The further options of a run that has this plan, those that are not as they are by themselves."""
    for custom_task in plan.custom:
        yield from ("--custom", custom_task)
    if plan.limit:
        yield from ("--limit", str(plan.limit))
    if plan.data not in ("", "embedded"):
        yield from ("--data", plan.data)
    if plan.irt_parameters:
        yield from ("--irt-parameters", plan.irt_parameters)
    fields = EvaluationPlan.model_fields
    for name in ("calibration_samples", "calibration_tokens"):
        if getattr(plan, name) != fields[name].default:
            yield from (f"--{name.replace('_', '-')}", str(getattr(plan, name)))
    for is_set, option in (
        (plan.chat_template, "--chat-template"),
        (not plan.stop_early, "--no-stop-early"),
        (plan.noise_floor, "--noise-floor"),
        (not plan.ledger, "--no-ledger"),
    ):
        if is_set:
            yield option


def noisiest(decision: Decision) -> Measured | None:
    """The task whose standard error is the largest share of the baseline's score."""
    candidates = [task for task in measured(decision) if task.stderr_as_drop is not None]
    return max(candidates, key=lambda task: task.stderr_as_drop or 0.0, default=None)


def _measured(stage: str, task_scores: list[tuple[str, TaskScore]], baseline: str) -> Measured:
    largest, share = max(task.stderr for _, task in task_scores), task_scores[0][1].is_share
    reference = next((task for variant, task in task_scores if variant == baseline), None)
    return Measured(
        stage=stage,
        task=task_scores[0][1],
        variants=tuple(variant for variant, _ in task_scores),
        largest_stderr=largest if share else None,
        stderr_as_drop=largest / reference.score if reference and reference.score > 0 and share else None,
        above_chance=reference.score > reference.chance if reference and share else None,
    )


def _build_facts(weights: Weights) -> tuple[tuple[str, str], ...]:
    if not weights.scheme:
        return ()
    facts = [
        ("Scheme", weights.scheme),
        ("Algorithm", weights.algorithm or "none: the weights are unchanged"),
        ("Layout", weights.layout),
        ("Calibration", weights.calibration),
    ]
    if weights.reused:
        facts.append(("Reused", "yes: an earlier run with the same inputs stored these weights"))
    if weights.duration_s:
        facts.append(("Took", duration_text(weights.duration_s)))
    return tuple((name, words) for name, words in facts if words)
