"""Decide on every variant of a run: the decision matrix, its baseline first."""

from collections.abc import Mapping, Sequence

from components.evidence import judging
from components.evidence.answers import Answers
from components.evidence.candidate import Candidate, candidate, first_difference
from components.evidence.case import unmeasurable
from components.evidence.next_steps import next_step
from components.gate.point import judge, mean
from components.models.variants import BASELINE, variant_named
from components.policies.policy import UseCase
from components.run.artifacts import Decision, Model, Scores, Verdict, Weights

ByTask = Mapping[str, Answers]


def decide(
    model: Model,
    suite: str,
    use_case: UseCase,
    weights: list[Weights],
    scores: list[Scores],
    answers: Mapping[str, ByTask] | None = None,
    again: ByTask | None = None,
) -> Decision:
    """The decision matrix: the baseline's row first, then the variants in the order of `weights`.

    `scores` holds the last stage that each variant reached; a variant without any is a failed row, like one whose
    weights or scores carry a failure. `answers` holds the per-item answers by variant: with them and the baseline's a
    variant is judged by evidence, without them by its measured drops. `again` are those of a second pass of the
    baseline. In the Decision every variant has its Scores, with the failure if there is one.

    Raises PrerequisiteError for a variant that does not exist, and ValueError for lists that no run makes: no baseline,
    a variant twice, scores of a variant without weights.
    """
    names = [variant_named(each.variant).name for each in weights]
    scored = {each.variant: each for each in scores}
    if BASELINE not in names or len(set(names)) < len(names):
        raise ValueError(f"The gate needs the weights of {BASELINE} and of each variant once, it got: {names}")
    if len(scored) < len(scores) or not scored.keys() <= set(names):
        raise ValueError(f"The gate needs one Scores a variant of {names}, it got: {[each.variant for each in scores]}")
    by_variant = answers or {}
    candidates = [
        candidate(
            each,
            scored.get(each.variant),
            suite,
            by_variant.get(each.variant),
            again if each.variant == BASELINE else None,
        )
        for each in sorted(weights, key=lambda each: each.variant != BASELINE)
    ]
    return decide_candidates(model, suite, use_case, candidates)


def decide_candidates(model: Model, suite: str, use_case: UseCase, candidates: Sequence[Candidate]) -> Decision:
    """The same of candidates, the baseline the first of them."""
    baseline, *variants = candidates
    verdicts = {each.name: verdict for each in variants if (verdict := _unjudged(use_case, baseline, each))}
    judged = [each for each in variants if each.name not in verdicts]
    paired = [each for each in judged if each.answers and baseline.answers]
    for row in judging.judge_all(use_case, baseline, paired):
        verdicts[row.variant] = row
    for each in judged:
        if each not in paired:
            verdicts[each.name] = judge(use_case, baseline, each)
    return Decision(
        model=model,
        suite=suite,
        limits=use_case,
        verdicts=(_reference(baseline), *(verdicts[each.name] for each in variants)),
        weights=tuple(each.weights for each in candidates),
        scores=tuple(each.scores for each in candidates),
        comparisons=judging.compare(paired),
    )


def _reference(baseline: Candidate) -> Verdict:
    if baseline.failure:
        return _without_drops(baseline, "failed", baseline.failure)
    sentence = "The reference that every drop is relative to"
    if measured := baseline.averaged:
        sentence += f": {mean(measured.values()):.3f} on average over {', '.join(measured)}"
    return _without_drops(baseline, "reference", f"{sentence}.")


def _unjudged(use_case: UseCase, baseline: Candidate, variant: Candidate) -> Verdict | None:
    """The verdict on a variant whose numbers are not looked at; None when they may be."""
    if variant.failure:
        return _without_drops(variant, "failed", variant.failure)
    if baseline.failure:
        return _without_drops(variant, "failed", f"Not judged: the baseline has no scores. {baseline.failure}")
    if difference := first_difference(baseline, variant):
        return _without_drops(variant, "not_comparable", f"Not comparable with the baseline: {difference}.")
    if lacking := [task for task in use_case.required() if task not in variant.scores.by_task()]:
        limited = f"the use case limits {', '.join(lacking)}, which the suite does not score"
        sentence = f"Not comparable for {use_case.name}: {limited}."
        step = "Choose a suite that scores it, or the use case general-chat, and decide again."
        return _without_drops(variant, "not_comparable", sentence, step)
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
