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
    made: tuple[tuple[str, str], ...]
    """How it was made: a name and words each."""
    digest: str
    failure: str
    """The reason in full; empty when it did not fail."""


def measured(decision: Decision) -> tuple[Measured, ...]:
    """Each task, once for every way it was asked: a variant asked in another way gets a line of its own."""
    asked: dict[tuple[object, ...], list[tuple[str, TaskScore]]] = {}
    for scores in decision.scores:
        for each in scores.tasks:
            way = (scores.stage, each.task, each.metric, each.items, each.shots, each.chance, each.version)
            asked.setdefault(way, []).append((scores.variant, each))
    baseline = decision.verdicts[0].variant if decision.verdicts else ""
    return tuple(_measured(str(way[0]), found, baseline) for way, found in asked.items())


def stories(decision: Decision) -> tuple[Story, ...]:
    """Each variant in the order of the matrix."""
    weights = {each.variant: each for each in decision.weights}
    scores = {each.variant: each for each in decision.scores}
    told = []
    for row in matrix(decision):
        weight, score = weights.get(row.variant), scores.get(row.variant)
        reasons = dict.fromkeys(each.failure for each in (weight, score) if each and each.failure)
        failure = "\n\n".join(reasons) or (row.sentence if row.mark.verdict == "failed" else "")
        told.append(Story(row, _made(weight) if weight else (), weight.digest if weight else "", failure))
    return tuple(told)


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
    judged = [each for each in decision.verdicts if each.form == "evidence"]
    point = [each for each in decision.verdicts if each.form == "point" and each.average_drop is not None]
    sure = max((each.confidence or 0.0 for each in judged), default=0.0)
    least = min((each.confidence or 0.0 for each in judged), default=0.0)
    spread = f"{100 * least:.4g} %" + (f" to {100 * sure:.4g} %" if sure > least else "")
    promise = (
        f"Each upper bound holds with {spread} confidence: the variants of a run share the error that the policy allows"
        " (Holm's method), and so do the interim looks at a variant that may be stopped early."
    )
    return Certainty(
        by_evidence=not point,
        promise=promise,
        saved=taken(decision)
        + tuple(
            f"{each.variant} stopped early after {each.items:,} of {each.planned_items:,} questions: more answers could"
            " not have changed its verdict."
            for each in judged
            if each.items < each.planned_items
        ),
        notes=tuple(
            note for scores in decision.scores for task in scores.tasks for note in notes(scores.variant, task)
        ),
        twice=any(task.noise_floor is not None for each in judged for task in each.tasks),
    )


def taken(decision: Decision) -> tuple[str, ...]:
    """What an earlier run had done already."""
    return tuple(
        f"{each.variant} was not evaluated again: its scores come from {each.scored_in}."
        for each in decision.scores
        if each.scored_in
    )


def notes(variant: str, score: TaskScore) -> Iterator[str]:
    """What a reader of one score should know beside it."""
    if score.cut:
        yield f"The token limit cut off {score.cut:,} of {variant}'s {score.items:,} answers on {score.task}."
    if score.estimates:
        told = ", ".join(f"{name} {value:.4f}" for name, value in score.estimates.items())
        yield f"The IRT models of tinyBenchmarks estimate {variant}'s score on all items of {score.task}: {told}."


def sources(decision: Decision) -> tuple[str, ...]:
    """Where the benchmark rows came from, each place once."""
    told = (source for each in decision.scores for source in each.rows_source.split("; ") if source)
    return tuple(dict.fromkeys(told))


def command(decision: Decision) -> str:
    """The command line that asks the same question again; a policy's own text stands beside it."""
    names, plan = [verdict.variant for verdict in decision.verdicts], decision.plan
    words = ["quantgate", "run", "--model", decision.model.source, "--suite", plan.suite if plan else decision.suite]
    words += ["--policy", "policy.yaml"] if decision.policy_text else ["--use-case", decision.use_case]
    words += ["--variants", ",".join(names[1:] or names)]
    return shlex.join([*words, *(options(plan) if plan else ())])


def options(plan: EvaluationPlan) -> Iterator[str]:
    """The further options of a run that has this plan, those that are not as they are by themselves."""
    for each in plan.custom:
        yield from ("--custom", each)
    if plan.limit:
        yield from ("--limit", str(plan.limit))
    if plan.data not in ("", "embedded"):
        yield from ("--data", plan.data)
    if plan.irt_parameters:
        yield from ("--irt-parameters", plan.irt_parameters)
    usual = EvaluationPlan.model_fields
    for name in ("calibration_samples", "calibration_tokens"):
        if getattr(plan, name) != usual[name].default:
            yield from (f"--{name.replace('_', '-')}", str(getattr(plan, name)))
    for wanted, option in (
        (plan.chat_template, "--chat-template"),
        (not plan.stop_early, "--no-stop-early"),
        (plan.noise_floor, "--noise-floor"),
        (not plan.ledger, "--no-ledger"),
    ):
        if wanted:
            yield option


def noisiest(decision: Decision) -> Measured | None:
    """The task whose standard error is the largest share of the baseline's score."""
    known = [each for each in measured(decision) if each.stderr_as_drop is not None]
    return max(known, key=lambda each: each.stderr_as_drop or 0.0, default=None)


def _measured(stage: str, found: list[tuple[str, TaskScore]], baseline: str) -> Measured:
    largest, share = max(task.stderr for _, task in found), found[0][1].is_share
    reference = next((task for variant, task in found if variant == baseline), None)
    return Measured(
        stage=stage,
        task=found[0][1],
        variants=tuple(variant for variant, _ in found),
        largest_stderr=largest if share else None,
        stderr_as_drop=largest / reference.score if reference and reference.score > 0 and share else None,
        above_chance=reference.score > reference.chance if reference and share else None,
    )


def _made(weights: Weights) -> tuple[tuple[str, str], ...]:
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
