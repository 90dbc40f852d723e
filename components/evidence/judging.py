"""Verdicts by evidence: every drop has confidence bounds from paired answers, and the bounds decide.

    passed        every upper bound is within its limit (intersection-union test: all must pass, so no correction)
    exceeded      one lower bound is beyond its limit
    inconclusive  neither; with the number of further items that would decide it, at 80 % power

A variant that passes its limits gets the best band whose end the average drop is within, with confidence. The
promise: with the policy's confidence, no variant of the run gets a better verdict than it deserves. So the variants
share the error probability by Holm's method, where a variant that ships leaves its share to the others. A variant that
a search leaves untried keeps its share, see `search`. The bands of a variant are tested in a fixed order and need no
correction. The confidence of a rejection holds for one variant alone.

What the promise rests on:

    proven       how the limits, the variants and the looks are combined; the bound of a drop if answers are only lost
    conjecture   the bound of any other drop, of longer answers and of a divergence (Gaffke's), also of an average of
                 tasks: no enumeration of small cases and no simulation contradicted it
    simulated    the t-test over clusters: wrong if a few clusters are ruined, see `clusters`
    assumed      the t-test over the documents of a perplexity: that their mean is about normal; and what the screen of
                 chosen items may differ from the benchmark, see `looks`
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from quantgate.components.evidence import flips, lengths, margin, sentences
from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.case import Case, case, with_clusters
from quantgate.components.evidence.change import about
from quantgate.components.evidence.drops import DropTest, Task
from quantgate.components.evidence.further_items import finite
from quantgate.components.evidence.limits import Limit
from quantgate.components.evidence.margin import ABSOLUTE
from quantgate.components.evidence.next_steps import next_step
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.artifacts import is_flow_task
from quantgate.components.run.attempts import Attempt
from quantgate.components.run.verdicts import (
    Comparison,
    DropBounds,
    LimitEvidence,
    MarginEvidence,
    TaskEvidence,
    Verdict,
)

LARGEST_LOGARITHM = 700.0
EACH_SIDE = 0.025
"""The error probability on each side of the interval of the distance between answers and margins."""


def settled(evidence: Case, variants: int, *, only_reject: bool = False) -> bool:
    """Whether no further answer can change the verdict, in a run of `variants` variants, before the last look.

    With `only_reject`, after the tiny stage, only a rejection counts.
    """
    if evidence.exceeded():
        return True
    alpha = evidence.use_case.alpha * evidence.share / variants
    band = evidence.band(alpha)
    if only_reject or band is None or evidence.unproven(alpha):
        return False
    better = [edge for edge in evidence.use_case.edges if edge < band.upper and evidence.average.decidable(edge)]
    return not better or evidence.average.p_beyond(better[-1]) <= evidence.rejecting


def judge_all(
    use_case: UseCase,
    baseline: Candidate,
    variants: Sequence[Candidate],
    attempt: Attempt | None = None,
    untried: int = 0,
) -> list[Verdict]:
    """The verdicts on variants that may be compared with the baseline, in their order.

    `attempt` is None if attempts are not counted. `untried` variants share the error too: each has the p-value 1.
    """
    baseline = with_clusters(use_case, baseline)
    cases = [case(use_case, baseline, variant, attempt) for variant in variants]
    divisors = holm_divisors([*(evidence.p_ship for evidence in cases), *[1.0] * untried], use_case.alpha)
    return [
        _judge(evidence, baseline, use_case.alpha * evidence.share / divisor)
        for evidence, divisor in zip(cases, divisors[: len(cases)], strict=True)
    ]


def holm_divisors(p_values: Sequence[float], alpha: float) -> list[int]:
    """The divisor of alpha for each hypothesis (S. Holm, Scandinavian J. of Statistics 6 (1979) 65-70).

    The smallest p-value is compared with alpha / k, the next with alpha / (k - 1), until one is larger. That
    hypothesis and all after it keep this divisor.
    """
    divisors, divisor, failed = [0] * len(p_values), len(p_values), False
    for place in sorted(range(len(p_values)), key=lambda index: p_values[index]):
        divisors[place] = divisor
        failed = failed or p_values[place] > alpha / divisor
        divisor -= not failed
    return divisors


def compare(use_case: UseCase, variants: Sequence[Candidate]) -> tuple[Comparison, ...]:
    """Compare the average scores of every pair of variants on the items that both answered, with Holm's correction.

    A variant that was answered on chosen items only is left out: they show no difference on the whole benchmark.
    """
    comparisons = []
    whole = [with_clusters(use_case, variant) for variant in variants if not variant.chosen]
    for first, second in combinations(whole, 2):
        of_first, of_second = _common(first.answers, second.answers), _common(second.answers, first.answers)
        if not of_first or any(not answers.items for answers in of_first.values()):
            continue
        tasks = [
            replace(
                margin.pairs(answers.scores, of_second[name].scores, answers.clusters),
                weight=use_case.average.weight(name),
            )
            for name, answers in of_first.items()
        ]
        lost = margin.drop(tasks, ABSOLUTE) or 0.0
        p = min(2 * min(margin.p_within(tasks, ABSOLUTE, 0.0), margin.p_beyond(tasks, ABSOLUTE, 0.0)), 1.0)
        names = (first.name, second.name) if lost >= 0 else (second.name, first.name)
        comparisons.append(Comparison(better=names[0], worse=names[1], difference=abs(lost), p=p))
    return tuple(
        comparison.model_copy(update={"p": p})
        for comparison, p in zip(comparisons, holm_adjusted([pair.p for pair in comparisons]), strict=True)
    )


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction, to compare with alpha itself."""
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        so_far = max(so_far, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = so_far
    return adjusted


def _common(variant: Mapping[str, Answers], other: Mapping[str, Answers]) -> dict[str, Answers]:
    return {
        name: answers.only(other[name].table["id"])
        for name, answers in variant.items()
        if name in other and answers.units is None and not is_flow_task(name)
    }


def _judge(evidence: Case, baseline: Candidate, alpha: float) -> Verdict:
    """The verdict; `alpha` is the error probability that a pass may use."""
    variant = evidence.variant.name
    verdict, band = evidence.verdict(alpha), evidence.band(alpha)
    rows = tuple(_row(limit, evidence, alpha) for limit in evidence.shown)
    if verdict == "reject":
        reason = sentences.rejected(evidence, evidence.exceeded())
    elif verdict == "inconclusive" or not band:
        reason = sentences.inconclusive(evidence, evidence.unproven(alpha), alpha)
    else:
        reason = sentences.passed(evidence, band, alpha)
    scores = evidence.variant.scores
    return Verdict(
        variant=variant,
        verdict=verdict,
        sentence="; ".join(
            [
                reason,
                *sentences.ways(evidence, alpha),
                *sentences.reservations(evidence, settled=verdict != "inconclusive"),
            ]
        )
        + ".",
        next_step=_step_after_inconclusive(evidence, rows)
        if verdict == "inconclusive"
        else next_step(verdict, variant),
        size_bytes=evidence.variant.weights.size_bytes,
        scores=scores.by_task(),
        drops={
            name: drop
            for name, task in evidence.tasks.items()
            if (drop := margin.drop([task.pairs], evidence.average.scale)) is not None
        },
        average_drop=evidence.average.estimate,
        form="evidence",
        confidence=1 - alpha,
        limits=rows,
        tasks=tuple(_task_evidence(evidence, baseline, task, alpha) for task in evidence.tasks.values()),
        perplexity_ratios=_perplexity_ratios(evidence.variant.answers, baseline.answers),
        items=sum(answers.items for name, answers in evidence.variant.answers.items() if not is_flow_task(name)),
        planned_items=scores.planned_items or sum(task.items for task in scores.tasks if not is_flow_task(task.task)),
    )


def _step_after_inconclusive(evidence: Case, rows: tuple[LimitEvidence, ...]) -> str:
    """The next step after an inconclusive verdict, with the number of questions that would decide it, if known."""
    if evidence.variant.chosen:
        return "Evaluate the full stage; until then keep serving the current model."
    counts = [row.further_items for row in rows if row.outcome not in ("passed", "exceeded")]
    sentence = next_step("inconclusive", "")
    known = [row for row in counts if row is not None]
    if sentences.only_by_chance(evidence.shown):
        return sentence
    if not known or len(known) < len(counts):
        return sentence.replace("Evaluate more questions, or A/B test the variant", "A/B test the variant")
    return sentence.replace(
        "more questions",
        f"about {about(max(known))} more questions (80 % power)"
        if max(known) > 1
        else "one more question (80 % power)",
    )


def _row(limit: Limit, evidence: Case, alpha: float) -> LimitEvidence:
    test, rejecting = limit.test, evidence.rejecting
    if test.p_beyond(limit.limit) <= rejecting:
        outcome = "exceeded"
    elif test.p_within(limit.limit) <= alpha:
        outcome = "passed"
    elif not test.informative:
        outcome = "uninformative"
    else:
        outcome = "open" if test.decidable(limit.limit) else "undecidable"
    unlogged = _unlogged if limit.kind == "perplexity" else float
    bounds = (test.estimate, test.lower(rejecting), test.upper(alpha))
    estimate, lower, upper = (None if bound is None else unlogged(bound) for bound in bounds)
    by_margins = test.by_margins if isinstance(test, DropTest) else None
    return LimitEvidence(
        what=limit.what,
        kind=limit.kind,
        limit=unlogged(limit.limit) or limit.limit,
        estimate=estimate,
        lower=lower,
        upper=upper,
        outcome=outcome,
        further_items=test.further_items(limit.limit, evidence.alpha_of_next_run(alpha)) if outcome == "open" else None,
        by_answers=_alone(test.by_answers, rejecting, alpha) if isinstance(test, DropTest) and by_margins else None,
        by_margins=_alone(by_margins, rejecting, alpha) if by_margins else None,
    )


def _alone(test: DropTest, rejecting: float, alpha: float) -> DropBounds:
    return DropBounds(estimate=test.estimate, lower=test.lower(rejecting), upper=test.upper(alpha))


def _margin_evidence(task: Task) -> MarginEvidence | None:
    if task.smoothed is None:
        return None
    scored, distance = task.by_margins, task.smoothed.distance
    return MarginEvidence(
        tau=task.smoothed.tau,
        before=scored.before,
        after=scored.after,
        distance=distance.mean,
        distance_lower=finite(distance.lower(EACH_SIDE)),
        distance_upper=finite(distance.upper(EACH_SIDE)),
        contradicted=task.smoothed.contradicted,
    )


def _perplexity_ratios(variant: Mapping[str, Answers], baseline: Mapping[str, Answers]) -> dict[str, float]:
    """The perplexity ratio of each perplexity task; a ratio too large for a float is left out."""
    measured = {
        name: flips.perplexity_ratio(baseline[name].only(answers.table["id"]), answers)
        for name, answers in variant.items()
    }
    ratios = {name: _unlogged(answers.mean) for name, answers in measured.items() if answers}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _unlogged(value: float) -> float | None:
    """The ratio with this logarithm; None if it is too large for a float."""
    return math.exp(value) if value < LARGEST_LOGARITHM else None


def _task_evidence(evidence: Case, baseline: Candidate, task: Task, alpha: float) -> TaskEvidence:
    after = evidence.variant.answers[task.name]
    before = baseline.answers[task.name].only(after.table["id"])
    flipped = flips.flips(before.scores, after.scores)
    low, high = flipped.interval(evidence.use_case.confidence)
    divergence = flips.divergence(before, after)
    drop_test = DropTest((task,), evidence.average.scale)
    growth_test = lengths.growth_test(before, after)
    return TaskEvidence(
        task=task.name,
        items=after.items,
        clusters=len(task.pairs.clusters.items) if task.pairs.clusters else 0,
        informative=task.informative,
        drop_lower=drop_test.lower(evidence.rejecting),
        drop_upper=None
        if drop_test.estimate is None or task.chosen
        else DropTest((replace(task, informative=True),), drop_test.scale).upper(alpha),
        lost=flipped.lost,
        gained=flipped.gained,
        flip_rate=flipped.rate,
        flip_rate_lower=low,
        flip_rate_upper=high,
        mcnemar_p=flipped.p,
        kl=divergence.mean if divergence else None,
        kl_stderr=divergence.error if divergence and math.isfinite(divergence.error) else None,
        noise_floor=finite(drop_test.noise.floor) if task.again else None,
        noise_floor_upper=drop_test.noise.upper(evidence.use_case.alpha),
        noise_flip_rate=task.again_flips,
        margins=_margin_evidence(task),
        only_answers=task.only_answers,
        longer=growth_test.estimate if growth_test else None,
        longer_lower=growth_test.lower(evidence.rejecting) if growth_test else None,
        longer_upper=growth_test.upper(alpha) if growth_test else None,
    )
