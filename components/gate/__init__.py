"""The gate: may a variant replace the model that serves today? Pure functions, numbers in and a verdict out.

candidate   what is held of each variant, and whether two may be compared at all
policy      the bands and the use cases' limits
point       the form of the judgement: measured drops, taken at their word
"""

from components.artifacts import Decision, Model, Scores, Verdict, Weights
from components.gate.candidate import Candidate, candidate, first_difference
from components.gate.point import judge, mean
from components.gate.policy import (
    UseCase,
    check_use_case,
    next_step,
    policy_in_words,
    required_tasks,
    use_case_named,
    use_case_names,
)
from components.variants import BASELINE, variant_named

__all__ = ["check_use_case", "decide", "policy_in_words", "required_tasks", "use_case_names"]


def decide(model: Model, suite: str, use_case: str, weights: list[Weights], scores: list[Scores]) -> Decision:
    """The decision matrix: the baseline's row first, then the variants in the order of `weights`.

    `scores` holds the last stage that each variant reached; a variant without any is a failed row, like one whose
    weights or scores carry a failure. In the Decision every variant has its Scores, with the failure if there is one.

    Raises PrerequisiteError for a use case or a variant that does not exist, and ValueError for lists that no run
    makes: no baseline, a variant twice, scores of a variant without weights.
    """
    limits = use_case_named(use_case)
    baseline, *variants = _candidates(suite, weights, scores)
    return Decision(
        model=model,
        suite=suite,
        use_case=use_case,
        policy=policy_in_words(use_case),
        verdicts=(_reference(baseline), *(_verdict(limits, baseline, each) for each in variants)),
        weights=tuple(each.weights for each in (baseline, *variants)),
        scores=tuple(each.scores for each in (baseline, *variants)),
    )


def _candidates(suite: str, weights: list[Weights], scores: list[Scores]) -> list[Candidate]:
    """One candidate for each variant, the baseline first."""
    names = [variant_named(each.variant).name for each in weights]
    scored = {each.variant: each for each in scores}
    if BASELINE not in names or len(set(names)) < len(names):
        raise ValueError(f"The gate needs the weights of {BASELINE} and of each variant once, it got: {names}")
    if len(scored) < len(scores) or not scored.keys() <= set(names):
        raise ValueError(f"The gate needs one Scores a variant of {names}, it got: {[each.variant for each in scores]}")
    baseline_first = sorted(weights, key=lambda each: each.variant != BASELINE)
    return [candidate(each, scored.get(each.variant), suite) for each in baseline_first]


def _reference(baseline: Candidate) -> Verdict:
    if baseline.failure:
        return _without_drops(baseline, "failed", baseline.failure)
    measured = baseline.scores.by_task()
    sentence = f"The reference that every drop is relative to: {mean(measured.values()):.3f} on average"
    return _without_drops(baseline, "reference", f"{sentence} over {', '.join(measured)}.")


def _verdict(use_case: UseCase, baseline: Candidate, variant: Candidate) -> Verdict:
    if variant.failure:
        return _without_drops(variant, "failed", variant.failure)
    if baseline.failure:
        return _without_drops(variant, "failed", f"Not judged: the baseline has no scores. {baseline.failure}")
    if difference := first_difference(baseline, variant):
        return _without_drops(variant, "not_comparable", f"Not comparable with the baseline: {difference}.")
    if lacking := [task for task in use_case.max_drop if task not in variant.scores.by_task()]:
        sentence = f"Not comparable for {use_case.name}: the suite has no {', '.join(lacking)}, which it limits."
        step = "Choose a suite that has it, or the use case general-chat, and decide again."
        return _without_drops(variant, "not_comparable", sentence, step)
    return judge(use_case, baseline, variant)


def _without_drops(row: Candidate, verdict: str, sentence: str, step: str = "") -> Verdict:
    return Verdict(
        variant=row.name,
        verdict=verdict,
        sentence=sentence,
        next_step=step or next_step(verdict, row.name),
        size_bytes=row.weights.size_bytes,
        scores=row.scores.by_task(),
    )
