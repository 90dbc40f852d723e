"""Decide on every variant of a run: the decision matrix, its baseline first."""

from collections.abc import Mapping, Sequence

from quantgate.components.evidence import judging
from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.candidate import Candidate, candidate, first_difference
from quantgate.components.evidence.case import unmeasurable
from quantgate.components.evidence.next_steps import next_step
from quantgate.components.evidence.point import judge
from quantgate.components.evidence.published_check import APART, NEXT_STEP, comparisons, describe, not_as_published
from quantgate.components.evidence.reference import not_judged
from quantgate.components.models.variants import BASELINES
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.artifacts import Model, Scores, Weights
from quantgate.components.run.attempts import Attempt
from quantgate.components.run.verdicts import Decision, Verdict

ByTask = Mapping[str, Answers]
SKIPPED = "skipped"
"""The verdict on a variant that a search did not try."""


def decide(
    model: Model,
    suite: str,
    use_case: UseCase,
    weights: list[Weights],
    scores: list[Scores],
    answers: Mapping[str, ByTask] | None = None,
    again: ByTask | None = None,
    attempt: Attempt | None = None,
) -> Decision:
    """The decision matrix: the baseline's row first, then the variants in the order of `weights`.

    `scores` holds the scores of the last stage that each variant reached. A variant without scores, or with a failure
    in its weights or scores, gets a failed row. `answers` holds the per-item answers by variant. A variant is judged by
    evidence if its answers and the baseline's are there, otherwise by its measured drops. `again` holds the answers of
    the baseline's second pass; `attempt` is None if attempts are not counted. In the Decision every variant has its
    Scores, with the failure if there is one.

    Raises ValueError for inconsistent lists: no baseline, a
    duplicate variant, scores of a variant without weights.
    """
    names = [row.variant for row in weights]
    scores_by_variant = {row.variant: row for row in scores}
    if sum(name in BASELINES for name in names) != 1 or len(set(names)) < len(names):
        raise ValueError(f"The gate needs the weights of one baseline and of each variant once, it got: {names}")
    if len(scores_by_variant) < len(scores) or not scores_by_variant.keys() <= set(names):
        got = [row.variant for row in scores]
        raise ValueError(f"The gate needs one Scores a variant of {names}, it got: {got}")
    answers_by_variant = answers or {}
    candidates = [
        candidate(
            row,
            scores_by_variant.get(row.variant),
            suite,
            answers_by_variant.get(row.variant),
            again if row.variant in BASELINES else None,
        )
        for row in sorted(weights, key=lambda row: row.variant not in BASELINES)
    ]
    return decide_candidates(model, suite, use_case, candidates, attempt)


def decide_candidates(
    model: Model, suite: str, use_case: UseCase, candidates: Sequence[Candidate], attempt: Attempt | None = None
) -> Decision:
    """The decision matrix for these candidates; the first candidate is the baseline."""
    verdicts, paired = verdicts_of(use_case, candidates, attempt, model.source)
    return Decision(
        model=model,
        suite=suite,
        limits=use_case,
        published=comparisons(use_case, candidates[0].scores, model.source),
        verdicts=verdicts,
        weights=tuple(row.weights for row in candidates),
        scores=tuple(row.scores for row in candidates),
        comparisons=judging.compare(use_case, paired),
        attempt=attempt if paired else None,
    )


def verdicts_of(
    use_case: UseCase, candidates: Sequence[Candidate], attempt: Attempt | None, source: str = ""
) -> tuple[tuple[Verdict, ...], list[Candidate]]:
    """The verdicts on these candidates, the first of which is the baseline; and those with paired answers.

    `source`, where the baseline comes from, changes only the baseline's own verdict. A variant that a search did not
    try keeps its share of the error.
    """
    baseline, *variants = candidates
    verdicts = {variant.name: verdict for variant in variants if (verdict := _unjudged(use_case, baseline, variant))}
    judged = [variant for variant in variants if variant.name not in verdicts]
    paired = [variant for variant in judged if variant.answers and baseline.answers]
    untried = sum(variant.weights.skipped for variant in variants)
    for row in judging.judge_all(use_case, baseline, paired, attempt, untried):
        verdicts[row.variant] = row
    for variant in judged:
        if variant not in paired:
            verdicts[variant.name] = judge(use_case, baseline, variant)
    return (_reference(use_case, baseline, source), *(verdicts[variant.name] for variant in variants)), paired


def _reference(use_case: UseCase, baseline: Candidate, source: str) -> Verdict:
    if baseline.failure:
        return _without_drops(baseline, "failed", baseline.failure)
    sentence = "The reference that every drop is relative to"
    if measured := baseline.averaged:
        sentence += f": {use_case.average.of(measured):.3f} on average over {', '.join(measured)}"
    apart = [describe(row) for row in comparisons(use_case, baseline.scores, source) if row.outcome == APART]
    warning = f" Not as published: {'; '.join(apart)}." if apart else ""
    return _without_drops(baseline, "reference", f"{sentence}.{warning}")


def _unjudged(use_case: UseCase, baseline: Candidate, variant: Candidate) -> Verdict | None:
    """The verdict on a variant that cannot be judged by its numbers; None if it can."""
    apart = not_as_published(use_case, baseline.scores)
    if apart and variant.failure in ("", apart):
        return _without_drops(variant, "not_comparable", apart, NEXT_STEP)
    if variant.failure:
        return _without_drops(variant, SKIPPED if variant.weights.skipped else "failed", variant.failure)
    if baseline.failure:
        return _without_drops(variant, "failed", not_judged(baseline.failure))
    if difference := first_difference(baseline, variant):
        return _without_drops(variant, "not_comparable", f"Not comparable with the baseline: {difference}.")
    if lacking := [task for task in use_case.required() if task not in variant.scores.by_task()]:
        limited = f"the use case limits {', '.join(lacking)}, which the suite does not score"
        sentence = f"Not comparable for {use_case.name}: {limited}."
        step = "Choose a suite that scores it, or the use case general-chat, and decide again."
        return _without_drops(variant, "not_comparable", sentence, step)
    if unknown := use_case.weights_without_task(variant.scores.by_task()):
        weighted = f"its average weights {', '.join(unknown)}, which the suite does not score"
        step = "Correct average.weights in the policy, or choose a suite that scores it, and decide again."
        return _without_drops(variant, "not_comparable", f"Not comparable for {use_case.name}: {weighted}.", step)
    if reason := unmeasurable(use_case, baseline.answers, variant.answers):
        sentence = f"Not comparable for {use_case.name}: {reason}."
        return _without_drops(
            variant,
            "not_comparable",
            sentence,
            "Choose a policy without this limit, or a suite that provides what the limit needs.",
        )
    return None


def _without_drops(row: Candidate, verdict: str, sentence: str, step: str = "") -> Verdict:
    return Verdict(
        variant=row.name,
        verdict=verdict,
        sentence=sentence,
        next_step=step or next_step(verdict, row.name),
        size_bytes=row.weights.size_bytes,
        scores=row.scores.by_task(),
    )
